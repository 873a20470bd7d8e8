//! First instructions under SEV-SNP, after the first stage, and without protection; and the way to
//! end the guest there.
//!
//! The work area is valid: by the first stage, or because nothing protects it. Whether the guest is
//! protected this reads from the initial page table: only a private entry has a bit at or above 40.
//! That table is measured, and the parameter page must agree with it.
//!
//! UNSAFETY: assembly that the contract of `abi::shim` describes.
#![allow(unsafe_code)]

use core::arch::global_asm;

use abi::boot::BOOT_DS;
use abi::shim::{
    INITIAL_PAGE_TABLE_GPA, SHIM_DATA_GPA, STACK_TOP, TERMINATION_PORT, WORK_BASE, WORK_END,
};
use abi::snp::MSR_GHCB;

use crate::exit::leave_code;

// The code below holds these in 32-bit registers.
const _: () = assert!(WORK_END < 1 << 31);

global_asm!(
    ".pushsection .entry, \"ax\"",
    // A processor that comes here has nothing to do.
    "1: hlt",
    "jmp 1b",
    // abi::shim::SHIM_ENTRY_GPA. RSI: the parameter page.
    ".balign 16, 0xCC",
    ".global shim_entry",
    "shim_entry:",
    "cli",
    "cld",
    "mov rax, qword ptr [{table}]",
    "shr rax, 40",
    "setnz al",
    "movzx ebp, al",
    // Clear the work area: fresh private memory holds garbage, and what the first stage left.
    "mov edi, {work_base}",
    "mov ecx, {work_words}",
    "xor eax, eax",
    "rep stosq",
    "mov esp, {stack}",
    "lgdt [rip + shim_gdt_pointer]",
    "mov eax, {ds}",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "mov fs, eax",
    "mov gs, eax",
    "mov rdi, rsi",
    "mov esi, ebp",
    "call {main}",
    "ud2",
    // EDI: the low half of the termination value.
    ".global shim_terminate",
    "shim_terminate:",
    "mov eax, edi",
    "xor edx, edx",
    "mov rbx, qword ptr [{table}]",
    "shr rbx, 40",
    "jz 5f",
    "4: mov ecx, {ghcb_msr}",
    "wrmsr",
    ".byte 0xF3, 0x0F, 0x01, 0xD9", // VMGEXIT
    "jmp 4b",
    "5: mov edx, {port}",
    "out dx, eax",
    "6: hlt",
    "jmp 6b",
    leave_code!(),
    ".popsection",
    table = const INITIAL_PAGE_TABLE_GPA,
    work_base = const WORK_BASE,
    work_words = const (WORK_END - WORK_BASE) / 8,
    stack = const STACK_TOP,
    data = const SHIM_DATA_GPA,
    data_words = const (STACK_TOP - SHIM_DATA_GPA) / 8,
    ds = const BOOT_DS,
    ghcb_msr = const MSR_GHCB,
    port = const TERMINATION_PORT,
    main = sym crate::shim_main,
);
