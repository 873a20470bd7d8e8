//! What SEV-SNP guests need of a host.
//!
//! Linux 7.2 arch/x86/kvm/svm/sev.c `sev_hardware_setup`, arch/x86/virt/svm/sev.c, drivers/crypto/ccp/sev-dev.c,
//! drivers/iommu/amd/init.c.

use abi::kvm_snp::SnpPlatformStatus;
use abi::snp::{SevFeatures, TcbLayout, TcbParts};

use super::Host;
use super::finding::Finding;
use super::kvm::reason;
use super::misc::MiscFacts;
use super::processor::{Cpuid, ProcessorFacts};
use super::tree::{Seen, Tree};
use crate::launch;
use crate::plan::C_BIT;
use crate::recorder::Recorder;
use crate::sys::SysError;
use crate::sys::snp::{self, SevDevice, VM_TYPE_SNP};
use crate::sys::snp_platform;
use crate::sys::system::System;

/// What is known of SEV-SNP on a host.
#[derive(Clone, Debug)]
pub struct SnpFacts {
    /// CPUID 8000_001F.
    pub leaf: [u32; 4],
    /// SYSCFG (MSR C001_0010).
    syscfg: Seen<u64>,
    /// Base address of the reverse map table (MSR C001_0132).
    rmp_base: Seen<u64>,
    /// The processor's features, as the kernel has left them.
    flags: Seen<String>,
    /// Parameters of kvm_amd: nested paging, which is always there, then sev, sev_es, sev_snp.
    parameters: [Seen<String>; 4],
    /// Why /dev/sev cannot be opened.
    pub device: Option<(Option<i32>, String)>,
    /// What the firmware says.
    pub status: Option<Result<SnpPlatformStatus, String>>,
    /// How asking for an ASID went, where that could be tried.
    pub asid: Option<Result<(), String>>,
    misc: MiscFacts,
}

const LEAF: u32 = 0x8000_001f;
const MSR_SYSCFG: u32 = 0xc001_0010;
/// MemEncryptionModEn: memory encryption may be used.
const SYSCFG_MEM_ENCRYPT: u64 = 1 << 23;
const MSR_RMP_BASE: u32 = 0xc001_0132;
const PARAMETERS: [&str; 4] = ["npt", "sev", "sev_es", "sev_snp"];
/// The oldest firmware that the kernel initialises (sev-dev.c, SNP_MIN_API_MAJOR, SNP_MIN_API_MINOR).
const FIRMWARE: (u8, u8) = (1, 51);
/// The first kernel that launches such guests.
const KERNEL: (u32, u32) = (6, 11);
const OPTIONS: [&str; 4] =
    ["CONFIG_KVM_AMD", "CONFIG_KVM_AMD_SEV", "CONFIG_CRYPTO_DEV_SP_PSP", "CONFIG_AMD_IOMMU"];
/// Words of the command line with which the IOMMU is off or bypassed; SEV-SNP needs it.
const NO_IOMMU: [&str; 5] =
    ["amd_iommu=off", "iommu=off", "iommu=pt", "iommu.passthrough=1", "iommu=soft"];

const PROCESSOR: &str = "processor";
const MODULE: &str = "kvm_amd";
const DEVICE: &str = "/dev/sev";

impl SnpFacts {
    /// Reads, opens and asks.
    pub fn gather(
        tree: &Tree,
        cpuid: Cpuid,
        system: Option<&System>,
        recorder: &mut Recorder,
    ) -> SnpFacts {
        let processor = ProcessorFacts::gather(cpuid);
        let mut facts = SnpFacts {
            leaf: if processor.has(LEAF) { cpuid(LEAF, 0) } else { [0; 4] },
            syscfg: tree.msr(MSR_SYSCFG),
            rmp_base: tree.msr(MSR_RMP_BASE),
            flags: tree.text("/proc/cpuinfo").parsed(|text| {
                text.lines().find(|line| line.starts_with("flags")).map(str::to_owned)
            }),
            parameters: PARAMETERS
                .map(|name| tree.text(&format!("/sys/module/kvm_amd/parameters/{name}"))),
            device: None,
            status: None,
            asid: None,
            misc: MiscFacts::gather(tree, "sev_es"),
        };
        match SevDevice::open(recorder) {
            Ok(sev) => {
                let status = snp_platform::status(recorder, &sev);
                facts.status = Some(status.map_err(|error| error.complaint().cause));
                facts.asid = system.and_then(|system| try_asid(system, &sev, recorder));
            }
            Err(error) => facts.device = Some(reason(&error)),
        }
        facts
    }

    /// Does the processor have SEV-SNP at all?
    fn supported(&self, processor: &ProcessorFacts) -> bool {
        processor.vendor == "AuthenticAMD" && self.leaf[0] & 1 << 4 != 0
    }
}

/// Makes a VM of this type, and gives it an ASID until it is dropped; nothing where KVM has no such VMs.
fn try_asid(
    system: &System,
    sev: &SevDevice,
    recorder: &mut Recorder,
) -> Option<Result<(), String>> {
    let vm = system.create_vm(recorder, VM_TYPE_SNP).ok()?;
    Some(snp::init2(recorder, &vm, sev, SevFeatures(0)).map_err(|error| match error {
        SysError::Missing { what, .. } => what,
        other => reason(&other).1,
    }))
}

/// Everything, causes before what follows from them.
pub fn judge(host: &Host) -> Vec<Finding> {
    let facts = &host.snp;
    let offered = host.kvm.offers(VM_TYPE_SNP);
    let supported = facts.supported(&host.processor);
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
            findings.push(judge_asid_space(facts).after(set_up));
            findings.push(judge_iommu(host, offered));
        }
        findings.push(host.kernel.judge_version(KERNEL, offered));
        findings.push(host.kernel.judge_options(&OPTIONS, offered).after(root));
    }
    findings.extend(judge_firmware(host, facts));
    // The kernel turns the parameter off where something above is missing.
    let first = findings.iter().find_map(Finding::root);
    let first = first.or(host.kvm.root());
    let module = judge_module(facts).after(first);
    let guests = judge_guests(offered).after(first.or(module.root()));
    let no_guests = guests.root();
    findings.extend([module, judge_device(facts).after(root), guests]);
    findings.push(host.kvm.judge_capabilities(&launch::SNP_CAPABILITIES, no_guests));
    if supported {
        findings.push(judge_c_bit(facts));
        let refused = facts.asid.as_ref().and_then(|tried| tried.as_ref().err());
        findings.push(facts.misc.judge("ASIDs", refused.map(String::as_str)));
    }
    findings
}

fn judge_processor(host: &Host, supported: bool) -> Finding {
    const NEEDED: &str = "AMD EPYC 7003 or newer with SEV-SNP (CPUID 8000001F EAX bit 4)";
    let name = host.processor.numbers();
    if supported {
        Finding::ok(PROCESSOR, name, NEEDED)
    } else {
        let cure = match &host.emulated {
            Some(_) => "cvmm check --snp --emulate=epyc-milan",
            None => "use another machine, or --emulate (not confidential)",
        };
        Finding::missing(PROCESSOR, name, NEEDED, cure)
    }
}

fn judge_bare(processor: &ProcessorFacts, offered: bool) -> Finding {
    const SUBJECT: &str = "bare metal";
    const NEEDED: &str = "a physical machine: KVM launches no SEV-SNP guests inside a VM";
    match (processor.virtual_machine, offered) {
        (false, _) => Finding::ok(SUBJECT, "yes", NEEDED),
        (true, true) => Finding::ok(SUBJECT, "a virtual machine that is given SEV-SNP", NEEDED),
        (true, false) => Finding::missing(
            SUBJECT,
            "this host is a virtual machine",
            NEEDED,
            "use a physical machine (a bare-metal instance)",
        ),
    }
}

/// Without it the kernel hides all of SEV (Linux 7.2 arch/x86/kernel/cpu/amd.c `early_detect_mem_encrypt`).
fn judge_encryption(facts: &SnpFacts, offered: bool) -> Finding {
    const SUBJECT: &str = "BIOS: SMEE";
    const NEEDED: &str = "memory encryption enabled";
    const CURE: &str = "BIOS: AMD CBS, CPU: SMEE enabled";
    let has = |flag| facts.flags.known().map(|flags| flags.split(' ').any(|word| word == flag));
    match (&facts.syscfg, has("sev_snp"), has("sev")) {
        (Seen::Is(value), _, _) if value & SYSCFG_MEM_ENCRYPT != 0 => {
            Finding::ok(SUBJECT, format!("SYSCFG {value:#x}"), NEEDED)
        }
        (Seen::Is(value), _, _) => {
            Finding::missing(SUBJECT, format!("SYSCFG {value:#x}, bit 23 is 0"), NEEDED, CURE)
        }
        _ if offered => Finding::ok(SUBJECT, "enabled, or KVM would not offer guests", NEEDED),
        (_, Some(true), _) => Finding::ok(SUBJECT, "sev_snp in /proc/cpuinfo", NEEDED),
        (_, _, Some(false)) => Finding::missing(SUBJECT, "no sev in /proc/cpuinfo", NEEDED, CURE),
        _ => Finding::unknown(
            SUBJECT,
            "register C0010010 cannot be read",
            NEEDED,
            "sudo modprobe msr && sudo cvmm check --snp",
        ),
    }
}

fn judge_bios(host: &Host, offered: bool) -> Finding {
    const SUBJECT: &str = "BIOS: RMP";
    const NEEDED: &str = "memory reserved for the reverse map table";
    const CURE: &str = "BIOS: AMD CBS, CPU: SEV-SNP Memory (RMP Table) Coverage enabled; NBIO: SEV-SNP Support enabled";
    let said = host.kernel.said(&["RMP table", "RMP configuration"]);
    match (&host.snp.rmp_base, said) {
        (Seen::Is(base), _) if base >> 13 & ((1 << 39) - 1) != 0 => {
            Finding::ok(SUBJECT, format!("table at {base:#x}"), NEEDED)
        }
        (Seen::Is(_), _) => Finding::missing(SUBJECT, "none reserved", NEEDED, CURE),
        _ if offered => Finding::ok(SUBJECT, "reserved, or KVM would not offer guests", NEEDED),
        (_, Some(line)) if line.contains("physical range") => Finding::ok(SUBJECT, line, NEEDED),
        (_, Some(line)) => Finding::missing(SUBJECT, line, NEEDED, CURE),
        (_, None) => Finding::unknown(
            SUBJECT,
            "neither register C0010132 nor the kernel's log can be read",
            NEEDED,
            "sudo modprobe msr && sudo cvmm check --snp",
        ),
    }
}

/// SEV-SNP uses the ASIDs below the first one that only SEV can have.
fn judge_asid_space(facts: &SnpFacts) -> Finding {
    const SUBJECT: &str = "BIOS: ASIDs";
    const NEEDED: &str = "ASIDs for SEV-ES and SEV-SNP";
    let [_, _, all, first_for_sev] = facts.leaf;
    let usable = first_for_sev.saturating_sub(1).min(all);
    if usable == 0 {
        let cure = "BIOS: AMD CBS, CPU: SEV-ES ASID Space Limit Control manual, limit above 1";
        return Finding::missing(SUBJECT, format!("0 of {all}"), NEEDED, cure);
    }
    Finding::ok(SUBJECT, format!("{usable} of {all}"), NEEDED)
}

fn judge_iommu(host: &Host, offered: bool) -> Finding {
    const SUBJECT: &str = "IOMMU";
    const NEEDED: &str = "on, and not in passthrough mode";
    let said = host.kernel.said(&["AMD-Vi: SNP:"]);
    match (host.kernel.started_with(&NO_IOMMU), said) {
        _ if offered => Finding::ok(SUBJECT, "on, or KVM would not offer guests", NEEDED),
        (Some(word), _) => Finding::missing(
            SUBJECT,
            format!("{word} on the kernel's command line"),
            NEEDED,
            format!("remove {word} from the kernel's command line and reboot"),
        ),
        (None, Some(line)) => Finding::missing(
            SUBJECT,
            line,
            NEEDED,
            "BIOS: IOMMU enabled; kernel command line: iommu.passthrough=0",
        ),
        (None, None) => Finding::ok(SUBJECT, "nothing turns it off", NEEDED),
    }
}

fn judge_module(facts: &SnpFacts) -> Finding {
    const NEEDED: &str = "loaded, with sev, sev_es and sev_snp on";
    let [loaded, parameters @ ..] = &facts.parameters;
    if *loaded == Seen::Absent {
        return Finding::missing(MODULE, "not loaded", NEEDED, "sudo modprobe kvm_amd");
    }
    let off = PARAMETERS[1..]
        .iter()
        .zip(parameters)
        .filter(|(_, value)| !value.known().is_some_and(|text| matches!(text.as_str(), "Y" | "1")));
    let off: Vec<String> = off
        .map(|(name, value)| match value {
            Seen::Is(value) => format!("{name}={value}"),
            Seen::Absent => format!("no parameter {name}"),
            Seen::Hidden(why) => format!("{name}: {why}"),
        })
        .collect();
    if off.is_empty() {
        return Finding::ok(MODULE, "sev, sev_es and sev_snp on", NEEDED);
    }
    // The kernel turns sev_snp off by itself where it cannot have it.
    let cure = "sudo modprobe -r kvm_amd && sudo modprobe kvm_amd sev=1 sev_es=1 sev_snp=1; if it stays off, dmesg | grep -i -e \
                sev -e ccp says why";
    Finding::missing(MODULE, off.join(", "), NEEDED, cure)
}

fn judge_device(facts: &SnpFacts) -> Finding {
    const NEEDED: &str = "the security processor, for reading and writing";
    match &facts.device {
        None => Finding::ok(DEVICE, "opens", NEEDED),
        Some((Some(libc::ENOENT | libc::ENODEV | libc::ENXIO), _)) => Finding::missing(
            DEVICE,
            "does not exist",
            NEEDED,
            "sudo modprobe ccp (in a container: give it /dev/sev as well)",
        ),
        Some((Some(libc::EACCES | libc::EPERM), text)) => Finding::missing(
            DEVICE,
            format!("may not be opened ({text})"),
            NEEDED,
            "sudo chgrp kvm /dev/sev && sudo chmod g+rw /dev/sev, as a member of group kvm",
        ),
        Some((_, text)) => Finding::missing(
            DEVICE,
            format!("cannot be opened ({text})"),
            NEEDED,
            "dmesg | grep -i -e ccp -e sev says why",
        ),
    }
}

fn judge_firmware(host: &Host, facts: &SnpFacts) -> Vec<Finding> {
    const SUBJECT: &str = "firmware";
    const NEEDED: &str = "version 1.51 or newer";
    let status = match &facts.status {
        None => return Vec::new(),
        Some(Err(why)) => {
            let cure = "dmesg | grep -i -e ccp -e sev";
            return vec![Finding::unknown(SUBJECT, why, NEEDED, cure)];
        }
        Some(Ok(status)) => status,
    };
    let version = (status.api_major, status.api_minor);
    let layout = if host.processor.family >= 0x1a { TcbLayout::Turin } else { TcbLayout::Milan };
    let TcbParts { fmc, boot_loader, tee, snp, microcode } =
        status.current_tcb_version.parts(layout);
    let fmc = if layout == TcbLayout::Turin { format!("FMC {fmc}, ") } else { String::new() };
    let found = format!(
        "{}.{} build {} (TCB: {fmc}boot loader {boot_loader}, TEE {tee}, SNP {snp}, microcode {microcode})",
        version.0, version.1, status.build_id
    );
    let cure = "update the BIOS, or the package with /lib/firmware/amd (linux-firmware, amd64-microcode), and reboot";
    let first = match version < FIRMWARE {
        true => Finding::missing(SUBJECT, found, NEEDED, cure),
        false => Finding::ok(SUBJECT, found, NEEDED),
    };
    let needed = "initialised by the kernel, with its reverse map table";
    let second = match (status.state, status.is_rmp_initialized & 1) {
        (1, 1) => Finding::ok("SNP state", "initialised", needed),
        (state, rmp) => {
            let found = format!(
                "state {state}, table {}",
                ["not initialised", "initialised"][usize::from(rmp)]
            );
            let cure = "dmesg | grep -i -e ccp -e sev-snp says why";
            Finding::missing("SNP state", found, needed, cure).after(first.root())
        }
    };
    vec![first, second]
}

fn judge_guests(offered: bool) -> Finding {
    const SUBJECT: &str = "KVM: SNP guests";
    const NEEDED: &str = "VM type 4";
    if offered {
        return Finding::ok(SUBJECT, "offered", NEEDED);
    }
    let cure = "dmesg | grep -i -e sev -e kvm_amd -e AMD-Vi says why";
    Finding::missing(SUBJECT, "not offered", NEEDED, cure)
}

fn judge_c_bit(facts: &SnpFacts) -> Finding {
    let found = facts.leaf[1] & 0x3f;
    let needed = format!("{C_BIT}, for which cvmm's guests are built");
    if found == C_BIT {
        Finding::ok("C-bit", found.to_string(), &needed)
    } else {
        Finding::missing("C-bit", found.to_string(), &needed, "use an EPYC 7003 to 9005")
    }
}
