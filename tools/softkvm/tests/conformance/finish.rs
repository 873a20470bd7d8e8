//! Rows 43 to 55: registers, LAUNCH_FINISH, and what is left afterwards.

use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use abi::kvm_snp::SnpLaunchFinish;
use abi::snp::{KVM_VMSA_GPA, PageType, SevFeatures, SnpPolicy, VMSA_SIZE, Vmsa, VmsaSegment};
use kvm_bindings::{
    kvm_debugregs, kvm_guest_debug, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_run, kvm_segment,
    kvm_sregs, kvm_sregs2, kvm_xcrs,
};
use libc::{EINVAL, EIO, ENOTTY};
use softkvm::snp::LaunchDigest;
use zerocopy::{FromZeros, IntoBytes};

use crate::harness::*;
use crate::interrupt::interrupting;

const C_BIT: u64 = 1 << 51;
const CR3: u64 = 0x1000 | C_BIT;

/// The registers of a direct 64-bit start.
fn long_mode(sregs: &mut kvm_sregs) {
    let data = kvm_segment {
        selector: 0x18,
        type_: 3,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        limit: !0,
        ..Default::default()
    };
    let code = kvm_segment { selector: 0x10, type_: 0xb, db: 0, l: 1, ..data };
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    (sregs.fs, sregs.gs) = (data, data);
    sregs.cr0 = 0x8000_0031;
    sregs.cr3 = CR3;
    sregs.cr4 = 0x20;
    sregs.efer = 0xd00;
}

fn segment(selector: u16, attrib: u16, limit: u32, base: u64) -> VmsaSegment {
    VmsaSegment { selector, attrib, limit, base }
}

/// The save area of a vCPU that was only created (Linux arch/x86/kvm/svm/svm.c `init_vmcb`).
fn reset() -> Vmsa {
    let mut area = Vmsa::new_zeroed();
    let data = segment(0, 0x92, 0xffff, 0);
    (area.es, area.ss, area.ds, area.fs, area.gs) = (data, data, data, data, data);
    area.cs = segment(0xf000, 0x9a, 0xffff, 0xffff_0000);
    area.gdtr = segment(0, 0, 0xffff, 0);
    area.idtr = segment(0, 0, 0xffff, 0);
    area.ldtr = segment(0, 0x82, 0xffff, 0);
    area.tr = segment(0, 0x83, 0xffff, 0);
    area.efer = 0x1000;
    area.cr4 = 0x40;
    area.cr0 = 0x10;
    area.dr6 = 0xffff_0ff0;
    area.dr7 = 0x400;
    area.rflags = 2;
    area.rip = 0xfff0;
    area.rdx = 0x600;
    area.g_pat = 0x0007_0406_0007_0406;
    area.xcr0 = 1;
    area.sev_features = SevFeatures::SNP_ACTIVE;
    area.mxcsr = 0x1f80;
    area.x87_fcw = 0x37f;
    area
}

/// The save area after [`long_mode`].
fn long_mode_area() -> Vmsa {
    let mut area = reset();
    area.cs = segment(0x10, 0xa9b, !0, 0);
    let data = segment(0x18, 0xc93, !0, 0);
    (area.es, area.ss, area.ds, area.fs, area.gs) = (data, data, data, data, data);
    area.cr0 = 0x8000_0031;
    area.cr3 = CR3;
    area.cr4 = 0x60;
    area.efer = 0x1d00;
    area
}

fn digest(areas: &[Vmsa]) -> LaunchDigest {
    let mut digest = LaunchDigest::default();
    for area in areas {
        let mut page = [0; 4096];
        page[..VMSA_SIZE].copy_from_slice(area.as_bytes());
        digest.extend(PageType::VMSA, KVM_VMSA_GPA, &page);
    }
    digest
}

#[test]
fn row_43_the_c_bit_in_cr3_needs_cpuid_first() {
    let host = Host::new();
    let launch = host.started();
    assert_eq!(launch.sregs(0, long_mode), Err(EINVAL));
    launch.cpuid(0);
    assert_eq!(launch.sregs(0, long_mode), Ok(()));
}

#[test]
fn row_44_finish_out_of_order() {
    let host = Host::new();
    assert_eq!(host.snp().finish(&Default::default()), Err((ENOTTY, 0)));
    assert_eq!(host.ready().finish(&Default::default()), Err((EINVAL, 0)));
    let flags = SnpLaunchFinish { flags: 1, ..Default::default() };
    assert_eq!(host.started().vm.finish(&flags), Err((EINVAL, 0)));
    let plain = host.vm(0).unwrap();
    assert_eq!(plain.finish(&Default::default()), Err((ENOTTY, 0)));
}

#[test]
fn row_45_finish_waits_for_running_vcpus() {
    let host = Host::new();
    let launch = host.launch(2);
    let finished = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut finish = None;
        // An AP that was never started blocks.
        let run = interrupting(
            || host.call(launch.vcpus[1], RUN, 0),
            || {
                finish = Some(scope.spawn(|| {
                    let answer = launch.vm.finish(&Default::default());
                    finished.store(true, Ordering::SeqCst);
                    answer
                }));
                thread::sleep(Duration::from_millis(100));
                assert!(!finished.load(Ordering::SeqCst), "a vCPU is in KVM_RUN");
            },
        );
        assert_eq!(run, Err(libc::EINTR));
        assert_eq!(finish.unwrap().join().unwrap(), Ok(()));
    });
}

#[test]
fn row_46_finish_with_a_breakpoint() {
    let host = Host::new();
    let launch = host.started();
    let set = |dr7| {
        let mut debug = kvm_debugregs { dr6: 0xffff_0ff0, dr7, ..Default::default() };
        host.with(launch.vcpus[0], SET_DEBUGREGS, &mut debug).unwrap();
    };
    set(0x401);
    assert_eq!(launch.vm.finish(&Default::default()), Err((EINVAL, 0)));
    set(0x400);
    assert_eq!(launch.vm.finish(&Default::default()), Ok(()), "vCPU 0 was not protected");
}

#[test]
fn row_47_finish_cannot_be_repeated() {
    let host = Host::new();
    let launch = host.started();
    let params = SnpLaunchFinish { id_block_en: 1, ..Default::default() };
    assert_eq!(launch.vm.finish(&params), Err((EINVAL, 0)));
    assert_eq!(launch.vm.finish(&Default::default()), Err((EINVAL, 0)));
}

#[test]
fn row_48_id_blocks_that_do_not_fit() {
    let host = Host::new();
    let answer = |digest, policy, spoil: bool| {
        let launch = host.launch(0);
        let (block, mut auth) = identify(digest, policy);
        if spoil {
            auth.id_block_sig.r[3] ^= 1;
        }
        launch.finish_identified(&block, &auth)
    };
    let right = LaunchDigest::default();
    assert_eq!(answer(right, POLICY, false), Ok(()));
    assert_eq!(answer(LaunchDigest([1; 48]), POLICY, false), Err((EIO, 0xb)));
    assert_eq!(answer(right, POLICY, true), Err((EIO, 0xa)));
    assert_eq!(answer(right, POLICY | SnpPolicy::DEBUG, false), Err((EIO, 7)));
}

#[test]
fn row_49_nothing_is_added_after_finish() {
    let host = Host::new();
    let mut launch = host.started();
    assert_eq!(launch.vm.finish(&Default::default()), Ok(()));
    assert_eq!(launch.add(PageType::NORMAL, 3, &pattern(1)), Err((EIO, 2)));
}

#[test]
fn row_50_protected_registers() {
    let host = Host::new();
    let launch = host.started();
    launch.vm.finish(&Default::default()).unwrap();
    let vcpu = launch.vcpus[0];
    assert_eq!(host.with(vcpu, GET_REGS, &mut kvm_regs::default()), Err(EINVAL));
    assert_eq!(host.with(vcpu, SET_SREGS2, &mut kvm_sregs2::default()), Err(EINVAL));
    assert_eq!(host.with(vcpu, GET_DEBUGREGS, &mut kvm_debugregs::default()), Err(EINVAL));
    assert_eq!(host.with(vcpu, GET_XCRS, &mut kvm_xcrs::default()), Err(EINVAL));
    assert_eq!(host.with(vcpu, SET_GUEST_DEBUG, &mut kvm_guest_debug::default()), Err(EINVAL));
    assert_eq!(host.with(vcpu, GET_XSAVE, &mut [0u8; 4096]), Ok(0));
    assert_eq!(host.with(vcpu, GET_LAPIC, &mut kvm_lapic_state::default()), Ok(0));
    assert_eq!(host.with(vcpu, GET_MP_STATE, &mut kvm_mp_state::default()), Ok(0));
}

#[test]
fn row_51_the_digest_covers_registers_as_kvm_writes_them() {
    let host = Host::new();
    assert_eq!(host.launch(1).finish_demanding(digest(&[reset()])), Ok(()));
    assert_eq!(host.launch(2).finish_demanding(digest(&[reset(), reset()])), Ok(()));

    for cr4 in [0x20, 0x60] {
        let launch = host.launch(1);
        launch.cpuid(0);
        launch
            .sregs(0, |sregs| {
                long_mode(sregs);
                sregs.cr4 = cr4;
            })
            .unwrap();
        launch.regs(0, |regs| {
            *regs = kvm_regs { rip: 0x10_0000, rsi: 0x7000, rsp: 0x8000, rflags: 2, ..*regs };
        });
        let mut area = long_mode_area();
        (area.rip, area.rsi, area.rsp) = (0x10_0000, 0x7000, 0x8000);
        assert_eq!(launch.finish_demanding(digest(&[area])), Ok(()), "CR4 {cr4:#x}");
    }

    let launch = host.launch(1);
    launch.regs(0, |regs| regs.rip = 0x1000);
    assert_eq!(launch.finish_demanding(digest(&[reset()])), Err((EIO, 0xb)));
}

#[test]
fn row_52_host_data_is_not_measured() {
    let host = Host::new();
    let launch = host.launch(0);
    let (block, auth) = identify(LaunchDigest::default(), POLICY);
    let params = SnpLaunchFinish {
        id_block_uaddr: ptr::from_ref(&block) as u64,
        id_auth_uaddr: ptr::from_ref(&auth) as u64,
        id_block_en: 1,
        host_data: std::array::from_fn(|i| i as u8),
        ..Default::default()
    };
    assert_eq!(launch.vm.finish(&params), Ok(()));
}

#[test]
fn row_53_every_vcpu_is_measured() {
    let host = Host::new();
    assert_eq!(host.launch(2).finish_demanding(digest(&[reset()])), Err((EIO, 0xb)));
}

#[test]
fn row_54_register_synchronisation_is_refused() {
    let host = Host::new();
    let launch = host.started();
    launch.vm.finish(&Default::default()).unwrap();
    let size = size_of::<kvm_run>();
    // SAFETY: a fresh shared mapping of the vCPU's run page, as every monitor makes it.
    let run = unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(ptr::null_mut(), size, protection, libc::MAP_SHARED, launch.vcpus[0], 0)
    };
    assert_ne!(run, libc::MAP_FAILED);
    let run = run.cast::<kvm_run>();
    // SAFETY: the mapping is of that size and stays until the end of the process.
    unsafe { (*run).kvm_valid_regs = 1 };
    assert_eq!(host.call(launch.vcpus[0], RUN, 0), Err(EINVAL));
}

#[test]
fn row_55_contexts_are_neither_copied_nor_moved() {
    const VM_COPY_ENC_CONTEXT_FROM: u32 = 197;
    const VM_MOVE_ENC_CONTEXT_FROM: u32 = 206;
    let host = Host::new();
    let (snp, other) = (host.ready(), host.snp());
    let plain = host.vm(0).unwrap();
    for cap in [VM_COPY_ENC_CONTEXT_FROM, VM_MOVE_ENC_CONTEXT_FROM] {
        assert_eq!(other.enable(cap, snp.fd as u64), Err(EINVAL));
        assert_eq!(snp.enable(cap, plain.fd as u64), Err(EINVAL));
        assert_eq!(plain.enable(cap, snp.fd as u64), Err(EINVAL));
    }
}
