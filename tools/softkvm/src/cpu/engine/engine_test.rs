//! The engines by behaviour: equal states, exact budgets, self-modifying code, bounded stack.

use iced_x86::code_asm::*;

use super::{CodeCache, Kind, run};
use crate::cpu::bare::Bare;
use crate::cpu::state::{RAX, RCX, RSP, cr0, cr4, efer};
use crate::cpu::{Core, Exit, Features, Processor, Seg, Segment, flags};

const CODE: u64 = 0x1_0000;
const STACK: u64 = 0x3_0000;
const DATA: u64 = 0x4_0000;
const TABLES: u64 = 0x8_0000;
const IDT: u64 = 0x5_0000;
const GDT: u64 = 0x5_1000;

fn core() -> Core {
    let mut core = Core::at_reset();
    core.cr0 = cr0::PE | cr0::PG | cr0::WP | cr0::NE;
    core.cr4 = cr4::PAE | cr4::OSFXSR;
    core.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
    core.cr3 = TABLES;
    let data = Segment { selector: 16, attrib: 0xc93, limit: !0, base: 0 };
    core.seg = [data; 6];
    core.seg[Seg::Cs as usize] = Segment { selector: 8, attrib: 0xa9b, limit: !0, base: 0 };
    core.idtr.base = IDT;
    core.idtr.limit = 0xfff;
    core.gdtr.base = GDT;
    core.gdtr.limit = 0x1f;
    core.gpr[RSP] = STACK;
    core.rip = CODE;
    core.update_mode();
    core
}

/// RAM with identity tables, a GDT, and an IDT whose gates all lead to `handler`.
fn world(handler: u64) -> Bare {
    let mut world = Bare::new(256);
    world.identity_map(TABLES, 1);
    world.put64(GDT + 8, 0x00af_9b00_0000_ffff);
    world.put64(GDT + 16, 0x00cf_9300_0000_ffff);
    for vector in 0..32 {
        let gate = handler & 0xffff | 8 << 16 | 0x8e << 40 | (handler >> 16 & 0xffff) << 48;
        world.put64(IDT + vector * 16, gate);
        world.put64(IDT + vector * 16 + 8, handler >> 32);
    }
    world
}

fn assemble(at: u64, f: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
    let mut a = CodeAssembler::new(64).unwrap();
    f(&mut a).unwrap();
    a.assemble(at).unwrap()
}

type IcedError = iced_x86::IcedError;

struct Machine {
    world: Bare,
    p: Processor,
    code: CodeCache,
}

impl Machine {
    fn new(kind: Kind, code: &[u8]) -> Self {
        let mut world = world(CODE + 0x8000);
        world.put(CODE, code);
        world.put(CODE + 0x8000, &[0xf4]); // HLT
        Self { world, p: Processor::new(core()), code: CodeCache::new(kind) }
    }

    fn run(&mut self, budget: u64) -> Exit {
        let code = &mut self.code;
        self.p.with_world(&mut self.world, |p| run(p, code, budget))
    }

    /// Everything a guest could see.
    fn state(&mut self) -> (Vec<u64>, u64, u64, u64, Vec<u8>) {
        let c = &self.p.core;
        (c.gpr.to_vec(), c.rip, c.rflags(), c.instructions, self.world.bytes()[..0x6_0000].to_vec())
    }
}

fn both(code: &[u8]) -> [Machine; 2] {
    [Machine::new(Kind::Fast, code), Machine::new(Kind::Reference, code)]
}

#[test]
fn loop_counts_exactly_at_every_budget() {
    let code = assemble(CODE, |a| {
        let mut top = a.create_label();
        a.mov(rcx, 1000u64)?;
        a.set_label(&mut top)?;
        a.add(rax, rcx)?;
        a.dec(rcx)?;
        a.jnz(top)?;
        a.hlt()
    });
    for budget in [1, 2, 3, 4, 5, 7, 100, 2999, 3001, 3002] {
        let [mut fast, mut reference] = both(&code);
        assert_eq!(fast.run(budget), reference.run(budget), "budget {budget}");
        assert_eq!(fast.p.core.instructions, budget.min(3002));
        assert!(fast.state() == reference.state(), "budget {budget}");
    }
    let [mut fast, _] = both(&code);
    assert_eq!(fast.run(10_000), Exit::Halt);
    assert_eq!(fast.p.core.instructions, 3002);
    assert_eq!(fast.p.core.gpr[RAX], 500_500);
}

#[test]
fn a_fault_is_not_counted_and_reaches_its_handler() {
    let code = assemble(CODE, |a| {
        a.mov(rax, 5u64)?;
        a.mov(rbx, 0x4000_0000_0000u64)?; // canonical, not mapped
        a.mov(rcx, 6u64)?;
        a.mov(rdx, qword_ptr(rbx + 8))?;
        a.hlt()
    });
    for mut m in both(&code) {
        assert_eq!(m.run(100), Exit::Halt);
        assert_eq!(m.p.core.instructions, 4, "three moves and the handler's HLT");
        assert_eq!(m.p.core.cr2, 0x4000_0000_0008);
        assert_eq!(m.p.core.gpr[RCX], 6);
        let frame = m.p.core.gpr[RSP];
        assert_eq!(m.world.get64(frame), 0, "error code");
        assert_eq!(m.world.get64(frame + 8), CODE + 30, "faulting RIP");
    }
}

#[test]
fn an_end_without_answer_names_its_instruction() {
    let code = assemble(CODE, |a| {
        a.mov(rax, 0x4000_0000u64)?; // its table is in device memory
        a.mov(rdx, qword_ptr(rax + 8))?;
        a.hlt()
    });
    for mut m in both(&code) {
        m.world.put64(TABLES + 0x1008, 0x4000_0003);
        let Exit::Unknown { rip, bytes, len: 15, what } = m.run(100) else { panic!("no such end") };
        assert_eq!((rip, what), (CODE + 10, "page tables in device memory"));
        assert_eq!(bytes[..5], [0x48, 0x8b, 0x50, 8, 0xf4]);
        assert_eq!(m.p.core.instructions, 1);
    }
}

#[test]
fn code_that_changes_the_next_instruction() {
    let code = assemble(CODE, |a| {
        let mut top = a.create_label();
        let mut patch = a.create_label();
        a.xor(eax, eax)?;
        a.mov(ecx, 3u32)?;
        a.set_label(&mut top)?;
        a.lea(rbx, ptr(patch))?;
        a.add(byte_ptr(rbx + 1), 1u32)?; // the immediate of the ADD below
        a.set_label(&mut patch)?;
        a.add(eax, 0x10u32)?;
        a.dec(ecx)?;
        a.jnz(top)?;
        a.hlt()
    });
    for mut m in both(&code) {
        assert_eq!(m.run(100), Exit::Halt);
        assert_eq!(m.p.core.gpr[RAX], 0x11 + 0x12 + 0x13);
        if m.code.kind == Kind::Fast {
            assert!(m.code.stats().invalidations >= 1);
        }
    }
}

#[test]
fn data_beside_code_is_written_without_dropping_blocks() {
    let code = assemble(CODE, |a| {
        let mut top = a.create_label();
        a.mov(rbx, CODE + 0x800)?;
        a.mov(ecx, 100u32)?;
        a.set_label(&mut top)?;
        a.inc(dword_ptr(rbx))?;
        a.dec(ecx)?;
        a.jnz(top)?;
        a.hlt()
    });
    let [mut fast, _] = both(&code);
    assert_eq!(fast.run(1000), Exit::Halt);
    assert_eq!(fast.world.get64(CODE + 0x800), 100);
    assert_eq!(fast.code.stats().invalidations, 0);
}

#[test]
fn another_processor_sees_new_code() {
    let code = assemble(CODE, |a| {
        a.mov(eax, 1u32)?;
        a.hlt()
    });
    let [mut m, _] = both(&code);
    let mut second = Processor::new(core());
    // The second processor has a write translation of the page before it holds code.
    let writer = assemble(CODE + 0x1000, |a| {
        a.mov(rbx, CODE)?;
        a.mov(byte_ptr(rbx + 0x100), 0u32)?;
        a.hlt()?;
        a.mov(byte_ptr(rbx + 1), 2u32)?;
        a.hlt()
    });
    m.world.put(CODE + 0x1000, &writer);
    second.core.rip = CODE + 0x1000;
    let Machine { world, p, code } = &mut m;
    assert_eq!(second.with_world(world, |p| run(p, code, 100)), Exit::Halt);
    assert_eq!(p.with_world(world, |p| run(p, code, 100)), Exit::Halt);
    assert_eq!(p.core.gpr[RAX], 1);
    assert_eq!(second.with_world(world, |p| run(p, code, 100)), Exit::Halt);
    p.core.rip = CODE;
    assert_eq!(p.with_world(world, |p| run(p, code, 100)), Exit::Halt);
    assert_eq!(p.core.gpr[RAX], 2);
}

#[test]
fn interrupts_come_at_the_same_instruction() {
    let code = assemble(CODE, |a| {
        a.nop()?;
        a.nop()?;
        a.sti()?;
        a.mov(eax, 1u32)?; // in the shadow of STI
        a.mov(eax, 2u32)?;
        a.hlt()
    });
    for mut m in both(&code) {
        m.world.interrupt = Some(20);
        m.p.core.attention = true;
        assert_eq!(m.run(100), Exit::Halt);
        assert_eq!(m.p.core.gpr[RAX], 1);
        assert_eq!(m.p.core.rflags & flags::IF, 0, "through an interrupt gate");
    }
}

#[test]
fn a_trap_follows_each_single_step() {
    let code = assemble(CODE, |a| {
        a.push(0x102)?; // TF
        a.popfq()?;
        a.mov(eax, 1u32)?;
        a.mov(eax, 2u32)?;
        a.hlt()
    });
    for mut m in both(&code) {
        assert_eq!(m.run(100), Exit::Halt);
        assert_eq!(m.p.core.gpr[RAX], 1);
        assert_eq!(m.p.core.instructions, 4);
        let frame = m.p.core.gpr[RSP];
        assert_eq!(m.world.get64(frame), CODE + m_len(&code), "RIP after the one step");
        assert_eq!(m.p.core.dr[6] & 1 << 14, 1 << 14);
    }
}

/// Length of all but the second MOV and the HLT.
fn m_len(code: &[u8]) -> u64 {
    code.len() as u64 - 6
}

#[test]
fn an_instruction_on_two_pages() {
    let mut code = vec![0x90; 0xffe];
    code.extend_from_slice(&[0xb8, 0x44, 0x33, 0x22, 0x11, 0xf4]); // mov eax, 0x11223344; hlt
    for mut m in both(&code) {
        assert_eq!(m.run(10_000), Exit::Halt);
        assert_eq!(m.p.core.gpr[RAX], 0x1122_3344);
        assert_eq!(m.p.core.instructions, 0xffe + 2);
    }
}

#[test]
fn an_instruction_on_two_pages_changes_with_its_second() {
    let start = assemble(CODE, |a| {
        a.mov(byte_ptr(CODE + 0x1002), 0x55)?;
        a.jmp(CODE + 0xffe)
    });
    let mut code = vec![0x90; 0xffe];
    code[..start.len()].copy_from_slice(&start);
    code.extend_from_slice(&[0xb8, 0x44, 0x33, 0x22, 0x11, 0xf4]); // mov eax, 0x11223344; hlt
    for mut m in both(&code) {
        for (from, expected) in [(CODE + 0xffe, 0x1122_3344), (CODE, 0x5522_3344)] {
            m.p.core.rip = from;
            assert_eq!(m.run(10_000), Exit::Halt);
            assert_eq!(m.p.core.gpr[RAX], expected);
        }
    }
}

#[test]
fn an_instruction_on_two_pages_follows_its_mapping() {
    let mut code = vec![0x90; 0xffe];
    code.extend_from_slice(&[0xb8, 0x44, 0x33, 0x22, 0x11, 0xf4]); // mov eax, 0x11223344; hlt
    for mut m in both(&code) {
        // The page tables of `identity_map` are large pages: one table more makes small ones.
        let (table, other) = (0x9_0000, 0x6_0000);
        for page in 0..512u64 {
            m.world.put64(table + page * 8, page << 12 | 3);
        }
        m.world.put64(TABLES + 0x2000, table | 3);
        m.world.put(other, &[0x33, 0x22, 0x77, 0xf4]);
        let run = |m: &mut Machine| {
            m.p.core.rip = CODE + 0xffe;
            assert_eq!(m.run(10_000), Exit::Halt);
            m.p.core.gpr[RAX]
        };
        assert_eq!(run(&mut m), 0x1122_3344);
        m.world.put64(table + (CODE >> 12) * 8 + 8, other | 3);
        m.p.flush_page(CODE + 0x1000);
        assert_eq!(run(&mut m), 0x7722_3344);
    }
}

#[test]
fn stack_depth_is_constant() {
    let code = assemble(CODE, |a| {
        let mut top = a.create_label();
        let mut far = a.create_label();
        a.set_label(&mut top)?;
        a.add(rax, 1)?;
        a.mov(qword_ptr(DATA), rax)?;
        a.call(far)?;
        a.jmp(top)?;
        for _ in 0..0x1000 {
            a.nop()?;
        }
        a.set_label(&mut far)?;
        a.sub(rcx, 1)?;
        a.ret()
    });
    let thread = std::thread::Builder::new().stack_size(128 << 10).spawn(move || {
        let [mut fast, _] = both(&code);
        assert_eq!(fast.run(3_000_000), Exit::Turn);
        fast.p.core.instructions
    });
    assert_eq!(thread.unwrap().join().unwrap(), 3_000_000);
}

/// A small deterministic generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Opcodes with a ModRM byte and no immediate: one byte, then two bytes behind 0F.
const PLAIN: &[u8] = &[
    0x00, 0x01, 0x02, 0x03, 0x08, 0x09, 0x0a, 0x0b, 0x10, 0x11, 0x12, 0x13, 0x18, 0x19, 0x1a, 0x1b,
    0x20, 0x21, 0x22, 0x23, 0x28, 0x29, 0x2a, 0x2b, 0x30, 0x31, 0x32, 0x33, 0x38, 0x39, 0x3a, 0x3b,
    0x63, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8d, 0xd0, 0xd1, 0xd2, 0xd3, 0xfe, 0xff,
    0x8f, 0xf6, 0xf7,
];
const PLAIN_0F: &[u8] = &[
    0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x4b, 0x4c, 0x4d, 0x4e, 0x4f,
    0x90, 0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f,
    0xa3, 0xa5, 0xab, 0xad, 0xaf, 0xb0, 0xb1, 0xb3, 0xb6, 0xb7, 0xbb, 0xbc, 0xbd, 0xbe, 0xbf, 0xc0,
    0xc1, 0xc8, 0xcb, 0x1f, 0x18,
];
/// Opcodes with a ModRM byte and an 8-bit immediate; `0x0f` marks a second byte.
const IMM8: &[(bool, u8)] = &[
    (false, 0x80),
    (false, 0x83),
    (false, 0xc0),
    (false, 0xc1),
    (false, 0xc6),
    (false, 0x6b),
    (true, 0xa4),
    (true, 0xac),
    (true, 0xba),
];
/// Without ModRM or immediate.
const SINGLE: &[u8] = &[
    0x50, 0x51, 0x52, 0x53, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x5b, 0x5d, 0x5e, 0x5f, 0x90, 0x91,
    0x92, 0x93, 0x96, 0x97, 0x98, 0x99, 0x9c, 0x9e, 0x9f, 0xc9, 0xf5, 0xf8, 0xf9, 0xfc, 0xfd, 0xa4,
    0xa5, 0xaa, 0xab, 0xac, 0xad,
];

/// SSE opcodes with a ModRM byte, after 0x0f; those of the other two maps have a byte more.
const SSE: &[&[u8]] = &[
    &[0x10],
    &[0x11],
    &[0x28],
    &[0x29],
    &[0x6f],
    &[0x7f],
    &[0x64],
    &[0x74],
    &[0x76],
    &[0xd4],
    &[0xda],
    &[0xdb],
    &[0xdf],
    &[0xeb],
    &[0xef],
    &[0xf4],
    &[0xfa],
    &[0xfe],
    &[0x38, 0x00],
    &[0x38, 0x1c],
    &[0x38, 0x40],
    &[0x38, 0xcb],
    &[0x38, 0xcc],
    &[0x38, 0xcd],
];
/// Likewise, with an 8-bit immediate.
const SSE_IMM8: &[&[u8]] = &[&[0x70], &[0x3a, 0x0e], &[0x3a, 0x0f]];

fn random_instruction(r: &mut Random, code: &mut Vec<u8>) {
    if r.below(4) == 0 {
        // A register that points into data, sometimes across a page.
        let reg = r.below(8) as u8;
        if reg != RSP as u8 {
            code.extend_from_slice(&[0x48, 0xb8 + reg]);
            code.extend_from_slice(&(DATA + r.below(0x1800)).to_le_bytes());
            return;
        }
        // A count.
        code.extend_from_slice(&[0xb9, r.below(70) as u8, 0, 0, 0]);
        return;
    }
    let rep = r.below(12) == 0;
    let kind = r.below(26);
    if rep && (16..18).contains(&kind) {
        code.push(0xf3);
    }
    if r.below(8) == 0 || kind >= 20 && r.below(2) == 0 {
        code.push(0x66);
    } else if kind >= 20 && r.below(3) == 0 {
        code.push(0xf3);
    }
    if r.below(24) == 0 {
        code.push(0x67);
    }
    if r.below(2) == 0 {
        code.push(0x40 | r.below(16) as u8);
    }
    let modrm = |r: &mut Random, code: &mut Vec<u8>| {
        let byte = r.next() as u8;
        let (mode, rm) = (byte >> 6, byte & 7);
        code.push(byte);
        if mode != 3 && rm == 4 {
            code.push(r.next() as u8);
        }
        match mode {
            0 if rm == 5 => code.extend_from_slice(&(r.below(0x2_0000) as u32).to_le_bytes()),
            1 => code.push(r.below(64) as u8),
            2 => code.extend_from_slice(&(r.below(256) as u32).to_le_bytes()),
            _ => {}
        }
    };
    match kind {
        0..8 => {
            code.push(PLAIN[r.below(PLAIN.len() as u64) as usize]);
            modrm(r, code);
        }
        8..12 => {
            code.extend_from_slice(&[0x0f, PLAIN_0F[r.below(PLAIN_0F.len() as u64) as usize]]);
            modrm(r, code);
        }
        12..15 => {
            let (two, byte) = IMM8[r.below(IMM8.len() as u64) as usize];
            if two {
                code.push(0x0f);
            }
            code.push(byte);
            modrm(r, code);
            code.push(r.next() as u8);
        }
        15 => {
            // TEST, MOV or an arithmetic operation with a longer immediate.
            code.push([0x81, 0xc7, 0x69][r.below(3) as usize]);
            modrm(r, code);
            code.extend_from_slice(&(r.next() as u32).to_le_bytes());
        }
        16..18 => code.push(SINGLE[r.below(SINGLE.len() as u64) as usize]),
        18 => code.extend_from_slice(&[0x70 | r.below(16) as u8, r.below(12) as u8]),
        20..25 => {
            code.push(0x0f);
            code.extend_from_slice(SSE[r.below(SSE.len() as u64) as usize]);
            modrm(r, code);
        }
        25 => {
            code.push(0x0f);
            code.extend_from_slice(SSE_IMM8[r.below(SSE_IMM8.len() as u64) as usize]);
            modrm(r, code);
            code.push(r.next() as u8 & 0x3f);
        }
        _ => {
            code.extend_from_slice(&[0x0f, 0x80 | r.below(16) as u8, r.below(12) as u8, 0, 0, 0]);
        }
    }
}

#[test]
fn engines_agree_on_random_code() {
    let mut r = Random(0x1234_5678_9abc_def1);
    let [mut fast, mut reference] = both(&[]);
    let mut retired = 0;
    for round in 0..20_000 {
        let mut code = Vec::new();
        for _ in 0..12 + r.below(30) {
            random_instruction(&mut r, &mut code);
        }
        code.extend_from_slice(&[0xf4; 24]);
        let seeds: Vec<u64> = (0..16)
            .map(|_| if r.below(2) == 0 { DATA + r.below(0x1ff0) } else { r.next() << r.below(48) })
            .collect();
        let vectors: [u128; 16] =
            std::array::from_fn(|_| u128::from(r.next()) << 64 | u128::from(r.next()));
        let flags = r.next();
        let first_turn = r.below(40);
        let no_sse = r.below(16);
        for m in [&mut fast, &mut reference] {
            m.code.clear();
            m.world.put(CODE, &code);
            m.p.core = core();
            m.p.core.features = if round % 2 == 0 {
                Features::all() - Features::ABSENT
            } else {
                Features::default()
            };
            m.p.core.gpr[..16].copy_from_slice(&seeds);
            m.p.core.fpu.xmm = vectors;
            match no_sse {
                0 => m.p.core.cr4 &= !cr4::OSFXSR,
                1 => m.p.core.cr0 |= cr0::TS,
                _ => {}
            }
            m.p.core.gpr[RSP] = STACK;
            m.p.core.set_rflags(flags & (flags::ARITH_MASK | flags::DF));
            if m.run(first_turn) == Exit::Turn {
                m.run(100_000);
            }
        }
        retired += fast.p.core.instructions;
        let (a, b) = (&fast.p.core, &reference.p.core);
        let same = a.gpr == b.gpr
            && a.rip == b.rip
            && a.rflags() == b.rflags()
            && a.instructions == b.instructions
            && a.cr2 == b.cr2
            && a.fpu.xmm == b.fpu.xmm;
        assert!(
            same,
            "round {round}: code {code:02x?}\nfast {:x?} rip {:x} flags {:x} n {}\nreference {:x?} rip {:x} \
             flags {:x} n {}",
            a.gpr,
            a.rip,
            a.rflags(),
            a.instructions,
            b.gpr,
            b.rip,
            b.rflags(),
            b.instructions
        );
        if round % 16 == 0 {
            assert!(fast.state() == reference.state(), "round {round}: memory");
        }
    }
    assert!(retired > 100_000, "only {retired} instructions ran");
    let stats = fast.code.stats();
    assert!(stats.steps < retired, "{stats:?}");
}
