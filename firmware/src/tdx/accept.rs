//! TDG.MEM.PAGE.ACCEPT (TDX Module 1.5 ABI specification).

use abi::tdx::TdxStatus;
use abi::tdx::leaf::level;

use crate::platform::Validation;

/// How often the module may be busy with one page. It is when the host handles the same part of the
/// secure EPT at this moment, which takes microseconds.
pub const BUSY_MAX: u32 = 1 << 20;

/// Accepts a page. `call` hands RCX to the module and returns RAX.
pub fn accept(gpa: u64, large: bool, mut call: impl FnMut(u64) -> TdxStatus) -> Validation {
    let rcx = gpa | if large { level::LARGE } else { level::SMALL };
    for _ in 0..BUSY_MAX {
        match call(rcx).code() {
            TdxStatus::SUCCESS => return Validation::Done,
            TdxStatus::OPERAND_BUSY => {}
            TdxStatus::PAGE_ALREADY_ACCEPTED => return Validation::Already,
            TdxStatus::PAGE_SIZE_MISMATCH => return Validation::SizeMismatch,
            _ => return Validation::Failed,
        }
    }
    Validation::Failed
}
