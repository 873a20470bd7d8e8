//! Memory accesses: the TLB hit, and what happens when it misses.
//!
//! UNSAFETY: guest memory is host memory that the world lends by page ([`crate::cpu::World::page`])
//! until the next TLB flush; every access below stays inside one such page.
#![allow(unsafe_code)]

use super::tlb::{Right, SUPERVISOR, SUPERVISOR_AC, USER};
use crate::cpu::flags;
use crate::cpu::{Access, Exception, Int, Mode, PageAnswer, Processor, Seg, Step, Stop};

/// What stands behind a linear address.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// Host address of the byte.
    Memory(*mut u8),
    /// Guest-physical address of the byte.
    Mmio(u64),
}

impl Processor {
    /// Reads from `segment:offset` at the current privilege level. `offset` is already cut to the
    /// instruction's address size.
    #[inline]
    pub fn load<T: Int>(&mut self, segment: Seg, offset: u64) -> Step<T> {
        let la = self.linear(segment, offset, T::LEN, Access::Read)?;
        self.load_linear(la, self.core.cpl == 3)
    }

    /// Writes to `segment:offset` at the current privilege level.
    #[inline]
    pub fn store<T: Int>(&mut self, segment: Seg, offset: u64, value: T) -> Step {
        let la = self.linear(segment, offset, T::LEN, Access::Write)?;
        self.store_linear(la, self.core.cpl == 3, value)
    }

    /// Read-modify-write: faults for writing come before the read. Returns the old value.
    #[inline]
    pub fn modify<T: Int>(&mut self, segment: Seg, offset: u64, f: impl FnOnce(T) -> T) -> Step<T> {
        let la = self.linear(segment, offset, T::LEN, Access::Write)?;
        let user = self.core.cpl == 3;
        if let Some(host) = self.hit_write::<T>(self.table_of(user), la) {
            // SAFETY: a hit covers all of `T`.
            unsafe {
                let old = host.cast::<T>().read_unaligned();
                host.cast::<T>().write_unaligned(f(old));
                return Ok(old);
            }
        }
        self.probe_write(la, T::LEN, user)?;
        let old: T = self.load_linear(la, user)?;
        self.store_linear(la, user, f(old))?;
        Ok(old)
    }

    /// Reads at a linear address, as user or as supervisor (implicit accesses to descriptor
    /// tables are always supervisor).
    #[inline]
    pub fn load_linear<T: Int>(&mut self, la: u64, user: bool) -> Step<T> {
        if let Some(host) = self.hit_read::<T>(self.table_of(user), la) {
            // SAFETY: a hit covers all of `T`.
            return Ok(unsafe { host.cast::<T>().read_unaligned() });
        }
        let mut bytes = [0; 16];
        self.load_missed(la, T::LEN, user, &mut bytes)?;
        Ok(T::from_bytes(&bytes[..T::LEN]))
    }

    /// Writes at a linear address. Nothing is written unless all of it can be.
    #[inline]
    pub fn store_linear<T: Int>(&mut self, la: u64, user: bool, value: T) -> Step {
        if let Some(host) = self.hit_write::<T>(self.table_of(user), la) {
            // SAFETY: a hit covers all of `T`.
            unsafe { host.cast::<T>().write_unaligned(value) };
            return Ok(());
        }
        let mut bytes = [0; 16];
        value.to_bytes(&mut bytes[..T::LEN]);
        self.store_missed(la, T::LEN, user, &bytes)
    }

    /// Faults as a write of `len` bytes would, without writing.
    pub fn probe_write(&mut self, la: u64, len: usize, user: bool) -> Step {
        self.resolve(la, Access::Write, user)?;
        // A fault in the second page is reported at its start.
        let last = self.wrap(la, len - 1) & !0xfff;
        if last != la & !0xfff {
            self.resolve(last, Access::Write, user)?;
        }
        Ok(())
    }

    /// Faults as a read of `len` bytes would, without reading.
    pub fn probe_read(&mut self, la: u64, len: usize, user: bool) -> Step {
        self.resolve(la, Access::Read, user)?;
        // A fault in the second page is reported at its start.
        let last = self.wrap(la, len - 1) & !0xfff;
        if last != la & !0xfff {
            self.resolve(last, Access::Read, user)?;
        }
        Ok(())
    }

    /// Copies the bytes at `cs:rip` up to 15 of them, and answers how many. Bytes of a second page
    /// are left out; [`Processor::fetch_more`] adds them if the instruction needs them.
    pub fn fetch(&mut self, bytes: &mut [u8; 15]) -> Step<usize> {
        let rip = self.core.rip;
        let la = self.linear(Seg::Cs, rip, 1, Access::Fetch)?;
        let host = self.fetch_page(la)?;
        let offset = (la & 0xfff) as usize;
        let mut len = (4096 - offset).min(15);
        if self.core.mode != Mode::Long64 {
            let room = u64::from(self.core.seg[Seg::Cs as usize].limit).saturating_sub(rip);
            len = len.min(room as usize + 1);
        }
        // SAFETY: `offset + len` is at most 4096, inside the lent page.
        unsafe { std::ptr::copy_nonoverlapping(host.add(offset), bytes.as_mut_ptr(), len) };
        Ok(len)
    }

    /// Goes on after [`Processor::fetch`] gave `len` bytes that were not a whole instruction: adds
    /// the next page's, or faults as fetching them does.
    pub fn fetch_more(&mut self, bytes: &mut [u8; 15], len: usize) -> Step<usize> {
        let rip = self.core.rip.wrapping_add(len as u64);
        let la = self.linear(Seg::Cs, rip, 1, Access::Fetch)?;
        let host = self.fetch_page(la)?;
        let offset = (la & 0xfff) as usize;
        let mut more = (15 - len).min(4096 - offset);
        if self.core.mode != Mode::Long64 {
            let room = u64::from(self.core.seg[Seg::Cs as usize].limit).saturating_sub(rip);
            more = more.min(room as usize + 1);
        }
        // SAFETY: `offset + more` stays inside the lent page, `len + more` inside `bytes`.
        unsafe {
            std::ptr::copy_nonoverlapping(host.add(offset), bytes.as_mut_ptr().add(len), more);
        }
        Ok(len + more)
    }

    /// Host page of the instructions at a linear address.
    pub(crate) fn fetch_page(&mut self, la: u64) -> Step<*mut u8> {
        let user = self.core.cpl == 3;
        if let Some(host) = self.tlb.fetch(user, la) {
            return Ok(host);
        }
        let t = self.walk(la, Access::Fetch, user)?;
        let answer = self.world().page(t.gpa & !0xfff, Access::Fetch, t.private);
        match self.lift_at(answer, la)? {
            PageAnswer::Memory(page) => {
                self.tlb.note_size(la, t.page_size);
                self.tlb.fill_fetch(user, la, page.host);
                Ok(page.host)
            }
            PageAnswer::Mmio => Err(self.unknown("instruction fetch from device memory")),
        }
    }

    /// Forgets every translation (CR3 write, CR0/CR4/EFER change, world's request).
    pub fn flush_tlb(&mut self) {
        self.tlb.flush();
        self.left_mapping();
    }

    /// Forgets the translation of one linear address.
    pub fn flush_page(&mut self, la: u64) {
        if self.tlb.flush_page(la) {
            self.left_page(la);
        } else {
            self.left_mapping();
        }
    }

    /// The data table of accesses as user or as supervisor.
    #[inline(always)]
    pub(crate) fn table_of(&self, user: bool) -> usize {
        if user {
            USER
        } else if self.core.rflags & flags::AC != 0 && self.core.cpl != 3 {
            SUPERVISOR_AC
        } else {
            SUPERVISOR
        }
    }

    /// Host address for reading a `T`, if the TLB has it.
    #[inline(always)]
    pub(crate) fn hit_read<T: Int>(&self, table: usize, la: u64) -> Option<*mut u8> {
        let entry = self.tlb.entry(table, la);
        // The entry is chosen by the first byte and compared with the last: a page-crossing access
        // never matches, because neighbouring pages have different entries.
        (entry.read == la.wrapping_add(T::LEN as u64 - 1) & !0xfff)
            .then(|| la.wrapping_add(entry.addend) as *mut u8)
    }

    /// Host address for writing a `T`, if the TLB has it.
    #[inline(always)]
    pub(crate) fn hit_write<T: Int>(&self, table: usize, la: u64) -> Option<*mut u8> {
        let entry = self.tlb.entry(table, la);
        (entry.write == la.wrapping_add(T::LEN as u64 - 1) & !0xfff)
            .then(|| la.wrapping_add(entry.addend) as *mut u8)
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn load_missed(
        &mut self,
        la: u64,
        len: usize,
        user: bool,
        out: &mut [u8; 16],
    ) -> Step {
        let first = (4096 - (la & 0xfff) as usize).min(len);
        self.load_part(la, user, &mut out[..first])?;
        if first < len {
            let rest = self.wrap(la, first);
            self.load_part(rest, user, &mut out[first..len])?;
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn store_missed(
        &mut self,
        la: u64,
        len: usize,
        user: bool,
        bytes: &[u8; 16],
    ) -> Step {
        let first = (4096 - (la & 0xfff) as usize).min(len);
        let rest = self.wrap(la, first);
        if first < len {
            self.resolve(la, Access::Write, user)?;
            self.resolve(rest, Access::Write, user)?;
        }
        self.store_part(la, user, &bytes[..first])?;
        if first < len {
            self.store_part(rest, user, &bytes[first..len])?;
        }
        Ok(())
    }

    /// The fast engine's TLB miss: host address of `len` bytes, or null when the access crosses a
    /// page or meets a device or code (the reference engine then does it), or when it faults (the
    /// fault is in [`crate::cpu::Core::stop`]).
    #[cold]
    #[inline(never)]
    pub(crate) fn fast_miss(&mut self, la: u64, len: usize, write: bool) -> *mut u8 {
        let crosses = (la & 0xfff) as usize + len > 4096;
        if crosses || !self.canonical(la) {
            return std::ptr::null_mut();
        }
        let access = if write { Access::Write } else { Access::Read };
        match self.resolve(la, access, self.core.cpl == 3) {
            Ok(Target::Memory(host)) if !write || !self.overlaps_code(host, len) => host,
            Ok(_) | Err(_) => std::ptr::null_mut(),
        }
    }

    /// Reads within one page.
    fn load_part(&mut self, la: u64, user: bool, out: &mut [u8]) -> Step {
        match self.resolve(la, Access::Read, user)? {
            Target::Memory(host) => {
                // SAFETY: `host` is followed by the rest of its lent page, and the caller has cut
                // `out` at the page's end.
                unsafe { std::ptr::copy_nonoverlapping(host, out.as_mut_ptr(), out.len()) };
            }
            Target::Mmio(gpa) => {
                let mut at = 0;
                for len in mmio_parts(out.len()) {
                    let (core, world) = self.parts();
                    let answer = world.mmio_read(core, gpa + at as u64, len as u8);
                    let value = self.lift(answer)?;
                    out[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
                    at += len;
                }
            }
        }
        Ok(())
    }

    /// Writes within one page.
    fn store_part(&mut self, la: u64, user: bool, bytes: &[u8]) -> Step {
        match self.resolve(la, Access::Write, user)? {
            Target::Memory(host) => {
                self.note_code_write(host, bytes.len());
                // SAFETY: as in `load_part`.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), host, bytes.len()) };
            }
            Target::Mmio(gpa) => {
                let mut at = 0;
                for len in mmio_parts(bytes.len()) {
                    let mut value = [0; 8];
                    value[..len].copy_from_slice(&bytes[at..at + len]);
                    let (core, world) = self.parts();
                    let value = u64::from_le_bytes(value);
                    let answer = world.mmio_write(core, gpa + at as u64, len as u8, value);
                    self.lift(answer)?;
                    at += len;
                }
            }
        }
        Ok(())
    }

    /// What stands behind one data address; enters it in the TLB where that is allowed.
    fn resolve(&mut self, la: u64, access: Access, user: bool) -> Step<Target> {
        let table = self.table_of(user);
        let entry = self.tlb.entry(table, la);
        let page = la & !0xfff;
        let hit = match access {
            Access::Write => entry.write == page || entry.code == page,
            _ => entry.read == page,
        };
        if hit {
            if access == Access::Write && entry.code == page {
                let host = page.wrapping_add(entry.addend) as *mut u8;
                if !self.holds_code(host) {
                    // Its blocks have been dropped meanwhile.
                    self.tlb.fill(table, la, host, Right::Write);
                }
            }
            let entry = self.tlb.entry(table, la);
            return Ok(Target::Memory(la.wrapping_add(entry.addend) as *mut u8));
        }
        let t = self.walk(la, access, user)?;
        let answer = self.world().page(t.gpa & !0xfff, access, t.private);
        match self.lift_at(answer, la)? {
            PageAnswer::Memory(page) => {
                let right = if access != Access::Write || !page.writable {
                    Right::Read
                } else if self.holds_code(page.host) {
                    Right::WriteCode
                } else {
                    Right::Write
                };
                self.tlb.note_size(la, t.page_size);
                self.tlb.fill(table, la, page.host, right);
                // SAFETY: the world lent the whole page; the offset stays inside it.
                Ok(Target::Memory(unsafe { page.host.add((la & 0xfff) as usize) }))
            }
            PageAnswer::Mmio => Ok(Target::Mmio(t.gpa)),
        }
    }

    /// Lifts a world's answer; an exception about a page is about the page of `la`.
    pub(super) fn lift_at<T>(&mut self, answer: Result<T, Stop>, la: u64) -> Step<T> {
        let (core, world) = self.parts();
        let answer = answer.map_err(|stop| match stop {
            // #PF by its nature; #VC of an unvalidated page reports its address in CR2 as well
            // (AMD APM vol. 2, 15.36.10).
            Stop::Fault(mut e) if matches!(e.vector, 14 | 29) => {
                e.cr2 = Some(la);
                Stop::Fault(e)
            }
            Stop::Fault(Exception::VE) => Stop::Fault(world.ve_at(core, la)),
            other => other,
        });
        self.lift(answer)
    }

    /// `la + by`, in 32 bits outside 64-bit mode.
    fn wrap(&self, la: u64, by: usize) -> u64 {
        let sum = la.wrapping_add(by as u64);
        if self.core.mode == Mode::Long64 || self.core.long_mode() {
            sum
        } else {
            sum as u32 as u64
        }
    }
}

/// Cuts a device access into powers of two, largest first.
fn mmio_parts(mut len: usize) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let part = [8, 4, 2, 1].into_iter().find(|&part| part <= len)?;
        len -= part;
        Some(part)
    })
}
