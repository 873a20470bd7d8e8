//! SNP guests that are launched and end at once, alone or several at one modelled security processor.
//!
//! Such a guest asks for its termination by the first instructions of a shim of its own; what a run takes is its launch. Its
//! initrd, loaded as launch pages, makes the launch as long as is wanted.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

/// cvmm's exit code for a guest that asks for its termination.
const TERMINATED: i32 = 6;

/// Parks other processors; at 16 bytes, WRMSR of a termination request to the GHCB MSR and VMGEXIT (GHCB specification 2.04,
/// section 2.3.1).
const SHIM: [u8; 38] = [
    0xfa, 0xf4, 0xeb, 0xfd, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90,
    0xb9, 0x30, 0x01, 0x01, 0xc0, 0x31, 0xd2, 0xb8, 0x00, 0x01, 0x00, 0x00, 0x0f, 0x30, 0xf3, 0x0f,
    0x01, 0xd9, 0xf4, 0x90, 0x90, 0x90,
];

/// Where the kernel that is never entered would lie.
const KERNEL_AT: u64 = 16 << 20;

/// A guest's files.
pub struct Launches {
    dir: tempfile::TempDir,
    cvmm: PathBuf,
}

/// One launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launched {
    /// LAUNCH_UPDATEs: its pages, and those of its vCPUs' registers.
    pub updates: u64,
    /// Its VM's modelled time when it was over.
    pub end_ns: u64,
    /// What the security processor has spent on it.
    pub psp_ns: u64,
    /// How long its commands have waited for others.
    pub wait_ns: u64,
}

/// What several have in common.
#[derive(Clone, Copy, Debug)]
pub struct Round<'a> {
    /// How many.
    pub of: usize,
    /// Pages of each one's initrd.
    pub pages: usize,
    /// Time of the host between their starts.
    pub apart: Duration,
    /// The platform profile.
    pub profile: &'a str,
}

impl Launches {
    /// Writes the guest's files.
    pub fn new(cvmm: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("shim"), SHIM).expect("a temporary file");
        std::fs::write(dir.path().join("kernel"), kernel()).expect("a temporary file");
        Self { dir, cvmm: cvmm.to_owned() }
    }

    /// Where something of that name lies.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file that nobody has met at yet.
    pub fn meeting(&self) -> PathBuf {
        let names = (0..).map(|round| self.path(&format!("psp-{round}")));
        names.into_iter().find(|path| !path.exists()).expect("there is no end of names")
    }

    /// Starts cvmm on a guest with an initrd of so many pages. `name` is its own among those that run together.
    pub fn start(&self, name: &str, pages: usize, profile: &str, psp: &str) -> Child {
        let mut command = Command::new(&self.cvmm);
        command.arg("--snp").arg(format!("--emulate={profile}"));
        // Without them the launch is as short as cvmm makes it.
        command.args(["--load", if pages == 0 { "hashed" } else { "measured" }]);
        command.args(["--memory", "96M", "--console", "none", "--kernel"]).arg(self.path("kernel"));
        command.arg("--shim").arg(self.path("shim"));
        command.arg("--report").arg(self.path(&format!("{name}.report")));
        command.env("SOFTKVM_STATS", self.path(&format!("{name}.stats"))).env("SOFTKVM_PSP", psp);
        if pages != 0 {
            let initrd = self.path(&format!("{name}.initrd"));
            std::fs::write(&initrd, vec![0; pages << 12]).expect("a temporary file");
            command.arg("--initrd").arg(initrd);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().expect("cvmm starts")
    }

    /// Waits for its end.
    pub fn finish(&self, name: &str, child: Child) -> Launched {
        let output = child.wait_with_output().expect("cvmm ends");
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(TERMINATED), "{words}");
        let json = |kind: &str| -> Value {
            let text =
                std::fs::read(self.path(&format!("{name}.{kind}"))).expect("a file of cvmm's");
            serde_json::from_slice(&text).expect("JSON")
        };
        let (report, stats) = (json("report"), json("stats"));
        let number = |value: &Value| value.as_u64().expect("a number");
        let khz = number(&stats["tsc_khz"]);
        let ns = |cycles: &Value| {
            let ns = u128::from(number(cycles)) * 1_000_000 / u128::from(khz);
            u64::try_from(ns).expect("a time")
        };
        let launch = &report["launch"];
        Launched {
            updates: number(&launch["pages"]) + number(&launch["vmsa_pages"]),
            end_ns: ns(&stats["vms"][0]["virtual_cycles"]),
            psp_ns: ns(&stats["psp_cycles"]),
            wait_ns: ns(&stats["vms"][0]["psp_wait_cycles"]),
        }
    }

    /// One alone, with an initrd of so many pages.
    pub fn alone(&self, pages: usize, profile: &str) -> Launched {
        self.finish("alone", self.start("alone", pages, profile, ""))
    }

    /// Several, by the time of their ends.
    pub fn together(&self, round: Round<'_>) -> Vec<Launched> {
        let psp = format!("{};of={}", self.meeting().display(), round.of);
        let running: Vec<(String, Child)> = (0..round.of)
            .map(|index| {
                if index != 0 {
                    std::thread::sleep(round.apart);
                }
                let name = format!("{index}");
                let child = self.start(&name, round.pages, round.profile, &psp);
                (name, child)
            })
            .collect();
        let mut all: Vec<_> =
            running.into_iter().map(|(name, child)| self.finish(&name, child)).collect();
        all.sort_unstable_by_key(|launched| launched.end_ns);
        all
    }
}

/// An ELF file of one page.
fn kernel() -> Vec<u8> {
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(16, 0);
    out.extend([2u16, 62].iter().flat_map(|word| word.to_le_bytes()));
    out.extend(1u32.to_le_bytes());
    out.extend([KERNEL_AT, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    out.extend(0u32.to_le_bytes());
    out.extend([64u16, 56, 1, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()));
    // PT_LOAD, readable and executable.
    out.extend([1u32, 5].iter().flat_map(|word| word.to_le_bytes()));
    let load = [0, KERNEL_AT, KERNEL_AT, 4096, 4096, 4096];
    out.extend(load.iter().flat_map(|word| word.to_le_bytes()));
    out.resize(4096, 0xf4);
    out
}
