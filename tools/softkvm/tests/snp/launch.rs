//! The launch as KVM and firmware do it: order, errno, firmware status, digest.

use abi::kvm_snp::{SevInit, SnpLaunchFinish, SnpLaunchStart, SnpLaunchUpdate, cmd};
use abi::snp::{
    CpuidFunction, CpuidPage, EcdsaPublicKey, EcdsaSignature, FirmwareStatus, IdAuth, IdBlock,
    PageType, SecretsPage, SnpPolicy,
};
use libc::{EBUSY, EINVAL, EIO, ENOTTY, EPERM};
use p384::ecdsa::{Signature, SigningKey, signature::Signer};
use softkvm::cpu::Core;
use softkvm::snp::attest::{public_out, signature_out};
use softkvm::snp::launch::{Failure, LaunchVcpu, VmsaPage};
use softkvm::snp::{LaunchDigest, Page, Platform, Psp, SnpVm};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::digest::pattern;
use crate::memory::Memory;

pub const FD: u32 = 9;
pub const POLICY: SnpPolicy = SnpPolicy(0x30000);

pub struct Bench {
    pub psp: Psp,
    pub vm: SnpVm,
    pub memory: Memory,
    pub cores: Vec<Core>,
    pub vmsas: Vec<Option<VmsaPage>>,
}

impl Bench {
    pub fn new() -> Self {
        Self {
            psp: Psp::new(Platform::default()),
            vm: SnpVm::new(),
            memory: Memory::new(),
            cores: vec![Core::at_reset()],
            vmsas: vec![None],
        }
    }

    pub fn started() -> Self {
        let mut bench = Self::new();
        bench.init(&SevInit::default()).unwrap();
        bench.start(POLICY).unwrap();
        bench
    }

    pub fn init(&mut self, params: &SevInit) -> Result<(), Failure> {
        self.vm.init2(&self.psp, params, false, Some(1))
    }

    pub fn start(&mut self, policy: SnpPolicy) -> Result<(), Failure> {
        let params = SnpLaunchStart { policy, ..Default::default() };
        self.vm.launch_start(&mut self.psp, Ok(&params), FD, true, 2_450_000)
    }

    pub fn update(&mut self, params: &mut SnpLaunchUpdate) -> Result<(), Failure> {
        self.vm.launch_update(&mut self.psp, Ok(params), true, &mut self.memory)
    }

    /// One page from user address 0x10000.
    pub fn add(&mut self, kind: PageType, gfn: u64, page: Page) -> Result<(), Failure> {
        self.memory.map(0x10000, page);
        self.update(&mut range(kind, gfn, 0x10000, 1))
    }

    pub fn finish(&mut self, params: &SnpLaunchFinish) -> Result<(), Failure> {
        let mut vcpus: Vec<_> = self
            .cores
            .iter()
            .zip(&mut self.vmsas)
            .map(|(core, vmsa)| LaunchVcpu { core, guest_debug: false, vmsa })
            .collect();
        self.vm.launch_finish(&mut self.psp, Ok(params), true, &mut self.memory, &mut vcpus)
    }

    pub fn digest(&self) -> LaunchDigest {
        self.vm.launch_digest(&self.psp).unwrap()
    }
}

fn range(kind: PageType, gfn: u64, uaddr: u64, pages: u64) -> SnpLaunchUpdate {
    SnpLaunchUpdate {
        gfn_start: gfn,
        uaddr,
        len: pages << 12,
        page_type: kind.0,
        ..Default::default()
    }
}

fn errno(result: Result<(), Failure>) -> i32 {
    let failure = result.unwrap_err();
    assert_eq!(failure.firmware, None);
    failure.errno
}

fn firmware(result: Result<(), Failure>) -> FirmwareStatus {
    let failure = result.unwrap_err();
    assert_eq!(failure.errno, EIO);
    failure.firmware.unwrap()
}

#[test]
fn init2_checks_its_parameters() {
    let mut bench = Bench::new();
    let bad = |change: fn(&mut SevInit)| {
        let mut params = SevInit::default();
        change(&mut params);
        params
    };
    for params in [
        bad(|p| p.flags = 1),
        bad(|p| p.vmsa_features = 1),
        bad(|p| p.vmsa_features = 1 << 40),
        bad(|p| p.ghcb_version = 1),
        bad(|p| p.ghcb_version = 3),
    ] {
        assert_eq!(errno(bench.init(&params)), EINVAL);
    }
    let none = bench.vm.init2(&bench.psp, &SevInit::default(), false, None);
    assert_eq!(errno(none), EBUSY);
    let late = bench.vm.init2(&bench.psp, &SevInit::default(), true, Some(1));
    assert_eq!(errno(late), EINVAL);
    bench.init(&bad(|p| p.ghcb_version = 2)).unwrap();
    assert_eq!(errno(bench.vm.admit(cmd::SEV_INIT2)), EPERM);
    assert_eq!(errno(bench.vm.admit(6)), EPERM);
    assert_eq!(errno(bench.vm.admit(9999)), EINVAL);
}

#[test]
fn each_supported_feature_is_accepted_alone() {
    let platform = Platform { secure_tsc: true, debug_swap: true, ..Platform::default() };
    for feature in platform.vmsa_features().iter() {
        let mut vm = SnpVm::new();
        let params = SevInit { vmsa_features: feature.0, ..Default::default() };
        vm.init2(&Psp::new(platform.clone()), &params, false, Some(1)).unwrap();
        assert_eq!(vm.features().0, feature.0 | 1);
    }
}

#[test]
fn start_refuses_what_kvm_and_firmware_refuse() {
    let mut bench = Bench::new();
    assert_eq!(errno(bench.start(POLICY)), ENOTTY);
    bench.init(&SevInit::default()).unwrap();
    for policy in [0x10000, 0x70000, 1 << 40 | 0x30000] {
        assert_eq!(errno(bench.start(SnpPolicy(policy))), EINVAL);
    }
    let params = SnpLaunchStart { policy: POLICY, flags: 1, ..Default::default() };
    let flags = bench.vm.launch_start(&mut bench.psp, Ok(&params), FD, true, 0);
    assert_eq!(errno(flags), EINVAL);
    let params = SnpLaunchStart { policy: POLICY, ..Default::default() };
    let no_fd = bench.vm.launch_start(&mut bench.psp, Ok(&params), FD, false, 0);
    assert_eq!(errno(no_fd), ENOTTY);
    assert_eq!(firmware(bench.start(SnpPolicy(0x300ff))), FirmwareStatus::POLICY_FAILURE);
    assert_eq!(firmware(bench.start(SnpPolicy(0x20000))), FirmwareStatus::POLICY_FAILURE, "SMT");
    assert_eq!(bench.psp.platform_status().guest_count, 0);
    bench.start(POLICY).unwrap();
    assert_eq!(bench.psp.platform_status().guest_count, 1);
    assert_eq!(errno(bench.start(POLICY)), EINVAL);
    bench.vm.destroy(&mut bench.psp);
    assert_eq!(bench.psp.platform_status().guest_count, 0);
}

#[test]
fn update_refuses_malformed_ranges() {
    let mut bench = Bench::new();
    bench.memory.map(0x10000, [0; 4096]);
    let good = range(PageType::NORMAL, 1, 0x10000, 1);
    assert_eq!(errno(bench.update(&mut { good })), EINVAL, "before START");
    let mut bench = Bench::started();
    bench.memory.map(0x10000, [0; 4096]);
    for params in [
        SnpLaunchUpdate { len: 0, ..good },
        SnpLaunchUpdate { len: 100, ..good },
        SnpLaunchUpdate { flags: 1, ..good },
        SnpLaunchUpdate { page_type: 2, ..good },
        SnpLaunchUpdate { page_type: 7, ..good },
        SnpLaunchUpdate { uaddr: 0x10001, ..good },
        SnpLaunchUpdate { gfn_start: 256, ..good },
    ] {
        assert_eq!(errno(bench.update(&mut { params })), EINVAL);
    }
    bench.update(&mut SnpLaunchUpdate { page_type: 3, uaddr: 0xdead_beef, ..good }).unwrap();
}

#[test]
fn a_failed_page_leaves_the_digest_alone() {
    let mut bench = Bench::started();
    bench.memory.shared.push(5);
    assert_eq!(errno(bench.add(PageType::NORMAL, 5, pattern(1))), EIO);
    assert_eq!(bench.digest(), LaunchDigest::default());
    bench.add(PageType::NORMAL, 6, pattern(1)).unwrap();
    let digest = bench.digest();
    assert_eq!(errno(bench.add(PageType::NORMAL, 6, pattern(1))), EIO, "twice");
    assert_eq!(bench.digest(), digest);
}

#[test]
fn progress_is_reported_as_success() {
    let mut bench = Bench::started();
    for page in [0, 1, 3, 4] {
        bench.memory.map(0x10000 + page * 0x1000, pattern(page as u32));
    }
    let mut params = range(PageType::NORMAL, 8, 0x10000, 5);
    bench.update(&mut params).unwrap();
    assert_eq!((params.gfn_start, params.uaddr, params.len), (10, 0x12000, 0x3000));
    assert_eq!(errno(bench.update(&mut params)), EIO);
}

#[test]
fn a_range_ends_with_its_slot() {
    let mut bench = Bench::started();
    bench.memory.slots.push((256, 16));
    let mut params = range(PageType::ZERO, 254, 0, 4);
    bench.update(&mut params).unwrap();
    assert_eq!((params.gfn_start, params.len), (256, 0x2000));
    bench.update(&mut params).unwrap();
    assert_eq!(params.len, 0);
}

#[test]
fn chunks_do_not_matter_but_order_does() {
    let run = |calls: &[(u64, u64, u64)]| {
        let mut bench = Bench::started();
        bench.memory.map(0x10000, pattern(1));
        bench.memory.map(0x11000, pattern(2));
        for (gfn, uaddr, pages) in calls {
            bench.update(&mut range(PageType::NORMAL, *gfn, *uaddr, *pages)).unwrap();
        }
        bench.digest()
    };
    let together = run(&[(1, 0x10000, 2)]);
    assert_eq!(together, run(&[(1, 0x10000, 1), (2, 0x11000, 1)]));
    assert_ne!(together, run(&[(2, 0x11000, 1), (1, 0x10000, 1)]));
}

fn cpuid_page(functions: &[CpuidFunction]) -> Page {
    let mut page = CpuidPage::new_zeroed();
    page.count = functions.len() as u32;
    page.functions[..functions.len()].copy_from_slice(functions);
    page.as_bytes().try_into().unwrap()
}

#[test]
fn a_cpuid_page_that_misleads_comes_back_corrected() {
    let mut bench = Bench::started();
    let leaf = |eax_in, ecx_in, out: [u32; 4]| CpuidFunction {
        eax_in,
        ecx_in,
        eax: out[0],
        ebx: out[1],
        ecx: out[2],
        edx: out[3],
        ..Default::default()
    };
    let functions = [
        leaf(1, 0, [0, 0, 1 << 24 | 1, 0]),
        leaf(7, 0, [0, 1 << 1 | 1, 0, 1 << 31]),
        leaf(0x4000_0000, 0, [!0; 4]),
        leaf(0x8000_001f, 0, [0x1a, 47 | 1 << 6, 9, 9]),
        CpuidFunction { eax_in: 0xd, xcr0_in: 1, ebx: 0x1000, ..Default::default() },
    ];
    let failure = bench.add(PageType::CPUID, 7, cpuid_page(&functions));
    assert_eq!(firmware(failure), FirmwareStatus::INVALID_PARAM);
    assert_eq!(bench.digest(), LaunchDigest::default());
    let corrected = CpuidPage::read_from_bytes(&bench.memory.user[&0x10000].0).unwrap();
    let f = corrected.functions;
    assert_eq!((f[0].ecx, f[1].ebx, f[1].edx), (1, 1, 0));
    assert_eq!(f[2].eax, !0, "hypervisor leaves pass");
    assert_eq!((f[3].eax, f[3].ebx, f[3].ecx), (0x1a, 51 | 1 << 6, 0));
    assert_eq!(f[4].ebx, 0x240);
    bench.update(&mut range(PageType::CPUID, 7, 0x10000, 1)).unwrap();
    let mut other = Bench::started();
    other.add(PageType::CPUID, 7, cpuid_page(&[])).unwrap();
    assert_eq!(bench.digest(), other.digest(), "contents are not measured");
}

#[test]
fn a_read_only_cpuid_page_cannot_be_given() {
    let mut bench = Bench::started();
    bench.memory.user.insert(0x10000, (cpuid_page(&[]), false));
    assert_eq!(errno(bench.update(&mut range(PageType::CPUID, 7, 0x10000, 1))), EIO);
}

#[test]
fn features_that_the_part_lacks_are_clamped() {
    let host = CpuidFunction { eax_in: 1, ecx: 0b110, ..Default::default() };
    let platform = Platform { host_cpuid: vec![host], ..Platform::default() };
    let asked = CpuidFunction { eax_in: 1, ecx: 0b101 | 1 << 31, ..Default::default() };
    let mut page = cpuid_page(&[asked]);
    assert!(!softkvm::snp::cpuid::check(&platform, &mut page));
    let out = CpuidPage::read_from_bytes(&page).unwrap();
    assert_eq!(out.functions[0].ecx, 0b100 | 1 << 31);
    assert!(softkvm::snp::cpuid::check(&platform, &mut page));
}

#[test]
fn caches_may_be_of_another_size_but_say_nothing_undefined() {
    let cache = |ecx, edx| CpuidFunction {
        eax_in: 0x8000_001d,
        ecx_in: 3,
        eax: 0x163,
        ebx: 0x03c0_003f,
        ecx,
        edx,
        ..Default::default()
    };
    let platform = Platform { host_cpuid: vec![cache(0x7fff, 1)], ..Platform::default() };
    let mut page = cpuid_page(&[cache(0x1fff, 2)]);
    assert!(softkvm::snp::cpuid::check(&platform, &mut page), "8 MiB on a part with 32");
    let mut page = cpuid_page(&[cache(0x1fff, 6)]);
    assert!(!softkvm::snp::cpuid::check(&platform, &mut page));
    let out = CpuidPage::read_from_bytes(&page).unwrap();
    assert_eq!((out.functions[0].ecx, out.functions[0].edx), (0x1fff, 2));
}

#[test]
fn secrets_are_made_by_firmware() {
    let mut bench = Bench::started();
    bench.add(PageType::SECRETS, 7, pattern(3)).unwrap();
    let page = SecretsPage::read_from_bytes(&bench.memory.guest[&7].0).unwrap();
    assert!(page.version >= 2);
    assert!(page.vmpck.iter().all(|key| *key != [0; 32]));
    assert_ne!(page.vmpck[0], page.vmpck[1]);
    assert_eq!(page.fms, 0x00a0_0f11);
    assert_eq!(page.reserved_164, [0; 3740]);
}

#[test]
fn finish_measures_processors_once() {
    let finish = SnpLaunchFinish::default();
    let mut bench = Bench::new();
    assert_eq!(errno(bench.finish(&finish)), ENOTTY);
    bench.init(&SevInit::default()).unwrap();
    assert_eq!(errno(bench.finish(&finish)), EINVAL);
    bench.start(POLICY).unwrap();
    assert_eq!(errno(bench.finish(&SnpLaunchFinish { flags: 1, ..finish })), EINVAL);
    bench.cores[0].dr[7] = 0x401;
    assert_eq!(errno(bench.finish(&finish)), EINVAL);
    assert!(bench.vmsas[0].is_none());
    bench.cores[0].dr[7] = 0x400;
    bench.finish(&finish).unwrap();
    assert!(bench.vm.finished() && bench.vmsas[0].is_some());
    assert_eq!(errno(bench.finish(&finish)), EINVAL);
    let late = bench.add(PageType::NORMAL, 3, pattern(1));
    assert_eq!(firmware(late), FirmwareStatus::INVALID_GUEST_STATE);
    assert!(!bench.memory.guest[&3].1.assigned(), "reclaimed");
}

#[test]
fn finish_without_a_block_cannot_be_repeated() {
    let mut bench = Bench::started();
    let finish = SnpLaunchFinish { id_block_en: 1, ..Default::default() };
    assert_eq!(errno(bench.finish(&finish)), EINVAL);
    assert!(bench.vmsas[0].is_some());
    assert_eq!(errno(bench.finish(&SnpLaunchFinish::default())), EINVAL);
}

#[test]
fn registers_and_processors_are_measured() {
    let run = |change: fn(&mut Core), cpus: usize| {
        let mut bench = Bench::started();
        change(&mut bench.cores[0]);
        bench.cores.resize(cpus, Core::at_reset());
        bench.vmsas.resize(cpus, None);
        bench.finish(&SnpLaunchFinish::default()).unwrap();
        bench.digest()
    };
    let plain = run(|_| {}, 1);
    assert_ne!(plain, run(|core| core.rip = 0x1000, 1));
    assert_ne!(plain, run(|_| {}, 2));
    assert_eq!(plain, run(|core| core.cr4 ^= 0x40, 1), "CR4.MCE is the host's");
}

pub struct Owner {
    id: SigningKey,
    author: SigningKey,
}

impl Owner {
    pub fn new() -> Self {
        let key = |byte| SigningKey::from_slice(&[byte; 48]).unwrap();
        Self { id: key(1), author: key(2) }
    }

    fn sign(key: &SigningKey, message: &[u8]) -> EcdsaSignature {
        let signature: Signature = key.sign(message);
        signature_out(&signature)
    }

    fn public(key: &SigningKey) -> EcdsaPublicKey {
        public_out(key.verifying_key())
    }

    pub fn identify(&self, digest: LaunchDigest, policy: SnpPolicy) -> (IdBlock, IdAuth) {
        let block = IdBlock {
            launch_digest: digest.0,
            family_id: [1; 16],
            image_id: [2; 16],
            version: 1,
            guest_svn: 3,
            policy,
        };
        let mut auth = IdAuth::new_zeroed();
        auth.id_key_algo = 1;
        auth.auth_key_algo = 1;
        auth.id_key = Self::public(&self.id);
        auth.id_block_sig = Self::sign(&self.id, block.as_bytes());
        auth.author_key = Self::public(&self.author);
        auth.id_key_sig = Self::sign(&self.author, auth.id_key.as_bytes());
        (block, auth)
    }
}

fn finish_with(block: &IdBlock, auth: &IdAuth, author: bool) -> Result<(), Failure> {
    let mut bench = Bench::started();
    (bench.cores, bench.vmsas) = (Vec::new(), Vec::new());
    bench.memory.map_bytes(0x20000, block.as_bytes());
    bench.memory.map_bytes(0x21000, auth.as_bytes());
    bench.finish(&SnpLaunchFinish {
        id_block_uaddr: 0x20000,
        id_auth_uaddr: 0x21000,
        id_block_en: 1,
        auth_key_en: author.into(),
        ..Default::default()
    })
}

#[test]
fn an_id_block_binds_digest_policy_and_keys() {
    let owner = Owner::new();
    let (block, auth) = owner.identify(LaunchDigest::default(), POLICY);
    finish_with(&block, &auth, false).unwrap();
    finish_with(&block, &auth, true).unwrap();

    let (other, other_auth) = owner.identify(LaunchDigest([1; 48]), POLICY);
    let wrong = finish_with(&other, &other_auth, false);
    assert_eq!(firmware(wrong), FirmwareStatus::BAD_MEASUREMENT);
    let (other, other_auth) = owner.identify(LaunchDigest::default(), SnpPolicy(0xb0000));
    let wrong = finish_with(&other, &other_auth, false);
    assert_eq!(firmware(wrong), FirmwareStatus::POLICY_FAILURE);
    let (_, foreign) = owner.identify(LaunchDigest([1; 48]), POLICY);
    assert_eq!(firmware(finish_with(&block, &foreign, false)), FirmwareStatus::BAD_SIGNATURE);
    let mut forged = auth;
    forged.id_key_sig.s[0] ^= 1;
    finish_with(&block, &forged, false).unwrap();
    assert_eq!(firmware(finish_with(&block, &forged, true)), FirmwareStatus::BAD_SIGNATURE);
    let mut versioned = block;
    versioned.version = 2;
    assert_eq!(firmware(finish_with(&versioned, &auth, false)), FirmwareStatus::INVALID_PARAM);
    let garbage = IdAuth { id_key_algo: 1, ..IdAuth::read_from_bytes(&[0xff; 4096]).unwrap() };
    assert_eq!(firmware(finish_with(&block, &garbage, false)), FirmwareStatus::BAD_SIGNATURE);
}
