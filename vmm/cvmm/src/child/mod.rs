//! Running cvmm itself, so that one guest cannot take the others with it: for `cvmm selftest` and `cvmm bench`.

mod scratch;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::sys::signals::{self, Request, Signals};
use crate::sys::{child, terminal};
pub use scratch::Scratch;

/// What is to be started.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// The arguments of cvmm.
    pub words: Vec<OsString>,
    /// Variables in its environment.
    pub environment: Vec<(String, OsString)>,
    /// The processors that it may use; all where there is none.
    pub pin: Vec<usize>,
}

/// How a child ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; nothing if a signal or our patience ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Ended {
    /// Why it failed, as it told: its error and the cause.
    pub fn complaint(&self) -> String {
        let line = |start: &str| self.stderr.lines().find_map(|line| line.strip_prefix(start));
        match (line("error: "), line("cause: ")) {
            (Some(error), Some(cause)) => format!("{error}: {cause}"),
            (Some(error), None) => error.to_owned(),
            (None, _) => match self.code {
                Some(code) => format!("cvmm ended with code {code} and told no error"),
                None => "cvmm was ended, by a signal or because it took too long".to_owned(),
            },
        }
    }
}

/// Starts children, and ends them when this process is to end.
#[derive(Debug)]
pub struct Runner {
    signals: Signals,
}

/// The user stopped it.
#[derive(Debug, PartialEq, Eq)]
pub struct Stopped;

/// How often a running child is looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long a child that is to end may take for it.
const GRACE: Duration = Duration::from_secs(10);

/// A child, and where its output goes.
struct Running {
    child: Child,
    began: Instant,
    outputs: [std::path::PathBuf; 2],
    ended: Option<(Option<i32>, Duration)>,
}

impl Runner {
    /// From here on Ctrl-C and its like are told to [`Runner::run`].
    ///
    /// # Errors
    /// The system calls'.
    pub fn new() -> Result<Runner, Error> {
        let signals =
            Signals::take().map_err(|source| Error::Setup { what: "signal handling", source })?;
        Ok(Runner { signals })
    }

    /// Does as signals say; is one of them that this is the end?
    fn is_to_end(&self) -> io::Result<bool> {
        while let Some(request) = self.signals.request()? {
            match request {
                Request::End => return Ok(true),
                Request::Suspend => signals::suspend()?,
                Request::GoOn => {}
            }
        }
        Ok(false)
    }

    /// Runs cvmm. `scratch` holds its output while it runs, `limit` is our patience beyond its own `--timeout`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(
        &self,
        scratch: &Scratch,
        words: &[OsString],
        limit: Duration,
    ) -> Result<Result<Ended, Stopped>, Error> {
        let job = Job { words: words.to_vec(), ..Job::default() };
        let ended = self.run_together(scratch, &[job], limit)?;
        // One job, one end.
        Ok(ended.and_then(|mut all| all.pop().ok_or(Stopped)))
    }

    /// Runs several at the same time, and waits for all of them.
    ///
    /// # Errors
    /// One cannot be started.
    pub fn run_together(
        &self,
        scratch: &Scratch,
        jobs: &[Job],
        limit: Duration,
    ) -> Result<Result<Vec<Ended>, Stopped>, Error> {
        let setup = |source| Error::Setup { what: "a child process", source };
        let mut running: Vec<Running> = Vec::new();
        for (at, job) in jobs.iter().enumerate() {
            match start(scratch, at, job) {
                Ok(child) => running.push(child),
                Err(source) => {
                    end_all(&mut running);
                    return Err(setup(source));
                }
            }
        }
        loop {
            for one in running.iter_mut().filter(|one| one.ended.is_none()) {
                if let Some(status) = one.child.try_wait().map_err(setup)? {
                    one.ended = Some((status.code(), one.began.elapsed()));
                } else if one.began.elapsed() > limit {
                    end(&mut one.child);
                    one.ended = Some((None, one.began.elapsed()));
                }
            }
            if running.iter().all(|one| one.ended.is_some()) {
                break;
            }
            self.wait().map_err(setup)?;
            if self.is_to_end().map_err(setup)? {
                end_all(&mut running);
                return Ok(Err(Stopped));
            }
        }
        Ok(Ok(running.into_iter().map(Running::read).collect()))
    }

    /// Until there may be something to see.
    fn wait(&self) -> io::Result<()> {
        terminal::wait_readable([self.signals.descriptor()], TICK).map(drop)
    }
}

impl Running {
    fn read(self) -> Ended {
        let (code, took) = self.ended.unwrap_or((None, self.began.elapsed()));
        let [stdout, stderr] = self.outputs.map(|path| std::fs::read(path).unwrap_or_default());
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        Ended { code, stdout, stderr, took }
    }
}

fn start(scratch: &Scratch, at: usize, job: &Job) -> io::Result<Running> {
    let outputs = ["stdout", "stderr"].map(|name| scratch.path().join(format!("{name}.{at}")));
    let [out, err] = [File::create(&outputs[0])?, File::create(&outputs[1])?];
    let mut command = Command::new("/proc/self/exe");
    command
        .args(&job.words)
        .envs(job.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err);
    child::end_with_parent(&mut command);
    child::pin(&mut command, &job.pin)?;
    let began = Instant::now();
    Ok(Running { child: command.spawn()?, began, outputs, ended: None })
}

/// Asks first.
fn end(running: &mut Child) {
    child::terminate(running);
    wait_or_kill(running, Instant::now());
}

/// Asks all of them before it waits for any.
fn end_all(running: &mut [Running]) {
    let began = Instant::now();
    let left = || running.iter().filter(|one| one.ended.is_none());
    left().for_each(|one| child::terminate(&one.child));
    for one in running.iter_mut().filter(|one| one.ended.is_none()) {
        wait_or_kill(&mut one.child, began);
    }
}

fn wait_or_kill(running: &mut Child, began: Instant) {
    while began.elapsed() < GRACE {
        if !matches!(running.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(TICK);
    }
    // It has ended already, or ends now; there is nobody to tell of a failure.
    let _ = running.kill();
    let _ = running.wait();
}
