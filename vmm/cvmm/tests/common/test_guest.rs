//! A tiny guest that needs no kernel: ports, string I/O, memory that is not there, an interrupt that ends a HLT, marks,
//! power-off. It is assembled into this test binary, position independent, and wrapped into an ELF file.
//!
//! UNSAFETY: the assembler's symbols are declared as statics; they are only read.
#![allow(unsafe_code, dead_code, clippy::unwrap_used)]

core::arch::global_asm!(
    r#"
    .pushsection .rodata.test_guest, "a", @progbits
    .globl test_guest_start
    .globl test_guest_end
    .p2align 4
test_guest_start:
    // As a shim of its own: other processors are parked here, the boot processor enters 16 bytes later.
    cli
7:  hlt
    jmp     7b
    .p2align 4
    lea     rsp, [rip + guest_stack_top]

    // Page tables at 0x90000: the first and the fourth GiB, as large pages.
    mov     edi, 0x90000
    xor     eax, eax
    mov     ecx, 4096
    rep     stosd
    mov     dword ptr [0x90000], 0x91003
    mov     dword ptr [0x91000], 0x92003
    mov     dword ptr [0x91018], 0x93003
    mov     eax, 0x83
    mov     edi, 0x92000
    mov     ecx, 512
8:  mov     [rdi], eax
    // The fourth GiB begins 1 GiB below 4 GiB.
    lea     edx, [rax - 0x40000000]
    mov     [rdi + 0x1000], edx
    add     eax, 0x200000
    add     edi, 8
    dec     ecx
    jnz     8b
    mov     eax, 0x90000
    mov     cr3, rax

    // A descriptor table of our own: IRETQ needs the code selector.
    lea     rax, [rip + guest_gdt]
    mov     [rip + guest_gdtr + 2], rax
    lgdt    [rip + guest_gdtr]
    push    0x10
    lea     rax, [rip + 2f]
    push    rax
    retfq
2:
    mov     eax, 0x18
    mov     ss, eax
    mov     ds, eax
    mov     es, eax

    // Mark: a 32-bit OUT.
    mov     eax, 0x40000000
    out     0xf4, eax

    // Character by character, then as one string.
    mov     edx, 0x3f8
    lea     rsi, [rip + guest_text]
    mov     ecx, offset guest_text_half
3:  lodsb
    out     dx, al
    dec     ecx
    jnz     3b
    mov     ecx, offset guest_text_rest
    cld
    rep     outsb

    // A port and an address where nothing is: all ones.
    mov     edx, 0x5150
    in      al, dx
    cmp     al, 0xff
    jne     9f
    mov     ebx, 0xd0000000
    mov     eax, [rbx]
    cmp     eax, 0xffffffff
    jne     9f
    mov     [rbx + 8], eax
    mov     byte ptr [rbx + 16], 7

    // An interrupt for vector 0x24: the serial line through the master PIC.
    lea     rax, [rip + guest_handler]
    lea     rdi, [rip + guest_idt + 0x24 * 16]
    mov     word ptr [rdi], ax
    mov     word ptr [rdi + 2], 0x10
    mov     word ptr [rdi + 4], 0x8e00
    shr     rax, 16
    mov     word ptr [rdi + 6], ax
    shr     rax, 16
    mov     dword ptr [rdi + 8], eax
    lea     rax, [rip + guest_idt]
    mov     [rip + guest_idtr + 2], rax
    lidt    [rip + guest_idtr]
    mov     al, 0x11
    out     0x20, al
    mov     al, 0x20
    out     0x21, al
    mov     al, 4
    out     0x21, al
    mov     al, 1
    out     0x21, al
    mov     al, 0xef
    out     0x21, al
    // "Transmitter empty" interrupts on: one is pending at once.
    mov     edx, 0x3fb
    mov     al, 3
    out     dx, al
    mov     edx, 0x3fc
    mov     al, 8
    out     dx, al
    mov     edx, 0x3f9
    mov     al, 2
    out     dx, al
    // STI takes effect after the next instruction: no interrupt comes between the look and the HLT.
4:  cli
    cmp     byte ptr [rip + guest_interrupted], 0
    jne     5f
    sti
    hlt
    jmp     4b
5:
    mov     eax, 0x42000001
    out     0xf4, eax
    mov     edx, 0x600
    mov     al, 0x34
    out     dx, al
    // Not reached: power-off ends the run.
9:  mov     edx, 0x602
    mov     al, 1
    out     dx, al
    hlt
    jmp     9b

guest_handler:
    push    rax
    push    rdx
    mov     byte ptr [rip + guest_interrupted], 1
    mov     edx, 0x3fa
    in      al, dx
    mov     al, 0x20
    out     0x20, al
    pop     rdx
    pop     rax
    iretq

guest_text:
    .ascii  "test guest: char by char\n"
    .set    guest_text_half, . - guest_text
6:  .ascii  "test guest: one string\n"
    .set    guest_text_rest, . - 6b
guest_interrupted:
    .byte   0
    .p2align 4
guest_gdt:
    .quad   0, 0
    .quad   0x00af9b000000ffff
    .quad   0x00cf93000000ffff
guest_gdtr:
    .word   31
    .quad   0
guest_idtr:
    .word   0x25 * 16 - 1
    .quad   0
    .p2align 4
guest_idt:
    .zero   0x25 * 16
    .p2align 4
    .zero   256
guest_stack_top:
test_guest_end:
    .popsection
"#
);

unsafe extern "C" {
    static test_guest_start: u8;
    static test_guest_end: u8;
}

/// Where the guest is loaded.
pub const GUEST_ADDRESS: u64 = 0x20_0000;

/// Where it is entered.
const ENTRY: u64 = 16;

/// The guest as an ELF file.
pub fn test_guest() -> Vec<u8> {
    elf(test_guest_code())
}

/// The guest as a flat image, to be entered in place of the shim.
pub fn test_guest_code() -> &'static [u8] {
    // SAFETY: both symbols are in one section of this binary, in this order; the bytes between them are never written.
    unsafe {
        let start = &raw const test_guest_start;
        let len = (&raw const test_guest_end).offset_from(start);
        std::slice::from_raw_parts(start, usize::try_from(len).unwrap())
    }
}

/// An ELF file with one segment.
pub fn elf(code: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend_from_slice(&2u16.to_le_bytes());
    file.extend_from_slice(&62u16.to_le_bytes());
    file.extend_from_slice(&1u32.to_le_bytes());
    for value in [GUEST_ADDRESS + ENTRY, 64, 0] {
        file.extend_from_slice(&value.to_le_bytes());
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    for value in [64u16, 56, 1, 0, 0, 0] {
        file.extend_from_slice(&value.to_le_bytes());
    }
    file.extend_from_slice(&1u32.to_le_bytes());
    file.extend_from_slice(&7u32.to_le_bytes());
    let len = code.len() as u64;
    for value in [0x1000, GUEST_ADDRESS, GUEST_ADDRESS, len, len, 0x1000] {
        file.extend_from_slice(&u64::to_le_bytes(value));
    }
    file.resize(0x1000, 0);
    file.extend_from_slice(code);
    file
}
