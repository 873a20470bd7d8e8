//! What becomes of a record.

use abi::probes::{ProbeId, REASON_MAX};

use super::*;

const MEASURED: Measured = Measured {
    probe: ProbeId::CHASE,
    unit: ProbeUnit::CYCLES,
    parameter: 4096,
    samples: 10,
    operations: 64,
    tsc_khz: 2_700_000,
    overhead: 27,
    min: 64,
    p50: 640,
    p90: 6400,
    p99: 64_000,
    max: u64::MAX,
};

fn read_measured(record: Measured) -> Option<ProbeFacts> {
    read(RecordKind::PROBE_MEASURED, record.bytes(), "modelled")
}

#[test]
fn cycles_become_picoseconds_of_one_operation() {
    let probe = read_measured(MEASURED).unwrap();
    assert_eq!((probe.name.as_str(), probe.unit.as_str()), ("chase", "ps"));
    assert_eq!((probe.parameter, probe.parameter_is.as_deref()), (Some(4096), Some("bytes")));
    // One cycle of 2.7 GHz is 370.37 ps.
    let numbers = [probe.min, probe.p50, probe.p90, probe.p99].map(Option::unwrap);
    assert_eq!(numbers, [370, 3704, 37_037, 370_370]);
    // More than fits is the most that does.
    assert_eq!(probe.max, Some(u64::MAX));
    assert_eq!((probe.overhead_ps, probe.clock.as_str()), (Some(10_000), "modelled"));
    let rate = Measured { unit: ProbeUnit::BYTES_PER_SECOND, ..MEASURED };
    assert_eq!(read_measured(rate).unwrap().p50, Some(640));
}

#[test]
fn what_cannot_be_read_is_none() {
    for record in [
        Measured { tsc_khz: 0, ..MEASURED },
        Measured { operations: 0, ..MEASURED },
        Measured { samples: 0, ..MEASURED },
        Measured { unit: ProbeUnit(77), ..MEASURED },
        Measured { probe: ProbeId(0xffff), ..MEASURED },
    ] {
        assert_eq!(read_measured(record), None);
    }
    let bytes = MEASURED.bytes();
    assert_eq!(read(RecordKind::PROBE_MEASURED, &bytes[..bytes.len() - 1], ""), None);
    assert_eq!(read(RecordKind(0x77), bytes, ""), None);
    assert_eq!(read(RecordKind::PROBE_UNAVAILABLE, bytes, ""), None);
}

#[test]
fn a_reason_is_text_that_a_terminal_can_take() {
    let mut reason = [0; REASON_MAX];
    reason[..14].copy_from_slice(b"no \x1b[2J\xffdevice");
    let record = Unavailable { probe: ProbeId::RDMSR, errno: 2, parameter: 0, reason };
    let probe = read(RecordKind::PROBE_UNAVAILABLE, record.bytes(), "measured").unwrap();
    assert_eq!(probe.unavailable.as_deref(), Some("no [2J\u{fffd}device"));
    assert_eq!((probe.errno, probe.samples, probe.p50), (Some(2), 0, None));
}

#[test]
fn the_table_has_a_line_for_each() {
    let mut none = read_measured(MEASURED).unwrap();
    none.unavailable = Some("no such thing".into());
    none.errno = Some(19);
    let mut out = String::new();
    write_table(&mut out, &[]).unwrap();
    assert_eq!(out, "");
    write_table(&mut out, &[read_measured(MEASURED).unwrap(), none]).unwrap();
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[1].contains("(modelled)"), "{out}");
    assert!(lines[2].contains("chase, 4 KiB") && lines[2].contains("3.7 ns"), "{out}");
    assert!(lines[3].ends_with("no such thing (errno 19)"), "{out}");
}
