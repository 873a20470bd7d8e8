//! The user's terminal: raw while the guest has it, as it was before on every way out, and left alone while it is another
//! job's.
//!
//! UNSAFETY: termios, poll, read and write calls on our own structures.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use super::kick;

/// The mode to restore. A static, so that the panic hook can reach it too.
static SAVED: Mutex<Option<libc::termios>> = Mutex::new(None);

/// Standard input, if it is a terminal; raw while this process is the terminal's foreground job.
#[derive(Debug)]
pub struct RawTerminal {
    raw: Option<libc::termios>,
}

impl RawTerminal {
    /// Takes standard input if it is a terminal, and makes it raw unless another job has it.
    ///
    /// # Errors
    /// The system call's.
    pub fn enter() -> io::Result<Option<RawTerminal>> {
        static HOOK: Once = Once::new();
        // SAFETY: isatty only looks at the descriptor.
        if unsafe { libc::isatty(libc::STDIN_FILENO) } != 1 {
            return Ok(None);
        }
        HOOK.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                previous(info);
            }));
        });
        let mut terminal = RawTerminal { raw: None };
        terminal.refresh()?;
        Ok(Some(terminal))
    }

    /// Is it raw? While it is not, it is another job's, and what is typed is not for the guest.
    pub fn is_raw(&self) -> bool {
        self.raw.is_some()
    }

    /// Makes it raw again if it has become ours, and forgets it if it has become another job's.
    ///
    /// # Errors
    /// The system call's.
    pub fn refresh(&mut self) -> io::Result<()> {
        match (is_foreground(), self.is_raw()) {
            (true, false) => self.make_raw(None),
            (false, true) => {
                // Whoever took it has set the mode that he wants.
                self.raw = None;
                if let Ok(mut saved) = SAVED.lock() {
                    *saved = None;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The process has been stopped: the mode may be another now. Where it is, it is the one to restore.
    ///
    /// # Errors
    /// The system call's.
    pub fn resumed(&mut self) -> io::Result<()> {
        match self.raw {
            Some(raw) if is_foreground() => self.make_raw(Some(raw)),
            // Restored before the stop, or another job's.
            _ => self.refresh(),
        }
    }

    /// Puts the mode back, for the time of a stop.
    pub fn release(&mut self) {
        if self.raw.take().is_some() {
            restore();
        }
    }

    /// `last` is the raw mode of the last time, to be told from one that is worth restoring.
    fn make_raw(&mut self, last: Option<libc::termios>) -> io::Result<()> {
        let mut mode = mode()?;
        if !last.is_some_and(|last| same(&last, &mode))
            && let Ok(mut saved) = SAVED.lock()
        {
            *saved = Some(mode);
        }
        // SAFETY: `mode` is a valid termios.
        unsafe { libc::cfmakeraw(&mut mode) };
        // Output stays cooked: our own messages on stderr then need no carriage returns.
        mode.c_oflag |= libc::OPOST | libc::ONLCR;
        // SAFETY: as above.
        if unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &mode) } != 0 {
            return Err(io::Error::last_os_error());
        }
        self.raw = Some(mode);
        Ok(())
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if self.is_raw() {
            restore();
        }
    }
}

fn mode() -> io::Result<libc::termios> {
    // SAFETY: an all-zero termios is a valid value, which tcgetattr overwrites.
    let mut mode: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: `mode` is valid for writes.
    match unsafe { libc::tcgetattr(libc::STDIN_FILENO, &mut mode) } {
        0 => Ok(mode),
        _ => Err(io::Error::last_os_error()),
    }
}

fn same(a: &libc::termios, b: &libc::termios) -> bool {
    (a.c_iflag, a.c_oflag, a.c_cflag, a.c_lflag) == (b.c_iflag, b.c_oflag, b.c_cflag, b.c_lflag)
}

/// Is this process the job that has the terminal? One that is nobody's controlling terminal is ours.
fn is_foreground() -> bool {
    // SAFETY: both only ask for a number.
    let (job, ours) = unsafe { (libc::tcgetpgrp(libc::STDIN_FILENO), libc::getpgrp()) };
    job < 0 || job == ours
}

fn restore() {
    let saved = SAVED.try_lock().ok().and_then(|mut s| s.take());
    if let Some(mode) = saved
        // Setting the mode of another job's terminal would stop us.
        && is_foreground()
    {
        // SAFETY: `mode` came from tcgetattr.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &mode) };
    }
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

/// How long a writer of the guest's output waits for a reader that does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Not at all: the rest stays with the caller.
    None,
    /// Until the run ends, when this thread is kicked: the guest waits as well.
    Run,
    /// So long.
    Time(Duration),
}

/// Bytes that surely fit where poll says that something does: a pipe has room for 4096 then (pipe(7)), a terminal for less.
const CHUNK: usize = 64;

/// Writes the guest's output to a file, or to standard output past the buffer of `std::io::Stdout`; says how much got there.
///
/// # Errors
/// The system calls'.
pub fn write(to: RawFd, bytes: &[u8], patience: Patience) -> io::Result<usize> {
    let deadline = match patience {
        Patience::None => Some(Instant::now()),
        Patience::Run => None,
        Patience::Time(time) => Some(Instant::now() + time),
    };
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        if patience == Patience::Run && kick::was_kicked() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        if !has_room(to, left)? {
            if deadline.is_some_and(|end| Instant::now() >= end) {
                return Ok(done);
            }
            continue;
        }
        // A thread that may be kicked can as well block in the call.
        let len = if patience == Patience::Run { rest.len() } else { rest.len().min(CHUNK) };
        // SAFETY: `rest` is valid for reads of `len` bytes.
        let put = unsafe { libc::write(to, rest.as_ptr().cast(), len) };
        match usize::try_from(put) {
            Ok(put) => done += put,
            Err(_) => match io::Error::last_os_error() {
                e if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                }
                e => return Err(e),
            },
        }
    }
    Ok(done)
}

fn has_room(fd: RawFd, left: Option<Duration>) -> io::Result<bool> {
    let mut polled = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
    let ms = left.map_or(-1, |left| i32::try_from(left.as_millis()).unwrap_or(i32::MAX));
    // SAFETY: one valid pollfd.
    match unsafe { libc::poll(&mut polled, 1, ms) } {
        0 => Ok(false),
        1.. => Ok(true),
        _ => match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::Interrupted => Ok(false),
            e => Err(e),
        },
    }
}
