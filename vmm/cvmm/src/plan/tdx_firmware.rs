//! OVMF as a TD's firmware: what its metadata asks to be added, and the list of memory (TD HOB) that it is handed (Intel
//! TDX Virtual Firmware Design Guide, 344991-004, chapter 11; QEMU 11.1 hw/i386/tdvf.c and tdvf-hob.c).

use abi::shim::PAGE;
use zerocopy::{Immutable, IntoBytes};

use super::layout::Range;
use super::ovmf::{FirmwareError, Guid, Ovmf, u32_at, u64_at};
use super::{LaunchRegion, PageKind};

const TECHNOLOGY: &str = "TDX";

/// u32: distance of the metadata from the image's end.
const METADATA: Guid =
    Guid::new(0xe47a_6535, 0x984a, 0x4798, [0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2]);
/// What the metadata begins with.
const SIGNATURE: u32 = u32::from_le_bytes(*b"TDVF");
/// A section: offset and length in the file, address and length in memory, kind, attributes.
const SECTION: usize = 32;
/// See the constant of the same name for SEV-SNP.
const TOTAL_MAX: u64 = 64 << 20;

/// Attribute: contents are measured.
const MR_EXTEND: u32 = 1 << 0;
/// Attribute: the memory is not part of the launch; the firmware accepts it.
const PAGE_AUG: u32 = 1 << 1;

/// What a section is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Code.
    Boot,
    /// Variables.
    Config,
    /// Where the list of memory goes.
    Hob,
    /// Memory for the firmware's first code.
    Temporary,
    /// Memory for as long as the TD lives.
    Permanent,
}

impl Purpose {
    fn parse(kind: u32) -> Option<Purpose> {
        Some(match kind {
            0 => Purpose::Boot,
            1 => Purpose::Config,
            2 => Purpose::Hob,
            3 => Purpose::Temporary,
            4 => Purpose::Permanent,
            _ => return None,
        })
    }

    fn tag(self) -> &'static str {
        match self {
            Purpose::Boot => "tdvf-code",
            Purpose::Config => "tdvf-variables",
            Purpose::Hob => "td-hob",
            Purpose::Temporary => "tdvf-memory",
            Purpose::Permanent => "tdvf-permanent",
        }
    }

    /// Does it come out of the file?
    fn in_file(self) -> bool {
        matches!(self, Purpose::Boot | Purpose::Config)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Section {
    range: Range,
    purpose: Purpose,
    kind: PageKind,
    /// What it holds, from its start.
    bytes: Vec<u8>,
}

/// What an image asks of the launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdxFirmware {
    sections: Vec<Section>,
    hob: Range,
}

impl TdxFirmware {
    /// Reads the metadata.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn parse(image: &[u8]) -> Result<TdxFirmware, FirmwareError> {
        let ovmf = Ovmf::parse(image)?;
        let bad = |problem| FirmwareError::BadMetadata { technology: TECHNOLOGY, problem };
        let table = ovmf.sections(TECHNOLOGY, METADATA, SIGNATURE, SECTION)?;
        let image = Range { gpa: ovmf.gpa(), len: ovmf.image().len() as u64 };
        let mut sections = Vec::new();
        let mut total = 0;
        for (number, entry) in table.chunks_exact(SECTION).enumerate() {
            if let Some(section) = parse_section(number, entry, ovmf.image(), image, &sections)? {
                total += section.range.len;
                sections.push(section);
            }
            if total > TOTAL_MAX {
                return Err(bad("its sections ask for an absurd amount of memory"));
            }
        }
        let mut hobs = sections.iter().filter(|s| s.purpose == Purpose::Hob);
        let (Some(hob), None) = (hobs.next(), hobs.next()) else {
            return Err(bad("it does not have one place for the list of memory (TD HOB)"));
        };
        let starts = sections.iter().any(|s| s.range.end() == super::ovmf::END);
        if !starts {
            return Err(bad("no section covers the reset vector"));
        }
        let hob = hob.range;
        Ok(TdxFirmware { sections, hob })
    }

    /// The last address in low memory that a section needs, plus one.
    pub fn memory_end(&self) -> u64 {
        let memory = self.sections.iter().filter(|s| !s.purpose.in_file());
        memory.map(|s| s.range.end()).max().unwrap_or(0)
    }

    /// Where the list of memory is: processors find the address in RCX.
    pub fn hob_gpa(&self) -> u64 {
        self.hob.gpa
    }

    /// Launch pages of the sections, in their order. `ram` is what the TD has beside the image.
    pub(super) fn regions(&self, ram: &[Range]) -> Vec<LaunchRegion> {
        let list = self.memory_list(ram);
        let region = |section: &Section| {
            let mut bytes = section.bytes.clone();
            if section.purpose == Purpose::Hob {
                bytes.extend(&list);
            }
            bytes.resize(section.range.len as usize, 0);
            LaunchRegion {
                gpa: section.range.gpa,
                kind: section.kind,
                bytes,
                tag: section.purpose.tag(),
            }
        };
        self.sections.iter().map(region).collect()
    }

    /// The TD HOB: what of memory is there already, and what the TD must accept.
    pub(super) fn memory_list(&self, ram: &[Range]) -> Vec<u8> {
        let mut added: Vec<Range> =
            self.sections.iter().filter(|s| !s.purpose.in_file()).map(|s| s.range).collect();
        added.sort_by_key(|range| range.gpa);
        let mut resources = Vec::new();
        for ram in ram {
            let mut at = ram.gpa;
            for piece in added.iter().filter(|piece| piece.overlaps(*ram)) {
                resources.push(Resource::unaccepted(at, piece.gpa));
                resources.push(Resource::added(*piece));
                at = piece.end();
            }
            resources.push(Resource::unaccepted(at, ram.end()));
        }
        resources.retain(|resource| resource.len != 0);
        let len =
            size_of::<Handoff>() + resources.len() * size_of::<Resource>() + END_OF_LIST.len();
        let mut list = Vec::with_capacity(len);
        list.extend(Handoff::new(self.hob, len as u64).as_bytes());
        list.extend(resources.as_bytes());
        list.extend(END_OF_LIST);
        list
    }

    /// The most bytes that the list may have.
    pub fn hob_len(&self) -> u64 {
        self.hob.len
    }
}

fn parse_section(
    number: usize,
    entry: &[u8],
    file: &[u8],
    image: Range,
    before: &[Section],
) -> Result<Option<Section>, FirmwareError> {
    let word = |at| u32_at(entry, at).unwrap_or(0);
    let (offset, in_file) = (word(0), word(4));
    let range = Range { gpa: u64_at(entry, 8).unwrap_or(0), len: u64_at(entry, 16).unwrap_or(0) };
    let attributes = word(28);
    let bad = |problem| FirmwareError::BadSection {
        technology: TECHNOLOGY,
        number,
        gpa: range.gpa,
        len: range.len,
        problem,
    };
    let purpose = Purpose::parse(word(24))
        .ok_or(bad("is of a kind that is not loaded (payloads of td-shim) or unknown"))?;
    if range.len == 0 || !range.gpa.is_multiple_of(PAGE) || !range.len.is_multiple_of(PAGE) {
        return Err(bad("is not made of whole pages"));
    }
    if range.len > TOTAL_MAX || range.gpa > super::ovmf::END - range.len {
        return Err(bad("is absurdly long, or beyond 4 GiB"));
    }
    if before.iter().any(|s| s.range.overlaps(range)) {
        return Err(bad("overlaps another section"));
    }
    if attributes & !(MR_EXTEND | PAGE_AUG) != 0 {
        return Err(bad("has attributes that nobody has defined"));
    }
    if attributes & PAGE_AUG != 0 {
        if purpose != Purpose::Permanent || attributes & MR_EXTEND != 0 {
            return Err(bad("is left for the TD to accept, but needed at its start"));
        }
        return Ok(None);
    }
    let mut bytes = Vec::new();
    if purpose.in_file() {
        let end = u64::from(offset) + u64::from(in_file);
        if in_file == 0 || u64::from(in_file) > range.len || end > file.len() as u64 {
            return Err(bad("does not lie in the file, or is longer there than in memory"));
        }
        if range.gpa < image.gpa || range.end() > image.end() {
            return Err(bad("does not lie in the image's memory"));
        }
        bytes.extend(&file[offset as usize..end as usize]);
    } else if in_file != 0 || range.overlaps(image) {
        return Err(bad("is memory, but has contents or overlaps the image"));
    }
    if attributes & MR_EXTEND != 0 && matches!(purpose, Purpose::Hob) {
        return Err(bad("is measured, though the host fills it"));
    }
    let kind = if attributes & MR_EXTEND != 0 { PageKind::Measured } else { PageKind::Unmeasured };
    Ok(Some(Section { range, purpose, kind, bytes }))
}

/// HOB types (UEFI Platform Initialization specification 1.8, volume 3, section 5).
const HANDOFF: u16 = 1;
const RESOURCE: u16 = 3;
/// A header alone: type 0xffff, 8 bytes.
const END_OF_LIST: [u8; 8] = [0xff, 0xff, 8, 0, 0, 0, 0, 0];

/// EFI_HOB_HANDOFF_INFO_TABLE; the fields about free memory are not for a TD.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
struct Handoff {
    kind: u16,
    len: u16,
    reserved: u32,
    version: u32,
    boot_mode: u32,
    memory: [u64; 4],
    end_of_list: u64,
}

const _: () = assert!(size_of::<Handoff>() == 56);

impl Handoff {
    fn new(hob: Range, len: u64) -> Handoff {
        const VERSION: u32 = 9;
        Handoff {
            kind: HANDOFF,
            len: size_of::<Handoff>() as u16,
            reserved: 0,
            version: VERSION,
            boot_mode: 0,
            memory: [0; 4],
            end_of_list: hob.gpa + len,
        }
    }
}

/// EFI_HOB_RESOURCE_DESCRIPTOR.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
struct Resource {
    kind: u16,
    hob_len: u16,
    reserved: u32,
    owner: [u8; 16],
    resource: u32,
    attributes: u32,
    gpa: u64,
    len: u64,
}

const _: () = assert!(size_of::<Resource>() == 48);

impl Resource {
    const SYSTEM_MEMORY: u32 = 0;
    const MEMORY_UNACCEPTED: u32 = 7;
    /// Present, initialized, tested.
    const ATTRIBUTES: u32 = 7;

    fn new(resource: u32, gpa: u64, len: u64) -> Resource {
        Resource {
            kind: RESOURCE,
            hob_len: size_of::<Resource>() as u16,
            reserved: 0,
            owner: [0; 16],
            resource,
            attributes: Resource::ATTRIBUTES,
            gpa,
            len,
        }
    }

    fn added(range: Range) -> Resource {
        Resource::new(Resource::SYSTEM_MEMORY, range.gpa, range.len)
    }

    fn unaccepted(from: u64, to: u64) -> Resource {
        Resource::new(Resource::MEMORY_UNACCEPTED, from, to - from)
    }
}

#[cfg(test)]
#[path = "tdx_firmware_test.rs"]
mod tests;
