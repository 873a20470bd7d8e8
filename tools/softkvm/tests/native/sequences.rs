//! Random sequences of instructions: the fast engine against the reference engine.
//!
//! Sequences find what single instructions cannot: flags that a later instruction overwrites,
//! operations fused or ordered wrongly, faults and exhausted budgets in the middle of a block.

use iced_x86::{Code, FlowControl};
use softkvm::cpu::engine::Kind;

use crate::host::{CODE, SANDBOX};
use crate::random::Random;
use crate::soft::Engine;
use crate::{compare, forms, prepare};

/// Sequences tried, unless `NATIVE_SEQUENCES` says otherwise.
const SEQUENCES: usize = 10_000;
/// States per sequence.
const STATES: usize = 12;
/// Instructions per sequence.
const LENGTH: u64 = 24;
/// Five bytes that a taken branch jumps over.
const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];

/// Mostly the integer instructions that have fast handlers.
fn pick(random: &mut Random, all: &[Code], integer: &[Code]) -> Code {
    let from = if random.below(16) == 0 { all } else { integer };
    from[random.below(from.len() as u64) as usize]
}

/// Code and its disassembly. Memory operands lie at fixed places, since no register keeps its
/// value for long.
fn sequence(random: &mut Random, all: &[Code], integer: &[Code]) -> (Vec<u8>, Vec<String>) {
    let (mut bytes, mut text) = (Vec::new(), Vec::new());
    let length = 2 + random.below(LENGTH);
    while (text.len() as u64) < length {
        let code = pick(random, all, integer);
        let rip = CODE + bytes.len() as u64;
        let in_memory = random.below(3) == 0;
        let Some(instance) = forms::instance(code, in_memory, random, rip) else { continue };
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

#[test]
fn sequences_run_alike_in_both_engines() {
    let all = forms::all();
    let integer: Vec<Code> = all
        .iter()
        .copied()
        .filter(|code| {
            use iced_x86::CpuidFeature as C;
            code.cpuid_features().iter().all(|feature| {
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
            })
        })
        .collect();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let sequences = number("NATIVE_SEQUENCES").map_or(SEQUENCES, |n| n as usize);
    let mut random = Random::new(number("NATIVE_SEED").unwrap_or(7));
    let (mut fast, mut reference) = (Engine::new(Kind::Fast), Engine::new(Kind::Reference));
    let mut retired = 0;
    for _ in 0..sequences {
        let (bytes, text) = sequence(&mut random, &all, &integer);
        fast.place(CODE, &bytes);
        reference.place(CODE, &bytes);
        for _ in 0..STATES {
            let mut before = prepare::registers(&mut random);
            for register in [4, 5, 6, 7] {
                before.gpr[register] = SANDBOX + 0x800 + random.below(0x1000);
            }
            let memory: Vec<u8> = (0..64).map(|_| random.next() as u8).collect();
            let at = random.below(0x1fc0) as usize;
            fast.write(at, &memory);
            reference.write(at, &memory);
            let budget = 1 + random.below(text.len() as u64 + 8);
            let (mut a, mut b) = (before.clone(), before.clone());
            let exits = [reference.run(CODE, &mut a, budget), fast.run(CODE, &mut b, budget)];
            let cores = [&reference.soft.p.core, &fast.soft.p.core];
            let mut found = compare::differences(["reference", "fast"], &a, &b, u64::MAX);
            if exits[0] != exits[1] {
                found.push(format!("exits {exits:?}"));
            }
            if cores[0].rip != cores[1].rip {
                found.push(format!("rip {:x} and {:x}", cores[0].rip, cores[1].rip));
            }
            if cores[0].instructions != cores[1].instructions {
                found.push(format!(
                    "instructions {} and {}",
                    cores[0].instructions, cores[1].instructions
                ));
            }
            if reference.soft.sandbox() != fast.soft.sandbox() {
                let (a, b) = (reference.soft.sandbox(), fast.soft.sandbox());
                found.push(compare::memory(["reference", "fast"], a, b));
            }
            retired = fast.soft.p.core.instructions;
            assert!(
                found.is_empty(),
                "budget {budget}, gpr {:x?}, rflags {:x}\n{bytes:02x?}\n{}\n{}",
                before.gpr,
                before.rflags,
                text.join("\n"),
                found.join("\n")
            );
        }
    }
    println!("{sequences} sequences, {} runs, {retired} instructions", sequences * STATES);
}
