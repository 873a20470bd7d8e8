//! A guest of a pool, as the pool sees it: a child that has launched it and waits.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::hold::TAKEN;
use super::request::{Held, LINE_MAX};
use crate::sys::{child, descriptors};

/// How often a waiting thread looks whether it is to end.
pub const TICK: Duration = Duration::from_millis(50);
/// How long a child may take to say that it has its client's descriptors, or to end.
const GRACE: Duration = Duration::from_secs(10);

/// Such a guest.
#[derive(Debug)]
pub struct Member {
    child: Child,
    control: UnixStream,
    /// What it has said of itself.
    pub held: Held,
    /// Since when it has been ready.
    pub since: Instant,
}

impl Member {
    /// Starts one and waits until it is ready; nothing if `stop` says so before.
    ///
    /// # Errors
    /// In words, why it did not come to that.
    pub fn start(words: &[OsString], stop: impl Fn() -> bool) -> Result<Option<Member>, String> {
        let tell = |error: io::Error| format!("a child process cannot be started: {error}");
        let (ours, theirs) = UnixStream::pair().map_err(tell)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("--hold").args(words);
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped());
        child::end_with_parent(&mut command);
        let mut child = command.spawn().map_err(tell)?;
        // It holds the child's end of the pair, and only when that is closed does the child's end show.
        drop(command);
        match line(&ours, &stop) {
            Ok(Some(text)) => match serde_json::from_slice(&text) {
                Ok(held) => Ok(Some(Member { child, control: ours, held, since: Instant::now() })),
                Err(problem) => {
                    end(&mut child);
                    Err(format!("the guest's monitor says something else than expected: {problem}"))
                }
            },
            Ok(None) if stop() => {
                end(&mut child);
                Ok(None)
            }
            Ok(None) | Err(_) => {
                end(&mut child);
                let mut said = String::new();
                if let Some(stderr) = &mut child.stderr {
                    let _ = stderr.take(1 << 16).read_to_string(&mut said);
                }
                Err(said.trim_end().to_owned())
            }
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it ended before anybody took it?
    pub fn is_gone(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Gives it the descriptors, and waits until it has them.
    ///
    /// # Errors
    /// It does not take them.
    pub fn hand_out(&mut self, fds: &[BorrowedFd]) -> io::Result<()> {
        descriptors::send(&self.control, b"\n", fds)?;
        let begin = Instant::now();
        match line(&self.control, || begin.elapsed() > GRACE)? {
            Some(text) if text == TAKEN.trim_ascii_end() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Its exit code, once it has ended; as shells have it where a signal has ended it.
    pub fn ended(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        let status = self.child.try_wait().ok()??;
        Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
    }

    /// Asks it to end, and sees to it that it does.
    pub fn end(&mut self) {
        end(&mut self.child);
    }

    /// Only asks.
    pub fn ask_to_end(&self) {
        child::terminate(&self.child);
    }
}

/// Ends all of them at the same time.
pub fn end_all(members: &mut VecDeque<Member>) {
    members.iter().for_each(Member::ask_to_end);
    members.iter_mut().for_each(Member::end);
}

fn end(child: &mut Child) {
    let begin = Instant::now();
    if matches!(child.try_wait(), Ok(None)) {
        child::terminate(child);
    }
    while begin.elapsed() < GRACE {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // It has ended already, or ends now; there is nobody to tell of a failure.
    let _ = child.kill();
    let _ = child.wait();
}

/// A line without its end; nothing if the other side has closed, or if `stop` says so.
fn line(mut from: &UnixStream, stop: impl Fn() -> bool) -> io::Result<Option<Vec<u8>>> {
    from.set_read_timeout(Some(TICK))?;
    let mut text = Vec::new();
    while text.len() < LINE_MAX {
        let mut bytes = [0; LINE_MAX];
        match from.read(&mut bytes) {
            Ok(0) => return Ok(None),
            Ok(len) => text.extend_from_slice(&bytes[..len]),
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error),
        }
        if text.pop_if(|last| *last == b'\n').is_some() {
            return Ok(Some(text));
        }
        if stop() {
            return Ok(None);
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Did a read only take longer than it may?
pub fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}
