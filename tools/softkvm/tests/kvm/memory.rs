//! The dirty log, and what can be done with guest memory descriptors.

use kvm_bindings as kb;
use softkvm::kvm::{Errno, front, number as nr};

use crate::common::{Cpu, Fd, Ram, region};
use crate::{CODE, enable, expect, guest};

/// Writes to 0x3000 and 0x5000, reads 0x6000, leaves by a port; again and again.
const WRITER: &[u8] = &[
    0xa2, 0x00, 0x30, // mov [0x3000], al
    0xa2, 0x00, 0x50, // mov [0x5000], al
    0xa0, 0x00, 0x60, // mov al, [0x6000]
    0xe6, 0x80, // out 0x80, al
    0xeb, 0xf3, // jmp to the start
];

fn log_dirty(vm: &Fd, ram: &Ram) {
    let mut slot = region(0, 0, ram);
    slot.flags = nr::MEM_LOG_DIRTY;
    vm.with(nr::SET_USER_MEMORY_REGION2, &mut slot).unwrap();
}

fn get_log(vm: &Fd) -> Result<u64, Errno> {
    let mut bits = 0u64;
    let mut request = [0, &raw mut bits as u64];
    vm.with(nr::GET_DIRTY_LOG, &mut request).map(|_| bits)
}

fn clear_log(vm: &Fd, first: u64, count: u64, bits: u64) -> Result<i32, Errno> {
    let mut request = [count << 32, first, &raw const bits as u64];
    vm.with(nr::CLEAR_DIRTY_LOG, &mut request)
}

fn write_again(cpu: &Cpu) {
    expect(cpu, kb::KVM_EXIT_IO);
}

#[test]
fn the_dirty_log_names_pages_written_since_it_was_read() {
    let (vm, ram, cpu) = guest(WRITER);
    assert_eq!(get_log(&vm), Err(Errno::ENOENT));
    write_again(&cpu);
    log_dirty(&vm, &ram);
    assert_eq!(get_log(&vm), Ok(0), "what came before is not logged");
    write_again(&cpu);
    assert_eq!((get_log(&vm), get_log(&vm)), (Ok(0x28), Ok(0)));
    write_again(&cpu);
    assert_eq!(get_log(&vm), Ok(0x28));
}

#[test]
fn a_log_under_manual_protection_is_cleared_by_user_space() {
    let (vm, ram, cpu) = guest(WRITER);
    assert_eq!(enable(&vm, kb::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 2), Err(Errno::EINVAL));
    enable(&vm, kb::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 1).unwrap();
    log_dirty(&vm, &ram);
    write_again(&cpu);
    assert_eq!((get_log(&vm), get_log(&vm)), (Ok(0x28), Ok(0x28)));
    assert_eq!(clear_log(&vm, 1, 15, 0), Err(Errno::EINVAL), "not a multiple of 64");
    assert_eq!(clear_log(&vm, 0, 17, 0), Err(Errno::EINVAL), "more than there are");
    assert_eq!(clear_log(&vm, 0, 16, 0x08), Ok(0));
    assert_eq!(get_log(&vm), Ok(0x20));
    write_again(&cpu);
    assert_eq!(get_log(&vm), Ok(0x28));
}

#[test]
fn a_log_can_start_with_everything() {
    let (vm, ram, _cpu) = guest(WRITER);
    enable(&vm, kb::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3).unwrap();
    log_dirty(&vm, &ram);
    assert_eq!(get_log(&vm), Ok(0xffff));
}

#[test]
fn guest_memory_is_mapped_only_where_it_is_shared() {
    use abi::kvm::CreateGuestMemfd;
    let (vm, _ram, _cpu) = guest(&[]);
    let size_of_mapped = |flags| {
        let mut request = CreateGuestMemfd { size: 0x3000, flags, ..Default::default() };
        let fd = Fd(vm.with(nr::CREATE_GUEST_MEMFD, &mut request).unwrap());
        let file = front().mapped(fd.0, false).unwrap();
        file.map(|file| {
            std::fs::metadata(format!("/proc/self/fd/{}", file.number())).unwrap().len()
        })
    };
    assert_eq!(size_of_mapped(0), Err(Errno::ENODEV));
    assert_eq!(size_of_mapped(1), Ok(0), "private memory: touching it is SIGBUS");
    assert_eq!(size_of_mapped(3), Ok(0x3000));
    assert_eq!(CODE, 0x1000);
}
