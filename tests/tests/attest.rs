//! What a guest can prove: the report it fetches says what was asked for on the command line, and a
//! verifier that knows nothing of this project believes it.

use std::path::PathBuf;
use std::process::Command;

use abi::snp::AttestationReport;
use cvmm_tests::identity::{Owner, POLICY, id_block};
use cvmm_tests::{Cvmm, Ended, bzimage, from_hex, hex, input, oracle};
use sev::certs::snp::{Certificate, Chain, Verifiable, ca};
use sev::parser::ByteParser;
use zerocopy::{FromBytes, IntoBytes};

const REFUSED: i32 = 4;
const MISMATCH: i32 = 7;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).expect("a temporary file");
        path
    }

    /// The chain that softkvm's part is vouched for with, in its order ARK, ASK, VCEK.
    fn chain(&self) -> [Certificate; 3] {
        let output = Command::new(input("SOFTKVM_BIN"))
            .args(["certs", "--out"])
            .arg(self.dir.path())
            .output()
            .expect("softkvm starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        ["ark.pem", "ask.pem", "vcek.pem"].map(|name| {
            let pem = std::fs::read(self.dir.path().join(name)).expect("a certificate");
            Certificate::from_pem(&pem).expect("a certificate in PEM")
        })
    }

    fn id_flags(&self, block: &[u8], auth: &[u8]) -> String {
        let block = self.file("id-block", block);
        let auth = self.file("id-auth", auth);
        format!("id-block={},id-auth={}", block.display(), auth.display())
    }
}

/// 64 distinct bytes.
fn report_data() -> [u8; 64] {
    std::array::from_fn(|i| 0x80 ^ (i as u8 * 3 + 1))
}

/// 32 distinct bytes.
fn host_data() -> [u8; 32] {
    std::array::from_fn(|i| i as u8)
}

/// The command line of a guest that fetches a report.
fn cmdline() -> String {
    format!("console=ttyS0 panic=-1 cvmm.report={}", hex(&report_data()))
}

/// The flags of the guest, without the verb.
fn guest(run: Cvmm, snp: &str) -> Cvmm {
    let flag = if snp.is_empty() { "--snp".to_owned() } else { format!("--snp={snp}") };
    run.arg(flag)
        .args(["--memory", "512M", "--cmdline", &cmdline()])
        .linux(&bzimage("6.12"), "6.12")
}

fn emulated(snp: &str) -> Cvmm {
    guest(Cvmm::new(["--emulate", "--timeout", "200"]), snp).reported()
}

/// What `cvmm measure` says, checked by the oracle.
fn measured(bench: &Bench) -> Vec<u8> {
    let dump = bench.dir.path().join("pages");
    let ended = guest(Cvmm::new(["measure"]), "").arg("--dump-pages").arg(&dump).run();
    ended.expect_code(0);
    let digest = ended.console.trim().to_owned();
    assert_eq!(digest, oracle::launch_digest(&dump));
    from_hex(&digest)
}

fn report(ended: &Ended) -> (Vec<u8>, AttestationReport) {
    let bytes = ended.printed("report");
    let (report, _) = AttestationReport::read_from_prefix(&bytes).expect("a whole report");
    (bytes, report)
}

/// Verification by the `sev` crate: chain, then signature.
fn verify(chain: &[Certificate; 3], report: &[u8]) -> std::io::Result<()> {
    let [ark, ask, vek] = chain.clone();
    let chain = Chain { ca: ca::Chain { ark, ask }, vek };
    let bytes: &[u8; 1184] = report.get(..1184).and_then(|r| r.try_into().ok()).expect("its size");
    let report = sev::firmware::guest::AttestationReport::from_bytes(bytes)?;
    (&chain, &report).verify()
}

#[test]
fn the_report_says_what_was_asked_for_and_verifies() {
    let bench = Bench::new();
    let digest = measured(&bench);
    let options = format!("policy=0xb0000,host-data={}", hex(&host_data()));
    let ended = emulated(&options).run();
    ended.expect_code(0);
    let (bytes, report) = report(&ended);
    assert_eq!(hex(&report.measurement), hex(&digest), "measurement");
    assert_eq!(ended.report()["digest"], hex(&digest));
    assert_eq!(report.report_data, report_data());
    assert_eq!(report.host_data, host_data());
    assert_eq!(report.policy.0, 0xb_0000);
    assert_eq!(report.vmpl, 0);
    assert_eq!(report.id_key_digest, [0; 48]);
    assert_eq!(report.author_key_digest, [0; 48]);
    assert_eq!((report.family_id, report.image_id, report.guest_svn), ([0; 16], [0; 16], 0));
    // Author key off, chip key not masked, signed by the VCEK.
    assert_eq!(report.flags, 0);

    let chain = bench.chain();
    verify(&chain, &bytes).expect("the sev crate believes it");
    for at in [0x50, 0x90, 0xc0, 0x2a0] {
        let mut forged = bytes.clone();
        forged[at] ^= 1;
        assert!(verify(&chain, &forged).is_err(), "a flipped bit at {at:#x} goes unnoticed");
    }
    let [ark, ask, vcek] = chain;
    assert!(verify(&[ask.clone(), ark, vcek], &bytes).is_err(), "any chain will do");
}

#[test]
fn id_blocks_appear_in_the_report() {
    let bench = Bench::new();
    let owner = Owner::default();
    let block = id_block(&measured(&bench), POLICY);
    for author in [false, true] {
        let auth = owner.sign(&block, author);
        let options = bench.id_flags(block.as_bytes(), auth.as_bytes());
        let ended = emulated(&options).run();
        ended.expect_code(0);
        let (bytes, report) = report(&ended);
        assert_eq!(report.measurement, block.launch_digest);
        assert_eq!(report.family_id, block.family_id);
        assert_eq!(report.image_id, block.image_id);
        assert_eq!(report.guest_svn, block.guest_svn);
        assert_eq!(report.id_key_digest, owner.id_key_digest());
        let author_digest = if author { owner.author_key_digest() } else { [0; 48] };
        assert_eq!(report.author_key_digest, author_digest);
        assert_eq!(report.flags & 1, u32::from(author), "AUTHOR_KEY_EN");
        verify(&bench.chain(), &bytes).expect("the sev crate believes it");
    }
}

#[test]
fn wrong_id_blocks_are_refused_by_the_firmware() {
    let bench = Bench::new();
    let owner = Owner::default();
    let digest = measured(&bench);
    let good = id_block(&digest, POLICY);
    let refused = |block: &[u8], auth: &[u8], says: &str| {
        let ended = emulated(&bench.id_flags(block, auth)).run();
        ended.expect_refusal(REFUSED).expect_words("KVM_SEV_SNP_LAUNCH_FINISH");
        ended.expect_words(says);
        assert!(!ended.console.contains("Linux version"), "the guest ran");
    };

    let mut other = digest.clone();
    other[47] ^= 1;
    let block = id_block(&other, POLICY);
    refused(block.as_bytes(), owner.sign(&block, false).as_bytes(), "BAD_MEASUREMENT");

    let block = id_block(&digest, 0xb_0000);
    refused(block.as_bytes(), owner.sign(&block, false).as_bytes(), "POLICY_FAILURE");

    // A block that was changed after it was signed, and one that somebody else has signed.
    let mut changed = good;
    changed.guest_svn += 1;
    refused(changed.as_bytes(), owner.sign(&good, true).as_bytes(), "BAD_SIGNATURE");
    let mut auth = owner.sign(&good, true);
    auth.id_key_sig.s[5] ^= 1;
    refused(good.as_bytes(), auth.as_bytes(), "BAD_SIGNATURE");
}

#[test]
fn expect_lets_only_the_named_digest_run() {
    let bench = Bench::new();
    let digest = hex(&measured(&bench));
    let small = |expected: &str| emulated("").args(["--until", "G0", "--expect", expected]).run();
    small(&digest).expect_code(0);
    let other = format!("{}{}", &digest[..95], if digest.ends_with('0') { '1' } else { '0' });
    let ended = small(&other);
    ended.expect_refusal(MISMATCH).expect_words(&other).expect_words(&digest);
    assert!(!ended.console.contains("Linux version"), "the guest ran");
}

#[test]
fn certificates_reach_the_guest() {
    let bench = Bench::new();
    let chain = bench.chain();
    let table = cert_table(&chain);
    let file = bench.file("certs", &table);
    let ended = emulated(&format!("certs={}", file.display())).run();
    ended.expect_code(0);
    let aux = ended.printed("auxblob");
    assert!(aux.len() >= table.len(), "{} bytes of certificates", aux.len());
    assert_eq!(hex(&aux[..table.len()]), hex(&table));
    assert!(aux[table.len()..].iter().all(|byte| *byte == 0), "padding is zero");
    let (bytes, _) = report(&ended);
    verify(&chain, &bytes).expect("the sev crate believes it");

    // Without them the report still comes.
    let ended = emulated("").run();
    ended.expect_code(0);
    assert!(!ended.console.contains("auxblob BEGIN"));
    assert_eq!(report(&ended).1.report_data, report_data());
}

/// A certificate table (GHCB specification 56421, 4.1.8.1), by the test's own reading of it.
fn cert_table([ark, ask, vcek]: &[Certificate; 3]) -> Vec<u8> {
    const ENTRIES: [(&str, usize); 3] = [
        ("63da758de6644564adc5f4b93be8accd", 2),
        ("4ab7b379bbac4fe4a02f05aef327c782", 1),
        ("c0b406a4a803495297433fb6014cd0ae", 0),
    ];
    let ders = [ark, ask, vcek].map(|certificate| certificate.to_der().expect("DER"));
    let mut offset = (ENTRIES.len() + 1) * 24;
    let mut table = Vec::new();
    for (guid, which) in ENTRIES {
        table.extend(from_hex(guid));
        table.extend((offset as u32).to_le_bytes());
        table.extend((ders[which].len() as u32).to_le_bytes());
        offset += ders[which].len();
    }
    table.extend([0; 24]);
    for (_, which) in ENTRIES {
        table.extend(&ders[which]);
    }
    table
}

#[test]
fn every_vcpu_count_measures_as_the_guest_reports() {
    for cpus in ["2", "4"] {
        let with = |run: Cvmm| guest(run, "").args(["--cpus", cpus]);
        let predicted = with(Cvmm::new(["measure"])).run();
        predicted.expect_code(0);
        let ended = with(Cvmm::new(["--emulate", "--timeout", "200"])).run();
        ended.expect_code(0);
        assert_eq!(hex(&report(&ended).1.measurement), predicted.console.trim());
    }
}
