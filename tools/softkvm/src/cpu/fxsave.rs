//! Saving and restoring the x87, MMX and SSE state: FXSAVE, XSAVE, MXCSR, and the conversion
//! between [`Fpu`] and the 512-byte image, which the KVM interface shares.

use iced_x86::{Instruction, Mnemonic};

use super::operand::{self, next, supervisor_only};
use super::processor::Processor;
use super::sse;
use super::state::{Fpu, Mode, RAX, RDX, cr0, cr4, efer};
use super::world::{Access, Exception, Step};

/// MXCSR bits that can be set; FXSAVE reports them as MXCSR_MASK.
pub const MXCSR_MASK: u32 = 0xffff;
/// Size of the FXSAVE image.
pub const FXSAVE_SIZE: usize = 512;
/// Size of the legacy region and the XSAVE header.
pub const XSAVE_SIZE: usize = 576;
/// State components that XCR0 can enable: x87 and SSE.
pub const XCR0_SUPPORTED: u64 = 3;

/// Bytes of the image that hold state; the rest is left alone.
const FXSAVE_USED: usize = 416;
/// Offset of XMM0.
const XMM: usize = 160;
/// Offset of XSTATE_BV; XCOMP_BV follows.
const XSTATE_BV: u64 = 512;
/// XCOMP_BV: the area is in compacted format.
const COMPACTED: u64 = 1 << 63;

impl Fpu {
    /// TOP of the register stack.
    pub fn top(&self) -> usize {
        usize::from(self.fsw >> 11 & 7)
    }

    /// An MMX register.
    pub fn mm(&self, i: usize) -> u64 {
        self.st[i & 7] as u64
    }

    /// Writes an MMX register; the exponent becomes all ones.
    pub fn set_mm(&mut self, i: usize, value: u64) {
        self.st[i & 7] = 0xffff << 64 | u128::from(value);
    }

    /// Leaves x87 mode: TOP is zero and all registers are in use.
    pub fn enter_mmx(&mut self) {
        self.fsw &= !0x3800;
        self.ftw = 0xff;
    }

    /// The FXSAVE image. `long` selects 64-bit instruction and data pointers.
    pub fn to_fxsave(&self, long: bool) -> [u8; FXSAVE_SIZE] {
        let mut image = [0; FXSAVE_SIZE];
        image[0..2].copy_from_slice(&self.fcw.to_le_bytes());
        image[2..4].copy_from_slice(&self.fsw.to_le_bytes());
        image[4] = self.ftw;
        image[6..8].copy_from_slice(&self.fop.to_le_bytes());
        if long {
            image[8..16].copy_from_slice(&self.fip.to_le_bytes());
            image[16..24].copy_from_slice(&self.fdp.to_le_bytes());
        } else {
            image[8..12].copy_from_slice(&(self.fip as u32).to_le_bytes());
            image[16..20].copy_from_slice(&(self.fdp as u32).to_le_bytes());
        }
        image[24..28].copy_from_slice(&self.mxcsr.to_le_bytes());
        image[28..32].copy_from_slice(&MXCSR_MASK.to_le_bytes());
        for i in 0..8 {
            let st = self.st[(self.top() + i) & 7].to_le_bytes();
            image[32 + 16 * i..42 + 16 * i].copy_from_slice(&st[..10]);
        }
        for (i, xmm) in self.xmm.iter().enumerate() {
            image[XMM + 16 * i..XMM + 16 * (i + 1)].copy_from_slice(&xmm.to_le_bytes());
        }
        image
    }

    /// Loads everything from an FXSAVE image.
    pub fn load_fxsave(&mut self, image: &[u8; FXSAVE_SIZE], long: bool) {
        self.load_x87(image, long);
        self.mxcsr = word(image, 24) as u32 & MXCSR_MASK;
        self.load_xmm(image, 16);
    }

    fn load_x87(&mut self, image: &[u8; FXSAVE_SIZE], long: bool) {
        self.fcw = word(image, 0) as u16 & 0x1f7f | 0x40;
        self.fsw = word(image, 2) as u16;
        self.ftw = image[4];
        self.fop = word(image, 6) as u16 & 0x7ff;
        let mask = if long { u64::MAX } else { 0xffff_ffff };
        self.fip = word(image, 8) & mask;
        self.fdp = word(image, 16) & mask;
        self.update_summary();
        let top = self.top();
        for i in 0..8 {
            let at = 32 + 16 * i;
            self.st[(top + i) & 7] =
                u128::from(word(image, at)) | u128::from(word(image, at + 8) & 0xffff) << 64;
        }
    }

    fn load_xmm(&mut self, image: &[u8; FXSAVE_SIZE], count: usize) {
        for i in 0..count {
            let at = XMM + 16 * i;
            self.xmm[i] = u128::from(word(image, at)) | u128::from(word(image, at + 8)) << 64;
        }
    }

    /// Sets ES and B in the status word if an unmasked exception is recorded, clears them if not.
    pub fn update_summary(&mut self) {
        self.fsw &= 0x7f7f;
        if self.fsw & !self.fcw & 0x3f != 0 {
            self.fsw |= 0x8080;
        }
    }

    /// The x87 part as FNINIT leaves it. Register contents stay.
    pub fn init_x87(&mut self) {
        self.fcw = 0x37f;
        self.fsw = 0;
        self.ftw = 0;
        self.fop = 0;
        self.fip = 0;
        self.fdp = 0;
    }
}

/// Eight bytes of the image, zero-extended at its end.
fn word(image: &[u8; FXSAVE_SIZE], at: usize) -> u64 {
    let mut bytes = [0; 8];
    let len = (FXSAVE_SIZE - at).min(8);
    bytes[..len].copy_from_slice(&image[at..at + len]);
    u64::from_le_bytes(bytes)
}

/// Executes an instruction of this file; `None` if it is not one.
pub fn execute(p: &mut Processor, insn: &Instruction) -> Option<Step> {
    use Mnemonic as M;
    Some(match insn.mnemonic() {
        M::Fxsave => fxsave(p, insn, false),
        M::Fxsave64 => fxsave(p, insn, true),
        M::Fxrstor => fxrstor(p, insn, false),
        M::Fxrstor64 => fxrstor(p, insn, true),
        M::Ldmxcsr => ldmxcsr(p, insn),
        M::Stmxcsr => stmxcsr(p, insn),
        M::Xsave | M::Xsaveopt => xsave(p, insn, false, false),
        M::Xsave64 | M::Xsaveopt64 => xsave(p, insn, true, false),
        M::Xsavec => xsave(p, insn, false, true),
        M::Xsavec64 => xsave(p, insn, true, true),
        M::Xsaves => supervisor_only(p).and_then(|()| xsave(p, insn, false, true)),
        M::Xsaves64 => supervisor_only(p).and_then(|()| xsave(p, insn, true, true)),
        M::Xrstor => xrstor(p, insn, false, false),
        M::Xrstor64 => xrstor(p, insn, true, false),
        M::Xrstors => supervisor_only(p).and_then(|()| xrstor(p, insn, false, true)),
        M::Xrstors64 => supervisor_only(p).and_then(|()| xrstor(p, insn, true, true)),
        _ => return None,
    })
}

/// A memory area, with its alignment checked.
fn area(
    p: &mut Processor,
    insn: &Instruction,
    len: usize,
    align: u64,
    access: Access,
) -> Step<u64> {
    let (segment, offset) = operand::address(p, insn);
    // With alignment checks on, AMD processors report #AC for anything but whole doublewords.
    let la = p.linear_aligned(segment, offset, len, 4, access)?;
    if la & (align - 1) != 0 {
        return Err(p.fault(Exception::gp(0)));
    }
    Ok(la)
}

fn load_image(p: &mut Processor, la: u64) -> Step<[u8; FXSAVE_SIZE]> {
    let user = p.core.cpl == 3;
    let mut image = [0; FXSAVE_SIZE];
    for at in (0..FXSAVE_USED).step_by(16) {
        let part: u128 = p.load_linear(la.wrapping_add(at as u64), user)?;
        image[at..at + 16].copy_from_slice(&part.to_le_bytes());
    }
    Ok(image)
}

fn store_image(
    p: &mut Processor,
    la: u64,
    image: &[u8; FXSAVE_SIZE],
    range: std::ops::Range<usize>,
) -> Step {
    let user = p.core.cpl == 3;
    for at in range.step_by(8) {
        p.store_linear(la.wrapping_add(at as u64), user, word(image, at))?;
    }
    Ok(())
}

/// How many XMM registers the mode can name.
fn xmm_count(p: &Processor) -> usize {
    if p.core.mode == Mode::Long64 { 16 } else { 8 }
}

fn x87_available(p: &mut Processor) -> Step {
    if p.core.cr0 & (cr0::EM | cr0::TS) != 0 {
        return Err(p.fault(Exception::NM));
    }
    Ok(())
}

/// Whether FXSAVE and FXRSTOR leave the XMM registers alone: without CR4.OSFXSR, or with
/// EFER.FFXSR in 64-bit mode at CPL 0 (AMD APM vol. 2, 11.4.4).
fn without_xmm(p: &Processor) -> bool {
    p.core.cr4 & cr4::OSFXSR == 0
        || p.core.efer & efer::FFXSR != 0 && p.core.cpl == 0 && p.core.mode == Mode::Long64
}

fn fxsave(p: &mut Processor, insn: &Instruction, long: bool) -> Step {
    x87_available(p)?;
    let la = area(p, insn, FXSAVE_SIZE, 16, Access::Write)?;
    let user = p.core.cpl == 3;
    // The last byte first, as AMD processors do.
    p.probe_write(la.wrapping_add(FXSAVE_SIZE as u64 - 1), 1, user)?;
    p.probe_write(la, 1, user)?;
    let image = p.core.fpu.to_fxsave(long);
    let end = if without_xmm(p) { XMM } else { XMM + 16 * xmm_count(p) };
    if p.core.cr4 & cr4::OSFXSR == 0 {
        store_image(p, la, &image, 0..24)?;
        store_image(p, la, &image, 32..end)?;
    } else {
        store_image(p, la, &image, 0..end)?;
    }
    next(p, insn)
}

fn fxrstor(p: &mut Processor, insn: &Instruction, long: bool) -> Step {
    x87_available(p)?;
    let la = area(p, insn, FXSAVE_SIZE, 16, Access::Read)?;
    p.probe_read(la.wrapping_add(FXSAVE_SIZE as u64 - 1), 1, p.core.cpl == 3)?;
    let image = load_image(p, la)?;
    if p.core.cr4 & cr4::OSFXSR != 0 {
        let mxcsr = checked_mxcsr(p, word(&image, 24) as u32)?;
        p.core.fpu.mxcsr = mxcsr;
    }
    p.core.fpu.load_x87(&image, long);
    if !without_xmm(p) {
        let count = xmm_count(p);
        p.core.fpu.load_xmm(&image, count);
    }
    next(p, insn)
}

/// #GP(0) for reserved bits.
fn checked_mxcsr(p: &mut Processor, value: u32) -> Step<u32> {
    if value & !MXCSR_MASK != 0 {
        return Err(p.fault(Exception::gp(0)));
    }
    Ok(value)
}

fn ldmxcsr(p: &mut Processor, insn: &Instruction) -> Step {
    sse::available(p)?;
    let (segment, offset) = operand::address(p, insn);
    let value = p.load::<u32>(segment, offset)?;
    p.core.fpu.mxcsr = checked_mxcsr(p, value)?;
    next(p, insn)
}

fn stmxcsr(p: &mut Processor, insn: &Instruction) -> Step {
    sse::available(p)?;
    let (segment, offset) = operand::address(p, insn);
    p.store(segment, offset, p.core.fpu.mxcsr)?;
    next(p, insn)
}

/// Checks of the XSAVE family; returns the requested-feature bitmap.
fn xsave_features(p: &mut Processor) -> Step<u64> {
    if p.core.cr4 & cr4::OSXSAVE == 0 {
        return Err(p.fault(Exception::UD));
    }
    if p.core.cr0 & cr0::TS != 0 {
        return Err(p.fault(Exception::NM));
    }
    if p.core.xcr0 & !XCR0_SUPPORTED != 0 {
        return Err(p.unknown("XSAVE of a component beyond x87 and SSE"));
    }
    let requested = p.core.gpr[RDX] << 32 | p.core.gpr[RAX] & 0xffff_ffff;
    Ok(requested & p.core.xcr0)
}

/// Components that are not in their initial state (XINUSE).
pub(crate) fn in_use(fpu: &Fpu, xmm: usize) -> u64 {
    let x87 = fpu.fcw != 0x37f || fpu.fsw != 0 || fpu.ftw != 0 || fpu.st.iter().any(|&r| r != 0);
    let sse = fpu.xmm[..xmm].iter().any(|&r| r != 0);
    u64::from(x87) | u64::from(sse) << 1
}

/// XSAVE and XSAVEOPT (which may always save everything) and XSAVEC, which leaves out components
/// in their initial state (AMD APM vol. 4, XSAVE, XSAVEC). XSAVES is XSAVEC, since IA32_XSS can enable nothing.
fn xsave(p: &mut Processor, insn: &Instruction, long: bool, compact: bool) -> Step {
    let features = xsave_features(p)?;
    let la = area(p, insn, XSAVE_SIZE, 64, Access::Write)?;
    let user = p.core.cpl == 3;
    p.probe_write(la, XSAVE_SIZE, user)?;
    let used = in_use(&p.core.fpu, xmm_count(p));
    let old_bv: u64 = p.load_linear(la.wrapping_add(XSTATE_BV), user)?;
    let saved = if compact { features & used } else { features };
    let image = p.core.fpu.to_fxsave(long);
    if saved & 1 != 0 {
        store_image(p, la, &image, 0..24)?;
        store_image(p, la, &image, 32..XMM)?;
    }
    // XSAVEC treats a changed MXCSR as part of the SSE component.
    let mxcsr_changed = compact && features & 2 != 0 && p.core.fpu.mxcsr != 0x1f80;
    if saved & 2 != 0 || mxcsr_changed {
        store_image(p, la, &image, 24..32)?;
        let end = XMM + 16 * xmm_count(p);
        store_image(p, la, &image, XMM..end)?;
    }
    let saved = saved | u64::from(mxcsr_changed) << 1;
    if compact {
        p.store_linear(la.wrapping_add(XSTATE_BV), user, saved)?;
        p.store_linear(la.wrapping_add(XSTATE_BV + 8), user, COMPACTED | features)?;
    } else {
        let bv = old_bv & !features | used & features;
        p.store_linear(la.wrapping_add(XSTATE_BV), user, bv)?;
    }
    next(p, insn)
}

/// XRSTOR, and XRSTORS, which takes only the compacted format (Intel SDM volume 1, 13.12).
fn xrstor(p: &mut Processor, insn: &Instruction, long: bool, compacted: bool) -> Step {
    let features = xsave_features(p)?;
    let la = area(p, insn, XSAVE_SIZE, 64, Access::Read)?;
    let user = p.core.cpl == 3;
    let image = load_image(p, la)?;
    let mut header = [0; 8];
    for (i, field) in header.iter_mut().enumerate() {
        *field = p.load_linear::<u64>(la.wrapping_add(XSTATE_BV + 8 * i as u64), user)?;
    }
    let [bv, comp, reserved @ ..] = header;
    let allowed = if comp & COMPACTED != 0 { comp & !COMPACTED } else { p.core.xcr0 };
    let valid = bv & !allowed == 0
        && allowed & !p.core.xcr0 == 0
        && (comp == 0 && !compacted || comp & COMPACTED != 0)
        && reserved.iter().all(|&field| field == 0);
    if !valid {
        return Err(p.fault(Exception::gp(0)));
    }
    let compact = comp & COMPACTED != 0;
    // The standard form loads MXCSR whenever SSE (or AVX) is asked for, even if in its initial state.
    let mxcsr = if features & 2 != 0 && (!compact || bv & 2 != 0) {
        checked_mxcsr(p, word(&image, 24) as u32)?
    } else {
        0x1f80
    };
    let count = xmm_count(p);
    let fpu = &mut p.core.fpu;
    if features & 1 != 0 {
        if bv & 1 != 0 {
            fpu.load_x87(&image, long);
        } else {
            fpu.init_x87();
            fpu.st = [0; 8];
        }
    }
    if features & 2 != 0 {
        fpu.mxcsr = mxcsr;
        if bv & 2 != 0 {
            fpu.load_xmm(&image, count);
        } else {
            fpu.xmm[..count].fill(0);
        }
    }
    next(p, insn)
}
