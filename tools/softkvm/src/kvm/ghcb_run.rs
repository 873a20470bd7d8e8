//! What an SNP guest's vCPU does outside of its guest: VMGEXITs, and the VMSA it is given by another.

use super::errno::Errno;
use super::ghcb_host::Host;
use super::number::mp_state;
use super::run::{Return, little_endian};
use super::run_page::UserExit;
use super::state::{Completion, State};
use super::world::Guest;
use crate::chipset::Irqchip;
use crate::snp::ghcb::{self, GhcbExit, Outcome};
use crate::snp::vmsa;

impl State {
    /// Loads a vCPU from the VMSA another one has made for it.
    pub(super) fn load_vmsa(&mut self, index: usize, gpa: u64) {
        let features = self.snp.features();
        let private = self.memory.is_private(gpa >> 12);
        let mut page = Box::new([0; 4096]);
        let mut good = false;
        let copied = self.memory.with_private_page(gpa, &mut |from, entry| {
            good = private && entry.assigned() && entry.vmsa();
            page.copy_from_slice(from);
        });
        let vcpu = &mut self.vcpus[index];
        if copied.is_err() || !good {
            self.complain(format!("vCPU {index}: no VMSA page at {gpa:#x}"));
            return;
        }
        let Some(p) = &mut vcpu.processor else { return };
        let loaded = vmsa::load(&mut p.core, &page, features);
        p.core.pending = None;
        p.flush_tlb();
        match loaded {
            Ok(()) => vcpu.vmsa_valid = true,
            Err(error) => self.complain(format!("vCPU {index}: {error}")),
        }
    }

    /// Starts (`answer` is `None`) or continues a VMGEXIT.
    pub(super) fn ghcb(
        &mut self,
        index: usize,
        answer: Option<ghcb::Answer<'_>>,
    ) -> Option<Return> {
        let Some(mut state) = self.vcpus[index].ghcb.take() else {
            return Some(Return::Fail(Errno::EINVAL));
        };
        let before = state.msr();
        if self.machine.options.trace && answer.is_none() {
            self.trace_vmgexit(index, before);
        }
        let Some(mut p) = self.vcpus[index].processor.take() else {
            return Some(Return::Fail(Errno::EBUSY));
        };
        self.clock.begin(&p.core);
        let mut guest = Guest { state: self, me: index, end_turn: false, horizon: u64::MAX };
        let mut host = Host { guest: &mut guest, core: &mut p.core };
        let outcome = match answer {
            None => state.handle(&mut host),
            Some(answer) => state.complete(&mut host, answer),
        };
        if self.machine.options.trace {
            super::say(format_args!("vCPU {index}: {outcome:x?}, MSR {:#x}", state.msr()));
        }
        self.vcpus[index].ghcb = Some(state);
        self.vcpus[index].processor = Some(p);
        match outcome {
            Outcome::Resume => None,
            Outcome::Hold => {
                self.vcpus[index].counts.halt_exits += 1;
                if self.chipset.mode() == Irqchip::None {
                    self.vcpus[index].completion = Completion::Ghcb(UserExit::ApResetHold);
                    return Some(Return::Exit(UserExit::ApResetHold));
                }
                self.vcpus[index].completion = Completion::Ghcb(UserExit::ApResetHold);
                self.vcpus[index].mp_state = mp_state::AP_RESET_HOLD;
                None
            }
            Outcome::Fail(errno) => Some(Return::Fail(Errno(errno))),
            Outcome::Exit(exit) => {
                if let GhcbExit::MapGpaRange { .. } = exit
                    && let Some(answer) = self.hostile.lie()
                {
                    return self.ghcb(index, Some(ghcb::Answer::Hypercall(answer)));
                }
                let exit = user_exit(exit);
                if let UserExit::SevTerm(data) = exit {
                    let last: Vec<String> = self.vcpus[index]
                        .last_vcs
                        .iter()
                        .map(|(code, about)| format!("{code:#x} ({about:#x})"))
                        .collect();
                    let last = last.join(", ");
                    let ghcb = format!("vCPU {index} asks for termination ({data:#x})");
                    self.complain(format!("{ghcb}; last #VCs: {last}"));
                }
                self.vcpus[index].completion = Completion::Ghcb(exit.clone());
                Some(Return::Exit(exit))
            }
        }
    }

    fn trace_vmgexit(&mut self, index: usize, msr: u64) {
        let mut fields = [0; 24];
        let page = msr & 0xfff == 0
            && self.memory.read_shared(msr.wrapping_add(0x390), &mut fields).is_ok();
        if page {
            let [code, info1, info2]: [u64; 3] =
                std::array::from_fn(|i| little_endian(&fields[i * 8..i * 8 + 8]));
            super::say(format_args!("vCPU {index}: VMGEXIT {code:#x}, {info1:#x}, {info2:#x}"));
        } else {
            super::say(format_args!("vCPU {index}: VMGEXIT, MSR {msr:#x}"));
        }
    }
}

fn user_exit(exit: GhcbExit) -> UserExit {
    match exit {
        GhcbExit::Io { data, port, size, count } => UserExit::Io { data, port, size, count },
        GhcbExit::Mmio { gpa, len, data } => UserExit::Mmio { gpa, len, data },
        GhcbExit::MapGpaRange { gpa, npages, attributes, flags } => {
            UserExit::MapGpaRange { args: [gpa, npages, attributes], flags }
        }
        GhcbExit::Terminate { data } => UserExit::SevTerm(data),
        GhcbExit::ReqCerts { gpa, npages } => UserExit::ReqCerts { gpa, npages },
    }
}
