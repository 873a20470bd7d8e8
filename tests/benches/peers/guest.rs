//! The guest of the benchmark, in two images with the same work in them: a flat one for whoever enters it in 64-bit mode, and
//! a ROM that starts at the reset vector. It writes a line end to COM1 when it starts, after its port accesses and after
//! its memory accesses, and halts.
//!
//! UNSAFETY: the assembler's symbols are declared as statics; they are only read.
#![allow(unsafe_code)]

/// How often the guest writes COM1's scratch register.
pub const PORT_WRITES: u32 = 4000;
/// How often it reads an address where nothing is.
pub const MMIO_READS: u32 = 4000;
/// Where the ROM is.
pub const ROM_ADDRESS: u64 = 0xffff_0000;
/// Where the flat image is and the page table it is entered with.
pub const FLAT_ADDRESS: u64 = abi::shim::SHIM_CODE_GPA;
/// Where it is entered.
pub const FLAT_ENTRY: u64 = abi::shim::SHIM_ENTRY_GPA;

const ROM_LEN: usize = 0x1_0000;

core::arch::global_asm!(
    r#"
    .pushsection .rodata.peers_guest, "a", @progbits

    // Means the same in 32-bit and in 64-bit mode.
    .macro peers_work
    mov     ecx, {ports}
    mov     edx, 0x3ff
1:  out     dx, al
    dec     ecx
    jnz     1b
    mov     edx, 0x3f8
    out     dx, al
    mov     ecx, {mmios}
    mov     ebx, 0x10000000
2:  .byte   0x8b, 0x13          // mov edx, [ebx] or [rbx]
    dec     ecx
    jnz     2b
    mov     edx, 0x3f8
    out     dx, al
3:  hlt
    jmp     3b
    .endm

    .globl peers_flat_start
    .globl peers_flat_end
    .p2align 4
peers_flat_start:
    // Other processors are parked here, the boot processor enters 16 bytes later.
    cli
3:  hlt
    jmp     3b
    .p2align 4
    mov     edx, 0x3f8
    mov     al, 10
    out     dx, al
    // Page tables of our own at 0x90000: two large pages, code and stack in one, nothing in the other.
    mov     dword ptr [0x90000], 0x91003
    mov     dword ptr [0x91000], 0x92003
    mov     dword ptr [0x92000], 0x83
    mov     dword ptr [0x92400], 0x10000083
    mov     ebx, 0x90000
    mov     cr3, rbx
    peers_work
peers_flat_end:

    .globl peers_rom_start
    .globl peers_rom_end
    .p2align 4
    .code16
peers_rom_start:
    mov     dx, 0x3f8
    mov     al, 10
    out     dx, al
    .byte   0x2e, 0x66, 0x0f, 0x01, 0x16    // lgdt cs:[...], 32-bit base
    .word   peers_rom_gdtr - peers_rom_start
    mov     ebx, cr0
    or      bl, 1
    mov     cr0, ebx
    .byte   0x66, 0xea                      // far jump, 32-bit offset
    .long   0xffff0000 + peers_rom_flat - peers_rom_start
    .word   8
    .code32
peers_rom_flat:
    mov     ebx, 16
    mov     ds, ebx
    peers_work
    .p2align 3
peers_rom_gdt:
    .quad   0
    .quad   0x00cf9b000000ffff
    .quad   0x00cf93000000ffff
peers_rom_gdtr:
    .word   23
    .long   0xffff0000 + peers_rom_gdt - peers_rom_start
peers_rom_end:
    .code64
    .popsection
"#,
    ports = const PORT_WRITES,
    mmios = const MMIO_READS,
);

unsafe extern "C" {
    static peers_flat_start: u8;
    static peers_flat_end: u8;
    static peers_rom_start: u8;
    static peers_rom_end: u8;
}

/// The flat image.
pub fn flat() -> &'static [u8] {
    // SAFETY: both symbols are in one section of this binary, in this order; what is between them is never written.
    unsafe { between(&raw const peers_flat_start, &raw const peers_flat_end) }
}

/// The ROM.
pub fn rom() -> Vec<u8> {
    // JMP from the reset vector, sixteen bytes before the end, to the start.
    const RESET: [u8; 3] = [0xe9, 0x0d, 0x00];
    // SAFETY: as above.
    let code = unsafe { between(&raw const peers_rom_start, &raw const peers_rom_end) };
    let mut rom = vec![0; ROM_LEN];
    rom[..code.len()].copy_from_slice(code);
    rom[ROM_LEN - 16..][..RESET.len()].copy_from_slice(&RESET);
    rom
}

/// # Safety
/// `end` must not be before `start`, and the bytes between them must live and stay unchanged for ever.
unsafe fn between(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: by the caller.
    unsafe {
        std::slice::from_raw_parts(start, usize::try_from(end.offset_from(start)).unwrap_or(0))
    }
}
