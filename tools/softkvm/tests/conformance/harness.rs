//! A host, a VM and memory of the test's own, with the calls of a monitor.

use std::os::fd::RawFd;
use std::ptr;

use abi::kvm;
use abi::kvm_snp;
use abi::kvm_snp::{SevCmd, SevInit, SnpLaunchFinish, SnpLaunchStart, SnpLaunchUpdate, cmd};
use abi::snp::{IdAuth, IdBlock, PageType, SnpPolicy};
use kvm_bindings::{CpuId, kvm_cpuid_entry2, kvm_enable_cap, kvm_regs, kvm_sregs};
use p384::ecdsa::{Signature, SigningKey, signature::Signer};
use softkvm::kvm::{Machine, Options, front};
use softkvm::snp::LaunchDigest;
use softkvm::snp::attest::{public_out, signature_out};
use zerocopy::{FromZeros, IntoBytes};

pub const CREATE_VM: u64 = 0xae01;
pub const CHECK_EXTENSION: u64 = 0xae03;
pub const GET_SUPPORTED_CPUID: u64 = 0xc008_ae05;
pub const CREATE_VCPU: u64 = 0xae41;
pub const CREATE_IRQCHIP: u64 = 0xae60;
pub const RUN: u64 = 0xae80;
pub const GET_REGS: u64 = 0x8090_ae81;
pub const SET_REGS: u64 = 0x4090_ae82;
pub const GET_SREGS: u64 = 0x8138_ae83;
pub const SET_SREGS: u64 = 0x4138_ae84;
pub const SET_CPUID2: u64 = 0x4008_ae90;
pub const SET_GUEST_DEBUG: u64 = 0x4048_ae9b;
pub const GET_DEBUGREGS: u64 = 0x8080_aea1;
pub const SET_DEBUGREGS: u64 = 0x4080_aea2;
pub const ENABLE_CAP: u64 = 0x4068_aea3;
pub const GET_XSAVE: u64 = 0x9000_aea4;
pub const GET_XCRS: u64 = 0x8188_aea6;
pub const GET_MP_STATE: u64 = 0x8004_ae98;
pub const GET_LAPIC: u64 = 0x8400_ae8e;
pub const SET_SREGS2: u64 = 0x4140_aecd;

pub const POLICY: SnpPolicy = SnpPolicy(0x30000);
pub const PRIVATE: u64 = kvm::KVM_MEMORY_ATTRIBUTE_PRIVATE;

pub type Answer<T = ()> = Result<T, i32>;

/// errno and firmware status of a refused command.
pub type Sev<T = ()> = Result<T, (i32, u32)>;

/// Pages of the test's own memory.
pub struct Pages {
    base: *mut u8,
    count: usize,
}

impl Pages {
    pub fn new(count: usize) -> Self {
        // SAFETY: a fresh anonymous mapping.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                count << 12,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        assert_ne!(base, libc::MAP_FAILED);
        Self { base: base.cast(), count }
    }

    pub fn address(&self) -> u64 {
        self.base as u64
    }

    pub fn page(&mut self, index: usize) -> &mut [u8; 4096] {
        assert!(index < self.count);
        // SAFETY: inside the mapping, borrowed through `self`.
        unsafe { &mut *self.base.add(index << 12).cast() }
    }

    pub fn protect(&self, index: usize, protection: i32) {
        // SAFETY: changes a page of our own mapping that nothing borrows.
        unsafe { libc::mprotect(self.base.add(index << 12).cast(), 4096, protection) };
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: unmaps what `new` mapped.
        unsafe { libc::munmap(self.base.cast(), self.count << 12) };
    }
}

/// A host: `/dev/kvm` and `/dev/sev` of a machine of its own.
pub struct Host {
    pub kvm: RawFd,
    pub sev: RawFd,
}

impl Host {
    pub fn new() -> Self {
        Self::on(Options::default())
    }

    pub fn on(options: Options) -> Self {
        let machine = Machine::new(options).unwrap();
        let kvm = front().open_kvm(machine.clone()).unwrap();
        Self { kvm, sev: front().open_sev(machine, true).unwrap() }
    }

    /// One ioctl.
    pub fn call(&self, fd: RawFd, request: u64, arg: u64) -> Answer<i32> {
        front().ioctl(fd, request, arg).expect("a descriptor of ours").map_err(|errno| errno.0)
    }

    /// One ioctl with a structure.
    pub fn with<T>(&self, fd: RawFd, request: u64, arg: &mut T) -> Answer<i32> {
        self.call(fd, request, ptr::from_mut(arg) as u64)
    }

    pub fn extension(&self, fd: RawFd, cap: u32) -> i32 {
        self.call(fd, CHECK_EXTENSION, cap.into()).unwrap()
    }

    pub fn vm(&self, kind: u64) -> Answer<Vm<'_>> {
        let fd = self.call(self.kvm, CREATE_VM, kind)?;
        Ok(Vm { host: self, fd, sev_fd: self.sev })
    }

    /// An SNP VM on which nothing was done yet.
    pub fn snp(&self) -> Vm<'_> {
        self.vm(kvm_snp::KVM_X86_SNP_VM).unwrap()
    }

    /// An SNP VM after INIT2.
    pub fn ready(&self) -> Vm<'_> {
        let vm = self.snp();
        vm.init2(&SevInit::default()).unwrap();
        vm
    }

    /// An SNP VM after LAUNCH_START, with 256 private pages from address 0 and one vCPU.
    pub fn started(&self) -> Launch<'_> {
        self.launch(1)
    }

    pub fn launch(&self, vcpus: u64) -> Launch<'_> {
        self.launch_in(self.ready(), vcpus)
    }

    /// The same in a VM that was prepared after INIT2.
    pub fn launch_in<'h>(&'h self, vm: Vm<'h>, vcpus: u64) -> Launch<'h> {
        vm.call(CREATE_IRQCHIP, 0).unwrap();
        let shared = Pages::new(256);
        let memfd = vm.memfd(256 << 12, 0).unwrap();
        vm.region(0, 4, 0, 256, shared.address(), memfd, 0).unwrap();
        vm.attributes(0, 256 << 12, PRIVATE).unwrap();
        let vcpus = (0..vcpus).map(|id| vm.call(CREATE_VCPU, id).unwrap()).collect();
        vm.start(POLICY).unwrap();
        Launch { vm, shared, memfd, source: Pages::new(8), vcpus }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: descriptors of our own.
        unsafe {
            libc::close(self.kvm);
            libc::close(self.sev);
        }
    }
}

/// A VM.
pub struct Vm<'h> {
    pub host: &'h Host,
    pub fd: RawFd,
    pub sev_fd: RawFd,
}

impl Vm<'_> {
    pub fn call(&self, request: u64, arg: u64) -> Answer<i32> {
        self.host.call(self.fd, request, arg)
    }

    pub fn with<T>(&self, request: u64, arg: &mut T) -> Answer<i32> {
        self.host.with(self.fd, request, arg)
    }

    pub fn enable(&self, cap: u32, argument: u64) -> Answer {
        let mut request = kvm_enable_cap { cap, ..Default::default() };
        request.args[0] = argument;
        self.with(ENABLE_CAP, &mut request).map(drop)
    }

    /// `KVM_MEMORY_ENCRYPT_OP`.
    pub fn op(&self, id: u32, data: u64) -> Sev {
        let mut command = SevCmd { id, data, sev_fd: self.sev_fd as u32, ..Default::default() };
        let answer = self.with(kvm::KVM_MEMORY_ENCRYPT_OP, &mut command);
        answer.map(drop).map_err(|errno| (errno, command.error))
    }

    fn op_with<T>(&self, id: u32, data: &mut T) -> Sev {
        self.op(id, ptr::from_mut(data) as u64)
    }

    pub fn init2(&self, params: &SevInit) -> Sev {
        self.op_with(cmd::SEV_INIT2, &mut { *params })
    }

    pub fn start(&self, policy: SnpPolicy) -> Sev {
        self.start_with(&SnpLaunchStart { policy, ..Default::default() })
    }

    pub fn start_with(&self, params: &SnpLaunchStart) -> Sev {
        self.op_with(cmd::SNP_LAUNCH_START, &mut { *params })
    }

    pub fn update(&self, params: &mut SnpLaunchUpdate) -> Sev {
        self.op_with(cmd::SNP_LAUNCH_UPDATE, params)
    }

    pub fn finish(&self, params: &SnpLaunchFinish) -> Sev {
        self.op_with(cmd::SNP_LAUNCH_FINISH, &mut { *params })
    }

    pub fn memfd(&self, size: u64, flags: u64) -> Answer<RawFd> {
        let mut request = kvm::CreateGuestMemfd { size, flags, ..Default::default() };
        self.with(kvm::KVM_CREATE_GUEST_MEMFD, &mut request)
    }

    /// Memory slot `slot`: flags, first frame, pages, host address, guest memory and offset.
    #[allow(clippy::too_many_arguments)]
    pub fn region(
        &self,
        slot: u32,
        flags: u32,
        gfn: u64,
        pages: u64,
        host: u64,
        memfd: RawFd,
        offset: u64,
    ) -> Answer {
        let mut region = kvm::UserMemoryRegion2 {
            slot,
            flags,
            guest_phys_addr: gfn << 12,
            memory_size: pages << 12,
            userspace_addr: host,
            guest_memfd_offset: offset,
            guest_memfd: memfd as u32,
            ..Default::default()
        };
        self.with(kvm::KVM_SET_USER_MEMORY_REGION2, &mut region).map(drop)
    }

    pub fn attributes(&self, address: u64, size: u64, attributes: u64) -> Answer {
        let mut request = kvm::MemoryAttributes { address, size, attributes, flags: 0 };
        self.with(kvm::KVM_SET_MEMORY_ATTRIBUTES, &mut request).map(drop)
    }
}

/// A launch in progress.
pub struct Launch<'h> {
    pub vm: Vm<'h>,
    /// The shared half of the slot.
    pub shared: Pages,
    pub memfd: RawFd,
    /// What pages are copied from.
    pub source: Pages,
    pub vcpus: Vec<RawFd>,
}

impl Launch<'_> {
    /// A range of `pages` from the start of [`Self::source`].
    pub fn range(&self, kind: PageType, gfn: u64, pages: u64) -> SnpLaunchUpdate {
        SnpLaunchUpdate {
            gfn_start: gfn,
            uaddr: self.source.address(),
            len: pages << 12,
            page_type: kind.0,
            ..Default::default()
        }
    }

    /// Adds one page.
    pub fn add(&mut self, kind: PageType, gfn: u64, contents: &[u8; 4096]) -> Sev {
        *self.source.page(0) = *contents;
        self.vm.update(&mut self.range(kind, gfn, 1))
    }

    pub fn regs(&self, vcpu: usize, change: impl FnOnce(&mut kvm_regs)) {
        let mut regs = kvm_regs::default();
        self.vm.host.with(self.vcpus[vcpu], GET_REGS, &mut regs).unwrap();
        change(&mut regs);
        self.vm.host.with(self.vcpus[vcpu], SET_REGS, &mut regs).unwrap();
    }

    pub fn sregs(&self, vcpu: usize, change: impl FnOnce(&mut kvm_sregs)) -> Answer {
        let mut sregs = kvm_sregs::default();
        self.vm.host.with(self.vcpus[vcpu], GET_SREGS, &mut sregs).unwrap();
        change(&mut sregs);
        self.vm.host.with(self.vcpus[vcpu], SET_SREGS, &mut sregs).map(drop)
    }

    /// Sets what the host supports as the vCPU's CPUID.
    pub fn cpuid(&self, vcpu: usize) {
        let mut table = CpuId::from_entries(&[kvm_cpuid_entry2::default(); 200]).unwrap();
        let host = self.vm.host;
        host.call(host.kvm, GET_SUPPORTED_CPUID, table.as_mut_fam_struct_ptr() as u64).unwrap();
        host.call(self.vcpus[vcpu], SET_CPUID2, table.as_fam_struct_ptr() as u64).unwrap();
    }

    /// Finishes with an ID block that demands this digest: BAD_MEASUREMENT if it is another.
    pub fn finish_demanding(&self, digest: LaunchDigest) -> Sev {
        let (block, auth) = identify(digest, POLICY);
        self.finish_identified(&block, &auth)
    }

    pub fn finish_identified(&self, block: &IdBlock, auth: &IdAuth) -> Sev {
        self.vm.finish(&SnpLaunchFinish {
            id_block_uaddr: ptr::from_ref(block) as u64,
            id_auth_uaddr: ptr::from_ref(auth) as u64,
            id_block_en: 1,
            ..Default::default()
        })
    }
}

/// An ID block and its authentication by a test key.
pub fn identify(digest: LaunchDigest, policy: SnpPolicy) -> (IdBlock, IdAuth) {
    let key = SigningKey::from_slice(&[7; 48]).unwrap();
    let block = IdBlock {
        launch_digest: digest.0,
        family_id: [0; 16],
        image_id: [0; 16],
        version: 1,
        guest_svn: 0,
        policy,
    };
    let mut auth = IdAuth::new_zeroed();
    auth.id_key_algo = 1;
    auth.id_key = public_out(key.verifying_key());
    let signature: Signature = key.sign(block.as_bytes());
    auth.id_block_sig = signature_out(&signature);
    (block, auth)
}

/// Contents that differ by `seed` and by position.
pub fn pattern(seed: u8) -> [u8; 4096] {
    std::array::from_fn(|i| seed.wrapping_add((i * 31 + (i >> 8)) as u8))
}
