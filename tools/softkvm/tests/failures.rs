//! Failures on demand: which call fails, with what, and what the call has done before.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "common/td.rs"]
mod td;

use std::sync::Arc;

use abi::kvm::{CreateGuestMemfd, MemoryAttributes, UserMemoryRegion2};
use abi::kvm_snp::{
    KVM_X86_SNP_VM, SevCmd, SevInit, SnpLaunchStart, SnpLaunchUpdate, cmd as sev_cmd,
};
use abi::kvm_tdx::{KVM_X86_TDX_VM, TdxCmd, cmd as tdx_cmd};
use abi::snp::{PageType, SnpPolicy};
use abi::tdx::TdxStatus;
use common::{Fd, Ram, kvm, vm_on};
use softkvm::kvm::{Errno, Machine, Options, front, number as nr};

fn machine(fail: &str, profile: &str) -> Arc<Machine> {
    let options =
        Options { fail: fail.into(), profile: Some(profile.into()), ..Options::default() };
    Machine::new(options).unwrap()
}

fn refused(fail: &str) -> String {
    let options = Options { fail: fail.into(), ..Options::default() };
    Machine::new(options).err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn what_cannot_fail_that_way_is_refused_by_name() {
    for (text, problem) in [
        ("KVM_CREATE_VM#1", "CALL#N=ERRNO"),
        ("KVM_CREATE_VM=EIO", "CALL#N=ERRNO"),
        ("KVM_CREATE_WM#1=EIO", "no such call"),
        ("KVM_CREATE_VM#0=EIO", "counted from 1"),
        ("KVM_CREATE_VM#x=EIO", "counted from 1"),
        ("KVM_CREATE_VM#1=EOIO", "no such errno"),
        ("KVM_CREATE_VM#1=EIO,fw=1", "hands on no status"),
        ("KVM_TDX_INIT_MEM_REGION#1=EIO,fw=1", "hands on no status"),
        ("KVM_SEV_INIT2#1=EIO,fw=x", "not a number"),
        ("KVM_SEV_INIT2#1=EIO,pages=1", "adds no pages"),
        ("KVM_SEV_INIT2#1=EIO,when=1", "fw=STATUS or pages=K"),
        ("KVM_RUN#1=EIO;;nonsense", "CALL#N=ERRNO"),
    ] {
        let said = refused(text);
        assert!(said.starts_with("SOFTKVM_FAIL: \"") && said.contains(problem), "{text}: {said}");
    }
    assert_eq!(refused(" KVM_RUN#*=EINTR ; open(/dev/sev)#2=EACCES;"), "");
}

#[test]
fn the_nth_call_of_a_name_fails_and_the_others_do_not() {
    let machine = machine("KVM_GET_API_VERSION#2=EPERM;open(/dev/kvm)#2=EMFILE", "epyc-milan");
    let kvm = kvm(&machine);
    assert_eq!(front().open_kvm(machine.clone()), Err(Errno::EMFILE));
    let ask = || kvm.value(nr::GET_API_VERSION, 0);
    assert_eq!((ask(), ask(), ask()), (Ok(12), Err(Errno::EPERM), Ok(12)));
    let calls = machine.failures.calls();
    assert_eq!(calls.get("KVM_GET_API_VERSION"), Some(&3));
    assert_eq!(calls.get("open(/dev/kvm)"), Some(&2));
    assert_eq!(machine.statistics()["calls"]["KVM_GET_API_VERSION"], 3);
}

#[test]
fn every_call_of_a_name_fails_with_a_star() {
    let machine = machine("KVM_CREATE_VM#*=ENOMEM", "epyc-milan");
    let kvm = kvm(&machine);
    for _ in 0..3 {
        assert_eq!(kvm.value(nr::CREATE_VM, 0), Err(Errno::ENOMEM));
    }
}

#[test]
fn mappings_and_holes_can_fail_too() {
    let machine = machine("mmap(vcpu)#1=ENOMEM;fallocate(guest_memfd)#1=EINTR", "epyc-milan");
    let vm = vm_on(&machine, KVM_X86_SNP_VM);
    let memory = Fd(vm.with(nr::CREATE_GUEST_MEMFD, &mut guest_memfd(0x2000)).unwrap());
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let fill = || front().fallocate(memory.0, punch, 0, 0x1000).unwrap();
    assert_eq!((fill(), fill()), (Err(Errno::EINTR), Ok(())));
    let plain = vm_on(&machine, 0);
    let vcpu = Fd(plain.value(nr::CREATE_VCPU, 0).unwrap());
    assert_eq!(front().mapped(vcpu.0, false).and_then(Result::err), Some(Errno::ENOMEM));
    assert_eq!(front().mapped(vcpu.0, false).and_then(Result::err), None);
}

fn guest_memfd(size: u64) -> CreateGuestMemfd {
    CreateGuestMemfd { size, ..Default::default() }
}

/// A launch that has been started, with `count` private pages from 0.
fn snp_launch(machine: &Arc<Machine>, count: u64) -> (Fd, Fd, Fd, Ram) {
    let sev = common::sev(machine);
    let vm = vm_on(machine, KVM_X86_SNP_VM);
    command(&vm, &sev, sev_cmd::SEV_INIT2, &mut SevInit::default()).unwrap();
    let size = count * 4096;
    let memory = Fd(vm.with(nr::CREATE_GUEST_MEMFD, &mut guest_memfd(size)).unwrap());
    let ram = Ram::new(size as usize);
    let mut region = UserMemoryRegion2 {
        flags: nr::MEM_GUEST_MEMFD,
        guest_memfd: memory.0 as u32,
        ..common::region(0, 0, &ram)
    };
    vm.with(nr::SET_USER_MEMORY_REGION2, &mut region).unwrap();
    let mut attributes = MemoryAttributes {
        size,
        attributes: abi::kvm::KVM_MEMORY_ATTRIBUTE_PRIVATE,
        ..Default::default()
    };
    vm.with(nr::SET_MEMORY_ATTRIBUTES, &mut attributes).unwrap();
    let mut start = SnpLaunchStart { policy: SnpPolicy(0x30000), ..Default::default() };
    command(&vm, &sev, sev_cmd::SNP_LAUNCH_START, &mut start).unwrap();
    (sev, vm, memory, ram)
}

/// A command, and the firmware's status if it fails.
fn command<T>(vm: &Fd, sev: &Fd, id: u32, data: &mut T) -> Result<(), (Errno, u32)> {
    let data = std::ptr::from_mut(data) as u64;
    let mut command = SevCmd { id, data, sev_fd: sev.0 as u32, ..SevCmd::default() };
    vm.with(nr::MEMORY_ENCRYPT_OP, &mut command).map(drop).map_err(|e| (e, command.error))
}

fn pages(ram: &Ram, count: u64) -> SnpLaunchUpdate {
    SnpLaunchUpdate {
        uaddr: ram.base as u64,
        len: count * 4096,
        page_type: PageType::NORMAL.0,
        ..SnpLaunchUpdate::default()
    }
}

#[test]
fn a_launch_command_fails_with_the_firmware_status_that_was_asked_for() {
    let machine = machine("KVM_SEV_SNP_LAUNCH_UPDATE#1=EIO,fw=0x16", "epyc-milan");
    let (sev, vm, _memory, ram) = snp_launch(&machine, 2);
    let mut request = pages(&ram, 2);
    let result = command(&vm, &sev, sev_cmd::SNP_LAUNCH_UPDATE, &mut request);
    assert_eq!(result, Err((Errno::EIO, 0x16)));
    assert_eq!((request.gfn_start, request.len), (0, 0x2000), "nothing was done");
    assert_eq!(command(&vm, &sev, sev_cmd::SNP_LAUNCH_UPDATE, &mut request), Ok(()));
}

#[test]
fn launch_update_in_part_succeeds_and_the_call_for_the_rest_fails() {
    let machine = machine("KVM_SEV_SNP_LAUNCH_UPDATE#1=EIO,fw=3,pages=2", "epyc-milan");
    let (sev, vm, _memory, ram) = snp_launch(&machine, 5);
    let mut request = pages(&ram, 5);
    let mut update = || command(&vm, &sev, sev_cmd::SNP_LAUNCH_UPDATE, &mut request);
    assert_eq!((update(), update()), (Ok(()), Err((Errno::EIO, 3))));
    assert_eq!((request.gfn_start, request.len), (2, 0x3000));
    assert_eq!(request.uaddr, ram.base as u64 + 0x2000);
    // The two pages really are in the guest: they cannot be added again, and the rest can.
    let mut again = pages(&ram, 1);
    let refused = command(&vm, &sev, sev_cmd::SNP_LAUNCH_UPDATE, &mut again);
    assert_eq!(refused, Err((Errno::EIO, 0)));
    assert_eq!(command(&vm, &sev, sev_cmd::SNP_LAUNCH_UPDATE, &mut request), Ok(()));
}

#[test]
fn a_tds_command_fails_with_the_module_status_that_was_asked_for() {
    let status = 0xc000_0100_0000_0045;
    let machine = machine("KVM_TDX_FINALIZE_VM#1=EIO,fw=0xc000010000000045", "xeon-spr");
    let vm = vm_on(&machine, KVM_X86_TDX_VM);
    let mut command = TdxCmd { id: tdx_cmd::FINALIZE_VM, ..TdxCmd::default() };
    assert_eq!(vm.with(nr::MEMORY_ENCRYPT_OP, &mut command), Err(Errno::EIO));
    assert_eq!(command.hw_error, TdxStatus(status));
    // What really is wrong comes next time: there is no TD yet.
    let mut command = TdxCmd { id: tdx_cmd::FINALIZE_VM, ..TdxCmd::default() };
    assert_eq!(vm.with(nr::MEMORY_ENCRYPT_OP, &mut command), Err(Errno::EINVAL));
}

#[test]
fn init_mem_region_in_part_fails_with_the_request_rewritten_to_the_rest() {
    let machine = machine("KVM_TDX_INIT_MEM_REGION#1=EINTR,pages=2", "xeon-spr");
    let vm = td::TdVm::prepared(&machine);
    vm.init(&td::InitVm::default()).unwrap();
    let ram = Ram::new(0x8000);
    let _memory = vm.slot(0, 0, &ram);
    vm.attributes(0, 0x8000, td::PRIVATE).unwrap();
    let cpu = vm.vcpu(0);
    td::init_vcpu(&cpu, 0).unwrap();
    let source = Ram::new(0x5000);
    let at = source.base as u64;
    let (answer, left) = td::add(&cpu, 0, at, 5, true);
    assert_eq!(answer, Err(Errno::EINTR));
    assert_eq!((left.source_addr, left.gpa, left.nr_pages), (at + 0x2000, 0x2000, 3));
    assert_eq!(td::add(&cpu, 0x1000, at, 1, true).0, Err(Errno::EIO), "it was added");
    assert_eq!(td::add(&cpu, left.gpa, left.source_addr, left.nr_pages, true).0, Ok(0));
}
