//! Page walks (AMD APM vol. 2, chapter 5): legacy 32-bit, PAE, 4-level and 5-level tables.
//!
//! The C-bit (AMD APM vol. 2, 15.34.6) exists in PAE and long-mode entries only; it is stripped
//! from every entry, and the leaf's says whether the access is private. Table accesses themselves
//! and instruction fetches are always private, as is everything while paging is off.
//!
//! The shared bit of a TD (Intel TDX Module Base Architecture Specification, "Guest Physical Address Space") is the
//! highest bit of an address: in CR3 and in every entry it says whose memory that address means, tables and
//! code included. Narrow entries do not reach it, nor does what runs without paging: that is private.
//!
//! UNSAFETY: paging structures are read and updated in host pages that the world lends.
#![allow(unsafe_code)]

use crate::cpu::flags;
use crate::cpu::state::{cr0, cr4, efer};
use crate::cpu::{Access, Exception, OwnerBit, PageAnswer, Processor, Step, Trapped};

/// Present.
const P: u64 = 1 << 0;
/// Writable.
const RW: u64 = 1 << 1;
/// User.
const US: u64 = 1 << 2;
/// Accessed.
const A: u64 = 1 << 5;
/// Dirty.
const D: u64 = 1 << 6;
/// Page size: this entry is a leaf above the last level.
const PS: u64 = 1 << 7;
/// No execute.
const NX: u64 = 1 << 63;
/// Address bits of an 8-byte entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Where a linear address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Guest-physical address of the byte.
    pub gpa: u64,
    /// The access is to private (encrypted) memory.
    pub private: bool,
    /// Size of the page in bytes: 4 KiB, 2 MiB, 4 MiB or 1 GiB.
    pub page_size: u64,
    /// The tables allow writing (CR0.WP and privilege not considered).
    pub writable: bool,
    /// The tables allow user access.
    pub user: bool,
    /// The leaf's dirty bit is set.
    pub dirty: bool,
}

/// One paging-structure entry met on a walk.
#[derive(Clone, Copy)]
struct Met {
    host: *mut u8,
    gpa: u64,
    private: bool,
    value: u64,
}

struct Walk {
    met: [Option<Met>; 5],
    /// AND of RW and US, OR of NX over all levels.
    rights: u64,
    leaf: u64,
    gpa: u64,
    page_size: u64,
}

impl Processor {
    /// Guest-physical address behind a linear address and whether the access is private; faults
    /// and updates accessed and dirty bits as the access would.
    pub fn translate(&mut self, la: u64, access: Access, user: bool) -> Step<(u64, bool)> {
        let t = self.walk(la, access, user)?;
        Ok((t.gpa, t.private))
    }

    /// A page walk with all its checks and side effects.
    pub fn walk(&mut self, la: u64, access: Access, user: bool) -> Step<Translation> {
        self.tlb.stats.walks += 1;
        let owner = self.world().owner_bit();
        if self.core.cr0 & cr0::PG == 0 {
            return Ok(Translation {
                gpa: la & 0xffff_ffff,
                private: owner.is_some(),
                page_size: 4096,
                writable: true,
                user: true,
                dirty: true,
            });
        }
        let code = self.error_code(access, user);
        let pae = self.core.cr4 & cr4::PAE != 0;
        let walk = if pae {
            self.walk_wide(la, code, owner)?
        } else {
            self.walk_narrow(la, code, owner.is_some())?
        };
        self.check_rights(la, &walk, access, user, code)?;
        self.mark_used(&walk, access == Access::Write, pae)?;
        Ok(Translation {
            gpa: walk.gpa,
            private: match owner {
                None => false,
                Some(_) if !pae => true,
                Some(OwnerBit::Private(_)) if access == Access::Fetch => true,
                Some(bit) => is_private(walk.leaf, bit),
            },
            page_size: walk.page_size,
            writable: walk.rights & RW != 0,
            user: walk.rights & US != 0,
            dirty: walk.leaf & D != 0 || access == Access::Write,
        })
    }

    /// The #PF error code of a missing page (AMD APM vol. 2, 8.4.2).
    fn error_code(&self, access: Access, user: bool) -> u32 {
        let nx = self.core.cr4 & cr4::PAE != 0 && self.core.efer & efer::NXE != 0;
        let fetch = access == Access::Fetch && (nx || self.core.cr4 & cr4::SMEP != 0);
        u32::from(access == Access::Write) << 1 | u32::from(user) << 2 | u32::from(fetch) << 4
    }

    #[cold]
    fn page_fault(&mut self, la: u64, error: u32) -> Trapped {
        self.fault(Exception::pf(error, la))
    }

    /// PAE, 4-level and 5-level tables: 8-byte entries.
    fn walk_wide(&mut self, la: u64, code: u32, owner: Option<OwnerBit>) -> Step<Walk> {
        let stripped = owner.map_or(0, OwnerBit::mask);
        let closed = owner.map_or(0, OwnerBit::beyond);
        let long = self.core.efer & efer::LMA != 0;
        let levels = match (long, self.core.cr4 & cr4::LA57 != 0) {
            (false, _) => 3,
            (true, false) => 4,
            (true, true) => 5,
        };
        let beyond = ADDRESS & !stripped & (!((1u64 << self.phys_bits.min(52)) - 1) | closed);
        let no_nx = if self.core.efer & efer::NXE == 0 { NX } else { 0 };
        let mut private = table_is_private(self.core.cr3, owner);
        let mut table = self.core.cr3 & !stripped;
        if long && table & ADDRESS & closed != 0 {
            return Err(self.page_fault(la, code | 9));
        }
        table &= if long { ADDRESS } else { 0xffff_ffe0 };
        let mut walk = Walk { met: [None; 5], rights: RW | US, leaf: 0, gpa: 0, page_size: 4096 };
        for level in (1..=levels).rev() {
            let shift = 3 + 9 * level;
            let pdpte = !long && level == 3;
            let index = la >> shift & if pdpte { 3 } else { 511 };
            let gpa = table + index * 8;
            let host = self.table_entry(la, gpa, Access::Walk, private)?;
            // SAFETY: `table_entry` answers with a pointer to 8 aligned bytes of a lent page.
            let raw = unsafe { host.cast::<u64>().read() };
            let value = raw & !stripped;
            if value & P == 0 {
                return Err(self.page_fault(la, code));
            }
            let large = value & PS != 0 && (level == 2 || level == 3 && long);
            let reserved = match level {
                _ if pdpte => 0xfff0_0000_0000_01e6 | beyond,
                1 => no_nx | beyond,
                2 | 3 if large => no_nx | beyond | ((1 << shift) - 1) & !0x1fff,
                2 | 3 => no_nx | beyond,
                _ => no_nx | beyond | PS,
            };
            let reserved = if long { reserved } else { reserved | 0x7ff0_0000_0000_0000 };
            if value & reserved != 0 {
                return Err(self.page_fault(la, code | 9));
            }
            if !pdpte {
                walk.rights = walk.rights & (value | NX) | value & NX;
                walk.met[level as usize - 1] = Some(Met { host, gpa, private, value: raw });
            }
            if level == 1 || large {
                let offset = (1u64 << shift) - 1;
                walk.leaf = raw;
                walk.gpa = value & ADDRESS & !offset | la & offset;
                walk.page_size = 1 << shift;
                break;
            }
            table = value & ADDRESS;
            private = table_is_private(raw, owner);
        }
        Ok(walk)
    }

    /// Legacy tables: 4-byte entries, two levels.
    fn walk_narrow(&mut self, la: u64, code: u32, private: bool) -> Step<Walk> {
        let mut walk = Walk { met: [None; 5], rights: RW | US, leaf: 0, gpa: 0, page_size: 4096 };
        let mut table = self.core.cr3 & 0xffff_f000;
        for level in [2usize, 1] {
            let shift = if level == 2 { 22 } else { 12 };
            let gpa = table + (la >> shift & 0x3ff) * 4;
            let host = self.table_entry(la, gpa, Access::Walk, private)?;
            // SAFETY: `table_entry` answers with a pointer to 4 aligned bytes of a lent page.
            let value = u64::from(unsafe { host.cast::<u32>().read() });
            if value & P == 0 {
                return Err(self.page_fault(la, code));
            }
            walk.rights &= value;
            walk.met[level - 1] = Some(Met { host, gpa, private, value });
            walk.leaf = value;
            if level == 2 && value & PS != 0 && self.core.cr4 & cr4::PSE != 0 {
                if value & 1 << 21 != 0 {
                    return Err(self.page_fault(la, code | 9));
                }
                walk.page_size = 1 << 22;
                walk.gpa = value & 0xffc0_0000 | (value >> 13 & 0xff) << 32 | la & 0x3f_ffff;
                break;
            }
            table = value & 0xffff_f000;
            walk.gpa = table | la & 0xfff;
        }
        Ok(walk)
    }

    fn check_rights(
        &mut self,
        la: u64,
        walk: &Walk,
        access: Access,
        user: bool,
        code: u32,
    ) -> Step {
        let user_page = walk.rights & US != 0;
        let write_protected = user || self.core.cr0 & cr0::WP != 0;
        let smap = self.core.cr4 & cr4::SMAP != 0
            && (self.core.rflags & flags::AC == 0 || self.core.cpl == 3);
        let refused = user && !user_page
            || access == Access::Write && write_protected && walk.rights & RW == 0
            || access == Access::Fetch && walk.rights & NX != 0
            || !user
                && user_page
                && match access {
                    Access::Fetch => self.core.cr4 & cr4::SMEP != 0,
                    Access::Read | Access::Write => smap,
                    Access::Walk | Access::WalkWrite => false,
                };
        if refused { Err(self.page_fault(la, code | 1)) } else { Ok(()) }
    }

    /// Sets the accessed bits of the entries used and the dirty bit of the leaf.
    fn mark_used(&mut self, walk: &Walk, write: bool, wide: bool) -> Step {
        let mut leaf = true;
        for met in walk.met.into_iter().flatten() {
            let bits = if leaf && write { A | D } else { A };
            leaf = false;
            if met.value & bits == bits {
                continue;
            }
            let host = self.table_entry(0, met.gpa, Access::WalkWrite, met.private)?;
            debug_assert_eq!(host, met.host);
            self.note_code_write(host, if wide { 8 } else { 4 });
            let value = met.value | bits;
            // SAFETY: `table_entry` answers with a pointer to an aligned entry of a lent page.
            unsafe {
                if wide {
                    host.cast::<u64>().write(value);
                } else {
                    host.cast::<u32>().write(value as u32);
                }
            }
        }
        Ok(())
    }

    /// Host address of a paging-structure entry.
    fn table_entry(&mut self, la: u64, gpa: u64, access: Access, private: bool) -> Step<*mut u8> {
        let answer = self.world().page(gpa & !0xfff, access, private);
        match self.lift_at(answer, la)? {
            PageAnswer::Memory(page) => {
                // SAFETY: the world lent the whole page; the offset stays inside it.
                Ok(unsafe { page.host.add((gpa & 0xfff) as usize) })
            }
            PageAnswer::Mmio => Err(self.unknown("page tables in device memory")),
        }
    }
}

/// Whether an address that carries the owner bit means private memory.
fn is_private(address: u64, bit: OwnerBit) -> bool {
    match bit {
        OwnerBit::Private(_) => address & bit.mask() != 0,
        OwnerBit::Shared(_) => address & bit.mask() == 0,
    }
}

/// The same for the address of a table.
fn table_is_private(address: u64, owner: Option<OwnerBit>) -> bool {
    match owner {
        None => false,
        Some(OwnerBit::Private(_)) => true,
        Some(bit) => is_private(address, bit),
    }
}
