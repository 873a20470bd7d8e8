//! What the guest's CPUID says: the host's leaves, with topology and masks applied, as vCPU tables and as launch page.
//!
//! Topology: every vCPU is a core of its own in one package. Masks: what the SEV firmware refuses in a CPUID page or
//! what an encrypted guest cannot use; each with its reason in `restrict_snp`.

#[path = "cpuid_tdx.rs"]
mod tdx;

use std::fmt;

use abi::snp::{CPUID_COUNT_MAX, CpuidFunction, CpuidPage};
use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::PlanError;
use crate::config::CpuCount;
pub use tdx::GPAW;

/// One leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidRow {
    /// EAX on input.
    pub function: u32,
    /// ECX on input, where it matters.
    pub index: Option<u32>,
    /// EAX, EBX, ECX, EDX on output.
    pub out: [u32; 4],
}

/// A table of leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuidTable {
    rows: Vec<CpuidRow>,
}

const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

impl CpuidTable {
    /// From rows in any order.
    pub fn from_rows(rows: Vec<CpuidRow>) -> CpuidTable {
        CpuidTable { rows }
    }

    /// From what KVM can give a guest.
    pub fn from_kvm(cpuid: &CpuId) -> CpuidTable {
        let rows = cpuid.as_slice().iter().map(|entry| CpuidRow {
            function: entry.function,
            index: (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0).then_some(entry.index),
            out: [entry.eax, entry.ebx, entry.ecx, entry.edx],
        });
        CpuidTable { rows: rows.collect() }
    }

    /// The leaves.
    pub fn rows(&self) -> &[CpuidRow] {
        &self.rows
    }

    /// One leaf.
    pub fn get(&self, function: u32, index: u32) -> Option<&CpuidRow> {
        self.rows.iter().find(|r| r.function == function && r.index.is_none_or(|i| i == index))
    }

    /// Position of the C-bit, where the host has SEV.
    pub fn c_bit(&self) -> Option<u32> {
        let row = self.get(0x8000_001f, 0)?;
        (row.out[EAX] & 1 << 1 != 0).then_some(row.out[EBX] & 0x3f)
    }

    /// Is this an Intel processor?
    pub fn is_intel(&self) -> bool {
        // "Genu", the first four letters of the vendor.
        self.get(0, 0).is_some_and(|row| row.out[EBX] == u32::from_le_bytes(*b"Genu"))
    }

    fn edit(&mut self, function: u32, edit: impl Fn(Option<u32>, &mut [u32; 4])) {
        for row in self.rows.iter_mut().filter(|r| r.function == function) {
            edit(row.index, &mut row.out);
        }
    }

    fn remove(&mut self, function: u32) {
        self.rows.retain(|r| r.function != function);
    }

    fn set(&mut self, function: u32, index: Option<u32>, out: [u32; 4]) {
        self.rows.retain(|r| r.function != function || r.index != index);
        self.rows.push(CpuidRow { function, index, out });
    }

    fn sort(&mut self) {
        self.rows.sort_by_key(|r| (r.function, r.index));
    }

    /// The leaves of an unprotected guest.
    pub fn for_plain(&self, cpus: CpuCount) -> CpuidTable {
        let mut table = self.clone();
        table.common(cpus);
        // No encryption is offered: a kernel that saw the leaf would read SEV_STATUS.
        table.remove(0x8000_001f);
        table.sort();
        table
    }

    /// The leaves of an SEV-SNP guest.
    pub fn for_snp(&self, cpus: CpuCount, c_bit: u32) -> CpuidTable {
        let mut table = self.clone();
        table.common(cpus);
        restrict_snp(&mut table, c_bit);
        table.sort();
        table
    }

    fn common(&mut self, cpus: CpuCount) {
        let count = u32::from(cpus.get());
        let shift = core_shift(cpus);
        self.edit(1, |_, out| {
            out[EBX] = out[EBX] & 0x0000_ff00 | count << 16;
            // x2APIC and "a hypervisor is present".
            out[ECX] |= 1 << 21 | 1 << 31;
            out[EDX] = if count > 1 { out[EDX] | 1 << 28 } else { out[EDX] & !(1 << 28) };
        });
        // Five-level paging: the shim and the page tables it leaves behind have four.
        self.edit(7, |_, out| out[ECX] &= !(1 << 16));
        for function in [0xb, 0x1f, 0x8000_0026] {
            self.remove(function);
        }
        if self.get(0, 0).is_some_and(|r| r.out[EAX] >= 0xb) {
            self.set_topology(0xb, cpus);
        }
        self.edit(0x8000_0001, |_, out| {
            out[ECX] = if count > 1 { out[ECX] | 1 << 1 } else { out[ECX] & !(1 << 1) };
        });
        self.edit(0x8000_0008, |_, out| out[ECX] = shift << 12 | (count - 1) & 0xff);
        self.edit(0x8000_001e, |_, out| *out = [0, 0, 0, 0]);
    }

    /// Extended topology: threads, cores, and the end of the list.
    fn set_topology(&mut self, function: u32, cpus: CpuCount) {
        self.set(function, Some(0), [0, 1, 1 << 8, 0]);
        self.set(function, Some(1), [core_shift(cpus), u32::from(cpus.get()), 2 << 8 | 1, 0]);
        self.set(function, Some(2), [0, 0, 2, 0]);
    }

    /// This table as one vCPU sees it: its APIC id filled in.
    pub fn for_vcpu(&self, id: u16) -> Vec<kvm_cpuid_entry2> {
        let id = u32::from(id);
        let rows = self.rows.iter().map(|row| {
            let mut out = row.out;
            match row.function {
                1 => out[EBX] |= id << 24,
                0xb | 0x1f => out[EDX] = id,
                0x8000_001e => {
                    out[EAX] = id;
                    out[EBX] |= id & 0xff;
                }
                _ => {}
            }
            kvm_cpuid_entry2 {
                function: row.function,
                index: row.index.unwrap_or(0),
                flags: if row.index.is_some() { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
                eax: out[EAX],
                ebx: out[EBX],
                ecx: out[ECX],
                edx: out[EDX],
                ..Default::default()
            }
        });
        rows.collect()
    }

    /// This table as the launch page of an SEV-SNP guest, as the boot processor sees it (SEV-SNP firmware ABI, 56860
    /// rev 1.57, section 8.17).
    ///
    /// # Errors
    /// More rows than a page holds.
    pub fn to_page(&self) -> Result<Vec<u8>, PlanError> {
        let mut page = CpuidPage::new_zeroed();
        let mut count = 0;
        for row in &self.rows {
            // Rows that say nothing are wasteful, but a range needs its first: the kernel takes the range's end there.
            let range_start = matches!(row.function, 0 | 0x4000_0000 | 0x8000_0000);
            if row.out == [0; 4] && !range_start {
                continue;
            }
            let function = page
                .functions
                .get_mut(count)
                .ok_or(PlanError::TooManyCpuidRows { max: CPUID_COUNT_MAX })?;
            *function = CpuidFunction {
                eax_in: row.function,
                ecx_in: row.index.unwrap_or(0),
                eax: row.out[EAX],
                ebx: row.out[EBX],
                ecx: row.out[ECX],
                edx: row.out[EDX],
                ..CpuidFunction::new_zeroed()
            };
            if row.function == 1 {
                function.ecx &= !TSC_DEADLINE;
            }
            if row.function == 0xd && row.index.is_some_and(|i| i <= 1) {
                // The size for x87 alone; an SNP kernel adds the rest itself (Linux 7.2 arch/x86/boot/startup/
                // sev-shared.c snp_cpuid_calc_xsave_size).
                function.xcr0_in = 1;
                function.ebx = 0x240;
            }
            count += 1;
        }
        page.count = count as u32;
        Ok(page.as_bytes().to_vec())
    }
}

/// Leaf 1, ECX: the local APIC's timer can be set to a time. The timer is the hypervisor's, so firmware refuses this in a
/// CPUID page; but KVM has such a timer for the vCPU if it is in the vCPU's table. A kernel that is told `setcpuid=
/// tsc_deadline_timer` uses it, and does not spend 100 ms on finding the timer's frequency (Linux 7.2 arch/x86/kernel/apic/
/// apic.c calibrate_APIC_clock).
const TSC_DEADLINE: u32 = 1 << 24;

/// How many bits of an APIC id number the cores of the one package.
fn core_shift(cpus: CpuCount) -> u32 {
    u32::from(cpus.get()).next_power_of_two().trailing_zeros()
}

/// What an SEV-SNP guest is not offered.
fn restrict_snp(table: &mut CpuidTable, c_bit: u32) {
    table.edit(7, |index, out| {
        if index.unwrap_or(0) == 0 {
            // Firmware refuses: TSC_ADJUST; and, of EDX, SPEC_CTRL, STIBP, FLUSH_L1D, ARCH_CAPABILITIES,
            // CORE_CAPABILITIES and SSBD, which AMD processors name in leaf 0x80000008.
            out[EBX] &= !(1 << 1);
            out[EDX] &= !(0b11_1111 << 26);
        }
    });
    // Firmware refuses: VIRT_SSBD.
    table.edit(0x8000_0008, |_, out| out[EBX] &= !(1 << 25));
    // Firmware refuses: NO_SMM_CTL_MSR.
    table.edit(0x8000_0021, |_, out| {
        out[EAX] &= !(1 << 9);
        out[ECX] = 0;
    });
    // KVM's paravirtual features that write guest memory asynchronously (ASYNC_PF 4, 10, 14), and page conversion by
    // hypercall (16, 17), which is for SEV and SEV-ES guests (Linux 7.2 arch/x86/kernel/kvm.c kvm_init_platform).
    table.edit(0x4000_0001, |_, out| out[EAX] &= !(1 << 4 | 1 << 10 | 1 << 14 | 1 << 16 | 1 << 17));
    // SEV, SEV-ES and SEV-SNP; C-bit position and one physical address bit less. Not SME, not what the host keeps.
    table.edit(0x8000_0000, |_, out| out[EAX] = out[EAX].max(0x8000_001f));
    table.set(0x8000_001f, None, [0x1a, c_bit | 1 << 6, 0, 0]);
}

/// A row that the firmware would have accepted, beside ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidDifference {
    function: u32,
    index: u32,
    ours: [u32; 4],
    theirs: [u32; 4],
}

impl fmt::Display for CpuidDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "leaf {:#x}.{:#x}", self.function, self.index)?;
        for (at, name) in ["eax", "ebx", "ecx", "edx"].iter().enumerate() {
            if self.ours[at] != self.theirs[at] {
                write!(
                    f,
                    " {name} given {:#010x} accepted {:#010x}",
                    self.ours[at], self.theirs[at]
                )?;
            }
        }
        Ok(())
    }
}

/// The rows in which two CPUID pages differ.
pub fn differences(ours: &[u8], theirs: &[u8]) -> Vec<CpuidDifference> {
    let (Ok(ours), Ok(theirs)) =
        (CpuidPage::read_from_bytes(ours), CpuidPage::read_from_bytes(theirs))
    else {
        return Vec::new();
    };
    let outs = |f: &CpuidFunction| [f.eax, f.ebx, f.ecx, f.edx];
    ours.functions
        .iter()
        .zip(&theirs.functions)
        .filter(|(a, b)| outs(a) != outs(b))
        .map(|(a, b)| CpuidDifference {
            function: a.eax_in,
            index: a.ecx_in,
            ours: outs(a),
            theirs: outs(b),
        })
        .collect()
}

#[cfg(test)]
#[path = "cpuid_test.rs"]
mod tests;
