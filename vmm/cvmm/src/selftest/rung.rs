//! One rung of the ladder: which guest is run how, the command line that does it, and what its end means.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Plan;

/// What is special about a rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The built-in guest in the place of the shim: nothing but a launch and exits.
    Exits,
    /// Kernel and initrd hashed by the shim.
    Hashed,
    /// Kernel and initrd measured page by page.
    Measured,
    /// As hashed, and the guest fetches a report that has to name the launch digest.
    Attest,
}

/// A rung.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rung {
    /// `plain`, `snp` or `tdx`.
    pub technology: &'static str,
    /// What it is for.
    pub kind: Kind,
    /// vCPUs.
    pub cpus: u16,
}

/// Every technology, by its name in reports.
pub const TECHNOLOGIES: [&str; 3] = ["plain", "snp", "tdx"];

/// 64 bytes for a report, so that it is nobody else's.
pub const REPORT_DATA: &[u8; 64] =
    b"cvmm selftest: these bytes are what the report was asked to hold";

impl Rung {
    /// The whole ladder, easiest first.
    pub fn all() -> Vec<Rung> {
        let mut rungs = Vec::new();
        for technology in TECHNOLOGIES {
            let mut add = |kind, cpus| rungs.push(Rung { technology, kind, cpus });
            if technology == "plain" {
                add(Kind::Exits, 1);
            }
            for kind in [Kind::Hashed, Kind::Measured] {
                add(kind, 1);
                add(kind, 4);
            }
            if technology != "plain" {
                add(Kind::Attest, 1);
            }
        }
        rungs
    }

    /// Its name: technology, kind, and where it matters the number of vCPUs.
    pub fn name(&self) -> String {
        let Rung { technology, cpus, .. } = self;
        match self.kind {
            Kind::Exits => format!("{technology}-exits"),
            Kind::Hashed => format!("{technology}-hashed-{cpus}"),
            Kind::Measured => format!("{technology}-measured-{cpus}"),
            Kind::Attest => format!("{technology}-attest"),
        }
    }

    /// Does a word of `--only` mean it: its name, or the beginning of it up to a dash?
    pub fn is_meant_by(&self, word: &str) -> bool {
        self.name().strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    /// Does its guest pass through the shim? A KVM that interprets kernel mode does not get through it.
    pub fn needs_hardware(&self) -> bool {
        self.kind != Kind::Exits
    }

    /// Is its guest the built-in one?
    pub fn is_builtin(&self, plan: &Plan) -> bool {
        plan.kernel.is_none() || self.kind == Kind::Exits
    }

    /// Is its guest measured?
    pub fn is_protected(&self) -> bool {
        self.technology != "plain"
    }

    /// The flags that describe the guest, for a run and for `cvmm measure`.
    pub fn guest_flags(&self, plan: &Plan) -> Vec<OsString> {
        let mut flags = vec![OsString::from(format!("--{}", self.technology))];
        let mut add = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
            flags.push(name.into());
            flags.push(value.as_ref().to_owned());
        };
        match &plan.kernel {
            Some(kernel) if !self.is_builtin(plan) => {
                add("--kernel", kernel);
                if let Some(initrd) = &plan.initrd {
                    add("--initrd", initrd);
                }
                add("--cmdline", &self.cmdline(&plan.cmdline));
                add("--memory", &plan.memory);
            }
            _ => {
                add("--kernel", &plan.builtin_kernel);
                if self.kind == Kind::Exits {
                    add("--shim", &plan.builtin_shim);
                }
                add("--memory", &"64M");
            }
        }
        let load = if self.kind == Kind::Measured { "measured" } else { "hashed" };
        add("--load", &load);
        add("--cpus", &self.cpus.to_string());
        flags
    }

    /// The flags of its run; the console goes into a file, the report into another.
    pub fn run_flags(&self, plan: &Plan, report: &Path, console: &Path) -> Vec<OsString> {
        let mut flags = self.guest_flags(plan);
        if let Some(profile) = plan.profile(self.technology) {
            flags.push(format!("--emulate={profile}").into());
        }
        let mut to_console = OsString::from("file=");
        to_console.push(console);
        flags.extend(["--timeout".into(), plan.timeout.as_secs().to_string().into()]);
        flags.extend(["--report".into(), report.into(), "--console".into(), to_console]);
        flags
    }

    fn cmdline(&self, given: &str) -> String {
        match self.kind {
            Kind::Attest => format!("{given} cvmm.report={}", crate::digest::hex(REPORT_DATA)),
            Kind::Exits | Kind::Hashed | Kind::Measured => given.to_owned(),
        }
    }

    /// Why it makes no sense with this kernel, if it does not.
    pub fn unsuitable(&self, plan: &Plan) -> Option<&'static str> {
        let whole = plan.kernel.is_some() && plan.initrd.is_some();
        (self.kind == Kind::Attest && !whole)
            .then_some("needs --kernel, and an --initrd that fetches a report (guest-init does)")
    }
}

/// A file of a rung.
pub fn file(dir: &Path, rung: &Rung, what: &str) -> PathBuf {
    dir.join(format!("{}.{what}", rung.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_only_choose_rungs() {
        let count = |word: &str| Rung::all().iter().filter(|rung| rung.is_meant_by(word)).count();
        assert_eq!(
            [
                count("plain"),
                count("snp"),
                count("tdx"),
                count("snp-hashed"),
                count("tdx-hashed-4")
            ],
            [5, 5, 5, 2, 1]
        );
        assert_eq!(count("sn") + count("snp-hashed-") + count("") + count("4"), 0);
    }
}
