//! COM1: a 16550 (vm-superio).

use std::io::{self, Write};

use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// COM1's first port.
pub const BASE_PORT: u16 = 0x3f8;
/// How many it has.
pub const PORT_COUNT: u16 = 8;
/// COM1's interrupt line.
pub const IRQ: u32 = 4;

/// IER bit 0: received data raises the interrupt.
const RECEIVE_INTERRUPT: u8 = 1;

/// What has left the line: one byte at most for each register that is written.
#[derive(Debug, Default)]
struct Line(Option<u8>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = bytes.last().copied();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Raises COM1's interrupt.
#[derive(Debug)]
struct Interrupt(EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// COM1.
pub struct Com1 {
    uart: Serial<Interrupt, vm_superio::serial::NoEvents, Line>,
}

impl std::fmt::Debug for Com1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Com1").finish_non_exhaustive()
    }
}

impl Com1 {
    /// A serial line that raises `interrupt`.
    pub fn new(interrupt: EventFd) -> Com1 {
        Com1 { uart: Serial::new(Interrupt(interrupt), Line::default()) }
    }

    /// The guest writes a register. Gives the byte that leaves the line by this.
    pub fn write(&mut self, register: u8, value: u8) -> Option<u8> {
        // An overrun of the loop-back FIFO, the only error there is, loses the byte as on the real chip.
        let _ = self.uart.write(register, value);
        self.uart.writer_mut().0.take()
    }

    /// The guest reads a register.
    pub fn read(&mut self, register: u8) -> u8 {
        self.uart.read(register)
    }

    /// The user typed. Gives back how much the FIFO took.
    ///
    /// Nothing is taken before the guest asks for receive interrupts: its driver empties the FIFO when it starts, and
    /// what was typed during the boot would be lost.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let listening = self.uart.state().interrupt_enable & RECEIVE_INTERRUPT != 0;
        match self.uart.fifo_capacity() {
            room if listening && room > 0 => {
                self.uart.enqueue_raw_bytes(&bytes[..bytes.len().min(room)]).unwrap_or(0)
            }
            _ => 0,
        }
    }
}
