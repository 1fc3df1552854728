//! Frames in a PV vCPU's basic state, between the mfns that Xen has and the pfns of a stream; and what restoring changes in the
//! guest's start info and shared info.

use crate::decode::pv_words::{self as words, Field, cr3_frame, frame_cr3};
use crate::hypervisor::pv::{Mfn, Width};
use crate::hypervisor::types::Page;
use crate::libxc::restore::Rings;
use thiserror::Error;

/// `VGCF_online`.
const ONLINE: u64 = 1 << 5;
/// Slots of `shared_info.vcpu_info`.
const VCPU_SLOTS: usize = 32;

/// A vCPU's state, or a page that it leads to, that cannot be translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ContextError {
    /// A structure of another size than the guest's width has.
    #[error("a context of {length} bytes, this guest's has {expected}")]
    Length {
        /// Its bytes.
        length: usize,
        /// Those of the guest's width.
        expected: usize,
    },
    /// More GDT entries than there can be.
    #[error("{count} GDT entries, {} at the most", words::GDT_ENTRIES)]
    Gdt {
        /// How many.
        count: u64,
    },
    /// A frame that is not the guest's, or of no use there.
    #[error("{what} is {frame:#x}, which is {problem}")]
    Frame {
        /// What names it.
        what: &'static str,
        /// The mfn (saving) or pfn (restoring).
        frame: u64,
        /// What is wrong with it.
        problem: FrameProblem,
    },
}

/// What is wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameProblem {
    /// No memory of the guest.
    #[error("no memory of the guest")]
    Absent,
    /// Its type is none for that use.
    #[error("of another type than needed there")]
    Type,
    /// It does not fit into the field.
    #[error("too large for a 32-bit guest")]
    Size,
}

/// What a frame must be to stand in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A page of data.
    Plain,
    /// The root of the guest's page tables.
    Root,
    /// Whatever it is.
    Any,
}

/// Checks the size, and gives the number of GDT frames.
fn gdt_frames(context: &[u8], width: Width) -> Result<usize, ContextError> {
    let expected = match width {
        Width::Bits64 => words::CONTEXT_64,
        Width::Bits32 => words::CONTEXT_32,
    };
    if context.len() != expected {
        return Err(ContextError::Length { length: context.len(), expected });
    }
    let count = words::GDT_ENTS.get(context, width);
    if count > words::GDT_ENTRIES {
        return Err(ContextError::Gdt { count });
    }
    Ok(count.div_ceil(512) as usize)
}

/// Replaces each frame that a context names by what `translate` gives for it.
///
/// # Errors
/// The context's size, or what `translate` says.
fn translate(
    context: &mut [u8],
    width: Width,
    vcpu: u32,
    saving: bool,
    mut translate: impl FnMut(u64, Use) -> Result<u64, FrameProblem>,
) -> Result<(), ContextError> {
    let gdt = gdt_frames(context, width)?;
    let mut one = |what, frame, purpose| {
        translate(frame, purpose).map_err(|problem| ContextError::Frame { what, frame, problem })
    };
    let mut plain = |context: &mut [u8], field: Field, what| {
        let frame = one(what, field.get(context, width), Use::Plain)?;
        field.set(context, width, frame);
        Ok(())
    };
    if vcpu == 0 {
        plain(context, words::EDX, "the start info frame in vCPU 0's edx")?;
    }
    for index in 0..gdt {
        plain(context, words::GDT_FRAMES.nth(index), "a GDT frame")?;
    }
    let frame = one("cr3", cr3_frame(words::CR3.get(context, width), width), Use::Root)?;
    let too_large = ContextError::Frame { what: "cr3", frame, problem: FrameProblem::Size };
    words::CR3.set(context, width, frame_cr3(frame, width).ok_or(too_large)?);
    let user = words::CR1.get(context, width);
    // In a stream bit 0 says that there is one: pfn 0 would be none otherwise.
    let used = if saving { user != 0 } else { user & 1 != 0 };
    if width == Width::Bits64 && used {
        let frame = one("cr1", user >> 12, Use::Root)?;
        words::CR1.set(context, width, frame << 12 | u64::from(saving));
    }
    Ok(())
}

/// Turns a context from the hypervisor into one for a stream.
///
/// # Errors
/// [`ContextError`].
pub fn normalise(
    context: &mut [u8],
    width: Width,
    vcpu: u32,
    pfn_of: impl Fn(Mfn) -> Option<u64>,
) -> Result<(), ContextError> {
    translate(context, width, vcpu, true, |mfn, _| pfn_of(mfn).ok_or(FrameProblem::Absent))
}

/// Turns a context from a stream into one for the hypervisor, and says that the vCPU is online.
///
/// # Errors
/// [`ContextError`].
pub fn localise(
    context: &mut [u8],
    width: Width,
    vcpu: u32,
    mfn_of: impl FnMut(u64, Use) -> Result<Mfn, FrameProblem>,
) -> Result<(), ContextError> {
    translate(context, width, vcpu, false, mfn_of)?;
    let flags = words::FLAGS.get(context, width);
    words::FLAGS.set(context, width, flags | ONLINE);
    Ok(())
}

/// The frames of the xenstore and console rings, as mfns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RingFrames {
    /// xenstore's.
    pub store: Mfn,
    /// The console's.
    pub console: Mfn,
}

/// Makes a suspended guest's start info that of this host: rings by mfn, their event channels, sizes, no flags.
///
/// # Errors
/// [`ContextError::Frame`].
pub fn start_info(
    page: &mut Page,
    width: Width,
    nr_pfns: u64,
    shared_info: Mfn,
    rings: Rings,
    mut mfn_of: impl FnMut(u64, Use) -> Result<Mfn, FrameProblem>,
) -> Result<RingFrames, ContextError> {
    let mut ring = |field: Field, what| {
        let frame = field.get(page, width);
        let mfn = mfn_of(frame, Use::Any).map_err(|problem| ContextError::Frame { what, frame, problem })?;
        field.set(page, width, mfn);
        Ok(mfn)
    };
    let frames = RingFrames {
        store: ring(words::STORE_MFN, "start_info.store_mfn")?,
        console: ring(words::CONSOLE_MFN, "start_info.console.domU.mfn")?,
    };
    words::STORE_EVTCHN.set_u32(page, width, rings.store_evtchn);
    words::CONSOLE_EVTCHN.set_u32(page, width, rings.console_evtchn);
    words::NR_PAGES.set(page, width, nr_pfns);
    words::SHARED_INFO.set(page, width, shared_info << 12);
    words::START_FLAGS.set_u32(page, width, 0);
    Ok(frames)
}

/// Takes over what a stream's shared info says of the guest: vCPUs and p2m. Event channels are all unbound and masked, the
/// tree of p2m frames is the guest's to make anew, and the clock stays this host's.
pub fn shared_info(page: &mut Page, source: &[u8], width: Width) {
    let mut copy = |start: usize, end: usize| {
        if let (Some(place), Some(bytes)) = (page.get_mut(start..end), source.get(start..end)) {
            place.copy_from_slice(bytes);
        }
    };
    copy(0, words::PENDING.offset(width));
    copy(words::MAX_PFN.offset(width), words::ARCH_END.offset(width));
    words::FRAME_LIST_LIST.set(page, width, 0);
    let (pending, mask) = (words::PENDING.offset(width), words::MASK.offset(width));
    let end = mask + (mask - pending);
    if let Some(ports) = page.get_mut(pending..mask) {
        ports.fill(0);
    }
    if let Some(masked) = page.get_mut(mask..end) {
        masked.fill(0xff);
    }
    for slot in 0..VCPU_SLOTS {
        let Some(info) = page.get_mut(slot * words::VCPU_SLOT..(slot + 1) * words::VCPU_SLOT) else { return };
        words::PENDING_SEL.set(info, width, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTHS: [(Width, usize); 2] = [(Width::Bits64, words::CONTEXT_64), (Width::Bits32, words::CONTEXT_32)];

    fn context(width: Width, length: usize) -> Vec<u8> {
        let mut context = vec![0; length];
        words::EDX.set(&mut context, width, 0x110);
        words::GDT_ENTS.set(&mut context, width, 513);
        words::GDT_FRAMES.set(&mut context, width, 0x111);
        words::GDT_FRAMES.nth(1).set(&mut context, width, 0x112);
        words::GDT_FRAMES.nth(2).set(&mut context, width, 0x99);
        words::CR3.set(&mut context, width, frame_cr3(0x113, width).unwrap());
        words::CR1.set(&mut context, width, 0x114_000);
        context
    }

    #[test]
    fn contexts_come_back_as_they_were() {
        for (width, length) in WIDTHS {
            let original = context(width, length);
            let mut there = original.clone();
            normalise(&mut there, width, 0, |mfn| (mfn >= 0x100).then(|| mfn - 0x100)).unwrap();
            assert_eq!(words::EDX.get(&there, width), 0x10);
            assert_eq!(words::GDT_FRAMES.nth(1).get(&there, width), 0x12);
            assert_eq!(words::GDT_FRAMES.nth(2).get(&there, width), 0x99);
            assert_eq!(cr3_frame(words::CR3.get(&there, width), width), 0x13);
            let mut purposes = Vec::new();
            localise(&mut there, width, 0, |pfn, purpose| {
                purposes.push((pfn, purpose));
                Ok(pfn + 0x100)
            })
            .unwrap();
            let mut expected = original.clone();
            words::FLAGS.set(&mut expected, width, ONLINE);
            assert_eq!(there, expected);
            let user = (width == Width::Bits64).then_some((0x14, Use::Root));
            let plain = [0x10, 0x11, 0x12].map(|pfn| (pfn, Use::Plain));
            assert!(purposes.iter().eq(plain.iter().chain(&[(0x13, Use::Root)]).chain(&user)));
        }
    }

    #[test]
    fn bad_contexts_are_refused() {
        for (width, length) in WIDTHS {
            let known = |_, _| Ok(1);
            let short = localise(&mut vec![0; length - 1], width, 1, known);
            assert_eq!(short, Err(ContextError::Length { length: length - 1, expected: length }));
            let mut many = context(width, length);
            words::GDT_ENTS.set(&mut many, width, 7169);
            assert_eq!(localise(&mut many, width, 1, known), Err(ContextError::Gdt { count: 7169 }));
            let bad = localise(&mut context(width, length), width, 1, |_, _| Err(FrameProblem::Absent));
            assert!(matches!(bad, Err(ContextError::Frame { what: "a GDT frame", frame: 0x111, .. })), "{bad:?}");
        }
        let far = localise(&mut context(Width::Bits32, 2800), Width::Bits32, 1, |_, _| Ok(1 << 33));
        assert!(matches!(far, Err(ContextError::Frame { what: "cr3", problem: FrameProblem::Size, .. })));
    }

    #[test]
    fn shared_info_keeps_the_guests_part_and_no_events() {
        for (width, _) in WIDTHS {
            let source = [0x55; 4096];
            let mut page = [0x22; 4096];
            shared_info(&mut page, &source, width);
            assert_eq!(words::MAX_PFN.get(&page, width) & 0xff, 0x55);
            assert_eq!(words::FRAME_LIST_LIST.get(&page, width), 0);
            assert_eq!(words::CLOCK.get(&page, width) & 0xff, 0x22);
            assert_eq!((words::PENDING.get(&page, width), words::MASK.get(&page, width) & 0xff), (0, 0xff));
            assert_eq!(words::PENDING_SEL.get(&page[31 * 64..], width), 0);
            assert_eq!((page[0], page[words::ARCH_END.offset(width)]), (0x55, 0x22));
        }
    }
}
