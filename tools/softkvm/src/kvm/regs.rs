//! Registers in the layouts of KVM's ioctls (Linux arch/x86/kvm/x86.c, arch/x86/kvm/svm/svm.c).

use kvm_bindings::{
    kvm_debugregs, kvm_dtable, kvm_fpu, kvm_regs, kvm_segment, kvm_sregs, kvm_sregs2, kvm_xcrs,
};

use super::cpuid::Table;
use super::errno::{Answer, Errno};
use super::user;
use crate::cpu::state::{RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, Seg, Segment, cr0, cr4, efer};
use crate::cpu::{Core, DescriptorTable, Features, Fpu};

/// KVM_GET_REGS.
pub fn get_regs(core: &Core) -> kvm_regs {
    let g = &core.gpr;
    kvm_regs {
        rax: g[RAX],
        rbx: g[RBX],
        rcx: g[RCX],
        rdx: g[RDX],
        rsi: g[RSI],
        rdi: g[RDI],
        rsp: g[RSP],
        rbp: g[RBP],
        r8: g[8],
        r9: g[9],
        r10: g[10],
        r11: g[11],
        r12: g[12],
        r13: g[13],
        r14: g[14],
        r15: g[15],
        rip: core.rip,
        rflags: core.rflags(),
    }
}

/// KVM_SET_REGS.
pub fn set_regs(core: &mut Core, r: &kvm_regs) {
    let legacy = [
        (RAX, r.rax),
        (RBX, r.rbx),
        (RCX, r.rcx),
        (RDX, r.rdx),
        (RSI, r.rsi),
        (RDI, r.rdi),
        (RSP, r.rsp),
        (RBP, r.rbp),
    ];
    for (index, value) in legacy {
        core.gpr[index] = value;
    }
    core.gpr[8..16].copy_from_slice(&[r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15]);
    core.rip = r.rip;
    core.set_rflags(r.rflags | 2);
    core.pending = None;
}

fn segment_out(s: &Segment) -> kvm_segment {
    let bit = |shift: u16| (s.attrib >> shift & 1) as u8;
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: (s.attrib & 0xf) as u8,
        present: bit(7),
        dpl: s.dpl(),
        db: bit(10),
        s: bit(4),
        l: bit(9),
        g: u8::from(s.limit > 0xf_ffff),
        avl: bit(8),
        unusable: u8::from(!s.present()),
        padding: 0,
    }
}

fn segment_in(s: &kvm_segment) -> Segment {
    let bit = |value: u8, shift: u16| u16::from(value & 1) << shift;
    let present = s.present & 1 != 0 && s.unusable == 0;
    Segment {
        selector: s.selector,
        attrib: u16::from(s.type_ & 0xf)
            | bit(s.s, 4)
            | u16::from(s.dpl & 3) << 5
            | u16::from(present) << 7
            | bit(s.avl, 8)
            | bit(s.l, 9)
            | bit(s.db, 10)
            | bit(s.g, 11),
        limit: s.limit,
        base: s.base,
    }
}

fn table_out(t: DescriptorTable) -> kvm_dtable {
    kvm_dtable { base: t.base, limit: t.limit, padding: [0; 3] }
}

/// What SREGS and SREGS2 carry beyond the core.
#[derive(Clone, Copy, Debug)]
pub struct ApicPart {
    /// CR8.
    pub cr8: u64,
    /// APIC base.
    pub base: u64,
}

/// KVM_GET_SREGS2.
pub fn get_sregs2(core: &Core, apic: ApicPart) -> kvm_sregs2 {
    let seg = |s: Seg| segment_out(&core.seg[s as usize]);
    let mut ss = seg(Seg::Ss);
    ss.dpl = core.cpl;
    let mut tr = segment_out(&core.tr);
    tr.type_ |= 2;
    kvm_sregs2 {
        cs: seg(Seg::Cs),
        ds: seg(Seg::Ds),
        es: seg(Seg::Es),
        fs: seg(Seg::Fs),
        gs: seg(Seg::Gs),
        ss,
        tr,
        ldt: segment_out(&core.ldtr),
        gdt: table_out(core.gdtr),
        idt: table_out(core.idtr),
        cr0: core.cr0,
        cr2: core.cr2,
        cr3: core.cr3,
        cr4: core.cr4,
        cr8: apic.cr8,
        efer: core.efer,
        apic_base: apic.base,
        flags: 0,
        pdptrs: [0; 4],
    }
}

/// The common part of both layouts.
pub fn sregs_of(s: &kvm_sregs2) -> kvm_sregs {
    kvm_sregs {
        cs: s.cs,
        ds: s.ds,
        es: s.es,
        fs: s.fs,
        gs: s.gs,
        ss: s.ss,
        tr: s.tr,
        ldt: s.ldt,
        gdt: s.gdt,
        idt: s.idt,
        cr0: s.cr0,
        cr2: s.cr2,
        cr3: s.cr3,
        cr4: s.cr4,
        cr8: s.cr8,
        efer: s.efer,
        apic_base: s.apic_base,
        interrupt_bitmap: [0; 4],
    }
}

/// The other way round.
pub fn sregs2_of(s: &kvm_sregs) -> kvm_sregs2 {
    kvm_sregs2 {
        cs: s.cs,
        ds: s.ds,
        es: s.es,
        fs: s.fs,
        gs: s.gs,
        ss: s.ss,
        tr: s.tr,
        ldt: s.ldt,
        gdt: s.gdt,
        idt: s.idt,
        cr0: s.cr0,
        cr2: s.cr2,
        cr3: s.cr3,
        cr4: s.cr4,
        cr8: s.cr8,
        efer: s.efer,
        apic_base: s.apic_base,
        flags: 0,
        pdptrs: [0; 4],
    }
}

/// CR4 bits that need an extension.
const CR4_BY_FEATURE: &[(u64, Features)] = &[
    (cr4::UMIP, Features::UMIP),
    (cr4::LA57, Features::LA57),
    (cr4::FSGSBASE, Features::FSGSBASE),
    (cr4::PCIDE, Features::PCID),
    (cr4::OSXSAVE, Features::XSAVE),
    (cr4::SMEP, Features::SMEP),
    (cr4::SMAP, Features::SMAP),
];
/// VME, PVI, TSD, DE, PSE, PAE, MCE, PGE, PCE, OSFXSR, OSXMMEXCPT.
const CR4_ALWAYS: u64 = 0x7ff;

/// `kvm_is_valid_sregs`.
fn check_sregs(s: &kvm_sregs2, table: &Table, features: Features) -> Answer {
    let allowed = CR4_BY_FEATURE
        .iter()
        .filter(|(_, feature)| features.contains(*feature))
        .fold(CR4_ALWAYS, |bits, (bit, _)| bits | bit);
    if s.efer & efer::LME != 0 && s.cr0 & cr0::PG != 0 {
        Errno::require(s.cr4 & cr4::PAE != 0 && s.efer & efer::LMA != 0)?;
        let c_bit = table.c_bit().map_or(0, |bit| 1u64 << bit);
        let width = (1u64 << table.phys_bits().min(52)) - 1;
        Errno::require(s.cr3 & !(width | c_bit) == 0)?;
    } else {
        Errno::require(s.efer & efer::LMA == 0 && s.cs.l == 0)?;
    }
    Errno::require(s.cr4 & !allowed == 0)?;
    Errno::require(
        s.cr0 >> 32 == 0
            && (s.cr0 & cr0::PG == 0 || s.cr0 & cr0::PE != 0)
            && (s.cr0 & cr0::NW == 0 || s.cr0 & cr0::CD != 0),
    )
}

/// KVM_SET_SREGS2 without its APIC part.
pub fn set_sregs2(core: &mut Core, s: &kvm_sregs2, table: &Table) -> Answer {
    check_sregs(s, table, core.features)?;
    let segments = [
        (Seg::Es, &s.es),
        (Seg::Cs, &s.cs),
        (Seg::Ss, &s.ss),
        (Seg::Ds, &s.ds),
        (Seg::Fs, &s.fs),
        (Seg::Gs, &s.gs),
    ];
    for (name, value) in segments {
        core.seg[name as usize] = segment_in(value);
    }
    core.cpl = s.ss.dpl & 3;
    core.tr = segment_in(&s.tr);
    core.ldtr = segment_in(&s.ldt);
    core.gdtr = DescriptorTable { base: s.gdt.base, limit: s.gdt.limit };
    core.idtr = DescriptorTable { base: s.idt.base, limit: s.idt.limit };
    core.cr0 = s.cr0 | cr0::ET;
    core.cr2 = s.cr2;
    core.cr3 = s.cr3;
    core.cr4 = s.cr4;
    core.efer = s.efer;
    core.update_mode();
    core.attention = true;
    Ok(())
}

/// KVM_GET_FPU.
pub fn get_fpu(fpu: &Fpu) -> kvm_fpu {
    let image = fpu.to_fxsave(true);
    let slice = |at: usize| -> [u8; 16] {
        let mut out = [0; 16];
        out.copy_from_slice(&image[at..at + 16]);
        out
    };
    let mut out: kvm_fpu = user::zeroed();
    out.fpr = std::array::from_fn(|i| slice(32 + i * 16));
    out.xmm = std::array::from_fn(|i| slice(160 + i * 16));
    out.fcw = fpu.fcw;
    out.fsw = fpu.fsw;
    out.ftwx = fpu.ftw;
    out.last_opcode = fpu.fop;
    out.last_ip = fpu.fip;
    out.last_dp = fpu.fdp;
    out.mxcsr = fpu.mxcsr;
    out
}

/// KVM_SET_FPU.
pub fn set_fpu(fpu: &mut Fpu, f: &kvm_fpu) {
    let mut image = fpu.to_fxsave(true);
    image[0..2].copy_from_slice(&f.fcw.to_le_bytes());
    image[2..4].copy_from_slice(&f.fsw.to_le_bytes());
    image[4] = f.ftwx;
    image[6..8].copy_from_slice(&f.last_opcode.to_le_bytes());
    image[8..16].copy_from_slice(&f.last_ip.to_le_bytes());
    image[16..24].copy_from_slice(&f.last_dp.to_le_bytes());
    // KVM does not take MXCSR from here.
    for (i, register) in f.fpr.iter().enumerate() {
        image[32 + i * 16..48 + i * 16].copy_from_slice(register);
    }
    for (i, register) in f.xmm.iter().enumerate() {
        image[160 + i * 16..176 + i * 16].copy_from_slice(register);
    }
    fpu.load_fxsave(&image, true);
}

/// Bytes of KVM_GET_XSAVE.
pub const XSAVE_LEN: usize = 4096;

/// KVM_GET_XSAVE: x87 and SSE are always in use.
pub fn get_xsave(fpu: &Fpu) -> Vec<u8> {
    let mut out = vec![0; XSAVE_LEN];
    out[..512].copy_from_slice(&fpu.to_fxsave(true));
    out[28..32].copy_from_slice(&crate::cpu::fxsave::MXCSR_MASK.to_le_bytes());
    out[512] = 3;
    out
}

/// KVM_SET_XSAVE.
pub fn set_xsave(fpu: &mut Fpu, image: &[u8]) -> Answer {
    let field = |at: usize| {
        image[at..at + 8].iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte))
    };
    let (xstate, mxcsr) = (field(512), field(24) as u32);
    Errno::require(xstate & !3 == 0 && field(520) == 0)?;
    Errno::require(xstate & 2 == 0 || mxcsr & !crate::cpu::fxsave::MXCSR_MASK == 0)?;
    // A component that is not present is in its initial state.
    let mut legacy = Fpu::default().to_fxsave(true);
    if xstate & 1 != 0 {
        legacy[..24].copy_from_slice(&image[..24]);
        legacy[32..160].copy_from_slice(&image[32..160]);
    }
    if xstate & 2 != 0 {
        legacy[24..28].copy_from_slice(&image[24..28]);
        legacy[160..416].copy_from_slice(&image[160..416]);
    }
    fpu.load_fxsave(&legacy, true);
    Ok(())
}

/// KVM_GET_XCRS.
pub fn get_xcrs(core: &Core) -> kvm_xcrs {
    let mut out: kvm_xcrs = user::zeroed();
    if core.features.contains(Features::XSAVE) {
        out.nr_xcrs = 1;
        out.xcrs[0].value = core.xcr0;
    }
    out
}

/// KVM_SET_XCRS.
pub fn set_xcrs(core: &mut Core, xcrs: &kvm_xcrs) -> Answer {
    Errno::require(xcrs.nr_xcrs as usize <= xcrs.xcrs.len() && xcrs.flags == 0)?;
    let given = &xcrs.xcrs[..xcrs.nr_xcrs as usize];
    if let Some(xcr) = given.iter().find(|xcr| xcr.xcr == 0) {
        Errno::require(xcr.value & 1 != 0 && xcr.value & !3 == 0)?;
        core.xcr0 = xcr.value;
    }
    Ok(())
}

/// KVM_GET_DEBUGREGS.
pub fn get_debugregs(core: &Core) -> kvm_debugregs {
    let mut out: kvm_debugregs = user::zeroed();
    out.db.copy_from_slice(&core.dr[..4]);
    out.dr6 = core.dr[6];
    out.dr7 = core.dr[7];
    out
}

/// KVM_SET_DEBUGREGS.
pub fn set_debugregs(core: &mut Core, d: &kvm_debugregs) -> Answer {
    Errno::require(d.flags == 0 && d.dr6 >> 32 == 0 && d.dr7 >> 32 == 0)?;
    core.dr[..4].copy_from_slice(&d.db);
    core.dr[6] = d.dr6 & 0xe00f | 0xffff_0ff0;
    core.dr[7] = d.dr7 & 0xffff_2fff | 0x400;
    Ok(())
}
