//! The machine as a processor of an SNP guest sees it: the RMP stands between the two.

use super::memory::{Backing, Half};
use super::run_page::UserExit;
use super::state::State;
use super::world::{EXIT, Guest, memory};
use crate::cpu::{Access, Exception, PageAnswer, Stop};
use crate::snp::rmp::{self, Gate, Slot};
use abi::ghcb::exit as vc;

/// How many #VCs are remembered.
const LAST_VCS: usize = 4;

impl State {
    /// What PSMASH takes, with the exit that asks for it. It has no published cost, and writes the same entry as RMPUPDATE.
    pub(super) fn charge_psmash(&mut self) {
        self.clock.charge(self.costs.rmpupdate + self.costs.exit);
    }
}

impl Guest<'_> {
    /// #VC with an SVM exit code; `about` is the address or RIP in question.
    pub(super) fn vc_fault<T>(&mut self, code: u64, about: u64) -> Result<T, Stop> {
        let cost = self.state.costs.vc;
        self.state.clock.charge(cost);
        let vcpu = self.vcpu();
        vcpu.count("vc");
        vcpu.last_vcs.truncate(LAST_VCS - 1);
        vcpu.last_vcs.push_front((code, about));
        Err(Stop::Fault(Exception::vc(code as u32)))
    }

    /// The access of an SNP guest (AMD APM vol. 2, 15.36.10; KVM's routing by attribute).
    pub(super) fn snp_page(
        &mut self,
        gpa: u64,
        access: Access,
        c_bit: bool,
    ) -> Result<PageAnswer, Stop> {
        loop {
            let backing = self.state.memory.backing(gpa);
            let request = rmp::Request {
                gpa,
                access,
                c_bit,
                asid: self.state.snp.asid(),
                attribute: self.state.memory.is_private(gpa >> 12),
                slot: match backing {
                    Backing::None => Slot::None,
                    Backing::Shared => Slot::SharedOnly,
                    Backing::Guarded(entry) => Slot::Guarded(entry),
                },
            };
            match rmp::gate(&request) {
                Gate::Shared => return self.shared_page(gpa, access),
                Gate::Private => {
                    self.map(gpa, Half::Private);
                    return match self.state.memory.private_host(gpa) {
                        Some(host) => Ok(memory(host)),
                        None => self.stuck("private page without backing", gpa),
                    };
                }
                Gate::Fill => self.fill(gpa)?,
                Gate::Vc(code) => {
                    return self.vc_fault(u64::from(code), gpa);
                }
                Gate::MemoryFault { private } => {
                    self.vcpu().exit = Some(UserExit::MemoryFault { gpa, private });
                    return Err(EXIT);
                }
                Gate::Stuck(why) => return self.stuck(why, gpa),
            }
        }
    }

    /// Assigns a private page on its first use: what it holds then is noise.
    fn fill(&mut self, gpa: u64) -> Result<(), Stop> {
        let asid = self.state.snp.asid();
        let assigned = self.state.memory.assign(gpa, asid);
        let cost = self.state.costs.rmpupdate + self.state.costs.exit;
        self.state.clock.charge(cost);
        self.vcpu().count("rmpupdate");
        self.map(gpa, Half::Private);
        match assigned {
            Some((host, len)) => {
                self.state.code.host_wrote(host, len);
                Ok(())
            }
            None => self.stuck("page cannot be assigned", gpa).map(|_| ()),
        }
    }

    /// The processor would fault for ever: the run ends.
    fn stuck(&mut self, why: &str, gpa: u64) -> Result<PageAnswer, Stop> {
        self.state.complain(format!("access to {gpa:#x} can never succeed: {why}"));
        self.vcpu().exit = Some(UserExit::Internal { bytes: Vec::new() });
        Err(EXIT)
    }

    /// PVALIDATE; the answers are EAX and the carry flag.
    pub(super) fn snp_pvalidate(
        &mut self,
        gpa: u64,
        private: bool,
        huge: bool,
        validate: bool,
    ) -> Result<(u32, bool), Stop> {
        self.state.clock.charge(self.state.costs.pvalidate);
        self.vcpu().count("pvalidate");
        self.own_page(gpa, private)?;
        self.split(gpa, huge);
        let mut answer = (rmp::code::FAIL_SIZEMISMATCH, false);
        for entry in self.state.memory.named_entries(gpa, huge).into_iter().flatten() {
            answer = entry.pvalidate(validate);
        }
        let counts = &mut self.state.counts;
        match answer.0 {
            rmp::code::FAIL_SIZEMISMATCH => counts.pvalidate_mismatch += 1,
            rmp::code::SUCCESS if validate && huge => counts.pvalidate_2m += 1,
            rmp::code::SUCCESS if validate => counts.pvalidate_4k += 1,
            _ => {}
        }
        if !validate {
            self.others_forget();
        }
        Ok(answer)
    }

    /// RMPADJUST; the answer is EAX.
    pub(super) fn snp_rmpadjust(
        &mut self,
        gpa: u64,
        private: bool,
        huge: bool,
        rdx: u64,
    ) -> Result<u32, Stop> {
        self.state.clock.charge(self.state.costs.rmpadjust);
        self.vcpu().count("rmpadjust");
        self.own_page(gpa, private)?;
        if let Backing::Guarded(entry) = self.state.memory.backing(gpa)
            && !entry.validated()
        {
            return self.vc_fault(vc::PAGE_NOT_VALIDATED, gpa);
        }
        self.split(gpa, huge);
        let answer = match self.state.memory.named_entries(gpa, huge) {
            Some(entries) => entries.iter_mut().fold(0, |_, entry| entry.rmpadjust(true, rdx)),
            // What is wrong with RDX comes before the size.
            None => rmp::RmpEntry::default().rmpadjust(false, rdx),
        };
        self.others_forget();
        Ok(answer)
    }

    /// Makes sure that the page PVALIDATE or RMPADJUST names belongs to the guest.
    fn own_page(&mut self, gpa: u64, private: bool) -> Result<(), Stop> {
        if !private {
            // The page is not the guest's through this mapping: nested page fault with the RMP
            // bit, which KVM turns into a memory fault if the attribute differs.
            self.vcpu().exit = Some(UserExit::MemoryFault { gpa, private: false });
            return Err(EXIT);
        }
        if !self.state.memory.is_private(gpa >> 12) {
            self.vcpu().exit = Some(UserExit::MemoryFault { gpa, private: true });
            return Err(EXIT);
        }
        match self.state.memory.backing(gpa) {
            Backing::Guarded(entry) if !entry.assigned() => self.fill(gpa),
            Backing::Guarded(entry) => {
                let asid = self.state.snp.asid();
                match rmp::check(&entry, asid, gpa, Access::Read) {
                    rmp::Verdict::Denied(why) => self.stuck(why, gpa).map(|_| ()),
                    _ => {
                        self.map(gpa, Half::Private);
                        Ok(())
                    }
                }
            }
            Backing::None | Backing::Shared => {
                self.vcpu().exit = Some(UserExit::MemoryFault { gpa, private: true });
                Err(EXIT)
            }
        }
    }

    /// An instruction names a page within a 2 MiB entry: KVM splits that (Linux 7.2 arch/x86/kvm/svm/sev.c
    /// `sev_handle_rmp_fault`), and the guest tries again.
    fn split(&mut self, gpa: u64, huge: bool) {
        if !huge && self.state.memory.smash(gpa) {
            self.state.charge_psmash();
            self.vcpu().count("psmash");
            self.page_fault();
            self.map(gpa, Half::Private);
        }
    }

    fn others_forget(&mut self) {
        let me = self.me;
        for (index, vcpu) in self.state.vcpus.iter_mut().enumerate() {
            vcpu.flush |= index != me;
        }
    }
}
