//! The JSON description at the end of an image, and the devices' extents that follow from it.
//!
//! A device's section carries no length, but the description behind the last of them gives the size of every field. Nothing is
//! searched for: a description ends where the image does, so it is read backwards from its last brace to the one that matches;
//! the four bytes in front must be its length, and the two before these the marks of the end and of a description. From the
//! front, the sizes must then lead from section to section, each with the number, name and footer that it should have, up to
//! that mark.
#![forbid(unsafe_code)]

use super::error::WalkError;
use crate::decode::qevm::{MAGIC, QemuState, Section, VERSION};
use serde::{Deserialize, Serialize};

/// Longest description that is read, in bytes. QEMU's of a PC has 100,000.
const MOST_DESCRIPTION: usize = 4 << 20;
/// Longest blob of a checkpoint that is looked into.
pub const MOST_INFERRED: usize = 4 << 20;

const EOF: u8 = 0;
const FULL: u8 = 4;
const VMDESCRIPTION: u8 = 6;
const FOOTER: u8 = 0x7e;

/// How the ends of sections were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Extents {
    /// From the sizes in the description.
    Description,
    /// From headers and footers, the only way they fit together.
    Inference,
}

/// The devices of an image or a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Devices {
    /// Their sections, in order; offsets count from the start of the device state.
    pub sections: Vec<Section>,
    /// How their ends were found.
    pub extents: Extents,
    /// Whether they cover the state to its end.
    pub complete: bool,
}

impl Devices {
    /// The devices of a blob without description, with or without a header in front of its sections: what vmstate-size counts.
    /// Blobs over [`MOST_INFERRED`] bytes are not looked into.
    pub fn infer(blob: &[u8]) -> Devices {
        let nothing = Devices { sections: Vec::new(), extents: Extents::Inference, complete: false };
        if blob.len() > MOST_INFERRED {
            return nothing;
        }
        let headed = blob.starts_with(&MAGIC.to_be_bytes());
        let added = if headed { 0 } else { 8 };
        let state = if headed {
            QemuState::decode(blob)
        } else {
            let header = [MAGIC.to_be_bytes(), VERSION.to_be_bytes()].concat();
            QemuState::decode(&[header.as_slice(), blob].concat())
        };
        let Ok(state) = state else { return nothing };
        let mut sections = state.sections;
        for section in &mut sections {
            section.offset = section.offset.saturating_sub(added);
        }
        Devices { sections, extents: Extents::Inference, complete: state.complete }
    }

    /// The devices of an image's state, which must end with its description; `at` is where it begins in the direction.
    ///
    /// # Errors
    /// [`WalkError::Description`]: there is none, or it does not fit the sections, which do not fit together without it either.
    pub fn described(state: &[u8], at: u64, footers: bool) -> Result<Devices, WalkError> {
        let wrong = |why| WalkError::Description { offset: at, bytes: state.len(), why };
        let (sections, description) = split(state).map_err(wrong)?;
        if let Some(sections) = by_sizes(sections, &description.devices, footers) {
            return Ok(Devices { sections, extents: Extents::Description, complete: true });
        }
        let inferred = Devices::infer(sections);
        let same = |(section, device): (&Section, &Device)| section.name.as_deref() == Some(&device.name);
        let named = inferred.sections.len() == description.devices.len()
            && inferred.sections.iter().zip(&description.devices).all(same);
        if named { Ok(inferred) } else { Err(wrong("its devices and sizes are not those of the sections")) }
    }
}

#[derive(Debug, Deserialize)]
struct Description {
    devices: Vec<Device>,
}

#[derive(Debug, Deserialize)]
struct Device {
    name: String,
    instance_id: u32,
    #[serde(default)]
    fields: Vec<Field>,
    #[serde(default)]
    subsections: Vec<Subsection>,
}

#[derive(Debug, Deserialize)]
struct Subsection {
    vmsd_name: String,
    #[serde(default)]
    fields: Vec<Field>,
    #[serde(default)]
    subsections: Vec<Subsection>,
}

#[derive(Debug, Deserialize)]
struct Field {
    #[serde(default)]
    size: u64,
    /// Of an array of which the first element stands for all.
    array_len: Option<u64>,
}

/// The sections with their end-of-file mark, and the description behind it.
fn split(state: &[u8]) -> Result<(&[u8], Description), &'static str> {
    let start = json_start(state).ok_or("the last bytes are no JSON object")?;
    let (front, json) = state.split_at_checked(start).ok_or("no description")?;
    let (front, length) = front.split_last_chunk::<4>().ok_or("no length in front of it")?;
    if usize::try_from(u32::from_be_bytes(*length)) != Ok(json.len()) {
        return Err("its length is another");
    }
    let Some(sections) = front.strip_suffix(&[VMDESCRIPTION]).filter(|rest| rest.last() == Some(&EOF)) else {
        return Err("no marks in front of it");
    };
    let description = serde_json::from_slice(json).map_err(|_| "it is not the JSON that it should be")?;
    Ok((sections, description))
}

/// Where the object begins that ends with the last byte.
fn json_start(state: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    let mut text = false;
    for (at, byte) in state.iter().enumerate().rev().take(MOST_DESCRIPTION) {
        match byte {
            b'"' => text = !text,
            _ if text => {}
            b'}' => depth += 1,
            b'{' if depth == 1 => return Some(at),
            b'{' => depth = depth.checked_sub(1)?,
            // Nothing but JSON, and so nothing in front of it.
            0..=8 | 14..=31 | 127.. => return None,
            _ if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Where the first description in `state` ends: behind an end-of-file mark, its own mark and length, and JSON up to the last
/// brace. For a stream whose image is followed by something else. Looks from `from` on; gives the end, or where to look from
/// when more has come.
///
/// # Errors
/// Where to look from next time.
pub fn description_end(state: &[u8], from: usize) -> Result<usize, usize> {
    let mut at = from;
    while let Some(found) = state.get(at..).and_then(|rest| rest.windows(2).position(|two| two == [EOF, VMDESCRIPTION]))
    {
        at += found;
        let Some(length) = state.get(at + 2..).and_then(|rest| rest.first_chunk::<4>()) else { return Err(at) };
        let end = (u32::from_be_bytes(*length) as usize).saturating_add(at + 6);
        match (state.get(at + 6), state.get(end.wrapping_sub(1))) {
            (None, _) => return Err(at),
            (Some(b'{'), Some(b'}')) => return Ok(end),
            (Some(b'{'), None) if end < super::MOST_DEVICE_STATE => return Err(at),
            _ => at += 1,
        }
    }
    Err(state.len().saturating_sub(1).max(from))
}

/// The sections by the sizes of their fields; `None` where one does not fit.
fn by_sizes(state: &[u8], devices: &[Device], footers: bool) -> Option<Vec<Section>> {
    let mut rest = state;
    let mut sections = Vec::new();
    for device in devices {
        let offset = state.len() - rest.len();
        let (kind, after) = rest.split_first()?;
        let (id, after) = after.split_first_chunk::<4>()?;
        let (length, after) = after.split_first()?;
        let (name, after) = after.split_at_checked((*length).into())?;
        let (instance, after) = after.split_first_chunk::<4>()?;
        let (version, after) = after.split_first_chunk::<4>()?;
        let instance = u32::from_be_bytes(*instance);
        if *kind != FULL || name != device.name.as_bytes() || instance != device.instance_id {
            return None;
        }
        let mut subsections = Vec::new();
        let size = bytes(&device.fields, &device.subsections, &mut subsections)?;
        let size = usize::try_from(size).ok()?;
        let (_, mut after) = after.split_at_checked(size)?;
        if footers {
            after = after.strip_prefix(&[FOOTER])?.strip_prefix(id)?;
        }
        rest = after;
        sections.push(Section {
            kind: "full",
            id: u32::from_be_bytes(*id),
            name: Some(device.name.clone()),
            instance: Some(instance),
            version: Some(u32::from_be_bytes(*version)),
            offset,
            size,
            subsections,
        });
    }
    (rest == [EOF]).then_some(sections)
}

/// Bytes of fields and subsections; the names of the latter are noted.
fn bytes(fields: &[Field], subsections: &[Subsection], names: &mut Vec<String>) -> Option<u64> {
    let mut sum = 0_u64;
    for field in fields {
        sum = sum.checked_add(field.size.checked_mul(field.array_len.unwrap_or(1))?)?;
    }
    for subsection in subsections {
        names.push(subsection.vmsd_name.clone());
        // Mark, length of the name, name, version.
        let header = 6 + subsection.vmsd_name.len() as u64;
        let body = bytes(&subsection.fields, &subsection.subsections, names)?;
        sum = sum.checked_add(header)?.checked_add(body)?;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(id: u32, name: &str, data: &[u8]) -> Vec<u8> {
        let mut out = vec![FULL];
        out.extend(id.to_be_bytes());
        out.push(name.len() as u8);
        out.extend(name.as_bytes());
        out.extend([0, 0, 0, 0, 0, 0, 0, 1]);
        out.extend(data);
        out.push(FOOTER);
        out.extend(id.to_be_bytes());
        out
    }

    fn state(json: &str) -> Vec<u8> {
        let mut out = section(3, "timer", &[1, 2, 3]);
        // Device data that looks like the footer and header of another section.
        let mut sly = section(9, "sly", &[7]);
        sly.extend(section(9, "sly", &[7]));
        out.extend(section(9, "cpu", &sly));
        out.extend([EOF, VMDESCRIPTION]);
        out.extend((json.len() as u32).to_be_bytes());
        out.extend(json.as_bytes());
        out
    }

    const JSON: &str = r#"{"page_size": 4096, "devices": [{"name": "timer", "instance_id": 0, "fields": [{"name": "a}", "size": 1},
        {"name": "b", "array_len": 2, "size": 1}]}, {"name": "cpu", "instance_id": 0, "fields": [{"size": 46}]}]}"#;

    #[test]
    fn sizes_lead_through_data_that_imitates_sections() {
        let devices = Devices::described(&state(JSON), 100, true).unwrap();
        assert_eq!(devices.extents, Extents::Description);
        let found: Vec<_> = devices.sections.iter().map(|s| (s.name.as_deref().unwrap(), s.size)).collect();
        assert_eq!(found, [("timer", 3), ("cpu", 46)]);
    }

    #[test]
    fn a_state_that_is_not_whole_is_not_taken_for_whole() {
        let state = state(JSON);
        for length in 0..state.len() {
            let error = Devices::described(&state[..length], 100, true).unwrap_err();
            assert!(matches!(error, WalkError::Description { offset: 100, bytes, .. } if bytes == length), "{error}");
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        for (from, to) in [("46", "45"), ("\"cpu\"", "\"cpv\""), ("46", "18446744073709551615"), ("devices", "devises")]
        {
            assert!(Devices::described(&state(&JSON.replace(from, to)), 0, true).is_err(), "{from} to {to}");
        }
    }
}
