//! What libvirt and XAPI put around the streams that they keep, written: the other side of [`crate::inspect::container`], where the formats
//! and their sources stand.
//!
//! Of XAPI's image: `suspend` in `ocaml/xenopsd/xc/domain.ml` writes xenops, libxc, varstored, swtpm, QEMU and the end, in this order, and
//! `restore_common` takes them in any; `Xenops_record` in `ocaml/xenopsd/lib/suspend_image.ml` must have a time and a word size, and
//! nothing of it is used at a restore. QEMU's state is what `xen-save-devices-state` writes, as in libxl's EMULATOR_CONTEXT.

use crate::inspect::container::{
    Container, LIBVIRT_HEADER, LIBVIRT_MAGIC, LIBVIRT_VERSION, MAX_TEXT, XAPI_MAGIC, XapiPart,
};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use xen_domain_image::{Image, ImageError};

/// Most bytes of QEMU's state that xenopsd restores (`consume_qemu_record`).
const MAX_QEMU: u64 = 1 << 20;

/// Why something cannot be put around an image.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The text is empty, or is not what it should be.
    #[error("{what} is {why}")]
    Text {
        /// Which.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More of QEMU's state than xenopsd takes.
    #[error("the device model's state has {0} bytes, xenopsd takes {MAX_QEMU} at most")]
    Qemu(u64),
    /// XAPI's image has one.
    #[error("{0} device models, a XAPI suspend image has one at most")]
    Qemus(usize),
}

impl From<Unfit> for io::Error {
    fn from(error: Unfit) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

fn text<'a>(what: &'static str, bytes: &'a [u8], start: &str, not: &'static str) -> Result<&'a [u8], Unfit> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes).trim_ascii();
    let why = match std::str::from_utf8(bytes) {
        Err(_) => "not UTF-8",
        Ok(text) if text.contains('\0') => "text with a NUL inside",
        Ok("") => "empty",
        Ok(text) if text.len() as u64 >= MAX_TEXT => "too long: 16 MiB at most",
        Ok(text) if !text.contains(start) => not,
        Ok(_) => return Ok(bytes),
    };
    Err(Unfit::Text { what, why })
}

/// A domain's XML, as far as libvirt needs it to be one before it parses it.
///
/// # Errors
/// Empty, too long, no text, without a `domain` element.
pub fn domain_xml(bytes: &[u8]) -> Result<&[u8], Unfit> {
    text("the domain's XML", bytes, "<domain", "without a <domain> element")
}

/// xenopsd's record: a list with a time.
///
/// # Errors
/// Empty, too long, no text, without a time.
pub fn xenops_record(bytes: &[u8]) -> Result<&[u8], Unfit> {
    text("xenopsd's record", bytes, "(time ", "without a (time ...)")
}

/// The record that xenopsd asks for, with nothing but what it asks for.
pub fn least_xenops_record() -> Vec<u8> {
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H:%M:%SZ");
    format!("((time {now})(word_size 64))").into_bytes()
}

/// libvirt's header and the domain's XML; libxl's stream follows.
///
/// # Errors
/// The system's.
pub fn libvirt(xml: &[u8], out: &mut dyn Write) -> io::Result<()> {
    // The length counts the NUL behind it.
    let length = xml.len() as u32 + 1;
    let mut header = LIBVIRT_MAGIC.to_vec();
    header.extend(LIBVIRT_VERSION.to_le_bytes());
    header.extend(length.to_le_bytes());
    header.resize(LIBVIRT_HEADER, 0);
    out.write_all(&header)?;
    out.write_all(xml)?;
    out.write_all(b"\0")
}

/// What XAPI has behind the stream.
#[derive(Debug, Default)]
pub struct XapiParts {
    /// Each with its state, in the order in which they are written.
    parts: Vec<(XapiPart, Vec<u8>)>,
}

impl XapiParts {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Adds the device model of an image that is libxl's stream.
    ///
    /// # Errors
    /// The system's; state that xenopsd does not take.
    pub fn add_emulator(&mut self, image: &Image) -> Result<(), ImageError> {
        let mut all = image.emulators()?;
        if all.len() > 1 {
            return Err(io::Error::from(Unfit::Qemus(all.len())).into());
        }
        if let Some((_, state)) = all.pop() {
            let bytes = state.len() as u64;
            if bytes > MAX_QEMU {
                return Err(io::Error::from(Unfit::Qemu(bytes)).into());
            }
            self.parts.push((XapiPart::QEMU, state));
        }
        Ok(())
    }

    /// The parts of another image of XAPI's, which lies in `file`.
    ///
    /// # Errors
    /// The system's.
    pub fn of_container(container: &Container, mut file: &File) -> io::Result<XapiParts> {
        let mut parts = XapiParts::default();
        for part in &container.parts {
            let Some(kind) = XapiPart::named(part.name) else { continue };
            if part.bytes > MAX_TEXT {
                let text = format!("{} has {} bytes, over the limit of {MAX_TEXT}", part.name, part.bytes);
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            if kind == XapiPart::QEMU && part.bytes > MAX_QEMU {
                return Err(Unfit::Qemu(part.bytes).into());
            }
            let mut state = vec![0; part.bytes as usize];
            file.seek(SeekFrom::Start(part.offset))?;
            file.read_exact(&mut state)?;
            parts.parts.push((kind, state));
        }
        Ok(parts)
    }

    /// Writes them, and the end of the image.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for (part, state) in &self.parts {
            header(*part, state.len() as u64, out)?;
            out.write_all(state)?;
        }
        header(XapiPart::End, 0, out)
    }
}

/// XAPI's signature, xenopsd's record, and the header of libxc's part, whose stream follows.
///
/// # Errors
/// The system's.
pub fn xapi(record: &[u8], out: &mut dyn Write) -> io::Result<()> {
    out.write_all(XAPI_MAGIC)?;
    header(XapiPart::Xenops, record.len() as u64, out)?;
    out.write_all(record)?;
    // The stream tells by itself where it ends.
    header(XapiPart::Libxc, 0, out)
}

fn header(part: XapiPart, bytes: u64, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&part.wire().to_le_bytes())?;
    out.write_all(&bytes.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_none_is_refused_in_words() {
        let long = [b"<domain>".to_vec(), vec![b' '; 16 << 20], b"</domain>".to_vec()].concat();
        for (bytes, said) in [
            (&b""[..], "the domain's XML is empty"),
            (b" \n\0", "the domain's XML is empty"),
            (b"\xff<domain/>", "the domain's XML is not UTF-8"),
            (b"<domain/>\0<domain/>", "the domain's XML is text with a NUL inside"),
            (b"name = 'work'\n", "the domain's XML is without a <domain> element"),
            (&long, "the domain's XML is too long: 16 MiB at most"),
        ] {
            assert_eq!(domain_xml(bytes).unwrap_err().to_string(), said);
        }
        assert_eq!(domain_xml(b"<domain type='xen'/>\n\0"), Ok(&b"<domain type='xen'/>"[..]));
        assert!(xenops_record(&least_xenops_record()).is_ok());
        assert!(xenops_record(b"((word_size 64))").is_err());
    }
}
