//! A host that is not set up: what a monitor sees of each fault, through the calls that it would make.

#![allow(clippy::unwrap_used)]

use std::os::fd::RawFd;
use std::sync::Arc;

use abi::kvm::KVM_CAP_VM_TYPES;
use abi::kvm_snp::{
    KVM_X86_SNP_VM, SEV_ISSUE_CMD, SevCmd, SevInit, SevIssueCmd, SnpPlatformStatus, cmd,
    platform_cmd,
};
use abi::kvm_tdx::KVM_X86_TDX_VM;
use softkvm::kvm::{Answer, Errno, Machine, Options, files, front, number as nr};

fn machine(profile: &str, fault: &str) -> Arc<Machine> {
    let (profile, fault) = (Some(profile.to_owned()), fault.to_owned());
    Machine::new(Options { profile, fault, ..Default::default() }).unwrap()
}

fn ioctl(fd: RawFd, request: u64, arg: u64) -> Answer<i32> {
    front().ioctl(fd, request, arg).unwrap()
}

fn vm_types(kvm: RawFd) -> i32 {
    ioctl(kvm, nr::CHECK_EXTENSION, KVM_CAP_VM_TYPES.into()).unwrap()
}

fn file(machine: &Machine, path: &str) -> Answer<String> {
    assert!(files::concerns(path), "{path}");
    files::read(machine, path)
}

const SNP: &str = "/sys/module/kvm_amd/parameters/sev_snp";
const TDX: &str = "/sys/module/kvm_intel/parameters/tdx";
const CURRENT: &str = "/sys/fs/cgroup/misc.current";
const CAPACITY: &str = "/sys/fs/cgroup/unified/misc.capacity";

#[test]
fn a_host_without_faults_shows_what_it_has() {
    let epyc = machine("epyc-milan", "");
    assert_eq!(file(&epyc, SNP).as_deref(), Ok("Y\n"));
    assert_eq!(file(&epyc, TDX), Err(Errno::ENOENT));
    assert_eq!(file(&epyc, CAPACITY).as_deref(), Ok("sev_es 509\n"));
    assert_eq!(file(&epyc, CURRENT).as_deref(), Ok("sev_es 0\n"));
    assert_eq!(file(&epyc, "/sys/fs/cgroup/misc.max"), Err(Errno::ENOENT));
    let [eax, ebx, asids, first_for_sev] = epyc.host_cpuid(0x8000_001f, 0);
    assert_eq!((eax & 0b11011, ebx & 0x3f, asids, first_for_sev), (0b11011, 51, 509, 510));
    assert_eq!(epyc.host_cpuid(1, 0)[2] >> 31, 0, "no hypervisor below");

    let xeon = machine("xeon-spr", "");
    assert_eq!(file(&xeon, SNP), Err(Errno::ENOENT));
    assert_eq!(file(&xeon, TDX).as_deref(), Ok("Y\n"));
    assert_eq!(file(&xeon, CAPACITY).as_deref(), Ok("tdx 63\n"));
    assert_eq!(file(&xeon, "/sys/devices/faux/tdx_host/version").as_deref(), Ok("1.5.05\n"));
    assert_eq!(xeon.host_cpuid(0, 0)[1], u32::from_le_bytes(*b"Genu"));
    assert!(!files::concerns("/sys/module/kvm/parameters/halt_poll_ns"));
}

#[test]
fn device_nodes_are_missing_or_forbidden() {
    for (fault, errno) in [("no-kvm", Errno::ENOENT), ("kvm-eacces", Errno::EACCES)] {
        assert_eq!(front().open_kvm(machine("xeon-spr", fault)), Err(errno));
    }
    for (fault, errno) in [("no-sev", Errno::ENOENT), ("sev-eacces", Errno::EACCES)] {
        let machine = machine("epyc-milan", fault);
        assert_eq!(front().open_sev(machine.clone(), true), Err(errno));
        let kvm = front().open_kvm(machine).unwrap();
        assert_ne!(vm_types(kvm) & 1 << KVM_X86_SNP_VM, 0, "KVM does not look at the node");
    }
    assert_eq!(file(&machine("epyc-milan", "no-kvm"), SNP), Err(Errno::ENOENT));
}

#[test]
fn a_technology_that_is_off_has_no_vm_type() {
    for (profile, fault, kind, path) in [
        ("epyc-milan", "snp-off", KVM_X86_SNP_VM, SNP),
        ("epyc-genoa", "firmware=1.50", KVM_X86_SNP_VM, SNP),
        ("xeon-spr", "tdx-off", KVM_X86_TDX_VM, TDX),
    ] {
        let machine = machine(profile, fault);
        assert_eq!(file(&machine, path).as_deref(), Ok("N\n"), "{fault}");
        let kvm = front().open_kvm(machine).unwrap();
        assert_eq!(vm_types(kvm), 0b11, "plain and software-protected: {fault}");
        assert_eq!(ioctl(kvm, nr::CREATE_VM, kind), Err(Errno::EINVAL), "{fault}");
        assert!(ioctl(kvm, nr::CREATE_VM, 0).is_ok(), "{fault}");
    }
}

#[test]
fn old_firmware_answers_and_is_not_initialised() {
    let status = |fault| {
        let sev = front().open_sev(machine("epyc-milan", fault), false).unwrap();
        let mut status = SnpPlatformStatus::default();
        let mut command = SevIssueCmd {
            cmd: platform_cmd::SNP_PLATFORM_STATUS,
            data: std::ptr::from_mut(&mut status) as u64,
            error: 0,
        };
        ioctl(sev, SEV_ISSUE_CMD, std::ptr::from_mut(&mut command) as u64).unwrap();
        (status.api_major, status.api_minor, status.state, status.is_rmp_initialized)
    };
    assert_eq!(status("firmware=1.40"), (1, 40, 0, 0));
    assert_eq!(status("firmware=1.51"), (1, 51, 1, 1));
}

#[test]
fn identifiers_run_out() {
    let machine = machine("epyc-milan", "asids=1");
    assert_eq!(file(&machine, CURRENT).as_deref(), Ok("sev_es 508\n"));
    let kvm = front().open_kvm(machine.clone()).unwrap();
    let init = |vm: RawFd| {
        let params = SevInit { ghcb_version: 2, ..SevInit::default() };
        let data = std::ptr::from_ref(&params) as u64;
        let mut command = SevCmd { id: cmd::SEV_INIT2, data, ..SevCmd::default() };
        ioctl(vm, nr::MEMORY_ENCRYPT_OP, std::ptr::from_mut(&mut command) as u64)
    };
    let vms = [(); 2].map(|()| ioctl(kvm, nr::CREATE_VM, KVM_X86_SNP_VM).unwrap());
    assert_eq!(init(vms[0]), Ok(0));
    assert_eq!(file(&machine, CURRENT).as_deref(), Ok("sev_es 509\n"));
    assert_eq!(init(vms[1]), Err(Errno::EBUSY));
}
