//! What user space answers by `KVM_EXIT_TDX`: GetTdVmCallInfo, GetQuote, SetupEventNotifyInterrupt.

use abi::kvm_tdx::TdxExit;
use abi::tdx::vmcall::{self, Status};

use super::{Outcome, Pending, Vmcall, VmcallExit, VmcallHost, is_shared};

impl Vmcall {
    /// R12 the leaf: 0 is KVM's, 1 is user space's (`tdx_get_td_vm_call_info`).
    pub(super) fn info(&mut self) -> Outcome {
        match self.regs.r12 {
            0 => {
                (self.regs.r11, self.regs.r12) = (0, 0);
                (self.regs.r13, self.regs.r14) = (0, 0);
                self.refuse(Status::SUCCESS)
            }
            leaf @ 1 => self.ask(
                Pending::Info,
                vmcall::GET_TD_VMCALL_INFO,
                Status::SUCCESS,
                [leaf, 0, 0, 0, 0],
            ),
            _ => self.refuse(Status::INVALID_OPERAND),
        }
    }

    /// R12 address of a shared buffer, R13 its size (`tdx_get_quote`).
    pub(super) fn get_quote(&mut self, host: &dyn VmcallHost) -> Outcome {
        let (gpa, size) = (self.regs.r12, self.regs.r13);
        let gpaw = host.gpaw();
        if !is_shared(gpaw, gpa) {
            return self.refuse(Status::INVALID_OPERAND);
        }
        let data = [gpa & !gpaw.shared_mask(), size, 0, 0, 0];
        self.ask(Pending::Simple, vmcall::GET_QUOTE, Status::SUBFUNC_UNSUPPORTED, data)
    }

    /// R12 the vector (`tdx_setup_event_notify_interrupt`).
    pub(super) fn setup_event_notify(&mut self) -> Outcome {
        let vector = self.regs.r12;
        if !(32..=255).contains(&vector) {
            return self.refuse(Status::INVALID_OPERAND);
        }
        self.ask(
            Pending::Simple,
            vmcall::SETUP_EVENT_NOTIFY_INTERRUPT,
            Status::SUBFUNC_UNSUPPORTED,
            [vector, 0, 0, 0, 0],
        )
    }

    fn ask(&mut self, pending: Pending, nr: u64, preset: Status, data: [u64; 5]) -> Outcome {
        self.pending = Some(pending);
        Outcome::Exit(VmcallExit::Tdx(TdxExit { flags: 0, nr, ret: preset.0, data }))
    }
}
