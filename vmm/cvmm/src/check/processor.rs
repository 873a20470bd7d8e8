//! The host's processor, by CPUID.

/// How CPUID is asked: leaf and subleaf give EAX, EBX, ECX and EDX.
pub type Cpuid<'a> = &'a dyn Fn(u32, u32) -> [u32; 4];

/// What CPUID says that both technologies look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessorFacts {
    /// Vendor identification.
    pub vendor: String,
    /// Family, base and extended added.
    pub family: u32,
    /// Model, base and extended combined.
    pub model: u32,
    /// Its name.
    pub brand: String,
    /// This host is itself a virtual machine.
    pub virtual_machine: bool,
    /// The highest basic and extended leaf.
    max: [u32; 2],
}

impl ProcessorFacts {
    /// Asks.
    pub fn gather(cpuid: Cpuid) -> ProcessorFacts {
        let [max_basic, ebx, ecx, edx] = cpuid(0, 0);
        let max_extended = cpuid(0x8000_0000, 0)[0];
        let [signature, _, features, _] = cpuid(1, 0);
        let base = signature >> 8 & 0xf;
        let brand = (0x8000_0002..=0x8000_0004).filter(|leaf| *leaf <= max_extended);
        let brand: Vec<u32> = brand.flat_map(|leaf| cpuid(leaf, 0)).collect();
        ProcessorFacts {
            vendor: letters(&[ebx, edx, ecx]),
            family: if base == 0xf { base + (signature >> 20 & 0xff) } else { base },
            model: signature >> 4 & 0xf | (signature >> 16 & 0xf) << 4,
            brand: letters(&brand).split_whitespace().collect::<Vec<_>>().join(" "),
            virtual_machine: features >> 31 != 0,
            max: [max_basic, max_extended],
        }
    }

    /// Whether CPUID has a leaf at all.
    pub fn has(&self, leaf: u32) -> bool {
        leaf <= self.max[usize::from(leaf >> 31 != 0)]
    }

    /// Vendor and numbers, for people.
    pub fn numbers(&self) -> String {
        format!("{}, family {:#x}, model {:#x}", self.vendor, self.family, self.model)
    }
}

fn letters(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
}
