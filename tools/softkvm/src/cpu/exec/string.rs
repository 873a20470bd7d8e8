//! String instructions with their REP prefixes, INS and OUTS among them.
//!
//! Every iteration but the last counts as an instruction of its own
//! ([`crate::cpu::Core::instructions`]), and an interrupted REP leaves with its registers advanced
//! and RIP still at the instruction, so that executing it again goes on.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::arith::sub;
use super::system::intercept;
use super::{breakpoints, io};
use crate::cpu::operand::{gpr, load, mask, segment, set_gpr, store};
use crate::cpu::state::{RAX, RCX, RDI, RDX, RSI};
use crate::cpu::{Access, Exit, Intercept, PortAccess, Processor, Seg, Step, flags};

/// What one iteration does.
#[derive(Clone, Copy)]
enum Action {
    Move,
    Compare,
    Store,
    Load,
    Scan,
    In,
    Out,
}

/// A decoded string instruction.
struct Form {
    action: Action,
    /// Element size in bytes.
    size: usize,
    /// Address size in bytes.
    width: usize,
    source: Seg,
    step: u64,
}

fn action(insn: &Instruction) -> Option<(Action, usize)> {
    Some(match insn.mnemonic() {
        Mnemonic::Movsb => (Action::Move, 1),
        Mnemonic::Movsw => (Action::Move, 2),
        Mnemonic::Movsd => (Action::Move, 4),
        Mnemonic::Movsq => (Action::Move, 8),
        Mnemonic::Cmpsb => (Action::Compare, 1),
        Mnemonic::Cmpsw => (Action::Compare, 2),
        Mnemonic::Cmpsd => (Action::Compare, 4),
        Mnemonic::Cmpsq => (Action::Compare, 8),
        Mnemonic::Stosb => (Action::Store, 1),
        Mnemonic::Stosw => (Action::Store, 2),
        Mnemonic::Stosd => (Action::Store, 4),
        Mnemonic::Stosq => (Action::Store, 8),
        Mnemonic::Lodsb => (Action::Load, 1),
        Mnemonic::Lodsw => (Action::Load, 2),
        Mnemonic::Lodsd => (Action::Load, 4),
        Mnemonic::Lodsq => (Action::Load, 8),
        Mnemonic::Scasb => (Action::Scan, 1),
        Mnemonic::Scasw => (Action::Scan, 2),
        Mnemonic::Scasd => (Action::Scan, 4),
        Mnemonic::Scasq => (Action::Scan, 8),
        Mnemonic::Insb => (Action::In, 1),
        Mnemonic::Insw => (Action::In, 2),
        Mnemonic::Insd => (Action::In, 4),
        Mnemonic::Outsb => (Action::Out, 1),
        Mnemonic::Outsw => (Action::Out, 2),
        Mnemonic::Outsd => (Action::Out, 4),
        _ => return None,
    })
}

fn address_size(insn: &Instruction) -> usize {
    for n in 0..insn.op_count() {
        match insn.op_kind(n) {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => return 2,
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => return 4,
            _ => {}
        }
    }
    8
}

fn advance(p: &mut Processor, register: usize, form: &Form) {
    let value = gpr(p, register, form.width).wrapping_add(form.step);
    set_gpr(p, register, form.width, value);
}

fn iterate(p: &mut Processor, form: &Form, count: u64) -> Step {
    let size = form.size;
    let from = gpr(p, RSI, form.width);
    let to = gpr(p, RDI, form.width);
    match form.action {
        Action::Move => {
            let value = load(p, form.source, from, size)?;
            store(p, Seg::Es, to, size, value)?;
        }
        Action::Compare => {
            let a = load(p, form.source, from, size)?;
            let b = load(p, Seg::Es, to, size)?;
            sub(&mut p.core.flags, size, a, b, false);
        }
        Action::Store => {
            let value = gpr(p, RAX, size);
            store(p, Seg::Es, to, size, value)?;
        }
        Action::Load => {
            let value = load(p, form.source, from, size)?;
            set_gpr(p, RAX, size, value);
        }
        Action::Scan => {
            let b = load(p, Seg::Es, to, size)?;
            let a = gpr(p, RAX, size);
            sub(&mut p.core.flags, size, a, b, false);
        }
        Action::In => {
            // A fault of the destination comes before the port is read.
            let la = p.linear(Seg::Es, to, size, Access::Write)?;
            p.probe_write(la, size, p.core.cpl == 3)?;
            let port = gpr(p, RDX, 2) as u16;
            let upwards = form.step == size as u64;
            let value = if count > 1 && upwards {
                // KVM never reads ahead beyond the page that the data goes to.
                let room = (0x1000 - (to & 0xfff)) / size as u64;
                io::port_in_ahead(p, port, size, count.min(room.max(1)))?
            } else {
                io::port_in(p, port, size)?
            };
            store(p, Seg::Es, to, size, u64::from(value))?;
        }
        Action::Out => {
            let value = load(p, form.source, from, size)?;
            io::port_out(p, gpr(p, RDX, 2) as u16, size, value as u32)?;
        }
    }
    if matches!(form.action, Action::Move | Action::Compare | Action::Load | Action::Out) {
        advance(p, RSI, form);
    }
    if !matches!(form.action, Action::Load | Action::Out) {
        advance(p, RDI, form);
    }
    Ok(())
}

/// Executes a string instruction.
pub(super) fn run(p: &mut Processor, insn: &Instruction) -> Step {
    let Some((action, size)) = action(insn) else {
        return Err(p.unknown("string instruction"));
    };
    let backwards = p.core.rflags & flags::DF != 0;
    let step = if backwards { (size as u64).wrapping_neg() } else { size as u64 };
    let source = segment(insn.memory_segment());
    let form = Form { action, size, width: address_size(insn), source, step };
    let repeats = insn.has_rep_prefix() || insn.has_repne_prefix();
    if matches!(action, Action::In | Action::Out) {
        let port = gpr(p, RDX, 2) as u16;
        io::allowed(p, port, size)?;
        if !repeats || gpr(p, RCX, form.width) != 0 {
            let input = matches!(action, Action::In);
            let access = PortAccess {
                port,
                size: size as u8,
                input,
                string: true,
                repeated: repeats,
                immediate: false,
            };
            intercept(p, Intercept::Port(access))?;
        }
    }
    if !repeats {
        return iterate(p, &form, 1);
    }
    let compares = matches!(action, Action::Compare | Action::Scan);
    let while_equal = !insn.has_repne_prefix();
    let room = p.turn_room();
    for done in 0.. {
        let count = gpr(p, RCX, form.width);
        if count == 0 {
            // A 32-bit count register is written even when it was zero already.
            if form.width == 4 {
                set_gpr(p, RCX, 4, 0);
            }
            break;
        }
        if done > 0 {
            p.core.instructions += 1;
            let io = matches!(action, Action::In | Action::Out);
            let goes_on = io && p.world().reads_ahead();
            if goes_on {
                // What has been read must not be lost.
            } else if io || p.core.attention || done >= room || breakpoints::interrupts_repeat(p) {
                return Err(p.exit(Exit::Turn));
            }
        }
        iterate(p, &form, count)?;
        let left = count.wrapping_sub(1) & mask(form.width);
        set_gpr(p, RCX, form.width, left);
        if left == 0 || (compares && p.core.flags.zf() != while_equal) {
            break;
        }
    }
    Ok(())
}
