//! A console on a shared ring (VIRTIO 1.3, sections 2.7, 4.2 and 5.3): a notification for each piece of text, where a serial
//! line has one or two exits for each byte.
//!
//! The guest lies: rings and buffers must lie in memory that it shares, everything is copied once and then judged, and the
//! work that one notification makes is bounded. What a guest may not do ends it with a [`QueueError`]; private memory in
//! particular is never read as zeros.

pub mod console;
pub mod queue;
mod registers;
#[cfg(test)]
mod testing;

pub use console::VirtioConsole;
pub use queue::{GuestView, QueueError, Unreachable};

use super::serial;

/// Where the device is: in the hole below 4 GiB, where no guest has memory.
pub const BASE: u64 = 0xd000_0000;
/// Bytes of address space.
pub const LEN: u64 = 0x1000;
/// Its interrupt line: the console's, whichever device that is.
pub const IRQ: u32 = serial::IRQ;
