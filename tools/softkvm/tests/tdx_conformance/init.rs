//! Rows 6 to 25: INIT_VM, vCPUs and their order.

use abi::kvm_tdx::{CpuidEntry, TdxCmd, cmd};
use abi::tdx::{TdAttributes, TdxStatus, Xfam, operand};
use iced_x86::code_asm::*;
use kvm_bindings as kb;
use libc::{E2BIG, EEXIST, EINVAL, EIO, ENOSPC, ENOTTY, ENXIO};
use softkvm::kvm::{Errno, number as nr};

use crate::common::{Cpu, Fd};
use crate::harness::*;
use crate::td::{self, FATAL, InitVm, Left, TdGuest, TdVm, end, init_vcpu, report, set_cpuid};

/// Why INIT_VM fails: errno, and the module's status.
fn refusal(vm: &TdVm, change: impl FnOnce(&mut InitVm)) -> (i32, u64) {
    let mut init = InitVm::default();
    change(&mut init);
    let (errno, status) = vm.init(&init).unwrap_err();
    (errno.0, status.0)
}

fn entry(function: u32, registers: [u32; 4]) -> CpuidEntry {
    CpuidEntry {
        function,
        eax: registers[0],
        ebx: registers[1],
        ecx: registers[2],
        edx: registers[3],
        ..Default::default()
    }
}

fn sub(function: u32, index: u32, registers: [u32; 4]) -> CpuidEntry {
    CpuidEntry { index, flags: 1, ..entry(function, registers) }
}

fn invalid(detail: u32) -> u64 {
    TdxStatus::OPERAND_INVALID.with(detail).0
}

#[test]
fn row_06_vcpus_come_after_init_vm() {
    for vm in [TdVm::bare(&td::machine()), TdVm::prepared(&td::machine())] {
        assert_eq!(vm.fd.value(nr::CREATE_VCPU, 0), Err(Errno(EIO)));
    }
}

#[test]
fn row_07_the_irqchip_is_split() {
    let vm = TdVm::bare(&td::machine());
    assert_eq!(vm.fd.value(nr::CREATE_IRQCHIP, 0), Err(Errno(ENOTTY)));
    assert_eq!(vm.enable(kb::KVM_CAP_SPLIT_IRQCHIP, 24), Ok(0));
    assert_eq!(vm.enable(kb::KVM_CAP_SPLIT_IRQCHIP, 24), Err(Errno(EEXIST)));
    vm.init(&InitVm::default()).unwrap();
    let _cpu = Cpu::new(&vm.fd, 0);
    assert_eq!(vm.enable(kb::KVM_CAP_SPLIT_IRQCHIP, 24), Err(Errno(EEXIST)));
}

#[test]
fn row_08_vcpus_need_the_split_irqchip() {
    let vm = TdVm::bare(&td::machine());
    vm.init(&InitVm::default()).unwrap();
    assert_eq!(vm.fd.value(nr::CREATE_VCPU, 0), Err(Errno(EINVAL)));
    vm.enable(kb::KVM_CAP_SPLIT_IRQCHIP, 24).unwrap();
    drop(Cpu::new(&vm.fd, 0));
    assert_eq!(vm.fd.value(nr::CREATE_VCPU, 0), Err(Errno(EEXIST)));
}

#[test]
fn row_09_the_apic_bus_needs_an_apic() {
    let vm = TdVm::bare(&td::machine());
    let set = |ns| vm.enable(kb::KVM_CAP_X86_APIC_BUS_CYCLES_NS, ns);
    assert_eq!(set(40), Err(Errno(ENXIO)));
    vm.enable(kb::KVM_CAP_SPLIT_IRQCHIP, 24).unwrap();
    assert_eq!(set(0), Err(Errno(EINVAL)));
    assert_eq!(set(u64::MAX), Err(Errno(EINVAL)), "the timer would overflow");
    let get = || vm.fd.value(nr::CHECK_EXTENSION, kb::KVM_CAP_X86_APIC_BUS_CYCLES_NS.into());
    assert_eq!((get(), set(40), get()), (Ok(1), Ok(0), Ok(40)));
    vm.init(&InitVm::default()).unwrap();
    let _cpu = Cpu::new(&vm.fd, 0);
    assert_eq!(set(40), Err(Errno(EINVAL)));
}

#[test]
fn row_10_the_tsc_frequency_is_the_vms() {
    let vm = initialised();
    let cpu = vm.vcpu(0);
    assert_eq!(vm.fd.value(nr::SET_TSC_KHZ, 1_000_000), Err(Errno(EINVAL)));
    assert_eq!(cpu.fd.value(nr::SET_TSC_KHZ, 1_000_000), Err(Errno(EINVAL)));
}

#[test]
fn row_11_only_what_kvm_supports() {
    let vm = TdVm::prepared(&td::machine());
    for attributes in [TdAttributes::DEBUG, TdAttributes::PKS, TdAttributes(1 << 5)] {
        assert_eq!(refusal(&vm, |init| init.head.attributes = attributes), (EINVAL, 0));
    }
    for xfam in [1 << 4, 1 << 63] {
        assert_eq!(refusal(&vm, |init| init.head.xfam = Xfam(3 | xfam)), (EINVAL, 0));
    }
}

#[test]
fn row_12_states_that_the_part_does_not_have() {
    // The part has no AVX, so KVM's mask refuses before the module's rule could.
    let vm = TdVm::prepared(&td::machine());
    assert_eq!(vm.capabilities().0.supported_xfam, Xfam::FIXED1);
    assert_eq!(refusal(&vm, |init| init.head.xfam = Xfam(3 | 0xe0)), (EINVAL, 0));
}

#[test]
fn row_13_the_address_width_is_48_or_52() {
    let vm = TdVm::prepared(&td::machine());
    assert_eq!(refusal(&vm, |init| init.entries.clear()), (EINVAL, 0));
    assert_eq!(refusal(&vm, |init| init.entries[0].eax = 46 << 16), (EINVAL, 0));
    let mut wide = InitVm::default();
    wide.entries[0].eax = 52 << 16;
    let four_levels = machine_with("five_level_ept = true", "five_level_ept = false");
    let narrow = TdVm::prepared(&four_levels);
    assert_eq!(errno(narrow.init(&wide)), EINVAL);
    narrow.init(&InitVm::default()).unwrap();
    vm.init(&wide).unwrap();
}

#[test]
fn row_14_only_configurable_leaves_each_once() {
    let vm = TdVm::prepared(&td::machine());
    for extra in [
        vec![entry(2, [0; 4])],
        vec![entry(1, [0; 4]), entry(1, [0; 4])],
        vec![sub(7, 0, [0, 1 << 4, 0, 0])],
        vec![sub(7, 0, [0, 1 << 11, 0, 0])],
        vec![sub(7, 0, [0, 0, 1 << 5, 0])],
        vec![sub(4, 9, [0; 4])],
        vec![sub(1, 1, [0; 4])],
        // Without the flag that its index counts, an entry answers for all subleaves of its leaf, as more than it is.
        vec![entry(7, [0; 4])],
    ] {
        assert_eq!(refusal(&vm, |init| init.entries.extend(&extra)), (EINVAL, 0), "{extra:?}");
    }
    let mut good = InitVm::default();
    good.entries.extend([entry(1, [0; 4]), sub(7, 0, [0; 4]), sub(7, 1, [0; 4])]);
    vm.init(&good).unwrap();
}

#[test]
fn row_15_bits_that_cannot_be_configured() {
    let vm = TdVm::prepared(&td::machine());
    // VMX; x2APIC, which is the processor's own; another processor.
    for leaf_1 in [[0, 0, 1 << 5, 0], [0, 0, 1 << 21, 0], [0x806f9, 0, 0, 0]] {
        let found = refusal(&vm, |init| init.entries.push(entry(1, leaf_1)));
        assert_eq!(found, (EINVAL, invalid(operand::CPUID_CONFIG)));
        assert_eq!(found.1, 0xc000_0100_0000_0045);
    }
}

#[test]
fn row_16_the_tsc_frequency_is_in_the_modules_range() {
    let vm = TdVm::prepared(&td::machine());
    vm.fd.value(nr::SET_TSC_KHZ, 50_000).unwrap();
    assert_eq!(refusal(&vm, |_| {}), (EINVAL, invalid(operand::TSC_FREQUENCY)));
    vm.fd.value(nr::SET_TSC_KHZ, 100_000).unwrap();
    vm.init(&InitVm::default()).unwrap();
}

#[test]
fn row_17_the_structure_is_well_formed() {
    let vm = TdVm::prepared(&td::machine());
    assert_eq!(refusal(&vm, |init| init.head.reserved[3] = 1), (EINVAL, 0));
    assert_eq!(refusal(&vm, |init| init.head.cpuid.padding = 1), (EINVAL, 0));
    assert_eq!(refusal(&vm, |init| init.head.cpuid.nent = 257), (E2BIG, 0));
    let words = [0u64; 64];
    let (answer, _) = td::command(&vm.fd, cmd::INIT_VM, 1, words.as_ptr() as u64);
    assert_eq!(answer, Err(Errno(EINVAL)));
}

#[test]
fn row_18_init_vm_succeeds_once() {
    let vm = TdVm::prepared(&td::machine());
    assert_eq!(refusal(&vm, |init| init.entries[0].eax = 46 << 16), (EINVAL, 0));
    let late = refusal(&vm, |init| init.entries.push(entry(1, [0, 0, 1 << 5, 0])));
    assert_eq!(late, (EINVAL, invalid(operand::CPUID_CONFIG)));
    vm.init(&InitVm::default()).unwrap();
    assert_eq!(refusal(&vm, |_| {}), (EINVAL, 0));
    // The state is looked at before vCPUs, which cannot come before it (row 6): EBUSY is never met.
    let _cpu = vm.vcpu(0);
    assert_eq!(refusal(&vm, |_| {}), (EINVAL, 0));
}

#[test]
fn row_20_key_identifiers_run_out() {
    let machine = machine_with("hkids = 63", "hkids = 2");
    let start = || {
        let vm = TdVm::prepared(&machine);
        vm.init(&InitVm::default()).map(|()| vm)
    };
    let (first, _second) = (start().unwrap(), start().unwrap());
    assert_eq!(errno(start().map(drop)), ENOSPC);
    drop(first);
    start().unwrap();
}

#[test]
fn row_21_finalize_needs_a_td_with_vcpus() {
    let vm = TdVm::prepared(&td::machine());
    assert_eq!(errno(vm.finalize()), EINVAL);
    vm.init(&InitVm::default()).unwrap();
    // A vCPU that exists is not enough.
    let cpu = vm.vcpu(0);
    assert_eq!(vm.finalize(), Err((Errno(EIO), TdxStatus::NO_VCPUS)));
    for fd in [&vm.fd, &cpu.fd] {
        for request in [nr::CHECK_EXTENSION, nr::MEMORY_ENCRYPT_OP, nr::RUN, nr::NMI] {
            assert_eq!(fd.value(request, 0), Err(Errno(EIO)), "{request:#x}");
        }
    }
    assert_eq!(vm.fd.value(nr::CREATE_VCPU, 1), Err(Errno(EIO)));
}

#[test]
fn row_22_init_vcpu_needs_x2apic() {
    let vm = initialised();
    let cpu = Cpu::new(&vm.fd, 0);
    assert_eq!(errno(init_vcpu(&cpu, 0)), EINVAL);
    let mut table = td::td_cpuid(&cpu);
    table.iter_mut().filter(|e| e.function == 1).for_each(|e| e.ecx &= !(1 << 21));
    set_cpuid(&cpu, &table);
    assert_eq!(errno(init_vcpu(&cpu, 0)), EINVAL);
    set_cpuid(&cpu, &td::td_cpuid(&cpu));
    assert_eq!(td::command(&cpu.fd, cmd::INIT_VCPU, 1, 0).0, Err(Errno(EINVAL)));
    init_vcpu(&cpu, 0).unwrap();
    assert_eq!(errno(init_vcpu(&cpu, 0)), EINVAL);
}

#[test]
fn row_23_vcpus_are_numbered_as_they_are_initialised() {
    let vm = initialised();
    let cpus: Vec<Cpu> = [2, 0, 1].map(|id| vm.vcpu(id)).into();
    let data = |index: u64| 0x1111_2222_3333_4444 + index;
    for (cpu, index) in cpus.iter().zip(0..) {
        init_vcpu(cpu, data(index)).unwrap();
    }
    let guest = TdGuest::unfinished(
        vm,
        cpus,
        |_| {},
        |a| {
            a.mov(r9, rcx).unwrap();
            for register in [rsi, r9, r8] {
                report(a, register);
            }
            end(a, 0);
        },
    );
    guest.vm.finalize().unwrap();
    for index in 0..3 {
        for expected in [index, data(index), data(index)] {
            assert_eq!(guest.run_cpu(index as usize), Left::Report(expected));
        }
        assert_eq!(guest.run_cpu(index as usize), FATAL);
    }
}

#[test]
fn row_24_get_cpuid_while_the_td_is_built() {
    let vm = initialised();
    let cpu = Cpu::new(&vm.fd, 0);
    let ask = |at| td::command(&cpu.fd, cmd::GET_CPUID, 0, at).0;
    let (answer, count, entries) = td::cpuid_list(ask);
    assert_eq!(answer, Ok(0));
    let mut small = [1u64; 6];
    assert_eq!(ask(small.as_mut_ptr() as u64), Err(Errno(E2BIG)));
    assert_eq!(small[0], u64::from(count));
    let of = |leaf| entries.iter().find(|e| e.function == leaf);
    let signature = of(0x21).unwrap();
    assert_eq!([signature.ebx, signature.ecx, signature.edx], abi::tdx::CPUID_SIGNATURE);
    assert_eq!(of(0x8000_0008).unwrap().eax >> 16 & 0xff, 48);
    for absent in [2, 9, 0x16, 0x4000_0000] {
        assert_eq!(of(absent), None, "{absent:#x}");
    }
    set_cpuid(&cpu, &td::td_cpuid(&cpu));
    init_vcpu(&cpu, 0).unwrap();
    vm.finalize().unwrap();
    assert_eq!(td::cpuid_list(ask).0, Err(Errno(EINVAL)));
}

#[test]
fn row_25_registers_are_out_of_reach() {
    let vm = initialised();
    let cpu = vm.vcpu(0);
    init_vcpu(&cpu, 0).unwrap();
    let mut room = [0u64; 1024];
    let at = room.as_mut_ptr() as u64;
    for request in [
        nr::GET_REGS,
        nr::SET_REGS,
        nr::GET_SREGS,
        nr::SET_SREGS,
        nr::GET_SREGS2,
        nr::GET_FPU,
        nr::GET_LAPIC,
        nr::GET_XSAVE,
        nr::GET_XSAVE2,
        nr::GET_XCRS,
        nr::GET_DEBUGREGS,
        nr::SET_GUEST_DEBUG,
    ] {
        assert_eq!(cpu.fd.value(request, at), Err(Errno(EINVAL)), "{request:#x}");
    }
    assert_eq!(msr(&cpu.fd, nr::GET_MSRS, 0x4b56_4d05), Ok(1));
    for read_only in [0x1b, 0x3a, 0xc000_0080] {
        assert_eq!(msr(&cpu.fd, nr::GET_MSRS, read_only), Ok(1), "{read_only:#x}");
        assert_eq!(msr(&cpu.fd, nr::SET_MSRS, read_only), Ok(0), "{read_only:#x}");
    }
    let mut feature_control = [1u64, 0x3a, 0];
    cpu.fd.with(nr::GET_MSRS, &mut feature_control).unwrap();
    assert_eq!(feature_control[2], 1, "locked");
    assert_eq!(msr(&cpu.fd, nr::GET_MSRS, 0x4b56_4d00), Ok(0), "kvmclock");
    assert_eq!(cpu.fd.value(nr::SMI, 0), Err(Errno(ENOTTY)));
    assert_eq!(cpu.fd.value(nr::NMI, 0), Ok(0));
    let mut state = u32::MAX;
    assert_eq!(cpu.fd.with(nr::GET_MP_STATE, &mut state), Ok(0));
    assert_eq!(state, nr::mp_state::RUNNABLE);
}

/// GET_MSRS or SET_MSRS of one register.
fn msr(fd: &Fd, request: u64, index: u32) -> Result<i32, Errno> {
    let mut list = [1, u64::from(index), 0];
    fd.with(request, &mut list)
}

#[test]
fn row_68_the_status_is_written_back_by_commands_of_the_vm() {
    let vm = initialised();
    let cpu = vm.vcpu(0);
    let mark = TdxCmd { hw_error: TdxStatus(0x55), ..Default::default() };
    // What is not 0 is refused and stays.
    for id in [cmd::INIT_VCPU, cmd::INIT_MEM_REGION, cmd::GET_CPUID] {
        assert_eq!(
            raw(&cpu.fd, TdxCmd { id, ..mark }),
            (Err(Errno(EINVAL)), TdxCmd { id, ..mark })
        );
    }
    for id in [cmd::CAPABILITIES, cmd::INIT_VM, cmd::FINALIZE_VM] {
        assert_eq!(raw(&vm.fd, TdxCmd { id, ..mark }), (Err(Errno(EINVAL)), TdxCmd { id, ..mark }));
    }
    // Commands of the other descriptor.
    for id in [cmd::CAPABILITIES, cmd::INIT_VM, cmd::FINALIZE_VM, 6] {
        assert_eq!(td::command(&cpu.fd, id, 0, 0).0, Err(Errno(EINVAL)));
    }
    for id in [cmd::INIT_VCPU, cmd::INIT_MEM_REGION, cmd::GET_CPUID, 6] {
        assert_eq!(td::command(&vm.fd, id, 0, 0).0, Err(Errno(EINVAL)));
    }
    let (answer, command) = td::command(&vm.fd, cmd::FINALIZE_VM, 0, 0);
    assert_eq!((answer, command.hw_error), (Err(Errno(EIO)), TdxStatus::NO_VCPUS));
    let other = TdVm::prepared(&td::machine());
    assert_eq!(
        refusal(&other, |init| init.entries.push(entry(1, [0, 0, 1 << 5, 0]))).1,
        invalid(operand::CPUID_CONFIG)
    );
}
