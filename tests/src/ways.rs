//! The ways to load a kernel and to accept memory, each with each, and to unpack it: what holds for one has to hold for all.

use crate::elf::Elf;
use crate::packed;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// As `--load` has it.
    pub load: &'static str,
    /// As `--accept` has it.
    pub accept: &'static str,
    /// As `--unpack` has it: whose the kernel is, packed in a bzImage, or not packed at all.
    pub unpack: &'static str,
}

const LOADS: [&str; 2] = ["hashed", "measured"];
/// With so much memory accepted that it has room for what nobody uses.
const LAZY: &str = "lazy,window=8M";
/// RAM that nothing of such a launch uses, in that window.
const FREE_IN_WINDOW: u64 = 0x1_0020_0000;
/// RAM that nothing of another launch of a test guest uses.
const FREE: u64 = 0x120_0000;

impl Way {
    /// What cvmm does where nothing is said.
    pub const USUAL: Self = Self { load: "hashed", accept: "eager", unpack: "kernel" };

    /// Every way; each is printed, so that a failure names it.
    pub fn all() -> impl Iterator<Item = Self> {
        LOADS.into_iter().flat_map(Self::loading)
    }

    /// Every way to accept and to unpack, with one to load.
    pub fn loading(load: &'static str) -> impl Iterator<Item = Self> {
        let ways = [("eager", "kernel"), (LAZY, "kernel"), ("eager", "shim")];
        ways.into_iter().map(move |(accept, unpack)| {
            println!("--load {load} --accept {accept} --unpack {unpack}");
            Self { load, accept, unpack }
        })
    }

    /// Every way of a TD, whose other processors may help.
    pub fn of_td() -> impl Iterator<Item = Self> {
        let parallel = Self { accept: "parallel", ..Self::USUAL };
        Self::all().chain(std::iter::once_with(move || {
            println!("--load {} --accept {}", parallel.load, parallel.accept);
            parallel
        }))
    }

    /// Does the kernel accept memory?
    pub fn is_lazy(self) -> bool {
        self.accept == LAZY
    }

    /// The flags.
    pub fn words(self) -> [&'static str; 6] {
        ["--load", self.load, "--accept", self.accept, "--unpack", self.unpack]
    }

    /// The kernel file of this ELF file.
    pub fn kernel(self, elf: &Elf) -> Vec<u8> {
        let elf = elf.bytes();
        if self.unpack == "shim" { packed::bzimage(&elf) } else { elf }
    }

    /// RAM that is accepted and that nothing uses.
    pub fn free(self) -> u64 {
        if self.is_lazy() { FREE_IN_WINDOW } else { FREE }
    }
}
