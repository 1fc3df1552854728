//! Says what this host's Xen knows of a domain: whether this program can talk to Xen at all, and what it would save.
//!
//! ```console
//! # cargo run --example xen_domain -- DOMID
//! ```
#![forbid(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;
use xen_replicate::hypervisor::xen::{Host, MAX_BATCH};
use xen_replicate::hypervisor::{Domain, DomainKind, PageType, SaveDomain};

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match tell() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("{error}");
            let mut source = error.source();
            while let Some(error) = source {
                eprint!(": {error}");
                source = error.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn tell() -> Result<(), Box<dyn Error>> {
    let domid = std::env::args().nth(1).ok_or("which domain? give its number")?.parse()?;
    let host = Host::open()?;
    let (major, minor) = host.version();
    let domain = host.domain(domid)?;
    let info = domain.info()?;
    println!("Xen {major}.{minor}, domain {domid}, {}, {} vCPUs, {}", info.kind, info.nr_vcpus, info.uuid);
    println!(
        "{:#x} pfns, {} pages; paused: {}; shut down: {:?}",
        info.nr_pfns, info.populated, info.paused, info.shutdown
    );
    println!("{:?}", domain.tsc_info()?);
    let policy = domain.cpu_policy()?;
    println!("CPU policy: {} bytes of leaves, {} of MSRs", policy.cpuid.len(), policy.msrs.len());
    if info.kind == DomainKind::Hvm {
        let (mut params, mut populated) = (Vec::new(), 0u64);
        domain.hvm_params(&mut params)?;
        println!("parameters: {params:x?}");
        let mut types = [PageType::XTAB; MAX_BATCH];
        let pfns: Vec<_> = (0..info.nr_pfns).collect();
        for pfns in pfns.chunks(MAX_BATCH) {
            let Some(types) = types.get_mut(..pfns.len()) else { continue };
            domain.page_types(pfns, types)?;
            populated += types.iter().filter(|page_type| page_type.has_contents()).count() as u64;
        }
        println!("{populated} pages with contents");
    }
    Ok(())
}
