//! `cvmm pool`: guests that are launched and sealed but not yet entered, kept ready, and handed out over a socket.
//!
//! Each guest is a process of cvmm itself (`--hold`) that stops before its first KVM_RUN. The pool holds no guest state: it
//! starts such processes, passes a client's descriptors on to one of them, and tells the client how it ended.

mod hold;
mod member;
mod place;
pub mod request;
mod take;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use serde::Serialize;

use crate::cli::Cli;
use crate::cli::pool::{PoolVerb, ServeFlags};
use crate::config::{Config, Console};
use crate::error::{Error, ExitCode};
use crate::report::{check_writable, write_atomically};
use crate::sys::signals::{self, Signals};
use crate::sys::{descriptors, terminal};
pub use hold::{Taken, wait};
use member::{Member, TICK, end_all, is_timeout};
use place::Place;
use request::{Answer, HandOut, LINE_MAX, Request, Status};

/// How many clients are listened to at once; guests that are out have one each.
const CLIENTS_MAX: usize = 128;
/// How long a client may take over its request.
const REQUEST_LIMIT: Duration = Duration::from_secs(2);
/// After a launch that failed, the next is tried after this long; twice as long each time, up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The report has this many of the last hand-outs.
const REMEMBERED: usize = 10_000;

/// Does what `cvmm pool` is asked to.
///
/// # Errors
/// It could not be done.
pub fn run(verb: &PoolVerb) -> Result<ExitCode, Error> {
    match verb {
        PoolVerb::Serve(flags) => serve(flags),
        PoolVerb::Take(flags) => take::take(flags),
        PoolVerb::Status(flags) => take::status(flags),
    }
}

/// A pool at work.
struct Pool<'a> {
    flags: &'a ServeFlags,
    state: Mutex<State>,
    /// Something in `state` has changed, or `stopping`.
    changed: Condvar,
    stopping: AtomicBool,
    clients: AtomicUsize,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Member>,
    out: usize,
    handed_out: u64,
    failed: u64,
    hand_outs: VecDeque<HandOut>,
    /// The first launch failed: there is no point in going on.
    hopeless: Option<String>,
}

/// What a pool did: its `--report`.
#[derive(Debug, Serialize)]
struct PoolReport {
    schema: &'static str,
    handed_out: u64,
    failed: u64,
    hand_outs: Vec<HandOut>,
}

fn serve(flags: &ServeFlags) -> Result<ExitCode, Error> {
    check_guest(flags)?;
    if let Some(path) = &flags.report {
        check_writable("report", path)?;
    }
    let setup = |what| move |source| Error::Setup { what, source };
    let place = Place::take(&flags.socket)?;
    let signals = Signals::take().map_err(setup("signal handling"))?;
    let pool = Pool {
        flags,
        state: Mutex::default(),
        changed: Condvar::new(),
        stopping: AtomicBool::new(false),
        clients: AtomicUsize::new(0),
    };
    crate::say(&format!(
        "cvmm pool: {} guests are kept ready for {}\n",
        flags.ready,
        flags.socket.display()
    ));
    let result = thread::scope(|scope| {
        let result = thread::Builder::new()
            .name("refill".into())
            .spawn_scoped(scope, || pool.refill())
            .and_then(|_| pool.listen(scope, &place, &signals));
        pool.stop();
        result
    });
    drop(place);
    let mut state = pool.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    end_all(&mut state.ready);
    result.map_err(setup("the pool"))?;
    if let Some(problem) = state.hopeless {
        // It has told its error, cause and cure itself.
        crate::say(&format!("{problem}\n"));
        return Ok(ExitCode::Launch);
    }
    if let Some(path) = &flags.report {
        let report = PoolReport {
            schema: "cvmm-pool/1",
            handed_out: state.handed_out,
            failed: state.failed,
            hand_outs: state.hand_outs.into(),
        };
        let text = crate::json(&report)?;
        write_atomically("report", path, |out| out.write_all(text.as_bytes()))?;
    }
    Ok(ExitCode::Ok)
}

/// The guests' flags are right, and leave to the client what is the client's.
fn check_guest(flags: &ServeFlags) -> Result<(), Error> {
    let usage = |problem: String, cure: &str| {
        Err(Error::Usage { flag: "what follows --".into(), problem, cure: cure.into() })
    };
    let words = [std::ffi::OsString::from("cvmm")].into_iter().chain(flags.guest.iter().cloned());
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(problem) => {
            let told = crate::cli::complaint(&problem);
            return usage(told.error, &told.cure);
        }
    };
    if cli.verb.is_some() {
        return usage("it names a verb".into(), "give the flags of a run, as for cvmm itself");
    }
    let config = Config::parse(&cli.flags)?;
    if config.report.is_some() || config.console != Console::Stdio || config.dump_pages.is_some() {
        return usage(
            "--report, --console and --dump-pages are for one guest".into(),
            "leave them out: console and report go to the client",
        );
    }
    Ok(())
}

impl Pool<'_> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.changed.notify_all();
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Waits for a change, but not for long.
    fn wait<'s>(&'s self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.changed.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Keeps guests ready: one launch at a time, as the security processor makes them anyway. This thread starts all children,
    /// which end with it.
    fn refill(&self) {
        let mut pause = PAUSE;
        while !self.stopping() {
            let mut state = self.state();
            state.ready.retain_mut(|member| !member.is_gone());
            if state.ready.len() >= usize::from(self.flags.ready) {
                drop(self.wait(state));
                continue;
            }
            drop(state);
            let started = Member::start(&self.flags.guest, || self.stopping());
            let mut state = self.state();
            match started {
                Ok(member) => {
                    state.ready.extend(member);
                    pause = PAUSE;
                }
                Err(problem) => {
                    state.failed += 1;
                    if state.handed_out == 0 && state.ready.is_empty() {
                        state.hopeless = Some(problem);
                        drop(state);
                        return self.stop();
                    }
                    crate::say(&format!("{problem}\ncvmm pool: the next launch is tried later\n"));
                    drop(state);
                    self.sleep(pause);
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
            self.changed.notify_all();
        }
        // The children end with this thread: those that are out, when their clients have been told.
        let mut state = self.state();
        while state.out > 0 {
            state = self.wait(state);
        }
        end_all(&mut state.ready);
    }

    fn sleep(&self, long: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < long && !self.stopping() {
            thread::sleep(TICK);
        }
    }

    /// Takes clients until a signal ends it, or there is no hope.
    fn listen<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        place: &Place,
        signals: &Signals,
    ) -> io::Result<()> {
        while !self.stopping() {
            let fds = [place.listener.as_raw_fd(), signals.descriptor()];
            let [asked, signalled] = terminal::wait_readable(fds, TICK)?;
            while signalled && let Some(request) = signals.request()? {
                match request {
                    signals::Request::End => return Ok(()),
                    signals::Request::Suspend => signals::suspend()?,
                    signals::Request::GoOn => {}
                }
            }
            if !asked {
                continue;
            }
            let client = match place.listener.accept() {
                Ok((client, _)) => client,
                Err(error) if is_timeout(&error) => continue,
                // Descriptors may have run out; there will be some again.
                Err(_) => {
                    thread::sleep(TICK);
                    continue;
                }
            };
            let count = self.clients.fetch_add(1, Ordering::SeqCst);
            if count >= CLIENTS_MAX {
                self.clients.fetch_sub(1, Ordering::SeqCst);
                tell(&client, &Answer::Error("too many clients".into()));
                continue;
            }
            let work = move || {
                self.serve(&client);
                self.clients.fetch_sub(1, Ordering::SeqCst);
            };
            // Without a thread the client finds its connection closed.
            if thread::Builder::new().name("client".into()).spawn_scoped(scope, work).is_err() {
                self.clients.fetch_sub(1, Ordering::SeqCst);
            }
        }
        Ok(())
    }

    fn serve(&self, client: &UnixStream) {
        let (line, fds) = match read_request(client) {
            Ok(read) => read,
            Err(problem) => return tell(client, &Answer::Error(problem.to_string())),
        };
        match Request::parse(&line) {
            Ok(Request::Status {}) => tell(client, &Answer::Status(self.status())),
            Ok(Request::Take { wait_ms }) => {
                if !(3..=descriptors::MOST).contains(&fds.len()) {
                    let problem = "a guest needs three descriptors: input, output and error";
                    return tell(client, &Answer::Error(problem.into()));
                }
                self.hand_out(client, Duration::from_millis(wait_ms.into()), fds);
            }
            Err(problem) => tell(client, &Answer::Error(problem.to_string())),
        }
    }

    fn status(&self) -> Status {
        let state = self.state();
        Status {
            ready: state.ready.len(),
            wanted: self.flags.ready.into(),
            out: state.out,
            out_max: self.flags.out.into(),
            handed_out: state.handed_out,
            failed: state.failed,
        }
    }

    fn hand_out(&self, client: &UnixStream, patience: Duration, fds: Vec<OwnedFd>) {
        let begin = Instant::now();
        let borrowed: Vec<BorrowedFd> = fds.iter().map(AsFd::as_fd).collect();
        let (mut member, waited) = loop {
            let mut member = match self.pop(begin, patience) {
                Ok(member) => member,
                Err(problem) => return tell(client, &Answer::Error(problem.into())),
            };
            let waited = begin.elapsed();
            match member.hand_out(&borrowed) {
                Ok(()) => break (member, waited),
                // It has ended, or is stuck; nothing of the client's has been used.
                Err(_) => {
                    member.end();
                    self.state().out -= 1;
                }
            }
        };
        let hand_out = HandOut {
            pid: member.pid(),
            hand_out_wall_ns: nanos(begin.elapsed()),
            waited_wall_ns: nanos(waited),
            ready_wall_ns: nanos(begin.saturating_duration_since(member.since)),
            held: member.held.clone(),
        };
        // From here on they are the guest's alone: whoever reads its output sees its end.
        drop(borrowed);
        drop(fds);
        tell(client, &Answer::Taken(hand_out.clone()));
        {
            let mut state = self.state();
            state.handed_out += 1;
            if state.hand_outs.len() == REMEMBERED {
                state.hand_outs.pop_front();
            }
            state.hand_outs.push_back(hand_out);
        }
        let code = self.attend(client, &mut member);
        self.state().out -= 1;
        self.changed.notify_all();
        tell(client, &Answer::Ended { code });
    }

    /// A guest that is ready. It counts as out from now on.
    fn pop(&self, begin: Instant, patience: Duration) -> Result<Member, &'static str> {
        let mut state = self.state();
        loop {
            if self.stopping() {
                return Err("the pool ends");
            }
            if state.out < usize::from(self.flags.out)
                && let Some(member) = state.ready.pop_front()
            {
                state.out += 1;
                self.changed.notify_all();
                return Ok(member);
            }
            if begin.elapsed() >= patience {
                return Err(match state.ready.is_empty() {
                    true => "no guest is ready",
                    false => "as many guests are out as may be",
                });
            }
            state = self.wait(state);
        }
    }

    /// Until the guest has ended; sees to it that it does when its client, or the pool, is gone.
    fn attend(&self, mut client: &UnixStream, member: &mut Member) -> i32 {
        loop {
            if let Some(code) = member.ended() {
                return code;
            }
            let gone = match client.read(&mut [0; 64]) {
                Ok(len) => len == 0,
                Err(error) => !is_timeout(&error),
            };
            if gone || self.stopping() {
                member.end();
                return member.ended().unwrap_or(ExitCode::Interrupted as i32);
            }
        }
    }
}

/// The whole line, and what came with it.
fn read_request(client: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    client.set_read_timeout(Some(TICK))?;
    client.set_write_timeout(Some(REQUEST_LIMIT))?;
    let begin = Instant::now();
    let (mut line, mut fds) = (Vec::new(), Vec::new());
    while line.last() != Some(&b'\n') && line.len() <= LINE_MAX {
        if begin.elapsed() > REQUEST_LIMIT {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the request does not come to its end",
            ));
        }
        let mut bytes = [0; LINE_MAX];
        match descriptors::receive(client, &mut bytes) {
            Ok((0, _)) => break,
            Ok((len, more)) => {
                line.extend_from_slice(&bytes[..len]);
                fds.extend(more);
            }
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error),
        }
        if fds.len() > descriptors::MOST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors"));
        }
    }
    Ok((line, fds))
}

/// Tells a client; one that is gone needs to know nothing.
fn tell(mut client: &UnixStream, answer: &Answer) {
    let _ = client.write_all(&answer.line());
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
