//! Bandwidth of memory (the four kernels of STREAM, McCalpin 1995), and how long a load takes whose address is not known
//! before.

use core::hint::black_box;

use abi::probes::{ProbeId, ProbeUnit};
use guest_init::statistics::Chance;

use super::{Outcome, Session, refused};
use crate::machine::Ring;
use crate::sys;

pub const STREAM: &[ProbeId] =
    &[ProbeId::STREAM_COPY, ProbeId::STREAM_SCALE, ProbeId::STREAM_ADD, ProbeId::STREAM_TRIAD];

/// One pass goes before those that count.
const PASSES: usize = 10;
const FACTOR: f64 = 3.0;
/// Elements of an array for each sample that is asked for, and at most: 64 MiB.
const ELEMENTS: u32 = 128;
const ELEMENTS_MAX: u32 = 8 << 20;

pub fn stream(session: &mut Session) -> Outcome {
    let len = session.count.saturating_mul(ELEMENTS).min(ELEMENTS_MAX) as usize;
    let array = || sys::map_numbers::<f64>(len).map_err(refused("no memory for the arrays"));
    let (a, b, c) = (array()?, array()?, array()?);
    a.fill(1.0);
    b.fill(2.0);
    let bytes = (len * size_of::<f64>()) as u64;
    let mut times = [[0; PASSES]; 4];
    for pass in 0..=PASSES {
        let passes = [
            session.clock.time(|| copy(a, c)),
            session.clock.time(|| scale(b, c)),
            session.clock.time(|| add(a, b, c)),
            session.clock.time(|| triad(a, b, c)),
        ];
        if let Some(at) = pass.checked_sub(1) {
            for (times, time) in times.iter_mut().zip(passes) {
                times[at] = time;
            }
        }
    }
    // As many arrays as each kernel reads and writes.
    let moved = [2, 2, 3, 3].map(|arrays| arrays * bytes);
    let hz = u128::from(session.clock.khz) * 1000;
    for ((id, times), moved) in STREAM.iter().zip(&mut times).zip(moved) {
        for time in times.iter_mut() {
            *time = (u128::from(moved) * hz / u128::from((*time).max(1))) as u64;
        }
        session.send(*id, ProbeUnit::BYTES_PER_SECOND, bytes, 1, times);
    }
    Ok(())
}

#[inline(never)]
fn copy(a: &[f64], c: &mut [f64]) {
    for (c, a) in c.iter_mut().zip(a) {
        *c = *a;
    }
    black_box(c);
}

#[inline(never)]
fn scale(b: &mut [f64], c: &[f64]) {
    for (b, c) in b.iter_mut().zip(c) {
        *b = FACTOR * *c;
    }
    black_box(b);
}

#[inline(never)]
fn add(a: &[f64], b: &[f64], c: &mut [f64]) {
    for ((c, a), b) in c.iter_mut().zip(a).zip(b) {
        *c = *a + *b;
    }
    black_box(c);
}

#[inline(never)]
fn triad(a: &mut [f64], b: &[f64], c: &[f64]) {
    for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
        *a = *b + FACTOR * *c;
    }
    black_box(a);
}

/// Words in a cache line.
const LINE: usize = 8;
/// 4 KiB to 16 MiB.
const SIZES: [usize; 7] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20];
/// Loads in a sample.
const LOADS: u32 = 64;

pub fn chase(session: &mut Session) -> Outcome {
    let memory = sys::map_numbers::<u64>(SIZES[SIZES.len() - 1] / size_of::<u64>());
    let memory = memory.map_err(refused("no memory to chase through"))?;
    let samples = session.samples()?;
    let warm_up = session.warm_up();
    for size in SIZES {
        let buffer = &mut memory[..size / size_of::<u64>()];
        Chance::new().ring(buffer, LINE);
        let Some(ring) = Ring::new(buffer) else { continue };
        let mut at = 0;
        for _ in 0..warm_up {
            at = ring.walk(at, u64::from(LOADS));
        }
        for sample in samples.iter_mut() {
            *sample = session.clock.time(|| at = ring.walk(at, u64::from(LOADS)));
        }
        black_box(at);
        session.report(ProbeId::CHASE, size as u64, LOADS, samples);
    }
    Ok(())
}
