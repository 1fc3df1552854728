//! Tests of the simulated guest as a whole, through the hypervisor's traits.

mod live;
mod load;
mod replication;
mod rules;
mod wire;

use super::*;
use crate::hypervisor::{
    CleanMode, DeviceModel, DirtyBitmap, Domain, DomainKind, Error, GrantSeed, GuestDamage, HvmParam, LogDirty,
    PAGE_SIZE, PageBatch, PageBatchMut, PageType, Pfn, RestoreDomain, Result, SaveDomain, hvm_param,
};

const BATCH: usize = 64;

/// Copies the pages of `dirty` and their presence, as a save and a restore do.
fn copy_memory(from: &impl SaveDomain, to: &mut impl RestoreDomain, dirty: &DirtyBitmap) -> Result<()> {
    let (mut batch, mut next) = (Vec::new(), Some(0));
    while let Some(start) = next {
        next = dirty.next_batch(start, BATCH, &mut batch);
        let mut types = vec![PageType::XTAB; batch.len()];
        from.page_types(&batch, &mut types)?;
        let mut keep = types.iter().map(|t| t.has_contents());
        batch.retain(|_| keep.next().unwrap());
        let pages = from.map_pages(&batch)?;
        to.populate(&batch)?;
        let mut target = to.map_pages_mut(&batch)?;
        let mut index = 0;
        while let Some(run) = pages.run(index) {
            for page in run.chunks_exact(PAGE_SIZE) {
                target.page_mut(index).unwrap().copy_from_slice(page);
                index += 1;
            }
        }
        assert_eq!(index, batch.len());
    }
    Ok(())
}

/// Copies everything but memory.
fn copy_state(from: &(impl SaveDomain + DeviceModel), to: &mut (impl RestoreDomain + DeviceModel)) -> Result<()> {
    let (mut context, mut device_model, mut params) = (Vec::new(), Vec::new(), Vec::new());
    from.hvm_context(&mut context)?;
    from.save_device_model(&mut device_model)?;
    from.hvm_params(&mut params)?;
    to.set_cpu_policy(&from.cpu_policy()?)?;
    to.set_tsc_info(from.tsc_info()?)?;
    for param in params {
        to.restore_hvm_param(param)?;
    }
    to.set_hvm_context(&context)?;
    to.load_device_model(&device_model)?;
    to.set_emulator_xenstore(from.emulator_xenstore()?)
}

fn full(domain: &impl Domain) -> DirtyBitmap {
    DirtyBitmap::full(domain.info().unwrap().nr_pfns)
}

/// A copy of a suspended guest, running.
fn restored(from: &SimDomain) -> SimDomain {
    let mut copy = SimDomain::empty(from.config()).unwrap();
    copy_memory(from, &mut copy, &full(from)).unwrap();
    copy_state(from, &mut copy).unwrap();
    copy.unpause().unwrap();
    copy
}

fn created(config: &SimConfig, steps: u64) -> SimDomain {
    let mut domain = SimDomain::create(config).unwrap();
    domain.run(steps).unwrap();
    domain
}

fn packets(domain: &SimDomain) -> Vec<WorkloadPacket> {
    domain.nic().take_ready().iter().map(|bytes| WorkloadPacket::parse(bytes).unwrap()).collect()
}
