//! The VMSA page: made from a processor's registers as KVM makes it, and loaded and stored as the
//! processor does at VMRUN and at exits.

use abi::snp::{SevFeatures, VMSA_SIZE, Vmsa, VmsaSegment};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::Page;
use crate::cpu::state::{
    Core, DescriptorTable, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, Seg, Segment, cr4, efer,
};

/// Why a VMSA cannot be run (AMD APM vol. 2, 15.5.1 "Canonicalization and Consistency Checks" and
/// 15.36.8); KVM reports it as `KVM_EXIT_FAIL_ENTRY` with reason -1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the VMSA cannot be run: {0}")]
pub struct InvalidVmsa(pub &'static str);

/// The page that KVM measures for one processor (Linux arch/x86/kvm/svm/sev.c
/// `sev_es_sync_vmsa`): EFER.SVME is always set, CR4.MCE is the host's, TSC_AUX is never copied.
pub fn synthesise(core: &Core, features: SevFeatures, host_mce: bool) -> Box<Page> {
    let mut area = Vmsa::new_zeroed();
    store_state(core, &mut area);
    area.efer |= efer::SVME;
    area.cr4 = area.cr4 & !cr4::MCE | if host_mce { cr4::MCE } else { 0 };
    area.cr0 &= !(crate::cpu::state::cr0::CD | crate::cpu::state::cr0::NW);
    area.tsc_aux = 0;
    area.sev_features = features | SevFeatures::SNP_ACTIVE;
    let mut page = Box::new([0; 4096]);
    page[..VMSA_SIZE].copy_from_slice(area.as_bytes());
    page
}

/// Reads the save area at the start of a page.
pub fn read(page: &Page) -> Vmsa {
    match Vmsa::read_from_prefix(page) {
        Ok((area, _)) => area,
        // A page is longer than a save area and the area has no alignment of its own here.
        Err(_) => Vmsa::new_zeroed(),
    }
}

/// Stores the registers of `core` into a page, as the processor does at an automatic exit; what is
/// not a register (features, offsets, exit fields) stays.
pub fn save(core: &Core, page: &mut Page) {
    let mut area = read(page);
    store_state(core, &mut area);
    area.tsc_aux = core.tsc_aux as u32;
    page[..VMSA_SIZE].copy_from_slice(area.as_bytes());
}

/// Loads a processor from a page, as VMRUN does.
///
/// `features` are those the guest was initialised with: KVM refuses others.
pub fn load(core: &mut Core, page: &Page, features: SevFeatures) -> Result<(), InvalidVmsa> {
    let area = read(page);
    validate(&area, features)?;
    for (slot, segment) in
        core.seg.iter_mut().zip([area.es, area.cs, area.ss, area.ds, area.fs, area.gs])
    {
        *slot = segment_in(segment);
    }
    core.gdtr = table_in(area.gdtr)?;
    core.idtr = table_in(area.idtr)?;
    core.ldtr = segment_in(area.ldtr);
    core.tr = segment_in(area.tr);
    core.cpl = area.cpl & 3;
    core.efer = area.efer;
    core.cr0 = area.cr0;
    core.cr2 = area.cr2;
    core.cr3 = area.cr3;
    core.cr4 = area.cr4;
    core.xss = area.xss;
    core.xcr0 = area.xcr0;
    core.dr[..4].copy_from_slice(&area.dr);
    core.dr[6] = area.dr6;
    core.dr[7] = area.dr7;
    core.set_rflags(area.rflags);
    core.rip = area.rip;
    for (index, value) in [
        (RAX, area.rax),
        (RCX, area.rcx),
        (RDX, area.rdx),
        (RBX, area.rbx),
        (RSP, area.rsp),
        (RBP, area.rbp),
        (RSI, area.rsi),
        (RDI, area.rdi),
    ] {
        core.gpr[index] = value;
    }
    core.gpr[8..16].copy_from_slice(&area.r8_15);
    core.star = area.star;
    core.lstar = area.lstar;
    core.cstar = area.cstar;
    core.sfmask = area.sfmask;
    core.kernel_gs_base = area.kernel_gs_base;
    core.sysenter_cs = area.sysenter_cs;
    core.sysenter_esp = area.sysenter_esp;
    core.sysenter_eip = area.sysenter_eip;
    core.pat = area.g_pat;
    core.debugctl = area.dbgctl;
    core.spec_ctrl = area.spec_ctrl;
    core.tsc_aux = u64::from(area.tsc_aux);
    load_fpu(core, &area);
    core.shadow = false;
    core.nmi_blocked = false;
    core.update_mode();
    core.attention = true;
    Ok(())
}

fn validate(area: &Vmsa, features: SevFeatures) -> Result<(), InvalidVmsa> {
    let refuse = |what| Err(InvalidVmsa(what));
    let long = area.efer & efer::LME != 0;
    let paging = area.cr0 & crate::cpu::state::cr0::PG != 0;
    if area.efer & efer::SVME == 0 {
        return refuse("EFER.SVME is clear");
    }
    if area.cr0 >> 32 != 0 || area.dr6 >> 32 != 0 || area.dr7 >> 32 != 0 {
        return refuse("CR0, DR6 or DR7 has bits above 31");
    }
    if paging && area.cr0 & crate::cpu::state::cr0::PE == 0 {
        return refuse("CR0.PG without CR0.PE");
    }
    if long && paging && area.cr4 & cr4::PAE == 0 {
        return refuse("long mode without CR4.PAE");
    }
    let cs = segment_in(area.cs);
    if long && paging && cs.long() && cs.big() {
        return refuse("CS.L and CS.D are both set in long mode");
    }
    if area.sev_features != features | SevFeatures::SNP_ACTIVE {
        return refuse("SEV_FEATURES differ from the guest's");
    }
    if area.vmpl != 0 {
        return refuse("VMPL other than 0");
    }
    if area.virtual_tom != 0 {
        return refuse("virtual top of memory is not modelled");
    }
    if area.event_inj & 1 << 31 != 0 {
        return refuse("a pending event injection is not modelled");
    }
    Ok(())
}

fn store_state(core: &Core, area: &mut Vmsa) {
    let seg = |name: Seg| segment_out(&core.seg[name as usize]);
    area.es = seg(Seg::Es);
    area.cs = seg(Seg::Cs);
    area.ss = seg(Seg::Ss);
    area.ds = seg(Seg::Ds);
    area.fs = seg(Seg::Fs);
    area.gs = seg(Seg::Gs);
    area.gdtr = table_out(&core.gdtr);
    area.idtr = table_out(&core.idtr);
    area.ldtr = segment_out(&core.ldtr);
    area.tr = segment_out(&core.tr);
    area.cpl = core.cpl;
    area.efer = core.efer;
    area.cr0 = core.cr0;
    area.cr2 = core.cr2;
    area.cr3 = core.cr3;
    area.cr4 = core.cr4;
    area.xss = core.xss;
    area.xcr0 = core.xcr0;
    area.dr.copy_from_slice(&core.dr[..4]);
    area.dr6 = core.dr[6];
    area.dr7 = core.dr[7];
    area.rflags = core.rflags();
    area.rip = core.rip;
    area.rax = core.gpr[RAX];
    area.rcx = core.gpr[RCX];
    area.rdx = core.gpr[RDX];
    area.rbx = core.gpr[RBX];
    area.rsp = core.gpr[RSP];
    area.rbp = core.gpr[RBP];
    area.rsi = core.gpr[RSI];
    area.rdi = core.gpr[RDI];
    area.r8_15.copy_from_slice(&core.gpr[8..16]);
    area.star = core.star;
    area.lstar = core.lstar;
    area.cstar = core.cstar;
    area.sfmask = core.sfmask;
    area.kernel_gs_base = core.kernel_gs_base;
    area.sysenter_cs = core.sysenter_cs;
    area.sysenter_esp = core.sysenter_esp;
    area.sysenter_eip = core.sysenter_eip;
    area.g_pat = core.pat;
    area.dbgctl = core.debugctl;
    area.spec_ctrl = core.spec_ctrl;
    store_fpu(core, area);
}

/// Physical register behind ST(`index`).
fn physical(fsw: u16, index: usize) -> usize {
    (usize::from(fsw >> 11 & 7) + index) & 7
}

fn store_fpu(core: &Core, area: &mut Vmsa) {
    let fpu = &core.fpu;
    area.x87_dp = fpu.fdp;
    area.x87_rip = fpu.fip;
    area.mxcsr = fpu.mxcsr;
    area.x87_ftw = u16::from(fpu.ftw);
    area.x87_fsw = fpu.fsw;
    area.x87_fcw = fpu.fcw;
    area.x87_fop = fpu.fop;
    for index in 0..8 {
        let bytes = fpu.st[physical(fpu.fsw, index)].to_le_bytes();
        area.fpreg_x87[8 * index..8 * index + 8].copy_from_slice(&bytes[..8]);
        area.fpreg_x87[64 + 2 * index..66 + 2 * index].copy_from_slice(&bytes[8..10]);
    }
    for (chunk, value) in area.fpreg_xmm.chunks_exact_mut(16).zip(&fpu.xmm) {
        chunk.copy_from_slice(&value.to_le_bytes());
    }
}

fn load_fpu(core: &mut Core, area: &Vmsa) {
    let fpu = &mut core.fpu;
    fpu.fdp = area.x87_dp;
    fpu.fip = area.x87_rip;
    fpu.mxcsr = area.mxcsr;
    fpu.fsw = area.x87_fsw;
    fpu.fcw = area.x87_fcw;
    fpu.fop = area.x87_fop;
    fpu.ftw = abridge(area.x87_ftw);
    for index in 0..8 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&area.fpreg_x87[8 * index..8 * index + 8]);
        bytes[8..10].copy_from_slice(&area.fpreg_x87[64 + 2 * index..66 + 2 * index]);
        fpu.st[physical(fpu.fsw, index)] = u128::from_le_bytes(bytes);
    }
    for (value, chunk) in fpu.xmm.iter_mut().zip(area.fpreg_xmm.chunks_exact(16)) {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(chunk);
        *value = u128::from_le_bytes(bytes);
    }
}

/// The tag word of a VMSA is read in both forms in use: KVM writes the abridged byte, Linux guests
/// write the full word for new processors (0x5555, "zero" eight times).
fn abridge(ftw: u16) -> u8 {
    if ftw <= 0xff {
        return ftw as u8;
    }
    (0..8).filter(|index| ftw >> (2 * index) & 3 != 3).fold(0, |byte, index| byte | 1 << index)
}

fn segment_out(segment: &Segment) -> VmsaSegment {
    VmsaSegment {
        selector: segment.selector,
        attrib: segment.attrib,
        limit: segment.limit,
        base: segment.base,
    }
}

fn segment_in(segment: VmsaSegment) -> Segment {
    Segment {
        selector: segment.selector,
        attrib: segment.attrib,
        limit: segment.limit,
        base: segment.base,
    }
}

fn table_out(table: &DescriptorTable) -> VmsaSegment {
    VmsaSegment { selector: 0, attrib: 0, limit: u32::from(table.limit), base: table.base }
}

fn table_in(segment: VmsaSegment) -> Result<DescriptorTable, InvalidVmsa> {
    let limit = u16::try_from(segment.limit)
        .map_err(|_| InvalidVmsa("a descriptor table limit above 0xffff"))?;
    Ok(DescriptorTable { base: segment.base, limit })
}

/// The state of a vCPU that KVM has just created, before any register ioctl (Linux
/// arch/x86/kvm/svm/svm.c `init_vmcb`, arch/x86/kvm/x86.c `kvm_vcpu_reset`). It differs from the
/// processor's own reset state in the accessed and busy bits of the segments.
pub fn kvm_reset() -> Core {
    let mut core = Core::at_reset();
    for segment in &mut core.seg {
        segment.attrib = 0x92;
    }
    core.seg[Seg::Cs as usize].attrib = 0x9a;
    core.ldtr.attrib = 0x82;
    core.tr.attrib = 0x83;
    core
}
