//! Copies from and to the memory of the program that issues an ioctl.
//!
//! A bad pointer must be EFAULT, not a crash, so the copies go through the kernel
//! (`process_vm_readv` on ourselves).
//!
//! UNSAFETY: raw system calls on addresses that the caller of an ioctl gives; the kernel checks
//! them. Structures are only ones for which every bit pattern is valid ([`Plain`]).
#![allow(unsafe_code)]

use super::errno::{Answer, Errno};

/// A structure without padding trouble and without invalid bit patterns.
///
/// # Safety
/// Every bit pattern must be a valid value.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($t:ty),* $(,)?) => {$(
        // SAFETY: made of integers (and raw pointers) only; every bit pattern is valid.
        unsafe impl Plain for $t {}
    )*};
}

plain!(u8, u32, u64, i32);
plain!(
    kvm_bindings::kvm_regs,
    kvm_bindings::kvm_sregs,
    kvm_bindings::kvm_sregs2,
    kvm_bindings::kvm_fpu,
    kvm_bindings::kvm_debugregs,
    kvm_bindings::kvm_vcpu_events,
    kvm_bindings::kvm_xcrs,
    kvm_bindings::kvm_mp_state,
    kvm_bindings::kvm_translation,
    kvm_bindings::kvm_interrupt,
    kvm_bindings::kvm_guest_debug,
    kvm_bindings::kvm_cpuid_entry2,
    kvm_bindings::kvm_msr_entry,
    kvm_bindings::kvm_clock_data,
    kvm_bindings::kvm_irq_routing_entry,
    kvm_bindings::kvm_irqfd,
    kvm_bindings::kvm_ioeventfd,
    kvm_bindings::kvm_msi,
    kvm_bindings::kvm_enable_cap,
    kvm_bindings::kvm_pit_config,
    kvm_bindings::kvm_msr_filter,
    kvm_bindings::kvm_irq_level,
    kvm_bindings::kvm_userspace_memory_region,
    kvm_bindings::kvm_device_attr,
    kvm_bindings::kvm_reinject_control,
    kvm_bindings::kvm_coalesced_mmio_zone,
    abi::kvm::UserMemoryRegion2,
    abi::kvm::MemoryAttributes,
    abi::kvm::CreateGuestMemfd,
    abi::kvm::PreFaultMemory,
    abi::kvm_snp::SevCmd,
    abi::kvm_snp::SevInit,
    abi::kvm_snp::SnpLaunchStart,
    abi::kvm_snp::SnpLaunchUpdate,
    abi::kvm_snp::SnpLaunchFinish,
    abi::kvm_snp::SevIssueCmd,
    abi::kvm_snp::SevPlatformStatus,
    abi::kvm_snp::SnpPlatformStatus,
    abi::kvm_snp::SevGetId2,
    abi::kvm_tdx::TdxCmd,
    abi::kvm_tdx::CpuidHeader,
    abi::kvm_tdx::CpuidEntry,
    abi::kvm_tdx::TdxCapabilities,
    abi::kvm_tdx::TdxInitVm,
    abi::kvm_tdx::TdxInitMemRegion,
);
// SAFETY: an array of plain values is plain.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// Copies bytes in.
pub fn read(address: u64, out: &mut [u8]) -> Answer {
    transfer(address, out.as_mut_ptr(), out.len(), false)
}

/// Copies bytes out.
pub fn write(address: u64, data: &[u8]) -> Answer {
    transfer(address, data.as_ptr().cast_mut(), data.len(), true)
}

fn transfer(address: u64, ours: *mut u8, len: usize, out: bool) -> Answer {
    if len == 0 {
        return Ok(());
    }
    let local = libc::iovec { iov_base: ours.cast(), iov_len: len };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: len };
    // SAFETY: `local` describes memory we own (only read when `out`); the kernel validates
    // `remote`.
    let done = unsafe {
        let pid = libc::getpid();
        if out {
            libc::process_vm_writev(pid, &local, 1, &remote, 1, 0)
        } else {
            libc::process_vm_readv(pid, &local, 1, &remote, 1, 0)
        }
    };
    if done == len as isize { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Copies a structure in.
pub fn get<T: Plain>(address: u64) -> Answer<T> {
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    transfer(address, value.as_mut_ptr().cast(), size_of::<T>(), false)?;
    // SAFETY: it was filled, and `Plain` has no invalid patterns.
    Ok(unsafe { value.assume_init() })
}

/// Copies a structure out.
pub fn put<T: Plain>(address: u64, value: &T) -> Answer {
    transfer(address, std::ptr::from_ref(value).cast_mut().cast(), size_of::<T>(), true)
}

/// The `index`th element of an array that starts at `address`.
pub fn get_at<T: Plain>(address: u64, index: usize) -> Answer<T> {
    get(address.wrapping_add((index * size_of::<T>()) as u64))
}

/// Copies `count` elements in.
pub fn get_many<T: Plain>(address: u64, count: usize) -> Answer<Vec<T>> {
    let mut values = Vec::<T>::with_capacity(count);
    transfer(address, values.as_mut_ptr().cast(), count * size_of::<T>(), false)?;
    // SAFETY: `count` elements were filled and any pattern is valid.
    unsafe { values.set_len(count) };
    Ok(values)
}

/// Copies elements out.
pub fn put_many<T: Plain>(address: u64, values: &[T]) -> Answer {
    transfer(address, values.as_ptr().cast_mut().cast(), size_of_val(values), true)
}

/// A zeroed structure.
pub fn zeroed<T: Plain>() -> T {
    // SAFETY: `Plain` has no invalid patterns.
    unsafe { std::mem::zeroed() }
}

/// The bytes of a structure.
pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: reading the bytes of an initialised value; the ABI structures have no padding that
    // matters.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The bytes of a structure, to be changed.
pub fn bytes_of_mut<T: Plain>(value: &mut T) -> &mut [u8] {
    // SAFETY: as in `bytes_of`, and `Plain` has no invalid patterns.
    unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(value).cast(), size_of::<T>()) }
}

/// Makes the page at `address` present, writable if asked: EFAULT where an access would crash.
pub fn populate(address: u64, writable: bool) -> Answer {
    let advice = if writable { libc::MADV_POPULATE_WRITE } else { libc::MADV_POPULATE_READ };
    // SAFETY: populating changes no contents.
    let result = unsafe { libc::madvise((address & !0xfff) as *mut _, 4096, advice) };
    if result == 0 {
        return Ok(());
    }
    if Errno::last() == Errno::EINVAL {
        // A special mapping, one that does not allow this, or an old kernel: try one byte, and put
        // back what was there.
        let mut byte = [0];
        read(address, &mut byte)?;
        return if writable { write(address, &byte) } else { Ok(()) };
    }
    Err(Errno::EFAULT)
}
