//! Where another host is.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::path::PathBuf;
use thiserror::Error;

/// Where to connect to, or to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `exec:COMMAND`: a command, run by `sh -c`; its stdin is written, its stdout read.
    Command(String),
    /// `unix:PATH`: a Unix stream socket.
    Unix(PathBuf),
    /// `tcp:ADDR:PORT`.
    Tcp(SocketAddr),
    /// `fd:R,W`: descriptors that this process has inherited, which may be the same.
    Fds {
        /// To read from.
        read: RawFd,
        /// To write to.
        write: RawFd,
    },
    /// `null:`: what is written vanishes, nothing is ever read (`-b` of `xl remus`).
    Null,
}

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressError {
    /// No known word before the first colon.
    #[error("{0:?} is no address: exec:COMMAND, unix:PATH, tcp:ADDR:PORT, fd:R,W or null:")]
    Unknown(String),
    /// No address and port.
    #[error("{0:?} is no IP address with a port")]
    Tcp(String),
    /// Bytes would cross a network unencrypted.
    #[error("{0} is not a loopback address: use ssh across networks")]
    NotLoopback(SocketAddr),
    /// No two numbers.
    #[error("{0:?} is no pair of descriptors: fd:R,W")]
    Fds(String),
    /// Nothing behind the colon.
    #[error("{0:?} names nothing")]
    Empty(String),
}

impl Address {
    /// Reads an address. `allow_private` takes private and link-local IP addresses too, which network namespaces have.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn parse(text: &str, allow_private: bool) -> Result<Self, AddressError> {
        let (kind, rest) = text.split_once(':').ok_or_else(|| AddressError::Unknown(text.into()))?;
        if rest.is_empty() && kind != "null" {
            return Err(AddressError::Empty(text.into()));
        }
        match kind {
            "exec" => Ok(Address::Command(rest.into())),
            "unix" => Ok(Address::Unix(rest.into())),
            "tcp" => {
                let address: SocketAddr = rest.parse().map_err(|_| AddressError::Tcp(rest.into()))?;
                let near = match address.ip() {
                    ip if ip.is_loopback() => true,
                    IpAddr::V4(ip) => allow_private && (ip.is_private() || ip.is_link_local()),
                    IpAddr::V6(ip) => allow_private && (ip.is_unique_local() || ip.is_unicast_link_local()),
                };
                if near { Ok(Address::Tcp(address)) } else { Err(AddressError::NotLoopback(address)) }
            }
            "fd" => {
                let fds = rest.split_once(',').and_then(|(r, w)| Some((r.parse().ok()?, w.parse().ok()?)));
                match fds {
                    Some((read @ 0.., write @ 0..)) => Ok(Address::Fds { read, write }),
                    _ => Err(AddressError::Fds(rest.into())),
                }
            }
            "null" if rest.is_empty() => Ok(Address::Null),
            _ => Err(AddressError::Unknown(text.into())),
        }
    }

    /// Whether a text means an address and not the name of a host.
    pub fn is_address(text: &str) -> bool {
        ["exec:", "unix:", "tcp:", "fd:", "null:"].iter().any(|kind| text.starts_with(kind))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Command(command) => write!(f, "exec:{command}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp(address) => write!(f, "tcp:{address}"),
            Address::Fds { read, write } => write!(f, "fd:{read},{write}"),
            Address::Null => f.write_str("null:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for text in ["exec:cat -u", "unix:/run/x", "tcp:127.0.0.1:7", "tcp:[::1]:7", "fd:3,4", "null:"] {
            assert_eq!(Address::parse(text, false).unwrap().to_string(), text);
            assert!(Address::is_address(text));
        }
        let private = Address::parse("tcp:10.1.2.3:4", true).unwrap();
        assert_eq!(private.to_string(), "tcp:10.1.2.3:4");
        assert!(!Address::is_address("host"));
    }

    #[test]
    fn bad_texts_are_refused_by_kind() {
        let refused = |text: &str, private| Address::parse(text, private).unwrap_err();
        assert_eq!(refused("host", false), AddressError::Unknown("host".into()));
        assert_eq!(refused("ftp:x", false), AddressError::Unknown("ftp:x".into()));
        assert_eq!(refused("null:x", false), AddressError::Unknown("null:x".into()));
        assert_eq!(refused("unix:", false), AddressError::Empty("unix:".into()));
        assert_eq!(refused("tcp:localhost", false), AddressError::Tcp("localhost".into()));
        assert!(matches!(refused("tcp:10.0.0.1:1", false), AddressError::NotLoopback(_)));
        assert!(matches!(refused("tcp:8.8.8.8:1", true), AddressError::NotLoopback(_)));
        for fds in ["3", "3,", "-1,4", "a,b", "3,4,5"] {
            assert_eq!(refused(&format!("fd:{fds}"), false), AddressError::Fds(fds.into()));
        }
    }
}
