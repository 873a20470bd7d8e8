//! TDG.VP.VMCALL: the host's side, as mainline KVM plays it (GHCI 1.5; Linux 7.2 arch/x86/kvm/vmx/tdx.c `handle_tdvmcall`).
//!
//! One [`Vmcall`] per vCPU. [`Vmcall::handle`] acts on an exit; when user space has to answer first it returns
//! [`Outcome::Exit`], and [`Vmcall::complete`] goes on at re-entry.

pub mod msrs;

use abi::tdx::Gpaw;

use crate::cpu::Core;

/// What TDVMCALLs need of the VM around them. Addresses are without shared bit.
pub trait VmcallHost {
    /// Width of the TD's addresses.
    fn gpaw(&self) -> Gpaw;
    /// IN from a device in the kernel; `None` sends it to user space.
    fn port_in(&mut self, port: u16, size: u8) -> Option<u32>;
    /// OUT to a device in the kernel; `false` sends it to user space.
    fn port_out(&mut self, port: u16, size: u8, value: u32) -> bool;
    /// Read from a device in the kernel; `false` sends it to user space.
    fn mmio_read(&mut self, gpa: u64, out: &mut [u8]) -> bool;
    /// Write to a device in the kernel; `false` sends it to user space.
    fn mmio_write(&mut self, gpa: u64, data: &[u8]) -> bool;
    /// CPUID as set by `KVM_SET_CPUID2`, out-of-range rule included.
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4];
    /// Reads an MSR of [`msrs::emulated`].
    fn rdmsr(&mut self, index: u32) -> MsrAnswer<u64>;
    /// Writes an MSR of [`msrs::emulated`].
    fn wrmsr(&mut self, index: u32, value: u64) -> MsrAnswer<()>;
    /// Whether user space wants to see an MSR that KVM does not emulate, and why (`KVM_MSR_EXIT_REASON_*`).
    fn msr_exit_reason(&self, index: u32, write: bool) -> Option<u32>;
    /// A KVM hypercall other than MAP_GPA_RANGE, at CPL 0: the value for R10.
    fn hypercall(&mut self, nr: u64, args: [u64; 4]) -> u64;
    /// `KVM_CAP_EXIT_HYPERCALL` was enabled for MAP_GPA_RANGE.
    fn map_gpa_exits(&self) -> bool;
    /// Whether an address, shared bit included, is within MAXPHYADDR of `KVM_SET_CPUID2`.
    fn legal_gpa(&self, gpa: u64) -> bool;
    /// Whether an event waits for the vCPU: between two chunks of a MapGPA the guest gets to handle it.
    fn pending_event(&self) -> bool;
}

/// How KVM answers an MSR access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrAnswer<T> {
    /// Done.
    Done(T),
    /// Refused.
    Refused,
    /// To user space, with this reason (`KVM_MSR_EXIT_REASON_*`).
    Exit(u32),
}

/// What follows from a TDVMCALL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Enter the guest again: its registers are up to date.
    Resume,
    /// The vCPU sleeps until an event; then [`Vmcall::complete`] with [`Answer::None`].
    Halt {
        /// The guest says that its interrupts are blocked: only NMIs and the like wake it.
        interrupts_blocked: bool,
    },
    /// Leave to user space.
    Exit(VmcallExit),
    /// `KVM_RUN` fails with this errno.
    Fail(i32),
}

/// An exit to user space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmcallExit {
    /// `KVM_EXIT_IO` of one item.
    Io {
        /// OUT: the data. IN: `None`.
        data: Option<u32>,
        /// Port.
        port: u16,
        /// Bytes.
        size: u8,
    },
    /// `KVM_EXIT_MMIO`.
    Mmio {
        /// Address, without shared bit.
        gpa: u64,
        /// Bytes: 1, 2, 4 or 8.
        len: u8,
        /// Write: the data. Read: `None`.
        data: Option<[u8; 8]>,
    },
    /// `KVM_EXIT_X86_RDMSR`.
    Rdmsr {
        /// MSR.
        index: u32,
        /// Why.
        reason: u32,
    },
    /// `KVM_EXIT_X86_WRMSR`.
    Wrmsr {
        /// MSR.
        index: u32,
        /// Value.
        value: u64,
        /// Why.
        reason: u32,
    },
    /// `KVM_EXIT_HYPERCALL` for MAP_GPA_RANGE; `ret` is preset to 0, flags are 1 (long mode).
    MapGpaRange {
        /// Start, without shared bit; as it stands in a vendor hypercall.
        gpa: u64,
        /// 4 KiB pages.
        npages: u64,
        /// Direction.
        attributes: u64,
    },
    /// `KVM_EXIT_TDX`.
    Tdx(abi::kvm_tdx::TdxExit),
    /// `KVM_EXIT_SYSTEM_EVENT` of type TDX_FATAL. The guest is not told anything: re-entered, it finds R10 as it was.
    Fatal {
        /// The data: registers by their x86 numbers.
        data: [u64; 16],
    },
}

/// What user space answered.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// The exit had no answer.
    None,
    /// Data of an IN.
    Io(&'a [u8]),
    /// Data of an MMIO read.
    Mmio([u8; 8]),
    /// `msr.error` and `msr.data`.
    Msr {
        /// Refused.
        error: bool,
        /// Value of a read.
        data: u64,
    },
    /// `hypercall.ret`.
    Hypercall(u64),
    /// `tdx` as user space left it.
    Tdx(abi::kvm_tdx::TdxExit),
}

/// TDVMCALL state of one vCPU.
#[derive(Clone, Debug, Default)]
pub struct Vmcall {
    pending: Option<()>,
}

impl Vmcall {
    /// A vCPU with nothing in flight.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether an exit of this vCPU waits for [`Vmcall::complete`].
    pub fn in_flight(&self) -> bool {
        self.pending.is_some()
    }

    /// Acts on TDG.VP.VMCALL, RIP being past it ([`super::Tdcall::Vmcall`]).
    pub fn handle(&mut self, core: &mut Core, host: &mut dyn VmcallHost) -> Outcome {
        let _ = (core, host);
        Outcome::Resume
    }

    /// Goes on after an exit or a halt.
    pub fn complete(
        &mut self,
        core: &mut Core,
        host: &mut dyn VmcallHost,
        answer: Answer<'_>,
    ) -> Outcome {
        let _ = (core, host, answer);
        self.pending = None;
        Outcome::Resume
    }
}
