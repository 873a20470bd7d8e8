//! The user's keyboard: raw bytes for the guest, except Ctrl-A x, which ends the run.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use crate::sys::signals;
use crate::sys::terminal::{self, RawTerminal};

const CTRL_A: u8 = 1;
/// More input than this waits in the terminal instead.
const QUEUE_MAX: usize = 4096;

/// What the user wants beside typing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing.
    None,
    /// An end.
    Quit,
}

/// Standard input, if the console is there.
#[derive(Debug)]
pub struct Keyboard {
    open: bool,
    escape: Escape,
    queue: VecDeque<u8>,
    terminal: Option<RawTerminal>,
}

/// Finds Ctrl-A x in what is typed; Ctrl-A Ctrl-A types one Ctrl-A.
#[derive(Debug, Default)]
pub struct Escape {
    armed: bool,
}

impl Escape {
    /// What one typed byte means: a wish, and what the guest gets.
    pub fn step(&mut self, byte: u8, guest: &mut VecDeque<u8>) -> Wish {
        if !std::mem::take(&mut self.armed) {
            if byte == CTRL_A {
                self.armed = true;
            } else {
                guest.push_back(byte);
            }
            return Wish::None;
        }
        match byte {
            b'x' | b'X' => Wish::Quit,
            CTRL_A => {
                guest.push_back(CTRL_A);
                Wish::None
            }
            other => {
                guest.extend([CTRL_A, other]);
                Wish::None
            }
        }
    }
}

impl Keyboard {
    /// Takes standard input, raw if it is a terminal; or nothing.
    ///
    /// # Errors
    /// The terminal's.
    pub fn open(stdio: bool) -> io::Result<Keyboard> {
        let terminal = if stdio { RawTerminal::enter()? } else { None };
        if terminal.is_some() {
            tracing::info!("the console is yours; Ctrl-A x quits");
        }
        Ok(Keyboard { open: stdio, escape: Escape::default(), queue: VecDeque::new(), terminal })
    }

    /// What to poll; negative when nothing more can come or fits, or what is typed is for another job.
    pub fn descriptor(&mut self) -> RawFd {
        let ours = match &mut self.terminal {
            // A terminal that went away is found out by reading it.
            Some(terminal) => terminal.refresh().is_err() || terminal.is_raw(),
            None => true,
        };
        let room = self.queue.len() < QUEUE_MAX;
        if self.open && ours && room { io::stdin().as_raw_fd() } else { -1 }
    }

    /// Stops the process, with the terminal as it was before the run.
    ///
    /// # Errors
    /// The system calls'.
    pub fn suspend(&mut self) -> io::Result<()> {
        if let Some(terminal) = &mut self.terminal {
            terminal.release();
        }
        signals::suspend()
    }

    /// The process goes on after a stop.
    pub fn resumed(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            // A terminal that went away meanwhile is found out by reading it.
            let _ = terminal.resumed();
        }
    }

    /// Reads what was typed.
    ///
    /// # Errors
    /// The system call's.
    pub fn read(&mut self) -> io::Result<Wish> {
        let mut buffer = [0; 256];
        let got = match terminal::read_stdin(&mut buffer) {
            Ok(got) => got,
            Err(e)
                if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) =>
            {
                return Ok(Wish::None);
            }
            // The terminal went away: the guest goes on without it.
            Err(_) => 0,
        };
        if got == 0 {
            self.open = false;
        }
        for byte in &buffer[..got] {
            if self.escape.step(*byte, &mut self.queue) == Wish::Quit {
                return Ok(Wish::Quit);
            }
        }
        Ok(Wish::None)
    }

    /// Hands what was typed to `receive`, which says how much it took.
    pub fn deliver(&mut self, receive: impl FnOnce(&[u8]) -> usize) {
        if self.queue.is_empty() {
            return;
        }
        let taken = receive(self.queue.make_contiguous());
        self.queue.drain(..taken.min(self.queue.len()));
    }
}
