//! What differs in the contract for an SEV-SNP guest: of its launch pages one alone is measured by content, the boot page,
//! which is page table and first stage of the shim in one.
//!
//! # Launch pages
//!
//! In this order: the boot page, the CPUID page and the secrets page: three. With [`super::LoadMode::MEASURED`] the kernel
//! file, the initrd and the command line follow, each at its destination.
//!
//! # The second stage
//!
//! What are launch pages elsewhere, the shim's code (padded with zeros to [`super::SHIM_CODE_PAGES_MAX`] pages), the
//! [`super::ParameterPage`] and the ACPI page, is one piece of [`SECOND_STAGE_PAGES`] pages here. In either load mode it
//! waits in shared memory, page aligned, anywhere in RAM below 4 GiB; the boot page maps it and has its SHA-256. So the launch
//! digest covers all of it as if it were launch pages, for 24 KiB of hashing instead of six commands to the security
//! processor.
//!
//! # The boot page
//!
//! It is all four levels of the page table (as [`super::initial_page_table`] is): entry 0 points to the page itself,
//! entry *n* maps page *n*. The first stage touches few pages, so few entries are wanted:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0 | entry 0: the page itself, which is virtual page 0 as well |
//! | [`super::SHIM_BASE`]/512 and on | the launch pages and the work area, to themselves, private |
//! | [`WINDOW`]/512 and on | the second stage where it waits, shared and read-only |
//! | [`CODE_OFFSET`] | code that runs in place: parking loop, entry, end |
//! | [`PACKED_OFFSET`] to the end | SHA-256 of the second stage, then the first stage's program, seven bytes in each word |
//!
//! **No other word is a present entry**: bit 0 of each is clear. Code in place keeps it so by instructions that start at
//! each word with an even byte; the rest is packed, its words' lowest byte 0. So whatever address a processor walks,
//! speculatively too, it follows no word that is not meant as an entry, and sets no accessed bit in the code (AMD APM
//! vol. 2, 5.4.1: in an entry that is not present all other bits are software's). What is present has its accessed and
//! dirty bits set already: the page is never written.
//!
//! # What the first stage does
//!
//! It validates [`super::SHIM_CODE_GPA`]..[`super::CPUID_GPA`] and [`super::WORK_BASE`]..[`super::WORK_END`], which must be
//! private and not validated, unpacks its program to [`PROGRAM_GPA`], copies the second stage from [`WINDOW`] to
//! [`super::SHIM_CODE_GPA`] page by page, hashing what it has copied, and compares. If that is not what was measured it ends
//! the guest with [`super::Termination::SHIM_HASH`]; else it goes to [`super::SHIM_ENTRY_GPA`] with
//! [`super::PARAMETER_GPA`] in RSI, the registers of [`super::entry`] unchanged beside that.

use super::{
    ACPI_GPA, CPUID_GPA, INITIAL_PAGE_TABLE_GPA, PAGE, SECRETS_GPA, SHIM_BASE, SHIM_CODE_GPA,
    WORK_BASE, WORK_END,
};

/// Pages of the second stage: code, parameters, ACPI tables.
pub const SECOND_STAGE_PAGES: u64 = (ACPI_GPA + PAGE - SHIM_CODE_GPA) / PAGE;

/// Where the page is. Also CR3 of every vCPU.
pub const BOOT_PAGE_GPA: u64 = INITIAL_PAGE_TABLE_GPA;
/// Offset of the code that runs in place.
pub const CODE_OFFSET: u64 = 0x200;
/// Offset of the packed words; the code in place ends before it.
pub const PACKED_OFFSET: u64 = 0x340;
/// RIP of the application processors: a `cli; hlt` loop in measured memory that E820 reserves.
pub const AP_PARK_GPA: u64 = BOOT_PAGE_GPA + CODE_OFFSET;
/// RIP of the boot processor.
pub const ENTRY_GPA: u64 = BOOT_PAGE_GPA + CODE_OFFSET + 0x10;
/// Where the first stage shows itself the second, which waits elsewhere: a virtual address.
pub const WINDOW: u64 = WORK_END + PAGE;
/// Bytes of a packed word.
pub const PACKED_BYTES: usize = 7;
/// Most bytes of the first stage's program.
pub const PROGRAM_MAX: usize = (PAGE - PACKED_OFFSET) as usize / 8 * PACKED_BYTES - DIGEST_LEN;
/// Where the packed bytes are unpacked to: the SHA-256 of the second stage, and behind it the program.
pub const UNPACKED_GPA: u64 = 0x1_D000;
/// Where the program runs.
pub const PROGRAM_GPA: u64 = UNPACKED_GPA + DIGEST_LEN as u64;

const DIGEST_LEN: usize = 32;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const ACCESSED_DIRTY: u64 = 0x60;
/// Addresses that an entry maps for each byte of its offset.
const REACH: u64 = PAGE / 8;

const _: () = assert!(WINDOW + SECOND_STAGE_PAGES * PAGE <= CODE_OFFSET * REACH);
// The CPUID and secrets pages, which are launch pages, are all that lies between the two validated ranges.
const _: () = assert!(SECRETS_GPA == CPUID_GPA + PAGE && WORK_BASE == SECRETS_GPA + PAGE);

/// What a boot page is made of.
#[derive(Clone, Copy, Debug)]
pub struct BootPage<'a> {
    /// Position of the C-bit.
    pub c_bit: u32,
    /// Where the second stage waits, page aligned.
    pub second_stage: u64,
    /// Its SHA-256.
    pub digest: [u8; 32],
    /// The code that runs in place.
    pub code: &'a [u8],
    /// The first stage's program.
    pub program: &'a [u8],
}

impl BootPage<'_> {
    /// The page; `None` when a part does not fit, or the code in place has a word that could be taken for an entry.
    pub fn build(&self) -> Option<[u64; 512]> {
        let mut page = [0; 512];
        let private = 1u64 << (self.c_bit & 63);
        let mut map = |address: u64, frame: u64, bits: u64| {
            let entry = page.get_mut((address / PAGE) as usize)?;
            *entry = frame | PRESENT | ACCESSED_DIRTY | bits;
            Some(())
        };
        map(0, BOOT_PAGE_GPA, WRITABLE | private)?;
        for gpa in (SHIM_BASE..WORK_END).step_by(PAGE as usize) {
            map(gpa, gpa, WRITABLE | private)?;
        }
        for offset in (0..SECOND_STAGE_PAGES * PAGE).step_by(PAGE as usize) {
            map(WINDOW + offset, self.second_stage + offset, 0)?;
        }

        let in_place = page.get_mut((CODE_OFFSET / 8) as usize..(PACKED_OFFSET / 8) as usize)?;
        if self.code.len() > in_place.len() * 8 || self.program.len() > PROGRAM_MAX {
            return None;
        }
        for (word, bytes) in in_place.iter_mut().zip(self.code.chunks(8)) {
            *word = little_endian(bytes);
            if *word & PRESENT != 0 {
                return None;
            }
        }
        let packed = page.get_mut((PACKED_OFFSET / 8) as usize..)?;
        let mut bytes = self.digest.iter().chain(self.program).copied();
        for word in packed {
            let mut part = [0; PACKED_BYTES];
            part.iter_mut().zip(&mut bytes).for_each(|(to, from)| *to = from);
            *word = little_endian(&part) << 8;
        }
        Some(page)
    }
}

/// Up to eight bytes as a word.
fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}
