//! Copy-and-hash: brings the blobs from shared staging into private memory.

use abi::marks::{BLOB_CMDLINE, BLOB_INITRD, BLOB_KERNEL, MarkId};
use abi::shim::{Blob, LoadMode, PAGE, ParameterPage, Termination};

use crate::mark;
use crate::paging::WindowView;
use crate::platform::Platform;
use crate::sha256::{BLOCK, Sha256};

/// Whether blobs wait in shared memory.
fn has_staging(params: &ParameterPage) -> bool {
    params.load_mode == LoadMode::HASHED
}

/// Loads all blobs and checks the command line's form. Measured blobs are in place already.
pub fn load<P: Platform>(platform: &mut P, params: &ParameterPage) -> Result<(), Termination> {
    if has_staging(params) {
        let mut window = WindowView::shared(platform.shared_mask());
        for (blob, number, failure) in [
            (&params.kernel, BLOB_KERNEL, Termination::KERNEL_HASH),
            (&params.initrd, BLOB_INITRD, Termination::INITRD_HASH),
            (&params.cmdline, BLOB_CMDLINE, Termination::CMDLINE_HASH),
        ] {
            if blob.size == 0 {
                continue;
            }
            mark(platform, MarkId::VERIFY_BEGIN, number)?;
            if copy_and_hash(platform, &mut window, blob)? != blob.digest {
                return Err(failure);
            }
            mark(platform, MarkId::VERIFY_END, number)?;
        }
    }
    let text = platform.bytes(params.cmdline.dest, params.cmdline.size);
    match text.iter().position(|byte| *byte == 0) {
        Some(end) if end as u64 + 1 == params.cmdline.size => Ok(()),
        _ => Err(Termination::BAD_CMDLINE),
    }
}

/// Copies page by page and hashes the private copy, never the shared original.
fn copy_and_hash<P: Platform>(
    platform: &mut P,
    window: &mut WindowView,
    blob: &Blob,
) -> Result<[u8; 32], Termination> {
    let mut hash = Sha256::new(platform.has_sha());
    let mut done = 0;
    while done < blob.size {
        let len = PAGE.min(blob.size - done);
        let source = window.show(platform, blob.staging + done)?;
        platform.copy(blob.dest + done, source, len);
        hash.update(platform.bytes(blob.dest + done, len));
        done += len;
    }
    let tail = blob.size % BLOCK as u64;
    Ok(hash.finish(platform.bytes(blob.dest + blob.size - tail, tail)))
}
