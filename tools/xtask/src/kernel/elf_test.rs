//! Trimming vmlinux: what is loaded stays, what is zero goes, what is broken is refused.

use super::trim;

/// Physical addresses are virtual ones of this.
const VIRTUAL: u64 = 1 << 40;

/// An ELF file with segments of (physical address, bytes, length in memory), each at a multiple of 0x1000 of the file, and a
/// section without contents from a physical address on.
fn elf(segments: &[(u64, &[u8], u64)], bss: u64) -> Vec<u8> {
    let mut file = vec![0_u8; 64];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[32..40].copy_from_slice(&64_u64.to_le_bytes());
    file[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
    file[60..62].copy_from_slice(&1_u16.to_le_bytes());
    let mut offset = 0x2000_u64;
    for (physical, bytes, memory) in segments {
        let words = [offset, VIRTUAL + physical, *physical, bytes.len() as u64, *memory, 0x20_0000];
        file.extend(1_u32.to_le_bytes());
        file.extend(5_u32.to_le_bytes());
        file.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        offset += (bytes.len() as u64).next_multiple_of(0x1000);
    }
    let mut offset = 0x2000;
    for (_, bytes, _) in segments {
        file.resize(offset, 0xee);
        file.extend(*bytes);
        offset += bytes.len().next_multiple_of(0x1000);
    }
    let table = file.len() as u64;
    file[40..48].copy_from_slice(&table.to_le_bytes());
    let section = [8 << 32, 3, VIRTUAL + bss, 0, 0x1000, 0, 0, 0_u64];
    file.extend(section.iter().flat_map(|word| word.to_le_bytes()));
    file.extend(b"symbols");
    file
}

/// What a loader makes of it: (physical address, bytes with their zeros).
fn load(file: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("8 bytes"));
    let count = u16::from_le_bytes([file[56], file[57]]);
    (0..usize::from(count))
        .map(|index| {
            let at = 64 + index * 56;
            let (offset, physical) = (word(at + 8) as usize, word(at + 24));
            let mut memory = file[offset..offset + word(at + 32) as usize].to_vec();
            memory.resize(word(at + 40) as usize, 0);
            (physical, memory)
        })
        .collect()
}

#[test]
fn a_loader_makes_the_same_of_it() {
    let mut data = vec![7_u8; 100];
    data.resize(0x8000, 0);
    let text = [1_u8; 0x1800];
    let segments: [(u64, &[u8], u64); 2] =
        [(0x100_0000, &text, 0x1800), (0x120_0000, &data, 0x9000)];
    let file = elf(&segments, 0x120_0200);
    let trimmed = trim(&file).expect("an ELF file");
    assert_eq!(load(&trimmed), load(&file));
    // A page of headers, two of text, and the data; zeros before .bss are data, which nobody clears.
    assert_eq!(trimmed.len(), 0x3000 + 0x200);
    assert_eq!(trimmed[40..48], [0; 8], "no section headers");
    assert_eq!(trim(&trimmed).expect("again"), trimmed);
    // What is not zero stays, wherever it lies.
    let mut other = data.clone();
    other[0x7000] = 1;
    let file = elf(&[segments[0], (0x120_0000, &other, 0x9000)], 0x120_0200);
    assert_eq!(trim(&file).expect("an ELF file").len(), 0x3000 + 0x8000);
}

#[test]
fn what_is_no_kernel_is_refused() {
    let good = elf(&[(0x100_0000, &[1; 0x1000], 0x1000)], 0);
    assert!(trim(b"").is_err());
    assert!(trim(&good[..70]).is_err(), "program headers missing");
    assert!(trim(&good[..0x2800]).is_err(), "segment missing");
    let mut none = good.clone();
    none[56] = 0;
    assert!(trim(&none).is_err(), "nothing to load");
    let mut far = good;
    far[32..40].fill(0xff);
    assert!(trim(&far).is_err(), "program headers beyond the file");
}
