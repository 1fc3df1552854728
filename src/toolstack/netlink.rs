//! rtnetlink: the few requests that a network buffer needs, as bytes.
//!
//! Source: Linux's public headers `linux/netlink.h`, `rtnetlink.h`, `if_link.h`, `pkt_sched.h`, `pkt_cls.h`, `tc_act/tc_mirred.h`. The
//! crates for rtnetlink have no plug qdisc. All numbers are in the machine's byte order but for a protocol's.
#![forbid(unsafe_code)]

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with, sockopt};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// `IFF_UP`.
const UP: u32 = 1;
/// Flags of a request: REQUEST and ACK; CREATE and EXCL.
const REQUEST: u16 = 1 | 4;
const CREATE: u16 = 0x400 | 0x200;
/// ECHO, without which what a request has found goes to those who listen for news alone.
const ECHO: u16 = 8;
/// Types of messages.
mod message {
    pub const ERROR: u16 = 2;
    pub const NEW_LINK: u16 = 16;
    pub const DEL_LINK: u16 = 17;
    pub const NEW_QDISC: u16 = 36;
    pub const DEL_QDISC: u16 = 37;
    pub const GET_QDISC: u16 = 38;
    pub const NEW_FILTER: u16 = 44;
}
/// Attributes of a link, and of its kind.
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
/// Attributes of traffic control.
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_STATS: u16 = 3;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
/// Where qdiscs hang, and the handle of the ingress qdisc.
const ROOT: u32 = 0xffff_ffff;
const INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;
/// The handle of our plug qdisc, 1:0.
const PLUG_HANDLE: u32 = 0x0001_0000;
/// `ETH_P_ALL`: IPv6 too, which the stock script lets pass.
const ALL_PROTOCOLS: u16 = 0x0003;
/// `ETH_P_ARP`.
const ARP: u16 = 0x0806;
/// The lower one is asked first.
const PRIORITY: u32 = 10;
/// `TC_U32_TERMINAL`, `TC_ACT_STOLEN`, `TCA_EGRESS_REDIR`.
const TERMINAL: u8 = 1;
const STOLEN: u32 = 4;
const REDIRECT: u32 = 1;
/// Bytes of a header, and of the part behind it for links and for traffic control.
const HEADER: usize = 16;
const TCMSG: usize = 20;

/// What a plug qdisc is told (`struct tc_plug_qopt`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plug {
    /// `TCQ_PLUG_BUFFER`: a plug behind what is queued.
    Buffer,
    /// `TCQ_PLUG_RELEASE_ONE`: what is before the newest plug may leave.
    ReleaseOne,
    /// `TCQ_PLUG_RELEASE_INDEFINITE`: everything may leave, and what comes later.
    ReleaseIndefinite,
    /// `TCQ_PLUG_LIMIT`: how many bytes are held before packets are dropped.
    Limit(u32),
}

impl Plug {
    fn options(self) -> [u8; 8] {
        let (action, limit): (u32, u32) = match self {
            Plug::Buffer => (0, 0),
            Plug::ReleaseOne => (1, 0),
            Plug::ReleaseIndefinite => (2, 0),
            Plug::Limit(bytes) => (3, bytes),
        };
        words([action, limit])
    }
}

/// A qdisc at a device's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// What kind it is.
    pub kind: String,
    /// Its handle.
    pub handle: u32,
    /// Packets in it.
    pub queued: u32,
}

/// A socket.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens one.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<Self> {
        // NETLINK_ROUTE is protocol 0.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_secs(2)))?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Makes an intermediate functional block of this name, up.
    ///
    /// # Errors
    /// The kernel's: it has none, the name is taken, no privilege.
    pub fn add_ifb(&mut self, name: &str) -> io::Result<()> {
        let mut message = link(0, UP);
        attribute(&mut message, IFLA_IFNAME, &text(name));
        nested(&mut message, IFLA_LINKINFO, |info| attribute(info, IFLA_INFO_KIND, &text("ifb")));
        self.request(message::NEW_LINK, CREATE, &message)
    }

    /// Removes a device.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_link(&mut self, index: u32) -> io::Result<()> {
        self.request(message::DEL_LINK, 0, &link(index, 0))
    }

    /// Sets a device up or down.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_up(&mut self, index: u32, up: bool) -> io::Result<()> {
        self.request(message::NEW_LINK, 0, &link(index, if up { UP } else { 0 }))
    }

    /// Puts a plug qdisc at a device's root. Packets pass until it is told otherwise.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_plug(&mut self, index: u32, limit: u32) -> io::Result<()> {
        let mut message = traffic(index, PLUG_HANDLE, ROOT, 0);
        attribute(&mut message, TCA_KIND, &text("plug"));
        attribute(&mut message, TCA_OPTIONS, &Plug::Limit(limit).options());
        self.request(message::NEW_QDISC, CREATE, &message)
    }

    /// Tells the plug qdisc at a device's root, which has this handle.
    ///
    /// # Errors
    /// The kernel's.
    pub fn plug(&mut self, index: u32, handle: u32, order: Plug) -> io::Result<()> {
        let mut message = traffic(index, handle, ROOT, 0);
        attribute(&mut message, TCA_KIND, &text("plug"));
        attribute(&mut message, TCA_OPTIONS, &order.options());
        self.request(message::NEW_QDISC, 0, &message)
    }

    /// The qdisc at a device's root.
    ///
    /// # Errors
    /// The kernel's.
    pub fn root(&mut self, index: u32) -> io::Result<Root> {
        let message = traffic(index, 0, ROOT, 0);
        let mut found = None;
        self.exchange(message::GET_QDISC, ECHO, &message, |kind, body| {
            if kind == message::NEW_QDISC {
                found = qdisc(body);
            }
        })?;
        found.ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Removes the qdisc at a device's root.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_root(&mut self, index: u32) -> io::Result<()> {
        self.request(message::DEL_QDISC, 0, &traffic(index, 0, ROOT, 0))
    }

    /// Has everything that comes in at a device go out at another one, `to`; but for ARP, which passes.
    ///
    /// # Errors
    /// The kernel's. Nothing is left of it then.
    pub fn redirect(&mut self, index: u32, to: u32) -> io::Result<()> {
        let mut ingress = traffic(index, INGRESS_HANDLE, INGRESS, 0);
        attribute(&mut ingress, TCA_KIND, &text("ingress"));
        self.request(message::NEW_QDISC, CREATE, &ingress)?;
        for filter in [filter(index, PRIORITY - 1, ARP, None), filter(index, PRIORITY, ALL_PROTOCOLS, Some(to))] {
            self.request(message::NEW_FILTER, CREATE, &filter).inspect_err(|_| {
                // The first error is the one that says why.
                let _ = self.remove_redirect(index);
            })?;
        }
        Ok(())
    }

    /// Ends that.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_redirect(&mut self, index: u32) -> io::Result<()> {
        self.request(message::DEL_QDISC, 0, &traffic(index, INGRESS_HANDLE, INGRESS, 0))
    }

    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.exchange(kind, flags, body, |_, _| {})
    }

    /// Sends a request, and shows the messages that come before its acknowledgement.
    fn exchange(&mut self, kind: u16, flags: u16, body: &[u8], mut show: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER + body.len()).map_err(|_| ErrorKind::InvalidInput)?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend([kind.to_ne_bytes(), (REQUEST | flags).to_ne_bytes()].as_flattened());
        message.extend([self.sequence.to_ne_bytes(), [0; 4]].as_flattened());
        message.extend_from_slice(body);
        rustix::io::retry_on_intr(|| send(&self.socket, &message, SendFlags::empty()))?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let (got, _) = match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => continue,
                got => got?,
            };
            let mut rest = buffer.get(..got).unwrap_or_default();
            while let Some((kind, sequence, body, behind)) = split(rest) {
                rest = behind;
                if sequence != self.sequence {
                    continue;
                }
                if kind == message::ERROR {
                    return match body.first_chunk().map(|errno| i32::from_ne_bytes(*errno)) {
                        Some(0) => Ok(()),
                        Some(errno) => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
                        None => Err(ErrorKind::InvalidData.into()),
                    };
                }
                show(kind, body);
            }
        }
    }
}

/// The first of the messages: type, sequence number, body, and what is behind it.
fn split(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (kind, rest) = rest.split_first_chunk::<2>()?;
    let (sequence, _) = rest.get(2..)?.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_ne_bytes(*length)).ok()?;
    let body = bytes.get(HEADER..length)?;
    let behind = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((u16::from_ne_bytes(*kind), u32::from_ne_bytes(*sequence), body, behind))
}

/// What is said of a qdisc: `struct tcmsg`, then attributes.
fn qdisc(body: &[u8]) -> Option<Root> {
    let handle = u32::from_ne_bytes(*body.get(8..)?.first_chunk()?);
    let mut root = Root { kind: String::new(), handle, queued: 0 };
    let mut rest = body.get(TCMSG..)?;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_ne_bytes(*length));
        let kind = u16::from_ne_bytes(*after.first_chunk()?);
        let value = rest.get(4..length)?;
        match kind {
            TCA_KIND => root.kind = String::from_utf8_lossy(value.split(|&byte| byte == 0).next()?).into_owned(),
            // `struct tc_stats`: the queue's length is behind u64 bytes and five u32.
            TCA_STATS => root.queued = u32::from_ne_bytes(*value.get(28..)?.first_chunk()?),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(root)
}

/// `struct ifinfomsg`; of the flags, UP counts.
fn link(index: u32, flags: u32) -> Vec<u8> {
    words::<4, 16>([0, index, flags, UP]).to_vec()
}

/// `struct tcmsg`.
fn traffic(index: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    words::<5, 20>([0, index, handle, parent, info]).to_vec()
}

/// A u32 filter that matches all of one protocol's packets that come in at a device: they go on as they would, or to another device.
fn filter(index: u32, priority: u32, protocol: u16, to: Option<u32>) -> Vec<u8> {
    let protocol = u32::from(protocol.to_be());
    let mut message = traffic(index, 0, INGRESS_HANDLE, priority << 16 | protocol);
    attribute(&mut message, TCA_KIND, &text("u32"));
    nested(&mut message, TCA_OPTIONS, |options| {
        // `struct tc_u32_sel` with one key, which is all zeros: mask and value of no bits.
        let mut selector = [0; 32];
        let [flags, _, keys, ..] = &mut selector;
        (*flags, *keys) = (TERMINAL, 1);
        attribute(options, TCA_U32_SEL, &selector);
        let Some(to) = to else { return };
        nested(options, TCA_U32_ACT, |actions| {
            nested(actions, 1, |action| {
                attribute(action, TCA_ACT_KIND, &text("mirred"));
                nested(action, TCA_ACT_OPTIONS, |options| {
                    // `struct tc_mirred`: index, capab, action, refcnt, bindcnt, eaction, ifindex.
                    let parameters: [u8; 28] = words([0, 0, STOLEN, 0, 0, REDIRECT, to]);
                    attribute(options, TCA_MIRRED_PARMS, &parameters);
                });
            });
        });
    });
    message
}

fn words<const WORDS: usize, const BYTES: usize>(words: [u32; WORDS]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// Appends an attribute: length, type, value, and zeros up to a multiple of four.
fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // No value here is longer than a few dozen bytes.
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

fn nested(message: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    attribute(message, kind, &inner);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_to_a_plug_are_the_headers_numbers() {
        let bytes = |action: u32, limit: u32| [action.to_ne_bytes(), limit.to_ne_bytes()].concat();
        assert_eq!(Plug::Buffer.options().to_vec(), bytes(0, 0));
        assert_eq!(Plug::ReleaseOne.options().to_vec(), bytes(1, 0));
        assert_eq!(Plug::ReleaseIndefinite.options().to_vec(), bytes(2, 0));
        assert_eq!(Plug::Limit(9).options().to_vec(), bytes(3, 9));
    }

    #[test]
    fn attributes_are_padded_and_nest() {
        let mut message = Vec::new();
        nested(&mut message, 7, |inner| attribute(inner, 1, b"abc\0d"));
        assert_eq!(message, [[16, 0, 7, 0], [9, 0, 1, 0], *b"abc\0", [b'd', 0, 0, 0]].concat());
        let (passing, redirecting) = (filter(3, 9, ARP, None), filter(3, 10, ALL_PROTOCOLS, Some(4)));
        assert_eq!((passing.len() % 4, redirecting.len() % 4), (0, 0));
        // `tcm_info`: the priority, and the protocol as it is on the wire.
        assert_eq!(passing[16..20], (9 << 16 | u32::from(0x0806_u16.to_be())).to_ne_bytes());
        assert!(passing.len() < redirecting.len());
    }

    #[test]
    fn a_qdisc_is_read_and_torn_ones_are_none() {
        let mut body = traffic(5, 0x1_0000, ROOT, 1);
        attribute(&mut body, TCA_KIND, &text("plug"));
        let mut stats = [0; 36];
        stats[28] = 17;
        attribute(&mut body, TCA_STATS, &stats);
        let expected = Root { kind: "plug".into(), handle: 0x1_0000, queued: 17 };
        assert_eq!(qdisc(&body), Some(expected));
        assert_eq!(qdisc(&body[..body.len() - 9]), None);
        assert_eq!(qdisc(&body[..10]), None);
    }

    #[test]
    fn messages_are_split_and_torn_ones_end_it() {
        let mut bytes = Vec::new();
        bytes.extend(18u32.to_ne_bytes());
        bytes.extend([36u16.to_ne_bytes(), [0; 2]].as_flattened());
        bytes.extend([7u32.to_ne_bytes(), [0; 4]].as_flattened());
        bytes.extend([1, 2, 0, 0, 99]);
        let (kind, sequence, body, behind) = split(&bytes).unwrap();
        assert_eq!((kind, sequence, body, behind), (36, 7, &[1, 2][..], &[99][..]));
        assert!(split(&bytes[..17]).is_none() && split(&[]).is_none());
    }

    #[test]
    fn the_kernel_answers_what_cannot_be() {
        let mut netlink = Netlink::open().unwrap();
        // No device has this number: whatever this kernel has of qdiscs, it says so, or that we may not.
        let error = netlink.set_up(u32::MAX >> 1, true).unwrap_err();
        let errno = rustix::io::Errno::from_io_error(&error).unwrap();
        assert!([rustix::io::Errno::NODEV, rustix::io::Errno::PERM].contains(&errno), "{error}");
        assert!(netlink.root(u32::MAX >> 1).is_err());
    }
}
