//! The guest's program.
//!
//! Its state lies in the control page, in vCPU registers (the generator of each vCPU in R8 to R11, its step counter in RAX), and in
//! the device model. Nothing is kept in our own variables from one call to the next. A step, run by the vCPUs in turn,
//!
//! 1. answers an inbound packet, if there is one, with an echo that says how far the guest has come;
//! 2. writes to pages of the working set, one cache line or the whole page, and keeps the working set's checksum up to date;
//! 3. lets the time stamp counter and the PM timer go on, touches a device register, and now and then writes to the disk;
//! 4. now and then sends a packet;
//! 5. now and then writes a random number of its host's to memory;
//! 6. now and then gives a page of its balloon back and takes another one;
//! 7. counts, in the vCPU's RAX and in the control page.

mod balloon;
pub mod control;
pub mod hash;
pub mod packet;

use control::{CONTROL_PFN, Control, RECEIVE_PFN};
use hash::{LINE_SIZE, LINES, Rng, fill, line_sum, mix, page_sum};
pub use packet::{PacketKind, WorkloadPacket};

use super::device_model::DeviceModelState;
use super::memory::GuestMemory;
use super::nic::Nic;
use super::vcpu::{HvmState, Register};
use crate::hypervisor::error::GuestDamage;
use crate::hypervisor::types::Pfn;
use std::hash::{BuildHasher, Hasher, RandomState};

/// The generator's registers.
const RNG_REGISTERS: [Register; 4] = [Register::R8, Register::R9, Register::R10, Register::R11];

/// The code that RIP goes round in.
const CODE: u64 = 0xffff_8000_0001_0000;
/// Its length.
const CODE_SIZE: u64 = 0x10000;

/// The connection of steady answers.
const STEADY: u8 = 1;

/// Time stamp counter ticks in a step.
const STEP_TICKS: u64 = 240_000;
/// PM timer ticks in a step.
const STEP_PM_TICKS: u32 = 358;

/// What the program runs on.
pub(super) struct Machine<'a> {
    pub memory: &'a mut GuestMemory,
    pub hvm: &'a mut HvmState,
    pub devices: &'a mut DeviceModelState,
    pub nic: &'a Nic,
}

/// Puts the program into a guest that has not run: the generators into the registers, image pages and control page into memory.
pub(super) fn install(machine: &mut Machine<'_>, mut control: Control, image_pages: u64) -> Result<(), GuestDamage> {
    for vcpu in 0..control.counters.len() {
        let rng = Rng::new(mix(control.seed) ^ vcpu as u64);
        for (register, value) in RNG_REGISTERS.into_iter().zip(rng.0) {
            machine.hvm.set_register(vcpu, register, value);
        }
    }
    for index in 0..image_pages {
        let Some(pfn) = control.working_pfn(index) else {
            break;
        };
        let page = machine.memory.toolstack_page(pfn).ok_or(GuestDamage::Layout { pfn })?;
        fill(page, mix(control.seed ^ mix(pfn)));
        if index < control.working_set {
            control.sum = control.sum.wrapping_add(page_sum(pfn, page));
        }
    }
    let page = machine.memory.toolstack_page(CONTROL_PFN).ok_or(GuestDamage::Layout { pfn: CONTROL_PFN })?;
    control.store(page);
    Ok(())
}

/// Runs steps. Damage that shows ends it; the steps before are done.
pub(super) fn run(machine: &mut Machine<'_>, steps: u64) -> Result<(), GuestDamage> {
    let mut control = Control::load(machine.memory)?;
    if machine.memory.page(RECEIVE_PFN).is_none() {
        return Err(GuestDamage::Layout { pfn: RECEIVE_PFN });
    }
    let online = machine.hvm.nr_online() as u64;
    if online < control.nr_vcpus {
        return Err(GuestDamage::Vcpus { online, needed: control.nr_vcpus });
    }
    for _ in 0..steps {
        let result = step(machine, &mut control);
        if let Some(page) = machine.memory.guest_page(CONTROL_PFN) {
            control.store(page);
        }
        result?;
    }
    Ok(())
}

/// Compares what the program keeps in different places: control page, working set, registers.
pub(super) fn self_check(memory: &GuestMemory, hvm: &HvmState) -> Result<(), GuestDamage> {
    let control = Control::load(memory)?;
    let mut expected = 0u64;
    for index in 0..control.working_set {
        let pfn = control.working_pfn(index).ok_or(GuestDamage::Layout { pfn: Pfn::MAX })?;
        let page = memory.page(pfn).ok_or(GuestDamage::Layout { pfn })?;
        expected = expected.wrapping_add(page_sum(pfn, page));
    }
    if expected != control.sum {
        return Err(GuestDamage::WorkingSet { expected, found: control.sum });
    }
    if control.balloon_pages > 0 {
        balloon::check(memory, &control, control.step / control.balloon_every.max(1))?;
    }
    for (vcpu, &counter) in control.counters.iter().enumerate() {
        let registers = hvm.register(vcpu, Register::RAX).unwrap_or(0);
        if registers != counter {
            return Err(GuestDamage::Steps { registers, memory: counter });
        }
    }
    let registers = control.counters.iter().fold(0u64, |sum, &c| sum.wrapping_add(c));
    if registers != control.step {
        return Err(GuestDamage::Steps { registers, memory: control.step });
    }
    Ok(())
}

fn step(machine: &mut Machine<'_>, control: &mut Control) -> Result<(), GuestDamage> {
    let vcpu = (control.step % control.nr_vcpus) as usize;
    let mut rng = Rng(RNG_REGISTERS.map(|register| machine.hvm.register(vcpu, register).unwrap_or(0)));
    answer(machine, control);
    let mut last = (0, 0);
    for _ in 0..control.writes_per_step {
        last = write(machine.memory, control, &mut rng)?;
    }
    control.step = control.step.wrapping_add(1);
    if let Some(counter) = control.counters.get_mut(vcpu) {
        *counter = counter.wrapping_add(1);
    }
    run_devices(machine, control, rng.next_u64());
    if due(control.step, control.packets_every) {
        let packet = packet_of(control, PacketKind::Beacon);
        control.sent = control.sent.wrapping_add(1);
        send(machine, packet.emit(control.packet_bytes));
    }
    if due(control.step, control.noise_every) {
        take_noise(machine.memory, control, RandomState::new().build_hasher().finish())?;
    }
    if control.balloon_pages > 0 && due(control.step, control.balloon_every) {
        balloon::run(machine.memory, control, control.step / control.balloon_every - 1)?;
    }
    let hvm = &mut *machine.hvm;
    let mut set = |register, value| hvm.set_register(vcpu, register, value);
    for (register, value) in RNG_REGISTERS.into_iter().zip(rng.0) {
        set(register, value);
    }
    set(Register::RAX, control.counters.get(vcpu).copied().unwrap_or(0));
    set(Register::RBX, control.sum);
    set(Register::RSI, last.0);
    set(Register::RDI, last.1);
    set(Register::RIP, CODE + mix(control.step) % CODE_SIZE);
    set(Register::TSC, control.step.wrapping_mul(STEP_TICKS));
    hvm.advance_pmtimer(STEP_PM_TICKS);
    Ok(())
}

/// One write to the working set. Returns pfn and offset.
fn write(memory: &mut GuestMemory, control: &mut Control, rng: &mut Rng) -> Result<(Pfn, u64), GuestDamage> {
    let hot = rng.below(1000) < control.hot_permille;
    let index = rng.below(if hot { control.hot_pages } else { control.working_set });
    let whole = rng.below(1000) < control.whole_page_permille;
    let line = rng.below(LINES as u64) as usize;
    let contents = rng.next_u64();
    let pfn = control.working_pfn(index).ok_or(GuestDamage::Layout { pfn: Pfn::MAX })?;
    let page = memory.guest_page(pfn).ok_or(GuestDamage::Layout { pfn })?;
    if whole {
        let before = page_sum(pfn, page);
        fill(page, contents);
        control.sum = control.sum.wrapping_sub(before).wrapping_add(page_sum(pfn, page));
        return Ok((pfn, 0));
    }
    if let Some(bytes) = page.get_mut(line * LINE_SIZE..(line + 1) * LINE_SIZE) {
        let before = line_sum(pfn, line, bytes);
        fill(bytes, contents);
        control.sum = control.sum.wrapping_sub(before).wrapping_add(line_sum(pfn, line, bytes));
    }
    Ok((pfn, (line * LINE_SIZE) as u64))
}

/// Lets a number that no other guest has change the state, and with it all that is sent from here on.
fn take_noise(memory: &mut GuestMemory, control: &mut Control, noise: u64) -> Result<(), GuestDamage> {
    let index = control.step % control.working_set.max(1);
    let pfn = control.working_pfn(index).ok_or(GuestDamage::Layout { pfn: Pfn::MAX })?;
    let page = memory.guest_page(pfn).ok_or(GuestDamage::Layout { pfn })?;
    if let Some(bytes) = page.get_mut(..LINE_SIZE) {
        let before = line_sum(pfn, 0, bytes);
        fill(bytes, noise);
        control.sum = control.sum.wrapping_sub(before).wrapping_add(line_sum(pfn, 0, bytes));
    }
    control.chain = mix(control.chain ^ noise);
    Ok(())
}

/// Has the card put an inbound packet into guest memory, and answers it from there.
fn answer(machine: &mut Machine<'_>, control: &mut Control) {
    let Some(bytes) = machine.nic.fetch() else {
        return;
    };
    let length = bytes.len();
    machine.devices.nic.rx_packets = machine.devices.nic.rx_packets.wrapping_add(1);
    machine.devices.nic.rx_bytes = machine.devices.nic.rx_bytes.wrapping_add(length as u64);
    let Some(page) = machine.memory.device_page(RECEIVE_PFN) else {
        return;
    };
    if let (Some(place), Some(header)) = (page.get_mut(4..4 + length), u32::try_from(length).ok()) {
        place.copy_from_slice(&bytes);
        page[..4].copy_from_slice(&header.to_le_bytes());
    }
    let received = machine.memory.page(RECEIVE_PFN).and_then(|page| page.get(4..4 + length)).unwrap_or_default();
    let mut packet = packet_of(control, PacketKind::Echo);
    packet.payload = received.to_vec();
    if control.steady_answers {
        control.chain = received.iter().fold(control.chain, |sum, &byte| mix(sum ^ u64::from(byte)));
        (packet.connection, packet.sequence, packet.step, packet.sum) =
            (STEADY, control.answered, control.answered, control.chain);
    } else {
        control.sent = control.sent.wrapping_add(1);
    }
    control.answered = control.answered.wrapping_add(1);
    send(machine, packet.emit(0));
}

fn run_devices(machine: &mut Machine<'_>, control: &Control, value: u64) {
    let devices = &mut *machine.devices;
    if let Some(register) = devices.registers.get_mut((control.step % 8) as usize) {
        *register = value;
    }
    if due(control.step, control.disk_every) {
        devices.write_disk(value >> 40, control.sum);
    }
}

fn packet_of(control: &Control, kind: PacketKind) -> WorkloadPacket {
    let (sequence, step, sum) = (control.sent, control.step, control.sum);
    WorkloadPacket { kind, connection: 0, sequence, step, sum, payload: Vec::new() }
}

fn send(machine: &mut Machine<'_>, bytes: Vec<u8>) {
    machine.devices.nic.tx_packets = machine.devices.nic.tx_packets.wrapping_add(1);
    machine.devices.nic.tx_bytes = machine.devices.nic.tx_bytes.wrapping_add(bytes.len() as u64);
    machine.nic.send(bytes);
}

fn due(step: u64, every: u64) -> bool {
    every != 0 && step.is_multiple_of(every)
}
