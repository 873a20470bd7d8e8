//! Descriptor tables and questions about descriptors: LGDT, SGDT, LLDT, STR, LAR, VERR, ARPL ...

use iced_x86::{Code, Instruction, Mnemonic};

use super::cr::user_mode_prevention;
use super::data::effective_after;
use crate::cpu::operand::{
    load, memory_segment, operand_size, read, set_reg, store, supervisor_only, update, write,
};
use crate::cpu::segments::{self, Descriptor};
use crate::cpu::state::cr0;
use crate::cpu::{Access, DescriptorTable, Exception, Mode, Processor, Step, flags};

fn base_size(p: &Processor) -> usize {
    if p.core.mode == Mode::Long64 { 8 } else { 4 }
}

/// LGDT and LIDT.
pub(super) fn load_table(p: &mut Processor, insn: &Instruction) -> Step {
    supervisor_only(p)?;
    let seg = memory_segment(insn);
    let limit = load(p, seg, effective_after(p, insn, 0), 2)? as u16;
    let size = base_size(p);
    let mut base = load(p, seg, effective_after(p, insn, 2), size)?;
    if matches!(insn.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16) {
        base &= 0xff_ffff;
    }
    if size == 8 && !p.canonical(base) {
        return Err(p.fault(Exception::gp(0)));
    }
    let table = DescriptorTable { base, limit };
    if insn.mnemonic() == Mnemonic::Lgdt {
        p.core.gdtr = table;
    } else {
        p.core.idtr = table;
    }
    Ok(())
}

/// SGDT and SIDT.
pub(super) fn store_table(p: &mut Processor, insn: &Instruction) -> Step {
    user_mode_prevention(p)?;
    let table = if insn.mnemonic() == Mnemonic::Sgdt { p.core.gdtr } else { p.core.idtr };
    let seg = memory_segment(insn);
    let size = base_size(p);
    // Both parts must be writable before either is written.
    let la = p.linear(seg, effective_after(p, insn, 0), 2 + size, Access::Write)?;
    p.probe_write(la, 2 + size, p.core.cpl == 3)?;
    store(p, seg, effective_after(p, insn, 0), 2, u64::from(table.limit))?;
    store(p, seg, effective_after(p, insn, 2), size, table.base)
}

fn protected_only(p: &mut Processor) -> Step {
    if p.core.cr0 & cr0::PE == 0 || p.core.rflags & flags::VM != 0 {
        return Err(p.fault(Exception::UD));
    }
    Ok(())
}

/// LLDT and LTR.
pub(super) fn load_system(p: &mut Processor, insn: &Instruction) -> Step {
    protected_only(p)?;
    supervisor_only(p)?;
    let selector = read(p, insn, 0, 2)? as u16;
    if insn.mnemonic() == Mnemonic::Lldt {
        segments::load_ldtr(p, selector)
    } else {
        segments::load_tr(p, selector)
    }
}

/// SLDT and STR.
pub(super) fn store_system(p: &mut Processor, insn: &Instruction) -> Step {
    protected_only(p)?;
    user_mode_prevention(p)?;
    let selector =
        if insn.mnemonic() == Mnemonic::Sldt { p.core.ldtr.selector } else { p.core.tr.selector };
    let size = operand_size(insn, 0);
    write(p, insn, 0, size, u64::from(selector))
}

/// The descriptor of a selector, if it is there and visible at the present privilege level.
fn visible(p: &mut Processor, selector: u16) -> Step<Option<Descriptor>> {
    if selector & 0xfffc == 0 {
        return Ok(None);
    }
    let Some(d) = segments::try_descriptor(p, selector)? else { return Ok(None) };
    let conforming = d.code() && d.attrib() & 4 != 0;
    let level = p.core.cpl.max((selector & 3) as u8);
    Ok((conforming || level <= d.dpl()).then_some(d))
}

fn set_zf(p: &mut Processor, zf: bool) {
    let rest = p.core.flags.bits() & !flags::ZF;
    p.core.flags.load(rest | if zf { flags::ZF } else { 0 });
}

/// LAR and LSL.
pub(super) fn inspect(p: &mut Processor, insn: &Instruction) -> Step {
    protected_only(p)?;
    let selector = read(p, insn, 1, 2)? as u16;
    let long = p.core.long_mode();
    let lar = insn.mnemonic() == Mnemonic::Lar;
    let found = visible(p, selector)?.filter(|d| match d.system() {
        None => true,
        // LDT and 32-bit TSSs have limits; gates have only rights; 16-bit ones are gone in long
        // mode.
        Some(2 | 9 | 11) => true,
        Some(1 | 3) => !long,
        Some(12) => lar,
        Some(4 | 5) => lar && !long,
        _ => false,
    });
    if let Some(d) = found {
        let value = if lar { d.raw >> 32 & 0x00ff_ff00 } else { u64::from(d.limit()) };
        set_reg(p, insn.op_register(0), value);
    }
    set_zf(p, found.is_some());
    Ok(())
}

/// VERR and VERW.
pub(super) fn verify(p: &mut Processor, insn: &Instruction) -> Step {
    protected_only(p)?;
    let selector = read(p, insn, 0, 2)? as u16;
    let write = insn.mnemonic() == Mnemonic::Verw;
    let good = visible(p, selector)?.is_some_and(|d| {
        d.system().is_none() && if write { !d.code() && d.attrib() & 2 != 0 } else { d.readable() }
    });
    set_zf(p, good);
    Ok(())
}

/// ARPL. Memory is written only if it changes.
pub(super) fn adjust_rpl(p: &mut Processor, insn: &Instruction) -> Step {
    protected_only(p)?;
    let rpl = read(p, insn, 1, 2)? & 3;
    let selector = read(p, insn, 0, 2)?;
    let raised = selector & 3 < rpl;
    if raised {
        update(p, insn, 0, 2, |selector| selector & !3 | rpl)?;
    }
    set_zf(p, raised);
    Ok(())
}
