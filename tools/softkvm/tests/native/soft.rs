//! The software side: the same instruction on the same state in softkvm.

use softkvm::cpu::bare::Bare;
use softkvm::cpu::engine::{self, CodeCache, Kind};
use softkvm::cpu::state::{Seg, Segment, cr0, cr4, efer};
use softkvm::cpu::{Core, DescriptorTable, Exception, Exit, Features, Mode, Processor, Stop, exec};

use crate::forms::Instance;
use crate::host::{self, Host, SANDBOX, SANDBOX_LEN, State};

/// What running one instruction in software came to.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    Done,
    Fault(Exception),
    NotModelled(&'static str),
}

/// The software side: a processor at CPL 3 that sees the same pages at the same addresses.
pub struct Soft {
    pub p: Processor,
    pub world: Bare,
}

/// Guest-physical address of the sandbox, behind page tables and the code page.
pub const SANDBOX_GPA: u64 = 0x6000;
/// Guest-physical address of the code page.
pub const CODE_GPA: u64 = 0x5000;
const IDT_GPA: u64 = 0x9000;
const GDT_GPA: u64 = 0xa000;
/// Where the kernel flavour maps them.
const TABLES: u64 = host::BASE + 0x8000;
/// Endless loops, two bytes each, for 256 vectors.
pub const SPINS: u64 = host::CODE + 0xc00;

impl Soft {
    pub fn new(bits: u32) -> Self {
        let mut world = Bare::new(16);
        let (base, present) = (host::BASE, 7);
        world.put64(0x1000 + (base >> 39 & 511) * 8, 0x2000 | present);
        world.put64(0x2000 + (base >> 30 & 511) * 8, 0x3000 | present);
        world.put64(0x3000 + (base >> 21 & 511) * 8, 0x4000 | present);
        let mut page = |la: u64, gpa: u64| {
            world.put64(0x4000 + (la >> 12 & 511) * 8, gpa | present | 0x60);
        };
        page(host::CODE, CODE_GPA);
        page(SANDBOX, SANDBOX_GPA);
        page(SANDBOX + 0x1000, SANDBOX_GPA + 0x1000);
        let mut core = Core::at_reset();
        core.cr0 = cr0::PE | cr0::PG | cr0::WP | cr0::AM | cr0::MP | cr0::NE | cr0::ET;
        core.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT;
        core.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        core.cr3 = 0x1000;
        core.cpl = 3;
        core.features = Features::all() - Features::ABSENT;
        let data = Segment { selector: 0x2b, attrib: 0xcf3, limit: u32::MAX, base: 0 };
        core.seg = [data; 6];
        core.seg[Seg::Cs as usize] =
            Segment { selector: 0x33, attrib: 0xafb, limit: u32::MAX, base: 0 };
        if bits == 32 {
            core.seg[Seg::Cs as usize].selector = 0x23;
            core.seg[Seg::Cs as usize].attrib = 0xcfb;
        }
        core.update_mode();
        assert_eq!(core.mode, if bits == 64 { Mode::Long64 } else { Mode::Prot32 });
        Self { p: Processor::new(core), world }
    }

    /// At CPL 0, with an IDT whose handlers are endless loops.
    pub fn kernel() -> Self {
        let mut soft = Self::new(64);
        for vector in 0..256 {
            let handler = SPINS + 2 * vector;
            let gate = handler & 0xffff | 8 << 16 | 0x8e << 40 | (handler >> 16 & 0xffff) << 48;
            soft.world.put64(IDT_GPA + 16 * vector, gate);
        }
        soft.world.put64(GDT_GPA + 8, 0x00af_9b00_0000_ffff);
        soft.world.put64(GDT_GPA + 16, 0x00cf_9300_0000_ffff);
        soft.world.put64(GDT_GPA + 24, 0x00cf_9b00_0000_ffff);
        soft.world.put64(GDT_GPA + 0x28, 0x00cf_f300_0000_ffff);
        soft.world.put64(GDT_GPA + 0x30, 0x00af_fb00_0000_ffff);
        soft.map(TABLES, IDT_GPA | 3);
        soft.map(TABLES + 0x1000, GDT_GPA | 3);
        soft.map(host::CODE, CODE_GPA | 3);
        let core = &mut soft.p.core;
        core.cpl = 0;
        let data = Segment { selector: 0x10, attrib: 0xc93, limit: u32::MAX, base: 0 };
        core.seg = [data; 6];
        core.seg[Seg::Cs as usize] =
            Segment { selector: 8, attrib: 0xa9b, limit: u32::MAX, base: 0 };
        core.gdtr = DescriptorTable { base: TABLES + 0x1000, limit: 0x37 };
        core.idtr = DescriptorTable { base: TABLES, limit: 0xfff };
        core.star = 0x0020_0008 << 32;
        core.lstar = SPINS;
        core.sfmask = 0x700;
        core.cr4 |= cr4::FSGSBASE;
        soft
    }

    /// Maps a page of the 2 MiB around the sandbox by a table entry.
    pub fn map(&mut self, la: u64, entry: u64) {
        self.world.put64(0x4000 + (la >> 12 & 511) * 8, entry);
        self.p.flush_tlb();
    }

    pub fn sandbox(&mut self) -> &mut [u8] {
        &mut self.world.bytes()[SANDBOX_GPA as usize..][..SANDBOX_LEN]
    }

    /// Puts code at a linear address of the code page, followed by jumps to themselves where the
    /// native stub leaves.
    pub fn place(&mut self, rip: u64, bytes: &[u8]) {
        let mut code = bytes.to_vec();
        code.extend_from_slice(&[0xeb, 0xfe, 0x90, 0x90, 0x90, 0xeb, 0xfe]);
        self.world.put(CODE_GPA + (rip - host::CODE), &code);
        self.world.put(CODE_GPA + (SPINS - host::CODE), &[0xeb, 0xfe].repeat(256));
    }

    fn load(&mut self, rip: u64, state: &State) {
        let core = &mut self.p.core;
        core.gpr[..16].copy_from_slice(&state.gpr);
        core.set_rflags(state.rflags);
        core.fpu.load_fxsave(&state.fx, true);
        core.rip = rip;
        core.stop = None;
    }

    fn store(&self, state: &mut State) {
        let core = &self.p.core;
        state.gpr.copy_from_slice(&core.gpr[..16]);
        state.rflags = core.rflags();
        state.fx = core.fpu.to_fxsave(true);
    }

    pub fn run(&mut self, instance: &Instance, rip: u64, state: &mut State) -> Outcome {
        self.load(rip, state);
        let insn = &instance.insn;
        let outcome = loop {
            let step = self.p.with_world(&mut self.world, |p| exec::execute(p, insn));
            match (step, self.p.core.stop.take()) {
                // A repeated string instruction may retire in pieces.
                (Ok(()), _) if self.p.core.rip == rip && insn.is_string_instruction() => (),
                (Ok(()), _) => break Outcome::Done,
                (Err(_), Some(Stop::Fault(fault))) => break Outcome::Fault(fault),
                (Err(_), Some(Stop::Exit(Exit::Unknown { what, .. }))) => {
                    break Outcome::NotModelled(what);
                }
                (Err(_), other) => panic!("{insn}: stopped with {other:?}"),
            }
        };
        let core = &self.p.core;
        let len = instance.bytes.len();
        state.taken = match outcome {
            Outcome::Done if core.rip == rip + len as u64 => 0,
            Outcome::Done if core.rip == Host::target(rip, len) => 1,
            Outcome::Done => panic!("{insn}: went to {:x} from {rip:x}", core.rip),
            _ => 0,
        };
        self.store(state);
        outcome
    }
}

/// Instructions an engine may spend on one instruction under test: it then spins.
const BUDGET: u64 = 64;

/// An engine on the same machine.
pub struct Engine {
    pub soft: Soft,
    code: CodeCache,
}

impl Engine {
    pub fn new(kind: Kind, bits: u32) -> Self {
        let mut soft = Soft::new(bits);
        // Without an IDT every exception ends in a shutdown.
        soft.p.core.idtr.limit = 0;
        Self { soft, code: CodeCache::new(kind) }
    }

    pub fn kernel(kind: Kind) -> Self {
        Self { soft: Soft::kernel(), code: CodeCache::new(kind) }
    }

    /// As [`Soft::place`]; cached code is dropped.
    pub fn place(&mut self, rip: u64, bytes: &[u8]) {
        self.soft.place(rip, bytes);
        let page = self.soft.world.host().wrapping_add(CODE_GPA as usize);
        self.code.host_wrote(page, 4096);
    }

    /// Writes to the sandbox from outside; cached code there is dropped.
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        self.soft.sandbox()[at..at + bytes.len()].copy_from_slice(bytes);
        let host = self.soft.world.host().wrapping_add(SANDBOX_GPA as usize + at);
        self.code.host_wrote(host, bytes.len());
    }

    /// Runs from `rip` for at most `budget` instructions.
    pub fn run(&mut self, rip: u64, state: &mut State, budget: u64) -> Exit {
        self.soft.load(rip, state);
        let code = &mut self.code;
        let exit = self.soft.p.with_world(&mut self.soft.world, |p| engine::run(p, code, budget));
        self.soft.store(state);
        exit
    }

    /// Runs one instruction. True if it faulted.
    pub fn run_instance(&mut self, instance: &Instance, rip: u64, state: &mut State) -> bool {
        let exit = self.run(rip, state, BUDGET);
        let at = self.soft.p.core.rip;
        let len = instance.bytes.len();
        match exit {
            Exit::Shutdown => return true,
            Exit::Turn if at == rip + len as u64 => state.taken = 0,
            Exit::Turn if at == Host::target(rip, len) => state.taken = 1,
            other => panic!("{}: ended with {other:?} at {at:x}", instance.insn),
        }
        false
    }
}
