//! Quotes that user space is working on: a service outside of the machine makes them, in the host's time.

use std::time::{Duration, Instant};

use abi::kvm_tdx::TdxExit;
use abi::tdx::quote::QuoteBuffer;
use abi::tdx::vmcall;

use super::memory::Memory;

/// How long an idle machine waits for a quote. Its guest asks once in a virtual second and gives up after some, which an
/// idle machine would let pass in an instant.
const PATIENCE: Duration = Duration::from_secs(20);
/// More buffers than this are not watched; a guest has one.
const MOST: usize = 16;

/// Buffers that the guest has handed out.
#[derive(Default)]
pub struct Quotes(Vec<(u64, Instant)>);

impl Quotes {
    /// User space has answered an exit.
    pub fn answered(&mut self, exit: &TdxExit) {
        let accepted = exit.nr == vmcall::GET_QUOTE && exit.ret == vmcall::Status::SUCCESS.0;
        if accepted && self.0.len() < MOST {
            self.0.push((exit.data[0], Instant::now()));
        }
    }

    /// Whether one is still being made.
    pub fn awaited(&mut self, memory: &mut Memory) -> bool {
        const STATUS: u64 = std::mem::offset_of!(QuoteBuffer, status) as u64;
        self.0.retain(|(gpa, since)| {
            let mut status = [0; 8];
            since.elapsed() < PATIENCE
                && memory.read_shared(gpa.wrapping_add(STATUS), &mut status).is_ok()
                && u64::from_le_bytes(status) == QuoteBuffer::IN_FLIGHT
        });
        !self.0.is_empty()
    }
}
