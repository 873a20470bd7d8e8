//! When the guest's kernel first runs certain functions: stages of its boot, without a change to it.
//!
//! `SOFTKVM_SYMBOLS` names a file of its symbols, a `System.map` or the text of `/proc/kallsyms`. Of the functions in [`STAGES`]
//! those that the file has become statistics of each VM, `softkvm_symbol_NAME_ns`: the VM's time (that of KVM_GET_CLOCK) when
//! the first instruction of the function was first about to run; 0 if it has not been. Functions that the compiler has merged into
//! others are not in the file. Reading them costs a comparison for each block of code that is decoded, and only until all are found.
//!
//! A kernel with address randomisation runs at a multiple of 2 MiB from where its file says (Linux
//! arch/x86/boot/compressed/kaslr.c, `find_random_virt_addr`). That distance is known from the first instruction at a virtual
//! address of the kernel's image, with tables of four levels or five: there the start-up code jumps to `common_startup_64`, or in
//! kernels before 6.10 to a label in `secondary_startup_64` (arch/x86/kernel/head_64.S). If what runs is in neither of them, the
//! file is another kernel's: that is said on stderr, and all stays 0. A kernel that is not relocatable by such multiples (with
//! functions in random order, for example), or that is entered elsewhere (by PVH), is not found.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Where Linux maps its image: 1 GiB from __START_KERNEL_map on (Documentation/arch/x86/x86_64/mm.rst).
pub const KERNEL_IMAGE: Range<u64> = 0xffff_ffff_8000_0000..0xffff_ffff_c000_0000;

/// Distances by which a kernel is moved are multiples of this.
const ALIGNMENT: u64 = 2 << 20;

/// Functions in the order in which they begin, and whether they are initialisation code: others of that name are not meant.
pub const STAGES: &[(&str, bool)] = &[
    ("start_kernel", true),
    ("setup_arch", true),
    ("mm_core_init", true),
    // Before Linux 6.4.
    ("mm_init", true),
    ("sched_init", true),
    ("time_init", true),
    ("tsc_init", true),
    ("rest_init", false),
    ("kernel_init", false),
    ("smp_init", true),
    ("sched_init_smp", true),
    ("driver_init", true),
    ("do_initcalls", true),
    ("acpi_init", true),
    ("pci_subsys_init", true),
    ("populate_rootfs", true),
    ("free_initmem", false),
    ("run_init_process", false),
];

/// Where the start-up code lands: the function, and whether at its very beginning.
const LANDINGS: &[(&str, bool)] = &[
    ("common_startup_64", true),
    ("secondary_startup_64", false),
    ("secondary_startup_64_no_verify", false),
];

/// Why a file of symbols cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SymbolsError {
    /// The file cannot be read.
    #[error("SOFTKVM_SYMBOLS: cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line is not a symbol.
    #[error("SOFTKVM_SYMBOLS: {path:?}, line {line}: no symbol (address, type and name)")]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// Addresses are hidden.
    #[error("SOFTKVM_SYMBOLS: {path:?} has no addresses (/proc/kallsyms shows them to root only)")]
    Hidden {
        /// The file.
        path: PathBuf,
    },
    /// What is needed is missing.
    #[error("SOFTKVM_SYMBOLS: {path:?} is not of an x86-64 kernel: it has no {missing}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// What.
        missing: &'static str,
    },
}

/// A kernel's functions that are of interest, at the addresses of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbols {
    stages: Vec<(&'static str, u64)>,
    landings: Vec<Range<u64>>,
}

impl Symbols {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, SymbolsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| SymbolsError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads the text of a file.
    pub fn parse(text: &str, path: &Path) -> Result<Self, SymbolsError> {
        let path = || path.to_owned();
        let mut functions: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        let mut starts = Vec::new();
        let mut hidden = true;
        for (index, line) in text.lines().enumerate() {
            let mut words = line.split_whitespace();
            let (Some(address), Some(kind), Some(name)) =
                (words.next(), words.next(), words.next())
            else {
                return Err(SymbolsError::Line { path: path(), line: index + 1 });
            };
            let Ok(address) = u64::from_str_radix(address, 16) else {
                return Err(SymbolsError::Line { path: path(), line: index + 1 });
            };
            hidden &= address == 0;
            // What follows is a module's.
            if matches!(kind, "t" | "T") && words.next().is_none() {
                functions.entry(name).or_default().push(address);
                starts.push(address);
            }
        }
        if hidden && !text.is_empty() {
            return Err(SymbolsError::Hidden { path: path() });
        }
        starts.sort_unstable();
        let first = |name: &str| functions.get(name).and_then(|all| all.first().copied());
        let init = first("_sinittext").unwrap_or(0)..first("_einittext").unwrap_or(u64::MAX);
        let stages: Vec<_> = STAGES
            .iter()
            .filter_map(|&(name, initial)| {
                let mut all = functions.get(name)?.iter();
                let at = all.find(|at| !initial || init.contains(*at))?;
                Some((name, *at))
            })
            .collect();
        let landings: Vec<_> = LANDINGS
            .iter()
            .filter_map(|&(name, exact)| {
                let start = first(name)?;
                let next = starts[starts.partition_point(|other| *other <= start)..].first();
                Some(start..if exact { start + 1 } else { *next? })
            })
            .collect();
        if !stages.iter().any(|(name, _)| *name == STAGES[0].0) {
            return Err(SymbolsError::Missing { path: path(), missing: "start_kernel" });
        }
        if landings.is_empty() {
            return Err(SymbolsError::Missing { path: path(), missing: "secondary_startup_64" });
        }
        Ok(Self { stages, landings })
    }

    /// How far from the file's addresses a kernel runs that begins at `rip`.
    fn distance(&self, rip: u64) -> Option<u64> {
        self.landings.iter().find_map(|landing| {
            let distance = rip.wrapping_sub(landing.start) & !(ALIGNMENT - 1);
            landing.contains(&rip.wrapping_sub(distance)).then_some(distance)
        })
    }
}

/// A VM's kernel on its way through its stages.
#[derive(Clone, Debug)]
pub struct Watch {
    symbols: std::sync::Arc<Symbols>,
    distance: Option<u64>,
    /// By stage, when it began.
    reached: Vec<Option<u64>>,
}

/// What a block of code that begins in the kernel's image means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// Nothing more to wait for.
    Last,
    /// Another kernel than the file's.
    Stranger,
    /// There is more to come.
    More,
}

impl Watch {
    /// Nothing has run.
    pub fn new(symbols: std::sync::Arc<Symbols>) -> Self {
        let reached = vec![None; symbols.stages.len()];
        Self { symbols, distance: None, reached }
    }

    /// Code at an address in the kernel's image is about to run, at a time in nanoseconds.
    pub fn meet(&mut self, rip: u64, now: impl FnOnce() -> u64) -> Met {
        let distance = match self.distance {
            Some(distance) => distance,
            None => match self.symbols.distance(rip) {
                Some(distance) => *self.distance.insert(distance),
                None => return Met::Stranger,
            },
        };
        let at = rip.wrapping_sub(distance);
        let stage = self.symbols.stages.iter().position(|(_, start)| *start == at);
        if let Some(stage) = stage {
            self.reached[stage].get_or_insert_with(now);
            if self.reached.iter().all(Option::is_some) {
                return Met::Last;
            }
        }
        Met::More
    }

    /// Names of the stages, and when each began.
    pub fn stages(&self) -> impl Iterator<Item = (&'static str, Option<u64>)> {
        let names = self.symbols.stages.iter().map(|(name, _)| *name);
        names.zip(self.reached.iter().copied())
    }
}

#[cfg(test)]
#[path = "symbols_test.rs"]
mod symbols_test;
