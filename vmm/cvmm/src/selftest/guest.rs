//! The guest of `cvmm selftest` for users without a kernel at hand: an ELF file that says a line on COM1, checks 1 MiB of its
//! memory, sends two marks and powers off. It does so by the port instructions, by the GHCB or by TDVMCALL, whichever it
//! has to use, and so shows that a guest was launched, its shim let it in, and its exits come through.
//!
//! Assembled into this program, position independent. It can also take the place of the shim (entered 16 bytes from its
//! start, as the shim is): a KVM that interprets kernel mode may know its few instructions and not the shim's.
//!
//! UNSAFETY: the assembler's symbols are declared as statics; they are only read.
#![allow(unsafe_code)]

use std::mem::offset_of;

use abi::ghcb::{Ghcb, PROTOCOL_VERSION, exit, ioio, msr, psc_op};
use abi::marks::{MARK_PORT, Mark, MarkId};
use abi::shim::GHCB_GPA;
use abi::snp::MSR_GHCB;
use abi::tdx::{CPUID_LEAF, CPUID_SIGNATURE, leaf, vmcall};

use crate::device::acpi_pm::{POWER_OFF, SLEEP_CONTROL_PORT};
use crate::device::serial::BASE_PORT;
use crate::plan::C_BIT;

/// Bits of a page-table entry that are an address, without the C-bit.
const ADDRESS: u64 = (1 << C_BIT) - (1 << 12);
/// Marks of the quadwords that every request sets, in the upper half of the bitmap.
const REQUEST_VALID: u64 = 1 << (offset_of!(Ghcb, sw_exit_code) / 8 - 64)
    | 1 << (offset_of!(Ghcb, sw_exit_info_1) / 8 - 64)
    | 1 << (offset_of!(Ghcb, sw_exit_info_2) / 8 - 64);
const RAX_VALID: u64 = 1 << (offset_of!(Ghcb, rax) / 8);

core::arch::global_asm!(
    ".pushsection .rodata.cvmm_selftest_guest, \"a\", @progbits",
    ".globl cvmm_selftest_guest_start",
    ".globl cvmm_selftest_guest_end",
    ".p2align 4",
    "cvmm_selftest_guest_start:",
    "cli",
    "1: hlt",
    "jmp 1b",
    ".p2align 4",
    "cld",
    "lea rsp, [rip + cvmm_selftest_stack]",
    // EBP: 0 without protection, 1 SEV-SNP, 2 a TD. Private page-table entries of the first have a C-bit.
    "xor ebp, ebp",
    "mov rbx, {address}",
    "mov rax, cr3",
    "and rax, rbx",
    "mov rax, [rax]",
    "shr rax, 48",
    "test al, {c_bit_above_48}",
    "jnz 2f",
    "mov eax, {td_leaf}",
    "xor ecx, ecx",
    "cpuid",
    "cmp ebx, {td_ebx}",
    "jne 4f",
    "cmp edx, {td_edx}",
    "jne 4f",
    "mov ebp, 2",
    "jmp 4f",
    // SEV-SNP: the GHCB page that the shim took back becomes shared again.
    "2: mov ebp, 1",
    "mov eax, {ghcb}",
    "xor ecx, ecx",
    "xor edx, edx",
    ".byte 0xF2, 0x0F, 0x01, 0xFF", // PVALIDATE: no longer valid
    "test eax, eax",
    "jnz 9f",
    "mov eax, {share_low}",
    "mov edx, {share_high}",
    "mov ecx, {ghcb_msr}",
    "wrmsr",
    ".byte 0xF3, 0x0F, 0x01, 0xD9", // VMGEXIT
    "rdmsr",
    "and eax, 0xfff",
    "cmp eax, {shared}",
    "jne 9f",
    "test edx, edx",
    "jnz 9f",
    // Through four levels of the shim's tables; the lowest 2 MiB have small pages.
    "mov rax, cr3",
    "and rax, rbx",
    "mov rax, [rax]",
    "and rax, rbx",
    "mov rax, [rax]",
    "and rax, rbx",
    "mov rax, [rax]",
    "and rax, rbx",
    "lea rdi, [rax + {ghcb_entry}]",
    "mov rax, [rdi]",
    "btr rax, {c_bit}",
    "mov [rdi], rax",
    "mov rax, cr3",
    "mov cr3, rax",
    "mov eax, {register}",
    "xor edx, edx",
    "wrmsr",
    ".byte 0xF3, 0x0F, 0x01, 0xD9", // VMGEXIT
    "mov edi, {ghcb}",
    "mov ecx, 512",
    "xor eax, eax",
    "rep stosq",
    "4: mov eax, {entered}",
    "mov edx, {mark_port}",
    "mov ecx, 4",
    "call 6f",
    "lea rsi, [rip + cvmm_selftest_text]",
    "5: lodsb",
    "test al, al",
    "jz 7f",
    "movzx eax, al",
    "mov edx, {com1}",
    "mov ecx, 1",
    "call 6f",
    "jmp 5b",
    // Memory, unless this takes the place of the shim, whose page table may map no more than it.
    "7: lea rax, [rip + 7b]",
    "cmp rax, 0x100000",
    "jb 8f",
    "mov edi, 0x1000000",
    "mov rax, 0x5aa5c33c0ff01248",
    "mov ecx, 0x20000",
    "rep stosq",
    "mov edi, 0x1000000",
    "mov ecx, 0x20000",
    "repe scasq",
    "jne 9f",
    "8: mov eax, {ready}",
    "mov edx, {mark_port}",
    "mov ecx, 4",
    "call 6f",
    "mov eax, {off}",
    "mov edx, {off_port}",
    "mov ecx, 1",
    "call 6f",
    // Power-off ends the run. Whatever failed ends in a triple fault or here, with the vCPU halted for good.
    "9: cli",
    "hlt",
    "jmp 9b",
    // Writes EAX to port EDX, ECX bytes.
    "6: cmp ebp, 1",
    "je 61f",
    "ja 62f",
    "cmp ecx, 1",
    "je 60f",
    "out dx, eax",
    "ret",
    "60: out dx, al",
    "ret",
    "61: mov ebx, {ghcb}",
    "mov eax, eax",
    "mov [rbx + {rax}], rax",
    "mov qword ptr [rbx + {code}], {ioio}",
    "shl edx, {port_shift}",
    "shl ecx, {size_shift}",
    "or edx, ecx",
    "mov [rbx + {info_1}], rdx",
    "mov qword ptr [rbx + {info_2}], 0",
    "mov rax, {rax_valid}",
    "mov [rbx + {bitmap}], rax",
    "mov rax, {request_valid}",
    "mov [rbx + {bitmap} + 8], rax",
    "mov dword ptr [rbx + {version}], {version_2}",
    "mov eax, {ghcb}",
    "xor edx, edx",
    "mov ecx, {ghcb_msr}",
    "wrmsr",
    ".byte 0xF3, 0x0F, 0x01, 0xD9", // VMGEXIT
    "ret",
    "62: mov r12d, ecx",
    "mov r13d, 1",
    "mov r14d, edx",
    "mov r15d, eax",
    "mov eax, {vp_vmcall}",
    "mov ecx, 0xfc00",
    "xor r10d, r10d",
    "mov r11d, {vmcall_io}",
    ".byte 0x66, 0x0F, 0x01, 0xCC", // TDCALL
    "ret",
    "cvmm_selftest_text:",
    ".asciz \"cvmm selftest guest\\n\"",
    ".p2align 4",
    ".zero 256",
    "cvmm_selftest_stack:",
    "cvmm_selftest_guest_end:",
    ".popsection",
    address = const ADDRESS,
    c_bit = const C_BIT,
    c_bit_above_48 = const 1 << (C_BIT - 48),
    td_leaf = const CPUID_LEAF,
    td_ebx = const CPUID_SIGNATURE[0],
    td_edx = const CPUID_SIGNATURE[2],
    ghcb = const GHCB_GPA,
    ghcb_entry = const (GHCB_GPA >> 12) * 8,
    ghcb_msr = const MSR_GHCB,
    share_low = const msr::psc(GHCB_GPA >> 12, psc_op::SHARED) as u32,
    share_high = const msr::psc(GHCB_GPA >> 12, psc_op::SHARED) >> 32,
    shared = const msr::PSC_RESP,
    register = const GHCB_GPA | msr::REGISTER_GPA_REQ,
    entered = const Mark::new(MarkId::INIT_ENTRY, 0).0,
    ready = const Mark::new(MarkId::INIT_READY, 0).0,
    mark_port = const MARK_PORT,
    com1 = const BASE_PORT,
    off = const POWER_OFF,
    off_port = const SLEEP_CONTROL_PORT,
    rax = const offset_of!(Ghcb, rax),
    code = const offset_of!(Ghcb, sw_exit_code),
    info_1 = const offset_of!(Ghcb, sw_exit_info_1),
    info_2 = const offset_of!(Ghcb, sw_exit_info_2),
    bitmap = const offset_of!(Ghcb, valid_bitmap),
    // The protocol version is the upper half of this word.
    version = const offset_of!(Ghcb, protocol_version) - 2,
    version_2 = const (PROTOCOL_VERSION as u32) << 16,
    ioio = const exit::IOIO,
    port_shift = const ioio::PORT_SHIFT,
    size_shift = const ioio::SIZE_SHIFT,
    rax_valid = const RAX_VALID,
    request_valid = const REQUEST_VALID,
    vp_vmcall = const leaf::VP_VMCALL as u32,
    vmcall_io = const vmcall::IO,
);

unsafe extern "C" {
    static cvmm_selftest_guest_start: u8;
    static cvmm_selftest_guest_end: u8;
}

/// What it says.
pub const TEXT: &str = "cvmm selftest guest\n";

/// Where it is loaded as a kernel, and how far behind that it is entered.
const ADDRESS_AS_KERNEL: u64 = 0x20_0000;
const ENTRY: u64 = 16;
/// Where its one segment begins in the file.
const OFFSET: u64 = 0x1000;

/// Its code, which is also the image that takes the place of the shim.
pub fn code() -> &'static [u8] {
    // SAFETY: both symbols are in one section of this program, in this order; the bytes between them are never written.
    unsafe {
        let start = &raw const cvmm_selftest_guest_start;
        let end = &raw const cvmm_selftest_guest_end;
        std::slice::from_raw_parts(start, end.offset_from_unsigned(start))
    }
}

/// The ELF file (System V ABI, chapters 4 and 5).
pub fn elf() -> Vec<u8> {
    let code = code();
    let len = code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // Executable, x86-64, version 1.
    file.extend(2u16.to_le_bytes());
    file.extend(62u16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    // Entry, program headers, section headers; flags.
    for value in [ADDRESS_AS_KERNEL + ENTRY, 64, 0] {
        file.extend(value.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    // Sizes and counts of the headers.
    for value in [64u16, 56, 1, 0, 0, 0] {
        file.extend(value.to_le_bytes());
    }
    // One segment to load, for everything.
    file.extend(1u32.to_le_bytes());
    file.extend(7u32.to_le_bytes());
    for value in [OFFSET, ADDRESS_AS_KERNEL, ADDRESS_AS_KERNEL, len, len, OFFSET] {
        file.extend(value.to_le_bytes());
    }
    file.resize(OFFSET as usize, 0);
    file.extend_from_slice(code);
    file
}
