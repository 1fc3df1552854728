//! One image: plain, live, with VERIFY.

use crate::guest::Guest;
use crate::world::*;
use std::fs::File;
use std::io::{Read, Seek, Write};
use xen_replicate::hypervisor::sim::SimConfig;
use xen_replicate::hypervisor::{DeviceModel, Domain, SaveDomain, hvm_param};
use xen_replicate::libxc;
use xen_replicate::libxc::restore::Rings;
use xen_replicate::save_helper::*;
use xen_replicate::stream::RecordHeader;
use xen_replicate::stream::handover::LibxcWriter;
use xen_replicate::stream::libxc::types as xc;
use xen_replicate::stream::libxl::types as xl;
use xen_replicate::stream::reader::SliceReader;
use xen_replicate::stream::writer::RecordWriter;
use xen_replicate::stream::{Mode, Start, What, framer};

fn contents(file: &File) -> Vec<u8> {
    let (mut file, mut bytes) = (file.try_clone().unwrap(), Vec::new());
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn record_types(stream: &[u8]) -> Vec<u32> {
    let options = framer::Options { start: Some(Start::Libxc), mode: Some(Mode::Plain), ..Default::default() };
    let (mut reader, mut types) = (SliceReader::new(stream, options), Vec::new());
    while let Some(item) = reader.next_item().unwrap() {
        if let What::Record(frame) = item.what {
            types.push(frame.header.type_id);
        }
    }
    types
}

/// A guest that is busy all the time is sent in five rounds, and the rest.
const FRAMES: [&str; 6] = [
    "Frames iteration 0",
    "Frames iteration 1",
    "Frames iteration 2",
    "Frames iteration 3",
    "Frames iteration 4",
    "Frames iteration 5",
];

/// Restores a file; gives libxl's view of it and the domain.
fn restored(file: &File, config: &SimConfig) -> (Secondary, Guest) {
    file.try_clone().unwrap().rewind().unwrap();
    let copy = Guest::empty(config);
    let mut libxl = Secondary::new(&copy, file, None);
    assert_eq!(start(restore_command(StreamType::Plain), &copy, file, None).answer(&mut libxl), GOOD);
    (libxl, copy)
}

#[test]
fn a_plain_image_is_libxcs_byte_for_byte_and_restores_equal() {
    let config = big();
    let guest = Guest::running(&config, 40);
    let file = tempfile::tempfile().unwrap();
    let mut libxl = Primary::new(&guest, &file, None);
    let command = save_command(Flags::empty(), StreamType::Plain);
    assert_eq!(start(command, &guest, &file, None).answer(&mut libxl), GOOD);
    let calls = [
        "switch_qemu_logdirty true",
        "Start of stream",
        "suspend",
        "Domain now suspended",
        "Frames",
        "End of stream",
        "Complete",
        "switch_qemu_logdirty false",
    ];
    assert_eq!(libxl.calls, calls);
    assert_eq!(libxl.log, ["Debug starting save", "Debug complete r=0"]);

    let mut twin = Guest::running(&config, 40);
    twin.lock().suspend().unwrap();
    let mut saver = libxc::Saver::new(&mut twin, Default::default()).unwrap();
    let mut out = LibxcWriter::start(Vec::new(), Mode::Plain, 3, saver.header()).unwrap();
    saver.static_data(&twin, &mut out).unwrap();
    saver.everything();
    saver.send_pages(&twin, &mut out).unwrap();
    saver.send_state(&twin, &mut out).unwrap();
    assert!(out.end().unwrap() == contents(&file));

    let (secondary, copy) = restored(&file, &config);
    assert_eq!(secondary.calls, ["static_data_done 0", "restore_results"]);
    let param = |index| guest.hvm_param(index).unwrap();
    assert_eq!(secondary.results, [(param(hvm_param::STORE_PFN), param(hvm_param::CONSOLE_PFN))]);
    assert_ne!(secondary.results, [(0, 0)]);
    let mut copy = copy.lock();
    copy.load_device_model(&libxl.device_model).unwrap();
    assert_eq!(copy.diff(&libxl.states.lock().unwrap()[0], 5).unwrap(), []);
    copy.unpause().unwrap();
    copy.run(100).unwrap();
    copy.self_check().unwrap();
}

#[test]
fn a_live_image_of_a_guest_that_writes_meanwhile() {
    for flags in [Flags::LIVE, Flags::LIVE | Flags::DEBUG] {
        let config = SimConfig { working_set: 3000, ..big() };
        let guest = Guest::running(&config, 10).goes_on(20);
        let file = tempfile::tempfile().unwrap();
        let mut libxl = Primary::new(&guest, &file, None);
        assert_eq!(start(save_command(flags, StreamType::Plain), &guest, &file, None).answer(&mut libxl), GOOD);
        let verify = flags.contains(Flags::DEBUG);
        let mut calls = vec!["switch_qemu_logdirty true", "Start of stream"];
        calls.extend((0..5).map(|round| FRAMES[round]));
        calls.extend(["suspend", "Domain now suspended", FRAMES[5]]);
        calls.extend(verify.then_some("Frames verify"));
        calls.extend(["End of stream", "Complete", "switch_qemu_logdirty false"]);
        assert_eq!(libxl.calls, calls);
        assert!(!guest.is_tracked());
        let types = record_types(&contents(&file));
        assert_eq!(types.iter().filter(|&&type_id| type_id == xc::VERIFY).count(), usize::from(verify));
        assert_eq!(types.last(), Some(&xc::END));
        let (_, copy) = restored(&file, &config);
        copy.lock().load_device_model(&libxl.device_model).unwrap();
        assert_eq!(copy.lock().diff(&libxl.states.lock().unwrap()[0], 5).unwrap(), []);
    }
}

#[test]
fn the_reader_stops_where_libxls_records_begin() {
    let config = small(4);
    let guest = Guest::running(&config, 10);
    let mut file = tempfile::tempfile().unwrap();
    let mut libxl = Primary::new(&guest, &file, None);
    let command = save_command(Flags::empty(), StreamType::Plain);
    assert_eq!(start(command, &guest, &file, None).answer(&mut libxl), GOOD);
    let end = file.stream_position().unwrap();
    write_record(&mut file, 3, &[b"libxl's"]).unwrap();
    restored(&file, &config);
    assert_eq!(file.stream_position().unwrap(), end);
    assert_eq!(read_record(&mut file), Some((3, b"libxl's".to_vec())));
}

#[test]
fn rings_of_the_command_line_get_their_channels_and_grants() {
    let config = small(4);
    let guest = Guest::running(&config, 10);
    let file = tempfile::tempfile().unwrap();
    let mut libxl = Primary::new(&guest, &file, None);
    start(save_command(Flags::empty(), StreamType::Plain), &guest, &file, None).answer(&mut libxl);
    let Command::Restore(mut command) = restore_command(StreamType::Plain) else { unreachable!() };
    command.rings = Rings { store_evtchn: 3, store_domid: 7, console_evtchn: 4, console_domid: 8 };
    let copy = Guest::empty(&config);
    file.try_clone().unwrap().rewind().unwrap();
    let mut libxl = Secondary::new(&copy, &file, None);
    assert_eq!(start(Command::Restore(command), &copy, &file, None).answer(&mut libxl), GOOD);
    let param = |index| copy.hvm_param(index).unwrap();
    assert_eq!((param(hvm_param::STORE_EVTCHN), param(hvm_param::CONSOLE_EVTCHN)), (3, 4));
    let grants = copy.lock().grants();
    assert_eq!((grants.xenstore_domid, grants.console_domid), (7, 8));
    assert_eq!(libxl.results, [(grants.xenstore_gfn, grants.console_gfn)]);
}

/// The stream without the records of a type.
fn without(stream: &[u8], type_id: u32) -> Vec<u8> {
    let options = framer::Options { start: Some(Start::Libxc), mode: Some(Mode::Plain), ..Default::default() };
    let (mut reader, mut rest) = (SliceReader::new(stream, options), Vec::new());
    while let Some(item) = reader.next_item().unwrap() {
        let leave_out = matches!(item.what, What::Record(frame) if frame.header.type_id == type_id);
        if !leave_out {
            rest.extend_from_slice(&stream[item.offset as usize..][..item.size as usize]);
        }
    }
    assert!(rest.len() < stream.len());
    rest
}

/// A plain image of a guest, the guest being suspended, and its device model's state.
fn image(guest: &Guest) -> (Vec<u8>, Vec<u8>) {
    let file = tempfile::tempfile().unwrap();
    let mut libxl = Primary::new(guest, &file, None);
    let command = save_command(Flags::empty(), StreamType::Plain);
    assert_eq!(start(command, guest, &file, None).answer(&mut libxl), GOOD);
    (contents(&file), [&guest.lock().emulator().emit()[..], &libxl.device_model].concat())
}

/// A restore of these bytes into a domain of this kind.
fn restore_of(stream: &[u8], stream_type: StreamType, config: &SimConfig) -> (Secondary, End) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(stream).unwrap();
    file.rewind().unwrap();
    let copy = Guest::empty(config);
    let back = tempfile::tempfile().unwrap();
    let mut libxl = Secondary::new(&copy, &file, Some(&back));
    let end = start(restore_command(stream_type), &copy, &file, Some(&back)).answer(&mut libxl);
    (libxl, end)
}

#[test]
fn an_image_without_vcpus_is_no_domain() {
    let config = small(4);
    let (whole, device_model) = image(&Guest::running(&config, 10));
    let headless = without(&whole, xc::HVM_CONTEXT);
    let (libxl, end) = restore_of(&headless, StreamType::Plain, &config);
    assert_eq!((end, libxl.results.as_slice()), (failed(74), &[(0, 0)][..]));
    // CHECKPOINT in the place of END, libxl's part behind it, and the primary's death.
    let mut checkpoint = headless[..headless.len() - 8].to_vec();
    checkpoint.extend(RecordHeader::new(xc::CHECKPOINT, 0).emit());
    RecordWriter::new(&mut checkpoint).record(xl::EMULATOR_CONTEXT, &[&device_model]).unwrap();
    checkpoint.extend(RecordHeader::new(xl::CHECKPOINT_END, 0).emit());
    for stream_type in [StreamType::Remus, StreamType::Colo] {
        let (libxl, end) = restore_of(&checkpoint, stream_type, &config);
        assert_eq!(end, failed(74), "{stream_type:?}");
        assert!(!libxl.calls.contains(&"postcopy".to_string()), "{stream_type:?}: the secondary was to run");
        assert_eq!(libxl.results.last(), Some(&(0, 0)), "{stream_type:?}");
    }
}

#[test]
fn rings_whose_pages_the_guest_has_given_back_are_no_hindrance() {
    let config = small(4);
    for param in [hvm_param::STORE_PFN, hvm_param::CONSOLE_PFN, hvm_param::IOREQ_PFN, hvm_param::BUFIOREQ_PFN] {
        let guest = Guest::running(&config, 10);
        let pfn = guest.hvm_param(param).unwrap();
        guest.lock().memory_mut().break_page(pfn).unwrap();
        let (stream, _) = image(&guest);
        let (libxl, end) = restore_of(&stream, StreamType::Plain, &config);
        assert_eq!(end, GOOD, "parameter {param}");
        let copy = libxl.guest.lock();
        assert_eq!((copy.hvm_param(param).unwrap(), copy.memory().slot(pfn)), (pfn, None), "parameter {param}");
    }
}
