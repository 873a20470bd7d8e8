//! Kernel files: bzImage and ELF.

use cvmm::plan::kernel::KernelLayout;

use super::Target;

/// Parses whatever the file holds.
pub const TARGET: Target = Target { name: "kernel", seeds, max_len: 64 << 10, run };

fn seeds() -> Vec<Vec<u8>> {
    vec![bzimage(), elf_at(0x100_0000)]
}

fn run(input: &[u8]) {
    // Accepted or refused: what counts is that it comes back.
    let _ = KernelLayout::parse(input);
}

/// The fields of the setup header that a loader looks at (Linux Documentation/arch/x86/boot.rst).
pub(super) fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 0x4000];
    image[0x1f1] = 3;
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x200..0x202].copy_from_slice(&[0xeb, 0x6a]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    image[0x211] = 1;
    image[0x1f4..0x1f8].copy_from_slice(&0x380_u32.to_le_bytes());
    image[0x230..0x234].copy_from_slice(&0x20_0000_u32.to_le_bytes());
    image[0x234] = 1;
    image[0x236..0x238].copy_from_slice(&3_u16.to_le_bytes());
    image[0x238..0x23c].copy_from_slice(&2047_u32.to_le_bytes());
    image[0x258..0x260].copy_from_slice(&0x100_0000_u64.to_le_bytes());
    image[0x260..0x264].copy_from_slice(&0x10_0000_u32.to_le_bytes());
    image
}

/// A 64-bit executable with one loadable segment.
pub(super) fn elf_at(address: u64) -> Vec<u8> {
    let mut file = vec![0; 0x2000];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[6] = 1;
    file[16..18].copy_from_slice(&2_u16.to_le_bytes());
    file[18..20].copy_from_slice(&62_u16.to_le_bytes());
    file[20..24].copy_from_slice(&1_u32.to_le_bytes());
    file[24..32].copy_from_slice(&address.to_le_bytes());
    file[32..40].copy_from_slice(&64_u64.to_le_bytes());
    file[52..54].copy_from_slice(&64_u16.to_le_bytes());
    file[54..56].copy_from_slice(&56_u16.to_le_bytes());
    file[56..58].copy_from_slice(&1_u16.to_le_bytes());
    file[64..68].copy_from_slice(&1_u32.to_le_bytes());
    for (at, value) in [(72, 0x1000_u64), (80, address), (88, address), (96, 0x800)] {
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    file[104..112].copy_from_slice(&0x1000_u64.to_le_bytes());
    file
}
