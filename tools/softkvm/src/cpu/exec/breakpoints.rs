//! Breakpoints set in DR0..DR3 by DR7 (AMD APM vol. 2, 13.1).
//!
//! The implicit accesses of event delivery and of far transfers through gates are not watched.

use crate::cpu::state::cr4;
use crate::cpu::{Access, Event, Exception, Mode, Processor, Seg, Step, flags};

/// DR7's enable bits: while all are clear nothing here is asked.
pub(crate) const ENABLES: u64 = 0xff;
/// DR6.BS: single step.
const DR6_BS: u64 = 1 << 14;

/// DR7's R/W field.
mod kind {
    pub const EXECUTE: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const PORT: u64 = 2;
    pub const ACCESS: u64 = 3;
}

/// Bytes by DR7's LEN field.
const LENGTHS: [u64; 4] = [1, 2, 8, 4];

/// Whether any breakpoint is enabled.
#[inline(always)]
pub(crate) fn enabled(p: &Processor) -> bool {
    p.core.dr[7] & ENABLES != 0
}

/// DR6's bits of the enabled breakpoints of one of `kinds` that `[at, at + len)` meets.
fn hits(p: &Processor, kinds: &[u64], at: u64, len: u64) -> u8 {
    let dr7 = p.core.dr[7];
    let mut found = 0;
    for i in 0..4 {
        let on = dr7 >> (2 * i) & 3 != 0;
        let kind = dr7 >> (16 + 4 * i) & 3;
        let size = LENGTHS[(dr7 >> (18 + 4 * i) & 3) as usize];
        let first = p.core.dr[i] & !(size - 1);
        // Distances wrap, so ranges at the end of the address space are met as well.
        let met = at.wrapping_sub(first) < size || first.wrapping_sub(at) < len;
        if on && kinds.contains(&kind) && met {
            found |= 1 << i;
        }
    }
    found
}

/// #DB, as a fault, if a breakpoint is set on the instruction at RIP and RF is clear.
pub(super) fn instruction(p: &mut Processor) -> Step {
    if p.core.rflags & flags::RF != 0 {
        return Ok(());
    }
    let rip = p.core.rip;
    let la = match p.core.mode {
        Mode::Long64 => rip,
        _ => p.core.seg[Seg::Cs as usize].base.wrapping_add(rip) & 0xffff_ffff,
    };
    let found = hits(p, &[kind::EXECUTE], la, 1);
    if found == 0 {
        return Ok(());
    }
    record(p, u64::from(found));
    Err(p.fault(Exception::DB))
}

/// Notes a data access; the trap comes after the instruction.
#[cold]
pub(crate) fn data(p: &mut Processor, la: u64, len: usize, access: Access) {
    let kinds: &[u64] = match access {
        Access::Read => &[kind::ACCESS],
        Access::Write => &[kind::ACCESS, kind::WRITE],
        Access::Fetch | Access::Walk | Access::WalkWrite => return,
    };
    p.core.debug_hits |= hits(p, kinds, la, len as u64);
}

/// Notes a port access.
pub(super) fn port(p: &mut Processor, port: u16, len: usize) {
    if enabled(p) && p.core.cr4 & cr4::DE != 0 {
        p.core.debug_hits |= hits(p, &[kind::PORT], u64::from(port), len as u64);
    }
}

/// Whether a trap follows the iteration of a repeated instruction.
pub(super) fn interrupts_repeat(p: &Processor) -> bool {
    p.core.debug_hits != 0 || p.core.rflags & flags::TF != 0
}

/// Leaves the trap of data breakpoints, and of a single step, to the next delivery.
pub(super) fn trap(p: &mut Processor, single_step: bool) {
    let found = std::mem::take(&mut p.core.debug_hits);
    if found == 0 && !single_step {
        return;
    }
    record(p, u64::from(found) | if single_step { DR6_BS } else { 0 });
    p.core.pending = Some(Event::Exception(Exception::DB));
    p.core.attention = true;
}

/// INT1 reports the breakpoints held off until it together with its own #DB.
pub(super) fn join(p: &mut Processor) {
    let found = std::mem::take(&mut p.core.debug_hits);
    if found != 0 {
        record(p, u64::from(found));
    }
}

/// Sets conditions in DR6. The four breakpoint bits tell of this #DB alone; the others stay until
/// software clears them.
fn record(p: &mut Processor, conditions: u64) {
    p.core.dr[6] = p.core.dr[6] & !0xf | conditions;
}
