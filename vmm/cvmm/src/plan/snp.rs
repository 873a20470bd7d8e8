//! The plan of an SEV-SNP guest: the C-bit, and two pages that the firmware fills or checks.

use abi::shim::snp::{BOOT_PAGE_GPA, BootPage};
use abi::shim::{self, CPUID_GPA, Flags, PAGE, SECRETS_GPA};

use super::technology::{Shape, Technology};
use super::{HostCaps, LaunchRegion, PageKind, PlanError, region};
use sha2::{Digest, Sha256};
use zerocopy::IntoBytes;

use crate::config::CpuCount;
use crate::shim_image::{FIRST_STAGE, FirstStage, SHIM_CODE};

pub(super) fn shape(cpus: CpuCount, host: &HostCaps) -> Result<Shape, PlanError> {
    let cpuid = Technology::Snp.leaves(cpus, host);
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
        first_stage: Some(FIRST_STAGE),
        first: Vec::new(),
        last,
        extra: Vec::new(),
        wakeup: None,
    })
}

/// The page that is page table and first stage, for a second stage that waits at `waits_at`.
pub(super) fn boot_page(
    stage: FirstStage,
    c_bit: u32,
    waits_at: u64,
    second_stage: &[u8],
) -> Result<LaunchRegion, PlanError> {
    let page = BootPage {
        c_bit,
        second_stage: waits_at,
        digest: Sha256::digest(second_stage).into(),
        code: stage.code,
        program: stage.program,
    };
    let page = page.build().ok_or(PlanError::BootPage)?;
    Ok(region("boot", BOOT_PAGE_GPA, page.as_bytes()))
}
