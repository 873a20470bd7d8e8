//! The two ways out of the shim, whatever it was entered by.
//!
//! UNSAFETY: jumps out of Rust, to code that the image's entry module has.
#![allow(unsafe_code)]

use core::arch::asm;

use abi::shim::{SHIM_CODE_GPA, SHIM_DATA_GPA, Termination};

// What link.ld repeats.
const _: () = assert!(SHIM_CODE_GPA == 0x1_1000 && SHIM_DATA_GPA == 0x1_C000);

/// `shim_leave`, the descriptor table that stays for the kernel, and an empty interrupt table: part
/// of each image's entry code, whose operands it uses.
macro_rules! leave_code {
    () => {
        concat!(
            // RDI: the kernel's entry. RSI: boot_params. Wipes variables and stack, IDT included.
            ".global shim_leave\n",
            "shim_leave:\n",
            "lidt [rip + shim_no_idt]\n",
            "mov r8, rdi\n",
            "mov edi, {data}\n",
            "mov ecx, {data_words}\n",
            "xor eax, eax\n",
            "rep stosq\n",
            "xor ebx, ebx\n",
            "xor edx, edx\n",
            "xor edi, edi\n",
            "xor ebp, ebp\n",
            "xor esp, esp\n",
            "xor r9d, r9d\n",
            "xor r10d, r10d\n",
            "xor r11d, r11d\n",
            "xor r12d, r12d\n",
            "xor r13d, r13d\n",
            "xor r14d, r14d\n",
            "xor r15d, r15d\n",
            "jmp r8\n",
            // __BOOT_CS 0x10 and __BOOT_DS 0x18 of the 64-bit boot protocol; it stays for the kernel.
            ".balign 8\n",
            "shim_gdt: .quad 0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF\n",
            "shim_gdt_pointer: .word 31\n",
            ".quad shim_gdt\n",
            "shim_no_idt: .word 0\n",
            ".quad 0\n",
        )
    };
}
pub(crate) use leave_code;

/// Ends the guest, in the way that the image has.
pub fn terminate(reason: Termination) -> ! {
    // SAFETY: the code at `shim_terminate` takes its argument in EDI and does not return.
    unsafe {
        asm!("jmp shim_terminate", in("rdi") reason.msr_value(), options(noreturn, nostack));
    }
}

/// Wipes variables and stack and enters the kernel.
pub fn leave(kernel: u64, boot_params: u64) -> ! {
    // SAFETY: `kernel` is the entry of a verified kernel; nothing of ours runs afterwards.
    unsafe {
        asm!("jmp shim_leave", in("rdi") kernel, in("rsi") boot_params, options(noreturn, nostack));
    }
}
