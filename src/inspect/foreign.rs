//! What bytes are that no stream has: another program's image, text of a shell or a tool, zeros that a crash has left.
//!
//! Source of the names: `XendCheckpoint.py` of Xen 4.4 (xend), `tools/xl/xl.h` (xl), `ocaml/xenopsd/lib/suspend_image.ml` in
//! xen-api (XAPI), `src/qemu/qemu_saveimage.h` in libvirt, `docs/misc/dump-core-format.txt` in Xen (dump-core).

use crate::stream::error::{FrameError, Problem, StreamError};
use crate::stream::framer::Framer;
use serde::Serialize;
use std::fmt;
use std::io::{self, Read};

/// Bytes that are looked at, from where the stream could not be followed.
pub(super) const WINDOW: usize = 64 << 10;
/// The least text that is taken for text.
const LEAST_TEXT: usize = 4;
/// Most characters of it that are quoted.
const QUOTED: usize = 200;
/// Bytes of zeros that no end of a stream has: END of libxc and of libxl are 8 each.
const MORE_THAN_ENDS: u64 = 17;
/// Bytes that are looked behind text for where the stream goes on: what is no text may stand between.
const SLACK: usize = 64;

/// What was found where a stream should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Foreign {
    /// Another image than one of migration v2.
    Image {
        /// What it is.
        name: &'static str,
        /// Who reads or converts it.
        advice: &'static str,
    },
    /// Text.
    Text {
        /// Where it starts.
        offset: u64,
        /// Its bytes.
        bytes: u64,
        /// It, or its beginning.
        text: String,
        /// Where the stream goes on, if that was found.
        goes_on: Option<u64>,
    },
    /// Zeros.
    Zeros {
        /// Where they start, as far as is known.
        offset: u64,
        /// How many.
        bytes: u64,
        /// Whether nothing follows them.
        to_end: bool,
    },
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Foreign::Image { name, advice } => write!(f, "this is {name}: {advice}"),
            Foreign::Text { offset, bytes, text, goes_on } => {
                write!(f, "{bytes} bytes of text at offset {offset}: {text:?}; ")?;
                match goes_on {
                    Some(at) => write!(f, "the stream goes on at offset {at}"),
                    None => f.write_str("where the stream goes on was not found"),
                }
            }
            Foreign::Zeros { offset, bytes, to_end: true } => write!(
                f,
                "{bytes} bytes of zeros from offset {offset} to the end: a crash leaves them of a file that was not \
                 written out, and what stood there is lost; or a block device that is longer than the stream"
            ),
            Foreign::Zeros { offset, bytes, to_end: false } => write!(
                f,
                "{bytes} bytes of zeros from offset {offset}, then something else: a crash leaves such holes in a file \
                 that was not written out, and what stood there is lost"
            ),
        }
    }
}

/// The first bytes of images that are not of migration v2.
const IMAGES: &[(&[u8], &str, &str)] = &[
    (
        b"LinuxGuestRecord",
        "an image of xend, of Xen 4.4 or earlier",
        "xend restores it, and xen-replicate convert --from legacy makes a migration-v2 stream of what follows its configuration",
    ),
    (
        b"XenSavedDomain\n",
        "a legacy suspend image of XAPI, of Xen 4.5 or earlier",
        "xenopsd reads it, by way of convert-legacy-stream",
    ),
    (
        b"LibvirtQemudSave",
        "a save image of libvirt's QEMU driver",
        "it is of a QEMU or KVM guest and has no Xen stream",
    ),
    (b"LibvirtQemudPart", "an unfinished save image of libvirt's QEMU driver", "it is of a QEMU or KVM guest"),
    (b"\x7fELF", "an ELF file, as xl dump-core writes", "crash and gdb read it; no toolstack restores a guest from it"),
    (
        b"QemuDeviceModelRecord\n",
        "a legacy record of a device model",
        "it is the tail of an image of Xen 4.5 or earlier",
    ),
    (b"DeviceModelRecord0002", "a legacy record of a device model", "it is the tail of an image of Xen 4.5 or earlier"),
    (b"QFI\xfb", "a qcow2 disk image", "it holds a disk, not a guest's memory"),
];

/// Looks at what stands where `error` has ended a walk. `before` is what is there of the stream so far, and may be nothing;
/// `ahead` begins at the walker's offset, `more` is what follows it.
pub(super) fn look(
    framer: &Framer,
    error: &StreamError,
    before: &[u8],
    ahead: &[u8],
    more: &mut dyn Read,
) -> io::Result<Option<Foreign>> {
    match &error.problem {
        Problem::Frame(FrameError::XlLegacy(_)) => {
            return Ok(Some(Foreign::Image {
                name: "an image of xl of Xen 4.5 or earlier, with a legacy stream",
                advice: "xl restore of Xen 4.6 and later converts it, and so does xen-replicate convert --from legacy",
            }));
        }
        Problem::Frame(FrameError::Truncated { .. }) => return Ok(None),
        _ => {}
    }
    if framer.items() == 0
        && let Some((_, name, advice)) = IMAGES.iter().find(|(magic, ..)| ahead.starts_with(magic))
    {
        return Ok(Some(Foreign::Image { name, advice }));
    }
    if framer.items() == 0 && is_legacy_libxc(ahead) {
        return Ok(Some(Foreign::Image {
            name: "a stream of libxc of Xen 4.5 or earlier",
            advice: "convert-legacy-stream makes a migration-v2 stream of it",
        }));
    }
    if let Some(zeros) = zeros(framer.offset(), 8, before, ahead, more)? {
        return Ok(Some(zeros));
    }
    Ok(text(framer, ahead))
}

/// The same where a walk was stopped by whoever visits: zeros, as many as no end of a stream has.
pub(super) fn look_for_zeros(
    offset: u64,
    before: &[u8],
    ahead: &[u8],
    more: &mut dyn Read,
) -> io::Result<Option<Foreign>> {
    zeros(offset, MORE_THAN_ENDS, before, ahead, more)
}

/// The number of a PV domain's pfns in 64 or 32 bits, and the mark that stood in front of its extended information.
fn is_legacy_libxc(ahead: &[u8]) -> bool {
    let word = |at: usize| ahead.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    let pfns = |count: Option<u32>| count.is_some_and(|count| (1..=1 << 28).contains(&count));
    pfns(word(0)) && (word(4) == Some(u32::MAX) || (word(4) == Some(0) && word(8) == Some(u32::MAX)))
}

fn zeros(offset: u64, least: u64, before: &[u8], ahead: &[u8], more: &mut dyn Read) -> io::Result<Option<Foreign>> {
    let here = ahead.iter().take_while(|byte| **byte == 0).count();
    let mut bytes = here as u64;
    if bytes < least.min(ahead.len() as u64).max(8) {
        return Ok(None);
    }
    let mut to_end = here == ahead.len();
    let mut chunk = [0; 4096];
    while to_end {
        let got = match more.read(&mut chunk) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let here = chunk.iter().take(got).take_while(|byte| **byte == 0).count();
        bytes += here as u64;
        to_end = here == got;
    }
    if bytes < least {
        return Ok(None);
    }
    let behind = before.iter().rev().take_while(|byte| **byte == 0).count() as u64;
    Ok(Some(Foreign::Zeros { offset: offset - behind, bytes: bytes + behind, to_end }))
}

fn text(framer: &Framer, ahead: &[u8]) -> Option<Foreign> {
    let ahead = ahead.get(..WINDOW).unwrap_or(ahead);
    let run = text_run(ahead);
    if run < LEAST_TEXT {
        return None;
    }
    let last = (run + SLACK).min(ahead.len());
    let goes_on = (1..last).find(|&at| ahead.get(at..).is_some_and(|rest| framer.goes_on_with(rest)));
    let bytes = goes_on.unwrap_or(run);
    let quoted = String::from_utf8_lossy(ahead.get(..bytes)?);
    let mut text: String = quoted.chars().take(QUOTED).collect();
    if text.len() < quoted.len() {
        text.push('…');
    }
    let offset = framer.offset();
    Some(Foreign::Text { offset, bytes: bytes as u64, text, goes_on: goes_on.map(|at| offset + at as u64) })
}

/// Bytes of text at the front: what a terminal shows, escape sequences, and UTF-8.
fn text_run(bytes: &[u8]) -> usize {
    let valid = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => bytes.get(..error.valid_up_to()).map_or("", |valid| std::str::from_utf8(valid).unwrap_or("")),
    };
    valid
        .find(|c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\x07' | '\x08' | '\x1b'))
        .unwrap_or(valid.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_where_a_terminal_would_show_nothing() {
        for (bytes, run) in [
            (&b"Welcome\r\n\x1b[1mhost\x1b[0m\n\0\0"[..], 22),
            ("Größe\n\x01".as_bytes(), 8),
            (b"ab\xff\xff", 2),
            (b"", 0),
            (b"\0abc", 0),
        ] {
            assert_eq!(text_run(bytes), run, "{bytes:?}");
        }
    }

    #[test]
    fn zeros_are_counted_to_the_end_or_to_what_follows() {
        let found = |before: &[u8], ahead: &[u8], mut more: &[u8]| {
            zeros(100, 8, before, ahead, &mut more).unwrap().map(|zeros| match zeros {
                Foreign::Zeros { offset, bytes, to_end } => (offset, bytes, to_end),
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(found(&[1, 0, 0], &[0; 10], &[0; 5000]), Some((98, 5012, true)));
        assert_eq!(found(&[], &[0; 10], &[0, 0, 7]), Some((100, 12, false)));
        assert_eq!(found(&[], &[0, 0, 0, 0, 0, 0, 0, 1], &[]), None);
        assert_eq!(found(&[], &[], &[]), None);
    }
}
