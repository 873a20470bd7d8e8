//! OVMF as an SEV-SNP guest's firmware: what its metadata asks to be launched, in which order, and where its
//! processors start. In every detail as QEMU 11.1 does it (target/i386/sev.c, hw/i386/pc_sysfw_ovmf.c), so that its users'
//! calculators tell the digest.

use abi::shim::PAGE;

use super::layout::Range;
use super::ovmf::{FirmwareError, Guid, Ovmf, u32_at};
use super::{LaunchRegion, PageKind, PlanError, cpuid::CpuidTable};

const TECHNOLOGY: &str = "SEV-SNP";

/// u32: distance of the metadata from the image's end.
const METADATA: Guid =
    Guid::new(0xdc88_6566, 0x984a, 0x4798, [0xa7, 0x5e, 0x55, 0x85, 0xa7, 0xbf, 0x67, 0xcc]);
/// u32: where processors other than the first start.
const RESET_BLOCK: Guid =
    Guid::new(0x00f7_71de, 0x1a7e, 0x4fcb, [0x89, 0x0e, 0x68, 0xc7, 0x7e, 0x2f, 0xb4, 0x4e]);
/// u32 and u32: where the hash table goes, and how long it may be.
const HASH_AREA: Guid =
    Guid::new(0x7255_371f, 0x3a3b, 0x4b04, [0x92, 0x7b, 0x1d, 0xa6, 0xef, 0xa8, 0xd4, 0x54]);
/// The hash table and its entries (edk2 OvmfPkg/AmdSev/BlobVerifierLibSevHashes/BlobVerifierSevHashes.c).
const HASH_TABLE: Guid =
    Guid::new(0x9438_d606, 0x4f22, 0x4cc9, [0xb4, 0x79, 0xa7, 0x93, 0xd4, 0x11, 0xfd, 0x21]);
const CMDLINE: Guid =
    Guid::new(0x97d0_2dd8, 0xbd20, 0x4c94, [0xaa, 0x78, 0xe7, 0x71, 0x4d, 0x36, 0xab, 0x2a]);
const INITRD: Guid =
    Guid::new(0x44ba_f731, 0x3a2f, 0x4bd7, [0x9a, 0xf1, 0x41, 0xe2, 0x91, 0x69, 0x78, 0x1d]);
const KERNEL: Guid =
    Guid::new(0x4de7_9437, 0xabd2, 0x427f, [0xb8, 0x35, 0xd5, 0xb1, 0x72, 0xd2, 0x04, 0x5b]);

/// What the metadata begins with.
const SIGNATURE: u32 = u32::from_le_bytes(*b"ASEV");
/// A section: address, length, kind.
const SECTION: usize = 12;
/// Every section of today's images lies in the first 16 MiB. What a damaged one asks for must not take our memory.
const TOTAL_MAX: u64 = 64 << 20;

/// What a section is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Memory of the firmware's first code, and the calling area of a service module that is not there.
    Zero(&'static str),
    /// The page that the security processor fills.
    Secrets,
    /// The CPUID page.
    Cpuid,
    /// The page with the hashes of kernel, initrd and command line.
    Hashes,
}

impl Purpose {
    fn parse(kind: u32) -> Option<Purpose> {
        Some(match kind {
            1 => Purpose::Zero("ovmf-memory"),
            2 => Purpose::Secrets,
            3 => Purpose::Cpuid,
            4 => Purpose::Zero("ovmf-svsm-caa"),
            0x10 => Purpose::Hashes,
            _ => return None,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Section {
    range: Range,
    purpose: Purpose,
}

/// What an image asks of the launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnpFirmware {
    sections: Vec<Section>,
    /// Where processors other than the first start.
    pub ap_reset: u32,
    /// Where the hash table begins; nothing if the image checks no hashes.
    hashes: Option<u64>,
}

impl SnpFirmware {
    /// Reads the metadata.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn parse(image: &[u8]) -> Result<SnpFirmware, FirmwareError> {
        let ovmf = Ovmf::parse(image)?;
        let table = ovmf.sections(TECHNOLOGY, METADATA, SIGNATURE, SECTION)?;
        let image = Range { gpa: ovmf.gpa(), len: ovmf.image().len() as u64 };
        let sections = sections(table, image)?;
        let hashes = hash_table(&ovmf, &sections)?;
        // An image without the block has processors that start like the first.
        let ap_reset = ovmf.number(RESET_BLOCK).unwrap_or(super::registers::RESET_VECTOR);
        Ok(SnpFirmware { sections, ap_reset, hashes })
    }

    /// The last address that a section needs, plus one.
    pub fn memory_end(&self) -> u64 {
        self.sections.iter().map(|s| s.range.end()).max().unwrap_or(0)
    }

    /// Launch pages of the sections, in their order; `hashes` of kernel, initrd and command line where they are to be
    /// checked.
    pub(super) fn regions(
        &self,
        hashes: Option<&[[u8; 32]; 3]>,
        cpuid: &CpuidTable,
    ) -> Result<Vec<LaunchRegion>, PlanError> {
        let mut regions = Vec::new();
        for Section { range, purpose } in &self.sections {
            let zeros = |kind, tag| LaunchRegion {
                gpa: range.gpa,
                kind,
                bytes: vec![0; range.len as usize],
                tag,
            };
            regions.push(match (purpose, hashes.zip(self.hashes)) {
                (Purpose::Zero(tag), _) => zeros(PageKind::Zero, tag),
                (Purpose::Secrets, _) => zeros(PageKind::Secrets, "secrets"),
                (Purpose::Cpuid, _) => LaunchRegion {
                    gpa: range.gpa,
                    kind: PageKind::Cpuid,
                    bytes: cpuid.to_page()?,
                    tag: "cpuid",
                },
                (Purpose::Hashes, None) => zeros(PageKind::Zero, "ovmf-hashes"),
                (Purpose::Hashes, Some((hashes, at))) => {
                    let mut region = zeros(PageKind::Measured, "ovmf-hashes");
                    let table = table_of(hashes);
                    let begin = (at - range.gpa) as usize;
                    region.bytes[begin..begin + table.len()].copy_from_slice(&table);
                    region
                }
            });
        }
        Ok(regions)
    }

    /// Does the image check what it starts?
    pub fn checks_kernel(&self) -> bool {
        self.hashes.is_some()
    }
}

fn sections(table: &[u8], image: Range) -> Result<Vec<Section>, FirmwareError> {
    let mut sections: Vec<Section> = Vec::new();
    let mut total = 0;
    for (number, entry) in table.chunks_exact(SECTION).enumerate() {
        let word = |at| u64::from(u32_at(entry, at).unwrap_or(0));
        let range = Range { gpa: word(0), len: word(4) };
        let bad = |problem| FirmwareError::BadSection {
            technology: TECHNOLOGY,
            number,
            gpa: range.gpa,
            len: range.len,
            problem,
        };
        // An image built for another technology has empty sections.
        if range.len == 0 {
            continue;
        }
        if !range.gpa.is_multiple_of(PAGE) || !range.len.is_multiple_of(PAGE) {
            return Err(bad("is not made of whole pages"));
        }
        total += range.len;
        if total > TOTAL_MAX {
            return Err(bad("asks for an absurd amount of memory"));
        }
        if range.overlaps(image) || sections.iter().any(|s| s.range.overlaps(range)) {
            return Err(bad("overlaps another section or the image"));
        }
        let purpose = u32_at(entry, 8)
            .and_then(Purpose::parse)
            .ok_or(bad("is of a kind that nobody has defined"))?;
        if !matches!(purpose, Purpose::Zero(_)) {
            if range.len != PAGE {
                return Err(bad("must be one page"));
            }
            if sections.iter().any(|s| s.purpose == purpose) {
                return Err(bad("is the second of a kind of which there is one"));
            }
        }
        sections.push(Section { range, purpose });
    }
    for needed in [Purpose::Secrets, Purpose::Cpuid] {
        if !sections.iter().any(|s| s.purpose == needed) {
            return Err(FirmwareError::BadMetadata {
                technology: TECHNOLOGY,
                problem: "it has no page for the security processor's secrets, or none for CPUID",
            });
        }
    }
    Ok(sections)
}

/// Where the hash table begins, inside of the page that is measured for it.
fn hash_table(ovmf: &Ovmf, sections: &[Section]) -> Result<Option<u64>, FirmwareError> {
    let page = sections.iter().find(|s| s.purpose == Purpose::Hashes).map(|s| s.range);
    let area = ovmf.entry(HASH_AREA).and_then(|data| u32_at(data, 0).zip(u32_at(data, 4)));
    let (Some(page), Some((base, room))) = (page, area.filter(|(_, room)| *room != 0)) else {
        return Ok(None);
    };
    let area = Range { gpa: u64::from(base), len: u64::from(room) };
    let inside = page.gpa <= area.gpa && area.end() <= page.end();
    if !inside || area.len < TABLE_PADDED as u64 {
        return Err(FirmwareError::BadMetadata {
            technology: TECHNOLOGY,
            problem: "its hash table does not lie in the page that is measured for it",
        });
    }
    Ok(Some(area.gpa))
}

const ENTRY_LEN: usize = 16 + 2 + 32;
const TABLE_LEN: usize = 16 + 2 + 3 * ENTRY_LEN;
const TABLE_PADDED: usize = TABLE_LEN.next_multiple_of(16);

/// The hash table: a header, then hashes of command line, initrd and kernel, padded to whole units of 16 bytes.
fn table_of([kernel, initrd, cmdline]: &[[u8; 32]; 3]) -> Vec<u8> {
    let mut table = Vec::with_capacity(TABLE_PADDED);
    let head = |guid: Guid, len: usize| [&guid.0[..], &(len as u16).to_le_bytes()].concat();
    table.extend(head(HASH_TABLE, TABLE_LEN));
    for (guid, hash) in [(CMDLINE, cmdline), (INITRD, initrd), (KERNEL, kernel)] {
        table.extend(head(guid, ENTRY_LEN));
        table.extend(hash);
    }
    table.resize(TABLE_PADDED, 0);
    table
}

#[cfg(test)]
#[path = "snp_firmware_test.rs"]
mod tests;
