//! The outgoing half of a session: what is sent when, and what becomes of it when the session is left.

use std::io::{self, IoSlice, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use xen_replicate::replicate::outbox::{Codec, Outbox};
use xen_replicate::transport::{Cancel, Link, LinkWriter, is_cancelled};

/// Frames are single bytes; those of the stream have a `[` before them and a `]` after them.
#[derive(Debug)]
struct Bytes;

impl Codec for Bytes {
    type Frame = u8;

    fn is_beat(frame: &u8) -> bool {
        *frame == b'.'
    }

    fn frame(&mut self, link: &mut LinkWriter, frame: &u8) -> io::Result<()> {
        link.write_all_vectored(&mut [IoSlice::new(&[*frame])])
    }

    fn data(&mut self, link: &mut LinkWriter, parts: &[IoSlice<'_>], _bytes: usize) -> io::Result<()> {
        let mut frame = vec![IoSlice::new(b"[")];
        frame.extend(parts);
        frame.push(IoSlice::new(b"]"));
        link.write_all_vectored(&mut frame)
    }
}

struct Side {
    outbox: Outbox<Bytes>,
    peer: UnixStream,
    lost: Receiver<io::ErrorKind>,
}

fn side(grace: Duration) -> Side {
    let (ours, peer) = UnixStream::pair().unwrap();
    let cancel = Cancel::new().unwrap();
    let link = Link::from_fds(ours.as_raw_fd(), ours.as_raw_fd(), cancel.clone()).unwrap();
    drop(ours);
    let (tell, lost) = channel();
    let outbox = Outbox::with_codec(link.split().1, Bytes, cancel, grace, move |error| {
        tell.send(error.kind()).unwrap();
    });
    Side { outbox: outbox.unwrap(), peer, lost }
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn frames_that_wait_are_written_before_the_stream_goes_on_and_all_of_them_before_the_end() {
    let mut side = side(LONG);
    side.outbox.write_frame(&b'h').unwrap();
    side.outbox.data(&[IoSlice::new(b"a"), IoSlice::new(b"b")], 2).unwrap();
    side.outbox.send_frame(b'1');
    side.outbox.data(&[IoSlice::new(b"c")], 1).unwrap();
    side.outbox.send_frame(b'2');
    side.outbox.close();
    assert!(side.outbox.data(&[IoSlice::new(b"d")], 1).is_err());
    let mut all = String::new();
    side.peer.read_to_string(&mut all).unwrap();
    assert_eq!(all, "h[ab]1[c]2");
    assert_eq!(side.outbox.taken(), 3);
    side.outbox.closed();
    assert!(side.lost.try_recv().is_err(), "an end that was asked for is no trouble");
}

#[test]
fn a_stream_that_is_given_up_leaves_the_frames_their_way() {
    let mut side = side(LONG);
    side.outbox.data(&[IoSlice::new(b"a")], 1).unwrap();
    side.outbox.stop();
    assert!(side.outbox.is_stopped());
    assert!(side.outbox.data(&[IoSlice::new(b"b")], 1).is_err());
    side.outbox.write_frame(&b'g').unwrap();
    side.outbox.close();
    let mut all = String::new();
    side.peer.read_to_string(&mut all).unwrap();
    assert_eq!(all, "[a]g");
}

#[test]
fn what_the_peer_does_not_take_is_called_off_after_the_time_of_grace() {
    for leave in [Outbox::<Bytes>::stop as fn(&Outbox<Bytes>), Outbox::close] {
        let mut side = side(Duration::from_millis(20));
        let outbox = side.outbox.clone();
        let writing = std::thread::spawn(move || {
            // More than a socket's buffer.
            let bytes = vec![b'x'; 16 << 20];
            outbox.data(&[IoSlice::new(&bytes)], bytes.len())
        });
        side.peer.read_exact(&mut [0]).unwrap();
        leave(&side.outbox);
        assert!(is_cancelled(&writing.join().unwrap().unwrap_err()));
        assert_eq!(side.outbox.write_frame(&b'g').unwrap_err().kind(), io::ErrorKind::NotConnected);
        assert_eq!(side.outbox.taken(), 0);
    }
}

#[test]
fn that_the_peer_is_gone_is_told_once_and_signs_of_life_do_not_pile_up() {
    let side = side(LONG);
    drop(side.peer);
    for _ in 0..1000 {
        side.outbox.send_frame(b'.');
    }
    assert_eq!(side.lost.recv().unwrap(), io::ErrorKind::BrokenPipe);
    assert!(side.lost.recv().is_err(), "told twice");
}
