//! An ELF core of the guest: for Xen's tools by sections, for debuggers by program headers.
//!
//! Sections, as `docs/misc/dump-core-format.txt` of Xen has them: `.note.Xen`, `.xen_prstatus` (an array of
//! `struct vcpu_guest_context`), `.xen_shared_info` (PV), `.xen_p2m` (PV) or `.xen_pfn` (HVM), `.xen_pages`. What a stream does not
//! know is left empty: of the hypervisor's version, all but the numbers of the domain header. The frames of a PV guest in `.xen_p2m`
//! are page frame numbers twice, for that is what its page tables hold in a stream.
//!
//! Program headers: a PT_NOTE with, for each vCPU, NT_PRSTATUS and, of a HVM guest, a note of the name `QEMU` as QEMU's
//! `dump-guest-memory` writes it (`target/i386/arch_dump.c`), from which `crash` learns where a kernel was moved to; and a PT_LOAD for
//! each row of page frames, at their guest-physical addresses (as virtual ones, too), over the same contents.
//!
//! All numbers are little-endian.

use super::copy::in_batches;
use super::error::ImageError;
use super::image::Image;
use super::memory::rows;
use super::registers::Registers;
use std::io::Write;
use xen_migration_stream::libxc::PAGE_SIZE;

const EHDR: usize = 64;
const PHDR: usize = 56;
const SHDR: usize = 64;
const ET_CORE: u16 = 4;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const SHT_NULL: u32 = 0;
const SHT_PROGBITS: u32 = 1;
const SHT_STRTAB: u32 = 3;
const SHT_NOTE: u32 = 7;
/// From this number of program headers on, it is in section 0.
const PN_XNUM: u16 = 0xffff;

const NOTE_NONE: u32 = 0x200_0000;
const NOTE_HEADER: u32 = 0x200_0001;
const NOTE_XEN_VERSION: u32 = 0x200_0002;
const NOTE_FORMAT_VERSION: u32 = 0x200_0003;
const MAGIC_PV: u64 = 0xf00f_ebed;
const MAGIC_HVM: u64 = 0xf00f_ebee;
/// `struct xen_dumpcore_elfnote_xen_version_desc`: two numbers, texts of 16, 144, 1024 and 64 bytes, two numbers.
const XEN_VERSION: usize = 8 + 8 + 16 + 144 + 1024 + 64 + 8 + 8;

/// Writes the core.
///
/// # Errors
/// The system's; an image without the registers of any vCPU; more vCPUs or pages than the notes can say.
pub fn write(image: &Image, mut out: impl Write) -> Result<(), ImageError> {
    let registers = image.registers()?;
    if registers.is_empty() {
        return Err(ImageError::Missing("state of any vCPU"));
    }
    let layout = Layout::new(image, &registers)?;
    out.write_all(&layout.head)?;
    let mut table = Vec::with_capacity(PAGE_SIZE * 2);
    for page in image.populated() {
        // A PV guest's pairs of pfn and gmfn; here both are the pfn.
        for _ in 0..layout.frame_words {
            table.extend_from_slice(&page.pfn.to_le_bytes());
        }
        if table.len() >= PAGE_SIZE {
            out.write_all(&table)?;
            table.clear();
        }
    }
    out.write_all(&table)?;
    out.write_all(&vec![0; layout.gap])?;
    in_batches(image, image.populated(), &mut |_, contents| Ok(out.write_all(contents)?))?;
    out.write_all(&layout.tail)?;
    Ok(out.flush()?)
}

/// All of the file but frames and pages.
struct Layout {
    /// From the ELF header to the frames.
    head: Vec<u8>,
    /// Words for each frame.
    frame_words: usize,
    /// Bytes between the frames and the pages.
    gap: usize,
    /// Behind the pages: section names and section headers.
    tail: Vec<u8>,
}

struct Section {
    name: &'static str,
    kind: u32,
    offset: u64,
    size: u64,
    entry: u64,
}

impl Layout {
    fn new(image: &Image, registers: &[Registers]) -> Result<Layout, ImageError> {
        let pages = image.populated().count() as u64;
        let rows = rows(image);
        let segments = 1 + rows.len();
        let notes = xen_notes(image, registers.len() as u64, pages);
        let debugger_notes: Vec<u8> = registers.iter().flat_map(|vcpu| vcpu_notes(image, vcpu)).collect();
        let contexts: Vec<u8> = registers.iter().flat_map(|vcpu| vcpu.context.iter().copied()).collect();
        let shared_info = image.shared_info()?.unwrap_or_default();
        let frame_words = 1 + usize::from(image.is_pv());

        let mut sections = vec![Section { name: "", kind: SHT_NULL, offset: 0, size: 0, entry: 0 }];
        let mut body = Vec::new();
        let from = EHDR + PHDR * segments;
        let mut place = |name: &'static str, kind: u32, bytes: &[u8], entry: usize| {
            body.resize(body.len().next_multiple_of(8), 0);
            let (offset, size) = ((from + body.len()) as u64, bytes.len() as u64);
            sections.push(Section { name, kind, offset, size, entry: entry as u64 });
            body.extend_from_slice(bytes);
            offset
        };
        place(".note.Xen", SHT_NOTE, &notes, 0);
        let debugger_at = place(".note", SHT_NOTE, &debugger_notes, 0);
        place(".xen_prstatus", SHT_PROGBITS, &contexts, registers[0].context.len());
        if !shared_info.is_empty() {
            place(".xen_shared_info", SHT_PROGBITS, &shared_info, PAGE_SIZE);
        }
        let name = if image.is_pv() { ".xen_p2m" } else { ".xen_pfn" };
        let frames = pages * frame_words as u64 * 8;
        let frames_at = place(name, SHT_PROGBITS, &[], 8 * frame_words);
        if let Some(section) = sections.last_mut() {
            section.size = frames;
        }
        let pages_at = (frames_at + frames).next_multiple_of(PAGE_SIZE as u64);
        let size = pages * PAGE_SIZE as u64;
        sections.push(Section {
            name: ".xen_pages",
            kind: SHT_PROGBITS,
            offset: pages_at,
            size,
            entry: PAGE_SIZE as u64,
        });
        let names_at = pages_at + size;
        let names: Vec<u8> = sections
            .iter()
            .map(|section| section.name)
            .chain([".shstrtab"])
            .flat_map(|name| [name.as_bytes(), b"\0"].concat())
            .collect();
        sections.push(Section {
            name: ".shstrtab",
            kind: SHT_STRTAB,
            offset: names_at,
            size: names.len() as u64,
            entry: 0,
        });
        let headers_at = (names_at + names.len() as u64).next_multiple_of(8);

        let mut head = elf_header(segments, headers_at, sections.len());
        head.extend(program_header(PT_NOTE, debugger_at, 0, debugger_notes.len() as u64));
        let mut at = pages_at;
        for (first, count) in rows {
            let bytes = count * PAGE_SIZE as u64;
            head.extend(program_header(PT_LOAD, at, first * PAGE_SIZE as u64, bytes));
            at += bytes;
        }
        head.extend(body);
        head.resize(frames_at as usize, 0);
        let mut tail = names;
        tail.resize((headers_at - names_at) as usize, 0);
        let mut name = 0;
        for section in &sections {
            let many = section.kind == SHT_NULL && segments >= PN_XNUM.into();
            tail.extend(section_header(name, section, if many { segments as u32 } else { 0 }));
            name += section.name.len() as u32 + 1;
        }
        Ok(Layout { head, frame_words, gap: (pages_at - frames_at - frames) as usize, tail })
    }
}

fn elf_header(segments: usize, headers_at: u64, sections: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(EHDR);
    // ELFCLASS64, ELFDATA2LSB, EV_CURRENT, ELFOSABI_SYSV.
    out.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    out.extend_from_slice(&ET_CORE.to_le_bytes());
    out.extend_from_slice(&EM_X86_64.to_le_bytes());
    out.extend_from_slice(&1u32.to_le_bytes());
    for word in [0, EHDR as u64, headers_at] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&0u32.to_le_bytes());
    let segments = u16::try_from(segments).unwrap_or(PN_XNUM);
    for half in [EHDR as u16, PHDR as u16, segments, SHDR as u16, sections as u16, sections as u16 - 1] {
        out.extend_from_slice(&half.to_le_bytes());
    }
    out
}

fn program_header(kind: u32, offset: u64, address: u64, bytes: u64) -> Vec<u8> {
    // PF_R, PF_W and PF_X for memory.
    let flags: u32 = if kind == PT_LOAD { 7 } else { 0 };
    let mut out = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
    let memory = if kind == PT_LOAD { bytes } else { 0 };
    // Virtual addresses are the guest-physical ones: a debugger reads by those, and a row each its own.
    for word in [offset, address, address, bytes, memory, 0] {
        out.extend_from_slice(&u64::to_le_bytes(word));
    }
    out
}

fn section_header(name: u32, section: &Section, info: u32) -> Vec<u8> {
    let mut out = [name.to_le_bytes(), section.kind.to_le_bytes()].concat();
    for word in [0, 0, section.offset, section.size] {
        out.extend_from_slice(&u64::to_le_bytes(word));
    }
    out.extend([0u32.to_le_bytes(), info.to_le_bytes()].concat());
    let align = if section.kind == SHT_NULL { 0 } else { 1u64 };
    for word in [align, section.entry] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out
}

fn note(name: &str, kind: u32, body: &[u8]) -> Vec<u8> {
    let words = [name.len() as u32 + 1, body.len() as u32, kind];
    let mut out: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn xen_notes(image: &Image, vcpus: u64, pages: u64) -> Vec<u8> {
    let magic = if image.is_pv() { MAGIC_PV } else { MAGIC_HVM };
    let header: Vec<u8> = [magic, vcpus, pages, PAGE_SIZE as u64].iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut version = vec![0; XEN_VERSION];
    let domain = image.domain();
    version[..8].copy_from_slice(&u64::from(domain.xen_major).to_le_bytes());
    version[8..16].copy_from_slice(&u64::from(domain.xen_minor).to_le_bytes());
    version[XEN_VERSION - 8..].copy_from_slice(&(PAGE_SIZE as u64).to_le_bytes());
    [
        note("Xen", NOTE_NONE, &[]),
        note("Xen", NOTE_HEADER, &header),
        note("Xen", NOTE_XEN_VERSION, &version),
        // 0.1: the minor number is the low half.
        note("Xen", NOTE_FORMAT_VERSION, &1u64.to_le_bytes()),
    ]
    .concat()
}

fn vcpu_notes(image: &Image, vcpu: &Registers) -> Vec<u8> {
    let mut notes = note("CORE", 1, &prstatus(vcpu));
    if !image.is_pv() {
        notes.extend(note("QEMU", 0, &qemu_state(vcpu)));
    }
    notes
}

/// `struct elf_prstatus` of x86-64: 112 bytes of which only the process number is not 0, then `struct user_regs_struct`, then whether FPU
/// registers are there.
fn prstatus(vcpu: &Registers) -> Vec<u8> {
    const REGISTERS_AT: usize = 112;
    const PROCESS_AT: usize = 32;
    const LENGTH: usize = 336;
    let [rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15] = vcpu.general;
    let segment = |at: usize| u64::from(vcpu.segments[at].selector);
    let [cs, ds, es, fs, gs, ss] = [0, 1, 2, 3, 4, 5].map(segment);
    // No system call is under way.
    let orig_rax = u64::MAX;
    let order = [
        r15,
        r14,
        r13,
        r12,
        rbp,
        rbx,
        r11,
        r10,
        r9,
        r8,
        rax,
        rcx,
        rdx,
        rsi,
        rdi,
        orig_rax,
        vcpu.rip,
        cs,
        vcpu.rflags,
        rsp,
        ss,
        vcpu.segments[3].base,
        vcpu.segments[4].base,
        ds,
        es,
        fs,
        gs,
    ];
    let mut out = vec![0; REGISTERS_AT];
    out[PROCESS_AT..PROCESS_AT + 4].copy_from_slice(&(vcpu.vcpu + 1).to_le_bytes());
    out.extend(order.iter().flat_map(|word| word.to_le_bytes()));
    out.resize(LENGTH, 0);
    out
}

/// QEMU's `QEMUCPUState`, version 1.
fn qemu_state(vcpu: &Registers) -> Vec<u8> {
    const LENGTH: u32 = 440;
    let [rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, rest @ ..] = vcpu.general;
    let mut out = [1u32, LENGTH].iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let general = [rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp].into_iter().chain(rest).chain([vcpu.rip, vcpu.rflags]);
    out.extend(general.flat_map(u64::to_le_bytes));
    for segment in vcpu.segments {
        // QEMU has the attributes where the descriptor has them.
        for word in [segment.selector, segment.limit, segment.attributes << 8, 0] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&segment.base.to_le_bytes());
    }
    out.extend(vcpu.cr.iter().flat_map(|word| word.to_le_bytes()));
    out.extend_from_slice(&vcpu.inactive_gs_base.to_le_bytes());
    debug_assert_eq!(out.len(), LENGTH as usize);
    out
}
