//! Accesses of the instruction in progress that have been answered already.
//!
//! An instruction that user space has to answer is executed again from its start on re-entry. It
//! then finds here, in order, what its earlier accesses were answered, so that none happens
//! twice; the log is forgotten when another instruction (or another round of a string
//! instruction) makes the next access.

use std::collections::VecDeque;

use super::run_page::RunPage;
use crate::cpu::Core;
use crate::cpu::state::{RCX, RDI, RSI};

/// An access that the outside answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// IN.
    In {
        /// Port.
        port: u16,
        /// Bytes.
        len: u8,
    },
    /// OUT.
    Out {
        /// Port.
        port: u16,
        /// Bytes.
        len: u8,
        /// Data.
        value: u32,
    },
    /// MMIO read.
    Read {
        /// Address.
        gpa: u64,
        /// Bytes.
        len: u8,
    },
    /// MMIO write.
    Write {
        /// Address.
        gpa: u64,
        /// Bytes.
        len: u8,
        /// Data.
        value: u64,
    },
    /// RDMSR.
    Rdmsr(u32),
    /// WRMSR.
    Wrmsr(u32, u64),
    /// A hypercall.
    Hypercall(u64),
}

/// An answer: a value, or a refusal (#GP of an MSR access).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done.
    Value(u64),
    /// Refused.
    Refused,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Moment([u64; 5]);

impl Moment {
    fn of(core: &Core) -> Self {
        Self([core.instructions, core.rip, core.gpr[RCX], core.gpr[RSI], core.gpr[RDI]])
    }
}

/// Data that user space has given for the rest of a repeated IN, which KVM asks for in one exit (Linux arch/x86/kvm/emulate.c
/// `pio_in_emulated`).
#[derive(Clone, Debug, Default)]
pub struct ReadAhead {
    port: u16,
    len: u8,
    /// Items asked for, the first included.
    asked: u32,
    rest: VecDeque<u32>,
}

impl ReadAhead {
    /// Bytes that KVM reads ahead at most.
    const MOST: u64 = 1024;

    /// Notes what is asked for; returns how many items that are.
    pub fn ask(&mut self, port: u16, len: u8, count: u64) -> u32 {
        let asked = count.min(Self::MOST / u64::from(len)).max(1) as u32;
        *self = Self { port, len, asked, rest: VecDeque::new() };
        asked
    }

    /// Takes user space's answer to an IN; returns the first item.
    pub fn take_in(&mut self, port: u16, len: u8, page: &RunPage) -> u64 {
        let asked = if (self.port, self.len) == (port, len) { self.asked.max(1) } else { 1 };
        let data = page.io_data(usize::from(len) * asked as usize);
        let mut items = data.chunks(usize::from(len)).map(little_endian);
        let first = items.next().unwrap_or(0);
        *self = Self { port, len, asked: 0, rest: items.map(|item| item as u32).collect() };
        first
    }

    /// The next item that has been read ahead.
    pub fn next(&mut self, port: u16, len: u8) -> Option<u32> {
        if (self.port, self.len) == (port, len) { self.rest.pop_front() } else { None }
    }

    /// Gives up what has not been taken.
    pub fn forget(&mut self) {
        self.rest.clear();
    }

    /// Whether there is one.
    pub fn waits(&self) -> bool {
        !self.rest.is_empty()
    }
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// The log of one vCPU.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    moment: Moment,
    log: Vec<(Touch, Reply)>,
    next: usize,
}

impl Replay {
    /// What an access was answered, if it was.
    pub fn find(&mut self, core: &Core, touch: Touch) -> Option<Reply> {
        let moment = Moment::of(core);
        if self.moment != moment {
            self.moment = moment;
            self.log.clear();
            self.next = 0;
        }
        let (known, reply) = *self.log.get(self.next)?;
        if known != touch {
            // The instruction is no longer the same one.
            self.log.clear();
            self.next = 0;
            return None;
        }
        self.next += 1;
        Some(reply)
    }

    /// Adds the answer to the access that [`Replay::find`] did not know.
    pub fn add(&mut self, touch: Touch, reply: Reply) {
        self.log.push((touch, reply));
        self.next = self.log.len();
    }

    /// The instruction starts again.
    pub fn rewind(&mut self) {
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarted_instruction_finds_its_answers_in_order() {
        let core = Core::default();
        let mut replay = Replay::default();
        let a = Touch::Read { gpa: 0x1000, len: 4 };
        let b = Touch::Write { gpa: 0x2000, len: 4, value: 7 };
        assert_eq!(replay.find(&core, a), None);
        replay.add(a, Reply::Value(7));
        replay.rewind();
        assert_eq!(replay.find(&core, a), Some(Reply::Value(7)));
        assert_eq!(replay.find(&core, b), None);
        replay.add(b, Reply::Value(0));
        replay.rewind();
        assert_eq!(replay.find(&core, a), Some(Reply::Value(7)));
        assert_eq!(replay.find(&core, b), Some(Reply::Value(0)));
    }

    #[test]
    fn the_next_round_of_a_string_instruction_starts_anew() {
        let mut core = Core::default();
        let mut replay = Replay::default();
        let touch = Touch::In { port: 0x60, len: 1 };
        core.gpr[RCX] = 2;
        replay.find(&core, touch);
        replay.add(touch, Reply::Value(1));
        core.gpr[RCX] = 1;
        assert_eq!(replay.find(&core, touch), None);
    }
}
