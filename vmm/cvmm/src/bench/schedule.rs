//! In which order cells run: in blocks that have each of them once, shuffled, so that whatever drifts on the host hits all alike.

use serde::{Deserialize, Serialize};

use super::spec::Spec;
use crate::stats::Random;

/// A run to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slot {
    /// Which time it is for its cell.
    pub block: u32,
    /// Which cell.
    pub cell: usize,
    /// One that is kept and does not count.
    pub warmup: bool,
}

/// All runs of an experiment. The same spec always has the same ones in the same order.
pub fn slots(spec: &Spec) -> Vec<Slot> {
    let block = |block: u32| {
        let mut cells: Vec<usize> = (0..spec.cells.len()).collect();
        // A generator for each block, so that more repetitions leave those before as they are.
        Random::seeded(spec.seed.wrapping_add(u64::from(block) << 32)).shuffle(&mut cells);
        cells.into_iter().map(move |cell| Slot { block, cell, warmup: block < spec.warmup })
    };
    (0..spec.warmup + spec.repetitions).flat_map(block).collect()
}
