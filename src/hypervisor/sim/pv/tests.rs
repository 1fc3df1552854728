use super::*;
use crate::decode::shared_info::Width;
use crate::hypervisor::pv::{PvDomain, VcpuRecord};
use crate::hypervisor::types::PageType;
use crate::hypervisor::{Domain, Error, LogDirty, SaveDomain};

fn guest(width: Width) -> PvSim {
    PvSim::create(&PvConfig::small(1, width, P2mKind::List)).unwrap()
}

#[test]
fn page_tables_lead_to_memory_and_are_typed() {
    for width in [Width::Bits64, Width::Bits32] {
        let mut guest = guest(width);
        guest.self_check().unwrap();
        let types = guest.types();
        let count = |level: u8| types.iter().filter(|page| page.table_level() == Some(level)).count();
        // Of 1,500 pfns, the aliases and the p2m.
        assert_eq!(count(1), 5);
        assert_eq!(count(2), 2);
        assert_eq!((count(3), count(4)), if width == Width::Bits64 { (2, 1) } else { (1, 0) });
        assert_eq!(types.iter().filter(|page| page.is_pinned()).count(), 1);
        assert!(types.iter().filter(|&&page| page == PageType::XTAB).count() > 50);
        guest.run(100).unwrap();
        guest.self_check().unwrap();
        assert_eq!(guest.steps(), 100);
    }
}

#[test]
fn what_the_guest_writes_is_logged() {
    let mut guest = guest(Width::Bits64);
    let mut bitmap = crate::hypervisor::DirtyBitmap::new(1500);
    assert!(matches!(
        guest.clean_log_dirty(&mut bitmap, crate::hypervisor::CleanMode::Ongoing),
        Err(Error::LogDirtyOff { .. })
    ));
    guest.enable_log_dirty().unwrap();
    guest.run(40).unwrap();
    guest.clean_log_dirty(&mut bitmap, crate::hypervisor::CleanMode::Ongoing).unwrap();
    // Control page, aliases, one table, data.
    assert!((10..=43).contains(&bitmap.count()), "{}", bitmap.count());
    guest.clean_log_dirty(&mut bitmap, crate::hypervisor::CleanMode::Ongoing).unwrap();
    assert!(bitmap.is_empty());
}

#[test]
fn frames_of_others_cannot_be_mapped_nor_pinned() {
    let mut guest = guest(Width::Bits64);
    assert!(matches!(guest.map_pages(&[3]), Err(Error::NotPopulated { pfn: 3 })));
    assert!(guest.map_pages(&[guest.shared_info_frame().unwrap()]).is_ok());
    assert!(matches!(guest.pin_tables(&[(4, 3)]), Err(Error::NotPopulated { .. })));
    // A page of data is no root: its words name frames that are not the guest's.
    let data = guest.reach(20).unwrap();
    assert!(matches!(guest.pin_tables(&[(4, data)]), Err(Error::PageTable { level: 4, .. })));
    guest.suspend().unwrap();
    assert!(guest.run(1).is_err());
    guest.resume().unwrap();
    guest.run(1).unwrap();
}

/// The frames and the m2p of a machine, as files would have them.
fn put_down(guest: &PvSim) -> (PvImage, memmap2::MmapMut, memmap2::MmapMut) {
    let image = guest.image();
    let mut memory = memmap2::MmapMut::map_anon(image.memory_bytes()).unwrap();
    let mut m2p = memmap2::MmapMut::map_anon(image.m2p_bytes()).unwrap();
    m2p.fill(0xff);
    for mfn in 0..guest.nr_mfns().unwrap() {
        let at = mfn as usize;
        memory[at * 4096..][..4096].copy_from_slice(guest.page(mfn).unwrap());
        m2p[at * 8..][..8].copy_from_slice(&guest.m2p(mfn).unwrap().to_le_bytes());
    }
    (image, memory, m2p)
}

#[test]
fn a_guest_that_is_put_down_goes_on_where_it_was() {
    for width in [Width::Bits64, Width::Bits32] {
        let mut guest = guest(width);
        guest.run(50).unwrap();
        let (image, memory, m2p) = put_down(&guest);
        let mut again = image.wake(memory, m2p).unwrap();
        assert_eq!(again.image(), image);
        for guest in [&mut guest, &mut again] {
            guest.run(50).unwrap();
            guest.self_check().unwrap();
        }
        assert_eq!((again.data_sum(), again.types()), (guest.data_sum(), guest.types()));
        let (image, memory, _) = put_down(&guest);
        let short = memmap2::MmapMut::map_anon(4096).unwrap();
        assert!(matches!(image.wake(memory, short), Err(Error::Config { field: "m2p", .. })));
    }
}

#[test]
fn a_vcpus_root_must_be_a_page_table() {
    let mut guest = guest(Width::Bits64);
    let mut context = Vec::new();
    guest.vcpu_part(0, VcpuRecord::Basic, &mut context).unwrap();
    let data = guest.reach(20).unwrap();
    crate::decode::pv_words::CR3.set(&mut context, Width::Bits64, data << 12);
    let refused = guest.set_vcpu_part(0, VcpuRecord::Basic, &context);
    assert!(matches!(refused, Err(Error::PageTable { level: 4, .. })), "{refused:?}");
}
