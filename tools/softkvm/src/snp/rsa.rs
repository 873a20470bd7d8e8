//! RSASSA-PSS with SHA-384 (RFC 8017, 8.1 and 9.1) by the embedded test keys.
//!
//! Two operations on two fixed public-on-purpose keys; a general RSA crate would bring a second
//! generation of its cryptographic dependencies for them.

use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{Odd, U4096};
use sha2::{Digest, Sha384};

/// Bytes of a modulus.
pub const MODULUS: usize = 512;
/// Bytes of SHA-384, and of the salt.
const HASH: usize = 48;

/// A 4096-bit private key.
pub struct PrivateKey {
    modulus: Odd<U4096>,
    exponent: U4096,
}

impl PrivateKey {
    /// Reads a PKCS#1 `RSAPrivateKey` in PEM; `None` if it is not a 4096-bit one.
    pub fn from_pem(pem: &str) -> Option<Self> {
        let (label, der) = pem_rfc7468::decode_vec(pem.as_bytes()).ok()?;
        if label != "RSA PRIVATE KEY" {
            return None;
        }
        let mut fields = Integers::open(&der)?;
        let _version = fields.next()?;
        let modulus = fields.next()?;
        let _public_exponent = fields.next()?;
        let exponent = fields.next()?;
        Some(Self {
            modulus: Odd::new(number(modulus)?).into_option()?,
            exponent: number(exponent)?,
        })
    }

    /// The modulus, big endian.
    pub fn modulus(&self) -> [u8; MODULUS] {
        let mut bytes = [0; MODULUS];
        bytes.copy_from_slice(self.modulus.get().to_be_bytes().as_ref());
        bytes
    }

    /// Signs a message. The salt is derived from key and message, so that equal inputs give equal
    /// certificates.
    pub fn sign(&self, message: &[u8]) -> [u8; MODULUS] {
        let digest: [u8; HASH] = Sha384::digest(message).into();
        let salt: [u8; HASH] = Sha384::new()
            .chain_update(b"softkvm pss salt\0")
            .chain_update(digest)
            .finalize()
            .into();
        let encoded = encode(&digest, &salt);
        let params = FixedMontyParams::new_vartime(self.modulus);
        let base = FixedMontyForm::new(&U4096::from_be_slice(&encoded), &params);
        let mut signature = [0; MODULUS];
        signature.copy_from_slice(base.pow(&self.exponent).retrieve().to_be_bytes().as_ref());
        signature
    }
}

/// EMSA-PSS-ENCODE for a 4096-bit modulus: 4095 bits, hence the cleared top bit.
fn encode(digest: &[u8; HASH], salt: &[u8; HASH]) -> [u8; MODULUS] {
    let hash: [u8; HASH] = Sha384::new()
        .chain_update([0; 8])
        .chain_update(digest)
        .chain_update(salt)
        .finalize()
        .into();
    let mut encoded = [0; MODULUS];
    let block = MODULUS - HASH - 1;
    encoded[block - HASH - 1] = 1;
    encoded[block - HASH..block].copy_from_slice(salt);
    for (counter, chunk) in encoded[..block].chunks_mut(HASH).enumerate() {
        let mask = Sha384::new()
            .chain_update(hash)
            .chain_update((counter as u32).to_be_bytes())
            .finalize();
        for (byte, mask) in chunk.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
    encoded[0] &= 0x7f;
    encoded[block..MODULUS - 1].copy_from_slice(&hash);
    encoded[MODULUS - 1] = 0xbc;
    encoded
}

fn number(bytes: &[u8]) -> Option<U4096> {
    let significant = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let bytes = &bytes[significant..];
    let mut padded = [0; MODULUS];
    padded.get_mut(MODULUS.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
    Some(U4096::from_be_slice(&padded))
}

/// The integers of a DER sequence.
struct Integers<'a>(&'a [u8]);

impl<'a> Integers<'a> {
    fn open(der: &'a [u8]) -> Option<Self> {
        element(der, 0x30).map(|(content, _)| Self(content))
    }

    fn next(&mut self) -> Option<&'a [u8]> {
        let (content, rest) = element(self.0, 0x02)?;
        self.0 = rest;
        Some(content)
    }
}

/// Splits off one DER element with the given tag: content and rest.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = der.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    let (len, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if count > 4 {
            return None;
        }
        let (bytes, rest) = rest.split_at_checked(count)?;
        (bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
    };
    rest.split_at_checked(len)
}
