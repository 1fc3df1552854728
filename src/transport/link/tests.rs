use super::*;
use crate::transport::Listener;
use std::sync::mpsc::channel;

fn pair() -> (Link, Link, Cancel, Cancel) {
    let (a, b) = UnixStream::pair().unwrap();
    let (ca, cb) = (Cancel::new().unwrap(), Cancel::new().unwrap());
    let a = Link::socket(a.into(), "a".into(), ca.clone()).unwrap();
    let b = Link::socket(b.into(), "b".into(), cb.clone()).unwrap();
    (a, b, ca, cb)
}

/// A mebibyte each way at once, through small buffers.
fn exchange(a: Link, b: Link) {
    let octets: Vec<u8> = (0..1u32 << 20).map(|n| (n % 251) as u8).collect();
    let side = |link: Link| {
        let octets = octets.clone();
        thread::spawn(move || {
            let (mut reader, mut writer) = link.split();
            let (sent, expected) = (octets.clone(), octets);
            let sender = thread::spawn(move || {
                let (head, tail) = sent.split_at(777);
                writer.write_all_vectored(&mut [IoSlice::new(head), IoSlice::new(&[]), IoSlice::new(tail)]).unwrap();
                writer.shutdown();
                writer
            });
            let mut got = Vec::new();
            reader.read_to_end(&mut got).unwrap();
            assert!(got == expected);
            sender.join().unwrap();
        })
    };
    let (a, b) = (side(a), side(b));
    a.join().unwrap();
    b.join().unwrap();
}

#[test]
fn octets_pass_both_ways_over_every_kind_of_socket() {
    let (a, b, ..) = pair();
    exchange(a, b);
    let folder = tempfile::tempdir().unwrap();
    let unix = Address::Unix(folder.path().join("s"));
    for address in [unix, Address::parse("tcp:127.0.0.1:0", false).unwrap()] {
        let listener = Listener::bind(&address).unwrap();
        let cancel = Cancel::new().unwrap();
        let to = listener.address().unwrap();
        let client = connect(&to, &cancel).unwrap();
        let (server, _) = listener.accept(&cancel).unwrap();
        exchange(client, server);
    }
}

#[test]
fn a_command_is_spoken_to_and_its_end_is_seen() {
    let cancel = Cancel::new().unwrap();
    let (mut reader, mut writer) = connect(&Address::Command("cat".into()), &cancel).unwrap().split();
    writer.write_all_vectored(&mut [IoSlice::new(b"hello")]).unwrap();
    let mut got = [0; 5];
    reader.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
    writer.shutdown();
    assert_eq!(reader.read(&mut got).unwrap(), 0);
    let (mut reader, _writer) = connect(&Address::Command("exit 3".into()), &cancel).unwrap().split();
    assert_eq!(reader.read(&mut got).unwrap(), 0);
}

#[test]
fn inherited_descriptors_are_used_by_their_numbers() {
    use std::os::fd::AsRawFd;
    let (a, b) = UnixStream::pair().unwrap();
    let (read, write) = rustix::pipe::pipe().unwrap();
    let cancel = Cancel::new().unwrap();
    let both = Link::from_fds(a.as_raw_fd(), a.as_raw_fd(), cancel.clone()).unwrap();
    let (_, mut writer) = both.split();
    writer.write_all_vectored(&mut [IoSlice::new(b"x")]).unwrap();
    let one_way = Link::from_fds(read.as_raw_fd(), write.as_raw_fd(), cancel.clone()).unwrap();
    exchange_one_way(one_way);
    let mut got = [0; 1];
    (&b).read_exact(&mut got).unwrap();
    assert_eq!(&got, b"x");
    let error = Link::from_fds(9999, 9999, cancel).unwrap_err();
    assert!(error.to_string().contains("9999"), "{error}");
}

fn exchange_one_way(link: Link) {
    let (mut reader, mut writer) = link.split();
    writer.write_all_vectored(&mut [IoSlice::new(b"y")]).unwrap();
    let mut got = [0; 1];
    reader.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"y");
}

#[test]
fn who_waits_is_called_off() {
    let (a, _b, cancel, _) = pair();
    let (mut reader, mut writer) = a.split();
    let (told, heard) = channel();
    let tell = told.clone();
    let read = thread::spawn(move || {
        tell.send(()).unwrap();
        reader.read(&mut [0; 8]).unwrap_err()
    });
    let write = thread::spawn(move || {
        told.send(()).unwrap();
        writer.write_all_vectored(&mut [IoSlice::new(&vec![0; 16 << 20])]).unwrap_err()
    });
    heard.recv().unwrap();
    heard.recv().unwrap();
    cancel.cancel();
    assert!(is_cancelled(&read.join().unwrap()));
    assert!(is_cancelled(&write.join().unwrap()));
    assert!(cancel.is_cancelled());
}

#[test]
fn reading_alone_can_be_called_off() {
    let (a, b, ..) = pair();
    let (reader, mut writer) = a.split();
    let reading = Cancel::new().unwrap();
    let mut reader = reader.with_cancel(reading.clone());
    reading.cancel();
    assert!(is_cancelled(&reader.read(&mut [0; 1]).unwrap_err()));
    writer.write_all_vectored(&mut [IoSlice::new(b"z")]).unwrap();
    let (mut other, _keep) = b.split();
    let mut got = [0; 1];
    other.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"z");
}

#[test]
fn a_probe_sees_what_nobody_has_read() {
    let (a, b, ..) = pair();
    let (mut reader, _keep) = a.split();
    let (_other, mut writer) = b.split();
    let probe = reader.probe();
    assert!(!probe.has_input());
    writer.write_all_vectored(&mut [IoSlice::new(b"z")]).unwrap();
    assert!(probe.has_input());
    reader.read_exact(&mut [0; 1]).unwrap();
    assert!(!probe.has_input());
}

#[test]
fn nowhere_takes_everything_and_says_nothing() {
    let cancel = Cancel::new().unwrap();
    let (mut reader, mut writer) = connect(&Address::Null, &cancel).unwrap().split();
    writer.write_all_vectored(&mut [IoSlice::new(&vec![1; 1 << 20])]).unwrap();
    assert!(!reader.probe().has_input());
    cancel.cancel();
    assert!(is_cancelled(&reader.read(&mut [0; 1]).unwrap_err()));
}

#[test]
fn a_socket_file_left_behind_is_replaced_and_a_live_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let address = Address::Unix(path.clone());
    let listener = Listener::bind(&address).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(Listener::bind(&address).unwrap_err().kind(), ErrorKind::AddrInUse);
    let waiting = Cancel::new().unwrap();
    waiting.cancel();
    assert!(is_cancelled(&listener.accept(&waiting).unwrap_err()));
    drop(listener);
    assert!(!path.exists());
    assert!(Listener::bind(&Address::Null).is_err());
}
