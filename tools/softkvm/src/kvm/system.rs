//! The ioctls of `/dev/kvm` and `/dev/sev`.

use std::os::fd::RawFd;
use std::sync::Arc;

use abi::kvm_snp::{
    KVM_X86_GRP_SEV, KVM_X86_SEV_SNP_REQ_CERTS, KVM_X86_SEV_VMSA_FEATURES, KVM_X86_SNP_POLICY_BITS,
    SEV_ISSUE_CMD, SevGetId2, SevIssueCmd, SnpPlatformStatus, platform_cmd,
};
use kvm_bindings::{kvm_cpuid_entry2, kvm_device_attr, kvm_msr_entry};

use super::caps::{self, VmKind};
use super::errno::{Answer, Errno};
use super::machine::Machine;
use super::number as nr;
use super::psp_queue::Place;
use super::{Front, Object, msrs, user};

/// An ioctl on `/dev/kvm`.
pub fn ioctl(front: &Front, machine: &Arc<Machine>, request: u64, arg: u64) -> Answer<i32> {
    match request {
        nr::GET_API_VERSION if arg == 0 => Ok(12),
        nr::CREATE_VM => create_vm(front, machine, arg),
        nr::CHECK_EXTENSION => Ok(caps::check(machine, None, arg as u32)),
        nr::GET_VCPU_MMAP_SIZE if arg == 0 => Ok(nr::VCPU_MMAP_SIZE as i32),
        nr::GET_SUPPORTED_CPUID => put_cpuid(arg, &machine.cpuid).map(|()| 0),
        nr::GET_EMULATED_CPUID => put_cpuid(arg, &[]).map(|()| 0),
        nr::GET_MSR_INDEX_LIST => put_list(arg, msrs::INDEX_LIST).map(|()| 0),
        nr::GET_MSR_FEATURE_INDEX_LIST => put_list(arg, msrs::FEATURE_LIST).map(|()| 0),
        nr::GET_MSRS => get_feature_msrs(arg),
        nr::X86_GET_MCE_CAP_SUPPORTED => user::put(arg, &msrs::MCG_CAP).map(|()| 0),
        nr::HAS_DEVICE_ATTR => attribute(machine, &user::get::<kvm_device_attr>(arg)?).map(|_| 0),
        nr::GET_DEVICE_ATTR => {
            let attr: kvm_device_attr = user::get(arg)?;
            let value = attribute(machine, &attr)?;
            user::put(attr.addr, &value).map(|()| 0)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn create_vm(front: &Front, machine: &Arc<Machine>, kind: u64) -> Answer<i32> {
    let kind = VmKind::from_number(kind).ok_or(Errno::EINVAL)?;
    Errno::require(machine.offers(kind))?;
    front.objects.sweep();
    let meeting = machine.meeting.as_ref().filter(|_| kind == VmKind::Snp);
    let place = meeting.map(|meeting| Place::take(meeting, machine.profile.tsc_khz)).transpose()?;
    let vm = super::vm::Vm::new(machine.clone(), kind);
    vm.lock().place = place;
    front.objects.publish(c"kvm-vm", 0, |_| Ok(Object::Vm(vm)))
}

/// Copies out a `struct kvm_cpuid2`: E2BIG with the caller's count untouched if it is too small.
pub fn put_cpuid(arg: u64, entries: &[kvm_cpuid_entry2]) -> Answer {
    let room: u32 = user::get(arg)?;
    if (room as usize) < entries.len() {
        return Err(Errno::E2BIG);
    }
    user::put_many(arg + 8, entries)?;
    user::put(arg, &(entries.len() as u32))
}

/// Copies out a `struct kvm_msr_list`: the count is written even if there is too little room.
fn put_list(arg: u64, list: &[u32]) -> Answer {
    let room: u32 = user::get(arg)?;
    user::put(arg, &(list.len() as u32))?;
    if (room as usize) < list.len() {
        return Err(Errno::E2BIG);
    }
    user::put_many(arg + 4, list)
}

fn get_feature_msrs(arg: u64) -> Answer<i32> {
    let count: u32 = user::get(arg)?;
    if count > 256 {
        return Err(Errno::E2BIG);
    }
    for done in 0..count {
        let at = arg + 8 + u64::from(done) * 16;
        let mut entry: kvm_msr_entry = user::get(at)?;
        match msrs::feature(entry.index) {
            Some(value) => entry.data = value,
            None => return Ok(done as i32),
        }
        user::put(at, &entry)?;
    }
    Ok(count as i32)
}

fn attribute(machine: &Machine, attr: &kvm_device_attr) -> Answer<u64> {
    if attr.group != KVM_X86_GRP_SEV {
        // Group 0 holds the permitted XCR0 features.
        return if attr.group == 0 && attr.attr == 0 { Ok(3) } else { Err(Errno::ENXIO) };
    }
    if machine.xeon.is_some() {
        return Err(Errno::ENXIO);
    }
    let psp = machine.psp();
    match attr.attr {
        KVM_X86_SEV_VMSA_FEATURES => Ok(psp.platform().vmsa_features().0),
        KVM_X86_SNP_POLICY_BITS => Ok(psp.platform().policy_bits().0),
        KVM_X86_SEV_SNP_REQ_CERTS => Ok(machine.offers(VmKind::Snp).into()),
        _ => Err(Errno::ENXIO),
    }
}

/// An ioctl on `/dev/sev` (Linux drivers/crypto/ccp/sev-dev.c `sev_ioctl`). `writable` is how the
/// device was opened.
pub fn sev_ioctl(machine: &Machine, writable: bool, request: u64, arg: u64) -> Answer<i32> {
    if request != SEV_ISSUE_CMD {
        return Err(Errno::EINVAL);
    }
    let mut command: SevIssueCmd = user::get(arg)?;
    if command.cmd > platform_cmd::SNP_VLEK_LOAD {
        return Err(Errno::EINVAL);
    }
    let data = command.data;
    let result = match command.cmd {
        platform_cmd::PLATFORM_STATUS => user::put(data, &machine.psp().legacy_status()),
        platform_cmd::SNP_PLATFORM_STATUS => {
            Errno::require(data != 0).and_then(|()| user::put(data, &platform_status(machine)))
        }
        platform_cmd::GET_ID2 => get_id2(machine, data),
        platform_cmd::SNP_SET_CONFIG if data == 0 => Err(Errno::EINVAL),
        platform_cmd::SNP_COMMIT | platform_cmd::SNP_SET_CONFIG if !writable => Err(Errno::EPERM),
        // Everything is committed and nothing is masked already.
        platform_cmd::SNP_COMMIT => Ok(()),
        _ => Err(Errno::EINVAL),
    };
    command.error = if result.is_ok() { 0 } else { u32::MAX };
    user::put(arg, &command)?;
    result.map(|()| 0)
}

/// The firmware answers before the kernel has initialised SEV-SNP, too.
fn platform_status(machine: &Machine) -> SnpPlatformStatus {
    let status = machine.psp().platform_status();
    if machine.faults.initialised() {
        return status;
    }
    SnpPlatformStatus { state: 0, is_rmp_initialized: 0, ..status }
}

fn get_id2(machine: &Machine, address: u64) -> Answer {
    let mut request: SevGetId2 = user::get(address)?;
    let id = machine.psp().keys().chip_id;
    let (length, target) = (request.length as usize, request.address);
    request.length = id.len() as u32;
    if target != 0 {
        if length < id.len() {
            user::put(address, &request)?;
            return Err(Errno::EIO);
        }
        user::write(target, &id)?;
    }
    user::put(address, &request)
}

/// Opens `/dev/kvm`.
pub fn open_kvm(front: &Front, machine: Arc<Machine>) -> Answer<RawFd> {
    machine.faults.open_kvm()?;
    front.objects.publish(c"kvm", 0, |_| Ok(Object::System(machine)))
}

/// Opens `/dev/sev`.
pub fn open_sev(front: &Front, machine: Arc<Machine>, writable: bool) -> Answer<RawFd> {
    if machine.xeon.is_some() {
        return Err(Errno::ENOENT);
    }
    machine.faults.open_sev()?;
    front.objects.publish(c"sev", 0, |_| Ok(Object::Sev { machine, writable }))
}
