use serde_json::json;

use super::*;

fn guest(kind: Kind, several_vcpus: bool) -> Guest {
    Guest { name: "g".into(), words: vec![], kind, several_vcpus }
}

/// A run with so many exits up to the start of /init, and so many writes of ports at all.
fn seen(kernel: u64, port_out: u64, stream: &str, console: &str) -> Seen {
    let row = |reason, count: u64| json!({ "reason": reason, "count": count });
    let report = json!({
        "outcome": { "kind": "power_off" },
        "marks": [{ "name": "init-entry", "number": 0, "exits_before": kernel }],
        "exits": {
            "total": port_out,
            "by_reason": [row("mmio_read", 1), row("port_out", port_out), row("interrupted", 7)],
            "streams": [stream],
        },
    });
    Seen { console: console.into(), report }
}

/// What differs, and the name of its rule.
fn compared(guest: &Guest, a: &Seen, b: &Seen) -> Vec<(String, Option<&'static str>)> {
    let all = compare(guest, a, b).into_iter();
    all.map(|d| (d.what, d.rule.map(|rule| rule.name))).collect()
}

/// Port exits and streams differ, for one reason.
fn both(rule: Option<&'static str>) -> Vec<(String, Option<&'static str>)> {
    vec![("port_out exits".into(), rule), ("exit streams".into(), rule)]
}

#[test]
fn interruptions_are_the_hosts_affair() {
    let mut other = seen(3, 5, "a", "hello\n");
    other.report["exits"]["by_reason"][2]["count"] = json!(99);
    assert_eq!(compared(&guest(Kind::Bare, false), &seen(3, 5, "a", "hello\n"), &other), []);
}

#[test]
fn other_exits_of_the_test_guest_have_no_explanation() {
    let (a, b) = (seen(3, 5, "a", ""), seen(3, 6, "b", ""));
    assert_eq!(compared(&guest(Kind::Bare, false), &a, &b), both(None));
}

#[test]
fn programs_may_differ_and_the_silent_kernel_before_them_may_not() {
    let silent = guest(Kind::Silent, false);
    let (a, b) = (seen(3, 5, "a", ""), seen(3, 6, "b", ""));
    assert_eq!(compared(&silent, &a, &b), both(Some("console interrupts")));
    assert_eq!(compared(&silent, &a, &seen(4, 6, "b", "")), both(None));
    let several = guest(Kind::Silent, true);
    let all = compared(&several, &a, &seen(4, 6, "b", ""));
    assert_eq!(all, both(Some("console interrupts")));
}

#[test]
fn only_port_exits_may_differ() {
    let (a, mut b) = (seen(3, 5, "a", ""), seen(3, 5, "b", ""));
    b.report["exits"]["by_reason"][0]["count"] = json!(2);
    let all = compared(&guest(Kind::Silent, true), &a, &b);
    assert_eq!(all[0], ("mmio_read exits".into(), None));
}

#[test]
fn another_outcome_has_no_explanation_even_with_several_vcpus() {
    let (a, mut b) = (seen(3, 5, "a", ""), seen(3, 5, "a", ""));
    b.report["outcome"]["kind"] = json!("kernel_panic");
    assert_eq!(compared(&guest(Kind::Talking, true), &a, &b), [("outcome".into(), None)]);
}

#[test]
fn the_messages_of_a_talking_kernel_must_account_for_its_exits() {
    let (short, long) = ("tsc: Detected 1 MHz\n", "tsc: Detected 2450 MHz\n");
    let (a, b) = (seen(100, 100, "a", short), seen(106, 106, "b", long));
    let all = compared(&guest(Kind::Talking, false), &a, &b);
    assert_eq!(all[..2], both(Some("console text")));
    assert_eq!(all[2..], vec![("console line".into(), Some("clock")); 2]);
    let all = compared(&guest(Kind::Talking, false), &a, &seen(107, 107, "b", long));
    assert_eq!(all[..2], both(None));
}

#[test]
fn a_line_that_no_rule_knows_has_no_explanation() {
    let (a, b) = (seen(3, 5, "a", "BUG: x\n"), seen(3, 5, "a", "all well\n"));
    let all = compared(&guest(Kind::Talking, false), &a, &b);
    assert_eq!(all, vec![("console line".into(), None); 2]);
    // Nor has a known one, where the kernel should say nothing.
    let (a, b) = (seen(3, 5, "a", "tsc: Detected 1\n"), seen(3, 5, "a", "tsc: Detected 2\n"));
    let all = compared(&guest(Kind::Silent, false), &a, &b);
    assert_eq!(all, vec![("console line".into(), None); 2]);
}
