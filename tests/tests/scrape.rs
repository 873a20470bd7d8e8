//! The host reads the monitor's memory, looking for a secret that the guest has written.
//!
//! What is searched is all that the process of cvmm has mapped and may read, by `/proc/PID/mem`,
//! but for one kind of mapping. softkvm, which plays the whole machine, lives in the same process,
//! and holds the modelled machine's DRAM there: guest memory descriptors (`/memfd:kvm-gmem` in
//! `/proc/PID/maps`). On hardware, private guest memory is encrypted there, and no mapping of it
//! exists in the monitor. That DRAM, and the registers of the modelled processor, are not the
//! monitor's memory. Everything else is: its heap and stacks, the shared half of guest memory, the
//! pages it shares with KVM.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::Child;
use std::time::{Duration, Instant};

use cvmm_tests::{Cvmm, bzimage, hex};

/// 24 bytes that nothing else writes. Only digits of it appear on the command line.
const SECRET: [u8; 24] = *b"\x9d\x01\xfe\x37swordfish\xa9\x1c\x8e\x55\x02\xd4\xbb\xe0\x71\x6b\x13";

/// A running cvmm, killed when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts a guest that holds the secret, and waits until it does.
    fn with_secret(technology: &str) -> Self {
        let cmdline =
            format!("console=ttyS0 panic=-1 cvmm.secret={} cvmm.hold=100000", hex(&SECRET));
        let run = Cvmm::new(["--emulate", "--timeout", "300", technology])
            .args(["--memory", "512M", "--cmdline", &cmdline])
            .linux(&bzimage("6.12"), "6.12");
        let mut running = Self(run.command().spawn().expect("cvmm starts"));
        let mut console = running.0.stdout.take().expect("a pipe");
        let mut text = String::new();
        let mut chunk = [0; 4096];
        let start = Instant::now();
        while !text.contains("cvmm-init: holding") {
            let len = console.read(&mut chunk).expect("the console");
            text.push_str(&String::from_utf8_lossy(&chunk[..len]));
            if len == 0 || start.elapsed() > Duration::from_secs(240) {
                let _ = running.0.kill();
                let mut words = String::new();
                let _ = running.0.stderr.take().map(|mut end| end.read_to_string(&mut words));
                panic!("the guest never held its secret\n{text}\n{words}");
            }
        }
        assert!(text.contains("secret of 24 bytes is in memory"), "{text}");
        // Whatever cvmm still says must not block it.
        std::thread::spawn(move || std::io::copy(&mut console, &mut std::io::sink()));
        running
    }

    /// Searches the memory of the process; gives places and what was searched.
    fn search(&self) -> Search {
        let dir = format!("/proc/{}", self.0.id());
        let maps = std::fs::read_to_string(format!("{dir}/maps")).expect("the mappings");
        let memory = File::open(format!("{dir}/mem")).expect("the memory");
        let mut search = Search::default();
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            let (Some(range), Some(rights)) = (words.next(), words.next()) else { continue };
            let name = words.nth(3).unwrap_or("(anonymous)");
            let (from, to) = range.split_once('-').expect("a range");
            let number = |text| u64::from_str_radix(text, 16).expect("an address");
            if !rights.starts_with('r') || name.starts_with("[v") {
                continue;
            }
            search.range(&memory, number(from), number(to), name);
        }
        search
    }
}

/// What was found where.
#[derive(Default, Debug)]
struct Search {
    /// In the monitor's memory.
    monitor: Vec<String>,
    /// In the modelled machine's DRAM.
    dram: Vec<String>,
    bytes: u64,
}

impl Search {
    fn range(&mut self, memory: &File, from: u64, to: u64, name: &str) {
        const CHUNK: usize = 1 << 20;
        let mut window = vec![0; CHUNK + SECRET.len()];
        let mut at = from;
        while at < to {
            let len = usize::try_from(to - at).map_or(window.len(), |len| len.min(window.len()));
            // A hole (a guard page, the end of a file) is skipped.
            let read = memory.read_at(&mut window[..len], at).unwrap_or(0);
            self.bytes += read.min(CHUNK) as u64;
            for (n, _) in window[..read]
                .windows(SECRET.len())
                .enumerate()
                .filter(|(n, found)| *n < CHUNK && *found == SECRET)
            {
                let place = format!("{:#x} in {name}", at + n as u64);
                let dram = name.starts_with("/memfd:kvm-gmem");
                if dram { &mut self.dram } else { &mut self.monitor }.push(place);
            }
            at += CHUNK as u64;
        }
    }
}

#[test]
fn a_plain_guests_secret_is_in_the_monitors_memory() {
    let found = Running::with_secret("--plain").search();
    println!("plain: found at {:?} in {} MiB", found.monitor, found.bytes >> 20);
    assert!(!found.monitor.is_empty(), "{found:?}");
}

fn secret_is_hidden(technology: &str) {
    let found = Running::with_secret(technology).search();
    println!("{technology}: not found in {} MiB", found.bytes >> 20);
    assert!(found.monitor.is_empty(), "{found:?}");
    // The search works, and the secret exists: the modelled machine's own DRAM has it.
    assert!(!found.dram.is_empty(), "{found:?}");
    assert!(found.bytes > 64 << 20, "only {} bytes were searched", found.bytes);
}

#[test]
fn an_snp_guests_secret_is_not() {
    secret_is_hidden("--snp");
}

#[test]
fn a_tdx_guests_secret_is_not() {
    secret_is_hidden("--tdx");
}
