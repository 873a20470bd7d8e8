//! What the tests of the command share: a scratch directory, and running cvmm in it.
#![allow(dead_code, unused_imports, clippy::unwrap_used)]

pub mod hostile;
pub mod pty;
mod test_guest;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub use test_guest::{elf, test_guest, test_guest_code};

/// A scratch directory with the test guest in it.
pub struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    /// Makes one.
    pub fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("guest.elf"), test_guest()).unwrap();
        std::fs::write(dir.path().join("guest.bin"), test_guest_code()).unwrap();
        Bench { dir }
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file into it.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Runs cvmm here; `kernel` says whether the test guest is the kernel.
    pub fn cvmm(&self, args: &[&str]) -> Output {
        self.cvmm_with(&[], args)
    }

    /// The same with variables in its environment.
    pub fn cvmm_with(&self, environment: &[(&str, &str)], args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cvmm"))
            .args(args)
            .envs(environment.iter().copied())
            .current_dir(self.dir.path())
            .env_remove("LD_PRELOAD")
            .env_remove("CVMM_SOFTKVM")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap()
    }

    /// The report that a run left.
    pub fn report(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(self.path(name)).unwrap()).unwrap()
    }
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Is there a /dev/kvm that may be opened?
pub fn have_kvm() -> bool {
    std::fs::OpenOptions::new().read(true).write(true).open(Path::new("/dev/kvm")).is_ok()
}
