//! A small benchmark without memory: Eratosthenes' sieve.

use abi::probes::ProbeId;

use super::{Outcome, Session, obstacle};

const END: usize = 8192;
/// Primes below [`END`].
const PRIMES: usize = 1028;

pub fn sieve(session: &mut Session) -> Outcome {
    let mut composite = [false; END];
    if count(&mut composite) != PRIMES {
        return Err(obstacle("the processor cannot count primes"));
    }
    let samples = session.numbers(session.count.div_ceil(10))?;
    for sample in samples.iter_mut() {
        *sample = session.clock.time(|| {
            core::hint::black_box(count(&mut composite));
        });
    }
    session.report(ProbeId::INTEGER, 0, 1, samples);
    Ok(())
}

fn count(composite: &mut [bool; END]) -> usize {
    composite.fill(false);
    let mut primes = 0;
    for number in 2..END {
        if composite[number] {
            continue;
        }
        primes += 1;
        composite[number..].iter_mut().step_by(number).for_each(|multiple| *multiple = true);
    }
    primes
}
