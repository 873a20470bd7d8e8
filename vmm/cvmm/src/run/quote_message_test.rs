//! Messages that keep to the protocol, and others.

use super::*;

#[test]
fn a_request_is_the_services_layout() {
    let bytes = request(&[7; 1024]);
    assert_eq!(bytes[..4], 1048u32.to_be_bytes());
    let mut head = vec![1, 0, 1, 0];
    for word in [0u32, 1048, 0, 1024, 0] {
        head.extend(word.to_le_bytes());
    }
    assert_eq!(bytes[4..28], head);
    assert_eq!(bytes[28..], [7; 1024]);
}

/// An answer of any fields.
fn answer(
    version: u16,
    kind: u32,
    size: u32,
    error: u32,
    id: u32,
    quote: u32,
    rest: &[u8],
) -> Vec<u8> {
    let mut bytes = version.to_le_bytes().to_vec();
    bytes.extend([1, 0]);
    for word in [kind, size, error, id, quote] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(rest);
    bytes
}

#[test]
fn an_answer_is_taken_only_if_everything_fits() {
    assert_eq!(response(&answer(1, 1, 29, 0, 0, 5, b"quote")).unwrap(), b"quote");
    assert_eq!(response(&answer(1, 1, 31, 0, 2, 5, b"idquote")).unwrap(), b"quote");
    let refused = response(&answer(1, 1, 24, 0x12001, 0, 0, b"")).unwrap_err();
    assert!(refused.to_string().contains("UNEXPECTED"), "{refused}");
    for bad in [
        answer(2, 1, 29, 0, 0, 5, b"quote"),
        answer(1, 3, 29, 0, 0, 5, b"quote"),
        answer(1, 1, 28, 0, 0, 5, b"quote"),
        answer(1, 1, 29, 0, 0, 6, b"quote"),
        answer(1, 1, 29, 0, u32::MAX, 6, b"quote"),
        answer(1, 1, 24, 0, 0, 0, b""),
        answer(1, 1, 29, 0, 0, 5, b"quote")[..20].to_vec(),
        Vec::new(),
    ] {
        let failure = response(&bad).unwrap_err();
        assert!(matches!(failure, NoQuote::Malformed(_)), "{failure}");
    }
}
