//! Differential test of the software processor against the host processor.
//!
//! Every legacy-encoded user-mode instruction form runs on seeded random states, once natively and
//! once in softkvm, and all registers, defined flags and memory must be equal afterwards; where the
//! host faults, softkvm must raise the matching exception. The fast engine must then leave exactly
//! the state of the reference, for single forms and for random sequences. Forms that the host lacks
//! are skipped by name, and where vendors differ the rules of `vendor` say how. `NATIVE_FILTER`
//! restricts the first test to forms whose name contains it, `NATIVE_STATES` sets the number of
//! states per instance, `NATIVE_INSTANCES` that of instances and `NATIVE_SEED` which ones.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod compare;
mod extensions;
mod forms;
mod host;
mod nan;
mod prepare;
mod random;
mod sequences;
mod soft;
mod vendor;

use std::collections::BTreeMap;

use forms::Instance;
use host::{Host, SANDBOX, State};
use iced_x86::Code;
use random::Random;
use soft::{Engine, Outcome, Soft};
use softkvm::cpu::Exception;
use softkvm::cpu::engine::Kind;
use softkvm::cpu::flags::{AC, ARITH_MASK, DF};
use vendor::Case;

/// Instances of each variant of a form, unless told otherwise.
const INSTANCES: u64 = 16;

#[derive(Default)]
struct Report {
    forms: usize,
    cases: u64,
    faults: u64,
    /// Cases in which a rule of [`vendor`] made the difference.
    ruled: BTreeMap<&'static str, u64>,
    skipped: BTreeMap<String, Vec<String>>,
    failures: BTreeMap<String, (u64, String)>,
}

impl Report {
    fn fail(&mut self, name: &str, describe: impl FnOnce() -> String) {
        let entry = self.failures.entry(name.to_owned()).or_insert_with(|| (0, describe()));
        entry.0 += 1;
    }
}

struct Bench {
    bits: u32,
    seed: u64,
    instances: usize,
    /// Whether the host may differ by the rules of [`vendor`].
    rules: bool,
    host: Host,
    soft: Soft,
    fast: Engine,
    report: Report,
}

impl Bench {
    /// Runs one case. False if the form cannot be compared at all.
    fn case(&mut self, name: &str, instance: &Instance, random: &mut Random) -> bool {
        let (before, at) = self.prepare(instance, random);
        let mut soft = before.clone();
        let outcome = self.soft.run(instance, self.host.rip(), &mut soft);
        if let Outcome::NotModelled(what) = outcome {
            self.report.skipped.entry(what.to_owned()).or_default().push(name.to_owned());
            return false;
        }
        self.compare_engine(name, instance, &before, &soft, &outcome, at);
        let mut native = before.clone();
        let raised = self.host.run(&mut native);
        self.report.cases += 1;
        self.report.faults += u64::from(raised.is_some());
        let rip = self.host.rip();
        let before = &before;
        let mut case = Case { instance, rip, at, before, native, raised, outcome, soft };
        let mut found = self.differences(&case);
        if !found.is_empty() && self.rules {
            let holds = |rule: &&vendor::Rule| (rule.apply)(&mut case, &mut self.soft);
            let held: Vec<_> = vendor::RULES.iter().filter(holds).collect();
            if !held.is_empty() {
                found = self.differences(&case);
            }
            for rule in held {
                *self.report.ruled.entry(rule.name).or_default() += 1;
            }
        }
        let (native, soft) = (self.host.sandbox(), self.soft.sandbox());
        soft.copy_from_slice(native);
        // The reference and the fast engine have the same notion of what the host hides.
        self.fast.soft.sandbox().copy_from_slice(soft);
        if !found.is_empty() {
            self.report.fail(name, || compare::describe(instance, before, at, &found));
        }
        true
    }

    /// The host's outcome, registers and memory against those of softkvm.
    fn differences(&mut self, case: &Case) -> Vec<String> {
        let &Case { instance, before, at, raised, .. } = case;
        let expected = raised.map_or(Outcome::Done, Outcome::Fault);
        let mut found = Vec::new();
        if case.outcome != expected {
            found.push(format!("native {expected:?} soft {:?}", case.outcome));
        }
        let (mut native, mut soft) = (case.native.clone(), case.soft.clone());
        if raised == Some(Exception::XM) {
            compare::forgive_precision(&mut native, &mut soft);
        }
        let flags = (ARITH_MASK | DF | AC) & !compare::undefined_flags(instance, before);
        found.extend(compare::differences(["native", "soft"], &native, &soft, flags));
        let (native, soft) = (self.host.sandbox(), self.soft.sandbox());
        compare::align_memory(instance, at, native, soft);
        if native != soft {
            found.push(compare::memory(["native", "soft"], native, soft));
        }
        found
    }

    /// A state and, in all sandboxes, the contents of the memory operand.
    fn prepare(&mut self, instance: &Instance, random: &mut Random) -> (State, Option<u64>) {
        let (mut state, at) = prepare::state(random, instance);
        if let Some(at) = at {
            let bytes = prepare::fill(random, instance, at);
            let range = (at - SANDBOX) as usize..(at - SANDBOX) as usize + bytes.len();
            self.host.sandbox()[range.clone()].copy_from_slice(&bytes);
            self.soft.sandbox()[range.clone()].copy_from_slice(&bytes);
            self.fast.soft.sandbox()[range].copy_from_slice(&bytes);
            prepare::adjust(random, instance, &mut state, self.host.sandbox(), at);
        }
        (state, at)
    }

    /// The fast engine against the reference: all flags, defined or not, must agree.
    fn compare_engine(
        &mut self,
        name: &str,
        instance: &Instance,
        before: &State,
        reference: &State,
        outcome: &Outcome,
        at: Option<u64>,
    ) {
        let mut state = before.clone();
        let faulted = self.fast.run_instance(instance, self.host.rip(), &mut state);
        let mut found = compare::differences(["reference", "fast"], reference, &state, u64::MAX);
        if faulted != (*outcome != Outcome::Done) {
            found.push(format!("reference {outcome:?}, fast faulted: {faulted}"));
        }
        if self.soft.sandbox() != self.fast.soft.sandbox() {
            let (reference, fast) = (self.soft.sandbox(), self.fast.soft.sandbox());
            found.push(compare::memory(["reference", "fast"], reference, fast));
        }
        if !found.is_empty() {
            let name = format!("{name} (fast engine)");
            self.report.fail(&name, || compare::describe(instance, before, at, &found));
        }
    }

    fn form(&mut self, code: Code, states: usize) {
        let name = format!("{code:?}");
        if let Some(extension) = extensions::lacking(code) {
            let reason = format!("the host lacks {extension:?}");
            self.report.skipped.entry(reason).or_default().push(name);
            return;
        }
        let mut random = Random::new(code as u64 + 1 + (self.seed << 32));
        let mut ran = false;
        let variants = forms::variants(code);
        let states = states.div_ceil(variants.len());
        for in_memory in variants {
            let mut made = 0;
            for _ in 0..self.instances * 8 {
                let rip = self.host.rip();
                let Some(instance) = forms::instance(code, in_memory, &mut random, rip, self.bits)
                else {
                    continue;
                };
                if !prepare::suitable(&instance) {
                    continue;
                }
                self.host.place(&instance.bytes);
                self.soft.place(rip, &instance.bytes);
                self.fast.place(rip, &instance.bytes);
                for _ in 0..states {
                    if !self.case(&name, &instance, &mut random) {
                        return;
                    }
                }
                ran = true;
                made += 1;
                if made == self.instances {
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

/// Every form of code of `bits` bits.
fn compare_with_host(bits: u32) {
    let Some(host) = Host::new(bits) else {
        eprintln!("skipped: the address range of the native stub is taken");
        return;
    };
    let filter = std::env::var("NATIVE_FILTER").unwrap_or_default();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let states = number("NATIVE_STATES").unwrap_or(64) as usize;
    let mut bench = Bench {
        bits,
        seed: number("NATIVE_SEED").unwrap_or(0),
        instances: number("NATIVE_INSTANCES").unwrap_or(INSTANCES) as usize,
        rules: !vendor::is_amd(),
        host,
        soft: Soft::new(bits),
        fast: Engine::new(Kind::Fast, bits),
        report: Report::default(),
    };
    for code in forms::all(bits) {
        if format!("{code:?}").to_lowercase().contains(&filter.to_lowercase()) {
            bench.form(code, states);
        }
    }
    let report = &bench.report;
    println!(
        "{bits}-bit: {} forms, {} cases, {} faults",
        report.forms, report.cases, report.faults
    );
    for (rule, count) in &report.ruled {
        println!("by rule ({rule}): {count} cases");
    }
    for (reason, names) in &report.skipped {
        println!("skipped ({reason}): {} forms: {}", names.len(), names.join(" "));
    }
    for (name, (count, first)) in &report.failures {
        println!("MISMATCH {name} ({count} cases), first: {first}");
    }
    assert!(report.failures.is_empty(), "{} forms differ", report.failures.len());
}

#[test]
fn every_form_agrees_with_the_host() {
    compare_with_host(64);
}

/// Needs a kernel that lets processes switch to 32-bit code segments, as x86-64 Linux does unless
/// told otherwise.
#[test]
fn every_form_of_32_bits_agrees_with_the_host() {
    compare_with_host(32);
}
