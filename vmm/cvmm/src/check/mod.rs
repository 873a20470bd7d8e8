//! `cvmm check`: whether this host can run each kind of guest, and the one command for everything that it lacks.
//!
//! Gathering reads files, asks CPUID and KVM, and decides nothing; judging is pure, from [`Host`] to [`Finding`]s. What SEV-SNP and
//! TDX each need stands in a file of its own.

pub mod finding;
pub mod kernel;
pub mod kvm;
pub mod limits;
pub mod misc;
pub mod processor;
pub mod snp;
pub mod table;
pub mod tdx;
pub mod tree;

use serde::Serialize;

use crate::emulate;
use crate::error::ExitCode;
use crate::recorder::Recorder;
use finding::Finding;
use kernel::KernelFacts;
use kvm::KvmFacts;
use limits::LimitFacts;
use processor::{Cpuid, ProcessorFacts};
use snp::SnpFacts;
use tdx::TdxFacts;
use tree::Tree;

/// The version of the JSON's layout: changes when a reader would break.
pub const SCHEMA: &str = "cvmm-check/1";

/// Which kinds of guests are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Unprotected ones.
    pub plain: bool,
    /// SEV-SNP.
    pub snp: bool,
    /// TDX.
    pub tdx: bool,
}

impl Asked {
    /// Everything that there is to look at.
    const ALL: Asked = Asked { plain: true, snp: true, tdx: true };
    /// TDX alone.
    pub const TDX: Asked = Asked { plain: false, snp: false, tdx: true };
}

/// Everything that is known of a host.
#[derive(Clone, Debug)]
pub struct Host {
    /// The profile of the softkvm below this process. What concerns the host's own kernel and BIOS is then nobody's.
    pub emulated: Option<String>,
    /// Its processor.
    pub processor: ProcessorFacts,
    /// Its kernel.
    pub kernel: KernelFacts,
    /// What it leaves to this process.
    pub limits: LimitFacts,
    /// Its KVM.
    pub kvm: KvmFacts,
    /// What only SEV-SNP needs.
    pub snp: SnpFacts,
    /// What only TDX needs.
    pub tdx: TdxFacts,
}

impl Host {
    /// Looks at this host.
    pub fn gather(recorder: &mut Recorder) -> Host {
        Host::gather_from(&Tree::host(), &crate::sys::cpuid::host, recorder)
    }

    /// Looks at a host whose files and CPUID are these; devices are this host's.
    pub fn gather_from(tree: &Tree, cpuid: Cpuid, recorder: &mut Recorder) -> Host {
        let (kvm, system) = KvmFacts::gather(tree, recorder);
        Host {
            emulated: emulate::profile_in_use(),
            processor: ProcessorFacts::gather(cpuid),
            kernel: KernelFacts::gather(tree),
            limits: LimitFacts::gather(tree),
            kvm,
            snp: SnpFacts::gather(tree, cpuid, system.as_ref(), recorder),
            tdx: TdxFacts::gather(tree, cpuid, system.as_ref(), recorder),
        }
    }
}

/// The findings of one technology, or of the host.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// `host`, `plain`, `snp` or `tdx`.
    pub name: &'static str,
    /// Can such guests run? Not a question for the host alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// The lines.
    pub findings: Vec<Finding>,
}

/// What `--json` prints; `docs/check.md` documents it.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// cvmm's own.
    pub cvmm_version: &'static str,
    /// `kvm` or `softkvm`.
    pub platform: &'static str,
    /// softkvm's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The host's kernel.
    pub kernel: String,
    /// Is what was asked for ready? What the exit code says.
    pub ready: bool,
    /// The host, then the technologies that were asked for.
    pub groups: Vec<Group>,
}

impl CheckReport {
    /// Judges a host. Where nothing is asked for by name everything is looked at; as no processor has both, plain guests and
    /// one kind of confidential ones are then enough.
    pub fn judge(host: &Host, asked: Option<Asked>) -> CheckReport {
        let first = Group { name: "host", ready: None, findings: judge_host(host) };
        let sound = !first.findings.iter().any(Finding::is_missing);
        let mut groups = vec![first];
        let mut add = |wanted: bool, name, judge: fn(&Host) -> Vec<Finding>| {
            if wanted {
                let findings = judge(host);
                let ready = sound && !findings.iter().any(Finding::is_missing);
                groups.push(Group { name, ready: Some(ready), findings });
            }
        };
        let Asked { plain, snp, tdx } = asked.unwrap_or(Asked::ALL);
        add(plain, "plain", kvm::judge_plain);
        add(snp, "snp", snp::judge);
        add(tdx, "tdx", tdx::judge);
        let ready = |name: &str| groups.iter().any(|g| g.name == name && g.ready == Some(true));
        let ready = match asked {
            None => ready("plain") && (ready("snp") || ready("tdx")),
            Some(_) => groups.iter().all(|group| group.ready != Some(false)),
        };
        CheckReport {
            schema: SCHEMA,
            cvmm_version: env!("CARGO_PKG_VERSION"),
            platform: if host.emulated.is_some() { "softkvm" } else { "kvm" },
            profile: host.emulated.clone(),
            kernel: host.kernel.release.clone(),
            ready,
            groups,
        }
    }

    /// The exit code that says the same.
    pub fn exit_code(&self) -> ExitCode {
        if self.ready { ExitCode::Ok } else { ExitCode::Host }
    }

    /// What keeps a technology from being ready, in one line: causes, not what follows from them.
    pub fn why_not(&self, group: &Group) -> String {
        let host = self.groups.iter().filter(|g| g.name == "host");
        let lines = host.chain([group]).flat_map(|g| &g.findings);
        let missing: Vec<&Finding> = lines.filter(|finding| finding.is_missing()).collect();
        let roots: Vec<&str> =
            missing.iter().filter(|f| f.follows.is_none()).map(|f| f.subject).collect();
        let things = if missing.len() == 1 { "thing" } else { "things" };
        format!("{} {things} missing ({})", missing.len(), roots.join(", "))
    }
}

fn judge_host(host: &Host) -> Vec<Finding> {
    let mut findings = match &host.emulated {
        Some(profile) => vec![Finding::ok(
            "machine",
            format!("softkvm, profile {profile}"),
            "any; guests on softkvm are NOT confidential",
        )],
        None => vec![
            Finding::ok("machine", &*host.processor.brand, "x86-64"),
            Finding::ok("kernel", &*host.kernel.release, "Linux"),
        ],
    };
    findings.extend(kvm::judge_device(host));
    findings.extend(host.limits.judge_process());
    if host.emulated.is_none() {
        findings.extend(host.limits.judge_kernel());
    }
    findings
}

#[cfg(test)]
#[path = "check_test.rs"]
mod tests;
