//! A processor at work: architectural state and the world it runs in, and how instructions reach
//! memory.
//!
//! The memory accesses themselves are in [`crate::mmu`].
//!
//! UNSAFETY: the world is kept as a raw pointer for the length of one [`Processor::with_world`]
//! call.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::engine::op::Hot;
use super::state::{Core, Mode, Seg};
use super::world::{Exception, Exit, Step, Stop, Trapped, World};
use crate::mmu::{Tlb, TlbStats};

mod sealed {
    /// Only plain integers are loaded straight from guest memory.
    pub trait Sealed {}
}

/// An integer that instructions load and store: u8, u16, u32, u64 or u128, little endian.
pub trait Int: Copy + sealed::Sealed {
    /// Size in bytes.
    const LEN: usize;
    /// From little-endian bytes; `bytes` has `LEN` elements.
    fn from_bytes(bytes: &[u8]) -> Self;
    /// To little-endian bytes; `out` has `LEN` elements.
    fn to_bytes(self, out: &mut [u8]);
}

macro_rules! int {
    ($($t:ty),*) => {$(
        impl sealed::Sealed for $t {}
        impl Int for $t {
            const LEN: usize = size_of::<$t>();
            #[inline]
            fn from_bytes(bytes: &[u8]) -> Self {
                let mut copy = [0; size_of::<$t>()];
                copy.copy_from_slice(bytes);
                Self::from_le_bytes(copy)
            }
            #[inline]
            fn to_bytes(self, out: &mut [u8]) {
                out.copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
int!(u8, u16, u32, u64, u128);

/// A processor together with everything it needs to execute instructions.
#[repr(C)]
pub struct Processor {
    /// Architectural state.
    pub core: Core,
    pub(crate) tlb: Tlb,
    pub(crate) hot: Hot,
    /// Width of guest-physical addresses (CPUID 8000_0008h): page-table bits above are reserved.
    pub phys_bits: u8,
    world: Option<NonNull<dyn World>>,
}

// SAFETY: the world pointer exists only while `with_world` runs on one thread; the TLB's host
// pointers belong to the machine, not to a thread.
unsafe impl Send for Processor {}

impl Processor {
    /// A processor in the given state.
    pub fn new(core: Core) -> Self {
        Self { core, tlb: Tlb::default(), hot: Hot::default(), phys_bits: 52, world: None }
    }

    /// Lends the processor a world while `f` runs.
    pub fn with_world<T>(&mut self, world: &mut dyn World, f: impl FnOnce(&mut Self) -> T) -> T {
        // SAFETY: only the lifetime is erased; the pointer is taken back before this returns, and
        // `world` is not used otherwise meanwhile.
        let erased: NonNull<dyn World> = unsafe {
            std::mem::transmute::<NonNull<dyn World + '_>, NonNull<dyn World>>(NonNull::from(world))
        };
        let before = self.world.replace(erased);
        let result = f(self);
        self.world = before;
        result
    }

    /// The architectural state and the world, side by side.
    #[inline]
    pub fn parts(&mut self) -> (&mut Core, &mut dyn World) {
        let mut world = self.world.expect("only called within with_world");
        // SAFETY: `with_world` guarantees that the world outlives this call and that nobody else
        // uses it.
        (&mut self.core, unsafe { world.as_mut() })
    }

    /// The world.
    pub fn world(&mut self) -> &mut dyn World {
        self.parts().1
    }

    /// Ends the instruction with an exception.
    #[cold]
    pub fn fault(&mut self, exception: Exception) -> Trapped {
        self.core.stop = Some(Stop::Fault(exception));
        Trapped
    }

    /// Ends the instruction with an exit.
    #[cold]
    pub fn exit(&mut self, exit: Exit) -> Trapped {
        self.core.stop = Some(Stop::Exit(exit));
        Trapped
    }

    /// Turns a world's answer into a step.
    pub fn lift<T>(&mut self, result: Result<T, Stop>) -> Step<T> {
        result.map_err(|stop| {
            self.core.stop = Some(stop);
            Trapped
        })
    }

    /// Ends the run because something is not modelled, with the instruction's bytes if they can be
    /// had.
    #[cold]
    pub fn unknown(&mut self, what: &'static str) -> Trapped {
        let mut bytes = [0; 15];
        let la = match self.core.mode {
            Mode::Long64 => self.core.rip,
            _ => (self.core.seg[Seg::Cs as usize].base.wrapping_add(self.core.rip)) as u32 as u64,
        };
        let len = match self.tlb.fetch(self.core.cpl == 3, la) {
            Some(host) => {
                let offset = (la & 0xfff) as usize;
                let len = (4096 - offset).min(15);
                // SAFETY: the TLB holds pages the world lends; the copy stays inside one.
                unsafe {
                    std::ptr::copy_nonoverlapping(host.add(offset), bytes.as_mut_ptr(), len);
                }
                len as u8
            }
            None => 0,
        };
        let rip = self.core.rip;
        self.exit(Exit::Unknown { rip, bytes, len, what })
    }

    /// What the TLB has been doing.
    pub fn tlb_stats(&self) -> TlbStats {
        self.tlb.stats
    }
}
