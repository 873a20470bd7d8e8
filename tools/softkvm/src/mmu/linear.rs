//! Segmentation: from `segment:offset` to a checked linear address.

use crate::cpu::exec::breakpoints;
use crate::cpu::flags;
use crate::cpu::state::{cr0, cr4};
use crate::cpu::{Access, Exception, Mode, Processor, Seg, Step};

impl Processor {
    /// Segment checks: canonical form in 64-bit mode, limit and rights otherwise (AMD APM vol. 2,
    /// 4.8 and 4.12); returns the linear address.
    #[inline]
    pub fn linear(&mut self, segment: Seg, offset: u64, len: usize, access: Access) -> Step<u64> {
        let alignment = if len.is_power_of_two() { len } else { 1 };
        self.linear_aligned(segment, offset, len, alignment, access)
    }

    /// As [`Processor::linear`], for operands whose natural alignment is not their length.
    #[inline]
    pub fn linear_aligned(
        &mut self,
        segment: Seg,
        offset: u64,
        len: usize,
        alignment: usize,
        access: Access,
    ) -> Step<u64> {
        if self.core.mode != Mode::Long64 {
            return self.linear_legacy(segment, offset, len, alignment, access);
        }
        let la = match segment {
            Seg::Fs | Seg::Gs => self.core.seg[segment as usize].base.wrapping_add(offset),
            Seg::Es | Seg::Cs | Seg::Ss | Seg::Ds => offset,
        };
        let last = la.wrapping_add(len as u64 - 1);
        if !self.canonical(la) || !self.canonical(last) {
            return Err(self.segment_fault(segment));
        }
        if self.core.rflags & flags::AC != 0 {
            self.check_alignment(la, alignment)?;
        }
        if breakpoints::enabled(self) {
            breakpoints::data(self, la, len, access);
        }
        Ok(la)
    }

    /// #GP(0) unless an operand that must be aligned is; this comes before all other checks.
    pub(crate) fn require_alignment(&mut self, segment: Seg, offset: u64, alignment: u64) -> Step {
        let base = match segment {
            Seg::Es | Seg::Cs | Seg::Ss | Seg::Ds if self.core.mode == Mode::Long64 => 0,
            _ => self.core.seg[segment as usize].base,
        };
        if base.wrapping_add(offset) & (alignment - 1) != 0 {
            return Err(self.fault(Exception::gp(0)));
        }
        Ok(())
    }

    /// Whether a linear address is canonical under the present paging mode.
    #[inline(always)]
    pub fn canonical(&self, la: u64) -> bool {
        let unused = if self.core.cr4 & cr4::LA57 != 0 { 7 } else { 16 };
        ((la << unused) as i64 >> unused) as u64 == la
    }

    /// Whether every data access must be checked for alignment.
    #[inline]
    pub(crate) fn checks_alignment(&self) -> bool {
        self.core.rflags & flags::AC != 0 && self.core.cr0 & cr0::AM != 0 && self.core.cpl == 3
    }

    fn check_alignment(&mut self, la: u64, alignment: usize) -> Step {
        if self.checks_alignment() && la & (alignment as u64 - 1) != 0 {
            return Err(self.fault(Exception::ac()));
        }
        Ok(())
    }

    #[cold]
    fn segment_fault(&mut self, segment: Seg) -> crate::cpu::Trapped {
        self.fault(if segment == Seg::Ss { Exception::ss(0) } else { Exception::gp(0) })
    }

    fn linear_legacy(
        &mut self,
        segment: Seg,
        offset: u64,
        len: usize,
        alignment: usize,
        access: Access,
    ) -> Step<u64> {
        let s = self.core.seg[segment as usize];
        let last = offset.wrapping_add(len as u64 - 1);
        let code = s.attrib & 8 != 0;
        let real = self.core.cr0 & cr0::PE == 0 || self.core.rflags & flags::VM != 0;
        if !real {
            let right = match access {
                Access::Write => !code && s.attrib & 2 != 0,
                Access::Read => !code || s.attrib & 2 != 0,
                Access::Fetch | Access::Walk | Access::WalkWrite => true,
            };
            if !s.present() || !right {
                return Err(self.segment_fault(segment));
            }
        }
        let expand_down = !real && !code && s.attrib & 4 != 0;
        let limit = u64::from(s.limit);
        let inside = if expand_down {
            let top = if s.big() { 0xffff_ffff } else { 0xffff };
            offset > limit && last >= offset && last <= top
        } else {
            last >= offset && last <= limit
        };
        if !inside {
            return Err(self.segment_fault(segment));
        }
        let la = s.base.wrapping_add(offset) & 0xffff_ffff;
        if self.core.rflags & flags::AC != 0 && access != Access::Fetch {
            self.check_alignment(la, alignment)?;
        }
        if breakpoints::enabled(self) {
            breakpoints::data(self, la, len, access);
        }
        Ok(la)
    }
}
