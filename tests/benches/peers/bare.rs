//! The limit: a monitor of a few lines that does nothing but what this guest needs. It runs as a process of its own.
//!
//! UNSAFETY: memory of this process is given to the guest.
#![allow(unsafe_code)]

use std::io::Write;

use abi::boot::BOOT_CS;
use abi::shim::{INITIAL_PAGE_TABLE_GPA, entry, initial_page_table};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use crate::guest;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Runs the guest until this process is killed: from the reset vector, or as cvmm enters it.
pub fn run(from_reset: bool) -> Result {
    let vm = Kvm::new()?.create_vm()?;
    let ram = memory(&vm, 0, 0, crate::GUEST_MEMORY)?;
    let mut vcpu = vm.create_vcpu(0)?;
    if from_reset {
        let rom = guest::rom();
        memory(&vm, 1, guest::ROM_ADDRESS, rom.len())?[..rom.len()].copy_from_slice(&rom);
    } else {
        write(ram, guest::FLAT_ADDRESS, guest::flat());
        for (at, entry) in (0u64..).zip(initial_page_table(None)) {
            write(ram, INITIAL_PAGE_TABLE_GPA + 8 * at, &entry.to_le_bytes());
        }
        enter_flat(&vcpu)?;
    }
    let mut out = std::io::stdout().lock();
    loop {
        match vcpu.run()? {
            VcpuExit::IoOut(0x3f8, data) => out.write_all(data).and_then(|()| out.flush())?,
            VcpuExit::IoOut(..) | VcpuExit::MmioWrite(..) => {}
            VcpuExit::IoIn(_, data) | VcpuExit::MmioRead(_, data) => data.fill(0xff),
            VcpuExit::Hlt => loop {
                std::thread::park();
            },
            other => return Err(format!("{other:?}").into()),
        }
    }
}

/// Fresh memory for the guest, on a page boundary; nothing is touched yet.
fn memory(vm: &VmFd, slot: u32, gpa: u64, len: usize) -> Result<&'static mut [u8]> {
    const PAGE: usize = 4096;
    let room = vec![0u8; len + PAGE].leak();
    let at = room.as_ptr().align_offset(PAGE);
    let memory = &mut room[at..][..len];
    let region = kvm_userspace_memory_region {
        slot,
        guest_phys_addr: gpa,
        memory_size: len as u64,
        userspace_addr: memory.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the range is ours, was leaked, and is written only before the guest runs.
    unsafe { vm.set_user_memory_region(region)? };
    Ok(memory)
}

fn write(ram: &mut [u8], gpa: u64, bytes: &[u8]) {
    let at = usize::try_from(gpa).unwrap_or(usize::MAX);
    ram[at..][..bytes.len()].copy_from_slice(bytes);
}

/// 64-bit mode on the initial page table, as the shim is entered.
fn enter_flat(vcpu: &VcpuFd) -> Result {
    let mut sregs = vcpu.get_sregs()?;
    sregs.cr0 = entry::CR0;
    sregs.cr3 = INITIAL_PAGE_TABLE_GPA;
    sregs.cr4 = entry::CR4;
    sregs.efer = entry::EFER;
    let flat = |segment: &mut kvm_bindings::kvm_segment| {
        (segment.base, segment.limit, segment.g, segment.s, segment.present) =
            (0, u32::MAX, 1, 1, 1);
    };
    flat(&mut sregs.cs);
    (sregs.cs.selector, sregs.cs.type_, sregs.cs.l, sregs.cs.db) = (BOOT_CS, 0xb, 1, 0);
    for data in [&mut sregs.ds, &mut sregs.es, &mut sregs.ss] {
        flat(data);
        (data.selector, data.type_, data.db) = (BOOT_CS + 8, 3, 1);
    }
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.get_regs()?;
    (regs.rip, regs.rflags) = (guest::FLAT_ENTRY, 2);
    Ok(vcpu.set_regs(&regs)?)
}
