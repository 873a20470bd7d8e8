//! What two runs of a guest must have in common, and the rules by which they may differ.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::guests::Guest;
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

static SCHEDULING: Rule = Rule {
    name: "scheduling",
    why: "a program's console output is sent by interrupt: with several vCPUs it depends on their timing which of them takes \
          the interrupt, how many characters it finds, and which of them runs the program",
};
static TEXT: Rule = Rule {
    name: "console text",
    why: "every character on the console is an exit or two, and every line four more: the other lines of this guest account \
          for these exits to the last one",
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
static LINES: [(&str, &Rule); 19] = [
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
    let scheduling = guest.several_vcpus.then_some(&SCHEDULING);
    check("position at the end", &|seen| seen.report["vcpus"].clone(), scheduling);
    // The text accounts for the exits of a talking kernel, or it does not.
    let text = (guest.talks && residue(nested) == residue(soft)).then_some(&TEXT);
    for reason in reasons(nested, soft) {
        let rule = match reason.as_str() {
            "port_in" | "port_out" => scheduling.or(text),
            _ => None,
        };
        check(&format!("{reason} exits"), &|seen| count(&seen.report, &reason).into(), rule);
    }
    let streams = |seen: &Seen| seen.report["exits"]["streams"].clone();
    check("exit streams", &streams, scheduling.or(text));
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

/// The exits at ports that are not the console's: a character costs one read of the line status and one write, a line of the
/// kernel two reads and two writes more, around it (Linux 7.2 drivers/tty/serial/8250/8250_port.c serial8250_console_write).
fn residue(seen: &Seen) -> [i64; 2] {
    let bytes = seen.report["console_bytes"].as_u64().unwrap_or(0);
    let lines = seen.console.lines().count() as u64;
    ["port_in", "port_out"]
        .map(|reason| count(&seen.report, reason).wrapping_sub(bytes + 2 * lines).cast_signed())
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
            rule: known.filter(|_| guest.talks),
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
