//! The part of an SNP guest's first stage that runs in place, in the page that is the page table as well: it
//! validates what the shim works in and is copied to, and unpacks the program.
//!
//! Each word must not be a present page-table entry ([`abi::shim::snp`]), so each starts with an
//! instruction whose first byte is even, NOP where need be, and no instruction crosses a word.
//! `BootPage::build` refuses anything else.
//!
//! UNSAFETY: assembly that the contract of `abi::shim::snp` describes.
#![allow(unsafe_code)]

use core::arch::{asm, global_asm};

use abi::shim::snp::{BOOT_PAGE_GPA, PACKED_BYTES, PACKED_OFFSET, UNPACKED_GPA};
use abi::shim::{
    CPUID_GPA, PAGE, PARAMETER_GPA, SHIM_CODE_GPA, SHIM_ENTRY_GPA, STACK_TOP, Termination,
    WORK_BASE, WORK_END,
};
use abi::snp::MSR_GHCB;

// The code below holds these in 32-bit registers.
const _: () = assert!(WORK_END < 1 << 31);
// One instruction changes the lower half of the address alone.
const _: () = assert!(CPUID_GPA >> 16 == WORK_BASE >> 16 && SHIM_CODE_GPA >> 16 == CPUID_GPA >> 16);

global_asm!(
    ".pushsection .entry, \"ax\"",
    // Ends a word: the next instruction starts with the next one.
    ".macro word",
    ".balign 8, 0x90",
    ".endm",
    // abi::shim::snp::AP_PARK_GPA: an application processor stays here until Linux replaces
    // its VMSA.
    "cli",
    "1: hlt",
    "jmp 1b",
    ".balign 16, 0x90",
    // abi::shim::snp::ENTRY_GPA.
    ".global boot_entry",
    "boot_entry:",
    "cli",
    "cld",
    "mov ebx, {shim}",
    "word",
    // What the shim is copied to and works in: private already, and must not have been validated.
    "2: nop",
    "mov eax, ebx",
    "xor ecx, ecx",
    "word",
    "mov edx, 1",
    "word",
    "nop",
    "mov edi, {double}",
    "word",
    ".byte 0xF2, 0x0F, 0x01, 0xFF", // PVALIDATE
    "jc 5f",
    "word",
    "nop",
    "mov edi, {failed}",
    "word",
    "nop",
    "test eax, eax",
    "jnz 5f",
    "word",
    "nop",
    "add ebx, {page}",
    "word",
    // The CPUID and secrets pages are launch pages.
    "nop",
    "cmp ebx, {launched}",
    "word",
    "nop",
    "jne 3f",
    "mov bx, {work_low}",
    "word",
    "3: nop",
    "cmp ebx, {work_end}",
    "word",
    "jb 2b",
    "word",
    // Unpack: the upper seven bytes of each word.
    "nop",
    "mov esi, {packed}",
    "word",
    "nop",
    "mov edi, {unpacked}",
    "word",
    "4: lodsq",
    "shr rax, 8",
    "word",
    "mov qword ptr [rdi], rax",
    "add rdi, {packed_bytes}",
    "word",
    "nop",
    "cmp esi, {packed_end}",
    "word",
    "jb 4b",
    "word",
    "mov esp, {stack}",
    "word",
    "call {main}",
    "word",
    // EDI: the low half of the termination value.
    ".global boot_terminate",
    "boot_terminate:",
    "5: nop",
    "mov eax, edi",
    "xor edx, edx",
    "word",
    "6: nop",
    "mov ecx, {ghcb_msr}",
    "word",
    "nop",
    "wrmsr",
    ".byte 0xF3, 0x0F, 0x01, 0xD9", // VMGEXIT
    "word",
    "nop",
    "jmp 6b",
    "word",
    ".popsection",
    shim = const SHIM_CODE_GPA,
    double = const Termination::DOUBLE_VALIDATION.msr_value(),
    failed = const Termination::PVALIDATE.msr_value(),
    page = const PAGE,
    launched = const CPUID_GPA,
    work_low = const WORK_BASE & 0xFFFF,
    work_end = const WORK_END,
    packed = const BOOT_PAGE_GPA + PACKED_OFFSET,
    packed_end = const BOOT_PAGE_GPA + PAGE,
    packed_bytes = const PACKED_BYTES,
    unpacked = const UNPACKED_GPA,
    stack = const STACK_TOP,
    ghcb_msr = const MSR_GHCB,
    main = sym crate::boot_main,
);

/// Ends the guest.
pub fn terminate(reason: Termination) -> ! {
    // SAFETY: the code at `boot_terminate` takes its argument in EDI and does not return.
    unsafe {
        asm!("jmp boot_terminate", in("rdi") reason.msr_value(), options(noreturn, nostack));
    }
}

/// Enters the second stage.
pub fn enter() -> ! {
    // SAFETY: the second stage is in place and verified; nothing of ours runs afterwards.
    unsafe {
        asm!(
            "jmp {entry}",
            entry = in(reg) SHIM_ENTRY_GPA,
            in("rsi") PARAMETER_GPA,
            options(noreturn, nostack),
        );
    }
}
