//! RDMSR and WRMSR, and the model-specific registers that the processor holds itself.

use crate::cpu::state::{RAX, RCX, RDX, cr0, cr4, efer};
use crate::cpu::{Core, Exception, Features, Processor, Seg, Step};

use crate::cpu::operand::{gpr, set_gpr, supervisor_only};

/// IA32_SPEC_CTRL.
pub const SPEC_CTRL: u32 = 0x48;
/// SYSENTER_CS.
pub const SYSENTER_CS: u32 = 0x174;
/// SYSENTER_ESP.
pub const SYSENTER_ESP: u32 = 0x175;
/// SYSENTER_EIP.
pub const SYSENTER_EIP: u32 = 0x176;
/// DEBUGCTL.
pub const DEBUGCTL: u32 = 0x1d9;
/// PAT.
pub const PAT: u32 = 0x277;
/// IA32_XSS.
pub const XSS: u32 = 0xda0;
/// EFER.
pub const EFER: u32 = 0xc000_0080;
/// STAR.
pub const STAR: u32 = 0xc000_0081;
/// LSTAR.
pub const LSTAR: u32 = 0xc000_0082;
/// CSTAR.
pub const CSTAR: u32 = 0xc000_0083;
/// SFMASK.
pub const SFMASK: u32 = 0xc000_0084;
/// FS.base.
pub const FS_BASE: u32 = 0xc000_0100;
/// GS.base.
pub const GS_BASE: u32 = 0xc000_0101;
/// KernelGSbase.
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// TSC_AUX.
pub const TSC_AUX: u32 = 0xc000_0103;

/// IBRS, STIBP, SSBD, PSFD.
const SPEC_CTRL_BITS: u64 = 0x87;
/// LBR, BTF and the performance-monitor pins.
const DEBUGCTL_BITS: u64 = 0x3f;
/// EFER.AIBRSE.
const EFER_AUTO_IBRS: u64 = 1 << 21;
/// EFER bits that depend on an extension.
const EFER_BY_FEATURE: &[(u64, Features)] = &[
    (efer::SCE, Features::SYSCALL),
    (efer::LME, Features::LM),
    (efer::NXE, Features::NX),
    (efer::SVME, Features::SVM),
    (efer::FFXSR, Features::FFXSR),
    (EFER_AUTO_IBRS, Features::AUTO_IBRS),
];

impl Core {
    /// A model-specific register that the processor holds itself; `None` for all others.
    pub fn rdmsr_local(&self, index: u32) -> Option<u64> {
        Some(match index {
            SPEC_CTRL if self.features.contains(Features::SPEC_CTRL) => self.spec_ctrl,
            SYSENTER_CS => self.sysenter_cs,
            SYSENTER_ESP => self.sysenter_esp,
            SYSENTER_EIP => self.sysenter_eip,
            DEBUGCTL => self.debugctl,
            PAT => self.pat,
            XSS if self.features.contains(Features::XSAVES) => self.xss,
            EFER => self.efer,
            STAR => self.star,
            LSTAR => self.lstar,
            CSTAR => self.cstar,
            SFMASK => self.sfmask,
            FS_BASE => self.seg[Seg::Fs as usize].base,
            GS_BASE => self.seg[Seg::Gs as usize].base,
            KERNEL_GS_BASE => self.kernel_gs_base,
            TSC_AUX if self.has_tsc_aux() => self.tsc_aux,
            _ => return None,
        })
    }

    /// Writes a model-specific register that the processor holds itself; `None` for all others.
    /// After a change of EFER the caller drops translations and calls [`Core::update_mode`].
    pub fn wrmsr_local(&mut self, index: u32, value: u64) -> Option<Result<(), Exception>> {
        let refused = Some(Err(Exception::gp(0)));
        // AMD's SYSENTER registers are 32 bits wide, and upper halves are dropped; elsewhere TSC_AUX refuses one.
        let intel = self.features.contains(Features::SYSENTER_LM);
        let address = matches!(index, LSTAR | CSTAR | FS_BASE | GS_BASE | KERNEL_GS_BASE)
            || intel && matches!(index, SYSENTER_ESP | SYSENTER_EIP);
        let narrow = if intel { u64::MAX } else { 0xffff_ffff };
        if address && !self.canonical(value) {
            return refused;
        }
        match index {
            SPEC_CTRL if self.features.contains(Features::SPEC_CTRL) => {
                if value & !SPEC_CTRL_BITS != 0 {
                    return refused;
                }
                self.spec_ctrl = value;
            }
            SYSENTER_CS => self.sysenter_cs = value & 0xffff_ffff,
            SYSENTER_ESP => self.sysenter_esp = value & narrow,
            SYSENTER_EIP => self.sysenter_eip = value & narrow,
            TSC_AUX if intel && value >> 32 != 0 => return refused,
            DEBUGCTL => {
                if value & !DEBUGCTL_BITS != 0 {
                    return refused;
                }
                self.debugctl = value;
            }
            PAT => {
                // Memory types 2, 3 and above 7 are reserved.
                if value.to_le_bytes().iter().any(|&kind| kind > 7 || matches!(kind, 2 | 3)) {
                    return refused;
                }
                self.pat = value;
            }
            XSS if self.features.contains(Features::XSAVES) => {
                if value != 0 {
                    return refused;
                }
                self.xss = value;
            }
            EFER => return Some(self.write_efer(value)),
            STAR => self.star = value,
            LSTAR => self.lstar = value,
            CSTAR => self.cstar = value,
            SFMASK => self.sfmask = value & 0xffff_ffff,
            FS_BASE => self.seg[Seg::Fs as usize].base = value,
            GS_BASE => self.seg[Seg::Gs as usize].base = value,
            KERNEL_GS_BASE => self.kernel_gs_base = value,
            TSC_AUX if self.has_tsc_aux() => self.tsc_aux = value & 0xffff_ffff,
            _ => return None,
        }
        Some(Ok(()))
    }

    fn has_tsc_aux(&self) -> bool {
        self.features.intersects(Features::RDTSCP | Features::RDPID)
    }

    fn canonical(&self, la: u64) -> bool {
        let unused = if self.cr4 & cr4::LA57 != 0 { 7 } else { 16 };
        ((la << unused) as i64 >> unused) as u64 == la
    }

    /// EFER: LME cannot change under paging, LMA is the processor's own. An SEV-ES guest runs with
    /// SVME set and may write it back.
    fn write_efer(&mut self, value: u64) -> Result<(), Exception> {
        let old = self.efer;
        let kept = old & (efer::LMA | efer::SVME);
        let allowed = EFER_BY_FEATURE
            .iter()
            .filter(|(_, feature)| self.features.contains(*feature))
            .fold(kept | efer::LMA, |bits, (bit, _)| bits | bit);
        let locked = self.cr0 & cr0::PG != 0 && (old ^ value) & efer::LME != 0;
        if value & !allowed != 0 || locked {
            return Err(Exception::gp(0));
        }
        let svme = if self.features.contains(Features::SVM) { 0 } else { old & efer::SVME };
        self.efer = value & !efer::LMA | old & efer::LMA | svme;
        Ok(())
    }
}

/// EDX:EAX.
pub(super) fn edx_eax(p: &Processor) -> u64 {
    gpr(p, RDX, 4) << 32 | gpr(p, RAX, 4)
}

/// Sets EDX:EAX, clearing the upper halves.
pub(super) fn set_edx_eax(p: &mut Processor, value: u64) {
    set_gpr(p, RAX, 4, value);
    set_gpr(p, RDX, 4, value >> 32);
}

/// RDMSR.
pub(super) fn rdmsr(p: &mut Processor) -> Step {
    supervisor_only(p)?;
    let index = gpr(p, RCX, 4) as u32;
    let (core, world) = p.parts();
    let first = world.rdmsr_first(core, index);
    let first = p.lift(first)?;
    let value = match first.or_else(|| p.core.rdmsr_local(index)) {
        Some(value) => value,
        None => {
            let (core, world) = p.parts();
            let answer = world.rdmsr(core, index);
            p.lift(answer)?
        }
    };
    set_edx_eax(p, value);
    Ok(())
}

/// WRMSR.
pub(super) fn wrmsr(p: &mut Processor) -> Step {
    supervisor_only(p)?;
    let index = gpr(p, RCX, 4) as u32;
    let value = edx_eax(p);
    let (core, world) = p.parts();
    let first = world.wrmsr_first(core, index, value);
    if p.lift(first)? {
        return Ok(());
    }
    match p.core.wrmsr_local(index, value) {
        Some(Ok(())) => {
            if index == EFER {
                p.core.update_mode();
                p.flush_tlb();
            }
            Ok(())
        }
        Some(Err(exception)) => Err(p.fault(exception)),
        None => {
            let (core, world) = p.parts();
            let answer = world.wrmsr(core, index, value);
            p.lift(answer)
        }
    }
}
