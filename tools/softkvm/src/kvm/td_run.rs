//! What a TD's vCPU does outside of its guest: TDVMCALLs.

use super::errno::Errno;
use super::number::mp_state;
use super::run::Return;
use super::run_page::UserExit;
use super::state::{Completion, State};
use super::td_host::Host;
use super::world::Guest;
use crate::tdx::vmcall;

/// With "try again", where a TD shall go on (GHCI 1.5, `TDG.VP.VMCALL<MapGPA>`).
const R11: usize = 11;

impl State {
    /// What must happen before a TD's vCPU is entered.
    pub(super) fn td_enter(&mut self, index: usize) -> Option<Return> {
        let cpu = self.vcpus[index].td.as_mut()?;
        let woken = cpu.halt.take().is_some();
        if let Some(Err(status)) = self.td.as_ref().map(|vm| vm.td.enter(&cpu.vcpu)) {
            return Some(Return::Exit(UserExit::VpEnter(status)));
        }
        if woken { self.vmcall(index, Some(vmcall::Answer::None)) } else { None }
    }

    /// Starts (`answer` is `None`) or continues a TDVMCALL.
    pub(super) fn vmcall(
        &mut self,
        index: usize,
        answer: Option<vmcall::Answer<'_>>,
    ) -> Option<Return> {
        let (Some(mut cpu), Some(mut p)) =
            (self.vcpus[index].td.take(), self.vcpus[index].processor.take())
        else {
            return Some(Return::Fail(Errno::EBUSY));
        };
        if self.machine.options.trace && answer.is_none() {
            let [r10, r11, r12, r13, r14, r15] = std::array::from_fn(|i| p.core.gpr[10 + i]);
            super::say(format_args!(
                "vCPU {index}: TDVMCALL {r10:#x} {r11:#x}, {r12:#x}, {r13:#x}, {r14:#x}, {r15:#x}"
            ));
        }
        self.clock.begin(&p.core);
        // The protocol's own state leaves with the vCPU's for the time of the call; the host needs the rest of it.
        let mut protocol = std::mem::take(&mut cpu.vmcall);
        self.vcpus[index].td = Some(cpu);
        let mut guest = Guest { state: self, me: index, end_turn: false, horizon: u64::MAX };
        let mut host = Host { core: p.core.clone(), guest: &mut guest };
        let outcome = match answer {
            None => protocol.handle(&mut p.core, &mut host),
            Some(answer) => protocol.complete(&mut p.core, &mut host, answer),
        };
        if self.machine.options.trace {
            super::say(format_args!("vCPU {index}: {outcome:x?}, R10 {:#x}", p.core.gpr[10]));
        }
        self.vcpus[index].processor = Some(p);
        if let Some(cpu) = &mut self.vcpus[index].td {
            cpu.vmcall = protocol;
        }
        self.after_vmcall(index, outcome)
    }

    fn after_vmcall(&mut self, index: usize, outcome: vmcall::Outcome) -> Option<Return> {
        use vmcall::{Outcome, VmcallExit};
        match outcome {
            Outcome::Resume => None,
            Outcome::Halt { interrupts_blocked } => {
                self.vcpus[index].count("hlt");
                self.vcpus[index].counts.halt_exits += 1;
                self.begin_sleep(index);
                if let Some(cpu) = &mut self.vcpus[index].td {
                    cpu.halt = Some(interrupts_blocked);
                }
                self.vcpus[index].mp_state = mp_state::HALTED;
                None
            }
            Outcome::Fail(errno) => Some(Return::Fail(Errno(errno))),
            Outcome::Exit(exit) => {
                if let VmcallExit::MapGpaRange { .. } = exit
                    && let Some(answer) = self.hostile.lie()
                {
                    let ended = self.vmcall(index, Some(vmcall::Answer::Hypercall(answer)));
                    if let Some(gpa) = self.hostile.misdirection()
                        && let Some(p) = &mut self.vcpus[index].processor
                    {
                        p.core.gpr[R11] = gpa;
                    }
                    return ended;
                }
                let exit = user_exit(exit);
                if let UserExit::TdxFatal(data) = &exit {
                    let code = data[12];
                    self.complain(format!("vCPU {index} reports a fatal error ({code:#x})"));
                }
                self.vcpus[index].completion = Completion::Vmcall(exit.clone());
                Some(Return::Exit(exit))
            }
        }
    }
}

fn user_exit(exit: vmcall::VmcallExit) -> UserExit {
    use vmcall::VmcallExit as E;
    match exit {
        E::Io { data, port, size } => {
            let data = data.map(|data| data.to_le_bytes()[..usize::from(size.min(4))].to_vec());
            UserExit::Io { data, port, size, count: 1 }
        }
        E::Mmio { gpa, len, data } => UserExit::Mmio { gpa, len, data },
        E::Rdmsr { index, reason } => UserExit::Rdmsr { index, reason },
        E::Wrmsr { index, value, reason } => UserExit::Wrmsr { index, value, reason },
        E::MapGpaRange { gpa, npages, attributes } => {
            UserExit::MapGpaRange { args: [gpa, npages, attributes], flags: 1 }
        }
        E::Tdx(exit) => UserExit::Tdx(exit),
        E::Fatal { data } => UserExit::TdxFatal(data),
    }
}
