//! The records a block is made of, and how handlers pass control from one to the next.
//!
//! A block is an array of 40-byte slots: a head, then operations; some operations own the slot
//! behind them, for branch links, a decoded instruction or a vector function. A handler does its work and ends by
//! calling the next operation's handler. In release builds that is a sibling call (all handlers
//! have one signature and nothing to drop); in debug builds the handler returns the next operation
//! to the loop in [`super::run`] instead, because unoptimised code would use up the stack.
//!
//! Handlers never meet a device and change nothing before a fault: whatever is not plain memory
//! work leaves the block at that instruction, and the reference engine executes it.
//!
//! UNSAFETY: operations are reached by raw pointer and hold byte offsets into
//! [`crate::cpu::Core`]. Only [`super::build`] makes them; it keeps every offset inside the
//! structure and every block alive while it may run (see [`super::cache`]).
#![allow(unsafe_code)]

use iced_x86::Instruction;

use crate::cpu::alu::Word;
use crate::cpu::sse::Work;
use crate::cpu::state::ZERO;
use crate::cpu::{Core, Int, Processor};
use crate::mmu::tlb::{ENTRIES, Entry, Marks};

/// Handlers call each other instead of returning to a loop.
pub(crate) const TAIL: bool = !cfg!(debug_assertions);

/// Executes one operation. Answers null when the block has been left (the reason is in
/// [`Hot::leave`]), else the operation to execute next.
///
/// # Safety
/// The operation belongs to a live block.
pub(crate) type Handler = unsafe fn(&mut Processor, *const Op) -> *const Op;

/// One operation.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Op {
    /// What executes it.
    pub run: Handler,
    /// Displacement of the memory operand, or a second constant.
    pub disp: u64,
    /// Immediate operand, or the address of the next instruction.
    pub imm: u64,
    /// Byte offset of the destination register in [`Core::gpr`].
    pub dst: u8,
    /// Byte offset of the source register.
    pub src: u8,
    /// Byte offset of the base register (or of the zero slot).
    pub base: u8,
    /// Byte offset of the index register (or of the zero slot).
    pub index: u8,
    /// Shift of the index.
    pub scale: u8,
    /// Slot number inside the block.
    pub at: u8,
    /// Instructions of the block before this one.
    pub before: u8,
    /// Offset of the instruction from the block's first.
    pub rip: u16,
    /// Byte offset in [`Core`] of the quadword added to the address: a segment base or the zero
    /// slot.
    pub seg: u16,
}

/// The first slot of a block.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Head {
    /// Address of the first instruction.
    pub rip: u64,
    /// Instructions.
    pub count: i64,
    /// Host page.
    pub page: u64,
    /// Mode it was decoded for.
    pub mode: u32,
    /// It is one instruction on two pages: only the jump cache leads to it, because the second may come to be mapped
    /// elsewhere.
    pub bridge: bool,
}

/// A link that leads to another page: the way goes through the jump cache, because the other page
/// may come to be mapped elsewhere.
pub(crate) const FAR: usize = 1;

/// Where a direct branch leads.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Link {
    /// Block to continue with; null while unknown, or [`FAR`].
    pub target: *const Head,
    /// Its address.
    pub rip: u64,
}

/// One slot.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) union Slot {
    pub head: Head,
    pub op: Op,
    /// Taken, not taken.
    pub links: [Link; 2],
    pub insn: Instruction,
    pub work: Work,
}

const _: () = assert!(size_of::<Slot>() == 40 && size_of::<Op>() == 40);

/// Why a block was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// All of it is done and RIP is set.
    Done,
    /// The operation at [`Hot::at`] must be executed by the reference engine, or has met a fault
    /// before it changed anything.
    Redo,
    /// The operation at [`Hot::at`] is done, RIP is set, and something wants to be looked at.
    After,
    /// The operation at [`Hot::at`] stopped; RIP is set as its executor left it.
    Stopped,
}

/// Jump cache entries.
const JUMPS: usize = 4096;

/// No block: never matches an address and mode.
static NOWHERE: Head = Head { rip: 1 << 62, count: 0, page: 0, mode: u32::MAX, bridge: false };

/// The part of a processor that the fast engine keeps at hand.
pub(crate) struct Hot {
    /// Instructions left in this turn.
    pub budget: i64,
    /// `instructions + budget`, constant while instructions retire.
    pub limit: u64,
    /// What was left of the turn when the present instruction began.
    pub room: u64,
    /// Data TLB of the present privilege.
    pub table: *const Entry,
    /// Mode bits of the blocks that may run.
    pub mode: u32,
    /// Why the last block was left.
    pub leave: Leave,
    /// Where.
    pub at: *const Op,
    /// The link that led out of the last block, if it was one.
    pub link: *const Link,
    /// Blocks by virtual address.
    pub jumps: Box<[*const Head; JUMPS]>,
    /// Linear pages with blocks in `jumps`.
    pub jump_pages: Marks,
    /// The machine's blocks, during [`super::run`].
    pub code: *mut super::CodeCache,
    /// Drops of the code cache that this processor knows of.
    pub seen_drops: u64,
    /// Code pages that this processor knows of.
    pub seen_pages: usize,
    /// Decoded instructions of the reference engine.
    pub decoded: super::step::Decoded,
}

impl Default for Hot {
    fn default() -> Self {
        Self {
            budget: 0,
            limit: 0,
            room: 0,
            table: std::ptr::null(),
            mode: 0,
            leave: Leave::Done,
            at: std::ptr::null(),
            link: std::ptr::null(),
            jumps: Box::new([&raw const NOWHERE; JUMPS]),
            jump_pages: Marks::default(),
            code: std::ptr::null_mut(),
            seen_drops: 0,
            seen_pages: 0,
            decoded: super::step::Decoded::default(),
        }
    }
}

impl Hot {
    /// The jump cache's slot for an address.
    #[inline(always)]
    pub fn jump_slot(rip: u64) -> usize {
        (rip ^ rip >> 12) as usize % JUMPS
    }

    /// Remembers a live block.
    pub fn remember(&mut self, rip: u64, head: *const Head) {
        self.jumps[Self::jump_slot(rip)] = head;
        self.jump_pages.add(rip >> 12);
        // SAFETY: the caller has just found the block.
        if unsafe { (*head).bridge } {
            self.jump_pages.add((rip >> 12).wrapping_add(1));
        }
    }

    /// Forgets all virtual addresses.
    pub fn forget_jumps(&mut self) {
        if self.jump_pages != Marks::default() {
            self.jump_pages.clear();
            self.jumps.fill(&raw const NOWHERE);
        }
    }
}

/// Byte offset of a general register.
pub(crate) const fn gpr_offset(index: usize) -> u8 {
    (index * 8) as u8
}

/// Byte offset of the quadword that is always zero.
pub(crate) const ZERO_OFFSET: u8 = gpr_offset(ZERO);
const _: () = assert!(std::mem::offset_of!(Core, gpr) == 0);
const _: () = assert!(std::mem::offset_of!(Processor, core) == 0);

/// Reads a register.
#[inline(always)]
pub(crate) unsafe fn get<T: Word>(p: &Processor, offset: u8) -> T {
    // SAFETY: the builder only makes offsets inside `gpr`, which is at offset zero.
    unsafe { (&raw const *p).cast::<u8>().add(offset as usize).cast::<T>().read_unaligned() }
}

/// Writes a register; 32-bit writes clear the upper half.
#[inline(always)]
pub(crate) unsafe fn set<T: Word>(p: &mut Processor, offset: u8, value: T) {
    // SAFETY: as in `get`.
    unsafe {
        let at = (&raw mut *p).cast::<u8>().add(offset as usize);
        if T::BITS == 32 {
            at.cast::<u64>().write(value.zext());
        } else {
            at.cast::<T>().write_unaligned(value);
        }
    }
}

/// Address of the memory operand. The simple form has a base and a displacement only.
#[inline(always)]
pub(crate) unsafe fn address<const FULL: bool>(p: &Processor, op: *const Op) -> u64 {
    // SAFETY: `op` is live; its offsets are the builder's.
    unsafe {
        let mut la = get::<u64>(p, (*op).base).wrapping_add((*op).disp);
        if FULL {
            la = la.wrapping_add(get::<u64>(p, (*op).index) << (*op).scale);
            let seg = (&raw const *p).cast::<u8>().add((*op).seg as usize);
            la = la.wrapping_add(seg.cast::<u64>().read());
        }
        la
    }
}

/// Host address for reading a `T`, or null if the reference engine must do it.
#[inline(always)]
pub(crate) fn readable<T: Int>(p: &mut Processor, la: u64) -> *const T {
    // SAFETY: the table has `ENTRIES` entries.
    let entry = unsafe { &*p.hot.table.add((la >> 12) as usize % ENTRIES) };
    if entry.read == la.wrapping_add(T::LEN as u64 - 1) & !0xfff {
        la.wrapping_add(entry.addend) as *const T
    } else {
        p.fast_miss(la, T::LEN, false) as *const T
    }
}

/// Host address for reading and writing a `T`, or null if the reference engine must do it.
#[inline(always)]
pub(crate) fn writable<T: Int>(p: &mut Processor, la: u64) -> *mut T {
    // SAFETY: the table has `ENTRIES` entries.
    let entry = unsafe { &*p.hot.table.add((la >> 12) as usize % ENTRIES) };
    if entry.write == la.wrapping_add(T::LEN as u64 - 1) & !0xfff {
        la.wrapping_add(entry.addend) as *mut T
    } else {
        p.fast_miss(la, T::LEN, true) as *mut T
    }
}

/// Like [`writable`], but the rest of the page may be written as well.
#[inline(always)]
pub(crate) fn writable_page<T: Word>(p: &mut Processor, la: u64) -> *mut T {
    let host = writable::<T>(p, la);
    // SAFETY: the table has `ENTRIES` entries.
    let entry = unsafe { &*p.hot.table.add((la >> 12) as usize % ENTRIES) };
    if entry.write == la & !0xfff { host } else { std::ptr::null_mut() }
}

/// Continues with an operation.
#[inline(always)]
pub(crate) unsafe fn go(p: &mut Processor, op: *const Op) -> *const Op {
    if TAIL {
        // SAFETY: the caller hands on a live operation.
        unsafe { ((*op).run)(p, op) }
    } else {
        op
    }
}

/// Leaves the block.
#[inline(always)]
pub(crate) fn leave(p: &mut Processor, op: *const Op, leave: Leave) -> *const Op {
    p.hot.at = op;
    p.hot.leave = leave;
    std::ptr::null()
}

/// Leaves the block: the reference engine shall execute this instruction.
#[inline(always)]
pub(crate) fn redo(p: &mut Processor, op: *const Op) -> *const Op {
    leave(p, op, Leave::Redo)
}

/// Starts a block if the budget allows.
#[inline(always)]
unsafe fn enter(p: &mut Processor, head: *const Head) -> *const Op {
    // SAFETY: `head` is the first slot of a live block.
    unsafe {
        let left = p.hot.budget - (*head).count;
        if left < 0 {
            p.core.rip = (*head).rip;
            p.hot.link = std::ptr::null();
            return leave(p, std::ptr::null(), Leave::Done);
        }
        p.hot.budget = left;
        go(p, head.cast::<Slot>().add(1).cast())
    }
}

/// Continues at a computed address.
#[inline(always)]
pub(crate) unsafe fn jump(p: &mut Processor, rip: u64) -> *const Op {
    // SAFETY: the jump cache holds live blocks (it is emptied before any is freed) or `NOWHERE`.
    unsafe {
        let head = p.hot.jumps[Hot::jump_slot(rip)];
        if (*head).rip == rip && (*head).mode == p.hot.mode {
            return enter(p, head);
        }
        p.core.rip = rip;
        p.hot.link = std::ptr::null();
        leave(p, std::ptr::null(), Leave::Done)
    }
}

/// Continues along a link.
#[inline(always)]
pub(crate) unsafe fn follow(p: &mut Processor, link: *const Link) -> *const Op {
    // SAFETY: links belong to a live block and lead to live blocks of the same page.
    unsafe {
        let head = (*link).target;
        if head as usize > FAR {
            return enter(p, head);
        }
        if head as usize == FAR {
            return jump(p, (*link).rip);
        }
        p.core.rip = (*link).rip;
        p.hot.link = link;
        leave(p, std::ptr::null(), Leave::Done)
    }
}

/// The slot behind an operation, as links.
#[inline(always)]
pub(crate) unsafe fn links(op: *const Op) -> *const Link {
    // SAFETY: the builder put links behind the operations that use them.
    unsafe { op.add(1).cast() }
}
