//! Replicated disks as processes: a primary and a keeper, a guest that writes through NBD, and either daemon killed at any moment.
//!
//! The guest here is a client of our own; `cargo test --test disk_daemons -- --ignored` has QEMU's tools be the clients (Debian's
//! qemu-utils).

#[path = "disk_daemons/failover.rs"]
mod failover;
#[path = "disk_daemons/host.rs"]
mod host;
#[path = "disk_daemons/nbd.rs"]
mod nbd;
#[path = "disk_daemons/qemu.rs"]
mod qemu;

use host::{DEVICE, Host, LONG, Pair, SIZE, noise};
use nbd::Guest;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use xen_replicate::disk::Mark;
use xen_replicate::disk::control::{Request, Role};

/// A disk's content as the guest knows it. Whoever has the lock has the guest stand still.
type Model = Arc<Mutex<(Guest, Vec<u8>)>>;

fn mark(checkpoint: u64) -> Mark {
    Mark { session: 9, checkpoint }
}

/// Writes on and on, until the disk is gone.
fn write_on(model: &Model, seed: u64, stop: &AtomicBool) -> u64 {
    let mut written = 0;
    while !stop.load(Ordering::SeqCst) {
        let mut held = model.lock().unwrap();
        let (guest, content) = &mut *held;
        let random = noise(seed.wrapping_add(written), 8);
        let random = u64::from_le_bytes(random.try_into().unwrap());
        let offset = random % (SIZE as u64 - 40_000);
        let length = 512 + (random >> 40) as usize % 30_000;
        let place = &mut content[offset as usize..offset as usize + length];
        let done = match random >> 60 {
            0 => guest.zero(offset, length).map(|()| place.fill(0)),
            1 => guest.flush(),
            _ => {
                let bytes = noise(random, length);
                guest.write(offset, &bytes).map(|()| place.copy_from_slice(&bytes))
            }
        };
        if done.is_err() {
            break;
        }
        written += 1;
        drop(held);
        thread::yield_now();
    }
    written
}

/// One checkpoint: the content at it, and the number to wait for.
fn close(model: &Model, host: &Host, checkpoint: u64) -> Result<(Vec<u8>, u64), String> {
    let guest = model.lock().unwrap();
    let reply = host.ask(&Request::Close { mark: mark(checkpoint), disks: 1 })?;
    Ok((guest.1.clone(), reply.seq.unwrap()))
}

#[test]
fn the_primary_dies_at_random_moments_and_the_copy_is_at_the_committed_checkpoint() {
    for case in 0..6u64 {
        let mut pair = Pair::new();
        let guest = Guest::open(&pair.a.socket());
        let model: Model = Arc::new(Mutex::new((guest, pair.content.clone())));
        let stop = AtomicBool::new(false);
        let mut committed = None;
        thread::scope(|scope| {
            let writing = scope.spawn(|| write_on(&model, case * 1_000_003, &stop));
            pair.a.ask(&Request::Begin { session: 9 }).unwrap();
            let primary = pair.a.daemon.take().unwrap();
            let (first, commits) = channel();
            let killer = scope.spawn(move || {
                let mut primary = primary;
                commits.recv().unwrap();
                // Nothing is waited for: the moment is as good as any other.
                thread::sleep(Duration::from_micros(case * 7_919 * 13 % 200_000));
                primary.kill();
            });
            for checkpoint in 1.. {
                let Ok((content, seq)) = close(&model, &pair.a, checkpoint) else { break };
                if pair.a.ask(&Request::Wait { seq }).is_err() {
                    break;
                }
                // The engine's secondary has the checkpoint by now, and says so.
                assert_eq!(pair.b.ask(&Request::Commit { mark: mark(checkpoint) }).unwrap().disks, Some(1));
                committed = Some((checkpoint, content));
                // It has heard the first.
                let _ = first.send(());
            }
            stop.store(true, Ordering::SeqCst);
            killer.join().unwrap();
            assert!(writing.join().unwrap() > 0);
        });
        let (checkpoint, content) = committed.expect("no checkpoint before it died");
        let wrong = pair.b.ask(&Request::Promote { mark: Some(mark(checkpoint + 7)) }).unwrap_err();
        assert!(wrong.contains("has no checkpoint"), "{wrong}");
        pair.b.ask(&Request::Promote { mark: Some(mark(checkpoint)) }).unwrap();
        let mut guest = Guest::open(&pair.b.socket());
        assert!(guest.read(0, SIZE) == content, "case {case}: not the content at checkpoint {checkpoint}");
        guest.write(0, &[1; 512]).unwrap();
        assert_eq!(pair.b.status().role, Role::Primary);
    }
}

#[test]
fn a_keeper_that_dies_while_it_applies_goes_on_where_it_was() {
    for case in 0..6u64 {
        let mut pair = Pair::new();
        let mut guest = Guest::open(&pair.a.socket());
        pair.a.ask(&Request::Begin { session: 9 }).unwrap();
        let mut content = pair.content.clone();
        for checkpoint in 1..=2 {
            for write in 0..24u64 {
                let offset = (case * 31 + write * 260_003 + checkpoint) % (SIZE as u64 - 200_000);
                let bytes = noise(case * 100 + write + checkpoint * 7, 150_000);
                guest.write(offset, &bytes).unwrap();
                content[offset as usize..offset as usize + bytes.len()].copy_from_slice(&bytes);
            }
            let seq = pair.a.ask(&Request::Close { mark: mark(checkpoint), disks: 1 }).unwrap().seq.unwrap();
            pair.a.ask(&Request::Wait { seq }).unwrap();
        }
        // Of no checkpoint any more.
        guest.write(0, &[0x77; 4096]).unwrap();
        let mut keeper = pair.b.daemon.take().unwrap();
        thread::scope(|scope| {
            let committing = scope.spawn(|| pair.b.ask(&Request::Commit { mark: mark(2) }));
            // Nothing is waited for: each case is killed somewhere else in its work.
            thread::sleep(Duration::from_micros(case * 1_500));
            keeper.kill();
            // It may have been told that it was done.
            let _ = committing.join().unwrap();
        });
        pair.b.keep(&[]);
        let status = pair.b.status();
        assert_eq!((status.role, &status.phase[..]), (Role::Keeper, "keeping"));
        pair.b.ask(&Request::Promote { mark: Some(mark(2)) }).unwrap();
        // It is asked again where the answer was lost.
        pair.b.ask(&Request::Promote { mark: Some(mark(2)) }).unwrap();
        assert!(Guest::open(&pair.b.socket()).read(0, SIZE) == content, "case {case}");
        // A daemon in service stays there.
        pair.b.daemon.take().unwrap().kill();
        pair.b.keep(&[]);
        assert_eq!(pair.b.status().role, Role::Primary);
        assert!(Guest::open(&pair.b.socket()).read(0, SIZE) == content, "case {case}");
    }
}

#[test]
fn a_survivor_is_replicated_to_the_host_that_was_lost() {
    let mut pair = Pair::new();
    let mut guest = Guest::open(&pair.a.socket());
    guest.write(5_000, &noise(3, 100_000)).unwrap();
    pair.a.ask(&Request::Begin { session: 9 }).unwrap();
    let seq = pair.a.ask(&Request::Close { mark: mark(1), disks: 1 }).unwrap().seq.unwrap();
    pair.a.ask(&Request::Wait { seq }).unwrap();
    pair.b.ask(&Request::Commit { mark: mark(1) }).unwrap();
    guest.write(0, &noise(4, 300_000)).unwrap();
    pair.a.daemon.take().unwrap().kill();
    let told = pair.b.run(&["disk", "promote", DEVICE]);
    assert_eq!(told, (Some(0), String::new()));
    let mut guest = Guest::open(&pair.b.socket());
    guest.write(700_000, &noise(5, 50_000)).unwrap();
    // The old host's image is the guest's own there: it is not overwritten by mistake.
    pair.a.keep(&[]);
    assert_eq!(pair.a.status().role, Role::Primary);
    pair.a.daemon.take().unwrap().kill();
    pair.a.keep(&["--anew"]);
    let to = format!("unix:{}", pair.a.link().display());
    assert_eq!(pair.b.run(&["disk", "to", DEVICE, &to]), (Some(0), String::new()));
    pair.b.synced();
    pair.b.ask(&Request::Begin { session: 9 }).unwrap();
    let content = guest.read(0, SIZE);
    let seq = pair.b.ask(&Request::Close { mark: mark(2), disks: 1 }).unwrap().seq.unwrap();
    pair.b.ask(&Request::Wait { seq }).unwrap();
    pair.a.ask(&Request::Promote { mark: Some(mark(2)) }).unwrap();
    assert!(Guest::open(&pair.a.socket()).read(0, SIZE) == content);
}

#[test]
fn a_keeper_that_dies_leaves_the_guest_running_and_is_brought_up_to_date() {
    let mut pair = Pair::new();
    let mut guest = Guest::open(&pair.a.socket());
    pair.a.ask(&Request::Begin { session: 9 }).unwrap();
    let seq = pair.a.ask(&Request::Close { mark: mark(1), disks: 1 }).unwrap().seq.unwrap();
    pair.a.ask(&Request::Wait { seq }).unwrap();
    pair.b.daemon.take().unwrap().kill();
    let gone = Instant::now();
    while pair.a.status().connected {
        assert!(gone.elapsed() < LONG);
        thread::yield_now();
    }
    guest.write(0, &noise(8, 200_000)).unwrap();
    let error = pair.a.ask(&Request::Close { mark: mark(2), disks: 1 }).unwrap_err();
    assert!(error.contains("out of reach"), "{error}");
    pair.b.keep(&[]);
    pair.a.ask(&Request::Begin { session: 10 }).unwrap();
    pair.a.synced();
    assert_eq!(pair.b.status().phase, "following");
    let close = Request::Close { mark: Mark { session: 10, checkpoint: 1 }, disks: 1 };
    let seq = pair.a.ask(&close).unwrap().seq.unwrap();
    pair.a.ask(&Request::Wait { seq }).unwrap();
    pair.b.ask(&Request::Promote { mark: Some(Mark { session: 10, checkpoint: 1 }) }).unwrap();
    assert!(Guest::open(&pair.b.socket()).read(0, SIZE) == guest.read(0, SIZE));
}

#[test]
fn what_cannot_be_is_told_and_exits_with_2() {
    let mut pair = Pair::new();
    let image = pair.a.image().display().to_string();
    let own = pair.a.state("other");
    let told = pair.b.run(&["disk", "serve", "--device", "/dev/nbd1", "--attach=", "--state", &own, &image]);
    assert!(told.0 == Some(2) && told.1.contains("another process has it"), "{told:?}");
    for (arguments, text) in [
        (&["disk", "serve", "--device", "/dev/sda", "/x"][..], "neither /dev/nbdN"),
        (&["disk", "serve", "--device", "/dev/nbd9", "--attach=", "--state", &own, "/none/image"], "/none/image"),
        (&["disk", "serve", "--device", "/dev/nbd9", "--to", "host", "/x"], "no address"),
        (&["disk", "keep", "--device", "/dev/nbd9", "--listen", "tcp:10.0.0.1:1", "/x"], "not a loopback"),
        (&["disk", "status", "/dev/nbd9"], "no daemon on this host"),
    ] {
        let (code, error) = pair.a.run(arguments);
        assert!(code == Some(2) && error.contains(text), "{arguments:?}: {error}");
    }
    // What is there is not overwritten without a word, and a disk in a file of its own format is not served as it is.
    let free = pair.a.state("content");
    std::fs::write(&free, vec![7; 4096]).unwrap();
    let keep = ["disk", "keep", "--device", "/dev/nbd9", "--state", &own, "--listen", "unix:k", &free];
    let (code, error) = pair.a.run(&keep);
    assert!(code == Some(2) && error.contains(&free) && error.contains("--overwrite"), "{error}");
    std::fs::write(&free, [&b"QFI\xfb"[..], &[0; 4092]].concat()).unwrap();
    let (code, error) = pair.a.run(&["disk", "serve", "--device", "/dev/nbd9", "--attach=", "--state", &own, &free]);
    assert!(code == Some(2) && error.contains("qcow2") && error.contains(&free), "{error}");
    // The primary of one disk is no keeper, and the other way round.
    let error = pair.a.ask(&Request::Commit { mark: mark(1) }).unwrap_err();
    assert!(error.contains("in service here, not kept"), "{error}");
    let error = pair.b.ask(&Request::Begin { session: 1 }).unwrap_err();
    assert!(error.contains("kept here, not in service"), "{error}");
    assert_eq!(pair.b.run(&["disk", "promote", DEVICE]).0, Some(1));
    // A copy is not served by mistake.
    pair.b.daemon.take().unwrap().kill();
    let (image, state) = (pair.b.image().display().to_string(), pair.b.state("state"));
    let told = pair.b.run(&["disk", "serve", "--device", DEVICE, "--attach=", "--state", &state, &image]);
    assert!(told.0 == Some(2) && told.1.contains("a copy of another host's disk"), "{told:?}");
}

/// A block device with nothing behind it but a file. Dropped, it is given back.
struct Loop(std::path::PathBuf);

impl Loop {
    /// None where this machine has none to give: no privileges, no driver.
    fn over(file: &std::path::Path) -> Option<Self> {
        let made = std::process::Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
        let name = String::from_utf8(made.stdout).ok()?;
        made.status.success().then(|| Loop(name.trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn a_block_device_in_use_is_neither_kept_nor_served() {
    let folder = tempfile::TempDir::new().unwrap();
    let (image, own) = (folder.path().join("image"), folder.path().join("state").display().to_string());
    std::fs::write(&image, vec![0; 4 << 20]).unwrap();
    let Some(device) = Loop::over(&image) else { return println!("not run: this machine gives no loop device") };
    let name = device.0.display().to_string();
    let pair = Pair::new();
    let keep = ["disk", "keep", "--overwrite", "--device", "/dev/nbd9", "--state", &own, "--listen", "unix:k", &name];
    let serve = ["disk", "serve", "--device", "/dev/nbd9", "--attach=", "--state", &own, &name];
    let refused = |by: &str| {
        for arguments in [&keep[..], &serve] {
            let (code, error) = pair.a.run(arguments);
            let parts = [&name[..], "the device is in use on this host", "lsblk"];
            assert!(code == Some(2) && parts.iter().all(|part| error.contains(part)), "{by}: {error}");
        }
        assert!(std::fs::read(&image).unwrap().len() == 4 << 20 && !std::path::Path::new(&own).exists(), "{by}");
    };
    // As LVM, RAID or another daemon has it.
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::EXCL | rustix::fs::OFlags::CLOEXEC;
    let held = rustix::fs::open(&device.0, flags, rustix::fs::Mode::empty()).unwrap();
    refused("another process");
    drop(held);
    let done = |program: &str, arguments: &[&str]| {
        let ran = std::process::Command::new(program).args(arguments).output();
        ran.is_ok_and(|ran| ran.status.success())
    };
    let place = folder.path().join("mounted");
    std::fs::create_dir(&place).unwrap();
    let place = place.display().to_string();
    if !done("mkfs.ext2", &["-q", &name]) || !done("mount", &["-t", "ext2", &name, &place]) {
        return println!("not run: a mounted device, which this machine does not let a test have");
    }
    let content = std::fs::read(&image).unwrap();
    refused("a mount");
    assert!(done("umount", &[&place]));
    assert!(std::fs::read(&image).unwrap().len() == content.len());
}
