//! The blocks of one machine, shared by its processors.
//!
//! A block is known by the address it runs at, the host page its code comes from and the mode it
//! was decoded for. Pages that hold blocks have their TLB write tags withheld on every processor;
//! a write into a 64-byte line that holds code drops all blocks of the page. Dropped blocks are
//! freed by [`CodeCache::bury`], which is called when none is running. Processors of one machine
//! run one at a time, so no lock is needed.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use super::op::{Head, Slot};

/// What the code cache has been doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CodeStats {
    /// Blocks built.
    pub blocks: u64,
    /// Instructions in them.
    pub decoded: u64,
    /// Pages whose blocks were dropped because they were written to.
    pub invalidations: u64,
    /// Instructions the reference engine executed, whether chosen or as the fast one's fallback.
    pub steps: u64,
}

/// How code is executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Blocks of specialised handlers.
    #[default]
    Fast,
    /// One instruction at a time; slow, and what the fast engine is compared with.
    Reference,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub rip: u64,
    pub page: u64,
    pub mode: u32,
    /// The host page that a bridge ends in; else 0.
    pub second: u64,
}

impl Key {
    /// One instruction that lies on two pages.
    pub fn is_bridge(&self) -> bool {
        self.second != 0
    }
}

/// A decoded block.
pub(crate) struct Block {
    pub slots: Box<[Slot]>,
}

impl Block {
    fn head(&self) -> *const Head {
        self.slots.as_ptr().cast()
    }
}

#[derive(Default)]
struct CodePage {
    /// 64-byte lines that hold code.
    lines: u64,
    keys: Vec<Key>,
}

/// The blocks of one machine.
#[derive(Default)]
pub struct CodeCache {
    blocks: HashMap<Key, Block, BuildHasherDefault<Mix>>,
    pages: HashMap<u64, CodePage, BuildHasherDefault<Mix>>,
    /// Every page that ever became a code page, in order: processors catch up with it.
    log: Vec<u64>,
    graveyard: Vec<Block>,
    drops: u64,
    pub(crate) kind: Kind,
    pub(crate) stats: CodeStats,
    /// The world wants to hear of code at these addresses, before a block of it runs for the first time.
    pub watch: Range<u64>,
}

// The raw pointers inside are links between blocks of the same cache.
#[allow(unsafe_code)]
// SAFETY: the links point into allocations the cache owns, and moving it moves none of them.
unsafe impl Send for CodeCache {}

impl CodeCache {
    /// An empty cache for the given engine.
    pub fn new(kind: Kind) -> Self {
        Self { kind, ..Self::default() }
    }

    /// What it has been doing.
    pub fn stats(&self) -> CodeStats {
        self.stats
    }

    /// Drops everything: host memory has been mapped anew.
    pub fn clear(&mut self) {
        self.drops += 1;
        self.pages.clear();
        self.graveyard.extend(self.blocks.drain().map(|(_, block)| block));
    }

    /// Host memory was written to, or given to another use, from outside the processor.
    pub fn host_wrote(&mut self, host: *const u8, len: usize) {
        let first = host as u64 & !0xfff;
        let last = (host as u64).wrapping_add(len.max(1) as u64 - 1) & !0xfff;
        if (last - first) >> 12 > self.pages.len() as u64 {
            let mut hit: Vec<u64> =
                self.pages.keys().copied().filter(|page| (first..=last).contains(page)).collect();
            hit.sort_unstable();
            hit.into_iter().for_each(|page| self.drop_page(page));
        } else {
            (first..=last).step_by(4096).for_each(|page| self.drop_page(page));
        }
    }

    /// Counts how often blocks were dropped.
    #[inline(always)]
    pub(crate) fn drops(&self) -> u64 {
        self.drops
    }

    /// Pages that became code pages since `seen`.
    pub(crate) fn new_pages(&self, seen: usize) -> &[u64] {
        self.log.get(seen..).unwrap_or(&[])
    }

    /// Length of the log that [`CodeCache::new_pages`] reads.
    pub(crate) fn page_count(&self) -> usize {
        self.log.len()
    }

    pub(crate) fn find(&self, key: &Key) -> Option<*const Head> {
        self.blocks.get(key).map(Block::head)
    }

    /// Adds a block of `len` bytes.
    pub(crate) fn add(&mut self, key: Key, block: Block, len: usize) -> *const Head {
        let first = len.min(4096 - (key.rip & 0xfff) as usize);
        self.note(key, key.page, lines(key.rip & 0xfff, first));
        if key.is_bridge() {
            self.note(key, key.second, lines(0, len - first));
        }
        self.stats.blocks += 1;
        let head = block.head();
        self.blocks.insert(key, block);
        head
    }

    /// Lines of a page belong to a block.
    fn note(&mut self, key: Key, page: u64, lines: u64) {
        let entry = self.pages.entry(page).or_default();
        if entry.keys.is_empty() {
            self.log.push(page);
        }
        entry.lines |= lines;
        entry.keys.push(key);
    }

    /// Whether a host page holds code.
    pub(crate) fn holds(&self, page: u64) -> bool {
        self.pages.contains_key(&page)
    }

    /// Whether bytes share a line with code.
    pub(crate) fn overlaps(&self, host: u64, len: usize) -> bool {
        let page = self.pages.get(&(host & !0xfff));
        page.is_some_and(|page| page.lines & lines(host & 0xfff, len) != 0)
    }

    /// The guest writes to bytes of one page.
    pub(crate) fn wrote(&mut self, host: u64, len: usize) {
        if self.overlaps(host, len) {
            self.drop_page(host & !0xfff);
        }
    }

    fn drop_page(&mut self, page: u64) {
        let Some(page) = self.pages.remove(&page) else { return };
        self.drops += 1;
        self.stats.invalidations += 1;
        self.graveyard.extend(page.keys.iter().filter_map(|key| self.blocks.remove(key)));
    }

    /// Frees what was dropped. No block may be running.
    pub(crate) fn bury(&mut self) {
        self.graveyard.clear();
    }
}

/// The 64-byte lines of a page that bytes lie in.
fn lines(offset: u64, len: usize) -> u64 {
    let first = offset >> 6;
    let last = (offset + len.max(1) as u64 - 1).min(0xfff) >> 6;
    (u64::MAX >> (63 - (last - first))) << first
}

/// A fast, fixed hash of integers.
#[derive(Default)]
pub(crate) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.write_u64(u64::from(b)));
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
