//! First and second touch of memory.

use abi::probes::ProbeId;
use guest_init::statistics::Chance;

use super::{Outcome, Session, obstacle, refused};
use crate::machine::touch;
use crate::sys::{self, File, Mode, Pages};

pub const SMALL_SEQUENTIAL: &[ProbeId] =
    &[ProbeId::TOUCH_4K_FIRST_SEQUENTIAL, ProbeId::TOUCH_4K_SECOND_SEQUENTIAL];
pub const SMALL_RANDOM: &[ProbeId] =
    &[ProbeId::TOUCH_4K_FIRST_RANDOM, ProbeId::TOUCH_4K_SECOND_RANDOM];
pub const LARGE_SEQUENTIAL: &[ProbeId] =
    &[ProbeId::TOUCH_2M_FIRST_SEQUENTIAL, ProbeId::TOUCH_2M_SECOND_SEQUENTIAL];
pub const LARGE_RANDOM: &[ProbeId] =
    &[ProbeId::TOUCH_2M_FIRST_RANDOM, ProbeId::TOUCH_2M_SECOND_RANDOM];

const SMALL: usize = 4096;
const LARGE: usize = 2 << 20;
/// 256 MiB.
const SMALL_MAX: u32 = 1 << 16;

pub fn small_sequential(session: &mut Session) -> Outcome {
    small(session, SMALL_SEQUENTIAL, false)
}

pub fn small_random(session: &mut Session) -> Outcome {
    small(session, SMALL_RANDOM, true)
}

pub fn large_sequential(session: &mut Session) -> Outcome {
    large(session, LARGE_SEQUENTIAL, false)
}

pub fn large_random(session: &mut Session) -> Outcome {
    large(session, LARGE_RANDOM, true)
}

fn small(session: &mut Session, ids: &[ProbeId], random: bool) -> Outcome {
    let count = session.count.min(SMALL_MAX);
    let memory = sys::map_fresh(count as usize * SMALL, Pages::Small)
        .map_err(refused("no memory to touch"))?;
    // A kernel without large pages knows no advice about them.
    let _ = sys::use_large_pages(memory, Pages::Small);
    twice(session, ids, memory, SMALL, random, |_| Ok(()))
}

fn large(session: &mut Session, ids: &[ProbeId], random: bool) -> Outcome {
    let count = (session.count / 100).clamp(4, 32) as usize;
    let memory =
        sys::map_fresh(count * LARGE, Pages::Large).map_err(refused("no memory to touch"))?;
    // Below 512 MiB of memory Linux does not give any unless it is told to (mm/huge_memory.c `hugepage_init`).
    let _ = File::open(c"/sys/kernel/mm/transparent_hugepage/enabled", Mode::Write)
        .and_then(|file| file.write_all(b"madvise"));
    sys::use_large_pages(memory, Pages::Large).map_err(refused("the kernel has no large pages"))?;
    twice(session, ids, memory, LARGE, random, |memory| {
        // Behind a large page that is there no other page is missing.
        let before = sys::faults().map_err(refused("faults are not counted"))?;
        memory.chunks_exact_mut(LARGE).for_each(|page| touch(&mut page[SMALL]));
        let after = sys::faults().map_err(refused("faults are not counted"))?;
        if after != before {
            return Err(obstacle("the kernel gave small pages instead of large ones"));
        }
        Ok(())
    })
}

/// Touches all pages for the first time, looks what has come of it, and touches them for the second time.
fn twice(
    session: &mut Session,
    ids: &[ProbeId],
    memory: &mut [u8],
    page: usize,
    random: bool,
    judge: impl Fn(&mut [u8]) -> Outcome,
) -> Outcome {
    let bytes = memory.len() as u64;
    let count = memory.len() / page;
    let order = sys::map_numbers::<u32>(count).map_err(refused("no memory for the order"))?;
    for (number, slot) in order.iter_mut().enumerate() {
        *slot = number as u32;
    }
    if random {
        Chance::new().order(order);
    }
    let first = session.numbers(count as u32)?;
    let second = session.numbers(count as u32)?;
    let clock = session.clock;
    let pass = |samples: &mut [u64], memory: &mut [u8]| {
        for (sample, number) in samples.iter_mut().zip(order.iter()) {
            let byte = &mut memory[*number as usize * page];
            *sample = clock.time(|| touch(byte));
        }
    };
    pass(first, memory);
    judge(memory)?;
    pass(second, memory);
    for (id, samples) in ids.iter().zip([first, second]) {
        session.report(*id, bytes, 1, samples);
    }
    Ok(())
}
