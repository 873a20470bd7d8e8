//! Everything that host and files give the shim: parameters, kernel, launch pages, answers.

use abi::boot::{BootParams, E820Type};
use abi::marks::Mark;
use abi::shim::{
    ACPI_GPA, BOOT_PARAMS_GPA, CMDLINE_GPA, CPUID_GPA, EFI_TABLES_GPA, Extent, HIGH_RAM_START,
    LARGE_PAGE, LOW_RAM_END,
};
use abi::shim::{
    Blob, E820Entry, Flags, KernelKind, LOAD_END_MAX, LOW_E820, LoadMode, PAGE, PAGE_TABLES_GPA,
    ParameterPage, SHIM_BASE, Technology, Termination, WORK_END,
};
use abi::snp::CpuidPage;
use abi::tdx::vmcall::Status;
use abi::tdx::{TdAttributes, TdxStatus};
use shim::accept::Acceptor;
use shim::gate::Gate;
use shim::platform::object;
use shim::range::{Range, destination, is_accepted, is_lazy, ram, second_stage, staging, unpacked};
use shim::round::Round;
use shim::tdx::info::{self, VpInfo};
use shim::tdx::{accept, map_gpa};
use shim::{Platform, Validation, checks, efi, kernel, lz4, paging, params};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::Target;

/// The first byte says what the others are.
pub const TARGET: Target = Target { name: "shim", seeds, max_len: 1 + 4096 + (32 << 10), run };

/// Memory of the machine that accepted parameters are tried on.
const MEMORY: u64 = 16 << 20;
const C_BIT: u32 = 51;
const INITRD: u64 = 0xc0_0000;
const STAGING: u64 = 0xe0_0000;

fn seeds() -> Vec<Vec<u8>> {
    let kernels = [
        (KernelKind::BZIMAGE, 0x20_0000 - 0x800, super::kernel::bzimage()),
        (KernelKind::ELF, 0x80_0000, super::kernel::elf_at(0x20_0000)),
    ];
    let mut seeds = Vec::new();
    for technology in [Technology::PLAIN, Technology::SNP, Technology::TDX] {
        for (mode, (kind, dest, file)) in [LoadMode::HASHED, LoadMode::MEASURED]
            .into_iter()
            .flat_map(|mode| kernels.iter().map(move |kernel| (mode, kernel)))
        {
            let mut page = parameters(technology, mode, *kind, (*dest, file.len() as u64));
            seeds.push([&[0], page.as_bytes(), file].concat());
            if technology != Technology::PLAIN {
                page.accepted[0].size = LARGE_PAGE;
                page.accepted[1] = Extent { addr: LARGE_PAGE, size: STAGING - LARGE_PAGE };
                if *kind == KernelKind::BZIMAGE {
                    // With its setup code, the kernel begins in the first unit.
                    page.kernel.dest += LARGE_PAGE;
                }
                seeds.push([&[0], page.as_bytes(), file].concat());
            }
        }
    }
    let words = |kind: u8, words: &[u64]| {
        [&[kind], words.iter().map(|word| word.to_le_bytes()).collect::<Vec<_>>().as_flattened()]
            .concat()
    };
    seeds.push(words(1, &[0x10_0000, 64, 1, 0x10_0000, 1, 0x11_0000, 0, 0]));
    seeds.push(words(2, &[48, 1 << 28, 2, 48, 2]));
    let busy = TdxStatus::OPERAND_BUSY.with(1).0;
    seeds.push(words(3, &[busy, busy, TdxStatus::PAGE_ALREADY_ACCEPTED.0]));
    seeds.push(launch_pages());
    // Literals, a match far enough for whole words, one of a byte, literals.
    let block = [&[0xc4][..], b"abcdefghijkl", &[9, 0, 0x1f], b"x", &[1, 0, 200, 0x10], b"!"];
    let block = block.concat();
    let head = [5, 241, 0, 0x02, 0x21, 0x4c, 0x18, block.len() as u8, 0, 0, 0];
    seeds.push([&head[..], &block, &[241, 0, 0, 0]].concat());
    seeds
}

/// A guest that the shim takes.
fn parameters(
    technology: Technology,
    load_mode: LoadMode,
    kernel_kind: KernelKind,
    kernel: (u64, u64),
) -> ParameterPage {
    let mut page = ParameterPage::new_zeroed();
    (page.magic, page.version) = (ParameterPage::MAGIC, ParameterPage::VERSION);
    (page.technology, page.load_mode, page.kernel_kind) = (technology, load_mode, kernel_kind);
    page.c_bit = if technology == Technology::SNP { C_BIT } else { 0 };
    (page.vcpu_count, page.acpi_rsdp) = (1, ACPI_GPA);
    let low = LOW_E820.map(|(start, end, kind)| (start, end - start, kind));
    let high = [(HIGH_RAM_START, MEMORY - HIGH_RAM_START, E820Type::RAM)];
    for (slot, (addr, size, kind)) in page.e820.iter_mut().zip(low.into_iter().chain(high)) {
        *slot = E820Entry { addr, size, kind, reserved: 0 };
        page.e820_count += 1;
    }
    let mut next = STAGING;
    let mut blob = |(dest, size): (u64, u64)| {
        let staging = if load_mode == LoadMode::HASHED { next } else { 0 };
        next += size.next_multiple_of(PAGE);
        Blob { staging, dest, size, reserved: 0, digest: [0; 32] }
    };
    page.kernel = blob(kernel);
    page.initrd = blob((INITRD, 10_000));
    page.cmdline = blob((CMDLINE_GPA, 14));
    if technology == Technology::SNP {
        page.second_stage = STAGING + (1 << 20);
    }
    page
}

/// An RSDP, a CPUID page of three leaves and a secrets page.
fn launch_pages() -> Vec<u8> {
    let mut pages = vec![0; 3 * 4096];
    pages[..8].copy_from_slice(b"RSD PTR ");
    let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
    pages[8] = sum(&pages[..20]);
    pages[32] = sum(&pages[..36]);
    let mut put = |at: usize, word: u32| pages[at..at + 4].copy_from_slice(&word.to_le_bytes());
    put(4096, 3);
    let rows = [[0, 7, 0], [0x8000_0000, 0x8000_001f, 0], [0x8000_001f, 0x1a, C_BIT]];
    for (index, [leaf, eax, ebx]) in rows.into_iter().enumerate() {
        let row = 4096 + 16 + 48 * index;
        put(row, leaf);
        put(row + 24, eax);
        put(row + 28, ebx);
    }
    put(8192, 3);
    [&[4, 0, 0], &pages[..]].concat()
}

fn run(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    let words: Vec<u64> = rest.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    match (kind, words.as_slice()) {
        (0, _) => boot(rest),
        (1, [start, pages, answers @ ..]) => convert(*start, *pages, answers),
        (2, [width, attributes, vcpus, at_start, promised, ..]) => {
            let attributes = TdAttributes(*attributes);
            let info = VpInfo { width: *width, attributes, vcpus: *vcpus as u32 };
            if let Ok(shared) = info::check(info, *at_start, *promised as u32) {
                assert_eq!(shared, 1 << ((width & 0x3f) - 1));
                assert!(shared == 1 << 47 || shared == 1 << 51);
                assert!(attributes.contains(TdAttributes::SEPT_VE_DISABLE));
                assert!(*vcpus as u32 >= *promised as u32);
            }
        }
        (3, answers) => take(answers),
        (4, _) => judge_launch_pages(rest),
        (5, _) => unpack(rest),
        _ => {}
    }
}

/// The host answers MapGPA: the shim gets to the end of the range or ends.
fn convert(start: u64, pages: u64, answers: &[u64]) {
    let start = start & 0x7fff_ffff_f000;
    let range = Range { start, end: start + (pages % 512) * PAGE };
    let mut left = answers.chunks(2).map(|answer| map_gpa::Answer {
        status: Status(answer[0]),
        next: answer.get(1).copied().unwrap_or(0),
    });
    let (mut calls, mut from, mut done) = (0, start, false);
    let outcome = map_gpa::set_private(range, |asked| {
        calls += 1;
        assert!(calls <= 3 * (pages % 512), "{calls} calls");
        assert!(asked.start >= from && asked.start < asked.end && asked.end == range.end);
        assert!(asked.start.is_multiple_of(PAGE), "{:#x}", asked.start);
        from = asked.start;
        let answer = left.next().unwrap_or(map_gpa::Answer { status: Status(1), next: from });
        done = answer.status == Status::SUCCESS;
        answer
    });
    assert_eq!(outcome.is_ok(), done || range.is_empty());
}

/// The module answers acceptance: what is neither success nor a reason to try again is none.
fn take(answers: &[u64]) {
    let mut left = answers.iter();
    let mut last = TdxStatus::SUCCESS;
    let outcome = accept::accept(0x20_0000, true, |rcx| {
        assert_eq!(rcx, 0x20_0001);
        last = TdxStatus(left.next().copied().unwrap_or(0));
        last
    });
    assert_eq!(outcome == Validation::Done, last.code() == TdxStatus::SUCCESS);
    assert!(outcome != Validation::Already || last.code() == TdxStatus::PAGE_ALREADY_ACCEPTED);
}

/// A stream, the length of its room in front: nothing is read or written but itself and the room.
fn unpack(input: &[u8]) {
    let Some((len, packed)) = input.split_first_chunk::<2>() else { return };
    let len = u64::from(u16::from_le_bytes(*len));
    let (at, room) = (0x40_0000, Range { start: 0x80_0000, end: 0x80_0000 + len });
    let mut machine = Machine::new(Technology::PLAIN);
    let packed_len = packed.len().min(1 << 20) as u64;
    machine.bytes_mut(at, packed_len).copy_from_slice(&packed[..packed_len as usize]);
    machine.streams = Some([Range { start: at, end: at + packed_len }, room]);
    let outcome = lz4::unpack(&mut machine, Range { start: at, end: at + packed_len }, room);
    machine.streams = None;
    // Whoever refuses nothing has read the magic.
    assert!(outcome.is_none() || packed.starts_with(&[0x02, 0x21, 0x4c, 0x18]));
    assert!(machine.bytes(room.end, PAGE).iter().all(|byte| *byte == 0));
}

fn judge_launch_pages(input: &[u8]) {
    let Some((&at, pages)) = input.split_first_chunk::<2>() else { return };
    let mut machine = Machine::new(Technology::SNP);
    let len = pages.len().min(3 * 4096);
    machine.bytes_mut(ACPI_GPA, len as u64).copy_from_slice(&pages[..len]);
    let mut page = parameters(Technology::SNP, LoadMode::MEASURED, KernelKind::ELF, (0, 0));
    page.acpi_rsdp += u64::from(u16::from_le_bytes(at));
    if checks::check_acpi(&machine, &page).is_ok() {
        assert!((ACPI_GPA..=ACPI_GPA + PAGE - 36).contains(&page.acpi_rsdp));
        assert!(machine.bytes(page.acpi_rsdp, 8) == b"RSD PTR ");
    }
    let _ = checks::check_secrets(&machine);
    let Ok(cpuid) = object::<CpuidPage, _>(&machine, CPUID_GPA) else { return };
    // A count that no check has seen yet.
    let _ = (checks::page_has_sha(cpuid), checks::page_is_coherent(cpuid));
    if checks::check_cpuid(&machine, &page).is_ok() {
        let rows = &cpuid.functions[..cpuid.count as usize];
        let sev = rows.iter().find(|row| (row.eax_in, row.ecx_in) == (0x8000_001f, 0));
        assert!(sev.is_some_and(|row| row.eax & 0x1a == 0x1a && row.ebx & 0x3f == C_BIT));
    }
}

/// Parameters, and a kernel file: what passes the checks has its ranges in order, and can be loaded.
fn boot(input: &[u8]) {
    let Ok((page, file)) = ParameterPage::read_from_prefix(input) else { return };
    let technologies = [Technology::PLAIN, Technology::SNP, Technology::TDX];
    let accepted: Vec<Technology> = technologies
        .into_iter()
        .filter(|technology| params::check(&page, *technology).is_ok())
        .collect();
    assert!(accepted.is_empty() || accepted == [page.technology]);
    if accepted.is_empty() {
        return;
    }
    judge(&page);
    if ram(&page).any(|range| range.end > MEMORY) {
        return;
    }
    let mut machine = Machine::new(page.technology);
    if page.load_mode == LoadMode::MEASURED {
        for blob in [&page.kernel, &page.initrd, &page.cmdline] {
            machine.accept(destination(blob).pages());
        }
    }
    let mut acceptor = Acceptor::new(&machine, &page);
    assert_eq!(acceptor.accept_ram(&mut machine), Ok(()));
    assert_eq!(acceptor.accept_staging(&mut machine), Ok(()));
    let own = Range { start: SHIM_BASE, end: WORK_END };
    for (at, count) in (0..).step_by(PAGE as usize).zip(&machine.accepted) {
        let one = Range { start: at, end: at + PAGE };
        let mut wanted =
            machine.protected() && !own.contains(one) && ram(&page).any(|r| r.contains(one));
        if is_lazy(&page) {
            wanted &= is_accepted(&page, one);
        }
        assert_eq!(*count, u8::from(wanted), "page {at:#x} is accepted {count} times");
    }
    let len = file.len().min(page.kernel.size as usize);
    machine.bytes_mut(page.kernel.dest, len as u64).copy_from_slice(&file[..len]);
    machine.allowed = Some(page);
    let Ok(entry) = kernel::place(&mut machine, &page) else { return };
    let one = Range { start: entry, end: entry + 1 };
    assert!(entry >= HIGH_RAM_START && ram(&page).any(|ram| ram.contains(one)), "{entry:#x}");
    assert!(!destination(&page.initrd).contains(one));
    let Ok(zero_page) = object::<BootParams, _>(&machine, BOOT_PARAMS_GPA) else {
        panic!("boot_params are not aligned");
    };
    assert_eq!(u32::from(zero_page.e820_entries), page.e820_count);
    assert_eq!({ zero_page.hdr.cmd_line_ptr }, CMDLINE_GPA as u32);
    assert_eq!({ zero_page.efi_info }.systab != 0, is_lazy(&page));
    if is_lazy(&page) {
        judge_bitmap(&machine, &page);
    }
}

/// The kernel is told of every unit of RAM that the shim has not accepted, and of no other.
fn judge_bitmap(machine: &Machine, page: &ParameterPage) {
    for unit in 0..MEMORY / LARGE_PAGE {
        let all = Range { start: unit * LARGE_PAGE, end: (unit + 1) * LARGE_PAGE };
        let bit = machine.bytes(efi::BITMAP_GPA + unit / 8, 1)[0] & 1 << (unit % 8) != 0;
        // The first unit has a hole, and is always accepted.
        let left = unit != 0 && ram(page).any(|ram| ram.contains(all)) && !is_accepted(page, all);
        assert_eq!(bit, left, "unit {unit}");
    }
}

/// The memory map is in order; all blobs are in RAM below 4 GiB, apart from each other and from the shim.
fn judge(page: &ParameterPage) {
    let entries = &page.e820[..page.e820_count as usize];
    assert!(
        entries
            .iter()
            .all(|entry| (entry.addr | entry.size).is_multiple_of(PAGE) && entry.size != 0)
    );
    assert!(entries.is_sorted_by(|a, b| a.addr + a.size <= b.addr));
    let mut ranges = vec![Range { start: SHIM_BASE, end: WORK_END }, Range { start: 0, end: PAGE }];
    for blob in [&page.kernel, &page.initrd, &page.cmdline] {
        assert_eq!(blob.staging != 0, page.load_mode == LoadMode::HASHED && blob.size != 0);
        for range in [destination(blob).pages(), staging(blob)] {
            if range.is_empty() {
                continue;
            }
            assert!(range.end <= LOAD_END_MAX && ram(page).any(|ram| ram.contains(range)));
            assert!(!ranges.iter().any(|other| other.overlaps(range)), "{range:x?} is used twice");
            ranges.push(range);
        }
    }
    let room = unpacked(page);
    assert_eq!(page.unpacked != Extent::UNUSED, page.kernel_kind == KernelKind::LZ4);
    if !room.is_empty() {
        assert!(room.end <= LOAD_END_MAX && ram(page).any(|ram| ram.contains(room)));
        assert!(!ranges.iter().any(|other| other.overlaps(room)), "{room:x?} is used twice");
        ranges.push(room);
    }
    let waits = second_stage(page);
    assert_eq!(waits.is_empty(), page.technology != Technology::SNP);
    if !waits.is_empty() {
        assert!(waits.pages() == waits && waits.end <= LOAD_END_MAX);
        assert!(ram(page).any(|ram| ram.contains(waits)));
        assert!(!ranges.iter().any(|other| other.overlaps(waits)), "{waits:x?} is used twice");
    }
    assert!(page.kernel.size != 0 && page.cmdline.size != 0);
    assert!(Flags::from_bits(page.flags).is_some());
}

/// A machine of 16 MiB.
struct Machine {
    memory: Vec<u64>,
    technology: Technology,
    /// How often each page was accepted.
    accepted: Vec<u8>,
    /// While the kernel is placed: whose memory may be written.
    allowed: Option<ParameterPage>,
    round: Round,
    /// While something is unpacked: what may be read, and what may be read and written.
    streams: Option<[Range; 2]>,
}

impl Machine {
    fn new(technology: Technology) -> Self {
        Self {
            memory: vec![0; (MEMORY / 8) as usize],
            technology,
            accepted: vec![0; (MEMORY / PAGE) as usize],
            allowed: None,
            round: Round::new(),
            streams: None,
        }
    }

    fn accept(&mut self, range: Range) {
        if self.protected() {
            let [start, end] = [range.start, range.end].map(|at| (at / PAGE) as usize);
            self.accepted[start..end].iter_mut().for_each(|count| *count += 1);
        }
    }

    fn validate(&mut self, address: u64, large: bool) -> Validation {
        assert!(address.is_multiple_of(if large { LARGE_PAGE } else { PAGE }));
        assert!(!(PAGE_TABLES_GPA..WORK_END).contains(&address));
        if large {
            return Validation::SizeMismatch;
        }
        self.accept(Range { start: address, end: address + PAGE });
        Validation::Done
    }

    /// A segment of the kernel goes to RAM that nothing else needs.
    fn judge(&self, at: u64, len: u64) {
        let Some(page) = &self.allowed else { return };
        let range = Range { start: at, end: at + len };
        if is_lazy(page) && (Range { start: EFI_TABLES_GPA, end: LOW_RAM_END }).contains(range) {
            return;
        }
        assert!(range.start >= HIGH_RAM_START && ram(page).any(|ram| ram.contains(range)));
        assert!(!range.overlaps(destination(&page.initrd)));
        // Segments may move down in the file that they come from.
        let file = destination(&page.kernel);
        assert!(page.kernel_kind != KernelKind::BZIMAGE || !range.overlaps(file));
    }
}

impl Platform for Machine {
    fn protected(&self) -> bool {
        self.technology != Technology::PLAIN
    }
    fn private_mask(&self) -> u64 {
        paging::c_mask(self.technology == Technology::SNP, C_BIT)
    }
    fn shared_mask(&self) -> u64 {
        paging::c_mask(self.technology == Technology::TDX, 47)
    }
    fn validates_mapped(&self) -> bool {
        self.technology == Technology::SNP
    }
    fn has_cc_blob(&self) -> bool {
        self.technology == Technology::SNP
    }
    fn has_sha(&self) -> bool {
        false
    }
    fn bytes(&self, gpa: u64, len: u64) -> &[u8] {
        let range = Range { start: gpa, end: gpa + len };
        assert!(self.streams.is_none_or(|may| may.iter().any(|one| one.contains(range))));
        &self.memory.as_bytes()[gpa as usize..(gpa + len) as usize]
    }
    fn bytes_mut(&mut self, gpa: u64, len: u64) -> &mut [u8] {
        let range = Range { start: gpa, end: gpa + len };
        assert!(self.streams.is_none_or(|[_, room]| room.contains(range)));
        &mut self.memory.as_mut_bytes()[gpa as usize..(gpa + len) as usize]
    }
    fn copy(&mut self, dest: u64, source: u64, len: u64) {
        self.judge(dest, len);
        if let Some([packed, room]) = self.streams {
            let from = Range { start: source, end: source + len };
            assert!(room.contains(Range { start: dest, end: dest + len }));
            assert!(packed.contains(from) || room.contains(from));
        }
        // As REP MOVSQ and REP MOVSB do.
        let words = (0..len / 8).map(|word| (word * 8, 8));
        for (at, step) in words.chain((len & !7..len).map(|at| (at, 1))) {
            let from = (source + at) as usize;
            self.memory.as_mut_bytes().copy_within(from..from + step, (dest + at) as usize);
        }
    }
    fn clear(&mut self, gpa: u64, len: u64) {
        self.judge(gpa, len);
        self.bytes_mut(gpa, len).fill(0);
    }
    fn flush(&mut self) {}
    fn set_private(&mut self, range: Range) -> Result<(), Termination> {
        assert!(!range.is_empty() && range.pages() == range && range.end <= MEMORY);
        Ok(())
    }
    fn round(&self) -> &Round {
        &self.round
    }
    fn gate(&self) -> Option<&Gate> {
        None
    }
    fn work(&mut self) -> Result<(), Termination> {
        let round = std::mem::take(&mut self.round);
        let worked = round
            .work(Termination::PVALIDATE, false, |address, large| self.validate(address, large));
        self.round = round;
        worked
    }
    fn mark(&mut self, _: Mark) -> Result<(), Termination> {
        Ok(())
    }
}
