//! The registers that a TDVMCALL carries. What the guest does not select in RCX arrives as 0 and does not come back.
//!
//! Selected XMM registers pass as they are: KVM does not look at them.

use abi::tdx::vmcall::reason;

use crate::cpu::state::{Core, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP};

/// What KVM sees of the guest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Registers {
    /// GPR mask 15:0, XMM mask 31:16: what RCX holds at the exit.
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

impl Registers {
    /// As TDG.VP.VMCALL passes them.
    pub fn from_guest(core: &Core) -> Self {
        let mask = core.gpr[RCX];
        let take = |index: usize| if mask >> index & 1 != 0 { core.gpr[index] } else { 0 };
        Self {
            rcx: mask,
            rdx: take(RDX),
            rbx: take(RBX),
            rsi: take(RSI),
            rdi: take(RDI),
            r8: take(8),
            r9: take(9),
            r10: take(10),
            r11: take(11),
            r12: take(12),
            r13: take(13),
            r14: take(14),
            r15: take(15),
        }
    }

    /// As TDH.VP.ENTER gives them back: RAX says that the module is content.
    pub fn to_guest(self, core: &mut Core) {
        core.gpr[RAX] = 0;
        for (index, value) in [
            (RDX, self.rdx),
            (RBX, self.rbx),
            (RSI, self.rsi),
            (RDI, self.rdi),
            (8, self.r8),
            (9, self.r9),
            (10, self.r10),
            (11, self.r11),
            (12, self.r12),
            (13, self.r13),
            (14, self.r14),
            (15, self.r15),
        ] {
            if self.rcx >> index & 1 != 0 {
                core.gpr[index] = value;
            }
        }
    }

    /// By x86 numbers, with the exit reason for RAX and zeros for RSP and RBP (`tdx_report_fatal_error`).
    pub fn dump(&self) -> [u64; 16] {
        let mut data = [0; 16];
        data[RAX] = u64::from(reason::TDCALL);
        data[RCX] = self.rcx;
        data[RDX] = self.rdx;
        data[RBX] = self.rbx;
        (data[RSP], data[RBP]) = (0, 0);
        data[RSI] = self.rsi;
        data[RDI] = self.rdi;
        data[8..].copy_from_slice(&[
            self.r8, self.r9, self.r10, self.r11, self.r12, self.r13, self.r14, self.r15,
        ]);
        data
    }
}
