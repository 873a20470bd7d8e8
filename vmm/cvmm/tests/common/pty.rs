//! A terminal of a test's own, and programs that run on it.
//!
//! UNSAFETY: openpty, termios, setsid and kill on descriptors and processes of the test.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A terminal: our end, and theirs.
pub struct Pty {
    pub ours: File,
    pub theirs: File,
    before: libc::termios,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Pty {
    pub fn open() -> Pty {
        let (mut ours, mut theirs) = (0, 0);
        let none = std::ptr::null_mut();
        // SAFETY: both integers are valid for writes; the rest may be null.
        let result =
            unsafe { libc::openpty(&mut ours, &mut theirs, none, none.cast(), none.cast()) };
        assert_eq!(result, 0);
        // SAFETY: both were just made for us.
        let (ours, theirs) = unsafe { (File::from_raw_fd(ours), File::from_raw_fd(theirs)) };
        for end in [&ours, &theirs] {
            // SAFETY: a descriptor of ours. No child may keep our end open.
            unsafe { libc::fcntl(end.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
        }
        let before = mode(&theirs);
        Pty { ours, theirs, before, seen: Arc::default() }
    }

    /// Reads what is printed, from now on.
    pub fn watch(&self) {
        let (mut ours, seen) = (self.ours.try_clone().unwrap(), self.seen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(got @ 1..) = ours.read(&mut buffer) {
                seen.lock().unwrap().extend_from_slice(&buffer[..got]);
            }
        });
    }

    /// What was printed so far.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    /// Waits until `text` is printed, after the first `from` bytes.
    pub fn expect(&self, text: &str, from: usize) {
        until(&format!("{text:?} is printed"), || {
            self.seen().get(from..).is_some_and(|seen| seen.contains(text))
        });
    }

    /// Is it raw? Raw mode clears ECHO and ICANON.
    pub fn is_raw(&self) -> bool {
        mode(&self.theirs).c_lflag & (libc::ECHO | libc::ICANON) == 0
    }

    /// Is it as it was at first?
    pub fn is_restored(&self) -> bool {
        let now = mode(&self.theirs);
        let before = &self.before;
        (now.c_iflag, now.c_oflag, now.c_cflag, now.c_lflag)
            == (before.c_iflag, before.c_oflag, before.c_cflag, before.c_lflag)
    }

    /// Sets it as it was at first, as a shell does when a job has stopped.
    pub fn restore(&self) {
        // SAFETY: the mode came from tcgetattr.
        unsafe { libc::tcsetattr(self.theirs.as_raw_fd(), libc::TCSANOW, &self.before) };
    }

    /// Starts a program whose standard input and output this is.
    pub fn spawn(&self, command: &mut Command) -> Child {
        let end = || Stdio::from(self.theirs.try_clone().unwrap());
        command.stdin(end()).stdout(end()).spawn().unwrap()
    }

    /// The same, with this as its controlling terminal, and standard error as well.
    pub fn spawn_session(&self, command: &mut Command) -> Child {
        command.stderr(self.theirs.try_clone().unwrap());
        // SAFETY: both calls are safe between fork and exec; descriptor 0 is the terminal there.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            })
        };
        self.spawn(command)
    }
}

fn mode(terminal: &File) -> libc::termios {
    // SAFETY: an all-zero termios is valid and gets overwritten.
    let mut mode: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: `mode` is valid for writes.
    assert_eq!(unsafe { libc::tcgetattr(terminal.as_raw_fd(), &mut mode) }, 0);
    mode
}

/// Waits for something to become true.
#[track_caller]
pub fn until(what: &str, is: impl Fn() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < patience, "it does not come to that {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for a child to end.
#[track_caller]
pub fn ended(child: &mut Child) -> ExitStatus {
    let patience = Instant::now() + PATIENCE;
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return status,
            None if Instant::now() > patience => {
                child.kill().unwrap();
                panic!("the child does not end");
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Sends a signal.
pub fn signal(child: &Child, number: libc::c_int) {
    // SAFETY: the child is ours and not waited for yet.
    unsafe { libc::kill(libc::pid_t::try_from(child.id()).unwrap(), number) };
}

/// Waits until a child has been stopped.
pub fn stopped(child: &Child) {
    let stat = format!("/proc/{}/stat", child.id());
    until("the child is stopped", || {
        let stat = std::fs::read_to_string(&stat).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    });
}
