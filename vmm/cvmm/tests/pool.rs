//! `cvmm pool` from outside: guests on softkvm, handed out to clients, good ones and bad ones.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, stderr};
use serde_json::Value;

const TEXT: &str = "test guest: char by char\ntest guest: one string\n";
/// The guest in the shim's place; it writes a text and powers off.
const PLAIN: &[&str] =
    &["--plain", "--kernel", "guest.elf", "--shim", "guest.bin", "--memory", "64M"];
const SNP: &[&str] = &["--snp", "--kernel", "guest.elf", "--memory", "64M", "--until=kernel-entry"];
const PATIENCE: Duration = Duration::from_secs(60);

/// A pool at work; it ends with this value.
struct Pool<'a> {
    bench: &'a Bench,
    child: Child,
}

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn emulator() -> bool {
    let there = PathBuf::from(env!("CARGO_BIN_EXE_cvmm")).with_file_name("libsoftkvm_preload.so");
    if !there.is_file() {
        eprintln!("skipped: {} has not been built", there.display());
    }
    there.is_file()
}

impl Pool<'_> {
    fn start<'a>(bench: &'a Bench, flags: &[&str], guest: &[&str]) -> Pool<'a> {
        let child = Command::new(env!("CARGO_BIN_EXE_cvmm"))
            .args(["pool", "serve", "--socket", "pool"])
            .args(flags)
            .args(["--", "--emulate", "--timeout", "60"])
            .args(guest)
            .current_dir(bench.path("."))
            .env_remove("LD_PRELOAD")
            .env_remove("CVMM_SOFTKVM")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Pool { bench, child }
    }

    fn status(&self) -> Option<Value> {
        let output = self.bench.cvmm(&["pool", "status", "--socket", "pool"]);
        serde_json::from_slice::<Value>(&output.stdout).ok().map(|answer| answer["status"].clone())
    }

    /// Waits until it has so many guests ready.
    fn is_ready(&self, count: u64) -> Value {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            match self.status() {
                Some(status) if status["ready"] == count => return status,
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        panic!("never {count} ready: {:?}", self.status());
    }

    fn take(&self, flags: &[&str]) -> Output {
        self.bench.cvmm(&[&["pool", "take", "--socket", "pool"], flags].concat())
    }

    /// Says something to it, and gives what it answers until it closes.
    fn say(&self, words: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.bench.path("pool")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(words);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        // Who has said too much finds the connection reset behind the answer.
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    /// Ends it: by SIGTERM, as whoever runs tests in the background may have SIGINT ignored.
    fn end(mut self) -> (ExitStatus, String) {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(killed.unwrap().success());
        let status = self.child.wait().unwrap();
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status, said)
    }
}

#[test]
fn a_guest_is_handed_out_with_its_console_and_report() {
    if !emulator() {
        return;
    }
    let bench = Bench::new();
    let pool = Pool::start(&bench, &["--ready", "2", "--report", "pool.json"], PLAIN);
    pool.is_ready(2);
    let taken = pool.take(&["--report", "run.json", "--json"]);
    assert_eq!(taken.status.code(), Some(0), "{}", stderr(&taken));
    assert_eq!(String::from_utf8_lossy(&taken.stdout), TEXT);
    let said: Value = serde_json::from_str(&stderr(&taken)).unwrap();
    assert!(said["hand_out_wall_ns"].as_u64().unwrap() > 0, "{said}");
    assert!(said["held"]["launch_wall_ns"].as_u64().unwrap() > 0, "{said}");
    let report = bench.report("run.json");
    assert_eq!(report["outcome"]["kind"], "power_off");
    // How long it was held is a phase of its own.
    let phases = report["phases"].as_array().unwrap();
    assert!(phases.iter().any(|phase| phase["id"] == "H5"), "{phases:?}");

    // Without --report there is a summary, and the pool fills up again.
    let other = pool.take(&["--wait", "60"]);
    assert_eq!(String::from_utf8_lossy(&other.stdout), TEXT);
    assert!(stderr(&other).contains("cvmm: plain guest"), "{}", stderr(&other));
    let status = pool.is_ready(2);
    assert_eq!(
        (&status["handed_out"], &status["out"], &status["failed"]),
        (&2.into(), &0.into(), &0.into())
    );

    let (status, said) = pool.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(!bench.path("pool").exists(), "the socket goes with its pool");
    let report = bench.report("pool.json");
    assert_eq!(report["schema"], "cvmm-pool/1");
    assert_eq!(report["hand_outs"].as_array().unwrap().len(), 2);
}

#[test]
fn a_sealed_guest_has_the_digest_that_is_predicted_for_it() {
    if !emulator() {
        return;
    }
    let bench = Bench::new();
    let pool = Pool::start(&bench, &["--ready", "1"], SNP);
    pool.is_ready(1);
    let taken = pool.take(&["--json", "--report", "run.json"]);
    assert_eq!(taken.status.code(), Some(0), "{}", stderr(&taken));
    let said: Value = serde_json::from_str(&stderr(&taken)).unwrap();
    let measured = bench.cvmm(&["measure", "--snp", "--kernel", "guest.elf", "--memory", "64M"]);
    assert_eq!(said["held"]["digest"], String::from_utf8_lossy(&measured.stdout).trim());
    // LAUNCH_START, three pages and a VMSA, LAUNCH_FINISH: the client has not waited for them.
    assert!(said["held"]["measuring_modelled_ns"].as_u64().unwrap() > 15_000_000, "{said}");
    assert_eq!(bench.report("run.json")["digest"], said["held"]["digest"]);
}

#[test]
fn bad_clients_are_told_so_and_take_nothing() {
    if !emulator() {
        return;
    }
    let bench = Bench::new();
    let mut pool = Pool::start(&bench, &["--ready", "1", "--out", "1"], PLAIN);
    pool.is_ready(1);
    for words in [
        &b"\n"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"{\"request\":\"take\"}",
        b"{\"request\":\"take\"}\n{\"request\":\"take\"}\n",
        b"\xff\xfe\n",
        &[b'x'; 10_000],
    ] {
        let answer = pool.say(words);
        assert!(answer.starts_with("{\"error\":"), "{answer}");
    }
    let answer = pool.say(b"{\"request\":\"take\"}\n");
    assert!(answer.contains("three descriptors"), "{answer}");
    // One that says nothing keeps nobody else waiting.
    let silent = UnixStream::connect(bench.path("pool")).unwrap();
    assert_eq!(String::from_utf8_lossy(&pool.take(&[]).stdout), TEXT);
    drop(silent);
    pool.is_ready(1);

    // A second pool does not take the socket, and what it is told about guests is checked before anything starts.
    let second =
        bench.cvmm(&["pool", "serve", "--socket", "pool", "--", "--plain", "--kernel", "k"]);
    assert_eq!(second.status.code(), Some(2), "{}", stderr(&second));
    for guest in
        [&["--plain"][..], &["measure"], &["--plain", "--kernel=k", "--report=r"], &["--no"]]
    {
        let args = [&["pool", "serve", "--socket", "other", "--"], guest].concat();
        assert_eq!(bench.cvmm(&args).status.code(), Some(2), "{guest:?}");
        assert!(!bench.path("other").exists());
    }
    assert!(pool.child.try_wait().unwrap().is_none());
    let nobody = bench.cvmm(&["pool", "take", "--socket", "nothing"]);
    assert_eq!(nobody.status.code(), Some(5), "{}", stderr(&nobody));
}

#[test]
fn a_pool_whose_first_launch_fails_says_why_and_ends() {
    if !emulator() {
        return;
    }
    let bench = Bench::new();
    let mut pool = Pool::start(&bench, &[], &["--snp", "--kernel", "missing"]);
    let status = pool.child.wait().unwrap();
    let mut said = String::new();
    pool.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(4), "{said}");
    assert!(said.contains("error: cannot read the kernel missing"), "{said}");
    assert!(!bench.path("pool").exists());
}

#[test]
fn no_guest_outlives_its_client_or_its_pool() {
    if !emulator() {
        return;
    }
    let bench = Bench::new();
    // It never ends by itself: its mark is never reached, and its shim is a loop.
    bench.file("loop.bin", &[&[0x90; 16][..], &[0xeb, 0xfe]].concat());
    let guest = ["--plain", "--kernel", "guest.elf", "--shim", "loop.bin", "--memory", "64M"];
    let pool = Pool::start(&bench, &["--ready", "1", "--out", "2"], &guest);
    pool.is_ready(1);
    let take = || {
        let mut client = Command::new(env!("CARGO_BIN_EXE_cvmm"))
            .args(["pool", "take", "--socket", "pool", "--wait", "60", "--json"])
            .current_dir(bench.path("."))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = Vec::new();
        let mut stderr = client.stderr.take().unwrap();
        let mut byte = [0];
        while !said.ends_with(b"\n}\n") && stderr.read(&mut byte).unwrap() == 1 {
            said.push(byte[0]);
        }
        let said: Value = serde_json::from_slice(&said).unwrap();
        (client, said["pid"].as_u64().unwrap())
    };
    let lives = |pid: u64| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    let gone = |pid: u64| {
        let begin = Instant::now();
        while lives(pid) {
            assert!(begin.elapsed() < PATIENCE, "{pid} lives on");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let (mut client, first) = take();
    assert!(lives(first));
    client.kill().unwrap();
    client.wait().unwrap();
    gone(first);
    let (mut client, second) = take();
    assert!(lives(second));
    let (status, said) = pool.end();
    assert_eq!(status.code(), Some(0), "{said}");
    gone(second);
    // It is told how its guest ended.
    assert_eq!(client.wait().unwrap().code(), Some(130));
}
