//! Speed of the processor in millions of instructions per second, by kind of code.
//!
//! `cargo bench --package softkvm --bench mips [reference]`. Each program runs in 64-bit mode
//! behind 4-level page tables; the figure is guest instructions over wall time, best of five runs.

#![allow(clippy::unwrap_used)]

use std::time::Instant;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use softkvm::cpu::bare::Bare;
use softkvm::cpu::engine::{CodeCache, Kind, run};
use softkvm::cpu::state::{RSP, cr0, cr4, efer};
use softkvm::cpu::{Core, DescriptorTable, Exit, Processor, Seg, Segment};

const CODE: u64 = 0x1_0000;
const HANDLER: u64 = 0x2_0000;
const GDT: u64 = 0x3_0000;
const IDT: u64 = 0x3_1000;
const DATA: u64 = 0x10_0000;
/// Not mapped.
const HOLE: u64 = 0x4000_0000;
const TABLES: u64 = 0x80_0000;

type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Fills a table with a xorshift generator: shifts, exclusive ors, stores.
fn xorshift(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut outer, mut top) = (a.create_label(), a.create_label());
    a.mov(rax, 0x9e37_79b9_7f4a_7c15u64)?;
    a.mov(r8d, 400u32)?;
    a.set_label(&mut outer)?;
    a.mov(rdi, DATA)?;
    a.mov(ecx, 8192u32)?;
    a.set_label(&mut top)?;
    a.mov(rdx, rax)?;
    a.shl(rdx, 13)?;
    a.xor(rax, rdx)?;
    a.mov(rdx, rax)?;
    a.shr(rdx, 7)?;
    a.xor(rax, rdx)?;
    a.mov(rdx, rax)?;
    a.shl(rdx, 17)?;
    a.xor(rax, rdx)?;
    a.mov(qword_ptr(rdi), rax)?;
    a.add(rdi, 8)?;
    a.dec(ecx)?;
    a.jnz(top)?;
    a.dec(r8d)?;
    a.jnz(outer)?;
    a.hlt()
}

/// Walks bytes through a 256-entry table and a chain of compares: a decompressor's inner loop.
fn bytes(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut outer, mut top, mut low, mut next) =
        (a.create_label(), a.create_label(), a.create_label(), a.create_label());
    a.mov(r8d, 200u32)?;
    a.mov(r10, DATA + 0x4_0000)?;
    a.xor(ebx, ebx)?;
    a.set_label(&mut outer)?;
    a.mov(rsi, DATA)?;
    a.mov(rdi, DATA + 0x2_0000)?;
    a.lea(r9, rsi + 0x4000)?;
    a.set_label(&mut top)?;
    a.movzx(eax, byte_ptr(rsi))?;
    a.add(rsi, 1)?;
    a.movzx(edx, byte_ptr(r10 + rax * 4))?;
    a.lea(ebx, rbx + rdx * 2 + 1)?;
    a.cmp(al, 0x40)?;
    a.jb(low)?;
    a.mov(byte_ptr(rdi + 1), bl)?;
    a.test(bl, 3)?;
    a.jne(next)?;
    a.xor(ebx, 0x55)?;
    a.jmp(next)?;
    a.set_label(&mut low)?;
    a.mov(byte_ptr(rdi), al)?;
    a.set_label(&mut next)?;
    a.inc(rdi)?;
    a.cmp(rsi, r9)?;
    a.jne(top)?;
    a.dec(r8d)?;
    a.jnz(outer)?;
    a.hlt()
}

/// Small functions that call each other: stack traffic and returns.
fn calls(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut top, mut leaf, mut middle) = (a.create_label(), a.create_label(), a.create_label());
    a.mov(ebp, 600_000u32)?;
    a.xor(eax, eax)?;
    a.set_label(&mut top)?;
    a.mov(edi, ebp)?;
    a.call(middle)?;
    a.sub(ebp, 1)?;
    a.jne(top)?;
    a.hlt()?;
    a.set_label(&mut middle)?;
    a.push(rbx)?;
    a.mov(ebx, edi)?;
    a.call(leaf)?;
    a.lea(edi, rbx + 7)?;
    a.call(leaf)?;
    a.pop(rbx)?;
    a.ret()?;
    for _ in 0..5000 {
        a.nop()?;
    }
    a.set_label(&mut leaf)?;
    a.imul_3(edx, edi, 0x5bd1)?;
    a.mov(ecx, edx)?;
    a.sar(ecx, 15)?;
    a.xor(edx, ecx)?;
    a.add(eax, edx)?;
    a.ret()
}

/// Multi-precision multiply-accumulate: MUL, ADD, ADC.
fn bignum(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut outer, mut top) = (a.create_label(), a.create_label());
    a.mov(r8d, 60_000u32)?;
    a.set_label(&mut outer)?;
    a.mov(rsi, DATA)?;
    a.mov(rdi, DATA + 0x1000)?;
    a.xor(r9d, r9d)?;
    a.mov(ecx, 32u32)?;
    a.set_label(&mut top)?;
    a.mov(rax, qword_ptr(rsi))?;
    a.mul(r8)?;
    a.add(rax, r9)?;
    a.adc(rdx, 0)?;
    a.add(qword_ptr(rdi), rax)?;
    a.adc(rdx, 0)?;
    a.mov(r9, rdx)?;
    a.lea(rsi, rsi + 8)?;
    a.lea(rdi, rdi + 8)?;
    a.sub(ecx, 1)?;
    a.jne(top)?;
    a.dec(r8d)?;
    a.jnz(outer)?;
    a.hlt()
}

/// One load per page over 4 MiB: every access a TLB miss in a small table.
fn pages(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut outer, mut top) = (a.create_label(), a.create_label());
    a.mov(r8d, 200u32)?;
    a.set_label(&mut outer)?;
    a.mov(rsi, DATA)?;
    a.mov(ecx, 7000u32)?;
    a.set_label(&mut top)?;
    a.add(rax, qword_ptr(rsi))?;
    a.add(rsi, 4096)?;
    a.sub(ecx, 1)?;
    a.jne(top)?;
    a.dec(r8d)?;
    a.jnz(outer)?;
    a.hlt()
}

/// A page fault per round: the handler steps over the load and returns.
fn faults(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.mov(rbx, HOLE)?;
    a.mov(ecx, 500_000u32)?;
    a.set_label(&mut top)?;
    a.mov(rax, qword_ptr(rbx))?;
    a.dec(ecx)?;
    a.jnz(top)?;
    a.hlt()
}

/// The page-fault handler; the load of [`faults`] is three bytes long.
fn handler(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.add(rsp, 8)?;
    a.add(qword_ptr(rsp), 3)?;
    a.iretq()
}

fn assemble(program: Program, at: u64) -> Vec<u8> {
    let mut a = CodeAssembler::new(64).unwrap();
    program(&mut a).unwrap();
    a.assemble(at).unwrap()
}

fn core() -> Core {
    let mut core = Core::at_reset();
    core.cr0 = cr0::PE | cr0::PG | cr0::WP | cr0::NE;
    core.cr4 = cr4::PAE;
    core.efer = efer::LME | efer::LMA;
    core.cr3 = TABLES;
    core.seg[Seg::Cs as usize] = Segment { selector: 8, attrib: 0xa9b, limit: !0, base: 0 };
    core.seg[Seg::Ss as usize] = Segment { selector: 16, attrib: 0xc93, limit: !0, base: 0 };
    core.gdtr = DescriptorTable { base: GDT, limit: 23 };
    core.idtr = DescriptorTable { base: IDT, limit: 0xff };
    core.gpr[RSP] = DATA - 0x100;
    core.rip = CODE;
    core.update_mode();
    core
}

fn measure(program: Program, kind: Kind) -> (u64, f64, f64) {
    let code = assemble(program, CODE);
    let handler = assemble(handler, HANDLER);
    let mut best = f64::MAX;
    let (mut count, mut fills) = (0, 0.0);
    for _ in 0..5 {
        let mut world = Bare::new(0x2000);
        world.identity_map(TABLES, 1);
        world.put(CODE, &code);
        world.put(HANDLER, &handler);
        world.put64(GDT + 8, 0x00af_9b00_0000_ffff);
        world.put64(GDT + 16, 0x00cf_9300_0000_ffff);
        // #PF: a 64-bit interrupt gate.
        world.put64(
            IDT + 14 * 16,
            (HANDLER & !0xffff) << 32 | 0x8e << 40 | 8 << 16 | HANDLER & 0xffff,
        );
        let mut p = Processor::new(core());
        let mut cache = CodeCache::new(kind);
        let start = Instant::now();
        let exit = p.with_world(&mut world, |p| run(p, &mut cache, u64::MAX >> 1));
        let time = start.elapsed().as_secs_f64();
        assert_eq!(exit, Exit::Halt);
        count = p.core.instructions;
        fills = p.tlb_stats().fills as f64;
        best = best.min(time);
    }
    (count, best, fills)
}

fn main() {
    let reference = std::env::args().any(|arg| arg == "reference");
    let kind = if reference { Kind::Reference } else { Kind::Fast };
    let programs: [(&str, Program); 6] = [
        ("xorshift", xorshift),
        ("bytes", bytes),
        ("calls", calls),
        ("bignum", bignum),
        ("pages", pages),
        ("faults", faults),
    ];
    for (name, program) in programs {
        let (count, time, fills) = measure(program, kind);
        println!(
            "{name:10} {:7.1} M instructions {:8.1} MIPS {fills:10} fills",
            count as f64 / 1e6,
            count as f64 / 1e6 / time,
        );
    }
}
