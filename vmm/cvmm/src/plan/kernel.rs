//! What kind of kernel a file is, and what it needs: nothing is executed or relocated here, only believed or refused.
//!
//! Linux 7.2 Documentation/arch/x86/boot.rst for bzImage; System V ABI, AMD64 supplement, chapter 4 for ELF. The shim
//! parses the same bytes again: it trusts nothing of this.

use std::ops::Range;

use abi::boot::{
    BOOT_FLAG, HEADER_MAGIC, SETUP_HEADER_OFFSET, SetupHeader, VERSION_XLOADFLAGS, XLF_KERNEL_64,
};
use abi::shim::{HIGH_RAM_START, KernelKind, PAGE};
use thiserror::Error;
use zerocopy::FromBytes;

use super::payload::Payload;

/// Why a file is not a kernel that can be entered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum KernelError {
    #[error("the file is empty")]
    Empty,
    #[error("it is neither a bzImage (no \"HdrS\" at 0x202) nor an ELF file")]
    UnknownFormat,
    #[error("the file ends after {len} bytes, but its header promises {promised}: it is truncated")]
    Truncated { len: u64, promised: u64 },
    #[error("its boot protocol is {major}.{minor:02}, older than 2.12")]
    OldProtocol { major: u8, minor: u8 },
    #[error("it has no 64-bit entry point (a 32-bit kernel)")]
    Not64Bit,
    #[error("its setup header is not plausible: {0}")]
    BadHeader(&'static str),
    #[error("the ELF file is not an x86-64 executable: {0}")]
    BadElf(&'static str),
    #[error("it is an ELF file, in which there is nothing for the shim to unpack")]
    NotPacked,
    #[error("its payload is compressed with {0}; the shim unpacks LZ4 only")]
    Compression(&'static str),
    #[error("its LZ4 payload is not plausible: {0}")]
    BadPayload(&'static str),
    #[error("it is no EFI application, which is all that a firmware starts")]
    NoEfiStub,
}

impl KernelError {
    /// What the user can do.
    pub fn cure(&self) -> String {
        match self {
            KernelError::Empty | KernelError::Truncated { .. } => {
                "fetch or build the kernel again".into()
            }
            KernelError::UnknownFormat => {
                "give arch/x86/boot/bzImage, /boot/vmlinuz-…, or an uncompressed ELF vmlinux".into()
            }
            KernelError::NoEfiStub => {
                "give a bzImage that is built with CONFIG_EFI_STUB, or leave --firmware out".into()
            }
            KernelError::NotPacked => {
                "give the bzImage of a kernel that is built with CONFIG_KERNEL_LZ4, or leave --unpack out".into()
            }
            KernelError::Compression(_) => {
                "build the kernel with CONFIG_KERNEL_LZ4=y, or leave --unpack out".into()
            }
            KernelError::OldProtocol { .. } => "use Linux 3.8 or newer".into(),
            KernelError::Not64Bit => "use a kernel built for x86-64".into(),
            KernelError::BadHeader(_) | KernelError::BadElf(_) | KernelError::BadPayload(_) => {
                "the file seems damaged: fetch or build the kernel again".into()
            }
        }
    }
}

/// A loadable part of an ELF kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Physical address.
    pub addr: u64,
    /// Bytes in memory.
    pub size: u64,
}

/// What a kernel needs of its surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelLayout {
    /// A compressed kernel with its setup header.
    BzImage {
        /// Real-mode code in front of what is loaded.
        setup_bytes: u64,
        /// Where it would like to be.
        preferred: u64,
        /// How it must be aligned.
        alignment: u64,
        /// Linear memory it needs from there.
        memory: u64,
        /// The initrd must end at or below this address plus one.
        initrd_max: u64,
        /// Longest command line, without NUL.
        cmdline_max: u64,
    },
    /// An ELF file: a vmlinux or a test guest, or what the shim unpacks from a bzImage.
    Elf {
        /// What is loaded, in file order.
        segments: Vec<Segment>,
        /// Where the file can lie while its segments are brought to their places: each stays or moves down then, over
        /// nothing that is still needed, so that the shim takes it without a second copy.
        in_place: Option<u64>,
        /// How long it is, if it comes packed.
        unpacked: Option<u64>,
    },
}

impl KernelLayout {
    /// The number the shim knows the format by.
    pub fn kind(&self) -> KernelKind {
        match self {
            KernelLayout::BzImage { .. } => KernelKind::BZIMAGE,
            KernelLayout::Elf { unpacked: None, .. } => KernelKind::ELF,
            KernelLayout::Elf { unpacked: Some(_), .. } => KernelKind::LZ4,
        }
    }

    /// Reads a kernel file's headers.
    ///
    /// # Errors
    /// What makes it impossible to enter.
    pub fn parse(file: &[u8]) -> Result<KernelLayout, KernelError> {
        if file.is_empty() {
            return Err(KernelError::Empty);
        }
        if file.starts_with(b"\x7fELF") {
            return parse_elf(file, file.len() as u64, None);
        }
        parse_bzimage(file)
    }

    /// Reads the headers of what the shim is to unpack from a bzImage, and finds what that is packed in.
    ///
    /// # Errors
    /// What makes it impossible to unpack or to enter.
    pub fn parse_packed(file: &[u8]) -> Result<(KernelLayout, Range<usize>), KernelError> {
        if let KernelLayout::Elf { .. } = KernelLayout::parse(file)? {
            return Err(KernelError::NotPacked);
        }
        let Payload { place, unpacked, beginning } = Payload::find(file)?;
        if !beginning.starts_with(b"\x7fELF") || unpacked > MEMORY_MAX {
            return Err(KernelError::BadPayload("what it unpacks to is not an ELF file"));
        }
        Ok((parse_elf(&beginning, unpacked, Some(unpacked))?, place))
    }
}

/// Is it a PE file? A bzImage is one if it was built with an EFI stub.
pub fn is_efi_application(file: &[u8]) -> bool {
    // e_lfanew of the DOS header.
    let at = file
        .get(0x3c..0x40)
        .and_then(|bytes| bytes.first_chunk())
        .map(|at| u32::from_le_bytes(*at));
    let header = at.and_then(|at| file.get(usize::try_from(at).ok()?..));
    file.starts_with(b"MZ") && header.is_some_and(|header| header.starts_with(b"PE\0\0"))
}

/// Below it lies what every PC keeps for other things.
const LOWEST_LOAD_ADDRESS: u64 = 0x10_0000;
/// A kernel is never larger than this in memory; absurd sizes are damage, not wishes.
const MEMORY_MAX: u64 = 1 << 30;

fn parse_bzimage(file: &[u8]) -> Result<KernelLayout, KernelError> {
    let len = file.len() as u64;
    let magic = file.get(0x202..0x206).ok_or(KernelError::UnknownFormat)?;
    if magic != HEADER_MAGIC.to_le_bytes() {
        return Err(KernelError::UnknownFormat);
    }
    let (header, _) = file
        .get(SETUP_HEADER_OFFSET..)
        .and_then(|rest| SetupHeader::read_from_prefix(rest).ok())
        .ok_or(KernelError::Truncated { len, promised: 0x26c })?;
    if header.boot_flag != BOOT_FLAG {
        return Err(KernelError::BadHeader("the boot flag at 0x1fe is not 0xaa55"));
    }
    if header.version < VERSION_XLOADFLAGS {
        let [minor, major] = header.version.to_le_bytes();
        return Err(KernelError::OldProtocol { major, minor });
    }
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(KernelError::Not64Bit);
    }
    let setup_bytes = header.setup_bytes();
    // syssize counts 16-byte units, rounded up.
    let promised = setup_bytes + u64::from(header.syssize) * 16;
    if len + 15 < promised || len <= setup_bytes + abi::boot::ENTRY_64_OFFSET {
        return Err(KernelError::Truncated { len, promised });
    }
    let alignment = u64::from(header.kernel_alignment);
    if !alignment.is_power_of_two() || !(0x1000..=0x100_0000).contains(&alignment) {
        return Err(KernelError::BadHeader(
            "its alignment is not a power of two from 4 KiB to 16 MiB",
        ));
    }
    let memory = u64::from(header.init_size).max(len - setup_bytes);
    if header.init_size == 0 || memory > MEMORY_MAX {
        return Err(KernelError::BadHeader(
            "the memory it asks for (init_size) is 0 or above 1 GiB",
        ));
    }
    let preferred = header.pref_address;
    if !(LOWEST_LOAD_ADDRESS..=MEMORY_MAX).contains(&preferred) {
        return Err(KernelError::BadHeader("its preferred address is not between 1 MiB and 1 GiB"));
    }
    Ok(KernelLayout::BzImage {
        setup_bytes,
        preferred,
        alignment,
        memory,
        initrd_max: u64::from(header.initrd_addr_max),
        cmdline_max: u64::from(header.cmdline_size),
    })
}

const ELF_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PT_LOAD: u32 = 1;
/// More program headers than this no kernel has.
const SEGMENTS_MAX: usize = 64;

/// Reads the headers of a file of `len` bytes, of which these are the first.
fn parse_elf(file: &[u8], len: u64, unpacked: Option<u64>) -> Result<KernelLayout, KernelError> {
    let header = file
        .get(..ELF_HEADER)
        .ok_or(KernelError::Truncated { len, promised: ELF_HEADER as u64 })?;
    if header[4] == 1 {
        return Err(KernelError::Not64Bit);
    }
    if header[4] != 2 || header[5] != 1 {
        return Err(KernelError::BadElf("it is not a 64-bit little-endian file"));
    }
    if u16_at(header, 18) != 62 {
        return Err(KernelError::BadElf("it is for another machine"));
    }
    if !matches!(u16_at(header, 16), 2 | 3) {
        return Err(KernelError::BadElf("it is not an executable (an object file?)"));
    }
    let count = usize::from(u16_at(header, 56));
    if usize::from(u16_at(header, 54)) != PROGRAM_HEADER || count == 0 || count > SEGMENTS_MAX {
        return Err(KernelError::BadElf(
            "its program headers are missing, or too many, or of a strange size",
        ));
    }
    let at = u64_at(header, 32);
    let promised = at.saturating_add((count * PROGRAM_HEADER) as u64);
    let table = usize::try_from(at)
        .ok()
        .filter(|_| promised <= len)
        .and_then(|at| file.get(at..at + count * PROGRAM_HEADER))
        .ok_or(KernelError::Truncated { len, promised })?;
    let entry = u64_at(header, 24);
    let mut segments = Vec::new();
    let mut offsets = Vec::new();
    let mut entered = false;
    for ph in table.chunks_exact(PROGRAM_HEADER) {
        if u32_at(ph, 0) != PT_LOAD || u64_at(ph, 40) == 0 {
            continue;
        }
        let (offset, vaddr, addr) = (u64_at(ph, 8), u64_at(ph, 16), u64_at(ph, 24));
        let (in_file, size) = (u64_at(ph, 32), u64_at(ph, 40));
        let promised = offset.saturating_add(in_file);
        if promised > len {
            return Err(KernelError::Truncated { len, promised });
        }
        let above = addr.checked_add(size).is_none_or(|end| end > abi::shim::LOAD_END_MAX);
        if in_file > size || size > MEMORY_MAX || above {
            return Err(KernelError::BadElf(
                "a segment is larger than its memory, or lies above 4 GiB",
            ));
        }
        if addr < LOWEST_LOAD_ADDRESS {
            return Err(KernelError::BadElf("a segment lies below 1 MiB"));
        }
        // A kernel names its entry by physical address, an ordinary executable by virtual address.
        entered |= (addr..addr + size).contains(&entry) || entry.wrapping_sub(vaddr) < size;
        segments.push(Segment { addr, size });
        offsets.push(offset);
    }
    if segments.is_empty() {
        return Err(KernelError::BadElf("nothing in it is loadable"));
    }
    if !entered {
        return Err(KernelError::BadElf("its entry point lies in none of its segments"));
    }
    let in_place = in_place(&segments, &offsets, promised);
    Ok(KernelLayout::Elf { segments, in_place, unpacked })
}

/// See [`KernelLayout::Elf`]; `headers` is where the program headers end, which the shim reads to the last.
fn in_place(segments: &[Segment], offsets: &[u64], headers: u64) -> Option<u64> {
    let mut base = 0;
    for (segment, offset) in segments.iter().zip(offsets) {
        base = base.max(segment.addr.checked_sub(*offset)?);
    }
    let mut placed = base.checked_add(headers)?;
    for (segment, offset) in segments.iter().zip(offsets) {
        if base.checked_add(*offset)? < placed || segment.addr < base + headers {
            return None;
        }
        placed = placed.max(segment.addr + segment.size);
    }
    (base >= HIGH_RAM_START && base.is_multiple_of(PAGE)).then_some(base)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
#[path = "kernel_test.rs"]
pub(crate) mod tests;
