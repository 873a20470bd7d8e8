//! What two runs of a guest must have in common, and the rules by which they may differ.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::guests::{Guest, Kind};
use super::{Row, Seen};

/// Something that is not the same on both sides.
#[derive(Serialize)]
pub struct Difference {
    /// What.
    pub what: String,
    /// On kvm_amd.
    pub kvm_amd: String,
    /// On softkvm.
    pub softkvm: String,
    /// Why that is so; nothing where nobody knows.
    pub rule: Option<&'static Rule>,
}

/// A known reason to differ.
#[derive(Serialize)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// The reason.
    pub why: &'static str,
}

static INTERRUPTS: Rule = Rule {
    name: "console interrupts",
    why: "a program's console output is sent by interrupt: timing decides how many characters an interrupt finds and, with several \
          vCPUs, who takes it; a single vCPU makes the same exits up to the start of /init",
};
static TEXT: Rule = Rule {
    name: "console text",
    why: "the kernel spends two exits on every character of its messages, and four more on every line: without them the exits up to \
          the start of /init are as many on both sides",
};
static MODEL: Rule = Rule {
    name: "processor model",
    why: "QEMU's processor is an EPYC of family 0x17, softkvm's one of family 0x19: other names, caches, errata and mitigations",
};
static CLOCK: Rule = Rule {
    name: "clock",
    why: "another TSC frequency, another wall clock, and another time that everything takes",
};
static PARAVIRT: Rule = Rule {
    name: "paravirtual end of interrupt",
    why: "KVM offers KVM_FEATURE_PV_EOI and softkvm does not; it saves exits that user space never sees",
};

/// What a talking kernel may say on one side alone: part of the line, and why.
static LINES: [(&str, &Rule); 20] = [
    ("smpboot: CPU0: ", &MODEL),
    ("Last level iTLB", &MODEL),
    ("Last level dTLB", &MODEL),
    ("AMD Zen1 ", &MODEL),
    ("RETBleed: ", &MODEL),
    ("Speculative Store Bypass: ", &MODEL),
    ("Speculative Return Stack Overflow: ", &MODEL),
    ("Transient Scheduler Attacks: ", &MODEL),
    ("active return thunk: ", &MODEL),
    ("kvm-clock: using sched offset of ", &CLOCK),
    ("tsc: Detected ", &CLOCK),
    ("clocksource: tsc", &CLOCK),
    // Asked of an invariant TSC only, which QEMU's processor has not; KVM's guests find HWCR at zero (Linux 7.2
    // arch/x86/kernel/cpu/amd.c bsp_init_amd).
    ("TSC doesn't count with P0 frequency", &CLOCK),
    ("BogoMIPS", &CLOCK),
    ("sched_clock: Marking stable ", &CLOCK),
    ("deferred pages initialised in ", &CLOCK),
    ("audit: type=2000 ", &CLOCK),
    ("hrtimer: interrupt took ", &CLOCK),
    ("interrupt took too long", &CLOCK),
    ("kvm-guest: APIC: eoi() replaced", &PARAVIRT),
];

/// Everything that differs between two runs of a guest.
pub fn compare(guest: &Guest, nested: &Seen, soft: &Seen) -> Vec<Difference> {
    let mut all = Vec::new();
    let mut check = |what: &str, pick: &dyn Fn(&Seen) -> Value, rule: Option<&'static Rule>| {
        let (a, b) = (pick(nested), pick(soft));
        if a != b {
            let what = what.to_owned();
            all.push(Difference { what, kvm_amd: a.to_string(), softkvm: b.to_string(), rule });
        }
    };
    for key in ["schema", "technology", "guest", "outcome", "stray_ports"] {
        check(key, &|seen| seen.report[key].clone(), None);
    }
    for key in ["regions", "staged"] {
        check(key, &|seen| seen.report["launch"][key].clone(), None);
    }
    check("marks", &|seen| marks(&seen.report), None);
    let kernel = |seen: &Seen| kernel_exits(guest.kind, seen);
    let rule = match guest.kind {
        Kind::Bare => None,
        _ if guest.several_vcpus => Some(&INTERRUPTS),
        _ if kernel(nested).is_none() || kernel(nested) != kernel(soft) => None,
        Kind::Silent => Some(&INTERRUPTS),
        Kind::Talking => Some(&TEXT),
    };
    let position = |seen: &Seen| seen.report["vcpus"].clone();
    check("position at the end", &position, rule.filter(|_| guest.several_vcpus));
    for reason in reasons(nested, soft) {
        let ports = matches!(reason.as_str(), "port_in" | "port_out");
        let count = |seen: &Seen| count(&seen.report, &reason).into();
        check(&format!("{reason} exits"), &count, rule.filter(|_| ports));
    }
    check("exit streams", &|seen| seen.report["exits"]["streams"].clone(), rule);
    lines(guest, nested, soft, &mut all);
    all
}

/// The reasons of both sides but interruptions: how often the host interrupts KVM_RUN is its own affair.
fn reasons(nested: &Seen, soft: &Seen) -> Vec<String> {
    let rows = [nested, soft].map(|seen| seen.report["exits"]["by_reason"].as_array().cloned());
    let mut names: Vec<_> = rows
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|row| row["reason"].as_str().map(str::to_owned))
        .filter(|name| name != "interrupted")
        .collect();
    names.sort();
    names.dedup();
    names
}

fn count(report: &Value, reason: &str) -> u64 {
    let rows = report["exits"]["by_reason"].as_array();
    let row = rows.and_then(|rows| rows.iter().find(|row| row["reason"] == reason));
    row.and_then(|row| row["count"].as_u64()).unwrap_or(0)
}

fn marks(report: &Value) -> Value {
    let marks = report["marks"].as_array().map_or(&[][..], Vec::as_slice);
    marks.iter().map(|mark| json!([mark["name"], mark["number"]])).collect()
}

/// The exits up to the start of /init but those for the kernel's messages: a character costs a read of the line status and
/// a write, a line two reads and two writes more (Linux 7.2 drivers/tty/serial/8250/8250_port.c serial8250_console_write).
fn kernel_exits(kind: Kind, seen: &Seen) -> Option<i64> {
    let marks = seen.report["marks"].as_array()?;
    let exits = marks.iter().find(|mark| mark["name"] == "init-entry")?["exits_before"].as_i64()?;
    let lines = seen.console.lines().take_while(|line| !line.starts_with("cvmm-init: "));
    // With the carriage return and the line feed that `lines` has taken.
    let of_line = |line: &str| i64::try_from(2 * (line.len() + 2) + 4).unwrap_or(i64::MAX);
    let messages = if kind == Kind::Talking { lines.map(of_line).sum() } else { 0 };
    Some(exits - messages)
}

/// Lines that only one console has.
fn lines(guest: &Guest, nested: &Seen, soft: &Seen, all: &mut Vec<Difference>) {
    let mut seen: BTreeMap<&str, i64> = BTreeMap::new();
    nested.console.lines().for_each(|line| *seen.entry(line).or_default() += 1);
    soft.console.lines().for_each(|line| *seen.entry(line).or_default() -= 1);
    for (line, balance) in seen.into_iter().filter(|(_, balance)| *balance != 0) {
        let known = LINES.iter().find(|(part, _)| line.contains(part)).map(|(_, rule)| *rule);
        let (mut kvm_amd, mut softkvm) = (line.to_owned(), String::new());
        if balance < 0 {
            std::mem::swap(&mut kvm_amd, &mut softkvm);
        }
        all.push(Difference {
            what: "console line".to_owned(),
            kvm_amd,
            softkvm,
            rule: known.filter(|_| guest.kind == Kind::Talking),
        });
    }
}

/// The comparison for people: one line per guest, then what differs and why.
pub fn table(rows: &[Row]) -> String {
    let total = |seen: &Seen| seen.report["exits"]["total"].as_u64().unwrap_or(0);
    let mut out = format!(
        "{:36} {:>8} {:>8}  {:8} {}\n",
        "guest", "kvm_amd", "softkvm", "streams", "differences"
    );
    for row in rows {
        let differ = row.differences.iter().any(|d| d.what == "exit streams");
        let unknown = row.differences.iter().filter(|d| d.rule.is_none()).count();
        let differences = match (row.differences.len(), unknown) {
            (0, _) => "none".to_owned(),
            (count, 0) => format!("{count}, all explained"),
            (count, unknown) => format!("{count}, {unknown} NOT EXPLAINED"),
        };
        out.push_str(&format!(
            "{:36} {:8} {:8}  {:8} {differences}\n",
            row.guest.name,
            total(&row.nested),
            total(&row.soft),
            if differ { "differ" } else { "equal" },
        ));
    }
    let mut rules: BTreeMap<&str, &str> = BTreeMap::new();
    for row in rows.iter().filter(|row| !row.differences.is_empty()) {
        out.push_str(&format!("\n{}:\n", row.guest.name));
        for Difference { what, kvm_amd, softkvm, rule } in &row.differences {
            let rule = rule.map_or("NOT EXPLAINED", |rule| {
                rules.insert(rule.name, rule.why);
                rule.name
            });
            out.push_str(&format!("  {what} ({rule})\n"));
            for (side, value) in [("kvm_amd", kvm_amd), ("softkvm", softkvm)] {
                if !value.is_empty() {
                    out.push_str(&format!("    {side}  {value}\n"));
                }
            }
        }
    }
    if !rules.is_empty() {
        out.push_str("\nWhy:\n");
        rules.iter().for_each(|(name, why)| out.push_str(&format!("  {name}: {why}\n")));
    }
    out
}

#[cfg(test)]
#[path = "compare_test.rs"]
mod tests;
