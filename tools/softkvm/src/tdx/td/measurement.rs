//! MRTD and the run-time measurements, computed as the module does: one running SHA-384, and four registers.

use abi::tdx::ExtendBlock;
use sha2::{Digest, Sha384};
use zerocopy::IntoBytes;

#[derive(Clone, Debug)]
enum Mrtd {
    Running(Sha384),
    Final([u8; 48]),
}

/// A TD's measurements.
#[derive(Clone, Debug)]
pub(super) struct Measurement {
    mrtd: Mrtd,
    pub(super) rtmr: [[u8; 48]; 4],
}

impl Default for Measurement {
    fn default() -> Self {
        Self { mrtd: Mrtd::Running(Sha384::new()), rtmr: [[0; 48]; 4] }
    }
}

impl Measurement {
    /// Absorbs a block and the data that go with it.
    pub(super) fn absorb(&mut self, block: &ExtendBlock, data: &[u8]) {
        // Only a TD that is being built gets here.
        if let Mrtd::Running(hash) = &mut self.mrtd {
            hash.update(block.as_bytes());
            hash.update(data);
        }
    }

    /// Completes MRTD.
    pub(super) fn finalize(&mut self) {
        if let Mrtd::Running(hash) = &self.mrtd {
            self.mrtd = Mrtd::Final(hash.clone().finalize().into());
        }
    }

    /// MRTD, once it is complete.
    pub(super) fn mrtd(&self) -> Option<[u8; 48]> {
        match &self.mrtd {
            Mrtd::Running(_) => None,
            Mrtd::Final(digest) => Some(*digest),
        }
    }

    /// RTMR\[index\] = SHA-384(RTMR\[index\] || data).
    pub(super) fn extend_rtmr(&mut self, index: u64, data: &[u8; 48]) -> bool {
        let Some(rtmr) = usize::try_from(index).ok().and_then(|i| self.rtmr.get_mut(i)) else {
            return false;
        };
        *rtmr = Sha384::new().chain_update(&*rtmr).chain_update(data).finalize().into();
        true
    }
}
