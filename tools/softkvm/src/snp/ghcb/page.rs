//! The page protocol: reading a request out of the GHCB, dispatching it, writing the reply.

use core::mem::offset_of;

use abi::ghcb::{
    Ghcb, SHARED_BUFFER_OFFSET, SHARED_BUFFER_SIZE, ap_creation, exit, input_error, ioio, reply,
};
use abi::kvm::{KVM_HC_MAP_GPA_RANGE, MapGpaAttributes};
use libc::EINVAL;
use zerocopy::{FromBytes, FromZeros};

use super::{ApRequest, GhcbExit, GhcbHost, HV_FEATURES, Hold, Outcome, Pending, Vmgexit};

/// The registers that KVM takes from and gives to a GHCB.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Regs {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    rsi: u64,
    cpl: u8,
}

/// A GHCB in work.
#[derive(Clone, Debug)]
pub(super) struct Mapped {
    pub gpa: u64,
    pub regs: Regs,
    valid: [u8; 16],
    usage: u32,
    pub code: u64,
    pub info_1: u64,
    pub info_2: u64,
    scratch: u64,
    xcr0: u64,
    xss: u64,
    reply: Option<(u64, u64)>,
}

impl Mapped {
    /// Reads the page (`sev_es_sync_from_ghcb`): what is not marked valid counts as zero, and the
    /// marks are cleared.
    pub fn map(host: &mut dyn GhcbHost, gpa: u64) -> Option<Self> {
        let mut bytes = [0; 4096];
        if gpa == 0 || !host.read_shared(gpa, &mut bytes) {
            return None;
        }
        let ghcb = Ghcb::read_from_bytes(&bytes).unwrap_or_else(|_| Ghcb::new_zeroed());
        let field = |offset, value| if ghcb.is_valid(offset) { value } else { 0 };
        let mapped = Self {
            gpa,
            regs: Regs {
                rax: field(offset_of!(Ghcb, rax), ghcb.rax),
                rbx: field(offset_of!(Ghcb, rbx), ghcb.rbx),
                rcx: field(offset_of!(Ghcb, rcx), ghcb.rcx),
                rdx: field(offset_of!(Ghcb, rdx), ghcb.rdx),
                rsi: field(offset_of!(Ghcb, rsi), ghcb.rsi),
                cpl: field(offset_of!(Ghcb, cpl), u64::from(ghcb.cpl)) as u8,
            },
            valid: ghcb.valid_bitmap,
            usage: ghcb.ghcb_usage,
            code: field(offset_of!(Ghcb, sw_exit_code), ghcb.sw_exit_code),
            info_1: field(offset_of!(Ghcb, sw_exit_info_1), ghcb.sw_exit_info_1),
            info_2: field(offset_of!(Ghcb, sw_exit_info_2), ghcb.sw_exit_info_2),
            scratch: field(offset_of!(Ghcb, sw_scratch), ghcb.sw_scratch),
            xcr0: ghcb.xcr0,
            xss: ghcb.xss,
            reply: None,
        };
        host.write_shared(gpa + offset_of!(Ghcb, valid_bitmap) as u64, &[0; 16]);
        Some(mapped)
    }

    /// Writes the reply (`sev_es_sync_to_ghcb`): the four registers always.
    pub fn unmap(self, host: &mut dyn GhcbHost) {
        let mut marks = Ghcb::new_zeroed();
        let mut put = |offset: usize, value: u64| {
            marks.set_valid(offset);
            host.write_shared(self.gpa + offset as u64, &value.to_le_bytes());
        };
        put(offset_of!(Ghcb, rax), self.regs.rax);
        put(offset_of!(Ghcb, rbx), self.regs.rbx);
        put(offset_of!(Ghcb, rcx), self.regs.rcx);
        put(offset_of!(Ghcb, rdx), self.regs.rdx);
        if let Some((info_1, info_2)) = self.reply {
            put(offset_of!(Ghcb, sw_exit_info_1), info_1);
            put(offset_of!(Ghcb, sw_exit_info_2), info_2);
        }
        host.write_shared(self.gpa + offset_of!(Ghcb, valid_bitmap) as u64, &marks.valid_bitmap);
    }

    pub fn has(&self, offset: usize) -> bool {
        self.valid[offset >> 6] & 1 << (offset >> 3 & 7) != 0
    }

    /// Reply: nothing to do for the guest; `info_2` is the event's own result.
    pub fn no_action(&mut self, info_2: u64) {
        self.reply = Some((reply::NO_ACTION, info_2));
    }

    /// Reply: the request cannot be understood.
    pub fn bad_input(&mut self, error: u64) {
        self.reply = Some((reply::MALFORMED_INPUT, error));
    }

    /// Reply: inject #GP.
    pub fn general_protection(&mut self) {
        /// Valid, type exception, vector 13 (APM vol. 2, 15.20).
        const EVENT: u64 = 1 << 31 | 3 << 8 | 13;
        self.reply = Some((reply::ISSUE_EXCEPTION, EVENT));
    }

    /// The scratch area of at least `len` bytes, as a guest physical address and the bytes up to
    /// the end of the shared buffer (`setup_vmgexit_scratch`). Protocol 2 allows it nowhere else.
    pub fn scratch(&self, len: u64) -> Option<(u64, u64)> {
        let start = self.gpa + SHARED_BUFFER_OFFSET as u64;
        let end = start + SHARED_BUFFER_SIZE as u64;
        let last = self.scratch.checked_add(len)?;
        (self.scratch >= start && last <= end).then(|| (self.scratch, end - self.scratch))
    }

    /// Whether the fields that an event needs are marked valid
    /// (`sev_es_are_required_ghcb_fields_valid`); `None` for an event that is not supported.
    fn complete_for(&self, code: u64) -> Option<bool> {
        macro_rules! has {
            ($($field:ident),*) => { $(self.has(offset_of!(Ghcb, $field)))&&* };
        }
        Some(match code {
            exit::READ_DR7
            | exit::RDTSC
            | exit::RDTSCP
            | exit::INVD
            | exit::WBINVD
            | exit::NMI_COMPLETE
            | exit::AP_RESET_HOLD
            | exit::AP_JUMP_TABLE
            | exit::HV_FEATURES
            | exit::TERM_REQUEST
            | exit::UNSUPPORTED_EVENT
            | exit::GUEST_REQUEST
            | exit::EXT_GUEST_REQUEST => true,
            exit::WRITE_DR7 => has!(rax),
            exit::RDPMC => has!(rcx),
            exit::CPUID => has!(rax, rcx) && (self.regs.rax != 0xd || has!(xcr0)),
            exit::IOIO if self.info_1 & ioio::STR != 0 => has!(sw_scratch),
            exit::IOIO => self.info_1 & ioio::IN != 0 || has!(rax),
            exit::MSR => has!(rcx) && (self.info_1 == 0 || has!(rax, rdx)),
            exit::VMMCALL => has!(rax, cpl),
            exit::MONITOR => has!(rax, rcx, rdx),
            exit::MWAIT => has!(rax, rcx),
            exit::MMIO_READ | exit::MMIO_WRITE | exit::PSC => has!(sw_scratch),
            exit::AP_CREATION => self.info_1 as u32 == ap_creation::DESTROY || has!(rax),
            _ => return None,
        })
    }

    /// Everything that is checked before an event is looked at, in KVM's order.
    fn refusal(&self, registered: Option<u64>) -> Option<u64> {
        if registered != Some(self.gpa) {
            return Some(input_error::NOT_REGISTERED);
        }
        if self.usage != 0 {
            return Some(input_error::INVALID_USAGE);
        }
        let triple = [
            offset_of!(Ghcb, sw_exit_code),
            offset_of!(Ghcb, sw_exit_info_1),
            offset_of!(Ghcb, sw_exit_info_2),
        ];
        if !triple.into_iter().all(|offset| self.has(offset)) {
            return Some(input_error::MISSING_INPUT);
        }
        match self.complete_for(self.code) {
            None => Some(input_error::INVALID_EVENT),
            Some(false) => Some(input_error::MISSING_INPUT),
            Some(true) => None,
        }
    }
}

impl Vmgexit {
    /// Dispatches the mapped page.
    pub(super) fn handle_page(&mut self, host: &mut dyn GhcbHost) -> Outcome {
        let registered = self.registered;
        let Some(mapped) = self.mapped.as_deref_mut() else { return Outcome::Resume };
        if let Some(error) = mapped.refusal(registered) {
            mapped.bad_input(error);
            return Outcome::Resume;
        }
        mapped.no_action(0);
        match mapped.code {
            exit::IOIO => return self.port_io(host),
            exit::MMIO_READ => return self.mmio(host, false),
            exit::MMIO_WRITE => return self.mmio(host, true),
            exit::PSC => return self.psc(host),
            exit::GUEST_REQUEST => return self.guest_request(host),
            exit::EXT_GUEST_REQUEST => return self.ext_guest_request(host),
            exit::VMMCALL => return self.vmmcall(host),
            exit::AP_RESET_HOLD => {
                self.hold = Hold::Page;
                return Outcome::Hold;
            }
            exit::TERM_REQUEST => {
                // Set and reason are lost: user space sees where the page is.
                return Outcome::Exit(GhcbExit::Terminate { data: mapped.gpa });
            }
            exit::UNSUPPORTED_EVENT => return Outcome::Fail(EINVAL),
            exit::CPUID => cpuid(mapped, host),
            exit::MSR => msr(mapped, host),
            exit::RDTSC | exit::RDTSCP => tsc(mapped, host),
            exit::RDPMC => mapped.general_protection(),
            exit::NMI_COMPLETE => host.nmi_complete(),
            exit::HV_FEATURES => mapped.no_action(HV_FEATURES),
            exit::AP_JUMP_TABLE => ap_jump_table(mapped, host),
            exit::AP_CREATION => create_ap(mapped, host),
            // DR7 is the guest's own; caches need no flush here; MONITOR and MWAIT are no-ops.
            _ => {}
        }
        Outcome::Resume
    }

    fn vmmcall(&mut self, host: &mut dyn GhcbHost) -> Outcome {
        /// `KVM_EXIT_HYPERCALL_LONG_MODE`.
        const LONG_MODE: u64 = 1;
        /// `KVM_EPERM`, negated as guests see it.
        const EPERM: u64 = -1i64 as u64;
        let Some(mapped) = self.mapped.as_deref_mut() else { return Outcome::Resume };
        let Regs { rax, rbx, rcx, rdx, rsi, cpl } = mapped.regs;
        if rax == KVM_HC_MAP_GPA_RANGE && host.map_gpa_exits() && cpl == 0 {
            let (gpa, npages, attributes) = (rbx, rcx, rdx);
            if gpa & 0xfff != 0 || npages == 0 || (gpa >> 12).checked_add(npages).is_none() {
                mapped.regs.rax = -i64::from(EINVAL) as u64;
                return Outcome::Resume;
            }
            let attributes = attributes & (MapGpaAttributes::ENCRYPTED | 0xf);
            self.pending = Some(Pending::Vmmcall);
            return Outcome::Exit(GhcbExit::MapGpaRange {
                gpa,
                npages,
                attributes,
                flags: LONG_MODE,
            });
        }
        mapped.regs.rax =
            if cpl != 0 { EPERM } else { host.hypercall(rax, [rbx, rcx, rdx, rsi], cpl) };
        Outcome::Resume
    }
}

fn cpuid(mapped: &mut Mapped, host: &mut dyn GhcbHost) {
    let said = |offset, value| mapped.has(offset).then_some(value);
    let xcr0 = said(offset_of!(Ghcb, xcr0), mapped.xcr0);
    let xss = said(offset_of!(Ghcb, xss), mapped.xss);
    let [eax, ebx, ecx, edx] =
        host.cpuid(mapped.regs.rax as u32, mapped.regs.rcx as u32, xcr0, xss);
    let regs = &mut mapped.regs;
    (regs.rax, regs.rbx) = (eax.into(), ebx.into());
    (regs.rcx, regs.rdx) = (ecx.into(), edx.into());
}

fn msr(mapped: &mut Mapped, host: &mut dyn GhcbHost) {
    let index = mapped.regs.rcx as u32;
    if mapped.info_1 != 0 {
        let value = mapped.regs.rdx << 32 | mapped.regs.rax & 0xffff_ffff;
        if !host.wrmsr(index, value) {
            mapped.general_protection();
        }
        return;
    }
    match host.rdmsr(index) {
        Some(value) => (mapped.regs.rax, mapped.regs.rdx) = (value & 0xffff_ffff, value >> 32),
        None => mapped.general_protection(),
    }
}

fn tsc(mapped: &mut Mapped, host: &mut dyn GhcbHost) {
    /// TSC_AUX.
    const TSC_AUX: u32 = 0xc000_0103;
    let value = host.tsc();
    (mapped.regs.rax, mapped.regs.rdx) = (value & 0xffff_ffff, value >> 32);
    if mapped.code == exit::RDTSCP {
        mapped.regs.rcx = host.rdmsr(TSC_AUX).unwrap_or(0);
    }
}

fn ap_jump_table(mapped: &mut Mapped, host: &mut dyn GhcbHost) {
    match mapped.info_1 {
        0 => *host.ap_jump_table() = mapped.info_2,
        1 => {
            let address = *host.ap_jump_table();
            mapped.no_action(address);
        }
        _ => mapped.bad_input(input_error::INVALID_INPUT),
    }
}

/// `sev_snp_ap_creation`.
fn create_ap(mapped: &mut Mapped, host: &mut dyn GhcbHost) {
    const HUGE_PAGE: u64 = 1 << 21;
    let vmsa = mapped.info_2;
    let good = mapped.regs.rax == host.features().0
        && vmsa & 0xfff == 0
        && host.legal_gpa(vmsa)
        // An erratum of the RMP check: a VMSA must not start a 2 MiB page.
        && !vmsa.is_multiple_of(HUGE_PAGE);
    let request = match mapped.info_1 as u32 {
        ap_creation::CREATE_ON_INIT if good => Some(ApRequest::CreateOnInit(vmsa)),
        ap_creation::CREATE if good => Some(ApRequest::Create(vmsa)),
        ap_creation::DESTROY => Some(ApRequest::Destroy),
        _ => None,
    };
    let apic_id = (mapped.info_1 >> 32) as u32;
    if !request.is_some_and(|request| host.ap_creation(apic_id, request)) {
        mapped.bad_input(input_error::INVALID_INPUT);
    }
}
