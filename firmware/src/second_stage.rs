//! What the first stage does: brings the second into private memory while hashing it.

use abi::shim::snp::SECOND_STAGE_PAGES;
use abi::shim::{PAGE, Termination};

use crate::sha256::Hash;

/// Has every page copied, hashes the copies, and compares with what was measured. `copy` gets offset
/// and length, and gives the private copy. `SHA`: the processor has SHA, SSSE3 and SSE4.1.
pub fn load<'a, const SHA: bool>(
    measured: &[u8; 32],
    mut copy: impl FnMut(u64, u64) -> &'a [u8],
) -> Result<(), Termination> {
    let mut hash = Hash::<SHA>::new(SHA);
    let mut offset = 0;
    while offset < SECOND_STAGE_PAGES * PAGE {
        hash.update(copy(offset, PAGE));
        offset += PAGE;
    }
    if hash.finish(&[]) == *measured { Ok(()) } else { Err(Termination::SHIM_HASH) }
}
