//! What the rows have in common beyond TDs and their guests.

use std::sync::Arc;

use abi::kvm_tdx::{TdxCapabilities, TdxCmd, TdxExit, cmd};
use abi::tdx::{TdReport, TdxStatus};
use iced_x86::code_asm::*;
use kvm_bindings as kb;
use softkvm::kvm::{Answer, Machine, number as nr};
use zerocopy::{FromZeros, IntoBytes};

use crate::common::{Cpu, Fd};
use crate::td::{self, DATA, InitVm, Left, Refused, SHARED, TdGuest, TdVm, tdcall};

/// OPERAND_INVALID of the module without details.
pub const INVALID: u64 = TdxStatus::OPERAND_INVALID.0;
/// A page that guests and the host share in [`with_shared_page`].
pub const PAGE: u64 = 0x20_0000;

/// A machine whose profile differs from the built-in one: `line` becomes `other`.
pub fn machine_with(line: &str, other: &str) -> Arc<Machine> {
    let text = include_str!("../../profiles/xeon-spr.toml");
    assert!(text.contains(line), "{line}");
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), text.replace(line, other)).unwrap();
    td::machine_of(file.path().to_str().unwrap())
}

/// A VM after INIT_VM.
pub fn initialised() -> TdVm {
    let vm = TdVm::prepared(&td::machine());
    vm.init(&InitVm::default()).unwrap();
    vm
}

/// KVM_MEMORY_ENCRYPT_OP as it is, with what it leaves of the structure.
pub fn raw(fd: &Fd, mut command: TdxCmd) -> (Answer<i32>, TdxCmd) {
    let answer = fd.with(nr::MEMORY_ENCRYPT_OP, &mut command);
    (answer, command)
}

/// KVM_TDX_CAPABILITIES with room for `nent` entries; `nent` as it comes back.
pub fn capabilities(vm: &TdVm, nent: u32) -> (Answer<i32>, u32) {
    let mut buffer = vec![0u64; (size_of::<TdxCapabilities>() + 256 * 40) / 8];
    buffer[256] = nent.into();
    let (answer, _) = td::command(&vm.fd, cmd::CAPABILITIES, 0, buffer.as_mut_ptr() as u64);
    (answer, buffer[256] as u32)
}

/// Errno of a refused command whose status stays 0.
pub fn errno<T: std::fmt::Debug>(answer: Result<T, Refused>) -> i32 {
    let (errno, status) = answer.unwrap_err();
    assert_eq!(status, TdxStatus(0));
    errno.0
}

/// The `tdx` member of a vCPU's run page.
pub fn tdx_exit(cpu: &Cpu) -> TdxExit {
    let mut exit = TdxExit::new_zeroed();
    exit.as_mut_bytes().copy_from_slice(&cpu.read::<{ size_of::<TdxExit>() }>(32));
    exit
}

/// The fields of KVM_EXIT_MEMORY_FAULT: flags, address, size.
pub fn memory_fault(cpu: &Cpu) -> [u64; 3] {
    assert_eq!(cpu.reason(), kb::KVM_EXIT_MEMORY_FAULT);
    [32, 40, 48].map(|at| cpu.u64(at))
}

/// KVM_SIGNAL_MSI to one vCPU.
pub fn signal_msi(vm: &TdVm, apic: u32, vector: u8) {
    let mut msi = kb::kvm_msi {
        address_lo: 0xfee0_0000 | apic << 12,
        data: vector.into(),
        ..Default::default()
    };
    assert_eq!(vm.fd.with(nr::SIGNAL_MSI, &mut msi), Ok(1));
}

/// [`PAGE`] becomes shared memory.
pub fn with_shared_page(guest: TdGuest) -> TdGuest {
    guest.vm.attributes(PAGE, 0x1000, 0).unwrap();
    guest
}

/// TDG.MR.REPORT into [`PAGE`], with the 64 bytes at the start of [`DATA`].
pub fn report_to_page(a: &mut CodeAssembler) {
    a.mov(rcx, PAGE | SHARED).unwrap();
    a.mov(rdx, DATA).unwrap();
    a.xor(r8d, r8d).unwrap();
    a.mov(eax, 4u32).unwrap();
    tdcall(a);
}

/// The report that [`report_to_page`] has left.
pub fn report_of(guest: &TdGuest) -> TdReport {
    let mut report = TdReport::new_zeroed();
    let bytes = guest.ram.get(PAGE as usize, size_of::<TdReport>());
    report.as_mut_bytes().copy_from_slice(&bytes);
    report
}

/// Runs the first vCPU to its next report.
pub fn next_report(guest: &TdGuest) -> u64 {
    match guest.run() {
        Left::Report(value) => value,
        other => panic!("{other:?}"),
    }
}
