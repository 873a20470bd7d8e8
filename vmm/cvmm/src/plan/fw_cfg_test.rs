//! The items as a firmware reads them.

use super::super::acpi;
use super::*;

fn items(shim: Option<&[u8]>) -> (Inputs, FwCfg) {
    let kernel = super::super::kernel::tests::bzimage(0x3000);
    let mut inputs =
        Inputs::new("k".into(), kernel.into(), [7; 100].as_slice().into(), "quiet").unwrap();
    inputs.shim = shim.map(Into::into);
    let layout = Layout::without_kernel("6G".parse().unwrap());
    let cpus = CpuCount::new(3).unwrap();
    let items = FwCfg::new(&inputs, &layout, cpus, &acpi::tables(cpus));
    (inputs, items)
}

fn size(items: &FwCfg, key: u16) -> usize {
    u32::from_le_bytes(items.item(key).try_into().unwrap()) as usize
}

/// A file by its name in the directory, with its key.
fn file<'a>(items: &'a FwCfg, name: &str) -> Option<(u16, &'a [u8])> {
    let directory = items.item(key::FILE_DIRECTORY);
    let count = u32::from_be_bytes(directory[..4].try_into().unwrap());
    assert_eq!(directory.len(), 4 + 64 * count as usize);
    let entry = directory[4..]
        .chunks(64)
        .find(|entry| entry[8..8 + name.len()] == *name.as_bytes() && entry[8 + name.len()] == 0)?;
    let key = u16::from_be_bytes(entry[4..6].try_into().unwrap());
    let bytes = items.item(key);
    assert_eq!(u32::from_be_bytes(entry[..4].try_into().unwrap()) as usize, bytes.len());
    Some((key, bytes))
}

#[test]
fn kernel_initrd_and_command_line_are_whole() {
    let (inputs, items) = items(None);
    let kernel = [items.item(key::SETUP_DATA), items.item(key::KERNEL_DATA)].concat();
    assert_eq!(kernel, *inputs.kernel);
    assert_eq!(size(&items, key::SETUP_SIZE), items.item(key::SETUP_DATA).len());
    assert_eq!(size(&items, key::KERNEL_SIZE), items.item(key::KERNEL_DATA).len());
    assert_eq!(items.item(key::INITRD_DATA), [7; 100]);
    assert_eq!(size(&items, key::INITRD_SIZE), 100);
    assert_eq!(items.item(key::CMDLINE_DATA), b"quiet\0");
    assert_eq!(size(&items, key::CMDLINE_SIZE), 6);
    assert!(items.is_kernel(key::KERNEL_DATA) && !items.is_kernel(key::INITRD_DATA));
    assert!(file(&items, "etc/boot/kernel").is_none());
}

#[test]
fn a_shim_comes_with_the_whole_kernel() {
    let (inputs, items) = items(Some(b"shim"));
    let (key, kernel) = file(&items, "etc/boot/kernel").unwrap();
    assert_eq!(*kernel, *inputs.kernel);
    assert!(items.is_kernel(key));
    assert_eq!(file(&items, "etc/boot/shim").unwrap().1, b"shim");
}

#[test]
fn the_machine_is_described() {
    let (_, items) = items(None);
    assert_eq!(items.item(key::SIGNATURE), b"QEMU");
    assert_eq!(items.item(key::ID), [3, 0, 0, 0]);
    assert_eq!(items.item(key::CPU_COUNT), [3, 0]);
    assert_eq!(items.item(0x1234), b"");
    let map = file(&items, "etc/e820").unwrap().1;
    let entries: Vec<_> = map
        .chunks(20)
        .map(|entry| {
            let number = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
            (number(0), number(8), u32::from_le_bytes(entry[16..].try_into().unwrap()))
        })
        .collect();
    assert_eq!(entries, [(0, 3 << 30, 1), (4 << 30, 3 << 30, 1)]);
}

#[test]
fn the_table_loader_makes_tables_that_sum_to_zero() {
    let (_, items) = items(None);
    let mut files = [
        ("etc/acpi/rsdp", 0xf_0000u64, file(&items, "etc/acpi/rsdp").unwrap().1.to_vec()),
        ("etc/acpi/tables", 0x7000_0000, file(&items, "etc/acpi/tables").unwrap().1.to_vec()),
    ];
    let place = |name: &[u8]| usize::from(name.starts_with(b"etc/acpi/tables"));
    let script = file(&items, "etc/table-loader").unwrap().1;
    for command in script.chunks(128) {
        let word = |at: usize| u32::from_le_bytes(command[at..at + 4].try_into().unwrap()) as usize;
        let name = &command[4..60];
        match word(0) {
            1 => assert!(word(60).is_power_of_two() && [1, 2].contains(&command[64])),
            2 => {
                let (in_file, at) = (place(name), word(116));
                assert_eq!(command[120], 8);
                let base = files[place(&command[60..116])].1;
                let field = &mut files[in_file].2[at..at + 8];
                let pointer = u64::from_le_bytes(field.try_into().unwrap()) + base;
                field.copy_from_slice(&pointer.to_le_bytes());
            }
            3 => {
                let bytes = &mut files[place(name)].2;
                let (result, start, len) = (word(60), word(64), word(68));
                let sum = bytes[start..start + len].iter().fold(0u8, |sum, b| sum.wrapping_add(*b));
                bytes[result] = sum.wrapping_neg();
            }
            other => panic!("command {other}"),
        }
    }
    let [(_, _, rsdp), (_, base, tables)] = &files;
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    assert_eq!((sum(&rsdp[..20]), sum(rsdp)), (0, 0));
    let pointer =
        |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let table = |at: u64| {
        let table = &tables[usize::try_from(at - base).unwrap()..];
        let len = u32::from_le_bytes(table[4..8].try_into().unwrap()) as usize;
        assert_eq!(sum(&table[..len]), 0, "{:?}", std::str::from_utf8(&table[..4]));
        &table[..len]
    };
    let xsdt = table(pointer(rsdp, 24));
    assert_eq!(&xsdt[..4], b"XSDT");
    let (fadt, madt) = (table(pointer(xsdt, 36)), table(pointer(xsdt, 44)));
    assert_eq!((&fadt[..4], &madt[..4]), (&b"FACP"[..], &b"APIC"[..]));
    assert_eq!(&table(pointer(fadt, 140))[..4], b"DSDT");
}
