//! The whole way, on the mock machine.

use abi::boot::{BootParams, CcBlobSevInfo, E820Type, SETUP_CC_BLOB};
use abi::marks::{BLOB_KERNEL, MarkId};
use abi::shim::{
    BOOT_PARAMS_GPA, CC_BLOB_GPA, CMDLINE_GPA, CPUID_GPA, E820Entry, Flags, HIGH_RAM_START,
    KernelKind, LARGE_PAGE, LOW_E820, LOW_RAM_END, LoadMode, PAGE, SECRETS_GPA, SHIM_BASE,
    Technology, Termination, WORK_END,
};

use crate::mock::{Guest, INITRD, KERNEL_LOAD, MEMORY, STAGING, bzimage, setup_header};
use crate::platform::{Platform, Validation, object};
use crate::range::{second_stage, stagings};
use crate::zero_page::{CC_BLOB, CcPage};

/// Pages that the shim must have accepted: RAM without its own pages.
pub fn expected(guest: &Guest) -> Vec<u64> {
    let low = (0..SHIM_BASE).chain(WORK_END..LOW_RAM_END);
    let all = low.step_by(PAGE as usize).chain((HIGH_RAM_START..MEMORY).step_by(PAGE as usize));
    let mut pages: Vec<u64> = all.filter(|page| page % PAGE == 0).collect();
    pages.retain(|page| !(SHIM_BASE..WORK_END).contains(page));
    assert!(guest.mock.protected());
    pages
}

#[test]
fn hashed_bzimage_is_accepted_copied_and_entered() {
    let mut guest = Guest::bzimage(Technology::SNP, LoadMode::HASHED);
    assert_eq!(guest.run(), Ok(KERNEL_LOAD + 0x200));
    let accepted: Vec<u64> = guest.mock.validated.iter().copied().collect();
    assert_eq!(accepted, expected(&guest));
    let file = bzimage(&setup_header());
    assert_eq!(guest.mock.bytes(KERNEL_LOAD - 4096, file.len() as u64), file);
    // Only staging had to change hands.
    assert_eq!(guest.mock.made_private, stagings(&guest.params));
    let ids: Vec<MarkId> = guest.mock.marks.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids.first(), Some(&MarkId::SHIM_ENTRY));
    assert_eq!(ids.last(), Some(&MarkId::KERNEL_ENTRY));
    assert!(guest.mock.marks.contains(&(MarkId::VERIFY_END, BLOB_KERNEL)));
}

#[test]
fn boot_params_say_what_the_parameters_say() {
    let mut guest = Guest::bzimage(Technology::SNP, LoadMode::HASHED);
    guest.run().unwrap();
    let page: &BootParams = object(&guest.mock, BOOT_PARAMS_GPA).unwrap();
    assert_eq!({ page.hdr.ramdisk_image }, INITRD as u32);
    assert_eq!({ page.hdr.ramdisk_size }, 10_000);
    assert_eq!({ page.hdr.cmd_line_ptr }, CMDLINE_GPA as u32);
    assert_eq!(page.hdr.type_of_loader, 0xFF);
    assert_eq!({ page.hdr.init_size }, { setup_header().init_size });
    assert_eq!({ page.hdr.code32_start }, KERNEL_LOAD as u32);
    assert_eq!({ page.acpi_rsdp_addr }, guest.params.acpi_rsdp);
    assert_eq!(page.sentinel, 0);
    assert_eq!(u32::from(page.e820_entries), guest.params.e820_count);
    assert_eq!({ page.e820_table[LOW_E820.len()].addr }, HIGH_RAM_START);
    assert_eq!({ page.hdr.setup_data }, CC_BLOB_GPA);
    assert_eq!(u64::from(page.cc_blob_address), CC_BLOB);
    let cc: &CcPage = object(&guest.mock, CC_BLOB_GPA).unwrap_or_else(|_| panic!("aligned"));
    assert_eq!((cc.setup_data.next, cc.setup_data.kind), (0, SETUP_CC_BLOB));
    assert_eq!(u64::from(cc.setup_data.cc_blob_address), CC_BLOB);
    assert_eq!(cc.blob.magic, CcBlobSevInfo::MAGIC);
    assert_eq!((cc.blob.secrets_phys, cc.blob.secrets_len), (SECRETS_GPA, 4096));
    assert_eq!((cc.blob.cpuid_phys, cc.blob.cpuid_len), (CPUID_GPA, 4096));
}

#[test]
fn measured_blobs_are_neither_accepted_nor_touched() {
    let mut guest = Guest::bzimage(Technology::SNP, LoadMode::MEASURED);
    assert_eq!(guest.run(), Ok(KERNEL_LOAD + 0x200));
    let accepted: Vec<u64> = guest.mock.validated.iter().copied().collect();
    assert_eq!(accepted, expected(&guest));
    assert_eq!(guest.mock.made_private, [second_stage(&guest.params)]);
}

#[test]
fn plain_guest_accepts_nothing_and_has_no_cc_blob() {
    for load in [LoadMode::HASHED, LoadMode::MEASURED] {
        let mut guest = Guest::bzimage(Technology::PLAIN, load);
        let before = guest.mock.validated.len();
        assert_eq!(guest.run(), Ok(KERNEL_LOAD + 0x200));
        assert_eq!(guest.mock.validated.len(), before);
        let page: &BootParams = object(&guest.mock, BOOT_PARAMS_GPA).unwrap();
        assert_eq!({ page.hdr.setup_data }, 0);
        assert_eq!({ page.cc_blob_address }, 0);
    }
}

#[test]
fn without_ram_private_every_range_is_asked_for() {
    let mut guest = Guest::bzimage(Technology::SNP, LoadMode::HASHED);
    guest.params.flags = 0;
    guest.run().unwrap();
    let asked: u64 = guest.mock.made_private.iter().map(|range| range.end - range.start).sum();
    assert_eq!(asked, guest.mock.validated.len() as u64 * PAGE);
}

/// The number of the only mark of its kind.
pub fn number(guest: &Guest, id: MarkId) -> u64 {
    let mut numbers = guest.mock.marks.iter().filter(|(other, _)| *other == id).map(|(_, n)| *n);
    let number = numbers.next().unwrap();
    assert_eq!(numbers.next(), None);
    u64::from(number)
}

/// The counts of both passes, which make up everything that was accepted.
pub fn count_everything(guest: &Guest) {
    let small = [MarkId::ACCEPT_SMALL, MarkId::STAGING_RECLAIMED].map(|id| number(guest, id));
    let large = [MarkId::ACCEPT_LARGE, MarkId::STAGING_LARGE].map(|id| number(guest, id));
    let pages = small[0] + small[1] + (large[0] + large[1]) * (LARGE_PAGE / PAGE);
    assert_eq!(pages, expected(guest).len() as u64);
    assert_eq!(number(guest, MarkId::ACCEPT_END), small[0].div_ceil(512));
    let staged: u64 =
        stagings(&guest.params).iter().map(|range| (range.end - range.start) / PAGE).sum();
    assert_eq!(small[1] + large[1] * (LARGE_PAGE / PAGE), staged);
    let mismatches = number(guest, MarkId::ACCEPT_MISMATCHES);
    let staging_mismatches = number(guest, MarkId::STAGING_MISMATCHES);
    match guest.mock.small_pages {
        true => assert_eq!((large, mismatches > 0), ([0, 0], true)),
        false => assert_eq!((large[0] > 0, mismatches + staging_mismatches), (true, 0)),
    }
}

#[test]
fn large_pages_are_tried_first_and_mismatches_counted() {
    let mut guest = Guest::bzimage(Technology::SNP, LoadMode::HASHED);
    guest.run().unwrap();
    // 2 MiB..48 MiB and the large pages behind staging, which takes the first of 48 MiB..64 MiB.
    let large = (MEMORY / LARGE_PAGE - 2) as u32;
    assert!(guest.mock.marks.contains(&(MarkId::ACCEPT_MISMATCHES, large)));
    count_everything(&guest);

    let mut guest = Guest::bzimage(Technology::SNP, LoadMode::HASHED);
    guest.mock.small_pages = false;
    guest.run().unwrap();
    assert!(guest.mock.marks.contains(&(MarkId::ACCEPT_MISMATCHES, 0)));
    count_everything(&guest);
    let accepted: Vec<u64> = guest.mock.validated.iter().copied().collect();
    assert_eq!(accepted, expected(&guest));
}

#[test]
fn memory_above_4_gib_is_accepted_through_the_window() {
    let mut guest = Guest::bzimage(Technology::SNP, LoadMode::HASHED);
    let (start, size) = (4 << 30, (2 << 30) + PAGE);
    let count = guest.params.e820_count as usize;
    guest.params.e820[count] = E820Entry { addr: start, size, kind: E820Type::RAM, reserved: 0 };
    guest.params.e820_count += 1;
    guest.mock.small_pages = false;
    guest.run().unwrap();
    let above: Vec<u64> = guest.mock.validated.range(start..).copied().collect();
    assert_eq!(above.len() as u64, size / PAGE);
    assert_eq!(above.last(), Some(&(start + size - PAGE)));
}

#[test]
fn a_flipped_bit_in_a_blob_names_the_blob() {
    type Pick = fn(&Guest) -> u64;
    let cases: [(Pick, Termination); 3] = [
        (|g| g.params.kernel.staging + 19_999, Termination::KERNEL_HASH),
        (|g| g.params.initrd.staging, Termination::INITRD_HASH),
        (|g| g.params.cmdline.staging + 3, Termination::CMDLINE_HASH),
    ];
    for (pick, code) in cases {
        let mut guest = Guest::bzimage(Technology::SNP, LoadMode::HASHED);
        let at = pick(&guest);
        guest.mock.bytes_mut(at, 1)[0] ^= 1;
        assert_eq!(guest.run(), Err(code));
    }
}

#[test]
fn a_page_accepted_twice_ends_the_guest() {
    let mut guest = Guest::bzimage(Technology::SNP, LoadMode::HASHED);
    guest.mock.inject = Some((0x60_0000, Validation::Already));
    assert_eq!(guest.run(), Err(Termination::DOUBLE_VALIDATION));
    // A staging page too.
    let mut guest = Guest::bzimage(Technology::SNP, LoadMode::HASHED);
    guest.mock.inject = Some((STAGING, Validation::Already));
    assert_eq!(guest.run(), Err(Termination::DOUBLE_VALIDATION));
    let mut guest = Guest::bzimage(Technology::SNP, LoadMode::HASHED);
    guest.mock.inject = Some((0x10_0000, Validation::Failed));
    assert_eq!(guest.run(), Err(Termination::PVALIDATE));
    // A size mismatch of a small page is no answer either.
    let mut guest = Guest::bzimage(Technology::SNP, LoadMode::HASHED);
    guest.mock.inject = Some((0x10_0000, Validation::SizeMismatch));
    assert_eq!(guest.run(), Err(Termination::PVALIDATE));
}

#[test]
fn the_command_line_ends_with_its_only_nul() {
    for text in [&b"console=ttyS0"[..], b"console\0ttyS0\0"] {
        let mut guest = Guest::bzimage(Technology::SNP, LoadMode::HASHED);
        guest.params.cmdline.size = text.len() as u64;
        guest.params.cmdline.digest = crate::sha256::digest(text, false);
        let at = guest.params.cmdline.staging;
        guest.mock.write(at, text);
        assert_eq!(guest.run(), Err(Termination::BAD_CMDLINE));
    }
}

#[test]
fn bios_data_area_is_zero() {
    let mut guest = Guest::bzimage(Technology::SNP, LoadMode::HASHED);
    guest.mock.write(0, &[0xAA; PAGE as usize]);
    guest.run().unwrap();
    assert!(guest.mock.bytes(0, PAGE).iter().all(|byte| *byte == 0));
}

#[test]
fn a_guest_without_initrd_boots() {
    let mut guest = Guest::bzimage(Technology::SNP, LoadMode::HASHED);
    guest.params.initrd = zerocopy::FromZeros::new_zeroed();
    guest.params.flags |= Flags::NO_MARKS.bits();
    assert_eq!(guest.run(), Ok(KERNEL_LOAD + 0x200));
    let page: &BootParams = object(&guest.mock, BOOT_PARAMS_GPA).unwrap();
    assert_eq!({ page.hdr.ramdisk_size }, 0);
}

/// An ELF file of one segment at 16 MiB with bss behind it.
pub fn elf(physical: u64, entry: u64, offset: u64) -> Vec<u8> {
    let mut file = vec![0u8; 0x3000];
    file[..7].copy_from_slice(&[0x7F, b'E', b'L', b'F', 2, 1, 1]);
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x10, &2u16.to_le_bytes());
    put(0x12, &62u16.to_le_bytes());
    put(0x18, &entry.to_le_bytes());
    put(0x20, &64u64.to_le_bytes());
    put(0x36, &56u16.to_le_bytes());
    put(0x38, &1u16.to_le_bytes());
    put(64, &1u32.to_le_bytes());
    put(64 + 8, &offset.to_le_bytes());
    put(64 + 24, &physical.to_le_bytes());
    put(64 + 32, &0x1800u64.to_le_bytes());
    put(64 + 40, &0x5000u64.to_le_bytes());
    put(0x1000, &[0xC3; 0x1800]);
    file
}

#[test]
fn elf_segments_go_to_their_physical_addresses() {
    for load in [LoadMode::HASHED, LoadMode::MEASURED] {
        let file = elf(KERNEL_LOAD, KERNEL_LOAD + 0x100, 0x1000);
        let mut guest = Guest::new(Technology::SNP, load, KernelKind::ELF, &file);
        guest.mock.write(KERNEL_LOAD + 0x1800, &[0xEE; 0x3800]);
        assert_eq!(guest.run(), Ok(KERNEL_LOAD + 0x100));
        assert!(guest.mock.bytes(KERNEL_LOAD, 0x1800).iter().all(|byte| *byte == 0xC3));
        assert!(guest.mock.bytes(KERNEL_LOAD + 0x1800, 0x3800).iter().all(|byte| *byte == 0));
    }
}

/// An ELF file of segments (offset, physical address, bytes in the file, in memory), entered at the first.
fn elf_of(segments: &[(u64, u64, u64, u64)]) -> Vec<u8> {
    let len = segments.iter().map(|segment| segment.0 + segment.2).max().unwrap();
    let mut file: Vec<u8> = (0..len + 100).map(|i| ((i * 7) ^ (i >> 8)) as u8).collect();
    file[..64].copy_from_slice(&elf(0, segments[0].1, 0)[..64]);
    file[0x38..0x3A].copy_from_slice(&(segments.len() as u16).to_le_bytes());
    for (header, (offset, at, in_file, size)) in file[64..].chunks_mut(56).zip(segments) {
        header[..4].copy_from_slice(&1u32.to_le_bytes());
        for (field, value) in [(8, offset), (24, at), (32, in_file), (40, size)] {
            header[field..field + 8].copy_from_slice(&value.to_le_bytes());
        }
    }
    file
}

/// Where the mock's guests have an ELF file.
const FILE: u64 = 0x200_0000;

#[test]
fn segments_of_a_file_that_lies_where_they_belong_stay_or_move_down() {
    let in_place =
        [(0x1000, FILE + 0x1000, 0x2000, 0x2000), (0x3000, FILE + 0x3000, 0x800, 0x9000)];
    // As in kernels with a segment for per-processor data: what follows the second moves down.
    let moving = [
        (0x1000, FILE + 0x1000, 0x2000, 0x2000),
        (0x5000, FILE + 0x3000, 0x1000, 0x1000),
        (0x6000, FILE + 0x4000, 0x3000, 0x4000),
    ];
    for load in [LoadMode::HASHED, LoadMode::MEASURED] {
        for segments in [&in_place[..], &moving] {
            let file = elf_of(segments);
            let mut guest = Guest::new(Technology::SNP, load, KernelKind::ELF, &file);
            assert_eq!(guest.run(), Ok(segments[0].1));
            for (offset, at, in_file, size) in segments {
                let found = guest.mock.bytes(*at, *size);
                let (contents, zeros) = found.split_at(*in_file as usize);
                assert!(contents == &file[*offset as usize..][..*in_file as usize], "{at:#x}");
                assert!(zeros.iter().all(|byte| *byte == 0), "{at:#x}");
            }
        }
    }
}

#[test]
fn segments_that_would_destroy_what_is_needed_are_refused() {
    let cases = [
        // Up, over itself.
        &[(0x1000, FILE + 0x1800, 0x2000, 0x2000)][..],
        // Over the headers.
        &[(0x1000, FILE + 0x40, 0x1000, 0x1000)],
        // Over the next one's contents, by its own and by zeros behind them.
        &[(0x2000, FILE + 0x1000, 0x1000, 0x1000), (0x1800, FILE + 0x4000, 0x800, 0x800)],
        &[(0x1000, FILE + 0x1000, 0x1000, 0x2800), (0x3000, FILE + 0x3000, 0x1000, 0x1000)],
    ];
    for (index, segments) in cases.into_iter().enumerate() {
        let file = elf_of(segments);
        let mut guest = Guest::new(Technology::SNP, LoadMode::HASHED, KernelKind::ELF, &file);
        assert_eq!(guest.run(), Err(Termination::BAD_ELF), "case {index}");
    }
}

#[test]
fn malformed_elf_files_are_refused() {
    let cases = [
        elf(KERNEL_LOAD, KERNEL_LOAD + 0x5000, 0x1000), // entry behind the segment
        elf(0x1000, 0x1000, 0x1000),                    // below 1 MiB
        elf(MEMORY - 0x1000, MEMORY - 0x1000, 0x1000),  // beyond RAM
        elf(INITRD - 0x1000, INITRD, 0x1000),           // over the initrd
        elf(0x200_0000 - 0x1000, 0x200_0000, 0x1000),   // over the file itself
        elf(KERNEL_LOAD, KERNEL_LOAD, 0x2000),          // contents beyond the file
        elf(KERNEL_LOAD, KERNEL_LOAD, u64::MAX),        // wraps
        bzimage(&setup_header()),                       // no ELF
    ];
    for (index, file) in cases.iter().enumerate() {
        let mut guest = Guest::new(Technology::SNP, LoadMode::HASHED, KernelKind::ELF, file);
        assert_eq!(guest.run(), Err(Termination::BAD_ELF), "case {index}");
    }
}

#[test]
fn malformed_bzimages_are_refused() {
    type Damage = fn(&mut abi::boot::SetupHeader);
    let cases: [Damage; 9] = [
        |h| h.header = 0,
        |h| h.boot_flag = 0,
        |h| h.version = 0x020B,
        |h| h.xloadflags = 0,
        |h| h.setup_sects = 200,
        |h| h.init_size = 0xF000_0000,
        |h| h.init_size = (INITRD - KERNEL_LOAD) as u32 + 1,
        |h| h.kernel_alignment = 0x300_0000,
        |h| (h.relocatable_kernel, h.pref_address) = (0, 0x20_0000),
    ];
    for (index, damage) in cases.into_iter().enumerate() {
        let mut header = setup_header();
        damage(&mut header);
        let file = bzimage(&header);
        let mut guest = Guest::new(Technology::SNP, LoadMode::HASHED, KernelKind::BZIMAGE, &file);
        assert_eq!(guest.run(), Err(Termination::BAD_BZIMAGE), "case {index}");
    }
    let mut header = setup_header();
    header.initrd_addr_max = INITRD as u32;
    let mut guest =
        Guest::new(Technology::SNP, LoadMode::HASHED, KernelKind::BZIMAGE, &bzimage(&header));
    assert_eq!(guest.run(), Err(Termination::BAD_RANGE));
    header = setup_header();
    header.cmdline_size = 5;
    let mut guest =
        Guest::new(Technology::SNP, LoadMode::HASHED, KernelKind::BZIMAGE, &bzimage(&header));
    assert_eq!(guest.run(), Err(Termination::BAD_CMDLINE));
}

#[test]
fn readme_lists_every_termination_code() {
    let readme = include_str!("../README.md");
    for (code, text) in Termination::TEXTS {
        let row = format!("| 0x{:02X} | {text} |", code.0);
        assert!(readme.contains(&row), "README.md lacks: {row}");
    }
}
