//! Numbers of vCPUs, the boot processor, what can be switched off and when.

use kvm_bindings as kb;
use softkvm::kvm::{Errno, number as nr};

use crate::common::{Cpu, Fd, kvm, machine, vm};
use crate::enable;

#[test]
fn vcpu_ids_can_be_limited_once() {
    let vm = vm(0);
    vm.value(nr::SET_BOOT_CPU_ID, 2).unwrap();
    let limit = |most| enable(&vm, kb::KVM_CAP_MAX_VCPU_ID, most);
    assert_eq!(limit(u64::from(nr::MAX_VCPU_IDS) + 1), Err(Errno::EINVAL));
    assert_eq!(limit(1), Err(Errno::EINVAL), "below the boot processor");
    assert_eq!((limit(3), limit(3), limit(4)), (Ok(0), Ok(0), Err(Errno::EINVAL)));
    assert_eq!(vm.value(nr::CREATE_VCPU, 3), Err(Errno::EINVAL));
    assert_eq!(vm.value(nr::CREATE_VCPU, 1 << 32), Err(Errno::EINVAL));
    drop(Cpu::new(&vm, 2));
    assert_eq!(vm.value(nr::SET_BOOT_CPU_ID, 0), Err(Errno::EBUSY));
}

#[test]
fn boot_processors_are_vcpu_ids() {
    let vm = vm(0);
    for id in [u64::from(nr::MAX_VCPU_IDS) + 1, 1 << 32] {
        assert_eq!(vm.value(nr::SET_BOOT_CPU_ID, id), Err(Errno::EINVAL), "{id}");
    }
}

#[test]
fn exits_are_disabled_before_there_are_vcpus_and_unhalt_goes_with_hlt() {
    const HLT: u64 = 2;
    const PV_FEATURES: u32 = 0x4000_0001;
    const UNHALT: u32 = 1 << 7;
    let machine = machine();
    let (kvm, vm) = (kvm(&machine), crate::common::vm_on(&machine, 0));
    assert_eq!(enable(&vm, kb::KVM_CAP_X86_DISABLE_EXITS, 1 << 20), Err(Errno::EINVAL));
    assert_eq!(enable(&vm, kb::KVM_CAP_X86_DISABLE_EXITS, HLT), Ok(0));
    let cpu = Cpu::new(&vm, 0);
    assert_eq!(enable(&vm, kb::KVM_CAP_X86_DISABLE_EXITS, HLT), Err(Errno::EINVAL));
    let mut table = cpuid_of(&kvm, nr::GET_SUPPORTED_CPUID);
    for e in table.iter_mut().filter(|e| e.function == PV_FEATURES) {
        e.eax |= UNHALT;
    }
    put_cpuid(&cpu.fd, &table);
    let got = cpuid_of(&cpu.fd, nr::GET_CPUID2);
    assert!(got.iter().any(|e| e.function == PV_FEATURES && e.eax & UNHALT == 0));
}

#[test]
fn cpuid_is_read_back_as_the_vcpu_has_it_now() {
    const APIC: u32 = 1 << 9;
    let machine = machine();
    let (kvm, vm) = (kvm(&machine), crate::common::vm_on(&machine, 0));
    vm.value(nr::CREATE_IRQCHIP, 0).unwrap();
    let cpu = Cpu::new(&vm, 0);
    put_cpuid(&cpu.fd, &cpuid_of(&kvm, nr::GET_SUPPORTED_CPUID));
    let apic = || {
        let table = cpuid_of(&cpu.fd, nr::GET_CPUID2);
        table.iter().find(|e| e.function == 1).unwrap().edx & APIC != 0
    };
    assert!(apic());
    crate::msrs::write(&cpu, 0x1b, 0xfee0_0100).unwrap();
    assert!(!apic(), "switched off");
}

fn cpuid_of(fd: &Fd, request: u64) -> Vec<kb::kvm_cpuid_entry2> {
    let mut buffer = vec![0u64; 1 + 128 * 5];
    buffer[0] = 128;
    fd.value(request, buffer.as_mut_ptr() as u64).unwrap();
    let count = buffer[0] as u32 as usize;
    let words = buffer[1..=count * 5].chunks(5);
    words
        .map(|w| kb::kvm_cpuid_entry2 {
            function: w[0] as u32,
            index: (w[0] >> 32) as u32,
            flags: w[1] as u32,
            eax: (w[1] >> 32) as u32,
            ebx: w[2] as u32,
            ecx: (w[2] >> 32) as u32,
            edx: w[3] as u32,
            ..Default::default()
        })
        .collect()
}

fn put_cpuid(fd: &Fd, table: &[kb::kvm_cpuid_entry2]) {
    let pair = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    let mut buffer = vec![table.len() as u64];
    for e in table {
        let words = [pair(e.function, e.index), pair(e.flags, e.eax), pair(e.ebx, e.ecx)];
        buffer.extend(words.into_iter().chain([e.edx.into(), 0]));
    }
    fd.value(nr::SET_CPUID2, buffer.as_ptr() as u64).unwrap();
}
