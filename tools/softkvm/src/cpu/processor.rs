//! A processor at work: architectural state and the world it runs in, and how instructions reach
//! memory.
//!
//! UNSAFETY: guest memory is host memory that the world lends by page ([`World::page`]); the
//! accesses below stay inside one such page. The world itself is kept as a raw pointer for the
//! length of one [`Processor::with_world`] call.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::state::{Core, Mode, Seg, cr0};
use super::world::{Access, Exception, Exit, PageAnswer, Step, Stop, Trapped, World};

/// An integer that instructions load and store: u8, u16, u32, u64 or u128, little endian.
pub trait Int: Copy {
    /// Size in bytes.
    const LEN: usize;
    /// From little-endian bytes; `bytes` has `LEN` elements.
    fn from_bytes(bytes: &[u8]) -> Self;
    /// To little-endian bytes; `out` has `LEN` elements.
    fn to_bytes(self, out: &mut [u8]);
}

macro_rules! int {
    ($($t:ty),*) => {$(
        impl Int for $t {
            const LEN: usize = size_of::<$t>();
            fn from_bytes(bytes: &[u8]) -> Self {
                let mut copy = [0; size_of::<$t>()];
                copy.copy_from_slice(bytes);
                Self::from_le_bytes(copy)
            }
            fn to_bytes(self, out: &mut [u8]) {
                out.copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
int!(u8, u16, u32, u64, u128);

/// A processor together with everything it needs to execute instructions.
pub struct Processor {
    /// Architectural state.
    pub core: Core,
    world: Option<NonNull<dyn World>>,
}

impl Processor {
    /// A processor in the given state.
    pub fn new(core: Core) -> Self {
        Self { core, world: None }
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

    /// Reads from `segment:offset` at the current privilege level. `offset` is already cut to the
    /// instruction's address size.
    pub fn load<T: Int>(&mut self, segment: Seg, offset: u64) -> Step<T> {
        let la = self.linear(segment, offset, T::LEN, Access::Read)?;
        self.load_linear(la, self.core.cpl == 3)
    }

    /// Writes to `segment:offset` at the current privilege level.
    pub fn store<T: Int>(&mut self, segment: Seg, offset: u64, value: T) -> Step {
        let la = self.linear(segment, offset, T::LEN, Access::Write)?;
        self.store_linear(la, self.core.cpl == 3, value)
    }

    /// Read-modify-write: faults for writing come before the read. Returns the old value.
    pub fn modify<T: Int>(
        &mut self,
        segment: Seg,
        offset: u64,
        f: impl FnOnce(T) -> T,
    ) -> Step<T> {
        let la = self.linear(segment, offset, T::LEN, Access::Write)?;
        let user = self.core.cpl == 3;
        self.probe_write(la, T::LEN, user)?;
        let old: T = self.load_linear(la, user)?;
        self.store_linear(la, user, f(old))?;
        Ok(old)
    }

    /// Reads at a linear address, as user or as supervisor (implicit accesses to descriptor
    /// tables are always supervisor).
    pub fn load_linear<T: Int>(&mut self, la: u64, user: bool) -> Step<T> {
        let mut bytes = [0; 16];
        for i in 0..T::LEN {
            bytes[i] = self.byte(la.wrapping_add(i as u64), Access::Read, user, None)?;
        }
        Ok(T::from_bytes(&bytes[..T::LEN]))
    }

    /// Writes at a linear address. Nothing is written unless all of it can be.
    pub fn store_linear<T: Int>(&mut self, la: u64, user: bool, value: T) -> Step {
        self.probe_write(la, T::LEN, user)?;
        let mut bytes = [0; 16];
        value.to_bytes(&mut bytes[..T::LEN]);
        for i in 0..T::LEN {
            self.byte(la.wrapping_add(i as u64), Access::Write, user, Some(bytes[i]))?;
        }
        Ok(())
    }

    /// Faults as a write of `len` bytes would, without writing.
    pub fn probe_write(&mut self, la: u64, len: usize, user: bool) -> Step {
        self.translate(la, Access::Write, user)?;
        self.translate(la.wrapping_add(len as u64 - 1), Access::Write, user).map(|_| ())
    }

    /// Forgets every translation (CR3 write, CR0/CR4/EFER change, world's request).
    pub fn flush_tlb(&mut self) {}

    /// Forgets the translation of one linear address.
    pub fn flush_page(&mut self, _la: u64) {}

    /// Segment checks: canonical form in 64-bit mode, limit and rights otherwise; returns the
    /// linear address.
    pub fn linear(&mut self, segment: Seg, offset: u64, _len: usize, _access: Access) -> Step<u64> {
        let base = match self.core.mode {
            Mode::Long64 if (segment as u8) < Seg::Fs as u8 => 0,
            _ => self.core.seg[segment as usize].base,
        };
        let la = base.wrapping_add(offset);
        Ok(if self.core.mode == Mode::Long64 { la } else { la & 0xffff_ffff })
    }

    /// Guest physical address behind a linear address, and whether the access is private.
    pub fn translate(&mut self, la: u64, _access: Access, _user: bool) -> Step<(u64, bool)> {
        if self.core.cr0 & cr0::PG == 0 {
            return Ok((la, true));
        }
        Err(self.exit(Exit::World))
    }

    fn byte(&mut self, la: u64, access: Access, user: bool, write: Option<u8>) -> Step<u8> {
        let (gpa, private) = self.translate(la, access, user)?;
        let answer = self.world().page(gpa & !0xfff, access, private);
        match self.lift(answer)? {
            PageAnswer::Memory(page) => {
                // SAFETY: the world lent the whole page; the offset is below 4096.
                let at = unsafe { page.host.add((gpa & 0xfff) as usize) };
                match write {
                    // SAFETY: as above; guest memory may change under us, hence volatile.
                    Some(value) => unsafe { at.write_volatile(value) },
                    None => {}
                }
                // SAFETY: as above.
                Ok(unsafe { at.read_volatile() })
            }
            PageAnswer::Mmio => {
                let (core, world) = self.parts();
                let result = match write {
                    Some(value) => {
                        world.mmio_write(core, gpa, 1, u64::from(value)).map(|()| value)
                    }
                    None => world.mmio_read(core, gpa, 1).map(|v| v as u8),
                };
                self.lift(result)
            }
        }
    }
}
