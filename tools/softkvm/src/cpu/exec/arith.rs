//! Two-operand arithmetic and logic, INC/DEC/NEG/NOT, sign extension, ADCX/ADOX.

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::flags::Flags;
use crate::cpu::operand::{mask, operand_size, read, set_gpr, sext, update, write};
use crate::cpu::state::{RAX, RDX};
use crate::cpu::{Processor, Step};

/// Sets the six flags from a result and its carry vector at `size` bytes.
pub(super) fn set_carries(flags: &mut Flags, size: usize, result: u64, carries: u64) {
    let result = sext(result, size);
    match size {
        1 => flags.set::<8>(result, carries),
        2 => flags.set::<16>(result, carries),
        4 => flags.set::<32>(result, carries),
        _ => flags.set::<64>(result, carries),
    }
}

/// `a + b + carry`, setting all six flags.
pub(super) fn add(flags: &mut Flags, size: usize, a: u64, b: u64, carry: bool) -> u64 {
    let r = a.wrapping_add(b).wrapping_add(u64::from(carry));
    set_carries(flags, size, r, (a & b) | ((a | b) & !r));
    r & mask(size)
}

/// `a - b - borrow`, setting all six flags.
pub(super) fn sub(flags: &mut Flags, size: usize, a: u64, b: u64, borrow: bool) -> u64 {
    let r = a.wrapping_sub(b).wrapping_sub(u64::from(borrow));
    set_carries(flags, size, r, (!a & b) | ((!a | b) & r));
    r & mask(size)
}

fn logic(flags: &mut Flags, size: usize, r: u64) -> u64 {
    flags.set_logic(sext(r, size));
    r & mask(size)
}

fn binary(flags: &mut Flags, op: Mnemonic, size: usize, a: u64, b: u64) -> u64 {
    let carry = flags.cf();
    match op {
        Mnemonic::Add => add(flags, size, a, b, false),
        Mnemonic::Adc => add(flags, size, a, b, carry),
        Mnemonic::Sub | Mnemonic::Cmp => sub(flags, size, a, b, false),
        Mnemonic::Sbb => sub(flags, size, a, b, carry),
        Mnemonic::Or => logic(flags, size, a | b),
        Mnemonic::Xor => logic(flags, size, a ^ b),
        // AND and TEST.
        _ => logic(flags, size, a & b),
    }
}

/// ADD, ADC, SUB, SBB, AND, OR, XOR.
pub(super) fn two_operands(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    let b = read(p, insn, 1, size)?;
    let mut flags = p.core.flags;
    update(p, insn, 0, size, |a| binary(&mut flags, insn.mnemonic(), size, a, b))?;
    p.core.flags = flags;
    Ok(())
}

/// CMP and TEST.
pub(super) fn compare(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    let a = read(p, insn, 0, size)?;
    let b = read(p, insn, 1, size)?;
    binary(&mut p.core.flags, insn.mnemonic(), size, a, b);
    Ok(())
}

/// INC, DEC, NEG, NOT.
pub(super) fn one_operand(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    let mut flags = p.core.flags;
    let carry = flags.cf();
    update(p, insn, 0, size, |a| match insn.mnemonic() {
        Mnemonic::Inc => {
            let r = add(&mut flags, size, a, 1, false);
            flags.set_cf(carry);
            r
        }
        Mnemonic::Dec => {
            let r = sub(&mut flags, size, a, 1, false);
            flags.set_cf(carry);
            r
        }
        Mnemonic::Neg => sub(&mut flags, size, 0, a, false),
        // NOT changes no flag.
        _ => !a,
    })?;
    p.core.flags = flags;
    Ok(())
}

/// CBW, CWDE, CDQE, CWD, CDQ, CQO.
pub(super) fn sign_extend(p: &mut Processor, insn: &Instruction) -> Step {
    let rax = p.core.gpr[RAX];
    match insn.mnemonic() {
        Mnemonic::Cbw => set_gpr(p, RAX, 2, sext(rax, 1)),
        Mnemonic::Cwde => set_gpr(p, RAX, 4, sext(rax, 2)),
        Mnemonic::Cdqe => set_gpr(p, RAX, 8, sext(rax, 4)),
        Mnemonic::Cwd => set_gpr(p, RDX, 2, sext(rax, 2) >> 16),
        Mnemonic::Cdq => set_gpr(p, RDX, 4, sext(rax, 4) >> 32),
        // CQO.
        _ => set_gpr(p, RDX, 8, ((rax as i64) >> 63) as u64),
    }
    Ok(())
}

/// ADCX and ADOX: an addition with carry through CF or OF alone.
pub(super) fn add_one_flag(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    let a = read(p, insn, 0, size)?;
    let b = read(p, insn, 1, size)?;
    let (cf, of) = (p.core.flags.cf(), p.core.flags.of());
    let through_cf = insn.mnemonic() == Mnemonic::Adcx;
    let carry = if through_cf { cf } else { of };
    let sum = u128::from(a) + u128::from(b) + u128::from(carry);
    let out = sum >> (size * 8) != 0;
    write(p, insn, 0, size, sum as u64)?;
    if through_cf {
        p.core.flags.set_cf_of(out, of);
    } else {
        p.core.flags.set_cf_of(cf, out);
    }
    Ok(())
}
