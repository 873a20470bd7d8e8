//! Console output, whichever device it comes by: it goes to the user, messages to the monitor are taken out of it, and a
//! kernel panic is noticed.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::marks::{ConsoleFilter, Filtered, Message};
use crate::sys::terminal::{self, Patience};

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
    /// Nothing yet.
    pub fn new(sink: Sink) -> ConsoleOutput {
        ConsoleOutput {
            sink,
            filter: ConsoleFilter::default(),
            pending: Vec::new(),
            written: 0,
            matched: 0,
            panicked: false,
            failure: None,
        }
    }

    /// The guest wrote a byte. Gives the message to the monitor that this completes.
    pub fn write(&mut self, byte: u8) -> Option<Message> {
        match self.filter.step(byte) {
            Filtered::Held => None,
            Filtered::Output(bytes) => {
                self.put(&bytes, Patience::Run);
                None
            }
            Filtered::Message(message) => Some(message),
        }
    }

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

    /// Hands waiting output on, as far as somebody takes it.
    pub fn flush(&mut self) {
        self.drain(Patience::None);
    }

    /// Hands on what may still have become a mark, too: the guest has ended.
    pub fn finish(&mut self) {
        let held = self.filter.release();
        self.put(&held, Patience::None);
        self.drain(Patience::Time(LAST_WORDS));
        if !self.pending.is_empty() {
            self.failure.get_or_insert(io::ErrorKind::TimedOut.into());
        }
    }

    /// Did the kernel say that it panicked?
    pub fn panicked(&self) -> bool {
        self.panicked
    }

    /// Bytes the guest wrote.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The first failure to hand output on.
    pub fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }
}
