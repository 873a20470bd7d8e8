//! QEMU of Debian's newest suite: fetched with the C library it is built for, and started below softkvm.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::console::Console;
use crate::apt::Apt;
use crate::interop::Stage;
use crate::run::{capture, target};

/// The monitor, and the firmware images that Debian builds for its guests.
const PACKAGES: [&str; 5] =
    ["qemu-system-x86", "ovmf", "ovmf-generic", "ovmf-inteltdx", "ovmf-amdsev"];

/// QEMU, unpacked.
pub struct Emulator {
    /// The root of a small Debian system.
    pub root: PathBuf,
    softkvm: PathBuf,
    logs: PathBuf,
}

impl Emulator {
    /// Fetches it on first use.
    pub fn fetch(stage: &Stage) -> Result<Self> {
        let root = target().join("interop/qemu");
        let ready = root.join("ready");
        if !ready.exists() {
            let _ = fs::remove_dir_all(&root);
            Apt::suite("forky")?.unpack_with_dependencies(&PACKAGES, &root)?;
            fs::write(ready, "")?;
        }
        let logs = target().join("interop/qemu-logs");
        fs::create_dir_all(&logs)?;
        Ok(Self { root, softkvm: stage.tools.join("softkvm"), logs })
    }

    /// A file of ours.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.logs.join(name)
    }

    /// The words that start QEMU with its own C library: a loader, where it finds libraries, the program.
    fn program(&self) -> Vec<PathBuf> {
        let libraries = self.root.join("usr/lib/x86_64-linux-gnu");
        vec![
            self.root.join("lib64/ld-linux-x86-64.so.2"),
            "--library-path".into(),
            libraries,
            self.root.join("usr/bin/qemu-system-x86_64"),
        ]
    }

    /// Its version.
    pub fn version(&self) -> Result<String> {
        let program = self.program();
        let text = capture(Command::new(&program[0]).args(&program[1..]).arg("--version"))?;
        let text = String::from_utf8_lossy(&text);
        let first = text.lines().next().unwrap_or_default();
        Ok(first.replace("QEMU emulator version", "QEMU"))
    }

    /// A guest on a part that softkvm models, with a serial line and no other device than the machine's own.
    pub fn machine(&self, name: &str, profile: &str) -> Machine {
        let data = |name: &str| self.root.join("usr/share").join(name);
        let mut machine = Machine {
            softkvm: self.softkvm.clone(),
            options: vec!["--profile".to_owned(), profile.to_owned()],
            program: self.program(),
            words: Vec::new(),
            console: self.logs.join(name).with_extension("console"),
            errors: self.logs.join(name).with_extension("errors"),
        };
        for directory in ["qemu", "seabios", "ovmf"] {
            machine = machine.arg("-L").arg(data(directory));
        }
        machine
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-accel", "kvm", "-serial", "stdio"])
    }
}

/// One run of QEMU.
pub struct Machine {
    softkvm: PathBuf,
    options: Vec<String>,
    program: Vec<PathBuf>,
    words: Vec<std::ffi::OsString>,
    console: PathBuf,
    errors: PathBuf,
}

impl Machine {
    /// One more word for QEMU.
    pub fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.words.push(word.as_ref().to_owned());
        self
    }

    /// More words for QEMU.
    pub fn args<const N: usize>(self, words: [&str; N]) -> Self {
        words.into_iter().fold(self, Self::arg)
    }

    /// One more option for `softkvm run`.
    pub fn softkvm(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// Runs until the guest powers off.
    pub fn run(&self, limit: Duration) -> Result<Console> {
        let mut child = Command::new(&self.softkvm)
            .arg("run")
            .args(&self.options)
            .arg("--")
            .args(&self.program)
            .args(&self.words)
            .stdin(Stdio::null())
            .stdout(File::create(&self.console)?)
            .stderr(File::create(&self.errors)?)
            .spawn()
            .context("cannot start softkvm")?;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if start.elapsed() > limit {
                child.kill()?;
                child.wait()?;
                bail!("not over after {} s\n{}", limit.as_secs(), self.last_words());
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        if !status.success() {
            bail!("QEMU ended with {status}\n{}", self.last_words());
        }
        let bytes = fs::read(&self.console)?;
        Ok(Console::new(&String::from_utf8_lossy(&bytes), &self.console))
    }

    fn last_words(&self) -> String {
        let tail = |path: &Path| {
            let bytes = fs::read(path).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(12)..].join("\n")
        };
        format!("{}\n{}", tail(&self.console), tail(&self.errors))
    }
}
