//! Rows 1 to 5: what user space can find out.

use abi::kvm::KVM_CAP_VM_TYPES;
use abi::kvm_tdx::{KVM_X86_TDX_VM, TdxCmd, cmd};
use abi::tdx::{TdAttributes, TdxStatus};
use libc::{E2BIG, EFAULT, EINVAL, ENOTTY};
use softkvm::kvm::{Errno, number as nr};

use crate::common::{self, Cpu, Fd};
use crate::harness::*;
use crate::td::{self, TdGuest, TdVm, end};

/// Entries of module 1.5.05.
const ENTRIES: u32 = 18;

#[test]
fn row_01_the_vm_type_says_whether_there_is_tdx() {
    let intel = common::kvm(&td::machine());
    let types = intel.value(nr::CHECK_EXTENSION, KVM_CAP_VM_TYPES.into()).unwrap();
    assert_eq!(types >> KVM_X86_TDX_VM & 1, 1);
    drop(Fd(intel.value(nr::CREATE_VM, KVM_X86_TDX_VM).unwrap()));
    let amd = common::kvm(&common::machine());
    let types = amd.value(nr::CHECK_EXTENSION, KVM_CAP_VM_TYPES.into()).unwrap();
    assert_eq!(types >> KVM_X86_TDX_VM & 1, 0);
    assert_eq!(amd.value(nr::CREATE_VM, KVM_X86_TDX_VM), Err(Errno(EINVAL)));
}

#[test]
fn row_02_other_vms_have_no_tdx_commands() {
    let vm = common::vm_on(&td::machine(), 0);
    let cpu = Cpu::new(&vm, 0);
    let command = |fd: &Fd, id| td::command(fd, id, 0, 0).0;
    assert_eq!(command(&vm, cmd::CAPABILITIES), Err(Errno(ENOTTY)));
    assert_eq!(command(&cpu.fd, cmd::INIT_VCPU), Err(Errno(EINVAL)));
}

#[test]
fn row_03_capabilities_need_room() {
    let vm = TdVm::bare(&td::machine());
    assert_eq!(capabilities(&vm, 0), (Err(Errno(E2BIG)), 0));
    assert_eq!(capabilities(&vm, ENTRIES - 1), (Err(Errno(E2BIG)), ENTRIES - 1));
    assert_eq!(capabilities(&vm, ENTRIES), (Ok(0), ENTRIES));
    assert_eq!(capabilities(&vm, 256), (Ok(0), ENTRIES));
}

#[test]
fn row_04_capabilities_are_asked_for_properly() {
    let vm = TdVm::bare(&td::machine());
    let good = TdxCmd { id: cmd::CAPABILITIES, data: 8, ..Default::default() };
    for (command, errno) in [
        (TdxCmd { flags: 1, ..good }, EINVAL),
        (TdxCmd { hw_error: TdxStatus(1), ..good }, EINVAL),
        (good, EFAULT),
    ] {
        assert_eq!(raw(&vm.fd, command).0, Err(Errno(errno)), "{command:?}");
    }
    assert_eq!(vm.fd.value(nr::MEMORY_ENCRYPT_OP, 8), Err(Errno(EFAULT)));
}

#[test]
fn row_05_capabilities_stay() {
    let guest = TdGuest::new(|a| end(a, 0));
    let (head, entries) = guest.vm.capabilities();
    assert_eq!(head.supported_attrs, TdAttributes::SEPT_VE_DISABLE);
    assert_eq!(head.user_tdvmcallinfo_1_r11, 2, "SetupEventNotifyInterrupt");
    let others = [
        head.kernel_tdvmcallinfo_1_r11,
        head.kernel_tdvmcallinfo_1_r12,
        head.user_tdvmcallinfo_1_r12,
    ];
    assert_eq!(others, [0; 3]);
    let of = |leaf, index| entries.iter().find(|e| (e.function, e.index) == (leaf, index)).unwrap();
    assert_eq!(of(0x8000_0008, 0).eax >> 16 & 0xff, 0xff);
    assert_eq!(of(7, 0).ebx & (1 << 4 | 1 << 11), 0, "HLE, RTM");
    assert_eq!(of(7, 0).ecx & 1 << 5, 0, "WAITPKG");
    assert!(entries.iter().all(|e| e.flags == 0 && e.index != u32::MAX));
}
