use serde_json::json;

use super::*;

fn guest(several_vcpus: bool, talks: bool) -> Guest {
    Guest { name: "g".into(), words: vec![], several_vcpus, talks }
}

/// As many reads of ports as writes.
fn seen(ports: u64, stream: &str, console: &str) -> Seen {
    let row = |reason, count: u64| json!({ "reason": reason, "count": count });
    let report = json!({
        "outcome": { "kind": "power_off" },
        "console_bytes": console.len(),
        "exits": {
            "total": 2 * ports,
            "by_reason": [row("port_in", ports), row("port_out", ports), row("interrupted", 7)],
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

#[test]
fn interruptions_are_the_hosts_affair() {
    let mut other = seen(5, "a", "hello\n");
    other.report["exits"]["by_reason"][2]["count"] = json!(99);
    assert_eq!(compared(&guest(false, false), &seen(5, "a", "hello\n"), &other), []);
}

#[test]
fn another_stream_of_a_silent_guest_has_no_explanation() {
    let (a, b) = (seen(5, "a", "x\n"), seen(5, "b", "x\n"));
    assert_eq!(compared(&guest(false, false), &a, &b), [("exit streams".into(), None)]);
    let several = compared(&guest(true, false), &a, &b);
    assert_eq!(several, [("exit streams".into(), Some("scheduling"))]);
}

#[test]
fn another_outcome_has_no_explanation_even_with_several_vcpus() {
    let (a, mut b) = (seen(5, "a", ""), seen(5, "a", ""));
    b.report["outcome"]["kind"] = json!("kernel_panic");
    assert_eq!(compared(&guest(true, true), &a, &b), [("outcome".into(), None)]);
}

#[test]
fn the_text_of_a_talking_guest_must_account_for_its_exits() {
    let (short, long) = ("tsc: Detected 1 MHz\n", "tsc: Detected 2450 MHz\n");
    let (a, b) = (seen(100, "a", short), seen(103, "b", long));
    let all = compared(&guest(false, true), &a, &b);
    let exits = ["port_in exits", "port_out exits", "exit streams"];
    assert_eq!(all[..3], exits.map(|what| (what.to_owned(), Some("console text"))));
    assert_eq!(all[3..], vec![("console line".into(), Some("clock")); 2]);
    let all = compared(&guest(false, true), &a, &seen(104, "b", long));
    assert_eq!(all[..3], exits.map(|what| (what.to_owned(), None)));
}

#[test]
fn a_line_that_no_rule_knows_has_no_explanation() {
    let (a, b) = (seen(5, "a", "BUG: x\n"), seen(5, "a", "all well\n"));
    let all = compared(&guest(false, true), &a, &b);
    assert_eq!(all, vec![("console line".into(), None); 2]);
    // Nor has a known one, where the guest should say nothing.
    let (a, b) = (seen(5, "a", "tsc: Detected 1\n"), seen(5, "a", "tsc: Detected 2\n"));
    assert_eq!(compared(&guest(false, false), &a, &b), vec![("console line".into(), None); 2]);
}
