//! FNSTENV, FLDENV, FNSAVE and FRSTOR in their four image formats (AMD APM vol. 2, 11.4.4.3).

use iced_x86::{Code, Instruction};

use super::{available, wait};
use crate::cpu::flags::VM;
use crate::cpu::operand::{self, next};
use crate::cpu::processor::Processor;
use crate::cpu::state::{Fpu, Mode};
use crate::cpu::world::{Access, Step};

/// Longest environment, followed by eight 10-byte registers in FNSAVE.
const LONGEST: usize = 28;

/// Executes an instruction of this file; `None` if it is not one.
pub(super) fn execute(p: &mut Processor, insn: &Instruction) -> Option<Step> {
    Some(match insn.code() {
        Code::Fnstenv_m14byte | Code::Fstenv_m14byte => store(p, insn, false, false),
        Code::Fnstenv_m28byte | Code::Fstenv_m28byte => store(p, insn, true, false),
        Code::Fnsave_m94byte | Code::Fsave_m94byte => store(p, insn, false, true),
        Code::Fnsave_m108byte | Code::Fsave_m108byte => store(p, insn, true, true),
        Code::Fldenv_m14byte => load(p, insn, false, false),
        Code::Fldenv_m28byte => load(p, insn, true, false),
        Code::Frstor_m94byte => load(p, insn, false, true),
        Code::Frstor_m108byte => load(p, insn, true, true),
        _ => return None,
    })
}

/// Two tag bits per physical register: valid, zero, special, empty.
fn full_tags(fpu: &Fpu) -> u16 {
    let tag = |i: usize| {
        let (exponent, mantissa) = ((fpu.st[i] >> 64) as u16 & 0x7fff, fpu.st[i] as u64);
        match (fpu.ftw >> i & 1, exponent, mantissa) {
            (0, ..) => 3,
            (_, 0, 0) => 1,
            (_, 0 | 0x7fff, _) => 2,
            _ if mantissa >> 63 == 0 => 2,
            _ => 0,
        }
    };
    (0..8).fold(0, |tags, i| tags | tag(i) << (2 * i))
}

/// Real-mode formats hold linear pointers instead of offset and selector.
fn real_format(p: &Processor) -> bool {
    p.core.mode == Mode::Real16 || p.core.rflags & VM != 0
}

/// The environment's seven fields, in 16- or 32-bit slots.
fn fields(fpu: &Fpu, wide: bool, real: bool) -> [u32; 7] {
    let (fip, fdp, fop) = (fpu.fip as u32, fpu.fdp as u32, u32::from(fpu.fop));
    let pointers = match (wide, real) {
        (true, false) => [fip, fop << 16, fdp, 0xffff_0000],
        (false, false) => [fip, 0, fdp, 0],
        (true, true) => [fip & 0xffff, fip >> 16 << 12 | fop, fdp & 0xffff, fdp >> 16 << 12],
        (false, true) => [fip, (fip >> 16 & 15) << 12 | fop, fdp, (fdp >> 16 & 15) << 12],
    };
    // The upper halves of the three words read as ones in the 32-bit formats.
    let word = |value: u16| 0xffff_0000 | u32::from(value);
    let [a, b, c, d] = pointers;
    [word(fpu.fcw), word(fpu.fsw), word(full_tags(fpu)), a, b, c, d]
}

fn store(p: &mut Processor, insn: &Instruction, wide: bool, registers: bool) -> Step {
    available(p)?;
    let slot = if wide { 4 } else { 2 };
    let len = 7 * slot + if registers { 80 } else { 0 };
    let (segment, offset) = operand::address(p, insn);
    let la = p.linear_aligned(segment, offset, len, slot, Access::Write)?;
    let user = p.core.cpl == 3;
    operand::probe_area(p, la, slot, len, Access::Write)?;
    let at = |i: usize| la.wrapping_add(i as u64);
    for (i, field) in fields(&p.core.fpu, wide, real_format(p)).into_iter().enumerate() {
        if wide {
            p.store_linear(at(slot * i), user, field)?;
        } else {
            p.store_linear(at(slot * i), user, field as u16)?;
        }
    }
    if registers {
        let top = p.core.fpu.top();
        for i in 0..8 {
            let value = p.core.fpu.st[(top + i) & 7];
            p.store_linear(at(7 * slot + 10 * i), user, value as u64)?;
            p.store_linear(at(7 * slot + 10 * i + 8), user, (value >> 64) as u16)?;
        }
        p.core.fpu.init_x87();
    } else {
        p.core.fpu.fcw |= 0x3f;
        p.core.fpu.update_summary();
    }
    next(p, insn)
}

fn load(p: &mut Processor, insn: &Instruction, wide: bool, registers: bool) -> Step {
    wait(p)?;
    let slot = if wide { 4 } else { 2 };
    let len = 7 * slot + if registers { 80 } else { 0 };
    let (segment, offset) = operand::address(p, insn);
    let la = p.linear_aligned(segment, offset, len, slot, Access::Read)?;
    let user = p.core.cpl == 3;
    let mut image = [0u8; LONGEST + 80];
    operand::probe_area(p, la, slot, len, Access::Read)?;
    for (i, byte) in image[..len].iter_mut().enumerate() {
        *byte = p.load_linear(la.wrapping_add(i as u64), user)?;
    }
    let field = |i: usize| {
        let mut bytes = [0; 4];
        bytes[..slot].copy_from_slice(&image[slot * i..slot * (i + 1)]);
        u32::from_le_bytes(bytes)
    };
    let real = real_format(p);
    let pointer = |offset: u32, high: u32| match real {
        true => offset & 0xffff | (high >> 12) << 16,
        false => offset,
    };
    let fpu = &mut p.core.fpu;
    fpu.fcw = field(0) as u16 & 0x1f7f | 0x40;
    fpu.fsw = field(1) as u16;
    let tags = field(2);
    fpu.ftw = (0..8).filter(|i| tags >> (2 * i) & 3 != 3).fold(0, |ftw, i| ftw | 1 << i);
    fpu.fip = u64::from(pointer(field(3), field(4)));
    fpu.fop = match (wide, real) {
        (true, false) => (field(4) >> 16) as u16 & 0x7ff,
        (_, true) => field(4) as u16 & 0x7ff,
        (false, false) => 0,
    };
    fpu.fdp = u64::from(pointer(field(5), field(6)));
    fpu.update_summary();
    if registers {
        let top = fpu.top();
        for i in 0..8 {
            let mut value = [0; 16];
            value[..10].copy_from_slice(&image[7 * slot + 10 * i..7 * slot + 10 * (i + 1)]);
            fpu.st[(top + i) & 7] = u128::from_le_bytes(value);
        }
    }
    next(p, insn)
}
