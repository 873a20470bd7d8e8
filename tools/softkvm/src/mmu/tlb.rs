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
    tables: Box<[[Entry; ENTRIES]; TABLES]>,
    fetch: Box<[[FetchEntry; FETCH_ENTRIES]; 2]>,
    dirty: bool,
    pub(crate) stats: TlbStats,
}

impl Default for Tlb {
    fn default() -> Self {
        Self {
            tables: Box::new([[EMPTY; ENTRIES]; TABLES]),
            fetch: Box::new([[FETCH_EMPTY; FETCH_ENTRIES]; 2]),
            dirty: false,
            stats: TlbStats::default(),
        }
    }
}

impl Tlb {
    /// The entry that would hold `la`.
    #[inline(always)]
    pub(crate) fn entry(&self, table: usize, la: u64) -> &Entry {
        &self.tables[table][(la >> 12) as usize % ENTRIES]
    }

    /// First entry of a table, for handlers that keep it at hand.
    pub(crate) fn table(&self, table: usize) -> *const Entry {
        self.tables[table].as_ptr()
    }

    /// Enters a data translation: `host` stands behind the page of `la`.
    pub(crate) fn fill(&mut self, table: usize, la: u64, host: *mut u8, right: Right) {
        self.dirty = true;
        self.stats.fills += 1;
        let page = la & !0xfff;
        let addend = (host as u64).wrapping_sub(page);
        let entry = &mut self.tables[table][(la >> 12) as usize % ENTRIES];
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
    }

    /// Host page of instructions at `la`.
    #[inline]
    pub(crate) fn fetch(&self, user: bool, la: u64) -> Option<*mut u8> {
        let entry = &self.fetch[usize::from(user)][(la >> 12) as usize % FETCH_ENTRIES];
        (entry.tag == la & !0xfff).then_some(entry.host)
    }

    /// Enters an instruction page.
    pub(crate) fn fill_fetch(&mut self, user: bool, la: u64, host: *mut u8) {
        self.dirty = true;
        self.stats.fills += 1;
        self.fetch[usize::from(user)][(la >> 12) as usize % FETCH_ENTRIES] =
            FetchEntry { tag: la & !0xfff, host };
    }

    /// Forgets everything.
    pub(crate) fn flush(&mut self) {
        if self.dirty {
            self.dirty = false;
            self.stats.flushes += 1;
            self.tables.as_flattened_mut().fill(EMPTY);
            self.fetch.as_flattened_mut().fill(FETCH_EMPTY);
        }
    }

    /// Forgets one linear page.
    pub(crate) fn flush_page(&mut self, la: u64) {
        for table in self.tables.iter_mut() {
            table[(la >> 12) as usize % ENTRIES] = EMPTY;
        }
        for table in self.fetch.iter_mut() {
            table[(la >> 12) as usize % FETCH_ENTRIES] = FETCH_EMPTY;
        }
    }

    /// Takes direct writes away from every linear page that is backed by `host`.
    pub(crate) fn withhold_writes(&mut self, host: *mut u8) {
        for entry in self.tables.as_flattened_mut() {
            if entry.write != NONE && entry.write.wrapping_add(entry.addend) == host as u64 {
                entry.code = entry.write;
                entry.write = NONE;
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
