//! Metadata of TDX, good and bad, and the list of memory.

use super::super::ovmf::tests::image;
use super::*;

/// Offset and length in the file, address and length in memory, kind, attributes.
type Row = (u32, u32, u64, u64, u32, u32);

const LEN: usize = 0x1_0000;
const BASE: u64 = 0xffff_0000;
const AT: usize = 0x1000;
const GOOD: [Row; 5] = [
    (0x4000, 0xc000, BASE + 0x4000, 0xc000, 0, 1),
    (0, 0x4000, BASE, 0x4000, 1, 0),
    (0, 0, 0x81_0000, 0x1_0000, 3, 0),
    (0, 0, 0x80_9000, 0x2000, 2, 0),
    (0, 0, 0x80_0000, 0x6000, 3, 0),
];

fn header(rows: &[Row]) -> [u32; 4] {
    let count = rows.len() as u32;
    [SIGNATURE, 16 + 32 * count, 1, count]
}

fn built(header: [u32; 4], rows: &[Row]) -> Vec<u8> {
    let mut metadata: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    for (offset, in_file, gpa, len, kind, attributes) in rows {
        metadata.extend([*offset, *in_file].iter().flat_map(|word| word.to_le_bytes()));
        metadata.extend([*gpa, *len].iter().flat_map(|word| word.to_le_bytes()));
        metadata.extend([*kind, *attributes].iter().flat_map(|word| word.to_le_bytes()));
    }
    image(LEN, &[(METADATA, (AT as u32).to_le_bytes().to_vec())], |image| {
        image[..0x4000].fill(0xcf);
        image[0x4000..0xc000].fill(0xbf);
        let at = LEN - AT;
        image[at..at + metadata.len()].copy_from_slice(&metadata);
    })
}

fn parse(rows: &[Row]) -> Result<TdxFirmware, FirmwareError> {
    TdxFirmware::parse(&built(header(rows), rows))
}

const RAM: [Range; 2] =
    [Range { gpa: 0, len: 0x2000_0000 }, Range { gpa: 1 << 32, len: 0x1000_0000 }];

#[test]
fn sections_become_pages_in_their_order() {
    let firmware = parse(&GOOD).unwrap();
    assert_eq!((firmware.hob_gpa(), firmware.hob_len()), (0x80_9000, 0x2000));
    assert_eq!(firmware.memory_end(), 0x82_0000);
    let regions = firmware.regions(&RAM);
    let shape: Vec<_> = regions.iter().map(|r| (r.gpa, r.bytes.len() as u64, r.kind)).collect();
    let expected: Vec<_> = GOOD
        .iter()
        .map(|(_, _, gpa, len, _, attributes)| {
            let kind = if *attributes == 1 { PageKind::Measured } else { PageKind::Unmeasured };
            (*gpa, *len, kind)
        })
        .collect();
    assert_eq!(shape, expected);
    assert_eq!(regions[0].bytes[..16], [0xbf; 16]);
    assert_eq!(regions[1].bytes[..16], [0xcf; 16]);
    assert!(regions[2].bytes.iter().all(|byte| *byte == 0));
}

#[test]
fn the_list_of_memory_tells_what_is_there_and_what_is_to_be_accepted() {
    let firmware = parse(&GOOD).unwrap();
    let list = firmware.regions(&RAM)[3].bytes.clone();
    let word = |at: usize, len: usize| {
        list[at..at + len].iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte))
    };
    // PHIT: type 1, 56 bytes, version 9, and where the list ends.
    assert_eq!((word(0, 2), word(2, 2), word(8, 4)), (1, 56, 9));
    let end = usize::try_from(word(48, 8) - 0x80_9000).unwrap();
    assert_eq!(list[end - 8..end], [0xff, 0xff, 8, 0, 0, 0, 0, 0]);
    assert!(list[end..].iter().all(|byte| *byte == 0));
    let resources: Vec<_> = (56..end - 8)
        .step_by(48)
        .map(|at| {
            assert_eq!((word(at, 2), word(at + 2, 2), word(at + 28, 4)), (3, 48, 7));
            (word(at + 24, 4), word(at + 32, 8), word(at + 40, 8))
        })
        .collect();
    assert_eq!(
        resources,
        [
            (7, 0, 0x80_0000),
            (0, 0x80_0000, 0x6000),
            (7, 0x80_6000, 0x3000),
            (0, 0x80_9000, 0x2000),
            (7, 0x80_b000, 0x5000),
            (0, 0x81_0000, 0x1_0000),
            (7, 0x82_0000, 0x2000_0000 - 0x82_0000),
            (7, 1 << 32, 0x1000_0000),
        ]
    );
}

#[test]
fn memory_that_the_td_accepts_itself_is_no_launch_page() {
    let rows = [&GOOD[..], &[(0, 0, 0x90_0000, 0x1000, 4, 2)]].concat();
    assert_eq!(parse(&rows).unwrap().regions(&RAM).len(), GOOD.len());
    let rows = [&GOOD[..], &[(0, 0, 0x90_0000, 0x1000, 4, 0)]].concat();
    assert_eq!(parse(&rows).unwrap().regions(&RAM)[5].kind, PageKind::Unmeasured);
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
        [signature, len, version, u32::MAX],
    ] {
        let error = TdxFirmware::parse(&built(header, &GOOD)).unwrap_err();
        assert!(matches!(error, FirmwareError::BadMetadata { .. }), "{header:x?}: {error}");
    }
    let none = image(LEN, &[], |_| {});
    assert_eq!(TdxFirmware::parse(&none), Err(FirmwareError::NoMetadata("TDX")));
}

#[test]
fn absurd_sections_are_refused() {
    let with = |row: Row| match parse(&[&GOOD[..], &[row]].concat()).unwrap_err() {
        FirmwareError::BadSection { number: 5, problem, .. } => problem,
        other => panic!("{other}"),
    };
    assert_eq!(with((0, 0, 0x90_0000, 0, 3, 0)), "is not made of whole pages");
    assert_eq!(with((0, 0, 0x90_0800, 0x1000, 3, 0)), "is not made of whole pages");
    assert_eq!(with((0, 0, 0x90_0000, 1 << 60, 3, 0)), "is absurdly long, or beyond 4 GiB");
    assert_eq!(with((0, 0, u64::MAX - 0xfff, 0x1000, 3, 0)), "is absurdly long, or beyond 4 GiB");
    assert_eq!(with((0, 0, 0x80_5000, 0x1000, 3, 0)), "overlaps another section");
    assert_eq!(with((0, 0, 0x90_0000, 0x1000, 3, 4)), "has attributes that nobody has defined");
    assert_eq!(
        with((0, 0, 0x90_0000, 0x1000, 3, 2)),
        "is left for the TD to accept, but needed at its start"
    );
    let file = "does not lie in the file, or is longer there than in memory";
    assert_eq!(with((0xf000, 0x1001, 0x90_0000, 0x2000, 0, 1)), file);
    assert_eq!(with((u32::MAX, u32::MAX, 0x90_0000, 0x1000, 1, 0)), file);
    assert_eq!(with((0, 0x1001, 0x90_0000, 0x1000, 1, 0)), file);
    assert_eq!(with((0, 0, 0x90_0000, 0x1000, 1, 0)), file);
    assert_eq!(with((0, 0x1000, 0x90_0000, 0x1000, 1, 0)), "does not lie in the image's memory");
    assert_eq!(
        with((0, 0x1000, 0x90_0000, 0x1000, 3, 0)),
        "is memory, but has contents or overlaps the image"
    );
    assert_eq!(with((0, 0, 0x90_0000, 0x1000, 2, 1)), "is measured, though the host fills it");
    for kind in [5, 6, 99] {
        assert!(with((0, 0, 0x90_0000, 0x1000, kind, 0)).contains("payloads"));
    }
    let missing = |at: usize| {
        let mut rows = GOOD.to_vec();
        rows.remove(at);
        parse(&rows).unwrap_err().to_string()
    };
    assert!(missing(0).contains("reset vector"));
    assert!(missing(3).contains("TD HOB"));
    let two = [&GOOD[..], &[(0, 0, 0x90_0000, 0x1000, 2, 0)]].concat();
    assert!(parse(&two).unwrap_err().to_string().contains("TD HOB"));
}
