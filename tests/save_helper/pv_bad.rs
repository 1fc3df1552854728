//! Bad PV streams into our helper: an error that says what is wrong, and no more memory than what was sent is worth.

use crate::helper::{Ended, Helper, PLAIN};
use crate::home::Program;
use crate::message::Message;
use crate::pv_home::{configs, empty_home};
use std::fs;
use std::time::Duration;
use xen_replicate::stream::Mode;
use xen_replicate::stream::handover::LibxcWriter;
use xen_replicate::stream::libxc::{
    DomainHeader, DomainType, P2mFrames, PageEntry, PageType, PvInfo, Record, emit_p2m_frames,
};

/// Most memory that a helper may have had, in KiB, the stand-in's files apart from it or not: 64 MiB.
const MOST_KIB: u64 = 64 << 10;

/// A stream of a 64-bit guest: p2m frames, and one page.
fn stream(start: u32, end: u32, frames: &[u64], page: Option<(PageEntry, u64)>) -> Vec<u8> {
    let mut out = Vec::new();
    let header = DomainHeader::new(DomainType::Pv, 4, 17);
    let mut writer = LibxcWriter::start(&mut out, Mode::Plain, 3, header).unwrap();
    writer.record(&Record::X86PvInfo(PvInfo::GUEST_64)).unwrap();
    writer.record(&Record::StaticDataEnd).unwrap();
    let mut body = Vec::new();
    emit_p2m_frames(start, end, frames, &mut body);
    writer.record(&Record::X86PvP2mFrames(P2mFrames::parse(&body).unwrap())).unwrap();
    if let Some((entry, first)) = page {
        let mut contents = first.to_le_bytes().to_vec();
        contents.resize(4096, 0);
        writer.page_data([entry].into_iter(), [&contents[..]]).unwrap();
    }
    writer.end().unwrap();
    out
}

/// What our helper says of a stream before it completes, its errno, and its peak of memory in KiB.
fn refused(stream: &[u8]) -> (String, i32, u64) {
    let [config, ..] = configs();
    let home = empty_home(&config, Program::Ours);
    let path = home.path("stream");
    fs::write(&path, stream).unwrap();
    let helper = Helper::restore(&home, &path, None, PLAIN);
    // libxl makes up the CPU policy, which these streams have not.
    let Ended { result, messages, peak_kib } = helper
        .try_run(Duration::from_secs(100), |message, _| matches!(message, Message::StaticDataDone { .. }).then_some(0));
    let (end, _) = result.unwrap();
    assert_eq!(end.retval, -1, "{messages:?}");
    let said = messages.iter().filter_map(|message| match message {
        Message::Log { text } => Some(text.as_str()),
        _ => None,
    });
    (said.collect::<Vec<_>>().join("\n"), end.errno, peak_kib)
}

/// Whether Debian's helper lived to complete, and with what.
fn theirs(stream: &[u8]) -> Option<i32> {
    let [config, ..] = configs();
    let home = empty_home(&config, Program::Debians);
    let path = home.path("stream");
    fs::write(&path, stream).unwrap();
    let helper = Helper::restore(&home, &path, None, PLAIN);
    let ended = helper
        .try_run(Duration::from_secs(100), |message, _| matches!(message, Message::StaticDataDone { .. }).then_some(0));
    ended.result.ok().map(|(completion, _)| completion.retval)
}

#[test]
#[ignore = "long"]
fn what_becomes_of_bad_pv_streams_with_theirs() {
    let table = PageEntry { page_type: PageType::L1TAB, pfn: 1 };
    let data = PageEntry { page_type: PageType::NOTAB, pfn: 1 };
    let of = |page| stream(0, 1023, &[8, 9], Some(page));
    assert_eq!(theirs(&of((table, 1024 << 12 | 1))), None, "it aborts");
    assert_eq!(theirs(&of((PageEntry { pfn: 1024, ..data }, 0))), Some(-1));
    assert_eq!(theirs(&of((data, 0))), Some(-1));
}

#[test]
#[ignore = "long"]
fn bad_pv_streams_are_refused_in_little_memory() {
    let table = PageEntry { page_type: PageType::L1TAB, pfn: 1 };
    let data = PageEntry { page_type: PageType::NOTAB, pfn: 1 };
    for (stream, part) in [
        // A page table that names pfn 0x400 of a guest that has as many: Debian's helper aborts.
        (
            stream(0, 1023, &[8, 9], Some((table, 1024 << 12 | 1))),
            "its pfn is beyond the guest's maximum of 0x400 pfns",
        ),
        // 16 bytes of p2m frames: Debian's helper makes a p2m of 3 GiB for them.
        (stream(0x0fff_ffff, 0x0fff_ffff, &[8], None), "X86_PV_P2M_FRAMES: starts at pfn 0xfffffff"),
        (stream(0, 1023, &[8, 9], Some((PageEntry { pfn: 1024, ..data }, 0))), "pfn 0x400 is outside"),
        (stream(0, 1023, &[8, 9], Some((data, 0))), "SHARED_INFO"),
    ] {
        let (said, errno, memory) = refused(&stream);
        assert!(said.contains(part) && errno != 0, "{part}: {said} ({errno})");
        assert!((1 << 10..MOST_KIB).contains(&memory), "{part}: {memory} KiB");
    }
}
