//! What an exit costs a guest without protection, by its own time stamp counter.

use kvm_bindings as kb;
use softkvm::kvm::number as nr;
use softkvm::kvm::profile::{DEFAULT, Profile};

use crate::CODE;
use crate::common::{Cpu, Ram, region, vm};

/// Instructions around an operation take a cycle each, and CPUID itself a hundred.
const FEW: u64 = 200;

/// Cycles of the profile's costs.
fn costs(names: &[&str]) -> u64 {
    let profile = Profile::load(DEFAULT).unwrap();
    let ns: u64 = names.iter().map(|name| profile.costs[*name].ns).sum();
    ns * u64::from(profile.tsc_khz) / 1_000_000
}

/// Cycles that an instruction takes, in a guest with KVM's interrupt controllers.
fn cycles(instruction: &[u8]) -> u64 {
    let vm = vm(0);
    vm.value(nr::CREATE_IRQCHIP, 0).unwrap();
    let ram = Ram::new(0x10000);
    // rdtsc; mov esi, eax; (instruction); rdtsc; sub eax, esi; mov edi, eax; out 0x81, al
    let before = [0x0f, 0x31, 0x66, 0x89, 0xc6];
    let after = [0x0f, 0x31, 0x66, 0x29, 0xf0, 0x66, 0x89, 0xc7, 0xe6, 0x81];
    ram.put(CODE, &[&before[..], instruction, &after].concat());
    vm.with(nr::SET_USER_MEMORY_REGION2, &mut region(0, 0, &ram)).unwrap();
    let cpu = Cpu::new(&vm, 0);
    cpu.real_mode(CODE as u64);
    loop {
        assert_eq!(cpu.run(), Ok(0));
        // Direction, size, port.
        if cpu.reason() == kb::KVM_EXIT_IO && cpu.read::<4>(32) == [1, 1, 0x81, 0] {
            return cpu.regs().rdi & 0xffff_ffff;
        }
    }
}

#[test]
fn every_exit_is_charged_for_once() {
    for (instruction, names) in [
        // nop; cpuid; mov ecx, 0x1b and rdmsr
        (&[0x90][..], &[][..]),
        (&[0x66, 0x31, 0xc0, 0x0f, 0xa2], &["exit"]),
        (&[0x66, 0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32], &["exit"]),
        // in al, 0x21 and out 0x21, al: KVM's interrupt controller; in al, 0x80 and out 0x80, al: user space's.
        (&[0xe4, 0x21], &["exit", "port_io"]),
        (&[0xe6, 0x21], &["exit", "port_io"]),
        (&[0xe4, 0x80], &["exit", "port_io", "user_exit"]),
        (&[0xe6, 0x80], &["exit", "port_io", "user_exit"]),
        // xor ax, ax; mov es, ax; mov al, es:[0xfff0] with no memory at 0xffff0: user space's.
        (&[0xb8, 0x00, 0xf0, 0x8e, 0xc0, 0x26, 0xa0, 0xf0, 0xff], &["exit", "user_exit"]),
    ] {
        let (cycles, expected) = (cycles(instruction), costs(names));
        assert!(
            (expected..=expected + FEW).contains(&cycles),
            "{instruction:x?}: {cycles} cycles, expected {expected} for {names:?}"
        );
    }
}
