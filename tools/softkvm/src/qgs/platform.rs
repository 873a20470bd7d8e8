//! What a platform says it is in its PCK certificate and in quotes, and the security versions of its parts.

use sha2::{Digest, Sha256};

/// The TDX module that counts as up to date is the one that makes our reports.
pub use crate::tdx::report::TEE_TCB_SVN;

/// Security versions of the processor's parts: CPUSVN of the PCK certificate and of the quoting enclave's report.
pub const CPU_SVN: [u8; 16] = [2, 2, 2, 2, 3, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0];
/// Security version of the provisioning certification enclave.
pub const PCE_SVN: u16 = 11;
/// Identifier of the provisioning certification enclave.
pub const PCE_ID: [u8; 2] = [0, 0];
/// Family, model, stepping, platform and package type: what collateral is looked up by. Not one of Intel's.
pub const FMSPC: [u8; 6] = [0x50, 0xF7, 0x0F, 0, 0, 0];

/// The identity of one platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlatformId {
    /// Provisioning identifier.
    pub ppid: [u8; 16],
    /// Platform instance identifier.
    pub instance: [u8; 16],
    /// Identifier of the quoting enclave on this platform.
    pub qe: [u8; 16],
}

impl PlatformId {
    /// Of the platform with this seed.
    pub fn derive(seed: u64) -> Self {
        let id = |what: &[u8]| {
            let hash = Sha256::new().chain_update(what).chain_update(seed.to_le_bytes()).finalize();
            let mut id = [0; 16];
            id.copy_from_slice(&hash[..16]);
            id
        };
        Self {
            ppid: id(b"softkvm ppid\0"),
            instance: id(b"softkvm platform instance\0"),
            qe: id(b"softkvm qe id\0"),
        }
    }
}
