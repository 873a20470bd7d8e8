//! IN and OUT, and who may use which port.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::breakpoints;
use super::system::intercept;
use crate::cpu::operand::{gpr, mask, operand_size, read, set_gpr};
use crate::cpu::state::{RAX, RDX, cr0};
use crate::cpu::{Exception, Intercept, PortAccess, Processor, Step, flags};

/// Offset of the I/O map base in a TSS, of 32 and of 64 bits.
const TSS_IO_MAP_BASE: u64 = 0x66;
/// Descriptor type bits of a 32- or 64-bit TSS, busy or not.
const TYPE_TSS: u16 = 0x9;

/// #GP(0) unless the current privilege level may access `size` bytes at `port`: CPL <= IOPL, or
/// the TSS's permission bits are clear (AMD APM vol. 2, 12.2.4).
pub(super) fn allowed(p: &mut Processor, port: u16, size: usize) -> Step {
    let iopl = (p.core.rflags & flags::IOPL) >> 12;
    if p.core.cr0 & cr0::PE == 0 || u64::from(p.core.cpl) <= iopl {
        return Ok(());
    }
    let tr = p.core.tr;
    let denied = Exception::gp(0);
    if !tr.present() || tr.attrib & 0xd != TYPE_TSS || u64::from(tr.limit) < TSS_IO_MAP_BASE + 1 {
        return Err(p.fault(denied));
    }
    let map: u16 = p.load_linear(tr.base.wrapping_add(TSS_IO_MAP_BASE), false)?;
    let at = u64::from(map) + u64::from(port / 8);
    // Two bytes are always read, the second one for ports that straddle a byte.
    if at + 1 > u64::from(tr.limit) {
        return Err(p.fault(denied));
    }
    let bits: u16 = p.load_linear(tr.base.wrapping_add(at), false)?;
    if bits >> (port & 7) & ((1 << size) - 1) != 0 {
        return Err(p.fault(denied));
    }
    Ok(())
}

/// Reads a port.
pub(super) fn port_in(p: &mut Processor, port: u16, size: usize) -> Step<u32> {
    breakpoints::port(p, port, size);
    let (core, world) = p.parts();
    let answer = world.port_in(core, port, size as u8);
    p.lift(answer)
}

/// Reads a port in a repeated instruction that has `count` iterations to go.
pub(super) fn port_in_ahead(p: &mut Processor, port: u16, size: usize, count: u64) -> Step<u32> {
    breakpoints::port(p, port, size);
    let (core, world) = p.parts();
    let answer = world.port_in_ahead(core, port, size as u8, count);
    p.lift(answer)
}

/// Writes a port.
pub(super) fn port_out(p: &mut Processor, port: u16, size: usize, value: u32) -> Step {
    breakpoints::port(p, port, size);
    let (core, world) = p.parts();
    let answer = world.port_out(core, port, size as u8, value);
    p.lift(answer)
}

/// IN and OUT.
pub(super) fn run(p: &mut Processor, insn: &Instruction) -> Step {
    let input = insn.mnemonic() == Mnemonic::In;
    let (port_operand, data) = if input { (1, 0) } else { (0, 1) };
    let size = operand_size(insn, data);
    let port = if insn.op_kind(port_operand) == OpKind::Register {
        gpr(p, RDX, 2) as u16
    } else {
        read(p, insn, port_operand, 1)? as u16
    };
    allowed(p, port, size)?;
    let immediate = insn.op_kind(port_operand) != OpKind::Register;
    let access =
        PortAccess { port, size: size as u8, input, string: false, repeated: false, immediate };
    intercept(p, Intercept::Port(access))?;
    if input {
        let value = port_in(p, port, size)?;
        set_gpr(p, RAX, size, u64::from(value) & mask(size));
        Ok(())
    } else {
        let value = gpr(p, RAX, size) as u32;
        port_out(p, port, size, value)
    }
}
