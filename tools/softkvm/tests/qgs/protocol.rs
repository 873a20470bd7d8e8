//! Messages, good and bad.

use abi::tdx::qgs::{
    GetCollateralResponse, GetPlatformInfoResponse, GetQuoteRequest, GetQuoteResponse,
    MessageError, MessageHeader, MessageKind,
};
use proptest::prelude::*;
use softkvm::qgs::Quoter;
use softkvm::qgs::protocol::{Head, Opening, answer};
use zerocopy::{FromBytes, IntoBytes};

use crate::report::report;

/// GET_QUOTE_REQ for a report.
pub fn request(report: &[u8], ids: &[u8]) -> Vec<u8> {
    let size = (size_of::<GetQuoteRequest>() + report.len() + ids.len()) as u32;
    let head = GetQuoteRequest {
        header: MessageHeader::new(MessageKind::GET_QUOTE_REQ, size),
        report_size: report.len() as u32,
        id_list_size: ids.len() as u32,
    };
    [head.as_bytes(), report, ids].concat()
}

fn quoter() -> Quoter {
    Quoter::new(0).unwrap()
}

fn refused(message: &[u8], kind: MessageKind, size: usize) {
    let answer = answer(message, &quoter()).unwrap();
    let (head, rest) = MessageHeader::read_from_prefix(&answer).unwrap();
    assert_eq!(head.error, MessageError::UNEXPECTED);
    assert_eq!((head.kind, head.size as usize, answer.len()), (kind, size, size));
    assert!(rest.iter().all(|byte| *byte == 0));
}

#[test]
fn a_report_is_answered_by_its_quote() {
    let quoter = quoter();
    let report = report();
    for ids in [&b""[..], &[1; 32]] {
        let answer = answer(&request(report.as_bytes(), ids), &quoter).unwrap();
        let (head, rest) = GetQuoteResponse::read_from_prefix(&answer).unwrap();
        assert_eq!(head.header.kind, MessageKind::GET_QUOTE_RESP);
        assert_eq!(head.header.error, MessageError::SUCCESS);
        assert_eq!(head.header.size as usize, answer.len());
        assert_eq!((head.selected_id_size, head.quote_size as usize), (0, rest.len()));
        assert_eq!(rest, quoter.quote(report.as_bytes()).unwrap());
    }
}

#[test]
fn a_newer_minor_version_is_compatible() {
    let mut message = request(report().as_bytes(), &[]);
    message[2] = 9;
    let answer = answer(&message, &quoter()).unwrap();
    let (head, _) = MessageHeader::read_from_prefix(&answer).unwrap();
    assert_eq!(head.error, MessageError::SUCCESS);
}

#[test]
fn the_platform_tells_what_it_is() {
    let quoter = quoter();
    let message = MessageHeader::new(MessageKind::GET_PLATFORM_INFO_REQ, 16);
    let answer = answer(message.as_bytes(), &quoter).unwrap();
    let (head, rest) = GetPlatformInfoResponse::read_from_prefix(&answer).unwrap();
    assert_eq!(head.header.kind, MessageKind::GET_PLATFORM_INFO_RESP);
    assert_eq!(head.header.error, MessageError::SUCCESS);
    // The library's own reckoning: versions counted twice.
    assert_eq!(head.header.size as usize, 2 + 2 + 28 + 16 + 16);
    assert_eq!(head.header.size as usize, answer.len());
    assert_eq!((head.tdqe_isvsvn, head.pce_isvsvn), (4, 11));
    assert_eq!((head.platform_id_size, head.cpusvn_size), (16, 16));
    assert_eq!(rest[..16], quoter.platform().qe);
    assert_eq!(rest[16..32], softkvm::qgs::platform::CPU_SVN);
}

#[test]
fn collateral_is_refused() {
    let head = MessageHeader::new(MessageKind::GET_COLLATERAL_REQ, 16 + 8 + 6 + 8);
    let sizes = [6u32.to_le_bytes(), 8u32.to_le_bytes()].concat();
    let message = [head.as_bytes(), &sizes, &[0; 6], b"platform"].concat();
    refused(&message, MessageKind::GET_COLLATERAL_RESP, size_of::<GetCollateralResponse>());
}

#[test]
fn malformed_requests_are_refused() {
    let good = request(report().as_bytes(), &[]);
    let change = |at: usize, value: u32| {
        let mut message = good.clone();
        message[at..at + 4].copy_from_slice(&value.to_le_bytes());
        message
    };
    let bad = [
        ("size", change(8, good.len() as u32 + 1)),
        ("size 0", change(8, 0)),
        ("error code", change(12, 1)),
        ("no report", request(&[], &[])),
        ("no report, but a list", request(&[], report().as_bytes())),
        ("report size 0", change(16, 0)),
        ("report size beyond", change(16, 1025)),
        ("report size huge", change(16, u32::MAX)),
        ("list beyond", change(20, 1)),
        ("list huge", change(20, u32::MAX)),
        ("short report", request(&report().as_bytes()[..1023], &[])),
        ("long report", request(&[report().as_bytes(), &[0]].concat(), &[])),
        ("wrong MAC", {
            let mut message = good.clone();
            message[24 + 224] ^= 1;
            message
        }),
        ("head only", MessageHeader::new(MessageKind::GET_QUOTE_REQ, 16).as_bytes().to_vec()),
    ];
    for (what, message) in bad {
        println!("{what}");
        refused(&message, MessageKind::GET_QUOTE_RESP, size_of::<GetQuoteResponse>());
    }
    // Nothing to answer with: another version, responses, unknown kinds, less than a head.
    for message in [change(0, 2), change(0, 0), change(4, 1), change(4, 6), good[..15].to_vec()] {
        assert_eq!(answer(&message, &quoter()), None);
    }
}

#[test]
fn first_bytes_tell_messages_from_reports() {
    assert_eq!(Opening::of([0x81, 0, 0, 0]), Opening::Report);
    assert_eq!(Opening::of([0x81, 0, 1, 0]), Opening::Report);
    assert_eq!(Opening::of([0, 0, 4, 0x18]), Opening::Message(1048));
    assert_eq!(Opening::of([0, 0, 0, 15]), Opening::Noise);
    assert_eq!(Opening::of([0; 4]), Opening::Noise);
    let head = |size| MessageHeader::new(MessageKind::GET_QUOTE_REQ, size);
    assert_eq!(Head::of(&head(1048), 1048), Head::Wanted(1032));
    assert_eq!(Head::of(&head(4092), 4092), Head::Wanted(4076));
    assert!(matches!(Head::of(&head(4093), 4093), Head::Refused(_)));
    assert!(matches!(Head::of(&head(u32::MAX), u32::MAX), Head::Refused(_)));
    assert!(matches!(Head::of(&head(1048), 1047), Head::Refused(_)));
    let unknown = MessageHeader::new(MessageKind(6), 1048);
    assert_eq!(Head::of(&unknown, 1048), Head::Unknown);
}

proptest! {
    #[test]
    fn whatever_comes_is_answered_in_form(
        kind in 0u32..7,
        sizes: [u32; 2],
        error in prop_oneof![Just(0u32), any::<u32>()],
        rest in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut head = MessageHeader::new(MessageKind(kind), 24 + rest.len() as u32);
        head.error = MessageError(error);
        let message = [head.as_bytes(), sizes.as_bytes(), &rest].concat();
        let answered = answer(&message, &quoter());
        prop_assert_eq!(answered.is_some(), [0, 2, 4].contains(&kind));
        if let Some(bytes) = answered {
            let (head, _) = MessageHeader::read_from_prefix(&bytes).unwrap();
            prop_assert_eq!(head.kind.0, kind + 1);
            prop_assert_eq!(head.size as usize, bytes.len());
            prop_assert!(head.error == MessageError::UNEXPECTED || kind == 4);
        }
    }
}
