//! The security processor: guest contexts and the launch commands of the SNP firmware.
//!
//! What it decides is firmware's: states, policy, digest, signatures. What the kernel driver and
//! KVM add around it is in [`super::launch`].

use std::collections::BTreeMap;

use abi::kvm_snp::{SevPlatformStatus, SnpPlatformStatus, status_flags};
use abi::snp::{
    ALGO_ECDSA_P384_SHA384, FirmwareStatus, IdAuth, IdBlock, PageType, SecretsPage, SevFeatures,
    SnpPolicy, TcbVersion,
};
use sha2::{Digest, Sha256, Sha384};
use zerocopy::{FromZeros, IntoBytes};

use super::Page;
use super::attest::{self, ChipKeys};
use super::digest::LaunchDigest;
use super::platform::Platform;
use super::rmp::RmpEntry;
use super::{cpuid, vmsa};
use crate::price::Price;

/// Result of a firmware command.
pub type Command<T = ()> = Result<T, FirmwareStatus>;

/// Names a guest context page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestId(u32);

/// Where a guest is in its life (firmware ABI 56860, section 4.4 "Guest State Machine").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestState {
    /// Context created.
    Init,
    /// LAUNCH_START done.
    Launch,
    /// LAUNCH_FINISH done.
    Running,
}

/// A guest context page.
#[derive(Clone, Debug)]
pub struct GuestContext {
    pub(super) state: GuestState,
    pub(super) asid: u16,
    pub(super) policy: SnpPolicy,
    gosvw: [u8; 16],
    pub(super) digest: LaunchDigest,
    pub(super) vmpck: [[u8; 32]; 4],
    /// Last sequence number seen per VMPCK.
    pub(super) seqno: [u64; 4],
    pub(super) report_id: [u8; 32],
    pub(super) launch_tcb: TcbVersion,
    pub(super) vmrk: [u8; 32],
    pub(super) finish: Finish,
    pub(super) tsc_khz: Option<u32>,
}

/// What LAUNCH_FINISH leaves in the context.
#[derive(Clone, Debug, Default)]
pub(super) struct Finish {
    pub host_data: [u8; 32],
    pub family_id: [u8; 16],
    pub image_id: [u8; 16],
    pub guest_svn: u32,
    pub id_key_digest: Option<[u8; 48]>,
    pub author_key_digest: Option<[u8; 48]>,
    pub vcek_disabled: bool,
}

/// Parameters of LAUNCH_FINISH.
#[derive(Clone, Debug)]
pub struct FinishParams<'a> {
    /// ID block and its authentication.
    pub id: Option<(&'a IdBlock, &'a IdAuth)>,
    /// Whether the ID key is signed by an author key.
    pub author_key: bool,
    /// Refuse reports signed by the VCEK.
    pub vcek_disabled: bool,
    /// Opaque data for reports.
    pub host_data: [u8; 32],
}

/// The security processor of one machine.
#[derive(Debug)]
pub struct Psp {
    platform: Platform,
    keys: ChipKeys,
    guests: BTreeMap<GuestId, GuestContext>,
    next: u32,
    spent: Vec<Price>,
}

impl Psp {
    /// Powers it on, with SNP initialised.
    pub fn new(platform: Platform) -> Self {
        let keys = ChipKeys::derive(&platform);
        Self { platform, keys, guests: BTreeMap::new(), next: 0, spent: Vec::new() }
    }

    /// The modelled part.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// The chip's identity and signing key.
    pub fn keys(&self) -> &ChipKeys {
        &self.keys
    }

    /// What each command since the last call has taken, in their order.
    pub fn take_spent(&mut self) -> Vec<Price> {
        std::mem::take(&mut self.spent)
    }

    /// PLATFORM_STATUS: nobody owns the platform, and its guests are all of SNP.
    pub fn legacy_status(&self) -> SevPlatformStatus {
        SevPlatformStatus {
            api_major: self.platform.api.0,
            api_minor: self.platform.api.1,
            state: 1,
            flags: SevPlatformStatus::CONFIG_ES,
            build: self.platform.build,
            guest_count: 0,
        }
    }

    /// SNP_PLATFORM_STATUS.
    pub fn platform_status(&self) -> SnpPlatformStatus {
        let tcb = self.platform.tcb_version();
        SnpPlatformStatus {
            api_major: self.platform.api.0,
            api_minor: self.platform.api.1,
            state: 1,
            is_rmp_initialized: 1,
            build_id: u32::from(self.platform.build),
            flags: status_flags::FEATURE_INFO,
            guest_count: self.guests.len() as u32,
            current_tcb_version: tcb,
            reported_tcb_version: tcb,
        }
    }

    /// SNP_GCTX_CREATE.
    pub fn gctx_create(&mut self) -> Command<GuestId> {
        let id = GuestId(self.next);
        self.next = self.next.checked_add(1).ok_or(FirmwareStatus::RESOURCE_LIMIT)?;
        let secret = |label: &str| -> [u8; 32] {
            Sha256::new()
                .chain_update(b"softkvm guest secret\0")
                .chain_update(label)
                .chain_update(self.platform.chip_seed.to_le_bytes())
                .chain_update(id.0.to_le_bytes())
                .finalize()
                .into()
        };
        let context = GuestContext {
            state: GuestState::Init,
            asid: 0,
            policy: SnpPolicy(0),
            gosvw: [0; 16],
            digest: LaunchDigest::default(),
            vmpck: [secret("vmpck0"), secret("vmpck1"), secret("vmpck2"), secret("vmpck3")],
            seqno: [0; 4],
            report_id: secret("report id"),
            launch_tcb: self.platform.tcb_version(),
            vmrk: secret("vmrk"),
            finish: Finish::default(),
            tsc_khz: None,
        };
        self.guests.insert(id, context);
        Ok(id)
    }

    /// SNP_LAUNCH_START; `tsc_khz` is the desired frequency of a Secure TSC guest.
    pub fn launch_start(
        &mut self,
        id: GuestId,
        policy: SnpPolicy,
        gosvw: [u8; 16],
        tsc_khz: Option<u32>,
    ) -> Command {
        self.spent.push(self.platform.costs.launch_start);
        let (platform, guest) = self.parts(id)?;
        if guest.state != GuestState::Init {
            return Err(FirmwareStatus::INVALID_GUEST_STATE);
        }
        check_policy(platform, policy)?;
        guest.policy = policy;
        guest.gosvw = gosvw;
        guest.tsc_khz = tsc_khz;
        guest.state = GuestState::Launch;
        Ok(())
    }

    /// SNP_ACTIVATE.
    pub fn activate(&mut self, id: GuestId, asid: u16) -> Command {
        if asid == 0 {
            return Err(FirmwareStatus::INVALID_ASID);
        }
        if self.guests.iter().any(|(other, guest)| *other != id && guest.asid == asid) {
            return Err(FirmwareStatus::ASID_OWNED);
        }
        let guest = self.guest_mut(id)?;
        if guest.asid != 0 {
            return Err(FirmwareStatus::ACTIVE);
        }
        guest.asid = asid;
        Ok(())
    }

    /// SNP_DECOMMISSION.
    pub fn decommission(&mut self, id: GuestId) -> Command {
        self.guests.remove(&id).map(drop).ok_or(FirmwareStatus::INVALID_GUEST)
    }

    /// SNP_LAUNCH_UPDATE of one Pre-Guest page. On [`FirmwareStatus::INVALID_PARAM`] a CPUID page
    /// holds corrected values.
    pub fn launch_update(
        &mut self,
        id: GuestId,
        kind: PageType,
        page: &mut Page,
        rmp: &mut RmpEntry,
    ) -> Command {
        self.spent.push(self.platform.costs.launch_update);
        let (platform, guest) = self.parts(id)?;
        if guest.state != GuestState::Launch {
            return Err(FirmwareStatus::INVALID_GUEST_STATE);
        }
        if guest.asid == 0 {
            return Err(FirmwareStatus::INACTIVE);
        }
        if rmp.asid != guest.asid {
            return Err(FirmwareStatus::INVALID_PAGE_OWNER);
        }
        match kind {
            PageType::NORMAL | PageType::VMSA | PageType::UNMEASURED => {}
            PageType::ZERO => page.fill(0),
            PageType::SECRETS => page.copy_from_slice(secrets(platform, guest).as_bytes()),
            PageType::CPUID => {
                if !cpuid::check(platform, page) {
                    return Err(FirmwareStatus::INVALID_PARAM);
                }
            }
            _ => return Err(FirmwareStatus::INVALID_PARAM),
        }
        if !rmp.firmware_accept(kind == PageType::VMSA) {
            return Err(FirmwareStatus::INVALID_PAGE_STATE);
        }
        guest.digest.extend(kind, rmp.gpa, page);
        if kind == PageType::VMSA {
            provide_tsc(platform, guest, page);
        }
        Ok(())
    }

    /// SNP_LAUNCH_FINISH.
    pub fn launch_finish(&mut self, id: GuestId, params: &FinishParams<'_>) -> Command {
        self.spent.push(self.platform.costs.launch_finish);
        let guest = self.guest_mut(id)?;
        if guest.state != GuestState::Launch {
            return Err(FirmwareStatus::INVALID_GUEST_STATE);
        }
        let mut finish = Finish {
            host_data: params.host_data,
            vcek_disabled: params.vcek_disabled,
            ..Finish::default()
        };
        if let Some((block, auth)) = params.id {
            check_identity(guest, block, auth, params.author_key)?;
            finish.family_id = block.family_id;
            finish.image_id = block.image_id;
            finish.guest_svn = block.guest_svn;
            finish.id_key_digest = Some(Sha384::digest(auth.id_key.as_bytes()).into());
            if params.author_key {
                finish.author_key_digest = Some(Sha384::digest(auth.author_key.as_bytes()).into());
            }
        }
        guest.finish = finish;
        guest.state = GuestState::Running;
        Ok(())
    }

    /// The digest of a guest so far.
    pub fn launch_digest(&self, id: GuestId) -> Option<LaunchDigest> {
        self.guests.get(&id).map(|guest| guest.digest)
    }

    /// The state of a guest.
    pub fn guest_state(&self, id: GuestId) -> Option<GuestState> {
        self.guests.get(&id).map(|guest| guest.state)
    }

    fn guest_mut(&mut self, id: GuestId) -> Command<&mut GuestContext> {
        self.parts(id).map(|(_, guest)| guest)
    }

    fn parts(&mut self, id: GuestId) -> Command<(&Platform, &mut GuestContext)> {
        let guest = self.guests.get_mut(&id).ok_or(FirmwareStatus::INVALID_GUEST)?;
        Ok((&self.platform, guest))
    }

    /// SNP_GUEST_REQUEST: answers the message in `request` into `response`.
    pub fn guest_request(&mut self, id: GuestId, request: &Page, response: &mut Page) -> Command {
        self.spent.push(self.platform.costs.guest_request);
        let Self { platform, keys, guests, .. } = self;
        let guest = guests.get_mut(&id).ok_or(FirmwareStatus::INVALID_GUEST)?;
        super::requests::answer(platform, keys, guest, request, response)
    }
}

/// Whether the platform satisfies a policy (firmware ABI 56860, section 4.3).
fn check_policy(platform: &Platform, policy: SnpPolicy) -> Command {
    let known = platform.policy_bits() | SnpPolicy::MIGRATE_MA;
    if !policy.contains(SnpPolicy::MUST_BE_ONE) || !known.contains(policy) {
        return Err(FirmwareStatus::POLICY_FAILURE);
    }
    // "Minimum ABI major version" and "minimum ABI minor version" are separate demands.
    if policy.abi_major() > platform.api.0 || policy.abi_minor() > platform.api.1 {
        return Err(FirmwareStatus::POLICY_FAILURE);
    }
    if platform.smt && !policy.contains(SnpPolicy::SMT) {
        return Err(FirmwareStatus::POLICY_FAILURE);
    }
    Ok(())
}

fn check_identity(
    guest: &GuestContext,
    block: &IdBlock,
    auth: &IdAuth,
    author_key: bool,
) -> Command {
    if block.version != 1 || auth.id_key_algo != ALGO_ECDSA_P384_SHA384 {
        return Err(FirmwareStatus::INVALID_PARAM);
    }
    if !attest::verify(&auth.id_key, &auth.id_block_sig, block.as_bytes()) {
        return Err(FirmwareStatus::BAD_SIGNATURE);
    }
    if author_key {
        if auth.auth_key_algo != ALGO_ECDSA_P384_SHA384 {
            return Err(FirmwareStatus::INVALID_PARAM);
        }
        if !attest::verify(&auth.author_key, &auth.id_key_sig, auth.id_key.as_bytes()) {
            return Err(FirmwareStatus::BAD_SIGNATURE);
        }
    }
    if block.launch_digest != guest.digest.0 {
        return Err(FirmwareStatus::BAD_MEASUREMENT);
    }
    if block.policy != guest.policy {
        return Err(FirmwareStatus::POLICY_FAILURE);
    }
    Ok(())
}

fn secrets(platform: &Platform, guest: &GuestContext) -> SecretsPage {
    let mut page = SecretsPage::new_zeroed();
    page.version = 3;
    page.fms = platform.signature();
    page.gosvw = guest.gosvw;
    page.vmpck = guest.vmpck;
    page
}

/// Guest TSC frequency over host frequency as 8.32 fixed point (APM vol. 2, 15.30.5 "TSC Ratio").
pub(super) fn tsc_scale(platform: &Platform, guest: &GuestContext) -> Option<u64> {
    let khz = guest.tsc_khz?;
    Some((u64::from(khz) << 32) / u64::from(platform.tsc_khz.max(1)))
}

/// Firmware gives the processors of a Secure TSC guest their scale; it is not measured.
fn provide_tsc(platform: &Platform, guest: &GuestContext, page: &mut Page) {
    let mut area = vmsa::read(page);
    if let (true, Some(scale)) =
        (area.sev_features.contains(SevFeatures::SECURE_TSC), tsc_scale(platform, guest))
    {
        area.tsc_scale = scale;
        area.tsc_offset = 0;
        page[..abi::snp::VMSA_SIZE].copy_from_slice(area.as_bytes());
    }
}
