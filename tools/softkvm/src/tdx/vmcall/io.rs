//! Ports, device memory and MSRs (`tdx_emulate_io`, `tdx_emulate_mmio`, arch/x86/kvm/x86.c `kvm_emulate_rdmsr`).

use abi::tdx::vmcall::Status;

use super::{MsrAnswer, Outcome, Pending, Vmcall, VmcallExit, VmcallHost, is_shared, msrs};

impl Vmcall {
    /// R12 size, R13 direction, R14 port, R15 data.
    pub(super) fn port_io(&mut self, host: &mut dyn VmcallHost) -> Outcome {
        let size = match self.regs.r12 {
            1 => 1,
            2 => 2,
            4 => 4,
            _ => return self.refuse(Status::INVALID_OPERAND),
        };
        // KVM takes the low bits of what is too large for a port.
        let port = self.regs.r14 as u16;
        match self.regs.r13 {
            0 => match host.port_in(port, size) {
                Some(value) => self.read_done(&value.to_le_bytes(), size),
                None => {
                    self.pending = Some(Pending::PortIn { size });
                    Outcome::Exit(VmcallExit::Io { data: None, port, size })
                }
            },
            1 => {
                let value = (self.regs.r15 & (u64::MAX >> (64 - 8 * u32::from(size)))) as u32;
                if host.port_out(port, size, value) {
                    Outcome::Resume
                } else {
                    Outcome::Exit(VmcallExit::Io { data: Some(value), port, size })
                }
            }
            _ => self.refuse(Status::INVALID_OPERAND),
        }
    }

    /// R12 size, R13 direction, R14 address with shared bit, R15 data. KVM looks at the low halves of R12 and R13.
    pub(super) fn mmio(&mut self, host: &mut dyn VmcallHost) -> Outcome {
        let len = match self.regs.r12 as u32 {
            1 => 1,
            2 => 2,
            4 => 4,
            8 => 8,
            _ => return self.refuse(Status::INVALID_OPERAND),
        };
        let direction = self.regs.r13 as u32;
        let gpaw = host.gpaw();
        let (first, last) = (self.regs.r14, self.regs.r14.wrapping_add(u64::from(len) - 1));
        if direction > 1 || !is_shared(gpaw, first) || !is_shared(gpaw, last) {
            return self.refuse(Status::INVALID_OPERAND);
        }
        let gpa = first & !gpaw.shared_mask();
        let mut data = [0; 8];
        let bytes = &mut data[..usize::from(len)];
        if direction == 1 {
            bytes.copy_from_slice(&self.regs.r15.to_le_bytes()[..usize::from(len)]);
            if host.mmio_write(gpa, bytes) {
                return Outcome::Resume;
            }
            return Outcome::Exit(VmcallExit::Mmio { gpa, len, data: Some(data) });
        }
        if host.mmio_read(gpa, bytes) {
            return self.read_done(&data, len);
        }
        self.pending = Some(Pending::MmioRead { len });
        Outcome::Exit(VmcallExit::Mmio { gpa, len, data: None })
    }

    /// Puts what was read into R11, zero-extended.
    pub(super) fn read_done(&mut self, data: &[u8], size: u8) -> Outcome {
        let mut bytes = [0; 8];
        let len = usize::from(size).min(data.len());
        bytes[..len].copy_from_slice(&data[..len]);
        self.regs.r11 = u64::from_le_bytes(bytes);
        Outcome::Resume
    }

    /// R12 the index.
    pub(super) fn rdmsr(&mut self, host: &mut dyn VmcallHost) -> Outcome {
        let index = self.regs.r12 as u32;
        let answer = if msrs::emulated(index, false) {
            host.rdmsr(index)
        } else {
            unknown(host, index, false)
        };
        match answer {
            MsrAnswer::Done(value) => {
                self.regs.r11 = value;
                Outcome::Resume
            }
            MsrAnswer::Refused => self.refuse(Status::INVALID_OPERAND),
            MsrAnswer::Exit(reason) => {
                self.pending = Some(Pending::Rdmsr);
                Outcome::Exit(VmcallExit::Rdmsr { index, reason })
            }
        }
    }

    /// R12 the index, R13 the value.
    pub(super) fn wrmsr(&mut self, host: &mut dyn VmcallHost) -> Outcome {
        let (index, value) = (self.regs.r12 as u32, self.regs.r13);
        let answer = if msrs::emulated(index, true) {
            host.wrmsr(index, value)
        } else {
            unknown(host, index, true)
        };
        match answer {
            MsrAnswer::Done(()) => Outcome::Resume,
            MsrAnswer::Refused => self.refuse(Status::INVALID_OPERAND),
            MsrAnswer::Exit(reason) => {
                self.pending = Some(Pending::Wrmsr);
                Outcome::Exit(VmcallExit::Wrmsr { index, value, reason })
            }
        }
    }
}

fn unknown<T>(host: &dyn VmcallHost, index: u32, write: bool) -> MsrAnswer<T> {
    host.msr_exit_reason(index, write).map_or(MsrAnswer::Refused, MsrAnswer::Exit)
}
