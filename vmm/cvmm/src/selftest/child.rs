//! Running cvmm itself, so that one rung cannot take the others with it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::sys::signals::{self, Request, Signals};
use crate::sys::{child, terminal};

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

/// Starts children one at a time, and ends them when this process is to end.
#[derive(Debug)]
pub struct Runner {
    signals: Signals,
}

/// The user stopped the selftest.
#[derive(Debug, PartialEq, Eq)]
pub struct Stopped;

/// How often a running child is looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long a child that is to end may take for it.
const GRACE: Duration = Duration::from_secs(10);

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
        scratch: &super::archive::Scratch,
        words: &[OsString],
        limit: Duration,
    ) -> Result<Result<Ended, Stopped>, Error> {
        let setup = |source| Error::Setup { what: "a child process", source };
        let paths = ["stdout", "stderr"].map(|name| scratch.path().join(name));
        let [out, err] = [File::create(&paths[0]), File::create(&paths[1])];
        let mut command = Command::new("/proc/self/exe");
        command
            .args(words)
            .stdin(Stdio::null())
            .stdout(out.map_err(setup)?)
            .stderr(err.map_err(setup)?);
        child::end_with_parent(&mut command);
        let began = Instant::now();
        let mut running = command.spawn().map_err(setup)?;
        let code = loop {
            if let Some(status) = running.try_wait().map_err(setup)? {
                break status.code();
            }
            terminal::wait_readable([self.signals.descriptor()], TICK).map_err(setup)?;
            if self.is_to_end().map_err(setup)? {
                end(&mut running);
                return Ok(Err(Stopped));
            }
            if began.elapsed() > limit {
                end(&mut running);
                break None;
            }
        };
        let [stdout, stderr] = paths.map(|path| std::fs::read(path).unwrap_or_default());
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        Ok(Ok(Ended { code, stdout, stderr, took: began.elapsed() }))
    }
}

/// Asks first.
fn end(running: &mut Child) {
    child::terminate(running);
    let began = Instant::now();
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
