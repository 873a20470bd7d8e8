//! Quotes and collateral before dcap-qvl, which shares no code with softkvm's side.

use abi::tdx::quote::{EnclaveReport, QuoteBody, QuoteHeader};
use abi::tdx::{TdAttributes, TdParams, TdReport, Xfam};
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::verify::{QuoteVerifier, VerifiedReport};
use softkvm::qgs::{Collateral, QuoteError, Quoter};
use softkvm::tdx::{Td, TdxPlatform};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::report::{report, seal};

/// 2026-01-01.
const NOW: u64 = 1_767_225_600;
/// Where the signature's length, the signature, the key and the enclave's report begin.
const LENGTH: usize = size_of::<QuoteHeader>() + size_of::<QuoteBody>();
const SIGNATURE: usize = LENGTH + 4;
const KEY: usize = SIGNATURE + 64;
const ENCLAVE: usize = KEY + 64 + 6;
const ENCLAVE_SIGNATURE: usize = ENCLAVE + size_of::<EnclaveReport>();
const AUTHENTICATION: usize = ENCLAVE_SIGNATURE + 64;
const CERTIFICATES: usize = AUTHENTICATION + 2 + 32;

struct Bench {
    quoter: Quoter,
    verifier: QuoteVerifier,
    collateral: QuoteCollateralV3,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let quoter = Quoter::new(seed).unwrap();
        let files = Collateral::of(&quoter).unwrap().files().unwrap();
        let (_, bundle) = files.iter().find(|(name, _)| *name == "collateral.json").unwrap();
        let verifier = QuoteVerifier::new(quoter.chain().root.clone());
        let collateral = serde_json::from_slice(bundle).unwrap();
        Self { quoter, verifier, collateral }
    }

    fn quote(&self, report: &TdReport) -> Vec<u8> {
        self.quoter.quote(report.as_bytes()).unwrap()
    }

    fn verify(&self, quote: &[u8]) -> Result<VerifiedReport, String> {
        self.verifier.verify(quote, &self.collateral, NOW).map_err(|error| format!("{error:#}"))
    }
}

#[test]
fn somebody_elses_verifier_accepts_a_quote() {
    let bench = Bench::new(0);
    let report = report();
    let verified = bench.verify(&bench.quote(&report)).unwrap();
    assert_eq!(verified.status, "UpToDate");
    assert!(verified.advisory_ids.is_empty());
    assert_eq!(verified.ppid, bench.quoter.platform().ppid);
    let td = verified.report.as_td10().unwrap();
    assert_eq!(td.tee_tcb_svn, report.tee_tcb_info.tee_tcb_svn);
    assert_eq!(td.mr_seam, report.tee_tcb_info.mr_seam);
    assert_eq!(td.mr_signer_seam, report.tee_tcb_info.mr_signer_seam);
    assert_eq!(td.seam_attributes, report.tee_tcb_info.attributes);
    assert_eq!(td.td_attributes, report.td_info.attributes.0.to_le_bytes());
    assert_eq!(td.xfam, report.td_info.xfam.0.to_le_bytes());
    assert_eq!(td.mr_td, report.td_info.mrtd);
    assert_eq!(td.mr_config_id, report.td_info.mrconfigid);
    assert_eq!(td.mr_owner, report.td_info.mrowner);
    assert_eq!(td.mr_owner_config, report.td_info.mrownerconfig);
    assert_eq!([td.rt_mr0, td.rt_mr1, td.rt_mr2, td.rt_mr3], report.td_info.rtmr);
    assert_eq!(td.report_data, report.mac.report_data);
}

#[test]
fn the_modules_own_report_is_up_to_date() {
    let mut params = TdParams::new_zeroed();
    // SEPT_VE_DISABLE: dcap-qvl, like Linux, does not trust a TD without.
    params.attributes = TdAttributes::SEPT_VE_DISABLE;
    params.xfam = Xfam::FIXED1;
    params.max_vcpus = 1;
    params.eptp_controls = 0x1e;
    params.tsc_frequency = 80;
    params.mrconfigid = [0x77; 48];
    let mut td = Td::new();
    td.init(&TdxPlatform::default(), &params).unwrap();
    td.init_vcpu(0, 0).unwrap();
    td.mr_finalize().unwrap();
    let data = std::array::from_fn(|index| index as u8 ^ 0x5a);
    let bench = Bench::new(0);
    let verified = bench.verify(&bench.quote(&softkvm::tdx::report::make(&td, &data))).unwrap();
    assert_eq!(verified.status, "UpToDate");
    let quoted = verified.report.as_td10().unwrap();
    assert_eq!(quoted.report_data, data);
    assert_eq!(quoted.mr_td, td.mrtd().unwrap());
    assert_eq!(quoted.mr_config_id, params.mrconfigid);
}

#[test]
fn every_platform_verifies_and_equal_seeds_give_equal_bytes() {
    let benches = [1, 1, u64::MAX].map(Bench::new);
    let quotes = benches.each_ref().map(|bench| bench.quote(&report()));
    for (bench, quote) in benches.iter().zip(&quotes) {
        assert_eq!(bench.verify(quote).unwrap().status, "UpToDate");
    }
    assert_eq!(quotes[0], quotes[1]);
    assert_ne!(quotes[0], quotes[2]);
    let [one, same, _] = &benches;
    assert_eq!(Collateral::of(&one.quoter).unwrap(), Collateral::of(&same.quoter).unwrap());
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let bench = Bench::new(0);
    let quote = bench.quote(&report());
    let accepted: Vec<usize> = (0..CERTIFICATES)
        .filter(|&at| {
            let mut changed = quote.clone();
            changed[at] ^= 1 << (at % 8);
            bench.verify(&changed).is_ok()
        })
        .collect();
    // The outer kind of certification data: no signature covers it, and dcap-qvl 0.7 does not read it.
    assert_eq!(accepted, [KEY + 64, KEY + 65], "offsets whose change went unnoticed");
}

#[test]
fn only_the_key_that_the_platform_vouches_for_counts() {
    let [one, two] = [1, 2].map(Bench::new);
    let [mine, other] = [&one, &two].map(|bench| bench.quote(&report()));
    let with = |range: std::ops::Range<usize>| {
        let mut quote = mine.clone();
        quote[range.clone()].copy_from_slice(&other[range]);
        one.verify(&quote).unwrap_err()
    };
    // Another attestation key with its good signature: the enclave's report does not name it.
    assert!(with(SIGNATURE..KEY + 64).contains("QE report hash mismatch"));
    // Another platform's enclave report on this key, and its signature: not this certificate's.
    assert!(with(ENCLAVE..AUTHENTICATION).contains("Signature is invalid for qe_report"));
    // Only the key.
    assert!(with(KEY..KEY + 64).contains("QE report hash mismatch"));
}

#[test]
fn no_other_root_accepts_it() {
    let bench = Bench::new(0);
    let quote = bench.quote(&report());
    let intel = QuoteVerifier::new_prod().verify(&quote, &bench.collateral, NOW);
    assert!(intel.is_err(), "under Intel's root");
    let wrong = QuoteVerifier::new(bench.quoter.chain().pck_ca.clone());
    assert!(wrong.verify(&quote, &bench.collateral, NOW).is_err(), "under an intermediate");
}

#[test]
fn changed_collateral_is_found() {
    let bench = Bench::new(0);
    let quote = bench.quote(&report());
    let refused = |change: &dyn Fn(&mut QuoteCollateralV3)| {
        let mut collateral = bench.collateral.clone();
        change(&mut collateral);
        format!("{:#}", bench.verifier.verify(&quote, &collateral, NOW).unwrap_err())
    };
    let lower = |text: &str, from: &str, to: &str| {
        assert!(text.contains(from), "{from} in {text}");
        text.replacen(from, to, 1)
    };
    let error = refused(&|c| c.tcb_info = lower(&c.tcb_info, "\"pcesvn\":11", "\"pcesvn\":10"));
    assert!(error.contains("tcb_info"), "{error}");
    let error = refused(&|c| c.qe_identity = lower(&c.qe_identity, "\"isvsvn\":4", "\"isvsvn\":3"));
    assert!(error.contains("qe_identity"), "{error}");
    refused(&|c| std::mem::swap(&mut c.root_ca_crl, &mut c.pck_crl));
    let late = bench.verifier.verify(&quote, &bench.collateral, NOW + 24 * 365 * 86_400);
    assert!(late.is_err(), "after 2049");
}

#[test]
fn collateral_judges_the_td() {
    let bench = Bench::new(0);
    let refused = |change: &dyn Fn(&mut TdReport)| {
        let mut changed = report();
        change(&mut changed);
        bench.verify(&bench.quote(&seal(changed))).unwrap_err()
    };
    let old = refused(&|report| report.tee_tcb_info.tee_tcb_svn[0] -= 1);
    assert!(old.contains("below minimum"), "{old}");
    let unknown = refused(&|report| report.tee_tcb_info.tee_tcb_svn[1] = 9);
    assert!(unknown.contains("No TDX module identity"), "{unknown}");
    let loader = refused(&|report| report.tee_tcb_info.tee_tcb_svn[2] -= 1);
    assert!(loader.contains("No matching TCB level"), "{loader}");
    let signer = refused(&|report| report.tee_tcb_info.mr_signer_seam = [1; 48]);
    assert!(signer.contains("MRSIGNER mismatch"), "{signer}");
    let debug = refused(&|report| report.td_info.attributes.0 |= TdAttributes::DEBUG.0);
    assert!(debug.contains("Debug"), "{debug}");
}

#[test]
fn reports_of_other_platforms_are_not_quoted() {
    let quoter = Quoter::new(0).unwrap();
    let good = report();
    for at in (0..size_of::<TdReport>()).filter(|at| !(495..512).contains(at)) {
        let mut bytes = good.as_bytes().to_owned();
        bytes[at] ^= 1;
        let error = quoter.quote(&bytes).unwrap_err();
        match at {
            0 => assert_eq!(error, QuoteError::Type([0x80, 0, 0, 0])),
            _ => assert_eq!(error, QuoteError::Forged, "byte {at}"),
        }
    }
    let short = quoter.quote(&good.as_bytes()[1..]);
    assert_eq!(short, Err(QuoteError::Size { len: 1023 }));
}

#[test]
fn the_layout_is_the_specifications() {
    let bench = Bench::new(0);
    let quote = bench.quote(&report());
    let (header, rest) = QuoteHeader::read_from_prefix(&quote).unwrap();
    assert_eq!((header.version, header.attestation_key_type, header.tee_type), (4, 2, 0x81));
    assert_eq!(header.user_data[..16], bench.quoter.platform().qe);
    assert_eq!(rest[..584], *QuoteBody::of(&report()).as_bytes());
    let number = |at: usize| u32::from_le_bytes(quote[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!(number(LENGTH), quote.len() - SIGNATURE);
    // Certification data of kind 6 around kind 5, each to the end.
    assert_eq!(quote[KEY + 64..KEY + 66], [6, 0]);
    assert_eq!(number(KEY + 66), quote.len() - ENCLAVE);
    assert_eq!(quote[AUTHENTICATION..AUTHENTICATION + 2], [32, 0]);
    assert_eq!(quote[CERTIFICATES..CERTIFICATES + 2], [5, 0]);
    assert_eq!(number(CERTIFICATES + 2), quote.len() - CERTIFICATES - 6);
    let chain = bench.quoter.chain().pck_pem();
    assert_eq!(quote[CERTIFICATES + 6..], *[chain.as_bytes(), &[0]].concat());
}
