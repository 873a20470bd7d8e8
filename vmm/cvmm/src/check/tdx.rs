//! What TDX guests need of a host.
//!
//! Linux 7.2 arch/x86/virt/vmx/tdx/tdx.c, arch/x86/kvm/vmx/tdx.c `tdx_hardware_setup`, Documentation/arch/x86/tdx.rst.

use abi::tdx::TdAttributes;

use super::Host;
use super::finding::Finding;
use super::kvm::reason;
use super::misc::MiscFacts;
use super::processor::{Cpuid, ProcessorFacts};
use super::tree::{Seen, Tree};
use crate::launch;
use crate::recorder::Recorder;
use crate::sys::system::System;
use crate::sys::tdx::{self, VM_TYPE_TDX};

/// What is known of TDX on a host.
#[derive(Clone, Debug)]
pub struct TdxFacts {
    /// Total memory encryption (CPUID 7 ECX bit 13).
    memory_encryption: bool,
    /// Whether it is on (MSR 982, IA32_TME_ACTIVATE).
    activated: Seen<u64>,
    /// How the key identifiers are divided (MSR 87, IA32_MKTME_KEYID_PARTITIONING).
    partitioning: Seen<u64>,
    /// The sleep states on offer.
    sleep: Seen<String>,
    /// Parameters of kvm_intel: extended page tables, which are always there, then tdx.
    parameters: [Seen<String>; 2],
    /// The module's version, as the kernel shows it since 7.2.
    version: Seen<String>,
    /// What a TD may have: attributes and vCPUs, or why KVM does not say.
    capabilities: Option<Result<(TdAttributes, usize), String>>,
    misc: MiscFacts,
}

const MSR_KEYID_PARTITIONING: u32 = 0x87;
const MSR_TME_ACTIVATE: u32 = 0x982;
/// Locked and enabled (Intel SDM volume 4, IA32_TME_ACTIVATE).
const TME_ACTIVE: u64 = 0b11;
/// The first kernel whose KVM launches TDs.
const KERNEL: (u32, u32) = (6, 16);
const OPTIONS: [&str; 3] = ["CONFIG_KVM_INTEL", "CONFIG_INTEL_TDX_HOST", "CONFIG_KVM_INTEL_TDX"];
/// The first model of family 6 with TDX: Sapphire Rapids; then Emerald Rapids, Granite Rapids (two), Sierra Forest,
/// Clearwater Forest.
const MODELS: [u32; 6] = [0x8f, 0xcf, 0xad, 0xae, 0xaf, 0xdd];

/// The oldest module that the kernel and its KVM take: older ones clobber RBP, or cannot describe a TD's topology
/// (tdx.c check_features; KVM's tdx.c __tdx_hardware_setup).
const OLDEST: [u32; 3] = [1, 5, 5];

const PROCESSOR: &str = "processor";
const MODULE: &str = "kvm_intel";

impl TdxFacts {
    /// Reads and asks.
    pub fn gather(
        tree: &Tree,
        cpuid: Cpuid,
        system: Option<&System>,
        recorder: &mut Recorder,
    ) -> TdxFacts {
        let processor = ProcessorFacts::gather(cpuid);
        TdxFacts {
            memory_encryption: processor.has(7) && cpuid(7, 0)[2] & 1 << 13 != 0,
            activated: tree.msr(MSR_TME_ACTIVATE),
            partitioning: tree.msr(MSR_KEYID_PARTITIONING),
            sleep: tree.text("/sys/power/state"),
            parameters: ["ept", "tdx"]
                .map(|name| tree.text(&format!("/sys/module/kvm_intel/parameters/{name}"))),
            version: tree.text("/sys/devices/faux/tdx_host/version"),
            capabilities: system.and_then(|system| ask(system, recorder)),
            misc: MiscFacts::gather(tree, "tdx"),
        }
    }

    /// May the processor have TDX? No bit of CPUID says so.
    fn supported(&self, processor: &ProcessorFacts, offered: bool) -> bool {
        let known = processor.family == 6 && MODELS.contains(&processor.model);
        processor.vendor == "GenuineIntel" && (known || self.memory_encryption || offered)
    }
}

/// Makes a TD that has no key yet, and asks what it may have; nothing where KVM has no such VMs.
fn ask(system: &System, recorder: &mut Recorder) -> Option<Result<(TdAttributes, usize), String>> {
    let vm = system.create_vm(recorder, VM_TYPE_TDX).ok()?;
    let answer = tdx::capabilities(recorder, &vm);
    let answer = answer.and_then(|c| Ok((c.attributes, vm.max_vcpus()?)));
    Some(answer.map_err(|error| reason(&error).1))
}

/// Everything, causes before what follows from them.
pub fn judge(host: &Host) -> Vec<Finding> {
    let facts = &host.tdx;
    let offered = host.kvm.offers(VM_TYPE_TDX);
    let supported = facts.supported(&host.processor, offered);
    let processor = judge_processor(host, supported);
    let root = processor.root();
    let mut findings = vec![processor];
    if host.emulated.is_none() {
        let bare = judge_bare(&host.processor, offered).after(root);
        let set_up = root.or(bare.root());
        findings.push(bare);
        if supported {
            let encryption = judge_encryption(facts, offered).after(set_up);
            let set_up = set_up.or(encryption.root());
            findings.push(encryption);
            findings.push(judge_bios(host, offered).after(set_up));
        }
        findings.push(host.kernel.judge_version(KERNEL, offered));
        findings.push(host.kernel.judge_options(&OPTIONS, offered).after(root));
        if supported {
            findings.push(judge_hibernation(facts, offered));
        }
    }
    // The kernel turns the parameter off where something above is missing.
    let first = findings.iter().find_map(Finding::root);
    if supported {
        findings.push(judge_version(host, offered).after(first));
    }
    let first = first.or(host.kvm.root());
    let module = judge_module(facts).after(first);
    let guests = judge_guests(offered).after(first.or(module.root()));
    let no_guests = guests.root();
    findings.extend([module, guests]);
    findings.push(host.kvm.judge_capabilities(&launch::TDX_CAPABILITIES, no_guests));
    if supported {
        findings.extend(facts.capabilities.as_ref().map(judge_capabilities));
        if offered {
            findings.push(facts.misc.judge("key identifiers", None));
        }
    }
    findings
}

fn judge_processor(host: &Host, supported: bool) -> Finding {
    const NEEDED: &str = "Intel Xeon of the 4th generation or newer with TDX";
    let name = host.processor.numbers();
    if supported {
        return Finding::ok(PROCESSOR, name, NEEDED);
    }
    let cure = match &host.emulated {
        Some(_) => "cvmm check --tdx --emulate=xeon-spr",
        None => "use another machine, or --emulate (not confidential)",
    };
    Finding::missing(PROCESSOR, name, NEEDED, cure)
}

fn judge_bare(processor: &ProcessorFacts, offered: bool) -> Finding {
    const SUBJECT: &str = "bare metal";
    const NEEDED: &str = "a physical machine: KVM launches no TDs inside a VM";
    match (processor.virtual_machine, offered) {
        (false, _) => Finding::ok(SUBJECT, "yes", NEEDED),
        (true, true) => Finding::ok(SUBJECT, "a virtual machine that is given TDX", NEEDED),
        (true, false) => Finding::missing(
            SUBJECT,
            "this host is a virtual machine",
            NEEDED,
            "use a physical machine (a bare-metal instance)",
        ),
    }
}

fn judge_encryption(facts: &TdxFacts, offered: bool) -> Finding {
    const SUBJECT: &str = "BIOS: TME";
    const NEEDED: &str = "total memory encryption enabled";
    const CURE: &str = "BIOS: Memory Encryption (TME) enabled";
    match &facts.activated {
        _ if !facts.memory_encryption && !offered => {
            Finding::missing(SUBJECT, "not there (CPUID 7 ECX bit 13)", NEEDED, CURE)
        }
        Seen::Is(value) if value & TME_ACTIVE != TME_ACTIVE => {
            Finding::missing(SUBJECT, format!("register 982 is {value:#x}"), NEEDED, CURE)
        }
        Seen::Is(value) => Finding::ok(SUBJECT, format!("register 982 is {value:#x}"), NEEDED),
        _ if offered => Finding::ok(SUBJECT, "enabled, or KVM would not offer guests", NEEDED),
        Seen::Absent | Seen::Hidden(_) => Finding::unknown(
            SUBJECT,
            "register 982 cannot be read",
            NEEDED,
            "sudo modprobe msr && sudo cvmm check --tdx",
        ),
    }
}

fn judge_bios(host: &Host, offered: bool) -> Finding {
    const SUBJECT: &str = "BIOS: TDX";
    const NEEDED: &str = "2 or more private key identifiers";
    const CURE: &str = "BIOS: TME-MT and TDX enabled, SEAM Loader enabled, TDX Key Split above 0";
    match (&host.tdx.partitioning, host.kernel.said(&["BIOS enabled: private KeyID range"])) {
        (Seen::Is(value), _) => {
            let keys = value >> 32;
            let found = format!("{keys} private key identifiers");
            match keys {
                0 | 1 => Finding::missing(SUBJECT, found, NEEDED, CURE),
                _ => Finding::ok(SUBJECT, found, NEEDED),
            }
        }
        _ if offered => Finding::ok(SUBJECT, "enabled, or KVM would not offer guests", NEEDED),
        (_, Some(line)) => Finding::ok(SUBJECT, line, NEEDED),
        _ => Finding::unknown(
            SUBJECT,
            "neither register 87 nor the kernel's log can be read",
            NEEDED,
            "sudo modprobe msr && sudo cvmm check --tdx",
        ),
    }
}

/// A TD does not survive S4: the kernel leaves TDX off as long as it could hibernate.
fn judge_hibernation(facts: &TdxFacts, offered: bool) -> Finding {
    const SUBJECT: &str = "hibernation";
    const NEEDED: &str = "impossible, for good";
    match &facts.sleep {
        Seen::Is(states) if !offered && states.split_whitespace().any(|state| state == "disk") => {
            Finding::missing(
                SUBJECT,
                format!("possible (/sys/power/state: {states})"),
                NEEDED,
                "add nohibernate to the kernel's command line and reboot",
            )
        }
        Seen::Hidden(why) => Finding::unknown(SUBJECT, why, NEEDED, "cat /sys/power/state"),
        Seen::Is(_) | Seen::Absent => Finding::ok(SUBJECT, "impossible", NEEDED),
    }
}

fn judge_module(facts: &TdxFacts) -> Finding {
    const NEEDED: &str = "loaded, with tdx on (it is off by default)";
    const CURE: &str = "add kvm_intel.tdx=1 to the kernel's command line and reboot; if it stays off, dmesg | grep -i tdx says why";
    match &facts.parameters {
        [Seen::Absent, _] => {
            Finding::missing(MODULE, "not loaded", NEEDED, "sudo modprobe kvm_intel tdx=1")
        }
        [_, Seen::Is(value)] if matches!(value.as_str(), "Y" | "1") => {
            Finding::ok(MODULE, "tdx on", NEEDED)
        }
        [_, Seen::Is(value)] => Finding::missing(MODULE, format!("tdx={value}"), NEEDED, CURE),
        [_, Seen::Absent] => Finding::missing(MODULE, "no parameter tdx", NEEDED, CURE),
        [_, Seen::Hidden(why)] => Finding::unknown(MODULE, why, NEEDED, CURE),
    }
}

fn judge_version(host: &Host, offered: bool) -> Finding {
    const SUBJECT: &str = "TDX module";
    const NEEDED: &str = "loaded, 1.5.05 or newer";
    const CURE: &str = "update the BIOS, or put a newer module into the EFI system partition (Intel's tdx-module releases), and reboot";
    const FAILURES: [&str; 5] = [
        "virt/tdx: module not loaded",
        "virt/tdx: initialization failed",
        "virt/tdx: module initialization failed",
        "frame pointer (RBP) clobber bug present",
        "virt/tdx: too few private KeyIDs",
    ];
    let facts = &host.tdx;
    let said = host.kernel.said(&FAILURES);
    match (&facts.version, offered, said) {
        (Seen::Is(version), _, None) if version_of(version).is_some_and(|v| v < OLDEST) => {
            Finding::missing(SUBJECT, version, NEEDED, CURE)
        }
        (Seen::Is(version), _, None) => Finding::ok(SUBJECT, version, NEEDED),
        (_, true, _) => Finding::ok(SUBJECT, "one that the kernel takes", NEEDED),
        (_, false, Some(line)) => Finding::missing(SUBJECT, line, NEEDED, CURE),
        (Seen::Absent | Seen::Hidden(_), false, None) => {
            Finding::unknown(SUBJECT, "not to be seen", NEEDED, "sudo dmesg | grep -i tdx")
        }
    }
}

/// Major, minor and update version.
fn version_of(text: &str) -> Option<[u32; 3]> {
    let mut numbers = text.splitn(3, '.').map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

fn judge_guests(offered: bool) -> Finding {
    const SUBJECT: &str = "KVM: TDX guests";
    const NEEDED: &str = "VM type 5";
    if offered {
        return Finding::ok(SUBJECT, "offered", NEEDED);
    }
    let cure = "dmesg | grep -i -e tdx -e kvm_intel says why";
    Finding::missing(SUBJECT, "not offered", NEEDED, cure)
}

fn judge_capabilities(answer: &Result<(TdAttributes, usize), String>) -> Finding {
    const SUBJECT: &str = "TD attributes";
    const NEEDED: &str = "SEPT_VE_DISABLE: no #VE where the host takes a page away";
    let cure = "dmesg | grep -i tdx says why";
    match answer {
        Err(why) => Finding::missing(SUBJECT, format!("KVM does not say: {why}"), NEEDED, cure),
        Ok((attributes, vcpus)) => {
            let found = format!("{:#x}, up to {vcpus} vCPUs", attributes.0);
            match attributes.contains(TdAttributes::SEPT_VE_DISABLE) {
                true => Finding::ok(SUBJECT, found, NEEDED),
                false => Finding::missing(SUBJECT, found, NEEDED, cure),
            }
        }
    }
}
