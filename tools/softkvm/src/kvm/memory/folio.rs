//! Large folios: guest memory descriptors whose memory comes in pieces of 2 MiB.
//!
//! Mainline's comes in pages (Linux 7.2 virt/kvm/guest_memfd.c `__kvm_gmem_get_pfn` answers order 0), but its SEV-SNP part knows
//! what to do with larger pieces (arch/x86/kvm/svm/sev.c `sev_gmem_prepare`, `sev_handle_rmp_fault`, `sev_gmem_invalidate`). A
//! profile with `:2m` behind its name is of a host that has them.

use super::super::owed::Owed;
use super::{GmemId, Half, Memory, PAGE};
use crate::snp::rmp::RmpEntry;

/// Bytes of a large folio.
pub const LARGE: u64 = 0x20_0000;
/// Its pages.
pub const LARGE_PAGES: usize = (LARGE / PAGE) as usize;

/// Splits the 2 MiB entry that covers a page, if one does: PSMASH. Says whether one did.
pub(super) fn smash(entries: &mut [RmpEntry], page: usize) -> bool {
    let first = page / LARGE_PAGES * LARGE_PAGES;
    let Some(entries) = entries.get_mut(first..first + LARGE_PAGES) else { return false };
    let large = entries[0].large();
    entries.iter_mut().for_each(RmpEntry::smash);
    large
}

impl Memory {
    /// The descriptor and its page where the large folio with an address begins; nothing if there are no such, or if the slot does
    /// not have the whole of it at such an address.
    fn folio(&self, gpa: u64) -> Option<(GmemId, usize)> {
        let slot = self.slot(gpa).filter(|_| self.large_folios)?;
        let (id, at) = slot.gmem?;
        let first = gpa & !(LARGE - 1);
        let whole = first >= slot.gpa && first + LARGE <= slot.gpa + slot.size;
        let place = at + first.wrapping_sub(slot.gpa);
        (whole && place.is_multiple_of(LARGE)).then_some((id, (place / PAGE) as usize))
    }

    /// KVM gives the guest what is behind an address: all of a large folio of which nothing is assigned yet, else one page. What is in
    /// it is noise. Answers where it is; nothing if the page cannot be assigned.
    pub fn assign(&mut self, gpa: u64, asid: u16) -> Option<(*const u8, usize)> {
        if let Some((id, page)) = self.folio(gpa)
            && let Some(gmem) = self.gmems.get_mut(&id)
            && let Some(entries) = gmem.rmp.get_mut(page..page + LARGE_PAGES)
            && !entries.iter().any(RmpEntry::assigned)
        {
            let first = gpa & !(LARGE - 1);
            for (entry, gpa) in entries.iter_mut().zip((first..).step_by(PAGE as usize)) {
                entry.make_large(gpa, asid);
            }
            gmem.owed[page..page + LARGE_PAGES].fill(Owed::Noise);
            // SAFETY: a slot's range lies inside its descriptor's mapping.
            let host = unsafe { gmem.map.base().add(page * PAGE as usize) };
            return Some((host, LARGE as usize));
        }
        self.rmp_entry(gpa)?.make_private(gpa & !0xfff, asid, false).ok()?;
        Some((self.owe(gpa, Owed::Noise)?, PAGE as usize))
    }

    /// The entries of the page that an instruction of the guest names by this size: those of a large folio, or one. Nothing if the
    /// entry at the address is of the other size.
    pub fn named_entries(&mut self, gpa: u64, huge: bool) -> Option<&mut [RmpEntry]> {
        let (gmem, at) = self.behind(gpa)?;
        if huge && !gpa.is_multiple_of(LARGE) {
            return None;
        }
        let len = if huge { LARGE_PAGES } else { 1 };
        let entries = gmem.rmp.get_mut(at..at + len)?;
        (entries[0].large() == huge).then_some(entries)
    }

    /// PSMASH of the 2 MiB entry with an address, whose mapping goes; says whether there was one.
    pub fn smash(&mut self, gpa: u64) -> bool {
        let Some((gmem, at)) = self.behind(gpa) else { return false };
        let done = smash(&mut gmem.rmp, at);
        if done {
            let first = (gpa & !(LARGE - 1)) / PAGE;
            self.unmap(first..first + LARGE_PAGES as u64, Half::Private);
        }
        done
    }

    /// The same for large folios of which frames are a part only. Says how many.
    pub fn smash_edges(&mut self, frames: std::ops::Range<u64>) -> u64 {
        let inner = |frame: &u64| !frame.is_multiple_of(LARGE_PAGES as u64);
        let edges = [frames.start, frames.end].into_iter().filter(inner);
        edges.map(|frame| u64::from(self.smash(frame * PAGE))).sum()
    }
}
