//! The CPUID leaves of a TD: what the module is asked for, and what KVM answers where the module does not.

use kvm_bindings::kvm_cpuid_entry2;

use super::{CpuidRow, CpuidTable, EAX, EBX, ECX, EDX};
use crate::config::CpuCount;

/// The guest physical address width that every TD of ours has: bit 47 is the shared bit.
pub const GPAW: u32 = 48;

/// KVM's paravirtual features that work in a TD: the list of QEMU 10.1 (target/i386/kvm/tdx.c). No kvmclock, no
/// asynchronous page faults, no steal time, no PV EOI: their MSRs are none of those that KVM emulates for a TD (Linux 7.2
/// arch/x86/kvm/vmx/tdx.c tdx_has_emulated_msr).
const KVM_FEATURES: u32 = 1 << 1 | 1 << 7 | 1 << 9 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 15;

impl CpuidTable {
    /// The leaves that a TD should have, where module and KVM can give them.
    pub fn for_tdx(&self, cpus: CpuCount) -> CpuidTable {
        let mut table = self.clone();
        table.common(cpus);
        table.edit(1, |_, out| {
            // MONITOR, whose use would be #VE or #UD, and the deadline timer, whose MSR costs the same exit as the
            // initial count does.
            out[ECX] &= !(1 << 3 | 1 << 24);
        });
        // The module derives leaf 0xB from this one.
        table.set_topology(0x1f, cpus);
        // No performance monitoring and no last-branch records: the attributes and XFAM do not ask for them.
        for function in [0xa, 0x1c, 0x23] {
            table.remove(function);
        }
        table.edit(0x4000_0001, |_, out| out[EAX] &= KVM_FEATURES);
        table.edit(0x8000_0008, |_, out| out[EAX] = out[EAX] & !(0xff << 16) | GPAW << 16);
        if table.get(0x8000_0008, 0).is_none() {
            table.set(0x8000_0008, None, [GPAW << 16 | GPAW, 0, 0, 0]);
        }
        table.sort();
        table
    }

    /// These leaves, as far as the module lets us choose: for each row of `configurable`, whose bits are what may be
    /// chosen, a row with our values. A row that is left out would be all zeros.
    pub fn configure(&self, configurable: &[CpuidRow]) -> Vec<CpuidRow> {
        let rows = configurable.iter().map(|mask| {
            let index = mask.index.unwrap_or(0);
            let wanted = self.get(mask.function, index).map_or([0; 4], |row| row.out);
            let mut out = [0; 4];
            for (out, (wanted, mask)) in out.iter_mut().zip(wanted.iter().zip(&mask.out)) {
                *out = wanted & mask;
            }
            CpuidRow { out, ..*mask }
        });
        rows.collect()
    }

    /// What KVM is told (KVM_SET_CPUID2): `virtualised`, the leaves as the module shows them, and KVM's own, which the
    /// guest asks the host for.
    pub fn for_td_vcpus(&self, virtualised: &[kvm_cpuid_entry2]) -> CpuidTable {
        let rows = virtualised.iter().map(|entry| CpuidRow {
            function: entry.function,
            index: (entry.flags & kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0)
                .then_some(entry.index),
            out: [entry.eax, entry.ebx, entry.ecx, entry.edx],
        });
        let mut table = CpuidTable { rows: rows.collect() };
        for row in self.rows.iter().filter(|r| r.function >> 16 == 0x4000) {
            table.set(row.function, row.index, row.out);
        }
        table.edit(1, |_, out| {
            // The APIC id is each vCPU's own; INIT_VCPU insists on x2APIC.
            out[EBX] &= 0x00ff_ffff;
            out[ECX] |= 1 << 21;
        });
        for function in [0xb, 0x1f] {
            table.edit(function, |_, out| out[EDX] = 0);
        }
        // KVM takes the shared bit for part of an address only where addresses are that wide (Linux 7.2
        // arch/x86/kvm/vmx/tdx.c tdx_map_gpa).
        let widen = |out: &mut [u32; 4]| {
            out[EAX] = out[EAX] & !0xff_00ff | (out[EAX] & 0xff).max(GPAW) | GPAW << 16;
        };
        table.edit(0x8000_0008, |_, out| widen(out));
        if table.get(0x8000_0008, 0).is_none() {
            let mut out = [0; 4];
            widen(&mut out);
            table.set(0x8000_0008, None, out);
        }
        table.edit(0x8000_0000, |_, out| out[EAX] = out[EAX].max(0x8000_0008));
        table.sort();
        table
    }
}

#[cfg(test)]
#[path = "cpuid_tdx_test.rs"]
mod tests;
