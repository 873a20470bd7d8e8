//! Pages that the guest gives to, or takes from, the host while it runs.
//!
//! Only by request (KVM_HC_MAP_GPA_RANGE). An access whose kind is not the page's is never "repaired": the host would
//! then decide what is private. The exception is a guest that starts in OVMF, which counts on it: its first GHCB and its
//! probe for flash memory touch pages as shared without a request (edk2 OvmfPkg/ResetVector/Ia32/AmdSev.nasm.inc,
//! OvmfPkg/QemuFlashFvbServicesRuntimeDxe). It validates what it takes back, so that it notices what it did not ask for.

use serde::{Deserialize, Serialize};

use crate::launch::GuestMemory;
use crate::plan::layout::Range;
use crate::sys::SysError;
use crate::sys::vm::{Visibility, Vm, punch_private};

/// What changed owner, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversions {
    /// Requests for private pages.
    pub to_private_requests: u64,
    /// Pages in them.
    pub to_private_pages: u64,
    /// Requests for shared pages.
    pub to_shared_requests: u64,
    /// Pages in them.
    pub to_shared_pages: u64,
    /// Pages that changed owner by being touched; only where a firmware image is started.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub touched_pages: u64,
    /// Requests that were refused.
    pub refused_requests: u64,
    /// Time spent on them.
    pub wall_ns: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A request, as KVM_HC_MAP_GPA_RANGE carries it (Linux 7.2 Documentation/virt/kvm/x86/hypercalls.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvertRequest {
    gpa: u64,
    len: u64,
    visibility: Visibility,
}

const PAGE: u64 = 4096;
/// Bit 4 of the attributes: encrypted. Bits 3:0 are the guest's page size and say nothing about privacy.
const ENCRYPTED: u64 = 1 << 4;

impl ConvertRequest {
    /// From the hypercall's operands; `None` if they make no range.
    pub fn parse(args: [u64; 6]) -> Option<ConvertRequest> {
        let [gpa, pages, attributes, ..] = args;
        let len = pages.checked_mul(PAGE)?;
        let end = gpa.checked_add(len)?;
        if gpa % PAGE != 0 || pages == 0 || end > 1 << 52 {
            return None;
        }
        let visibility =
            if attributes & ENCRYPTED != 0 { Visibility::Private } else { Visibility::Shared };
        Some(ConvertRequest { gpa, len, visibility })
    }
}

impl ConvertRequest {
    /// The page around an address, which the guest has touched as if it were this.
    pub fn of_touched(gpa: u64, visibility: Visibility) -> ConvertRequest {
        ConvertRequest { gpa: gpa & !(PAGE - 1), len: PAGE, visibility }
    }

    /// What is asked for, and whose it shall be.
    pub fn range(self) -> (Range, Visibility) {
        (Range { gpa: self.gpa, len: self.len }, self.visibility)
    }
}

/// Carries a request out: routing first, then the pages of the side that lost them are freed, so that they neither cost
/// memory nor come back with old contents. False: the range is not memory that could be converted.
///
/// # Errors
/// The host's.
pub fn convert(vm: &Vm, memory: &GuestMemory, request: ConvertRequest) -> Result<bool, SysError> {
    let ConvertRequest { gpa, len, visibility } = request;
    if visibility == Visibility::Shared && memory.ram.misses(gpa, len) {
        // What is not memory is shared already: OVMF says it of its device hole.
        return Ok(true);
    }
    if memory.private.is_empty() || !memory.ram.covers(gpa, len) {
        return Ok(false);
    }
    vm.set_visibility(gpa, len, visibility)?;
    match visibility {
        Visibility::Private => memory.ram.discard_shared(gpa, len)?,
        Visibility::Shared => {
            for (region, memfd) in memory.ram.regions().iter().zip(&memory.private) {
                if let Some((begin, len)) = region.intersect(gpa, len) {
                    punch_private(memfd, begin - region.gpa(), len)?;
                }
            }
        }
    }
    Ok(true)
}

impl Conversions {
    /// Counts a request.
    pub fn count(&mut self, request: Option<ConvertRequest>, done: bool, wall_ns: u64) {
        self.wall_ns += wall_ns;
        match request {
            Some(r) if done && r.visibility == Visibility::Private => {
                self.to_private_requests += 1;
                self.to_private_pages += r.len / PAGE;
            }
            Some(r) if done => {
                self.to_shared_requests += 1;
                self.to_shared_pages += r.len / PAGE;
            }
            _ => self.refused_requests += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_size_is_not_a_wish_for_privacy() {
        // 2 MiB pages, shared.
        let request = ConvertRequest::parse([0x20_0000, 512, 1, 0, 0, 0]).unwrap();
        assert_eq!(request.visibility, Visibility::Shared);
        let request = ConvertRequest::parse([0x20_0000, 512, 0x11, 0, 0, 0]).unwrap();
        assert_eq!(request.visibility, Visibility::Private);
    }

    #[test]
    fn absurd_ranges_are_refused() {
        for args in [[1, 1, 0], [0, 0, 0], [0, u64::MAX, 0], [!0xfff, 1, 0], [1 << 52, 1, 0]] {
            assert_eq!(
                ConvertRequest::parse([args[0], args[1], args[2], 0, 0, 0]),
                None,
                "{args:x?}"
            );
        }
    }
}
