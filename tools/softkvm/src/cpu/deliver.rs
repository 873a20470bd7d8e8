//! Delivery of exceptions, software interrupts, external interrupts and NMIs through the IDT, and
//! what a fault during delivery becomes.

use super::flags;
use super::processor::Processor;
use super::segments::{self, CodeTarget, Reach, Stack};
use super::state::{Seg, cr0};
use super::world::{Event, Exception, Exit, Step, Stop};

#[cfg(test)]
#[path = "deliver_test.rs"]
mod deliver_test;

/// #DF.
const DOUBLE_FAULT: u8 = 8;
/// #PF.
const PAGE_FAULT: u8 = 14;
/// #VE.
const VIRTUALIZATION: u8 = 20;
/// NMI.
const NMI: u8 = 2;
/// External-event bit of an error code.
const EXT: u32 = 1;

/// What is being delivered.
#[derive(Clone, Copy)]
struct Delivery {
    vector: u8,
    error: Option<u32>,
    /// RIP in the frame.
    rip: u64,
    /// INT n, INT3, INTO: the gate's DPL is checked.
    software: bool,
    /// A fault: RF is set in the frame.
    fault: bool,
}

/// Delivers an exception that an instruction ended with: the frame shows the present RIP.
/// Err is always an exit.
pub fn exception(p: &mut Processor, exception: Exception) -> Step {
    event(p, Event::Exception(exception))
}

/// Delivers an acknowledged external interrupt.
pub fn interrupt(p: &mut Processor, vector: u8) -> Step {
    event(p, Event::Interrupt(vector))
}

/// Delivers an NMI; further ones are blocked until IRET.
pub fn nmi(p: &mut Processor) -> Step {
    event(p, Event::Nmi)
}

/// Delivers what an exit interrupted earlier, if there is such a thing. To be called on entry,
/// before the first instruction.
pub fn pending(p: &mut Processor) -> Step {
    match p.core.pending.take() {
        Some(waiting) => event(p, waiting),
        None => Ok(()),
    }
}

/// INT n, INT3 and INTO. A fault leaves the instruction unexecuted, as any other would.
pub(super) fn software(p: &mut Processor, vector: u8, next: u64) -> Step {
    attempt(p, Delivery { vector, error: None, rip: next, software: true, fault: false })
}

/// INT1.
pub(super) fn icebp(p: &mut Processor, next: u64) -> Step {
    attempt(p, Delivery { vector: 1, error: None, rip: next, software: false, fault: false })
}

/// Delivers an event; a fault on the way is delivered instead, or makes a double fault, or shuts
/// the processor down.
pub fn event(p: &mut Processor, first: Event) -> Step {
    let mut current = first;
    loop {
        let rip = p.core.rip;
        let delivery = match current {
            Event::Exception(e) => {
                if let Some(cr2) = e.cr2 {
                    p.core.cr2 = cr2;
                }
                let fault = !matches!(e.vector, 1 | 3 | 4 | DOUBLE_FAULT);
                Delivery { vector: e.vector, error: e.error, rip, software: false, fault }
            }
            Event::Interrupt(vector) => {
                Delivery { vector, error: None, rip, software: false, fault: false }
            }
            Event::Nmi => Delivery { vector: NMI, error: None, rip, software: false, fault: false },
        };
        if attempt(p, delivery).is_ok() {
            if matches!(current, Event::Nmi) {
                p.core.nmi_blocked = true;
            }
            return Ok(());
        }
        match p.core.stop.take() {
            Some(Stop::Fault(second)) => {
                // CR2 is loaded when the fault is met, even if it ends in #DF.
                p.core.cr2 = second.cr2.unwrap_or(p.core.cr2);
                match after(current, second) {
                    Some(next) => current = next,
                    None => return Err(p.exit(Exit::Shutdown)),
                }
            }
            stop => {
                p.core.stop = stop;
                p.core.pending = Some(current);
                return Err(super::world::Trapped);
            }
        }
    }
}

/// What to deliver when delivering `first` raised `second` (AMD APM vol. 2, 8.2.9; Intel SDM volume 3, "Conditions for
/// Generating a Double Fault", which counts #VE with #PF); `None` is shutdown.
fn after(first: Event, mut second: Exception) -> Option<Event> {
    let contributory = |vector| matches!(vector, 0 | 10..=13 | 21);
    if matches!(second.vector, 10..=13) {
        // The fault was met on behalf of something that no instruction asked for.
        second.error = second.error.map(|error| error | EXT);
    }
    if let Event::Exception(first) = first {
        if first.vector == DOUBLE_FAULT {
            return None;
        }
        let paging = |vector| matches!(vector, PAGE_FAULT | VIRTUALIZATION);
        let double = (contributory(first.vector) && contributory(second.vector))
            || (paging(first.vector) && (contributory(second.vector) || paging(second.vector)));
        if double {
            return Some(Event::Exception(Exception::with(DOUBLE_FAULT, 0)));
        }
    }
    Some(Event::Exception(second))
}

/// Goes through the IDT. The architectural state changes only on success.
fn attempt(p: &mut Processor, delivery: Delivery) -> Step {
    if p.core.rflags & flags::VM != 0 {
        return Err(p.unknown("virtual-8086 mode"));
    }
    if p.core.cr0 & cr0::PE == 0 {
        through_ivt(p, delivery)?;
    } else if p.core.long_mode() {
        through_long_gate(p, delivery)?;
    } else {
        through_legacy_gate(p, delivery)?;
    }
    p.core.shadow = false;
    p.core.debug_held = false;
    Ok(())
}

fn frame_flags(p: &Processor, delivery: &Delivery) -> u64 {
    p.core.rflags() | if delivery.fault { flags::RF } else { 0 }
}

/// Error code that names an IDT entry.
fn idt_code(vector: u8) -> u32 {
    u32::from(vector) * 8 + 2
}

/// Real mode: four bytes per vector; no error code.
fn through_ivt(p: &mut Processor, delivery: Delivery) -> Step {
    let at = u64::from(delivery.vector) * 4;
    if at + 3 > u64::from(p.core.idtr.limit) {
        return Err(p.fault(Exception::gp(0)));
    }
    let entry: u32 = p.load_linear(p.core.idtr.base.wrapping_add(at), false)?;
    let mut stack = Stack::current(p);
    let old = p.core.rflags();
    let cs = u64::from(p.core.seg[Seg::Cs as usize].selector);
    stack.push(p, 2, old, 0)?;
    stack.push(p, 2, cs, 0)?;
    stack.push(p, 2, delivery.rip, 0)?;
    let mut cs = p.core.seg[Seg::Cs as usize];
    cs.selector = (entry >> 16) as u16;
    cs.base = u64::from(cs.selector) << 4;
    let target = CodeTarget { cs, rip: u64::from(entry & 0xffff), cpl: 0 };
    target.commit(p);
    stack.commit(p);
    p.core.set_rflags(old & !(flags::IF | flags::TF | flags::AC | flags::RF));
    Ok(())
}

/// A gate's attribute byte and the flags it clears.
struct Gate {
    selector: u16,
    offset: u64,
    kind: u16,
    ist: u64,
}

/// Reads and checks a gate of `len` bytes.
fn gate(p: &mut Processor, delivery: &Delivery, len: u64) -> Step<Gate> {
    let code = idt_code(delivery.vector);
    let at = u64::from(delivery.vector) * len;
    if at + len - 1 > u64::from(p.core.idtr.limit) {
        return Err(p.fault(Exception::gp(code)));
    }
    let la = p.core.idtr.base.wrapping_add(at);
    let raw: u64 = p.load_linear(la, false)?;
    let kind = (raw >> 40) as u16 & 0x1f;
    let known = match kind {
        0xe | 0xf => true,
        5..=7 => len == 8,
        _ => false,
    };
    let dpl = (raw >> 45 & 3) as u8;
    if !known || (delivery.software && dpl < p.core.cpl) {
        return Err(p.fault(Exception::gp(code)));
    }
    if raw >> 47 & 1 == 0 {
        return Err(p.fault(Exception::np(code)));
    }
    if kind == 5 {
        return Err(p.unknown("task gate"));
    }
    let mut offset = raw & 0xffff;
    if kind >= 8 {
        offset |= raw >> 32 & 0xffff_0000;
    }
    if len == 16 {
        let high: u32 = p.load_linear(la.wrapping_add(8), false)?;
        offset |= u64::from(high) << 32;
    }
    Ok(Gate { selector: (raw >> 16) as u16, offset, kind, ist: raw >> 32 & 7 })
}

/// RFLAGS at the handler's first instruction.
fn enter(p: &mut Processor, old: u64, gate: &Gate) {
    let mut cleared = flags::TF | flags::NT | flags::RF | flags::VM;
    if gate.kind & 1 == 0 {
        // Interrupt gates also mask interrupts.
        cleared |= flags::IF;
    }
    p.core.set_rflags(old & !cleared);
}

/// Protected mode outside long mode: 16- and 32-bit gates.
fn through_legacy_gate(p: &mut Processor, delivery: Delivery) -> Step {
    let gate = gate(p, &delivery, 8)?;
    let target = segments::code_target(p, gate.selector, gate.offset, Reach::Inward, false)?;
    let size = if gate.kind >= 8 { 4 } else { 2 };
    let old = Stack::current(p);
    let inner = target.cpl < p.core.cpl;
    let mut stack = if inner { segments::tss_stack(p, target.cpl)? } else { Stack::current(p) };
    let code = if inner { segments::code_of(stack.ss.selector) } else { 0 };
    if inner {
        stack.push(p, size, u64::from(old.ss.selector), code)?;
        stack.push(p, size, p.core.gpr[super::state::RSP], code)?;
    }
    let image = frame_flags(p, &delivery);
    stack.push(p, size, image, code)?;
    stack.push(p, size, u64::from(p.core.seg[Seg::Cs as usize].selector), code)?;
    stack.push(p, size, delivery.rip, code)?;
    if let Some(error) = delivery.error {
        stack.push(p, size, u64::from(error), code)?;
    }
    let before = p.core.rflags();
    target.commit(p);
    stack.commit(p);
    enter(p, before, &gate);
    Ok(())
}

/// Long mode: 64-bit gates, the frame always holds SS:RSP, the stack is aligned to 16 bytes.
fn through_long_gate(p: &mut Processor, delivery: Delivery) -> Step {
    let gate = gate(p, &delivery, 16)?;
    let target = segments::code_target(p, gate.selector, gate.offset, Reach::Inward, true)?;
    let inner = target.cpl < p.core.cpl;
    let old_ss = p.core.seg[Seg::Ss as usize];
    let old_sp = p.core.gpr[super::state::RSP];
    let sp = if gate.ist != 0 {
        // IST1 stands at 24h.
        segments::tss_pointer(p, 0x1c + gate.ist * 8)?
    } else if inner {
        segments::tss_pointer(p, 4 + u64::from(target.cpl) * 8)?
    } else {
        old_sp
    };
    let ss = if inner { segments::null_stack(u16::from(target.cpl), target.cpl) } else { old_ss };
    let mut stack = Stack { ss, sp: sp & !15, width: 8, cpl: target.cpl };
    let image = frame_flags(p, &delivery);
    let cs = p.core.seg[Seg::Cs as usize].selector;
    let frame = [u64::from(old_ss.selector), old_sp, image, u64::from(cs), delivery.rip];
    for value in frame.into_iter().chain(delivery.error.map(u64::from)) {
        stack.push(p, 8, value, 0)?;
    }
    let before = p.core.rflags();
    target.commit(p);
    stack.commit(p);
    enter(p, before, &gate);
    Ok(())
}
