//! MapGPA: a range changes between private and shared, in chunks of 2 MiB from its start (`tdx_map_gpa`,
//! `tdx_complete_vmcall_map_gpa`).

use abi::tdx::vmcall::Status;
use libc::{EAGAIN, EINVAL};

use super::{Outcome, Pending, Vmcall, VmcallExit, VmcallHost, attributes, is_shared};

/// Bytes of a chunk (`TDX_MAP_GPA_MAX_LEN`).
const CHUNK: u64 = 2 << 20;

/// How far a MapGPA has got. Addresses carry the shared bit.
#[derive(Clone, Copy, Debug)]
pub(super) struct MapGpa {
    next: u64,
    end: u64,
}

impl Vmcall {
    /// R12 address, R13 size.
    pub(super) fn map_gpa(&mut self, host: &mut dyn VmcallHost) -> Outcome {
        let (gpa, size) = (self.regs.r12, self.regs.r13);
        let gpaw = host.gpaw();
        let end = gpa.wrapping_add(size);
        let last = end.wrapping_sub(1);
        let status = if !host.map_gpa_exits() {
            Status::SUBFUNC_UNSUPPORTED
        } else if end <= gpa
            || !host.legal_gpa(gpa)
            || !host.legal_gpa(last)
            || is_shared(gpaw, gpa) != is_shared(gpaw, last)
        {
            Status::INVALID_OPERAND
        } else if gpa & 0xfff != 0 || size & 0xfff != 0 {
            Status::ALIGN_ERROR
        } else {
            return self.map_chunk(host, MapGpa { next: gpa, end });
        };
        self.stop_at(gpa, status)
    }

    fn map_chunk(&mut self, host: &dyn VmcallHost, state: MapGpa) -> Outcome {
        let gpaw = host.gpaw();
        self.pending = Some(Pending::MapGpa(state));
        Outcome::Exit(VmcallExit::MapGpaRange {
            gpa: state.next & !gpaw.shared_mask(),
            npages: (state.end - state.next).min(CHUNK) >> 12,
            attributes: attributes(is_shared(gpaw, state.next)),
        })
    }

    /// User space has changed a chunk, or not.
    pub(super) fn map_gpa_done(
        &mut self,
        host: &mut dyn VmcallHost,
        mut state: MapGpa,
        ret: u64,
    ) -> Outcome {
        match i32::try_from(ret) {
            Ok(0) => {}
            Ok(EAGAIN) => return self.stop_at(state.next, Status::RETRY),
            Ok(EINVAL) => return self.stop_at(state.next, Status::INVALID_OPERAND),
            _ => return Outcome::Fail(EINVAL),
        }
        state.next = state.next.saturating_add(CHUNK);
        if state.next >= state.end {
            return Outcome::Resume;
        }
        if host.pending_event() {
            return self.stop_at(state.next, Status::RETRY);
        }
        self.map_chunk(host, state)
    }

    fn stop_at(&mut self, gpa: u64, status: Status) -> Outcome {
        self.regs.r11 = gpa;
        self.refuse(status)
    }
}
