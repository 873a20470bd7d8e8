//! The contract between the monitor and the measured shim: guest address map, parameter page, entry state, ways to end.
//!
//! # Launch pages
//!
//! The initial page table (made by [`initial_page_table`]), the shim's code (at most [`SHIM_CODE_PAGES_MAX`] pages), the
//! [`ParameterPage`] and the ACPI page. With [`LoadMode::MEASURED`] the kernel file, the initrd and the command line follow,
//! each at its destination. An unprotected guest has just these, written to memory. What others have beside them or in their
//! place: [`snp`], [`tdx`].
//!
//! # What the monitor does about ownership
//!
//! All RAM below its end is private, except what waits in shared memory, when [`Flags::RAM_PRIVATE`] is set; the shim then
//! only validates. Without the flag the shim asks for each range (Page State Change); [`SHIM_BASE`]..[`WORK_END`] is private
//! in either case.
//!
//! # What the shim accepts
//!
//! First what it works in, launch pages excepted. Then E820 entries of type RAM minus [`SHIM_BASE`]..[`WORK_END`], minus
//! measured blobs, minus staging; the staging ranges (rounded out to pages) follow after loading. So no page may hold two
//! blobs, and staging lies in RAM.
//!
//! Where [`ParameterPage::accepted`] names ranges, the shim accepts only what of RAM lies in them, and leaves the rest to
//! the kernel: it builds the table of unaccepted memory (UEFI specification 2.10A has the type, Linux 7.2
//! include/linux/efi.h `efi_unaccepted_memory` the table) and the three EFI tables that lead the kernel to it. Staging is
//! made private again, but not accepted.

pub mod snp;
pub mod tdx;

use core::mem::{offset_of, size_of};

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Size of a page, and of everything in the map below.
pub const PAGE: u64 = 4096;
/// Size of a large page.
pub const LARGE_PAGE: u64 = 2 << 20;

/// Start of what the launch reserves below 640 KiB.
pub const SHIM_BASE: u64 = 0x1_0000;
/// The initial page table: one launch page, see [`initial_page_table`] and [`snp`]. Also CR3 of every vCPU.
pub const INITIAL_PAGE_TABLE_GPA: u64 = SHIM_BASE;
/// The shim's code and read-only data: the flat image starts here.
pub const SHIM_CODE_GPA: u64 = 0x1_1000;
/// Most pages the shim's code may have.
pub const SHIM_CODE_PAGES_MAX: u64 = 4;
/// Where the shim is entered, RSI being [`PARAMETER_GPA`]: RIP of an unprotected guest's boot processor.
pub const SHIM_ENTRY_GPA: u64 = SHIM_CODE_GPA + 0x10;
/// The [`ParameterPage`]; RSI at entry.
pub const PARAMETER_GPA: u64 = 0x1_5000;
/// The ACPI tables, RSDP included, made by the monitor and measured.
pub const ACPI_GPA: u64 = 0x1_6000;
/// The CPUID page (SNP).
pub const CPUID_GPA: u64 = 0x1_7000;
/// The secrets page (SNP).
pub const SECRETS_GPA: u64 = 0x1_8000;

/// Start of the memory that the shim works in: no launch page, private from the start.
pub const WORK_BASE: u64 = 0x1_9000;
/// `setup_data` and CC blob for the kernel (SNP).
pub const CC_BLOB_GPA: u64 = 0x1_9000;
/// `boot_params`.
pub const BOOT_PARAMS_GPA: u64 = 0x1_A000;
/// The shim's GHCB page.
pub const GHCB_GPA: u64 = 0x1_B000;
/// The shim's variables, then its stack, which ends at [`STACK_TOP`].
pub const SHIM_DATA_GPA: u64 = 0x1_C000;
/// End of the stack.
pub const STACK_TOP: u64 = 0x2_0000;
/// The page tables that the kernel is entered with.
pub const PAGE_TABLES_GPA: u64 = 0x2_0000;
/// Pages of page tables.
pub const PAGE_TABLES_PAGES: u64 = 9;
/// End of the memory that the shim works in.
pub const WORK_END: u64 = PAGE_TABLES_GPA + PAGE_TABLES_PAGES * PAGE;
/// Destination of the command line (NUL included), at most [`CMDLINE_MAX`] bytes. A page of ordinary RAM.
pub const CMDLINE_GPA: u64 = 0x3_0000;
/// Longest command line with its NUL.
pub const CMDLINE_MAX: u64 = PAGE;
/// The EFI tables of a kernel that accepts memory itself ([`crate::efi::Tables`]): one page of ordinary RAM.
pub const EFI_TABLES_GPA: u64 = 0x3_1000;
/// The table of what is not accepted, with its bitmap, up to [`LOW_RAM_END`].
pub const UNACCEPTED_GPA: u64 = 0x3_2000;
/// End of conventional memory: nothing of ours lies above.
pub const LOW_RAM_END: u64 = 0xA_0000;
/// Where RAM starts again: at the ROM area, for a kernel with CONFIG_ISCSI_IBFT_FIND reads all of it through its direct
/// map (Linux 7.2 drivers/firmware/iscsi_ibft_find.c), so an SNP guest must own it. The kernel takes it out of the map
/// afterwards (arch/x86/kernel/setup.c `trim_bios_range`).
pub const HIGH_RAM_START: u64 = 0xC_0000;
/// Kernel, initrd, staging and everything else the shim touches by address lies below.
pub const LOAD_END_MAX: u64 = 1 << 32;

const _: () = assert!(WORK_END < CMDLINE_GPA && CMDLINE_GPA + CMDLINE_MAX <= LOW_RAM_END);
const _: () =
    assert!(CMDLINE_GPA + CMDLINE_MAX <= EFI_TABLES_GPA && EFI_TABLES_GPA + PAGE <= UNACCEPTED_GPA);
const _: () = assert!(SHIM_CODE_GPA + SHIM_CODE_PAGES_MAX * PAGE == PARAMETER_GPA);

/// The low part of every memory map: what E820 must say below [`HIGH_RAM_START`] (start, end, type).
///
/// The shim refuses a map that makes the reserved pages RAM. What the kernel reads later (ACPI tables, CPUID and secrets
/// page, the `setup_data` that sysfs shows) has the type of ACPI tables, because an SNP guest maps *reserved* memory shared
/// (Linux 7.2 arch/x86/mm/ioremap.c `__ioremap_check_encrypted`).
pub const LOW_E820: [(u64, u64, crate::boot::E820Type); 4] = [
    (0, SHIM_BASE, crate::boot::E820Type::RAM),
    (SHIM_BASE, ACPI_GPA, crate::boot::E820Type::RESERVED),
    (ACPI_GPA, BOOT_PARAMS_GPA, crate::boot::E820Type::ACPI),
    (BOOT_PARAMS_GPA, LOW_RAM_END, crate::boot::E820Type::RAM),
];

/// Registers that both kinds of vCPU start with; every register not named is zero.
///
/// RIP and RSI are those of [`SHIM_ENTRY_GPA`] (none of an SNP guest's, see [`snp`]), RFLAGS 2, CR3
/// [`INITIAL_PAGE_TABLE_GPA`] with the C-bit. CS is [`crate::boot::BOOT_CS`], a flat 64-bit code segment (attributes 0xA9B,
/// limit 0xFFFFFFFF); DS, ES, SS, FS and GS are [`crate::boot::BOOT_DS`], flat data (0xC93, 0xFFFFFFFF); TR is a busy TSS
/// (0x8B, limit 0xFFFF), LDTR 0x82; GDTR and IDTR have limit 0.
pub mod entry {
    /// PG, NE, ET, MP, PE. The shim is compiled with SSE2 and relies on these and on [`CR4`].
    pub const CR0: u64 = 0x8000_0033;
    /// OSXMMEXCPT, OSFXSR, PAE; KVM adds the host's MCE.
    pub const CR4: u64 = 0x620;
    /// NXE, LMA, LME; KVM adds SVME.
    pub const EFER: u64 = 0xD00;
}

/// The page at [`INITIAL_PAGE_TABLE_GPA`]: maps 4 KiB..640 KiB to itself, private when a C-bit position is given.
///
/// One page is all four levels: entry 0 points to the page itself, so the walk of an address below 2 MiB stays on it until
/// the last level, where entry *n* maps page *n*. The price is that virtual page 0 is the table and not page 0.
pub fn initial_page_table(c_bit: Option<u32>) -> [u64; 512] {
    const PRESENT_WRITABLE: u64 = 3;
    let private = c_bit.map_or(0, |bit| 1u64 << (bit & 63));
    let mut table = [0; 512];
    let mut page = 0;
    for entry in table.iter_mut().take((LOW_RAM_END / PAGE) as usize) {
        *entry = page | PRESENT_WRITABLE | private;
        page += PAGE;
    }
    table[0] = INITIAL_PAGE_TABLE_GPA | PRESENT_WRITABLE | private;
    table
}

/// Technology the shim runs under: a field of the [`ParameterPage`].
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Technology(pub u32);

impl Technology {
    /// No protection.
    pub const PLAIN: Self = Self(1);
    /// SEV-SNP.
    pub const SNP: Self = Self(2);
    /// TDX.
    pub const TDX: Self = Self(3);
}

/// How kernel, initrd and command line arrive: a field of the [`ParameterPage`].
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct LoadMode(pub u32);

impl LoadMode {
    /// They wait in shared memory; the shim copies them and compares their SHA-256.
    pub const HASHED: Self = Self(1);
    /// They are launch pages at their destination.
    pub const MEASURED: Self = Self(2);
}

/// Format of the kernel file: a field of the [`ParameterPage`].
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct KernelKind(pub u32);

impl KernelKind {
    /// A whole bzImage file. Its destination is the aligned load address minus [`crate::boot::SetupHeader::setup_bytes`].
    pub const BZIMAGE: Self = Self(1);
    /// A whole ELF file, whose segments the shim brings to their `p_paddr`: from scratch memory, or from where the file lies
    /// so that each, in the order of the program headers, stays or moves down over nothing that is still needed.
    pub const ELF: Self = Self(2);
    /// An ELF file in a legacy frame of LZ4, its length behind it: the payload of a bzImage (Linux 7.2
    /// Documentation/arch/x86/boot.rst, `payload_offset`). The shim unpacks it to [`ParameterPage::unpacked`] and goes on as
    /// with [`Self::ELF`]. What the payload has behind the ELF file, to move the kernel by, it ignores.
    pub const LZ4: Self = Self(3);
}

/// How other processors help the shim to accept memory ([`Flags::PARALLEL`]).
///
/// They wait at a gate, a 32-bit word of a launch page that stays reserved. When it is [`OPEN`](help::OPEN) they add
/// [`VISITOR`](help::VISITOR), look again, accept units of [`LARGE_PAGE`] on a stack of their own as long as there are some,
/// and take it off. The boot processor closes the gate when it finds no more units, and goes on when nobody is in.
pub mod help {
    /// Others may come in.
    pub const OPEN: u32 = 1 << 1;
    /// One that is in.
    pub const VISITOR: u32 = 1 << 4;
    /// Where their stacks start, below the boot processor's.
    pub const STACKS_GPA: u64 = super::SHIM_DATA_GPA + super::PAGE;
    /// Bytes of a stack.
    pub const STACK: u64 = 256;
    /// How many stacks there are: who finds none has nothing to do in this round.
    pub const STACKS: u64 = 16;
}

bitflags! {
    /// Switches of the [`ParameterPage`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flags: u32 {
        /// RAM (staging excepted) already has the private attribute: no Page State Change before PVALIDATE.
        const RAM_PRIVATE = 1 << 0;
        /// `cpuid_digest` is the SHA-256 of the CPUID page; the shim compares.
        const CPUID_DIGEST = 1 << 1;
        /// No phase marks.
        const NO_MARKS = 1 << 2;
        /// The other processors accept memory as well, see [`help`]. Of a TD alone.
        const PARALLEL = 1 << 3;
    }
}

/// Kernel, initrd or command line.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Blob {
    /// Where it waits in shared memory, page aligned ([`LoadMode::HASHED`]); else 0.
    pub staging: u64,
    /// Where it belongs, in RAM below 4 GiB. Page aligned for initrd and command line.
    pub dest: u64,
    /// Bytes; 0 for an absent initrd. The command line has at least its NUL.
    pub size: u64,
    /// Zero.
    pub reserved: u64,
    /// SHA-256 of the bytes ([`LoadMode::HASHED`]); else zero.
    pub digest: [u8; 32],
}

const _: () = assert!(size_of::<Blob>() == 64);

/// One entry of the memory map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct E820Entry {
    /// First address, page aligned.
    pub addr: u64,
    /// Bytes, page aligned, not 0.
    pub size: u64,
    /// What it is.
    pub kind: crate::boot::E820Type,
    /// Zero.
    pub reserved: u32,
}

/// Guest-physical addresses: `[addr, addr + size)`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Extent {
    /// First address.
    pub addr: u64,
    /// Bytes; 0 for an unused one.
    pub size: u64,
}

impl Extent {
    /// None.
    pub const UNUSED: Self = Self { addr: 0, size: 0 };
}

/// Most ranges that are accepted before a kernel that accepts the rest.
pub const ACCEPTED_EXTENTS: usize = 4;

/// Most entries of the memory map.
pub const E820_ENTRIES_MAX: usize = 64;

/// The parameter page: all the shim is told. Measured.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ParameterPage {
    /// 0x000: [`Self::MAGIC`].
    pub magic: u64,
    /// 0x008: [`Self::VERSION`].
    pub version: u32,
    /// 0x00C: checked by the shim against the processor.
    pub technology: Technology,
    /// 0x010: [`Flags`].
    pub flags: u32,
    /// 0x014: position of the C-bit (SNP), else 0.
    pub c_bit: u32,
    /// 0x018: vCPUs of the guest.
    pub vcpu_count: u32,
    /// 0x01C
    pub load_mode: LoadMode,
    /// 0x020
    pub kernel_kind: KernelKind,
    /// 0x024: used entries of `e820`.
    pub e820_count: u32,
    /// 0x028: address of the RSDP in the ACPI page.
    pub acpi_rsdp: u64,
    /// 0x030: where the second stage of an SNP guest's shim has waited; else 0.
    pub second_stage: u64,
    /// 0x038: zero.
    pub reserved_038: u64,
    /// 0x040
    pub kernel: Blob,
    /// 0x080
    pub initrd: Blob,
    /// 0x0C0
    pub cmdline: Blob,
    /// 0x100: see [`Flags::CPUID_DIGEST`].
    pub cpuid_digest: [u8; 32],
    /// 0x120: what the shim accepts, where it is not all of RAM: sorted, disjoint, each of whole units of [`LARGE_PAGE`].
    /// The first is `[0, LARGE_PAGE)`. Unused ones are last; if all are unused, the shim accepts all of RAM.
    ///
    /// Every destination lies in one of them, and staging in none. A unit of which only a part were accepted would end the
    /// guest later, whatever the kernel is told about it.
    pub accepted: [Extent; ACCEPTED_EXTENTS],
    /// 0x160: where an ELF file is unpacked to ([`KernelKind::LZ4`]), exactly so many bytes, in RAM below 4 GiB, and in
    /// one of the ranges above if there are any; else unused.
    pub unpacked: Extent,
    /// 0x170: zero.
    pub reserved_170: [u64; 2],
    /// 0x180: sorted, without overlap, starting with [`LOW_E820`].
    pub e820: [E820Entry; E820_ENTRIES_MAX],
    /// 0x780: zero.
    pub reserved_780: [u64; 272],
}

const _: () = assert!(size_of::<ParameterPage>() == 4096);
const _: () = assert!(offset_of!(ParameterPage, technology) == ParameterPage::TECHNOLOGY_OFFSET);
const _: () = assert!(offset_of!(ParameterPage, kernel) == 0x40);
const _: () = assert!(offset_of!(ParameterPage, cpuid_digest) == 0x100);
const _: () = assert!(offset_of!(ParameterPage, accepted) == 0x120);
const _: () = assert!(offset_of!(ParameterPage, unpacked) == 0x160);
const _: () = assert!(offset_of!(ParameterPage, e820) == 0x180);
const _: () = assert!(offset_of!(ParameterPage, reserved_780) == 0x780);

impl ParameterPage {
    /// "CVMMSHIM", little endian.
    pub const MAGIC: u64 = u64::from_le_bytes(*b"CVMMSHIM");
    /// Version of this layout.
    pub const VERSION: u32 = 2;
    /// Offset of `technology`.
    pub const TECHNOLOGY_OFFSET: usize = 0x0C;
}

/// Reason set of the shim in a GHCB termination request (GHCB specification 56421 rev 2.03, section 2.3.1).
pub const TERMINATION_SET: u8 = 0xC;
/// Port that takes the termination value of an unprotected guest: a 32-bit OUT of [`Termination::msr_value`].
pub const TERMINATION_PORT: u16 = 0xF8;

/// Why the shim ended the guest: the reason code of set [`TERMINATION_SET`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Termination(pub u8);

impl Termination {
    /// The parameter page has no magic, or RSI does not point to it.
    pub const BAD_MAGIC: Self = Self(0x01);
    /// The parameter page has another version.
    pub const BAD_VERSION: Self = Self(0x02);
    /// The technology named is unknown or is not the one the processor reports in SEV_STATUS.
    pub const BAD_TECHNOLOGY: Self = Self(0x03);
    /// A field is out of range, or reserved bytes are not zero.
    pub const BAD_PARAMETER: Self = Self(0x04);
    /// The memory map is not sorted, overlaps, or makes RAM of what the launch reserves.
    pub const BAD_E820: Self = Self(0x05);
    /// A kernel, initrd, command line or staging range overlaps another or does not lie in RAM.
    pub const BAD_RANGE: Self = Self(0x06);
    /// The ACPI page has no RSDP with a right checksum where the parameters say.
    pub const BAD_ACPI: Self = Self(0x07);
    /// The ranges to accept before the kernel are not sorted or not whole units, leave a destination out, or cut memory in
    /// pieces of which the kernel cannot be told.
    pub const BAD_ACCEPTED: Self = Self(0x08);
    /// The SHA-256 of the kernel differs.
    pub const KERNEL_HASH: Self = Self(0x10);
    /// The SHA-256 of the initrd differs.
    pub const INITRD_HASH: Self = Self(0x11);
    /// The SHA-256 of the command line differs.
    pub const CMDLINE_HASH: Self = Self(0x12);
    /// The command line does not end with its only NUL.
    pub const BAD_CMDLINE: Self = Self(0x13);
    /// The bzImage has no valid setup header or no 64-bit entry, or it does not fit.
    pub const BAD_BZIMAGE: Self = Self(0x14);
    /// The ELF kernel is malformed, or a segment does not fit.
    pub const BAD_ELF: Self = Self(0x15);
    /// The SHA-256 of the second stage differs.
    pub const SHIM_HASH: Self = Self(0x16);
    /// The LZ4 payload is malformed, or does not unpack to just the length that the parameters name.
    pub const BAD_LZ4: Self = Self(0x17);
    /// The hypervisor does not speak version 2 of the GHCB protocol.
    pub const GHCB_VERSION: Self = Self(0x20);
    /// The hypervisor reports another C-bit position than the parameters.
    pub const C_BIT: Self = Self(0x21);
    /// The hypervisor lacks SNP, or AP creation although there are several vCPUs.
    pub const HV_FEATURES: Self = Self(0x22);
    /// The hypervisor did not register the GHCB page.
    pub const GHCB_REGISTER: Self = Self(0x23);
    /// A GHCB page request failed or was answered with an event.
    pub const GHCB_REQUEST: Self = Self(0x24);
    /// The hypervisor refused a page state change.
    pub const PAGE_STATE_CHANGE: Self = Self(0x28);
    /// PVALIDATE failed with a code other than a size mismatch of a large page.
    pub const PVALIDATE: Self = Self(0x29);
    /// PVALIDATE found the page in the state asked for (CF=1): the host replayed or remapped a page.
    pub const DOUBLE_VALIDATION: Self = Self(0x2A);
    /// The CPUID page is malformed, contradicts the parameters, or has another digest than the parameters.
    pub const CPUID_PAGE: Self = Self(0x30);
    /// The secrets page is not one that firmware has filled.
    pub const SECRETS_PAGE: Self = Self(0x31);
    /// The module did not accept a page, for another reason than a size mismatch.
    pub const PAGE_ACCEPT: Self = Self(0x40);
    /// The host refused to make pages private or shared (MapGPA), or made no progress.
    pub const MAP_GPA: Self = Self(0x41);
    /// The host failed another request.
    pub const TDVMCALL: Self = Self(0x42);
    /// The TD has attributes under which Linux cannot be protected: no SEPT_VE_DISABLE.
    pub const TD_ATTRIBUTES: Self = Self(0x43);
    /// The module reports fewer vCPUs than the parameters, or another address width than it did at the start.
    pub const TD_INFO: Self = Self(0x44);
    /// Code base of processor exceptions in the shim: 0x80 + vector. 0x9D is #VC, where an unaccepted page of an SNP guest
    /// ends (one of a TD ends the TD in the module).
    pub const EXCEPTION_BASE: u8 = 0x80;

    /// An exception the shim does not expect.
    pub const fn exception(vector: u8) -> Self {
        Self(Self::EXCEPTION_BASE | (vector & 0x1F))
    }

    /// The value of the GHCB MSR that asks for termination (MSR protocol, function 0x100).
    pub const fn msr_value(self) -> u64 {
        0x100 | (TERMINATION_SET as u64) << 12 | (self.0 as u64) << 16
    }

    /// The shim's reason in a termination value; `None` when it is another set's.
    pub const fn from_msr_value(value: u64) -> Option<Self> {
        if value & 0xFFFF == 0x100 | (TERMINATION_SET as u64) << 12 {
            Some(Self((value >> 16) as u8))
        } else {
            None
        }
    }

    /// One sentence about a known code.
    pub fn describe(self) -> Option<&'static str> {
        if self.0 & 0xE0 == Self::EXCEPTION_BASE {
            return Some(match self.0 & 0x1F {
                13 => {
                    "the shim took a general protection fault: the processor lacks what the parameters promise"
                }
                14 => {
                    "the shim took a page fault: it touched an address outside of its page tables"
                }
                20 => {
                    "the shim took #VE: a shared page that should hold a file is not there, or the module lets the host \
                       answer an instruction that it should answer itself"
                }
                29 => {
                    "the shim took #VC: it touched a page that is not accepted (the host swapped or remapped it), or the \
                       processor intercepts an instruction it should not"
                }
                _ => {
                    "the shim took an exception it does not expect; the low five bits are the vector"
                }
            });
        }
        Self::TEXTS.iter().find(|(code, _)| *code == self).map(|(_, text)| *text)
    }

    /// Every fixed code with its sentence; a test holds README.md to this table.
    pub const TEXTS: &'static [(Self, &'static str)] = &[
        (Self::BAD_MAGIC, "the parameter page is not one: its magic, or RSI, is wrong"),
        (Self::BAD_VERSION, "the parameter page has another version than the shim"),
        (
            Self::BAD_TECHNOLOGY,
            "the parameter page names another technology than the processor reports",
        ),
        (Self::BAD_PARAMETER, "a field of the parameter page is out of range"),
        (Self::BAD_E820, "the memory map is unsorted, overlaps, or makes RAM of launch pages"),
        (
            Self::BAD_RANGE,
            "a kernel, initrd, command line or staging range overlaps another or is not in RAM",
        ),
        (Self::BAD_ACPI, "the ACPI page holds no valid RSDP"),
        (
            Self::BAD_ACCEPTED,
            "the memory to accept before the kernel is not in whole units, or leaves out what it must hold",
        ),
        (Self::KERNEL_HASH, "the kernel in memory is not the one whose SHA-256 was measured"),
        (Self::INITRD_HASH, "the initrd in memory is not the one whose SHA-256 was measured"),
        (
            Self::CMDLINE_HASH,
            "the command line in memory is not the one whose SHA-256 was measured",
        ),
        (Self::BAD_CMDLINE, "the command line does not end with its only NUL"),
        (
            Self::BAD_BZIMAGE,
            "the kernel is no bzImage with a 64-bit entry, or does not fit where it is placed",
        ),
        (Self::BAD_ELF, "the ELF kernel is malformed, or a segment does not fit"),
        (
            Self::SHIM_HASH,
            "the second stage in memory (shim, parameters, ACPI tables) is not the one whose SHA-256 was measured",
        ),
        (
            Self::BAD_LZ4,
            "the LZ4 payload is malformed, or does not unpack to the length that was measured",
        ),
        (Self::GHCB_VERSION, "the hypervisor does not offer GHCB protocol version 2"),
        (Self::C_BIT, "the hypervisor reports another C-bit position than was measured"),
        (Self::HV_FEATURES, "the hypervisor lacks SNP or AP creation"),
        (Self::GHCB_REGISTER, "the hypervisor did not register the GHCB page"),
        (Self::GHCB_REQUEST, "the hypervisor failed a request made through the GHCB page"),
        (Self::PAGE_STATE_CHANGE, "the hypervisor refused a page state change"),
        (Self::PVALIDATE, "PVALIDATE failed"),
        (Self::DOUBLE_VALIDATION, "a page was accepted twice: the host replayed or remapped it"),
        (Self::CPUID_PAGE, "the CPUID page is malformed or is not the expected one"),
        (Self::SECRETS_PAGE, "the secrets page was not filled by firmware"),
        (Self::PAGE_ACCEPT, "the TDX module did not accept a page"),
        (Self::MAP_GPA, "the host refused to convert pages, or made no progress"),
        (Self::TDVMCALL, "the host failed a TDVMCALL"),
        (Self::TD_ATTRIBUTES, "the TD's attributes lack SEPT_VE_DISABLE"),
        (Self::TD_INFO, "the TDX module reports another TD than was measured"),
    ];
}
