//! First instructions in a TD, the loop in which all vCPUs but the first wait, and the way to end
//! the guest.
//!
//! Every vCPU comes from the reset vector in 32-bit mode without paging (TDX Module 1.5 ABI
//! specification, "TD VCPU initial state") and goes to 64-bit mode on the initial page table, a
//! launch page. EFER has LME set already and may not be written. vCPU 0 then accepts the work area,
//! before which it uses no stack and no variable; the others use some only while the gate is open for them to help.
//!
//! UNSAFETY: assembly that the contract of `abi::shim::tdx` describes.
#![allow(unsafe_code)]

use core::arch::global_asm;
use core::mem::offset_of;

use abi::boot::{BOOT_CS, BOOT_DS};
use abi::shim::tdx::{AP_RESET_VECTOR_GPA, ENTRY_GPA, GATE_GPA, MAILBOX_GPA, WORK_BASE};
use abi::shim::{
    INITIAL_PAGE_TABLE_GPA, PAGE, SHIM_DATA_GPA, STACK_TOP, Termination, WORK_END, entry, help,
};
use abi::tdx::{TdxStatus, WakeupMailbox, leaf, vmcall};
use shim::tdx::accept::BUSY_MAX;

use crate::exit::leave_code;

// Where the code below stands.
const _: () = assert!(AP_RESET_VECTOR_GPA == ENTRY_GPA + 0x10);
// What one load takes of the mailbox.
const _: () = assert!(offset_of!(WakeupMailbox, command) == 0);
const _: () = assert!(offset_of!(WakeupMailbox, apic_id) == 4);
// The code holds these in 32-bit registers.
const _: () = assert!(WORK_END < 1 << 31);

/// CR4.MCE, which a TD cannot clear.
const CR4_MCE: u64 = 1 << 6;
/// CR4.LA57, which cannot change in 64-bit mode. The initial page table works with five levels too:
/// each is the page itself.
const CR4_LA57: u64 = 1 << 12;
/// CR4 of a vCPU that runs here.
const CR4: u64 = entry::CR4 | CR4_MCE;

/// R10 to R13: what the host gets to see of a vCPU that ends.
const FATAL_REGISTERS: u64 = 0x3C00;

/// A status code as the upper half of RAX.
const fn upper(status: TdxStatus) -> u64 {
    status.0 >> 32
}

global_asm!(
    ".pushsection .entry, \"ax\"",
    // abi::shim::tdx::ENTRY_GPA. EBX: width of guest addresses. ESI: index of the vCPU.
    ".code32",
    ".global shim_entry",
    "shim_entry:",
    "jmp 1f",
    // abi::shim::tdx::AP_RESET_VECTOR_GPA. The kernel may have turned indirect branch tracking on,
    // for which the jump back to it would be wrong: CR4.CET goes with all else that is the kernel's.
    ".balign 16, 0xCC",
    ".code64",
    "endbr64",
    "cli",
    "cld",
    "mov eax, {table}",
    "mov cr3, rax",
    "mov rax, cr4",
    "and eax, {cr4_la57}",
    "or eax, {cr4}",
    "mov cr4, rax",
    "lidt [rip + shim_no_idt]",
    "mov eax, {vp_info}",
    ".byte 0x66, 0x0F, 0x01, 0xCC", // TDCALL
    "mov edi, {info}",
    "test rax, rax",
    "jnz shim_terminate",
    "mov esi, r9d",
    "jmp shim_park",
    ".code32",
    "1: cli",
    "cld",
    "lgdt [shim_gdt_pointer]",
    "mov eax, {cr4}",
    "mov cr4, eax",
    "mov eax, {table}",
    "mov cr3, eax",
    "mov eax, {cr0}",
    "mov cr0, eax",
    ".byte 0xEA", // a far jump
    ".long shim_64",
    ".word {cs}",
    ".code64",
    "shim_64:",
    "mov eax, {ds}",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "mov fs, eax",
    "mov gs, eax",
    "lidt [rip + shim_no_idt]",
    "test esi, esi",
    "jnz shim_park",
    // Accept the work area: it must not have been accepted. The module clears it.
    "mov edi, {work_base}",
    "2: mov edx, {busy_max}",
    "3: mov ecx, edi",
    "mov eax, {page_accept}",
    ".byte 0x66, 0x0F, 0x01, 0xCC", // TDCALL
    "shr rax, 32",
    "jz 4f",
    "cmp eax, {already}",
    "je 5f",
    "cmp eax, {busy}",
    "jne 6f",
    "dec edx",
    "jnz 3b",
    "6: mov edi, {failed}",
    "jmp shim_terminate",
    "5: mov edi, {double}",
    "jmp shim_terminate",
    "4: add edi, {page}",
    "cmp edi, {work_end}",
    "jb 2b",
    "mov esp, {stack}",
    "mov edi, ebx",
    "call {main}",
    "ud2",
    // ESI: index, which is the APIC ID. Waits for the mailbox (ACPI specification, "Multiprocessor
    // Wakeup Structure"). One load takes command and APIC ID, for of two loads one could belong to
    // the command before. The vector is read before the command is cleared, for the mailbox then
    // belongs to the next processor.
    "shim_park:",
    "pause",
    // The gate (abi::shim::help): before it is open there may be no other memory, and when it is closed it is the kernel's.
    "test byte ptr [{gate}], {open}",
    "jz 7f",
    "mov eax, {visitor}",
    "lock xadd dword ptr [{gate}], eax",
    "test al, {open}",
    "jz 9f",
    "mov eax, 1",
    "lock xadd qword ptr [rip + {visits}], rax",
    "cmp rax, {stacks}",
    "jae 9f",
    "shl eax, {stack_shift}",
    "lea esp, [rax + {first_stack}]",
    "mov ebp, esi",
    "call {help}",
    "mov esi, ebp",
    "9: lock sub dword ptr [{gate}], {visitor}",
    "7:",
    "mov rax, qword ptr [{mailbox}]",
    "mov rcx, rax",
    "shr rcx, 32",
    "cmp ecx, esi",
    "jne shim_park",
    "cmp ax, {test}",
    "je 8f",
    "cmp ax, {wakeup}",
    "jne shim_park",
    "mov rax, qword ptr [{mailbox} + {vector}]",
    "mov word ptr [{mailbox}], {noop}",
    "jmp rax",
    "8: mov word ptr [{mailbox}], {noop}",
    "jmp shim_park",
    // EDI: the low half of the termination value.
    ".global shim_terminate",
    "shim_terminate:",
    "mov eax, {vp_vmcall}",
    "mov ecx, {fatal_registers}",
    "xor r10d, r10d",
    "mov r11d, {fatal}",
    "mov r12d, edi",
    "xor r13d, r13d",
    ".byte 0x66, 0x0F, 0x01, 0xCC", // TDCALL
    "jmp shim_terminate",
    leave_code!(),
    ".popsection",
    table = const INITIAL_PAGE_TABLE_GPA,
    cr0 = const entry::CR0,
    cr4 = const CR4,
    cr4_la57 = const CR4_LA57,
    cs = const BOOT_CS,
    ds = const BOOT_DS,
    vp_info = const leaf::VP_INFO,
    vp_vmcall = const leaf::VP_VMCALL,
    page_accept = const leaf::MEM_PAGE_ACCEPT,
    busy_max = const BUSY_MAX,
    already = const upper(TdxStatus::PAGE_ALREADY_ACCEPTED),
    busy = const upper(TdxStatus::OPERAND_BUSY),
    info = const Termination::TD_INFO.msr_value(),
    double = const Termination::DOUBLE_VALIDATION.msr_value(),
    failed = const Termination::PAGE_ACCEPT.msr_value(),
    work_base = const WORK_BASE,
    work_end = const WORK_END,
    page = const PAGE,
    stack = const STACK_TOP,
    mailbox = const MAILBOX_GPA,
    gate = const GATE_GPA,
    open = const help::OPEN,
    visitor = const help::VISITOR,
    stacks = const help::STACKS,
    stack_shift = const help::STACK.trailing_zeros(),
    first_stack = const help::STACKS_GPA + help::STACK,
    visits = sym crate::tdx_hardware::ROUND,
    help = sym crate::tdx_hardware::help,
    vector = const offset_of!(WakeupMailbox, wakeup_vector),
    noop = const WakeupMailbox::NOOP,
    wakeup = const WakeupMailbox::WAKEUP,
    test = const WakeupMailbox::TEST,
    fatal = const vmcall::REPORT_FATAL_ERROR,
    fatal_registers = const FATAL_REGISTERS,
    data = const SHIM_DATA_GPA,
    data_words = const (STACK_TOP - SHIM_DATA_GPA) / 8,
    main = sym crate::shim_main,
);
