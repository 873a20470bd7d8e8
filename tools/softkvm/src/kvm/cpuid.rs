//! CPUID: what KVM_GET_SUPPORTED_CPUID offers and how a vCPU answers.
//!
//! The processor does not have everything a real part of the profile has (no XSAVE and AVX, no
//! SMEP and SMAP …), and some of what it has runs slowly (BMI, ADX): such features are not offered,
//! so that a kernel does not use them. What it is offered beyond that ends the run when it is used.

use kvm_bindings::kvm_cpuid_entry2;

use super::profile::{Part, Profile};
use crate::cpu::Features;
use crate::snp::platform::Platform;

mod intel;

pub use intel::native;

/// Function that describes memory encryption; of its EBX, the position of the C-bit.
const SEV: u32 = 0x8000_001f;
const C_BIT: u32 = 0x3f;

/// KVM_CPUID_FLAG_SIGNIFCANT_INDEX.
const SIGNIFICANT: u32 = 1;

/// Function 1 EDX: FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH
/// MMX FXSR SSE SSE2.
const EDX_1: u32 = 0x078b_fbff;
/// Function 1 ECX: SSE3, SSSE3, CX16, SSE4.1, SSE4.2, x2APIC, TSC_DEADLINE, RDRAND, hypervisor.
const ECX_1: u32 = 1 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 21 | 1 << 24 | 1 << 30 | 1 << 31;
/// Function 7 EBX: SHA.
const EBX_7: u32 = 1 << 29;
/// Function 8000_0001 EDX: function 1's common bits, SYSCALL, NX, PDPE1GB, RDTSCP, LM.
const EDX_8000_0001: u32 = 0x0183_f3ff | 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29;
/// Function 8000_0001 ECX: LAHF, CMP_LEGACY, CR8_LEGACY, 3DNOWPREFETCH, OSVW, TOPOEXT.
const ECX_8000_0001: u32 = 1 | 1 << 1 | 1 << 4 | 1 << 8 | 1 << 22;

/// Highest basic function. Without XSAVE it must stay below 0xD: an SNP guest that can ask for
/// subleaf 1 there takes it for broken if it shows neither XSAVEC nor XSAVES (Linux 7.2
/// arch/x86/boot/startup/sev-shared.c `snp_cpuid_postprocess`).
const MAX_BASIC: u32 = 7;

/// KVM's features: CLOCKSOURCE, NOP_IO_DELAY, CLOCKSOURCE2, CLOCKSOURCE_STABLE.
const KVM_FEATURES: u32 = 1 | 1 << 1 | 1 << 3 | 1 << 24;

/// The function that says who the hypervisor is.
const KVM_SIGNATURE: u32 = 0x4000_0000;

fn entry(function: u32, index: Option<u32>, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        index: index.unwrap_or(0),
        flags: if index.is_some() { SIGNIFICANT } else { 0 },
        eax,
        ebx,
        ecx,
        edx,
        padding: [0; 3],
    }
}

fn text<const N: usize>(text: &str) -> [u32; N] {
    let mut bytes = text.bytes().chain(std::iter::repeat(0));
    std::array::from_fn(|_| {
        u32::from_le_bytes(std::array::from_fn(|_| bytes.next().unwrap_or_default()))
    })
}

/// KVM_GET_SUPPORTED_CPUID.
pub fn supported(profile: &Profile, part: &Part) -> Vec<kvm_cpuid_entry2> {
    match part {
        Part::Amd(platform) => amd(profile, platform),
        Part::Intel(xeon) => intel::supported(profile, &xeon.tdx),
    }
}

/// CPUID of an AMD part to a program on its host: what KVM hides of it is there, and no hypervisor.
pub fn host_amd(
    offered: &[kvm_cpuid_entry2],
    platform: &Platform,
    leaf: u32,
    subleaf: u32,
) -> [u32; 4] {
    let found = offered
        .iter()
        .find(|e| e.function == leaf && (e.index == subleaf || e.flags & SIGNIFICANT == 0));
    let [eax, ebx, ecx, edx] = found.map_or([0; 4], |e| [e.eax, e.ebx, e.ecx, e.edx]);
    match leaf {
        1 => [eax, ebx, ecx & !(1 << 31), edx],
        0x4000_0000..=0x4fff_ffff => [0; 4],
        // SME; every ASID is one for SEV-ES and SEV-SNP: the first for SEV alone would be the next.
        0x8000_001f => [eax | 1, ebx, platform.asids, platform.asids + 1],
        _ => [eax, ebx, ecx, edx],
    }
}

/// Function 8000_0008 EAX of a guest: what its page tables may hold, linear addresses of 48 bits, and what nested paging maps.
/// Linux arch/x86/kvm/cpuid.c `__do_cpuid_func` caps the last at 48 bits unless nested paging has five levels; here it has
/// them wherever addresses are wider.
fn widths(phys_bits: u8) -> u32 {
    let phys = u32::from(phys_bits);
    phys | 48 << 8 | phys << 16
}

/// The three entries with the brand string.
fn brand_string(profile: &Profile) -> impl Iterator<Item = kvm_cpuid_entry2> {
    let brand = text::<12>(&profile.brand);
    (0..3u32).map(move |part| {
        let at = part as usize * 4;
        let words = [brand[at], brand[at + 1], brand[at + 2], brand[at + 3]];
        entry(0x8000_0002 + part, None, words)
    })
}

fn amd(profile: &Profile, platform: &Platform) -> Vec<kvm_cpuid_entry2> {
    let vendor = text::<3>("AuthenticAMD");
    let (ebx, edx, ecx) = (vendor[0], vendor[1], vendor[2]);
    let signature = platform.signature();
    let kvm = text::<3>("KVMKVMKVM");
    let [sev_eax, _, _, _] = platform.cpuid_sev();
    let phys = profile.phys_bits;
    let mut table = vec![
        entry(0, None, [MAX_BASIC, ebx, ecx, edx]),
        // CLFLUSH lines of 64 bytes, one logical processor.
        entry(1, None, [signature, 0x0001_0800, ECX_1, EDX_1]),
        // ARAT.
        entry(6, None, [1 << 2, 0, 0, 0]),
        entry(7, Some(0), [0, EBX_7, 0, 0]),
        entry(0x4000_0000, None, [0x4000_0001, kvm[0], kvm[1], kvm[2]]),
        entry(0x4000_0001, None, [KVM_FEATURES, 0, 0, 0]),
        entry(0x8000_0000, None, [0x8000_0021, ebx, ecx, edx]),
        entry(0x8000_0001, None, [signature, 0, ECX_8000_0001, EDX_8000_0001]),
    ];
    table.extend(brand_string(profile));
    table.extend([
        // First-level caches and TLBs; second and third level.
        entry(0x8000_0005, None, [0xff40_ff40, 0xff40_ff40, 0x2008_0140, 0x2008_0140]),
        entry(0x8000_0006, None, [0x5c00_2200, 0x6c00_4200, 0x0200_6140, 0x0080_9140]),
        // Invariant TSC.
        entry(0x8000_0007, None, [0, 0, 0, 1 << 8]),
        entry(0x8000_0008, None, [widths(phys), 0, 0, 0]),
    ]);
    for (index, words) in [
        [0x0000_4121, 0x01c0_003f, 0x3f, 0],
        [0x0000_4122, 0x01c0_003f, 0x3f, 0],
        [0x0000_4143, 0x01c0_003f, 0x3ff, 2],
        [0x0001_c163, 0x03c0_003f, 0x7fff, 1],
        [0; 4],
    ]
    .into_iter()
    .enumerate()
    {
        table.push(entry(0x8000_001d, Some(index as u32), words));
    }
    table.extend([
        entry(0x8000_001e, None, [0; 4]),
        // KVM takes the physical address reduction and the number of VMPLs out.
        entry(0x8000_001f, None, [sev_eax, u32::from(platform.c_bit), platform.asids, 1]),
        // No nested data breakpoints, LFENCE serialises, null selectors clear their base.
        entry(0x8000_0021, None, [1 | 1 << 2 | 1 << 6, 0, 0, 0]),
    ]);
    table
}

/// A vCPU's table.
#[derive(Clone, Debug, Default)]
pub struct Table(pub Vec<kvm_cpuid_entry2>);

impl Table {
    fn find(&self, leaf: u32, subleaf: u32) -> Option<[u32; 4]> {
        self.0
            .iter()
            .find(|e| e.function == leaf && (e.flags & SIGNIFICANT == 0 || e.index == subleaf))
            .map(|e| [e.eax, e.ebx, e.ecx, e.edx])
    }

    fn has_leaf(&self, leaf: u32) -> bool {
        self.0.iter().any(|e| e.function == leaf)
    }

    fn is_amd(&self) -> bool {
        self.find(0, 0).is_none_or(|[_, ebx, _, _]| {
            ebx == u32::from_le_bytes(*b"Auth") || ebx == u32::from_le_bytes(*b"Hygo")
        })
    }

    /// The static answer (Linux arch/x86/kvm/cpuid.c `kvm_cpuid`): a missing function is zero on
    /// AMD parts, the highest basic one elsewhere.
    pub fn answer(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        if let Some(words) = self.find(leaf, subleaf) {
            return words;
        }
        if matches!(leaf, 0xb | 0x1f) {
            // Past the last level: the level number and the x2APIC id.
            return match self.find(leaf, 1) {
                Some([_, _, _, edx]) => [0, 0, subleaf & 0xff, edx],
                None => [0; 4],
            };
        }
        if self.has_leaf(leaf) || self.is_amd() {
            return [0; 4];
        }
        let class = leaf & 0x8000_0000;
        let max = self.find(class, 0).map_or(0, |words| words[0]);
        if leaf <= max {
            return [0; 4];
        }
        let max_basic = self.find(0, 0).map_or(0, |words| words[0]);
        self.find(max_basic, subleaf).unwrap_or([0; 4])
    }

    /// The extensions it offers.
    pub fn features(&self) -> Features {
        Features::from_cpuid(|leaf, subleaf| self.find(leaf, subleaf).unwrap_or([0; 4]))
    }

    /// Physical address bits; 36 where nobody says (Linux arch/x86/kvm/cpuid.c `cpuid_query_maxphyaddr`).
    pub fn phys_bits(&self) -> u8 {
        const WIDTHS: u32 = 0x8000_0008;
        let shown = self.find(0x8000_0000, 0).is_some_and(|[last, ..]| last >= WIDTHS);
        match self.find(WIDTHS, 0) {
            Some([eax, ..]) if shown && eax & 0xff != 0 => (eax & 0xff) as u8,
            _ => 36,
        }
    }

    /// KVM's features.
    pub fn pv_features(&self) -> u32 {
        self.find(KVM_SIGNATURE + 1, 0).map_or(0, |words| words[0])
    }

    /// A guest that does not leave on HLT cannot be kicked out of it: KVM takes the feature away
    /// (Linux arch/x86/kvm/cpuid.c `kvm_apply_cpuid_pv_features_quirk`).
    pub fn hide_unhalt(&mut self) {
        const PV_UNHALT: u32 = 1 << 7;
        let kvm = text::<3>("KVMKVMKVM");
        let signed =
            |e: &kvm_cpuid_entry2| e.function == KVM_SIGNATURE && [e.ebx, e.ecx, e.edx] == kvm;
        if self.0.iter().any(signed) {
            let features = self.0.iter_mut().filter(|e| e.function == KVM_SIGNATURE + 1);
            features.for_each(|e| e.eax &= !PV_UNHALT);
        }
    }

    /// Function 1 ECX.
    pub fn ecx_1(&self) -> u32 {
        self.find(1, 0).map_or(0, |words| words[2])
    }

    /// The C-bit of function 8000_001F, if SEV is shown.
    pub fn c_bit(&self) -> Option<u8> {
        let [eax, ebx, ..] = self.find(SEV, 0)?;
        (eax & 2 != 0).then_some((ebx & C_BIT) as u8)
    }

    /// Corrects a C-bit that is said to be at `from`.
    pub fn move_c_bit(&mut self, from: u8, to: u8) {
        let sev = self.0.iter_mut().find(|e| e.function == SEV && e.ebx & C_BIT == u32::from(from));
        if let Some(entry) = sev {
            entry.ebx = entry.ebx & !C_BIT | u32::from(to);
        }
    }
}

/// Position of the C-bit by the CPUID instruction of the processor that this program runs on, whatever it makes of the
/// function: this is what a monitor finds that does not ask KVM.
pub fn bare_c_bit() -> u8 {
    (std::arch::x86_64::__cpuid(SEV).ebx & C_BIT) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let profile = Profile::load("epyc-milan").unwrap();
        let part = profile.part(0).unwrap();
        Table(supported(&profile, &part))
    }

    #[test]
    fn what_the_processor_lacks_is_not_offered() {
        let features = table().features();
        for absent in [
            Features::XSAVE,
            Features::AVX,
            Features::POPCNT,
            Features::BMI1,
            Features::ADX,
            Features::SMEP,
            Features::SMAP,
            Features::PCID,
            Features::FSGSBASE,
            Features::LA57,
            Features::MONITOR,
            Features::SVM,
        ] {
            assert!(!features.intersects(absent), "{absent:?}");
        }
        for present in [
            Features::SSSE3,
            Features::SSE4_1,
            Features::SHA,
            Features::CX16,
            Features::RDTSCP,
            Features::RDRAND,
            Features::NX,
            Features::LM,
        ] {
            assert!(features.contains(present), "{present:?}");
        }
    }

    #[test]
    fn a_missing_function_is_zero_on_amd() {
        assert_eq!(table().answer(0x1234_5678, 0), [0; 4]);
        assert_eq!(table().answer(0xd, 5), [0; 4]);
    }

    #[test]
    fn the_firmware_accepts_what_is_offered_without_the_forbidden_bits() {
        let table = table();
        assert_eq!(table.c_bit(), Some(51));
        assert_eq!(table.answer(0x8000_001f, 0)[0] & 0x1a, 0x1a);
        assert_eq!(table.phys_bits(), 48);
    }

    #[test]
    fn a_c_bit_that_was_found_elsewhere_is_moved() {
        let mut table = table();
        table.move_c_bit(51, 47);
        assert_eq!(table.c_bit(), Some(47));
        table.move_c_bit(51, 46);
        assert_eq!(table.c_bit(), Some(47), "it is somewhere else");
        assert_eq!(table.answer(SEV, 0)[1] & !C_BIT, 0, "nothing else changes");
    }

    #[test]
    fn monitors_learn_how_wide_guest_addresses_may_be() {
        for (name, bits) in [("epyc-milan", 48), ("xeon-spr", 52)] {
            let profile = Profile::load(name).unwrap();
            let table = Table(supported(&profile, &profile.part(0).unwrap()));
            assert_eq!(table.answer(0x8000_0008, 0)[0], bits | 48 << 8 | bits << 16, "{name}");
        }
    }
}
