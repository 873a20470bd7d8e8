//! What the processor asks of the machine around it, and how it stops.

use super::state::Core;

/// An architectural exception on its way to the guest's IDT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Vector 0..=31.
    pub vector: u8,
    /// Pushed error code, for the vectors that have one.
    pub error: Option<u32>,
    /// New CR2, for #PF.
    pub cr2: Option<u64>,
}

impl Exception {
    /// #DE.
    pub const DE: Self = Self::plain(0);
    /// #DB.
    pub const DB: Self = Self::plain(1);
    /// #BP.
    pub const BP: Self = Self::plain(3);
    /// #OF.
    pub const OF: Self = Self::plain(4);
    /// #BR.
    pub const BR: Self = Self::plain(5);
    /// #UD.
    pub const UD: Self = Self::plain(6);
    /// #NM.
    pub const NM: Self = Self::plain(7);
    /// #MF.
    pub const MF: Self = Self::plain(16);
    /// #XM.
    pub const XM: Self = Self::plain(19);

    /// An exception without error code.
    pub const fn plain(vector: u8) -> Self {
        Self { vector, error: None, cr2: None }
    }

    /// An exception with an error code.
    pub const fn with(vector: u8, error: u32) -> Self {
        Self { vector, error: Some(error), cr2: None }
    }

    /// #TS.
    pub const fn ts(selector: u32) -> Self {
        Self::with(10, selector)
    }

    /// #NP.
    pub const fn np(selector: u32) -> Self {
        Self::with(11, selector)
    }

    /// #SS.
    pub const fn ss(selector: u32) -> Self {
        Self::with(12, selector)
    }

    /// #GP.
    pub const fn gp(selector: u32) -> Self {
        Self::with(13, selector)
    }

    /// #PF at a linear address.
    pub const fn pf(error: u32, la: u64) -> Self {
        Self { vector: 14, error: Some(error), cr2: Some(la) }
    }

    /// #AC(0).
    pub const fn ac() -> Self {
        Self::with(17, 0)
    }

    /// #VE: the module keeps what it is about (Intel SDM volume 3, "Virtualization Exceptions").
    pub const VE: Self = Self::plain(20);

    /// #VC with an SVM exit code (AMD APM vol. 2, 15.35.5).
    pub const fn vc(exit_code: u32) -> Self {
        Self::with(29, exit_code)
    }
}

/// Something on its way through the guest's IDT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An exception; RIP is what its frame will show.
    Exception(Exception),
    /// A maskable interrupt, already acknowledged.
    Interrupt(u8),
    /// A non-maskable interrupt.
    Nmi,
}

impl Event {
    /// As processors record it when its delivery is interrupted: vector, type, error code valid, valid (AMD APM vol. 2, 15.20;
    /// Intel SDM volume 3, "Information for VM Exits That Occur During Event Delivery").
    pub fn image(&self) -> u32 {
        const VALID: u32 = 1 << 31;
        VALID
            | match *self {
                Self::Interrupt(vector) => u32::from(vector),
                Self::Nmi => 2 | 2 << 8,
                Self::Exception(e) => {
                    u32::from(e.vector) | 3 << 8 | u32::from(e.error.is_some()) << 11
                }
            }
    }
}

/// Why the processor stopped before the end of its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Deliver this exception; RIP is still at the instruction (a fault).
    Fault(Exception),
    /// Leave the guest. RIP is still at the instruction, which will be executed again from the
    /// start on re-entry: a port or MMIO access then finds its answer in the world.
    Exit(Exit),
}

/// Reasons to leave the guest for the code around the processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The turn's instruction budget is used up, or an event wants attention.
    Turn,
    /// HLT was executed (RIP is past it).
    Halt,
    /// Triple fault.
    Shutdown,
    /// VMGEXIT or another automatic exit was executed; RIP is past it. The world keeps what it
    /// needs to act on it.
    Vmgexit,
    /// TDCALL was executed and is for the host; RIP is past it, registers are the guest's.
    Tdcall,
    /// The world asks for a KVM exit and holds its description itself.
    World,
    /// An instruction, addressing form or mode that is not modelled.
    Unknown {
        /// RIP of the instruction.
        rip: u64,
        /// Its first bytes.
        bytes: [u8; 15],
        /// How many of them could be fetched.
        len: u8,
        /// What was met, in words.
        what: &'static str,
    },
}

/// Marks an unfinished instruction: the reason stands in [`Core::stop`].
///
/// Zero-sized, so that `Result<u64, Trapped>` comes back in two registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trapped;

/// Result of one step of an instruction.
pub type Step<T = ()> = Result<T, Trapped>;

/// What a memory access is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Data read.
    Read,
    /// Data write (or read-modify-write).
    Write,
    /// Instruction fetch.
    Fetch,
    /// Read of a paging structure.
    Walk,
    /// Update of an accessed or dirty bit in a paging structure.
    WalkWrite,
}

/// A 4 KiB host page that stands behind a guest page.
#[derive(Clone, Copy, Debug)]
pub struct HostPage {
    /// Page-aligned host address; valid until the world asks for a TLB flush.
    pub host: *mut u8,
    /// Whether writes may go straight to it.
    pub writable: bool,
}

/// Which bit of a page-table entry says whom the memory behind it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerBit {
    /// AMD's C-bit at this position: set means private. Tables and code are private without it.
    Private(u8),
    /// Intel's shared bit at this position, the highest of a guest-physical address: set means shared, for tables
    /// and code, too. Address bits above it are reserved.
    Shared(u8),
}

impl OwnerBit {
    /// The bit.
    pub fn mask(self) -> u64 {
        let (Self::Private(position) | Self::Shared(position)) = self;
        1 << position
    }

    /// Address bits that nothing may set because of it.
    pub fn beyond(self) -> u64 {
        match self {
            Self::Private(_) => 0,
            Self::Shared(position) => !((2 << position) - 1),
        }
    }
}

/// An instruction that a hypervisor may intercept, and what of it the hypervisor is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intercept {
    /// CPUID.
    Cpuid,
    /// HLT.
    Hlt,
    /// INVD.
    Invd,
    /// WBINVD and WBNOINVD.
    Wbinvd,
    /// RDPMC.
    Rdpmc,
    /// RDTSC.
    Rdtsc,
    /// RDTSCP.
    Rdtscp,
    /// VMMCALL, and VMCALL.
    Vmmcall,
    /// MONITOR.
    Monitor,
    /// MWAIT.
    Mwait,
    /// PCONFIG.
    Pconfig,
    /// XSETBV.
    Xsetbv {
        /// Which register: 0 is XCR0.
        register: u32,
        /// Its new value.
        value: u64,
    },
    /// Move from DR7.
    ReadDr7,
    /// Move to DR7.
    WriteDr7,
    /// Move to CR0 or CR4.
    WriteCr {
        /// The register.
        register: u8,
        /// Its new value.
        value: u64,
        /// Which general register it comes from.
        gpr: u8,
    },
    /// IN, OUT and their string forms.
    Port(PortAccess),
}

/// What a hypervisor is told of a port instruction (Intel SDM volume 3, table "Exit Qualification for I/O Instructions").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortAccess {
    /// Port.
    pub port: u16,
    /// Bytes.
    pub size: u8,
    /// IN or INS.
    pub input: bool,
    /// INS or OUTS.
    pub string: bool,
    /// With a repeat prefix.
    pub repeated: bool,
    /// The port stands in the instruction.
    pub immediate: bool,
}

/// What became of a TDCALL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tdcall {
    /// It is done: the guest goes on behind it.
    Done,
    /// It leaves for the host; RIP goes past it.
    Leave,
}

/// The world's answer to a TLB fill.
#[derive(Clone, Copy, Debug)]
pub enum PageAnswer {
    /// Ordinary memory.
    Memory(HostPage),
    /// No memory there: every access goes to [`World::mmio_read`] and [`World::mmio_write`].
    Mmio,
}

/// The machine around one processor.
///
/// Every method that can stop the instruction returns a [`Stop`]. `gpa` never carries the C-bit or shared bit;
/// `private` says what it was (or that the access is private by its nature). The length of the instruction in
/// progress is [`Core::insn_len`].
pub trait World {
    /// The one question of a TLB fill: may this access happen, and what stands behind it?
    fn page(&mut self, gpa: u64, access: Access, private: bool) -> Result<PageAnswer, Stop>;

    /// The bit in page-table entries that tells private from shared memory, if the guest has one; the MMU strips it
    /// and reports what it says as `private`.
    fn owner_bit(&self) -> Option<OwnerBit>;

    /// [`World::page`] has just answered with #VE, and this is the linear address: the exception to deliver.
    fn ve_at(&mut self, _core: &mut Core, _la: u64) -> Exception {
        Exception::VE
    }

    /// Reads 1, 2, 4 or 8 bytes of device memory.
    fn mmio_read(&mut self, core: &mut Core, gpa: u64, len: u8) -> Result<u64, Stop>;
    /// Writes 1, 2, 4 or 8 bytes of device memory.
    fn mmio_write(&mut self, core: &mut Core, gpa: u64, len: u8, value: u64) -> Result<(), Stop>;

    /// IN: `len` is 1, 2 or 4.
    fn port_in(&mut self, core: &mut Core, port: u16, len: u8) -> Result<u32, Stop>;
    /// IN as one of `count` iterations of a repeated instruction, which the world may read ahead of.
    fn port_in_ahead(
        &mut self,
        core: &mut Core,
        port: u16,
        len: u8,
        _count: u64,
    ) -> Result<u32, Stop> {
        self.port_in(core, port, len)
    }
    /// Whether data has been read ahead: the instruction goes on, whatever else waits.
    fn reads_ahead(&self) -> bool {
        false
    }
    /// OUT: `len` is 1, 2 or 4.
    fn port_out(&mut self, core: &mut Core, port: u16, len: u8, value: u32) -> Result<(), Stop>;

    /// CPUID, as the guest sees it: EAX, EBX, ECX, EDX.
    fn cpuid(&mut self, core: &mut Core, leaf: u32, subleaf: u32) -> Result<[u32; 4], Stop>;

    /// RDMSR of anything the processor does not hold itself (see [`Core::rdmsr_local`]).
    fn rdmsr(&mut self, core: &mut Core, index: u32) -> Result<u64, Stop>;
    /// WRMSR of anything the processor does not hold itself.
    fn wrmsr(&mut self, core: &mut Core, index: u32, value: u64) -> Result<(), Stop>;

    /// The guest's time stamp counter.
    fn tsc(&mut self, core: &Core) -> u64;
    /// RDRAND/RDSEED.
    fn random(&mut self) -> u64;

    /// RDMSR of any register, before the processor looks whether it holds it: the world's answer, or `None` if
    /// it leaves the access to the processor (and then to [`World::rdmsr`]).
    fn rdmsr_first(&mut self, _core: &mut Core, _index: u32) -> Result<Option<u64>, Stop> {
        Ok(None)
    }
    /// WRMSR of any register, before the processor looks whether it holds it: whether the world has done it.
    fn wrmsr_first(&mut self, _core: &mut Core, _index: u32, _value: u64) -> Result<bool, Stop> {
        Ok(false)
    }

    /// Asked before each instruction that a hypervisor may intercept: the world may turn it into #VC, #VE or an exit.
    fn intercept(&mut self, core: &mut Core, what: Intercept) -> Result<(), Stop>;

    /// CR8 as the local APIC's task priority (bits 3:0).
    fn cr8(&mut self) -> u64;
    /// Writes the task priority.
    fn set_cr8(&mut self, value: u64);

    /// VMMCALL or VMCALL. Registers may be changed; RIP is advanced by the caller.
    fn hypercall(&mut self, core: &mut Core) -> Result<(), Stop>;
    /// Whether the hypervisor puts the native form in the place of the other vendor's VMCALL or VMMCALL, rather than let it
    /// raise #UD.
    fn fixes_hypercalls(&mut self) -> bool {
        true
    }
    /// VMGEXIT; the caller advances RIP and then leaves with [`Exit::Vmgexit`] on `Ok`.
    fn vmgexit(&mut self, core: &mut Core) -> Result<(), Stop>;
    /// PVALIDATE of the page at `gpa`; `huge` asks for 2 MiB. Returns EAX and CF.
    fn pvalidate(
        &mut self,
        gpa: u64,
        private: bool,
        huge: bool,
        validate: bool,
    ) -> Result<(u32, bool), Stop>;
    /// RMPADJUST with RDX as given. Returns EAX.
    fn rmpadjust(&mut self, gpa: u64, private: bool, huge: bool, rdx: u64) -> Result<u32, Stop>;

    /// The vector of the interrupt to deliver now, acknowledged; asked only when the processor
    /// can take one. `None` clears the request.
    fn take_interrupt(&mut self) -> Option<u8>;
    /// Whether an NMI waits; taking it clears it.
    fn take_nmi(&mut self) -> bool;

    /// Whether the turn shall end before its budget is used up; asked when the processor looks for
    /// events.
    fn end_turn(&mut self) -> bool {
        false
    }

    /// Code is decoded that is about to run, at an address that [`super::engine::CodeCache::watch`] names. Answers whether it
    /// shall go on watching.
    fn meets_code(&mut self, _core: &Core, _rip: u64) -> bool {
        false
    }

    /// TDCALL in 64-bit mode at CPL 0. Registers may be changed; RIP is advanced by the caller, which then goes on or leaves
    /// with [`Exit::Tdcall`].
    fn tdcall(&mut self, _core: &mut Core) -> Result<Tdcall, Stop> {
        Err(Stop::Fault(Exception::UD))
    }

    /// PAUSE, which takes this many cycles where it matters.
    fn pause(&mut self, _core: &mut Core, cycles: u64) {
        self.charge(cycles);
    }

    /// Extra virtual cycles of an architectural event (RDTSC, #VC, PVALIDATE …).
    fn charge(&mut self, cycles: u64);
}
