//! CPUID of a TD: what TDH.MNG.INIT makes of the processor's own and of the host's configuration, and what CPUID answers
//! (TDX module source, `tdh_mng_init`, `td_cpuid_exit`).
//!
//! Of REDUCE_VE, what concerns CPUID is modelled, without FEATURE_PARAVIRT_CTLS: features that need the host are hidden.

mod rules;
mod topology;
mod xsave;

use abi::kvm_tdx::CpuidEntry;
use abi::tdx::leaf::td_ctls;
use abi::tdx::{TdAttributes, TdParams, TdxStatus, Xfam, operand};

use self::topology::SUBLEAVES;
use self::xsave::XsaveArea;
use super::cr::XCR0;
use super::platform::features0;
use super::{Td, TdVcpu, TdxPlatform};
use crate::cpu::state::cr4;
use crate::cpu::{Core, Mode};

/// What CPUID does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuidAnswer {
    /// EAX, EBX, ECX, EDX.
    Value([u32; 4]),
    /// #VE, with reason 10.
    Ve,
}

/// Features that other modules ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidFlags {
    /// MONITOR and MWAIT.
    pub monitor: bool,
    /// Direct cache access.
    pub dca: bool,
    /// TSC deadline timer.
    pub tsc_deadline: bool,
    /// TSX.
    pub tsx: bool,
    /// WAITPKG.
    pub waitpkg: bool,
    /// TME.
    pub tme: bool,
    /// MKTME.
    pub mktme: bool,
    /// 5-level paging.
    pub la57: bool,
    /// XFD.
    pub xfd: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    leaf: u32,
    subleaf: Option<u32>,
    value: [u32; 4],
}

/// A TD's CPUID.
#[derive(Clone, Debug, Default)]
pub struct CpuidTable {
    entries: Vec<Entry>,
    flags: CpuidFlags,
    xsave: XsaveArea,
    /// The processor's own leaf 4, for REDUCE_VE.
    caches: [[u32; 4]; 4],
}

/// The last base leaf and the last extended one.
const LAST_BASE: u32 = 0x23;
const LAST_EXTENDED: u32 = 0x8000_0008;
/// Leaves that are the hypervisor's.
const HYPERVISOR: std::ops::RangeInclusive<u32> = 0x4000_0000..=0x4fff_ffff;
/// CPUID(1).ECX and .EDX, CPUID(7.0).EBX, .ECX and .EDX: what REDUCE_VE hides.
mod reduced {
    /// EST, TM2, DCA, TSC_DEADLINE.
    pub const LEAF_1_ECX: u32 = 1 << 7 | 1 << 8 | 1 << 18 | 1 << 24;
    /// MCE, MTRR, MCA, ACPI.
    pub const LEAF_1_EDX: u32 = 1 << 7 | 1 << 12 | 1 << 14 | 1 << 22;
    /// PQM, PQE.
    pub const LEAF_7_EBX: u32 = 1 << 12 | 1 << 15;
    /// TME.
    pub const LEAF_7_ECX: u32 = 1 << 13;
    /// PCONFIG, IA32_CORE_CAPABILITIES.
    pub const LEAF_7_EDX: u32 = 1 << 18 | 1 << 30;
    /// Leaf 2: "ask leaf 4", no TLB information.
    pub const LEAF_2: [u32; 4] = [0x00fe_ff01, 0, 0, 0];
}

impl CpuidTable {
    /// TDH.MNG.INIT's computation.
    pub(super) fn build(platform: &TdxPlatform, params: &TdParams) -> Result<Self, TdxStatus> {
        let refuse = TdxStatus::OPERAND_INVALID.with(operand::CPUID_CONFIG);
        let configs = platform.module.cpuid_config;
        for (config, values) in configs.iter().zip(&params.cpuid_values) {
            if config.bits().iter().zip(values).any(|(bits, value)| value & !bits != 0) {
                return Err(refuse);
            }
        }
        let enumerates = platform.module.features0 & features0::TOPOLOGY_ENUM != 0;
        let mut table = Self {
            xsave: XsaveArea::of(platform),
            caches: [0, 1, 2, 3].map(|subleaf| platform.native(4, subleaf)),
            ..Self::default()
        };
        for row in rules::rows(enumerates) {
            let config = configs
                .iter()
                .zip(params.cpuid_values)
                .find(|(c, _)| c.leaf == row.leaf && c.subleaf == row.subleaf);
            let native = platform.native(row.leaf, row.subleaf.unwrap_or(0));
            let mut entry =
                Entry { leaf: row.leaf, subleaf: row.subleaf, value: row.value(native, config) };
            table.adjust(&mut entry, platform, params).ok_or(refuse)?;
            table.entries.push(entry);
        }
        if enumerates {
            table.add_topology(platform, params)?;
        }
        if params.cpuid_values[configs.len()..].iter().any(|values| *values != [0; 4]) {
            return Err(TdxStatus::OPERAND_INVALID.with(operand::RDX));
        }
        Ok(table)
    }

    /// What depends on the TD's attributes, states and other leaves; `None` if the configuration is refused.
    fn adjust(
        &mut self,
        entry: &mut Entry,
        platform: &TdxPlatform,
        params: &TdParams,
    ) -> Option<()> {
        let xfam = params.xfam.0;
        for &(leaf, subleaf, states, bits) in rules::XFAM {
            let here = entry.leaf == leaf && entry.subleaf.unwrap_or(0) == subleaf;
            if here && xfam & states != states {
                entry.value.iter_mut().zip(bits).for_each(|(value, bits)| *value &= !bits);
            }
        }
        let value = &mut entry.value;
        let keep_if = |kept: bool, value: &mut [u32; 4]| {
            if !kept {
                *value = [0; 4];
            }
        };
        match (entry.leaf, entry.subleaf.unwrap_or(0)) {
            (1, _) => {
                if value[0] == 0 {
                    value[0] = platform.signature();
                }
                if value[0] != platform.signature() {
                    return None;
                }
                self.flags.monitor = value[2] >> 3 & 1 != 0;
                self.flags.dca = value[2] >> 18 & 1 != 0;
                self.flags.tsc_deadline = value[2] >> 24 & 1 != 0;
            }
            (5, _) => keep_if(self.flags.monitor, value),
            (7, 0) => {
                const PKS: u32 = 1 << 31;
                const KL: u32 = 1 << 23;
                let tsx = [value[1] >> 4 & 1, value[1] >> 11 & 1];
                if tsx[0] != tsx[1] {
                    return None;
                }
                value[2] &= !(PKS | KL);
                if params.attributes.contains(TdAttributes::PKS) {
                    value[2] |= PKS;
                }
                self.flags.tsx = tsx[0] != 0;
                self.flags.waitpkg = value[2] >> 5 & 1 != 0;
                self.flags.tme = value[2] >> 13 & 1 != 0;
                self.flags.la57 = value[2] >> 16 & 1 != 0;
                self.flags.mktme = value[3] >> 18 & 1 != 0;
            }
            (0xa | 0x23, _) => {
                keep_if(params.attributes.contains(TdAttributes::PERFMON), value);
            }
            (0xd, 0) => value[2] = self.xsave.standard(xfam & XCR0),
            (0xd, 1) => {
                const XFD: u32 = 1 << 4;
                // Of the states that TDs can have, the tile data are the one that can be disabled.
                if xfam & Xfam::AMX.0 == 0 {
                    value[0] &= !XFD;
                }
                self.flags.xfd = value[0] & XFD != 0;
            }
            (0xd, state) => keep_if(xfam >> state & 1 != 0, value),
            (0x14, _) => keep_if(xfam & Xfam::PT.0 != 0, value),
            (0x15, _) => value[1] = u32::from(params.tsc_frequency),
            (0x19, _) => keep_if(false, value),
            (0x1c, _) => keep_if(xfam >> 15 & 1 != 0, value),
            (0x1d, _) => keep_if(xfam & Xfam::AMX.0 == Xfam::AMX.0, value),
            (LAST_EXTENDED, _) => {
                let linear = if self.flags.la57 { 57 } else { 48 };
                value[0] = value[0] & !0xff00 | linear << 8;
            }
            _ => {}
        }
        Some(())
    }

    fn add_topology(&mut self, platform: &TdxPlatform, params: &TdParams) -> Result<(), TdxStatus> {
        let mut configured = [[0; 4]; SUBLEAVES];
        for (config, values) in platform.module.cpuid_config.iter().zip(params.cpuid_values) {
            if let (0x1f, Some(subleaf)) = (config.leaf, config.subleaf)
                && let Some(level) = configured.get_mut(subleaf as usize)
            {
                *level = values;
            }
        }
        let native = [0, 1, 2, 3, 4, 5].map(|subleaf| platform.native(0x1f, subleaf));
        let wide = topology::leaf_1f(configured, native)?;
        for (leaf, levels) in [(0xb, &topology::leaf_b(&wide)[..]), (0x1f, &wide[..])] {
            self.entries.extend((0..).zip(levels).map(|(subleaf, &value)| Entry {
                leaf,
                subleaf: Some(subleaf),
                value,
            }));
        }
        self.entries.sort_by_key(|entry| (entry.leaf, entry.subleaf));
        Ok(())
    }

    /// Features that other modules ask for.
    pub fn flags(&self) -> CpuidFlags {
        self.flags
    }

    /// What TDH.MNG.RD finds, in the order in which KVM_TDX_GET_CPUID asks: base leaves, then extended ones. KVM adds the
    /// address width to 8000_0008 itself.
    pub fn entries(&self) -> impl Iterator<Item = CpuidEntry> + '_ {
        self.entries.iter().map(|entry| CpuidEntry {
            function: entry.leaf,
            index: entry.subleaf.unwrap_or(0),
            flags: u32::from(entry.subleaf.is_some()),
            eax: entry.value[0],
            ebx: entry.value[1],
            ecx: entry.value[2],
            edx: entry.value[3],
            padding: [0; 3],
        })
    }

    fn find(&self, leaf: u32, subleaf: u32) -> Option<[u32; 4]> {
        self.entries
            .iter()
            .find(|e| e.leaf == leaf && e.subleaf.is_none_or(|own| own == subleaf))
            .map(|entry| entry.value)
    }
}

/// CPUID by the guest.
pub fn answer(td: &Td, vcpu: &TdVcpu, core: &Core, leaf: u32, subleaf: u32) -> CpuidAnswer {
    let forced = if core.cpl == 0 { vcpu.cpuid_ve.supervisor } else { vcpu.cpuid_ve.user };
    if HYPERVISOR.contains(&leaf) || forced {
        return CpuidAnswer::Ve;
    }
    // Above the last leaf stands the last base leaf.
    let leaf = match leaf {
        0..=LAST_BASE | 0x8000_0000..=LAST_EXTENDED => leaf,
        _ => LAST_BASE,
    };
    let table = td.cpuid_table();
    let reduced = td.td_ctls() & td_ctls::REDUCE_VE != 0;
    match table.find(leaf, subleaf) {
        Some(value) => dynamic(td, vcpu, core, leaf, subleaf, value),
        None if leaf == 2 && td.td_ctls() & td_ctls::VIRT_CPUID2 != 0 => {
            CpuidAnswer::Value(reduced::LEAF_2)
        }
        None if reduced && matches!(leaf, 0xb | 0x1f) => {
            CpuidAnswer::Value([0, 0, subleaf & 0xff, vcpu.x2apic_id])
        }
        None if reduced => CpuidAnswer::Value([0; 4]),
        None => CpuidAnswer::Ve,
    }
}

/// What depends on the moment.
fn dynamic(
    td: &Td,
    vcpu: &TdVcpu,
    core: &Core,
    leaf: u32,
    subleaf: u32,
    mut value: [u32; 4],
) -> CpuidAnswer {
    const PKE: u64 = 1 << 22;
    let table = td.cpuid_table();
    let reduced = td.td_ctls() & td_ctls::REDUCE_VE != 0;
    let enumerates = td.td_ctls() & td_ctls::ENUM_TOPOLOGY != 0;
    match (leaf, subleaf) {
        (1, _) => {
            let id = if enumerates { vcpu.x2apic_id } else { vcpu.index };
            value[1] = value[1] & 0x00ff_ffff | id << 24;
            value[2] |= u32::from(core.cr4 & cr4::OSXSAVE != 0) << 27;
            if reduced {
                value[2] &= !reduced::LEAF_1_ECX;
                value[3] &= !reduced::LEAF_1_EDX;
            }
        }
        (4, 0..=3) if reduced => {
            const SHARING: u32 = 0xffff_c000;
            let [eax, rest @ ..] = table.caches[subleaf as usize];
            value = [eax & !SHARING | value[0] & SHARING, rest[0], rest[1], rest[2]];
        }
        (7, 0) => {
            value[2] |= u32::from(core.cr4 & PKE != 0) << 4;
            if reduced {
                value[1] &= !reduced::LEAF_7_EBX;
                value[2] &= !reduced::LEAF_7_ECX;
                value[3] &= !reduced::LEAF_7_EDX;
            }
        }
        (0xb | 0x1f, _) if enumerates => value[3] = vcpu.x2apic_id,
        (0xb | 0x1f, _) => return CpuidAnswer::Ve,
        (0xd, 0) => value[1] = table.xsave.standard(core.xcr0),
        (0xd, 1) => value[1] = table.xsave.compacted(core.xcr0 | core.xss),
        (0x8000_0001, _) => value[3] |= u32::from(core.mode == Mode::Long64) << 11,
        _ => {}
    }
    CpuidAnswer::Value(value)
}
