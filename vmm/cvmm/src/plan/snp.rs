//! The plan of an SEV-SNP guest: the C-bit, and two pages that the firmware fills or checks.

use abi::shim::{self, CPUID_GPA, Flags, PAGE, SECRETS_GPA};

use super::technology::{Shape, Technology};
use super::{HostCaps, LaunchRegion, PageKind, PlanError, region};
use crate::config::CpuCount;
use crate::shim_image::SHIM_CODE;

pub(super) fn shape(cpus: CpuCount, host: &HostCaps) -> Result<Shape, PlanError> {
    let cpuid = host.cpuid.for_snp(cpus, host.c_bit);
    let last = vec![
        LaunchRegion { kind: PageKind::Cpuid, ..region("cpuid", CPUID_GPA, &cpuid.to_page()?) },
        LaunchRegion {
            kind: PageKind::Secrets,
            ..region("secrets", SECRETS_GPA, &[0; PAGE as usize])
        },
    ];
    Ok(Shape {
        technology: Technology::Snp,
        named: shim::Technology::SNP,
        flags: Flags::RAM_PRIVATE,
        c_bit: Some(host.c_bit),
        shim: SHIM_CODE,
        cpuid,
        first: Vec::new(),
        last,
        extra: Vec::new(),
        wakeup: None,
    })
}
