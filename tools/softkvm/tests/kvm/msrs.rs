//! Model-specific registers, of user space and of the guest.

use kvm_bindings as kb;
use softkvm::kvm::number as nr;

use crate::common::Cpu;
use crate::{enable, expect, guest};

const TSC: u32 = 0x10;
const TSC_ADJUST: u32 = 0x3b;
const HWCR: u32 = 0xc001_0015;
const SFMASK: u32 = 0xc000_0084;

pub fn read(cpu: &Cpu, index: u32) -> Option<u64> {
    let mut request = [1u64, index.into(), 0];
    (cpu.fd.with(nr::GET_MSRS, &mut request) == Ok(1)).then_some(request[2])
}

pub fn write(cpu: &Cpu, index: u32, value: u64) -> Option<()> {
    let mut request = [1u64, index.into(), value];
    (cpu.fd.with(nr::SET_MSRS, &mut request) == Ok(1)).then_some(())
}

/// mov ecx, index; mov eax, low; mov edx, high; wrmsr
fn wrmsr(index: u32, value: u64) -> Vec<u8> {
    let mut code = Vec::new();
    for (opcode, word) in [(0xb9, index), (0xb8, value as u32), (0xba, (value >> 32) as u32)] {
        code.extend([0x66, opcode]);
        code.extend(word.to_le_bytes());
    }
    code.extend([0x0f, 0x30]);
    code
}

#[test]
fn hwcr_has_two_bits_and_three_that_are_forgotten() {
    let (_vm, _ram, cpu) = guest(&[]);
    assert_eq!(read(&cpu, HWCR), Some(0));
    for bit in 0..64 {
        let keeps = matches!(bit, 18 | 24);
        let taken = keeps || matches!(bit, 3 | 6 | 8);
        assert_eq!(write(&cpu, HWCR, 1 << bit).is_some(), taken, "{bit}");
        assert_eq!(read(&cpu, HWCR), Some(u64::from(keeps) << bit));
        write(&cpu, HWCR, 0).unwrap();
    }
}

#[test]
fn feature_registers_start_full_unless_that_is_switched_off() {
    const QUIRK_STUFF_MSRS: u64 = 1 << 8;
    let (_vm, _ram, cpu) = guest(&[]);
    assert_eq!((read(&cpu, 0x8b), read(&cpu, 0xce)), (Some(0x0100_0065), Some(1 << 31)));
    let vm = crate::common::vm(0);
    enable(&vm, kb::KVM_CAP_DISABLE_QUIRKS2, QUIRK_STUFF_MSRS).unwrap();
    let cpu = Cpu::new(&vm, 0);
    assert_eq!((read(&cpu, 0x8b), read(&cpu, 0xce)), (Some(0), Some(0)));
    assert_eq!(write(&cpu, 0x140, 1), None, "no CPUID faulting");
}

#[test]
fn tsc_and_adjust_move_together_for_the_guest_and_apart_for_user_space() {
    const STEP: u64 = 1 << 40;
    let near = |value: Option<u64>, wanted: u64| value.unwrap().wrapping_sub(wanted) < 1 << 30;
    let mut code = wrmsr(TSC, STEP);
    code.push(0xf4);
    let (_vm, _ram, cpu) = guest(&code);
    expect(&cpu, kb::KVM_EXIT_HLT);
    assert!(near(read(&cpu, TSC), STEP));
    assert!(read(&cpu, TSC_ADJUST).unwrap().abs_diff(STEP) < 1 << 30);
    let adjust = read(&cpu, TSC_ADJUST);
    write(&cpu, TSC, 5 * STEP).unwrap();
    assert!(near(read(&cpu, TSC), 5 * STEP));
    assert_eq!(read(&cpu, TSC_ADJUST), adjust);
    write(&cpu, TSC_ADJUST, 3).unwrap();
    assert!(near(read(&cpu, TSC), 5 * STEP));
    assert_eq!(read(&cpu, TSC_ADJUST), Some(3));
}

#[test]
fn a_new_vcpu_and_a_write_of_zero_join_the_counters_of_the_others() {
    const STEP: u64 = 1 << 40;
    let (vm, _ram, cpu) = guest(&[]);
    write(&cpu, TSC, STEP).unwrap();
    let other = Cpu::new(&vm, 1);
    assert_eq!(read(&other, TSC), read(&cpu, TSC));
    write(&other, TSC, 9 * STEP).unwrap();
    write(&other, TSC, 0).unwrap();
    assert!(read(&other, TSC).unwrap() >= 9 * STEP, "zero is no value but a wish");
}

#[test]
fn a_filter_reaches_registers_that_the_processor_holds_and_its_answer_stands() {
    const FILTER: u64 = 4;
    // mov ecx, SFMASK; rdmsr; hlt
    let mut code = vec![0x66, 0xb9];
    code.extend(SFMASK.to_le_bytes());
    code.extend([0x0f, 0x32, 0xf4]);
    let (vm, _ram, cpu) = guest(&code);
    enable(&vm, kb::KVM_CAP_X86_USER_SPACE_MSR, FILTER).unwrap();
    let denied = 0u64;
    let mut filter = kb::kvm_msr_filter::default();
    filter.ranges[0].flags = 1;
    filter.ranges[0].nmsrs = 1;
    filter.ranges[0].base = SFMASK;
    filter.ranges[0].bitmap = (&raw const denied).cast_mut().cast();
    vm.with(nr::X86_SET_MSR_FILTER, &mut filter).unwrap();
    expect(&cpu, kb::KVM_EXIT_X86_RDMSR);
    assert_eq!((cpu.u32(40), cpu.u32(44)), (FILTER as u32, SFMASK));
    cpu.put(48, &0x77u64.to_le_bytes());
    vm.with(nr::X86_SET_MSR_FILTER, &mut kb::kvm_msr_filter::default()).unwrap();
    expect(&cpu, kb::KVM_EXIT_HLT);
    assert_eq!(cpu.regs().rax, 0x77);
}

#[test]
fn paravirtual_registers_go_with_their_features_when_that_is_enforced() {
    const SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
    let (_vm, _ram, cpu) = guest(&[]);
    assert_eq!(read(&cpu, SYSTEM_TIME_NEW), Some(0));
    enable(&cpu.fd, kb::KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1).unwrap();
    assert_eq!(read(&cpu, SYSTEM_TIME_NEW), None, "its CPUID is empty");
}

#[test]
fn user_space_reaches_registers_that_the_guest_does_not_have() {
    const TSC_AUX: u32 = 0xc000_0103;
    let (_vm, _ram, cpu) = guest(&[]);
    write(&cpu, TSC_AUX, 0x1234).unwrap();
    assert_eq!(read(&cpu, TSC_AUX), Some(0x1234));
}
