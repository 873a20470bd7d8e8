//! Builds blocks: decodes from one page until a branch, the page's end, 64 instructions or an
//! instruction that may change how the next ones run.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::cache::{Block, Key};
use super::handlers::{branch, generic};
use super::op::{FAR, Head, Link, Op, Slot, ZERO_OFFSET};
use super::select::{Chosen, fused, select};
use super::step::bitness;
use crate::cpu::exec::offered;
use crate::cpu::{Features, Mode};

/// Most instructions in a block.
const MOST: usize = 64;

/// A block being made.
struct Builder {
    slots: Vec<Slot>,
    rip: u64,
    features: Features,
    /// The last operation is a comparison that a jump may be fused with.
    compare: Option<Chosen>,
}

/// Decodes `code`, the rest of the page from `key.rip` on, or of two pages for a bridge. `None` when not even the first
/// instruction lies wholly in it. Also answers the length in bytes.
pub(crate) fn build(
    code: &[u8],
    key: &Key,
    mode: Mode,
    features: Features,
) -> Option<(Block, usize)> {
    let most = if key.is_bridge() { 1 } else { MOST };
    let mut decoder = Decoder::with_ip(bitness(mode), code, key.rip, DecoderOptions::NONE);
    let head =
        Head { rip: key.rip, count: 0, page: key.page, mode: key.mode, bridge: key.is_bridge() };
    let mut builder =
        Builder { slots: Vec::with_capacity(16), rip: key.rip, features, compare: None };
    builder.slots.push(Slot { head });
    let mut insn = Instruction::default();
    let mut count = 0;
    let mut end = key.rip;
    let closed = loop {
        if count == most || !decoder.can_decode() {
            break false;
        }
        decoder.decode_out(&mut insn);
        if decoder.last_error() == iced_x86::DecoderError::NoMoreBytes {
            break false;
        }
        end = insn.next_ip();
        let last = builder.add(&insn, count, mode);
        count += 1;
        if last {
            break true;
        }
    };
    if count == 0 {
        return None;
    }
    if !closed {
        builder.push(Op { run: branch::end, ..builder.blank(count, end) });
        builder.links(end, end);
    }
    builder.slots[0] = Slot { head: Head { count: count as i64, ..head } };
    let len = end.wrapping_sub(key.rip) as usize;
    Some((Block { slots: builder.slots.into_boxed_slice() }, len))
}

impl Builder {
    /// An operation of the instruction at `rip` that does nothing yet.
    fn blank(&self, before: usize, rip: u64) -> Op {
        Op {
            run: branch::end,
            disp: 0,
            imm: 0,
            dst: ZERO_OFFSET,
            src: ZERO_OFFSET,
            base: ZERO_OFFSET,
            index: ZERO_OFFSET,
            scale: 0,
            at: 0,
            before: before as u8,
            rip: rip.wrapping_sub(self.rip) as u16,
            seg: u16::from(ZERO_OFFSET),
        }
    }

    fn push(&mut self, mut op: Op) {
        op.at = self.slots.len() as u8;
        self.slots.push(Slot { op });
    }

    fn links(&mut self, taken: u64, fall: u64) {
        let link = |rip: u64| {
            let far = (rip ^ self.rip) >> 12 != 0;
            let target = if far { FAR as *const Head } else { std::ptr::null() };
            Link { target, rip }
        };
        let links = [link(taken), link(fall)];
        self.slots.push(Slot { links });
    }

    /// Adds an instruction; answers whether it ends the block.
    fn add(&mut self, insn: &Instruction, before: usize, mode: Mode) -> bool {
        let mut op = self.blank(before, insn.ip());
        let compare = self.compare.take();
        let chosen = if mode == Mode::Long64 { select(insn, &mut op, self.features) } else { None };
        match chosen {
            Some(Chosen::Plain) => self.push(op),
            Some(Chosen::Work(work)) => {
                self.push(op);
                self.slots.push(Slot { work });
            }
            Some(Chosen::Compare { .. }) => {
                self.compare = chosen;
                self.push(op);
            }
            Some(Chosen::Conditional(cc)) => {
                if let Some(Chosen::Compare { width, test, imm }) = compare {
                    self.fuse(fused(width, test, imm, cc));
                } else {
                    self.push(op);
                }
                self.links(insn.near_branch64(), insn.next_ip());
                return true;
            }
            Some(Chosen::Direct) => {
                self.push(op);
                self.links(insn.near_branch64(), insn.next_ip());
                return true;
            }
            Some(Chosen::Indirect) => {
                self.push(op);
                return true;
            }
            None => {
                let last = ends_block(insn);
                let mut op = self.blank(before, insn.ip());
                op.run = match (last, offered(self.features, insn)) {
                    (true, false) => generic::last::<false>,
                    (true, true) => generic::last::<true>,
                    (false, false) => generic::inside::<false>,
                    (false, true) => generic::inside::<true>,
                };
                op.disp = insn.ip();
                op.imm = insn.next_ip();
                self.push(op);
                self.slots.push(Slot { insn: *insn });
                return last;
            }
        }
        false
    }

    /// Replaces the comparison just added by its fusion with a jump.
    fn fuse(&mut self, run: super::op::Handler) {
        if let Some(slot) = self.slots.last_mut() {
            // `compare` was set, so the last slot was pushed as an operation.
            slot.op.run = run;
        }
    }
}

/// Whether an instruction without a handler of its own must be the last of its block: it may
/// branch, or change mode, privilege, translation, interruptibility or the world.
fn ends_block(insn: &Instruction) -> bool {
    use Mnemonic as M;
    if insn.flow_control() != FlowControl::Next {
        return true;
    }
    let special = insn.op_count() > 0
        && insn.op_kind(0) == OpKind::Register
        && is_special(insn.op_register(0));
    special
        || matches!(
            insn.mnemonic(),
            M::Hlt
                | M::Sti
                | M::Popf
                | M::Popfd
                | M::Popfq
                | M::Lds
                | M::Les
                | M::Lfs
                | M::Lgs
                | M::Lss
                | M::Wrmsr
                | M::Rdmsr
                | M::Lgdt
                | M::Lidt
                | M::Lldt
                | M::Ltr
                | M::Invlpg
                | M::Invlpga
                | M::Invpcid
                | M::Invlpgb
                | M::Tlbsync
                | M::Clac
                | M::Stac
                | M::Clts
                | M::Lmsw
                | M::Cpuid
                | M::In
                | M::Insb
                | M::Insw
                | M::Insd
                | M::Out
                | M::Outsb
                | M::Outsw
                | M::Outsd
                | M::Pvalidate
                | M::Rmpadjust
                | M::Vmgexit
                | M::Tdcall
                | M::Psmash
                | M::Rmpupdate
                | M::Swapgs
                | M::Xsetbv
                | M::Wbinvd
                | M::Wbnoinvd
                | M::Invd
                | M::Monitor
                | M::Mwait
                | M::Monitorx
                | M::Mwaitx
                | M::Rsm
                | M::Serialize
                | M::Clgi
                | M::Stgi
                | M::Vmrun
                | M::Vmload
                | M::Vmsave
                | M::Skinit
                | M::INVALID
        )
}

fn is_special(register: Register) -> bool {
    register.is_segment_register() || register.is_cr() || register.is_dr()
}
