//! The SEV-SNP launch digest: SEV-SNP firmware ABI, 56860 rev 1.57, section 8.17 (SNP_LAUNCH_UPDATE, table PAGE_INFO).
//!
//! Written from the specification and from how Linux 7.2 arch/x86/kvm/svm/sev.c (sev_es_sync_vmsa) makes a VMSA out of
//! KVM's registers. It shares no code with softkvm's firmware, which is what it is compared against.

use abi::snp::{KVM_VMSA_GPA, PageInfo, PageType, SevFeatures, Vmsa, VmsaSegment};
use kvm_bindings::{kvm_dtable, kvm_segment};
use sha2::{Digest, Sha384};
use zerocopy::{FromZeros, IntoBytes};

use super::LaunchDigest;
use crate::plan::registers::VcpuRegisters;
use crate::plan::{LaunchRegion, PageKind, Plan};

const PAGE: usize = 4096;

/// One page of the launch, in launch order.
#[derive(Clone, Debug)]
pub struct SnpPage<'a> {
    /// Where.
    pub gpa: u64,
    /// The firmware's type.
    pub page_type: PageType,
    /// What it holds.
    pub bytes: std::borrow::Cow<'a, [u8]>,
    /// Its name in reports.
    pub tag: &'static str,
}

/// The firmware's type for a kind of page.
pub fn page_type(kind: PageKind) -> PageType {
    match kind {
        PageKind::Measured => PageType::NORMAL,
        PageKind::Cpuid => PageType::CPUID,
        PageKind::Secrets => PageType::SECRETS,
        PageKind::Zero => PageType::ZERO,
        PageKind::Unmeasured => PageType::UNMEASURED,
    }
}

/// Every page that the firmware will see, VMSAs last, in vCPU order, as KVM_SEV_SNP_LAUNCH_FINISH adds them.
pub fn pages(plan: &Plan) -> impl Iterator<Item = SnpPage<'_>> {
    let regions = pages_of(&plan.regions).map(|(gpa, bytes, region)| SnpPage {
        gpa,
        page_type: page_type(region.kind),
        bytes: bytes.into(),
        tag: region.tag,
    });
    let vmsas = (0..plan.cpus.get()).map(|vcpu| SnpPage {
        gpa: KVM_VMSA_GPA,
        page_type: PageType::VMSA,
        bytes: vmsa_page(plan.registers(vcpu)).into(),
        tag: "vmsa",
    });
    regions.chain(vmsas)
}

/// Regions page by page.
pub fn pages_of(regions: &[LaunchRegion]) -> impl Iterator<Item = (u64, &[u8], &LaunchRegion)> {
    regions.iter().flat_map(|region| {
        let pages = region.bytes.chunks_exact(PAGE).enumerate();
        pages.map(move |(at, bytes)| (region.gpa + (at * PAGE) as u64, bytes, region))
    })
}

/// The launch digest of a plan.
pub fn launch_digest(plan: &Plan) -> LaunchDigest {
    LaunchDigest(
        pages(plan)
            .fold([0; 48], |digest, page| extend(digest, page.gpa, page.page_type, &page.bytes)),
    )
}

/// One step of the chain.
fn extend(digest: [u8; 48], gpa: u64, page_type: PageType, bytes: &[u8]) -> [u8; 48] {
    let mut info = PageInfo::new_zeroed();
    info.digest_cur = digest;
    if page_type.measures_contents() {
        info.contents = Sha384::digest(bytes).into();
    }
    info.length = size_of::<PageInfo>() as u16;
    info.page_type = page_type;
    info.gpa = gpa;
    Sha384::digest(info.as_bytes()).into()
}

/// EFER.SVME, which KVM sets in every guest's save area.
const EFER_SVME: u64 = 1 << 12;
/// CR4.MCE, which KVM copies from the host; every Linux host has it.
const CR4_MCE: u64 = 1 << 6;

/// CR0.CD and CR0.NW, which KVM keeps from guests unless user space asks otherwise (KVM_X86_QUIRK_CD_NW_CLEARED).
const CR0_CD_NW: u64 = 3 << 29;

/// The page that KVM hands to the firmware for a vCPU with these registers.
pub fn vmsa_page(registers: &VcpuRegisters) -> Vec<u8> {
    let (sregs, regs) = (&registers.sregs, &registers.regs);
    let mut vmsa = Vmsa::new_zeroed();
    vmsa.es = segment(&sregs.es);
    vmsa.cs = segment(&sregs.cs);
    vmsa.ss = segment(&sregs.ss);
    vmsa.ds = segment(&sregs.ds);
    vmsa.fs = segment(&sregs.fs);
    vmsa.gs = segment(&sregs.gs);
    vmsa.gdtr = table(&sregs.gdt);
    vmsa.ldtr = segment(&sregs.ldt);
    vmsa.idtr = table(&sregs.idt);
    vmsa.tr = segment(&sregs.tr);
    vmsa.cpl = sregs.ss.dpl;
    vmsa.efer = sregs.efer | EFER_SVME;
    vmsa.cr4 = sregs.cr4 | CR4_MCE;
    vmsa.cr3 = sregs.cr3;
    vmsa.cr0 = sregs.cr0 & !CR0_CD_NW;
    vmsa.cr2 = sregs.cr2;
    // Reset values (APM vol. 2, table 14-1) of what no ioctl of ours touches.
    vmsa.dr7 = 0x400;
    vmsa.dr6 = 0xffff_0ff0;
    vmsa.g_pat = 0x0007_0406_0007_0406;
    vmsa.xcr0 = 1;
    vmsa.mxcsr = 0x1f80;
    vmsa.x87_fcw = 0x37f;
    vmsa.rflags = regs.rflags | 2;
    vmsa.rip = regs.rip;
    vmsa.rsp = regs.rsp;
    vmsa.rax = regs.rax;
    vmsa.rcx = regs.rcx;
    vmsa.rdx = regs.rdx;
    vmsa.rbx = regs.rbx;
    vmsa.rbp = regs.rbp;
    vmsa.rsi = regs.rsi;
    vmsa.rdi = regs.rdi;
    vmsa.r8_15 = [regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15];
    vmsa.sev_features = SevFeatures::SNP_ACTIVE | registers.features;
    let mut page = vec![0; PAGE];
    page[..size_of::<Vmsa>()].copy_from_slice(vmsa.as_bytes());
    page
}

/// Linux 7.2 arch/x86/kvm/svm/svm.c svm_set_segment.
fn segment(segment: &kvm_segment) -> VmsaSegment {
    let bit = |value: u8, at: u32| u16::from(value & 1) << at;
    let present = segment.present & u8::from(segment.unusable == 0);
    VmsaSegment {
        selector: segment.selector,
        attrib: u16::from(segment.type_ & 0xf)
            | bit(segment.s, 4)
            | u16::from(segment.dpl & 3) << 5
            | bit(present, 7)
            | bit(segment.avl, 8)
            | bit(segment.l, 9)
            | bit(segment.db, 10)
            | bit(segment.g, 11),
        limit: segment.limit,
        base: segment.base,
    }
}

fn table(table: &kvm_dtable) -> VmsaSegment {
    VmsaSegment { limit: u32::from(table.limit), base: table.base, ..VmsaSegment::default() }
}

#[cfg(test)]
#[path = "snp_test.rs"]
mod tests;
