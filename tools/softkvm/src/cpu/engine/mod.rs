//! The engines that execute instructions, and the run loop of one processor.
//!
//! The fast engine runs blocks of specialised operations; whatever is not plain work inside a
//! block — a fault, a device access, a page-crossing operand, a write to code — leaves the block
//! at that instruction, which the reference engine then executes. Both retire the same
//! instructions, see events at the same places and leave the same state.
//!
//! UNSAFETY: blocks are reached by raw pointer; see `op` and `cache` for who keeps them alive.
#![allow(unsafe_code)]

mod build;
mod cache;
mod handlers;
pub(crate) mod op;
mod select;
mod select_simd;
pub(crate) mod step;

pub use cache::{CodeCache, CodeStats, Kind};

use self::cache::{Block, Key};
use self::handlers::generic::head;
use self::op::{FAR, Head, Hot, Leave, Link, Slot};
use super::exec::breakpoints;
use super::state::Seg;
use super::world::{Exit, Step, Stop, Trapped};
use super::{Mode, Processor, deliver, flags};

#[cfg(test)]
#[path = "engine_test.rs"]
mod engine_test;

/// Runs a processor for at most `budget` instructions. It must have a world
/// ([`Processor::with_world`]); `code` is its machine's.
///
/// The budget is exact: [`Exit::Turn`] comes after `budget` instructions, unless another exit comes
/// first. Each iteration of a repeated instruction counts as one, and a delivered event takes the
/// place of one.
pub fn run(p: &mut Processor, code: &mut CodeCache, budget: u64) -> Exit {
    p.hot.budget = i64::try_from(budget).unwrap_or(i64::MAX);
    p.hot.limit = p.core.instructions.wrapping_add(p.hot.budget as u64);
    p.core.stop = None;
    let fast = code.kind == Kind::Fast;
    code.bury();
    p.catch_up(code);
    // From here on the cache is only used through this pointer: instructions drop blocks too.
    let code: *mut CodeCache = code;
    p.hot.code = code;
    let exit = loop {
        match turn(p, code, fast) {
            Ok(None) => {}
            Ok(Some(exit)) => break exit,
            Err(Trapped) => match p.core.stop.take() {
                Some(Stop::Fault(exception)) => {
                    p.event_taken();
                    if deliver::exception(p, exception).is_err() {
                        break p.exit_reason();
                    }
                }
                // A repeated instruction asks for a look at events and the budget.
                Some(Stop::Exit(Exit::Turn)) => {}
                Some(Stop::Exit(exit)) => break exit,
                None => break Exit::Turn,
            },
        }
    };
    p.core.instructions = p.hot.limit.wrapping_sub(p.hot.budget as u64);
    p.hot.code = std::ptr::null_mut();
    exit
}

/// Looks for events, then executes a chain of blocks or one instruction.
fn turn(p: &mut Processor, code: *mut CodeCache, fast: bool) -> Step<Option<Exit>> {
    if p.hot.budget <= 0 {
        return Ok(Some(Exit::Turn));
    }
    if p.core.pending.is_some() {
        p.event_taken();
        deliver::pending(p)?;
    }
    if p.core.attention {
        if p.world().end_turn() {
            return Ok(Some(Exit::Turn));
        }
        if take_event(p)? {
            return Ok(None);
        }
    }
    // SAFETY: `run` holds the cache, and no other reference to it is alive here; no block is
    // running.
    unsafe {
        if (*code).drops() != p.hot.seen_drops {
            p.catch_up(&*code);
            (*code).bury();
        }
    }
    let careful =
        p.core.shadow || p.core.rflags & (flags::TF | flags::RF) != 0 || breakpoints::enabled(p);
    if !fast || careful || !p.mode_for_blocks() {
        return step_once(p, code);
    }
    // SAFETY: `run` holds the cache, and no other reference to it is alive here.
    let first = p.find_block(unsafe { &mut *code });
    // SAFETY: `first` is null or a live block, and none is freed before this has been left.
    unsafe {
        if first.is_null() && p.core.stop.is_some() {
            return Err(Trapped);
        }
        if first.is_null() || (*first).count > p.hot.budget {
            return step_once(p, code);
        }
        p.hot.budget -= (*first).count;
        let mut op: *const op::Op = first.cast::<Slot>().add(1).cast();
        while !op.is_null() {
            op = ((*op).run)(p, op);
        }
        left(p, code)
    }
}

/// A block has been left: puts the books in order.
unsafe fn left(p: &mut Processor, code: *mut CodeCache) -> Step<Option<Exit>> {
    let at = p.hot.at;
    let why = p.hot.leave;
    if why == Leave::Done {
        return Ok(None);
    }
    p.hot.link = std::ptr::null();
    // SAFETY: `at` is an operation of the block just left, which is still there.
    let (block, op) = unsafe { (&*head(at), &*at) };
    let ahead = block.count - i64::from(op.before);
    match why {
        Leave::Redo => {
            p.hot.budget += ahead;
            p.core.rip = block.rip.wrapping_add(u64::from(op.rip));
            match p.core.stop {
                // It names an instruction, but RIP was not yet there.
                Some(Stop::Exit(Exit::Unknown { .. })) => p.core.stop = None,
                // A fault of its memory operand has been met already.
                Some(_) => return Err(Trapped),
                None => {}
            }
            step_once(p, code)
        }
        Leave::Stopped => match p.core.stop.take() {
            // These have happened when they are reported.
            Some(Stop::Exit(exit @ (Exit::Halt | Exit::Vmgexit | Exit::Tdcall))) => {
                p.hot.budget += ahead - 1;
                Ok(Some(exit))
            }
            stop => {
                p.hot.budget += ahead;
                p.core.stop = stop;
                Err(Trapped)
            }
        },
        Leave::Done | Leave::After => {
            p.hot.budget += ahead - 1;
            Ok(None)
        }
    }
}

/// One instruction by the reference engine.
fn step_once(p: &mut Processor, code: *mut CodeCache) -> Step<Option<Exit>> {
    p.hot.link = std::ptr::null();
    // SAFETY: `run` holds the cache, and no other reference to it is alive here.
    let code = unsafe { &mut *code };
    code.stats.steps += 1;
    if code.watch.contains(&p.core.rip) {
        p.meet(code, p.core.rip);
    }
    step::step(p)
}

/// Delivers an NMI or interrupt if one waits and may be taken.
fn take_event(p: &mut Processor) -> Step<bool> {
    if p.core.shadow {
        return Ok(false);
    }
    if !p.core.nmi_blocked && p.world().take_nmi() {
        p.event_taken();
        return deliver::nmi(p).map(|()| true);
    }
    if p.core.rflags & flags::IF == 0 {
        // Whatever sets IF asks again: code that runs with interrupts off must not be stopped at every instruction.
        p.core.attention = false;
        return Ok(false);
    }
    match p.world().take_interrupt() {
        Some(vector) => {
            p.event_taken();
            deliver::interrupt(p, vector).map(|()| true)
        }
        None => {
            // User space may wait for the moment at which an interrupt could be taken.
            p.core.attention = p.world().end_turn();
            Ok(p.core.attention)
        }
    }
}

impl Processor {
    /// Iterations that a repeated instruction may go through before it leaves with
    /// [`Exit::Turn`], registers advanced and RIP still at it.
    pub(crate) fn turn_room(&self) -> u64 {
        // Outside `run` there is no turn, only this measure of patience.
        if self.hot.code.is_null() { 4096 } else { self.hot.room }
    }

    /// A delivered event takes an instruction's place in the budget without being one.
    fn event_taken(&mut self) {
        self.hot.budget -= 1;
        self.hot.limit = self.hot.limit.wrapping_sub(1);
    }

    fn exit_reason(&mut self) -> Exit {
        match self.core.stop.take() {
            Some(Stop::Exit(exit)) => exit,
            _ => Exit::Shutdown,
        }
    }

    /// Learns what happened to the machine's blocks.
    fn catch_up(&mut self, code: &CodeCache) {
        if self.hot.seen_drops != code.drops() {
            self.hot.seen_drops = code.drops();
            self.hot.forget_jumps();
            self.hot.link = std::ptr::null();
        }
        for &page in code.new_pages(self.hot.seen_pages) {
            self.tlb.withhold_writes(page);
        }
        self.hot.seen_pages = code.page_count();
    }

    /// Whether blocks may run in the present mode; sets up what they depend on.
    #[inline]
    fn mode_for_blocks(&mut self) -> bool {
        let cs = &self.core.seg[Seg::Cs as usize];
        let flat = match self.core.mode {
            Mode::Long64 => true,
            Mode::Prot32 => cs.base == 0 && cs.limit == u32::MAX,
            Mode::Real16 | Mode::Prot16 => false,
        };
        if !flat || self.core.rflags & flags::VM != 0 || self.checks_alignment() {
            return false;
        }
        let user = self.core.cpl == 3;
        let features = self.core.features.bits();
        let features = (features ^ features >> 29 ^ features >> 58) as u32;
        self.hot.mode = self.core.mode as u32 | u32::from(user) << 2 | features << 3;
        self.hot.table = self.tlb.table(self.table_of(user));
        true
    }

    /// The block at RIP, built if need be, and linked from where the last one was left. Null when
    /// the reference engine must go on or the fetch has faulted.
    fn find_block(&mut self, code: &mut CodeCache) -> *const Head {
        let link = std::mem::replace(&mut self.hot.link, std::ptr::null());
        let rip = self.core.rip;
        let mut head = self.hot.jumps[Hot::jump_slot(rip)];
        // SAFETY: the jump cache holds live blocks (it is emptied before any is freed).
        let known = unsafe { (*head).rip == rip && (*head).mode == self.hot.mode };
        if !known {
            head = self.look_up(code, rip);
            if head.is_null() {
                return head;
            }
            self.hot.remember(rip, head);
        }
        if !link.is_null() {
            // SAFETY: the link belongs to the block left last; nothing has been freed since.
            unsafe { connect(link.cast_mut(), head) };
        }
        head
    }

    fn look_up(&mut self, code: &mut CodeCache, rip: u64) -> *const Head {
        if self.core.mode == Mode::Long64 && !self.canonical(rip) {
            return std::ptr::null();
        }
        let Ok(page) = self.fetch_page(rip) else { return std::ptr::null() };
        let key = Key { rip, page: page as u64, mode: self.hot.mode, second: 0 };
        if let Some(head) = code.find(&key) {
            return head;
        }
        if code.watch.contains(&rip) {
            self.meet(code, rip);
        }
        let offset = (rip & 0xfff) as usize;
        // SAFETY: the world lent the whole page, and nobody writes to it meanwhile.
        let bytes = unsafe { std::slice::from_raw_parts(page.add(offset), 4096 - offset) };
        match build::build(bytes, &key, self.core.mode, self.core.features) {
            Some(built) => self.keep(code, key, built),
            None => self.bridge(code, key, bytes),
        }
    }

    /// The world wants to hear of code here.
    #[cold]
    fn meet(&mut self, code: &mut CodeCache, rip: u64) {
        self.core.instructions = self.hot.limit.wrapping_sub(self.hot.budget as u64);
        let (core, world) = self.parts();
        if !world.meets_code(core, rip) {
            code.watch = 0..0;
        }
    }

    /// The block of an instruction that begins with `bytes`, the last ones of its page. Null when the fetch has faulted.
    #[cold]
    fn bridge(&mut self, code: &mut CodeCache, key: Key, bytes: &[u8]) -> *const Head {
        let next = (key.rip | 0xfff).wrapping_add(1);
        let inside = match self.core.mode {
            Mode::Long64 => self.canonical(next),
            _ => next <= u64::from(u32::MAX),
        };
        if !inside {
            return std::ptr::null();
        }
        let Ok(second) = self.fetch_page(next) else { return std::ptr::null() };
        let key = Key { second: second as u64, ..key };
        if let Some(head) = code.find(&key) {
            return head;
        }
        // An instruction has at most 15 bytes, and begins with all of `bytes`.
        let mut both = [0; 30];
        both[..bytes.len()].copy_from_slice(bytes);
        // SAFETY: the world lent the whole page, and nobody writes to it meanwhile.
        let more = unsafe { std::slice::from_raw_parts(second, both.len() - bytes.len()) };
        both[bytes.len()..].copy_from_slice(more);
        match build::build(&both, &key, self.core.mode, self.core.features) {
            Some(built) => self.keep(code, key, built),
            None => std::ptr::null(),
        }
    }

    fn keep(
        &mut self,
        code: &mut CodeCache,
        key: Key,
        (block, len): (Block, usize),
    ) -> *const Head {
        // SAFETY: the first slot of a block is its head.
        code.stats.decoded += unsafe { block.slots[0].head.count } as u64;
        let head = code.add(key, block, len);
        self.catch_up(code);
        head
    }

    /// Translations have gone, and with them what is known about virtual addresses.
    pub(crate) fn left_mapping(&mut self) {
        self.hot.forget_jumps();
    }

    /// As [`Processor::left_mapping`], for one linear page.
    pub(crate) fn left_page(&mut self, la: u64) {
        if self.hot.jump_pages.may_hold(la >> 12) {
            self.hot.forget_jumps();
        }
    }

    /// Whether a host page holds cached code.
    pub(crate) fn holds_code(&self, host: *mut u8) -> bool {
        // SAFETY: set only while `run` holds the cache.
        unsafe { self.hot.code.as_ref() }.is_some_and(|code| code.holds(host as u64 & !0xfff))
    }

    /// Whether bytes share a line with cached code.
    pub(crate) fn overlaps_code(&self, host: *mut u8, len: usize) -> bool {
        // SAFETY: as in `holds_code`.
        unsafe { self.hot.code.as_ref() }.is_some_and(|code| code.overlaps(host as u64, len))
    }

    /// A write to guest memory that may hit cached code.
    pub(crate) fn note_code_write(&mut self, host: *mut u8, len: usize) {
        // SAFETY: as in `holds_code`; nothing else borrows the cache during an instruction.
        if let Some(code) = unsafe { self.hot.code.as_mut() } {
            code.wrote(host as u64, len);
        }
    }
}

/// Lets a link lead to a block of the same page.
///
/// # Safety
/// The link belongs to a live block, or is null.
unsafe fn connect(link: *mut Link, head: *const Head) {
    // SAFETY: as the caller promises; blocks are only ever changed through their links.
    unsafe {
        if (*link).rip == (*head).rip {
            (*link).target = if (*head).bridge { FAR as *const Head } else { head };
        }
    }
}
