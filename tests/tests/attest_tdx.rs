//! What a TD can prove: its TDREPORT says what was asked for on the command line, and a verifier of quotes that knows
//! nothing of this project believes the quote made from it.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use abi::tdx::qgs;
use abi::tdx::quote::{QuoteBody, QuoteHeader};
use abi::tdx::{ReportMac, TdAttributes, TdReport};
use cvmm_tests::{Cvmm, Ended, KERNELS, bzimage, hex, in_parallel, input, oracle_tdx};
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::verify::{QuoteVerifier, VerifiedReport};
use serde_json::Value;
use sha2::{Digest, Sha384};
use zerocopy::{FromBytes, IntoBytes};

/// 2026-01-01: the collateral's time, not the machine's.
const NOW: u64 = 1_767_225_600;
/// What Linux makes of a failed quote: 6.12 does not look at its status and hands on what is there, which is nothing.
const EIO: u64 = 5;
const ENODATA: u64 = 61;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `softkvm qgs`.
    fn service(&self) -> Service {
        let socket = self.path("qgs.socket");
        let child = Command::new(input("SOFTKVM_BIN"))
            .args(["qgs", "--socket"])
            .arg(&socket)
            .stderr(Stdio::null())
            .spawn()
            .expect("softkvm starts");
        let service = Service { child, socket };
        let start = Instant::now();
        while UnixStream::connect(&service.socket).is_err() {
            assert!(start.elapsed().as_secs() < 20, "the quoting service does not come up");
            thread::sleep(Duration::from_millis(20));
        }
        service
    }

    /// A quoting service of a test's own, for one request.
    fn served_by(&self, work: impl FnOnce(UnixStream) + Send + 'static) -> PathBuf {
        let socket = self.path("own.socket");
        let listener = UnixListener::bind(&socket).expect("a socket");
        thread::spawn(move || {
            if let Ok((client, _)) = listener.accept() {
                work(client);
            }
        });
        socket
    }
}

/// A running quoting service; it ends with the test.
struct Service {
    child: Child,
    socket: PathBuf,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// 64 distinct bytes.
fn report_data() -> [u8; 64] {
    std::array::from_fn(|i| 0x80 ^ (i as u8 * 3 + 1))
}

/// 48 distinct bytes, others for each identifier.
fn identifier(which: u8) -> [u8; 48] {
    std::array::from_fn(|i| (i as u8 * 5) ^ (which << 6 | 0x15))
}

fn identifiers() -> String {
    let [config, owner, owner_config] = [1, 2, 3].map(|which| hex(&identifier(which)));
    format!("mrconfigid={config},mrowner={owner},mrownerconfig={owner_config}")
}

/// The flags of the guest, without the verb.
fn guest(run: Cvmm, kernel: &str, cpus: &str) -> Cvmm {
    let cmdline = format!("console=ttyS0 panic=-1 cvmm.report={}", hex(&report_data()));
    run.args(["--memory", "512M", "--cpus", cpus, "--cmdline", &cmdline])
        .linux(&bzimage(kernel), kernel)
}

/// A guest whose reports `options` speaks of.
fn emulated(options: &str, kernel: &str, cpus: &str) -> Cvmm {
    let run = Cvmm::new(["--emulate", "--timeout", "200"]).arg(format!("--tdx={options}"));
    guest(run, kernel, cpus).reported()
}

fn quoted_by(socket: &Path) -> String {
    format!("quote=unix:{}", socket.display())
}

/// What `cvmm measure` says, checked by the oracle.
fn measured(bench: &Bench, kernel: &str, cpus: &str) -> String {
    let dump = bench.path("pages");
    let run = Cvmm::new(["measure", "--tdx", "--json", "--dump-pages"]).arg(&dump);
    let ended = guest(run, kernel, cpus).run();
    ended.expect_code(0);
    let value: Value = serde_json::from_str(&ended.console).expect("valid JSON");
    let digest = value["digests"][0]["digest"].as_str().expect("a digest").to_owned();
    assert_eq!(digest, oracle_tdx::mrtd(&oracle_tdx::pages(&dump)));
    digest
}

#[track_caller]
fn td_report(ended: &Ended) -> TdReport {
    TdReport::read_from_bytes(&ended.printed("tdreport")).expect("a whole TDREPORT")
}

/// How long fetching the quote took, in the guest's time if that is another than ours, and the error it ended with.
fn fetching(ended: &Ended) -> (Duration, u64) {
    let marks = ended.report()["marks"].as_array().expect("marks");
    let mark = |name: &str| marks.iter().find(|mark| mark["name"] == name).expect("a mark");
    let (begin, end) = (mark("attest-begin"), mark("attest-end"));
    let time = |mark: &Value| {
        let modelled = mark["modelled_ns"].as_u64();
        modelled.or_else(|| mark["wall_ns"].as_u64()).expect("a time")
    };
    (Duration::from_nanos(time(end) - time(begin)), end["number"].as_u64().expect("an errno"))
}

/// `dcap-qvl` with the root and the collateral that softkvm publishes.
struct Judge {
    verifier: QuoteVerifier,
    collateral: QuoteCollateralV3,
}

impl Judge {
    fn new(bench: &Bench) -> Self {
        let out = bench.path("collateral");
        let output = Command::new(input("SOFTKVM_BIN"))
            .args(["certs", "--tdx", "--out"])
            .arg(&out)
            .output()
            .expect("softkvm starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let read = |name: &str| std::fs::read(out.join(name)).expect("a file of the collateral");
        let (_, root) = pem_rfc7468::decode_vec(&read("root.pem")).expect("a certificate in PEM");
        Self {
            verifier: QuoteVerifier::new(root),
            collateral: serde_json::from_slice(&read("collateral.json")).expect("JSON"),
        }
    }

    fn verify(&self, quote: &[u8]) -> Result<VerifiedReport, String> {
        self.verifier.verify(quote, &self.collateral, NOW).map_err(|error| format!("{error:#}"))
    }
}

#[test]
fn the_quote_says_what_was_asked_for_and_verifies() {
    let bench = Bench::new();
    let service = bench.service();
    let judge = Judge::new(&bench);
    let options = format!("{},{}", identifiers(), quoted_by(&service.socket));
    let mut cells = Vec::new();
    for kernel in KERNELS {
        for cpus in ["1", "2"] {
            cells.push((format!("{kernel}, {cpus} vCPUs"), (kernel, cpus)));
        }
    }
    in_parallel(cells, |_, (kernel, cpus)| {
        let digest = measured(&Bench::new(), kernel, cpus);
        let ended = emulated(&options, kernel, cpus).run();
        ended.expect_code(0).expect_console("bytes from configfs-tsm");
        assert_eq!(ended.report()["digest"], digest);
        let report = td_report(&ended);
        says_what_was_asked_for(&report, &digest);

        let quote = ended.printed("report");
        let verified = judge.verify(&quote).expect("dcap-qvl believes it");
        assert_eq!(verified.status, "UpToDate");
        let td = verified.report.as_td10().expect("a TD's report");
        assert_eq!(hex(&td.mr_td), digest);
        assert_eq!(td.td_attributes, 0x1000_0000_u64.to_le_bytes());
        assert_eq!(td.mr_config_id, identifier(1));
        assert_eq!(td.mr_owner, identifier(2));
        assert_eq!(td.mr_owner_config, identifier(3));
        assert_eq!([td.rt_mr0, td.rt_mr1, td.rt_mr2, td.rt_mr3], [[0; 48]; 4]);
        assert_eq!(td.report_data, report_data());
        // Byte for byte what the TDREPORT says.
        let begin = size_of::<QuoteHeader>();
        assert_eq!(
            hex(&quote[begin..begin + size_of::<QuoteBody>()]),
            hex(QuoteBody::of(&report).as_bytes())
        );
        for at in (begin..begin + size_of::<QuoteBody>()).step_by(37) {
            let mut forged = quote.clone();
            forged[at] ^= 1;
            assert!(judge.verify(&forged).is_err(), "a flipped bit at {at:#x} goes unnoticed");
        }
        let intel = QuoteVerifier::new_prod().verify(&quote, &judge.collateral, NOW);
        assert!(intel.is_err(), "Intel's root vouches for a test's key");
    });
}

fn says_what_was_asked_for(report: &TdReport, digest: &str) {
    let TdReport { mac, tee_tcb_info, td_info, .. } = report;
    assert_eq!(mac.report_type, [ReportMac::TYPE_TDX, 0, 0, 0]);
    assert_eq!(mac.report_data, report_data());
    assert_eq!(mac.tee_info_hash, *Sha384::digest(td_info.as_bytes()));
    assert_eq!(mac.tee_tcb_info_hash, *Sha384::digest(tee_tcb_info.as_bytes()));
    assert_eq!(hex(&td_info.mrtd), digest);
    assert_eq!(td_info.attributes, TdAttributes::SEPT_VE_DISABLE);
    assert_eq!(td_info.attributes.0, 0x1000_0000);
    assert_eq!(td_info.mrconfigid, identifier(1));
    assert_eq!(td_info.mrowner, identifier(2));
    assert_eq!(td_info.mrownerconfig, identifier(3));
    assert_eq!(td_info.rtmr, [[0; 48]; 4], "the shim extends no register");
    assert_eq!(td_info.servtd_hash, [0; 48]);
    assert_eq!(td_info.reserved, [0; 64]);
}

#[test]
fn identifiers_that_are_not_given_are_zero() {
    let ended = emulated("", "6.12", "1").run();
    ended.expect_code(0);
    let td = td_report(&ended).td_info;
    assert_eq!([td.mrconfigid, td.mrowner, td.mrownerconfig], [[0; 48]; 3]);
    // Nobody was asked for a quote: the guest learns it at its first look, and the boot goes on.
    ended.expect_words("--tdx=quote=").expect_console("attestation report: errno");
    let (took, errno) = fetching(&ended);
    assert_eq!(errno, ENODATA);
    assert!(took < Duration::from_secs(3), "the guest waited {} s", took.as_secs());
}

#[test]
fn services_that_fail_are_told_to_the_guest_and_do_no_harm() {
    let nobody = |bench: &Bench| bench.path("nobody.socket");
    let hangs_up = |bench: &Bench| bench.served_by(drop);
    let hangs_up_late = |bench: &Bench| {
        bench.served_by(|mut client| {
            let _ = client.read(&mut [0; qgs::MAX_REQUEST]);
            let _ = client.write_all(&[0, 0, 1, 0, 7, 7]);
        })
    };
    let garbage = |bench: &Bench| {
        bench.served_by(|mut client| {
            let _ = client.read(&mut [0; qgs::MAX_REQUEST]);
            let _ = client.write_all(&[0, 0, 0, 64]);
            let _ = client.write_all(&[0xa5; 64]);
        })
    };
    let endless = |bench: &Bench| {
        bench.served_by(|mut client| while client.write_all(&[0xff; 4096]).is_ok() {})
    };
    type Make = fn(&Bench) -> PathBuf;
    let cases: [(&str, &str, Make, &str); 5] = [
        ("nobody", "7.2", nobody, "cannot be reached"),
        ("hangs up", "6.12", hangs_up, "does not answer"),
        ("hangs up in the middle", "7.2", hangs_up_late, "does not answer"),
        ("garbage", "6.12", garbage, "answers what is no quote"),
        ("endless", "7.2", endless, "answers what is no quote"),
    ];
    let cases = cases.map(|(name, kernel, make, words)| (name.to_owned(), (kernel, make, words)));
    in_parallel(cases.to_vec(), |_, (kernel, make, words)| {
        let bench = Bench::new();
        let socket = make(&bench);
        let ended = emulated(&quoted_by(&socket), kernel, "1").run();
        ended.expect_code(0).expect_words(words);
        ended.expect_words(&format!("no quote from unix:{}: ", socket.display()));
        ended.expect_console("attestation report: errno");
        let (took, errno) = fetching(&ended);
        assert_eq!(errno, if kernel == "6.12" { ENODATA } else { EIO });
        // Not until its patience is over, which is after 30 s.
        assert!(took < Duration::from_secs(15), "the guest waited {} s", took.as_secs());
        // The TDREPORT needs no service.
        assert_eq!(td_report(&ended).mac.report_data, report_data());
    });
}

#[test]
fn vcpus_run_on_while_a_slow_service_works() {
    const PAUSE: Duration = Duration::from_millis(1500);
    let bench = Bench::new();
    let service = bench.service();
    let behind = service.socket.clone();
    let slow = bench.served_by(move |mut client| {
        let mut request = vec![0; qgs::MAX_REQUEST];
        let len = client.read(&mut request).expect("a request");
        thread::sleep(PAUSE);
        let mut server = UnixStream::connect(behind).expect("the quoting service");
        server.write_all(&request[..len]).expect("a request is taken");
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).expect("an answer");
        client.write_all(&answer).expect("the monitor waits");
    });
    // In real time: where time is virtual, the guest's 30 s of patience are soon over when it does nothing else.
    let run = emulated(&quoted_by(&slow), "7.2", "2").env("SOFTKVM_REALTIME", "1");
    let ended = run.run();
    ended.expect_code(0);
    assert!(Judge::new(&bench).verify(&ended.printed("report")).is_ok());
    let (took, errno) = fetching(&ended);
    assert_eq!(errno, 0);
    assert!(took >= PAUSE, "the guest waited only {took:?}");
    let reasons = ended.report()["exits"]["by_reason"].as_array().expect("exits").clone();
    let asked = reasons.iter().find(|exit| exit["reason"] == "tdx_get_quote").expect("a request");
    assert_eq!(asked["count"], 1);
    let away = asked["monitor_wall_ns"].as_u64().map(Duration::from_nanos).expect("a time");
    assert!(away < PAUSE / 3, "its vCPU stood still for {away:?}");
}
