//! What a verifier needs besides a quote: TCB information (version 3) and the quoting enclave's identity (version 2), both
//! signed, and the revocation lists ("Intel SGX and TDX Provisioning Certification Service", API version 4).

use std::fmt::Write;

use serde::Serialize;

use super::chain::Chain;
use super::keys::Keys;
use super::platform::{CPU_SVN, FMSPC, PCE_ID, PCE_SVN, TEE_TCB_SVN};
use super::quote::{QE_PRODUCT, QE_SVN, Quoter, qe_signer};

/// The collateral of a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collateral {
    /// Certificates and revocation lists.
    pub chain: Chain,
    /// Signed.
    pub tcb_info: Document,
    /// Signed.
    pub qe_identity: Document,
}

/// A JSON document whose bytes are signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// What is signed.
    pub body: String,
    /// r and s.
    pub signature: [u8; 64],
}

impl Document {
    fn sign(body: &impl Serialize, keys: &Keys) -> serde_json::Result<Self> {
        let body = serde_json::to_string(body)?;
        let signature = keys.tcb_signing.sign(body.as_bytes());
        Ok(Self { body, signature })
    }

    /// As the provisioning service answers: the document under its name, and the signature.
    fn response(&self, name: &str) -> String {
        format!("{{\"{name}\":{},\"signature\":\"{}\"}}\n", self.body, hex(&self.signature, false))
    }
}

impl Collateral {
    /// Of a quoter's platform.
    pub fn of(quoter: &Quoter) -> serde_json::Result<Self> {
        Ok(Self {
            chain: quoter.chain().clone(),
            tcb_info: Document::sign(&TcbInfo::new(), quoter.keys())?,
            qe_identity: Document::sign(&EnclaveIdentity::new(), quoter.keys())?,
        })
    }

    /// Everything by file name: certificates in PEM, lists in DER, documents as the provisioning service answers, and all of it
    /// in one file whose fields are those of `sgx_ql_qve_collateral_t`, with bytes in hexadecimal (what dcap-qvl reads).
    pub fn files(&self) -> serde_json::Result<[(&'static str, Vec<u8>); 9]> {
        let chain = &self.chain;
        let pem = |der: &[u8]| crate::x509::pem(der).into_bytes();
        let bundle = Bundle {
            pck_crl_issuer_chain: chain.pck_ca_pem(),
            root_ca_crl: hex(&chain.root_crl, false),
            pck_crl: hex(&chain.pck_crl, false),
            tcb_info_issuer_chain: chain.tcb_signing_pem(),
            tcb_info: &self.tcb_info.body,
            tcb_info_signature: hex(&self.tcb_info.signature, false),
            qe_identity_issuer_chain: chain.tcb_signing_pem(),
            qe_identity: &self.qe_identity.body,
            qe_identity_signature: hex(&self.qe_identity.signature, false),
        };
        Ok([
            ("root.pem", pem(&chain.root)),
            ("pck_ca.pem", pem(&chain.pck_ca)),
            ("pck.pem", pem(&chain.pck)),
            ("tcb_signing.pem", pem(&chain.tcb_signing)),
            ("root_ca.crl", chain.root_crl.clone()),
            ("pck.crl", chain.pck_crl.clone()),
            ("tcb_info.json", self.tcb_info.response("tcbInfo").into_bytes()),
            ("qe_identity.json", self.qe_identity.response("enclaveIdentity").into_bytes()),
            ("collateral.json", serde_json::to_vec_pretty(&bundle)?),
        ])
    }
}

/// Long validity, as the certificates': equal inputs give equal bytes.
const ISSUED: &str = "2024-01-01T00:00:00Z";
const NEXT_UPDATE: &str = "2049-01-01T00:00:00Z";
const UP_TO_DATE: &str = "UpToDate";
const EVALUATION: u32 = 1;

#[derive(Serialize)]
struct Bundle<'a> {
    pck_crl_issuer_chain: String,
    root_ca_crl: String,
    pck_crl: String,
    tcb_info_issuer_chain: String,
    tcb_info: &'a str,
    tcb_info_signature: String,
    qe_identity_issuer_chain: String,
    qe_identity: &'a str,
    qe_identity_signature: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TcbInfo {
    id: &'static str,
    version: u8,
    issue_date: &'static str,
    next_update: &'static str,
    fmspc: String,
    pce_id: String,
    tcb_type: u8,
    tcb_evaluation_data_number: u32,
    tdx_module: ModuleSigner,
    tdx_module_identities: [ModuleIdentity; 1],
    tcb_levels: [Level<Components>; 1],
}

impl TcbInfo {
    fn new() -> Self {
        let [svn, version, ..] = TEE_TCB_SVN;
        let mut tdx = TEE_TCB_SVN;
        // The module's own version is judged by its identity, not by these components.
        tdx[..2].fill(0);
        Self {
            id: "TDX",
            version: 3,
            issue_date: ISSUED,
            next_update: NEXT_UPDATE,
            fmspc: hex(&FMSPC, true),
            pce_id: hex(&PCE_ID, true),
            tcb_type: 0,
            tcb_evaluation_data_number: EVALUATION,
            tdx_module: ModuleSigner::new(),
            tdx_module_identities: [ModuleIdentity {
                id: format!("TDX_{version:02X}"),
                signer: ModuleSigner::new(),
                tcb_levels: [Level::up_to_date(IsvSvn { isvsvn: svn.into() })],
            }],
            tcb_levels: [Level::up_to_date(Components {
                sgxtcbcomponents: CPU_SVN.map(|svn| Component { svn }),
                pcesvn: PCE_SVN,
                tdxtcbcomponents: tdx.map(|svn| Component { svn }),
            })],
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ModuleSigner {
    mrsigner: String,
    attributes: String,
    attributes_mask: String,
}

impl ModuleSigner {
    /// Zeros, which on hardware means Intel.
    fn new() -> Self {
        Self {
            mrsigner: hex(&[0; 48], true),
            attributes: hex(&[0; 8], true),
            attributes_mask: hex(&[0xff; 8], true),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ModuleIdentity {
    id: String,
    #[serde(flatten)]
    signer: ModuleSigner,
    tcb_levels: [Level<IsvSvn>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Level<T> {
    tcb: T,
    tcb_date: &'static str,
    tcb_status: &'static str,
}

impl<T> Level<T> {
    fn up_to_date(tcb: T) -> Self {
        Self { tcb, tcb_date: ISSUED, tcb_status: UP_TO_DATE }
    }
}

#[derive(Serialize)]
struct IsvSvn {
    isvsvn: u16,
}

#[derive(Serialize)]
struct Components {
    sgxtcbcomponents: [Component; 16],
    pcesvn: u16,
    tdxtcbcomponents: [Component; 16],
}

#[derive(Serialize)]
struct Component {
    svn: u8,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EnclaveIdentity {
    id: &'static str,
    version: u8,
    issue_date: &'static str,
    next_update: &'static str,
    tcb_evaluation_data_number: u32,
    miscselect: String,
    miscselect_mask: String,
    attributes: String,
    attributes_mask: String,
    mrsigner: String,
    isvprodid: u16,
    tcb_levels: [Level<IsvSvn>; 1],
}

impl EnclaveIdentity {
    fn new() -> Self {
        // INIT and PROVISIONKEY, not DEBUG; MODE64BIT and XFRM do not matter.
        let attributes = [0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mask = [0xfb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
        Self {
            id: "TD_QE",
            version: 2,
            issue_date: ISSUED,
            next_update: NEXT_UPDATE,
            tcb_evaluation_data_number: EVALUATION,
            miscselect: hex(&[0; 4], true),
            miscselect_mask: hex(&[0xff; 4], true),
            attributes: hex(&attributes, true),
            attributes_mask: hex(&mask, true),
            mrsigner: hex(&qe_signer(), true),
            isvprodid: QE_PRODUCT,
            tcb_levels: [Level::up_to_date(IsvSvn { isvsvn: QE_SVN })],
        }
    }
}

/// Documents have their bytes in capitals, signatures in small letters.
fn hex(bytes: &[u8], capitals: bool) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = if capitals { write!(text, "{byte:02X}") } else { write!(text, "{byte:02x}") };
        text
    })
}
