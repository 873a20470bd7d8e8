//! The console device: one port, no features of its own (VIRTIO 1.3, section 5.3).

use std::io;

use vmm_sys_util::eventfd::EventFd;

use super::queue::{Direction, GuestView, Queue, QueueError};
use super::registers::{Effect, QUEUES, Registers};

/// Queues of the one port (section 5.3.2).
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// The device.
#[derive(Debug)]
pub struct VirtioConsole {
    registers: Registers,
    queues: [Option<Queue>; QUEUES],
    interrupt: EventFd,
}

impl VirtioConsole {
    /// A device that raises `interrupt`. `protected`: the guest has memory that it cannot reach.
    pub fn new(interrupt: EventFd, protected: bool) -> VirtioConsole {
        VirtioConsole {
            registers: Registers::new(protected),
            queues: [const { None }; QUEUES],
            interrupt,
        }
    }

    /// The guest reads a register.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        self.registers.read(offset, data);
    }

    /// The guest writes a register. Gives what it prints by this.
    ///
    /// # Errors
    /// It has done something with a queue that it may not do.
    pub fn write(
        &mut self,
        offset: u64,
        data: &[u8],
        memory: &impl GuestView,
    ) -> Result<Vec<u8>, QueueError> {
        match self.registers.write(offset, data) {
            Effect::None | Effect::Notify(RECEIVE) => {}
            Effect::Reset => self.queues = [const { None }; QUEUES],
            Effect::Ready(queue, place) => {
                let direction =
                    if queue == RECEIVE { Direction::ToGuest } else { Direction::ToHost };
                self.queues[queue] =
                    place.map(|place| Queue::open(place, direction, memory)).transpose()?;
            }
            Effect::Notify(_) => return self.transmit(memory),
        }
        Ok(Vec::new())
    }

    /// Takes what waits in the transmit queue: at most a queue full of it. A guest that adds more meanwhile notifies again.
    fn transmit(&mut self, memory: &impl GuestView) -> Result<Vec<u8>, QueueError> {
        let mut text = Vec::new();
        let mut wanted = false;
        if let Some(queue) = &mut self.queues[TRANSMIT] {
            for _ in 0..queue.size() {
                let Some(chain) = queue.take(memory)? else { break };
                text.extend(chain.read(memory)?);
                wanted |= queue.give_back(&chain, 0, memory)?;
            }
        }
        self.raise(wanted);
        Ok(text)
    }

    /// The user typed. Gives back how much the guest's buffers took; none where no driver is there.
    ///
    /// # Errors
    /// The receive queue is none.
    pub fn receive(&mut self, bytes: &[u8], memory: &impl GuestView) -> Result<usize, QueueError> {
        let mut taken = 0;
        let mut wanted = false;
        let running = self.registers.is_running();
        if let Some(queue) = self.queues[RECEIVE].as_mut().filter(|_| running) {
            while taken < bytes.len()
                && let Some(chain) = queue.take(memory)?
            {
                let written = chain.write(memory, &bytes[taken..])?;
                taken += written as usize;
                wanted |= queue.give_back(&chain, written, memory)?;
                // Buffers of no length must not keep us here.
                if written == 0 {
                    break;
                }
            }
        }
        self.raise(wanted);
        Ok(taken)
    }

    fn raise(&mut self, wanted: bool) {
        if wanted && self.registers.interrupt() {
            // The counter is full only if nobody has ever taken an interrupt, and one is enough.
            let _: io::Result<()> = self.interrupt.write(1);
        }
    }
}

#[cfg(test)]
#[path = "console_test.rs"]
mod tests;
