//! What the program holds in memory while a stream goes through it does not depend on the stream's length.

mod common;

use common::build;
use std::fs;
use std::io::{self, Seek, Write};
use std::os::unix::process::ExitStatusExt;
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

/// A Remus stream of a guest of 1 GiB with 1,000 checkpoints of 500 pages each, 3 GiB in all, and a hole where page contents are.
fn many_checkpoints(file: &fs::File) -> io::Result<()> {
    const GUEST: u64 = 1 << 18;
    let mut writer = RecordWriter::new(io::BufWriter::new(file));
    writer.raw(&ImageHeader::new(3).emit())?;
    writer.raw(&DomainHeader::new(DomainType::Hvm, 4, 17).emit())?;
    writer.record(xc::STATIC_DATA_END, &[])?;
    let hole = |writer: &mut RecordWriter<io::BufWriter<&fs::File>>, pfns: &[u64]| {
        let body = (8 + pfns.len() * (8 + PAGE_SIZE)) as u32;
        let words = [xc::PAGE_DATA, body, pfns.len() as u32, 0];
        let pfns = pfns.iter().flat_map(|pfn| pfn.to_le_bytes());
        let head: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).chain(pfns.clone()).collect();
        writer.raw(&head)?;
        writer.flush()?;
        let contents = pfns.count() / 8 * PAGE_SIZE;
        let mut file = file;
        file.seek(io::SeekFrom::Current(contents as i64)).map(|_| ())
    };
    for first in (0..GUEST).step_by(BATCH) {
        hole(&mut writer, &(first..first + BATCH as u64).collect::<Vec<_>>())?;
    }
    for checkpoint in 0..1000 {
        if checkpoint > 0 {
            let pages = (0..500).map(|page| (checkpoint * 7919 + page * 523) % GUEST);
            hole(&mut writer, &pages.collect::<Vec<_>>())?;
        }
        writer.raw(&build::hvm_state())?;
        writer.record(xc::CHECKPOINT, &[])?;
    }
    writer.flush()
}

/// How a command ended, and the most that it ever held, in KiB.
#[expect(clippy::zombie_processes, reason = "wait4 waits for it")]
fn peak_at_the_end(arguments: &[&str]) -> (Option<i32>, u64) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xen-replicate"));
    let child =
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: both pointers are to memory of the right types that outlives the call, which waits for a child of this process that nobody
    // else waits for.
    let waited = unsafe { libc::wait4(child.id() as libc::pid_t, &mut status, 0, usage.as_mut_ptr()) };
    assert_eq!(waited, child.id() as libc::pid_t);
    // SAFETY: wait4 has filled it, for it has waited.
    let usage = unsafe { usage.assume_init() };
    (std::process::ExitStatus::from_raw(status).code(), usage.ru_maxrss as u64)
}

/// Images out of a long recording: an index of 8 bytes a page frame and a batch of pages, for any number of checkpoints. What is read
/// through a mapping counts, too.
#[test]
fn images_of_a_thousand_checkpoints_take_no_more_than_256_mib() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stream");
    many_checkpoints(&fs::File::create(&path).unwrap()).unwrap();
    let path = path.to_str().unwrap();
    for (arguments, code) in [
        (&["convert", "--checkpoint", "1", "-o", "/dev/null", "--overwrite"][..], 0),
        (&["convert", "--checkpoint", "500", "-o", "/dev/null", "--overwrite"], 0),
        (&["convert", "--checkpoint", "1000", "-o", "/dev/null", "--overwrite"], 0),
        (&["verify", "--deep"], 0),
        (&["stats"], 0),
        (&["extract", "--lime", "-o", "/dev/null", "--overwrite"], 0),
        (&["diff", "--checkpoints", "1", "1000"], 0),
        (&["extract", "--page", "0x3ffff", "--checkpoint", "700", "-o", "/dev/null", "--overwrite"], 0),
    ] {
        let (ended, peak) = peak_at_the_end(&[arguments, &[path]].concat());
        assert_eq!(ended, Some(code), "{arguments:?}");
        println!("{arguments:?}: {:.1} MiB", peak as f64 / 1024.0);
        assert!(peak <= 256 << 10, "{arguments:?}: {peak} KiB");
    }
}

/// Contents are looked at, the deep way: checksums of all pages, one record at a time.
#[test]
fn verify_deep_holds_one_record_and_a_checksum_for_each_page() {
    let peak = peak_of(&["verify", "--deep", "-"]);
    println!("verify --deep: {:.1} MiB", peak as f64 / 1024.0);
    assert!(peak <= BOUND_KIB + (8 << 10), "verify --deep: {peak} KiB");
}
