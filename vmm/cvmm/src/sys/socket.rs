//! A stream socket that never blocks for good: every wait is short, and asks whether to go on.
//!
//! UNSAFETY: socket(2) and connect(2) with addresses that std does not know (AF_VSOCK) or cannot reach without blocking.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// How long a wait is before the question comes.
const TICK: Duration = Duration::from_millis(20);

/// A connected socket.
#[derive(Debug)]
pub struct Stream {
    file: File,
}

/// Whether to go on: an error says why not.
pub type Patience<'a> = &'a dyn Fn() -> io::Result<()>;

impl Stream {
    /// Connects to a socket in the file system.
    ///
    /// # Errors
    /// The system calls', or `patience`'s.
    pub fn unix(path: &Path, patience: Patience) -> io::Result<Stream> {
        // SAFETY: all zeros are a valid address.
        let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        let bytes = OsStr::as_bytes(path.as_os_str());
        // One byte stays for the NUL.
        if bytes.len() >= address.sun_path.len() {
            return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
        }
        for (to, from) in address.sun_path.iter_mut().zip(bytes) {
            *to = *from as libc::c_char;
        }
        connect(libc::AF_UNIX, &address, patience)
    }

    /// Connects to a socket of another machine on this host, or of the host.
    ///
    /// # Errors
    /// The system calls', or `patience`'s.
    pub fn vsock(cid: u32, port: u32, patience: Patience) -> io::Result<Stream> {
        // SAFETY: all zeros are a valid address.
        let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
        address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
        address.svm_cid = cid;
        address.svm_port = port;
        connect(libc::AF_VSOCK, &address, patience)
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// The socket's, or `patience`'s.
    pub fn write_all(&mut self, mut bytes: &[u8], patience: Patience) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(e) => self.wait_or(e, libc::POLLOUT, patience)?,
            }
        }
        Ok(())
    }

    /// Fills all of `bytes`.
    ///
    /// # Errors
    /// The socket's, or `patience`'s.
    pub fn read_exact(&mut self, bytes: &mut [u8], patience: Patience) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            match self.file.read(&mut bytes[done..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => done += read,
                Err(e) => self.wait_or(e, libc::POLLIN, patience)?,
            }
        }
        Ok(())
    }

    fn wait_or(&self, error: io::Error, events: i16, patience: Patience) -> io::Result<()> {
        match error.kind() {
            io::ErrorKind::WouldBlock => wait(&self.file, events, patience),
            io::ErrorKind::Interrupted => patience(),
            _ => Err(error),
        }
    }
}

/// Waits for one tick, or until there is something to do.
fn wait(file: &File, events: i16, patience: Patience) -> io::Result<()> {
    patience()?;
    let mut polled = libc::pollfd { fd: file.as_raw_fd(), events, revents: 0 };
    // SAFETY: one valid pollfd.
    let result = unsafe { libc::poll(&mut polled, 1, TICK.as_millis() as libc::c_int) };
    match io::Error::last_os_error() {
        error if result < 0 && error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

fn connect<A>(family: libc::c_int, address: &A, patience: Patience) -> io::Result<Stream> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(family, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just created, owned by nobody else.
    let file = unsafe { File::from_raw_fd(fd) };
    // SAFETY: `address` is a socket address of `family`, valid for reads of its size.
    let result = unsafe {
        libc::connect(
            file.as_raw_fd(),
            std::ptr::from_ref(address).cast(),
            size_of::<A>() as libc::socklen_t,
        )
    };
    if result == 0 {
        return Ok(Stream { file });
    }
    let error = io::Error::last_os_error();
    // A Unix socket with a full queue says EAGAIN, and there is nothing to wait for.
    if error.raw_os_error() != Some(libc::EINPROGRESS) {
        return Err(error);
    }
    loop {
        wait(&file, libc::POLLOUT, patience)?;
        if let Some(outcome) = connected(&file)? {
            return outcome.map(|()| Stream { file });
        }
    }
}

/// How a connection that was begun came out; nothing while it is under way.
fn connected(file: &File) -> io::Result<Option<io::Result<()>>> {
    let mut polled = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one valid pollfd.
    if unsafe { libc::poll(&mut polled, 1, 0) } <= 0 {
        return Ok(None);
    }
    let mut error: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `error` and `len` are valid for writes, and `len` is the size of `error`.
    let result = unsafe {
        libc::getsockopt(
            file.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut error).cast(),
            &mut len,
        )
    };
    match (result, error) {
        (0, 0) => Ok(Some(Ok(()))),
        (0, error) => Ok(Some(Err(io::Error::from_raw_os_error(error)))),
        _ => Err(io::Error::last_os_error()),
    }
}
