//! A host that cheats: what an attacker who controls the hypervisor may do to a guest, for tests of
//! guests and monitors.
//!
//! `SOFTKVM_HOSTILE` holds deeds, separated by `;`. An address is a guest physical one, in
//! hexadecimal with `0x` or decimal; `@N` is the N-th KVM_RUN of the VM before which it happens
//! (the first, if not given). `.B` after the address of a byte is a bit other than 0.
//!
//! | deed | what the host does |
//! |---|---|
//! | `flip=GPA[.B][@N]` | flips a bit of a byte in shared memory |
//! | `flip-launch=GPA[.B]` | flips a bit of a byte of a launch page on its way to the firmware |
//! | `add-launch=GPA` | adds a page of zeros to the launch, just before LAUNCH_FINISH |
//! | `swap=GPA,GPA[@N]` | exchanges two private pages, and assigns both anew |
//! | `remap=GPA,GPA[@N]` | lets the first address point to the private page of the second |
//! | `share=GPA[@N]` | takes a private page away and makes it shared |
//! | `unshare=GPA[@N]` | makes a shared page private |
//! | `psc-refuse=N` | answers the N-th page state change with an error |
//! | `psc-ignore=N` | answers the N-th page state change with success, and does nothing |
//! | `psc-retry=N` | answers the N-th page state change and all later ones with "try again" |
//! | `psc-go-on=N,GPA` | answers a TD's N-th page state change with "try again from this address on" |
//! | `remove=GPA[@N]` | takes a page away from a TD: the next access meets a page that is not accepted |
//! | `replace=GPA[@N]` | takes a page away from a TD and gives another, which the TD may accept again |
//! | `first=I` | lets the I-th vCPU (from 0) run before all others, until it has executed 100 000 instructions |
//!
//! A MapGPA of a TD is as many page state changes as it has chunks of 2 MiB. `swap` and `remap` are for SNP guests,
//! whose nested page tables are the host's; a TD's are the module's.
//!
//! What the host cannot do is not offered: read or write a private page, set an RMP entry's
//! validated flag, or make the TDX module take a page that it would refuse.
//!
//! UNSAFETY: one bit of the launching program's own buffer is flipped and restored around a call,
//! and guest memory is written as [`super::memory`] does it.
#![allow(unsafe_code)]

use abi::kvm_snp::SnpLaunchUpdate;
use abi::snp::PageType;
use thiserror::Error;

use super::memory::Change;
use super::state::State;
use super::user;
use crate::snp::launch::Launch;

const PAGE: u64 = 4096;

/// What the host does to a VM's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Flip(Bit),
    Swap(u64, u64),
    Remap(u64, u64),
    Share(u64),
    Unshare(u64),
    Remove(u64),
    Replace(u64),
}

/// A bit of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bit {
    gpa: u64,
    mask: u8,
}

impl Bit {
    fn parse(text: &str) -> Option<Self> {
        let (gpa, bit) = text.split_once('.').unwrap_or((text, "0"));
        let mask = 1u8.checked_shl(number(bit)?.try_into().ok()?)?;
        Some(Self { gpa: number(gpa)?, mask })
    }
}

/// An answer to a page state change that is not user space's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    Refuse,
    Ignore,
    Retry,
    GoOn(u64),
}

/// Instructions that [`Hostile::first`] executes before the others.
const HEAD_START: u64 = 100_000;

/// Text that names no deed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("SOFTKVM_HOSTILE: {0:?} is nothing that a host can do here")]
pub struct HostileError(String);

/// The host's plans for one VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hostile {
    deeds: Vec<(u64, Deed)>,
    lies: Vec<(u64, Lie)>,
    flipped_bits: Vec<Bit>,
    added_pages: Vec<u64>,
    first: Option<usize>,
    runs: u64,
    conversions: u64,
}

impl Hostile {
    /// Reads the value of `SOFTKVM_HOSTILE`.
    pub fn parse(text: &str) -> Result<Self, HostileError> {
        let mut plan = Self::default();
        for word in text.split(';').map(str::trim).filter(|word| !word.is_empty()) {
            plan.add(word).ok_or_else(|| HostileError(word.to_owned()))?;
        }
        Ok(plan)
    }

    fn add(&mut self, word: &str) -> Option<()> {
        let (name, value) = word.split_once('=')?;
        let (what, when) = match value.split_once('@') {
            Some((what, when)) => (what, Some(number(when)?)),
            None => (value, None),
        };
        let pair = || {
            let (first, second) = what.split_once(',')?;
            Some((number(first)?, number(second)?))
        };
        let deed = match name {
            "flip" => Deed::Flip(Bit::parse(what)?),
            "swap" => pair().map(|(a, b)| Deed::Swap(a, b))?,
            "remap" => pair().map(|(a, b)| Deed::Remap(a, b))?,
            "share" => Deed::Share(number(what)?),
            "unshare" => Deed::Unshare(number(what)?),
            "remove" => Deed::Remove(number(what)?),
            "replace" => Deed::Replace(number(what)?),
            _ if when.is_some() => return None,
            "flip-launch" => {
                self.flipped_bits.push(Bit::parse(what)?);
                return Some(());
            }
            "psc-go-on" => {
                let (number, gpa) = pair()?;
                self.lies.push((number, Lie::GoOn(gpa)));
                return Some(());
            }
            _ => return self.add_timeless(name, number(what)?),
        };
        self.deeds.push((when.unwrap_or(1), deed));
        Some(())
    }

    fn add_timeless(&mut self, name: &str, value: u64) -> Option<()> {
        match name {
            "add-launch" => self.added_pages.push(value),
            "psc-refuse" => self.lies.push((value, Lie::Refuse)),
            "psc-ignore" => self.lies.push((value, Lie::Ignore)),
            "psc-retry" => self.lies.push((value, Lie::Retry)),
            "first" => self.first = Some(usize::try_from(value).ok()?),
            _ => return None,
        }
        Some(())
    }

    /// A page is on its way into a TD: flips what the host wants flipped.
    pub fn corrupt(&self, gpa: u64, page: &mut [u8; PAGE as usize]) {
        for bit in &self.flipped_bits {
            if let Ok(at) = usize::try_from(bit.gpa.wrapping_sub(gpa))
                && let Some(byte) = page.get_mut(at)
            {
                *byte ^= bit.mask;
            }
        }
    }

    /// A page state change is about to exit to user space: the result to give the guest instead.
    pub fn lie(&mut self) -> Option<u64> {
        const EINVAL: u64 = 22;
        const EAGAIN: u64 = 11;
        if self.lies.is_empty() {
            return None;
        }
        self.conversions += 1;
        let now = self.conversions;
        let due = |(at, lie): &&(u64, Lie)| *at == now || *lie == Lie::Retry && *at < now;
        Some(match self.lies.iter().find(due)?.1 {
            Lie::Refuse => EINVAL,
            Lie::Ignore => 0,
            Lie::Retry | Lie::GoOn(_) => EAGAIN,
        })
    }

    /// Where the guest shall go on after the last lie, if that is a lie as well.
    pub fn misdirection(&self) -> Option<u64> {
        self.lies.iter().find_map(|(at, lie)| match lie {
            Lie::GoOn(gpa) if *at == self.conversions => Some(*gpa),
            _ => None,
        })
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A launch command's source with bits flipped, until it is dropped.
pub struct FlippedSource(Vec<(*mut u8, u8, u8)>);

impl FlippedSource {
    /// Flips what the host wants flipped of these pages, in the caller's buffer.
    pub fn new(hostile: &Hostile, params: &SnpLaunchUpdate) -> Self {
        let start = params.gfn_start * PAGE;
        let has_source = PageType(params.page_type) != PageType::ZERO;
        let hits = hostile
            .flipped_bits
            .iter()
            .filter(|bit| has_source && bit.gpa.wrapping_sub(start) < params.len)
            .map(|bit| (params.uaddr.wrapping_add(bit.gpa - start), bit.mask))
            .filter(|(address, _)| user::populate(*address, true).is_ok());
        let flip = |(address, mask): (u64, u8)| {
            let byte = address as *mut u8;
            // SAFETY: the byte is present and writable; it is part of a buffer that the caller
            // lends to the kernel for the time of the call.
            unsafe {
                *byte ^= mask;
                (byte, *byte, mask)
            }
        };
        Self(hits.map(flip).collect())
    }
}

impl Drop for FlippedSource {
    fn drop(&mut self) {
        for (byte, flipped, mask) in self.0.iter().rev() {
            // SAFETY: as above. What the firmware has corrected stays.
            unsafe {
                if **byte == *flipped {
                    **byte ^= mask;
                }
            }
        }
    }
}

impl State {
    /// Before KVM_RUN: does what the host has planned for this moment.
    pub fn be_hostile(&mut self) {
        if self.hostile.deeds.is_empty() {
            return;
        }
        self.hostile.runs += 1;
        let now = self.hostile.runs;
        let due: Vec<Deed> =
            self.hostile.deeds.iter().filter(|(at, _)| *at == now).map(|(_, deed)| *deed).collect();
        for deed in due {
            let done = match deed {
                Deed::Flip(bit) => self.flip(bit),
                Deed::Swap(a, b) => self.swap(a, b),
                Deed::Remap(a, b) => self.remap(a, b),
                Deed::Share(gpa) => self.set_owner(gpa, false),
                Deed::Unshare(gpa) => self.set_owner(gpa, true),
                Deed::Remove(gpa) => self.td_remove(gpa & !(PAGE - 1)).ok(),
                Deed::Replace(gpa) => self.replace(gpa & !(PAGE - 1)),
            };
            let word = if done.is_some() { "done" } else { "impossible: no such page" };
            self.complain(format!("hostile host, before KVM_RUN {now}: {deed:x?}: {word}"));
        }
    }

    fn flip(&mut self, Bit { gpa, mask }: Bit) -> Option<()> {
        let page = self.memory.shared_page(gpa, true).ok()?;
        // SAFETY: the page is present and writable, and no vCPU runs while the VM is locked.
        unsafe { *page.add((gpa % PAGE) as usize) ^= mask };
        self.code.host_wrote(page, PAGE as usize);
        Some(())
    }

    /// RMPUPDATE assigns the pages to their new addresses, and clears their validated flags.
    fn swap(&mut self, a: u64, b: u64) -> Option<()> {
        let (a, b) = (a & !(PAGE - 1), b & !(PAGE - 1));
        let asid = self.snp.asid();
        let mut first = Box::new([0; PAGE as usize]);
        self.memory.with_private_page(a, &mut |page, _| *first = *page).ok()?;
        let mut moved = false;
        self.memory
            .with_private_page(b, &mut |page, entry| {
                std::mem::swap(page, &mut first);
                moved = entry.make_private(b, asid, false).is_ok();
            })
            .ok()?;
        self.memory
            .with_private_page(a, &mut |page, entry| {
                *page = *first;
                moved &= entry.make_private(a, asid, false).is_ok();
            })
            .ok()?;
        self.memory_changed(Change::Contents);
        moved.then_some(())
    }

    /// The nested page table is the host's, so it may say so; the RMP still knows the address.
    fn remap(&mut self, a: u64, b: u64) -> Option<()> {
        let mut other = None;
        self.memory
            .with_private_page(b, &mut |page, entry| other = Some((Box::new(*page), *entry)))
            .ok()?;
        let (contents, owner) = other?;
        self.memory
            .with_private_page(a, &mut |page, entry| {
                *page = *contents;
                *entry = owner;
            })
            .ok()?;
        self.memory_changed(Change::Contents);
        Some(())
    }

    /// The module lets the host do this: what was in the page is lost, and the new one waits for the guest.
    fn replace(&mut self, gpa: u64) -> Option<()> {
        self.td_remove(gpa).ok()?;
        self.td_aug(gpa).ok()
    }

    /// The vCPU that the host lets run before the others, while it does.
    pub fn hostile_first(&self) -> Option<usize> {
        let first = self.hostile.first?;
        let vcpu = self.vcpus.get(first)?;
        let early = vcpu.core().is_ok_and(|core| core.instructions < HEAD_START);
        (early && self.takes_turns(first)).then_some(first)
    }

    fn set_owner(&mut self, gpa: u64, private: bool) -> Option<()> {
        let frame = gpa / PAGE;
        if self.td.is_some() {
            self.zap_private(frame..frame + 1);
            self.memory.set_private(frame, frame + 1, private);
            self.memory_changed(Change::Contents);
            return Some(());
        }
        self.memory.smash(gpa);
        let entry = self.memory.rmp_entry(gpa)?;
        if !private {
            entry.make_shared().ok()?;
        }
        self.memory.set_private(frame, frame + 1, private);
        self.memory_changed(Change::Contents);
        Some(())
    }

    /// Before FINALIZE_VM: adds the pages the host wants in the TD, which shows in MRTD.
    pub fn add_hostile_td_pages(&mut self) {
        for gpa in std::mem::take(&mut self.hostile.added_pages) {
            let done = self.td_add(gpa & !(PAGE - 1), &[0; PAGE as usize], false);
            self.complain(format!("hostile host, before FINALIZE_VM: adds {gpa:#x}: {done:?}"));
        }
    }

    /// Before LAUNCH_FINISH: adds the pages the host wants in the guest.
    pub fn add_hostile_pages(&mut self, sev_fd_good: bool) -> Launch {
        let machine = self.machine.clone();
        for gpa in std::mem::take(&mut self.hostile.added_pages) {
            let mut params = SnpLaunchUpdate {
                gfn_start: gpa / PAGE,
                len: PAGE,
                page_type: PageType::ZERO.0,
                ..SnpLaunchUpdate::default()
            };
            let State { snp, memory, .. } = self;
            snp.launch_update(&mut machine.psp(), Ok(&mut params), sev_fd_good, memory)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_deed_can_be_written() {
        let text = "flip=0x1000; swap=0x2000,12288@7;remap=1,2;share=0x5000@2;unshare=0x6000;\
                    remove=0x7000@3;replace=0x8000;\
                    flip=0x9000.7@4;flip-launch=0x14018;flip-launch=9.3;add-launch=0x1200000;\
                    psc-go-on=3,0x2000;psc-refuse=1;psc-ignore=2;";
        let plan = Hostile::parse(text).unwrap();
        assert_eq!(
            plan.deeds,
            [
                (1, Deed::Flip(Bit { gpa: 0x1000, mask: 1 })),
                (7, Deed::Swap(0x2000, 0x3000)),
                (1, Deed::Remap(1, 2)),
                (2, Deed::Share(0x5000)),
                (1, Deed::Unshare(0x6000)),
                (3, Deed::Remove(0x7000)),
                (1, Deed::Replace(0x8000)),
                (4, Deed::Flip(Bit { gpa: 0x9000, mask: 0x80 })),
            ]
        );
        let lies = [(3, Lie::GoOn(0x2000)), (1, Lie::Refuse), (2, Lie::Ignore)];
        assert_eq!(plan.lies, lies);
        let bits = [Bit { gpa: 0x1_4018, mask: 1 }, Bit { gpa: 9, mask: 8 }];
        assert_eq!(plan.flipped_bits, bits);
        assert_eq!(plan.added_pages, [0x120_0000]);
        assert_eq!(Hostile::parse(""), Ok(Hostile::default()));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "flip=1.8",
            "flip=1.",
            "psc-go-on=1",
            "flip-launch=1@2",
            "flip",
            "flip=",
            "flip=zz",
            "swap=1",
            "read=0x1000",
            "psc-refuse=1@2",
            "=1",
        ] {
            assert_eq!(Hostile::parse(text), Err(HostileError(text.to_owned())));
        }
    }

    #[test]
    fn lies_are_counted() {
        let mut plan = Hostile::parse("psc-refuse=2;psc-ignore=3").unwrap();
        let answers: Vec<_> = (0..4).map(|_| plan.lie()).collect();
        assert_eq!(answers, [None, Some(22), Some(0), None]);
        let mut plan = Hostile::parse("psc-retry=2; first=1").unwrap();
        let answers: Vec<_> = (0..4).map(|_| plan.lie()).collect();
        assert_eq!(answers, [None, Some(11), Some(11), Some(11)]);
        assert_eq!(plan.first, Some(1));
    }

    #[test]
    fn only_the_named_lie_misdirects() {
        let mut plan = Hostile::parse("psc-go-on=2,0x7000").unwrap();
        let answers: Vec<_> = (0..3).map(|_| (plan.lie(), plan.misdirection())).collect();
        assert_eq!(answers, [(None, None), (Some(11), Some(0x7000)), (None, None)]);
    }
}
