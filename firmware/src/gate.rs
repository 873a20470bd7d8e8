//! The gate: whether other processors may help, and how many are in.
//!
//! They touch nothing but the gate before they are in, and nothing but it after they have left, for all else is not
//! accepted yet, or the kernel's by then. So the boot processor waits for those who came in, and for no others: a
//! processor that the host never starts is not missed; one that it stops inside keeps the boot processor waiting, which a
//! host can do to any guest.

use core::sync::atomic::{AtomicU32, Ordering};

use abi::shim::help::{OPEN, VISITOR};
use zerocopy::FromBytes;

/// A word in a page that every processor can reach at any time.
#[repr(transparent)]
#[derive(Debug, Default, FromBytes)]
pub struct Gate(AtomicU32);

impl Gate {
    /// Lets others in.
    pub fn open(&self) {
        self.0.fetch_or(OPEN, Ordering::SeqCst);
    }

    /// Lets nobody in any more and waits until everybody has left.
    pub fn close(&self) {
        self.0.fetch_and(!OPEN, Ordering::SeqCst);
        while self.0.load(Ordering::SeqCst) >= VISITOR {
            core::hint::spin_loop();
        }
    }

    /// Comes in, if it is open; what the entry code does in assembly.
    #[cfg(test)]
    pub fn enter(&self) -> bool {
        if self.0.load(Ordering::SeqCst) & OPEN == 0 {
            return false;
        }
        let open = self.0.fetch_add(VISITOR, Ordering::SeqCst) & OPEN != 0;
        if !open {
            self.leave();
        }
        open
    }

    /// Leaves.
    #[cfg(test)]
    pub fn leave(&self) {
        self.0.fetch_sub(VISITOR, Ordering::SeqCst);
    }
}
