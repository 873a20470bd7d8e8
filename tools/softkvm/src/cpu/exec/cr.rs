//! Control and debug registers.

use iced_x86::{Instruction, Mnemonic, OpKind};

use crate::cpu::operand::{operand_size, read, reg, set_reg, supervisor_only, write};
use crate::cpu::state::{cr0, cr4, efer};
use crate::cpu::{Exception, Features, Intercept, Mode, OwnerBit, Processor, Seg, Step};

use super::system::intercept;

/// DR7.GD.
const DR7_GD: u64 = 1 << 13;
/// DR6.BD.
const DR6_BD: u64 = 1 << 13;
/// CR3 bit that asks to keep translations.
const CR3_NO_FLUSH: u64 = 1 << 63;
/// Bits that CR0 has; others read as written zero.
const CR0_BITS: u64 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;
/// CR4.VME and CR4.PVI, and everything every x86-64 processor has.
const CR4_ALWAYS: u64 = 3
    | cr4::TSD
    | cr4::DE
    | cr4::PSE
    | cr4::PAE
    | cr4::MCE
    | cr4::PGE
    | cr4::PCE
    | cr4::OSFXSR
    | cr4::OSXMMEXCPT;
/// CR4.PKE.
const CR4_PKE: u64 = 1 << 22;
/// CR4 bits that depend on an extension.
const CR4_BY_FEATURE: &[(u64, Features)] = &[
    (cr4::UMIP, Features::UMIP),
    (cr4::LA57, Features::LA57),
    (cr4::FSGSBASE, Features::FSGSBASE),
    (cr4::PCIDE, Features::PCID),
    (cr4::OSXSAVE, Features::XSAVE),
    (cr4::SMEP, Features::SMEP),
    (cr4::SMAP, Features::SMAP),
    (CR4_PKE, Features::PKU),
];
/// CR4 bits whose change drops translations.
const CR4_PAGING: u64 =
    cr4::PSE | cr4::PAE | cr4::PGE | cr4::PCIDE | cr4::SMEP | cr4::SMAP | cr4::LA57 | CR4_PKE;

fn refuse(p: &mut Processor) -> Step {
    Err(p.fault(Exception::gp(0)))
}

/// MOV to and from CRn and DRn.
pub(super) fn mov(p: &mut Processor, insn: &Instruction) -> Step {
    let (to, from) = (insn.op_register(0), insn.op_register(1));
    if to.is_cr() {
        supervisor_only(p)?;
        let value = reg(p, from);
        let number = to.number();
        if matches!(number, 0 | 4) {
            let gpr = from.number() as u8;
            intercept(p, Intercept::WriteCr { register: number as u8, value, gpr })?;
        }
        write_cr(p, number, value)
    } else if from.is_cr() {
        supervisor_only(p)?;
        let value = read_cr(p, from.number())?;
        set_reg(p, to, value);
        Ok(())
    } else if to.is_dr() {
        let value = reg(p, from);
        write_dr(p, to.number(), value)
    } else if from.is_dr() {
        let value = read_dr(p, from.number())?;
        set_reg(p, to, value);
        Ok(())
    } else {
        // Test registers of the 386 and 486.
        Err(p.fault(Exception::UD))
    }
}

/// Whether an instruction moves a control, debug or test register.
pub(super) fn is_special_mov(insn: &Instruction) -> bool {
    let special = |n| {
        insn.op_kind(n) == OpKind::Register && {
            let register = insn.op_register(n);
            register.is_cr() || register.is_dr() || register.is_tr()
        }
    };
    special(0) || special(1)
}

fn read_cr(p: &mut Processor, number: usize) -> Step<u64> {
    Ok(match number {
        0 => p.core.cr0,
        2 => p.core.cr2,
        3 => p.core.cr3,
        4 => p.core.cr4,
        8 => p.world().cr8(),
        _ => return Err(p.fault(Exception::UD)),
    })
}

fn write_cr(p: &mut Processor, number: usize, value: u64) -> Step {
    match number {
        0 => write_cr0(p, value),
        2 => {
            p.core.cr2 = value;
            Ok(())
        }
        3 => write_cr3(p, value),
        4 => write_cr4(p, value),
        8 => {
            if value > 15 {
                return refuse(p);
            }
            p.world().set_cr8(value);
            p.core.attention = true;
            Ok(())
        }
        _ => Err(p.fault(Exception::UD)),
    }
}

/// CR0, and with it the activation of long mode (AMD APM vol. 2, 3.1.1 and 14.6).
fn write_cr0(p: &mut Processor, value: u64) -> Step {
    let bad = value >> 32 != 0
        || (value & cr0::PG != 0 && value & cr0::PE == 0)
        || (value & cr0::NW != 0 && value & cr0::CD == 0);
    if bad {
        return refuse(p);
    }
    let old = p.core.cr0;
    let new = value & CR0_BITS | cr0::ET;
    let cs_long = p.core.seg[Seg::Cs as usize].long();
    if old & cr0::PG == 0 && new & cr0::PG != 0 && p.core.efer & efer::LME != 0 {
        if p.core.cr4 & cr4::PAE == 0 || cs_long {
            return refuse(p);
        }
        p.core.efer |= efer::LMA;
    }
    if old & cr0::PG != 0 && new & cr0::PG == 0 {
        if p.core.mode == Mode::Long64 || p.core.cr4 & cr4::PCIDE != 0 {
            return refuse(p);
        }
        p.core.efer &= !efer::LMA;
    }
    p.core.cr0 = new;
    if new & cr0::PE == 0 {
        p.core.cpl = 0;
    }
    p.core.update_mode();
    if (old ^ new) & (cr0::PG | cr0::WP | cr0::PE) != 0 {
        p.flush_tlb();
    }
    Ok(())
}

fn write_cr3(p: &mut Processor, value: u64) -> Step {
    let mut value = value;
    if p.core.cr4 & cr4::PCIDE != 0 {
        value &= !CR3_NO_FLUSH;
    }
    if p.core.long_mode() {
        let owner = p.world().owner_bit().map_or(0, OwnerBit::mask);
        let width = (1u64 << p.phys_bits.min(52)) - 1;
        if value & !(width | owner) != 0 {
            return refuse(p);
        }
    } else {
        value &= 0xffff_ffff;
    }
    p.core.cr3 = value;
    p.flush_tlb();
    Ok(())
}

fn write_cr4(p: &mut Processor, value: u64) -> Step {
    let features = p.core.features;
    let allowed = CR4_BY_FEATURE
        .iter()
        .filter(|(_, feature)| features.contains(*feature))
        .fold(CR4_ALWAYS, |bits, (bit, _)| bits | bit);
    let old = p.core.cr4;
    let changed = old ^ value;
    let long = p.core.long_mode();
    let bad = value & !allowed != 0
        || (long && (value & cr4::PAE == 0 || changed & cr4::LA57 != 0))
        || (changed & value & cr4::PCIDE != 0 && (!long || p.core.cr3 & 0xfff != 0));
    if bad {
        return refuse(p);
    }
    p.core.cr4 = value;
    if changed & CR4_PAGING != 0 {
        p.flush_tlb();
    }
    Ok(())
}

/// CLTS.
pub(super) fn clts(p: &mut Processor) -> Step {
    supervisor_only(p)?;
    p.core.cr0 &= !cr0::TS;
    Ok(())
}

/// LMSW: the low four bits of CR0; PE can be set but not cleared.
pub(super) fn lmsw(p: &mut Processor, insn: &Instruction) -> Step {
    supervisor_only(p)?;
    let value = read(p, insn, 0, 2)? & 0xf;
    let old = p.core.cr0;
    write_cr0(p, (old & !0xe) | value)
}

/// SMSW.
pub(super) fn smsw(p: &mut Processor, insn: &Instruction) -> Step {
    user_mode_prevention(p)?;
    let size = operand_size(insn, 0);
    let value = p.core.cr0;
    write(p, insn, 0, size, value)
}

/// #GP(0) for SGDT, SIDT, SLDT, STR and SMSW above CPL 0 when CR4.UMIP is set.
pub(super) fn user_mode_prevention(p: &mut Processor) -> Step {
    if p.core.cr4 & cr4::UMIP != 0 && p.core.cpl != 0 {
        return refuse(p);
    }
    Ok(())
}

/// The register that `number` names, after the checks that reads and writes share.
fn debug_register(p: &mut Processor, number: usize) -> Step<usize> {
    let number = match number {
        4 | 5 if p.core.cr4 & cr4::DE == 0 => number + 2,
        0..=3 | 6 | 7 => number,
        _ => return Err(p.fault(Exception::UD)),
    };
    supervisor_only(p)?;
    if p.core.dr[7] & DR7_GD != 0 {
        p.core.dr[7] &= !DR7_GD;
        p.core.dr[6] |= DR6_BD;
        return Err(p.fault(Exception::DB));
    }
    Ok(number)
}

fn intercept_dr7(p: &mut Processor, number: usize, what: Intercept) -> Step {
    if number == 7 { intercept(p, what) } else { Ok(()) }
}

fn read_dr(p: &mut Processor, number: usize) -> Step<u64> {
    let number = debug_register(p, number)?;
    intercept_dr7(p, number, Intercept::ReadDr7)?;
    Ok(p.core.dr[number])
}

/// Enabling a breakpoint moves execution to the reference engine, which looks for them.
fn write_dr(p: &mut Processor, number: usize, value: u64) -> Step {
    let number = debug_register(p, number)?;
    intercept_dr7(p, number, Intercept::WriteDr7)?;
    if number >= 6 && value >> 32 != 0 {
        return refuse(p);
    }
    p.core.dr[number] = match number {
        6 => value & 0xe00f | 0xffff_0ff0,
        7 => value & 0xffff_2fff | 0x400,
        _ => value,
    };
    p.core.attention = true;
    Ok(())
}

/// XGETBV.
pub(super) fn xgetbv(p: &mut Processor) -> Step {
    extended_state(p)?;
    let value = match p.core.gpr[crate::cpu::state::RCX] as u32 {
        0 => p.core.xcr0,
        // The components in use.
        1 if p.core.features.contains(Features::XGETBV1) => {
            p.core.xcr0 & crate::cpu::fxsave::in_use(&p.core.fpu, 16)
        }
        _ => return refuse(p),
    };
    super::msr::set_edx_eax(p, value);
    Ok(())
}

/// XSETBV.
pub(super) fn xsetbv(p: &mut Processor) -> Step {
    /// x87, SSE, AVX.
    const X87: u64 = 1;
    const SSE: u64 = 2;
    const AVX: u64 = 4;
    const PKRU: u64 = 0x200;
    extended_state(p)?;
    supervisor_only(p)?;
    let value = super::msr::edx_eax(p);
    let register = p.core.gpr[crate::cpu::state::RCX] as u32;
    intercept(p, Intercept::Xsetbv { register, value })?;
    let mut allowed = X87 | SSE;
    if p.core.features.contains(Features::AVX) {
        allowed |= AVX;
    }
    if p.core.features.contains(Features::PKU) {
        allowed |= PKRU;
    }
    let bad = p.core.gpr[crate::cpu::state::RCX] as u32 != 0
        || value & !allowed != 0
        || value & X87 == 0
        || value & (SSE | AVX) == AVX;
    if bad {
        return refuse(p);
    }
    p.core.xcr0 = value;
    Ok(())
}

fn extended_state(p: &mut Processor) -> Step {
    if p.core.cr4 & cr4::OSXSAVE == 0 {
        return Err(p.fault(Exception::UD));
    }
    Ok(())
}

/// CLAC and STAC.
pub(super) fn access_check(p: &mut Processor, insn: &Instruction) -> Step {
    if p.core.cpl != 0 {
        return Err(p.fault(Exception::UD));
    }
    if insn.mnemonic() == Mnemonic::Stac {
        p.core.rflags |= crate::cpu::flags::AC;
    } else {
        p.core.rflags &= !crate::cpu::flags::AC;
    }
    Ok(())
}
