//! `core-reader CORE OUT VCPUS`: reads a core of a HVM domain by the crate `vmi-driver-xen-core-dump`.
//!
//! Page frame numbers come from standard input, one a line; OUT gets the pages' contents, one behind the other. Printed are, a line for each vCPU,
//! CR0, CR2, CR3 and CR4 in hexadecimal.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write, stdin};
use vmi_arch_amd64::Amd64;
use vmi_core::driver::{VmiQueryRegisters, VmiRead};
use vmi_core::{Gfn, VcpuId};
use vmi_driver_xen_core_dump::VmiXenCoreDumpDriver;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(core), Some(out), Some(vcpus)) = (arguments.next(), arguments.next(), arguments.next()) else {
        return Err("usage: core-reader CORE OUT VCPUS".into());
    };
    let vcpus = vcpus.to_string_lossy().parse()?;
    let driver = VmiXenCoreDumpDriver::<Amd64>::new(core)?;
    let mut out = BufWriter::new(File::create(out)?);
    for line in stdin().lines() {
        out.write_all(&driver.read_page(Gfn(line?.parse()?))?)?;
    }
    out.flush()?;
    for vcpu in 0..vcpus {
        let registers = driver.registers(VcpuId(vcpu))?;
        let words = [registers.cr0.0, registers.cr2.0, registers.cr3.0, registers.cr4.0];
        println!("{}", words.map(|word| format!("{word:x}")).join(" "));
    }
    Ok(())
}
