//! Quotes of version 4 over TDREPORTs ("Intel TDX DCAP: Quote Generation Library and Quote Verification Library", appendix A.3),
//! and the quoting enclave that vouches for them.

use abi::tdx::quote::{EnclaveReport, QuoteBody, QuoteHeader, certification};
use abi::tdx::{ReportMac, TdReport};
use sha2::{Digest, Sha256};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::chain::Chain;
use super::keys::{KeyError, Keys};
use super::platform::{CPU_SVN, PlatformId};
use crate::tdx::report;

/// Why there is no quote.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// Too short or too long.
    #[error("a TDREPORT has 1024 bytes, not {len}")]
    Size {
        /// What came.
        len: usize,
    },
    /// Not a TD's report.
    #[error("report type {0:02x?} is not a TD's")]
    Type([u8; 4]),
    /// Not made on this platform, or changed since.
    #[error("the report's MAC or hashes are wrong")]
    Forged,
}

/// What makes quotes on one platform.
pub struct Quoter {
    platform: PlatformId,
    keys: Keys,
    chain: Chain,
}

impl Quoter {
    /// Of the platform with this seed.
    pub fn new(seed: u64) -> Result<Self, KeyError> {
        let (platform, keys) = (PlatformId::derive(seed), Keys::derive(seed)?);
        let chain = Chain::issue(&platform, &keys);
        Ok(Self { platform, keys, chain })
    }

    /// The platform.
    pub fn platform(&self) -> &PlatformId {
        &self.platform
    }

    /// The certificates that vouch for its quotes.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Quotes a report of this platform's.
    pub fn quote(&self, report: &[u8]) -> Result<Vec<u8>, QuoteError> {
        let report = TdReport::read_from_bytes(report)
            .map_err(|_| QuoteError::Size { len: report.len() })?;
        if report.mac.report_type[0] != ReportMac::TYPE_TDX {
            return Err(QuoteError::Type(report.mac.report_type));
        }
        if !report::verify(&report) {
            return Err(QuoteError::Forged);
        }
        let header = QuoteHeader {
            version: QuoteHeader::VERSION,
            attestation_key_type: QuoteHeader::ECDSA_P256,
            tee_type: QuoteHeader::TEE_TDX,
            reserved: [0; 4],
            qe_vendor_id: QuoteHeader::INTEL,
            user_data: padded(&self.platform.qe),
        };
        let signed = [header.as_bytes(), QuoteBody::of(&report).as_bytes()].concat();
        let signature = [
            &self.keys.attestation.sign(&signed)[..],
            &self.keys.attestation.point(),
            &certification_data(certification::QE_REPORT, &self.enclave()),
        ]
        .concat();
        Ok([&signed[..], &length(&signature), &signature].concat())
    }

    /// Why the attestation key is to be trusted: the quoting enclave's report on it, which the platform's key signed.
    fn enclave(&self) -> Vec<u8> {
        let mut report = EnclaveReport::new_zeroed();
        report.cpu_svn = CPU_SVN;
        report.attributes = QE_ATTRIBUTES;
        report.mr_enclave = Sha256::digest(b"softkvm quoting enclave").into();
        report.mr_signer = qe_signer();
        report.isv_prod_id = QE_PRODUCT;
        report.isv_svn = QE_SVN;
        let bound = [&self.keys.attestation.point()[..], &AUTHENTICATION].concat();
        report.report_data = padded(&Sha256::digest(bound));
        // As Intel's provider of certificates has it: the text with the NUL that ends it in C.
        let chain = [self.chain.pck_pem().as_bytes(), &[0]].concat();
        [
            report.as_bytes(),
            &self.keys.pck.sign(report.as_bytes()),
            &(AUTHENTICATION.len() as u16).to_le_bytes(),
            &AUTHENTICATION,
            &certification_data(certification::PCK_CHAIN, &chain),
        ]
        .concat()
    }
}

/// Attributes of the quoting enclave: INIT, MODE64BIT and PROVISIONKEY; XFRM with AVX-512.
pub const QE_ATTRIBUTES: [u8; 16] = [0x15, 0, 0, 0, 0, 0, 0, 0, 0xe7, 0, 0, 0, 0, 0, 0, 0];
/// The quoting enclave for TDs among its signer's.
pub const QE_PRODUCT: u16 = 2;
/// Its security version.
pub const QE_SVN: u16 = 4;
/// Authentication data of the quoting enclave: 0, 1, 2 and so on, as Intel's has it.
const AUTHENTICATION: [u8; 32] = {
    let mut data = [0; 32];
    let mut index = 0;
    while index < data.len() {
        data[index] = index as u8;
        index += 1;
    }
    data
};

/// Who signed the quoting enclave: not Intel.
pub fn qe_signer() -> [u8; 32] {
    Sha256::digest(b"softkvm signer of enclaves").into()
}

fn certification_data(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &length(data), data].concat()
}

/// The length of what this file made: some thousand bytes.
fn length(data: &[u8]) -> [u8; 4] {
    (data.len() as u32).to_le_bytes()
}

fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out[..bytes.len()].copy_from_slice(bytes);
    out
}
