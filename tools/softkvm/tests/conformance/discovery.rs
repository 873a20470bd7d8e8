//! Rows 1 to 7: what a host says about itself.

use abi::kvm;
use abi::kvm_snp;
use abi::snp::SnpPolicy;
use libc::{EFAULT, EINVAL, ENXIO};

use crate::harness::{CREATE_VM, Host};

#[test]
fn row_01_vm_types_have_the_snp_bit() {
    let host = Host::new();
    assert_ne!(host.extension(host.kvm, kvm::KVM_CAP_VM_TYPES) & 1 << 4, 0);
}

#[test]
fn row_02_unknown_vm_types_are_refused() {
    let host = Host::new();
    assert_eq!(host.call(host.kvm, CREATE_VM, 7), Err(EINVAL));
}

fn attribute(host: &Host, request: u64, group: u32, attr: u64, addr: u64) -> Result<i32, i32> {
    host.with(host.kvm, request, &mut kvm::DeviceAttr { flags: 0, group, attr, addr })
}

#[test]
fn row_03_device_attributes() {
    let host = Host::new();
    for attr in 0..3 {
        assert_eq!(attribute(&host, kvm::KVM_HAS_DEVICE_ATTR, 1, attr, 0), Ok(0));
        assert_eq!(attribute(&host, kvm::KVM_GET_DEVICE_ATTR, 1, attr, 8), Err(EFAULT));
    }
    assert_eq!(attribute(&host, kvm::KVM_HAS_DEVICE_ATTR, 1, 99, 0), Err(ENXIO));
    assert_eq!(attribute(&host, kvm::KVM_HAS_DEVICE_ATTR, 9, 0, 0), Err(ENXIO));
    assert_eq!(attribute(&host, kvm::KVM_GET_DEVICE_ATTR, 1, 99, 8), Err(ENXIO));
}

#[test]
fn row_04_policy_and_feature_masks() {
    let host = Host::new();
    let get = |attr| {
        let mut value = 0u64;
        let address = std::ptr::from_mut(&mut value) as u64;
        attribute(&host, kvm::KVM_GET_DEVICE_ATTR, 1, attr, address).unwrap();
        value
    };
    let policy = SnpPolicy(get(kvm_snp::KVM_X86_SNP_POLICY_BITS));
    for bit in [16, 17, 19, 20] {
        assert!(policy.contains(SnpPolicy(1 << bit)), "bit {bit}");
    }
    assert!(!policy.contains(SnpPolicy::MIGRATE_MA));
    assert_eq!(get(kvm_snp::KVM_X86_SEV_VMSA_FEATURES) & 1, 0);
}

#[test]
fn row_05_extensions_of_a_vm() {
    const SYNC_REGS: u32 = 74;
    const READONLY_MEM: u32 = 81;
    let host = Host::new();
    let snp = host.snp();
    assert_eq!(host.extension(snp.fd, SYNC_REGS), 0);
    assert_eq!(host.extension(snp.fd, READONLY_MEM), 0);
    assert_eq!(host.extension(snp.fd, kvm::KVM_CAP_MEMORY_ATTRIBUTES), 8);
    assert_eq!(host.extension(snp.fd, kvm::KVM_CAP_GUEST_MEMFD_FLAGS), 1);
    let plain = host.vm(0).unwrap();
    assert_eq!(host.extension(plain.fd, kvm::KVM_CAP_MEMORY_ATTRIBUTES), 0);
    assert_eq!(host.extension(host.kvm, kvm::KVM_CAP_MEMORY_ATTRIBUTES), 8);
    assert_eq!(host.extension(host.kvm, kvm::KVM_CAP_GUEST_MEMFD_FLAGS), 3);
}

#[test]
fn row_06_a_null_command_probes() {
    let host = Host::new();
    assert_eq!(host.snp().call(kvm::KVM_MEMORY_ENCRYPT_OP, 0), Ok(0));
}

#[test]
fn row_07_exit_hypercall_takes_one_bit() {
    let host = Host::new();
    let vm = host.snp();
    assert_eq!(vm.enable(kvm::KVM_CAP_EXIT_HYPERCALL, 0x1000), Ok(()));
    assert_eq!(vm.enable(kvm::KVM_CAP_EXIT_HYPERCALL, 0x2000), Err(EINVAL));
}

#[test]
fn the_device_tells_of_the_platform_to_monitors_that_know_sev_es() {
    let host = Host::new();
    let mut status = kvm_snp::SevPlatformStatus::default();
    let issue = |host: &Host, status: &mut kvm_snp::SevPlatformStatus| {
        let mut command = kvm_snp::SevIssueCmd {
            cmd: kvm_snp::platform_cmd::PLATFORM_STATUS,
            data: std::ptr::from_mut(status) as u64,
            error: 7,
        };
        let answer = host.with(host.sev, kvm_snp::SEV_ISSUE_CMD, &mut command);
        (answer, { command.error })
    };
    assert_eq!(issue(&host, &mut status), (Ok(0), 0));
    let (state, flags, guests) = (status.state, status.flags, status.guest_count);
    assert_eq!((state, flags, guests), (1, kvm_snp::SevPlatformStatus::CONFIG_ES, 0));
    assert!((status.api_major, status.api_minor) >= (1, 51), "1.51 is the first with SNP");
}
