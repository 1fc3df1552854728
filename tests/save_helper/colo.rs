//! Lock-step: both helpers at once, both guests running between checkpoints, dirty pages of the secondary on the back channel.

use crate::helper::{COLO, Helper};
use crate::home::{Home, Program, assert_restored, fifo, guest};
use crate::message::Message;
use crate::plain::configs;
use crate::remus::record;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use xen_replicate::stream::libxl::types::{CHECKPOINT_END, CHECKPOINT_STATE};

/// What CHECKPOINT_STATE says.
const NEW: u32 = 0;
const SVM_SUSPENDED: u32 = 1;
const SVM_READY: u32 = 2;
const SVM_RESUMED: u32 = 3;

/// A CHECKPOINT_STATE record as libxl writes it: four bytes of body, four of padding.
fn state(number: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&CHECKPOINT_STATE.to_le_bytes());
    bytes[4..8].copy_from_slice(&4u32.to_le_bytes());
    bytes[8..12].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn expect<const LENGTH: usize>(mut from: &File, record: [u8; LENGTH]) {
    let mut bytes = [0; LENGTH];
    from.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, record);
}

fn say(mut to: &File, record: &[u8]) {
    to.write_all(record).unwrap();
}

/// Tells how far the guest was each time it was suspended for a checkpoint but the first. Gives whether our helper has found the
/// secondary's lists to be longer than their records.
fn primary(home: &Home, stream: &Path, back: &Path, checkpoints: u32, suspended: Sender<u64>) -> bool {
    let helper = Helper::save(home, stream, Some(back), 1, COLO);
    let forward = File::options().write(true).open(stream).unwrap();
    let backward = File::open(back).unwrap();
    let mut number = 0;
    let outcome = helper.run(|message, control| match message {
        Message::Suspend => {
            control.tell("suspend");
            if number > 0 {
                suspended.send(control.steps()).unwrap();
                expect(&backward, state(SVM_SUSPENDED));
            }
            Some(1)
        }
        Message::Checkpoint => {
            number += 1;
            say(&forward, &record(CHECKPOINT_END));
            Some(1)
        }
        Message::Postcopy => {
            expect(&backward, state(SVM_READY));
            // The last checkpoint is the one that the two are compared at: neither goes on from it.
            if number == checkpoints {
                return Some(0);
            }
            control.tell("resume");
            expect(&backward, state(SVM_RESUMED));
            Some(1)
        }
        Message::WaitCheckpoint => {
            control.wait_for_steps(20);
            say(&forward, &state(NEW));
            Some(1)
        }
        _ => None,
    });
    assert_eq!((outcome.retval, number), (0, checkpoints), "{outcome:?}");
    assert_eq!(home.failed_calls(), [""; 0]);
    outcome.logged("eight bytes more than their records")
}

/// Its guest runs further than the primary's each time, so that it has dirtied pages that the primary's has not.
fn secondary(home: &Home, stream: &Path, back: &Path, checkpoints: u32, suspended: Receiver<u64>) {
    let helper = Helper::restore(home, stream, Some(back), COLO);
    let forward = File::open(stream).unwrap();
    let backward = File::options().write(true).open(back).unwrap();
    let mut number = 0;
    let outcome = helper.run(|message, control| match message {
        Message::Checkpoint => {
            expect(&forward, record(CHECKPOINT_END));
            number += 1;
            Some(1)
        }
        Message::Postcopy => {
            say(&backward, &state(SVM_READY));
            if number == checkpoints {
                // The primary is gone: a failover.
                return Some(2);
            }
            if number == 1 {
                control.tell("log-dirty on");
                control.tell("unpause");
            } else {
                control.tell("resume");
            }
            say(&backward, &state(SVM_RESUMED));
            Some(1)
        }
        Message::WaitCheckpoint => {
            expect(&forward, state(NEW));
            Some(1)
        }
        Message::Suspend => {
            control.wait_until(suspended.recv().unwrap() + 100);
            control.tell("suspend");
            say(&backward, &state(SVM_SUSPENDED));
            Some(1)
        }
        _ => None,
    });
    assert_eq!((outcome.retval, number), (0, checkpoints), "{outcome:?}");
    if home.program == Program::Debians {
        assert!(outcome.logged("COLO Failover"), "{outcome:?}");
    }
    assert_eq!(home.failed_calls(), [""; 0]);
}

#[test]
#[ignore = "long"]
fn their_two_sides_are_equal_at_each_checkpoint() {
    for config in configs() {
        equal_at_each_checkpoint(&Home::of(&guest(&config, 50)), &Home::empty(&config));
    }
}

/// Four checkpoints of two helpers, then a failover. Gives what [`primary`] gives.
pub fn equal_at_each_checkpoint(here: &Home, there: &Home) -> bool {
    let folder = here.path("");
    let (stream, back) = (fifo(&folder, "stream"), fifo(&folder, "back"));
    let longer = thread::scope(|scope| {
        let (suspends, suspended) = channel();
        let protecting = scope.spawn(|| primary(here, &stream, &back, 4, suspends));
        secondary(there, &stream, &back, 4, suspended);
        protecting.join().unwrap()
    });
    assert_restored(&here.after(), &there.after());
    longer
}
