//! One vCPU: registers before the start, KVM_RUN afterwards.
//!
//! `kvm_ioctls::VcpuExit` borrows the vCPU, loses the operand size of string I/O and does not know the exits for
//! certificates and for a TD's calls; so KVM_RUN's outcome is decoded here, once, into [`Exit`], which owns what it says.
//!
//! UNSAFETY: the run page is shared with the kernel and its union is read by the exit reason the kernel stored; and one ioctl
//! that kvm-ioctls lacks.
#![allow(unsafe_code)]

use std::io;

use abi::kvm::{KVM_PRE_FAULT_MEMORY, PreFaultMemory};
use abi::kvm_tdx::{KVM_EXIT_TDX, KVM_SYSTEM_EVENT_TDX_FATAL, TdxExit};
use abi::tdx::vmcall;
use kvm_bindings::{
    CpuId, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_HYPERCALL, KVM_EXIT_INTERNAL_ERROR,
    KVM_EXIT_INTR, KVM_EXIT_IO, KVM_EXIT_IO_IN, KVM_EXIT_MEMORY_FAULT, KVM_EXIT_MMIO,
    KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, KVM_MP_STATE_HALTED, Msrs, kvm_mp_state,
    kvm_msr_entry, kvm_regs, kvm_sregs,
};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_mut_ref;

use super::SysError;
use super::kick::KickTarget;
use super::target::Target;
use super::vm::uninterrupted;
use crate::recorder::{Op, Recorder};

/// KVM_EXIT_SNP_REQ_CERTS (Linux 7.2 include/uapi/linux/kvm.h); not in kvm-bindings 0.14.
const KVM_EXIT_CERTIFICATES: u32 = 43;
/// KVM_EXIT_UNKNOWN.
const KVM_EXIT_UNKNOWN: u32 = 0;
/// The port data of one exit: KVM gives one page.
const IO_MAX: usize = 4096;
/// IA32_MTRR_DEF_TYPE.
const MTRR_DEF_TYPE: u32 = 0x2ff;
/// Enabled, fixed ranges too; write-back where no range says otherwise.
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 1 << 10 | 6;

/// Why KVM_RUN returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// `count` reads of `size` bytes from a port; the answer goes through [`Vcpu::io_data`].
    PortIn {
        /// The port.
        port: u16,
        /// Bytes per access.
        size: usize,
    },
    /// `count` writes of `size` bytes to a port; the data is in [`Vcpu::io_data`].
    PortOut {
        /// The port.
        port: u16,
        /// Bytes per access.
        size: usize,
    },
    /// A read of memory that is not there; the answer goes through [`Vcpu::set_mmio_data`].
    MmioRead {
        /// Where.
        gpa: u64,
        /// How many bytes.
        len: usize,
    },
    /// A write to memory that is not there.
    MmioWrite {
        /// Where.
        gpa: u64,
        /// How many bytes.
        len: usize,
        /// The bytes; those beyond `len` are 0.
        data: [u8; 8],
    },
    /// A hypercall that was routed here; the answer goes through [`Vcpu::set_hypercall_result`].
    Hypercall {
        /// Its number.
        nr: u64,
        /// Its operands.
        args: [u64; 6],
    },
    /// An access whose kind (private or shared) is not that of the page.
    MemoryFault {
        /// The access was private.
        private: bool,
        /// Where.
        gpa: u64,
        /// How many bytes.
        size: u64,
    },
    /// A TD asks for a quote; [`Vcpu::answer_vmcall`] answers this and the next three.
    GetQuote {
        /// Where its buffer is, without shared bit.
        gpa: u64,
        /// How long it is.
        size: u64,
    },
    /// A TD asks which optional calls there are.
    GetTdVmCallInfo {
        /// About which ones.
        leaf: u64,
    },
    /// A TD wants an interrupt when something it has asked for is done.
    SetupEventNotify {
        /// The interrupt's vector.
        vector: u64,
    },
    /// A call of a TD that is not decoded here.
    TdVmCall {
        /// Its number.
        nr: u64,
    },
    /// A TD gives up.
    TdFatal {
        /// Its registers, by their x86 numbers.
        registers: [u64; 16],
    },
    /// The guest stopped itself, or was stopped: type and first datum (Documentation/virt/kvm/api.rst).
    SystemEvent {
        /// KVM_SYSTEM_EVENT_*.
        kind: u32,
        /// Its first datum.
        data: u64,
    },
    /// The guest asks for the certificates of an extended report; [`Vcpu::answer_certificates`] answers.
    Certificates {
        /// Where they go, in shared memory.
        gpa: u64,
        /// How many pages there are.
        npages: u64,
    },
    /// A vCPU halted and nothing in the kernel can wake it.
    Halt,
    /// Triple fault.
    Shutdown,
    /// The processor refused the guest's state.
    FailEntry {
        /// The hardware's reason.
        reason: u64,
    },
    /// KVM could not go on.
    InternalError {
        /// KVM_INTERNAL_ERROR_*.
        suberror: u32,
        /// The bytes of the instruction that cannot be emulated, where KVM tells them; padded with zeros.
        instruction: [u8; 15],
        /// How many there are.
        len: usize,
    },
    /// A signal, or `immediate_exit`.
    Interrupted,
    /// Not decoded here.
    Other(u32),
}

/// The kinds of exits, for counting.
pub const EXIT_KINDS: [&str; 20] = [
    "port_in",
    "port_out",
    "mmio_read",
    "mmio_write",
    "hypercall",
    "memory_fault",
    "system_event",
    "certificates",
    "halt",
    "shutdown",
    "fail_entry",
    "internal_error",
    "interrupted",
    "other",
    "tdx_get_quote",
    "tdx_get_td_vmcall_info",
    "tdx_setup_event_notify",
    "tdx_other_vmcall",
    "tdx_fatal",
    "run_error",
];

impl Exit {
    /// Its place in [`EXIT_KINDS`].
    pub fn kind(&self) -> usize {
        match self {
            Exit::PortIn { .. } => 0,
            Exit::PortOut { .. } => 1,
            Exit::MmioRead { .. } => 2,
            Exit::MmioWrite { .. } => 3,
            Exit::Hypercall { .. } => 4,
            Exit::MemoryFault { .. } => 5,
            Exit::SystemEvent { .. } => 6,
            Exit::Certificates { .. } => 7,
            Exit::Halt => 8,
            Exit::Shutdown => 9,
            Exit::FailEntry { .. } => 10,
            Exit::InternalError { .. } => 11,
            Exit::Interrupted => 12,
            Exit::Other(_) => 13,
            Exit::GetQuote { .. } => 14,
            Exit::GetTdVmCallInfo { .. } => 15,
            Exit::SetupEventNotify { .. } => 16,
            Exit::TdVmCall { .. } => 17,
            Exit::TdFatal { .. } => 18,
        }
    }
}

/// A vCPU.
#[derive(Debug)]
pub struct Vcpu {
    fd: VcpuFd,
    id: u16,
    run_size: usize,
}

impl Vcpu {
    pub(super) fn new(fd: VcpuFd, id: u16, run_size: usize) -> Vcpu {
        Vcpu { fd, id, run_size }
    }

    /// The descriptor, for the wrappers of this folder.
    pub(super) fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// Its number, which is its APIC id.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Sets what CPUID answers.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn set_cpuid(&self, recorder: &mut Recorder, cpuid: &CpuId) -> Result<(), SysError> {
        recorder
            .record(Op::SetCpuid, "KVM_SET_CPUID2", 0, || self.fd.set_cpuid2(cpuid))
            .map_err(SysError::on("KVM_SET_CPUID2", Target::vcpu(self.id)))
    }

    /// Sets control, segment and descriptor-table registers; APIC base and CR8 stay KVM's.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn set_sregs(&self, recorder: &mut Recorder, sregs: &kvm_sregs) -> Result<(), SysError> {
        recorder.record(Op::SetRegs, "KVM_SET_SREGS", 0, || {
            let current = self
                .fd
                .get_sregs()
                .map_err(SysError::on("KVM_GET_SREGS", Target::vcpu(self.id)))?;
            self.fd
                .set_sregs(&kvm_sregs { apic_base: current.apic_base, cr8: current.cr8, ..*sregs })
                .map_err(SysError::on("KVM_SET_SREGS", Target::vcpu(self.id)))
        })
    }

    /// Sets the general registers.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn set_regs(&self, recorder: &mut Recorder, regs: &kvm_regs) -> Result<(), SysError> {
        recorder
            .record(Op::SetRegs, "KVM_SET_REGS", 0, || self.fd.set_regs(regs))
            .map_err(SysError::on("KVM_SET_REGS", Target::vcpu(self.id)))
    }

    /// Turns the memory type ranges on, all of memory write-back, as firmware leaves them. Linux before 6.2 takes a processor
    /// with MTRRs off for one without PAT, and then cannot map memory write-protected, which it needs to decrypt
    /// (arch/x86/kernel/cpu/mtrr/mtrr.c mtrr_bp_init, arch/x86/mm/mem_encrypt_amd.c __sme_early_enc_dec).
    ///
    /// # Errors
    /// The ioctl's.
    pub fn enable_mtrrs(&self, recorder: &mut Recorder) -> Result<(), SysError> {
        let target = format!("for IA32_MTRR_DEF_TYPE on vCPU {}", self.id);
        let entry = kvm_msr_entry {
            index: MTRR_DEF_TYPE,
            data: MTRR_ENABLED_WRITE_BACK,
            ..Default::default()
        };
        let set = Msrs::from_entries(&[entry]).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG));
        recorder
            .record(Op::SetMsrs, "KVM_SET_MSRS", 0, || match self.fd.set_msrs(&set?)? {
                1 => Ok(()),
                // KVM stops at the first MSR that it refuses.
                _ => Err(kvm_ioctls::Error::new(libc::EINVAL)),
            })
            .map_err(SysError::ioctl_on("KVM_SET_MSRS", target))
    }

    /// Puts the vCPU to sleep until an event for it arrives.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn set_halted(&self, recorder: &mut Recorder) -> Result<(), SysError> {
        recorder
            .record(Op::SetMpState, "KVM_SET_MP_STATE", 0, || {
                self.fd.set_mp_state(kvm_mp_state { mp_state: KVM_MP_STATE_HALTED })
            })
            .map_err(SysError::on("KVM_SET_MP_STATE", Target::vcpu(self.id)))
    }

    /// Has KVM map guest memory, as if the vCPU had read it.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn pre_fault(&self, gpa: u64, len: u64) -> Result<(), SysError> {
        let mut range = PreFaultMemory { gpa, size: len, flags: 0, padding: [0; 5] };
        // KVM says how much is left.
        while range.size > 0 {
            let call = || {
                // SAFETY: the request has this structure, which lives for the duration of the call.
                match unsafe { ioctl_with_mut_ref(&self.fd, KVM_PRE_FAULT_MEMORY, &mut range) } {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            };
            // Which vCPU and which part of memory it is, is up to the host's scheduler.
            let words = "for memory that --accept prefault wants mapped".into();
            uninterrupted(call)
                .map_err(SysError::on("KVM_PRE_FAULT_MEMORY", Target::Words(words)))?;
        }
        Ok(())
    }

    /// Where it stands, and whether it is halted; `None` for a guest whose registers nobody may see.
    pub fn position(&self) -> Option<(u64, bool)> {
        let rip = self.fd.get_regs().ok()?.rip;
        let state = self.fd.get_mp_state().ok()?.mp_state;
        Some((rip, state == KVM_MP_STATE_HALTED))
    }

    /// Makes kicks of this thread stop this vCPU.
    pub fn kick_target(&mut self) -> KickTarget {
        KickTarget::enter(&raw mut self.fd.get_kvm_run().immediate_exit)
    }

    /// Lets the next KVM_RUN run again after a kick.
    pub fn clear_immediate_exit(&mut self) {
        self.fd.set_kvm_immediate_exit(0);
    }

    /// KVM_RUN.
    ///
    /// # Errors
    /// Any failure but an interruption (EINTR, EAGAIN) and a memory fault.
    pub fn run(&mut self) -> io::Result<Exit> {
        // The borrowed exit is dropped at once: the run page holds everything, and more.
        match self.fd.run() {
            Ok(_) => {}
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {
                return Ok(Exit::Interrupted);
            }
            Err(e) => return Err(e.into()),
        }
        Ok(self.decode())
    }

    fn decode(&mut self) -> Exit {
        let run = self.fd.get_kvm_run();
        let body = &run.__bindgen_anon_1;
        // SAFETY (all blocks below): every union member is plain data for which all bit patterns are valid, and the
        // kernel stored the reason together with the member.
        match run.exit_reason {
            KVM_EXIT_IO => {
                // SAFETY: see above.
                let io = unsafe { body.io };
                let (port, size) = (io.port, usize::from(io.size.max(1)));
                if u32::from(io.direction) == KVM_EXIT_IO_IN {
                    Exit::PortIn { port, size }
                } else {
                    Exit::PortOut { port, size }
                }
            }
            KVM_EXIT_MMIO => {
                // SAFETY: see above.
                let mmio = unsafe { body.mmio };
                let len = (mmio.len as usize).min(mmio.data.len());
                if mmio.is_write == 0 {
                    return Exit::MmioRead { gpa: mmio.phys_addr, len };
                }
                let mut data = [0; 8];
                data[..len].copy_from_slice(&mmio.data[..len]);
                Exit::MmioWrite { gpa: mmio.phys_addr, len, data }
            }
            KVM_EXIT_HYPERCALL => {
                // SAFETY: see above.
                let call = unsafe { body.hypercall };
                Exit::Hypercall { nr: call.nr, args: call.args }
            }
            KVM_EXIT_MEMORY_FAULT => {
                // SAFETY: see above.
                let fault = unsafe { body.memory_fault };
                Exit::MemoryFault {
                    private: fault.flags & 8 != 0,
                    gpa: fault.gpa,
                    size: fault.size,
                }
            }
            KVM_EXIT_SYSTEM_EVENT => {
                // SAFETY: see above.
                let event = unsafe { body.system_event };
                // SAFETY: see above.
                let mut data = unsafe { event.__bindgen_anon_1.data };
                let told = (event.ndata as usize).min(data.len());
                data[told..].fill(0);
                match event.type_ {
                    KVM_SYSTEM_EVENT_TDX_FATAL => Exit::TdFatal { registers: data },
                    kind => Exit::SystemEvent { kind, data: data[0] },
                }
            }
            KVM_EXIT_TDX => {
                let TdxExit { nr, data: [a, b, ..], .. } = *self.vmcall();
                match nr {
                    vmcall::GET_QUOTE => Exit::GetQuote { gpa: a, size: b },
                    vmcall::GET_TD_VMCALL_INFO => Exit::GetTdVmCallInfo { leaf: a },
                    vmcall::SETUP_EVENT_NOTIFY_INTERRUPT => Exit::SetupEventNotify { vector: a },
                    nr => Exit::TdVmCall { nr },
                }
            }
            KVM_EXIT_CERTIFICATES => {
                let [gpa, npages] = *self.certificate_words();
                Exit::Certificates { gpa, npages }
            }
            KVM_EXIT_FAIL_ENTRY => {
                // SAFETY: see above.
                let fail = unsafe { body.fail_entry };
                Exit::FailEntry { reason: fail.hardware_entry_failure_reason }
            }
            KVM_EXIT_INTERNAL_ERROR => {
                // SAFETY: see above.
                let error = unsafe { body.internal };
                // Two words of flags and length, then the bytes (Linux 7.2 include/uapi/linux/kvm.h, emulation_failure).
                let mut raw = [0; 16];
                raw[..8].copy_from_slice(&error.data[1].to_le_bytes());
                raw[8..].copy_from_slice(&error.data[2].to_le_bytes());
                let told = error.suberror == 1 && error.ndata >= 3 && error.data[0] & 1 != 0;
                let [len, instruction @ ..] = raw;
                let len = if told { usize::from(len).min(instruction.len()) } else { 0 };
                Exit::InternalError { suberror: error.suberror, instruction, len }
            }
            KVM_EXIT_HLT => Exit::Halt,
            KVM_EXIT_SHUTDOWN => Exit::Shutdown,
            KVM_EXIT_INTR => Exit::Interrupted,
            KVM_EXIT_UNKNOWN => Exit::Other(KVM_EXIT_UNKNOWN),
            other => Exit::Other(other),
        }
    }

    /// The data of a port exit: `count * size` bytes. Empty if the kernel's numbers make no sense.
    pub fn io_data(&mut self) -> &mut [u8] {
        let run_size = self.run_size;
        let run = self.fd.get_kvm_run();
        // SAFETY: plain data; only called after a port exit.
        let io = unsafe { run.__bindgen_anon_1.io };
        let len = usize::from(io.size) * io.count as usize;
        let offset = usize::try_from(io.data_offset).unwrap_or(usize::MAX);
        if len > IO_MAX || offset.checked_add(len).is_none_or(|end| end > run_size) {
            return &mut [];
        }
        let base = std::ptr::from_mut(run).cast::<u8>();
        // SAFETY: the range was just checked to lie inside the mapped run area of `run_size` bytes, which lives as
        // long as `self.fd`; the kernel writes there only inside KVM_RUN, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts_mut(base.add(offset), len) }
    }

    /// The answer to a read of memory that is not there.
    pub fn set_mmio_data(&mut self, data: [u8; 8]) {
        self.fd.get_kvm_run().__bindgen_anon_1.mmio.data = data;
    }

    /// The answer to a hypercall: 0, or a positive errno that KVM knows (EINVAL, EAGAIN).
    pub fn set_hypercall_result(&mut self, result: u64) {
        self.fd.get_kvm_run().__bindgen_anon_1.hypercall.ret = result;
    }

    /// `struct kvm_exit_snp_req_certs {gpa, npages, ret}` begins where the union does.
    fn certificate_words(&mut self) -> &mut [u64; 2] {
        let body = &raw mut self.fd.get_kvm_run().__bindgen_anon_1;
        // SAFETY: the union is 256 bytes long and 8-byte aligned; any bits are valid integers.
        unsafe { &mut *body.cast::<[u64; 2]>() }
    }

    /// `struct kvm_run`'s `tdx` member, which kvm-bindings 0.14 lacks, begins where the union does.
    fn vmcall(&mut self) -> &mut TdxExit {
        let body = &raw mut self.fd.get_kvm_run().__bindgen_anon_1;
        // SAFETY: the union is 256 bytes long and 8-byte aligned; any bits are a valid `TdxExit` of 64 bytes.
        unsafe { &mut *body.cast::<TdxExit>() }
    }

    /// The answer to a TD's call: what R10 gets and, of GetTdVmCallInfo, R11 to R14.
    pub fn answer_vmcall(&mut self, status: vmcall::Status, info: Option<[u64; 4]>) {
        let exit = self.vmcall();
        exit.ret = status.0;
        if let Some(info) = info {
            exit.data[1..].copy_from_slice(&info);
        }
    }

    /// The answer to a certificate request: 0, or ENOSPC with the number of pages that are needed.
    pub fn answer_certificates(&mut self, npages: u64, result: u64) {
        self.certificate_words()[1] = npages;
        let body = &raw mut self.fd.get_kvm_run().__bindgen_anon_1;
        // SAFETY: as above; `ret` is the third word.
        unsafe { body.cast::<u64>().add(2).write(result) };
    }
}
