//! The certificate chain VCEK <- ASK <- ARK, shaped as AMD's ("Versioned Chip Endorsement Key
//! (VCEK) Certificate and KDS Interface Specification", AMD publication 57230), but of test keys
//! that everybody knows.

use abi::snp::{CERT_GUID_ARK, CERT_GUID_ASK, CERT_GUID_VCEK, CertTableEntry};
use p384::pkcs8::EncodePublicKey;
use zerocopy::IntoBytes;

use super::attest::ChipKeys;
use super::platform::Platform;
use super::rsa::PrivateKey;
use crate::x509::{
    self, Certificate, NULL, authority, bits, extension, integer, name, object, sequence, tag, tlv,
};

const ARK_KEY: &str = include_str!("../../keys/ark.key.pem");
const ASK_KEY: &str = include_str!("../../keys/ask.key.pem");

/// Why no chain could be made.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// An embedded key is not what it must be.
    #[error("embedded key {name} is not a 4096-bit RSA key in PKCS#1 PEM")]
    Key {
        /// Which.
        name: &'static str,
    },
    /// The VCEK could not be encoded.
    #[error("the VCEK's public key cannot be encoded")]
    Vcek,
}

/// The chain, in DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Root.
    pub ark: Vec<u8>,
    /// Intermediate.
    pub ask: Vec<u8>,
    /// The chip's key at its TCB.
    pub vcek: Vec<u8>,
}

impl Chain {
    /// Makes the chain of a platform.
    pub fn issue(platform: &Platform, keys: &ChipKeys) -> Result<Self, CertError> {
        let ark_key = PrivateKey::from_pem(ARK_KEY).ok_or(CertError::Key { name: "ARK" })?;
        let ask_key = PrivateKey::from_pem(ASK_KEY).ok_or(CertError::Key { name: "ASK" })?;
        let vcek_key = keys.vcek_public().to_public_key_der().map_err(|_| CertError::Vcek)?;
        let issue =
            |serial, issuer, subject, key: &[u8], extensions: Vec<u8>, signer: &PrivateKey| {
                certificate(serial, issuer, subject, key, &extensions, signer)
            };
        Ok(Self {
            ark: issue(0x01_0001, ARK, ARK, &rsa_public(&ark_key), authority(1), &ark_key),
            ask: issue(0x01_0002, ARK, ASK, &rsa_public(&ask_key), authority(0), &ark_key),
            vcek: issue(0, ASK, VCEK, vcek_key.as_bytes(), chip(platform, keys), &ask_key),
        })
    }

    /// The table of an extended guest request (GHCB specification 56421, section 4.1.8.1).
    pub fn table(&self) -> Vec<u8> {
        let entries =
            [(CERT_GUID_VCEK, &self.vcek), (CERT_GUID_ASK, &self.ask), (CERT_GUID_ARK, &self.ark)];
        let mut offset = (entries.len() + 1) * size_of::<CertTableEntry>();
        let mut table = Vec::new();
        for (guid, der) in entries {
            let entry = CertTableEntry { guid, offset: offset as u32, length: der.len() as u32 };
            table.extend_from_slice(entry.as_bytes());
            offset += der.len();
        }
        table.extend_from_slice(CertTableEntry::default().as_bytes());
        for (_, der) in entries {
            table.extend_from_slice(der);
        }
        table
    }

    /// The three certificates in PEM: ARK, ASK, VCEK.
    pub fn pem(&self) -> [String; 3] {
        [&self.ark, &self.ask, &self.vcek].map(|der| x509::pem(der))
    }
}

const ARK: &str = "ARK-softkvm";
const ASK: &str = "SEV-softkvm";
const VCEK: &str = "SEV-VCEK";

/// Object identifiers in DER content form.
mod oid {
    pub const RSASSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];
    pub const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    pub const MGF1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08];
    pub const SHA384: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02];
    /// 1.3.6.1.4.1.3704.1: AMD's arc of VCEK extensions.
    pub const AMD: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x9c, 0x78, 0x01];
}

/// RSASSA-PSS, SHA-384, MGF1 with SHA-384, salt of 48 bytes (RFC 4055, 3.1).
fn algorithm() -> Vec<u8> {
    let [zero, one, two, _] = tag::CONTEXT;
    let sha384 = sequence(&[&object(oid::SHA384), NULL]);
    let mgf = sequence(&[&object(oid::MGF1), &sha384]);
    let parameters = sequence(&[&tlv(zero, &sha384), &tlv(one, &mgf), &tlv(two, &integer(&[48]))]);
    sequence(&[&object(oid::RSASSA_PSS), &parameters])
}

fn rsa_public(key: &PrivateKey) -> Vec<u8> {
    let numbers = sequence(&[&integer(&key.modulus()), &integer(&[1, 0, 1])]);
    let algorithm = sequence(&[&object(oid::RSA), NULL]);
    sequence(&[&algorithm, &bits(&numbers, 0)])
}

/// Extensions of a VCEK (AMD publication 57230, table "VCEK Certificate Extensions").
fn chip(platform: &Platform, keys: &ChipKeys) -> Vec<u8> {
    let amd = |arc: &[u8], value: &[u8]| extension(&[oid::AMD, arc].concat(), false, value);
    let number = |value: u8| integer(&[value]);
    let tcb = platform.tcb;
    let turin = platform.family >= 0x1a;
    let product = match (platform.family, platform.model) {
        (0x1a, _) => "Turin-softkvm",
        (_, 0x10..=0x1f | 0xa0..=0xaf) => "Genoa-softkvm",
        _ => "Milan-softkvm",
    };
    let spare = if turin { tcb.fmc } else { 0 };
    // Turin certificates carry the first 8 bytes of the identifier.
    let id = if turin { &keys.chip_id[..8] } else { &keys.chip_id[..] };
    [
        amd(&[1], &number(0)),                                         // structVersion
        amd(&[2], &tlv(tag::IA5, product.as_bytes())),                 // productName
        amd(&[3, 1], &number(tcb.boot_loader)),                        // blSPL
        amd(&[3, 2], &number(tcb.tee)),                                // teeSPL
        amd(&[3, 3], &number(tcb.snp)),                                // snpSPL
        amd(&[3, 4], &number(0)),                                      // spl4
        amd(&[3, 5], &number(0)),                                      // spl5
        amd(&[3, 6], &number(0)),                                      // spl6
        amd(&[3, 7], &number(0)),                                      // spl7
        amd(&[3, 8], &number(tcb.microcode)),                          // ucodeSPL
        if turin { amd(&[3, 9], &number(spare)) } else { Vec::new() }, // fmcSPL
        amd(&[4], id),                                                 // hwID
    ]
    .concat()
}

fn certificate(
    serial: u32,
    issuer: &str,
    subject: &str,
    key: &[u8],
    extensions: &[u8],
    signer: &PrivateKey,
) -> Vec<u8> {
    const UNIT: &str = "softkvm test keys, not AMD's";
    Certificate {
        serial: &serial.to_be_bytes(),
        algorithm: &algorithm(),
        issuer: &name(UNIT, issuer),
        subject: &name(UNIT, subject),
        key,
        extensions,
    }
    .sign(|body| signer.sign(body).to_vec())
}
