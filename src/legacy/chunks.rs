//! The middle of a legacy image: batches of pages, and chunks of everything else, up to chunk 0.

use super::source::{Source, Width};
use super::{Guest, LegacyError, MOST_CONFIG, Problem, bounded};
use crate::stream::libxc::{DomainType, types};
use crate::stream::writer::RecordWriter;
use std::collections::HashSet;
use std::io::{Read, Write};

/// `MAX_BATCH_SIZE`
const MAX_BATCH: i32 = 1024;
/// Highest vCPU that was saved.
const MAX_VCPU: i32 = 4095;
/// A word of the toolstack: type in bits 28 to 31, page frame in the rest.
const TYPE: u64 = 0xf000_0000;
const PFN: u64 = 0x0fff_ffff;
/// A place that the saver could not map: it says nothing.
const HOLE: u64 = 0xf000_0000;
/// Types from here on have no contents.
const WITHOUT: u64 = 0xd000_0000;

/// Chunks that carry one HVM parameter: chunk, parameter.
const PARAMS: [(i32, u64); 11] = [
    (-3, 12),
    (-4, 15),
    (-8, 17),
    (-10, 19),
    (-11, 9),
    (-14, 34),
    (-15, 27),
    (-16, 28),
    (-17, 29),
    (-19, 32),
    (-20, 33),
];

/// Chunks that nobody converts.
const UNSUPPORTED: [(i32, &str); 4] =
    [(-5, "tmem"), (-6, "tmem extra"), (-12, "compressed pages"), (-13, "compression follows")];

/// Reads up to the end of the chunks.
pub(super) fn read<R: Read, W: Write>(
    source: &mut Source<R>,
    guest: &mut Guest,
    out: &mut RecordWriter<W>,
) -> Result<(), LegacyError> {
    let mut params = Vec::new();
    let mut room = Batch::default();
    loop {
        let number = source.array().map(i32::from_le_bytes)?;
        if let Some((_, param)) = PARAMS.iter().find(|(chunk, _)| *chunk == number) {
            let _padding = source.u32()?;
            params.push((*param, source.u64()?));
            continue;
        }
        match number {
            0 => break,
            1..=MAX_BATCH => room.copy(number, source, out)?,
            number if number > MAX_BATCH => return Err(source.wrong(Problem::Batch(number))),
            // Verify mode; the last checkpoint.
            -1 | -9 => {}
            -2 => vcpus(source, guest)?,
            -7 => {
                let (mode, nsec, khz, incarnation) = (source.u32()?, source.u64()?, source.u32()?, source.u32()?);
                let (mode, khz, nsec) = (mode.to_le_bytes(), khz.to_le_bytes(), nsec.to_le_bytes());
                out.record(types::X86_TSC_INFO, &[&mode, &khz, &nsec, &incarnation.to_le_bytes(), &[0; 4]])?;
            }
            -18 => {
                let length = source.u32()?;
                bounded(source, "toolstack data", length, MOST_CONFIG)?;
                let mut data = Vec::new();
                source.bytes(length.into(), &mut data)?;
                if guest.libxl && length != 0 {
                    physmap(&data, source.width, &mut guest.xenstore)
                        .map_err(|why| source.wrong(Problem::Toolstack(why)))?;
                }
            }
            number => {
                let known = UNSUPPORTED.iter().find(|(chunk, _)| *chunk == number);
                return Err(source.wrong(
                    known.map_or(Problem::Chunk(number), |(number, name)| Problem::Unsupported {
                        number: *number,
                        name,
                    }),
                ));
            }
        }
    }
    if params.is_empty() {
        return Ok(());
    }
    if guest.kind == DomainType::Pv {
        return Err(source.wrong(Problem::Unsupported { number: 0, name: "HVM parameters of a PV guest" }));
    }
    write_params(&params, out)
}

/// HVM_PARAMS.
pub(super) fn write_params<W: Write>(params: &[(u64, u64)], out: &mut RecordWriter<W>) -> Result<(), LegacyError> {
    let count = (params.len() as u32).to_le_bytes();
    let body: Vec<u8> = params.iter().flat_map(|(index, value)| [*index, *value]).flat_map(u64::to_le_bytes).collect();
    Ok(out.record(types::HVM_PARAMS, &[&count, &[0; 4], &body])?)
}

/// Which vCPUs have state: the highest number, and a bit for each.
fn vcpus<R: Read>(source: &mut Source<R>, guest: &mut Guest) -> Result<(), LegacyError> {
    let highest = source.array().map(i32::from_le_bytes)?;
    if !(0..=MAX_VCPU).contains(&highest) {
        return Err(source.wrong(Problem::MaxVcpu(highest)));
    }
    // A stream with checkpoints says it again.
    guest.online.clear();
    for word in 0..=highest as u32 / 64 {
        let bits = source.u64()?;
        guest.online.extend((0..64).filter(|bit| bits >> bit & 1 == 1).map(|bit| word * 64 + bit));
    }
    Ok(())
}

/// Room for a batch, used again.
#[derive(Debug, Default)]
struct Batch {
    words: Vec<u64>,
    pages: Vec<u8>,
    seen: HashSet<u64>,
}

impl Batch {
    fn copy<R: Read, W: Write>(
        &mut self,
        count: i32,
        source: &mut Source<R>,
        out: &mut RecordWriter<W>,
    ) -> Result<(), LegacyError> {
        source.ulongs(u64::from(count.unsigned_abs()), &mut self.words)?;
        self.words.retain(|word| *word != HOLE);
        self.seen.clear();
        if let Some(twice) = self.words.iter().find(|word| !self.seen.insert(**word)) {
            return Err(source.wrong(Problem::Twice(twice & PFN)));
        }
        let with = self.words.iter().filter(|word| **word & TYPE < WITHOUT).count();
        source.bytes(with as u64 * 4096, &mut self.pages)?;
        if self.words.is_empty() {
            return Ok(());
        }
        let entries: Vec<u8> =
            self.words.iter().flat_map(|word| ((word & TYPE) << 32 | word & PFN).to_le_bytes()).collect();
        let count = (self.words.len() as u32).to_le_bytes();
        Ok(out.record(types::PAGE_DATA, &[&count, &[0; 4], &entries, &self.pages])?)
    }
}

/// libxl's part: the memory that QEMU has mapped, as keys of its own in xenstore. A toolstack of 64 bits let the padding of its structure slip
/// behind each name.
fn physmap(data: &[u8], width: Width, out: &mut Vec<u8>) -> Result<(), &'static str> {
    let word =
        |data: &[u8], at: usize| data.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
    let long =
        |data: &[u8], at: usize| data.get(at..at + 8).and_then(|long| long.try_into().ok()).map(u64::from_le_bytes);
    let short = "it ends too early";
    if word(data, 0).ok_or(short)? != 1 {
        return Err("its version is not 1");
    }
    let count = word(data, 4).ok_or(short)?;
    let mut data = data.get(8..).ok_or(short)?;
    for _ in 0..count {
        let (offset, start, size) =
            (long(data, 0).ok_or(short)?, long(data, 8).ok_or(short)?, long(data, 16).ok_or(short)?);
        let length = word(data, 24).ok_or(short)? as usize;
        let padding = if width == Width::Bits64 { 4 } else { 0 };
        let (name, rest) = data.get(28..).ok_or(short)?.split_at_checked(length + padding).ok_or(short)?;
        let name = name.get(..length).and_then(|name| name.strip_suffix(b"\0")).ok_or("a name without its end")?;
        data = rest;
        for (key, value) in [("start_addr", format!("{start:x}")), ("size", format!("{size:x}"))] {
            out.extend_from_slice(format!("physmap/{offset:x}/{key}\0{value}\0").as_bytes());
        }
        out.extend_from_slice(format!("physmap/{offset:x}/name\0").as_bytes());
        out.extend_from_slice(name);
        out.push(0);
    }
    Ok(())
}
