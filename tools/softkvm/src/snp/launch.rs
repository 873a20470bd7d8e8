//! KVM's side of an SNP launch: what `KVM_MEMORY_ENCRYPT_OP` does around the firmware, with the
//! order of its checks and its errno values (Linux 7.2 arch/x86/kvm/svm/sev.c).
//!
//! The front end copies structures in and out and gives access to memory through
//! [`LaunchMemory`]; nothing here touches a descriptor or a user address itself.

use abi::kvm_snp::{SevInit, SnpLaunchFinish, SnpLaunchStart, SnpLaunchUpdate, cmd};
use abi::snp::{FirmwareStatus, IdAuth, IdBlock, KVM_VMSA_GPA, PageType, SevFeatures, SnpPolicy};
use libc::{EBUSY, EEXIST, EFAULT, EINVAL, EIO, ENOTTY, EPERM};
use zerocopy::FromBytes;

use super::digest::LaunchDigest;
use super::psp::{FinishParams, GuestId, GuestState, Psp};
use super::rmp::RmpEntry;
use super::{Page, vmsa};
use crate::cpu::Core;

/// How a launch command fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// errno of the ioctl, positive.
    pub errno: i32,
    /// Firmware status for `kvm_sev_cmd.error`, if firmware was the cause.
    pub firmware: Option<FirmwareStatus>,
}

impl Failure {
    const fn errno(errno: i32) -> Self {
        Self { errno, firmware: None }
    }

    const fn firmware(status: FirmwareStatus) -> Self {
        Self { errno: EIO, firmware: Some(status) }
    }
}

/// Result of a launch command.
pub type Launch<T = ()> = Result<T, Failure>;

/// The memory that a launch works on.
pub trait LaunchMemory {
    /// How many pages from `gfn` on lie in one memory slot with a guest memory descriptor; 0 if
    /// `gfn` lies in none.
    fn guarded_run(&self, gfn: u64) -> u64;
    /// Whether `gfn` has the PRIVATE attribute.
    fn is_private(&self, gfn: u64) -> bool;
    /// Copies a page in from user memory; `for_write` asks that it be writable too.
    fn read_user(&mut self, address: u64, out: &mut [u8], for_write: bool) -> Result<(), i32>;
    /// Copies a page out to user memory.
    fn write_user(&mut self, address: u64, data: &[u8]) -> Result<(), i32>;
    /// Runs `with` on the guest memory page behind `gfn` and its RMP entry, allocating it.
    fn with_page(
        &mut self,
        gfn: u64,
        with: &mut dyn FnMut(&mut Page, &mut RmpEntry),
    ) -> Result<(), i32>;
}

/// The page a processor's registers were encrypted into, with its RMP entry.
#[derive(Clone, Debug)]
pub struct VmsaPage {
    /// Contents.
    pub page: Box<Page>,
    /// RMP state.
    pub rmp: RmpEntry,
}

/// A vCPU as LAUNCH_FINISH sees it.
#[derive(Debug)]
pub struct LaunchVcpu<'a> {
    /// Its registers.
    pub core: &'a Core,
    /// `KVM_SET_GUEST_DEBUG` is in force.
    pub guest_debug: bool,
    /// Its VMSA; `Some` once it is protected (`guest_state_protected`).
    pub vmsa: &'a mut Option<VmsaPage>,
}

/// KVM's SNP state of one VM (`struct kvm_sev_info`).
#[derive(Debug, Default)]
pub struct SnpVm {
    /// INIT2 has succeeded: features including SNP_ACTIVE.
    features: Option<SevFeatures>,
    asid: u16,
    policy: SnpPolicy,
    guest: Option<GuestId>,
    /// Number of the `/dev/sev` descriptor given to LAUNCH_START.
    sev_fd: Option<u32>,
    certs: bool,
    finished: bool,
}

impl SnpVm {
    /// A VM of type SNP before INIT2.
    pub fn new() -> Self {
        Self::default()
    }

    /// INIT2 has succeeded.
    pub fn active(&self) -> bool {
        self.features.is_some()
    }

    /// VMSA features including SNP_ACTIVE; empty before INIT2.
    pub fn features(&self) -> SevFeatures {
        self.features.unwrap_or_default()
    }

    /// The guest's ASID, 0 before INIT2.
    pub fn asid(&self) -> u16 {
        self.asid
    }

    /// The policy of LAUNCH_START.
    pub fn policy(&self) -> SnpPolicy {
        self.policy
    }

    /// The guest's context, after LAUNCH_START.
    pub fn guest(&self) -> Option<GuestId> {
        self.guest
    }

    /// The descriptor number that KVM remembers from LAUNCH_START.
    pub fn sev_fd(&self) -> Option<u32> {
        self.sev_fd
    }

    /// Extended requests go to user space for certificates.
    pub fn certs_enabled(&self) -> bool {
        self.certs
    }

    /// LAUNCH_FINISH has succeeded (`pre_fault_allowed`).
    pub fn finished(&self) -> bool {
        self.finished
    }

    /// The launch digest so far.
    pub fn launch_digest(&self, psp: &Psp) -> Option<LaunchDigest> {
        psp.launch_digest(self.guest?)
    }

    /// What `sev_mem_enc_ioctl` refuses by the command's number alone. Unknown numbers are EINVAL
    /// and the caller must then not copy the command back.
    pub fn admit(&self, id: u32) -> Launch {
        let known = matches!(
            id,
            0..=cmd::SEV_INIT2
                | cmd::SNP_LAUNCH_START
                | cmd::SNP_LAUNCH_UPDATE
                | cmd::SNP_LAUNCH_FINISH
                | cmd::SNP_ENABLE_REQ_CERTS
        );
        if self.active() && id < cmd::SNP_LAUNCH_START {
            return Err(Failure::errno(EPERM));
        }
        if !known || matches!(id, cmd::SEV_INIT | cmd::SEV_ES_INIT) {
            return Err(Failure::errno(EINVAL));
        }
        if !self.active() && (2..cmd::SEV_INIT2).contains(&id) {
            return Err(Failure::errno(ENOTTY));
        }
        Ok(())
    }

    /// `KVM_SEV_INIT2`. `asid` is a free one, if there is any.
    pub fn init2(
        &mut self,
        psp: &Psp,
        params: &SevInit,
        vcpus_created: bool,
        asid: Option<u16>,
    ) -> Launch {
        if self.active() || vcpus_created || params.flags != 0 {
            return Err(Failure::errno(EINVAL));
        }
        let features = SevFeatures(params.vmsa_features);
        if !psp.platform().vmsa_features().contains(features) {
            return Err(Failure::errno(EINVAL));
        }
        if !matches!(params.ghcb_version, 0 | abi::ghcb::PROTOCOL_VERSION) {
            return Err(Failure::errno(EINVAL));
        }
        self.asid = asid.ok_or(Failure::errno(EBUSY))?;
        self.features = Some(features | SevFeatures::SNP_ACTIVE);
        Ok(())
    }

    /// `KVM_SEV_SNP_ENABLE_REQ_CERTS`.
    pub fn enable_req_certs(&mut self, vcpus_created: bool) -> Launch {
        if !self.active() || vcpus_created {
            return Err(Failure::errno(EINVAL));
        }
        self.certs = true;
        Ok(())
    }

    /// `KVM_SEV_SNP_LAUNCH_START`. `sev_fd_good` says whether the descriptor is `/dev/sev`;
    /// `tsc_khz` is the VM's default frequency.
    pub fn launch_start(
        &mut self,
        psp: &mut Psp,
        params: Result<&SnpLaunchStart, i32>,
        sev_fd: u32,
        sev_fd_good: bool,
        tsc_khz: u32,
    ) -> Launch {
        if !self.active() {
            return Err(Failure::errno(ENOTTY));
        }
        let params = params.map_err(Failure::errno)?;
        if self.guest.is_some() || params.flags != 0 {
            return Err(Failure::errno(EINVAL));
        }
        let policy = params.policy;
        if !psp.platform().policy_bits().contains(policy)
            || !policy.contains(SnpPolicy::MUST_BE_ONE)
        {
            return Err(Failure::errno(EINVAL));
        }
        // The context is created first, and why that failed is lost.
        if !sev_fd_good {
            return Err(Failure::errno(ENOTTY));
        }
        let guest = psp.gctx_create().map_err(|_| Failure::errno(ENOTTY))?;
        let tsc = self.features().contains(SevFeatures::SECURE_TSC).then_some(tsc_khz);
        let started = psp
            .launch_start(guest, policy, params.gosvw, tsc)
            .and_then(|()| psp.activate(guest, self.asid));
        if let Err(status) = started {
            // It was created above, so it can be given up.
            let _ = psp.decommission(guest);
            return Err(Failure::firmware(status));
        }
        self.guest = Some(guest);
        self.policy = policy;
        self.sev_fd = Some(sev_fd);
        Ok(())
    }

    /// `KVM_SEV_SNP_LAUNCH_UPDATE`. `params` is advanced over what was done, and is to be copied
    /// back on success; a failure after the first page is a success with pages left.
    pub fn launch_update(
        &mut self,
        psp: &mut Psp,
        params: Result<&mut SnpLaunchUpdate, i32>,
        sev_fd_good: bool,
        memory: &mut dyn LaunchMemory,
    ) -> Launch {
        let Some(guest) = self.guest.filter(|_| self.active()) else {
            return Err(Failure::errno(EINVAL));
        };
        let params = params.map_err(Failure::errno)?;
        let kind = PageType(params.page_type);
        let kind_known = matches!(
            kind,
            PageType::NORMAL
                | PageType::ZERO
                | PageType::UNMEASURED
                | PageType::SECRETS
                | PageType::CPUID
        );
        let from_user = kind != PageType::ZERO;
        if params.len == 0
            || params.len & 0xfff != 0
            || params.flags != 0
            || !kind_known
            || (from_user && params.uaddr & 0xfff != 0)
        {
            return Err(Failure::errno(EINVAL));
        }
        let run = memory.guarded_run(params.gfn_start).min(params.len >> 12);
        if run == 0 {
            return Err(Failure::errno(EINVAL));
        }
        for done in 0..run {
            let page = Populate {
                guest,
                kind,
                asid: self.asid,
                gfn: params.gfn_start,
                uaddr: from_user.then_some(params.uaddr),
            };
            if let Err(failure) = page.run(psp, sev_fd_good, memory) {
                // Whatever the cause, the first page's failure is EIO.
                return if done == 0 { Err(Failure { errno: EIO, ..failure }) } else { Ok(()) };
            }
            params.gfn_start += 1;
            params.len -= 4096;
            if from_user {
                params.uaddr = params.uaddr.wrapping_add(4096);
            }
        }
        Ok(())
    }

    /// `KVM_SEV_SNP_LAUNCH_FINISH`. `vcpus` stand in creation order.
    pub fn launch_finish(
        &mut self,
        psp: &mut Psp,
        params: Result<&SnpLaunchFinish, i32>,
        sev_fd_good: bool,
        memory: &mut dyn LaunchMemory,
        vcpus: &mut [LaunchVcpu<'_>],
    ) -> Launch {
        if !self.active() {
            return Err(Failure::errno(ENOTTY));
        }
        let guest = self.guest.ok_or(Failure::errno(EINVAL))?;
        let params = params.map_err(Failure::errno)?;
        if params.flags != 0 {
            return Err(Failure::errno(EINVAL));
        }
        for vcpu in vcpus {
            self.protect(psp, guest, vcpu, sev_fd_good)?;
        }
        let (block, auth);
        let mut id = None;
        if params.id_block_en != 0 {
            block = read_blob::<IdBlock>(memory, params.id_block_uaddr)?;
            auth = read_blob::<IdAuth>(memory, params.id_auth_uaddr)?;
            id = Some((&block, &auth));
        }
        let finish = FinishParams {
            id,
            author_key: id.is_some() && params.auth_key_en != 0,
            vcek_disabled: params.vcek_disabled != 0,
            host_data: params.host_data,
        };
        psp.launch_finish(guest, &finish).map_err(Failure::firmware)?;
        self.finished = true;
        Ok(())
    }

    fn protect(
        &self,
        psp: &mut Psp,
        guest: GuestId,
        vcpu: &mut LaunchVcpu<'_>,
        sev_fd_good: bool,
    ) -> Launch {
        /// DR7 with nothing enabled (Linux arch/x86/include/asm/debugreg.h `DR7_FIXED_1`).
        const DR7_FIXED: u64 = 0x400;
        if vcpu.vmsa.is_some() || vcpu.guest_debug || vcpu.core.dr[7] & !DR7_FIXED != 0 {
            return Err(Failure::errno(EINVAL));
        }
        let mut page = vmsa::synthesise(vcpu.core, self.features(), psp.platform().host_mce);
        let mut rmp = RmpEntry::default();
        rmp.make_private(KVM_VMSA_GPA, self.asid, true).map_err(|_| Failure::errno(EFAULT))?;
        if !sev_fd_good {
            return Err(Failure::errno(libc::EBADF));
        }
        psp.launch_update(guest, PageType::VMSA, &mut page, &mut rmp).map_err(Failure::firmware)?;
        *vcpu.vmsa = Some(VmsaPage { page, rmp });
        Ok(())
    }

    /// The VM goes away: the context is decommissioned.
    pub fn destroy(&mut self, psp: &mut Psp) {
        if let Some(guest) = self.guest.take() {
            // It exists as long as the VM holds it.
            let _ = psp.decommission(guest);
        }
    }

    /// Whether firmware takes guest requests.
    pub fn running(&self, psp: &Psp) -> bool {
        self.guest.and_then(|guest| psp.guest_state(guest)) == Some(GuestState::Running)
    }
}

/// One page of LAUNCH_UPDATE (`sev_gmem_post_populate`).
struct Populate {
    guest: GuestId,
    kind: PageType,
    asid: u16,
    gfn: u64,
    uaddr: Option<u64>,
}

impl Populate {
    fn run(&self, psp: &mut Psp, sev_fd_good: bool, memory: &mut dyn LaunchMemory) -> Launch {
        if !memory.is_private(self.gfn) {
            return Err(Failure::errno(EINVAL));
        }
        let mut source = [0; 4096];
        if let Some(address) = self.uaddr {
            let for_write = self.kind == PageType::CPUID;
            memory.read_user(address, &mut source, for_write).map_err(Failure::errno)?;
        }
        let mut outcome = Ok(());
        memory
            .with_page(self.gfn, &mut |page, rmp| {
                outcome = self.add(psp, sev_fd_good, &mut source, page, rmp);
            })
            .map_err(Failure::errno)?;
        if self.kind == PageType::CPUID
            && outcome == Err(Failure::firmware(FirmwareStatus::INVALID_PARAM))
            && let Some(address) = self.uaddr
        {
            memory.write_user(address, &source).map_err(Failure::errno)?;
        }
        outcome
    }

    /// Copies the page in, hands it to firmware, and takes it back if that fails; `source` then
    /// holds what firmware left.
    fn add(
        &self,
        psp: &mut Psp,
        sev_fd_good: bool,
        source: &mut Page,
        page: &mut Page,
        rmp: &mut RmpEntry,
    ) -> Launch {
        if rmp.assigned() {
            return Err(Failure::errno(EEXIST));
        }
        page.copy_from_slice(source);
        rmp.make_private(self.gfn << 12, self.asid, true).map_err(|_| Failure::errno(EFAULT))?;
        let done = if sev_fd_good {
            psp.launch_update(self.guest, self.kind, page, rmp).map_err(Failure::firmware)
        } else {
            Err(Failure::errno(libc::EBADF))
        };
        if done.is_err() {
            rmp.reclaim();
            source.copy_from_slice(page);
        }
        done
    }
}

/// Copies a structure from user memory (`psp_copy_user_blob`).
fn read_blob<T: FromBytes>(memory: &mut dyn LaunchMemory, address: u64) -> Launch<T> {
    if address == 0 {
        return Err(Failure::errno(EINVAL));
    }
    let mut bytes = [0; 4096];
    let bytes = &mut bytes[..size_of::<T>()];
    memory.read_user(address, bytes, false).map_err(|_| Failure::errno(EFAULT))?;
    T::read_from_bytes(bytes).map_err(|_| Failure::errno(EFAULT))
}
