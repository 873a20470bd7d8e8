//! A machine of one vector of bytes, and a guest that fits it.

mod td;

use std::collections::BTreeSet;

use abi::boot::{BOOT_FLAG, E820Type, HEADER_MAGIC, SETUP_HEADER_OFFSET, SetupHeader};
use abi::marks::{Mark, MarkId};
use abi::shim::{
    ACPI_GPA, Blob, CMDLINE_GPA, E820Entry, Flags, HIGH_RAM_START, KernelKind, LARGE_PAGE,
    LOAD_END_MAX, LOW_E820, LoadMode, PAGE, PAGE_TABLES_GPA, ParameterPage, Technology,
    Termination,
};
use zerocopy::{FromZeros, IntoBytes};

use crate::gate::Gate;
use crate::paging::{self, PageTables};
use crate::platform::{Platform, Validation, object, object_mut};
use crate::range::Range;
use crate::round::Round;
use crate::sha256;
use crate::tdx::{accept, map_gpa};

pub use td::{Fault, Td};

pub const MEMORY: u64 = 64 << 20;
pub const C_BIT: u32 = 51;
pub const C_MASK: u64 = 1 << C_BIT;
/// Of guest addresses of 48 bits.
pub const SHARED_MASK: u64 = 1 << 47;
pub const KERNEL_LOAD: u64 = 0x100_0000;
pub const INITRD: u64 = 0x280_0000;
/// Where what is to be unpacked lies.
pub const PACKED: u64 = 0x240_0000;
pub const STAGING: u64 = 0x300_0000;

/// The machine.
pub struct Mock {
    memory: Vec<u64>,
    pub technology: Technology,
    /// Pages (addresses) that are validated.
    pub validated: BTreeSet<u64>,
    /// RMP or secure EPT hold 4 KiB entries only, as under Linux 7.2.
    pub small_pages: bool,
    /// Module and host of a TD.
    pub td: Td,
    /// Answer this for one address.
    pub inject: Option<(u64, Validation)>,
    pub made_private: Vec<Range>,
    pub marks: Vec<(MarkId, u32)>,
    pub flushes: usize,
    /// What every processor can reach.
    pub round: &'static Round,
    /// Where they wait, if they are to help.
    pub gate: Option<&'static Gate>,
    /// The boot processor is slow: it accepts no second unit before another has accepted one.
    pub awaits_help: bool,
}

impl Mock {
    pub fn new(technology: Technology) -> Self {
        let mut mock = Self {
            memory: vec![0; (MEMORY / 8) as usize],
            technology,
            validated: BTreeSet::new(),
            small_pages: true,
            td: Td::default(),
            inject: None,
            made_private: Vec::new(),
            marks: Vec::new(),
            flushes: 0,
            round: Box::leak(Box::default()),
            gate: None,
            awaits_help: false,
        };
        let mask = mock.private_mask();
        paging::build(object_mut::<PageTables, _>(&mut mock, PAGE_TABLES_GPA).unwrap(), mask);
        mock
    }

    /// Guest-physical address behind a virtual address, and whether the mapping is private.
    pub fn translate(&self, address: u64) -> (u64, bool) {
        let tables: &PageTables = object(self, PAGE_TABLES_GPA).unwrap();
        assert_ne!(tables.pdpt[(address >> 30) as usize] & 1, 0, "{address:#x} is not mapped");
        let index = (address >> 21) as usize % 512;
        let (entry, size) = match address >> 30 {
            0 if address < LARGE_PAGE => (tables.pt[(address / PAGE) as usize], PAGE),
            gib @ 0..4 => (tables.pd[gib as usize][index], LARGE_PAGE),
            gib => (tables.windows[gib as usize - 4][index], LARGE_PAGE),
        };
        let bits = if size == PAGE { 0x03 } else { 0x83 };
        assert_eq!(entry & 0x83, bits, "present, writable, of the right size at {address:#x}");
        let (private, shared) = (self.private_mask(), self.shared_mask());
        let frame = entry & 0x000F_FFFF_FFFF_F000 & !private & !shared;
        (frame + address % size, self.protected() && entry & (private | shared) == private)
    }

    /// Accepts a page.
    fn validate(&mut self, address: u64, large: bool) -> Validation {
        while self.awaits_help && large && !self.round.was_helped() {
            std::thread::yield_now();
        }
        if self.technology == Technology::TDX {
            return accept::accept(address, large, |rcx| {
                self.td.page_accept(rcx, self.small_pages, &mut self.validated)
            });
        }
        let (gpa, private) = self.translate(address);
        assert!(private, "PVALIDATE through a shared mapping at {address:#x}");
        if let Some((at, answer)) = self.inject
            && at == gpa
        {
            return answer;
        }
        if large && self.small_pages {
            return Validation::SizeMismatch;
        }
        let size = if large { LARGE_PAGE } else { PAGE };
        assert_eq!(gpa % size, 0);
        let fresh =
            (gpa..gpa + size).step_by(PAGE as usize).all(|page| self.validated.insert(page));
        if fresh { Validation::Done } else { Validation::Already }
    }

    pub fn write(&mut self, gpa: u64, bytes: &[u8]) {
        self.bytes_mut(gpa, bytes.len() as u64).copy_from_slice(bytes);
    }
}

impl Platform for Mock {
    fn protected(&self) -> bool {
        self.technology != Technology::PLAIN
    }

    fn private_mask(&self) -> u64 {
        if self.technology == Technology::SNP { C_MASK } else { 0 }
    }

    fn shared_mask(&self) -> u64 {
        if self.technology == Technology::TDX { SHARED_MASK } else { 0 }
    }

    fn validates_mapped(&self) -> bool {
        self.technology != Technology::TDX
    }

    fn has_cc_blob(&self) -> bool {
        self.technology == Technology::SNP
    }

    fn has_sha(&self) -> bool {
        false
    }

    fn bytes(&self, gpa: u64, len: u64) -> &[u8] {
        &self.memory.as_bytes()[gpa as usize..(gpa + len) as usize]
    }

    fn bytes_mut(&mut self, gpa: u64, len: u64) -> &mut [u8] {
        &mut self.memory.as_mut_bytes()[gpa as usize..(gpa + len) as usize]
    }

    fn copy(&mut self, dest: u64, source: u64, len: u64) {
        let (dest, private) = self.translate(dest);
        assert_eq!(private, self.protected());
        let (from, private) = self.translate(source);
        assert_eq!(private, self.protected() && source < LOAD_END_MAX, "C-bit of {source:#x}");
        if self.protected() {
            let page = from & !(PAGE - 1);
            assert_eq!(self.validated.contains(&page), private, "state of {from:#x}");
            assert!(self.technology == Technology::SNP || self.td.is_shared(page) != private);
        }
        // As REP MOVSQ and REP MOVSB do.
        let memory = self.memory.as_mut_bytes();
        let words = (0..len / 8).map(|word| (word * 8, 8));
        for (at, step) in words.chain((len & !7..len).map(|at| (at, 1))) {
            let source = (from + at) as usize;
            memory.copy_within(source..source + step, (dest + at) as usize);
        }
    }

    fn clear(&mut self, gpa: u64, len: u64) {
        self.bytes_mut(gpa, len).fill(0);
    }

    fn flush(&mut self) {
        self.flushes += 1;
    }

    fn set_private(&mut self, range: Range) -> Result<(), Termination> {
        self.made_private.push(range);
        if self.technology == Technology::TDX {
            return map_gpa::set_private(range, |asked| self.td.map_gpa(asked));
        }
        Ok(())
    }

    fn round(&self) -> &Round {
        self.round
    }

    fn work(&mut self) -> Result<(), Termination> {
        let failure = match self.technology {
            Technology::TDX => Termination::PAGE_ACCEPT,
            _ => Termination::PVALIDATE,
        };
        self.round.work(failure, false, |address, large| self.validate(address, large))
    }

    fn gate(&self) -> Option<&Gate> {
        self.gate
    }

    fn mark(&mut self, mark: Mark) -> Result<(), Termination> {
        self.marks.push((mark.id(), mark.number()));
        Ok(())
    }
}

/// A setup header that the shim takes.
pub fn setup_header() -> SetupHeader {
    let mut header = SetupHeader::new_zeroed();
    header.setup_sects = 7;
    header.boot_flag = BOOT_FLAG;
    header.header = HEADER_MAGIC;
    header.jump = u16::from_le_bytes([0xEB, 0x6A]);
    header.version = 0x020F;
    header.loadflags = 1;
    header.kernel_alignment = 0x20_0000;
    header.relocatable_kernel = 1;
    header.xloadflags = 1;
    header.cmdline_size = 2047;
    header.initrd_addr_max = 0x7FFF_FFFF;
    header.init_size = 0x100_0000;
    header.pref_address = KERNEL_LOAD;
    header
}

/// A bzImage of that header and some code.
pub fn bzimage(header: &SetupHeader) -> Vec<u8> {
    let mut file: Vec<u8> = (0..20_000u32).map(|i| i as u8).collect();
    file[SETUP_HEADER_OFFSET..][..size_of::<SetupHeader>()].copy_from_slice(header.as_bytes());
    file
}

/// A guest: parameters and the files they speak of.
pub struct Guest {
    pub params: ParameterPage,
    pub mock: Mock,
}

impl Guest {
    pub fn new(technology: Technology, load: LoadMode, kind: KernelKind, kernel: &[u8]) -> Self {
        let mut mock = Mock::new(technology);
        let mut params = ParameterPage::new_zeroed();
        params.magic = ParameterPage::MAGIC;
        params.version = ParameterPage::VERSION;
        params.technology = technology;
        params.flags = Flags::RAM_PRIVATE.bits();
        params.c_bit = if technology == Technology::SNP { C_BIT } else { 0 };
        params.vcpu_count = 2;
        params.load_mode = load;
        params.kernel_kind = kind;
        params.acpi_rsdp = ACPI_GPA;
        let low = LOW_E820.map(|(start, end, kind)| (start, end - start, kind));
        let high = [(HIGH_RAM_START, MEMORY - HIGH_RAM_START, E820Type::RAM)];
        for (slot, (addr, size, kind)) in params.e820.iter_mut().zip(low.into_iter().chain(high)) {
            *slot = E820Entry { addr, size, kind, reserved: 0 };
            params.e820_count += 1;
        }
        let kernel_dest = match kind {
            KernelKind::BZIMAGE => KERNEL_LOAD - 4096,
            KernelKind::LZ4 => PACKED,
            _ => 0x200_0000,
        };
        let initrd: Vec<u8> = (0..10_000u32).map(|i| (i / 3) as u8).collect();
        let mut staging = STAGING;
        let mut blob = |bytes: &[u8], dest: u64| {
            let mut blob = Blob::new_zeroed();
            blob.dest = dest;
            blob.size = bytes.len() as u64;
            if load == LoadMode::HASHED {
                blob.staging = staging;
                blob.digest = sha256::digest(bytes, false);
                mock.write(staging, bytes);
                let end = staging + blob.size;
                mock.td.share(Range { start: staging, end }.pages());
                staging += blob.size.next_multiple_of(PAGE);
            } else {
                mock.write(dest, bytes);
                for page in (dest & !(PAGE - 1)..dest + blob.size).step_by(PAGE as usize) {
                    mock.validated.insert(page);
                }
            }
            blob
        };
        params.kernel = blob(kernel, kernel_dest);
        params.initrd = blob(&initrd, INITRD);
        params.cmdline = blob(b"console=ttyS0\0", CMDLINE_GPA);
        if technology == Technology::SNP {
            params.second_stage = staging;
        }
        Self { params, mock }
    }

    pub fn bzimage(technology: Technology, load: LoadMode) -> Self {
        Self::new(technology, load, KernelKind::BZIMAGE, &bzimage(&setup_header()))
    }

    pub fn check(&self) -> Result<(), Termination> {
        crate::params::check(&self.params, self.mock.technology)
    }

    pub fn run(&mut self) -> Result<u64, Termination> {
        self.check()?;
        crate::run(&mut self.mock, &self.params)
    }
}
