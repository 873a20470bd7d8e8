//! The address map: nothing overlaps, everything lies in RAM.

use abi::shim::{SHIM_BASE, WORK_END};
use proptest::prelude::*;

use super::super::kernel::Segment;
use super::*;

const BZIMAGE: KernelLayout = KernelLayout::BzImage {
    setup_bytes: 0x4000,
    preferred: 0x100_0000,
    alignment: 0x20_0000,
    memory: 0x300_0000,
    initrd_max: 0x7fff_ffff,
    cmdline_max: 2047,
};

fn check(layout: &Layout, kernel: &KernelLayout, sizes: Sizes) {
    let mut used = vec![Range { gpa: SHIM_BASE, len: WORK_END - SHIM_BASE }];
    let file = Range { gpa: layout.kernel.dest, len: sizes.kernel };
    match kernel {
        KernelLayout::BzImage { memory, setup_bytes, .. } => {
            used.push(Range { gpa: file.gpa, len: (setup_bytes + memory).max(sizes.kernel) });
        }
        KernelLayout::Elf { segments } => {
            used.push(file);
            used.extend(segments.iter().map(|s| Range { gpa: s.addr, len: s.size }));
        }
    }
    used.extend([layout.initrd, layout.cmdline].iter().map(|p| Range { gpa: p.dest, len: p.len }));
    for place in [layout.kernel, layout.initrd, layout.cmdline] {
        if place.staging != 0 {
            assert_eq!(place.staging % PAGE, 0);
            assert!(place.staging >= layout.staging.gpa);
            assert!(place.staging + place.len <= layout.staging.end());
            used.push(Range { gpa: place.staging, len: place.len.next_multiple_of(PAGE) });
        }
    }
    used.retain(|r| r.len > 0);
    for (at, a) in used.iter().enumerate() {
        assert!(
            layout.ram.iter().any(|r| r.gpa <= a.gpa && a.end() <= r.end()),
            "{a:x?} is not RAM"
        );
        for b in &used[at + 1..] {
            assert!(!a.overlaps(*b), "{a:x?} overlaps {b:x?}");
        }
    }
    for private in layout.private() {
        assert!(layout.staging.len == 0 || !private.overlaps(layout.staging));
        assert!(private.len > 0);
    }
    let map = layout.e820();
    for pair in map.windows(2) {
        assert!(pair[0].addr + pair[0].size <= pair[1].addr);
    }
}

proptest! {
    #[test]
    fn nothing_overlaps(
        mib in 1u64..8192,
        kernel in 0x1000u64..0x200_0000,
        initrd in 0u64..0x800_0000,
        cmdline in 1u64..2048,
        elf in any::<bool>(),
        hashed in any::<bool>(),
    ) {
        let layout = if elf {
            KernelLayout::Elf { segments: vec![Segment { addr: 0x100_0000, size: kernel + 0x1000 }] }
        } else {
            BZIMAGE
        };
        let sizes = Sizes { kernel, initrd, cmdline };
        let load = if hashed { LoadMode::Hashed } else { LoadMode::Measured };
        if let Ok(placed) = Layout::build(MemorySize::from_mib(mib), &layout, sizes, load) {
            check(&placed, &layout, sizes);
        } else {
            prop_assert!(mib < 1024, "{mib} MiB refused");
        }
    }
}

#[test]
fn memory_beyond_three_gib_goes_above_four() {
    let sizes = Sizes { kernel: 0x10_0000, initrd: 0x10_0000, cmdline: 10 };
    let layout =
        Layout::build(MemorySize::from_mib(5120), &BZIMAGE, sizes, LoadMode::Hashed).unwrap();
    assert_eq!(layout.ram, [Range { gpa: 0, len: 3 << 30 }, Range { gpa: 4 << 30, len: 2 << 30 }]);
    assert!(layout.initrd.dest < 0x8000_0000, "the kernel takes no initrd above 2 GiB");
}

#[test]
fn too_little_memory_says_how_much_is_needed() {
    let sizes = Sizes { kernel: 0x100_0000, initrd: 0x100_0000, cmdline: 10 };
    let error =
        Layout::build(MemorySize::from_mib(16), &BZIMAGE, sizes, LoadMode::Hashed).unwrap_err();
    let PlanError::TooLittleMemory { needed_mib, .. } = error else { panic!("{error}") };
    Layout::build(MemorySize::from_mib(needed_mib), &BZIMAGE, sizes, LoadMode::Hashed).unwrap();
}

#[test]
fn a_long_command_line_is_refused_not_cut() {
    let build = |cmdline| {
        let sizes = Sizes { kernel: 0x1000, initrd: 0, cmdline };
        Layout::build(MemorySize::from_mib(512), &BZIMAGE, sizes, LoadMode::Hashed)
    };
    build(2048).unwrap();
    assert_eq!(build(2049), Err(PlanError::CmdlineTooLong { len: 2048, max: 2047 }));
}
