//! Chooses a handler for a decoded instruction of 64-bit mode and fills its operation.
//!
//! What is not found here runs through the generic handler.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::handlers::{alu, bits, branch, mov, stack, string};
use super::op::{Handler, Op, ZERO_OFFSET, gpr_offset};
use super::select_simd;
use crate::cpu::Features;
use crate::cpu::alu::{Word, shift_count};
use crate::cpu::sse::Work;
use crate::cpu::state::{Core, Seg, Segment};

/// What kind of operation was chosen.
#[derive(Clone, Copy)]
pub(crate) enum Chosen {
    /// Falls through to the next operation.
    Plain,
    /// CMP or TEST of registers and immediates, which can be fused with a conditional jump.
    Compare { width: usize, test: bool, imm: bool },
    /// A conditional jump, by condition code; it has both links.
    Conditional(u8),
    /// A direct jump or call with one link.
    Direct,
    /// An indirect jump, call or return.
    Indirect,
    /// An SSE instruction; what it computes is to stand behind it.
    Work(Work),
}

/// Picks a generic function for a width in bytes.
macro_rules! by_width {
    ($width:expr, $($path:ident)::+ $(, $c:expr)*) => {
        match $width {
            1 => $($path)::+::<u8 $(, { $c })*>,
            2 => $($path)::+::<u16 $(, { $c })*>,
            4 => $($path)::+::<u32 $(, { $c })*>,
            _ => $($path)::+::<u64 $(, { $c })*>,
        }
    };
}

/// Picks by width and simple or full address.
macro_rules! by_address {
    ($width:expr, $full:expr, $($path:ident)::+ $(, $c:expr)*) => {
        if $full {
            by_width!($width, $($path)::+ $(, $c)*, true)
        } else {
            by_width!($width, $($path)::+ $(, $c)*, false)
        }
    };
}

/// Calls a macro with each arithmetic operation as a constant.
macro_rules! by_alu {
    ($op:expr, $mac:ident, ($($before:tt)*), $($path:ident)::+) => {
        match $op {
            alu::ADD => $mac!($($before)*, $($path)::+, alu::ADD),
            alu::OR => $mac!($($before)*, $($path)::+, alu::OR),
            alu::ADC => $mac!($($before)*, $($path)::+, alu::ADC),
            alu::SBB => $mac!($($before)*, $($path)::+, alu::SBB),
            alu::AND => $mac!($($before)*, $($path)::+, alu::AND),
            alu::SUB => $mac!($($before)*, $($path)::+, alu::SUB),
            alu::XOR => $mac!($($before)*, $($path)::+, alu::XOR),
            alu::CMP => $mac!($($before)*, $($path)::+, alu::CMP),
            _ => $mac!($($before)*, $($path)::+, alu::TEST),
        }
    };
}

/// Picks by condition code.
macro_rules! by_condition {
    ($cc:expr, $($path:ident)::+ $(, $t:ty)* $(; $c:expr)*) => {
        match $cc {
            0 => $($path)::+::<$($t,)* $({ $c },)* 0>,
            1 => $($path)::+::<$($t,)* $({ $c },)* 1>,
            2 => $($path)::+::<$($t,)* $({ $c },)* 2>,
            3 => $($path)::+::<$($t,)* $({ $c },)* 3>,
            4 => $($path)::+::<$($t,)* $({ $c },)* 4>,
            5 => $($path)::+::<$($t,)* $({ $c },)* 5>,
            6 => $($path)::+::<$($t,)* $({ $c },)* 6>,
            7 => $($path)::+::<$($t,)* $({ $c },)* 7>,
            8 => $($path)::+::<$($t,)* $({ $c },)* 8>,
            9 => $($path)::+::<$($t,)* $({ $c },)* 9>,
            10 => $($path)::+::<$($t,)* $({ $c },)* 10>,
            11 => $($path)::+::<$($t,)* $({ $c },)* 11>,
            12 => $($path)::+::<$($t,)* $({ $c },)* 12>,
            13 => $($path)::+::<$($t,)* $({ $c },)* 13>,
            14 => $($path)::+::<$($t,)* $({ $c },)* 14>,
            _ => $($path)::+::<$($t,)* $({ $c },)* 15>,
        }
    };
}

/// Chooses; `op` has its address fields filled by the caller.
pub(crate) fn select(insn: &Instruction, op: &mut Op, features: Features) -> Option<Chosen> {
    let plain = |op: &mut Op, run: Handler| {
        op.run = run;
        Some(Chosen::Plain)
    };
    use Mnemonic as M;
    match insn.mnemonic() {
        M::Mov => select_mov(insn, op),
        M::Add => arithmetic(insn, op, alu::ADD),
        M::Or => arithmetic(insn, op, alu::OR),
        M::Adc => arithmetic(insn, op, alu::ADC),
        M::Sbb => arithmetic(insn, op, alu::SBB),
        M::And => arithmetic(insn, op, alu::AND),
        M::Sub => arithmetic(insn, op, alu::SUB),
        M::Xor => arithmetic(insn, op, alu::XOR),
        M::Cmp => arithmetic(insn, op, alu::CMP),
        M::Test => arithmetic(insn, op, alu::TEST),
        M::Inc => one_operand(insn, op, alu::INC),
        M::Dec => one_operand(insn, op, alu::DEC),
        M::Neg => one_operand(insn, op, alu::NEG),
        M::Not => one_operand(insn, op, alu::NOT),
        M::Shl | M::Sal => shift(insn, op, alu::SHL),
        M::Shr => shift(insn, op, alu::SHR),
        M::Sar => shift(insn, op, alu::SAR),
        M::Rol => shift(insn, op, alu::ROL),
        M::Ror => shift(insn, op, alu::ROR),
        M::Lea => select_lea(insn, op),
        M::Movzx => extend::<false>(insn, op),
        M::Movsx | M::Movsxd => extend::<true>(insn, op),
        M::Imul if insn.op_count() > 1 => multiply(insn, op),
        M::Mul => wide(
            insn,
            op,
            [
                [alu::mul::<u32, false, false>, alu::mul::<u32, false, true>],
                [alu::mul::<u64, false, false>, alu::mul::<u64, false, true>],
            ],
        ),
        M::Imul => wide(
            insn,
            op,
            [
                [alu::mul::<u32, true, false>, alu::mul::<u32, true, true>],
                [alu::mul::<u64, true, false>, alu::mul::<u64, true, true>],
            ],
        ),
        M::Div => wide(
            insn,
            op,
            [
                [alu::div::<u32, false, false>, alu::div::<u32, false, true>],
                [alu::div::<u64, false, false>, alu::div::<u64, false, true>],
            ],
        ),
        M::Idiv => wide(
            insn,
            op,
            [
                [alu::div::<u32, true, false>, alu::div::<u32, true, true>],
                [alu::div::<u64, true, false>, alu::div::<u64, true, true>],
            ],
        ),
        M::Shld => double_shift::<true>(insn, op),
        M::Shrd => double_shift::<false>(insn, op),
        M::Bsf | M::Bsr | M::Tzcnt | M::Lzcnt => scan(insn, op, features),
        M::Lfence | M::Mfence | M::Sfence => plain(op, mov::nop),
        M::Pushfq if insn.code() == Code::Pushfq => plain(op, stack::push_flags),
        M::Push | M::Pop => select_stack(insn, op),
        M::Leave if insn.code() == Code::Leaveq => plain(op, stack::leave_frame),
        M::Nop
        | M::Endbr64
        | M::Endbr32
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchw => plain(op, mov::nop),
        M::Clflush => {
            memory(insn, op, 0)?;
            plain(op, mov::touch)
        }
        M::Cdqe => plain(op, mov::cdqe),
        M::Cwde => plain(op, mov::cwde),
        M::Cqo => plain(op, mov::cqo),
        M::Cdq => plain(op, mov::cdq),
        M::Clc => plain(op, bits::carry::<0>),
        M::Stc => plain(op, bits::carry::<1>),
        M::Cmc => plain(op, bits::carry::<2>),
        M::Bswap => bswap(insn, op),
        M::Xchg => exchange(insn, op),
        M::Cmpxchg => memory_register(
            insn,
            op,
            [alu::cmpxchg::<u8>, alu::cmpxchg::<u16>, alu::cmpxchg::<u32>, alu::cmpxchg::<u64>],
        ),
        M::Xadd => memory_register(
            insn,
            op,
            [alu::xadd::<u8>, alu::xadd::<u16>, alu::xadd::<u32>, alu::xadd::<u64>],
        ),
        M::Bt => bit_test::<{ bits::BT }>(insn, op),
        M::Bts => bit_test::<{ bits::BTS }>(insn, op),
        M::Btr => bit_test::<{ bits::BTR }>(insn, op),
        M::Btc => bit_test::<{ bits::BTC }>(insn, op),
        M::Movsb | M::Movsw | M::Movsd | M::Movsq => rep_movs(insn, op),
        M::Stosb | M::Stosw | M::Stosd | M::Stosq => rep_stos(insn, op),
        M::Jmp | M::Call | M::Ret => transfer(insn, op),
        _ => conditional(insn, op).or_else(|| select_simd::select(insn, op, features)),
    }
}

/// Byte offset and size of a general register.
fn register(register: Register) -> Option<(u8, usize)> {
    if register.is_gpr8() {
        let n = register as usize - Register::AL as usize;
        let offset = match n {
            0..4 => gpr_offset(n),
            // AH, CH, DH, BH.
            4..8 => gpr_offset(n - 4) + 1,
            _ => gpr_offset(n - 4),
        };
        Some((offset, 1))
    } else if register.is_gpr() {
        Some((gpr_offset(register.number()), register.size()))
    } else {
        None
    }
}

fn register_at(insn: &Instruction, n: u32) -> Option<(u8, usize)> {
    if insn.op_kind(n) == OpKind::Register { register(insn.op_register(n)) } else { None }
}

fn immediate_at(insn: &Instruction, n: u32) -> Option<u64> {
    insn.try_immediate(n).ok()
}

/// Fills the address fields. `Some(full)` says which address formula is needed.
pub(super) fn memory(insn: &Instruction, op: &mut Op, n: u32) -> Option<bool> {
    if insn.op_kind(n) != OpKind::Memory {
        return None;
    }
    let general = |r: Register| match r {
        Register::None | Register::RIP => Some(ZERO_OFFSET),
        r if r.is_gpr64() => Some(gpr_offset(r.number())),
        _ => None,
    };
    op.base = general(insn.memory_base())?;
    op.index = general(insn.memory_index())?;
    op.scale = insn.memory_index_scale().trailing_zeros() as u8;
    op.disp = insn.memory_displacement64();
    op.seg = match insn.memory_segment() {
        Register::FS => segment_base(Seg::Fs),
        Register::GS => segment_base(Seg::Gs),
        _ => u16::from(ZERO_OFFSET),
    };
    Some(op.index != ZERO_OFFSET || op.seg != u16::from(ZERO_OFFSET))
}

/// Byte offset of a segment's base in [`Core`].
const fn segment_base(seg: Seg) -> u16 {
    (std::mem::offset_of!(Core, seg)
        + seg as usize * size_of::<Segment>()
        + std::mem::offset_of!(Segment, base)) as u16
}

fn select_mov(insn: &Instruction, op: &mut Op) -> Option<Chosen> {
    if let Some((dst, width)) = register_at(insn, 0) {
        op.dst = dst;
        if let Some((src, from)) = register_at(insn, 1) {
            op.src = src;
            debug_assert_eq!(width, from);
            op.run = by_width!(width, mov::rr);
        } else if let Some(imm) = immediate_at(insn, 1) {
            op.imm = imm;
            op.run = by_width!(width, mov::ri);
        } else {
            let full = memory(insn, op, 1)?;
            op.run = by_address!(width, full, mov::load);
        }
    } else if let Some((src, width)) = register_at(insn, 1) {
        op.src = src;
        let full = memory(insn, op, 0)?;
        op.run = by_address!(width, full, mov::store);
    } else {
        op.imm = immediate_at(insn, 1)?;
        let full = memory(insn, op, 0)?;
        op.run = by_address!(insn.memory_size().size(), full, mov::store_imm);
    }
    Some(Chosen::Plain)
}

fn arithmetic(insn: &Instruction, op: &mut Op, kind: u8) -> Option<Chosen> {
    let compare = |width, imm| match kind {
        alu::CMP | alu::TEST => Chosen::Compare { width, test: kind == alu::TEST, imm },
        _ => Chosen::Plain,
    };
    if let Some((dst, width)) = register_at(insn, 0) {
        op.dst = dst;
        if let Some((src, _)) = register_at(insn, 1) {
            op.src = src;
            let clears = matches!(kind, alu::XOR | alu::SUB) && src == dst && width >= 4;
            op.run = if clears { alu::zero } else { by_alu!(kind, by_width, (width), alu::rr) };
            return Some(compare(width, false));
        }
        if let Some(imm) = immediate_at(insn, 1) {
            op.imm = imm;
            op.run = by_alu!(kind, by_width, (width), alu::ri);
            return Some(compare(width, true));
        }
        let full = memory(insn, op, 1)?;
        op.run = by_alu!(kind, by_address, (width, full), alu::rm);
    } else if let Some((src, width)) = register_at(insn, 1) {
        op.src = src;
        let full = memory(insn, op, 0)?;
        op.run = by_alu!(kind, by_address, (width, full), alu::mr);
    } else {
        op.imm = immediate_at(insn, 1)?;
        let full = memory(insn, op, 0)?;
        op.run = by_alu!(kind, by_address, (insn.memory_size().size(), full), alu::mi);
    }
    Some(Chosen::Plain)
}

fn one_operand(insn: &Instruction, op: &mut Op, kind: u8) -> Option<Chosen> {
    op.run = if let Some((dst, width)) = register_at(insn, 0) {
        op.dst = dst;
        match kind {
            alu::INC => by_width!(width, alu::r, alu::INC),
            alu::DEC => by_width!(width, alu::r, alu::DEC),
            alu::NEG => by_width!(width, alu::r, alu::NEG),
            _ => by_width!(width, alu::r, alu::NOT),
        }
    } else {
        memory(insn, op, 0)?;
        let width = insn.memory_size().size();
        match kind {
            alu::INC => by_width!(width, alu::m, alu::INC),
            alu::DEC => by_width!(width, alu::m, alu::DEC),
            alu::NEG => by_width!(width, alu::m, alu::NEG),
            _ => by_width!(width, alu::m, alu::NOT),
        }
    };
    Some(Chosen::Plain)
}

macro_rules! by_shift {
    ($kind:expr, $width:expr, $($path:ident)::+) => {
        match $kind {
            alu::ROL => by_width!($width, $($path)::+, alu::ROL),
            alu::ROR => by_width!($width, $($path)::+, alu::ROR),
            alu::SHL => by_width!($width, $($path)::+, alu::SHL),
            alu::SHR => by_width!($width, $($path)::+, alu::SHR),
            _ => by_width!($width, $($path)::+, alu::SAR),
        }
    };
}

fn shift(insn: &Instruction, op: &mut Op, kind: u8) -> Option<Chosen> {
    let target = register_at(insn, 0);
    let width = target.map_or_else(|| insn.memory_size().size(), |(_, width)| width);
    let count = match immediate_at(insn, 1) {
        Some(imm) => {
            let count = match width {
                8 => shift_count::<u64>(imm as u8),
                _ => shift_count::<u32>(imm as u8),
            };
            if count == 0 {
                // Changes nothing (but zero-extends a 32-bit register): rare.
                return None;
            }
            Some(count)
        }
        None => None,
    };
    op.imm = count.map_or(0, u64::from);
    op.run = match (target, count) {
        (Some((dst, _)), Some(_)) => {
            op.dst = dst;
            by_shift!(kind, width, alu::shift_i)
        }
        (Some((dst, _)), None) => {
            op.dst = dst;
            by_shift!(kind, width, alu::shift_cl)
        }
        (None, _) => {
            memory(insn, op, 0)?;
            by_shift!(kind, width, alu::shift_m)
        }
    };
    Some(Chosen::Plain)
}

fn double_shift<const LEFT: bool>(insn: &Instruction, op: &mut Op) -> Option<Chosen> {
    let ((dst, width), (src, _)) = (register_at(insn, 0)?, register_at(insn, 1)?);
    (op.dst, op.src) = (dst, src);
    if let Some(imm) = immediate_at(insn, 2) {
        op.imm = imm & if width == 8 { 63 } else { 31 };
        if op.imm == 0 {
            return None;
        }
    }
    op.run = match width {
        4 => alu::double_shift::<u32, LEFT>,
        8 => alu::double_shift::<u64, LEFT>,
        _ => return None,
    };
    Some(Chosen::Plain)
}

fn scan(insn: &Instruction, op: &mut Op, features: Features) -> Option<Chosen> {
    let ((dst, width), (src, _)) = (register_at(insn, 0)?, register_at(insn, 1)?);
    (op.dst, op.src) = (dst, src);
    let forward = matches!(insn.mnemonic(), Mnemonic::Bsf | Mnemonic::Tzcnt);
    let counts = match insn.mnemonic() {
        Mnemonic::Tzcnt => features.contains(Features::BMI1),
        Mnemonic::Lzcnt => features.contains(Features::LZCNT),
        _ => false,
    };
    op.run = match (width, forward, counts) {
        (4, true, false) => bits::scan::<u32, true>,
        (4, false, false) => bits::scan::<u32, false>,
        (8, true, false) => bits::scan::<u64, true>,
        (8, false, false) => bits::scan::<u64, false>,
        (4, true, true) => bits::count::<u32, true>,
        (4, false, true) => bits::count::<u32, false>,
        (8, true, true) => bits::count::<u64, true>,
        (8, false, true) => bits::count::<u64, false>,
        _ => return None,
    };
    Some(Chosen::Plain)
}

fn select_lea(insn: &Instruction, op: &mut Op) -> Option<Chosen> {
    let (dst, width) = register_at(insn, 0)?;
    memory(insn, op, 1)?;
    op.dst = dst;
    // LEA leaves the segment out.
    op.seg = u16::from(ZERO_OFFSET);
    let full = op.index != ZERO_OFFSET;
    op.run = match (width, full) {
        (4, false) => mov::lea::<u32, false>,
        (4, true) => mov::lea::<u32, true>,
        (8, false) => mov::lea::<u64, false>,
        (8, true) => mov::lea::<u64, true>,
        _ => return None,
    };
    Some(Chosen::Plain)
}

fn extend<const SIGNED: bool>(insn: &Instruction, op: &mut Op) -> Option<Chosen> {
    let (dst, to) = register_at(insn, 0)?;
    op.dst = dst;
    op.run = if let Some((src, from)) = register_at(insn, 1) {
        op.src = src;
        match (from, to) {
            (1, 4) => mov::extend_rr::<u8, u32, SIGNED>,
            (1, 8) => mov::extend_rr::<u8, u64, SIGNED>,
            (2, 4) => mov::extend_rr::<u16, u32, SIGNED>,
            (2, 8) => mov::extend_rr::<u16, u64, SIGNED>,
            (4, 8) => mov::extend_rr::<u32, u64, SIGNED>,
            _ => return None,
        }
    } else {
        memory(insn, op, 1)?;
        match (insn.memory_size().size(), to) {
            (1, 4) => mov::extend_rm::<u8, u32, SIGNED>,
            (1, 8) => mov::extend_rm::<u8, u64, SIGNED>,
            (2, 4) => mov::extend_rm::<u16, u32, SIGNED>,
            (2, 8) => mov::extend_rm::<u16, u64, SIGNED>,
            (4, 8) => mov::extend_rm::<u32, u64, SIGNED>,
            _ => return None,
        }
    };
    Some(Chosen::Plain)
}

fn multiply(insn: &Instruction, op: &mut Op) -> Option<Chosen> {
    let (dst, width) = register_at(insn, 0)?;
    op.dst = dst;
    let imm = insn.op_count() == 3;
    if imm {
        op.imm = immediate_at(insn, 2)?;
    }
    let table: [Handler; 4] = match width {
        4 => [
            alu::imul_rr::<u32, false>,
            alu::imul_rr::<u32, true>,
            alu::imul_rm::<u32, false>,
            alu::imul_rm::<u32, true>,
        ],
        8 => [
            alu::imul_rr::<u64, false>,
            alu::imul_rr::<u64, true>,
            alu::imul_rm::<u64, false>,
            alu::imul_rm::<u64, true>,
        ],
        _ => return None,
    };
    let in_memory = match register_at(insn, 1) {
        Some((src, _)) => {
            op.src = src;
            false
        }
        None => {
            memory(insn, op, 1)?;
            true
        }
    };
    op.run = table[usize::from(in_memory) * 2 + usize::from(imm)];
    Some(Chosen::Plain)
}

/// One-operand multiplication and division, by width (4, 8) and place (register, memory).
fn wide(insn: &Instruction, op: &mut Op, table: [[Handler; 2]; 2]) -> Option<Chosen> {
    let (width, place) = match register_at(insn, 0) {
        Some((dst, width)) => {
            op.dst = dst;
            (width, 0)
        }
        None => {
            memory(insn, op, 0)?;
            (insn.memory_size().size(), 1)
        }
    };
    op.run = match width {
        4 => table[0][place],
        8 => table[1][place],
        _ => return None,
    };
    Some(Chosen::Plain)
}

fn select_stack(insn: &Instruction, op: &mut Op) -> Option<Chosen> {
    op.run = match insn.code() {
        Code::Push_r64 | Code::Push_rm64 if insn.op_kind(0) == OpKind::Register => {
            op.src = register_at(insn, 0)?.0;
            stack::push_r
        }
        Code::Push_rm64 => {
            memory(insn, op, 0)?;
            stack::push_m
        }
        Code::Pushq_imm8 | Code::Pushq_imm32 => {
            op.imm = immediate_at(insn, 0)?;
            stack::push_i
        }
        Code::Pop_r64 | Code::Pop_rm64 if insn.op_kind(0) == OpKind::Register => {
            op.dst = register_at(insn, 0)?.0;
            stack::pop_r
        }
        _ => return None,
    };
    Some(Chosen::Plain)
}

fn bswap(insn: &Instruction, op: &mut Op) -> Option<Chosen> {
    let (dst, width) = register_at(insn, 0)?;
    op.dst = dst;
    op.run = match width {
        4 => mov::bswap32,
        8 => mov::bswap64,
        _ => return None,
    };
    Some(Chosen::Plain)
}

fn exchange(insn: &Instruction, op: &mut Op) -> Option<Chosen> {
    let (src, width) = register_at(insn, 1)?;
    op.src = src;
    op.run = if let Some((dst, _)) = register_at(insn, 0) {
        op.dst = dst;
        by_width!(width, mov::xchg_rr)
    } else {
        memory(insn, op, 0)?;
        by_width!(width, mov::xchg_mr)
    };
    Some(Chosen::Plain)
}

fn memory_register(insn: &Instruction, op: &mut Op, table: [Handler; 4]) -> Option<Chosen> {
    let (src, width) = register_at(insn, 1)?;
    op.src = src;
    memory(insn, op, 0)?;
    op.run = table[width.trailing_zeros() as usize];
    Some(Chosen::Plain)
}

fn bit_test<const OP: u8>(insn: &Instruction, op: &mut Op) -> Option<Chosen> {
    let imm = immediate_at(insn, 1);
    match imm {
        Some(value) => op.imm = value,
        None => op.src = register_at(insn, 1)?.0,
    }
    let by = |width, r: [Handler; 2], i: [Handler; 2]| match width {
        4 => Some(if imm.is_some() { i[0] } else { r[0] }),
        8 => Some(if imm.is_some() { i[1] } else { r[1] }),
        _ => None,
    };
    op.run = if let Some((dst, width)) = register_at(insn, 0) {
        op.dst = dst;
        by(
            width,
            [bits::register::<u32, OP, false>, bits::register::<u64, OP, false>],
            [bits::register::<u32, OP, true>, bits::register::<u64, OP, true>],
        )?
    } else {
        memory(insn, op, 0)?;
        // With a 32-bit address size the bit offset would wrap at 4 GiB; it shows only in operands
        // without registers, since others have been refused above.
        let absolute = insn.memory_base() == Register::None;
        if imm.is_none() && absolute && insn.memory_displ_size() != 8 {
            return None;
        }
        by(
            insn.memory_size().size(),
            [bits::memory::<u32, OP, false>, bits::memory::<u64, OP, false>],
            [bits::memory::<u32, OP, true>, bits::memory::<u64, OP, true>],
        )?
    };
    Some(Chosen::Plain)
}

fn rep_movs(insn: &Instruction, op: &mut Op) -> Option<Chosen> {
    let far = matches!(insn.memory_segment(), Register::FS | Register::GS);
    let long = insn.op_kind(0) == OpKind::MemoryESRDI && insn.op_kind(1) == OpKind::MemorySegRSI;
    if far || !long || !insn.has_rep_prefix() {
        return None;
    }
    (op.disp, op.imm) = (insn.ip(), insn.next_ip());
    op.run = by_width!(insn.memory_size().size(), string::rep_movs);
    Some(Chosen::Plain)
}

fn rep_stos(insn: &Instruction, op: &mut Op) -> Option<Chosen> {
    if insn.op_kind(0) != OpKind::MemoryESRDI || !insn.has_rep_prefix() {
        return None;
    }
    (op.disp, op.imm) = (insn.ip(), insn.next_ip());
    op.run = by_width!(insn.memory_size().size(), string::rep_stos);
    Some(Chosen::Plain)
}

fn transfer(insn: &Instruction, op: &mut Op) -> Option<Chosen> {
    op.imm = insn.next_ip();
    let (run, chosen): (Handler, Chosen) = match insn.code() {
        Code::Jmp_rel8_64 | Code::Jmp_rel32_64 => (branch::end, Chosen::Direct),
        Code::Call_rel32_64 => (branch::call, Chosen::Direct),
        Code::Retnq => (branch::ret, Chosen::Indirect),
        Code::Jmp_rm64 | Code::Call_rm64 => {
            let call = insn.code() == Code::Call_rm64;
            let run: Handler = if let Some((dst, _)) = register_at(insn, 0) {
                op.dst = dst;
                if call { branch::call_r } else { branch::jmp_r }
            } else {
                memory(insn, op, 0)?;
                if call { branch::call_m } else { branch::jmp_m }
            };
            (run, Chosen::Indirect)
        }
        _ => return None,
    };
    op.run = run;
    Some(chosen)
}

/// Jcc, SETcc and CMOVcc.
fn conditional(insn: &Instruction, op: &mut Op) -> Option<Chosen> {
    let code = insn.condition_code() as u8;
    let cc = code.checked_sub(1)?;
    if insn.is_jcc_short_or_near() {
        if insn.op_kind(0) != OpKind::NearBranch64 {
            return None;
        }
        op.run = by_condition!(cc, branch::jcc);
        return Some(Chosen::Conditional(cc));
    }
    if is_setcc(insn.mnemonic()) {
        op.run = if let Some((dst, _)) = register_at(insn, 0) {
            op.dst = dst;
            by_condition!(cc, mov::set_r)
        } else {
            memory(insn, op, 0)?;
            by_condition!(cc, mov::set_m)
        };
        return Some(Chosen::Plain);
    }
    if !is_cmovcc(insn.mnemonic()) {
        return None;
    }
    let (dst, width) = register_at(insn, 0)?;
    op.dst = dst;
    op.run = if let Some((src, _)) = register_at(insn, 1) {
        op.src = src;
        match width {
            4 => by_condition!(cc, mov::cmov_rr, u32),
            8 => by_condition!(cc, mov::cmov_rr, u64),
            _ => return None,
        }
    } else {
        memory(insn, op, 1)?;
        match width {
            4 => by_condition!(cc, mov::cmov_rm, u32),
            8 => by_condition!(cc, mov::cmov_rm, u64),
            _ => return None,
        }
    };
    Some(Chosen::Plain)
}

fn is_setcc(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Seto
            | M::Setno
            | M::Setb
            | M::Setae
            | M::Sete
            | M::Setne
            | M::Setbe
            | M::Seta
            | M::Sets
            | M::Setns
            | M::Setp
            | M::Setnp
            | M::Setl
            | M::Setge
            | M::Setle
            | M::Setg
    )
}

fn is_cmovcc(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Cmovo
            | M::Cmovno
            | M::Cmovb
            | M::Cmovae
            | M::Cmove
            | M::Cmovne
            | M::Cmovbe
            | M::Cmova
            | M::Cmovs
            | M::Cmovns
            | M::Cmovp
            | M::Cmovnp
            | M::Cmovl
            | M::Cmovge
            | M::Cmovle
            | M::Cmovg
    )
}

/// The handler of CMP or TEST fused with the conditional jump behind it.
pub(crate) fn fused(width: usize, test: bool, imm: bool, cc: u8) -> Handler {
    match width {
        1 => fused_of::<u8>(test, imm, cc),
        2 => fused_of::<u16>(test, imm, cc),
        4 => fused_of::<u32>(test, imm, cc),
        _ => fused_of::<u64>(test, imm, cc),
    }
}

fn fused_of<T: Word>(test: bool, imm: bool, cc: u8) -> Handler {
    match (test, imm) {
        (false, false) => by_condition!(cc, branch::compare_rr, T; alu::CMP),
        (false, true) => by_condition!(cc, branch::compare_ri, T; alu::CMP),
        (true, false) => by_condition!(cc, branch::compare_rr, T; alu::TEST),
        (true, true) => by_condition!(cc, branch::compare_ri, T; alu::TEST),
    }
}
