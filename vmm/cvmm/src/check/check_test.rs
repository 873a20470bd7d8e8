//! Judging hosts that are not here: their files in a directory, their CPUID in a table.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::FileExt;

use abi::kvm_snp::SnpPlatformStatus;

use super::finding::Verdict;
use super::*;
use crate::recorder::Started;

/// A host to be described.
struct Described {
    dir: tempfile::TempDir,
    cpuid: BTreeMap<u32, [u32; 4]>,
    vm_types: u32,
}

impl Described {
    fn file(&self, path: &str, text: &str) -> &Described {
        let path = self.dir.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn remove(&self, path: &str) -> &Described {
        std::fs::remove_file(self.dir.path().join(path.trim_start_matches('/'))).unwrap();
        self
    }

    /// In a file, other than in the device, registers overlap those that follow: those looked at are not neighbours.
    fn msr(&self, number: u32, value: u64) -> &Described {
        let path = self.dir.path().join("dev/cpu/0/msr");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).open(path).unwrap();
        file.write_all_at(&value.to_le_bytes(), number.into()).unwrap();
        self
    }

    fn config(&self, options: &str) -> &Described {
        self.file("/proc/config.gz", "");
        let file = std::fs::File::create(self.dir.path().join("proc/config.gz")).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        gzip.write_all(options.as_bytes()).unwrap();
        gzip.finish().unwrap();
        self
    }

    /// What comes out; KVM and the device are as described, too.
    fn judge(&self, asked: Asked) -> CheckReport {
        let tree = Tree::at(self.dir.path());
        let cpuid = |leaf, _| self.cpuid.get(&leaf).copied().unwrap_or_default();
        let mut recorder = Recorder::new(Started::now(), false);
        let mut snp = SnpFacts::gather(&tree, &cpuid, None, &mut recorder);
        snp.device = None;
        snp.status = Some(Ok(SnpPlatformStatus {
            api_major: 1,
            api_minor: 55,
            state: 1,
            is_rmp_initialized: 1,
            ..SnpPlatformStatus::default()
        }));
        let host = Host {
            emulated: None,
            processor: ProcessorFacts::gather(&cpuid),
            kernel: KernelFacts::gather(&tree),
            limits: LimitFacts::gather(&tree),
            kvm: KvmFacts { vm_types: self.vm_types, max_vcpus: 1024, ..KvmFacts::default() },
            snp,
            tdx: TdxFacts::gather(&tree, &cpuid, None, &mut recorder),
        };
        CheckReport::judge(&host, Some(asked))
    }
}

const SNP: Asked = Asked { plain: false, snp: true, tdx: false };

fn words(text: &str) -> [u32; 3] {
    let bytes = text.as_bytes();
    [0, 4, 8].map(|at| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]))
}

fn described(vendor: &str, signature: u32, vm_types: u32) -> Described {
    let [ebx, edx, ecx] = words(vendor);
    let cpuid = [
        (0, [0x20, ebx, ecx, edx]),
        (1, [signature, 0, 0, 0]),
        (0x8000_0000, [0x8000_0028, 0, 0, 0]),
    ];
    let host = Described {
        dir: tempfile::tempdir().unwrap(),
        cpuid: cpuid.into_iter().collect(),
        vm_types,
    };
    host.file("/proc/sys/kernel/osrelease", "7.2.13-amd64\n")
        .file("/proc/cmdline", "quiet\n")
        .file("/proc/self/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw,favordynmods 0 0\n")
        .file("/proc/self/cgroup", "0::/user.slice/run.scope\n")
        .file("/proc/meminfo", "MemTotal: 9999999 kB\nMemAvailable: 8388608 kB\n")
        .file("/proc/self/limits", "Max open files            524288  524288 files\n");
    host
}

/// An EPYC 7003 on which all is well.
fn epyc() -> Described {
    let mut host = described("AuthenticAMD", 0x00a0_0f11, 1 | 1 << 4);
    host.cpuid.insert(0x8000_001f, [0b11011, 51, 509, 100]);
    host.config(
        "CONFIG_KVM_AMD=m\nCONFIG_KVM_AMD_SEV=y\nCONFIG_CRYPTO_DEV_SP_PSP=y\nCONFIG_AMD_IOMMU=y\n",
    )
    .msr(0xc001_0010, 1 << 23)
    .msr(0xc001_0132, 0x1000_0000)
    .file("/sys/fs/cgroup/misc.capacity", "sev 410\nsev_es 99\n")
    .file("/sys/fs/cgroup/misc.current", "sev 0\nsev_es 3\n");
    for name in ["npt", "sev", "sev_es", "sev_snp"] {
        host.file(&format!("/sys/module/kvm_amd/parameters/{name}"), "Y\n");
    }
    host
}

/// A Xeon of the 5th generation on which all is well.
fn xeon() -> Described {
    let mut host = described("GenuineIntel", 0x000c_06f2, 1 | 1 << 5);
    host.cpuid.insert(7, [0, 0, 1 << 13, 0]);
    host.config("CONFIG_KVM_INTEL=m\nCONFIG_INTEL_TDX_HOST=y\nCONFIG_KVM_INTEL_TDX=y\n")
        .msr(0x87, 64 << 32 | 63)
        .msr(0x982, 0x8000_0003)
        .file("/sys/power/state", "freeze mem\n")
        .file("/sys/module/kvm_intel/parameters/ept", "Y\n")
        .file("/sys/module/kvm_intel/parameters/tdx", "Y\n")
        .file("/sys/devices/faux/tdx_host/version", "1.5.16\n")
        .file("/sys/fs/cgroup/misc.capacity", "tdx 63\n")
        .file("/sys/fs/cgroup/misc.current", "tdx 1\n");
    host
}

fn find<'a>(report: &'a CheckReport, subject: &str) -> &'a Finding {
    // The technology's before the host's.
    let mut findings = report.groups.iter().rev().flat_map(|group| &group.findings);
    findings.find(|f| f.subject == subject).unwrap_or_else(|| panic!("no {subject}: {report:#?}"))
}

#[track_caller]
fn missing(report: &CheckReport, subject: &str, found: &str, cure: &str) {
    let finding = find(report, subject);
    assert_eq!(finding.verdict, Verdict::Missing, "{finding:#?}");
    assert!(finding.found.contains(found), "{finding:#?}");
    assert!(finding.cure.as_deref().unwrap_or_default().contains(cure), "{finding:#?}");
    assert!(!report.ready);
    assert_eq!(report.exit_code(), ExitCode::Host);
}

#[test]
fn hosts_on_which_all_is_well_are_ready() {
    for (host, asked) in [(epyc(), SNP), (xeon(), Asked::TDX)] {
        let report = host.judge(asked);
        assert!(report.ready, "{report:#?}");
        assert_eq!(report.exit_code(), ExitCode::Ok);
        assert_eq!(report.kernel, "7.2.13-amd64");
    }
    let report = epyc().judge(SNP);
    assert_eq!(find(&report, "ASIDs").found, "3 of 99 in use");
    assert_eq!(find(&report, "BIOS: ASIDs").found, "99 of 509");
    assert_eq!(find(&report, "cgroups").found, "favordynmods");
    assert_eq!(find(&report, "memory").found, "8192 MiB available");
    let report = xeon().judge(Asked::TDX);
    assert_eq!(find(&report, "BIOS: TDX").found, "64 private key identifiers");
    assert_eq!(find(&report, "TDX module").found, "1.5.16");
    assert_eq!(find(&report, "key identifiers").found, "1 of 63 in use");
}

#[test]
fn settings_of_the_bios_are_seen_in_registers_and_in_the_log() {
    let mut host = epyc();
    host.vm_types = 1;
    host.file("/sys/module/kvm_amd/parameters/sev_snp", "N\n").msr(0xc001_0132, 0);
    let report = host.judge(SNP);
    missing(&report, "BIOS: RMP", "none reserved", "SEV-SNP Memory (RMP Table) Coverage");
    assert_eq!(find(&report, "kvm_amd").follows, Some("BIOS: RMP"));
    assert_eq!(find(&report, "KVM: SNP guests").follows, Some("BIOS: RMP"));
    assert_eq!(report.why_not(&report.groups[1]), "3 things missing (BIOS: RMP)");

    host.remove("/dev/cpu/0/msr");
    assert_eq!(find(&host.judge(SNP), "BIOS: RMP").verdict, Verdict::Unknown);
    assert_eq!(find(&host.judge(SNP), "BIOS: SMEE").verdict, Verdict::Unknown);
    host.file("/proc/cpuinfo", "flags\t\t: fpu svm sev sev_es sev_snp\n");
    assert_eq!(find(&host.judge(SNP), "BIOS: SMEE").verdict, Verdict::Ok);
    host.file("/proc/cpuinfo", "flags\t\t: fpu svm\n");
    missing(&host.judge(SNP), "BIOS: SMEE", "no sev", "SMEE enabled");
    host.file("/proc/cpuinfo", "flags\t\t: fpu svm sev sev_es sev_snp\n");
    let line = "SEV-SNP: Memory for the RMP table has not been reserved by BIOS";
    host.file("/dev/kmsg", &format!("6,1,0,-;Linux version 7.2\n3,300,100,-;{line}\n"));
    missing(&host.judge(SNP), "BIOS: RMP", "has not been reserved", "SEV-SNP Memory");

    let mut host = epyc();
    host.cpuid.insert(0x8000_001f, [0b11011, 51, 509, 1]);
    missing(&host.judge(SNP), "BIOS: ASIDs", "0 of 509", "ASID Space Limit");

    let mut host = xeon();
    host.vm_types = 1;
    host.msr(0x87, 63);
    missing(&host.judge(Asked::TDX), "BIOS: TDX", "0 private key identifiers", "SEAM Loader");
    host.msr(0x982, 1);
    let report = host.judge(Asked::TDX);
    missing(&report, "BIOS: TME", "register 982 is 0x1", "Memory Encryption (TME) enabled");
    assert_eq!(find(&report, "BIOS: TDX").follows, Some("BIOS: TME"));
    host.remove("/dev/cpu/0/msr")
        .file("/dev/kmsg", "6,1,0,-;virt/tdx: BIOS enabled: private KeyID range [64, 128)");
    assert_eq!(find(&host.judge(Asked::TDX), "BIOS: TDX").verdict, Verdict::Ok);
}

#[test]
fn kernels_are_judged_by_version_options_and_command_line() {
    let mut host = epyc();
    host.file("/proc/sys/kernel/osrelease", "5.14.0-570.el9\n");
    assert!(host.judge(SNP).ready, "backports are as good");
    host.vm_types = 1;
    missing(&host.judge(SNP), "kernel", "5.14.0-570.el9", "Linux 6.11");
    let mut host = xeon();
    host.vm_types = 1;
    host.file("/proc/sys/kernel/osrelease", "6.12.1\n");
    missing(&host.judge(Asked::TDX), "kernel", "6.12.1", "Linux 6.16");

    let mut host = epyc();
    host.vm_types = 1;
    host.config("CONFIG_KVM_AMD=m\n# CONFIG_KVM_AMD_SEV is not set\nCONFIG_CRYPTO_DEV_SP_PSP=y\n");
    missing(&host.judge(SNP), "kernel options", "without CONFIG_KVM_AMD_SEV, CONFIG_AMD_IOMMU", "");
    host.remove("/proc/config.gz");
    assert_eq!(find(&host.judge(SNP), "kernel options").verdict, Verdict::Unknown);
    let ready = epyc();
    ready.remove("/proc/config.gz");
    assert!(ready.judge(SNP).ready, "what is not known keeps nobody from trying");
    host.file("/boot/config-7.2.13-amd64", "CONFIG_KVM_AMD=m\n");
    missing(&host.judge(SNP), "kernel options", "without CONFIG_KVM_AMD_SEV", "");

    let mut host = epyc();
    host.vm_types = 1;
    host.file("/proc/cmdline", "quiet iommu=pt\n");
    missing(&host.judge(SNP), "IOMMU", "iommu=pt", "remove iommu=pt");
    let mut host = xeon();
    host.vm_types = 1;
    host.file("/sys/power/state", "freeze mem disk\n");
    missing(&host.judge(Asked::TDX), "hibernation", "disk", "nohibernate");
}

#[test]
fn module_parameters_and_versions() {
    let host = epyc();
    host.file("/sys/module/kvm_amd/parameters/sev_es", "N\n")
        .remove("/sys/module/kvm_amd/parameters/sev_snp");
    missing(&host.judge(SNP), "kvm_amd", "sev_es=N, no parameter sev_snp", "modprobe");
    let mut host = xeon();
    host.vm_types = 1;
    host.file("/sys/devices/faux/tdx_host/version", "1.5.01\n");
    missing(&host.judge(Asked::TDX), "TDX module", "1.5.01", "newer module");
    host.remove("/sys/devices/faux/tdx_host/version")
        .file("/dev/kmsg", "3,9,9,-;virt/tdx: module initialization failed (-22)\n");
    missing(&host.judge(Asked::TDX), "TDX module", "failed (-22)", "newer module");
}

#[test]
fn identifiers_may_be_gone_for_all_or_for_one_cgroup() {
    let host = epyc();
    host.file("/sys/fs/cgroup/misc.current", "sev_es 99\n");
    missing(&host.judge(SNP), "ASIDs", "99 of 99", "stop another");
    let host = xeon();
    host.file("/sys/fs/cgroup/user.slice/misc.max", "tdx 2\n")
        .file("/sys/fs/cgroup/user.slice/misc.current", "tdx 2\n")
        .file("/sys/fs/cgroup/user.slice/run.scope/misc.max", "tdx max\n")
        .file("/sys/fs/cgroup/user.slice/run.scope/misc.current", "tdx 0\n");
    missing(
        &host.judge(Asked::TDX),
        "key identifiers",
        "2 of 2 that the cgroup /user.slice",
        "misc.max",
    );
}

#[test]
fn another_processor_is_the_cause_of_everything() {
    let mut host = xeon();
    host.cpuid.insert(1, [0x000c_06f2, 0, 1 << 31, 0]);
    let report = host.judge(SNP);
    missing(&report, "processor", "GenuineIntel, family 0x6, model 0xcf", "another machine");
    let snp = &report.groups[1];
    let roots = snp.findings.iter().filter(|f| f.is_missing() && f.follows.is_none());
    assert_eq!(roots.count(), 1, "{snp:#?}");
    assert!(find(&report, "bare metal").is_missing());
}

#[test]
fn limits_are_advice() {
    let host = epyc();
    host.file("/proc/meminfo", "MemAvailable: 262144 kB\n")
        .file("/proc/self/limits", "Max open files            256  4096 files\n")
        .file("/proc/self/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n")
        .file("/sys/fs/cgroup/user.slice/memory.max", "536870912\n")
        .file("/sys/fs/cgroup/user.slice/memory.current", "436870912\n")
        .file("/sys/fs/cgroup/user.slice/run.scope/memory.max", "max\n")
        .file("/sys/fs/cgroup/user.slice/run.scope/memory.current", "4096\n")
        .file("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
        .file("/sys/module/kvm/parameters/nx_huge_pages", "Y\n")
        .file("/sys/module/kvm/parameters/halt_poll_ns", "200000\n");
    let report = host.judge(SNP);
    assert!(report.ready, "{report:#?}");
    for (subject, found) in [
        ("memory", "256 MiB available"),
        ("cgroup memory", "95 MiB available"),
        ("open files", "256"),
        ("huge pages", "madvise"),
        ("NX huge pages", "Y"),
        ("cgroups", "/sys/fs/cgroup without favordynmods"),
    ] {
        let finding = find(&report, subject);
        assert_eq!((finding.verdict, &*finding.found), (Verdict::Advice, found));
        assert!(finding.cure.is_some());
    }
    assert_eq!(find(&report, "halt polling").found, "up to 200000 ns");
    host.file("/proc/cpuinfo", "bugs\t\t: spectre_v1 itlb_multihit\n");
    assert_eq!(find(&host.judge(SNP), "NX huge pages").verdict, Verdict::Ok);
}

#[test]
fn a_table_tells_cures_and_causes() {
    let mut host = epyc();
    host.vm_types = 1;
    host.file("/sys/module/kvm_amd/parameters/sev_snp", "N\n");
    let table = table::render(&host.judge(SNP));
    for line in [
        "missing  kvm_amd",
        "try: sudo modprobe -r kvm_amd && sudo modprobe kvm_amd sev=1",
        "missing  KVM: SNP guests",
        "follows from: kvm_amd",
        "snp: not ready: 2 things missing (kvm_amd)\n",
    ] {
        assert!(table.contains(line), "{line:?} is not in\n{table}");
    }
    assert!(table.lines().all(|line| line.trim_end() == line), "{table}");
}
