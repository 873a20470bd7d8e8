//! `struct kvm_run`: the page that a vCPU shares with user space.
//!
//! UNSAFETY: the page is shared with the program that runs the VM, which may write to it at any
//! time; it is only accessed by volatile reads and writes within its bounds.
#![allow(unsafe_code)]

use std::sync::Arc;

use abi::kvm_tdx::{KVM_EXIT_TDX, KVM_SYSTEM_EVENT_TDX_FATAL, TdxExit};
use abi::tdx::TdxStatus;
use kvm_bindings as kb;
use zerocopy::IntoBytes;

use super::fd::Mapping;
use super::number::{EXIT_SNP_REQ_CERTS, PIO_DATA_OFFSET, SYSTEM_EVENT_SEV_TERM};
use super::user::{self, Plain};

/// Offset of the exit's description.
const UNION: usize = 32;

/// Groups of registers in the run page, and where they lie (`struct kvm_sync_regs`).
pub mod sync {
    use kvm_bindings::{kvm_regs, kvm_sregs};

    /// KVM_SYNC_X86_REGS.
    pub const REGS: u64 = 1;
    /// KVM_SYNC_X86_SREGS.
    pub const SREGS: u64 = 2;
    /// KVM_SYNC_X86_EVENTS.
    pub const EVENTS: u64 = 4;
    /// All of them.
    pub const ALL: u64 = REGS | SREGS | EVENTS;
    /// `struct kvm_regs`.
    pub const REGS_AT: usize = 304;
    /// `struct kvm_sregs`.
    pub const SREGS_AT: usize = REGS_AT + size_of::<kvm_regs>();
    /// `struct kvm_vcpu_events`.
    pub const EVENTS_AT: usize = SREGS_AT + size_of::<kvm_sregs>();
}

/// `kvm_valid_regs`.
const VALID_REGS: usize = 288;
/// `kvm_dirty_regs`.
const DIRTY_REGS: usize = 296;

/// An exit to user space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserExit {
    /// KVM_EXIT_IO.
    Io {
        /// OUT: the data. IN: `None`.
        data: Option<Vec<u8>>,
        /// Port.
        port: u16,
        /// Bytes per item.
        size: u8,
        /// Items.
        count: u32,
    },
    /// KVM_EXIT_MMIO.
    Mmio {
        /// Address.
        gpa: u64,
        /// Bytes.
        len: u8,
        /// Write: the data. Read: `None`.
        data: Option<[u8; 8]>,
    },
    /// KVM_EXIT_HYPERCALL.
    MapGpaRange {
        /// Arguments.
        args: [u64; 3],
        /// Flags.
        flags: u64,
    },
    /// KVM_EXIT_HLT.
    Hlt,
    /// KVM_EXIT_IRQ_WINDOW_OPEN.
    IrqWindow,
    /// KVM_EXIT_SHUTDOWN.
    Shutdown,
    /// KVM_EXIT_FAIL_ENTRY, reason all ones.
    FailEntry,
    /// KVM_EXIT_INTR: KVM_RUN fails with EINTR.
    Interrupted,
    /// KVM_EXIT_INTERNAL_ERROR, with instruction bytes.
    Internal {
        /// The instruction.
        bytes: Vec<u8>,
    },
    /// KVM_EXIT_INTERNAL_ERROR: delivering an event has met device memory.
    Vectoring {
        /// Its address.
        gpa: u64,
        /// The event in VMCB and VMCS form.
        event: u32,
    },
    /// KVM_EXIT_MEMORY_FAULT: KVM_RUN fails with EFAULT.
    MemoryFault {
        /// Address.
        gpa: u64,
        /// Whether the access was private.
        private: bool,
    },
    /// KVM_EXIT_SYSTEM_EVENT of type SEV_TERM.
    SevTerm(u64),
    /// KVM_EXIT_X86_RDMSR.
    Rdmsr {
        /// Register.
        index: u32,
        /// Why it came to user space.
        reason: u32,
    },
    /// KVM_EXIT_X86_WRMSR.
    Wrmsr {
        /// Register.
        index: u32,
        /// Value.
        value: u64,
        /// Why it came to user space.
        reason: u32,
    },
    /// KVM_EXIT_SNP_REQ_CERTS.
    ReqCerts {
        /// Where to.
        gpa: u64,
        /// Pages there.
        npages: u64,
    },
    /// KVM_EXIT_IOAPIC_EOI.
    IoapicEoi(u8),
    /// KVM_EXIT_AP_RESET_HOLD.
    ApResetHold,
    /// KVM_EXIT_TDX.
    Tdx(TdxExit),
    /// KVM_EXIT_SYSTEM_EVENT of type TDX_FATAL, with registers by number.
    TdxFatal([u64; 16]),
    /// KVM_EXIT_INTERNAL_ERROR: TDH.VP.ENTER has returned this.
    VpEnter(TdxStatus),
}

impl UserExit {
    /// The exit's number.
    pub fn reason(&self) -> u32 {
        match self {
            Self::Io { .. } => kb::KVM_EXIT_IO,
            Self::Mmio { .. } => kb::KVM_EXIT_MMIO,
            Self::MapGpaRange { .. } => kb::KVM_EXIT_HYPERCALL,
            Self::Hlt => kb::KVM_EXIT_HLT,
            Self::IrqWindow => kb::KVM_EXIT_IRQ_WINDOW_OPEN,
            Self::Shutdown => kb::KVM_EXIT_SHUTDOWN,
            Self::FailEntry => kb::KVM_EXIT_FAIL_ENTRY,
            Self::Interrupted => kb::KVM_EXIT_INTR,
            Self::Internal { .. } | Self::Vectoring { .. } => kb::KVM_EXIT_INTERNAL_ERROR,
            Self::MemoryFault { .. } => kb::KVM_EXIT_MEMORY_FAULT,
            Self::SevTerm(_) => kb::KVM_EXIT_SYSTEM_EVENT,
            Self::Rdmsr { .. } => kb::KVM_EXIT_X86_RDMSR,
            Self::Wrmsr { .. } => kb::KVM_EXIT_X86_WRMSR,
            Self::ReqCerts { .. } => EXIT_SNP_REQ_CERTS,
            Self::IoapicEoi(_) => kb::KVM_EXIT_IOAPIC_EOI,
            Self::ApResetHold => kb::KVM_EXIT_AP_RESET_HOLD,
            Self::Tdx(_) => KVM_EXIT_TDX,
            Self::TdxFatal(_) => kb::KVM_EXIT_SYSTEM_EVENT,
            Self::VpEnter(_) => kb::KVM_EXIT_INTERNAL_ERROR,
        }
    }

    /// Its name in statistics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::Mmio { .. } => "mmio",
            Self::MapGpaRange { .. } => "hypercall_map_gpa_range",
            Self::Hlt => "hlt",
            Self::IrqWindow => "irq_window_open",
            Self::Shutdown => "shutdown",
            Self::FailEntry => "fail_entry",
            Self::Interrupted => "intr",
            Self::Internal { .. } | Self::Vectoring { .. } => "internal_error",
            Self::MemoryFault { .. } => "memory_fault",
            Self::SevTerm(_) => "system_event",
            Self::Rdmsr { .. } => "rdmsr",
            Self::Wrmsr { .. } => "wrmsr",
            Self::ReqCerts { .. } => "snp_req_certs",
            Self::IoapicEoi(_) => "ioapic_eoi",
            Self::ApResetHold => "ap_reset_hold",
            Self::Tdx(_) => "tdx",
            Self::TdxFatal(_) => "system_event",
            Self::VpEnter(_) => "internal_error",
        }
    }
}

/// A vCPU's shared pages.
#[derive(Clone, Debug)]
pub struct RunPage(pub Arc<Mapping>);

impl RunPage {
    fn put(&self, offset: usize, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            if offset + i < self.0.size() {
                // SAFETY: inside the mapping.
                unsafe { self.0.base().add(offset + i).write_volatile(*byte) };
            }
        }
    }

    fn get<const N: usize>(&self, offset: usize) -> [u8; N] {
        std::array::from_fn(|i| {
            if offset + i < self.0.size() {
                // SAFETY: inside the mapping.
                unsafe { self.0.base().add(offset + i).read_volatile() }
            } else {
                0
            }
        })
    }

    fn put32(&self, offset: usize, value: u32) {
        self.put(offset, &value.to_le_bytes());
    }

    fn put64(&self, offset: usize, value: u64) {
        self.put(offset, &value.to_le_bytes());
    }

    fn get64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.get(offset))
    }

    /// `immediate_exit`.
    pub fn immediate_exit(&self) -> bool {
        self.get::<1>(1)[0] != 0
    }

    /// `request_interrupt_window`.
    pub fn wants_interrupt_window(&self) -> bool {
        self.get::<1>(0)[0] != 0
    }

    /// `kvm_valid_regs` and `kvm_dirty_regs`.
    pub fn sync_fields(&self) -> (u64, u64) {
        (self.get64(VALID_REGS), self.get64(DIRTY_REGS))
    }

    /// A group of registers has been taken over.
    pub fn clear_dirty(&self, group: u64) {
        self.put64(DIRTY_REGS, self.get64(DIRTY_REGS) & !group);
    }

    /// A group of registers as user space has it now.
    pub fn synced<T: Plain>(&self, at: usize) -> T {
        let mut value = user::zeroed::<T>();
        for (i, byte) in user::bytes_of_mut(&mut value).iter_mut().enumerate() {
            [*byte] = self.get(at + i);
        }
        value
    }

    /// Shows user space a group of registers.
    pub fn put_synced<T: Plain>(&self, at: usize, value: &T) {
        self.put(at, user::bytes_of(value));
    }

    /// What is written at every return.
    pub fn put_state(&self, ready: bool, if_flag: bool, cr8: u64, apic_base: u64) {
        self.put(12, &[u8::from(ready), u8::from(if_flag)]);
        self.put64(16, cr8);
        self.put64(24, apic_base);
    }

    /// Describes an exit.
    pub fn put_exit(&self, exit: &UserExit) {
        self.put32(8, exit.reason());
        match exit {
            UserExit::Io { data, port, size, count } => {
                self.put(UNION, &[u8::from(data.is_some()), *size]);
                self.put(UNION + 2, &port.to_le_bytes());
                self.put32(UNION + 4, *count);
                self.put64(UNION + 8, PIO_DATA_OFFSET as u64);
                if let Some(data) = data {
                    self.put(PIO_DATA_OFFSET, &data[..data.len().min(4096)]);
                }
            }
            UserExit::Mmio { gpa, len, data } => {
                self.put64(UNION, *gpa);
                self.put(UNION + 8, &data.unwrap_or_default());
                self.put32(UNION + 16, u32::from(*len));
                self.put(UNION + 20, &[u8::from(data.is_some())]);
            }
            UserExit::MapGpaRange { args, flags } => {
                self.put64(UNION, abi::kvm::KVM_HC_MAP_GPA_RANGE);
                for (i, arg) in args.iter().enumerate() {
                    self.put64(UNION + 8 + i * 8, *arg);
                }
                self.put64(UNION + 56, 0);
                self.put64(UNION + 64, *flags);
            }
            UserExit::FailEntry => {
                self.put64(UNION, u64::MAX);
                self.put32(UNION + 8, 0);
            }
            UserExit::Internal { bytes } => {
                // KVM_INTERNAL_ERROR_EMULATION with the flag for instruction bytes.
                self.put32(UNION, 1);
                self.put32(UNION + 4, 3);
                self.put64(UNION + 8, 1);
                self.put(UNION + 16, &[bytes.len() as u8]);
                self.put(UNION + 17, &bytes[..bytes.len().min(15)]);
            }
            UserExit::Vectoring { gpa, event } => {
                // KVM_INTERNAL_ERROR_DELIVERY_EV: the event, the exit (an EPT violation), its qualification, the address, the
                // processor it ran on (Linux arch/x86/kvm/x86.c `kvm_prepare_event_vectoring_exit`).
                self.put32(UNION, 3);
                self.put32(UNION + 4, 5);
                for (i, word) in [u64::from(*event), 48, 0, *gpa, 0].into_iter().enumerate() {
                    self.put64(UNION + 8 + i * 8, word);
                }
            }
            UserExit::MemoryFault { gpa, private } => {
                self.put64(UNION, u64::from(*private) << 3);
                self.put64(UNION + 8, *gpa & !0xfff);
                self.put64(UNION + 16, 4096);
            }
            UserExit::SevTerm(data) => {
                self.put32(UNION, SYSTEM_EVENT_SEV_TERM);
                self.put32(UNION + 4, 1);
                self.put64(UNION + 8, *data);
            }
            UserExit::Rdmsr { index, reason } => self.put_msr(*index, *reason, 0),
            UserExit::Wrmsr { index, value, reason } => self.put_msr(*index, *reason, *value),
            UserExit::ReqCerts { gpa, npages } => {
                self.put64(UNION, *gpa);
                self.put64(UNION + 8, *npages);
                self.put64(UNION + 16, 0);
            }
            UserExit::Tdx(exit) => self.put(UNION, exit.as_bytes()),
            UserExit::TdxFatal(data) => {
                self.put32(UNION, KVM_SYSTEM_EVENT_TDX_FATAL);
                self.put32(UNION + 4, data.len() as u32);
                for (i, word) in data.iter().enumerate() {
                    self.put64(UNION + 8 + i * 8, *word);
                }
            }
            UserExit::VpEnter(status) => {
                // KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, with the status and the processor it ran on.
                self.put32(UNION, 4);
                self.put32(UNION + 4, 2);
                self.put64(UNION + 8, status.0);
                self.put64(UNION + 16, 0);
            }
            UserExit::IoapicEoi(vector) => self.put(UNION, &[*vector]),
            UserExit::Hlt
            | UserExit::IrqWindow
            | UserExit::Shutdown
            | UserExit::Interrupted
            | UserExit::ApResetHold => {}
        }
    }

    fn put_msr(&self, index: u32, reason: u32, value: u64) {
        self.put(UNION, &[0]);
        self.put32(UNION + 8, reason);
        self.put32(UNION + 12, index);
        self.put64(UNION + 16, value);
    }

    /// Data of an IN.
    pub fn io_data(&self, len: usize) -> Vec<u8> {
        (0..len.min(4096)).map(|i| self.get::<1>(PIO_DATA_OFFSET + i)[0]).collect()
    }

    /// Data of an MMIO read.
    pub fn mmio_data(&self) -> [u8; 8] {
        self.get(UNION + 8)
    }

    /// `hypercall.ret`.
    pub fn hypercall_ret(&self) -> u64 {
        self.get64(UNION + 56)
    }

    /// `msr.error` and `msr.data`.
    pub fn msr_answer(&self) -> (bool, u64) {
        (self.get::<1>(UNION)[0] != 0, self.get64(UNION + 16))
    }

    /// `tdx`.
    pub fn tdx_answer(&self) -> TdxExit {
        let mut exit = TdxExit::default();
        let bytes: [u8; size_of::<TdxExit>()] = self.get(UNION);
        exit.as_mut_bytes().copy_from_slice(&bytes);
        exit
    }

    /// `snp_req_certs.ret` and `npages`.
    pub fn certs_answer(&self) -> (u64, u64) {
        (self.get64(UNION + 16), self.get64(UNION + 8))
    }
}
