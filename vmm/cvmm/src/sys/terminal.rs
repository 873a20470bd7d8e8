//! The user's terminal in raw mode, and back again on every way out.
//!
//! UNSAFETY: termios, poll and signalfd calls on our own structures.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::Mutex;
use std::time::Duration;

/// The mode to restore. A static, so that the panic hook can reach it too.
static SAVED: Mutex<Option<libc::termios>> = Mutex::new(None);

/// While this lives, standard input is a raw terminal.
#[derive(Debug)]
pub struct RawTerminal(());

impl RawTerminal {
    /// Makes standard input raw if it is a terminal.
    ///
    /// # Errors
    /// The system call's.
    pub fn enter() -> io::Result<Option<RawTerminal>> {
        // SAFETY: isatty only looks at the descriptor.
        if unsafe { libc::isatty(libc::STDIN_FILENO) } != 1 {
            return Ok(None);
        }
        // SAFETY: an all-zero termios is a valid value, which tcgetattr overwrites.
        let mut mode: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: `mode` is valid for writes.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, &mut mode) } != 0 {
            return Err(io::Error::last_os_error());
        }
        if let Ok(mut saved) = SAVED.lock() {
            *saved = Some(mode);
        }
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            previous(info);
        }));
        // SAFETY: `mode` is a valid termios.
        unsafe { libc::cfmakeraw(&mut mode) };
        // Output stays cooked: our own messages on stderr then need no carriage returns.
        mode.c_oflag |= libc::OPOST | libc::ONLCR;
        // SAFETY: as above.
        if unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &mode) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Some(RawTerminal(())))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let saved = SAVED.try_lock().ok().and_then(|mut s| s.take());
    if let Some(mode) = saved {
        // SAFETY: `mode` came from tcgetattr.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &mode) };
    }
}

/// SIGINT, SIGTERM, SIGHUP and SIGQUIT as something to poll, blocked in this thread and those it starts.
///
/// # Errors
/// The system calls'.
pub fn stop_signals() -> io::Result<File> {
    // SAFETY: an all-zero set is valid, and emptied right away.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid for writes in all calls; signalfd returns a descriptor that we own.
    let fd = unsafe {
        libc::sigemptyset(&mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
            libc::sigaddset(&mut set, signal);
        }
        if libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just created, owned by nobody else.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Waits until one of the descriptors can be read; says which. A negative descriptor is never ready.
///
/// # Errors
/// The system call's; an interruption is no error and means "none".
pub fn wait_readable<const N: usize>(fds: [RawFd; N], timeout: Duration) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    let ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: `polled` is an array of N valid pollfds.
    let result = unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, ms) };
    if result < 0 {
        let error = io::Error::last_os_error();
        if error.kind() == io::ErrorKind::Interrupted {
            return Ok([false; N]);
        }
        return Err(error);
    }
    Ok(polled.map(|p| p.revents & (libc::POLLIN | libc::POLLHUP | libc::POLLERR) != 0))
}

/// Reads what standard input has, without the buffering of `std::io::Stdin`.
///
/// # Errors
/// The system call's.
pub fn read_stdin(buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `buffer` is valid for writes of its length.
    let got =
        unsafe { libc::read(io::stdin().as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}
