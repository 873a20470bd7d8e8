//! The software TLB: direct-mapped tables from linear page to host page.
//!
//! There are three data tables — supervisor, user, and supervisor with RFLAGS.AC set, so that SMAP
//! needs no flush on STAC and CLAC — and one table of instruction pages for each privilege.

/// Entries per data table.
pub(crate) const ENTRIES: usize = 2048;
/// Entries per instruction table.
const FETCH_ENTRIES: usize = 256;
/// A tag no page-aligned address equals.
const NONE: u64 = 1;

/// Index of the supervisor table.
pub(crate) const SUPERVISOR: usize = 0;
/// Index of the user table.
pub(crate) const USER: usize = 1;
/// Index of the supervisor table with RFLAGS.AC set.
pub(crate) const SUPERVISOR_AC: usize = 2;
const TABLES: usize = 3;
/// Longest list of slots to forget one by one.
const LISTED: usize = 1024;
/// Slots of the data tables and instruction tables that one large page of 4 MiB may fill.
const LARGE_PAGES: u64 = 1024;
/// Counters of write tags.
const WRITERS: usize = 4096;

fn writer(host_page: u64) -> usize {
    (host_page >> 12 ^ host_page >> 24) as usize % WRITERS
}

/// One data translation.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(crate) struct Entry {
    /// Linear page that may be read through `addend`.
    pub read: u64,
    /// Linear page that may be written through `addend`.
    pub write: u64,
    /// Host address minus linear address.
    pub addend: u64,
    /// Linear page that may be written through `addend` once the code cache has been told.
    pub code: u64,
}

const EMPTY: Entry = Entry { read: NONE, write: NONE, addend: 0, code: NONE };

#[derive(Clone, Copy, Debug)]
struct FetchEntry {
    tag: u64,
    host: *mut u8,
}

const FETCH_EMPTY: FetchEntry = FetchEntry { tag: NONE, host: std::ptr::null_mut() };

/// What the TLB has been doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlbStats {
    /// Translations entered.
    pub fills: u64,
    /// Full flushes that had something to forget.
    pub flushes: u64,
    /// Page walks, including those that only asked.
    pub walks: u64,
}

/// Cached translations of one processor.
pub struct Tlb {
    tables: Box<[Entry]>,
    fetch: Box<[FetchEntry]>,
    /// Data slots filled since the last flush; most flushes have few entries to forget.
    touched: Vec<u16>,
    /// Instruction slots, likewise.
    fetched: Vec<u16>,
    /// How many write tags lead to host pages of each hash: withholding writes from a page that
    /// none leads to needs no search.
    writers: Box<[u32]>,
    /// Where large pages (2 and 4 MiB) and giant ones (1 GiB) have been met since the last flush: forgetting one address
    /// of such a page forgets all of it.
    large: Marks,
    giant: Marks,
    pub(crate) stats: TlbStats,
}

/// A set of numbers that may claim to hold more than it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks([u64; 16]);

impl Marks {
    fn bit(number: u64) -> (usize, u64) {
        let hash = number ^ number >> 10;
        ((hash >> 6) as usize % 16, 1 << (hash % 64))
    }

    /// Adds a number.
    pub fn add(&mut self, number: u64) {
        let (word, bit) = Self::bit(number);
        self.0[word] |= bit;
    }

    /// Whether a number may have been added.
    pub fn may_hold(&self, number: u64) -> bool {
        let (word, bit) = Self::bit(number);
        self.0[word] & bit != 0
    }

    /// Empties it.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[inline(always)]
fn slot(table: usize, la: u64) -> usize {
    table * ENTRIES + (la >> 12) as usize % ENTRIES
}

#[inline(always)]
fn fetch_slot(user: bool, la: u64) -> usize {
    usize::from(user) * FETCH_ENTRIES + (la >> 12) as usize % FETCH_ENTRIES
}

impl Default for Tlb {
    fn default() -> Self {
        Self {
            tables: vec![EMPTY; TABLES * ENTRIES].into(),
            fetch: vec![FETCH_EMPTY; 2 * FETCH_ENTRIES].into(),
            touched: Vec::with_capacity(LISTED),
            fetched: Vec::with_capacity(LISTED),
            writers: vec![0; WRITERS].into(),
            large: Marks::default(),
            giant: Marks::default(),
            stats: TlbStats::default(),
        }
    }
}

impl Tlb {
    /// The entry that would hold `la`.
    #[inline(always)]
    pub(crate) fn entry(&self, table: usize, la: u64) -> &Entry {
        &self.tables[slot(table, la)]
    }

    /// First entry of a table, for handlers that keep it at hand.
    pub(crate) fn table(&self, table: usize) -> *const Entry {
        self.tables[table * ENTRIES..].as_ptr()
    }

    /// Enters a data translation: `host` stands behind the page of `la`.
    pub(crate) fn fill(&mut self, table: usize, la: u64, host: *mut u8, right: Right) {
        self.stats.fills += 1;
        let page = la & !0xfff;
        if self.touched.len() < LISTED {
            self.touched.push(slot(table, la) as u16);
        }
        let addend = (host as u64).wrapping_sub(page);
        let entry = &mut self.tables[slot(table, la)];
        let before = *entry;
        let same = entry.addend == addend
            && (entry.read == page || entry.write == page || entry.code == page);
        if !same {
            *entry = Entry { addend, ..EMPTY };
        }
        entry.read = page;
        match right {
            Right::Read => {}
            Right::Write => (entry.write, entry.code) = (page, NONE),
            Right::WriteCode => (entry.write, entry.code) = (NONE, page),
        }
        let after = *entry;
        self.count(&before, u32::MAX);
        self.count(&after, 1);
    }

    /// Counts an entry's write tag in (1) or out (-1).
    #[inline]
    fn count(&mut self, entry: &Entry, by: u32) {
        if entry.write != NONE {
            let counter = &mut self.writers[writer(entry.write.wrapping_add(entry.addend))];
            *counter = counter.wrapping_add(by);
        }
    }

    /// The translation about to be entered for `la` is of a page of this size.
    #[inline]
    pub(crate) fn note_size(&mut self, la: u64, page_size: u64) {
        match page_size {
            0..=0x1000 => {}
            0x1001..=0x40_0000 => self.large.add(la >> 22),
            _ => self.giant.add(la >> 30),
        }
    }

    /// Host page of instructions at `la`.
    #[inline]
    pub(crate) fn fetch(&self, user: bool, la: u64) -> Option<*mut u8> {
        let entry = &self.fetch[fetch_slot(user, la)];
        (entry.tag == la & !0xfff).then_some(entry.host)
    }

    /// Enters an instruction page.
    pub(crate) fn fill_fetch(&mut self, user: bool, la: u64, host: *mut u8) {
        self.stats.fills += 1;
        if self.fetched.len() < LISTED {
            self.fetched.push(fetch_slot(user, la) as u16);
        }
        self.fetch[fetch_slot(user, la)] = FetchEntry { tag: la & !0xfff, host };
    }

    /// Forgets everything.
    pub(crate) fn flush(&mut self) {
        if self.touched.is_empty() && self.fetched.is_empty() {
            return;
        }
        self.stats.flushes += 1;
        self.large.clear();
        self.giant.clear();
        if self.touched.len() < LISTED {
            while let Some(at) = self.touched.pop() {
                let before = std::mem::replace(&mut self.tables[usize::from(at)], EMPTY);
                self.count(&before, u32::MAX);
            }
        } else {
            self.touched.clear();
            self.tables.fill(EMPTY);
            self.writers.fill(0);
        }
        if self.fetched.len() < LISTED {
            while let Some(at) = self.fetched.pop() {
                self.fetch[usize::from(at)] = FETCH_EMPTY;
            }
        } else {
            self.fetched.clear();
            self.fetch.fill(FETCH_EMPTY);
        }
    }

    /// Forgets the page of a linear address, whatever its size; answers whether it was an ordinary one (AMD APM vol. 3, INVLPG).
    pub(crate) fn flush_page(&mut self, la: u64) -> bool {
        if self.giant.may_hold(la >> 30) {
            self.flush();
            return false;
        }
        if self.large.may_hold(la >> 22) {
            let first = la & !0x3f_ffff;
            (0..LARGE_PAGES).for_each(|page| self.flush_small(first + (page << 12)));
            return false;
        }
        self.flush_small(la);
        true
    }

    fn flush_small(&mut self, la: u64) {
        for table in 0..TABLES {
            let entry = &mut self.tables[slot(table, la)];
            let before = std::mem::replace(entry, EMPTY);
            self.count(&before, u32::MAX);
        }
        for user in [false, true] {
            self.fetch[fetch_slot(user, la)] = FETCH_EMPTY;
        }
    }

    /// Takes direct writes away from every linear page that is backed by `host_page`.
    pub(crate) fn withhold_writes(&mut self, host_page: u64) {
        let counter = &mut self.writers[writer(host_page)];
        if *counter == 0 {
            return;
        }
        for entry in self.tables.iter_mut() {
            if entry.write != NONE && entry.write.wrapping_add(entry.addend) == host_page {
                entry.code = entry.write;
                entry.write = NONE;
                *counter = counter.wrapping_sub(1);
            }
        }
    }
}

/// What a filled data translation allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// Reading only, or writing that has to be asked for every time.
    Read,
    /// Reading and writing.
    Write,
    /// Reading, and writing after the code cache has been told.
    WriteCode,
}
