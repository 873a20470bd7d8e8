//! Marks among console output.

use super::*;
use abi::marks::Mark as Value;

/// Runs bytes through the filter: output and marks.
fn filter(bytes: &[u8]) -> (Vec<u8>, Vec<u32>) {
    let (mut filter, mut output, mut marks) = (ConsoleFilter::default(), Vec::new(), Vec::new());
    for byte in bytes {
        match filter.step(*byte) {
            Filtered::Held => {}
            Filtered::Output(bytes) => output.extend(bytes),
            Filtered::Message(Message::Mark(value)) => marks.push(value),
            Filtered::Message(Message::Record(_)) => panic!("a record, which nobody sent"),
        }
    }
    output.extend(filter.release());
    (output, marks)
}

#[test]
fn marks_are_taken_out() {
    let mark = Value::new(MarkId::INIT_READY, 0x00ab_cdef);
    let text = [b"before", &mark.on_console()[..], b"after\n"].concat();
    assert_eq!(filter(&text), (b"beforeafter\n".to_vec(), vec![0x42ab_cdef]));
    let twice = [mark.on_console(), Value(0).on_console()].concat();
    assert_eq!(filter(&twice), (Vec::new(), vec![0x42ab_cdef, 0]));
}

#[test]
fn what_only_begins_like_a_mark_is_output() {
    let mark = Value(0x1234_5678).on_console();
    for len in 1..mark.len() {
        // Cut short, and continued by something else, by another escape sequence, or by a mark.
        let cut = &mark[..len];
        assert_eq!(filter(cut), (cut.to_vec(), Vec::new()));
        let text = [cut, b"zz"].concat();
        assert_eq!(filter(&text), (text.clone(), Vec::new()));
        let text = [cut, b"\x1b[0m"].concat();
        assert_eq!(filter(&text), (text.clone(), Vec::new()));
        let text = [cut, &mark[..]].concat();
        assert_eq!(filter(&text), (cut.to_vec(), vec![0x1234_5678]));
    }
    let text = b"\x1b\x1b]0;title\x07\x1b]cvmm;123456789\x07";
    assert_eq!(filter(text), (text.to_vec(), Vec::new()));
}

/// Runs bytes through the filter: output and records.
fn records(bytes: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (mut filter, mut output, mut records) = (ConsoleFilter::default(), Vec::new(), Vec::new());
    for byte in bytes {
        match filter.step(*byte) {
            Filtered::Held => {}
            Filtered::Output(bytes) => output.extend(bytes),
            Filtered::Message(Message::Record(bytes)) => records.push(bytes),
            Filtered::Message(Message::Mark(_)) => panic!("a mark, which nobody sent"),
        }
    }
    output.extend(filter.release());
    (output, records)
}

#[test]
fn records_are_taken_out_whole() {
    let kind = abi::records::RecordKind(7);
    for contents in [&b""[..], b"x", &[0xa5; abi::records::RECORD_MAX]] {
        let record = Record { kind, bytes: contents };
        let (text, len) = record.on_console();
        let all = [b"before", &text[..len], b"after"].concat();
        let check = &record.check().to_be_bytes()[1..];
        let expected = [&[7][..], contents, check].concat();
        assert_eq!(records(&all), (b"beforeafter".to_vec(), vec![expected.clone()]));
        // Cut short and begun again: what was there is output.
        for cut in [1, 5, 6, 7, 8, len - 1] {
            let all = [&text[..cut], &text[..len]].concat();
            assert_eq!(records(&all), (text[..cut].to_vec(), vec![expected.clone()]), "{cut}");
        }
    }
}

#[test]
fn what_only_begins_like_a_record_is_output() {
    let long =
        [b"\x1b]cvmr;", &[b'0'; 2 * (1 + abi::records::RECORD_MAX + 3) + 2][..], b"\x07"].concat();
    for text in [
        &b"\x1b]cvmr;\x07"[..],
        b"\x1b]cvmr;012345\x07",
        b"\x1b]cvmr;123456789\x07",
        b"\x1b]cvmx;",
        &long,
    ] {
        assert_eq!(records(text), (text.to_vec(), Vec::new()));
    }
}
