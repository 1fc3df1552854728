//! Live saves within limits that the host has set.

use crate::guest::Guest;
use crate::world::*;
use std::fs::File;
use std::time::Duration;
use xen_replicate::hypervisor::sim::SimConfig;
use xen_replicate::libxc::precopy::{Limits, Otherwise};
use xen_replicate::save_helper::*;

const TIMEDOUT: i32 = 110;

/// A guest that writes to 3000 of its 4096 pages in no time.
fn busy() -> (Guest, File) {
    let config = SimConfig { working_set: 3000, ..big() };
    (Guest::running(&config, 10).goes_on(200), tempfile::tempfile().unwrap())
}

fn save(limits: Limits) -> (Primary, End) {
    let (guest, file) = busy();
    let mut libxl = Primary::new(&guest, &file, None);
    let open = {
        let guest = guest.clone();
        move || Ok(guest)
    };
    let child = start_within(limits, save_command(Flags::LIVE, StreamType::Plain), &file, None, open);
    let end = child.answer(&mut libxl);
    (libxl, end)
}

/// The rounds that were sent.
fn rounds(libxl: &Primary) -> usize {
    libxl.calls.iter().filter(|call| call.starts_with("Frames iteration")).count()
}

#[test]
fn a_guest_that_is_not_to_stand_still_for_long_is_not_saved_and_runs_on() {
    let limits = Limits { rounds: 3, otherwise: Otherwise::Abort, ..Limits::default() };
    let (libxl, end) = save(limits);
    assert_eq!(end, failed(TIMEDOUT));
    assert!(!libxl.calls.contains(&"suspend".to_string()), "{:?}", libxl.calls);
    assert_eq!(libxl.calls.last().unwrap(), "switch_qemu_logdirty false");
    assert!(!libxl.guest.is_tracked() && libxl.guest.lock().is_running());
    libxl.guest.lock().self_check().unwrap();
    assert_eq!(rounds(&libxl), 3, "{:?}", libxl.calls);
}

#[test]
fn rounds_end_where_the_guest_may_stand_still_for_long_enough() {
    let limits = Limits { downtime: Some(Duration::from_secs(1000)), otherwise: Otherwise::Abort, ..Limits::default() };
    let (libxl, end) = save(limits);
    assert_eq!(end, GOOD);
    // What was dirty behind the first has been taken out of the log, so it is sent before the guest stands still.
    let calls: Vec<_> = libxl.calls.iter().map(String::as_str).collect();
    let all = ["Frames iteration 0", "Frames iteration 1", "suspend", "Domain now suspended", "Frames iteration 2"];
    assert!(calls.windows(5).any(|window| window == all), "{calls:?}");
}

#[test]
fn by_default_there_are_five_rounds_and_then_it_is_suspended() {
    let (libxl, end) = save(Limits::default());
    assert_eq!(end, GOOD);
    // And the last pages.
    assert_eq!(rounds(&libxl), 6, "{:?}", libxl.calls);
}

/// The first image of a checkpointed stream is not held up by what is for migrations.
#[test]
fn a_protection_begins_whatever_the_limits_are() {
    let limits = Limits { rounds: 1, otherwise: Otherwise::Abort, ..Limits::default() };
    let (guest, file) = busy();
    let mut libxl = Primary::new(&guest, &file, None);
    libxl.on_checkpoint = Box::new(|_, round| (round < 2).into());
    let open = {
        let guest = guest.clone();
        move || Ok(guest)
    };
    let child = start_within(limits, save_command(Flags::LIVE, StreamType::Remus), &file, None, open);
    assert_eq!(child.answer(&mut libxl), GOOD);
}
