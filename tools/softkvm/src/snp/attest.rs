//! Attestation: the chip's keys, reports and their signatures, derived keys.

use abi::snp::{
    ALGO_ECDSA_P384_SHA384, AttestationReport, CURVE_P384, EcdsaPublicKey, EcdsaSignature,
    REPORT_SIGNED_SIZE, TcbVersion, guest_field, platform_info,
};
use p384::ecdsa::signature::{Signer, Verifier};
use p384::ecdsa::{Signature, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256, Sha384, Sha512};
use zerocopy::{FromZeros, IntoBytes};

use super::platform::Platform;
use super::psp::GuestContext;

/// The chip's identity and its versioned endorsement key.
#[derive(Clone)]
pub struct ChipKeys {
    /// Identifier in reports.
    pub chip_id: [u8; 64],
    /// The VCEK of the platform's TCB.
    vcek: SigningKey,
}

impl std::fmt::Debug for ChipKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChipKeys").finish_non_exhaustive()
    }
}

impl ChipKeys {
    /// Derives both from the profile's seed and TCB.
    pub fn derive(platform: &Platform) -> Self {
        let seed = platform.chip_seed.to_le_bytes();
        let chip_id =
            Sha512::new().chain_update(b"softkvm chip id\0").chain_update(seed).finalize().into();
        let mut counter = 0u32;
        let vcek = loop {
            let scalar = Sha384::new()
                .chain_update(b"softkvm vcek\0")
                .chain_update(seed)
                .chain_update(platform.tcb_version().as_bytes())
                .chain_update(counter.to_le_bytes())
                .finalize();
            // All but one in 2^190 hashes are below the order of P-384.
            match SigningKey::from_slice(&scalar) {
                Ok(key) => break key,
                Err(_) => counter += 1,
            }
        };
        Self { chip_id, vcek }
    }

    /// The VCEK's public half.
    pub fn vcek_public(&self) -> VerifyingKey {
        *self.vcek.verifying_key()
    }

    /// Signs with the VCEK, in the firmware's form.
    pub fn sign(&self, message: &[u8]) -> EcdsaSignature {
        signature_out(&self.vcek.sign(message))
    }
}

/// A guest's report on itself (firmware ABI 56860, section 7.3).
pub fn report(
    platform: &Platform,
    keys: &ChipKeys,
    guest: &GuestContext,
    report_data: [u8; 64],
    vmpl: u32,
) -> AttestationReport {
    let tcb = platform.tcb_version();
    let mut report = AttestationReport::new_zeroed();
    report.version = platform.report_version;
    report.guest_svn = guest.finish.guest_svn;
    report.policy = guest.policy;
    report.family_id = guest.finish.family_id;
    report.image_id = guest.finish.image_id;
    report.vmpl = vmpl;
    report.signature_algo = ALGO_ECDSA_P384_SHA384;
    report.current_tcb = tcb;
    report.platform_info =
        if platform.smt { platform_info::SMT_EN } else { 0 } | platform_info::ECC_EN;
    report.flags = u32::from(guest.finish.author_key_digest.is_some());
    report.report_data = report_data;
    report.measurement = guest.digest.0;
    report.host_data = guest.finish.host_data;
    report.id_key_digest = guest.finish.id_key_digest.unwrap_or([0; 48]);
    report.author_key_digest = guest.finish.author_key_digest.unwrap_or([0; 48]);
    report.report_id = guest.report_id;
    report.report_id_ma = [0xff; 32];
    report.reported_tcb = tcb;
    if platform.report_version >= 3 {
        report.cpuid_family = platform.family;
        report.cpuid_model = platform.model;
        report.cpuid_stepping = platform.stepping;
    }
    report.chip_id = keys.chip_id;
    report.committed_tcb = tcb;
    report.current_build = platform.build;
    report.current_minor = platform.api.1;
    report.current_major = platform.api.0;
    report.committed_build = platform.build;
    report.committed_minor = platform.api.1;
    report.committed_major = platform.api.0;
    report.launch_tcb = guest.launch_tcb;
    report.signature = keys.sign(&report.as_bytes()[..REPORT_SIGNED_SIZE]);
    report
}

/// Which root a derived key comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootKey {
    /// The chip.
    Vcek,
    /// The guest's own root.
    Vmrk,
}

/// A key derived for a guest (firmware ABI 56860, section 7.2). How firmware mixes it is not
/// public; what matters is that equal inputs give equal keys and others do not.
pub fn derive_key(
    keys: &ChipKeys,
    guest: &GuestContext,
    root: RootKey,
    select: u64,
    vmpl: u32,
    guest_svn: u32,
    tcb: TcbVersion,
) -> [u8; 32] {
    let mut hash = Sha256::new().chain_update(b"softkvm derived key\0");
    match root {
        RootKey::Vcek => hash.update(keys.vcek.to_bytes()),
        RootKey::Vmrk => hash.update(guest.vmrk),
    }
    hash.update(select.to_le_bytes());
    hash.update(vmpl.to_le_bytes());
    let mut mix = |bit: u64, bytes: &[u8]| {
        if select & bit != 0 {
            hash.update(bytes);
        }
    };
    mix(guest_field::GUEST_POLICY, guest.policy.as_bytes());
    mix(guest_field::IMAGE_ID, &guest.finish.image_id);
    mix(guest_field::FAMILY_ID, &guest.finish.family_id);
    mix(guest_field::MEASUREMENT, &guest.digest.0);
    mix(guest_field::GUEST_SVN, &guest_svn.to_le_bytes());
    mix(guest_field::TCB_VERSION, tcb.as_bytes());
    hash.finalize().into()
}

/// Verifies an ECDSA P-384/SHA-384 signature in the firmware's form.
pub fn verify(key: &EcdsaPublicKey, signature: &EcdsaSignature, message: &[u8]) -> bool {
    let (Some(key), Some(signature)) = (public_in(key), signature_in(signature)) else {
        return false;
    };
    key.verify(message, &signature).is_ok()
}

/// A little-endian 72-byte number as 48 bytes big endian, if it fits.
fn number_in(number: &[u8; 72]) -> Option<[u8; 48]> {
    let (low, high) = number.split_at(48);
    if high.iter().any(|byte| *byte != 0) {
        return None;
    }
    let mut bytes = [0; 48];
    bytes.copy_from_slice(low);
    bytes.reverse();
    Some(bytes)
}

fn number_out(bytes: &[u8]) -> [u8; 72] {
    let mut number = [0; 72];
    for (slot, byte) in number.iter_mut().zip(bytes.iter().rev()) {
        *slot = *byte;
    }
    number
}

fn public_in(key: &EcdsaPublicKey) -> Option<VerifyingKey> {
    if key.curve != CURVE_P384 {
        return None;
    }
    let mut point = [4; 97];
    point[1..49].copy_from_slice(&number_in(&key.qx)?);
    point[49..].copy_from_slice(&number_in(&key.qy)?);
    VerifyingKey::from_sec1_bytes(&point).ok()
}

/// A public key in the firmware's form.
pub fn public_out(key: &VerifyingKey) -> EcdsaPublicKey {
    let point = key.to_sec1_point(false);
    let bytes = point.as_bytes();
    let mut out = EcdsaPublicKey::new_zeroed();
    out.curve = CURVE_P384;
    out.qx = number_out(&bytes[1..49]);
    out.qy = number_out(&bytes[49..97]);
    out
}

fn signature_in(signature: &EcdsaSignature) -> Option<Signature> {
    let mut bytes = [0; 96];
    bytes[..48].copy_from_slice(&number_in(&signature.r)?);
    bytes[48..].copy_from_slice(&number_in(&signature.s)?);
    Signature::from_slice(&bytes).ok()
}

/// A signature in the firmware's form.
pub fn signature_out(signature: &Signature) -> EcdsaSignature {
    let bytes = signature.to_bytes();
    let mut out = EcdsaSignature::new_zeroed();
    out.r = number_out(&bytes[..48]);
    out.s = number_out(&bytes[48..]);
    out
}
