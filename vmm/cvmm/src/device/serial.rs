//! COM1: a 16550 (vm-superio) whose output goes to the user, and the watch on that output for a kernel panic.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use super::marks::{ConsoleFilter, Filtered, Message};
use crate::sys::terminal::{self, Patience};

/// COM1's first port.
pub const BASE_PORT: u16 = 0x3f8;
/// How many it has.
pub const PORT_COUNT: u16 = 8;
/// COM1's interrupt line.
pub const IRQ: u32 = 4;

/// IER bit 0: received data raises the interrupt.
const RECEIVE_INTERRUPT: u8 = 1;
/// What the kernel prints when it gives up (Linux kernel/panic.c).
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// Where console output ends.
#[derive(Debug)]
pub enum Sink {
    /// Standard output.
    Stdout,
    /// A file.
    File(File),
    /// Nowhere.
    Nowhere,
}

/// Collects the guest's output, and knows whether a panic was among it.
#[derive(Debug)]
pub struct ConsoleOutput {
    sink: Sink,
    filter: ConsoleFilter,
    message: Option<Message>,
    pending: Vec<u8>,
    written: u64,
    matched: usize,
    panicked: bool,
    failure: Option<io::Error>,
}

/// How long the end of a run waits for somebody to take the last output.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Output is handed on at line ends, when this much waits, or when the run loop says so.
const PENDING_MAX: usize = 4096;

impl ConsoleOutput {
    fn new(sink: Sink) -> ConsoleOutput {
        ConsoleOutput {
            sink,
            filter: ConsoleFilter::default(),
            message: None,
            pending: Vec::new(),
            written: 0,
            matched: 0,
            panicked: false,
            failure: None,
        }
    }

    fn drain(&mut self, patience: Patience) {
        if self.pending.is_empty() {
            return;
        }
        let result = match &self.sink {
            Sink::Stdout => terminal::write(io::stdout().as_raw_fd(), &self.pending, patience),
            Sink::File(file) => terminal::write(file.as_raw_fd(), &self.pending, patience),
            Sink::Nowhere => Ok(self.pending.len()),
        };
        match result {
            Ok(written) => drop(self.pending.drain(..written)),
            Err(error) => {
                self.pending.clear();
                // Said once, at the end of the run: a full disk must not flood stderr nor kill the guest.
                self.failure.get_or_insert(error);
            }
        }
    }
}

impl Write for ConsoleOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            match self.filter.step(*byte) {
                Filtered::Held => {}
                Filtered::Output(bytes) => self.put(&bytes, Patience::Run),
                Filtered::Message(message) => self.message = Some(message),
            }
        }
        Ok(bytes.len())
    }

    /// vm-superio flushes after every byte; one system call per character is what this type avoids.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ConsoleOutput {
    fn put(&mut self, bytes: &[u8], patience: Patience) {
        for byte in bytes {
            self.matched = match PANIC.get(self.matched) == Some(byte) {
                true => self.matched + 1,
                false => usize::from(*byte == PANIC[0]),
            };
            self.panicked |= self.matched == PANIC.len();
            self.pending.push(*byte);
            self.written += 1;
            if *byte == b'\n' || self.pending.len() >= PENDING_MAX {
                self.drain(patience);
            }
        }
    }
}

/// Raises COM1's interrupt.
#[derive(Debug)]
pub struct Interrupt(EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// COM1.
pub struct Com1 {
    uart: Serial<Interrupt, vm_superio::serial::NoEvents, ConsoleOutput>,
}

impl std::fmt::Debug for Com1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Com1").finish_non_exhaustive()
    }
}

impl Com1 {
    /// A serial line that raises `interrupt` and writes to `sink`.
    pub fn new(interrupt: EventFd, sink: Sink) -> Com1 {
        Com1 { uart: Serial::new(Interrupt(interrupt), ConsoleOutput::new(sink)) }
    }

    /// The guest writes a register. Gives the message to the monitor that this completes.
    pub fn write(&mut self, register: u8, value: u8) -> Option<Message> {
        // An overrun of the loop-back FIFO, the only error there is, loses the byte as on the real chip.
        let _ = self.uart.write(register, value);
        self.uart.writer_mut().message.take()
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

    /// Hands waiting output on, as far as somebody takes it.
    pub fn flush(&mut self) {
        self.uart.writer_mut().drain(Patience::None);
    }

    /// Hands on what may still have become a mark, too: the guest has ended.
    pub fn finish(&mut self) {
        let output = self.uart.writer_mut();
        let held = output.filter.release();
        output.put(&held, Patience::None);
        output.drain(Patience::Time(LAST_WORDS));
        if !output.pending.is_empty() {
            output.failure.get_or_insert(io::ErrorKind::TimedOut.into());
        }
    }

    /// Did the kernel say that it panicked?
    pub fn panicked(&self) -> bool {
        self.uart.writer().panicked
    }

    /// Bytes the guest wrote.
    pub fn written(&self) -> u64 {
        self.uart.writer().written
    }

    /// The first failure to hand output on.
    pub fn take_failure(&mut self) -> Option<io::Error> {
        self.uart.writer_mut().failure.take()
    }
}
