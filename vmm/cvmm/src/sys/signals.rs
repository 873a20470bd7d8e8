//! What the outside world asks of a run by signals: an end, a pause, going on after one.
//!
//! UNSAFETY: sigaction, signal masks and signalfd on our own structures.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::ptr::null_mut;

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGINT, SIGTERM, SIGHUP, SIGQUIT: the run shall end.
    End,
    /// SIGTSTP: the process shall stop, until it is told to go on.
    Suspend,
    /// SIGCONT: it goes on, after this stop or one that nobody can see coming (SIGSTOP).
    GoOn,
}

/// Signals that end a run.
const ENDING: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// The signals of a run, as something to poll. They stay blocked in this thread and those that it starts, also when this is
/// gone: what comes while the report is written must not end that.
#[derive(Debug)]
pub struct Signals {
    file: File,
}

impl Signals {
    /// Takes them, but for those that whoever has started us wants ignored, as `nohup` and shells do.
    ///
    /// # Errors
    /// The system calls'.
    pub fn take() -> io::Result<Signals> {
        let set = set_of(of_a_run().filter(|signal| !is_ignored(*signal)));
        mask(libc::SIG_BLOCK, &set)?;
        // SAFETY: `set` is a valid set.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just created, owned by nobody else.
        Ok(Signals { file: unsafe { File::from_raw_fd(fd) } })
    }

    /// What to poll.
    pub fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The next request; nothing when there is none.
    ///
    /// # Errors
    /// The system call's.
    pub fn request(&self) -> io::Result<Option<Request>> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        match (&self.file).read(&mut info) {
            Ok(_) => {}
            Err(e)
                if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(e),
        }
        // The signal's number is the first field (signalfd(2)).
        let [a, b, c, d, ..] = info;
        Ok(Some(match i32::from_ne_bytes([a, b, c, d]) {
            libc::SIGTSTP => Request::Suspend,
            libc::SIGCONT => Request::GoOn,
            _ => Request::End,
        }))
    }
}

/// Leaves what [`Signals`] takes to the other threads. For threads of the launch: one that is still there when the run has
/// taken its signals would get them, and die or stop with the whole process.
pub fn leave_to_others() {
    // Without it only such a signal, at such a moment, goes wrong.
    let _ = mask(libc::SIG_BLOCK, &set_of(of_a_run()));
}

/// Stops this process as SIGTSTP does by default: until somebody sends SIGCONT, or not at all where nobody could.
///
/// # Errors
/// The system calls'.
pub fn suspend() -> io::Result<()> {
    let set = set_of([libc::SIGTSTP]);
    // SAFETY: a signal to this thread, which has it blocked; no memory is passed.
    unsafe { libc::raise(libc::SIGTSTP) };
    // Here it stops.
    mask(libc::SIG_UNBLOCK, &set)?;
    mask(libc::SIG_BLOCK, &set)
}

/// While this lives, no signal ends the process half-way through what it does: a temporary file is always cleared away.
#[derive(Debug)]
pub struct Held {
    before: Option<libc::sigset_t>,
}

impl Held {
    /// Holds them back, as far as they can be.
    pub fn back() -> Held {
        let set = set_of(ENDING);
        let mut before = MaybeUninit::uninit();
        // SAFETY: `set` is a valid set, and `before` is valid for writes.
        let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, before.as_mut_ptr()) };
        // SAFETY: on success it has been written.
        Held { before: (result == 0).then(|| unsafe { before.assume_init() }) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // SAFETY: `before` is a valid set.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, null_mut()) };
        }
    }
}

fn of_a_run() -> impl Iterator<Item = libc::c_int> {
    ENDING.into_iter().chain([libc::SIGTSTP, libc::SIGCONT])
}

fn set_of(signals: impl IntoIterator<Item = libc::c_int>) -> libc::sigset_t {
    // SAFETY: an all-zero set is valid, and emptied right away.
    let mut set: libc::sigset_t = unsafe { zeroed() };
    // SAFETY: `set` is valid for writes.
    unsafe { libc::sigemptyset(&mut set) };
    for signal in signals {
        // SAFETY: as above.
        unsafe { libc::sigaddset(&mut set, signal) };
    }
    set
}

fn mask(how: libc::c_int, set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: `set` is a valid set; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(how, set, null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: an all-zero sigaction is valid, and overwritten; nothing is installed.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}
