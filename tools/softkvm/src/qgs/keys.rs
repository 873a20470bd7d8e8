//! The keys of the attestation chain, all ECDSA with P-256. Those of the authorities are published, those of a platform
//! follow from its seed.

use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::{DecodePrivateKey, EncodePublicKey};
use sha2::{Digest, Sha256};

const ROOT: &str = include_str!("../../keys/tdx-root.key.pem");
const PCK_CA: &str = include_str!("../../keys/tdx-pck-ca.key.pem");
const TCB_SIGNING: &str = include_str!("../../keys/tdx-tcb-signing.key.pem");

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// An embedded key is not what it must be.
    #[error("embedded key {name} is not a P-256 key in PKCS#8 PEM")]
    Embedded {
        /// Which.
        name: &'static str,
    },
    /// A public key could not be encoded.
    #[error("a public key cannot be encoded")]
    Public,
}

/// A key that signs.
#[derive(Clone)]
pub struct Key {
    secret: SigningKey,
    /// SubjectPublicKeyInfo.
    pub info: Vec<u8>,
    /// The leftmost 160 bits of SHA-256 of the point (RFC 7093, section 2, method 1).
    pub id: [u8; 20],
}

impl Key {
    fn new(secret: SigningKey) -> Result<Self, KeyError> {
        let point = secret.verifying_key().to_sec1_point(false);
        let mut id = [0; 20];
        id.copy_from_slice(&Sha256::digest(point.as_bytes())[..20]);
        let info = secret.verifying_key().to_public_key_der().map_err(|_| KeyError::Public)?;
        Ok(Self { secret, info: info.into_vec(), id })
    }

    fn embedded(name: &'static str, pem: &str) -> Result<Self, KeyError> {
        let secret = SigningKey::from_pkcs8_pem(pem).map_err(|_| KeyError::Embedded { name })?;
        Self::new(secret)
    }

    fn derived(what: &[u8], seed: u64) -> Result<Self, KeyError> {
        let mut counter = 0u32;
        let secret = loop {
            let scalar = Sha256::new()
                .chain_update(what)
                .chain_update(seed.to_le_bytes())
                .chain_update(counter.to_le_bytes())
                .finalize();
            // All but one in 2^32 hashes are below the order of P-256.
            match SigningKey::from_slice(&scalar) {
                Ok(key) => break key,
                Err(_) => counter += 1,
            }
        };
        Self::new(secret)
    }

    /// Signs deterministically (RFC 6979): r and s, as quotes and collateral hold them.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signature(message).to_bytes().into()
    }

    /// Signs deterministically: the form of certificates.
    pub fn sign_der(&self, message: &[u8]) -> Vec<u8> {
        self.signature(message).to_der().as_bytes().to_vec()
    }

    /// The point's coordinates.
    pub fn point(&self) -> [u8; 64] {
        let mut point = [0; 64];
        point.copy_from_slice(&self.secret.verifying_key().to_sec1_point(false).as_bytes()[1..]);
        point
    }

    fn signature(&self, message: &[u8]) -> Signature {
        self.secret.sign(message)
    }
}

/// Every key of the chain.
#[derive(Clone)]
pub struct Keys {
    /// Root authority.
    pub root: Key,
    /// Authority of PCK certificates.
    pub pck_ca: Key,
    /// What signs TCB information and the identity of the quoting enclave.
    pub tcb_signing: Key,
    /// The platform's provisioning certification key.
    pub pck: Key,
    /// The quoting enclave's attestation key.
    pub attestation: Key,
}

impl Keys {
    /// Of the platform with this seed.
    pub fn derive(seed: u64) -> Result<Self, KeyError> {
        Ok(Self {
            root: Key::embedded("tdx-root", ROOT)?,
            pck_ca: Key::embedded("tdx-pck-ca", PCK_CA)?,
            tcb_signing: Key::embedded("tdx-tcb-signing", TCB_SIGNING)?,
            pck: Key::derived(b"softkvm pck\0", seed)?,
            attestation: Key::derived(b"softkvm attestation key\0", seed)?,
        })
    }
}
