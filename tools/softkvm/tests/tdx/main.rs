//! Intel TDX by its rules: a TD's life and pages, measurement, TDCALL, CPUID, MSRs, control registers, reports. No
//! processor runs here.
#![allow(clippy::unwrap_used, missing_docs)]

mod cpuid;
mod entry;
mod instructions;
mod life;
mod measurement;
mod msr;
mod report;
mod tdcall;

use abi::kvm_tdx::CpuidEntry;
use abi::tdx::{TdAttributes, TdParams, Xfam};
use softkvm::tdx::{Td, TdVcpu, TdxPlatform};
use zerocopy::FromZeros;

/// An entry of a processor's own CPUID.
pub fn entry(function: u32, index: Option<u32>, [eax, ebx, ecx, edx]: [u32; 4]) -> CpuidEntry {
    let flags = u32::from(index.is_some());
    CpuidEntry { function, index: index.unwrap_or(0), flags, eax, ebx, ecx, edx, padding: [0; 3] }
}

/// A platform whose processor has every CPUID bit, with the sizes of the states that matter.
pub fn platform() -> TdxPlatform {
    let mut platform = TdxPlatform::default();
    let all = [!0; 4];
    platform.native_cpuid = vec![
        entry(0, None, [0x20, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
        entry(1, None, [platform.signature(), !0, !0, !0]),
        entry(5, None, all),
        entry(7, Some(0), [2, !0, !0, !0]),
        entry(7, Some(1), all),
        entry(7, Some(2), all),
        entry(0xd, Some(0), [0x602e7, 0, 0, 0]),
        entry(0xd, Some(1), [0x1f, 0, 0x1900, 0]),
        entry(0xd, Some(2), [256, 576, 0, 0]),
        entry(0xd, Some(5), [64, 1088, 0, 0]),
        entry(0xd, Some(6), [512, 1152, 0, 0]),
        entry(0xd, Some(7), [1024, 1664, 0, 0]),
        entry(0xd, Some(9), [8, 2688, 0, 0]),
        entry(0xd, Some(17), [64, 2752, 2, 0]),
        entry(0xd, Some(18), [8192, 2816, 6, 0]),
        entry(0x15, None, [2, 160, 38_400_000, 9]),
        entry(0x1f, Some(0), [1, 2, 0x100, 7]),
        entry(0x1f, Some(1), [7, 112, 0x201, 7]),
        entry(0x8000_0001, None, all),
        entry(0x8000_0008, None, [0x0034_3934, !0, !0, !0]),
    ];
    platform
}

/// What KVM passes for a small TD.
pub fn params() -> TdParams {
    let mut params = TdParams::new_zeroed();
    params.attributes = TdAttributes::SEPT_VE_DISABLE;
    params.xfam = Xfam::FIXED1;
    params.max_vcpus = 4;
    params.eptp_controls = 0x1e;
    params.config_flags = TdParams::NO_RBP_MOD;
    params.tsc_frequency = 80;
    params
}

/// An initialised TD.
pub fn td(params: &TdParams) -> Td {
    let mut td = Td::new();
    td.init(&platform(), params).unwrap();
    td
}

/// A TD that can run, with one vCPU whose x2APIC ID is 0x123 and index 0.
pub fn running(params: &TdParams) -> (Td, TdVcpu) {
    let mut td = td(params);
    let vcpu = td.init_vcpu(0x123, 0x1122_3344_5566_7788).unwrap();
    td.mr_finalize().unwrap();
    (td, vcpu)
}
