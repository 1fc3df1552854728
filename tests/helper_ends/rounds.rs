//! Checkpoints: Remus and COLO, both ends at once over real pipes.

use crate::guest::Guest;
use crate::world::*;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::thread;
use xen_replicate::hypervisor::Domain;
use xen_replicate::hypervisor::sim::SimConfig;
use xen_replicate::save_helper::save::COPY_AHEAD;
use xen_replicate::save_helper::*;
use xen_replicate::stream::libxc::types as xc;
use xen_replicate::stream::libxl::types as xl;

const BADMSG: i32 = 74;
const CANCELED: i32 = 125;

/// Both ends at once; what is left of them.
fn protect(
    stream_type: StreamType,
    config: &SimConfig,
    prepare: impl FnOnce(&mut Primary),
) -> ((Primary, End), (Secondary, End)) {
    let (forward_read, forward_write) = pipe();
    let (back_read, back_write) = pipe();
    let colo = stream_type == StreamType::Colo;
    let (back_read, back_write) = (colo.then_some(back_read), colo.then_some(back_write));
    let guest = Guest::running(config, 20).goes_on(3);
    let copy = Guest::empty(config);
    let mut primary = Primary::new(&guest, &forward_write, back_read.as_ref());
    let mut secondary = Secondary::new(&copy, &forward_read, back_write.as_ref());
    secondary.states = colo.then(|| primary.states.clone());
    prepare(&mut primary);
    let saver = start(save_command(Flags::LIVE, stream_type), &guest, &forward_write, back_read.as_ref());
    let restorer = start(restore_command(stream_type), &copy, &forward_read, back_write.as_ref());
    drop((forward_write, back_write));
    let secondary = thread::spawn(move || {
        let end = restorer.answer(&mut secondary);
        (secondary, end)
    });
    let end = saver.answer(&mut primary);
    // The primary dies: nobody has the stream any more.
    primary.stream = File::open("/dev/null").unwrap();
    ((primary, end), secondary.join().unwrap())
}

pub fn is_at(secondary: &Secondary, primary: &Primary, checkpoint: usize) {
    let states = primary.states.lock().unwrap();
    let mut copy = secondary.guest.lock();
    assert_eq!(copy.diff(&states[checkpoint - 1], 5).unwrap(), []);
    copy.unpause().unwrap();
    copy.run(50).unwrap();
    copy.self_check().unwrap();
}

#[test]
fn remus_ends_when_libxl_wants_no_more_and_the_copy_takes_over() {
    for config in [small(7), big()] {
        let ((primary, end), (secondary, other)) = protect(StreamType::Remus, &config, |primary| {
            primary.on_checkpoint = Box::new(|_, round| (round < 7).into())
        });
        assert_eq!((end, other), (GOOD, GOOD));
        // The seventh got no part of libxl's.
        assert_eq!((secondary.checkpoints, primary.states.lock().unwrap().len()), (6, 7));
        is_at(&secondary, &primary, 6);
        assert_eq!(secondary.calls.first().unwrap(), "static_data_done 0");
        assert_eq!(secondary.calls.iter().filter(|call| *call == "checkpoint").count(), 7);
        assert_eq!(secondary.calls.last().unwrap(), "restore_results");
        assert_ne!(secondary.results, [(0, 0)]);
        let round = ["suspend", "Domain now suspended", "postcopy", "Checkpointed save", "checkpoint"];
        let calls = &primary.calls;
        assert_eq!(calls[calls.len() - 6..calls.len() - 1], round, "{calls:?}");
        assert_eq!(calls.last().unwrap(), "switch_qemu_logdirty false");
        assert!(!primary.guest.is_tracked());
        // It still runs, as if nothing had been.
        let mut guest = primary.guest.lock();
        guest.run(10).unwrap();
        guest.self_check().unwrap();
    }
}

#[test]
fn remus_lets_the_guest_run_before_the_round_is_written() {
    let file = tempfile::tempfile().unwrap();
    let guest = Guest::running(&big(), 20).goes_on(3);
    let mut primary = Primary::new(&guest, &file, None);
    let length = |primary: &mut Primary| primary.stream.seek(SeekFrom::End(0)).unwrap();
    let mut suspended = 0;
    let lengths = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let note = |what: &'static str| {
        let lengths = std::sync::Arc::clone(&lengths);
        move |primary: &mut Primary, _: u32| {
            lengths.lock().unwrap().push((what, length(primary)));
            1
        }
    };
    primary.on_suspend = Box::new(note("suspend"));
    primary.on_postcopy = Box::new(note("postcopy"));
    primary.on_checkpoint = Box::new({
        let note = note("checkpoint");
        move |primary, round| {
            note(primary, round);
            let mut last = [0; 8];
            primary.stream.seek(SeekFrom::End(-8)).unwrap();
            primary.stream.read_exact(&mut last).unwrap();
            assert_eq!(last, [xc::CHECKPOINT as u8, 0, 0, 0, 0, 0, 0, 0]);
            (round < 4).into()
        }
    });
    let command = save_command(Flags::LIVE, StreamType::Remus);
    assert_eq!(start(command, &guest, &file, None).answer(&mut primary), GOOD);
    let lengths = lengths.lock().unwrap();
    assert_eq!(lengths.len(), 12);
    for round in lengths.chunks(3) {
        let [("suspend", at_suspend), ("postcopy", at_postcopy), ("checkpoint", at_checkpoint)] = round else {
            panic!("{round:?}")
        };
        assert_eq!(at_suspend, at_postcopy);
        assert!(at_checkpoint > at_postcopy);
        suspended += 1;
    }
    assert_eq!(suspended, 4);
}

#[test]
fn remus_ends_at_postcopy_too_without_a_byte_of_the_round() {
    let file = tempfile::tempfile().unwrap();
    let guest = Guest::running(&small(3), 20);
    let mut primary = Primary::new(&guest, &file, None);
    let mut rounds = 0;
    primary.on_postcopy = Box::new(move |_, _| {
        rounds += 1;
        (rounds < 3).into()
    });
    let command = save_command(Flags::LIVE, StreamType::Remus);
    assert_eq!(start(command, &guest, &file, None).answer(&mut primary), GOOD);
    let mut tail = [0; 8];
    primary.stream.seek(SeekFrom::End(-8)).unwrap();
    primary.stream.read_exact(&mut tail).unwrap();
    assert_eq!(tail, [xl::CHECKPOINT_END as u8, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(primary.calls.last().unwrap(), "switch_qemu_logdirty false");
}

#[test]
fn remus_of_a_guest_that_is_not_sent_live_starts_with_all_of_it() {
    // The second has more pfns, holes and all, than are copied before the guest runs on.
    for (config, copied) in [(small(5), true), (big(), false)] {
        let file = tempfile::tempfile().unwrap();
        let guest = Guest::running(&config, 20);
        assert_eq!(COPY_AHEAD.fits(guest.info().unwrap().nr_pfns), copied);
        let mut primary = Primary::new(&guest, &file, None);
        primary.on_checkpoint = Box::new(|_, round| (round < 3).into());
        let command = save_command(Flags::empty(), StreamType::Remus);
        assert_eq!(start(command, &guest, &file, None).answer(&mut primary), GOOD);
        let place = |call: &str| primary.calls.iter().position(|other| other == call).unwrap();
        assert_eq!(place("postcopy") < place("Frames"), copied, "{:?}", primary.calls);
        file.try_clone().unwrap().rewind().unwrap();
        let copy = Guest::empty(&config);
        let mut secondary = Secondary::new(&copy, &file, None);
        assert_eq!(start(restore_command(StreamType::Remus), &copy, &file, None).answer(&mut secondary), GOOD);
        is_at(&secondary, &primary, 2);
    }
}

/// A Remus stream of three checkpoints, and where each one ends.
pub fn recorded(config: &SimConfig) -> (Vec<u8>, Vec<usize>, Primary) {
    let file = tempfile::tempfile().unwrap();
    let guest = Guest::running(config, 20);
    let mut primary = Primary::new(&guest, &file, None);
    let ends = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    primary.on_suspend = Box::new({
        let ends = std::sync::Arc::clone(&ends);
        move |primary, _| {
            ends.lock().unwrap().push(primary.stream.seek(SeekFrom::End(0)).unwrap() as usize);
            i32::from(ends.lock().unwrap().len() < 4)
        }
    });
    let command = save_command(Flags::LIVE, StreamType::Remus);
    assert_eq!(start(command, &guest, &file, None).answer(&mut primary), failed(CANCELED));
    let mut bytes = Vec::new();
    file.try_clone().unwrap().rewind().unwrap();
    file.try_clone().unwrap().read_to_end(&mut bytes).unwrap();
    let ends = ends.lock().unwrap()[1..].to_vec();
    (bytes, ends, primary)
}

pub fn replayed(stream: &[u8], config: &SimConfig) -> (Secondary, End) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(stream).unwrap();
    file.rewind().unwrap();
    let copy = Guest::empty(config);
    let mut secondary = Secondary::new(&copy, &file, None);
    let end = start(restore_command(StreamType::Remus), &copy, &file, None).answer(&mut secondary);
    (secondary, end)
}

#[test]
fn a_stream_that_stops_anywhere_fails_over_to_the_last_whole_checkpoint_and_never_before_the_first() {
    let config = small(6);
    let (stream, ends, primary) = recorded(&config);
    assert_eq!(ends.len(), 3);
    let mut cuts: Vec<usize> = (0..stream.len()).step_by(stream.len() / 40 + 1).collect();
    for &end in &ends {
        cuts.extend([end - 17, end - 8, end - 1, end, end + 1, end + 8]);
    }
    for cut in cuts.into_iter().filter(|&cut| cut <= stream.len()) {
        let (secondary, end) = replayed(&stream[..cut], &config);
        match ends.iter().filter(|&&end| end <= cut).count() {
            0 => {
                assert_eq!((end.completion.retval, end.exit), (-1, 0), "cut at {cut}");
                assert_eq!(secondary.results, [(0, 0)], "cut at {cut}");
            }
            whole => {
                assert_eq!(end, GOOD, "cut at {cut}");
                is_at(&secondary, &primary, whole);
            }
        }
    }
}

#[test]
fn garbage_behind_a_checkpoint_is_an_error_and_no_failover() {
    let config = small(6);
    let (stream, ends, _) = recorded(&config);
    let place = ends[0];
    // Bytes of the round's first record: type, length, count, the first pfn.
    let damage: [(&str, usize, &[u8]); 4] = [
        ("an unknown mandatory type", 0, &[0x77]),
        ("END in place of pages", 0, &[0; 8]),
        ("a page type that does not exist", 16 + 7, &[0x50]),
        ("a pfn out of bounds", 16 + 4, &[0x40]),
    ];
    for (what, at, bytes) in damage {
        let mut stream = stream.clone();
        stream[place + at..][..bytes.len()].copy_from_slice(bytes);
        let (secondary, end) = replayed(&stream, &config);
        assert_eq!(end, failed(BADMSG), "{what}");
        assert_eq!(secondary.results, [(0, 0)], "{what}");
        assert!(secondary.guest.lock().info().unwrap().paused, "{what}");
    }
}

#[test]
fn an_optional_record_behind_a_checkpoint_is_passed_over() {
    let config = small(6);
    let (mut stream, ends, primary) = recorded(&config);
    let optional = [0x7f, 0, 0, 0x80, 3, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0];
    stream.splice(ends[0]..ends[0], optional);
    let (secondary, end) = replayed(&stream, &config);
    assert_eq!(end, GOOD);
    is_at(&secondary, &primary, 3);
}

#[test]
fn colo_both_ends_at_once_equal_at_each_checkpoint() {
    for config in [small(8), big()] {
        let ((primary, end), (secondary, other)) =
            protect(StreamType::Colo, &config, |primary| primary.on_wait = Box::new(|_, round| (round < 6).into()));
        assert_eq!((end, other), (GOOD, GOOD));
        assert_eq!((secondary.checkpoints, secondary.compared), (6, 6));
        assert_eq!(primary.states.lock().unwrap().len(), 6);
        let round =
            ["suspend", "Domain now suspended", "Checkpointed save", "checkpoint", "postcopy", "wait_checkpoint"];
        let calls = &primary.calls;
        assert_eq!(calls[calls.len() - 7..calls.len() - 1], round, "{calls:?}");
        let calls = &secondary.calls;
        let round = ["suspend", "checkpoint", "restore_results", "postcopy", "wait_checkpoint", "restore_results"];
        assert_eq!(calls[calls.len() - 6..], round, "{calls:?}");
        // It runs on as the secondary that it was, at its own state.
        let mut copy = secondary.guest.lock();
        assert!(copy.is_running());
        copy.run(50).unwrap();
        copy.self_check().unwrap();
        drop(copy);
        assert!(!primary.guest.is_tracked());
    }
}

#[test]
fn colo_takes_libxls_refusal_of_a_checkpoint_for_a_failure() {
    let ((_, end), (_, other)) = protect(StreamType::Colo, &small(8), |primary| {
        primary.on_checkpoint = Box::new(|_, round| (round < 3).into());
    });
    // The secondary's libxl finds the stream at its end.
    assert_eq!((end, other), (failed(CANCELED), GOOD));
}

#[test]
fn a_domain_that_refuses_a_round_is_not_handed_over() {
    let config = small(6);
    let (stream, _, _) = recorded(&config);
    // A second vCPU in the stream of a domain that has one: the hypervisor refuses the context.
    let other = SimConfig { vcpus: 2, ..config.clone() };
    let (mut two, ends, _) = recorded(&other);
    let cut = two.split_off(ends[0]);
    let (_, one_ends, _) = recorded(&config);
    let mixed = [&stream[..one_ends[0]], &cut[..]].concat();
    let (secondary, end) = replayed(&mixed, &config);
    assert_eq!((end.completion.retval, end.exit), (-1, 0));
    assert_eq!(secondary.results, [(0, 0)]);
}
