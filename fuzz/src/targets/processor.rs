//! Arbitrary bytes as code, in every mode, on both engines: they must agree and come back.

use softkvm::cpu::bare::Bare;
use softkvm::cpu::engine::{CodeCache, Kind, run as run_engine};
use softkvm::cpu::state::{RSP, cr0, cr4, efer};
use softkvm::cpu::{Core, DescriptorTable, Exit, Features, Processor, Seg, Segment};

use super::Target;

/// Runs the input as code.
pub const TARGET: Target = Target { name: "processor", seeds, max_len: 512, run };

const CODE: u64 = 0x8000;
const IDT: u64 = 0x2000;
const GDT: u64 = 0x1000;
const HANDLER: u64 = 0xa000;
const TABLES: u64 = 0x1_0000;
/// Instructions per input.
const BUDGET: u64 = 400;

fn seeds() -> Vec<Vec<u8>> {
    // The first byte chooses mode and privilege.
    let bodies: [&[u8]; 5] = [
        &[0x48, 0x01, 0xd8, 0x75, 0xfb, 0xf4],
        &[0x0f, 0xa2, 0x0f, 0x31, 0xe6, 0x80, 0xf4],
        &[0xf3, 0x48, 0xa5, 0x66, 0x0f, 0x6f, 0x06, 0xd9, 0xee, 0xf4],
        &[0x0f, 0x20, 0xc0, 0x0f, 0x22, 0xc0, 0x0f, 0x01, 0xd9, 0xf3, 0x0f, 0x01, 0xd9],
        &[0x50, 0x9d, 0x48, 0xcf, 0xea, 0, 0, 0, 0, 8, 0, 0x8e, 0xd8, 0xcd, 0x80],
    ];
    (0..6).flat_map(|mode| bodies.iter().map(move |body| [&[mode], *body].concat())).collect()
}

fn run(input: &[u8]) {
    let Some((&mode, code)) = input.split_first() else { return };
    let [fast, reference] = [Kind::Fast, Kind::Reference].map(|kind| machine(kind, mode, code));
    assert_eq!(fast.0, reference.0, "the engines end differently");
    assert_eq!(fast.1, reference.1, "the engines leave different registers");
    assert!(fast.2 == reference.2, "the engines leave different memory");
}

/// How a run ended, its registers and its memory.
fn machine(kind: Kind, mode: u8, code: &[u8]) -> (Exit, [u64; 22], Vec<u8>) {
    let mut world = Bare::new(64);
    world.identity_map(TABLES, 1);
    world.put(CODE, code);
    world.put(HANDLER, &[0xf4]);
    for (index, entry) in
        [0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_9b00_0000_ffff, 0x009b_0000_ffff]
            .into_iter()
            .enumerate()
    {
        world.put64(GDT + 8 + 8 * index as u64, entry);
    }
    for vector in 0..32 {
        world.put64(IDT + vector * 16, HANDLER | 8 << 16 | 0x8e << 40);
    }
    let mut processor = Processor::new(core(mode));
    let mut cache = CodeCache::new(kind);
    let exit = processor.with_world(&mut world, |p| run_engine(p, &mut cache, BUDGET));
    let core = &processor.core;
    let mut registers = [0; 22];
    registers[..16].copy_from_slice(&core.gpr[..16]);
    registers[16..].copy_from_slice(&[
        core.rip,
        core.rflags(),
        core.instructions,
        core.cr0,
        core.cr3,
        core.cr2,
    ]);
    (exit, registers, world.bytes().to_vec())
}

/// Long mode, protected mode or real mode; the upper bits choose user mode.
fn core(mode: u8) -> Core {
    let mut core = Core::at_reset();
    core.features = Features::all();
    core.gdtr = DescriptorTable { base: GDT, limit: 0x2f };
    core.idtr = DescriptorTable { base: IDT, limit: 0x1ff };
    core.gpr[RSP] = 0x7000;
    core.rip = CODE;
    let code = match mode % 3 {
        0 => {
            core.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE | cr0::WP;
            core.cr4 = cr4::PAE | cr4::OSFXSR;
            core.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
            core.cr3 = TABLES;
            Segment { selector: 8, attrib: 0xa9b, limit: !0, base: 0 }
        }
        1 => {
            core.cr0 = cr0::PE | cr0::ET;
            core.cr4 = cr4::OSFXSR;
            Segment { selector: 0x18, attrib: 0xc9b, limit: !0, base: 0 }
        }
        _ => Segment { selector: 0, attrib: 0x9b, limit: 0xffff, base: 0 },
    };
    if mode % 3 != 2 {
        core.seg = [Segment { selector: 0x10, attrib: 0xc93, limit: !0, base: 0 }; 6];
    }
    core.seg[Seg::Cs as usize] = code;
    if mode & 0x80 != 0 && mode.is_multiple_of(3) {
        core.cpl = 3;
        core.seg[Seg::Cs as usize].attrib |= 0x60;
        core.seg[Seg::Ss as usize].attrib |= 0x60;
    }
    core.update_mode();
    core
}
