//! The calculator of `cargo xtask interop`, which parses an OVMF image, against somebody else's fold: Microsoft's igvm crate.

use std::path::Path;
use std::process::Command;

use cvmm_tests::input;
use cvmm_tests::oracle_tdx::{Page, mrtd};

/// One section of the descriptor.
struct Section {
    offset: u32,
    size: u32,
    address: u64,
    memory: u64,
    attributes: u32,
}

/// A firmware image of 64 KiB with a GUID table and a TDVF descriptor at its end, as edk2 builds them.
fn image(sections: &[Section]) -> Vec<u8> {
    let mut image: Vec<u8> =
        (0..0x1_0000).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut descriptor = b"TDVF".to_vec();
    let count = sections.len() as u32;
    for word in [16 + 32 * count, 1, count] {
        descriptor.extend(word.to_le_bytes());
    }
    for (kind, section) in (0u32..).zip(sections) {
        descriptor.extend(section.offset.to_le_bytes());
        descriptor.extend(section.size.to_le_bytes());
        descriptor.extend(section.address.to_le_bytes());
        descriptor.extend(section.memory.to_le_bytes());
        descriptor.extend(kind.to_le_bytes());
        descriptor.extend(section.attributes.to_le_bytes());
    }
    let back = 0x800;
    let at = image.len() - back;
    image[at..at + descriptor.len()].copy_from_slice(&descriptor);
    // Entries from low to high: somebody else's, ours, the footer with the length of all.
    let mut table = vec![0x11; 26 - 18];
    table.extend(26u16.to_le_bytes());
    table.extend([0x22; 16]);
    table.extend((back as u32).to_le_bytes());
    table.extend(22u16.to_le_bytes());
    table.extend(guid(
        0xe47a_6535,
        0x984a,
        0x4798,
        [0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2],
    ));
    let length = table.len() as u16 + 18;
    table.extend(length.to_le_bytes());
    table.extend(guid(
        0x96b5_82de,
        0x1fb2,
        0x45f7,
        [0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d],
    ));
    let top = image.len() - 32;
    image[top - table.len()..top].copy_from_slice(&table);
    image
}

fn guid(a: u32, b: u16, c: u16, d: [u8; 8]) -> Vec<u8> {
    [&a.to_le_bytes()[..], &b.to_le_bytes(), &c.to_le_bytes(), &d].concat()
}

/// The pages in the order of sections.
fn pages(image: &[u8], sections: &[Section]) -> Vec<Page> {
    let of = |section: &Section| -> Vec<Page> {
        let mut data = image[section.offset as usize..][..section.size as usize].to_vec();
        data.resize(section.memory as usize, 0);
        let contents = data.chunks(4096).map(<[u8]>::to_vec);
        (section.address..)
            .step_by(4096)
            .zip(contents)
            .map(|(gpa, contents)| Page { gpa, measured: section.attributes & 1 != 0, contents })
            .collect()
    };
    sections.iter().filter(|section| section.attributes & 2 == 0).flat_map(of).collect()
}

fn by_script(image: &[u8]) -> Result<String, String> {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), image).expect("a temporary file");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("oracles/mrtd.py");
    let output =
        Command::new(input("CVMM_PYTHON")).arg(script).arg(file.path()).output().expect("python");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn sections_of_every_kind_measure_as_the_igvm_crate_says() {
    let sections = [
        Section {
            offset: 0x4000,
            size: 0xc000,
            address: 0xffff_4000,
            memory: 0xc000,
            attributes: 1,
        },
        Section { offset: 0, size: 0x4000, address: 0xffff_0000, memory: 0x4000, attributes: 0 },
        Section { offset: 0, size: 0, address: 0x81_0000, memory: 0x1_0000, attributes: 0 },
        Section { offset: 0x1000, size: 0x1800, address: 0x82_0000, memory: 0x3000, attributes: 1 },
        Section { offset: 0, size: 0, address: 0x100_0000, memory: 0x8000, attributes: 2 },
    ];
    let image = image(&sections);
    assert_eq!(by_script(&image), Ok(mrtd(&pages(&image, &sections))));
}

#[test]
fn an_image_that_says_nothing_is_refused() {
    let error = by_script(&[0; 4096]).expect_err("no table");
    assert!(error.contains("no GUID table"), "{error}");
}
