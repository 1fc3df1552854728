//! How to reach the other side: HOST, in its forms.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;
use std::path::PathBuf;

/// What the secondary is started with on its host.
pub const REMOTE_COMMAND: &str = "xen-replicate receive";
/// What reaches the host.
pub const SSH_COMMAND: &str = "ssh";

/// A way to the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP socket. What goes over it is neither encrypted nor authenticated.
    Tcp(SocketAddr),
    /// Two descriptors that this process has inherited; they may be the same.
    Fds {
        /// What the peer sends.
        read: RawFd,
        /// What the peer is sent.
        write: RawFd,
    },
    /// A command for `sh -c`, its standard input and output.
    Command(String),
}

/// How a HOST is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach<'a> {
    /// The command that reaches a host, as in xl's `-s`: a piece of shell. Empty: HOST itself is the command.
    pub ssh: &'a str,
    /// What is run on a host: a piece of shell, too.
    pub remote: &'a str,
    /// Whether `-e` is added to it.
    pub foreground: bool,
    /// Whether TCP may leave this machine.
    pub private: bool,
}

impl Default for Reach<'_> {
    fn default() -> Self {
        Reach { ssh: SSH_COMMAND, remote: REMOTE_COMMAND, foreground: false, private: false }
    }
}

impl Endpoint {
    /// `unix:PATH`, `tcp:ADDR:PORT`, `fd:R,W`, `exec:COMMAND`, or a host's name.
    ///
    /// # Errors
    /// What is wrong with it, for the operator.
    pub fn parse(host: &str, reach: &Reach<'_>) -> Result<Endpoint, String> {
        if reach.ssh.is_empty() {
            // As in xl, whatever it begins with.
            return command(host);
        }
        if let Some(endpoint) = socket(host, reach.private) {
            return endpoint;
        }
        if let Some(fds) = host.strip_prefix("fd:") {
            return parse_fds(fds);
        }
        if let Some(text) = host.strip_prefix("exec:") {
            return command(text);
        }
        // A host's name that is none is an option of ssh's at best.
        if host.is_empty() || host.starts_with('-') || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(format!("{host:?} is not a host's name"));
        }
        let foreground = if reach.foreground { " -e" } else { "" };
        Ok(Endpoint::Command(format!("exec {} {} {}{foreground}", reach.ssh, quoted(host), reach.remote)))
    }

    /// `unix:PATH` or `tcp:ADDR:PORT`, to listen at.
    ///
    /// # Errors
    /// What is wrong with it, for the operator.
    pub fn parse_listen(text: &str, private: bool) -> Result<Endpoint, String> {
        socket(text, private).unwrap_or_else(|| Err(format!("{text:?} is neither unix:PATH nor tcp:ADDR:PORT")))
    }
}

/// `R,W`.
///
/// # Errors
/// What is wrong with it, for the operator.
pub fn parse_fds(text: &str) -> Result<Endpoint, String> {
    let fd = |text: &str| text.parse::<RawFd>().ok().filter(|fd| *fd >= 0);
    let both = text.split_once(',').and_then(|(read, write)| Some((fd(read)?, fd(write)?)));
    let (read, write) = both.ok_or_else(|| format!("{text:?} is not a pair of descriptors R,W"))?;
    Ok(Endpoint::Fds { read, write })
}

fn socket(text: &str, private: bool) -> Option<Result<Endpoint, String>> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Some(match path {
            "" => Err("unix: needs a path".into()),
            path => Ok(Endpoint::Unix(path.into())),
        });
    }
    text.strip_prefix("tcp:").map(|address| tcp(address, private))
}

fn tcp(text: &str, private: bool) -> Result<Endpoint, String> {
    let address: SocketAddr = text.parse().map_err(|_| format!("{text:?} is not ADDR:PORT, with a numeric address"))?;
    if address.ip().is_loopback() || (private && is_private(address.ip())) {
        return Ok(Endpoint::Tcp(address));
    }
    Err(format!(
        "tcp:{address} is not on this machine: TCP is neither encrypted nor authenticated, use SSHCOMMAND to reach a host"
    ))
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local() || is_test_network(ip),
        IpAddr::V6(ip) => is_private_v6(ip),
    }
}

/// 198.18.0.0/15 (RFC 2544) and the networks for documentation, which test beds use.
fn is_test_network(ip: Ipv4Addr) -> bool {
    ip.is_documentation() || matches!(ip.octets(), [198, 18 | 19, ..])
}

/// fc00::/7 and fe80::/10.
fn is_private_v6(ip: Ipv6Addr) -> bool {
    ip.is_unique_local() || ip.is_unicast_link_local()
}

fn command(text: &str) -> Result<Endpoint, String> {
    if text.trim().is_empty() || text.contains('\0') {
        return Err(format!("{text:?} is not a command"));
    }
    Ok(Endpoint::Command(text.into()))
}

/// For the shell, as one word.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:@%+,/=[]".contains(c);
    if word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(host: &str) -> Result<Endpoint, String> {
        Endpoint::parse(host, &Reach::default())
    }

    #[test]
    fn each_form_is_recognised() {
        assert_eq!(parse("unix:/run/x"), Ok(Endpoint::Unix("/run/x".into())));
        assert_eq!(parse("tcp:127.0.0.1:7000"), Ok(Endpoint::Tcp(([127, 0, 0, 1], 7000).into())));
        assert!(matches!(parse("tcp:[::1]:7000"), Ok(Endpoint::Tcp(a)) if a.is_ipv6()));
        assert_eq!(parse("fd:3,4"), Ok(Endpoint::Fds { read: 3, write: 4 }));
        assert_eq!(parse("exec:nc x 1"), Ok(Endpoint::Command("nc x 1".into())));
        assert_eq!(parse("root@b"), Ok(Endpoint::Command("exec ssh root@b xen-replicate receive".into())));
    }

    #[test]
    fn a_host_is_reached_as_xl_does() {
        let reach = Reach { ssh: "ssh -p 22", remote: "xl migrate-receive -r", foreground: true, private: false };
        let expected = "exec ssh -p 22 b xl migrate-receive -r -e";
        assert_eq!(Endpoint::parse("b", &reach), Ok(Endpoint::Command(expected.into())));
        let itself = Reach { ssh: "", ..reach };
        for host in ["nc b 7000", "tcp:127.0.0.1:1", "unix:/x"] {
            assert_eq!(Endpoint::parse(host, &itself), Ok(Endpoint::Command(host.into())));
        }
        let expected = r"exec ssh 'a'\''$b' xen-replicate receive";
        assert_eq!(parse("a'$b"), Ok(Endpoint::Command(expected.into())));
    }

    #[test]
    fn what_is_none_of_them_is_refused() {
        for bad in [
            "",
            "-oProxyCommand=x",
            "a b",
            "a\nb",
            "unix:",
            "tcp:",
            "tcp:b:1",
            "tcp:127.0.0.1",
            "tcp:127.0.0.1:70000",
            "fd:",
            "fd:3",
            "fd:-1,3",
            "fd:3,4,5",
            "fd:a,b",
            "exec:",
            "exec: ",
            "exec:a\0",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(Endpoint::parse("", &Reach { ssh: "", ..Reach::default() }).is_err());
        assert!(Endpoint::parse_listen("fd:3,4", false).is_err());
        assert!(Endpoint::parse_listen("b", false).is_err());
    }

    #[test]
    fn tcp_stays_on_this_machine() {
        for (text, here, private) in [
            ("127.9.9.9:1", true, true),
            ("10.0.0.1:1", false, true),
            ("192.0.2.1:1", false, true),
            ("198.19.0.1:1", false, true),
            ("[fd00::1]:1", false, true),
            ("0.0.0.0:1", false, false),
            ("[::]:1", false, false),
            ("8.8.8.8:1", false, false),
            ("198.20.0.1:1", false, false),
        ] {
            assert_eq!(tcp(text, false).is_ok(), here, "{text}");
            assert_eq!(tcp(text, true).is_ok(), private, "{text}");
            let reach = Reach { private: true, ..Reach::default() };
            assert_eq!(Endpoint::parse(&format!("tcp:{text}"), &reach).is_ok(), private, "{text}");
            assert_eq!(Endpoint::parse_listen(&format!("tcp:{text}"), true).is_ok(), private, "{text}");
        }
        let error = parse("tcp:10.0.0.1:1").unwrap_err();
        assert!(error.contains("10.0.0.1:1"), "{error}");
    }
}
