//! A guest owner's ID block and its authentication information, signed with keys of the test's own.

use abi::snp::{
    ALGO_ECDSA_P384_SHA384, CURVE_P384, EcdsaPublicKey, EcdsaSignature, IdAuth, IdBlock, SnpPolicy,
};
use p384::ecdsa::signature::Signer;
use p384::ecdsa::{Signature, SigningKey};
use sha2::{Digest, Sha384};
use zerocopy::{FromZeros, IntoBytes};

/// The policy that cvmm asks for by default.
pub const POLICY: u64 = 0x3_0000;

/// The owner's keys.
pub struct Owner {
    id: SigningKey,
    author: SigningKey,
}

impl Default for Owner {
    fn default() -> Self {
        let key = |byte| SigningKey::from_slice(&[byte; 48]).expect("below the group's order");
        Self { id: key(0x1d), author: key(0xa7) }
    }
}

/// An ID block for this digest and policy.
pub fn id_block(digest: &[u8], policy: u64) -> IdBlock {
    IdBlock {
        launch_digest: digest.try_into().expect("48 bytes"),
        family_id: std::array::from_fn(|i| 0x40 + i as u8),
        image_id: std::array::from_fn(|i| 0x60 + i as u8),
        version: 1,
        guest_svn: 7,
        policy: SnpPolicy(policy),
    }
}

impl Owner {
    /// Signs a block with the ID key, and that with the author key where asked for.
    pub fn sign(&self, block: &IdBlock, with_author: bool) -> Box<IdAuth> {
        let mut auth = Box::new(IdAuth::new_zeroed());
        auth.id_key_algo = ALGO_ECDSA_P384_SHA384;
        auth.id_key = public(&self.id);
        auth.id_block_sig = signature(&self.id.sign(block.as_bytes()));
        if with_author {
            auth.auth_key_algo = ALGO_ECDSA_P384_SHA384;
            auth.author_key = public(&self.author);
            auth.id_key_sig = signature(&self.author.sign(auth.id_key.as_bytes()));
        }
        auth
    }

    /// What reports say of the ID key: SHA-384 of its structure.
    pub fn id_key_digest(&self) -> [u8; 48] {
        Sha384::digest(public(&self.id).as_bytes()).into()
    }

    /// What reports say of the author key.
    pub fn author_key_digest(&self) -> [u8; 48] {
        Sha384::digest(public(&self.author).as_bytes()).into()
    }
}

/// A number as the firmware has it: little endian, 72 bytes.
fn number(big_endian: &[u8]) -> [u8; 72] {
    let mut number = [0; 72];
    for (to, from) in number.iter_mut().zip(big_endian.iter().rev()) {
        *to = *from;
    }
    number
}

fn public(key: &SigningKey) -> EcdsaPublicKey {
    let point = key.verifying_key().to_sec1_point(false);
    let bytes = point.as_bytes();
    let mut out = EcdsaPublicKey::new_zeroed();
    out.curve = CURVE_P384;
    out.qx = number(&bytes[1..49]);
    out.qy = number(&bytes[49..]);
    out
}

fn signature(signature: &Signature) -> EcdsaSignature {
    let bytes = signature.to_bytes();
    let mut out = EcdsaSignature::new_zeroed();
    out.r = number(&bytes[..48]);
    out.s = number(&bytes[48..]);
    out
}
