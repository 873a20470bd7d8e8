//! Guest memory: slots, the private attribute, guest memory descriptors with their RMP entries.
//!
//! The rules and errno values are those of Linux virt/kvm/kvm_main.c `kvm_set_memory_region`,
//! `kvm_vm_set_mem_attributes` and virt/kvm/guest_memfd.c.
//!
//! UNSAFETY: guest memory is the caller's mapping (shared half) or our own mapping of a guest
//! memory descriptor (private half). A page of the caller's is made present before it is touched;
//! what the caller unmaps behind a live slot crashes it, as a stray pointer would.
#![allow(unsafe_code)]

mod folio;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use abi::kvm::{GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP, UserMemoryRegion2};

use self::folio::{LARGE, LARGE_PAGES};
use super::caps::VmKind;
use super::errno::{Answer, Errno};
use super::fd::Mapping;
use super::number::{MEM_GUEST_MEMFD, MEM_LOG_DIRTY, MEM_READONLY, MEMORY_SLOTS};
use super::owed::Owed;
use super::user;
use crate::snp::{Page, RmpEntry};

const PAGE: u64 = 4096;
/// Private pages that get host memory together when the first of them is used: guests start with all of theirs in order.
const TOGETHER: usize = 16;

/// Names a guest memory descriptor within its VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GmemId(u32);

/// What sits behind a guest memory descriptor.
#[derive(Debug)]
pub struct Gmem {
    map: Arc<Mapping>,
    size: u64,
    flags: u64,
    rmp: Vec<RmpEntry>,
    /// By page, what it holds once somebody looks.
    owed: Vec<Owed>,
}

impl Gmem {
    /// Whether user space may map it.
    pub fn mappable(&self) -> bool {
        self.flags & GUEST_MEMFD_FLAG_MMAP != 0
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

#[derive(Clone, Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(len: u64) -> Self {
        Self(vec![0; len.div_ceil(64) as usize])
    }
    fn get(&self, index: u64) -> bool {
        self.0[(index / 64) as usize] >> (index % 64) & 1 != 0
    }
    fn set(&mut self, index: u64) {
        self.0[(index / 64) as usize] |= 1 << (index % 64);
    }
    fn clear(&mut self, index: u64) {
        self.0[(index / 64) as usize] &= !(1 << (index % 64));
    }
    fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

/// A slot that KVM_CLEAR_DIRTY_LOG or KVM_GET_DIRTY_LOG is about.
#[derive(Clone, Copy, Debug)]
pub struct Logged {
    /// Its number.
    pub slot: u32,
    /// Its pages.
    pub pages: u64,
}

/// A memory slot.
#[derive(Debug)]
pub struct Slot {
    id: u32,
    flags: u32,
    gpa: u64,
    size: u64,
    hva: u64,
    gmem: Option<(GmemId, u64)>,
    /// Pages of the shared half known to be readable and writable.
    readable: Bits,
    writable: Bits,
    /// Pages that the guest reaches without a nested page fault: of the shared half, and of the private one.
    mapped: [Bits; 2],
    /// Large folios of the private half that it so reaches whole, counted from the one with the slot's first page.
    mapped_large: Bits,
    /// With KVM_MEM_LOG_DIRTY_PAGES: pages written since the log was cleared.
    dirty: Option<Bits>,
}

impl Slot {
    /// Begins or ends the log as the flags say; one that goes on keeps what it knows.
    fn log(&mut self, initially_set: bool) {
        if self.flags & MEM_LOG_DIRTY == 0 {
            self.dirty = None;
        } else if self.dirty.is_none() {
            let pages = self.size / PAGE;
            let mut bits = Bits::new(pages);
            if initially_set {
                (0..pages).for_each(|page| bits.set(page));
            }
            self.dirty = Some(bits);
        }
    }

    fn holds(&self, gpa: u64) -> bool {
        gpa.wrapping_sub(self.gpa) < self.size
    }

    /// Which of its large folios has an address.
    fn large_index(&self, gpa: u64) -> u64 {
        gpa / LARGE - self.gpa / LARGE
    }

    /// KVM_MEM_READONLY.
    pub fn readonly(&self) -> bool {
        self.flags & MEM_READONLY != 0
    }
}

/// What a change of slots means for cached translations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing to forget.
    None,
    /// Translations are stale.
    Translations,
    /// Translations are stale, and host memory may come to hold something else.
    Contents,
}

/// The two memories that a page can lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// User space's mapping.
    Shared,
    /// The guest memory descriptor.
    Private,
}

/// A page as an SNP guest's access meets it.
pub enum Backing {
    /// No slot.
    None,
    /// A slot without guest memory descriptor.
    Shared,
    /// A slot with one.
    Guarded(RmpEntry),
}

/// All memory of a VM.
#[derive(Debug, Default)]
pub struct Memory {
    /// Sorted by address.
    slots: Vec<Slot>,
    /// Private ranges of frames: start to end, disjoint and not adjacent.
    private: BTreeMap<u64, u64>,
    gmems: BTreeMap<GmemId, Gmem>,
    next: u32,
    /// Memory can be private, and then lies in guest memory descriptors.
    pub protected: bool,
    /// There are read-only slots.
    readonly: bool,
    /// KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE and INITIALLY_SET.
    pub manual_log: u64,
    /// SNP: pages of guest memory descriptors have entries in the reverse map.
    reverse_map: bool,
    /// What the noise in private pages is made from.
    seed: u64,
    /// Pages of all slots that are mapped.
    mapped: u64,
    /// And large folios.
    mapped_large: u64,
    /// Guest memory descriptors have such.
    large_folios: bool,
}

impl Memory {
    /// No memory yet.
    pub fn new(kind: VmKind, seed: u64, large_folios: bool) -> Self {
        Self {
            protected: kind.has_private_memory(),
            readonly: !kind.hides_state(),
            reverse_map: kind == VmKind::Snp,
            seed,
            // Linux 7.2 arch/x86/kvm/vmx/tdx.c `tdx_gmem_max_mapping_level`: TDs are mapped in pages.
            large_folios: large_folios && kind == VmKind::Snp,
            ..Self::default()
        }
    }

    /// KVM_CREATE_GUEST_MEMFD: what flags and size are allowed.
    pub fn check_gmem(&self, size: u64, flags: u64) -> Answer {
        let mut allowed = GUEST_MEMFD_FLAG_MMAP;
        if !self.protected {
            allowed |= GUEST_MEMFD_FLAG_INIT_SHARED;
        }
        Errno::require(flags & !allowed == 0)?;
        Errno::require((size as i64) > 0 && size.is_multiple_of(PAGE))
    }

    /// Adds a guest memory descriptor's memory.
    pub fn add_gmem(&mut self, map: Arc<Mapping>, flags: u64) -> GmemId {
        let id = GmemId(self.next);
        self.next += 1;
        let size = map.size() as u64;
        let rmp = if self.reverse_map {
            vec![RmpEntry::default(); (size / PAGE) as usize]
        } else {
            vec![]
        };
        let owed = vec![Owed::Nothing; (size / PAGE) as usize];
        self.gmems.insert(id, Gmem { map, size, flags, rmp, owed });
        id
    }

    /// A guest memory descriptor's memory.
    pub fn gmem(&self, id: GmemId) -> Option<&Gmem> {
        self.gmems.get(&id)
    }

    /// KVM_SET_USER_MEMORY_REGION2. `gmem` is what the descriptor in `region` turned out to be.
    pub fn set_region(
        &mut self,
        region: &UserMemoryRegion2,
        gmem: impl FnOnce() -> Answer<GmemId>,
    ) -> Answer<Change> {
        self.check_region(region)?;
        let id = region.slot & 0xffff;
        let old = self.slots.iter().position(|slot| slot.id == id);
        if region.memory_size == 0 {
            let index = old.ok_or(Errno::EINVAL)?;
            self.forget_mappings(index);
            self.slots.remove(index);
            return Ok(Change::Contents);
        }
        if let Some(index) = old {
            return self.modify(index, region);
        }
        self.check_overlap(region, None)?;
        let gmem = if region.flags & MEM_GUEST_MEMFD != 0 {
            let id = gmem()?;
            self.check_binding(id, region)?;
            Some((id, region.guest_memfd_offset))
        } else {
            None
        };
        let pages = region.memory_size / PAGE;
        let mut slot = Slot {
            id,
            flags: region.flags,
            gpa: region.guest_phys_addr,
            size: region.memory_size,
            hva: region.userspace_addr,
            gmem,
            readable: Bits::new(pages),
            writable: Bits::new(pages),
            mapped: [Bits::new(pages), Bits::new(pages)],
            mapped_large: Bits::new(if self.large_folios {
                pages / LARGE_PAGES as u64 + 2
            } else {
                0
            }),
            dirty: None,
        };
        slot.log(self.logs_all_first());
        let at = self.slots.partition_point(|other| other.gpa < slot.gpa);
        self.slots.insert(at, slot);
        Ok(Change::Translations)
    }

    fn check_region(&self, region: &UserMemoryRegion2) -> Answer {
        let guarded = region.flags & MEM_GUEST_MEMFD != 0;
        let mut allowed = MEM_GUEST_MEMFD;
        if !guarded {
            allowed |= MEM_LOG_DIRTY;
            if self.readonly {
                allowed |= MEM_READONLY;
            }
        }
        let aligned = |value: u64| value.is_multiple_of(PAGE);
        Errno::require(region.flags & !allowed == 0)?;
        Errno::require(aligned(region.memory_size) && aligned(region.guest_phys_addr))?;
        // access_ok: the user half of the address space.
        let end = region.userspace_addr.checked_add(region.memory_size);
        Errno::require(
            aligned(region.userspace_addr) && end.is_some_and(|end| end <= 0x7fff_ffff_f000),
        )?;
        if guarded {
            Errno::require(
                aligned(region.guest_memfd_offset)
                    && region.guest_memfd_offset.checked_add(region.memory_size).is_some(),
            )?;
        }
        Errno::require(region.slot >> 16 == 0 && region.slot & 0xffff < MEMORY_SLOTS)?;
        Errno::require(region.guest_phys_addr.checked_add(region.memory_size).is_some())?;
        Errno::require(region.memory_size / PAGE <= i32::MAX as u64)
    }

    fn check_overlap(&self, region: &UserMemoryRegion2, except: Option<usize>) -> Answer {
        let end = region.guest_phys_addr + region.memory_size;
        let hit = self.slots.iter().enumerate().any(|(index, slot)| {
            Some(index) != except && slot.gpa < end && region.guest_phys_addr < slot.gpa + slot.size
        });
        if hit { Err(Errno::EEXIST) } else { Ok(()) }
    }

    fn check_binding(&self, id: GmemId, region: &UserMemoryRegion2) -> Answer {
        let gmem = self.gmems.get(&id).ok_or(Errno::EINVAL)?;
        let start = region.guest_memfd_offset;
        let end = start + region.memory_size;
        Errno::require(end <= gmem.size)?;
        let taken = self.slots.iter().any(|slot| {
            slot.gmem.is_some_and(|(other, at)| other == id && at < end && start < at + slot.size)
        });
        if taken { Err(Errno::EEXIST) } else { Ok(()) }
    }

    fn modify(&mut self, index: usize, region: &UserMemoryRegion2) -> Answer<Change> {
        let old = &self.slots[index];
        Errno::require(old.gmem.is_none() && region.flags & MEM_GUEST_MEMFD == 0)?;
        Errno::require(
            region.userspace_addr == old.hva
                && region.memory_size == old.size
                && (region.flags ^ old.flags) & MEM_READONLY == 0,
        )?;
        if region.guest_phys_addr != old.gpa {
            self.check_overlap(region, Some(index))?;
            self.forget_mappings(index);
            let mut slot = self.slots.remove(index);
            slot.gpa = region.guest_phys_addr;
            slot.flags = region.flags;
            slot.log(self.logs_all_first());
            let at = self.slots.partition_point(|other| other.gpa < slot.gpa);
            self.slots.insert(at, slot);
            return Ok(Change::Translations);
        }
        if self.slots[index].flags == region.flags {
            return Ok(Change::None);
        }
        let all = self.logs_all_first();
        self.slots[index].flags = region.flags;
        self.slots[index].log(all);
        Ok(Change::Translations)
    }

    /// KVM_DIRTY_LOG_INITIALLY_SET.
    fn logs_all_first(&self) -> bool {
        self.manual_log & 2 != 0
    }

    fn logged_index(&self, id: u32) -> Answer<usize> {
        Errno::require(id >> 16 == 0 && id & 0xffff < MEMORY_SLOTS)?;
        let index = self.slots.iter().position(|slot| slot.id == id && slot.dirty.is_some());
        index.ok_or(Errno::ENOENT)
    }

    /// The slot whose dirty log is wanted: ENOENT if there is none.
    pub fn logged(&self, id: u32) -> Answer<Logged> {
        let index = self.logged_index(id)?;
        Ok(Logged { slot: id, pages: self.slots[index].size / PAGE })
    }

    /// KVM_GET_DIRTY_LOG: the pages written to. Unless user space clears the log itself it starts anew.
    pub fn dirty_log(&mut self, logged: Logged) -> Answer<Vec<u64>> {
        let index = self.logged_index(logged.slot)?;
        let fresh = Bits::new(logged.pages);
        let Some(bits) = &mut self.slots[index].dirty else { return Err(Errno::ENOENT) };
        Ok(if self.manual_log & 1 != 0 { bits.0.clone() } else { std::mem::replace(bits, fresh).0 })
    }

    /// KVM_CLEAR_DIRTY_LOG: takes the pages set in `bitmap`, counted from `first`, out of the log.
    pub fn clear_dirty(&mut self, logged: Logged, first: u64, bitmap: &[u64]) -> Answer {
        let index = self.logged_index(logged.slot)?;
        let Some(bits) = &mut self.slots[index].dirty else { return Err(Errno::ENOENT) };
        let words = bits.0.iter_mut().skip((first / 64) as usize);
        words.zip(bitmap).for_each(|(word, taken)| *word &= !taken);
        Ok(())
    }

    /// KVM_SET_MEMORY_ATTRIBUTES on a checked range of frames.
    pub fn set_private(&mut self, start: u64, end: u64, private: bool) {
        let mut from = start;
        let mut to = end;
        let touching: Vec<(u64, u64)> = self
            .private
            .range(..=end)
            .rev()
            .take_while(|(_, e)| **e >= start)
            .map(|(s, e)| (*s, *e))
            .collect();
        for (s, e) in touching {
            self.private.remove(&s);
            if private {
                from = from.min(s);
                to = to.max(e);
            } else {
                if s < start {
                    self.private.insert(s, start);
                }
                if e > end {
                    self.private.insert(end, e);
                }
            }
        }
        if private {
            self.private.insert(from, to);
        }
    }

    /// Whether a frame has the private attribute.
    pub fn is_private(&self, gfn: u64) -> bool {
        self.private.range(..=gfn).next_back().is_some_and(|(_, end)| gfn < *end)
    }

    /// The slot at an address.
    pub fn slot(&self, gpa: u64) -> Option<&Slot> {
        let at = self.slots.partition_point(|slot| slot.gpa <= gpa);
        let slot = &self.slots[at.checked_sub(1)?];
        slot.holds(gpa).then_some(slot)
    }

    /// The frames of a slot that has a guest memory descriptor.
    pub fn frames_of(&self, id: u32) -> Option<Range<u64>> {
        let slot = self.slots.iter().find(|slot| slot.id == id & 0xffff && slot.gmem.is_some())?;
        Some(slot.gpa / PAGE..(slot.gpa + slot.size) / PAGE)
    }

    /// The frames that stand for a range of a guest memory descriptor.
    pub fn frames_behind(&self, id: GmemId, offset: u64, len: u64) -> Vec<Range<u64>> {
        let end = offset.saturating_add(len);
        let bound = self.slots.iter().filter_map(|slot| match slot.gmem {
            Some((gmem, at)) if gmem == id => Some((slot, at)),
            _ => None,
        });
        bound
            .filter_map(|(slot, at)| {
                let (from, to) = (offset.max(at), end.min(at + slot.size));
                let frame = |offset: u64| (slot.gpa + (offset - at)) / PAGE;
                (from < to).then(|| frame(from)..frame(to))
            })
            .collect()
    }

    /// Whether an address has a slot with a guest memory descriptor.
    pub fn is_guarded(&self, gpa: u64) -> bool {
        self.slot(gpa).is_some_and(|slot| slot.gmem.is_some())
    }

    /// Host page of the private half, with its contents.
    pub fn private_host(&mut self, gpa: u64) -> Option<*mut u8> {
        let seed = self.seed;
        let (gmem, at) = self.behind(gpa)?;
        // SAFETY: a slot's range lies inside its descriptor's mapping.
        let host = unsafe { gmem.map.base().add(at * PAGE as usize) };
        let owed = std::mem::take(&mut gmem.owed[at]);
        if owed != Owed::Nothing {
            if at.is_multiple_of(TOGETHER) {
                gmem.map.populate(at * PAGE as usize, TOGETHER * PAGE as usize);
            }
            // SAFETY: the page is ours and mapped, and nobody runs while the VM is locked.
            owed.pay(unsafe { &mut *host.cast::<Page>() }, seed ^ gpa & !0xfff);
        }
        Some(host)
    }

    /// A page of the private half is to hold something else from now on. Answers where it is.
    pub fn owe(&mut self, gpa: u64, owed: Owed) -> Option<*const u8> {
        let (gmem, at) = self.behind(gpa)?;
        gmem.owed[at] = owed;
        // SAFETY: a slot's range lies inside its descriptor's mapping.
        Some(unsafe { gmem.map.base().add(at * PAGE as usize) })
    }

    /// The RMP entry of the private half.
    pub fn rmp_entry(&mut self, gpa: u64) -> Option<&mut RmpEntry> {
        let (gmem, at) = self.behind(gpa)?;
        gmem.rmp.get_mut(at)
    }

    /// The guest memory descriptor behind an address, and which of its pages it is.
    fn behind(&mut self, gpa: u64) -> Option<(&mut Gmem, usize)> {
        let slot = &self.slots[self.slot_index(gpa)?];
        let (id, at) = slot.gmem?;
        let page = (at + (gpa - slot.gpa)) / PAGE;
        Some((self.gmems.get_mut(&id)?, page as usize))
    }

    /// Lends a page of the private half.
    pub fn private_bytes(&mut self, gpa: u64) -> Option<&mut Page> {
        let host = self.private_host(gpa)?;
        // SAFETY: the page is ours and mapped, and nobody runs while the VM is locked.
        Some(unsafe { &mut *host.cast::<Page>() })
    }

    fn slot_index(&self, gpa: u64) -> Option<usize> {
        let at = self.slots.partition_point(|slot| slot.gpa <= gpa).checked_sub(1)?;
        self.slots[at].holds(gpa).then_some(at)
    }

    /// Pages from `gfn` on that lie in one slot with a guest memory descriptor.
    pub fn guarded_run(&self, gfn: u64) -> u64 {
        match self.slot(gfn * PAGE) {
            Some(slot) if slot.gmem.is_some() => (slot.gpa + slot.size) / PAGE - gfn,
            _ => 0,
        }
    }

    /// What an SNP guest's access meets.
    pub fn backing(&self, gpa: u64) -> Backing {
        match self.slot(gpa) {
            None => Backing::None,
            Some(slot) => match slot.gmem {
                None => Backing::Shared,
                Some((id, offset)) => {
                    let page = (offset + (gpa - slot.gpa)) / PAGE;
                    let entry = self.gmems.get(&id).and_then(|g| g.rmp.get(page as usize));
                    Backing::Guarded(entry.copied().unwrap_or_default())
                }
            },
        }
    }

    /// Host page of the shared half (or of a descriptor that user space may map, which then serves
    /// both); EFAULT if the caller has nothing there, ENOENT without slot.
    pub fn shared_page(&mut self, gpa: u64, write: bool) -> Answer<*mut u8> {
        let index = self.slot_index(gpa).ok_or(Errno::ENOENT)?;
        let slot = &mut self.slots[index];
        let offset = (gpa & !0xfff) - slot.gpa;
        if let Some((id, at)) = slot.gmem
            && !self.protected
            && let Some(gmem) = self.gmems.get(&id).filter(|gmem| gmem.mappable())
        {
            // SAFETY: a slot's range lies inside its descriptor's mapping.
            return Ok(unsafe { gmem.map.base().add((at + offset) as usize) });
        }
        let page = offset / PAGE;
        if write && let Some(dirty) = &mut slot.dirty {
            dirty.set(page);
        }
        let host = slot.hva + offset;
        let known = if write { slot.writable.get(page) } else { slot.readable.get(page) };
        if !known {
            let write = write && !slot.readonly();
            user::populate(host, write)?;
            slot.readable.set(page);
            if write {
                slot.writable.set(page);
            }
        }
        Ok(host as *mut u8)
    }

    /// The guest reaches a page: whether that takes a nested page fault, which maps it.
    pub fn map(&mut self, gpa: u64, half: Half) -> bool {
        let Some(index) = self.slot_index(gpa) else { return false };
        if self.large_folios && half == Half::Private {
            let large = self.rmp_entry(gpa).is_some_and(|entry| entry.large());
            let slot = &mut self.slots[index];
            let folio = slot.large_index(gpa);
            if large {
                let new = !slot.mapped_large.get(folio);
                slot.mapped_large.set(folio);
                self.mapped_large += u64::from(new);
                return new;
            }
        }
        let slot = &mut self.slots[index];
        let page = (gpa - slot.gpa) / PAGE;
        let mapped = &mut slot.mapped[half as usize];
        let new = !mapped.get(page);
        if new {
            mapped.set(page);
            self.mapped += 1;
        }
        new
    }

    /// Mappings of frames go: the guest's next access is a nested page fault.
    pub fn unmap(&mut self, frames: Range<u64>, half: Half) {
        for slot in &mut self.slots {
            let first = slot.gpa / PAGE;
            let mapped = &mut slot.mapped[half as usize];
            let pages = frames.start.max(first)..frames.end.min(first + slot.size / PAGE);
            for page in pages.clone().map(|frame| frame - first) {
                self.mapped -= u64::from(mapped.get(page));
                mapped.clear(page);
            }
            if self.large_folios && half == Half::Private && !pages.is_empty() {
                let [from, to] =
                    [pages.start, pages.end - 1].map(|frame| slot.large_index(frame * PAGE));
                for folio in from..=to {
                    self.mapped_large -= u64::from(slot.mapped_large.get(folio));
                    slot.mapped_large.clear(folio);
                }
            }
        }
    }

    /// All mappings go.
    pub fn unmap_all(&mut self) {
        (0..self.slots.len()).for_each(|index| self.forget_mappings(index));
    }

    fn forget_mappings(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        for mapped in &mut slot.mapped {
            self.mapped -= mapped.count();
            mapped.0.fill(0);
        }
        self.mapped_large -= slot.mapped_large.count();
        slot.mapped_large.0.fill(0);
    }

    /// How many pages are mapped.
    pub fn mapped(&self) -> u64 {
        self.mapped
    }

    /// How many large folios are mapped whole.
    pub fn mapped_large(&self) -> u64 {
        self.mapped_large
    }

    /// Lends a private page and its RMP entry.
    pub fn with_private_page(
        &mut self,
        gpa: u64,
        with: &mut dyn FnMut(&mut Page, &mut RmpEntry),
    ) -> Answer<*mut u8> {
        let host = self.private_host(gpa).ok_or(Errno::EFAULT)?;
        let rmp = self.rmp_entry(gpa).ok_or(Errno::EFAULT)?;
        // SAFETY: the page is ours, mapped, and nobody runs while the VM is locked.
        with(unsafe { &mut *host.cast::<Page>() }, rmp);
        Ok(host)
    }

    /// Reads through the shared half.
    pub fn read_shared(&mut self, gpa: u64, out: &mut [u8]) -> Answer {
        self.each_page(gpa, out.len(), false, |host, at, len| {
            // SAFETY: `each_page` gives present memory of that length.
            unsafe { std::ptr::copy(host, out[at..at + len].as_mut_ptr(), len) };
        })
    }

    /// Writes through the shared half; the host ranges written to are handed to `wrote`.
    pub fn write_shared(
        &mut self,
        gpa: u64,
        data: &[u8],
        mut wrote: impl FnMut(*const u8, usize),
    ) -> Answer {
        self.each_page(gpa, data.len(), true, |host, at, len| {
            // SAFETY: `each_page` gives present memory of that length.
            unsafe { std::ptr::copy(data[at..at + len].as_ptr(), host, len) };
            wrote(host, len);
        })
    }

    fn each_page(
        &mut self,
        gpa: u64,
        len: usize,
        write: bool,
        mut act: impl FnMut(*mut u8, usize, usize),
    ) -> Answer {
        let mut done = 0;
        while done < len {
            let at = gpa.wrapping_add(done as u64);
            let host = self.shared_page(at, write)?;
            let offset = (at & 0xfff) as usize;
            let part = (4096 - offset).min(len - done);
            // SAFETY: stays inside the page.
            act(unsafe { host.add(offset) }, done, part);
            done += part;
        }
        Ok(())
    }

    /// fallocate(PUNCH_HOLE) on a descriptor: pages are freed and go back to the hypervisor.
    /// Returns the host range.
    pub fn punch(&mut self, id: GmemId, offset: u64, len: u64) -> Option<(*const u8, usize)> {
        let gmem = self.gmems.get_mut(&id)?;
        let end = offset.saturating_add(len).min(gmem.size);
        let start = offset.min(end);
        let pages = (start / PAGE) as usize..(end / PAGE) as usize;
        for edge in [pages.start, pages.end] {
            if !edge.is_multiple_of(LARGE_PAGES) {
                folio::smash(&mut gmem.rmp, edge);
            }
        }
        if let Some(entries) = gmem.rmp.get_mut(pages.clone()) {
            entries.iter_mut().for_each(RmpEntry::reclaim);
        }
        gmem.owed[pages].fill(Owed::Nothing);
        gmem.map.punch(start as usize, (end - start) as usize);
        // SAFETY: `start` is within the mapping.
        Some((unsafe { gmem.map.base().add(start as usize) }, (end - start) as usize))
    }
}
