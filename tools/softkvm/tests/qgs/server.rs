//! The socket and the command.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use abi::tdx::qgs::{GetQuoteResponse, MessageError, MessageHeader, MessageKind};
use softkvm::qgs::server::MAX_CONNECTIONS;
use softkvm::qgs::{Collateral, Quoter, Server, ServerError};
use zerocopy::{FromBytes, IntoBytes};

use crate::protocol::request;
use crate::report::report;

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Sends bytes and reads until the service closes.
fn exchange(path: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(path);
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        // The service closed without having read everything.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    answer
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes()[..], message].concat()
}

fn serve(dir: &tempfile::TempDir) -> (Server, Arc<Quoter>, std::path::PathBuf) {
    let path = dir.path().join("qgs.socket");
    let quoter = Arc::new(Quoter::new(0).unwrap());
    (Server::start(&path, Arc::clone(&quoter)).unwrap(), quoter, path)
}

#[test]
fn both_forms_of_request_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, quoter, path) = serve(&dir);
    let quote = quoter.quote(report().as_bytes()).unwrap();
    let answer = exchange(&path, &framed(&request(report().as_bytes(), &[])));
    assert_eq!(answer[..4], (answer.len() as u32 - 4).to_be_bytes());
    assert_eq!(answer[4 + size_of::<GetQuoteResponse>()..], quote);
    assert_eq!(exchange(&path, report().as_bytes()), quote);
    let mut forged = report();
    forged.mac.mac[0] ^= 1;
    assert!(exchange(&path, forged.as_bytes()).is_empty());
}

#[test]
fn nobody_waits_for_a_silent_client() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _, path) = serve(&dir);
    let message = framed(&request(report().as_bytes(), &[]));
    // Some send nothing, some half.
    let mut idle: Vec<_> = (0..8).map(|_| connect(&path)).collect();
    for stream in &mut idle[..4] {
        stream.write_all(&message[..message.len() / 2]).unwrap();
    }
    let answers: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..16).map(|_| scope.spawn(|| exchange(&path, &message))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert!(answers[0].len() > 4000);
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    // The half that sent half are served when the rest comes.
    for stream in &mut idle[..4] {
        stream.write_all(&message[message.len() / 2..]).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, answers[0]);
    }
    drop(server);
    assert!(!path.exists());
}

#[test]
fn connections_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, _, path) = serve(&dir);
    let held: Vec<_> = (0..MAX_CONNECTIONS).map(|_| connect(&path)).collect();
    let message = framed(&request(report().as_bytes(), &[]));
    let mut one_more = connect(&path);
    let mut answer = Vec::new();
    let _ = one_more.read_to_end(&mut answer);
    assert!(answer.is_empty(), "closed at once");
    drop(held);
    // Threads notice one after the other.
    let served = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        let mut stream = connect(&path);
        let mut answer = Vec::new();
        stream.write_all(&message).is_ok() && stream.read_to_end(&mut answer).is_ok_and(|n| n > 0)
    });
    assert!(served);
}

#[test]
fn bad_sizes_get_an_error_and_noise_gets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, _, path) = serve(&dir);
    let good = request(report().as_bytes(), &[]);
    let with_size = |size: u32| [&size.to_be_bytes()[..], &good].concat();
    let mut huge = MessageHeader::new(MessageKind::GET_QUOTE_REQ, 0x7fff_ffff).as_bytes().to_vec();
    huge.splice(0..0, 0x7fff_ffff_u32.to_be_bytes());
    for bytes in [with_size(good.len() as u32 - 1), with_size(4093), with_size(1 << 30), huge] {
        let answer = exchange(&path, &bytes);
        let (head, _) = MessageHeader::read_from_prefix(&answer[4..]).unwrap();
        assert_eq!(head.kind, MessageKind::GET_QUOTE_RESP);
        assert_eq!(head.error, MessageError::UNEXPECTED);
    }
    let mut unknown = good.clone();
    unknown[4] = 77;
    for bytes in
        [framed(&unknown), vec![0; 20], with_size(15), b"GET / HTTP/1.1\r\n\r\n....".to_vec()]
    {
        assert!(exchange(&path, &bytes).is_empty());
    }
    // And it is still there.
    assert!(exchange(&path, &framed(&good)).len() > 4000);
}

#[test]
fn only_dead_sockets_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (server, quoter, path) = serve(&dir);
    let again = |path: &Path| Server::start(path, Arc::clone(&quoter));
    let error = again(&path).err().unwrap();
    assert!(matches!(error, ServerError::InUse(_)));
    assert_eq!(error.to_string(), format!("another service listens on {}", path.display()));
    drop(server);
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a dead socket");
    drop(again(&path).unwrap());
    fs::write(&path, "precious").unwrap();
    let error = again(&path).err().unwrap();
    assert!(matches!(error, ServerError::NotASocket(_)));
    assert_eq!(error.to_string(), format!("{} exists and is not a socket", path.display()));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let nowhere = dir.path().join("no/such/dir");
    let error = again(&nowhere).err().unwrap();
    assert_eq!(error.to_string(), format!("cannot listen on {}", nowhere.display()));
}

#[test]
fn a_socket_that_another_made_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _, path) = serve(&dir);
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(server);
    assert!(path.exists());
}

fn command(path: &Path) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_softkvm"))
        .args(["qgs", "--seed", "7", "--socket"])
        .arg(path)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("quoting on"), "{line}");
    child
}

#[test]
fn the_command_serves_until_it_is_told_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qgs.socket");
    let quoter = Quoter::new(7).unwrap();
    for signal in ["TERM", "INT", "HUP"] {
        let mut child = command(&path);
        assert_eq!(
            exchange(&path, report().as_bytes()),
            quoter.quote(report().as_bytes()).unwrap()
        );
        let idle = connect(&path);
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
        assert!(child.wait().unwrap().success(), "{signal}");
        assert!(!path.exists(), "{signal}");
        drop(idle);
    }
}

#[test]
fn the_command_writes_collateral() {
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_softkvm"))
        .args(["certs", "--tdx", "--seed", "7", "--out"])
        .arg(dir.path())
        .status()
        .unwrap();
    assert!(status.success());
    let files = Collateral::of(&Quoter::new(7).unwrap()).unwrap().files().unwrap();
    for (name, bytes) in &files {
        assert_eq!(fs::read(dir.path().join(name)).unwrap(), *bytes, "{name}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), files.len());
}
