//! Buffers, and a conversation with a quoting service that keeps to the protocol or does not.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread;

use super::*;

#[test]
fn only_whole_pages_of_a_sensible_number_are_a_buffer() {
    assert!(Buffer::new(0x1000, 0x1000).is_some());
    assert!(Buffer::new(0x1000, BUFFER_MAX).is_some());
    for (gpa, size) in [
        (0x1001, 0x1000),
        (0x1000, 0),
        (0x1000, 0x1018),
        (0x1000, BUFFER_MAX + 0x1000),
        (u64::MAX - 0xfff, 0x1000),
        (0x1000, u64::MAX - 0xfff),
    ] {
        assert_eq!(Buffer::new(gpa, size), None, "{gpa:#x} {size:#x}");
    }
    assert_eq!(Buffer::new(0x1000, 0x2000).unwrap().room(), 0x2000 - 24);
}

/// A service that answers one request with `bytes`.
fn service(bytes: Vec<u8>) -> (tempfile::TempDir, QuoteService, thread::JoinHandle<Vec<u8>>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qgs");
    let listener = UnixListener::bind(&path).unwrap();
    let served = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut request = vec![0; 4 + 24 + 1024];
        socket.read_exact(&mut request).unwrap();
        socket.write_all(&bytes).unwrap();
        request
    });
    (dir, QuoteService::Unix(path), served)
}

#[test]
fn a_quote_is_fetched() {
    let mut message = vec![1, 0, 1, 0];
    for word in [1u32, 29, 0, 0, 5] {
        message.extend(word.to_le_bytes());
    }
    message.extend(b"quote");
    let (_dir, service, served) =
        service([&(message.len() as u32).to_be_bytes()[..], &message].concat());
    assert_eq!(fetch(&service, &[3; 1024], &|| false).unwrap(), b"quote");
    assert_eq!(served.join().unwrap()[28..], [3; 1024]);
}

#[test]
fn a_service_that_is_not_there_or_hangs_up_or_lies_is_told_apart() {
    let nowhere = QuoteService::Unix("/nonexistent/qgs".into());
    let failure = fetch(&nowhere, &[0; 1024], &|| false).unwrap_err();
    assert_eq!(failure.status(), QuoteBuffer::UNAVAILABLE, "{failure}");

    let (_dir, hangs_up, served) = service(vec![0, 0]);
    let failure = fetch(&hangs_up, &[0; 1024], &|| false).unwrap_err();
    assert!(matches!(failure, Failure::Broken(_)), "{failure}");
    served.join().unwrap();

    let (_dir, lies, served) = service(vec![0xff; 4]);
    let failure = fetch(&lies, &[0; 1024], &|| false).unwrap_err();
    assert!(matches!(failure, Failure::NoQuote(NoQuote::Malformed(_))), "{failure}");
    assert_eq!(failure.status(), QuoteBuffer::ERROR);
    served.join().unwrap();
}

#[test]
fn the_end_of_the_run_ends_a_conversation() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qgs");
    // Accepts by its queue, and says nothing.
    let _listener = UnixListener::bind(&path).unwrap();
    let begun = Instant::now();
    let stop = || begun.elapsed() > Duration::from_millis(50);
    let failure = fetch(&QuoteService::Unix(path), &[0; 1024], &stop).unwrap_err();
    assert!(failure.to_string().contains("has ended"), "{failure}");
    assert!(begun.elapsed() < Duration::from_secs(10));
}
