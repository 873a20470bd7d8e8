//! Payloads that are found, and what is said of those that are not.

use super::super::kernel::tests::{bzimage, elf};
use super::super::kernel::{KernelLayout, Segment};
use super::*;

/// A block of literals only.
fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut block = vec![0xf0];
    let more = bytes.len() - 15;
    block.extend(vec![255; more / 255]);
    block.push((more % 255) as u8);
    [&block, bytes].concat()
}

/// The legacy frame of these blocks.
pub(crate) fn frame(blocks: &[Vec<u8>], len: u32) -> Vec<u8> {
    let mut frame = LZ4.to_vec();
    for block in blocks {
        frame.extend((block.len() as u32).to_le_bytes());
        frame.extend(block);
    }
    frame.extend(len.to_le_bytes());
    frame
}

/// A bzImage that has such a payload somewhere.
pub(crate) fn bzimage_of(payload: &[u8]) -> Vec<u8> {
    let at = 0x2c4;
    let mut file = bzimage(at + payload.len() + 100);
    file[0x248..0x24c].copy_from_slice(&(at as u32).to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file[1024 + at..][..payload.len()].copy_from_slice(payload);
    file
}

/// One whose payload is the ELF file of the tests, and something behind it.
pub(crate) fn packed_elf() -> Vec<u8> {
    let (first, rest) = (elf(), [9; 50]);
    let len = first.len() + rest.len();
    bzimage_of(&frame(&[stored(&first), stored(&rest)], len as u32))
}

#[test]
fn an_elf_file_is_found() {
    let file = packed_elf();
    let (layout, place) = KernelLayout::parse_packed(&file).unwrap();
    let segments = vec![Segment { addr: 0x100_0000, size: 0x2000 }];
    let unpacked = Some(0x1100 + 50);
    assert_eq!(layout, KernelLayout::Elf { segments, in_place: Some(0xff_f000), unpacked });
    assert!(file[place.clone()].starts_with(&LZ4) && place.start == 1024 + 0x2c4);
}

#[test]
fn matches_are_unpacked_at_every_distance() {
    // "abcd", then eight bytes from four back, then a run of "x".
    let block = [&[0x44][..], b"abcd", &[4, 0, 0x1f], b"x", &[1, 0, 200, 0x10], b"!"].concat();
    let all = [b"abcdabcdabcd".to_vec(), vec![b'x'; 1 + 219], b"!".to_vec()].concat();
    assert_eq!(unpack(&block, 4096), Some(all.clone()));
    for wanted in 1..all.len() {
        let some = unpack(&block, wanted).unwrap();
        assert!(some.len() >= wanted && all.starts_with(&some[..wanted]));
    }
    for len in 1..block.len() {
        // Literals may be the last that there is.
        let expected = match len {
            5 => Some(&all[..4]),
            9 => Some(&all[..13]),
            _ => None,
        };
        assert_eq!(unpack(&block[..len], 4096).as_deref(), expected, "{len}");
    }
    assert_eq!(unpack(&[0x10, b'a', 0, 0, 0], 100), None, "offset 0");
    assert_eq!(unpack(&[0x10, b'a', 2, 0, 0], 100), None, "before the start");
}

#[test]
fn other_payloads_are_named_with_a_cure() {
    let error = |file: &[u8]| KernelLayout::parse_packed(file).unwrap_err();
    assert_eq!(error(&elf()), KernelError::NotPacked);
    for (magic, name) in OTHERS {
        let file = bzimage_of(&[magic, &[0; 100]].concat());
        assert_eq!(error(&file), KernelError::Compression(name));
        assert!(error(&file).cure().contains("CONFIG_KERNEL_LZ4"));
    }
    assert!(matches!(error(&bzimage(0x1000)), KernelError::Compression(_)), "no payload");
    let sound = frame(&[stored(&elf())], 0x1100);
    let mut cases = vec![
        frame(&[stored(&[7; 5000])], 5000),
        frame(&[vec![0x10, b'a', 2, 0, 0]], 5000),
        frame(&[], 0),
        frame(&[stored(&elf())], u32::MAX),
    ];
    cases.extend((4..sound.len()).step_by(7).map(|len| sound[..len].to_vec()));
    for (index, payload) in cases.iter().enumerate() {
        let error = error(&bzimage_of(payload));
        let told = matches!(error, KernelError::BadPayload(_) | KernelError::Truncated { .. });
        assert!(told, "case {index}: {error}");
    }
    let mut file = bzimage_of(&sound);
    file[0x24f] = 0xff;
    assert!(matches!(error(&file), KernelError::BadPayload(_)), "ends after the file");
}
