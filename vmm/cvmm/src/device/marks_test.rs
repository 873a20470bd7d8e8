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
            Filtered::Mark(value) => marks.push(value),
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
