//! Firmware images: OVMF's table of GUIDs, its SEV metadata and its TDVF metadata.

use cvmm::plan::ovmf::Guid;
use cvmm::plan::snp_firmware::SnpFirmware;
use cvmm::plan::tdx_firmware::TdxFirmware;

use super::Target;

/// The end of an image: the input is put there, for everything is found from the end.
pub const TARGET: Target = Target { name: "firmware", seeds, max_len: IMAGE, run };

const IMAGE: usize = 16 << 10;
const FOOTER: Guid =
    Guid::new(0x96b5_82de, 0x1fb2, 0x45f7, [0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d]);
const SEV: Guid =
    Guid::new(0xdc88_6566, 0x984a, 0x4798, [0xa7, 0x5e, 0x55, 0x85, 0xa7, 0xbf, 0x67, 0xcc]);
const HASHES: Guid =
    Guid::new(0x7255_371f, 0x3a3b, 0x4b04, [0x92, 0x7b, 0x1d, 0xa6, 0xef, 0xa8, 0xd4, 0x54]);
const TDX: Guid =
    Guid::new(0xe47a_6535, 0x984a, 0x4798, [0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2]);

fn run(input: &[u8]) {
    let mut image = vec![0; IMAGE - input.len()];
    image.extend(input);
    // Accepted or refused: what counts is that it comes back, and that what is accepted stays below 4 GiB.
    if let Ok(snp) = SnpFirmware::parse(&image) {
        assert!(snp.memory_end() <= 1 << 32);
    }
    if let Ok(tdx) = TdxFirmware::parse(&image) {
        assert!(tdx.memory_end() <= 1 << 32 && tdx.hob_gpa() < 1 << 32);
    }
    // An image as it comes, of any length.
    let _ = SnpFirmware::parse(input);
    let _ = TdxFirmware::parse(input);
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Metadata of both technologies, and the table that leads to it.
fn seeds() -> Vec<Vec<u8>> {
    let base = (1u64 << 32) - IMAGE as u64;
    let sev = [
        words(&[u32::from_le_bytes(*b"ASEV"), 16 + 4 * 12, 1, 4]),
        words(&[0x80_0000, 0x9000, 1, 0x80_d000, 0x1000, 2]),
        words(&[0x80_e000, 0x1000, 3, 0x81_0000, 0x1000, 0x10]),
    ]
    .concat();
    let section = |in_file: u32, gpa: u64, len: u64, kind: u32, attributes: u32| {
        [
            words(&[0, in_file]),
            gpa.to_le_bytes().to_vec(),
            len.to_le_bytes().to_vec(),
            words(&[kind, attributes]),
        ]
        .concat()
    };
    let tdx = [
        words(&[u32::from_le_bytes(*b"TDVF"), 16 + 3 * 32, 1, 3]),
        section(IMAGE as u32, base, IMAGE as u64, 0, 1),
        section(0, 0x80_9000, 0x2000, 2, 0),
        section(0, 0x80_0000, 0x6000, 3, 0),
    ]
    .concat();
    let mut table = Vec::new();
    let mut append = |guid: Guid, data: &[u8], len: usize| {
        table.extend(data);
        table.extend((len as u16).to_le_bytes());
        table.extend(guid.0);
    };
    append(HASHES, &words(&[0x81_0c00, 0x400]), 26);
    append(SEV, &words(&[0x400]), 22);
    append(TDX, &words(&[0x300]), 22);
    append(FOOTER, &[], 26 + 22 + 22 + 18);
    let mut end = vec![0; 0x400];
    end[..sev.len()].copy_from_slice(&sev);
    end[0x100..0x100 + tdx.len()].copy_from_slice(&tdx);
    let at = 0x400 - 32 - table.len();
    end[at..0x400 - 32].copy_from_slice(&table);
    vec![end]
}
