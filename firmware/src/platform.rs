//! What the shim's logic needs of the machine.

use abi::marks::Mark;
use abi::shim::Termination;

use crate::gate::Gate;
use crate::range::Range;
use crate::round::Round;

/// What became of a page that was to be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validation {
    /// The page was not accepted before and is now.
    Done,
    /// A large page was asked for and the machine holds small ones.
    SizeMismatch,
    /// The page was accepted already.
    Already,
    /// Any other answer.
    Failed,
}

/// The machine. Addresses below 4 GiB are guest-physical and virtual at once, private.
pub trait Platform {
    /// Whether memory must be accepted.
    fn protected(&self) -> bool;

    /// Bits of a page table entry that maps private memory.
    fn private_mask(&self) -> u64;

    /// Bits of a page table entry that maps shared memory.
    fn shared_mask(&self) -> u64;

    /// Whether [`Self::work`] goes through the page tables.
    fn validates_mapped(&self) -> bool;

    /// Whether the kernel looks for the CC blob.
    fn has_cc_blob(&self) -> bool;

    /// Whether the SHA-256 instructions exist.
    fn has_sha(&self) -> bool;

    /// Private memory.
    fn bytes(&self, gpa: u64, len: u64) -> &[u8];

    /// Private memory.
    fn bytes_mut(&mut self, gpa: u64, len: u64) -> &mut [u8];

    /// Copies between virtual addresses, upwards in words of 8 bytes and then bytes: so it may be a move down, and repeats
    /// what lies a word or more below its target. The only access to memory that the host can write.
    fn copy(&mut self, dest: u64, source: u64, len: u64);

    /// Clears private memory, page 0 included (of which there can be no reference).
    fn clear(&mut self, gpa: u64, len: u64);

    /// Makes the page tables that were changed take effect.
    fn flush(&mut self);

    /// Asks the hypervisor to make frames private.
    fn set_private(&mut self, range: Range) -> Result<(), Termination>;

    /// What is being accepted; all processors have the same.
    fn round(&self) -> &Round;

    /// Accepts what is left of the round, each page by its virtual address if [`Self::validates_mapped`], else by its
    /// frame's.
    fn work(&mut self) -> Result<(), Termination>;

    /// Where other processors wait to help, if they are to.
    fn gate(&self) -> Option<&Gate>;

    /// Writes a phase mark, if marks are wanted.
    fn mark(&mut self, mark: Mark) -> Result<(), Termination>;
}

/// A structure in private memory. `Err` when the address is not aligned for it.
pub fn object<T, P>(platform: &P, gpa: u64) -> Result<&T, Termination>
where
    T: zerocopy::FromBytes + zerocopy::KnownLayout + zerocopy::Immutable,
    P: Platform,
{
    T::ref_from_bytes(platform.bytes(gpa, size_of::<T>() as u64))
        .map_err(|_| Termination::BAD_PARAMETER)
}

/// A structure in private memory, to be written.
pub fn object_mut<T, P>(platform: &mut P, gpa: u64) -> Result<&mut T, Termination>
where
    T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::KnownLayout,
    P: Platform,
{
    T::mut_from_bytes(platform.bytes_mut(gpa, size_of::<T>() as u64))
        .map_err(|_| Termination::BAD_PARAMETER)
}
