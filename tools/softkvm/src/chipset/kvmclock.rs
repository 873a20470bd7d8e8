//! KVM's paravirtual clock and its other MSRs (Linux Documentation/virt/kvm/x86/msr.rst,
//! arch/x86/include/asm/pvclock-abi.h, arch/x86/kvm/x86.c).
//!
//! Asynchronous page faults, steal time and paravirtual EOI are accepted as KVM accepts them, but
//! the host side never has anything to say through them, which the interface allows.

use super::time::{Now, TimeBase};

/// MSR numbers.
pub mod msr {
    /// Wall clock, old number.
    pub const WALL_CLOCK: u32 = 0x11;
    /// System time, old number.
    pub const SYSTEM_TIME: u32 = 0x12;
    /// Wall clock.
    pub const WALL_CLOCK_NEW: u32 = 0x4b56_4d00;
    /// System time.
    pub const SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
    /// Asynchronous page faults: enable.
    pub const ASYNC_PF_EN: u32 = 0x4b56_4d02;
    /// Steal time.
    pub const STEAL_TIME: u32 = 0x4b56_4d03;
    /// Paravirtual EOI.
    pub const PV_EOI_EN: u32 = 0x4b56_4d04;
    /// Host-side halt polling.
    pub const POLL_CONTROL: u32 = 0x4b56_4d05;
    /// Asynchronous page faults: vector.
    pub const ASYNC_PF_INT: u32 = 0x4b56_4d06;
    /// Asynchronous page faults: acknowledge.
    pub const ASYNC_PF_ACK: u32 = 0x4b56_4d07;
}

/// The bit in CPUID 4000_0001h EAX of the feature that a paravirtual MSR belongs to.
pub fn feature(index: u32) -> Option<u32> {
    Some(match index {
        msr::WALL_CLOCK | msr::SYSTEM_TIME => 0,
        msr::WALL_CLOCK_NEW | msr::SYSTEM_TIME_NEW => 3,
        msr::ASYNC_PF_EN => 4,
        msr::STEAL_TIME => 5,
        msr::PV_EOI_EN => 6,
        msr::POLL_CONTROL => 12,
        msr::ASYNC_PF_INT | msr::ASYNC_PF_ACK => 14,
        _ => return None,
    })
}

/// pvclock flag: the clock is the same on all vCPUs.
const TSC_STABLE: u8 = 1;

/// Bytes to be put into (shared) guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestWrite {
    /// Where.
    pub gpa: u64,
    bytes: [u8; 32],
    len: u8,
}

impl GuestWrite {
    /// What.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The part of the clock all vCPUs share.
#[derive(Clone, Copy, Debug)]
pub struct VmClock {
    /// kvmclock minus machine nanoseconds.
    offset: u64,
    /// Machine time at which the shared scale starts.
    origin: Now,
    /// Wall-clock nanoseconds since 1970 at machine time 0.
    epoch_ns: u64,
    wall_msr: u64,
    wall_version: u32,
}

impl VmClock {
    /// A clock starting at machine time 0, at `epoch_ns` after 1970.
    pub fn new(epoch_ns: u64) -> Self {
        Self { offset: 0, origin: Now::default(), epoch_ns, wall_msr: 0, wall_version: 0 }
    }

    /// KVM_GET_CLOCK: nanoseconds.
    pub fn get(&self, now: Now) -> u64 {
        now.ns.wrapping_add(self.offset)
    }

    /// KVM_SET_CLOCK. The vCPUs' structures must be written again.
    pub fn set(&mut self, ns: u64, now: Now) {
        self.offset = ns.wrapping_sub(now.ns);
        self.origin = now;
    }

    /// Real time now, in nanoseconds since 1970.
    pub fn realtime(&self, now: Now) -> u64 {
        now.ns.wrapping_add(self.epoch_ns)
    }

    fn write_wall(&mut self, gpa: u64, now: Now) -> Option<GuestWrite> {
        self.wall_msr = gpa;
        if gpa == 0 {
            return None;
        }
        self.wall_version = self.wall_version.wrapping_add(2);
        let at_zero = self.realtime(now).wrapping_sub(self.get(now));
        let mut bytes = [0; 32];
        bytes[0..4].copy_from_slice(&self.wall_version.to_le_bytes());
        bytes[4..8].copy_from_slice(&((at_zero / 1_000_000_000) as u32).to_le_bytes());
        bytes[8..12].copy_from_slice(&((at_zero % 1_000_000_000) as u32).to_le_bytes());
        Some(GuestWrite { gpa, bytes, len: 12 })
    }
}

/// The paravirtual MSRs of one vCPU.
#[derive(Clone, Copy, Debug)]
pub struct VcpuClock {
    system_time: u64,
    version: u32,
    async_pf: u64,
    async_pf_vector: u64,
    steal_time: u64,
    pv_eoi: u64,
    poll_control: u64,
}

impl Default for VcpuClock {
    fn default() -> Self {
        Self {
            system_time: 0,
            version: 0,
            async_pf: 0,
            async_pf_vector: 0,
            steal_time: 0,
            pv_eoi: 0,
            poll_control: 1,
        }
    }
}

impl VcpuClock {
    /// Reads a paravirtual MSR; `None` if it is not one of them.
    pub fn read(&self, vm: &VmClock, index: u32) -> Option<u64> {
        Some(match index {
            msr::WALL_CLOCK | msr::WALL_CLOCK_NEW => vm.wall_msr,
            msr::SYSTEM_TIME | msr::SYSTEM_TIME_NEW => self.system_time,
            msr::ASYNC_PF_EN => self.async_pf,
            msr::ASYNC_PF_INT => self.async_pf_vector,
            msr::ASYNC_PF_ACK => 0,
            msr::STEAL_TIME => self.steal_time,
            msr::PV_EOI_EN => self.pv_eoi,
            msr::POLL_CONTROL => self.poll_control,
            _ => return None,
        })
    }

    /// Writes a paravirtual MSR: `None` if it is not one of them, else whether the value is legal
    /// (#GP if not) and what goes to guest memory.
    pub fn write(
        &mut self,
        vm: &mut VmClock,
        index: u32,
        value: u64,
        base: &TimeBase,
        tsc_offset: u64,
        now: Now,
    ) -> Option<Result<Option<GuestWrite>, ()>> {
        let (field, reserved) = match index {
            msr::WALL_CLOCK | msr::WALL_CLOCK_NEW => return Some(Ok(vm.write_wall(value, now))),
            msr::SYSTEM_TIME | msr::SYSTEM_TIME_NEW => {
                self.system_time = value;
                return Some(Ok(self.refresh(vm, base, tsc_offset)));
            }
            msr::ASYNC_PF_EN => (&mut self.async_pf, 0x30),
            msr::ASYNC_PF_INT => (&mut self.async_pf_vector, !0xff),
            msr::ASYNC_PF_ACK => return Some(Ok(None)),
            msr::STEAL_TIME => (&mut self.steal_time, 0x3e),
            msr::PV_EOI_EN => (&mut self.pv_eoi, 0x2),
            msr::POLL_CONTROL => (&mut self.poll_control, !1),
            _ => return None,
        };
        if value & reserved != 0 {
            return Some(Err(()));
        }
        *field = value;
        Some(Ok(None))
    }

    /// The time structure for the guest's page, if the guest asked for one.
    pub fn refresh(
        &mut self,
        vm: &VmClock,
        base: &TimeBase,
        tsc_offset: u64,
    ) -> Option<GuestWrite> {
        if self.system_time & 1 == 0 {
            return None;
        }
        self.version = self.version.wrapping_add(2);
        let (mul, shift) = time_scale(base);
        let mut bytes = [0; 32];
        bytes[0..4].copy_from_slice(&self.version.to_le_bytes());
        bytes[8..16].copy_from_slice(&vm.origin.tsc.wrapping_add(tsc_offset).to_le_bytes());
        bytes[16..24].copy_from_slice(&vm.get(vm.origin).to_le_bytes());
        bytes[24..28].copy_from_slice(&mul.to_le_bytes());
        bytes[28] = shift as u8;
        bytes[29] = TSC_STABLE;
        Some(GuestWrite { gpa: self.system_time & !1, bytes, len: 32 })
    }
}

/// Multiplier and shift with which a guest turns TSC cycles into nanoseconds:
/// `((cycles << shift) * mul) >> 32` (right shift if negative).
fn time_scale(base: &TimeBase) -> (u32, i8) {
    let mut hz = u64::from(base.tsc_khz()) * 1000;
    let mut scaled = 1_000_000_000u64;
    let mut shift = 0i8;
    while hz > scaled * 2 || hz >> 32 != 0 {
        hz >>= 1;
        shift -= 1;
    }
    while hz <= scaled {
        if hz & 0x8000_0000 != 0 {
            scaled >>= 1;
        } else {
            hz <<= 1;
        }
        shift += 1;
    }
    (((scaled << 32) / hz) as u32, shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest_ns(write: &GuestWrite, tsc: u64) -> u64 {
        let b = write.bytes();
        let word = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().unwrap());
        let mul = u32::from_le_bytes(b[24..28].try_into().unwrap());
        let delta = tsc.wrapping_sub(word(8));
        let shift = b[28] as i8;
        let delta = if shift < 0 { delta >> -shift } else { delta << shift };
        word(16) + ((u128::from(delta) * u128::from(mul)) >> 32) as u64
    }

    #[test]
    fn the_guest_computes_the_machines_nanoseconds() {
        for khz in [100_000, 999_999, 1_000_000, 1_000_001, 2_450_000, 3_700_000, 5_000_000] {
            let base = TimeBase::new(khz);
            let (mut vm, mut vcpu) = (VmClock::new(0), VcpuClock::default());
            for (offset, clock) in [(0u64, None), (1000, Some(77_000_000u64))] {
                let start = base.at(u64::from(khz) * 1000);
                if let Some(ns) = clock {
                    vm.set(ns, start);
                }
                let write = vcpu
                    .write(&mut vm, msr::SYSTEM_TIME_NEW, 0x1001, &base, offset, start)
                    .and_then(Result::ok)
                    .flatten()
                    .expect("a time structure");
                assert_eq!((write.gpa, write.bytes().len()), (0x1000, 32));
                assert_eq!(write.bytes()[29], 1);
                for seconds in [1u64, 2, 600] {
                    let tsc = u64::from(khz) * 1000 * seconds;
                    let want = vm.get(base.at(tsc));
                    let got = guest_ns(&write, tsc + offset);
                    assert!(got.abs_diff(want) < 1000, "{khz} kHz: {got} for {want}");
                }
            }
        }
    }

    #[test]
    fn versions_are_even_and_rise() {
        let base = TimeBase::new(2_000_000);
        let (mut vm, mut vcpu) = (VmClock::new(0), VcpuClock::default());
        vcpu.write(&mut vm, msr::SYSTEM_TIME, 0x2001, &base, 0, base.at(0));
        let first = vcpu.refresh(&vm, &base, 0).expect("enabled").bytes()[0];
        let second = vcpu.refresh(&vm, &base, 0).expect("enabled").bytes()[0];
        assert_eq!((first % 2, second), (0, first + 2));
    }

    #[test]
    fn the_wall_clock_is_the_time_at_clock_zero() {
        let base = TimeBase::new(1_000_000);
        let mut vm = VmClock::new(1_700_000_000_500_000_000);
        vm.set(2_000_000_000, base.at(5_000_000_000));
        let write = VcpuClock::default()
            .write(&mut vm, msr::WALL_CLOCK_NEW, 0x3000, &base, 0, base.at(6_000_000_000))
            .and_then(Result::ok)
            .flatten()
            .expect("a wall clock");
        let word = |at: usize| u32::from_le_bytes(write.bytes()[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(4), word(8)), (2, 1_700_000_003, 500_000_000));
    }

    #[test]
    fn reserved_bits_are_refused() {
        let base = TimeBase::new(1_000_000);
        let cases = [
            (msr::ASYNC_PF_EN, 0x1010),
            (msr::ASYNC_PF_INT, 0x100),
            (msr::STEAL_TIME, 0x1003),
            (msr::PV_EOI_EN, 0x1003),
            (msr::POLL_CONTROL, 2),
        ];
        for (index, value) in cases {
            let (mut vm, mut vcpu) = (VmClock::new(0), VcpuClock::default());
            let answer = vcpu.write(&mut vm, index, value, &base, 0, base.at(0));
            assert_eq!(answer, Some(Err(())), "{index:#x}");
            assert_eq!(vcpu.write(&mut vm, index, 1, &base, 0, base.at(0)), Some(Ok(None)));
            assert_eq!(vcpu.read(&vm, index), Some(1));
        }
        let (mut vm, mut vcpu) = (VmClock::new(0), VcpuClock::default());
        assert_eq!(vcpu.write(&mut vm, 0x4b56_4d08, 1, &base, 0, base.at(0)), None);
        assert_eq!(vcpu.read(&vm, msr::POLL_CONTROL), Some(1));
    }
}
