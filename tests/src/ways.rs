//! The ways to load a kernel and to accept memory, each with each: what holds for one has to hold for all.

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// As `--load` has it.
    pub load: &'static str,
    /// As `--accept` has it.
    pub accept: &'static str,
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
    pub const USUAL: Self = Self { load: "hashed", accept: "eager" };

    /// Every way; each is printed, so that a failure names it.
    pub fn all() -> impl Iterator<Item = Self> {
        LOADS.into_iter().flat_map(Self::loading)
    }

    /// Every way to accept, with one to load.
    pub fn loading(load: &'static str) -> impl Iterator<Item = Self> {
        ["eager", LAZY].into_iter().map(move |accept| {
            println!("--load {load} --accept {accept}");
            Self { load, accept }
        })
    }

    /// Every way of a TD, whose other processors may help.
    pub fn of_td() -> impl Iterator<Item = Self> {
        let parallel = Self { load: "hashed", accept: "parallel" };
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
    pub fn words(self) -> [&'static str; 4] {
        ["--load", self.load, "--accept", self.accept]
    }

    /// RAM that is accepted and that nothing uses.
    pub fn free(self) -> u64 {
        if self.is_lazy() { FREE_IN_WINDOW } else { FREE }
    }
}
