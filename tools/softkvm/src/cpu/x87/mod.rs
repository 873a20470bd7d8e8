//! x87 instructions.
//!
//! Arithmetic runs on the host's x87 unit (`host`); memory operands, environment images,
//! exception reporting and the last-instruction pointers are kept here. The last opcode (FOP)
//! stays zero and the pointers' selectors are stored as zero, as processors do that report them
//! only for unmasked exceptions (CPUID 0x80000008 EBX bit 2) and deprecate the selectors.

mod environment;
mod host;

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::operand::{self, next};
use super::processor::Processor;
use super::state::{RAX, cr0};
use super::world::{Access, Exception, Step};

/// Precision is the only unmasked exception that does not prevent a store.
const PREVENTS_STORE: u16 = 0x1f;

/// Executes an x87 instruction; `None` if it is not one.
pub fn execute(p: &mut Processor, insn: &Instruction) -> Option<Step> {
    control(p, insn)
        .or_else(|| environment::execute(p, insn))
        .or_else(|| conditional_move(p, insn))
        .or_else(|| compare_flags(p, insn))
        .or_else(|| arithmetic(p, insn))
}

/// #NM if the x87 unit is emulated or its state is not loaded.
fn available(p: &mut Processor) -> Step {
    if p.core.cr0 & (cr0::EM | cr0::TS) != 0 {
        return Err(p.fault(Exception::NM));
    }
    Ok(())
}

/// #MF if an earlier instruction left an unmasked exception.
pub(super) fn pending(p: &mut Processor) -> Step {
    if p.core.fpu.fsw & !p.core.fpu.fcw & 0x3f == 0 {
        return Ok(());
    }
    if p.core.cr0 & cr0::NE == 0 {
        // The PC's FERR#/IRQ 13 wiring; no operating system of this machine uses it.
        return Err(p.unknown("an x87 exception reported through FERR# (CR0.NE is clear)"));
    }
    Err(p.fault(Exception::MF))
}

/// Checks of a waiting instruction.
fn wait(p: &mut Processor) -> Step {
    available(p)?;
    pending(p)
}

/// Records instruction and data pointers of a non-control instruction.
fn record_pointers(p: &mut Processor, insn: &Instruction) {
    p.core.fpu.fip = p.core.rip;
    if (0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Memory) {
        p.core.fpu.fdp = operand::address(p, insn).1;
    }
}

/// Control instructions without an environment image.
fn control(p: &mut Processor, insn: &Instruction) -> Option<Step> {
    use Mnemonic as M;
    Some(match insn.mnemonic() {
        M::Wait => fwait(p, insn),
        M::Fninit | M::Finit => non_waiting(p, insn, |p| p.core.fpu.init_x87()),
        M::Fnclex | M::Fclex => non_waiting(p, insn, |p| p.core.fpu.fsw &= 0x7f00),
        // Without effect since the 387.
        M::Fneni | M::Feni | M::Fndisi | M::Fdisi | M::Fnsetpm | M::Fsetpm => {
            non_waiting(p, insn, |_| ())
        }
        M::Fnstsw | M::Fstsw => store_word(p, insn, |p| p.core.fpu.fsw),
        M::Fnstcw | M::Fstcw => store_word(p, insn, |p| p.core.fpu.fcw),
        M::Fldcw => load_control(p, insn),
        M::Emms => emms(p, insn),
        _ => return None,
    })
}

fn fwait(p: &mut Processor, insn: &Instruction) -> Step {
    if p.core.cr0 & cr0::MP != 0 && p.core.cr0 & cr0::TS != 0 {
        return Err(p.fault(Exception::NM));
    }
    pending(p)?;
    next(p, insn)
}

fn non_waiting(p: &mut Processor, insn: &Instruction, f: impl FnOnce(&mut Processor)) -> Step {
    available(p)?;
    f(p);
    next(p, insn)
}

fn store_word(p: &mut Processor, insn: &Instruction, f: impl FnOnce(&Processor) -> u16) -> Step {
    available(p)?;
    let value = f(p);
    if insn.op0_kind() == OpKind::Register {
        p.core.gpr[RAX] = p.core.gpr[RAX] & !0xffff | u64::from(value);
    } else {
        let (segment, offset) = operand::address(p, insn);
        p.store(segment, offset, value)?;
    }
    next(p, insn)
}

fn load_control(p: &mut Processor, insn: &Instruction) -> Step {
    wait(p)?;
    let (segment, offset) = operand::address(p, insn);
    let value = p.load::<u16>(segment, offset)?;
    p.core.fpu.fcw = value & 0x1f7f | 0x40;
    p.core.fpu.update_summary();
    next(p, insn)
}

fn emms(p: &mut Processor, insn: &Instruction) -> Step {
    if p.core.cr0 & cr0::EM != 0 {
        return Err(p.fault(Exception::UD));
    }
    wait(p)?;
    p.core.fpu.enter_mmx();
    p.core.fpu.ftw = 0;
    next(p, insn)
}

/// Index of the ST register that is not ST(0), or 0.
fn other(insn: &Instruction) -> usize {
    (0..insn.op_count())
        .filter(|&i| insn.op_kind(i) == OpKind::Register)
        .map(|i| insn.op_register(i).number())
        .find(|&n| n != 0)
        .unwrap_or(0)
}

fn conditional_move(p: &mut Processor, insn: &Instruction) -> Option<Step> {
    use Mnemonic as M;
    let flags = p.core.flags;
    let condition = match insn.mnemonic() {
        M::Fcmovb => flags.cf(),
        M::Fcmove => flags.zf(),
        M::Fcmovbe => flags.cf() || flags.zf(),
        M::Fcmovu => flags.pf(),
        M::Fcmovnb => !flags.cf(),
        M::Fcmovne => !flags.zf(),
        M::Fcmovnbe => !(flags.cf() || flags.zf()),
        M::Fcmovnu => !flags.pf(),
        _ => return None,
    };
    Some(wait(p).and_then(|()| {
        host::conditional_move(condition, other(insn), &mut p.core.fpu);
        record_pointers(p, insn);
        next(p, insn)
    }))
}

fn compare_flags(p: &mut Processor, insn: &Instruction) -> Option<Step> {
    use Mnemonic as M;
    if !matches!(insn.mnemonic(), M::Fcomi | M::Fcomip | M::Fucomi | M::Fucomip) {
        return None;
    }
    if let Err(trapped) = wait(p) {
        return Some(Err(trapped));
    }
    let flags = host::compare_flags(insn.code(), other(insn), &mut p.core.fpu)?;
    // AMD processors set RFLAGS to "unordered" even if the invalid operation is unmasked.
    p.core.flags.load(flags);
    record_pointers(p, insn);
    Some(next(p, insn))
}

/// Everything whose arithmetic is the host's.
fn arithmetic(p: &mut Processor, insn: &Instruction) -> Option<Step> {
    let code = insn.code();
    let mut fpu = p.core.fpu.clone();
    if insn.op_count() == 1 && insn.op0_kind() == OpKind::Memory
        || insn.op1_kind() == OpKind::Memory
    {
        return memory(p, insn);
    }
    if !is_x87(insn) {
        return None;
    }
    if let Err(trapped) = wait(p) {
        return Some(Err(trapped));
    }
    fpu.fsw = p.core.fpu.fsw;
    let i = other(insn);
    let known = host::arithmetic(code, i, &mut fpu)
        || host::stack(code, i, &mut fpu)
        || host::plain(code, &mut fpu);
    if !known {
        return None;
    }
    p.core.fpu = fpu;
    record_pointers(p, insn);
    Some(next(p, insn))
}

/// Whether the host is asked about the instruction at all.
fn is_x87(insn: &Instruction) -> bool {
    use iced_x86::CpuidFeature as C;
    insn.cpuid_features().iter().any(|f| matches!(f, C::FPU | C::FPU287 | C::FPU387))
}

/// Instructions that read or write a number in memory.
fn memory(p: &mut Processor, insn: &Instruction) -> Option<Step> {
    let code = insn.code();
    if is_store(code) {
        return Some(store(p, insn));
    }
    if !is_x87(insn) && code != Code::Fisttp_m16int {
        return None;
    }
    Some(load(p, insn))
}

fn is_store(code: Code) -> bool {
    matches!(
        code,
        Code::Fst_m32fp
            | Code::Fst_m64fp
            | Code::Fstp_m32fp
            | Code::Fstp_m64fp
            | Code::Fstp_m80fp
            | Code::Fist_m16int
            | Code::Fist_m32int
            | Code::Fistp_m16int
            | Code::Fistp_m32int
            | Code::Fistp_m64int
            | Code::Fisttp_m16int
            | Code::Fisttp_m32int
            | Code::Fisttp_m64int
            | Code::Fbstp_m80bcd
    )
}

fn load(p: &mut Processor, insn: &Instruction) -> Step {
    wait(p)?;
    let mut buffer = [0; 16];
    let len = insn.memory_size().size().min(10);
    let (segment, offset) = operand::address(p, insn);
    let la = p.linear_aligned(segment, offset, len, len.min(8), Access::Read)?;
    let user = p.core.cpl == 3;
    match len {
        2 => buffer[..2].copy_from_slice(&p.load_linear::<u16>(la, user)?.to_le_bytes()),
        4 => buffer[..4].copy_from_slice(&p.load_linear::<u32>(la, user)?.to_le_bytes()),
        8 => buffer[..8].copy_from_slice(&p.load_linear::<u64>(la, user)?.to_le_bytes()),
        _ => {
            let low: u64 = p.load_linear(la, user)?;
            let high: u16 = p.load_linear(la.wrapping_add(8), user)?;
            buffer[..8].copy_from_slice(&low.to_le_bytes());
            buffer[8..10].copy_from_slice(&high.to_le_bytes());
        }
    }
    if !host::load(insn.code(), &mut buffer, &mut p.core.fpu) {
        return Err(p.unknown("an x87 instruction that is not modelled"));
    }
    record_pointers(p, insn);
    next(p, insn)
}

fn store(p: &mut Processor, insn: &Instruction) -> Step {
    wait(p)?;
    let len = insn.memory_size().size().min(10);
    let (segment, offset) = operand::address(p, insn);
    let la = p.linear_aligned(segment, offset, len, len.min(8), Access::Write)?;
    let user = p.core.cpl == 3;
    // An exception that prevents the store does not prevent the access checks.
    p.probe_write(la, len, user)?;
    let mut fpu = p.core.fpu.clone();
    let mut buffer = [0; 16];
    if !host::store(insn.code(), &mut buffer, &mut fpu) {
        return Err(p.unknown("an x87 instruction that is not modelled"));
    }
    if fpu.fsw & !fpu.fcw & PREVENTS_STORE == 0 {
        let value = u128::from_le_bytes(buffer);
        match len {
            2 => p.store_linear(la, user, value as u16)?,
            4 => p.store_linear(la, user, value as u32)?,
            8 => p.store_linear(la, user, value as u64)?,
            _ => {
                p.store_linear(la, user, value as u64)?;
                p.store_linear(la.wrapping_add(8), user, (value >> 64) as u16)?;
            }
        }
    }
    p.core.fpu = fpu;
    record_pointers(p, insn);
    next(p, insn)
}
