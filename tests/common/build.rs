//! Streams byte by byte, written without the library's emitter so that tests of the parser do not lean on it.

pub const PAGE: usize = 4096;

/// A record as it stands on the wire, padding included.
pub fn record(type_id: u32, body: &[u8]) -> Vec<u8> {
    let mut out = [type_id.to_le_bytes(), (body.len() as u32).to_le_bytes()].concat();
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

pub fn libxl_header() -> Vec<u8> {
    b"LibxlFmt\0\0\0\x02\0\0\0\0".to_vec()
}

/// libxc's two headers: domain type 1 is PV, 2 is HVM.
pub fn libxc_headers(version: u32, domain: u32) -> Vec<u8> {
    let mut out = vec![0xff; 8];
    out.extend_from_slice(b"XENF");
    out.extend_from_slice(&version.to_be_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&domain.to_le_bytes());
    out.extend_from_slice(&[12, 0, 0, 0]);
    out.extend_from_slice(&4u32.to_le_bytes());
    out.extend_from_slice(&17u32.to_le_bytes());
    out
}

pub fn xl_preamble(config: &[u8]) -> Vec<u8> {
    let mut out = b"Xen saved domain, xl format\n \0 \r".to_vec();
    let words = [0x0102_0304u32, 3, 0, config.len() as u32 + 4, config.len() as u32];
    out.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    out.extend_from_slice(config);
    out
}

/// A PAGE_DATA body with these entries and that many pages of contents.
pub fn pages(entries: &[u64], pages: usize) -> Vec<u8> {
    let mut out = (entries.len() as u64).to_le_bytes().to_vec();
    out.extend(entries.iter().flat_map(|entry| entry.to_le_bytes()));
    for page in 0..pages {
        out.resize(out.len() + PAGE, page as u8 + 1);
    }
    out
}

/// A HVM context: entries of (typecode, instance, data) and END.
pub fn hvm_context(entries: &[(u16, u16, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (typecode, instance, data) in entries.iter().chain([&(0, 0, &[][..])]) {
        out.extend_from_slice(&typecode.to_le_bytes());
        out.extend_from_slice(&instance.to_le_bytes());
        out.extend_from_slice(&(data.len() as u32).to_le_bytes());
        out.extend_from_slice(data);
    }
    out
}

/// A HVM context with what a vCPU needs: registers as after a reset, and its APIC.
pub fn small_context() -> Vec<u8> {
    let mut header = [0x5438_1286u32.to_le_bytes(), 1u32.to_le_bytes()].concat();
    header.resize(24, 0);
    let mut cpu = vec![0; 1032];
    // CR0 with `et`.
    cpu[656] = 0x10;
    hvm_context(&[(1, 0, &header), (2, 0, &cpu), (5, 0, &[0; 24]), (6, 0, &[0; 1024])])
}

pub fn hvm_params(params: &[(u64, u64)]) -> Vec<u8> {
    let mut out = (params.len() as u64).to_le_bytes().to_vec();
    out.extend(params.iter().flat_map(|(index, value)| [index.to_le_bytes(), value.to_le_bytes()].concat()));
    out
}

pub fn tsc_info() -> Vec<u8> {
    let mut out = vec![0; 24];
    out[4..8].copy_from_slice(&2_400_000u32.to_le_bytes());
    out
}

/// An emulator record's body: sub-header of qemu-upstream and the data.
pub fn emulator(data: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 0, 0, 0][..], data].concat()
}

/// QEMU's state, of one device.
pub fn qemu_state() -> Vec<u8> {
    let mut out = b"QEVM\0\0\0\x03\x04\0\0\0\0\x05timer\0\0\0\0\0\0\0\x02".to_vec();
    out.extend_from_slice(&[0; 24 + 1]);
    out
}

/// The state records of a HVM round, in the specification's order.
pub fn hvm_state() -> Vec<u8> {
    let params = record(10, &hvm_params(&[(1, 0xfeffc), (17, 0xfeffd)]));
    [record(8, &tsc_info()), params, record(9, &small_context())].concat()
}

/// The static records of a HVM stream.
pub fn hvm_static() -> Vec<u8> {
    [record(0x11, &[0; 24]), record(0x12, &[0; 16]), record(0x10, &[])].concat()
}

/// A whole HVM stream of libxc without any remark: two pages, one of them a hole.
pub fn hvm_libxc() -> Vec<u8> {
    let image = [libxc_headers(3, 2), hvm_static(), record(1, &pages(&[0, 0xf << 60 | 1], 1))].concat();
    [image, hvm_state(), record(0, &[])].concat()
}

/// The same between libxl's records, behind xl's preamble.
pub fn hvm_xl() -> Vec<u8> {
    let head = [xl_preamble(b"{\"c_info\": {\"name\": \"t\"}}\0"), libxl_header(), record(1, &[])].concat();
    let device = [record(2, &emulator(b"key\0value\0")), record(3, &emulator(&qemu_state()))].concat();
    [head, hvm_libxc(), device, record(0, &[])].concat()
}

/// libxl's part of a checkpoint.
pub fn libxl_checkpoint() -> Vec<u8> {
    [record(2, &emulator(b"key\0value\0")), record(3, &emulator(&qemu_state())), record(4, &[])].concat()
}

/// A Remus stream of libxl with `rounds` checkpoints; gives the offsets behind each of them too.
pub fn hvm_remus(rounds: usize) -> (Vec<u8>, Vec<usize>) {
    let mut out = [libxl_header(), record(1, &[]), libxc_headers(3, 2), hvm_static()].concat();
    let mut ends = Vec::new();
    for round in 0..rounds {
        out.extend(record(1, &pages(&[round as u64], 1)));
        out.extend(hvm_state());
        out.extend(record(14, &[]));
        out.extend(libxl_checkpoint());
        ends.push(out.len());
    }
    (out, ends)
}

/// The records of a 64-bit PV guest up to its pages.
pub fn pv_head() -> Vec<u8> {
    let p2m = [&0u32.to_le_bytes()[..], &1u32.to_le_bytes(), &0u64.to_le_bytes()].concat();
    let head = [libxc_headers(3, 1), record(2, &[8, 4, 0, 0, 0, 0, 0, 0]), record(0x10, &[])].concat();
    [head, record(3, &p2m), record(1, &pages(&[0], 1))].concat()
}

/// A vCPU record's body.
pub fn vcpu(id: u32, context: usize) -> Vec<u8> {
    let mut out = u64::from(id).to_le_bytes().to_vec();
    out.resize(8 + context, 0x55);
    out
}

/// The body of X86_PV_VCPU_XSAVE of a vCPU that has not used any of it, and of X86_PV_VCPU_MSRS with TSC_AUX.
pub fn vcpu_xsave(id: u32) -> Vec<u8> {
    let mut out = u64::from(id).to_le_bytes().to_vec();
    out.resize(8 + 848, 0);
    out
}

/// See [`vcpu_xsave`].
pub fn vcpu_msrs(id: u32) -> Vec<u8> {
    [&u64::from(id).to_le_bytes()[..], &0xc000_0103_u64.to_le_bytes(), &7u64.to_le_bytes()].concat()
}

/// A whole PV stream of libxc.
pub fn pv_libxc() -> Vec<u8> {
    let state = [record(8, &tsc_info()), record(7, &[0; PAGE]), record(4, &vcpu(0, 5168)), record(5, &vcpu(0, 64))];
    [pv_head(), state.concat(), record(6, &vcpu_xsave(0)), record(12, &vcpu_msrs(0)), record(0, &[])].concat()
}

/// A CHECKPOINT_STATE record as libxl writes it.
pub fn state(id: u32) -> Vec<u8> {
    record(5, &id.to_le_bytes())
}
