//! What a firmware image fetches from the host: QEMU's firmware configuration device, as data (QEMU 11.1
//! docs/specs/fw_cfg.rst). Nothing of it is measured: the firmware checks hashes, or measures what it has fetched.

use abi::boot::{E820Type, SECTOR, SETUP_HEADER_OFFSET, SETUP_SECTS_DEFAULT};
use abi::shim::PAGE;

use super::acpi::AcpiTables;
use super::layout::Layout;
use super::{FileBytes, Inputs};
use crate::config::CpuCount;

/// Keys of items.
mod key {
    pub const SIGNATURE: u16 = 0x00;
    pub const ID: u16 = 0x01;
    pub const CPU_COUNT: u16 = 0x05;
    pub const KERNEL_SIZE: u16 = 0x08;
    pub const INITRD_SIZE: u16 = 0x0b;
    pub const CPU_COUNT_MAX: u16 = 0x0f;
    pub const KERNEL_DATA: u16 = 0x11;
    pub const INITRD_DATA: u16 = 0x12;
    pub const CMDLINE_SIZE: u16 = 0x14;
    pub const CMDLINE_DATA: u16 = 0x15;
    pub const SETUP_SIZE: u16 = 0x17;
    pub const SETUP_DATA: u16 = 0x18;
    pub const FILE_DIRECTORY: u16 = 0x19;
    pub const FIRST_FILE: u16 = 0x20;
}

/// The traditional interface, and that by direct memory access.
const FEATURES: u32 = 1 << 0 | 1 << 1;
/// Bytes of a file's name, NUL included.
const NAME_LEN: usize = 56;

/// An item: a range of bytes that are held elsewhere.
#[derive(Clone, Debug)]
pub struct Item {
    bytes: FileBytes,
    from: usize,
}

impl Item {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.from..]
    }
}

/// The items by key.
#[derive(Clone, Debug, Default)]
pub struct FwCfg {
    items: Vec<(u16, Item)>,
    kernel: Vec<u16>,
}

impl FwCfg {
    pub(super) fn new(
        inputs: &Inputs,
        layout: &Layout,
        cpus: CpuCount,
        tables: &AcpiTables,
    ) -> FwCfg {
        let mut this = FwCfg::default();
        this.add(key::SIGNATURE, b"QEMU");
        this.add(key::ID, &FEATURES.to_le_bytes());
        this.add(key::CPU_COUNT, &cpus.get().to_le_bytes());
        this.add(key::CPU_COUNT_MAX, &cpus.get().to_le_bytes());
        this.add_kernel(inputs);
        let mut files = vec![
            ("etc/e820", e820(layout)),
            ("etc/acpi/rsdp", tables.rsdp.clone()),
            ("etc/acpi/tables", tables.tables.clone()),
            ("etc/table-loader", loader(tables)),
        ];
        if let Some(shim) = &inputs.shim {
            // Under the first name OVMF finds the whole kernel file, under the second what starts it.
            files.push(("etc/boot/kernel", inputs.kernel.to_vec()));
            files.push(("etc/boot/shim", shim.to_vec()));
        }
        this.add_files(files);
        this
    }

    /// From items by key; [`key::KERNEL_DATA`] is the kernel.
    #[cfg(test)]
    pub(crate) fn of(items: Vec<(u16, Vec<u8>)>) -> FwCfg {
        let mut this = FwCfg { kernel: vec![key::KERNEL_DATA], ..FwCfg::default() };
        items.iter().for_each(|(key, bytes)| this.add(*key, bytes));
        this
    }

    fn add(&mut self, key: u16, bytes: &[u8]) {
        self.items.push((key, Item { bytes: bytes.into(), from: 0 }));
    }

    fn add_size(&mut self, key: u16, len: usize) {
        // No file is longer than `read_file` takes.
        self.add(key, &(len as u32).to_le_bytes());
    }

    /// Kernel, initrd and command line, byte for byte: a guest that checks their hashes would notice.
    fn add_kernel(&mut self, inputs: &Inputs) {
        if inputs.kernel.is_empty() {
            return;
        }
        let setup = setup_len(&inputs.kernel);
        self.add_size(key::SETUP_SIZE, setup);
        self.add(key::SETUP_DATA, &inputs.kernel[..setup]);
        self.add_size(key::KERNEL_SIZE, inputs.kernel.len() - setup);
        let rest = Item { bytes: inputs.kernel.clone(), from: setup };
        self.items.push((key::KERNEL_DATA, rest));
        self.add_size(key::INITRD_SIZE, inputs.initrd.len());
        let initrd = Item { bytes: inputs.initrd.clone(), from: 0 };
        self.items.push((key::INITRD_DATA, initrd));
        self.add_size(key::CMDLINE_SIZE, inputs.cmdline.len());
        self.add(key::CMDLINE_DATA, &inputs.cmdline);
        self.kernel.push(key::KERNEL_DATA);
    }

    /// Files get keys in the order of their names, as the device's users expect, and are listed in a directory.
    fn add_files(&mut self, mut files: Vec<(&str, Vec<u8>)>) {
        files.sort();
        let mut directory = (files.len() as u32).to_be_bytes().to_vec();
        for (key, (name, bytes)) in (key::FIRST_FILE..).zip(files) {
            directory.extend((bytes.len() as u32).to_be_bytes());
            directory.extend(key.to_be_bytes());
            directory.extend([0; 2]);
            directory.extend(padded_name(name));
            if name == "etc/boot/kernel" {
                self.kernel.push(key);
            }
            self.items.push((key, Item { bytes: bytes.into(), from: 0 }));
        }
        self.add(key::FILE_DIRECTORY, &directory);
    }

    /// An item's bytes; an item that is not there is empty.
    pub fn item(&self, key: u16) -> &[u8] {
        self.items.iter().find(|(one, _)| *one == key).map_or(&[], |(_, item)| item.bytes())
    }

    /// Is this the kernel?
    pub fn is_kernel(&self, key: u16) -> bool {
        self.kernel.contains(&key)
    }
}

fn padded_name(name: &str) -> [u8; NAME_LEN] {
    let mut padded = [0; NAME_LEN];
    for (to, from) in padded.iter_mut().zip(name.bytes().take(NAME_LEN - 1)) {
        *to = from;
    }
    padded
}

/// The kernel's real-mode part.
fn setup_len(kernel: &[u8]) -> usize {
    let sectors = match kernel.get(SETUP_HEADER_OFFSET) {
        None | Some(0) => SETUP_SECTS_DEFAULT,
        Some(sectors) => *sectors,
    };
    ((usize::from(sectors) + 1) * SECTOR as usize).min(kernel.len())
}

/// The memory map's RAM: 20 bytes an entry.
fn e820(layout: &Layout) -> Vec<u8> {
    let mut map = Vec::new();
    for ram in &layout.ram {
        map.extend(ram.gpa.to_le_bytes());
        map.extend(ram.len.to_le_bytes());
        map.extend(E820Type::RAM.0.to_le_bytes());
    }
    map
}

/// A command of the table loader is this long.
const COMMAND_LEN: usize = 128;

/// The script that tells the firmware what to do with the ACPI tables (edk2 OvmfPkg/Include/IndustryStandard/QemuLoader.h):
/// where they go, which of their fields point to one another, and what to sum up again.
fn loader(tables: &AcpiTables) -> Vec<u8> {
    const ALLOCATE: u32 = 1;
    const ADD_POINTER: u32 = 2;
    const ADD_CHECKSUM: u32 = 3;
    const ZONE_HIGH: u8 = 1;
    const ZONE_FSEG: u8 = 2;
    const POINTER_LEN: u8 = 8;
    let mut script = Vec::new();
    let mut command = |kind: u32, parts: &[&[u8]]| {
        let begin = script.len();
        script.extend(kind.to_le_bytes());
        parts.iter().for_each(|part| script.extend(*part));
        script.resize(begin + COMMAND_LEN, 0);
    };
    let (rsdp, file) = (padded_name("etc/acpi/rsdp"), padded_name("etc/acpi/tables"));
    command(ALLOCATE, &[&rsdp, &16u32.to_le_bytes(), &[ZONE_FSEG]]);
    command(ALLOCATE, &[&file, &(PAGE as u32).to_le_bytes(), &[ZONE_HIGH]]);
    for at in &tables.pointers {
        command(ADD_POINTER, &[&file, &file, &at.to_le_bytes(), &[POINTER_LEN]]);
    }
    command(ADD_POINTER, &[&rsdp, &file, &tables.rsdp_pointer.to_le_bytes(), &[POINTER_LEN]]);
    for sum in &tables.checksums {
        let [result, start, len] = [sum.result, sum.start, sum.len].map(u32::to_le_bytes);
        command(ADD_CHECKSUM, &[&file, &result, &start, &len]);
    }
    for sum in &tables.rsdp_checksums {
        let [result, start, len] = [sum.result, sum.start, sum.len].map(u32::to_le_bytes);
        command(ADD_CHECKSUM, &[&rsdp, &result, &start, &len]);
    }
    script
}

#[cfg(test)]
#[path = "fw_cfg_test.rs"]
mod tests;
