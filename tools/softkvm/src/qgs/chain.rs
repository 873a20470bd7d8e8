//! The certificates PCK <- PCK authority <- root and TCB signing <- root, and the authorities' revocation lists ("Intel SGX PCK
//! Certificate and Certificate Revocation List Profile Specification", revision 1.5).

use super::keys::{Key, Keys};
use super::platform::{CPU_SVN, FMSPC, PCE_ID, PCE_SVN, PlatformId};
use crate::x509::{
    self, Certificate, RevocationList, TRUE, authority, extension, integer, key_identifiers,
    list_identifiers, name, object, sequence, signer, tag, tlv,
};

/// The chain, in DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Root.
    pub root: Vec<u8>,
    /// Authority of PCK certificates.
    pub pck_ca: Vec<u8>,
    /// What signs the collateral.
    pub tcb_signing: Vec<u8>,
    /// The platform.
    pub pck: Vec<u8>,
    /// What the root revoked: nothing.
    pub root_crl: Vec<u8>,
    /// What the PCK authority revoked: nothing.
    pub pck_crl: Vec<u8>,
}

impl Chain {
    /// Makes the chain of a platform.
    pub fn issue(platform: &PlatformId, keys: &Keys) -> Self {
        let root = Issuer { name: ROOT, key: &keys.root };
        let pck_ca = Issuer { name: PCK_CA, key: &keys.pck_ca };
        let pck = [signer(), sgx(platform)].concat();
        Self {
            root: root.issue(ROOT, &keys.root, &authority(1)),
            pck_ca: root.issue(PCK_CA, &keys.pck_ca, &authority(0)),
            tcb_signing: root.issue(TCB_SIGNING, &keys.tcb_signing, &signer()),
            pck: pck_ca.issue(PCK, &keys.pck, &pck),
            root_crl: root.revoke_none(),
            pck_crl: pck_ca.revoke_none(),
        }
    }

    /// The PCK certificate and its issuers in PEM, as quotes carry them.
    pub fn pck_pem(&self) -> String {
        [&self.pck, &self.pck_ca, &self.root].map(|der| x509::pem(der)).concat()
    }

    /// The issuers of PCK certificates and of their revocation list in PEM.
    pub fn pck_ca_pem(&self) -> String {
        [&self.pck_ca, &self.root].map(|der| x509::pem(der)).concat()
    }

    /// The signer of collateral and its issuer in PEM.
    pub fn tcb_signing_pem(&self) -> String {
        [&self.tcb_signing, &self.root].map(|der| x509::pem(der)).concat()
    }
}

const UNIT: &str = "softkvm test keys, not Intel's";
const ROOT: &str = "softkvm SGX Root CA";
// Verifiers look for "Platform" or "Processor" to tell which revocation list is the right one.
const PCK_CA: &str = "softkvm SGX PCK Platform CA";
const TCB_SIGNING: &str = "softkvm SGX TCB Signing";
const PCK: &str = "softkvm SGX PCK Certificate";

/// Object identifiers in DER content form.
mod oid {
    pub const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    /// 1.2.840.113741.1.13.1: Intel's arc of PCK extensions.
    pub const SGX: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01];
}

/// ecdsa-with-SHA256, without parameters (RFC 5758, section 3.2).
fn algorithm() -> Vec<u8> {
    sequence(&[&object(oid::ECDSA_SHA256)])
}

struct Issuer<'a> {
    name: &'a str,
    key: &'a Key,
}

impl Issuer<'_> {
    fn issue(&self, subject: &str, key: &Key, extensions: &[u8]) -> Vec<u8> {
        // As Intel's: the serial number is the key's identifier, kept positive in 20 octets.
        let mut serial = key.id;
        serial[0] &= 0x7f;
        Certificate {
            serial: &serial,
            algorithm: &algorithm(),
            issuer: &name(UNIT, self.name),
            subject: &name(UNIT, subject),
            key: &key.info,
            extensions: &[&key_identifiers(&self.key.id, &key.id), extensions].concat(),
        }
        .sign(|body| self.key.sign_der(body))
    }

    fn revoke_none(&self) -> Vec<u8> {
        RevocationList {
            algorithm: &algorithm(),
            issuer: &name(UNIT, self.name),
            extensions: &list_identifiers(1, &self.key.id),
        }
        .sign(|body| self.key.sign_der(body))
    }
}

/// The SGX extensions of a PCK certificate (the profile specification, "SGX Extensions").
fn sgx(platform: &PlatformId) -> Vec<u8> {
    let entry = |arc: &[u8], value: &[u8]| sequence(&[&object(&[oid::SGX, arc].concat()), value]);
    let octets = |bytes: &[u8]| tlv(tag::OCTETS, bytes);
    let mut tcb: Vec<u8> = (1..)
        .zip(CPU_SVN)
        .flat_map(|(number, svn)| entry(&[2, number], &integer(&[svn])))
        .collect();
    tcb.extend(entry(&[2, 17], &integer(&PCE_SVN.to_be_bytes())));
    tcb.extend(entry(&[2, 18], &octets(&CPU_SVN)));
    const FALSE: &[u8] = &[tag::BOOLEAN, 0x01, 0x00];
    let configuration = [
        entry(&[7, 1], FALSE), // dynamicPlatform
        entry(&[7, 2], FALSE), // cachedKeys
        entry(&[7, 3], TRUE),  // smtEnabled
    ]
    .concat();
    // 1 is "scalable": memory encryption without a replay-protected tree.
    let kind = tlv(tag::ENUMERATED, &[1]);
    let value = sequence(&[
        &entry(&[1], &octets(&platform.ppid)),
        &entry(&[2], &sequence(&[&tcb])),
        &entry(&[3], &octets(&PCE_ID)),
        &entry(&[4], &octets(&FMSPC)),
        &entry(&[5], &kind),
        &entry(&[6], &octets(&platform.instance)),
        &entry(&[7], &sequence(&[&configuration])),
    ]);
    extension(oid::SGX, false, &value)
}
