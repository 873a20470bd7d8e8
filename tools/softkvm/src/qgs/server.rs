//! The service's socket: one request a connection, a thread each, none longer than Intel's service waits.

use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fs, mem};

use abi::tdx::qgs::{MessageHeader, PREFIX, TIMEOUT_SECONDS};
use zerocopy::{FromBytes, IntoBytes};

use super::protocol::{self, Head, Opening, REPORT};
use super::quote::Quoter;

/// Connections at a time; more are closed at once.
pub const MAX_CONNECTIONS: usize = 64;

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Something else has the name.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// Another service has it.
    #[error("another service listens on {}", .0.display())]
    InUse(PathBuf),
    /// The system refused.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The running service; dropping it ends it and removes the socket.
pub struct Server {
    path: PathBuf,
    /// Of the socket that was made: another at the same path is not removed.
    inode: u64,
    stop: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on a path. A socket that nobody listens on any more is replaced.
    pub fn start(path: &Path, quoter: Arc<Quoter>) -> Result<Self, ServerError> {
        make_way(path)?;
        let failed = |source| ServerError::Listen { path: path.to_owned(), source };
        let listener = UnixListener::bind(path).map_err(failed)?;
        let inode = fs::metadata(path).map_err(failed)?.ino();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let acceptor = thread::Builder::new()
            .name("qgs".into())
            .spawn(move || accept(&listener, &quoter, &stopped))
            .map_err(failed)?;
        Ok(Self { path: path.to_owned(), inode, stop, acceptor: Some(acceptor) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode);
        self.stop.store(true, Ordering::Release);
        // The acceptor looks at the flag once per connection. A thread that cannot be reached ends with the process.
        let woken = ours && UnixStream::connect(&self.path).is_ok();
        if ours {
            let _ = fs::remove_file(&self.path);
        }
        if let Some(acceptor) = self.acceptor.take().filter(|_| woken) {
            let _ = acceptor.join();
        }
    }
}

fn make_way(path: &Path) -> Result<(), ServerError> {
    let failed = |source| ServerError::Listen { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(file) if !file.file_type().is_socket() => Err(ServerError::NotASocket(path.to_owned())),
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(failed)
            }
            Err(error) => Err(failed(error)),
            Ok(_) => Err(ServerError::InUse(path.to_owned())),
        },
    }
}

/// Counts a connection for as long as it lives.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn accept(listener: &UnixListener, quoter: &Arc<Quoter>, stop: &AtomicBool) {
    let open = Arc::new(AtomicUsize::new(0));
    while !stop.load(Ordering::Acquire) {
        let Ok((stream, _)) = listener.accept() else {
            // Out of descriptors or memory: others may give some back.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        let taken = open.fetch_add(1, Ordering::AcqRel);
        let slot = Slot(Arc::clone(&open));
        if taken >= MAX_CONNECTIONS || stop.load(Ordering::Acquire) {
            continue;
        }
        let quoter = Arc::clone(quoter);
        // A thread that cannot be made drops its connection, and a client that is gone gets no answer.
        let _ = thread::Builder::new().name("qgs connection".into()).spawn(move || {
            let _slot = slot;
            let _ = Connection::new(stream).serve(&quoter);
        });
    }
}

struct Connection {
    stream: UnixStream,
    deadline: Instant,
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        Self { stream, deadline: Instant::now() + Duration::from_secs(TIMEOUT_SECONDS) }
    }

    fn serve(mut self, quoter: &Quoter) -> io::Result<()> {
        let mut prefix = [0; PREFIX];
        self.read(&mut prefix)?;
        match Opening::of(prefix) {
            Opening::Report => {
                let mut report = [0; REPORT];
                report[..PREFIX].copy_from_slice(&prefix);
                self.read(&mut report[PREFIX..])?;
                match quoter.quote(&report) {
                    Ok(quote) => self.write(&quote),
                    // Bare reports have no way to be told of an error.
                    Err(_) => Ok(()),
                }
            }
            Opening::Message(size) => match self.message(size, quoter)? {
                Some(answer) => {
                    self.write(&(answer.len() as u32).to_be_bytes())?;
                    self.write(&answer)
                }
                None => Ok(()),
            },
            Opening::Noise => Ok(()),
        }
    }

    fn message(&mut self, size: u32, quoter: &Quoter) -> io::Result<Option<Vec<u8>>> {
        let mut head = [0; mem::size_of::<MessageHeader>()];
        self.read(&mut head)?;
        let Ok(header) = MessageHeader::read_from_bytes(&head) else { return Ok(None) };
        match Head::of(&header, size) {
            Head::Wanted(rest) => {
                let mut message = head.to_vec();
                message.resize(head.len() + rest, 0);
                self.read(&mut message[header.as_bytes().len()..])?;
                Ok(protocol::answer(&message, quoter))
            }
            Head::Refused(answer) => Ok(Some(answer)),
            Head::Unknown => Ok(None),
        }
    }

    /// Time left, for a single call: a client that sends a byte now and then gains nothing.
    fn left(&self) -> io::Result<Option<Duration>> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(Some(left)),
        }
    }

    fn read(&mut self, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            self.stream.set_read_timeout(self.left()?)?;
            match self.stream.read(into) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => into = &mut into[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write(&mut self, mut from: &[u8]) -> io::Result<()> {
        while !from.is_empty() {
            self.stream.set_write_timeout(self.left()?)?;
            match self.stream.write(from) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => from = &from[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
