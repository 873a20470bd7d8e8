//! KVM_RUN: how it ends, and registers by the run page.

use kvm_bindings as kb;
use softkvm::kvm::{Errno, number as nr};

use crate::common::Ram;
use crate::{CODE, expect, guest};

const IMMEDIATE_EXIT: usize = 1;
const VALID: usize = 288;
const DIRTY: usize = 296;
const REGS: usize = 304;

#[test]
fn an_immediate_exit_leaves_the_last_exit_to_be_read() {
    // in al, 0x80; hlt
    let (_vm, _ram, cpu) = guest(&[0xe4, 0x80, 0xf4]);
    expect(&cpu, kb::KVM_EXIT_IO);
    cpu.put(IMMEDIATE_EXIT, &[1]);
    cpu.put(4096, &[7]);
    assert_eq!(cpu.run(), Err(Errno::EINTR));
    assert_eq!((cpu.reason(), cpu.regs().rax & 0xff), (kb::KVM_EXIT_IO, 7));
}

#[test]
fn an_answered_read_comes_before_an_interrupt() {
    // sti; in al, 0x80; hlt: the handler of vector 0x20 would read another port.
    let (_vm, ram, cpu) = guest(&[0xfb, 0xe4, 0x80, 0xf4]);
    ram.put(0x80, &[0x00, 0x11, 0, 0]);
    // mov bl, al; hlt
    ram.put(0x1100, &[0x88, 0xc3, 0xf4]);
    expect(&cpu, kb::KVM_EXIT_IO);
    cpu.put(4096, &[9]);
    let mut vector = 0x20u32;
    cpu.fd.with(nr::INTERRUPT, &mut vector).unwrap();
    expect(&cpu, kb::KVM_EXIT_HLT);
    let regs = cpu.regs();
    assert_eq!((regs.rip, regs.rbx & 0xff), (0x1103, 9), "the handler ran, after the IN");
}

#[test]
fn a_repeated_in_is_asked_for_in_one_exit() {
    // mov cx, 5; mov di, 0x2000; mov dx, 0x80; rep insb; hlt
    let (_vm, ram, cpu) = guest(&[0xb9, 5, 0, 0xbf, 0, 0x20, 0xba, 0x80, 0, 0xf3, 0x6c, 0xf4]);
    expect(&cpu, kb::KVM_EXIT_IO);
    assert_eq!((cpu.read::<4>(32), cpu.u32(36)), ([0, 1, 0x80, 0], 5));
    cpu.put(4096, b"abcde");
    expect(&cpu, kb::KVM_EXIT_HLT);
    assert_eq!(ram.get(0x2000, 6), b"abcde\0");
    assert_eq!((cpu.regs().rcx & 0xffff, cpu.regs().rdi & 0xffff), (0, 0x2005));
}

#[test]
fn a_repeated_in_is_not_asked_for_beyond_its_page() {
    let (_vm, ram, cpu) = guest(&[0xb9, 5, 0, 0xbf, 0xfe, 0x1f, 0xba, 0x80, 0, 0xf3, 0x6c, 0xf4]);
    expect(&cpu, kb::KVM_EXIT_IO);
    assert_eq!(cpu.u32(36), 2);
    cpu.put(4096, b"ab");
    expect(&cpu, kb::KVM_EXIT_IO);
    assert_eq!(cpu.u32(36), 3);
    cpu.put(4096, b"cde");
    expect(&cpu, kb::KVM_EXIT_HLT);
    assert_eq!(ram.get(0x1ffe, 5), b"abcde");
}

#[test]
fn registers_go_in_and_out_by_the_run_page() {
    // inc bx; out 0x80, al; hlt
    let (_vm, _ram, cpu) = guest(&[0x43, 0xe6, 0x80, 0xf4]);
    let rbx = REGS + 8;
    cpu.put(VALID, &[1]);
    expect(&cpu, kb::KVM_EXIT_IO);
    assert_eq!(cpu.u64(rbx), 1);
    let rip = REGS + 128;
    cpu.put(rip, &(CODE as u64).to_le_bytes());
    cpu.put(rbx, &[40]);
    cpu.put(DIRTY, &[1]);
    expect(&cpu, kb::KVM_EXIT_IO);
    assert_eq!((cpu.u64(rbx), cpu.u64(DIRTY)), (41, 0));
    // Without the mark what user space writes is overwritten; unknown groups are refused.
    cpu.put(rbx, &[77]);
    expect(&cpu, kb::KVM_EXIT_HLT);
    assert_eq!(cpu.u64(rbx), 41);
    cpu.put(VALID, &[9]);
    assert_eq!(cpu.run(), Err(Errno::EINVAL));
}

#[test]
fn an_event_that_meets_device_memory_is_an_internal_error() {
    // lidt [0x2000]; ud2, with the table in memory that nobody has
    let (_vm, ram, cpu) = guest(&[0x66, 0x0f, 0x01, 0x1e, 0x00, 0x20, 0x0f, 0x0b]);
    ram.put(0x2000, &[0xff, 0x0f, 0x00, 0x00, 0x20, 0x00]);
    expect(&cpu, kb::KVM_EXIT_INTERNAL_ERROR);
    assert_eq!((cpu.u32(32), cpu.u32(36)), (3, 5), "KVM_INTERNAL_ERROR_DELIVERY_EV");
    assert_eq!((cpu.u64(40) & 0x8000_07ff, cpu.u64(64)), (0x8000_0306, 0x20_0018));
}

#[test]
fn the_other_vendors_hypercall_is_replaced_unless_that_is_switched_off() {
    const QUIRK_FIX_HYPERCALL: u64 = 1 << 5;
    // mov eax, 11 (sched_yield); vmcall; hlt; on an AMD part
    let code = [0x66, 0xb8, 11, 0, 0, 0, 0x0f, 0x01, 0xc1, 0xf4];
    let (_vm, ram, cpu) = guest(&code);
    expect(&cpu, kb::KVM_EXIT_HLT);
    assert_eq!(cpu.regs().rax & 0xffff_ffff, 0);
    assert_eq!(ram.get(CODE + 6, 3), [0x0f, 0x01, 0xd9], "VMMCALL");
    let (vm, ram, cpu) = guest(&code);
    crate::enable(&vm, kb::KVM_CAP_DISABLE_QUIRKS2, QUIRK_FIX_HYPERCALL).unwrap();
    // The handler of #UD halts.
    ram.put(0x18, &[0x00, 0x11, 0, 0]);
    ram.put(0x1100, &[0xf4]);
    expect(&cpu, kb::KVM_EXIT_HLT);
    assert_eq!((cpu.regs().rip, ram.get(CODE + 6, 3)), (0x1101, vec![0x0f, 0x01, 0xc1]));
}

#[test]
fn a_sw_protected_vm_has_private_memory_by_attribute_alone() {
    use abi::kvm::{CreateGuestMemfd, KVM_MEMORY_ATTRIBUTE_PRIVATE, MemoryAttributes};
    let vm = crate::common::vm(1);
    let ram = Ram::new(0x10000);
    // mov al, [0x2000]; out 0x80, al; hlt
    ram.put(CODE, &[0xa0, 0x00, 0x20, 0xe6, 0x80, 0xf4]);
    ram.put(0x2000, &[1]);
    let mut gmem = CreateGuestMemfd { size: 0x10000, ..Default::default() };
    let memfd = vm.with(nr::CREATE_GUEST_MEMFD, &mut gmem).unwrap();
    let mut slot = crate::common::region(0, 0, &ram);
    slot.flags = nr::MEM_GUEST_MEMFD;
    slot.guest_memfd = memfd as u32;
    vm.with(nr::SET_USER_MEMORY_REGION2, &mut slot).unwrap();
    let cpu = crate::common::Cpu::new(&vm, 0);
    let outputs = |private: bool| {
        let attributes = if private { KVM_MEMORY_ATTRIBUTE_PRIVATE } else { 0 };
        let mut range = MemoryAttributes { address: 0x2000, size: 0x1000, attributes, flags: 0 };
        vm.with(nr::SET_MEMORY_ATTRIBUTES, &mut range).unwrap();
        cpu.real_mode(CODE as u64);
        expect(&cpu, kb::KVM_EXIT_IO);
        cpu.read::<1>(4096)[0]
    };
    assert_eq!([outputs(false), outputs(true), outputs(false)], [1, 0, 1]);
    // Private without a guest memory descriptor is a memory fault.
    vm.with(nr::SET_USER_MEMORY_REGION2, &mut kvm_slot(0, 0)).unwrap();
    vm.with(nr::SET_USER_MEMORY_REGION2, &mut crate::common::region(0, 0, &ram)).unwrap();
    let attributes = KVM_MEMORY_ATTRIBUTE_PRIVATE;
    let mut range = MemoryAttributes { address: 0x2000, size: 0x1000, attributes, flags: 0 };
    vm.with(nr::SET_MEMORY_ATTRIBUTES, &mut range).unwrap();
    cpu.real_mode(CODE as u64);
    assert_eq!(cpu.run(), Err(Errno::EFAULT));
    assert_eq!((cpu.reason(), cpu.u64(32), cpu.u64(40)), (kb::KVM_EXIT_MEMORY_FAULT, 8, 0x2000));
    // SAFETY: a descriptor of ours.
    #[allow(unsafe_code)]
    unsafe {
        libc::close(memfd)
    };
}

fn kvm_slot(slot: u32, size: u64) -> abi::kvm::UserMemoryRegion2 {
    abi::kvm::UserMemoryRegion2 { slot, memory_size: size, ..Default::default() }
}
