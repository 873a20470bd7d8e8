//! How fast the shim hashes beside the `sha2` crate on the same processor.
//!
//! `cargo bench -p cvmm-tests --bench sha256 [-- --json FILE]`
//!
//! 64 MiB of memory in pieces of 1 MiB, each by every way in turn, in an order that turns as well, so that neither caches nor
//! what else this machine does favours one. The shim's code is its library's, compiled for size as in its images. The program
//! fails if the shim reaches less than nine tenths of what `sha2` does; that takes the SHA instructions where there are any.
//!
//! UNSAFETY: the copy is the instruction that the shim copies by.
#![allow(unsafe_code)]

use std::arch::asm;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;
use sha2::{Digest, Sha256};
use shim::sha256;

const MEMORY: usize = 64 << 20;
const PIECE: usize = 1 << 20;
const PAGE: usize = 4096;
const ROUNDS: usize = 9;
/// What the shim must reach of the crate's speed.
const ENOUGH: f64 = 0.9;

/// A way to hash a piece; the second buffer is for a copy of it.
type Way = (&'static str, fn(&[u8], &mut [u8]) -> [u8; 32]);

const WAYS: [Way; 4] = [
    ("sha2", |bytes, _| Sha256::digest(bytes).into()),
    ("shim", |bytes, _| sha256::digest(bytes, has_sha())),
    ("shim, copied page by page", copy_and_hash),
    ("shim, without SHA instructions", |bytes, _| sha256::digest(bytes, false)),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let file = words.iter().skip_while(|word| *word != "--json").nth(1);
    let memory: Vec<u8> = (0..MEMORY).map(|i| ((i * 7) ^ (i >> 9)) as u8).collect();
    let mut copy = vec![1; PIECE];
    let mut times = WAYS.map(|_| Vec::new());
    for round in 0..ROUNDS {
        for (at, piece) in memory.chunks(PIECE).enumerate() {
            let expected: [u8; 32] = Sha256::digest(piece).into();
            for turn in 0..WAYS.len() {
                let way = (round + at + turn) % WAYS.len();
                let start = Instant::now();
                let digest = WAYS[way].1(piece, &mut copy);
                times[way].push(start.elapsed());
                assert_eq!(digest, expected, "{}", WAYS[way].0);
            }
        }
    }
    let speeds = times.map(|mut times| {
        times.sort_unstable();
        mib_per_second(times[times.len() / 2])
    });
    println!("SHA instructions: {}", if has_sha() { "yes" } else { "no" });
    println!("\n{:32} {:>8} {:>8}", "median of 1 MiB pieces", "MiB/s", "of sha2");
    for ((name, _), speed) in WAYS.iter().zip(speeds) {
        println!("{name:32} {speed:8.1} {:8.3}", speed / speeds[0]);
    }
    if let Some(file) = file {
        let result = json!({
            "schema": "cvmm-sha256/1",
            "sha_instructions": has_sha(),
            "mib_per_second": WAYS.iter().zip(speeds).map(|((name, _), s)| (*name, s)).collect::<std::collections::BTreeMap<_, _>>(),
        });
        std::fs::write(file, format!("{result:#}\n")).expect("the result can be written");
    }
    if speeds[1] >= ENOUGH * speeds[0] {
        return ExitCode::SUCCESS;
    }
    println!("\nThe shim reaches less than {ENOUGH} of what sha2 does.");
    ExitCode::FAILURE
}

fn has_sha() -> bool {
    is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1")
}

fn mib_per_second(piece: Duration) -> f64 {
    PIECE as f64 / (1 << 20) as f64 / piece.as_secs_f64()
}

/// As the shim takes a file out of shared memory: a page is copied, then hashed where it was copied to.
fn copy_and_hash(bytes: &[u8], copy: &mut [u8]) -> [u8; 32] {
    let mut hash = sha256::Sha256::new(has_sha());
    for (to, from) in copy.chunks_mut(PAGE).zip(bytes.chunks(PAGE)) {
        // SAFETY: both are as long as the shorter, which is what is copied.
        unsafe {
            asm!(
                "rep movsb",
                inout("rdi") to.as_mut_ptr() => _,
                inout("rsi") from.as_ptr() => _,
                inout("rcx") from.len().min(to.len()) => _,
                options(nostack, preserves_flags),
            );
        }
        hash.update(to);
    }
    hash.finish(&[])
}
