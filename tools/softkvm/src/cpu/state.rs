//! The architectural state of one logical processor.

use super::features::Features;
use super::flags::{self, Flags};
use super::world::{Event, Stop};

/// Index of the register that always reads zero: a missing base or index.
pub const ZERO: usize = 16;

/// RAX..R15 in encoding order.
pub const RAX: usize = 0;
/// RCX.
pub const RCX: usize = 1;
/// RDX.
pub const RDX: usize = 2;
/// RBX.
pub const RBX: usize = 3;
/// RSP.
pub const RSP: usize = 4;
/// RBP.
pub const RBP: usize = 5;
/// RSI.
pub const RSI: usize = 6;
/// RDI.
pub const RDI: usize = 7;

/// A segment register's name, in encoding order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Seg {
    /// ES.
    Es,
    /// CS.
    Cs,
    /// SS.
    Ss,
    /// DS.
    Ds,
    /// FS.
    Fs,
    /// GS.
    Gs,
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Visible selector.
    pub selector: u16,
    /// VMSA form: type 3:0, S 4, DPL 6:5, P 7, AVL 8, L 9, D/B 10, G 11.
    pub attrib: u16,
    /// Limit in bytes, granularity already applied.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

impl Segment {
    /// Present.
    pub fn present(&self) -> bool {
        self.attrib & 0x80 != 0
    }
    /// Descriptor privilege level.
    pub fn dpl(&self) -> u8 {
        (self.attrib >> 5 & 3) as u8
    }
    /// 64-bit code.
    pub fn long(&self) -> bool {
        self.attrib & 0x200 != 0
    }
    /// Default operand size or big stack.
    pub fn big(&self) -> bool {
        self.attrib & 0x400 != 0
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DescriptorTable {
    /// Linear base.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// x87, MMX and SSE state.
#[derive(Clone, Debug)]
#[repr(C, align(16))]
pub struct Fpu {
    /// XMM0..XMM15.
    pub xmm: [u128; 16],
    /// ST physical registers R0..R7 as 80-bit values in the low bits (not rotated by TOP).
    pub st: [u128; 8],
    /// MXCSR.
    pub mxcsr: u32,
    /// Control word.
    pub fcw: u16,
    /// Status word, TOP in bits 13:11.
    pub fsw: u16,
    /// Abridged tag byte: bit set = register in use.
    pub ftw: u8,
    /// Last opcode.
    pub fop: u16,
    /// Last instruction pointer.
    pub fip: u64,
    /// Last data pointer.
    pub fdp: u64,
}

impl Default for Fpu {
    fn default() -> Self {
        Self {
            xmm: [0; 16],
            st: [0; 8],
            mxcsr: 0x1f80,
            fcw: 0x37f,
            fsw: 0,
            ftw: 0,
            fop: 0,
            fip: 0,
            fdp: 0,
        }
    }
}

/// How code is decoded: operating mode and default sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Real mode, 16-bit.
    #[default]
    Real16,
    /// Protected or compatibility mode, 16-bit code segment.
    Prot16,
    /// Protected or compatibility mode, 32-bit code segment.
    Prot32,
    /// 64-bit mode.
    Long64,
}

/// One logical processor.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Core {
    /// RAX..R15, then the zero slot, then scratch.
    pub gpr: [u64; 18],
    /// Lazy CF, PF, AF, ZF, SF, OF.
    pub flags: Flags,
    /// Next instruction. Inside a block of the fast engine it is valid only at its ends.
    pub rip: u64,
    /// RFLAGS without the six arithmetic flags; bit 1 always set.
    pub rflags: u64,
    /// Current privilege level.
    pub cpl: u8,
    /// Decoding mode, derived by [`Core::update_mode`].
    pub mode: Mode,
    /// One instruction of interrupt shadow (STI, MOV SS, POP SS).
    pub shadow: bool,
    /// The shadow is that of MOV SS or POP SS: debug exceptions wait as well.
    pub debug_held: bool,
    /// Set whenever the run loop must look for events before the next block.
    pub attention: bool,
    /// Data breakpoints (DR6 bits) met by the instruction in progress.
    pub debug_hits: u8,
    /// NMIs are blocked until IRET.
    pub nmi_blocked: bool,
    /// Length of the instruction that the reference engine executes or has executed last.
    pub insn_len: u8,
    /// Instructions retired.
    pub instructions: u64,
    /// Why the last [`super::Step`] was `Err`.
    pub stop: Option<Stop>,
    /// An event whose delivery an exit interrupted; delivered before the next instruction.
    pub pending: Option<Event>,
    /// Extensions offered by CPUID.
    pub features: Features,
    /// Segment registers, indexed by [`Seg`].
    pub seg: [Segment; 6],
    /// GDTR.
    pub gdtr: DescriptorTable,
    /// IDTR.
    pub idtr: DescriptorTable,
    /// LDTR.
    pub ldtr: Segment,
    /// TR.
    pub tr: Segment,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// XCR0.
    pub xcr0: u64,
    /// IA32_XSS.
    pub xss: u64,
    /// DR0..DR3, unused, unused, DR6, DR7.
    pub dr: [u64; 8],
    /// STAR.
    pub star: u64,
    /// LSTAR.
    pub lstar: u64,
    /// CSTAR.
    pub cstar: u64,
    /// SFMASK.
    pub sfmask: u64,
    /// KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// SYSENTER_CS.
    pub sysenter_cs: u64,
    /// SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// PAT.
    pub pat: u64,
    /// TSC_AUX.
    pub tsc_aux: u64,
    /// IA32_SPEC_CTRL.
    pub spec_ctrl: u64,
    /// DEBUGCTL.
    pub debugctl: u64,
    /// x87 and SSE.
    pub fpu: Fpu,
}

/// CR0 bits.
pub mod cr0 {
    /// Protection enable.
    pub const PE: u64 = 1 << 0;
    /// Monitor coprocessor.
    pub const MP: u64 = 1 << 1;
    /// x87 emulation.
    pub const EM: u64 = 1 << 2;
    /// Task switched.
    pub const TS: u64 = 1 << 3;
    /// Extension type, always set.
    pub const ET: u64 = 1 << 4;
    /// Native x87 errors.
    pub const NE: u64 = 1 << 5;
    /// Supervisor write protection.
    pub const WP: u64 = 1 << 16;
    /// Alignment mask.
    pub const AM: u64 = 1 << 18;
    /// Not write-through.
    pub const NW: u64 = 1 << 29;
    /// Cache disable.
    pub const CD: u64 = 1 << 30;
    /// Paging.
    pub const PG: u64 = 1 << 31;
}

/// CR4 bits.
pub mod cr4 {
    /// Time stamp disable.
    pub const TSD: u64 = 1 << 2;
    /// Debugging extensions.
    pub const DE: u64 = 1 << 3;
    /// 4 MiB pages.
    pub const PSE: u64 = 1 << 4;
    /// Physical address extension.
    pub const PAE: u64 = 1 << 5;
    /// Machine check.
    pub const MCE: u64 = 1 << 6;
    /// Global pages.
    pub const PGE: u64 = 1 << 7;
    /// RDPMC at CPL 3.
    pub const PCE: u64 = 1 << 8;
    /// FXSAVE and SSE.
    pub const OSFXSR: u64 = 1 << 9;
    /// #XM.
    pub const OSXMMEXCPT: u64 = 1 << 10;
    /// UMIP.
    pub const UMIP: u64 = 1 << 11;
    /// 5-level paging.
    pub const LA57: u64 = 1 << 12;
    /// RDFSBASE and friends.
    pub const FSGSBASE: u64 = 1 << 16;
    /// PCID.
    pub const PCIDE: u64 = 1 << 17;
    /// XSAVE.
    pub const OSXSAVE: u64 = 1 << 18;
    /// SMEP.
    pub const SMEP: u64 = 1 << 20;
    /// SMAP.
    pub const SMAP: u64 = 1 << 21;
}

/// EFER bits.
pub mod efer {
    /// SYSCALL enable.
    pub const SCE: u64 = 1 << 0;
    /// Long mode enable.
    pub const LME: u64 = 1 << 8;
    /// Long mode active.
    pub const LMA: u64 = 1 << 10;
    /// No-execute enable.
    pub const NXE: u64 = 1 << 11;
    /// Secure virtual machine enable.
    pub const SVME: u64 = 1 << 12;
    /// Fast FXSAVE.
    pub const FFXSR: u64 = 1 << 14;
}

impl Default for Core {
    fn default() -> Self {
        Self::at_reset()
    }
}

impl Core {
    /// The state after INIT or power-on reset (AMD APM vol. 2, table 14-1).
    pub fn at_reset() -> Self {
        let data = Segment { selector: 0, attrib: 0x93, limit: 0xffff, base: 0 };
        let mut seg = [data; 6];
        seg[Seg::Cs as usize] =
            Segment { selector: 0xf000, attrib: 0x9b, limit: 0xffff, base: 0xffff_0000 };
        let mut gpr = [0; 18];
        gpr[RDX] = 0x600;
        let mut flags = Flags::default();
        flags.load(0);
        Self {
            gpr,
            flags,
            rip: 0xfff0,
            rflags: 2,
            cpl: 0,
            mode: Mode::Real16,
            shadow: false,
            debug_held: false,
            attention: false,
            debug_hits: 0,
            nmi_blocked: false,
            insn_len: 0,
            instructions: 0,
            stop: None,
            pending: None,
            features: Features::default(),
            seg,
            gdtr: DescriptorTable { base: 0, limit: 0xffff },
            idtr: DescriptorTable { base: 0, limit: 0xffff },
            ldtr: Segment { selector: 0, attrib: 0x82, limit: 0xffff, base: 0 },
            tr: Segment { selector: 0, attrib: 0x8b, limit: 0xffff, base: 0 },
            cr0: 0x6000_0010,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            xcr0: 1,
            xss: 0,
            dr: [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400],
            star: 0,
            lstar: 0,
            cstar: 0,
            sfmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            pat: 0x0007_0406_0007_0406,
            tsc_aux: 0,
            spec_ctrl: 0,
            debugctl: 0,
            fpu: Fpu::default(),
        }
    }

    /// RFLAGS with the arithmetic flags evaluated.
    #[inline]
    pub fn rflags(&self) -> u64 {
        (self.rflags & !flags::ARITH_MASK) | self.flags.bits() | 2
    }

    /// Replaces all of RFLAGS.
    #[inline]
    pub fn set_rflags(&mut self, value: u64) {
        self.flags.load(value);
        self.rflags = (value & !flags::ARITH_MASK & 0x3f_7fd5) | 2;
    }

    /// Derives [`Core::mode`] from CR0, EFER, RFLAGS.VM and CS.
    pub fn update_mode(&mut self) {
        let cs = &self.seg[Seg::Cs as usize];
        self.mode = if self.cr0 & cr0::PE == 0 {
            Mode::Real16
        } else if self.efer & efer::LMA != 0 && cs.long() {
            Mode::Long64
        } else if cs.big() {
            Mode::Prot32
        } else {
            Mode::Prot16
        };
    }

    /// Long mode is active (64-bit or compatibility mode).
    #[inline]
    pub fn long_mode(&self) -> bool {
        self.efer & efer::LMA != 0
    }
}
