use super::*;
use crate::transport::Listener;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, mkfifoat, openat};
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
    let bytes: Vec<u8> = (0..1u32 << 20).map(|n| (n % 251) as u8).collect();
    let side = |link: Link| {
        let bytes = bytes.clone();
        thread::spawn(move || {
            let (mut reader, mut writer) = link.split();
            let (sent, expected) = (bytes.clone(), bytes);
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
fn bytes_pass_both_ways_over_every_kind_of_socket() {
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

#[test]
fn what_is_no_socket_left_behind_is_refused_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let refused = |name: &str, what: &str| {
        let error = Listener::bind(&Address::Unix(path(name))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "{name}");
        let text = error.to_string();
        assert!(text.starts_with(&format!("unix:{}: {what} ", path(name).display())), "{text}");
        assert!(text.contains("use another path"), "{text}");
    };
    std::fs::write(path("file"), "precious").unwrap();
    refused("file", "an ordinary file");
    assert_eq!(std::fs::read(path("file")).unwrap(), b"precious");
    std::fs::create_dir(path("folder")).unwrap();
    refused("folder", "a directory");
    assert!(path("folder").is_dir());
    rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    refused("pipe", "a pipe");
    assert!(path("pipe").exists());
    // A link, also one to a socket that could be replaced, is somebody's arrangement.
    drop(std::os::unix::net::UnixListener::bind(path("stale")).unwrap());
    std::os::unix::fs::symlink(path("stale"), path("link")).unwrap();
    refused("link", "a symbolic link");
    assert!(path("link").is_symlink() && path("stale").exists());
    // One that takes no streams refuses a connection in another way.
    let _datagrams = std::os::unix::net::UnixDatagram::bind(path("datagrams")).unwrap();
    refused("datagrams", "a socket that another process has open");
    assert!(path("datagrams").exists());
    let device = Listener::bind(&Address::Unix("/dev/null".into())).unwrap_err().to_string();
    assert!(device.starts_with("unix:/dev/null: a device "), "{device}");
}

#[test]
fn an_address_that_does_not_answer_is_named() {
    let cancel = Cancel::new().unwrap();
    let error = connect(&Address::Unix("/no/such/socket".into()), &cancel).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().starts_with("unix:/no/such/socket: No such file"), "{error}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = connect(&Address::Tcp(free), &cancel).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(error.to_string().starts_with(&format!("tcp:{free}: ")), "{error}");
}

#[test]
fn a_command_that_says_nothing_ends_with_all_that_it_has_started() {
    let folder = tempfile::tempdir().unwrap();
    // By name: a descriptor that is inherited would also be in what other tests start at this moment.
    let fifo = folder.path().join("alive");
    mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
    let alive = openat(CWD, &fifo, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let comes = |what: &str| {
        let wait = Timespec { tv_sec: 30, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(&alive, PollFlags::IN)], Some(&wait)), Ok(1), "{what}");
    };
    // Neither of the two ends by itself, and the shell's child does not listen to SIGTERM.
    let inner = format!("trap '' TERM; exec 3>'{}'; echo there >&3; exec sleep 1000", fifo.display());
    let command = format!("({inner}) <&- >&- & exec sleep 1000");
    let cancel = Cancel::new().unwrap();
    let link = connect(&Address::Command(command), &cancel).unwrap();
    comes("the command's child");
    let mut there = [0; 8];
    assert_eq!(rustix::io::read(&alive, &mut there), Ok(6));
    assert_eq!(&there[..6], b"there\n");
    drop(link);
    end_commands();
    comes("the end of the command's child");
    assert_eq!(rustix::io::read(&alive, &mut there), Ok(0), "nobody has the other end any more");
}
