//! Metadata of SEV-SNP, good and bad.

use super::super::ovmf::tests::image;
use super::*;

type Words = [u32; 3];

const GOOD: [Words; 5] = [
    [0x80_0000, 0x9000, 1],
    [0x80_d000, 0x1000, 2],
    [0x80_e000, 0x1000, 3],
    [0x80_f000, 0x1000, 4],
    [0x81_0000, 0x1000, 0x10],
];
const AREA: [u32; 2] = [0x81_0c00, 0x400];
const LEN: usize = 0x1_0000;
/// Where the metadata is, from the end.
const AT: usize = 0x1000;

fn metadata(header: [u32; 4], sections: &[Words]) -> Vec<u8> {
    let words = header.iter().chain(sections.iter().flatten());
    words.flat_map(|word| word.to_le_bytes()).collect()
}

fn header(sections: &[Words]) -> [u32; 4] {
    let count = sections.len() as u32;
    [SIGNATURE, 16 + 12 * count, 1, count]
}

fn built(header: [u32; 4], sections: &[Words], area: Option<[u32; 2]>) -> Vec<u8> {
    let bytes =
        |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let mut entries = vec![(METADATA, bytes(&[AT as u32])), (RESET_BLOCK, bytes(&[0x80_b004]))];
    entries.extend(area.map(|area| (HASH_AREA, bytes(&area))));
    let metadata = metadata(header, sections);
    image(LEN, &entries, |image| {
        let at = LEN - AT;
        image[at..at + metadata.len()].copy_from_slice(&metadata);
    })
}

fn parse(sections: &[Words]) -> Result<SnpFirmware, FirmwareError> {
    SnpFirmware::parse(&built(header(sections), sections, Some(AREA)))
}

/// The problem that a section has.
fn problem(sections: &[Words]) -> (usize, &'static str) {
    match parse(sections).unwrap_err() {
        FirmwareError::BadSection { number, problem, .. } => (number, problem),
        other => panic!("{other}"),
    }
}

#[test]
fn sections_become_pages_in_their_order() {
    let firmware = parse(&GOOD).unwrap();
    assert_eq!(firmware.ap_reset, 0x80_b004);
    assert_eq!(firmware.memory_end(), 0x81_1000);
    let regions =
        |hashes: Option<&[[u8; 32]; 3]>| firmware.regions(hashes, &CpuidTable::default()).unwrap();
    let kinds = |regions: &[LaunchRegion]| {
        regions.iter().map(|r| (r.gpa, r.bytes.len(), r.kind)).collect::<Vec<_>>()
    };
    let first = [
        (0x80_0000, 0x9000, PageKind::Zero),
        (0x80_d000, 0x1000, PageKind::Secrets),
        (0x80_e000, 0x1000, PageKind::Cpuid),
        (0x80_f000, 0x1000, PageKind::Zero),
    ];
    let hashes = [[1; 32], [2; 32], [3; 32]];
    let (without, with) = (regions(None), regions(Some(&hashes)));
    assert_eq!(kinds(&without)[..4], first);
    assert_eq!(kinds(&without)[4], (0x81_0000, 0x1000, PageKind::Zero));
    assert_eq!(kinds(&with)[..4], first);
    assert_eq!(kinds(&with)[4], (0x81_0000, 0x1000, PageKind::Measured));

    // Length and hashes of the table: command line, initrd, kernel; padded, zeros around it.
    let page = &with[4].bytes;
    let table = &page[0xc00..0xcb0];
    assert_eq!((table[16], table[17]), (168, 0));
    for (at, hash) in [(18, 3), (68, 2), (118, 1)] {
        assert_eq!((table[at + 16], table[at + 17]), (50, 0));
        assert_eq!(table[at + 18..at + 50], [hash; 32]);
    }
    assert!(page[..0xc00].iter().chain(&page[0xc00 + 168..]).all(|byte| *byte == 0));
}

#[test]
fn a_kernel_is_bound_only_where_its_hashes_are_measured() {
    assert!(parse(&GOOD).unwrap().checks_kernel());
    assert!(!parse(&GOOD[..4]).unwrap().checks_kernel());
    let area = |area| SnpFirmware::parse(&built(header(&GOOD), &GOOD, area));
    assert!(!area(None).unwrap().checks_kernel());
    assert!(!area(Some([0, 0])).unwrap().checks_kernel());
    for bad in [[0x80_fc00, 0x400], [0x81_0c00, 0x401], [0x81_0c00, 0xa0], [u32::MAX, u32::MAX]] {
        assert!(matches!(area(Some(bad)), Err(FirmwareError::BadMetadata { .. })), "{bad:x?}");
    }
}

#[test]
fn empty_sections_of_images_for_others_are_passed_over() {
    let sections = [&GOOD[..4], &[[0, 0, 4], [0, 0, 1]]].concat();
    assert_eq!(parse(&sections).unwrap(), parse(&GOOD[..4]).unwrap());
}

#[test]
fn damaged_headers_are_refused() {
    let [signature, len, version, count] = header(&GOOD);
    for header in [
        [signature + 1, len, version, count],
        [signature, len, 2, count],
        [signature, len + 1, version, count],
        [signature, u32::MAX, version, count],
        [signature, 15, version, count],
        [signature, len, version, count + 1],
        [signature, len, version, u32::MAX],
        [signature, 0x2000, version, count],
    ] {
        let error = SnpFirmware::parse(&built(header, &GOOD, Some(AREA))).unwrap_err();
        assert!(matches!(error, FirmwareError::BadMetadata { .. }), "{header:x?}: {error}");
    }
    let none = image(LEN, &[], |_| {});
    assert_eq!(SnpFirmware::parse(&none), Err(FirmwareError::NoMetadata("SEV-SNP")));
    for distance in [0u32, 8, LEN as u32 + 1, u32::MAX] {
        let image = image(LEN, &[(METADATA, distance.to_le_bytes().to_vec())], |_| {});
        assert!(matches!(
            SnpFirmware::parse(&image),
            Err(FirmwareError::BadMetadata { technology: "SEV-SNP", .. })
        ));
    }
}

#[test]
fn absurd_sections_are_refused() {
    let with = |more: Words| problem(&[&GOOD[..], &[more]].concat());
    assert_eq!(with([0x90_0000, 0x1001, 1]), (5, "is not made of whole pages"));
    assert_eq!(with([0x90_0001, 0x1000, 1]), (5, "is not made of whole pages"));
    assert_eq!(with([0x90_0000, 0xffff_f000, 1]).1, "asks for an absurd amount of memory");
    assert_eq!(with([0x80_8000, 0x1000, 1]).1, "overlaps another section or the image");
    assert_eq!(with([0x7f_f000, 0x2000, 1]).1, "overlaps another section or the image");
    assert_eq!(with([0xffff_f000, 0x1000, 1]).1, "overlaps another section or the image");
    assert_eq!(with([0x90_0000, 0x1000, 9]).1, "is of a kind that nobody has defined");
    assert_eq!(with([0x90_0000, 0x2000, 2]).1, "must be one page");
    assert_eq!(with([0x90_0000, 0x1000, 3]).1, "is the second of a kind of which there is one");
    for missing in [1, 2] {
        let mut sections = GOOD.to_vec();
        sections.remove(missing);
        assert!(matches!(parse(&sections), Err(FirmwareError::BadMetadata { .. })));
    }
}
