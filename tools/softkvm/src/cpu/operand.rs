//! Operands of a decoded instruction: where memory operands lie, and general registers.

use iced_x86::{Instruction, Register};

use super::processor::Processor;
use super::state::Seg;
use super::world::{Access, Step};

const SEGMENTS: [Seg; 6] = [Seg::Es, Seg::Cs, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs];

/// Segment and offset of the memory operand; the offset is cut to the address size.
pub fn address(p: &Processor, insn: &Instruction) -> (Seg, u64) {
    let base = insn.memory_base();
    let index = insn.memory_index();
    let mut offset = insn.memory_displacement64();
    let mut size = insn.memory_displ_size() as usize;
    if base != Register::None {
        size = base.size();
        // For RIP-relative operands the decoder has already added the instruction pointer.
        if !base.is_ip() {
            offset = offset.wrapping_add(p.core.gpr[base.number()]);
        }
    }
    if index != Register::None {
        size = index.size();
        let value = match size {
            8 => p.core.gpr[index.number()],
            4 => u64::from(p.core.gpr[index.number()] as u32),
            _ => u64::from(p.core.gpr[index.number()] as u16),
        };
        offset = offset.wrapping_add(value.wrapping_mul(u64::from(insn.memory_index_scale())));
    }
    let offset = match size {
        4 => offset & 0xffff_ffff,
        2 => offset & 0xffff,
        _ => offset,
    };
    (segment(insn.memory_segment()), offset)
}

/// The segment register the decoder names.
pub fn segment(register: Register) -> Seg {
    SEGMENTS[register.number().min(5)]
}

/// A general register of 2, 4 or 8 bytes, zero-extended.
pub fn gpr(p: &Processor, register: Register) -> u64 {
    let value = p.core.gpr[register.number()];
    match register.size() {
        8 => value,
        4 => u64::from(value as u32),
        _ => u64::from(value as u16),
    }
}

/// Writes a general register of 2, 4 or 8 bytes; 32-bit writes clear the upper half.
pub fn set_gpr(p: &mut Processor, register: Register, value: u64) {
    let slot = &mut p.core.gpr[register.number()];
    *slot = match register.size() {
        8 => value,
        4 => u64::from(value as u32),
        _ => *slot & !0xffff | value & 0xffff,
    };
}

/// Faults as an access to a save area does on AMD processors: they touch its first element of
/// `first` bytes and then its last byte.
pub fn probe_area(p: &mut Processor, la: u64, first: usize, len: usize, access: Access) -> Step {
    let user = p.core.cpl == 3;
    let last = la.wrapping_add(len as u64 - 1);
    match access {
        Access::Write => {
            p.probe_write(la, first, user)?;
            p.probe_write(last, 1, user)
        }
        _ => {
            p.probe_read(la, first, user)?;
            p.probe_read(last, 1, user)
        }
    }
}

/// Retires an instruction that does not branch.
#[inline]
pub fn next(p: &mut Processor, insn: &Instruction) -> Step {
    p.core.rip = insn.next_ip();
    Ok(())
}
