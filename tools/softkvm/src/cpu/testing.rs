//! A small machine for tests of the processor: RAM, a GDT, an IDT whose every handler is a HLT, and
//! a loop that fetches, decodes, executes and delivers.

use iced_x86::code_asm::CodeAssembler;
use iced_x86::{Decoder, DecoderOptions};

use super::bare::Bare;
use super::state::{RSP, cr0, cr4, efer};
use super::{
    Core, DescriptorTable, Exit, Features, Mode, Processor, Seg, Segment, Step, Stop, deliver, exec,
};

/// Kernel code selector: 64-bit in long machines, 32-bit in protected ones.
pub const KERNEL_CODE: u16 = 0x08;
/// Kernel data selector.
pub const KERNEL_DATA: u16 = 0x10;
/// 32-bit user code selector.
pub const USER_CODE32: u16 = 0x18 | 3;
/// User data selector.
pub const USER_DATA: u16 = 0x20 | 3;
/// 64-bit user code selector.
pub const USER_CODE64: u16 = 0x28 | 3;
/// TSS selector (16 bytes).
pub const TSS_SELECTOR: u16 = 0x30;
/// 16-bit code selector.
pub const CODE16: u16 = 0x40;
/// 16-bit data selector.
pub const DATA16: u16 = 0x48;
/// Data selector of an absent segment.
pub const ABSENT: u16 = 0x50;
/// Conforming kernel code.
pub const CONFORMING: u16 = 0x58;
/// A free slot of 16 bytes.
pub const FREE: u16 = 0x60;

/// Where the GDT is.
pub const GDT: u64 = 0x1000;
/// Where the IDT is.
pub const IDT: u64 = 0x2000;
/// Where the TSS is.
pub const TSS: u64 = 0x3000;
/// Top of the stack of CPL 0 after a switch.
pub const RSP0: u64 = 0x5000;
/// Top of the stack of IST1.
pub const IST1: u64 = 0x6000;
/// Initial stack pointer.
pub const STACK: u64 = 0x7000;
/// Where code is put.
pub const CODE: u64 = 0x8000;
/// Handler of vector `n` is at `HANDLERS + 16 * n`.
pub const HANDLERS: u64 = 0xa000;
/// Free memory.
pub const DATA: u64 = 0xc000;
/// Root of the page tables.
const TABLES: u64 = 0x10_0000;
/// Bytes of RAM.
const PAGES: usize = 0x200;

/// A machine.
pub struct Machine {
    /// Its processor.
    pub p: Processor,
    /// Everything else.
    pub world: Bare,
}

/// The eight bytes of a code or data descriptor.
pub fn descriptor(base: u32, limit: u32, attrib: u16) -> u64 {
    let (base, limit, attrib) = (u64::from(base), u64::from(limit), u64::from(attrib));
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (attrib & 0xff) << 40
        | (limit >> 16 & 0xf) << 48
        | (attrib >> 8 & 0xf) << 52
        | (base >> 24) << 56
}

fn segment(selector: u16, attrib: u16) -> Segment {
    Segment { selector, attrib, limit: u32::MAX, base: 0 }
}

impl Machine {
    /// Reset state: real mode with CS at the code's page.
    pub fn real() -> Self {
        let mut core = Core::at_reset();
        core.features = Features::all();
        core.seg[Seg::Cs as usize].base = 0;
        core.seg[Seg::Cs as usize].selector = 0;
        core.rip = CODE;
        core.gpr[RSP] = STACK;
        let mut world = Bare::new(PAGES);
        for vector in 0..256 {
            world.put(vector * 4, &(HANDLERS as u32 + vector as u32 * 16).to_le_bytes());
            world.put(HANDLERS + vector * 16, &[0xf4]);
        }
        Self { p: Processor::new(core), world }
    }

    fn tables(&mut self, long: bool) {
        let kernel_code = if long { 0xa9b } else { 0xc9b };
        let entries = [
            0,
            descriptor(0, 0xfffff, kernel_code),
            descriptor(0, 0xfffff, 0xc93),
            descriptor(0, 0xfffff, 0xcfb),
            descriptor(0, 0xfffff, 0xcf3),
            descriptor(0, 0xfffff, 0xafb),
            descriptor(TSS as u32, 0x1ff, 0x089),
            0,
            descriptor(0, 0xffff, 0x09b),
            descriptor(0, 0xffff, 0x093),
            descriptor(0, 0xffff, 0x013),
            descriptor(0, 0xfffff, if long { 0xa9f } else { 0xc9f }),
        ];
        for (i, entry) in entries.into_iter().enumerate() {
            self.world.put64(GDT + i as u64 * 8, entry);
        }
        for vector in 0..256 {
            self.gate(long, vector, 0xe, 0, 0);
            self.world.put(HANDLERS + vector * 16, &[0xf4]);
        }
        if long {
            self.world.put64(TSS + 4, RSP0);
            self.world.put64(TSS + 0x24, IST1);
        } else {
            self.world.put64(TSS + 4, RSP0 | u64::from(KERNEL_DATA) << 32);
        }
        self.world.put(TSS + 0x66, &0x68u16.to_le_bytes());
        for byte in 0x68..0x200 {
            self.world.put(TSS + byte, &[0xff]);
        }
        self.p.core.gdtr = DescriptorTable { base: GDT, limit: 0xff };
        self.p.core.idtr = DescriptorTable { base: IDT, limit: if long { 0xfff } else { 0x7ff } };
        self.p.core.tr = Segment { selector: TSS_SELECTOR, attrib: 0x8b, limit: 0x1ff, base: TSS };
    }

    /// Replaces a gate: its type, DPL and IST; it leads to the usual handler.
    pub fn gate(&mut self, long: bool, vector: u64, kind: u64, dpl: u64, ist: u64) {
        let offset = HANDLERS + vector * 16;
        let low = offset & 0xffff
            | u64::from(KERNEL_CODE) << 16
            | ist << 32
            | (kind | dpl << 5 | 0x80) << 40
            | (offset >> 16 & 0xffff) << 48;
        if long {
            self.world.put64(IDT + vector * 16, low);
            self.world.put64(IDT + vector * 16 + 8, offset >> 32);
        } else {
            self.world.put64(IDT + vector * 8, low);
        }
    }

    /// 32-bit protected mode at CPL 0 without paging.
    pub fn protected() -> Self {
        let mut machine = Self::real();
        machine.tables(false);
        let core = &mut machine.p.core;
        core.cr0 = cr0::PE | cr0::ET | cr0::NE;
        core.cr4 = cr4::OSFXSR;
        core.seg = [segment(KERNEL_DATA, 0xc93); 6];
        core.seg[Seg::Cs as usize] = segment(KERNEL_CODE, 0xc9b);
        core.update_mode();
        assert_eq!(core.mode, Mode::Prot32);
        machine
    }

    /// 64-bit mode at CPL 0, the first GiB mapped to itself and open to CPL 3.
    pub fn long() -> Self {
        let mut machine = Self::protected();
        machine.tables(true);
        machine.world.identity_map(TABLES, 1);
        let core = &mut machine.p.core;
        core.cr0 |= cr0::PG | cr0::WP;
        core.cr3 = TABLES;
        core.cr4 = cr4::PAE | cr4::OSFXSR;
        core.efer = efer::LME | efer::LMA | efer::SCE | efer::NXE;
        core.seg[Seg::Cs as usize] = segment(KERNEL_CODE, 0xa9b);
        core.update_mode();
        assert_eq!(core.mode, Mode::Long64);
        machine
    }

    /// The same machine at CPL 3, in 64-bit or 32-bit code.
    pub fn user(mut self) -> Self {
        let long = self.p.core.long_mode();
        let core = &mut self.p.core;
        for s in &mut core.seg {
            *s = segment(USER_DATA, 0xcf3);
        }
        core.seg[Seg::Cs as usize] =
            if long { segment(USER_CODE64, 0xafb) } else { segment(USER_CODE32, 0xcfb) };
        core.cpl = 3;
        core.update_mode();
        self
    }

    /// Puts code at [`CODE`].
    pub fn code(mut self, bytes: &[u8]) -> Self {
        self.world.put(CODE, bytes);
        self
    }

    /// Assembles code at [`CODE`] for the present mode.
    pub fn asm(self, build: impl FnOnce(&mut CodeAssembler)) -> Self {
        let bits = bits(self.p.core.mode);
        let bytes = assemble(bits, CODE, build);
        self.code(&bytes)
    }

    /// Runs one instruction, delivering its fault if it has one.
    pub fn step(&mut self) -> Result<(), Exit> {
        let world = &mut self.world;
        let result = self.p.with_world(world, |p| {
            deliver::pending(p)?;
            match one(p) {
                Err(_) if matches!(p.core.stop, Some(Stop::Fault(_))) => {
                    let Some(Stop::Fault(e)) = p.core.stop.take() else { unreachable!() };
                    deliver::exception(p, e)
                }
                other => other,
            }
        });
        match result {
            Ok(()) => Ok(()),
            Err(_) => match self.p.core.stop.take() {
                Some(Stop::Exit(exit)) => Err(exit),
                other => panic!("{other:?}"),
            },
        }
    }

    /// Runs until something leaves the processor, and says what.
    pub fn run(&mut self) -> Exit {
        for _ in 0..100_000 {
            match self.step() {
                Ok(()) | Err(Exit::Turn) => {}
                Err(exit) => return exit,
            }
        }
        panic!("does not end, rip {:x}", self.p.core.rip);
    }

    /// Runs into a handler and says of which vector; panics if that is not how it ends.
    pub fn vector(&mut self) -> u64 {
        assert_eq!(self.run(), Exit::Halt);
        let rip = self.p.core.rip.wrapping_sub(1);
        let vector = rip.wrapping_sub(HANDLERS) / 16;
        assert!(vector < 256 && rip & 15 == 0, "halted at {rip:x}");
        vector
    }

    /// The quadword `n` above the stack pointer.
    pub fn stack64(&mut self, n: u64) -> u64 {
        let at = self.p.core.gpr[RSP] + n * 8;
        self.world.get64(at)
    }

    /// The doubleword `n` above the stack pointer.
    pub fn stack32(&mut self, n: u64) -> u32 {
        let at = self.p.core.gpr[RSP] + n * 4;
        self.world.get64(at) as u32
    }
}

/// Assembles code for `bits` at `rip`.
pub fn assemble(bits: u32, rip: u64, build: impl FnOnce(&mut CodeAssembler)) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(bits).unwrap();
    build(&mut assembler);
    assembler.assemble(rip).unwrap()
}

fn bits(mode: Mode) -> u32 {
    match mode {
        Mode::Real16 | Mode::Prot16 => 16,
        Mode::Prot32 => 32,
        Mode::Long64 => 64,
    }
}

fn one(p: &mut Processor) -> Step {
    let mut bytes = [0; 15];
    let mut len = p.fetch(&mut bytes)?;
    let decode = |p: &Processor, bytes: &[u8]| {
        Decoder::with_ip(bits(p.core.mode), bytes, p.core.rip, DecoderOptions::AMD).decode()
    };
    let mut insn = decode(p, &bytes[..len]);
    if insn.is_invalid() && len < 15 {
        len = p.fetch_more(&mut bytes, len)?;
        insn = decode(p, &bytes[..len]);
    }
    exec::execute(p, &insn)
}
