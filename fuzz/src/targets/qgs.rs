//! Messages to the quoting service, and its answers as cvmm takes them.

use std::sync::LazyLock;

use abi::tdx::qgs::{MAX_REQUEST, MessageError, MessageHeader, PREFIX};
use abi::tdx::{ReportMac, TdReport};
use cvmm::run::quote_message::{request, response};
use softkvm::qgs::Quoter;
use softkvm::qgs::protocol::{Head, Opening, answer};
use softkvm::tdx::{Td, report};
use zerocopy::{FromBytes, IntoBytes};

use super::Target;

/// The first byte says what the others are.
pub const TARGET: Target = Target { name: "qgs", seeds, max_len: MAX_REQUEST + 1, run };

static QUOTER: LazyLock<Quoter> = LazyLock::new(|| Quoter::new(0).expect("published keys"));

fn seeds() -> Vec<Vec<u8>> {
    let report = report::make(&Td::new(), &[7; 64]);
    let asked = request(report.as_bytes());
    let quote = answer(&asked[PREFIX..], &QUOTER).unwrap_or_default();
    let mut others: Vec<Vec<u8>> = (2..6_u8)
        .map(|kind| [&[0, 0, 0, 16, 1, 0, 1, 0, kind][..], &[0; 3], &[16], &[0; 7]].concat())
        .collect();
    others.push(report.as_bytes().to_vec());
    others.push(asked);
    let others = others.into_iter().map(|message| [&[0], &message[..]].concat());
    let mut seeds: Vec<_> = others.collect();
    seeds.push([&[1], &quote[..]].concat());
    seeds
}

fn run(input: &[u8]) {
    match input.split_first() {
        Some((0, stream)) => serve(stream),
        Some((1, message)) => take(message),
        _ => {}
    }
}

/// As the server reads it: the opening, the head, the rest.
fn serve(stream: &[u8]) {
    let Some((&prefix, message)) = stream.split_first_chunk::<PREFIX>() else { return };
    match Opening::of(prefix) {
        Opening::Report => {
            assert_eq!(prefix[0], ReportMac::TYPE_TDX);
            if let Some(bytes) = stream.get(..size_of::<TdReport>()) {
                let genuine = TdReport::read_from_bytes(bytes).is_ok_and(|it| report::verify(&it));
                assert_eq!(QUOTER.quote(bytes).is_ok(), genuine, "only what is genuine is quoted");
            }
        }
        Opening::Message(size) => {
            let Ok((head, rest)) = MessageHeader::read_from_prefix(message) else { return };
            let wanted = match Head::of(&head, size) {
                Head::Wanted(wanted) => wanted,
                Head::Refused(refusal) => return refused(&refusal),
                Head::Unknown => return,
            };
            assert!(wanted <= MAX_REQUEST, "{wanted} bytes more");
            let all = size_of::<MessageHeader>() + wanted.min(rest.len());
            if let Some(answer) = answer(&message[..all], &QUOTER) {
                judge(&answer);
            }
        }
        Opening::Noise => {}
    }
    // And without its checks.
    if let Some(answer) = answer(message, &QUOTER) {
        judge(&answer);
    }
}

/// An answer says its size, and is a refusal or something to be taken.
fn judge(answer: &[u8]) {
    let Ok((head, _)) = MessageHeader::read_from_prefix(answer) else { panic!("no head") };
    assert_eq!(head.size as usize, answer.len());
    if head.error != MessageError::SUCCESS {
        refused(answer);
    } else if head.kind == abi::tdx::qgs::MessageKind::GET_QUOTE_RESP {
        assert!(response(answer).is_ok(), "cvmm takes the service's quotes");
    }
}

fn refused(answer: &[u8]) {
    assert!(response(answer).is_err());
    assert!(answer.len() <= 48, "a refusal says nothing else");
}

/// What cvmm takes for a quote is the end of the message, as long as the message says.
fn take(message: &[u8]) {
    let Ok(quote) = response(message) else { return };
    assert!(!quote.is_empty() && message.ends_with(quote));
    let sizes = [16, 20].map(|at| {
        u32::from_le_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]])
    });
    assert_eq!(quote.len(), sizes[1] as usize);
    assert_eq!(message.len() - quote.len() - 24, sizes[0] as usize);
}
