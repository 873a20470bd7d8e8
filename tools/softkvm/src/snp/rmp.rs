//! The reverse map table: who owns a private page, and what its owner may do with it.
//!
//! One entry per 4 KiB page of a guest memory descriptor, kept beside the page so that it survives
//! attribute flips. Where KVM has assigned 2 MiB as one, all 512 say so. The rules are AMD
//! APM vol. 2, 15.36.3 to 15.36.7; only VMPL0 runs, whose permissions RMPADJUST cannot reduce, so
//! permissions of the others are kept but never checked against.

use crate::cpu::world::Access;

/// RMP state of one page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RmpEntry {
    /// Guest physical address at which the owner has it.
    pub gpa: u64,
    /// The owner; 0 is the hypervisor.
    pub asid: u16,
    flags: u8,
    /// Permissions of VMPL0 to VMPL3: read 1, write 2, user execute 4, supervisor execute 8.
    pub perms: [u8; 4],
}

const ASSIGNED: u8 = 1 << 0;
const VALIDATED: u8 = 1 << 1;
const IMMUTABLE: u8 = 1 << 2;
const VMSA: u8 = 1 << 3;
const LARGE: u8 = 1 << 4;

/// Every permission.
pub const PERM_ALL: u8 = 0xf;

/// Result codes of PVALIDATE and RMPADJUST in EAX (APM vol. 3).
pub mod code {
    /// Done.
    pub const SUCCESS: u32 = 0;
    /// Wrong parameters.
    pub const FAIL_INPUT: u32 = 1;
    /// The target VMPL may not be changed from here.
    pub const FAIL_PERMISSION: u32 = 2;
    /// The page is not of the size asked for.
    pub const FAIL_SIZEMISMATCH: u32 = 6;
}

/// Why an RMPUPDATE was refused (APM vol. 3, RMPUPDATE; Linux turns every one into EFAULT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RmpUpdateError {
    /// The page is immutable: firmware owns it.
    Permission,
}

/// What the RMP says to an access with the C-bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go ahead.
    Allowed,
    /// The page belongs to the hypervisor: nested page fault, and KVM assigns it.
    NotAssigned,
    /// The page is the guest's but not validated: #VC with code 0x404.
    NotValidated,
    /// A nested page fault with the RMP bit that nobody can resolve: wrong owner, wrong address,
    /// write to a VMSA, or a page that firmware holds.
    Denied(&'static str),
}

impl RmpEntry {
    /// The page belongs to a guest or to firmware.
    pub fn assigned(&self) -> bool {
        self.flags & ASSIGNED != 0
    }

    /// The guest has validated it.
    pub fn validated(&self) -> bool {
        self.flags & VALIDATED != 0
    }

    /// Only firmware may change it.
    pub fn immutable(&self) -> bool {
        self.flags & IMMUTABLE != 0
    }

    /// It holds a processor's save area.
    pub fn vmsa(&self) -> bool {
        self.flags & VMSA != 0
    }

    /// It is one of 512 that are one entry of 2 MiB.
    pub fn large(&self) -> bool {
        self.flags & LARGE != 0
    }

    /// PSMASH: it stands for itself.
    pub fn smash(&mut self) {
        self.flags &= !LARGE;
    }

    /// RMPUPDATE of 2 MiB to Guest-Invalid: its part of it. The caller knows that none of the 512 is assigned.
    pub fn make_large(&mut self, gpa: u64, asid: u16) {
        *self = Self { gpa, asid, flags: ASSIGNED | LARGE, perms: [PERM_ALL, 0, 0, 0] };
    }

    /// RMPUPDATE to Guest-Invalid (`immutable` false) or Pre-Guest (`immutable` true).
    pub fn make_private(
        &mut self,
        gpa: u64,
        asid: u16,
        immutable: bool,
    ) -> Result<(), RmpUpdateError> {
        if self.immutable() {
            return Err(RmpUpdateError::Permission);
        }
        *self = Self {
            gpa,
            asid,
            flags: ASSIGNED | if immutable { IMMUTABLE } else { 0 },
            perms: [PERM_ALL, 0, 0, 0],
        };
        Ok(())
    }

    /// RMPUPDATE to Hypervisor; contents are whatever they are.
    pub fn make_shared(&mut self) -> Result<(), RmpUpdateError> {
        if self.immutable() {
            return Err(RmpUpdateError::Permission);
        }
        *self = Self::default();
        Ok(())
    }

    /// The firmware takes a Pre-Guest page into the guest: Guest-Valid, as LAUNCH_UPDATE does.
    /// `false` if the page is not in that state.
    #[must_use]
    pub fn firmware_accept(&mut self, vmsa: bool) -> bool {
        if !(self.assigned() && self.immutable()) || self.validated() || self.asid == 0 {
            return false;
        }
        self.flags = ASSIGNED | VALIDATED | if vmsa { VMSA } else { 0 };
        true
    }

    /// SNP_PAGE_RECLAIM followed by RMPUPDATE to Hypervisor.
    pub fn reclaim(&mut self) {
        *self = Self::default();
    }

    /// PVALIDATE by the guest that owns the page at `gpa`: EAX and CF.
    ///
    /// The caller has asked [`check`] first, so the page is assigned, and knows that it is of the
    /// size asked for.
    pub fn pvalidate(&mut self, validate: bool) -> (u32, bool) {
        if self.validated() == validate {
            return (code::SUCCESS, true);
        }
        if validate {
            self.flags |= VALIDATED;
        } else {
            self.flags &= !VALIDATED;
        }
        (code::SUCCESS, false)
    }

    /// RMPADJUST by VMPL0 with RDX as given: EAX. The caller has asked [`check`] first, and tells
    /// whether the page is of the size asked for.
    ///
    /// RDX: target VMPL 7:0, permissions 15:8, VMSA 16.
    pub fn rmpadjust(&mut self, right_size: bool, rdx: u64) -> u32 {
        let target = rdx & 0xff;
        let perms = (rdx >> 8 & 0xff) as u8;
        if target > 3 || perms & !PERM_ALL != 0 || rdx >> 17 != 0 {
            return code::FAIL_INPUT;
        }
        if target == 0 {
            return code::FAIL_PERMISSION;
        }
        if !right_size {
            return code::FAIL_SIZEMISMATCH;
        }
        self.perms[target as usize] = perms;
        if rdx & 1 << 16 != 0 {
            self.flags |= VMSA;
        } else {
            self.flags &= !VMSA;
        }
        code::SUCCESS
    }
}

/// The RMP check of an access with the C-bit set, or private by its nature, by guest `asid` to its
/// address `gpa` (APM vol. 2, 15.36.10).
pub fn check(entry: &RmpEntry, asid: u16, gpa: u64, access: Access) -> Verdict {
    if !entry.assigned() {
        return Verdict::NotAssigned;
    }
    if entry.immutable() {
        return Verdict::Denied("the page is in the hands of firmware");
    }
    if entry.asid != asid {
        return Verdict::Denied("the page belongs to another guest");
    }
    if entry.gpa != gpa & !0xfff {
        return Verdict::Denied("the page belongs to another guest physical address");
    }
    if !entry.validated() {
        return Verdict::NotValidated;
    }
    if entry.vmsa() && matches!(access, Access::Write | Access::WalkWrite) {
        return Verdict::Denied("write to a VMSA page");
    }
    Verdict::Allowed
}

/// Everything that decides about one access of an SNP guest.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Guest physical address without C-bit.
    pub gpa: u64,
    /// What for.
    pub access: Access,
    /// C-bit set, or a fetch or walk.
    pub c_bit: bool,
    /// The owner's ASID.
    pub asid: u16,
    /// Whether `KVM_MEMORY_ATTRIBUTE_PRIVATE` is set there.
    pub attribute: bool,
    /// What stands behind the address.
    pub slot: Slot,
}

/// What a guest physical address is backed by.
#[derive(Clone, Copy, Debug)]
pub enum Slot {
    /// No memory slot.
    None,
    /// A slot without guest memory descriptor.
    SharedOnly,
    /// A slot with a guest memory descriptor, and the RMP state of the page there.
    Guarded(RmpEntry),
}

/// What happens to an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// It goes to the shared mapping.
    Shared,
    /// It goes to the guest memory descriptor.
    Private,
    /// The hypervisor assigns the page (Guest-Invalid), then the access is tried again.
    Fill,
    /// #VC with this code.
    Vc(u32),
    /// `KVM_EXIT_MEMORY_FAULT`, with or without the PRIVATE flag.
    MemoryFault {
        /// Whether the access was private.
        private: bool,
    },
    /// The part would fault for ever: the run ends.
    Stuck(&'static str),
}

/// Decides about one access (Linux arch/x86/kvm/svm/svm.c `npf_interception`,
/// arch/x86/kvm/mmu/mmu.c `kvm_mmu_faultin_pfn`; AMD APM vol. 2, 15.36.10).
pub fn gate(request: &Request) -> Gate {
    let Request { gpa, access, c_bit, asid, attribute, slot } = *request;
    if c_bit != attribute {
        // Without a slot a shared access is device memory, whatever the attribute says only if
        // it is shared: KVM compares the attribute first.
        return Gate::MemoryFault { private: c_bit };
    }
    if !c_bit {
        return match slot {
            Slot::None => Gate::Vc(abi::ghcb::exit::NPF as u32),
            Slot::SharedOnly | Slot::Guarded(_) => Gate::Shared,
        };
    }
    let Slot::Guarded(entry) = slot else { return Gate::MemoryFault { private: true } };
    match check(&entry, asid, gpa, access) {
        Verdict::Allowed => Gate::Private,
        Verdict::NotAssigned => Gate::Fill,
        Verdict::NotValidated => Gate::Vc(abi::ghcb::exit::PAGE_NOT_VALIDATED as u32),
        Verdict::Denied(why) => Gate::Stuck(why),
    }
}
