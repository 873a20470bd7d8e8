//! What the kernel's KVM selftests ask of the front end beyond confidential VMs: exits, registers, MSRs, memory, eventfds.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod costs;
mod limits;
mod memory;
mod msrs;
mod run;
mod writes;

use common::{Cpu, Fd, Ram, region, vm};
use kvm_bindings as kb;
use softkvm::kvm::number as nr;

/// Where the guests' code lies.
const CODE: usize = 0x1000;

/// A VM of a kind with 64 KiB of memory in slot 0 and one vCPU in real mode.
fn guest_of(kind: u64, code: &[u8]) -> (Fd, Ram, Cpu) {
    let vm = vm(kind);
    let ram = Ram::new(0x10000);
    ram.put(CODE, code);
    vm.with(nr::SET_USER_MEMORY_REGION2, &mut region(0, 0, &ram)).unwrap();
    let cpu = Cpu::new(&vm, 0);
    cpu.real_mode(CODE as u64);
    (vm, ram, cpu)
}

fn guest(code: &[u8]) -> (Fd, Ram, Cpu) {
    guest_of(0, code)
}

fn enable(fd: &Fd, cap: u32, arg: u64) -> softkvm::kvm::Answer<i32> {
    let mut cap = kb::kvm_enable_cap { cap, ..Default::default() };
    cap.args[0] = arg;
    fd.with(nr::ENABLE_CAP, &mut cap)
}

/// Runs until the exit of this kind, and expects no other.
fn expect(cpu: &Cpu, reason: u32) {
    assert_eq!(cpu.run(), Ok(0));
    assert_eq!(cpu.reason(), reason);
}
