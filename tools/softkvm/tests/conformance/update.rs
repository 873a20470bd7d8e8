//! Rows 29 to 42: LAUNCH_UPDATE.

use abi::kvm_snp::SnpLaunchUpdate;
use abi::snp::{CpuidFunction, CpuidPage, FirmwareStatus, PageType, SecretsPage};
use libc::{EINVAL, EIO};
use softkvm::kvm::fd::Owned;
use softkvm::snp::LaunchDigest;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::harness::{Host, Launch, Pages, pattern};

/// The digest of NORMAL pages, folded here.
fn fold(pages: &[(PageType, u64, [u8; 4096])]) -> LaunchDigest {
    let mut digest = LaunchDigest::default();
    for (kind, gfn, page) in pages {
        digest.extend(*kind, gfn << 12, page);
    }
    digest
}

/// A launch without vCPUs, whose digest is that of its pages.
fn bare(host: &Host) -> Launch<'_> {
    host.launch(0)
}

#[test]
fn row_29_update_before_start() {
    let host = Host::new();
    let vm = host.ready();
    let pages = Pages::new(1);
    let mut params =
        SnpLaunchUpdate { uaddr: pages.address(), len: 0x1000, page_type: 1, ..Default::default() };
    assert_eq!(vm.update(&mut params), Err((EINVAL, 0)));
}

#[test]
fn row_30_malformed_updates() {
    let host = Host::new();
    let launch = bare(&host);
    let good = launch.range(PageType::NORMAL, 1, 1);
    for mut params in [
        SnpLaunchUpdate { len: 0, ..good },
        SnpLaunchUpdate { len: 0x800, ..good },
        SnpLaunchUpdate { flags: 1, ..good },
        SnpLaunchUpdate { page_type: 2, ..good },
        SnpLaunchUpdate { page_type: 7, ..good },
    ] {
        assert_eq!(launch.vm.update(&mut params), Err((EINVAL, 0)));
    }
}

#[test]
fn row_31_frames_without_guarded_slot() {
    let host = Host::new();
    let launch = bare(&host);
    assert_eq!(launch.vm.update(&mut launch.range(PageType::NORMAL, 256, 1)), Err((EINVAL, 0)));
    let plain = Pages::new(1);
    launch.vm.region(5, 0, 512, 1, plain.address(), 0, 0).unwrap();
    assert_eq!(launch.vm.update(&mut launch.range(PageType::NORMAL, 512, 1)), Err((EINVAL, 0)));
}

#[test]
fn row_32_the_source_of_a_zero_page_is_ignored() {
    let host = Host::new();
    let launch = bare(&host);
    let uaddr = launch.source.address() + 1;
    let mut normal = SnpLaunchUpdate { uaddr, ..launch.range(PageType::NORMAL, 1, 1) };
    assert_eq!(launch.vm.update(&mut normal), Err((EINVAL, 0)));
    for (gfn, uaddr) in [(1, uaddr), (2, 0), (3, !0)] {
        let mut zero = SnpLaunchUpdate { uaddr, ..launch.range(PageType::ZERO, gfn, 1) };
        assert_eq!(launch.vm.update(&mut zero), Ok(()));
        assert_eq!((zero.len, zero.uaddr, zero.gfn_start), (0, uaddr, gfn + 1));
    }
}

#[test]
fn row_33_shared_frames_cannot_be_added() {
    let host = Host::new();
    let mut launch = bare(&host);
    launch.vm.attributes(0x5000, 0x1000, 0).unwrap();
    assert_eq!(launch.add(PageType::NORMAL, 5, &pattern(1)), Err((EIO, 0)));
    assert_eq!(launch.finish_demanding(LaunchDigest::default()), Ok(()), "digest unchanged");
}

#[test]
fn row_34_a_frame_is_added_once() {
    let host = Host::new();
    let mut launch = bare(&host);
    launch.add(PageType::NORMAL, 5, &pattern(1)).unwrap();
    assert_eq!(launch.add(PageType::NORMAL, 5, &pattern(1)), Err((EIO, 0)));
    let expected = fold(&[(PageType::NORMAL, 5, pattern(1))]);
    assert_eq!(launch.finish_demanding(expected), Ok(()));
}

#[test]
fn row_35_progress_before_a_fault_is_success() {
    let host = Host::new();
    let launch = bare(&host);
    launch.source.protect(2, libc::PROT_NONE);
    let mut params = launch.range(PageType::NORMAL, 8, 5);
    assert_eq!(launch.vm.update(&mut params), Ok(()));
    let at = launch.source.address();
    assert_eq!((params.gfn_start, params.uaddr, params.len), (10, at + 0x2000, 0x3000));
    assert_eq!(launch.vm.update(&mut params), Err((EIO, 0)));
}

#[test]
fn row_36_a_range_is_cut_at_the_end_of_its_slot() {
    let host = Host::new();
    let launch = bare(&host);
    let shared = Pages::new(4);
    let memfd = launch.vm.memfd(0x4000, 0).unwrap();
    launch.vm.region(1, 4, 256, 4, shared.address(), memfd, 0).unwrap();
    launch.vm.attributes(256 << 12, 0x4000, 8).unwrap();
    let mut params = launch.range(PageType::NORMAL, 254, 4);
    assert_eq!(launch.vm.update(&mut params), Ok(()));
    assert_eq!((params.gfn_start, params.len), (256, 0x2000));
    assert_eq!(launch.vm.update(&mut params), Ok(()));
    assert_eq!(params.len, 0);
}

#[test]
fn row_37_zero_pages_are_not_pages_of_zeros() {
    let host = Host::new();
    let measured = |kind, contents| {
        let mut launch = bare(&host);
        launch.add(kind, 1, &contents).unwrap();
        launch.finish_demanding(fold(&[(PageType::ZERO, 1, [0; 4096])]))
    };
    assert_eq!(measured(PageType::ZERO, [0; 4096]), Ok(()));
    assert_eq!(measured(PageType::ZERO, pattern(1)), Ok(()));
    assert_eq!(measured(PageType::NORMAL, [0; 4096]), Err((EIO, 0xb)));
}

#[test]
fn row_38_calls_do_not_matter_but_order_does() {
    let host = Host::new();
    let expected = fold(&[(PageType::NORMAL, 1, pattern(1)), (PageType::NORMAL, 2, pattern(2))]);
    let mut launch = bare(&host);
    *launch.source.page(0) = pattern(1);
    *launch.source.page(1) = pattern(2);
    launch.vm.update(&mut launch.range(PageType::NORMAL, 1, 2)).unwrap();
    assert_eq!(launch.finish_demanding(expected), Ok(()));
    let mut launch = bare(&host);
    launch.add(PageType::NORMAL, 1, &pattern(1)).unwrap();
    launch.add(PageType::NORMAL, 2, &pattern(2)).unwrap();
    assert_eq!(launch.finish_demanding(expected), Ok(()));
    let mut launch = bare(&host);
    launch.add(PageType::NORMAL, 2, &pattern(2)).unwrap();
    launch.add(PageType::NORMAL, 1, &pattern(1)).unwrap();
    assert_eq!(launch.finish_demanding(expected), Err((EIO, 0xb)));
}

fn cpuid(ecx: u32) -> [u8; 4096] {
    let mut page = CpuidPage::new_zeroed();
    page.count = 1;
    page.functions[0] = CpuidFunction { eax_in: 1, ecx, ..Default::default() };
    page.as_bytes().try_into().unwrap()
}

#[test]
fn row_39_a_cpuid_page_comes_back_corrected() {
    let host = Host::new();
    let mut launch = bare(&host);
    let refused = launch.add(PageType::CPUID, 7, &cpuid(1 << 24 | 1 << 31));
    assert_eq!(refused, Err((EIO, FirmwareStatus::INVALID_PARAM.0)));
    assert_eq!(*launch.source.page(0), cpuid(1 << 31));
    assert_eq!(launch.vm.update(&mut launch.range(PageType::CPUID, 7, 1)), Ok(()));
    let expected = fold(&[(PageType::CPUID, 7, [0; 4096])]);
    assert_eq!(launch.finish_demanding(expected), Ok(()), "contents are not measured");
}

#[test]
fn row_40_a_cpuid_page_must_be_writable() {
    let host = Host::new();
    let mut launch = bare(&host);
    *launch.source.page(0) = cpuid(0);
    launch.source.protect(0, libc::PROT_READ);
    assert_eq!(launch.vm.update(&mut launch.range(PageType::CPUID, 7, 1)), Err((EIO, 0)));
    assert_eq!(launch.vm.update(&mut launch.range(PageType::NORMAL, 7, 1)), Ok(()));
}

#[test]
fn row_41_firmware_writes_the_secrets() {
    let host = Host::new();
    let mut launch = bare(&host);
    launch.add(PageType::SECRETS, 7, &pattern(1)).unwrap();
    assert_eq!(*launch.source.page(0), pattern(1), "the source stays");
    let mut page = [0; 4096];
    // Where hardware would show ciphertext the memory file shows plain text.
    // SAFETY: reads into a local buffer.
    let refused = unsafe { libc::pread(launch.memfd, page.as_mut_ptr().cast(), 4096, 0x7000) };
    assert_eq!(refused, -1, "guest memory descriptors cannot be read");
    let file = Owned::writable(launch.memfd).unwrap();
    // SAFETY: reads into a local buffer.
    let got = unsafe { libc::pread(file.number(), page.as_mut_ptr().cast(), 4096, 0x7000) };
    assert_eq!(got, 4096);
    let secrets = SecretsPage::read_from_bytes(&page).unwrap();
    assert!(secrets.version >= 2);
    assert!(secrets.vmpck.iter().all(|key| *key != [0; 32]));
}

#[test]
fn row_42_addresses_are_measured() {
    let host = Host::new();
    let expected = fold(&[(PageType::CPUID, 7, [0; 4096])]);
    for (gfn, answer) in [(7, Ok(())), (8, Err((EIO, 0xb)))] {
        let mut launch = bare(&host);
        launch.add(PageType::CPUID, gfn, &cpuid(0)).unwrap();
        assert_eq!(launch.finish_demanding(expected), answer);
    }
}
