//! TDG.VP.VMCALL: the host's side, as mainline KVM plays it (GHCI 1.5; Linux 7.2 arch/x86/kvm/vmx/tdx.c `handle_tdvmcall`).
//!
//! One [`Vmcall`] per vCPU. [`Vmcall::handle`] acts on an exit; when user space has to answer first it returns
//! [`Outcome::Exit`], and [`Vmcall::complete`] goes on at re-entry.

mod io;
mod map_gpa;
pub mod msrs;
mod registers;
mod requests;

use abi::kvm::{KVM_HC_MAP_GPA_RANGE, MapGpaAttributes};
use abi::kvm_tdx::TdxExit;
use abi::tdx::Gpaw;
use abi::tdx::vmcall::{self, Status};
use libc::EINVAL;

use self::map_gpa::MapGpa;
use self::registers::Registers;
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
    Tdx(TdxExit),
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
    Tdx(TdxExit),
}

/// What [`Vmcall::complete`] goes on with.
#[derive(Clone, Copy, Debug)]
enum Pending {
    /// Nothing but the registers.
    Reply,
    PortIn {
        size: u8,
    },
    MmioRead {
        len: u8,
    },
    Rdmsr,
    Wrmsr,
    MapGpa(MapGpa),
    Hypercall,
    Info,
    /// R10 is what user space says.
    Simple,
}

/// TDVMCALL state of one vCPU.
#[derive(Clone, Debug, Default)]
pub struct Vmcall {
    regs: Registers,
    pending: Option<Pending>,
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
        self.regs = Registers::from_guest(core);
        let outcome = self.dispatch(host);
        self.settle(core, outcome)
    }

    /// Goes on after an exit or a halt.
    pub fn complete(
        &mut self,
        core: &mut Core,
        host: &mut dyn VmcallHost,
        answer: Answer<'_>,
    ) -> Outcome {
        let outcome = match self.pending.take() {
            None => return Outcome::Resume,
            Some(pending) => self.go_on(host, pending, answer),
        };
        self.settle(core, outcome)
    }

    /// Writes the guest's registers when it is entered again.
    fn settle(&mut self, core: &mut Core, outcome: Outcome) -> Outcome {
        match &outcome {
            Outcome::Resume => self.regs.to_guest(core),
            Outcome::Fail(_) => self.pending = None,
            Outcome::Halt { .. } | Outcome::Exit(_) => {
                self.pending.get_or_insert(Pending::Reply);
            }
        }
        outcome
    }

    fn dispatch(&mut self, host: &mut dyn VmcallHost) -> Outcome {
        if self.regs.r10 != 0 {
            return self.hypercall(host);
        }
        match self.regs.r11 {
            vmcall::CPUID => {
                let [leaf, subleaf] = [self.regs.r12, self.regs.r13].map(|value| value as u32);
                let [eax, ebx, ecx, edx] = host.cpuid(leaf, subleaf).map(u64::from);
                (self.regs.r12, self.regs.r13) = (eax, ebx);
                (self.regs.r14, self.regs.r15) = (ecx, edx);
                Outcome::Resume
            }
            vmcall::HLT => Outcome::Halt { interrupts_blocked: self.regs.r12 != 0 },
            vmcall::IO => self.port_io(host),
            vmcall::RDMSR => self.rdmsr(host),
            vmcall::WRMSR => self.wrmsr(host),
            vmcall::MMIO => self.mmio(host),
            vmcall::MAP_GPA => self.map_gpa(host),
            vmcall::REPORT_FATAL_ERROR => {
                Outcome::Exit(VmcallExit::Fatal { data: self.regs.dump() })
            }
            vmcall::GET_TD_VMCALL_INFO => self.info(),
            vmcall::GET_QUOTE => self.get_quote(host),
            vmcall::SETUP_EVENT_NOTIFY_INTERRUPT => self.setup_event_notify(),
            _ => self.refuse(Status::SUBFUNC_UNSUPPORTED),
        }
    }

    fn go_on(
        &mut self,
        host: &mut dyn VmcallHost,
        pending: Pending,
        answer: Answer<'_>,
    ) -> Outcome {
        match (pending, answer) {
            (Pending::Reply, _) => Outcome::Resume,
            (Pending::PortIn { size }, Answer::Io(data)) => self.read_done(data, size),
            (Pending::MmioRead { len }, Answer::Mmio(data)) => self.read_done(&data, len),
            (Pending::Rdmsr, Answer::Msr { error: false, data }) => {
                self.regs.r11 = data;
                Outcome::Resume
            }
            (Pending::Wrmsr, Answer::Msr { error: false, .. }) => Outcome::Resume,
            (Pending::Rdmsr | Pending::Wrmsr, Answer::Msr { error: true, .. }) => {
                self.refuse(Status::INVALID_OPERAND)
            }
            (Pending::MapGpa(state), Answer::Hypercall(ret)) => self.map_gpa_done(host, state, ret),
            (Pending::Hypercall, Answer::Hypercall(ret)) => {
                self.regs.r10 = ret;
                Outcome::Resume
            }
            (Pending::Info, Answer::Tdx(exit)) => {
                self.regs.r10 = exit.ret;
                let [_, r11, r12, r13, r14] = exit.data;
                (self.regs.r11, self.regs.r12) = (r11, r12);
                (self.regs.r13, self.regs.r14) = (r13, r14);
                Outcome::Resume
            }
            (Pending::Simple, Answer::Tdx(exit)) => {
                self.regs.r10 = exit.ret;
                Outcome::Resume
            }
            // The front end answers what was asked; anything else is a caller's mistake.
            _ => Outcome::Fail(EINVAL),
        }
    }

    /// Answers with a status.
    fn refuse(&mut self, status: Status) -> Outcome {
        self.regs.r10 = status.0;
        Outcome::Resume
    }

    /// A KVM hypercall: R10 the number, R11 to R14 the arguments (`tdx_emulate_vmcall`, arch/x86/kvm/x86.c
    /// `____kvm_emulate_hypercall`).
    fn hypercall(&mut self, host: &mut dyn VmcallHost) -> Outcome {
        const KVM_ENOSYS: u64 = 1000;
        let args = [self.regs.r11, self.regs.r12, self.regs.r13, self.regs.r14];
        if self.regs.r10 != KVM_HC_MAP_GPA_RANGE {
            self.regs.r10 = host.hypercall(self.regs.r10, args);
            return Outcome::Resume;
        }
        let [gpa, npages, attributes, _] = args;
        if !host.map_gpa_exits() {
            self.regs.r10 = KVM_ENOSYS.wrapping_neg();
            return Outcome::Resume;
        }
        let gfn = gpa >> 12;
        if gpa & 0xfff != 0 || gfn.wrapping_add(npages) <= gfn {
            self.regs.r10 = (EINVAL as u64).wrapping_neg();
            return Outcome::Resume;
        }
        self.pending = Some(Pending::Hypercall);
        Outcome::Exit(VmcallExit::MapGpaRange { gpa, npages, attributes })
    }
}

/// What the memory is to be, in `KVM_EXIT_HYPERCALL`.
fn attributes(shared: bool) -> u64 {
    if shared { 0 } else { MapGpaAttributes::ENCRYPTED }
}

/// Whether an address has the shared bit.
fn is_shared(gpaw: Gpaw, gpa: u64) -> bool {
    gpa & gpaw.shared_mask() != 0
}

#[cfg(test)]
#[path = "../vmcall_test.rs"]
mod vmcall_test;
