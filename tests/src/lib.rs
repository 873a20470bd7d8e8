//! Helpers of the end to end tests: running cvmm as a user would, and reading what it left.
//!
//! `cargo xtask test boot` builds the programs, fetches the kernels and names them in the
//! environment; without it these tests say what is missing and fail.

pub mod browser;
pub mod elf;
pub mod identity;
pub mod launches;
pub mod oracle;
pub mod oracle_tdx;
pub mod packed;
pub mod ways;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A path that `cargo xtask test boot` passes by environment.
pub fn input(variable: &str) -> PathBuf {
    let value = std::env::var_os(variable);
    let path = PathBuf::from(value.unwrap_or_else(|| {
        panic!("{variable} is not set: run these tests with `cargo xtask test boot`")
    }));
    assert!(path.exists(), "{variable} names {}, which does not exist", path.display());
    path
}

/// Builds cvmm and softkvm's library, for a benchmark; returns where they are.
pub fn build() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--quiet", "-p", "cvmm", "-p", "softkvm-preload"])
        .current_dir(&root)
        .status();
    assert!(status.is_ok_and(|status| status.success()), "cvmm does not build");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    target.join("release")
}

/// The kernels of the boot matrix.
pub const KERNELS: [&str; 2] = ["6.12", "7.2"];

/// The compressed image of a kernel.
pub fn bzimage(kernel: &str) -> PathBuf {
    input(&format!("CVMM_KERNEL_{}", kernel.replace('.', "_")))
}

/// The ELF image of a kernel.
pub fn vmlinux(kernel: &str) -> PathBuf {
    input(&format!("CVMM_VMLINUX_{}", kernel.replace('.', "_")))
}

/// The initramfs of a kernel.
pub fn initramfs(kernel: &str) -> PathBuf {
    input(&format!("CVMM_INITRAMFS_{}", kernel.replace('.', "_")))
}

/// One run of cvmm.
#[derive(Clone)]
pub struct Cvmm {
    under: Vec<String>,
    words: Vec<String>,
    environment: Vec<(String, String)>,
    limit: Duration,
    report: bool,
}

/// What one run left behind.
pub struct Ended {
    /// Exit code; `None` when killed by a signal or by the time limit.
    pub code: Option<i32>,
    /// The guest's console.
    pub console: String,
    /// cvmm's own words.
    pub words: String,
    /// The JSON report, where one was asked for and written.
    pub report: Option<serde_json::Value>,
    /// The files that stand where the report was asked for.
    pub left: Vec<String>,
    /// Wall time.
    pub took: Duration,
}

impl Cvmm {
    /// `cvmm WORDS…`.
    pub fn new<const N: usize>(words: [&str; N]) -> Self {
        Self {
            under: Vec::new(),
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            environment: Vec::new(),
            limit: Duration::from_secs(240),
            report: false,
        }
    }

    /// One more word.
    pub fn arg(mut self, word: impl AsRef<std::ffi::OsStr>) -> Self {
        self.words.push(word.as_ref().to_string_lossy().into_owned());
        self
    }

    /// More words.
    pub fn args<const N: usize>(self, words: [&str; N]) -> Self {
        words.into_iter().fold(self, |run, word| run.arg(word))
    }

    /// A variable in cvmm's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Kernel image and the initramfs that belongs to it.
    pub fn linux(self, image: &Path, kernel: &str) -> Self {
        self.arg("--kernel").arg(image).arg("--initrd").arg(initramfs(kernel))
    }

    /// Asks for the JSON report.
    pub fn reported(mut self) -> Self {
        self.report = true;
        self
    }

    /// The command, not started; standard output and error are pipes.
    pub fn command(&self) -> Command {
        let cvmm = input("CVMM_BIN");
        let mut command = match self.under.split_first() {
            Some((program, words)) => {
                let mut command = Command::new(program);
                command.args(words).arg(cvmm);
                command
            }
            None => Command::new(cvmm),
        };
        command.args(&self.words).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Another program in front: `COMMAND… cvmm WORDS…`.
    pub fn under<const N: usize>(mut self, command: [&str; N]) -> Self {
        self.under = command.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Runs to the end or to the time limit.
    pub fn run(&self) -> Ended {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("report.json");
        let mut command = self.command();
        if self.report {
            command.arg("--report").arg(&file);
        }
        let start = Instant::now();
        let child = command.spawn().expect("cvmm starts");
        let id = child.id();
        let (done, watch) = std::sync::mpsc::channel::<()>();
        let limit = self.limit;
        let guard = std::thread::spawn(move || {
            if watch.recv_timeout(limit).is_err() {
                let _ = Command::new("kill").args(["-9", &id.to_string()]).status();
            }
        });
        let Output { status, stdout, stderr } = child.wait_with_output().expect("cvmm ends");
        let _ = done.send(());
        let _ = guard.join();
        let report = std::fs::read(&file)
            .ok()
            .map(|text| serde_json::from_slice(&text).expect("the report is JSON"));
        let left = std::fs::read_dir(dir.path())
            .expect("the directory of the report")
            .filter_map(Result::ok)
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        Ended {
            left,
            code: status.code(),
            console: String::from_utf8_lossy(&stdout).into_owned(),
            words: String::from_utf8_lossy(&stderr).into_owned(),
            report,
            took: start.elapsed(),
        }
    }
}

impl Ended {
    /// Fails the test with everything that was printed.
    #[track_caller]
    pub fn fail(&self, why: &str) -> ! {
        panic!(
            "{why}\nexit code {:?} after {} s\n--- console (end) ---\n{}\n--- stderr ---\n{}",
            self.code,
            self.took.as_secs(),
            tail(&self.console, 3000),
            tail(&self.words, 3000)
        );
    }

    /// The run ended with this code.
    #[track_caller]
    pub fn expect_code(&self, code: i32) -> &Self {
        if self.code != Some(code) {
            self.fail(&format!("expected exit code {code}"));
        }
        self
    }

    /// The console shows this text.
    #[track_caller]
    pub fn expect_console(&self, text: &str) -> &Self {
        if !self.console.contains(text) {
            self.fail(&format!("the console lacks {text:?}"));
        }
        self
    }

    /// cvmm said this.
    #[track_caller]
    pub fn expect_words(&self, text: &str) -> &Self {
        if !self.words.contains(text) {
            self.fail(&format!("stderr lacks {text:?}"));
        }
        self
    }

    /// cvmm ended with this code and said why: one `error:`, one `cause:`, one `try:`.
    #[track_caller]
    pub fn expect_complaint(&self, code: i32) -> &Self {
        self.expect_code(code);
        for prefix in ["error: ", "cause: ", "try:   "] {
            let lines: Vec<&str> =
                self.words.lines().filter(|line| line.starts_with(prefix)).collect();
            if lines.len() != 1 || lines[0].len() < prefix.len() + 4 {
                self.fail(&format!("{} lines say {prefix:?}", lines.len()));
            }
        }
        if self.words.contains("panicked at") {
            self.fail("a panic is no answer");
        }
        self
    }

    /// As [`Self::expect_complaint`], before anything ran: nothing is left behind.
    #[track_caller]
    pub fn expect_refusal(&self, code: i32) -> &Self {
        self.expect_complaint(code);
        if !self.left.is_empty() {
            self.fail(&format!("files were left behind: {:?}", self.left));
        }
        self
    }

    /// What guest-init printed in hexadecimal digits between `BEGIN` and `END`.
    #[track_caller]
    pub fn printed(&self, what: &str) -> Vec<u8> {
        let (begin, end) = (format!("cvmm-init: {what} BEGIN"), format!("cvmm-init: {what} END"));
        let mut lines = self.console.lines().map(str::trim).skip_while(|line| *line != begin);
        if lines.next().is_none() {
            self.fail(&format!("the guest printed no {what}"));
        }
        let mut bytes = Vec::new();
        for line in lines {
            if line == end {
                return bytes;
            }
            // The kernel may say something in between.
            if !line.is_empty() && line.bytes().all(|c| c.is_ascii_hexdigit()) {
                bytes.extend(from_hex(line));
            }
        }
        self.fail(&format!("the guest's {what} has no end"))
    }

    /// The report.
    #[track_caller]
    pub fn report(&self) -> &serde_json::Value {
        self.report.as_ref().unwrap_or_else(|| self.fail("no report was written"))
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hexadecimal digits as bytes.
///
/// # Panics
/// They are not.
pub fn from_hex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "{text:?} has half a byte");
    let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
    (0..text.len()).step_by(2).map(digits).collect()
}

fn tail(text: &str, count: usize) -> &str {
    let mut from = text.len().saturating_sub(count);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

/// Runs jobs on as many threads as there are processors and reports every failure by name.
pub fn in_parallel<T: Send>(jobs: Vec<(String, T)>, work: impl Fn(&str, T) + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let total = jobs.len();
    let queue = std::sync::Mutex::new(jobs.into_iter());
    let failed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let job = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some((name, job)) = job else { break };
                    let start = Instant::now();
                    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        work(&name, job);
                    }));
                    let word = if outcome.is_ok() { "ok" } else { "FAILED" };
                    println!("{word:6} {:5.1} s  {name}", start.elapsed().as_secs_f32());
                    if outcome.is_err()
                        && let Ok(mut failed) = failed.lock()
                    {
                        failed.push(name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_default();
    assert!(failed.is_empty(), "{} of {total} failed: {failed:#?}", failed.len());
}
