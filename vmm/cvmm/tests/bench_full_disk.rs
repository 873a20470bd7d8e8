//! A file of runs on a disk that is full. A program of its own, because the limit that stands for the disk is one of the process.
//!
//! UNSAFETY: a resource limit and a signal's disposition.
#![allow(unsafe_code, clippy::unwrap_used)]

use cvmm::bench::host::Host;
use cvmm::bench::journal::{self, Guest, Journal, Run};
use cvmm::bench::schedule::Slot;
use cvmm::bench::spec::{Given, Spec};
use cvmm::error::ExitCode;

fn limit_files(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a valid limit is read; the signal is ignored, so that the write fails instead.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
}

#[test]
fn a_full_disk_is_told_and_costs_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.jsonl");
    let text = "name = \"x\"\nabout = \"y\"\nrepetitions = 9\n[[matrix]]\ntechnology = \"plain\"\n";
    let spec = Spec::parse("spec", text, dir.path(), &Given::default()).unwrap();
    let (mut file, _) = Journal::open(&path, &spec, &Host::here()).unwrap();
    let run = |block| Run {
        slot: Slot { block, cell: 0, warmup: false },
        began_unix_ms: 1,
        guests: vec![Guest {
            exit_code: Some(0),
            error: None,
            report: Some("r".repeat(9_000).into()),
        }],
    };
    file.append(&run(0)).unwrap();
    file.append(&run(1)).unwrap();
    let before = std::fs::read(&path).unwrap();

    // The first half of the line still fits.
    limit_files(before.len() as u64 + 4_500);
    let error = file.append(&run(2)).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Io);
    let complaint = error.complaint();
    assert!(complaint.error.contains("cannot write the bench file"), "{complaint}");
    assert_eq!(std::fs::read(&path).unwrap(), before, "the file is as it was");
    let contents = journal::read(&path).unwrap();
    assert_eq!((contents.runs.len(), contents.torn), (2, None));

    // With room again it goes on, in the same process and in another.
    limit_files(libc::RLIM_INFINITY);
    file.append(&run(2)).unwrap();
    drop(file);
    let (_, contents) = Journal::open(&path, &spec, &Host::here()).unwrap();
    assert_eq!(contents.runs.len(), 3);
}
