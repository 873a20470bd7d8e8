//! The ACPI tables: one page, hardware-reduced, that names processors, the console's device, and how to power off.
//!
//! ACPI specification 6.5, chapter 5. Everything here is measured, so it depends on the number of vCPUs, on how they are
//! woken, on the console's device, and on nothing else. No PM timer, no SCI, no legacy devices: IAPC_BOOT_ARCH says there is no VGA and no CMOS clock, and no 8042.

use acpi_tables::aml::{
    self, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, ResourceTemplate,
};
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use zerocopy::{Immutable, IntoBytes};

use super::PlanError;
use crate::config::{ConsoleDevice, CpuCount};
use crate::device::{acpi_pm, serial, virtio};

const OEM: [u8; 6] = *b"CVMM  ";
const TABLE: [u8; 8] = *b"CVMMGEST";
const LAPIC_ADDRESS: u32 = 0xfee0_0000;
const IOAPIC_ADDRESS: u32 = 0xfec0_0000;
/// IAPC_BOOT_ARCH: no VGA (bit 2), no CMOS clock (bit 5); bit 1 clear: no 8042.
const BOOT_ARCH: u16 = 1 << 2 | 1 << 5;

/// The page at `gpa`: RSDP first, then the tables it leads to.
///
/// # Errors
/// More vCPUs than one page has room for.
pub fn page(
    gpa: u64,
    cpus: CpuCount,
    wakeup: Option<Wakeup>,
    console: ConsoleDevice,
) -> Result<Vec<u8>, PlanError> {
    let mut page = vec![0; Rsdp::len()];
    let dsdt = append(&mut page, gpa, &dsdt(console));
    let fadt = append(&mut page, gpa, &fadt(dsdt));
    let madt = append(&mut page, gpa, &madt(cpus, wakeup));
    let mut xsdt = XSDT::new(OEM, TABLE, 1);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = append(&mut page, gpa, &xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    page[..rsdp.len()].copy_from_slice(&rsdp);
    if page.len() > abi::shim::PAGE as usize {
        return Err(PlanError::TooManyCpus { cpus: cpus.get() });
    }
    page.resize(abi::shim::PAGE as usize, 0);
    Ok(page)
}

/// Bytes whose sum is to be 0 again once pointers among them are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// The byte that makes it so.
    pub result: u32,
    /// The first byte.
    pub start: u32,
    /// How many.
    pub len: u32,
}

/// The same tables for a firmware that decides where they go: pointers are offsets so far.
#[derive(Clone, Debug)]
pub struct AcpiTables {
    /// All but the RSDP.
    pub tables: Vec<u8>,
    /// Where they have pointers of 8 bytes, into themselves.
    pub pointers: Vec<u32>,
    /// Their sums.
    pub checksums: Vec<Checksum>,
    /// The RSDP.
    pub rsdp: Vec<u8>,
    /// Where it has its pointer.
    pub rsdp_pointer: u32,
    /// Its sums.
    pub rsdp_checksums: Vec<Checksum>,
}

/// Offsets of fields (ACPI specification 6.5, sections 5.2.5.3, 5.2.6, 5.2.8 and 5.2.9).
const RSDP_CHECKSUM: u32 = 8;
const RSDP_FIRST_PART: u32 = 20;
const RSDP_XSDT: u32 = 24;
const RSDP_EXTENDED_CHECKSUM: u32 = 32;
const TABLE_CHECKSUM: u32 = 9;
const XSDT_ENTRIES: u32 = 36;
const FADT_X_DSDT: u32 = 140;

/// The tables for a firmware. Its processors are woken as on a PC, or as the firmware itself adds.
pub fn tables(cpus: CpuCount) -> AcpiTables {
    let mut tables = Vec::new();
    let dsdt = append(&mut tables, 0, &dsdt(ConsoleDevice::Serial));
    let fadt = append(&mut tables, 0, &fadt(dsdt));
    let madt = append(&mut tables, 0, &madt(cpus, None));
    let mut table = XSDT::new(OEM, TABLE, 1);
    table.add_entry(fadt);
    table.add_entry(madt);
    let xsdt = append(&mut tables, 0, &table);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut rsdp);
    // Three tables, of 254 processors at most: nothing is beyond 32 bits.
    let [fadt, xsdt, end] = [fadt, xsdt, tables.len() as u64].map(|at| at as u32);
    let sum = |start: u32, len: u32| Checksum { result: start + TABLE_CHECKSUM, start, len };
    let checksums = vec![sum(fadt, FADT::len() as u32), sum(xsdt, end - xsdt)];
    let rsdp_checksums = vec![
        Checksum { result: RSDP_CHECKSUM, start: 0, len: RSDP_FIRST_PART },
        Checksum { result: RSDP_EXTENDED_CHECKSUM, start: 0, len: rsdp.len() as u32 },
    ];
    clear(&mut tables, &checksums);
    clear(&mut rsdp, &rsdp_checksums);
    AcpiTables {
        pointers: vec![fadt + FADT_X_DSDT, xsdt + XSDT_ENTRIES, xsdt + XSDT_ENTRIES + 8],
        checksums,
        tables,
        rsdp_pointer: RSDP_XSDT,
        rsdp_checksums,
        rsdp,
    }
}

/// Sums are taken over their own byte as well, which must then be 0.
fn clear(bytes: &mut [u8], checksums: &[Checksum]) {
    for sum in checksums {
        bytes[sum.result as usize] = 0;
    }
}

/// Appends a table on an 8-byte boundary; says where the guest finds it.
fn append(page: &mut Vec<u8>, gpa: u64, table: &dyn Aml) -> u64 {
    page.resize(page.len().next_multiple_of(8), 0);
    let at = gpa + page.len() as u64;
    table.to_aml_bytes(page);
    at
}

fn port(number: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(number))
}

fn fadt(dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM, TABLE, 1)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd);
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.reset_reg = port(acpi_pm::RESET_PORT);
    fadt.reset_value = acpi_pm::RESET_VALUE;
    fadt.sleep_control_reg = port(acpi_pm::SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port(acpi_pm::SLEEP_STATUS_PORT);
    fadt.finalize()
}

fn madt(cpus: CpuCount, wakeup: Option<Wakeup>) -> MADT {
    let mut madt = MADT::new(OEM, TABLE, 1, LocalInterruptController::Address(LAPIC_ADDRESS));
    // At most 254 vCPUs: their ids fit the 8-bit entries, in x2APIC mode too.
    for id in 0..cpus.get() {
        let id = id as u8;
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, IOAPIC_ADDRESS, 0));
    if let Some(wakeup) = wakeup {
        madt.add_structure(WakeupStructure::new(wakeup));
    }
    madt
}

/// Processors that wait at a mailbox until the kernel calls them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wakeup {
    /// Where the mailbox is.
    pub mailbox: u64,
    /// Where a processor goes that the kernel gives back.
    pub reset_vector: u64,
}

/// Multiprocessor wakeup structure (ACPI specification 6.6, section 5.2.12.19), which acpi_tables lacks. Its version 1
/// has the reset vector.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C, packed)]
struct WakeupStructure {
    kind: u8,
    length: u8,
    version: u16,
    reserved: u32,
    mailbox: u64,
    reset_vector: u64,
}

const _: () = assert!(size_of::<WakeupStructure>() == 24);

impl WakeupStructure {
    fn new(wakeup: Wakeup) -> WakeupStructure {
        WakeupStructure {
            kind: 0x10,
            length: size_of::<WakeupStructure>() as u8,
            version: 1,
            reserved: 0,
            mailbox: wakeup.mailbox,
            reset_vector: wakeup.reset_vector,
        }
    }
}

impl Aml for WakeupStructure {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(self.as_bytes());
    }
}

/// `_S5_` (how to power off) and the console's device.
fn dsdt(console: ConsoleDevice) -> Sdt {
    let mut aml = Vec::new();
    let s5 = acpi_pm::S5_SLEEP_TYPE;
    Name::new("_S5_".into(), &Package::new(vec![&s5, &0u8, &0u8, &0u8])).to_aml_bytes(&mut aml);
    match console {
        ConsoleDevice::Serial => {
            let ports = IO::new(serial::BASE_PORT, serial::BASE_PORT, 1, serial::PORT_COUNT as u8);
            device(&mut aml, "_SB_.COM1", &EISAName::new("PNP0501"), &ports, serial::IRQ);
        }
        ConsoleDevice::Virtio => {
            // Below 4 GiB, where its driver looks for the one piece of memory and the one interrupt that it has (Linux 7.2
            // drivers/virtio/virtio_mmio.c virtio_mmio_acpi_match).
            let registers = Memory32Fixed::new(true, virtio::BASE as u32, virtio::LEN as u32);
            device(&mut aml, "_SB_.VCON", &"LNRO0005", &registers, virtio::IRQ);
        }
        ConsoleDevice::None => {}
    }
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, 1);
    dsdt.append_slice(&aml);
    dsdt
}

/// A device with its registers and an edge-triggered interrupt.
fn device(aml: &mut Vec<u8>, path: &str, hid: &dyn Aml, registers: &dyn Aml, irq: u32) {
    Device::new(
        path.into(),
        vec![
            &Name::new("_HID".into(), hid),
            &Name::new("_UID".into(), &aml::ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    registers,
                    &Interrupt::new(true, true, false, false, irq),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

#[cfg(test)]
#[path = "acpi_test.rs"]
mod tests;
