//! CPUID, time stamps, HLT, PAUSE, interrupt flag, caches and TLB, random numbers, SEV-SNP
//! instructions.

use iced_x86::{Code, Instruction, Mnemonic, Register};

use super::msr::set_edx_eax;
use crate::cpu::operand::{
    effective, gpr, mask, memory_linear, memory_segment, operand_size, read, reg, segment, set_gpr,
    set_reg, supervisor_only, write,
};
use crate::cpu::state::{RAX, RCX, RDX, cr0, cr4};
use crate::cpu::{
    Access, Exception, Exit, Features, Intercept, Mode, Processor, Seg, Step, Tdcall, flags,
};

/// Virtual cycles that instructions take beyond the one that every instruction takes.
mod cost {
    pub const PAUSE: u64 = 64;
    pub const RDTSC: u64 = 36;
    pub const CPUID: u64 = 100;
    pub const WBINVD: u64 = 1000;
    pub const RANDOM: u64 = 100;
    pub const PVALIDATE: u64 = 200;
}

/// Lets the hypervisor have an instruction.
pub(super) fn intercept(p: &mut Processor, what: Intercept) -> Step {
    let (core, world) = p.parts();
    let answer = world.intercept(core, what);
    p.lift(answer)
}

/// CPUID.
pub(super) fn cpuid(p: &mut Processor) -> Step {
    intercept(p, Intercept::Cpuid)?;
    let (leaf, subleaf) = (gpr(p, RAX, 4) as u32, gpr(p, RCX, 4) as u32);
    let (core, world) = p.parts();
    let answer = world.cpuid(core, leaf, subleaf);
    let [eax, ebx, ecx, edx] = p.lift(answer)?;
    p.world().charge(cost::CPUID);
    set_gpr(p, RAX, 4, u64::from(eax));
    set_gpr(p, crate::cpu::state::RBX, 4, u64::from(ebx));
    set_gpr(p, RCX, 4, u64::from(ecx));
    set_gpr(p, RDX, 4, u64::from(edx));
    Ok(())
}

fn restricted(p: &mut Processor, forbidden: bool) -> Step {
    if forbidden && p.core.cpl != 0 && p.core.cr0 & cr0::PE != 0 {
        return Err(p.fault(Exception::gp(0)));
    }
    Ok(())
}

/// RDTSC and RDTSCP.
pub(super) fn rdtsc(p: &mut Processor, insn: &Instruction) -> Step {
    let auxiliary = insn.mnemonic() == Mnemonic::Rdtscp;
    let forbidden = p.core.cr4 & cr4::TSD != 0;
    restricted(p, forbidden)?;
    intercept(p, if auxiliary { Intercept::Rdtscp } else { Intercept::Rdtsc })?;
    let (core, world) = p.parts();
    let value = world.tsc(core);
    world.charge(cost::RDTSC);
    set_edx_eax(p, value);
    if auxiliary {
        let aux = p.core.tsc_aux;
        set_gpr(p, RCX, 4, aux);
    }
    Ok(())
}

/// RDPMC: no performance counter is offered.
pub(super) fn rdpmc(p: &mut Processor) -> Step {
    let forbidden = p.core.cr4 & cr4::PCE == 0;
    restricted(p, forbidden)?;
    intercept(p, Intercept::Rdpmc)?;
    Err(p.fault(Exception::gp(0)))
}

/// RDPID.
pub(super) fn rdpid(p: &mut Processor, insn: &Instruction) -> Step {
    let aux = p.core.tsc_aux;
    set_reg(p, insn.op_register(0), aux);
    Ok(())
}

/// PAUSE.
pub(super) fn pause(p: &mut Processor) -> Step {
    let (core, world) = p.parts();
    world.pause(core, cost::PAUSE);
    Ok(())
}

/// HLT: leaves with RIP past it. A single-step trap would end the halt at once.
pub(super) fn hlt(p: &mut Processor, next: u64) -> Step {
    supervisor_only(p)?;
    intercept(p, Intercept::Hlt)?;
    p.core.rip = next;
    if p.core.rflags & flags::TF != 0 {
        return Ok(());
    }
    Err(p.exit(Exit::Halt))
}

/// CLI and STI. STI holds interrupts off for one more instruction.
pub(super) fn interrupt_flag(p: &mut Processor, insn: &Instruction) -> Step {
    let iopl = (p.core.rflags & flags::IOPL) >> 12;
    if p.core.cr0 & cr0::PE != 0 && u64::from(p.core.cpl) > iopl {
        return Err(p.fault(Exception::gp(0)));
    }
    if insn.mnemonic() == Mnemonic::Cli {
        p.core.rflags &= !flags::IF;
    } else if p.core.rflags & flags::IF == 0 {
        p.core.rflags |= flags::IF;
        p.core.shadow = true;
        p.core.attention = true;
    }
    Ok(())
}

/// INVLPG: never faults over its address.
pub(super) fn invlpg(p: &mut Processor, insn: &Instruction) -> Step {
    supervisor_only(p)?;
    let seg = memory_segment(insn);
    let offset = effective(p, insn);
    let long = p.core.mode == Mode::Long64;
    let based = !long || matches!(seg, Seg::Fs | Seg::Gs);
    let base = if based { p.core.seg[seg as usize].base } else { 0 };
    let la = base.wrapping_add(offset);
    p.flush_page(if long { la } else { la & 0xffff_ffff });
    Ok(())
}

/// INVPCID: translations carry no tag, so every type drops all of them.
pub(super) fn invpcid(p: &mut Processor, insn: &Instruction) -> Step {
    supervisor_only(p)?;
    let size = operand_size(insn, 0);
    let kind = reg(p, insn.op_register(0)) & mask(size);
    let seg = memory_segment(insn);
    let offset = effective(p, insn);
    let descriptor: u128 = p.load(seg, offset)?;
    let (pcid, address) = (descriptor as u64, (descriptor >> 64) as u64);
    // Without PCIDs only number zero exists.
    let numbers = if p.core.cr4 & cr4::PCIDE != 0 { 12 } else { 0 };
    let bad = match kind {
        0 => pcid >> numbers != 0 || !p.canonical(address),
        1 => pcid >> numbers != 0,
        2 | 3 => false,
        _ => true,
    };
    if bad {
        return Err(p.fault(Exception::gp(0)));
    }
    p.flush_tlb();
    Ok(())
}

/// WBINVD, WBNOINVD, INVD: there are no caches to write back.
pub(super) fn cache(p: &mut Processor, insn: &Instruction) -> Step {
    supervisor_only(p)?;
    let invd = insn.mnemonic() == Mnemonic::Invd;
    intercept(p, if invd { Intercept::Invd } else { Intercept::Wbinvd })?;
    p.world().charge(cost::WBINVD);
    Ok(())
}

/// CLFLUSH, CLFLUSHOPT, CLWB: checked like a read.
pub(super) fn cache_line(p: &mut Processor, insn: &Instruction) -> Step {
    let la = memory_linear(p, insn, 1, Access::Read)?;
    let user = p.core.cpl == 3;
    p.probe_read(la, 1, user)
}

/// CLZERO: clears the 64-byte line that rAX points into.
pub(super) fn clzero(p: &mut Processor, insn: &Instruction) -> Step {
    let size = insn.op_register(0).size();
    let at = gpr(p, RAX, size) & !63;
    let seg = match insn.segment_prefix() {
        Register::None => Seg::Ds,
        prefix => segment(prefix),
    };
    for i in 0..4 {
        p.store::<u128>(seg, at + i * 16, 0)?;
    }
    Ok(())
}

/// RDRAND and RDSEED: always successful.
pub(super) fn random(p: &mut Processor, insn: &Instruction) -> Step {
    let value = p.world().random();
    p.world().charge(cost::RANDOM);
    set_reg(p, insn.op_register(0), value);
    p.core.flags.load(flags::CF);
    Ok(())
}

/// VMMCALL, and VMCALL as hypervisors understand it.
pub(super) fn hypercall(p: &mut Processor) -> Step {
    intercept(p, Intercept::Vmmcall)?;
    let (core, world) = p.parts();
    let answer = world.hypercall(core);
    p.lift(answer)
}

/// The other vendor's form of a hypercall. It is undefined here, but a hypervisor answers it: as KVM does, by putting the native
/// form in its place (Linux arch/x86/kvm/x86.c `emulator_fix_hypercall`), unless it is told not to.
pub(super) fn foreign_hypercall(p: &mut Processor) -> Step {
    const VMCALL: [u8; 3] = [0x0f, 0x01, 0xc1];
    const VMMCALL: [u8; 3] = [0x0f, 0x01, 0xd9];
    if !p.world().fixes_hypercalls() {
        return Err(p.fault(Exception::UD));
    }
    let native = if p.core.features.contains(Features::SYSENTER_LM) { VMCALL } else { VMMCALL };
    let (rip, user) = (p.core.rip, p.core.cpl == 3);
    for (at, byte) in native.into_iter().enumerate() {
        let la = p.linear(Seg::Cs, rip.wrapping_add(at as u64), 1, Access::Fetch)?;
        p.store_linear(la, user, byte)?;
    }
    hypercall(p)
}

/// VMGEXIT: VMMCALL unless the processor is an SEV-ES guest. Leaves with RIP past it.
pub(super) fn vmgexit(p: &mut Processor, next: u64) -> Step {
    if !p.core.features.contains(Features::SEV_ES) {
        hypercall(p)?;
        p.core.rip = next;
        return Ok(());
    }
    let (core, world) = p.parts();
    let answer = world.vmgexit(core);
    p.lift(answer)?;
    p.core.rip = next;
    Err(p.exit(Exit::Vmgexit))
}

/// TDCALL, which only a guest of the TDX module has (ABI specification, "TDCALL Instruction"). Leaves with RIP past it if it is
/// for the host.
pub(super) fn tdcall(p: &mut Processor, next: u64) -> Step {
    if p.core.mode != Mode::Long64 {
        return Err(p.fault(Exception::gp(0)));
    }
    supervisor_only(p)?;
    let (core, world) = p.parts();
    let answer = world.tdcall(core);
    let answer = p.lift(answer)?;
    p.core.rip = next;
    match answer {
        Tdcall::Done => Ok(()),
        Tdcall::Leave => Err(p.exit(Exit::Tdcall)),
    }
}

/// MONITOR, MWAIT and PCONFIG: a hypervisor may answer them, the processor does not have them.
pub(super) fn declined(p: &mut Processor, insn: &Instruction) -> Step {
    let what = match insn.mnemonic() {
        Mnemonic::Monitor => Intercept::Monitor,
        Mnemonic::Mwait => Intercept::Mwait,
        _ => Intercept::Pconfig,
    };
    intercept(p, what)?;
    Err(p.unknown("MONITOR, MWAIT or PCONFIG"))
}

/// The page that rAX names for PVALIDATE and RMPADJUST: its guest-physical address and whether it
/// is mapped private. #GP(0) above CPL 0 or if the address of a large page is not aligned
/// to it (AMD APM vol. 3). Bits 11:0 do not count: edk2's check for VMPL0 names a byte inside of a
/// page (OvmfPkg/Library/BaseMemEncryptSevLib/X64/SecSnpSystemRamValidate.c), and runs on hardware.
fn named_page(p: &mut Processor, size: usize, huge: bool) -> Step<(u64, bool)> {
    supervisor_only(p)?;
    let la = gpr(p, RAX, size) & !0xfff;
    let page = if huge { 0x20_0000 } else { 0x1000 };
    if la & (page - 1) != 0 || (p.core.mode == Mode::Long64 && !p.canonical(la)) {
        return Err(p.fault(Exception::gp(0)));
    }
    p.translate(la, Access::Read, false)
}

/// PVALIDATE.
pub(super) fn pvalidate(p: &mut Processor, insn: &Instruction) -> Step {
    let size = match insn.code() {
        Code::Pvalidatew => 2,
        Code::Pvalidated => 4,
        _ => 8,
    };
    let huge = p.core.gpr[RCX] & 1 != 0;
    let validate = p.core.gpr[RDX] & 1 != 0;
    let (gpa, private) = named_page(p, size, huge)?;
    let answer = p.world().pvalidate(gpa, private, huge, validate);
    let (eax, carry) = p.lift(answer)?;
    p.world().charge(cost::PVALIDATE);
    set_gpr(p, RAX, 4, u64::from(eax));
    // The other arithmetic flags are cleared, as the instruction's description says.
    p.core.flags.load(if carry { flags::CF } else { 0 });
    // Rights shrink for every alias of the page. Where they grow there was no translation.
    if !validate {
        p.flush_tlb();
    }
    Ok(())
}

/// RMPADJUST.
pub(super) fn rmpadjust(p: &mut Processor) -> Step {
    if p.core.mode != Mode::Long64 {
        return Err(p.fault(Exception::UD));
    }
    let huge = p.core.gpr[RCX] & 1 != 0;
    let (gpa, private) = named_page(p, 8, huge)?;
    let rdx = p.core.gpr[RDX];
    let answer = p.world().rmpadjust(gpa, private, huge, rdx);
    let eax = p.lift(answer)?;
    set_gpr(p, RAX, 4, u64::from(eax));
    p.flush_tlb();
    Ok(())
}

/// MOVNTI.
pub(super) fn movnti(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    let value = read(p, insn, 1, size)?;
    write(p, insn, 0, size, value)
}
