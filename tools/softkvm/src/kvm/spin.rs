//! vCPUs that wait for others in a loop with PAUSE.
//!
//! On a real host such a vCPU runs beside the one it waits for, until the processor notices and KVM takes it off
//! (pause-loop exiting: Intel SDM volume 3, "Changes to Instruction Behavior in VMX Non-Root Operation"; Linux
//! virt/kvm/kvm_main.c `kvm_vcpu_on_spin`). The modelled machine has one core, so its time must not be spent on waiting: a
//! PAUSE ends the turn as soon as another vCPU has work, costs nothing then, and the vCPU is asked again ever more
//! seldom. Where everybody waits, PAUSE costs what it costs and time goes on.
//!
//! Only Intel parts have it here: what vCPUs of AMD parts do is as it was before there was a second kind of part.

use super::number::mp_state;
use super::state::State;

/// PAUSEs of a turn that is taken among waiting vCPUs.
const ROUND: u32 = 32;
/// How long a vCPU that waits is left alone at first, in cycles, and how often that doubles.
const FIRST_LEAVE: u64 = 20_000;
const DOUBLINGS: u32 = 6;

/// What is known of a vCPU's waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spin {
    /// PAUSEs of the present turn.
    pauses: u32,
    /// Turns in a row that ended by PAUSE.
    turns: u32,
    /// The present turn has ended by PAUSE.
    ended: bool,
    /// Until when it is left alone.
    until: u64,
}

impl Spin {
    /// Whether its last turns have ended by PAUSE.
    pub fn is_waiting(&self) -> bool {
        self.turns > 0
    }

    /// A turn begins.
    pub fn begin(&mut self) {
        self.pauses = 0;
        self.ended = false;
    }

    /// A turn has ended, at this time.
    pub fn end(&mut self, now: u64) {
        if self.ended {
            let leave = FIRST_LEAVE << self.turns.min(DOUBLINGS);
            self.turns = self.turns.saturating_add(1);
            self.until = now.saturating_add(leave);
        } else {
            self.turns = 0;
        }
    }
}

/// What a PAUSE comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// It takes its time.
    Wait,
    /// It takes its time and ends the turn: the others wait, too.
    Share,
    /// It ends the turn and costs nothing: somebody has work.
    Yield,
}

impl State {
    /// A vCPU executes PAUSE.
    pub fn pause(&mut self, index: usize) -> Pause {
        if self.machine.xeon.is_none() {
            return Pause::Wait;
        }
        let mut others = false;
        let mut working = false;
        for other in (0..self.vcpus.len()).filter(|other| *other != index) {
            if self.takes_turns(other) {
                others = true;
                working |= !self.vcpus[other].spin.is_waiting() || self.is_called(other);
            }
        }
        let spin = &mut self.vcpus[index].spin;
        spin.pauses += 1;
        if !others {
            return Pause::Wait;
        }
        if working {
            spin.ended = true;
            return Pause::Yield;
        }
        if spin.pauses < ROUND {
            return Pause::Wait;
        }
        spin.ended = true;
        Pause::Share
    }

    /// An interrupt has come for a vCPU, which it will take at once.
    fn is_called(&self, index: usize) -> bool {
        self.has_event(index)
    }

    /// Of the vCPUs that could run, in turn, the one to run: the first that is not left alone, or the one whose
    /// time comes first.
    pub fn choose(&self, candidates: impl Iterator<Item = usize>) -> Option<usize> {
        let now = self.clock.now();
        let mut first: Option<(u64, usize)> = None;
        for index in candidates {
            let spin = &self.vcpus[index].spin;
            if !spin.is_waiting() || spin.until <= now || self.is_called(index) {
                return Some(index);
            }
            if first.is_none_or(|(until, _)| spin.until < until) {
                first = Some((spin.until, index));
            }
        }
        first.map(|(_, index)| index)
    }

    /// Whether another vCPU wants to run that is not only waiting; and when the first that is waiting is to be asked.
    pub fn rivals(&self, index: usize) -> (bool, u64) {
        let now = self.clock.now();
        let mut at_work = false;
        let mut asked = u64::MAX;
        for other in (0..self.vcpus.len()).filter(|other| *other != index) {
            let vcpu = &self.vcpus[other];
            if !vcpu.inside || !self.runnable(other) {
                continue;
            }
            if !vcpu.spin.is_waiting() || vcpu.mp_state != mp_state::RUNNABLE {
                at_work = true;
            } else {
                asked = asked.min(vcpu.spin.until.saturating_sub(now));
            }
        }
        (at_work, asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_vcpu_is_left_alone_ever_longer_until_it_works() {
        let mut spin = Spin::default();
        let mut leaves = Vec::new();
        for _ in 0..9 {
            spin.begin();
            spin.ended = true;
            spin.end(1000);
            leaves.push(spin.until - 1000);
        }
        assert_eq!(leaves[..3], [20_000, 40_000, 80_000]);
        assert_eq!(leaves[6..], [1_280_000; 3]);
        spin.begin();
        spin.end(2000);
        assert!(!spin.is_waiting());
    }
}
