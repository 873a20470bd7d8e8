//! A TD: what TDR and TDCS hold of it, and the host-side functions of the module that make and change it.
//!
//! Physical pages, keys and processors' caches are not modelled: the functions that only move those (CREATE, ADDCX,
//! KEY.CONFIG, FLUSH, RECLAIM) have no counterpart here.

mod measurement;
mod params;

use abi::tdx::leaf::td_ctls;
use abi::tdx::{ExtendBlock, Gpaw, TdAttributes, TdInfo, TdParams, TdxStatus, Xfam, operand};

use self::measurement::Measurement;
use super::cpuid::{CpuidFlags, CpuidTable};
use super::platform::features0;
use super::sept::{Accept, PageState, Sept};
use super::{TdVcpu, TdxModule, TdxPlatform};

/// What the TD can be used for (OP_STATE, as far as KVM gets).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OpState {
    /// Before TDH.MNG.INIT.
    #[default]
    Uninitialized,
    /// Being built.
    Initialized,
    /// After TDH.MR.FINALIZE.
    Runnable,
}

/// What becomes of an access to a private address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrivateAccess {
    /// It happens.
    Allowed,
    /// TD exit by EPT violation: the host maps the page (as pending) and the access is made again.
    EptViolation,
    /// TD exit by EPT violation, with the extended qualification that the page is pending. KVM ends the VM.
    PendingExit,
    /// #VE, by [`TdVcpu::raise_ve`].
    PendingVe,
}

/// One TD.
#[derive(Clone, Debug)]
pub struct Td {
    op_state: OpState,
    attributes: TdAttributes,
    xfam: Xfam,
    gpaw: Gpaw,
    config_flags: u64,
    max_vcpus: u16,
    tsc_frequency: u16,
    mrconfigid: [u8; 48],
    mrowner: [u8; 48],
    mrownerconfig: [u8; 48],
    measurement: Measurement,
    cpuid: CpuidTable,
    x2apic_ids: Vec<u32>,
    sept: Sept,
    td_ctls: u64,
    notify_enables: u64,
    module: &'static TdxModule,
}

impl Default for Td {
    fn default() -> Self {
        Self::new()
    }
}

impl Td {
    /// A TD before TDH.MNG.INIT.
    pub fn new() -> Self {
        Self {
            op_state: OpState::Uninitialized,
            attributes: TdAttributes(0),
            xfam: Xfam(0),
            gpaw: Gpaw::Bits48,
            config_flags: 0,
            max_vcpus: 0,
            tsc_frequency: 0,
            mrconfigid: [0; 48],
            mrowner: [0; 48],
            mrownerconfig: [0; 48],
            measurement: Measurement::default(),
            cpuid: CpuidTable::default(),
            x2apic_ids: Vec::new(),
            sept: Sept::default(),
            td_ctls: 0,
            notify_enables: 0,
            module: &TdxModule::V1_5_05,
        }
    }

    /// TDH.MNG.INIT. A TD that it refuses can be initialised again.
    pub fn init(&mut self, platform: &TdxPlatform, params: &TdParams) -> Result<(), TdxStatus> {
        self.expect(&[OpState::Uninitialized])?;
        params::check(platform, params)?;
        let cpuid = CpuidTable::build(platform, params)?;
        let wide = params.config_flags & TdParams::MAX_GPAW != 0;
        *self = Self {
            op_state: OpState::Initialized,
            attributes: params.attributes,
            xfam: params.xfam,
            gpaw: if wide { Gpaw::Bits52 } else { Gpaw::Bits48 },
            config_flags: params.config_flags,
            max_vcpus: params.max_vcpus,
            tsc_frequency: params.tsc_frequency,
            mrconfigid: params.mrconfigid,
            mrowner: params.mrowner,
            mrownerconfig: params.mrownerconfig,
            cpuid,
            td_ctls: if params.attributes.contains(TdAttributes::SEPT_VE_DISABLE) {
                td_ctls::PENDING_VE_DISABLE
            } else {
                0
            },
            module: platform.module,
            ..Self::new()
        };
        Ok(())
    }

    /// TDH.VP.CREATE and TDH.VP.INIT, version 1: with an x2APIC ID, as KVM calls it. `rcx` is what the guest finds in RCX
    /// and R8.
    pub fn init_vcpu(&mut self, x2apic_id: u32, rcx: u64) -> Result<TdVcpu, TdxStatus> {
        self.expect(&[OpState::Initialized])?;
        if self.x2apic_ids.len() >= usize::from(self.max_vcpus) {
            return Err(TdxStatus::MAX_VCPUS_EXCEEDED);
        }
        if self.x2apic_ids.contains(&x2apic_id) {
            return Err(TdxStatus::X2APIC_ID_NOT_UNIQUE);
        }
        let index = self.num_vcpus();
        self.x2apic_ids.push(x2apic_id);
        Ok(TdVcpu {
            index,
            x2apic_id,
            initial_rcx: rcx,
            ve: None,
            cpuid_ve: Default::default(),
            non_recoverable: false,
        })
    }

    /// TDH.MEM.SEPT.ADD, down to the table of 4 KiB entries. `true` if a table was added: it costs.
    pub fn sept_add(&mut self, gpa: u64) -> Result<bool, TdxStatus> {
        self.expect(&[OpState::Initialized, OpState::Runnable])?;
        let gfn = self.private_gfn(gpa)?;
        Ok(self.sept.add_table(gfn))
    }

    /// TDH.MEM.PAGE.ADD of a 4 KiB page: mapped, and its address measured. The caller copies the contents.
    pub fn page_add(&mut self, gpa: u64) -> Result<(), TdxStatus> {
        self.expect(&[OpState::Initialized])?;
        let gfn = self.private_gfn(gpa)?;
        self.sept.add(gfn)?;
        self.measurement.absorb(&ExtendBlock::new(ExtendBlock::PAGE_ADD, gpa), &[]);
        Ok(())
    }

    /// TDH.MR.EXTEND of one chunk of an added page, with the bytes that the page holds there.
    pub fn mr_extend(
        &mut self,
        gpa: u64,
        chunk: &[u8; ExtendBlock::CHUNK],
    ) -> Result<(), TdxStatus> {
        self.expect(&[OpState::Initialized])?;
        if !gpa.is_multiple_of(ExtendBlock::CHUNK as u64) {
            return Err(TdxStatus::OPERAND_INVALID.with(operand::RCX));
        }
        let gfn = self.private_gfn(gpa & !0xfff)?;
        if !self.sept.has_table(gfn) {
            return Err(TdxStatus::EPT_ENTRY_NOT_PRESENT.with(operand::RCX));
        }
        if self.sept.state(gfn) != PageState::Mapped {
            return Err(TdxStatus::EPT_ENTRY_NOT_PRESENT);
        }
        self.measurement.absorb(&ExtendBlock::new(ExtendBlock::MR_EXTEND, gpa), chunk);
        Ok(())
    }

    /// TDH.MR.FINALIZE: MRTD is complete and vCPUs can be entered.
    pub fn mr_finalize(&mut self) -> Result<(), TdxStatus> {
        self.expect(&[OpState::Initialized])?;
        if self.x2apic_ids.is_empty() {
            return Err(TdxStatus::NO_VCPUS);
        }
        self.measurement.finalize();
        self.op_state = OpState::Runnable;
        Ok(())
    }

    /// TDH.MEM.PAGE.AUG of a 4 KiB page: pending until the guest accepts it.
    pub fn page_aug(&mut self, gpa: u64) -> Result<(), TdxStatus> {
        self.expect(&[OpState::Initialized, OpState::Runnable])?;
        let gfn = self.private_gfn(gpa)?;
        self.sept.aug(gfn)
    }

    /// TDH.MEM.RANGE.BLOCK of a 4 KiB page.
    pub fn range_block(&mut self, gpa: u64) -> Result<(), TdxStatus> {
        self.expect(&[OpState::Initialized, OpState::Runnable])?;
        let gfn = self.private_gfn(gpa)?;
        self.sept.block(gfn)
    }

    /// TDH.MEM.TRACK. The caller makes every vCPU leave the guest and forget its translations.
    pub fn track(&mut self) -> Result<(), TdxStatus> {
        self.expect(&[OpState::Initialized, OpState::Runnable])?;
        self.sept.track();
        Ok(())
    }

    /// TDH.MEM.PAGE.REMOVE of a 4 KiB page that was blocked and tracked, if the TD is runnable.
    pub fn page_remove(&mut self, gpa: u64) -> Result<(), TdxStatus> {
        self.expect(&[OpState::Initialized, OpState::Runnable])?;
        let gfn = self.private_gfn(gpa)?;
        self.sept.remove(gfn, self.op_state == OpState::Runnable)
    }

    /// What becomes of the guest's access to a private address.
    pub fn private_access(&self, gpa: u64) -> PrivateAccess {
        match self.sept.state(gpa >> 12) {
            PageState::Mapped => PrivateAccess::Allowed,
            // A blocked page cannot be accepted, so the module does not speak of it as pending (TDX module source,
            // `sept_state_is_any_pending_and_guest_acceptable`).
            PageState::Free | PageState::Blocked | PageState::PendingBlocked => {
                PrivateAccess::EptViolation
            }
            PageState::Pending if self.td_ctls & td_ctls::PENDING_VE_DISABLE != 0 => {
                PrivateAccess::PendingExit
            }
            PageState::Pending => PrivateAccess::PendingVe,
        }
    }

    /// Whether TDH.VP.ENTER is possible.
    pub fn enter(&self, vcpu: &TdVcpu) -> Result<(), TdxStatus> {
        self.expect(&[OpState::Runnable])?;
        if vcpu.recoverable() { Ok(()) } else { Err(TdxStatus::NON_RECOVERABLE_VCPU) }
    }

    /// State of the TD's life.
    pub fn op_state(&self) -> OpState {
        self.op_state
    }

    /// ATTRIBUTES.
    pub fn attributes(&self) -> TdAttributes {
        self.attributes
    }

    /// XFAM.
    pub fn xfam(&self) -> Xfam {
        self.xfam
    }

    /// Width of guest physical addresses.
    pub fn gpaw(&self) -> Gpaw {
        self.gpaw
    }

    /// Virtual TSC frequency in units of 25 MHz. The TSC counts from 0 at TDH.MNG.INIT.
    pub fn tsc_frequency(&self) -> u16 {
        self.tsc_frequency
    }

    /// vCPUs that were initialised.
    pub fn num_vcpus(&self) -> u32 {
        self.x2apic_ids.len() as u32
    }

    /// Most vCPUs.
    pub fn max_vcpus(&self) -> u16 {
        self.max_vcpus
    }

    /// CONFIG_FLAGS.
    pub fn config_flags(&self) -> u64 {
        self.config_flags
    }

    /// TD_CTLS.
    pub fn td_ctls(&self) -> u64 {
        self.td_ctls
    }

    /// The secure EPT.
    pub fn sept(&self) -> &Sept {
        &self.sept
    }

    /// The virtual CPUID.
    pub fn cpuid_table(&self) -> &CpuidTable {
        &self.cpuid
    }

    /// The features that the guest sees: REDUCE_VE hides those that need the host.
    pub(super) fn flags(&self) -> CpuidFlags {
        let flags = self.cpuid.flags();
        if self.td_ctls & td_ctls::REDUCE_VE == 0 {
            return flags;
        }
        CpuidFlags { dca: false, tsc_deadline: false, tme: false, mktme: false, ..flags }
    }

    /// MRTD; `None` before TDH.MR.FINALIZE.
    pub fn mrtd(&self) -> Option<[u8; 48]> {
        self.measurement.mrtd()
    }

    /// A run-time measurement.
    pub fn rtmr(&self, index: usize) -> Option<[u8; 48]> {
        self.measurement.rtmr.get(index).copied()
    }

    /// The TD's identity as TDREPORT shows it. MRTD is zero until it is complete.
    pub fn info(&self) -> TdInfo {
        TdInfo {
            attributes: self.attributes,
            xfam: self.xfam,
            mrtd: self.mrtd().unwrap_or([0; 48]),
            mrconfigid: self.mrconfigid,
            mrowner: self.mrowner,
            mrownerconfig: self.mrownerconfig,
            rtmr: self.measurement.rtmr,
            servtd_hash: [0; 48],
            reserved: [0; 64],
        }
    }

    /// Extends a run-time measurement; `false` if there is none of that number.
    pub(super) fn extend_rtmr(&mut self, index: u64, data: &[u8; 48]) -> bool {
        self.measurement.extend_rtmr(index, data)
    }

    /// TDG.MEM.PAGE.ACCEPT of a checked address.
    pub(super) fn accept(&mut self, gfn: u64, size: u64) -> Accept {
        self.sept.accept(gfn, size)
    }

    /// The module's version.
    pub(super) fn module(&self) -> &'static TdxModule {
        self.module
    }

    /// TOPOLOGY_ENUM_CONFIGURED: the module can answer topology leaves, and every vCPU has an x2APIC ID.
    pub(super) fn topology_configured(&self) -> bool {
        self.module.features0 & features0::TOPOLOGY_ENUM != 0
    }

    /// The guest writes TD_CTLS.
    pub(super) fn set_td_ctls(&mut self, value: u64) {
        self.td_ctls = value;
    }

    /// NOTIFY_ENABLES.
    pub(super) fn notify_enables(&self) -> u64 {
        self.notify_enables
    }

    /// The guest writes NOTIFY_ENABLES.
    pub(super) fn set_notify_enables(&mut self, value: u64) {
        self.notify_enables = value;
    }

    /// Whether a guest may use an address at all: no bit above the shared bit is set.
    pub(super) fn valid_gpa(&self, gpa: u64) -> bool {
        gpa >> self.gpaw.bits() == 0
    }

    /// Whether an address has the shared bit.
    pub fn is_shared(&self, gpa: u64) -> bool {
        gpa & self.gpaw.shared_mask() != 0
    }

    fn private_gfn(&self, gpa: u64) -> Result<u64, TdxStatus> {
        if gpa & 0xfff != 0 || !self.valid_gpa(gpa) || self.is_shared(gpa) {
            return Err(TdxStatus::OPERAND_INVALID.with(operand::RCX));
        }
        Ok(gpa >> 12)
    }

    fn expect(&self, states: &[OpState]) -> Result<(), TdxStatus> {
        if states.contains(&self.op_state) { Ok(()) } else { Err(TdxStatus::OP_STATE_INCORRECT) }
    }
}
