//! A guest that sends marks and records, or what resembles them, by port and among its console output.

use abi::marks::{Mark, MarkId};
use abi::probes::{Measured, Unavailable};
use abi::records::{RECORD_MAX, Record, RecordKind};
use cvmm::device::marks::{ConsoleFilter, Filtered, Message};
use cvmm::device::records::Records;

use super::Target;

/// Feeds the bytes to the console's filter, and as values to the collector.
pub const TARGET: Target = Target { name: "records", seeds, max_len: 4096, run };

fn seeds() -> Vec<Vec<u8>> {
    let record = Record { kind: RecordKind::PROBE_MEASURED, bytes: &[7; 72] };
    let (text, len) = record.on_console();
    let values = record.as_marks().flat_map(|mark| mark.0.to_le_bytes());
    let mark = Mark::new(MarkId::INIT_READY, 2).on_console();
    vec![
        values.collect(),
        text[..len].to_vec(),
        [&b"login: \x1b[1m\x1b]cvmm;12"[..], &mark, b"\x1b\x1b]cvm", &mark].concat(),
        [&b"text"[..], &mark, &text[..len / 2], &text[..len]].concat(),
    ]
}

fn run(input: &[u8]) {
    let mut records = Records::default();
    by_console(input, &mut records);
    for value in input.chunks_exact(4) {
        let value = u32::from_le_bytes(value.try_into().unwrap_or_default());
        let taken = records.take(value);
        let id = Mark(value).id();
        assert_eq!(taken, (MarkId::RECORD_BEGIN.0..=MarkId::RECORD_END.0).contains(&id.0));
    }
    let (received, counts) = records.finished();
    assert_eq!(received.len() as u64, counts.received - counts.dropped);
    for record in received {
        assert!(record.bytes.len() <= RECORD_MAX);
        // Whatever they say, they can be read.
        let _ = (Measured::from_bytes(&record.bytes), Unavailable::from_bytes(&record.bytes));
    }
}

/// Nothing is lost and nothing is made up: output and messages in order are the input.
fn by_console(input: &[u8], records: &mut Records) {
    let (mut filter, mut again) = (ConsoleFilter::default(), Vec::new());
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for byte in input {
        match filter.step(*byte) {
            Filtered::Held => {}
            Filtered::Output(bytes) => again.extend(bytes),
            Filtered::Message(Message::Mark(value)) => again.extend(Mark(value).on_console()),
            Filtered::Message(Message::Record(bytes)) => {
                records.take_from_console(&bytes);
                again.extend(Record::CONSOLE_PREFIX);
                again.extend(hex(&bytes).bytes());
                again.push(Record::CONSOLE_END);
            }
        }
    }
    again.extend(filter.release());
    // Digits may be written in capitals.
    assert_eq!(again.to_ascii_lowercase(), input.to_ascii_lowercase());
}
