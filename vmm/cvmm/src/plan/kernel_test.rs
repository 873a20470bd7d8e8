//! Kernel files: sound, damaged, and hostile.

use proptest::prelude::*;

use super::*;

/// The smallest bzImage that is believed: one setup sector and some code.
pub(crate) fn bzimage(code: usize) -> Vec<u8> {
    let mut file = vec![0; 1024 + code];
    file[0x1f1] = 1;
    let syssize = (code as u32).div_ceil(16);
    file[0x1f4..0x1f8].copy_from_slice(&syssize.to_le_bytes());
    file[0x1fe..0x200].copy_from_slice(&0xaa55u16.to_le_bytes());
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    file[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    file[0x230..0x234].copy_from_slice(&0x20_0000u32.to_le_bytes());
    file[0x236..0x238].copy_from_slice(&0x3fu16.to_le_bytes());
    file[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
    file[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
    file[0x260..0x264].copy_from_slice(&0x40_0000u32.to_le_bytes());
    file
}

/// An ELF kernel with one segment.
pub(crate) fn elf() -> Vec<u8> {
    let mut file = vec![0; 0x1100];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[16..20].copy_from_slice(&[2, 0, 62, 0]);
    file[24..32].copy_from_slice(&0x100_0000u64.to_le_bytes());
    file[32] = 64;
    file[54] = 56;
    file[56] = 1;
    file[64] = 1;
    for (at, value) in
        [(8, 0x1000u64), (16, 0x100_0000), (24, 0x100_0000), (32, 0x100), (40, 0x2000)]
    {
        file[64 + at..72 + at].copy_from_slice(&value.to_le_bytes());
    }
    file
}

#[test]
fn sound_kernels_are_understood() {
    let layout = KernelLayout::parse(&bzimage(0x1000)).unwrap();
    let KernelLayout::BzImage { setup_bytes, preferred, memory, .. } = layout else {
        panic!("{layout:?}")
    };
    assert_eq!((setup_bytes, preferred, memory), (1024, 0x100_0000, 0x40_0000));
    let layout = KernelLayout::parse(&elf()).unwrap();
    let segments = vec![Segment { addr: 0x100_0000, size: 0x2000 }];
    assert_eq!(layout, KernelLayout::Elf { segments, in_place: Some(0xff_f000), unpacked: None });
}

#[test]
fn a_file_lies_where_its_segments_belong_if_none_is_in_the_way() {
    let place = |segments: &[(u64, u64, u64)]| {
        let offsets: Vec<u64> = segments.iter().map(|s| s.0).collect();
        let segments: Vec<Segment> =
            segments.iter().map(|(_, addr, size)| Segment { addr: *addr, size: *size }).collect();
        in_place(&segments, &offsets, 0x200)
    };
    // Debian's 6.12: the third is moved, and what comes after it.
    let kernel = [
        (0x20_0000, 0x100_0000, 0x1ac_0810),
        (0x1e0_0000, 0x2c0_0000, 0x6f_6000),
        (0x260_0000, 0x32f_6000, 0x3_9000),
        (0x272_f000, 0x332_f000, 0xed_1000),
    ];
    assert_eq!(place(&kernel), Some(0xe0_0000));
    assert_eq!(place(&[(0x1000, 0x20_0000, 0x100), (0x2000, 0x20_1000, 0x900)]), Some(0x1f_f000));
    // Zeros behind the first would take the second's contents; out of order; over the headers; too low; no page.
    assert_eq!(place(&[(0x1000, 0x20_0000, 0x1800), (0x2000, 0x20_1000, 0x100)]), None);
    assert_eq!(place(&[(0x2000, 0x20_1000, 0x100), (0x1000, 0x20_0000, 0x100)]), None);
    assert_eq!(place(&[(0x100, 0x20_0000, 0x1000)]), None);
    assert_eq!(place(&[(0x6_0000, 0x10_0000, 0x1000)]), None);
    assert_eq!(place(&[(0x1000, 0x20_0800, 0x1000)]), None);
}

#[test]
fn every_defect_has_its_own_words() {
    let damaged = |at: usize, bytes: &[u8]| {
        let mut file = bzimage(0x1000);
        file[at..at + bytes.len()].copy_from_slice(bytes);
        KernelLayout::parse(&file).unwrap_err()
    };
    assert_eq!(KernelLayout::parse(&[]), Err(KernelError::Empty));
    assert_eq!(KernelLayout::parse(b"#!/bin/sh"), Err(KernelError::UnknownFormat));
    assert_eq!(damaged(0x202, b"HdrT"), KernelError::UnknownFormat);
    assert_eq!(damaged(0x206, &[0x0b, 2]), KernelError::OldProtocol { major: 2, minor: 11 });
    assert_eq!(damaged(0x236, &[0x3e]), KernelError::Not64Bit);
    assert!(matches!(damaged(0x1fe, &[0]), KernelError::BadHeader(_)));
    assert!(matches!(damaged(0x260, &[0; 4]), KernelError::BadHeader(_)));
    assert!(matches!(damaged(0x260, &[0xff; 4]), KernelError::BadHeader(_)));
    assert!(matches!(damaged(0x230, &[1]), KernelError::BadHeader(_)));
    assert!(matches!(damaged(0x258, &[0xff; 8]), KernelError::BadHeader(_)));
    assert!(matches!(damaged(0x1f4, &[0xff; 4]), KernelError::Truncated { .. }));
    let mut half = bzimage(0x1000);
    half.truncate(0x800);
    assert_eq!(
        KernelLayout::parse(&half),
        Err(KernelError::Truncated { len: 0x800, promised: 0x1400 })
    );
}

#[test]
fn elf_files_that_are_no_kernels_are_refused() {
    let damaged = |at: usize, byte: u8| {
        let mut file = elf();
        file[at] = byte;
        KernelLayout::parse(&file).unwrap_err()
    };
    assert_eq!(damaged(4, 1), KernelError::Not64Bit);
    assert!(matches!(damaged(16, 1), KernelError::BadElf(_)), "an object file");
    assert!(matches!(damaged(18, 3), KernelError::BadElf(_)), "another machine");
    assert!(matches!(damaged(56, 0), KernelError::BadElf(_)), "no segments");
    assert!(matches!(damaged(64 + 24 + 4, 1), KernelError::BadElf(_)), "above 4 GiB");
    assert!(matches!(damaged(64 + 8 + 3, 1), KernelError::Truncated { .. }));
    assert!(matches!(damaged(64 + 24 + 3, 0), KernelError::BadElf(_)), "below 1 MiB");
    assert!(matches!(damaged(27, 9), KernelError::BadElf(_)), "entry outside");
}

proptest! {
    #[test]
    fn truncated_and_corrupted_files_never_panic(
        which in any::<bool>(),
        len in 0usize..6000,
        edits in prop::collection::vec((0usize..0x300, any::<u8>()), 0..24),
    ) {
        let mut file = if which { bzimage(0x1000) } else { elf() };
        for (at, byte) in edits {
            file[at] = byte;
        }
        file.truncate(len);
        if let Ok(layout) = KernelLayout::parse(&file) {
            // Whatever is believed can also be laid out or refused.
            let sizes = super::super::layout::Sizes { kernel: file.len() as u64, initrd: 0, cmdline: 1, second_stage: 0 };
            let memory = crate::config::MemorySize::from_mib(512);
            for load in [crate::config::LoadMode::Hashed, crate::config::LoadMode::Measured] {
                let _ = super::super::layout::Layout::build(memory, &layout, sizes, load, crate::config::AcceptMode::Eager);
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(file in prop::collection::vec(any::<u8>(), 0..2048)) {
        let _ = KernelLayout::parse(&file);
    }
}
