//! Segment registers: descriptors, their checks, LDTR and TR, and the far transfers that load CS.
//!
//! Task switches and virtual-8086 mode are not modelled and end the run.

use super::exec::breakpoints;
use super::exec::stack::set_flags;
use super::flags;
use super::operand::{mask, peek, set_gpr, set_stack, stack_at};
use super::processor::Processor;
use super::state::{Mode, RSP, Seg, Segment, cr0};
use super::world::{Exception, Step};

/// Code segment bit of the type field.
const TYPE_CODE: u16 = 8;
/// Conforming code, expand-down data.
const TYPE_CONFORMING: u16 = 4;
/// Readable code, writable data.
const TYPE_ACCESSIBLE: u16 = 2;
/// Accessed.
const TYPE_ACCESSED: u16 = 1;
/// S bit: code or data.
const NOT_SYSTEM: u16 = 0x10;

/// The attributes of a flat 64-bit code segment at CPL 0.
pub(super) const FLAT_CODE64: u16 = 0xa9b;
/// The attributes of a flat 32-bit code segment at CPL 0.
pub(super) const FLAT_CODE32: u16 = 0xc9b;
/// The attributes of a flat data segment at CPL 0.
pub(super) const FLAT_DATA: u16 = 0xc93;

/// A descriptor as it stands in a table.
#[derive(Clone, Copy)]
pub(super) struct Descriptor {
    /// Its eight bytes.
    pub raw: u64,
    /// Its linear address.
    la: u64,
}

impl Descriptor {
    /// Attributes in VMSA form.
    pub fn attrib(self) -> u16 {
        (self.raw >> 40 & 0xff) as u16 | ((self.raw >> 52 & 0xf) as u16) << 8
    }
    /// Type field of a system descriptor; `None` for code and data.
    pub fn system(self) -> Option<u16> {
        (self.attrib() & NOT_SYSTEM == 0).then(|| self.attrib() & 0xf)
    }
    /// A code segment.
    pub fn code(self) -> bool {
        self.attrib() & (NOT_SYSTEM | TYPE_CODE) == NOT_SYSTEM | TYPE_CODE
    }
    fn conforming(self) -> bool {
        self.attrib() & TYPE_CONFORMING != 0
    }
    fn writable_data(self) -> bool {
        self.attrib() & (NOT_SYSTEM | TYPE_CODE | TYPE_ACCESSIBLE) == NOT_SYSTEM | TYPE_ACCESSIBLE
    }
    /// A segment whose bytes can be read.
    pub fn readable(self) -> bool {
        self.system().is_none() && (!self.code() || self.attrib() & TYPE_ACCESSIBLE != 0)
    }
    /// DPL.
    pub fn dpl(self) -> u8 {
        (self.attrib() >> 5 & 3) as u8
    }
    /// Present.
    pub fn present(self) -> bool {
        self.attrib() & 0x80 != 0
    }
    fn long(self) -> bool {
        self.attrib() & 0x200 != 0
    }
    fn big(self) -> bool {
        self.attrib() & 0x400 != 0
    }
    /// Limit in bytes.
    pub fn limit(self) -> u32 {
        let limit = (self.raw & 0xffff | self.raw >> 32 & 0xf_0000) as u32;
        if self.attrib() & 0x800 != 0 { limit << 12 | 0xfff } else { limit }
    }
    fn base(self) -> u64 {
        self.raw >> 16 & 0xff_ffff | self.raw >> 32 & 0xff00_0000
    }
    /// The segment register that `selector` gives.
    fn segment(self, selector: u16) -> Segment {
        Segment { selector, attrib: self.attrib(), limit: self.limit(), base: self.base() }
    }
}

/// A selector as error codes show it.
pub(super) fn code_of(selector: u16) -> u32 {
    u32::from(selector & 0xfffc)
}

fn rpl(selector: u16) -> u8 {
    (selector & 3) as u8
}

fn is_null(selector: u16) -> bool {
    selector & 0xfffc == 0
}

fn real(p: &Processor) -> bool {
    p.core.cr0 & cr0::PE == 0
}

/// Where the descriptor of `selector` lies, if its table reaches that far.
fn locate(p: &Processor, selector: u16, len: u32) -> Option<u64> {
    let (base, limit) = if selector & 4 == 0 {
        (p.core.gdtr.base, u32::from(p.core.gdtr.limit))
    } else if p.core.ldtr.present() {
        (p.core.ldtr.base, p.core.ldtr.limit)
    } else {
        return None;
    };
    let at = u32::from(selector & 0xfff8);
    (at + len - 1 <= limit).then(|| base.wrapping_add(u64::from(at)))
}

/// The descriptor, or `None` if it lies outside its table (VERR and the like want to know).
pub(super) fn try_descriptor(p: &mut Processor, selector: u16) -> Step<Option<Descriptor>> {
    match locate(p, selector, 8) {
        Some(la) => Ok(Some(Descriptor { raw: p.load_linear(la, false)?, la })),
        None => Ok(None),
    }
}

/// The descriptor; `fault` if it lies outside its table.
fn descriptor(p: &mut Processor, selector: u16, fault: fn(u32) -> Exception) -> Step<Descriptor> {
    match try_descriptor(p, selector)? {
        Some(descriptor) => Ok(descriptor),
        None => Err(p.fault(fault(code_of(selector)))),
    }
}

/// Sets the accessed bit in the table, if it is not yet set, and returns the descriptor with it.
fn accessed(p: &mut Processor, d: Descriptor) -> Step<Descriptor> {
    if d.attrib() & TYPE_ACCESSED != 0 {
        return Ok(d);
    }
    let byte = (d.raw >> 40) as u8 | TYPE_ACCESSED as u8;
    p.store_linear(d.la.wrapping_add(5), false, byte)?;
    Ok(Descriptor { raw: d.raw | 1 << 40, la: d.la })
}

fn load_real(p: &mut Processor, seg: Seg, selector: u16) {
    let register = &mut p.core.seg[seg as usize];
    register.selector = selector;
    register.base = u64::from(selector) << 4;
    if register.attrib & 0x80 == 0 {
        // It was null in protected mode.
        register.attrib = 0x93;
        register.limit = 0xffff;
    }
}

/// Loads a data or stack segment register as MOV and POP do (AMD APM vol. 2, 4.7 and 4.8).
pub(super) fn load(p: &mut Processor, seg: Seg, selector: u16) -> Step {
    if p.core.rflags & flags::VM != 0 {
        return Err(p.unknown("virtual-8086 mode"));
    }
    if real(p) {
        load_real(p, seg, selector);
        return Ok(());
    }
    let cpl = p.core.cpl;
    if seg == Seg::Ss {
        let long = p.core.mode == Mode::Long64;
        let loaded = stack_segment(p, selector, cpl, long, Exception::gp)?;
        p.core.seg[Seg::Ss as usize] = loaded;
        return Ok(());
    }
    if is_null(selector) {
        p.core.seg[seg as usize] = Segment { selector, ..Segment::default() };
        return Ok(());
    }
    let d = descriptor(p, selector, Exception::gp)?;
    let privileged = !(d.code() && d.conforming()) && (rpl(selector) > d.dpl() || cpl > d.dpl());
    if !d.readable() || privileged {
        return Err(p.fault(Exception::gp(code_of(selector))));
    }
    if !d.present() {
        return Err(p.fault(Exception::np(code_of(selector))));
    }
    let d = accessed(p, d)?;
    p.core.seg[seg as usize] = d.segment(selector);
    Ok(())
}

/// A null SS, which 64-bit mode allows below CPL 3.
pub(super) fn null_stack(selector: u16, cpl: u8) -> Segment {
    Segment { selector, attrib: u16::from(cpl) << 5, limit: 0, base: 0 }
}

/// Checks a selector for SS at privilege level `cpl` and returns what SS becomes. `fault` is #GP,
/// or #TS when the selector comes from a TSS.
fn stack_segment(
    p: &mut Processor,
    selector: u16,
    cpl: u8,
    long: bool,
    fault: fn(u32) -> Exception,
) -> Step<Segment> {
    if is_null(selector) {
        if long && cpl != 3 && rpl(selector) == cpl {
            return Ok(null_stack(selector, cpl));
        }
        return Err(p.fault(fault(0)));
    }
    let d = descriptor(p, selector, fault)?;
    if rpl(selector) != cpl || !d.writable_data() || d.dpl() != cpl {
        return Err(p.fault(fault(code_of(selector))));
    }
    if !d.present() {
        return Err(p.fault(Exception::ss(code_of(selector))));
    }
    Ok(accessed(p, d)?.segment(selector))
}

/// A 16-byte system descriptor's upper half: base 63:32, and zeros where a type would be.
fn upper_base(p: &mut Processor, selector: u16) -> Step<u64> {
    if !p.core.long_mode() {
        return Ok(0);
    }
    let Some(la) = locate(p, selector, 16) else {
        return Err(p.fault(Exception::gp(code_of(selector))));
    };
    let upper: u64 = p.load_linear(la.wrapping_add(8), false)?;
    if upper >> 40 & 0x1f != 0 {
        return Err(p.fault(Exception::gp(code_of(selector))));
    }
    Ok(upper << 32)
}

/// LLDT at CPL 0 in protected mode.
pub(super) fn load_ldtr(p: &mut Processor, selector: u16) -> Step {
    if is_null(selector) {
        p.core.ldtr = Segment { selector, ..Segment::default() };
        return Ok(());
    }
    let gp = Exception::gp(code_of(selector));
    if selector & 4 != 0 {
        return Err(p.fault(gp));
    }
    let d = descriptor(p, selector, Exception::gp)?;
    if d.system() != Some(2) {
        return Err(p.fault(gp));
    }
    if !d.present() {
        return Err(p.fault(Exception::np(code_of(selector))));
    }
    let base = d.base() | upper_base(p, selector)?;
    if !p.canonical(base) {
        return Err(p.fault(gp));
    }
    p.core.ldtr = Segment { base, ..d.segment(selector) };
    Ok(())
}

/// LTR at CPL 0 in protected mode: the TSS becomes busy.
pub(super) fn load_tr(p: &mut Processor, selector: u16) -> Step {
    let gp = Exception::gp(code_of(selector));
    if is_null(selector) || selector & 4 != 0 {
        return Err(p.fault(gp));
    }
    let d = descriptor(p, selector, Exception::gp)?;
    let available = match d.system() {
        Some(9) => true,
        Some(1) => !p.core.long_mode(),
        _ => false,
    };
    if !available {
        return Err(p.fault(gp));
    }
    if !d.present() {
        return Err(p.fault(Exception::np(code_of(selector))));
    }
    let base = d.base() | upper_base(p, selector)?;
    if !p.canonical(base) {
        return Err(p.fault(gp));
    }
    let busy = (d.raw >> 40) as u8 | 2;
    p.store_linear(d.la.wrapping_add(5), false, busy)?;
    let mut tr = Segment { base, ..d.segment(selector) };
    tr.attrib |= 2;
    p.core.tr = tr;
    Ok(())
}

/// A stack that is not yet the current one.
pub(super) struct Stack {
    /// Its SS.
    pub ss: Segment,
    /// Its pointer.
    pub sp: u64,
    /// Width of the pointer in bytes.
    pub width: usize,
    /// The privilege level it is written at.
    pub cpl: u8,
}

impl Stack {
    /// The stack in use.
    pub fn current(p: &Processor) -> Self {
        Self {
            ss: p.core.seg[Seg::Ss as usize],
            sp: stack_at(p, 0),
            width: super::operand::stack_size(p),
            cpl: p.core.cpl,
        }
    }

    /// Writes one element below the pointer and moves it. A fault is #SS(`code`).
    pub fn push(&mut self, p: &mut Processor, size: usize, value: u64, code: u32) -> Step {
        let sp = self.sp.wrapping_sub(size as u64) & mask(self.width);
        let last = sp.wrapping_add(size as u64 - 1);
        let inside = if self.width == 8 {
            p.canonical(sp) && p.canonical(last)
        } else if self.ss.attrib & TYPE_CONFORMING != 0 && !real(p) {
            // Expand-down.
            sp > u64::from(self.ss.limit) && last <= mask(self.width)
        } else {
            last <= u64::from(self.ss.limit)
        };
        if !inside {
            return Err(p.fault(Exception::ss(code)));
        }
        let la = if self.width == 8 { sp } else { self.ss.base.wrapping_add(sp) as u32 as u64 };
        let user = self.cpl == 3;
        match size {
            2 => p.store_linear(la, user, value as u16)?,
            4 => p.store_linear(la, user, value as u32)?,
            _ => p.store_linear(la, user, value)?,
        }
        self.sp = sp;
        Ok(())
    }

    /// Makes it the current stack; the mode is already that of the code that uses it.
    pub fn commit(&self, p: &mut Processor) {
        p.core.seg[Seg::Ss as usize] = self.ss;
        set_gpr(p, RSP, self.width, self.sp);
    }
}

/// The stack for privilege level `cpl` out of a 16- or 32-bit TSS.
pub(super) fn tss_stack(p: &mut Processor, cpl: u8) -> Step<Stack> {
    let tr = p.core.tr;
    let wide = tr.attrib & 8 != 0;
    let (at, need) = if wide { (4 + u64::from(cpl) * 8, 6) } else { (2 + u64::from(cpl) * 4, 4) };
    if !tr.present() || at + need - 1 > u64::from(tr.limit) {
        return Err(p.fault(Exception::ts(code_of(tr.selector))));
    }
    let la = tr.base.wrapping_add(at);
    let (sp, selector) = if wide {
        (u64::from(p.load_linear::<u32>(la, false)?), p.load_linear::<u16>(la + 4, false)?)
    } else {
        (u64::from(p.load_linear::<u16>(la, false)?), p.load_linear::<u16>(la + 2, false)?)
    };
    let ss = stack_segment(p, selector, cpl, false, Exception::ts)?;
    Ok(Stack { ss, sp, width: if ss.big() { 4 } else { 2 }, cpl })
}

/// A stack pointer out of the 64-bit TSS: RSP0..2 at 4, IST1..7 at 24h.
pub(super) fn tss_pointer(p: &mut Processor, at: u64) -> Step<u64> {
    let tr = p.core.tr;
    if !tr.present() || at + 7 > u64::from(tr.limit) {
        return Err(p.fault(Exception::ts(code_of(tr.selector))));
    }
    let sp = p.load_linear(tr.base.wrapping_add(at), false)?;
    if !p.canonical(sp) {
        return Err(p.fault(Exception::ss(0)));
    }
    Ok(sp)
}

/// A checked destination of a transfer to another code segment.
#[derive(Clone, Copy)]
pub(super) struct CodeTarget {
    /// CS with its selector's RPL replaced.
    pub cs: Segment,
    /// RIP.
    pub rip: u64,
    /// Privilege level there.
    pub cpl: u8,
}

impl CodeTarget {
    fn long(&self, p: &Processor) -> bool {
        p.core.long_mode() && self.cs.long()
    }

    /// Makes it the place of execution.
    pub fn commit(&self, p: &mut Processor) {
        p.core.seg[Seg::Cs as usize] = self.cs;
        p.core.cpl = self.cpl;
        p.core.rip = self.rip;
        p.core.update_mode();
    }
}

/// How a code segment is reached, which decides the privilege check.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// JMP or CALL straight to the selector, or JMP through a gate: no change of level.
    Same,
    /// CALL through a gate, or an interrupt: to the same or an inner level.
    Inward,
    /// RET or IRET to the selector's RPL.
    Return,
}

/// Checks a code segment selector and an offset in it (AMD APM vol. 2, 4.11).
pub(super) fn code_target(
    p: &mut Processor,
    selector: u16,
    rip: u64,
    reach: Reach,
    gate: bool,
) -> Step<CodeTarget> {
    if is_null(selector) {
        return Err(p.fault(Exception::gp(0)));
    }
    let gp = Exception::gp(code_of(selector));
    let d = descriptor(p, selector, Exception::gp)?;
    let cpl = p.core.cpl;
    let allowed = match reach {
        Reach::Same if d.conforming() => d.dpl() <= cpl,
        Reach::Same => d.dpl() == cpl && (gate || rpl(selector) <= cpl),
        Reach::Inward => d.dpl() <= cpl,
        Reach::Return if rpl(selector) < cpl => false,
        Reach::Return if d.conforming() => d.dpl() <= rpl(selector),
        Reach::Return => d.dpl() == rpl(selector),
    };
    let long = p.core.long_mode();
    // Gates of long mode lead to 64-bit code only; L and D together are reserved.
    let width_good = match (long, gate) {
        (true, true) => d.long() && !d.big(),
        (true, false) => !(d.long() && d.big()),
        (false, _) => true,
    };
    if !d.code() || !allowed || !width_good {
        return Err(p.fault(gp));
    }
    if !d.present() {
        return Err(p.fault(Exception::np(code_of(selector))));
    }
    let new_cpl = match reach {
        Reach::Same => cpl,
        Reach::Inward if d.conforming() => cpl,
        Reach::Inward => d.dpl(),
        Reach::Return => rpl(selector),
    };
    let d = accessed(p, d)?;
    let cs = d.segment(selector & !3 | u16::from(new_cpl));
    let inside =
        if long && cs.long() { p.canonical(rip) } else { rip & 0xffff_ffff <= u64::from(cs.limit) };
    if !inside {
        return Err(p.fault(Exception::gp(0)));
    }
    let rip = if long && cs.long() { rip } else { rip & 0xffff_ffff };
    Ok(CodeTarget { cs, rip, cpl: new_cpl })
}

/// A far transfer in real mode.
fn real_target(p: &mut Processor, selector: u16, rip: u64) -> Step<CodeTarget> {
    let mut cs = p.core.seg[Seg::Cs as usize];
    if rip > u64::from(cs.limit) {
        return Err(p.fault(Exception::gp(0)));
    }
    cs.selector = selector;
    cs.base = u64::from(selector) << 4;
    Ok(CodeTarget { cs, rip, cpl: 0 })
}

/// A call gate, read and checked: where it leads, its operand size and parameter count.
fn call_gate(
    p: &mut Processor,
    selector: u16,
    d: Descriptor,
    reach: Reach,
) -> Step<(CodeTarget, usize, u64)> {
    let (kind, long) = (d.system(), p.core.long_mode());
    let size = match kind {
        Some(0xc) if long => 8,
        Some(0xc) => 4,
        Some(0x4) if !long => 2,
        Some(1 | 5 | 9) if !long => return Err(p.unknown("task switch")),
        _ => return Err(p.fault(Exception::gp(code_of(selector)))),
    };
    if d.dpl() < p.core.cpl || d.dpl() < rpl(selector) {
        return Err(p.fault(Exception::gp(code_of(selector))));
    }
    if !d.present() {
        return Err(p.fault(Exception::np(code_of(selector))));
    }
    let mut rip = d.raw & 0xffff;
    if size > 2 {
        rip |= d.raw >> 32 & 0xffff_0000;
    }
    if size == 8 {
        rip |= upper_base(p, selector)?;
    }
    let parameters = if size == 8 { 0 } else { d.raw >> 32 & 0x1f };
    let target = code_target(p, (d.raw >> 16) as u16, rip, reach, true)?;
    Ok((target, size, parameters))
}

/// JMP far.
pub(super) fn far_jump(p: &mut Processor, selector: u16, rip: u64) -> Step {
    let target = if real(p) {
        real_target(p, selector, rip)?
    } else if is_null(selector) {
        return Err(p.fault(Exception::gp(0)));
    } else {
        let d = descriptor(p, selector, Exception::gp)?;
        if d.system().is_some() {
            call_gate(p, selector, d, Reach::Same)?.0
        } else {
            code_target(p, selector, rip, Reach::Same, false)?
        }
    };
    target.commit(p);
    Ok(())
}

/// CALL far.
pub(super) fn far_call(p: &mut Processor, selector: u16, rip: u64, size: usize, next: u64) -> Step {
    let cs = u64::from(p.core.seg[Seg::Cs as usize].selector);
    let mut stack = Stack::current(p);
    let mut size = size;
    let target = if real(p) {
        real_target(p, selector, rip)?
    } else if is_null(selector) {
        return Err(p.fault(Exception::gp(0)));
    } else {
        let d = descriptor(p, selector, Exception::gp)?;
        if d.system().is_none() {
            code_target(p, selector, rip, Reach::Same, false)?
        } else {
            let (target, gate_size, parameters) = call_gate(p, selector, d, Reach::Inward)?;
            size = gate_size;
            if target.cpl < p.core.cpl {
                stack = inner_stack(p, &target, size, parameters)?;
            } else if target.long(p) {
                stack.width = 8;
            }
            target
        }
    };
    let code = if stack.cpl == p.core.cpl { 0 } else { code_of(stack.ss.selector) };
    // Pushes of an inner level go to its stack as that level.
    stack.cpl = target.cpl;
    stack.push(p, size, cs, code)?;
    stack.push(p, size, next, code)?;
    target.commit(p);
    stack.commit(p);
    Ok(())
}

/// The stack a call gate switches to, with the caller's SS:SP and parameters on it.
fn inner_stack(
    p: &mut Processor,
    target: &CodeTarget,
    size: usize,
    parameters: u64,
) -> Step<Stack> {
    let old = Stack::current(p);
    let mut stack = if size == 8 {
        let sp = tss_pointer(p, 4 + u64::from(target.cpl) * 8)?;
        let ss = null_stack(u16::from(target.cpl), target.cpl);
        Stack { ss, sp, width: 8, cpl: target.cpl }
    } else {
        tss_stack(p, target.cpl)?
    };
    let code = code_of(stack.ss.selector);
    stack.push(p, size, u64::from(old.ss.selector), code)?;
    stack.push(p, size, p.core.gpr[RSP], code)?;
    for i in (0..parameters).rev() {
        let value = peek(p, i as i64 * size as i64, size)?;
        stack.push(p, size, value, code)?;
    }
    Ok(stack)
}

/// Data segments that an outer level must not keep are emptied on the way out. FS and GS keep
/// their bases.
fn drop_inner_segments(p: &mut Processor) {
    for seg in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
        let cpl = p.core.cpl;
        let s = &mut p.core.seg[seg as usize];
        let conforming_code =
            s.attrib & (TYPE_CODE | TYPE_CONFORMING) == TYPE_CODE | TYPE_CONFORMING;
        if s.present() && !conforming_code && s.dpl() < cpl {
            s.selector = 0;
            s.attrib = 0;
        }
    }
}

/// RET far; `release` bytes of parameters are dropped from both stacks.
pub(super) fn far_return(p: &mut Processor, size: usize, release: u64) -> Step {
    let unit = size as i64;
    let rip = peek(p, 0, size)?;
    let selector = peek(p, unit, size)? as u16;
    let skip = 2 * unit + release as i64;
    if real(p) {
        let target = real_target(p, selector, rip)?;
        let at = stack_at(p, skip);
        target.commit(p);
        set_stack(p, at);
        return Ok(());
    }
    let target = code_target(p, selector, rip, Reach::Return, false)?;
    if target.cpl == p.core.cpl {
        let at = stack_at(p, skip);
        target.commit(p);
        set_stack(p, at);
        return Ok(());
    }
    let sp = peek(p, skip, size)?;
    let ss = peek(p, skip + unit, size)? as u16;
    let stack = outer_stack(p, &target, ss, sp)?;
    target.commit(p);
    stack.commit(p);
    let at = stack_at(p, release as i64);
    set_stack(p, at);
    drop_inner_segments(p);
    Ok(())
}

/// The stack popped by a return to `target`.
fn outer_stack(p: &mut Processor, target: &CodeTarget, selector: u16, sp: u64) -> Step<Stack> {
    let long = target.long(p);
    let ss = stack_segment(p, selector, target.cpl, long, Exception::gp)?;
    let width = if long {
        8
    } else if ss.big() {
        4
    } else {
        2
    };
    Ok(Stack { ss, sp, width, cpl: target.cpl })
}

/// IRET, IRETD, IRETQ (AMD APM vol. 3).
pub(super) fn iret(p: &mut Processor, size: usize) -> Step {
    let unit = size as i64;
    if p.core.rflags & flags::VM != 0 {
        return Err(p.unknown("virtual-8086 mode"));
    }
    if !real(p) && p.core.rflags & flags::NT != 0 {
        return Err(if p.core.long_mode() {
            p.fault(Exception::gp(0))
        } else {
            p.unknown("return from a nested task")
        });
    }
    let rip = peek(p, 0, size)?;
    let selector = peek(p, unit, size)? as u16;
    let image = peek(p, 2 * unit, size)?;
    let (target, stack) = if real(p) {
        (real_target(p, selector, rip)?, None)
    } else {
        if image & flags::VM != 0 && p.core.cpl == 0 && !p.core.long_mode() && size == 4 {
            return Err(p.unknown("virtual-8086 mode"));
        }
        let target = code_target(p, selector, rip, Reach::Return, false)?;
        let stack = if p.core.mode == Mode::Long64 || target.cpl > p.core.cpl {
            let sp = peek(p, 3 * unit, size)?;
            let ss = peek(p, 4 * unit, size)? as u16;
            Some(outer_stack(p, &target, ss, sp)?)
        } else {
            None
        };
        (target, stack)
    };
    let value = returned_flags(p, image, size);
    let at = stack_at(p, 3 * unit);
    let outward = target.cpl > p.core.cpl;
    target.commit(p);
    match stack {
        Some(stack) => stack.commit(p),
        None => set_stack(p, at),
    }
    if outward {
        drop_inner_segments(p);
    }
    set_flags(p, value);
    p.core.attention |= std::mem::replace(&mut p.core.nmi_blocked, false);
    Ok(())
}

/// RFLAGS after IRET at the present privilege level. RF matters only to instruction breakpoints
/// and is dropped without them, so that blocks need not clear it.
fn returned_flags(p: &Processor, image: u64, size: usize) -> u64 {
    let old = p.core.rflags();
    let mut writable =
        flags::ARITH_MASK | flags::TF | flags::DF | flags::NT | flags::AC | flags::ID;
    if breakpoints::enabled(p) {
        writable |= flags::RF;
    }
    if p.core.cpl == 0 {
        writable |= flags::IOPL;
    }
    if u64::from(p.core.cpl) <= (old & flags::IOPL) >> 12 {
        writable |= flags::IF;
    }
    writable &= mask(size);
    (old & !writable & !flags::RF) | (image & writable)
}
