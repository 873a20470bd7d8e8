//! Random sequences of instructions: the fast engine against the reference engine.
//!
//! Sequences find what single instructions cannot: flags that a later instruction overwrites,
//! operations fused or ordered wrongly, faults, interrupts and exhausted budgets in the middle of a
//! block, code that changes itself. `NATIVE_SEQUENCES` and `NATIVE_SEED` set how many and which.

use std::fmt::Write;

use iced_x86::{Code, FlowControl};
use softkvm::cpu::engine::Kind;
use softkvm::cpu::{Core, Exit};

use crate::host::{CODE, SANDBOX, State};
use crate::random::Random;
use crate::soft::{CODE_GPA, Engine, SANDBOX_GPA};
use crate::{compare, forms, prepare};

/// Sequences tried.
const SEQUENCES: u64 = 10_000;
/// States per sequence.
const STATES: u64 = 12;
/// Instructions per sequence.
const LENGTH: u64 = 24;
/// Five bytes that a taken branch jumps over.
const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];
/// MSRs worth a RDMSR or WRMSR.
const MSRS: [u64; 8] =
    [0x10, 0x1b, 0x277, 0xc000_0080, 0xc000_0081, 0xc000_0082, 0xc000_0100, 0xc000_0102];

/// Mostly the integer instructions that have fast handlers.
fn pick(random: &mut Random, all: &[Code], integer: &[Code]) -> Code {
    let from = if random.below(16) == 0 { all } else { integer };
    from[random.below(from.len() as u64) as usize]
}

/// Code and its disassembly. Memory operands lie at fixed places, since no register keeps its
/// value for long.
fn sequence(
    random: &mut Random,
    bits: u32,
    all: &[Code],
    integer: &[Code],
) -> (Vec<u8>, Vec<String>) {
    let (mut bytes, mut text) = (Vec::new(), Vec::new());
    let length = 2 + random.below(LENGTH);
    while (text.len() as u64) < length {
        let code = pick(random, all, integer);
        let rip = CODE + bytes.len() as u64;
        let in_memory = random.below(3) == 0;
        let Some(instance) = forms::instance(code, in_memory, random, rip, bits) else { continue };
        let reachable = instance.plan.is_none_or(|plan| plan.fixed.is_some());
        if !prepare::suitable(&instance) || !reachable && random.below(64) != 0 {
            continue;
        }
        bytes.extend_from_slice(&instance.bytes);
        text.push(instance.insn.to_string());
        if instance.insn.flow_control() != FlowControl::Next {
            bytes.extend_from_slice(&NOP5);
            text.push("nop5".to_owned());
        }
    }
    (bytes, text)
}

fn integer(all: &[Code]) -> Vec<Code> {
    use iced_x86::CpuidFeature as C;
    let plain = |feature: &C| {
        matches!(
            feature,
            C::INTEL8086
                | C::INTEL186
                | C::INTEL286
                | C::INTEL386
                | C::INTEL486
                | C::X64
                | C::CMOV
                | C::BMI1
                | C::BMI2
                | C::MULTIBYTENOP
        )
    };
    all.iter().copied().filter(|code| code.cpuid_features().iter().all(plain)).collect()
}

/// Registers that user code cannot change.
fn system(core: &Core) -> String {
    let mut text = String::new();
    let _ = write!(
        text,
        "cpl {} cr0 {:x} cr2 {:x} cr3 {:x} cr4 {:x} efer {:x} dr {:x?} shadow {} nmi {}\n{:x?}\n{:x?} \
         {:x?} {:x?} {:x?} star {:x} {:x} {:x} {:x} gs {:x} pat {:x} rip {:x}",
        core.cpl,
        core.cr0,
        core.cr2,
        core.cr3,
        core.cr4,
        core.efer,
        core.dr,
        core.shadow,
        core.nmi_blocked,
        core.seg,
        core.gdtr,
        core.idtr,
        core.ldtr,
        core.tr,
        core.star,
        core.lstar,
        core.cstar,
        core.sfmask,
        core.kernel_gs_base,
        core.pat,
        core.rip
    );
    text
}

/// The engines side by side.
struct Pair {
    fast: Engine,
    reference: Engine,
    initial: Core,
}

impl Pair {
    fn new(make: fn(Kind) -> Engine) -> Self {
        let reference = make(Kind::Reference);
        let initial = reference.soft.p.core.clone();
        Self { fast: make(Kind::Fast), reference, initial }
    }

    fn each(&mut self, mut f: impl FnMut(&mut Engine)) {
        f(&mut self.fast);
        f(&mut self.reference);
    }

    /// System registers as at the start.
    fn reset(&mut self) {
        let initial = self.initial.clone();
        self.each(|engine| {
            let instructions = engine.soft.p.core.instructions;
            engine.soft.p.core = Core { instructions, ..initial.clone() };
            engine.soft.p.flush_tlb();
        });
    }

    /// Runs both and tells what differs.
    fn run(&mut self, before: &State, budget: u64) -> (Exit, Vec<String>) {
        let (mut a, mut b) = (before.clone(), before.clone());
        let exits = [self.reference.run(CODE, &mut a, budget), self.fast.run(CODE, &mut b, budget)];
        let (reference, fast) = (&mut self.reference.soft, &mut self.fast.soft);
        let cores = [&reference.p.core, &fast.p.core];
        let mut found = compare::differences(["reference", "fast"], &a, &b, u64::MAX);
        if exits[0] != exits[1] {
            found.push(format!("exits {exits:x?}"));
        }
        let systems = cores.map(system);
        if systems[0] != systems[1] {
            found.push(format!("reference {}\nfast      {}", systems[0], systems[1]));
        }
        let counts = cores.map(|core| core.instructions);
        if counts[0] != counts[1] {
            found.push(format!("instructions {counts:?}"));
        }
        if reference.sandbox() != fast.sandbox() {
            let (a, b) = (reference.sandbox(), fast.sandbox());
            found.push(compare::memory(["reference", "fast"], a, b));
        }
        if reference.world.touches != fast.world.touches {
            found.push(format!("{:x?} {:x?}", reference.world.touches, fast.world.touches));
        }
        reference.world.touches.clear();
        fast.world.touches.clear();
        let [exit, _] = exits;
        (exit, found)
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Runs random sequences; `vary` changes the machine before a run.
fn compare_engines(
    name: &str,
    bits: u32,
    mut pair: Pair,
    all: &[Code],
    vary: impl Fn(&mut Random, &mut Pair, &[u8], &mut State) -> String,
) {
    let integer = integer(all);
    let sequences = number("NATIVE_SEQUENCES").unwrap_or(SEQUENCES);
    let mut random = Random::new(number("NATIVE_SEED").unwrap_or(7));
    for _ in 0..sequences {
        let (bytes, text) = sequence(&mut random, bits, all, &integer);
        pair.each(|engine| engine.place(CODE, &bytes));
        for _ in 0..STATES {
            let mut before = prepare::registers(&mut random);
            for register in [4, 5, 6, 7] {
                before.gpr[register] = SANDBOX + 0x800 + random.below(0x1000);
            }
            let varied = vary(&mut random, &mut pair, &bytes, &mut before);
            let memory: Vec<u8> = (0..64).map(|_| random.next() as u8).collect();
            let at = random.below(0x1fc0) as usize;
            pair.each(|engine| engine.write(at, &memory));
            let budget = 1 + random.below(text.len() as u64 + 8);
            let (exit, found) = pair.run(&before, budget);
            assert!(
                found.is_empty(),
                "{name}: {varied}, budget {budget}, exit {exit:?}, gpr {:x?}, rflags {:x}\n\
                 {bytes:02x?}\n{}\n{}",
                before.gpr,
                before.rflags,
                text.join("\n"),
                found.join("\n")
            );
        }
    }
    let retired = pair.fast.soft.p.core.instructions;
    println!("{name}: {sequences} sequences, {} runs, {retired} instructions", sequences * STATES);
}

#[test]
fn user_sequences_run_alike_in_both_engines() {
    let pair = Pair::new(|kind| Engine::new(kind, 64));
    compare_engines("user", 64, pair, &forms::all(64), |_, _, _, _| String::new());
}

#[test]
fn user_sequences_of_32_bits_run_alike_in_both_engines() {
    let pair = Pair::new(|kind| Engine::new(kind, 32));
    compare_engines("32-bit", 32, pair, &forms::all(32), |_, _, _, state| {
        state.gpr.iter_mut().for_each(|gpr| *gpr &= 0xffff_ffff);
        String::new()
    });
}

/// Table entries for the sandbox's second page: rights, no memory, and aliases.
const ENTRIES: [(&str, u64); 9] = [
    ("plain", (SANDBOX_GPA + 0x1000) | 3),
    ("plain", (SANDBOX_GPA + 0x1000) | 3),
    ("plain", (SANDBOX_GPA + 0x1000) | 3),
    ("read-only", (SANDBOX_GPA + 0x1000) | 1),
    ("user", (SANDBOX_GPA + 0x1000) | 7),
    ("no execute", (SANDBOX_GPA + 0x1000) | 1 << 63 | 3),
    ("absent", 0),
    ("device", 0x10_0000 | 3),
    ("code", CODE_GPA | 3),
];

#[test]
fn kernel_sequences_run_alike_in_both_engines() {
    let pair = Pair::new(Engine::kernel);
    compare_engines("kernel", 64, pair, &forms::kernel(), |random, pair, bytes, state| {
        pair.reset();
        let (name, entry) = ENTRIES[random.below(ENTRIES.len() as u64) as usize];
        pair.each(|engine| {
            engine.place(CODE, bytes);
            engine.soft.map(SANDBOX + 0x1000, entry);
        });
        state.rflags = state.rflags & !0x200 | random.next() & 0x200;
        if random.below(16) == 0 {
            state.rflags |= 0x100;
        }
        if random.below(4) == 0 {
            state.gpr[1] = MSRS[random.below(8) as usize];
        }
        let interrupt = (random.below(3) == 0).then_some(0x40);
        pair.each(|engine| {
            engine.soft.world.interrupt = interrupt;
            engine.soft.p.core.attention = interrupt.is_some();
        });
        format!("second page {name}, interrupt {interrupt:x?}")
    });
}
