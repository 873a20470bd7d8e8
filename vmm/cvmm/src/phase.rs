//! The phases that a boot is told in.

use abi::marks::MarkId;

/// A phase. The order is the usual one; guests that start in a firmware, or lie, may take another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Phase {
    H0,
    H1,
    H2,
    H3,
    H4,
    H5,
    S0,
    S1,
    S2,
    G0,
    G1,
    G2,
    G4,
    G5,
    K0,
    K1,
    K2,
    K3,
    K4,
    K5,
    U0,
    A0,
    P0,
    R1,
    T0,
}

/// How many there are.
pub const PHASES: usize = Phase::ALL.len();

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Phase; 25] = {
        use Phase::*;
        [
            H0, H1, H2, H3, H4, H5, S0, S1, S2, G0, G1, G2, G4, G5, K0, K1, K2, K3, K4, K5, U0, A0,
            P0, R1, T0,
        ]
    };

    /// Its short name.
    pub fn id(self) -> &'static str {
        self.words().0
    }

    /// What happens in it.
    pub fn name(self) -> &'static str {
        self.words().1
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Phase::H0 => ("H0", "process start"),
            Phase::H1 => ("H1", "configuration and files"),
            Phase::H2 => ("H2", "VM creation"),
            Phase::H3 => ("H3", "memory"),
            Phase::H4 => ("H4", "vCPU creation"),
            Phase::H5 => ("H5", "held ready by a pool"),
            Phase::S0 => ("S0", "protection set up"),
            Phase::S1 => ("S1", "launch pages measured"),
            Phase::S2 => ("S2", "launch sealed"),
            Phase::G0 => ("G0", "first entry to first mark"),
            Phase::G1 => ("G1", "shim set-up"),
            Phase::G2 => ("G2", "memory accepted"),
            // G3 (copy) and G4 (verify) are one pass of the shim, hence one phase.
            Phase::G4 => ("G4", "files copied and verified"),
            Phase::G5 => ("G5", "kernel fetched by firmware"),
            Phase::K0 => ("K0", "kernel entry, decompression, early set-up"),
            Phase::K1 => ("K1", "kernel: memory"),
            Phase::K2 => ("K2", "kernel: console and clocks"),
            Phase::K3 => ("K3", "kernel: other processors"),
            Phase::K4 => ("K4", "kernel: buses"),
            Phase::K5 => ("K5", "kernel: rest of its drivers, to /init"),
            Phase::U0 => ("U0", "user space to ready"),
            Phase::A0 => ("A0", "attestation"),
            Phase::P0 => ("P0", "probes"),
            Phase::R1 => ("R1", "rest of the run"),
            Phase::T0 => ("T0", "teardown"),
        }
    }

    /// The phase with this place in [`Phase::ALL`].
    pub fn from_index(index: u8) -> Phase {
        Phase::ALL.get(usize::from(index)).copied().unwrap_or(Phase::R1)
    }

    /// The phase that begins with a mark.
    pub fn begins_with(mark: MarkId) -> Option<Phase> {
        Some(match mark {
            MarkId::SHIM_ENTRY => Phase::G1,
            MarkId::ACCEPT_BEGIN => Phase::G2,
            MarkId::ACCEPT_END => Phase::G4,
            MarkId::KERNEL_ENTRY => Phase::K0,
            MarkId::KERNEL_FETCH_BEGIN => Phase::G5,
            // Where a firmware hands over to the kernel shows nowhere.
            MarkId::KERNEL_FETCH_END => Phase::K0,
            MarkId::INIT_ENTRY => Phase::U0,
            MarkId::ATTEST_BEGIN => Phase::A0,
            MarkId::PROBE_BEGIN => Phase::P0,
            MarkId::INIT_READY | MarkId::ATTEST_END | MarkId::PROBE_END => Phase::R1,
            _ => return None,
        })
    }
}
