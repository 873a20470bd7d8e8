//! Rows 8 to 21: INIT2 and LAUNCH_START.

use std::os::fd::AsRawFd;

use abi::kvm_snp::{SevCmd, SevInit, SnpLaunchStart, SnpLaunchUpdate, cmd};
use abi::snp::SnpPolicy;
use libc::{EINVAL, EIO, ENOTTY, EPERM};

use crate::harness::{CREATE_VCPU, Host, POLICY, RUN};

#[test]
fn row_08_legacy_initialisation_is_refused() {
    let host = Host::new();
    let vm = host.snp();
    for id in [cmd::SEV_INIT, cmd::SEV_ES_INIT] {
        assert_eq!(vm.op(id, 0), Err((EINVAL, 0)));
    }
}

#[test]
fn row_09_init2_has_no_flags() {
    let host = Host::new();
    let params = SevInit { flags: 1, ..Default::default() };
    assert_eq!(host.snp().init2(&params), Err((EINVAL, 0)));
}

#[test]
fn row_10_only_advertised_features() {
    let host = Host::new();
    let vm = host.snp();
    for vmsa_features in [1, 1 << 40] {
        let params = SevInit { vmsa_features, ..Default::default() };
        assert_eq!(vm.init2(&params), Err((EINVAL, 0)));
    }
}

#[test]
fn row_11_ghcb_version_is_two() {
    let host = Host::new();
    for (ghcb_version, answer) in
        [(1, Err((EINVAL, 0))), (3, Err((EINVAL, 0))), (0, Ok(())), (2, Ok(()))]
    {
        let params = SevInit { ghcb_version, ..Default::default() };
        assert_eq!(host.snp().init2(&params), answer, "version {ghcb_version}");
    }
}

#[test]
fn row_12_init2_comes_before_vcpus() {
    let host = Host::new();
    let vm = host.snp();
    vm.call(CREATE_VCPU, 0).unwrap();
    assert_eq!(vm.init2(&SevInit::default()), Err((EINVAL, 0)));
}

#[test]
fn row_13_init2_happens_once() {
    let host = Host::new();
    let vm = host.snp();
    let bad = SevInit { flags: 1, ..Default::default() };
    assert_eq!(vm.init2(&bad), Err((EINVAL, 0)));
    assert_eq!(vm.init2(&SevInit::default()), Ok(()));
    assert_eq!(vm.init2(&SevInit::default()), Err((EPERM, 0)));
}

#[test]
fn row_14_other_commands_after_init2() {
    const LAUNCH_MEASURE: u32 = 6;
    const GUEST_STATUS: u32 = 8;
    const DBG_DECRYPT: u32 = 9;
    let host = Host::new();
    let vm = host.ready();
    for id in [LAUNCH_MEASURE, GUEST_STATUS, DBG_DECRYPT] {
        assert_eq!(vm.op(id, 0), Err((EPERM, 0)));
    }
    let mut command = SevCmd { id: 9999, error: 0x5555, ..Default::default() };
    let answer = vm.with(abi::kvm::KVM_MEMORY_ENCRYPT_OP, &mut command);
    assert_eq!((answer, command.id, command.error), (Err(EINVAL), 9999, 0x5555));
}

#[test]
fn row_15_nothing_runs_before_init2() {
    let host = Host::new();
    let vm = host.snp();
    let vcpu = vm.call(CREATE_VCPU, 0).unwrap();
    assert_eq!(host.call(vcpu, RUN, 0), Err(EINVAL));
}

#[test]
fn row_16_launch_commands_before_init2() {
    let host = Host::new();
    let vm = host.snp();
    assert_eq!(vm.start(POLICY), Err((ENOTTY, 0)));
    assert_eq!(vm.finish(&Default::default()), Err((ENOTTY, 0)));
    assert_eq!(vm.update(&mut SnpLaunchUpdate::default()), Err((EINVAL, 0)));
    assert_eq!(vm.op(cmd::SNP_ENABLE_REQ_CERTS, 0), Err((EINVAL, 0)));
}

#[test]
fn row_17_certificates_are_enabled_before_vcpus() {
    let host = Host::new();
    let vm = host.ready();
    assert_eq!(vm.op(cmd::SNP_ENABLE_REQ_CERTS, 0), Ok(()));
    let vm = host.ready();
    vm.call(CREATE_VCPU, 0).unwrap();
    assert_eq!(vm.op(cmd::SNP_ENABLE_REQ_CERTS, 0), Err((EINVAL, 0)));
}

#[test]
fn row_18_policies_that_kvm_refuses() {
    let host = Host::new();
    let vm = host.ready();
    let flags = SnpLaunchStart { policy: POLICY, flags: 1, ..Default::default() };
    assert_eq!(vm.start_with(&flags), Err((EINVAL, 0)));
    assert_eq!(vm.start(SnpPolicy(0x10000)), Err((EINVAL, 0)));
    assert_eq!(vm.start(POLICY | SnpPolicy::MIGRATE_MA), Err((EINVAL, 0)));
    assert_eq!(vm.start(POLICY), Ok(()));
}

#[test]
fn row_19_a_descriptor_that_is_not_dev_sev() {
    let host = Host::new();
    let mut vm = host.ready();
    vm.sev_fd = -1;
    assert_eq!(vm.start(POLICY), Err((ENOTTY, 0)));
    let file = tempfile::tempfile().unwrap();
    vm.sev_fd = file.as_raw_fd();
    assert_eq!(vm.start(POLICY), Err((ENOTTY, 0)));
    vm.sev_fd = host.sev;
    assert_eq!(vm.start(POLICY), Ok(()));
}

#[test]
fn row_20_policies_that_firmware_refuses() {
    let host = Host::new();
    let vm = host.ready();
    assert_eq!(vm.start(POLICY | SnpPolicy(0xff)), Err((EIO, 7)));
    assert_eq!(vm.start(POLICY), Ok(()));
}

#[test]
fn row_21_start_happens_once() {
    let host = Host::new();
    let vm = host.ready();
    vm.start(POLICY).unwrap();
    assert_eq!(vm.start(POLICY), Err((EINVAL, 0)));
}
