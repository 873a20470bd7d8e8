//! Tables of GUIDs, good and bad; and the images that the tests of the technologies are made of.

use super::*;

/// An image of `len` bytes with a table of entries (the last is read first), over what `fill` puts there.
pub fn image(len: usize, entries: &[(Guid, Vec<u8>)], fill: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut table = Vec::new();
    let mut append = |guid: Guid, data: &[u8], len: usize| {
        table.extend(data);
        table.extend((len as u16).to_le_bytes());
        table.extend(guid.0);
    };
    let mut total = TRAILER;
    for (guid, data) in entries {
        append(*guid, data, data.len() + TRAILER);
        total += data.len() + TRAILER;
    }
    append(FOOTER, &[], total);
    let mut image = vec![0; len];
    fill(&mut image);
    let end = len - AFTER_TABLE;
    image[end - table.len()..end].copy_from_slice(&table);
    image
}

const ONE: Guid = Guid::new(1, 2, 3, [4; 8]);
const TWO: Guid = Guid::new(5, 6, 7, [8; 8]);

fn good() -> Vec<u8> {
    image(0x4000, &[(ONE, vec![1, 2, 3, 4, 5]), (TWO, vec![0x10, 0x40, 0, 0])], |_| {})
}

#[test]
fn entries_are_found_by_their_guid() {
    let image = good();
    let ovmf = Ovmf::parse(&image).unwrap();
    assert_eq!(ovmf.gpa(), 0xffff_c000);
    assert_eq!(ovmf.entry(ONE), Some(&[1, 2, 3, 4, 5][..]));
    assert_eq!(ovmf.number(ONE), Some(0x0403_0201));
    assert_eq!(ovmf.number(TWO), Some(0x4010));
    assert_eq!(ovmf.behind(TWO), None, "before the image");
    assert_eq!(ovmf.entry(FOOTER), None);
    let near = super::tests::image(0x1000, &[(ONE, vec![16, 0, 0, 0])], |_| {});
    assert_eq!(Ovmf::parse(&near).unwrap().behind(ONE).map(<[u8]>::len), Some(16));
}

#[test]
fn what_is_no_image_is_refused() {
    let size = |len: usize| Ovmf::parse(&vec![0; len]).unwrap_err();
    for len in [0, 1, 4095, 4097, (16 << 20) + 4096] {
        assert_eq!(size(len), FirmwareError::Size { len: len as u64 });
    }
    for len in [4096, 4 << 20] {
        assert_eq!(size(len), FirmwareError::NoTable);
    }
}

#[test]
fn damaged_tables_are_refused() {
    let image = good();
    let footer = image.len() - AFTER_TABLE - TRAILER;
    let with = |at: usize, value: u16| {
        let mut image = image.clone();
        image[at..at + 2].copy_from_slice(&value.to_le_bytes());
        Ovmf::parse(&image).unwrap_err()
    };
    // The whole table's length: shorter than its footer, longer than the file, in the middle of an entry.
    for len in [0, 17, 0xffff, 19, 30] {
        assert!(matches!(with(footer, len), FirmwareError::BadTable(_)), "{len}");
    }
    // An entry's: shorter than its trailer, longer than the table.
    for len in [0, 17, 0x300] {
        assert!(matches!(with(footer - TRAILER, len), FirmwareError::BadTable(_)), "{len}");
    }
}
