//! First instructions under SEV-SNP and without protection, and the way to end the guest there.
//!
//! The entry uses no stack and no variable before it has validated the work area. Whether the
//! guest is protected it reads from the initial page table: only a private entry has a bit at or
//! above 40. That table is measured, and the parameter page must agree with it.
//!
//! UNSAFETY: assembly that the contract of `abi::shim` describes.
#![allow(unsafe_code)]

use core::arch::global_asm;

use abi::boot::BOOT_DS;
use abi::shim::{
    INITIAL_PAGE_TABLE_GPA, PAGE, SHIM_DATA_GPA, STACK_TOP, TERMINATION_PORT, Termination,
    WORK_BASE, WORK_END,
};

use crate::exit::leave_code;
use crate::instructions::GHCB_MSR;

// The code below holds these in 32-bit registers.
const _: () = assert!(WORK_END < 1 << 31);

global_asm!(
    ".pushsection .entry, \"ax\"",
    // abi::shim::AP_PARK_GPA: an application processor stays here until Linux replaces its VMSA.
    "cli",
    "1: hlt",
    "jmp 1b",
    // abi::shim::SHIM_ENTRY_GPA.
    ".balign 16, 0xCC",
    ".global shim_entry",
    "shim_entry:",
    "cli",
    "cld",
    "mov rax, qword ptr [{table} + 8]",
    "shr rax, 40",
    "setnz al",
    "movzx ebp, al",
    "jz 3f",
    // Validate the work area: it is private already and must not have been validated.
    "mov ebx, {work_base}",
    "2: mov rax, rbx",
    "xor ecx, ecx",
    "mov edx, 1",
    ".byte 0xF2, 0x0F, 0x01, 0xFF", // PVALIDATE
    "mov edi, {double}",
    "jc shim_terminate",
    "mov edi, {failed}",
    "test eax, eax",
    "jnz shim_terminate",
    "add ebx, {page}",
    "cmp ebx, {work_end}",
    "jb 2b",
    // Clear it: fresh private memory holds garbage.
    "3: mov edi, {work_base}",
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
    "mov rbx, qword ptr [{table} + 8]",
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
    work_end = const WORK_END,
    work_words = const (WORK_END - WORK_BASE) / 8,
    page = const PAGE,
    stack = const STACK_TOP,
    data = const SHIM_DATA_GPA,
    data_words = const (STACK_TOP - SHIM_DATA_GPA) / 8,
    ds = const BOOT_DS,
    double = const Termination::DOUBLE_VALIDATION.msr_value(),
    failed = const Termination::PVALIDATE.msr_value(),
    ghcb_msr = const GHCB_MSR,
    port = const TERMINATION_PORT,
    main = sym crate::shim_main,
);
