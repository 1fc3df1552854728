//! Over real sockets.

use super::server::{Handler, MAX_CONNECTIONS};
use super::status::{Figures, Role};
use super::*;
use crate::remus::wire::Capabilities;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

struct Site {
    server: Option<Server>,
    path: PathBuf,
    requests: Receiver<Request>,
    _folder: TempDir,
}

/// A server whose statuses are numbered in `checkpoint`, which refuses to switch over, and tells what it is asked.
fn site() -> Site {
    let (tell, requests) = channel();
    let count = AtomicU64::new(0);
    let tell: Mutex<Sender<Request>> = Mutex::new(tell);
    serve(requests, move |request| {
        let reply = match &request {
            Request::Status => Reply::status(Status {
                domain: "web".into(),
                role: Role::Secondary,
                checkpoint: count.fetch_add(1, Ordering::Relaxed) + 1,
                ..Status::default()
            }),
            Request::SwitchOver => Reply::error("not now"),
            Request::Capabilities => Reply::capabilities(Capabilities::OFFERED, Capabilities::BARE),
            _ => Reply::done(),
        };
        let _ = tell.lock().unwrap().send(request);
        reply
    })
}

fn serve(requests: Receiver<Request>, handler: impl Fn(Request) -> Reply + Send + Sync + 'static) -> Site {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("web.sock");
    let handler: Handler = Arc::new(handler);
    Site { server: Some(Server::bind(&path, handler).unwrap()), path, requests, _folder: folder }
}

impl Site {
    fn client(&self) -> Client {
        Client::connect(&self.path).unwrap()
    }

    /// A connection without a client's manners.
    fn raw(&self) -> BufReader<UnixStream> {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        BufReader::new(stream)
    }

    fn end(&mut self) {
        let begun = Instant::now();
        drop(self.server.take());
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
}

fn line(from: &mut BufReader<UnixStream>) -> Reply {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

#[test]
fn every_command_reaches_the_handler_and_its_reply_the_client() {
    let site = site();
    let mut client = site.client();
    let protect = Request::Protect { host: "b".into(), rsh: None, remote: Some("xl migrate-receive -r".into()) };
    for request in [
        Request::Status,
        Request::SetInterval { ms: 50 },
        Request::SwitchOver,
        protect,
        Request::Unprotect { force: true },
        Request::FailOver { force: false, generation: None },
        Request::Capabilities,
    ] {
        let reply = client.request(&request).unwrap();
        assert_eq!(site.requests.try_recv().unwrap(), request);
        assert_eq!(reply.ok, request != Request::SwitchOver);
        assert_eq!(reply.error.as_deref(), (request == Request::SwitchOver).then_some("not now"));
        assert_eq!(reply.status.map(|s| s.domain), (request == Request::Status).then(|| "web".into()));
        assert_eq!(reply.capabilities.map(|c| c.len()), (request == Request::Capabilities).then_some(7));
    }
}

#[test]
fn what_is_no_request_is_refused_and_the_connection_goes_on() {
    let site = site();
    let mut raw = site.raw();
    for bad in ["nonsense", "", "{\"command\":\"reboot\"}", "{\"command\":\"status\",\"x\":1}", "\u{0}\u{ff}"] {
        raw.get_mut().write_all(format!("{bad}\n").as_bytes()).unwrap();
        let reply = line(&mut raw);
        assert!(!reply.ok && reply.error.is_some(), "{bad}: {reply:?}");
    }
    // Two in one piece, then one in two pieces, the end of which is the connection's.
    raw.get_mut().write_all(b"{\"command\":\"status\"}\n{\"command\":\"status\"}\n{\"comm").unwrap();
    assert_eq!(line(&mut raw).status.unwrap().checkpoint, 1);
    assert_eq!(line(&mut raw).status.unwrap().checkpoint, 2);
    raw.get_mut().write_all(b"and\":\"status\"}").unwrap();
    raw.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(line(&mut raw).status.unwrap().checkpoint, 3);
    assert_eq!(raw.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_line_may_have_64_kib_and_no_more() {
    let site = site();
    let mut raw = site.raw();
    let mut request = br#"{"command":"status"}"#.to_vec();
    request.resize(MAX_REQUEST, b' ');
    request.push(b'\n');
    raw.get_mut().write_all(&request).unwrap();
    assert!(line(&mut raw).ok);
    request.insert(20, b' ');
    raw.get_mut().write_all(&request).unwrap();
    let reply = line(&mut raw);
    assert!(reply.error.unwrap().contains("65536 bytes"));
    // Closed; with unread bytes the system calls it a reset.
    assert!(matches!(raw.read(&mut [0]), Ok(0) | Err(_)));
    assert_eq!(site.requests.try_iter().count(), 1);
    // A line without end is not waited for.
    let mut raw = site.raw();
    raw.get_mut().write_all(&request[..=MAX_REQUEST]).unwrap();
    assert!(line(&mut raw).error.unwrap().contains("65536 bytes"));
}

#[test]
fn the_socket_is_the_owners_and_goes_with_the_server() {
    let mut site = site();
    assert_eq!(fs::symlink_metadata(&site.path).unwrap().mode() & 0o777, 0o600);
    let second = Server::bind(&site.path, Arc::new(|_| Reply::done()));
    assert_eq!(second.unwrap_err().kind(), ErrorKind::AddrInUse);
    assert!(site.client().request(&Request::Status).unwrap().ok);
    site.end();
    assert!(!site.path.exists());
    assert_eq!(Client::connect(&site.path).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn the_seventeenth_connection_is_told_so() {
    let mut site = site();
    let mut clients: Vec<Client> = (0..MAX_CONNECTIONS).map(|_| site.client()).collect();
    for client in &mut clients {
        assert!(client.request(&Request::Status).unwrap().ok);
    }
    // Whether its request is written before the server has closed or not, it learns why.
    let reply = site.client().request(&Request::Status).unwrap();
    assert!(reply.error.unwrap().starts_with("16 connections"));
    assert_eq!(site.requests.try_iter().count(), MAX_CONNECTIONS);
    clients.pop();
    let deadline = Instant::now() + Duration::from_secs(20);
    // The server learns of the end in its own time.
    while !site.client().request(&Request::Status).is_ok_and(|reply| reply.ok) {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    site.end();
}

#[test]
fn watching_goes_on_until_either_end_ends() {
    let mut site = site();
    let mut watch = site.client().watch(Some(10)).unwrap();
    let told: Vec<u64> = (&mut watch).take(4).map(|status| status.unwrap().checkpoint).collect();
    assert_eq!(told, [1, 2, 3, 4]);
    // An interval of a minute is not waited for: the last status comes as the server ends.
    let mut slow = site.client().watch(Some(60_000)).unwrap();
    assert!(slow.next().unwrap().is_ok());
    let waiting = std::thread::spawn(move || slow.map(Result::unwrap).count());
    site.end();
    assert_eq!(waiting.join().unwrap(), 1);
    assert!(watch.map(Result::unwrap).count() >= 1);
}

#[test]
fn a_watcher_that_leaves_is_noticed() {
    // The handler belongs to the threads: when no connection is left, just the acceptor and this test have it.
    let handler: Handler = Arc::new(|_| Reply::status(Status::default()));
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("web.sock");
    let server = Server::bind(&path, handler.clone()).unwrap();
    let mut watch = Client::connect(&path).unwrap().watch(Some(60_000)).unwrap();
    watch.next().unwrap().unwrap();
    assert_eq!(Arc::strong_count(&handler), 3);
    drop(watch);
    let deadline = Instant::now() + Duration::from_secs(20);
    while Arc::strong_count(&handler) > 2 {
        assert!(Instant::now() < deadline, "the watch goes on without a client");
        std::thread::yield_now();
    }
    drop(server);
    assert_eq!(Arc::strong_count(&handler), 1);
}

#[test]
fn a_client_that_never_reads_holds_nothing_up() {
    let (tell, requests) = channel();
    let tell = Mutex::new(tell);
    let mut site = serve(requests, move |request| {
        let _ = tell.lock().unwrap().send(request);
        Reply::status(Status { witness: "x".repeat(300_000), ..Status::default() })
    });
    let mut raw = site.raw();
    for _ in 0..8 {
        raw.get_mut().write_all(b"{\"command\":\"status\"}\n").unwrap();
    }
    // The first reply is more than a socket holds: behind it, the thread is stuck.
    site.requests.recv().unwrap();
    let mut watching = site.raw();
    watching.get_mut().write_all(b"{\"command\":\"watch\",\"interval_ms\":10}\n").unwrap();
    site.requests.recv().unwrap();
    site.end();
    assert!(site.requests.try_iter().count() < 8);
    let mut bytes = Vec::new();
    let _ = raw.read_to_end(&mut bytes);
    assert!(bytes.len() < 8 * 300_000, "{}", bytes.len());
}

#[test]
fn a_handler_at_work_is_not_waited_for_for_ever() {
    let (begun, begins) = channel();
    let (go_on, waits) = channel::<()>();
    let (begun, waits) = (Mutex::new(begun), Mutex::new(waits));
    let mut site = serve(channel().1, move |_| {
        let _ = begun.lock().unwrap().send(());
        let _ = waits.lock().unwrap().recv();
        Reply::done()
    });
    let mut raw = site.raw();
    raw.get_mut().write_all(b"{\"command\":\"status\"}\n").unwrap();
    begins.recv().unwrap();
    let server = site.server.take();
    drop(server);
    assert!(!site.path.exists());
    drop(go_on);
}

#[test]
fn a_server_that_does_not_answer_is_told_from_one_that_has_ended() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("web.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut client = Client::connect(&path).unwrap();
    client.set_timeout(Duration::from_millis(10)).unwrap();
    assert_eq!(client.request(&Request::Status).unwrap_err().kind(), ErrorKind::TimedOut);
    let mut client = Client::connect(&path).unwrap();
    drop(listener);
    assert_eq!(client.request(&Request::Status).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(Client::connect(&path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_reply_without_end_is_given_up() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("web.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut client = Client::connect(&path).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let babble = std::thread::spawn(move || while stream.write_all(&[b' '; 65536]).is_ok() {});
    assert_eq!(client.request(&Request::Status).unwrap_err().kind(), ErrorKind::InvalidData);
    drop(client);
    babble.join().unwrap();
}

#[test]
fn figures_travel_whole() {
    let site = serve(channel().1, |_| {
        let statistics = Figures { bytes: u64::MAX, ..Figures::default() };
        Reply::status(Status { statistics, ..Status::default() })
    });
    let status = site.client().request(&Request::Status).unwrap().status.unwrap();
    assert_eq!(status.statistics.bytes, u64::MAX);
}

#[test]
fn the_default_path_follows_the_surroundings() {
    let some = |text: &str| Some(OsString::from(text));
    let path = |run, runtime, uid| path_in("web", run, runtime, uid).unwrap();
    assert_eq!(path(some("/r"), some("/x"), 0), Path::new("/r/web.sock"));
    assert_eq!(path(None, some("/x"), 0), Path::new("/run/xen-replicate/web.sock"));
    assert_eq!(path(some(""), some("/x"), 7), Path::new("/x/xen-replicate/web.sock"));
    assert_eq!(path(None, some("x"), 7), Path::new("/tmp/xen-replicate-7/web.sock"));
    assert_eq!(path(None, None, 7), Path::new("/tmp/xen-replicate-7/web.sock"));
    for bad in ["", ".", "..", ".hidden", "a/b", "/", "a\0b"] {
        assert_eq!(default_path(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad:?}");
    }
}
