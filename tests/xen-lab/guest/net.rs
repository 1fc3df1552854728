//! The guest's network card: Xen's front end from the initrd, an address, a datagram to the outside at each step, and conversations with
//! whoever connects (`../client.rs` does).

use std::ffi::{c_int, c_ulong, c_void};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::driver;
use crate::work::add;

unsafe extern "C" {
    fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int;
}

/// Requests of `linux/sockios.h`, and the flags UP and RUNNING.
const SET_ADDRESS: c_ulong = 0x8916;
const SET_NETMASK: c_ulong = 0x891c;
const SET_FLAGS: c_ulong = 0x8914;
const UP: u16 = 0x41;
/// The port that the outside listens at.
const PORT: u16 = 9000;
/// The port that the guest listens at.
const CONVERSATION: u16 = 9001;

/// The step that the guest is at.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// `struct ifreq`: a name, and 24 bytes that are a `sockaddr_in` or flags.
#[repr(C)]
struct Interface {
    name: [u8; 16],
    value: [u8; 24],
}

/// The way to the outside.
pub struct Outside {
    socket: UdpSocket,
    to: Ipv4Addr,
}

impl Outside {
    /// With the address that the guest is to have, and the outside's.
    pub fn open(own: Ipv4Addr, to: Ipv4Addr) -> std::io::Result<Outside> {
        driver::load("/xen-netfront.ko")?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_nonblocking(true)?;
        let set = |request, value: &[u8]| {
            let mut interface = Interface { name: *b"eth0\0\0\0\0\0\0\0\0\0\0\0\0", value: [0; 24] };
            interface.value[..value.len()].copy_from_slice(value);
            // SAFETY: the descriptor is open, and the structure is what these requests take.
            unsafe { ioctl(socket.as_raw_fd(), request, (&raw mut interface).cast()) == 0 }
        };
        // AF_INET, no port, the address.
        let address = |bytes: [u8; 4]| [&[2, 0, 0, 0][..], &bytes].concat();
        // The card comes when the back end is ready.
        while !set(SET_ADDRESS, &address(own.octets())) {
            std::thread::sleep(Duration::from_millis(50));
        }
        set(SET_NETMASK, &address([255, 255, 255, 0]));
        set(SET_FLAGS, &UP.to_le_bytes());
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, CONVERSATION))?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A conversation ends with its connection.
                std::thread::spawn(move || converse(stream));
            }
        });
        Ok(Outside { socket, to })
    }

    /// Tells the outside of a step. What does not get through is lost, as on any network.
    pub fn tell(&self, count: u64, line: &str) {
        COUNT.store(count, Ordering::Relaxed);
        let _ = self.socket.send_to(line.as_bytes(), (self.to, PORT));
    }
}

/// Answers each line with it, a sum over all that was heard since the conversation began, and the step that the guest is at. The sum is
/// in this guest's memory alone: a copy that has missed something cannot have it.
fn converse(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut output = stream.try_clone()?;
    let mut sum = 0;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        sum = line.bytes().fold(sum, |sum, byte| add(sum, byte.into()));
        let answer = format!("{line} {sum:016x} {}\n", COUNT.load(Ordering::Relaxed));
        output.write_all(answer.as_bytes())?;
    }
    Ok(())
}
