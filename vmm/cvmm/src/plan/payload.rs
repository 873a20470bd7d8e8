//! The payload of a bzImage: found, and unpacked as far as its ELF headers go. The rest is the shim's work (`--unpack shim`).
//!
//! Linux 7.2 Documentation/arch/x86/boot.rst, `payload_offset`: an ELF file in one of several compressions, its length behind
//! it. LZ4 is a legacy frame ("LZ4 Frame Format Description" 1.6.4) of blocks ("LZ4 Block Format Description").

use std::ops::Range;

use abi::boot::{SETUP_HEADER_OFFSET, SetupHeader};
use zerocopy::FromBytes;

use super::kernel::KernelError;

/// What payloads begin with, and what that is. LZ4 is not among them.
const OTHERS: [(&[u8], &str); 7] = [
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\x5d\0\0", "LZMA"),
    (b"\xfd7zXZ\0", "XZ"),
    (b"\x89LZO", "LZO"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x7fELF", "nothing: it is not compressed"),
];
/// The magic of a legacy frame.
const LZ4: [u8; 4] = 0x184c_2102_u32.to_le_bytes();
/// Enough of an ELF file for its headers, which are at its beginning.
const HEADERS: usize = 4096;

/// A payload that the shim can unpack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Where it is in the file.
    pub place: Range<usize>,
    /// How long it is when unpacked.
    pub unpacked: u64,
    /// How that begins.
    pub beginning: Vec<u8>,
}

impl Payload {
    /// Finds it in a bzImage that is sound otherwise.
    ///
    /// # Errors
    /// There is none, or the shim cannot unpack it.
    pub fn find(file: &[u8]) -> Result<Payload, KernelError> {
        let (header, _) = file
            .get(SETUP_HEADER_OFFSET..)
            .and_then(|rest| SetupHeader::read_from_prefix(rest).ok())
            .ok_or(KernelError::BadPayload("the setup header is cut off"))?;
        let start = header.setup_bytes() + u64::from(header.payload_offset);
        let end = start + u64::from(header.payload_length);
        let place = start as usize..end as usize;
        let bytes =
            file.get(place.clone()).ok_or(KernelError::BadPayload("it ends after the file"))?;
        if let Some((_, found)) = OTHERS.iter().find(|(magic, _)| bytes.starts_with(magic)) {
            return Err(KernelError::Compression(found));
        }
        let blocks =
            bytes.strip_prefix(&LZ4).ok_or(KernelError::Compression("something unknown"))?;
        let (mut blocks, unpacked) =
            blocks.split_last_chunk::<4>().ok_or(KernelError::BadPayload("it is cut off"))?;
        let mut beginning = None;
        while !blocks.is_empty() {
            let cut_off = KernelError::BadPayload("a block ends after the payload");
            let (len, rest) = blocks.split_first_chunk().ok_or(cut_off.clone())?;
            let (block, rest) =
                rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or(cut_off)?;
            beginning.get_or_insert(block);
            blocks = rest;
        }
        let beginning = unpack(beginning.unwrap_or_default(), HEADERS)
            .ok_or(KernelError::BadPayload("its first block is not LZ4"))?;
        let unpacked = u64::from(u32::from_le_bytes(*unpacked));
        Ok(Payload { place, unpacked, beginning })
    }
}

/// Unpacks a block as far as is wanted, or a little farther. `None` if it is malformed before that.
fn unpack(mut block: &[u8], wanted: usize) -> Option<Vec<u8>> {
    fn take<'a>(block: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = block.split_at_checked(len)?;
        *block = rest;
        Some(taken)
    }
    fn length(block: &mut &[u8], nibble: u8) -> Option<usize> {
        let mut len = usize::from(nibble);
        let mut more = if nibble == 15 { 255 } else { 0 };
        while more == 255 {
            more = *take(block, 1)?.first()?;
            len += usize::from(more);
        }
        Some(len)
    }
    let mut out = Vec::new();
    loop {
        let token = *take(&mut block, 1)?.first()?;
        let literals = length(&mut block, token >> 4)?;
        out.extend_from_slice(take(&mut block, literals)?);
        if out.len() >= wanted || block.is_empty() {
            return Some(out);
        }
        let offset = u16::from_le_bytes(*take(&mut block, 2)?.first_chunk()?);
        let len = length(&mut block, token & 15)? + 4;
        let start = out.len().checked_sub(offset.into())?;
        for from in start..start + len.min(wanted) {
            // An offset of 0 finds nothing.
            out.push(*out.get(from)?);
        }
        if out.len() >= wanted {
            return Some(out);
        }
    }
}

#[cfg(test)]
#[path = "payload_test.rs"]
pub(crate) mod tests;
