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

/// A hashed bzImage whose guest accepts all memory at once.
fn eager(mib: u64, sizes: Sizes) -> Result<Layout, PlanError> {
    let memory = MemorySize::from_mib(mib);
    Layout::build(memory, &BZIMAGE, sizes, LoadMode::Hashed, AcceptMode::Eager)
}

fn check(layout: &Layout, kernel: &KernelLayout, sizes: Sizes) {
    let mut used = vec![Range { gpa: SHIM_BASE, len: WORK_END - SHIM_BASE }];
    let mut file = Range { gpa: layout.kernel.dest, len: sizes.kernel };
    if let KernelLayout::Elf { unpacked: Some(len), .. } = kernel {
        used.push(file);
        file = layout.unpacked;
        assert_eq!(file.len, *len);
    } else {
        assert_eq!(layout.unpacked, Range::EMPTY);
    }
    match kernel {
        KernelLayout::BzImage { memory, setup_bytes, .. } => {
            used.push(Range { gpa: file.gpa, len: (setup_bytes + memory).max(sizes.kernel) });
        }
        KernelLayout::Elf { segments, in_place: None, .. } => {
            used.push(file);
            used.extend(segments.iter().map(|s| Range { gpa: s.addr, len: s.size }));
        }
        KernelLayout::Elf { segments, in_place: Some(at), .. } => {
            assert_eq!(file.gpa, *at);
            let end = segments.iter().map(|s| s.addr + s.size).chain([file.end()]).max().unwrap();
            used.push(Range { gpa: *at, len: end - at });
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
    if sizes.second_stage != 0 {
        let waits = Range { gpa: layout.second_stage, len: sizes.second_stage };
        assert!(waits.gpa >= layout.staging.gpa && waits.end() <= layout.staging.end());
        assert_eq!(waits.gpa % PAGE, 0);
        used.push(waits);
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
    if !layout.accepted.is_empty() {
        check_accepted(layout, &used);
    }
    let map = layout.e820();
    for pair in map.windows(2) {
        assert!(pair[0].addr + pair[0].size <= pair[1].addr);
    }
}

/// Destinations are accepted before the kernel, and staging is not; all in whole units of RAM.
fn check_accepted(layout: &Layout, used: &[Range]) {
    let staging = layout.staging;
    let waits = |range: &Range| staging.len > 0 && range.overlaps(staging);
    for range in &layout.accepted {
        assert_eq!((range.gpa % LARGE_PAGE, range.len % LARGE_PAGE), (0, 0));
        assert!(range.len > 0 && !waits(range), "{range:x?}");
        assert!(layout.ram.iter().any(|r| r.gpa <= range.gpa && range.end() <= r.end()));
    }
    for pair in layout.accepted.windows(2) {
        assert!(pair[0].end() <= pair[1].gpa);
    }
    for range in used.iter().filter(|range| !waits(range)) {
        let inside = |a: &Range| a.gpa <= range.gpa && range.end() <= a.end();
        assert!(layout.accepted.iter().any(inside), "{range:x?} is not accepted");
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
        stays in any::<bool>(),
        packed in any::<bool>(),
        hashed in any::<bool>(),
        window in prop::option::of(0u64..64),
        stages in any::<bool>(),
    ) {
        let layout = if elf {
            let segments = vec![Segment { addr: 0x100_0000, size: kernel + 0x1000 }];
            let unpacked = packed.then_some(kernel * 3 + 5);
            KernelLayout::Elf { segments, in_place: stays.then_some(0xff_f000), unpacked }
        } else {
            BZIMAGE
        };
        let second_stage = if stages { 0x6000 } else { 0 };
        let sizes = Sizes { kernel, initrd, cmdline, second_stage };
        let load = if hashed { LoadMode::Hashed } else { LoadMode::Measured };
        let accept = match window {
            None => AcceptMode::Eager,
            Some(window) => AcceptMode::Lazy { window: Some(MemorySize::from_mib(2 * window)), prefault: false, parallel: false },
        };
        let mib = if window.is_some() { mib & !1 } else { mib };
        if let Ok(placed) = Layout::build(MemorySize::from_mib(mib), &layout, sizes, load, accept) {
            check(&placed, &layout, sizes);
            prop_assert_eq!(placed.accepted.is_empty(), window.is_none());
            prop_assert_eq!(placed.ram.iter().map(|ram| ram.len).sum::<u64>(), mib << 20);
        } else {
            prop_assert!(mib < 1024, "{mib} MiB refused");
        }
    }
}

#[test]
fn memory_beyond_three_gib_goes_above_four() {
    let sizes = Sizes { kernel: 0x10_0000, initrd: 0x10_0000, cmdline: 10, second_stage: 0 };
    let layout = eager(5120, sizes).unwrap();
    assert_eq!(layout.ram, [Range { gpa: 0, len: 3 << 30 }, Range { gpa: 4 << 30, len: 2 << 30 }]);
    assert!(layout.initrd.dest < 0x8000_0000, "the kernel takes no initrd above 2 GiB");
}

#[test]
fn too_little_memory_says_how_much_is_needed() {
    let sizes = Sizes { kernel: 0x100_0000, initrd: 0x100_0000, cmdline: 10, second_stage: 0x6000 };
    let error = eager(16, sizes).unwrap_err();
    let PlanError::TooLittleMemory { needed_mib, .. } = error else { panic!("{error}") };
    eager(needed_mib, sizes).unwrap();
}

#[test]
fn a_long_command_line_is_refused_not_cut() {
    let build = |cmdline| {
        let sizes = Sizes { kernel: 0x1000, initrd: 0, cmdline, second_stage: 0 };
        eager(512, sizes)
    };
    build(2048).unwrap();
    assert_eq!(build(2049), Err(PlanError::CmdlineTooLong { len: 2048, max: 2047 }));
}

#[test]
fn the_window_is_the_only_memory_above_four_gib() {
    let sizes = Sizes { kernel: 0x10_0000, initrd: 0x10_0000, cmdline: 10, second_stage: 0 };
    let window = Some(MemorySize::from_mib(64));
    let build = |mib| {
        let (memory, accept) = (
            MemorySize::from_mib(mib),
            AcceptMode::Lazy { window, prefault: false, parallel: false },
        );
        Layout::build(memory, &BZIMAGE, sizes, LoadMode::Hashed, accept)
    };
    let layout = build(512).unwrap();
    let window = Range { gpa: HIGH_MEMORY, len: 64 << 20 };
    assert_eq!(layout.ram, [Range { gpa: 0, len: 448 << 20 }, window]);
    assert_eq!(layout.accepted.last(), Some(&window));
    // Where there is more, it is the end of it.
    let layout = build(4096).unwrap();
    assert_eq!(layout.ram[1], Range { gpa: HIGH_MEMORY, len: 1 << 30 });
    assert_eq!(layout.accepted.last().unwrap().end(), layout.ram[1].end());
    assert_eq!(
        build(511).unwrap_err(),
        PlanError::NotInUnits { memory: MemorySize::from_mib(511) }
    );
}
