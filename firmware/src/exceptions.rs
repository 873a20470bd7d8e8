//! Every exception ends the guest with a code that names its vector; none is expected.
//!
//! A page that the host of an SNP guest swapped or remapped raises #VC (29) at its first touch, so
//! this is where such an attack ends. In a TD the module stops the vCPU instead; #VE (20) means
//! that the host took shared memory away, or has the module leave to it an instruction used here.
//!
//! UNSAFETY: assembly stubs, LIDT, and the one writable static, touched once by one processor.
#![allow(unsafe_code)]

use core::arch::{asm, global_asm};
use core::ptr::addr_of_mut;

use abi::boot::BOOT_CS;
use abi::shim::Termination;

const VECTORS: usize = 32;
/// Bytes of one stub.
const STUB: u64 = 8;
/// Present, 64-bit interrupt gate (AMD APM vol. 2, 4.8.4).
const INTERRUPT_GATE: u64 = 0x8E << 40;

global_asm!(
    ".pushsection .text.shim_stubs, \"ax\"",
    ".balign 8",
    "shim_stubs:",
    ".set vector, 0",
    ".rept {vectors}",
    "push vector",
    "jmp 1f",
    ".balign {stub}",
    ".set vector, vector + 1",
    ".endr",
    "1: pop rdi",
    "and edi, {vectors} - 1",
    "or edi, {base}",
    "shl edi, 16",
    "or edi, {set}",
    "jmp shim_terminate",
    ".popsection",
    vectors = const VECTORS,
    stub = const STUB,
    base = const Termination::EXCEPTION_BASE,
    set = const Termination(0).msr_value(),
);

unsafe extern "C" {
    /// The first stub.
    static shim_stubs: u8;
}

/// Gates, in the work area: a static of zeros.
static mut IDT: [[u64; 2]; VECTORS] = [[0; 2]; VECTORS];

/// Operand of LIDT.
#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Fills the table and loads it.
pub fn install() {
    let idt = addr_of_mut!(IDT);
    let mut stub = (&raw const shim_stubs) as u64;
    // SAFETY: called once, by the boot processor; the others do not touch it.
    for gate in unsafe { &mut *idt } {
        let low = (stub & 0xFFFF) | u64::from(BOOT_CS) << 16 | INTERRUPT_GATE;
        *gate = [low | (stub >> 16 & 0xFFFF) << 48, stub >> 32];
        stub += STUB;
    }
    let pointer = Pointer { limit: (VECTORS * 16 - 1) as u16, base: idt as u64 };
    // SAFETY: the table is filled and stays until `shim_leave` unloads it.
    unsafe { asm!("lidt [{}]", in(reg) &pointer, options(readonly, nostack, preserves_flags)) };
}
