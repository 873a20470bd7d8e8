//! Differential test of the software processor against the host processor.
//!
//! Every legacy-encoded user-mode instruction form runs on seeded random states, once natively and
//! once in softkvm, and all registers, defined flags and memory must be equal afterwards; where the
//! host faults, softkvm must raise the matching exception. `NATIVE_FILTER` restricts the test to
//! forms whose name contains it, `NATIVE_STATES` sets the number of states per instance.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod forms;
mod host;
mod random;

use std::collections::BTreeMap;

use forms::{Instance, Plan};
use host::{Host, SANDBOX, SANDBOX_LEN, State};
use iced_x86::{Code, MemorySize, Mnemonic, OpKind, Register, RflagsBits};
use random::Random;
use softkvm::cpu::bare::Bare;
use softkvm::cpu::flags::{AF, ARITH_MASK, CF, DF, OF, PF, SF, ZF};
use softkvm::cpu::state::{Seg, Segment, cr0, cr4, efer};
use softkvm::cpu::{Core, Exit, Features, Fpu, Mode, Processor, Stop, exec};

/// Instances of each variant of a form.
const INSTANCES: usize = 16;

/// What running one instruction in software came to.
#[derive(Debug, PartialEq)]
enum Outcome {
    Done,
    Signal(i32),
    NotModelled(&'static str),
}

/// The software side: a processor at CPL 3 that sees the same pages at the same addresses.
struct Soft {
    p: Processor,
    world: Bare,
}

/// Guest-physical address of the sandbox, behind page tables and the code page.
const SANDBOX_GPA: u64 = 0x6000;

impl Soft {
    fn new() -> Self {
        let mut world = Bare::new(16);
        let (base, present) = (host::BASE, 7);
        world.put64(0x1000 + (base >> 39 & 511) * 8, 0x2000 | present);
        world.put64(0x2000 + (base >> 30 & 511) * 8, 0x3000 | present);
        world.put64(0x3000 + (base >> 21 & 511) * 8, 0x4000 | present);
        let mut page = |la: u64, gpa: u64| {
            world.put64(0x4000 + (la >> 12 & 511) * 8, gpa | present | 0x60);
        };
        page(host::CODE, 0x5000);
        page(SANDBOX, SANDBOX_GPA);
        page(SANDBOX + 0x1000, SANDBOX_GPA + 0x1000);
        let mut core = Core::at_reset();
        core.cr0 = cr0::PE | cr0::PG | cr0::WP | cr0::MP | cr0::NE | cr0::ET;
        core.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT;
        core.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        core.cr3 = 0x1000;
        core.cpl = 3;
        core.features = Features::all() - Features::ABSENT;
        let data = Segment { selector: 0x2b, attrib: 0xcf3, limit: u32::MAX, base: 0 };
        core.seg = [data; 6];
        core.seg[Seg::Cs as usize] =
            Segment { selector: 0x33, attrib: 0xafb, limit: u32::MAX, base: 0 };
        core.update_mode();
        assert_eq!(core.mode, Mode::Long64);
        Self { p: Processor::new(core), world }
    }

    fn sandbox(&mut self) -> &mut [u8] {
        &mut self.world.bytes()[SANDBOX_GPA as usize..][..SANDBOX_LEN]
    }

    fn run(&mut self, instance: &Instance, rip: u64, state: &mut State) -> Outcome {
        let core = &mut self.p.core;
        core.gpr[..16].copy_from_slice(&state.gpr);
        core.set_rflags(state.rflags);
        core.fpu.load_fxsave(&state.fx, true);
        core.rip = rip;
        core.stop = None;
        let insn = &instance.insn;
        let outcome = loop {
            let step = self.p.with_world(&mut self.world, |p| exec::execute(p, insn));
            match (step, self.p.core.stop.take()) {
                // A repeated string instruction may retire in pieces.
                (Ok(()), _) if self.p.core.rip == rip && insn.is_string_instruction() => (),
                (Ok(()), _) => break Outcome::Done,
                (Err(_), Some(Stop::Fault(fault))) => break Outcome::Signal(signal(fault.vector)),
                (Err(_), Some(Stop::Exit(Exit::Unknown { what, .. }))) => {
                    break Outcome::NotModelled(what);
                }
                (Err(_), other) => panic!("{insn}: stopped with {other:?}"),
            }
        };
        let core = &self.p.core;
        let len = instance.bytes.len();
        state.taken = match outcome {
            Outcome::Done if core.rip == rip + len as u64 => 0,
            Outcome::Done if core.rip == Host::target(rip, len) => 1,
            Outcome::Done => panic!("{insn}: went to {:x} from {rip:x}", core.rip),
            _ => 0,
        };
        state.gpr.copy_from_slice(&core.gpr[..16]);
        state.rflags = core.rflags();
        state.fx = core.fpu.to_fxsave(true);
        outcome
    }
}

/// The signal Linux sends for an exception at CPL 3.
fn signal(vector: u8) -> i32 {
    match vector {
        0 | 16 | 19 => libc::SIGFPE,
        1 | 3 => libc::SIGTRAP,
        6 => libc::SIGILL,
        12 | 17 => libc::SIGBUS,
        _ => libc::SIGSEGV,
    }
}

/// Flags that the instruction leaves undefined, RFLAGS bits.
fn undefined_flags(instance: &Instance, state: &State) -> u64 {
    let insn = &instance.insn;
    let bits = insn.rflags_undefined();
    let map = [
        (RflagsBits::CF, CF),
        (RflagsBits::PF, PF),
        (RflagsBits::AF, AF),
        (RflagsBits::ZF, ZF),
        (RflagsBits::SF, SF),
        (RflagsBits::OF, OF),
    ];
    let mut undefined = map.iter().filter(|(bit, _)| bits & bit != 0).fold(0, |u, (_, f)| u | f);
    // By CL the decoder cannot know the count: none for zero, OF defined for one.
    if insn.op_count() >= 2 && insn.op_register(insn.op_count() - 1) == Register::CL {
        let wide = insn.op0_register().size() == 8 || insn.memory_size().size() == 8;
        match state.gpr[1] & if wide { 63 } else { 31 } {
            0 => undefined = 0,
            1 => undefined &= !OF,
            _ => (),
        }
    }
    undefined
}

fn random_fpu(random: &mut Random) -> Fpu {
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

/// Sets the address registers so that the operand lies at the returned address.
fn aim(random: &mut Random, plan: &Plan, instance: &Instance, gpr: &mut [u64; 16]) -> u64 {
    if let Some(fixed) = plan.fixed {
        return fixed;
    }
    let target = target(random, locked(instance));
    let mut rest = target.wrapping_sub(plan.displacement);
    if plan.base == Register::None {
        gpr[plan.index.number()] = widen(random, plan.index, rest);
        return target;
    }
    if plan.index != Register::None {
        let value = gpr[plan.index.number()];
        rest = rest.wrapping_sub(value.wrapping_mul(u64::from(plan.scale)));
    }
    gpr[plan.base.number()] = widen(random, plan.base, rest);
    target
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
        M::Call | M::Ret | M::Push | M::Pop | M::Pushf | M::Pushfq | M::Popf | M::Popfq => {
            let base_is_rsp = instance.plan.is_some_and(|plan| {
                plan.base.full_register() == Register::RSP && plan.fixed.is_none()
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
fn adjust(random: &mut Random, instance: &Instance, state: &mut State, sandbox: &[u8], at: u64) {
    use Mnemonic as M;
    let insn = &instance.insn;
    let quad = |offset: u64| {
        let at = (at - SANDBOX + offset) as usize;
        sandbox
            .get(at..at + 8)
            .map_or(0, |b| u64::from_le_bytes(b.try_into().expect("eight bytes")))
    };
    match insn.mnemonic() {
        M::Cmpxchg if random.below(2) == 0 => state.gpr[0] = quad(0),
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
fn fill(random: &mut Random, instance: &Instance, at: u64) -> Vec<u8> {
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
        Mnemonic::Popf | Mnemonic::Popfq => {
            // Nothing that would trap or change how the host runs.
            let flags = random.next() & (ARITH_MASK | DF) | 0x202;
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

/// Bytes of the memory operand that are not compared: last-instruction pointers and the
/// processor's MXCSR mask.
fn not_compared(code: Code) -> Option<std::ops::Range<usize>> {
    match code {
        Code::Fnstenv_m14byte | Code::Fnsave_m94byte => Some(6..14),
        Code::Fnstenv_m28byte | Code::Fnsave_m108byte => Some(12..28),
        Code::Fxsave_m512byte | Code::Fxsave64_m512byte => Some(6..32),
        _ => None,
    }
}

/// What differs, in words.
fn differences(native: &State, soft: &State, flags: u64) -> Vec<String> {
    let mut found = Vec::new();
    for (i, (n, s)) in native.gpr.iter().zip(&soft.gpr).enumerate() {
        if n != s {
            found.push(format!("gpr {i}: native {n:016x} soft {s:016x}"));
        }
    }
    if native.taken != soft.taken {
        found.push(format!("branch taken: native {} soft {}", native.taken, soft.taken));
    }
    if (native.rflags ^ soft.rflags) & flags != 0 {
        let (n, s) = (native.rflags & flags, soft.rflags & flags);
        found.push(format!("rflags: native {n:06x} soft {s:06x}"));
    }
    let mut bytes = |name: &str, range: std::ops::Range<usize>| {
        let (n, s) = (&native.fx[range.clone()], &soft.fx[range]);
        if n != s {
            let hex = |b: &[u8]| b.iter().rev().map(|b| format!("{b:02x}")).collect::<String>();
            found.push(format!("{name}: native {} soft {}", hex(n), hex(s)));
        }
    };
    bytes("fcw", 0..2);
    bytes("fsw", 2..4);
    bytes("ftw", 4..5);
    bytes("mxcsr", 24..28);
    for i in 0..8 {
        bytes(&format!("st {i}"), 32 + 16 * i..42 + 16 * i);
    }
    for i in 0..16 {
        bytes(&format!("xmm {i}"), 160 + 16 * i..176 + 16 * i);
    }
    found
}

#[derive(Default)]
struct Report {
    forms: usize,
    cases: u64,
    faults: u64,
    skipped: BTreeMap<String, Vec<String>>,
    failures: BTreeMap<String, (u64, String)>,
}

struct Bench {
    host: Host,
    soft: Soft,
    report: Report,
}

impl Bench {
    /// Runs one case. False if the form cannot be compared at all.
    fn case(&mut self, name: &str, instance: &Instance, random: &mut Random) -> bool {
        let mut state =
            State { fx: random_fpu(random).to_fxsave(true), gpr: [0; 16], rflags: 0, taken: 0 };
        for gpr in &mut state.gpr {
            *gpr = random.operand();
        }
        state.rflags = random.next() & (ARITH_MASK | DF) | 0x202;
        let mut at = implicit(random, instance, &mut state);
        bit_offset(random, instance, &mut state);
        branch(instance, &mut state);
        if let Some(plan) = &instance.plan {
            let aimed = aim(random, plan, instance, &mut state.gpr);
            let stack = matches!(instance.insn.mnemonic(), Mnemonic::Pop | Mnemonic::Popf);
            at = if stack { at.or(Some(aimed)) } else { Some(aimed) };
        }
        if let Some(at) = at {
            let bytes = fill(random, instance, at);
            let offset = (at - SANDBOX) as usize;
            self.host.sandbox()[offset..offset + bytes.len()].copy_from_slice(&bytes);
            self.soft.sandbox()[offset..offset + bytes.len()].copy_from_slice(&bytes);
            adjust(random, instance, &mut state, self.host.sandbox(), at);
            // The adjustment may have moved an address register.
            if let Some(plan) = &instance.plan
                && plan.fixed.is_none()
            {
                let mut check = state.gpr;
                let moved = [plan.base, plan.index]
                    .iter()
                    .any(|r| *r != Register::None && [0, 2].contains(&r.number()));
                if moved
                    && matches!(
                        instance.insn.mnemonic(),
                        Mnemonic::Cmpxchg | Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b
                    )
                {
                    check = [0; 16];
                }
                if check != state.gpr {
                    return true;
                }
            }
        }
        let before = state.clone();
        let mut native = state.clone();
        let outcome = self.soft.run(instance, self.host.rip(), &mut state);
        if let Outcome::NotModelled(what) = outcome {
            self.report.skipped.entry(what.to_owned()).or_default().push(name.to_owned());
            return false;
        }
        let raised = self.host.run(&mut native);
        self.report.cases += 1;
        self.report.faults += u64::from(raised != 0);
        let expected = if raised == 0 { Outcome::Done } else { Outcome::Signal(raised) };
        let flags = (ARITH_MASK | DF) & !undefined_flags(instance, &before);
        let mxcsr = u16::from_le_bytes([native.fx[24], native.fx[25]]);
        if raised == libc::SIGFPE && mxcsr & !(mxcsr >> 7) & 0x18 != 0 {
            // PE with unmasked overflow or underflow: see `sse::float`.
            native.fx[24] |= 0x20;
            state.fx[24] |= 0x20;
        }
        let mut found = differences(&native, &state, flags);
        if outcome != expected {
            found.push(format!("native {expected:?} soft {outcome:?}"));
        }
        self.compare_memory(instance, at, &mut found);
        if !found.is_empty() {
            let entry = self
                .report
                .failures
                .entry(name.to_owned())
                .or_insert_with(|| (0, describe(instance, &before, at, &found)));
            entry.0 += 1;
        }
        true
    }

    fn compare_memory(&mut self, instance: &Instance, at: Option<u64>, found: &mut Vec<String>) {
        let native = self.host.sandbox();
        let soft = self.soft.sandbox();
        if let (Some(range), Some(at)) = (not_compared(instance.insn.code()), at) {
            let start = (at - SANDBOX) as usize;
            let range = start + range.start..(start + range.end).min(SANDBOX_LEN);
            if !range.is_empty() {
                soft[range.clone()].copy_from_slice(&native[range]);
            }
        }
        if native != soft {
            let differ: Vec<usize> = (0..SANDBOX_LEN).filter(|&i| native[i] != soft[i]).collect();
            let (first, last) = (differ[0], differ[differ.len() - 1]);
            found.push(format!(
                "memory {:x}..={:x}: native {:02x?} soft {:02x?}",
                SANDBOX + first as u64,
                SANDBOX + last as u64,
                &native[first..=last.min(first + 31)],
                &soft[first..=last.min(first + 31)]
            ));
            soft.copy_from_slice(native);
        }
    }

    fn form(&mut self, code: Code, states: usize) {
        let name = format!("{code:?}");
        let mut random = Random::new(code as u64 + 1);
        let mut ran = false;
        for in_memory in forms::variants(code) {
            let mut made = 0;
            for _ in 0..INSTANCES * 8 {
                let rip = self.host.rip();
                let Some(instance) = forms::instance(code, in_memory, &mut random, rip) else {
                    continue;
                };
                if !suitable(&instance) {
                    continue;
                }
                self.host.place(&instance.bytes);
                let page = self.host.code().to_vec();
                self.soft.world.put(0x5000, &page);
                for _ in 0..states {
                    if !self.case(&name, &instance, &mut random) {
                        return;
                    }
                }
                ran = true;
                made += 1;
                if made == INSTANCES {
                    break;
                }
            }
        }
        if ran {
            self.report.forms += 1;
        } else {
            self.report.skipped.entry("no instance".to_owned()).or_default().push(name);
        }
    }
}

/// Instances that cannot be compared: undefined results and bus locks.
fn suitable(instance: &Instance) -> bool {
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
        M::Bswap => insn.op0_register().size() != 2,
        // Vendors differ in how much memory is read.
        M::Movsxd => insn.code() != Code::Movsxd_r16_rm16 || instance.plan.is_none(),
        _ => true,
    }
}

fn describe(instance: &Instance, before: &State, at: Option<u64>, found: &[String]) -> String {
    let mut text = format!("{} {:02x?}", instance.insn, instance.bytes);
    if let Some(at) = at {
        text += &format!(" memory at {at:x}");
    }
    text += &format!("\n    rflags {:x} gpr {:x?}", before.rflags, before.gpr);
    text += &format!(
        "\n    fcw,fsw {:02x?} ftw {:02x} mxcsr {:02x?}",
        &before.fx[..4],
        before.fx[4],
        &before.fx[24..28]
    );
    for difference in found {
        text += &format!("\n    {difference}");
    }
    text
}

#[test]
fn every_form_agrees_with_the_host() {
    let Some(host) = Host::new() else {
        eprintln!("skipped: the address range of the native stub is taken");
        return;
    };
    let filter = std::env::var("NATIVE_FILTER").unwrap_or_default();
    let states = std::env::var("NATIVE_STATES").ok().and_then(|s| s.parse().ok()).unwrap_or(64);
    let mut bench = Bench { host, soft: Soft::new(), report: Report::default() };
    for code in forms::all() {
        if format!("{code:?}").to_lowercase().contains(&filter.to_lowercase()) {
            bench.form(code, states);
        }
    }
    let report = &bench.report;
    println!("{} forms, {} cases, {} faults", report.forms, report.cases, report.faults);
    for (reason, names) in &report.skipped {
        println!("skipped ({reason}): {} forms: {}", names.len(), names.join(" "));
    }
    for (name, (count, first)) in &report.failures {
        println!("MISMATCH {name} ({count} cases), first: {first}");
    }
    assert!(report.failures.is_empty(), "{} forms differ from the host", report.failures.len());
}
