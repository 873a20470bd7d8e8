//! The targets: one for every boundary that a guest or a file can reach.

mod bench;
mod firmware;
mod ghcb;
mod ioapic;
mod kernel;
mod pool;
mod processor;
mod qgs;
mod records;
mod report;
mod sept;
mod shim;
mod tdcall;
mod virtio;

use anyhow::{Context, Result};

/// A boundary under test.
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Longest input.
    pub max_len: usize,
    /// Must not panic or hang, whatever the bytes.
    pub run: fn(&[u8]),
}

/// Every target.
pub const ALL: &[Target] = &[
    kernel::TARGET,
    firmware::TARGET,
    ghcb::TARGET,
    processor::TARGET,
    tdcall::TARGET,
    sept::TARGET,
    shim::TARGET,
    qgs::TARGET,
    ioapic::TARGET,
    pool::TARGET,
    report::TARGET,
    records::TARGET,
    bench::TARGET,
    virtio::TARGET,
];

/// The target of that name.
pub fn find(name: &str) -> Result<&'static Target> {
    ALL.iter()
        .find(|target| target.name == name)
        .with_context(|| format!("no fuzz target is called {name:?}; see `list`"))
}
