//! KVM itself: whether it can be opened, and what it offers; and with it, whether plain guests can run.

use std::time::Duration;

use super::Host;
use super::finding::Finding;
use super::tree::Tree;
use crate::emulate::profile_in_use;
use crate::launch;
use crate::recorder::Recorder;
use crate::sys::SysError;
use crate::sys::system::{Capability, System};

/// The line that every other line about KVM depends on.
pub const DEVICE: &str = "/dev/kvm";

/// What KVM says.
#[derive(Clone, Debug, Default)]
pub struct KvmFacts {
    /// Why it cannot be opened: errno, if it was one, and its text.
    pub failed: Option<(Option<i32>, String)>,
    /// The members of its group may read and write it; not known where it is softkvm's.
    pub for_group: Option<bool>,
    /// The VM types on offer, as a bit mask.
    pub vm_types: u32,
    /// The capabilities that it lacks.
    pub lacking: Vec<&'static str>,
    /// The most vCPUs of a VM.
    pub max_vcpus: usize,
    /// How long it took to make a VM, or why there is none.
    pub made_vm: Option<Result<Duration, String>>,
    /// The loaded modules that drive it: kvm_amd, kvm_intel or another.
    pub modules: Vec<String>,
}

/// KVM_X86_DEFAULT_VM.
const VM_TYPE_DEFAULT: u64 = 0;
/// A VM takes a fraction of a millisecond to make; the known causes of more cost 8 ms and up.
const SLOW: Duration = Duration::from_millis(5);

impl KvmFacts {
    /// Opens it and asks; also gives the open device back, for further questions.
    pub fn gather(tree: &Tree, recorder: &mut Recorder) -> (KvmFacts, Option<System>) {
        let modules = modules(tree);
        let system = match System::open(recorder) {
            Ok(system) => system,
            Err(error) => {
                let failed = Some(reason(&error));
                let for_group = tree.mode(DEVICE).filter(|_| profile_in_use().is_none());
                let for_group = for_group.map(|mode| mode & 0o060 == 0o060);
                return (KvmFacts { failed, for_group, modules, ..KvmFacts::default() }, None);
            }
        };
        let needed = launch::capabilities();
        let has =
            |recorder: &mut Recorder, c| system.check(recorder, c).is_ok_and(|found| found > 0);
        let lacking = needed.into_iter().filter(|c| !has(recorder, *c));
        let lacking = lacking.map(|c| c.name).collect();
        let began = recorder.started().elapsed();
        let made_vm = match system.create_vm(recorder, VM_TYPE_DEFAULT) {
            Ok(_) => Ok(Duration::from_nanos(recorder.started().elapsed().0 - began.0)),
            Err(error) => Err(reason(&error).1),
        };
        let facts = KvmFacts {
            failed: None,
            for_group: None,
            vm_types: system.check(recorder, Capability::VM_TYPES).map_or(0, i32::cast_unsigned),
            lacking,
            max_vcpus: system.max_vcpus(recorder).unwrap_or(0),
            made_vm: Some(made_vm),
            modules,
        };
        (facts, Some(system))
    }

    /// Can it be opened?
    pub fn is_open(&self) -> bool {
        self.failed.is_none()
    }

    /// The line that a missing answer of KVM follows from.
    pub fn root(&self) -> Option<&'static str> {
        (!self.is_open()).then_some(DEVICE)
    }

    /// Has it VMs of this type?
    pub fn offers(&self, vm_type: u64) -> bool {
        self.vm_types >> vm_type & 1 != 0
    }

    /// Has it what a launch insists on? Some comes with the VM type, whose line is `root` where it is missing.
    pub fn judge_capabilities(&self, needed: &[Capability], root: Option<&'static str>) -> Finding {
        const SUBJECT: &str = "KVM capabilities";
        let names: Vec<&str> = needed.iter().map(|c| c.name).collect();
        let text = names.join(", ").replace("KVM_CAP_", "");
        if !self.is_open() {
            return Finding::missing(SUBJECT, "KVM cannot be asked", &text, "").after(self.root());
        }
        let lacking: Vec<&str> =
            names.into_iter().filter(|name| self.lacking.contains(name)).collect();
        if lacking.is_empty() {
            return Finding::ok(SUBJECT, "all of them", &text);
        }
        let found = format!("without {}", lacking.join(", ").replace("KVM_CAP_", ""));
        let cure = "boot Linux 6.11 or newer (for TDX, 6.16)";
        Finding::missing(SUBJECT, found, &text, cure).after(root)
    }
}

/// Everything about the device, for all guests.
pub fn judge_device(host: &Host) -> Vec<Finding> {
    const NEEDED: &str = "a device that this user may read and write";
    let kvm = &host.kvm;
    let mut findings = Vec::new();
    let Some((errno, text)) = &kvm.failed else {
        findings.push(Finding::ok(DEVICE, "opens", NEEDED));
        findings.extend(judge_creation(host));
        return findings;
    };
    let module = if host.processor.vendor == "AuthenticAMD" { "kvm_amd" } else { "kvm_intel" };
    findings.push(match *errno {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Finding::missing(
            DEVICE,
            "does not exist",
            NEEDED,
            format!(
                "sudo modprobe {module}; if that fails, enable virtualisation (SVM, VT-x) in the BIOS"
            ),
        ),
        Some(libc::EACCES | libc::EPERM) => Finding::missing(
            DEVICE,
            format!("may not be opened ({text})"),
            NEEDED,
            match kvm.for_group {
                Some(false) => "sudo chgrp kvm /dev/kvm && sudo chmod g+rw /dev/kvm, as a member of group kvm",
                Some(true) | None => "sudo usermod -aG kvm $USER, then log in again",
            },
        ),
        _ => Finding::missing(
            DEVICE,
            format!("cannot be opened ({text})"),
            NEEDED,
            "dmesg | grep -i kvm says why",
        ),
    });
    findings
}

/// Plain guests.
pub fn judge_plain(host: &Host) -> Vec<Finding> {
    let kvm = &host.kvm;
    let mut findings = vec![kvm.judge_capabilities(&launch::PLAIN_CAPABILITIES, None)];
    if kvm.is_open() {
        findings.push(Finding::ok("vCPUs", format!("{} a guest", kvm.max_vcpus), "1 or more"));
    }
    if host.emulated.is_none() && kvm.is_open() {
        findings.push(judge_backend(&kvm.modules));
    }
    findings
}

/// A KVM that does not run guests on the processor's virtualisation runs few kernels.
fn judge_backend(modules: &[String]) -> Finding {
    const SUBJECT: &str = "virtualisation";
    const NEEDED: &str = "kvm_amd or kvm_intel: guests run on the processor itself";
    let hardware = modules.iter().find(|name| matches!(name.as_str(), "kvm_amd" | "kvm_intel"));
    match (hardware, modules.first()) {
        (Some(module), _) => Finding::ok(SUBJECT, module.as_str(), NEEDED),
        (None, Some(other)) => Finding::advice(
            SUBJECT,
            format!("{other}, which interprets what guests do in kernel mode"),
            NEEDED,
            "use a host with SVM or VT-x; here most kernels need --emulate",
        ),
        (None, None) => Finding::unknown(SUBJECT, "no module is named", NEEDED, "ls /sys/module"),
    }
}

fn judge_creation(host: &Host) -> Option<Finding> {
    const SUBJECT: &str = "VM creation";
    const NEEDED: &str = "less than 5 ms";
    Some(match host.kvm.made_vm.as_ref()? {
        Err(why) => Finding::missing(
            SUBJECT,
            format!("fails: {why}"),
            "a VM",
            "dmesg | grep -i kvm says why",
        ),
        // A modelled host has no such costs, and softkvm's own are not a host's.
        Ok(_) if host.emulated.is_some() => Finding::ok(SUBJECT, "works", "a VM"),
        Ok(took) if *took >= SLOW => Finding::advice(
            SUBJECT,
            format!("{:.1} ms", took.as_secs_f64() * 1e3),
            NEEDED,
            "see the lines about huge pages and cgroups",
        ),
        Ok(took) => Finding::ok(SUBJECT, format!("{:.1} ms", took.as_secs_f64() * 1e3), NEEDED),
    })
}

/// The modules beside kvm itself; those that count requests or guests of other kinds do not matter.
fn modules(tree: &Tree) -> Vec<String> {
    let names = tree.names("/sys/module").into_iter();
    names.filter(|name| name.starts_with("kvm_") || name == "kvmgt").collect()
}

/// errno and its text.
pub fn reason(error: &SysError) -> (Option<i32>, String) {
    match error {
        SysError::Open { source, .. }
        | SysError::Call { source, .. }
        | SysError::NoneLeft { source, .. }
        | SysError::Launch { source, .. }
        | SysError::TdLaunch { source, .. } => (source.raw_os_error(), source.to_string()),
        other => (None, other.to_string()),
    }
}
