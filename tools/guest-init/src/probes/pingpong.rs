//! A word between two processors, there and back.

use core::sync::atomic::{AtomicU32, Ordering};

use abi::probes::ProbeId;

use super::{Obstacle, Outcome, Session, obstacle, refused};
use crate::machine::cycles;
use crate::sys::{self, Child, Sys};

/// The value that ends the partner.
const OVER: u32 = u32::MAX;
/// A partner that does not answer for so many seconds is not there.
const PATIENCE: u64 = 5;

/// How a process waits for its word.
trait Waiting {
    /// Sets a word, for the other process to see.
    fn set(word: &AtomicU32, value: u32) -> Sys;
    /// Waits for a while until the word is no longer this.
    fn wait(word: &AtomicU32, value: u32) -> Sys;
}

struct Spinning;

impl Waiting for Spinning {
    fn set(word: &AtomicU32, value: u32) -> Sys {
        word.store(value, Ordering::Release);
        Ok(())
    }

    fn wait(_: &AtomicU32, _: u32) -> Sys {
        core::hint::spin_loop();
        Ok(())
    }
}

struct Sleeping;

impl Waiting for Sleeping {
    fn set(word: &AtomicU32, value: u32) -> Sys {
        word.store(value, Ordering::Release);
        sys::wake_word(word)
    }

    fn wait(word: &AtomicU32, value: u32) -> Sys {
        sys::wait_on_word(word, value)
    }
}

pub fn line(session: &mut Session) -> Outcome {
    measure::<Spinning>(session, ProbeId::PINGPONG_LINE)
}

pub fn futex(session: &mut Session) -> Outcome {
    measure::<Sleeping>(session, ProbeId::PINGPONG_FUTEX)
}

fn measure<W: Waiting>(session: &mut Session, id: ProbeId) -> Outcome {
    if session.cpus < 2 {
        return Err(obstacle("there is one processor only"));
    }
    let samples = session.samples()?;
    let [there, back] = sys::map_shared().map_err(refused("no shared memory"))?;
    let pinned = refused("cannot choose a processor");
    let partner = match sys::fork().map_err(refused("no second process"))? {
        Child::Here => sys::leave(u8::from(answer::<W>(there, back).is_err())),
        Child::Away(partner) => partner,
    };
    let result = sys::run_on(0).map_err(pinned).and_then(|()| {
        let patience = session.clock.of_ns(PATIENCE * 1_000_000_000);
        let rounds = samples.len() as u32 + session.warm_up();
        for round in 1..=rounds {
            let begin = cycles();
            send::<W>(there, back, round, patience)?;
            if let Some(sample) = samples.get_mut((rounds - round) as usize) {
                *sample = session.clock.since(begin);
            }
        }
        Ok(())
    });
    // It is woken even if it was late.
    let _ = W::set(there, OVER);
    sys::ended(partner).map_err(refused("the second process was lost"))?;
    result?;
    session.report(id, 0, 1, samples);
    Ok(())
}

/// Sends a number, and has it back.
fn send<W: Waiting>(
    there: &AtomicU32,
    back: &AtomicU32,
    round: u32,
    patience: u64,
) -> Result<(), Obstacle> {
    W::set(there, round).map_err(refused("the word cannot be sent"))?;
    let begin = cycles();
    loop {
        let seen = back.load(Ordering::Acquire);
        if seen == round {
            return Ok(());
        }
        if cycles().wrapping_sub(begin) > patience {
            return Err(obstacle("the other processor does not answer"));
        }
        W::wait(back, seen).map_err(refused("the word cannot be waited for"))?;
    }
}

/// The partner: sends every number back.
fn answer<W: Waiting>(there: &AtomicU32, back: &AtomicU32) -> Sys {
    sys::run_on(1)?;
    let mut seen = 0;
    loop {
        match there.load(Ordering::Acquire) {
            OVER => return Ok(()),
            round if round != seen => {
                seen = round;
                W::set(back, round)?;
            }
            round => W::wait(there, round)?,
        }
    }
}
