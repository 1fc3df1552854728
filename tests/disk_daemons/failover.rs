//! `remus` and `receive` with a disk, as processes: the host dies, and the other one has the guest and the disk at one checkpoint.

use super::host::{DEVICE, Daemon, Host, LONG, Pair};
use super::nbd::Guest;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;
use xen_replicate::control::Status;
use xen_replicate::disk::control::Role;

/// The guest writes blocks in turn, each with the number of the write in it.
const BLOCK: usize = 4096;
const BLOCKS: u64 = 48;

fn block(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(BLOCK / 8)
}

#[track_caller]
fn wait(host: &Host, what: &str, there: impl Fn(&Status) -> bool) -> Status {
    let begun = Instant::now();
    loop {
        let status = host.domain("web");
        if let Some(status) = status.as_ref().filter(|status| there(status)) {
            return status.clone();
        }
        assert!(begun.elapsed() < LONG, "{what} did not come: {status:#?}");
        thread::yield_now();
    }
}

/// `remus` on the first host and `receive` on the second, under way.
fn protect(pair: &Pair) -> (Daemon, Daemon) {
    let (witness, link) = (pair.a.state("witness"), format!("unix:{}", pair.a.state("web.link")));
    std::fs::create_dir(&witness).unwrap();
    let usual = ["--backend=sim", "--witness", &witness, "--disk", DEVICE];
    let receive = pair.b.spawn(&[&["receive", "--domain=web", "--listen", &link][..], &usual].concat(), "receive.log");
    wait(&pair.b, "the receiver", |_| true);
    let remus = pair.a.spawn(&[&["remus", "-i", "30"][..], &usual, &["web", &link]].concat(), "remus.log");
    (remus, receive)
}

#[test]
fn after_a_failover_the_disk_is_that_of_the_checkpoint() {
    let mut pair = Pair::new();
    let (mut remus, _receive) = protect(&pair);
    // Whoever gets at the socket gets at the disk.
    let folder = std::fs::metadata(pair.a.socket().parent().unwrap()).unwrap();
    assert_eq!(folder.permissions().mode() & 0o777, 0o700);
    let (written, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let known = thread::scope(|scope| {
        let socket = pair.a.socket();
        let (written, stop) = (&written, &stop);
        scope.spawn(move || {
            let mut guest = Guest::open(&socket);
            for number in 1.. {
                let place = number % BLOCKS * BLOCK as u64;
                if stop.load(Ordering::SeqCst) || guest.write(place, &block(number)).is_err() {
                    return;
                }
                written.store(number, Ordering::SeqCst);
                thread::yield_now();
            }
        });
        wait(&pair.a, "protection", |status| status.acknowledged >= 2);
        let begun = Instant::now();
        while written.load(Ordering::SeqCst) < 2 * BLOCKS {
            assert!(begun.elapsed() < LONG);
            thread::yield_now();
        }
        let known = written.load(Ordering::SeqCst);
        // The one under way may have been closed before that; the next was not.
        let status = wait(&pair.a, "a checkpoint", |_| true);
        wait(&pair.a, "later checkpoints", |now| now.acknowledged >= status.checkpoint + 2);
        remus.kill();
        pair.a.daemon.take().unwrap().kill();
        stop.store(true, Ordering::SeqCst);
        known
    });
    let survivor = wait(&pair.b, "the survivor", |status| status.phase == "alone");
    assert_eq!(survivor.guest, xen_replicate::control::status::Guest::Running);
    assert_eq!(pair.b.status().role, Role::Primary);
    let disk = Guest::open(&pair.b.socket()).read(0, BLOCKS as usize * BLOCK);
    let numbers: Vec<u64> =
        disk.chunks(BLOCK).map(|block| u64::from_le_bytes(block[..8].try_into().unwrap())).collect();
    let last = *numbers.iter().max().unwrap();
    assert!((known..=written.load(Ordering::SeqCst) + 1).contains(&last), "{last}: {known} were in a checkpoint");
    // All that was written until then, in its order, and nothing else.
    for (index, bytes) in disk.chunks(BLOCK).enumerate() {
        let behind = (last + BLOCKS - index as u64) % BLOCKS;
        assert!(bytes == block(last - behind), "block {index}: {} where {} is due", numbers[index], last - behind);
    }
}

#[test]
fn a_keeper_that_dies_ends_the_protection_and_the_guest_runs_on() {
    let mut pair = Pair::new();
    let _engines = protect(&pair);
    wait(&pair.a, "protection", |status| status.acknowledged >= 2);
    pair.b.daemon.take().unwrap().kill();
    let alone = wait(&pair.a, "the end of protection", |status| status.phase == "alone");
    assert!(!alone.protected);
    assert!(alone.notices.iter().any(|notice| notice.text.contains(DEVICE)), "{:#?}", alone.notices);
    Guest::open(&pair.a.socket()).write(0, &block(1)).unwrap();
}
