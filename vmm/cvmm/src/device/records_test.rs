//! What a guest sends as records, and what it sends instead.

use super::*;

const HELLO: Record = Record { kind: RecordKind(1), bytes: b"hello" };

fn values(record: Record) -> Vec<u32> {
    record.as_marks().map(|mark| mark.0).collect()
}

fn receive(values: &[u32]) -> (Vec<Received>, RecordCounts) {
    let mut records = Records::default();
    for value in values {
        assert!(records.take(*value), "{value:#x}");
    }
    records.finished()
}

fn counts(received: u64, damaged: u64) -> RecordCounts {
    RecordCounts { received, dropped: 0, damaged }
}

#[test]
fn records_of_every_length_arrive() {
    let bytes: Vec<u8> = (0..RECORD_MAX as u8).collect();
    for len in 0..=RECORD_MAX {
        let record = Record { kind: RecordKind(len as u8), bytes: &bytes[..len] };
        let expected = Received { kind: record.kind, bytes: bytes[..len].to_vec() };
        assert_eq!(receive(&values(record)), (vec![expected.clone()], counts(1, 0)));
        let (text, used) = record.on_console();
        let digits = &text[Record::CONSOLE_PREFIX.len()..used - 1];
        let raw: Vec<u8> = digits
            .chunks(2)
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect();
        let mut records = Records::default();
        records.take_from_console(&raw);
        assert_eq!(records.finished(), (vec![expected], counts(1, 0)));
    }
}

#[test]
fn other_marks_are_left_alone() {
    let mut records = Records::default();
    for value in values(HELLO) {
        assert!(!records.take(0x4200_0001));
        assert!(records.take(value));
        assert!(!records.take(0xff00_0000));
    }
    assert_eq!(records.finished().1, counts(1, 0));
}

#[test]
fn a_record_that_lost_any_part_is_none() {
    let whole = values(HELLO);
    for lost in 0..whole.len() {
        let mut rest = whole.clone();
        rest.remove(lost);
        let (records, counts) = receive(&rest);
        assert!(records.is_empty() && counts.damaged > 0, "without part {lost}: {counts:?}");
    }
    for changed in 0..whole.len() {
        for bit in 0..24 {
            let mut values = whole.clone();
            values[changed] ^= 1 << bit;
            let (records, counts) = receive(&values);
            // The last data mark has a byte that belongs to no record.
            let padding = changed == 2 && bit >= 16;
            assert_eq!(records.len(), usize::from(padding), "part {changed}, bit {bit}");
            assert_eq!(counts.damaged == 0, padding);
        }
    }
    // Two at once, as two senders would: neither is taken for the other.
    let mixed: Vec<u32> = whole.iter().flat_map(|value| [*value, *value]).collect();
    assert!(receive(&mixed).0.is_empty());
}

#[test]
fn a_flood_is_counted_and_bounded() {
    let one = values(HELLO);
    let (records, counts) = receive(&one.repeat(2000));
    assert_eq!((records.len(), counts.received, counts.dropped), (1024, 2000, 976));
    // A length of anything is no promise of memory, and data without end is not kept.
    let long = Mark::new(MarkId::RECORD_BEGIN, 0xff_ffff).0;
    let data = Mark::new(MarkId::RECORD_DATA, 0).0;
    let (records, counts) = receive(&[&[long][..], &[data; 5000]].concat());
    assert_eq!((records.len(), counts.damaged), (0, 5001));
}
