//! Hosts that answer MapGPA rightly, slowly and wrongly.

use abi::shim::{PAGE, Termination};
use abi::tdx::vmcall::Status;

use crate::range::Range;
use crate::tdx::map_gpa::{Answer, STALLED_MAX, remainder, set_private};

const ASKED: Range = Range { start: 0x20_0000, end: 0x30_0000 };

/// Hosts, and whether a guest may go on with them.
#[test]
fn hosts() {
    type Host = fn(Range, usize) -> (Status, u64);
    let cases: [(&str, Host, bool); 13] = [
        ("does all at once", |_, _| (Status::SUCCESS, 0), true),
        ("does a page at a time", |r, _| step(r, PAGE), true),
        ("does two, then nothing, then two", |r, n| step(r, [2 * PAGE, 0][n % 2]), true),
        ("needs as many tries as Linux allows", |r, n| step(r, [0, 0, PAGE][n % 3]), true),
        ("never does anything", |r, _| (Status::RETRY, r.start), false),
        ("stalls in the middle", |r, n| step(r, if n < 5 { PAGE } else { 0 }), false),
        ("goes back", |r, n| (Status::RETRY, r.start + PAGE - 2 * PAGE * (n as u64 % 2)), false),
        ("goes on behind the end", |r, _| (Status::RETRY, r.end + PAGE), false),
        ("goes on at the end", |r, _| (Status::RETRY, r.end), false),
        ("goes on between pages", |r, _| (Status::RETRY, r.start + PAGE / 2), false),
        ("goes on in shared memory", |r, _| (Status::RETRY, 1 << 47 | r.start), false),
        ("refuses", |r, _| (Status::INVALID_OPERAND, r.start), false),
        ("does not know the word", |r, _| (Status::SUBFUNC_UNSUPPORTED, r.start), false),
    ];
    for (name, host, good) in cases {
        let mut calls = 0;
        let outcome = set_private(ASKED, |rest| {
            assert!(!rest.is_empty() && ASKED.contains(rest) && rest.end == ASKED.end, "{name}");
            let (status, next) = host(rest, calls);
            calls += 1;
            Answer { status, next }
        });
        let expected = if good { Ok(()) } else { Err(Termination::MAP_GPA) };
        assert_eq!(outcome, expected, "a host that {name}");
        let most = (ASKED.end - ASKED.start) / PAGE * u64::from(STALLED_MAX);
        assert!(calls as u64 <= most, "{name}: {calls} calls");
    }
}

/// So many bytes done, or all.
fn step(asked: Range, bytes: u64) -> (Status, u64) {
    let next = asked.start + bytes;
    if next >= asked.end { (Status::SUCCESS, 0) } else { (Status::RETRY, next) }
}

#[test]
fn an_empty_range_is_not_asked_for() {
    let outcome = set_private(Range::EMPTY, |_| unreachable!("nothing to ask"));
    assert_eq!(outcome, Ok(()));
}

#[test]
fn no_answer_leads_out_of_the_range() {
    let interesting = [0, 1, PAGE, PAGE - 1, ASKED.start, ASKED.end, 1 << 47, 1 << 63, u64::MAX];
    for status in interesting {
        for base in interesting {
            for delta in [0, 1, PAGE, PAGE + 1, PAGE.wrapping_neg(), u64::MAX] {
                let answer = Answer { status: Status(status), next: base.wrapping_add(delta) };
                match remainder(ASKED, answer) {
                    Ok(rest) if rest.is_empty() => assert_eq!(answer.status, Status::SUCCESS),
                    Ok(rest) => {
                        assert_eq!(answer.status, Status::RETRY);
                        assert!(ASKED.contains(rest) && rest.end == ASKED.end);
                        assert_eq!(rest.pages(), rest);
                    }
                    Err(code) => assert_eq!(code, Termination::MAP_GPA),
                }
            }
        }
    }
}
