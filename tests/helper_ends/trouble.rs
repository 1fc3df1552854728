//! SIGTERM, a libxl that is gone, refusals.

use crate::guest::Guest;
use crate::world::*;
use std::io::{Read, Write};
use std::sync::Arc;
use std::thread;
use xen_replicate::hypervisor::{Domain, Error};
use xen_replicate::save_helper::abort::Abort;
use xen_replicate::save_helper::message::{Message, read_body};
use xen_replicate::save_helper::*;

const INTR: i32 = 4;
const PIPE: i32 = 32;
const CANCELED: i32 = 125;
const OPNOTSUPP: i32 = 95;

#[test]
fn a_save_that_writes_is_called_off() {
    let (reader, stream) = pipe();
    let guest = Guest::running(&big(), 20).goes_on(3);
    let mut libxl = Primary::new(&guest, &stream, None);
    let child = start(save_command(Flags::LIVE, StreamType::Plain), &guest, &stream, None);
    let mut abort: Option<Arc<Abort>> = Some(child.abort.recv().unwrap());
    // libxl hears of the first pages before the helper writes more than the pipe holds, and nobody reads it before that.
    libxl.on_progress = Box::new(move |primary, _| {
        if primary.calls.last().unwrap().starts_with("Frames")
            && let Some(abort) = abort.take()
        {
            abort.request();
            let mut reader = reader.try_clone().unwrap();
            thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        }
        1
    });
    assert_eq!(child.answer(&mut libxl), failed(INTR));
    assert_eq!(libxl.calls.last().unwrap(), "switch_qemu_logdirty false");
    assert!(!libxl.calls.contains(&"suspend".to_string()));
    assert!(!guest.is_tracked());
    assert!(guest.lock().is_running());
}

#[test]
fn a_save_that_waits_for_libxl_is_called_off() {
    let stream = tempfile::tempfile().unwrap();
    let guest = Guest::running(&small(2), 20);
    let mut libxl = Primary::new(&guest, &stream, None);
    let child = start(save_command(Flags::LIVE, StreamType::Remus), &guest, &stream, None);
    let abort = child.abort.recv().unwrap();
    libxl.on_checkpoint = Box::new(move |_, round| {
        if round == 2 {
            abort.request();
        }
        1
    });
    assert_eq!(child.answer(&mut libxl), failed(INTR));
    // libxl owes a reply when the end comes, so it is not asked for anything else.
    assert_eq!(libxl.calls.last().unwrap(), "checkpoint");
    assert!(!guest.is_tracked());
}

#[test]
fn a_colo_save_that_waits_for_the_secondary_is_called_off() {
    let stream = tempfile::tempfile().unwrap();
    let (back, mut secondary) = pipe();
    let guest = Guest::running(&small(2), 20);
    // SVM_READY, SVM_RESUMED, SVM_SUSPENDED, and no list of dirty pages.
    for state in [2, 3, 1] {
        secondary.write_all(&[5, 0, 0, 0, 4, 0, 0, 0, state, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    }
    let mut libxl = Primary::new(&guest, &stream, Some(&back));
    let child = start(save_command(Flags::LIVE, StreamType::Colo), &guest, &stream, Some(&back));
    let abort = child.abort.recv().unwrap();
    let mut suspensions = 0;
    libxl.on_progress = Box::new(move |primary, _| {
        suspensions += i32::from(primary.calls.last().unwrap() == "Domain now suspended");
        if suspensions == 2 {
            abort.request();
        }
        1
    });
    assert_eq!(child.answer(&mut libxl), failed(INTR));
    assert_eq!(libxl.calls.last().unwrap(), "switch_qemu_logdirty false");
    assert!(!guest.is_tracked());
}

#[test]
fn the_guest_is_put_in_order_when_libxl_is_gone() {
    let stream = tempfile::tempfile().unwrap();
    let guest = Guest::running(&small(2), 20);
    let mut child = start(save_command(Flags::LIVE, StreamType::Plain), &guest, &stream, None);
    let mut body = Vec::new();
    loop {
        assert!(read_body(&mut child.messages, &mut body).unwrap());
        match Message::parse(&body).unwrap() {
            Message::SwitchQemuLogdirty { .. } => child.replies.write_all(&0i32.to_ne_bytes()).unwrap(),
            Message::Suspend => break,
            _ => {}
        }
    }
    assert!(guest.is_tracked());
    drop((child.replies, child.messages));
    assert_eq!(child.thread.join().unwrap(), 254);
    assert!(!guest.is_tracked());
}

#[test]
fn a_reader_of_the_stream_that_is_gone_is_an_error_with_its_errno() {
    let (reader, stream) = pipe();
    drop(reader);
    let guest = Guest::running(&small(2), 20);
    let mut libxl = Primary::new(&guest, &stream, None);
    let child = start(save_command(Flags::LIVE, StreamType::Plain), &guest, &stream, None);
    assert_eq!(child.answer(&mut libxl), failed(PIPE));
    assert!(!guest.is_tracked());
}

#[test]
fn a_domain_that_cannot_be_had_is_reported() {
    let stream = tempfile::tempfile().unwrap();
    let guest = Guest::empty(&small(2));
    let none = || Err(Error::Unsupported { backend: "sim", what: "this domain" });
    let child = start_with(restore_command(StreamType::Plain), &stream, None, none);
    let mut libxl = Secondary::new(&guest, &stream, None);
    assert_eq!(child.answer(&mut libxl), failed(OPNOTSUPP));
    // Even so: libxl would say that the helper ended without results.
    assert_eq!(libxl.results, [(0, 0)]);
    let child = start_with(save_command(Flags::LIVE, StreamType::Plain), &stream, None, none);
    let mut libxl = Primary::new(&guest, &stream, None);
    assert_eq!(child.answer(&mut libxl), failed(OPNOTSUPP));
    assert!(libxl.calls.is_empty());
}

#[test]
fn refusals_of_libxl_end_the_work() {
    let config = small(2);
    let guest = Guest::running(&config, 20);
    let mut stream = tempfile::tempfile().unwrap();
    let mut libxl = Primary::new(&guest, &stream, None);
    libxl.on_suspend = Box::new(|primary, _| {
        // The guest did not answer.
        primary.guest.lock().resume().unwrap();
        0
    });
    let command = save_command(Flags::LIVE, StreamType::Plain);
    assert_eq!(start(command, &guest, &stream, None).answer(&mut libxl), failed(CANCELED));
    assert_eq!(libxl.calls.last().unwrap(), "switch_qemu_logdirty false");
    assert!(!guest.is_tracked());

    // libxl says that the guest has suspended, and it has not.
    libxl.on_suspend = Box::new(|primary, _| {
        primary.guest.lock().resume().unwrap();
        1
    });
    let busy = failed(16);
    for flags in [Flags::LIVE, Flags::empty()] {
        assert_eq!(start(save_command(flags, StreamType::Plain), &guest, &stream, None).answer(&mut libxl), busy);
    }

    stream = tempfile::tempfile().unwrap();
    let mut libxl = Primary::new(&guest, &stream, None);
    assert_eq!(start(save_command(Flags::LIVE, StreamType::Plain), &guest, &stream, None).answer(&mut libxl), GOOD);
    let copy = Guest::empty(&config);
    std::io::Seek::rewind(&mut stream.try_clone().unwrap()).unwrap();
    let mut libxl = Secondary::new(&copy, &stream, None);
    libxl.static_data_reply = 1;
    let child = start(restore_command(StreamType::Plain), &copy, &stream, None);
    assert_eq!(child.answer(&mut libxl), failed(CANCELED));
    assert_eq!(libxl.calls, ["static_data_done 0", "restore_results"]);
    assert_eq!(copy.info().unwrap().populated, 0);
}

#[test]
fn what_is_no_stream_is_an_error() {
    let (mut reader, mut stream) = pipe();
    stream.write_all(&[7; 100]).unwrap();
    let copy = Guest::empty(&small(2));
    let mut libxl = Secondary::new(&copy, &reader, None);
    assert_eq!(start(restore_command(StreamType::Plain), &copy, &reader, None).answer(&mut libxl), failed(74));
    drop(stream);
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    // Only the header's bytes were read.
    assert_eq!(rest.len(), 76);
}
