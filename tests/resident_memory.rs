//! What the program holds in memory while a stream goes through it does not depend on the stream's length.

use std::fs;
use std::io::{self, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use xen_replicate::stream::libxc::{
    DomainHeader, DomainType, ImageHeader, PAGE_SIZE, PageEntry, PageType, types as xc,
};
use xen_replicate::stream::writer::RecordWriter;

/// Pages of a record, as many as real senders put there.
const BATCH: usize = 1024;
/// 128 MiB of pages: eight times the bound.
const RECORDS: u64 = 32;
/// The bound: 16 MiB and the largest record, in KiB.
const BOUND_KIB: u64 = (16 << 10) + ((BATCH * (PAGE_SIZE + 8)) as u64 >> 10) + 1;

fn start(arguments: &[&str]) -> (Child, ChildStdin) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xen-replicate"));
    let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let stdin = child.stdin.take().unwrap();
    (child, stdin)
}

fn write_pages<W: Write>(writer: &mut RecordWriter<W>, memory: &[u8]) -> io::Result<()> {
    writer.raw(&ImageHeader::new(3).emit())?;
    writer.raw(&DomainHeader::new(DomainType::Hvm, 4, 17).emit())?;
    writer.record(xc::STATIC_DATA_END, &[])?;
    for record in 0..RECORDS {
        let first = record * BATCH as u64;
        let entries = (0..BATCH).map(|page| PageEntry { page_type: PageType::NOTAB, pfn: first + page as u64 });
        writer.page_data(entries, [memory])?;
    }
    Ok(())
}

/// The most that a process ever held, in KiB.
fn peak_kib(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse().unwrap()
}

/// Feeds a long stream to the program and gives its peak when nothing but the end is missing.
fn peak_of(arguments: &[&str]) -> u64 {
    let (mut child, stdin) = start(arguments);
    let mut writer = RecordWriter::new(stdin);
    write_pages(&mut writer, &vec![0xa5; BATCH * PAGE_SIZE]).unwrap();
    while rustix::io::ioctl_fionread(writer.get_ref()).unwrap() > 0 {
        std::thread::yield_now();
    }
    let peak = peak_kib(&child);
    writer.record(xc::X86_TSC_INFO, &[&[0; 24]]).unwrap();
    writer.record(xc::END, &[]).unwrap();
    drop(writer);
    // A stream without HVM_CONTEXT is worth a remark, no more.
    assert!(child.wait().unwrap().success(), "{arguments:?}");
    peak
}

#[test]
fn verify_and_dump_hold_no_pages() {
    for arguments in [&["verify", "-"][..], &["dump", "-"], &["dump", "--json", "-"]] {
        let peak = peak_of(arguments);
        assert!(peak > 0 && peak <= BOUND_KIB, "{arguments:?}: {peak} KiB, {BOUND_KIB} allowed");
    }
}

/// Page contents are looked at, one record at a time.
#[test]
fn stats_holds_one_record() {
    let peak = peak_of(&["stats", "-"]);
    assert!(peak <= BOUND_KIB, "stats: {peak} KiB, {BOUND_KIB} allowed");
    assert!(peak > (BATCH * PAGE_SIZE) as u64 >> 10, "stats: {peak} KiB cannot be: a record is longer");
}
