//! Random states on which an instruction does something worth comparing.

use iced_x86::{Code, MemorySize, Mnemonic, OpKind, Register};
use softkvm::cpu::Fpu;
use softkvm::cpu::flags::{AC, ARITH_MASK, DF};

use crate::forms::{Instance, Plan};
use crate::host::{Host, SANDBOX, SANDBOX_LEN, State};
use crate::random::Random;

/// Random registers.
pub fn registers(random: &mut Random) -> State {
    let fx = random_fpu(random).to_fxsave(true);
    let rflags = random.next() & (ARITH_MASK | DF) | 0x202;
    State { fx, gpr: std::array::from_fn(|_| random.operand()), rflags, taken: 0 }
}

/// A state for an instance and where it touches memory.
pub fn state(random: &mut Random, instance: &Instance) -> (State, Option<u64>) {
    let mut state = registers(random);
    if random.below(16) == 0 {
        state.rflags |= AC;
    }
    let mut at = implicit(random, instance, &mut state);
    bit_offset(random, instance, &mut state);
    branch(instance, &mut state);
    if let Some(plan) = &instance.plan {
        let aimed = aim(random, plan, instance, &mut state.gpr);
        let pops = matches!(instance.insn.mnemonic(), Mnemonic::Pop | Mnemonic::Popf);
        at = if pops { at.or(aimed) } else { aimed };
    }
    if instance.bits == 32 {
        state.gpr.iter_mut().for_each(|gpr| *gpr &= 0xffff_ffff);
    }
    (state, at)
}

pub fn random_fpu(random: &mut Random) -> Fpu {
    let mut fpu = Fpu::default();
    for xmm in &mut fpu.xmm {
        *xmm = random.vector();
    }
    for st in &mut fpu.st {
        *st = random.extended();
    }
    fpu.mxcsr = 0x1f80 | (random.next() as u32 & 0x6000);
    match random.below(8) {
        0 => fpu.mxcsr |= 0x8000,
        1 => fpu.mxcsr |= 0x40,
        2 => fpu.mxcsr |= 0x8040,
        3 => fpu.mxcsr |= random.next() as u32 & 0x3f,
        4 => fpu.mxcsr &= !(random.next() as u32 & 0x1f80),
        _ => (),
    }
    fpu.fcw =
        0x7f | [0, 0x200, 0x300, 0x300][random.below(4) as usize] | (random.next() as u16 & 0xc00);
    if random.below(8) == 0 {
        fpu.fcw &= !(random.next() as u16 & 0x3f);
    }
    fpu.fsw = random.next() as u16 & 0x7f00;
    if random.below(4) == 0 {
        fpu.fsw |= random.next() as u16 & 0x7f;
    }
    fpu.update_summary();
    fpu.ftw = match random.below(4) {
        0 => random.next() as u8,
        1 => 0,
        _ => 0xff,
    };
    fpu
}

/// An address for the operand, often aligned.
fn target(random: &mut Random, aligned: bool) -> u64 {
    let at = SANDBOX + 0x600 + random.below(0x1400);
    match random.below(4) {
        0 if !aligned => at,
        1 => at & !0xf,
        2 => at & !0x3f,
        _ if aligned => at & !0xf,
        _ => (at & !0xfff) + 0xff0 + random.below(16),
    }
}

/// Whether the access is a bus lock if it crosses a cache line, which hosts may punish.
fn locked(instance: &Instance) -> bool {
    instance.insn.has_lock_prefix() || instance.insn.mnemonic() == Mnemonic::Xchg
}

/// Sets the address registers so that the operand lies at the returned address; `None` is nowhere.
fn aim(random: &mut Random, plan: &Plan, instance: &Instance, gpr: &mut [u64; 16]) -> Option<u64> {
    if let Some(fixed) = plan.fixed {
        return Some(fixed);
    }
    let long = plan.base.is_gpr64() && plan.index == Register::None;
    if long && random.below(32) == 0 {
        // Not canonical, however wide linear addresses are.
        gpr[plan.base.number()] = (random.next() & !(0xf << 58)) | 1 << 59;
        return None;
    }
    let target = target(random, locked(instance));
    let mut rest = target.wrapping_sub(plan.displacement);
    if plan.base == Register::None {
        gpr[plan.index.number()] = widen(random, plan.index, rest);
        return Some(target);
    }
    if plan.index != Register::None {
        let value = gpr[plan.index.number()];
        rest = rest.wrapping_sub(value.wrapping_mul(u64::from(plan.scale)));
    }
    gpr[plan.base.number()] = widen(random, plan.base, rest);
    Some(target)
}

/// 32-bit address registers have anything in their upper halves.
fn widen(random: &mut Random, register: Register, value: u64) -> u64 {
    if register.size() == 8 { value } else { random.next() << 32 | value & 0xffff_ffff }
}

/// Prepares registers that instructions use implicitly; returns where memory is touched.
fn implicit(random: &mut Random, instance: &Instance, state: &mut State) -> Option<u64> {
    use Mnemonic as M;
    let insn = &instance.insn;
    let gpr = &mut state.gpr;
    let spot = |random: &mut Random| SANDBOX + 0x800 + random.below(0x1000);
    match insn.mnemonic() {
        M::Call
        | M::Ret
        | M::Push
        | M::Pop
        | M::Pushf
        | M::Pushfd
        | M::Pushfq
        | M::Popf
        | M::Popfd
        | M::Popfq
        | M::Pusha
        | M::Pushad
        | M::Popa
        | M::Popad => {
            let base_is_rsp = instance.plan.is_some_and(|plan| {
                plan.base != Register::None && plan.base.number() == 4 && plan.fixed.is_none()
            });
            if base_is_rsp {
                return None;
            }
            gpr[4] = spot(random);
            return Some(gpr[4]);
        }
        M::Enter | M::Leave => {
            gpr[4] = spot(random);
            gpr[5] = spot(random);
            return Some(gpr[5]);
        }
        M::Xlatb => {
            let at = spot(random);
            gpr[3] = at - (gpr[0] & 0xff);
            return Some(at);
        }
        M::Maskmovdqu | M::Maskmovq => gpr[7] = spot(random),
        M::Shld | M::Shrd => gpr[1] = gpr[1] & !0x1f | random.below(16),
        M::Div | M::Idiv if random.below(2) == 0 => {
            gpr[2] = if random.below(4) == 0 { u64::MAX } else { random.below(3) };
            gpr[0] = random.next() >> random.below(64);
        }
        _ => (),
    }
    if insn.is_string_instruction() {
        // Sometimes near the edges, to fault in the middle.
        let spot = |random: &mut Random| match random.below(8) {
            0 => SANDBOX + SANDBOX_LEN as u64 - 1 - random.below(48),
            1 => SANDBOX + random.below(48),
            _ => spot(random),
        };
        gpr[6] = spot(random);
        gpr[7] = spot(random);
        if insn.has_rep_prefix() || insn.has_repne_prefix() {
            gpr[1] = random.below(20);
        }
        return Some(gpr[6]);
    }
    None
}

/// Values that must agree with memory contents or stay in range.
pub fn adjust(
    random: &mut Random,
    instance: &Instance,
    state: &mut State,
    sandbox: &[u8],
    at: u64,
) {
    use Mnemonic as M;
    let insn = &instance.insn;
    let quad = |offset: u64| {
        let at = (at - SANDBOX + offset) as usize;
        sandbox
            .get(at..at + 8)
            .map_or(0, |b| u64::from_le_bytes(b.try_into().expect("eight bytes")))
    };
    let addresses = |n: usize| {
        instance.plan.is_some_and(|plan| {
            plan.fixed.is_none()
                && [plan.base, plan.index].iter().any(|r| *r != Register::None && r.number() == n)
        })
    };
    if addresses(0) || addresses(2) {
        return;
    }
    match insn.mnemonic() {
        M::Cmpxchg if random.below(2) == 0 => {
            state.gpr[0] = quad(0) & if instance.bits == 64 { u64::MAX } else { 0xffff_ffff };
        }
        M::Cmpxchg8b if random.below(2) == 0 => {
            state.gpr[0] = quad(0) & 0xffff_ffff;
            state.gpr[2] = quad(4) & 0xffff_ffff;
        }
        M::Cmpxchg16b if random.below(2) == 0 => (state.gpr[0], state.gpr[2]) = (quad(0), quad(8)),
        _ => (),
    }
}

/// Indirect branches lead to the stub's target.
fn branch(instance: &Instance, state: &mut State) {
    let insn = &instance.insn;
    if matches!(insn.mnemonic(), Mnemonic::Call | Mnemonic::Jmp)
        && insn.op0_kind() == OpKind::Register
    {
        state.gpr[insn.op0_register().number()] = Host::target(instance.rip, instance.bytes.len());
    }
    if matches!(insn.mnemonic(), Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne)
        || insn.is_jcx_short()
    {
        // Near zero, in 32 or 64 bits.
        state.gpr[1] = match state.gpr[1] & 7 {
            0 => state.gpr[1] << 32,
            n => n >> 1,
        };
    }
}

/// A bit offset in a register reaches beyond the operand: keep it near.
fn bit_offset(random: &mut Random, instance: &Instance, state: &mut State) {
    use Mnemonic as M;
    let insn = &instance.insn;
    let bit_test = matches!(insn.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc);
    if bit_test && insn.op0_kind() == OpKind::Memory && insn.op1_kind() == OpKind::Register {
        let near = random.below(2048) as i64 - 1024;
        let register = insn.op1_register();
        let mask = u64::MAX >> (64 - 8 * register.size());
        let slot = &mut state.gpr[register.number()];
        *slot = *slot & !mask | near as u64 & mask;
    }
}

/// Random contents around the operand, the same on both sides.
pub fn fill(random: &mut Random, instance: &Instance, at: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    match instance.insn.memory_size() {
        MemorySize::Float80 => bytes.extend_from_slice(&random.extended().to_le_bytes()[..10]),
        MemorySize::Bcd if random.below(4) != 0 => {
            bytes.extend((0..9).map(|_| (random.below(10) << 4 | random.below(10)) as u8));
            bytes.push(random.next() as u8 & 0x80);
        }
        MemorySize::Fxsave_512Byte | MemorySize::Fxsave64_512Byte => {
            bytes.extend_from_slice(&random_fpu(random).to_fxsave(true));
            if random.below(2) == 0 {
                let value = random.next().to_le_bytes();
                bytes[..8].copy_from_slice(&value);
            }
            if random.below(8) == 0 {
                bytes[26] = 1;
            }
        }
        MemorySize::FpuEnv14
        | MemorySize::FpuEnv28
        | MemorySize::FpuState94
        | MemorySize::FpuState108 => {
            bytes.extend((0..108).map(|_| random.next() as u8));
        }
        _ => (0..4).for_each(|_| bytes.extend_from_slice(&random.vector().to_le_bytes())),
    }
    let target = Host::target(instance.rip, instance.bytes.len()).to_le_bytes();
    match instance.insn.mnemonic() {
        Mnemonic::Call | Mnemonic::Jmp | Mnemonic::Ret => bytes[..8].copy_from_slice(&target),
        Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => {
            // Nothing that would trap or change how the host runs.
            let flags = random.next() & (ARITH_MASK | DF | AC) | 0x202;
            bytes[..8].copy_from_slice(&flags.to_le_bytes());
        }
        Mnemonic::Ldmxcsr => {
            // Bit 17 is AMD's misaligned mode, which softkvm does not have.
            let reserved = if random.below(4) == 0 { 1 << 18 } else { 0 };
            bytes[..4].copy_from_slice(&(random.next() as u32 & 0xffff | reserved).to_le_bytes());
        }
        _ => (),
    }
    bytes.truncate((SANDBOX + SANDBOX_LEN as u64 - at) as usize);
    bytes
}

/// Instances that cannot be compared: undefined results and bus locks.
pub fn suitable(instance: &Instance) -> bool {
    use Mnemonic as M;
    let insn = &instance.insn;
    if let Some(plan) = &instance.plan
        && plan.base.full_register() == Register::RSP
        && insn.is_stack_instruction()
        && (plan.index != Register::None || plan.displacement != 0)
    {
        // The stack would lie outside the sandbox.
        return false;
    }
    let fixed = instance.plan.and_then(|plan| plan.fixed);
    if locked(instance) && fixed.is_some_and(|at| at & 15 != 0) {
        return false;
    }
    match insn.mnemonic() {
        // Counts beyond a 16-bit operand and 16-bit BSWAP give undefined results.
        M::Shld | M::Shrd => insn.op2_kind() == OpKind::Register || insn.immediate8() & 31 < 16,
        // The return address would overwrite the stub.
        M::Call => insn.op0_kind() != OpKind::Register || insn.op0_register().number() != 4,
        M::Bswap => insn.op0_register().size() != 2,
        // Vendors differ in how much memory is read.
        M::Movsxd => insn.code() != Code::Movsxd_r16_rm16 || instance.plan.is_none(),
        _ => true,
    }
}
