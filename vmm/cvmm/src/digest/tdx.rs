//! MRTD, the launch digest of a TD: Intel TDX Module 1.5 ABI specification (348551), TDH.MEM.PAGE.ADD, TDH.MR.EXTEND and
//! TDH.MR.FINALIZE, in the order of Linux 7.2 arch/x86/kvm/vmx/tdx.c tdx_gmem_post_populate: a page is added and then
//! extended before the next is added.
//!
//! Written from the specification. It shares no code with softkvm's module, which is what it is compared against.

use abi::tdx::ExtendBlock;
use sha2::{Digest, Sha384};
use zerocopy::IntoBytes;

use super::LaunchDigest;
use crate::plan::{PageKind, Plan};

const PAGE: usize = 4096;

/// How a page is added, in the words of the specification.
pub fn page_type(kind: PageKind) -> &'static str {
    if measured(kind) { "PAGE.ADD+MR.EXTEND" } else { "PAGE.ADD" }
}

/// Are contents of this kind extended into MRTD?
pub fn measured(kind: PageKind) -> bool {
    kind == PageKind::Measured
}

/// RTMR0 to RTMR3 when the kernel is entered: the shim extends nothing, for all that it loads is bound by MRTD.
pub const RTMRS_AT_ENTRY: [LaunchDigest; 4] = [const { LaunchDigest([0; 48]) }; 4];

/// One page of the launch, in launch order.
#[derive(Clone, Copy, Debug)]
pub struct TdPage<'a> {
    /// Where.
    pub gpa: u64,
    /// What it holds.
    pub bytes: &'a [u8],
    /// Are its contents extended into MRTD, beside its address?
    pub measured: bool,
    /// Its name in reports.
    pub tag: &'static str,
}

/// Every page that the module will see. Nothing of a vCPU is among them.
pub fn pages(plan: &Plan) -> impl Iterator<Item = TdPage<'_>> {
    plan.regions.iter().flat_map(|region| {
        region.bytes.chunks_exact(PAGE).enumerate().map(|(at, bytes)| TdPage {
            gpa: region.gpa + (at * PAGE) as u64,
            bytes,
            measured: measured(region.kind),
            tag: region.tag,
        })
    })
}

/// MRTD of a plan.
pub fn mrtd(plan: &Plan) -> LaunchDigest {
    let mut fold = Mrtd::default();
    for page in pages(plan) {
        fold.add(page.gpa);
        if page.measured {
            fold.extend(page.gpa, page.bytes);
        }
    }
    fold.finish()
}

/// The hash that the module keeps open until TDH.MR.FINALIZE.
#[derive(Default)]
struct Mrtd(Sha384);

impl Mrtd {
    /// TDH.MEM.PAGE.ADD: the address alone.
    fn add(&mut self, gpa: u64) {
        self.0.update(ExtendBlock::new(ExtendBlock::PAGE_ADD, gpa).as_bytes());
    }

    /// TDH.MR.EXTEND for every chunk of a page.
    fn extend(&mut self, gpa: u64, bytes: &[u8]) {
        for (at, chunk) in bytes.chunks_exact(ExtendBlock::CHUNK).enumerate() {
            let gpa = gpa + (at * ExtendBlock::CHUNK) as u64;
            self.0.update(ExtendBlock::new(ExtendBlock::MR_EXTEND, gpa).as_bytes());
            self.0.update(chunk);
        }
    }

    fn finish(self) -> LaunchDigest {
        LaunchDigest(self.0.finalize().into())
    }
}

#[cfg(test)]
#[path = "tdx_test.rs"]
mod tests;
