//! A vmlinux without what a boot does not need: symbols, section headers, gaps between its segments, and its .bss.
//!
//! Linux 7.2 has .init.scratch, 4 MiB of zeros that only SME without virtualisation uses, behind .bss and .brk
//! (arch/x86/kernel/vmlinux.lds.S); so the linker writes all three to the file, and whoever loads the kernel would hash and copy
//! them. A loader of ELF files clears what the file leaves out. The kernel's own decompressor does not (arch/x86/boot/compressed/
//! misc.c, `parse_elf`), and an SNP guest needs it clear: so a bzImage keeps its zeros.

use anyhow::{Context, Result, bail};

/// A program header of an ELF file (System V ABI, "Program Header"): the fields that matter here.
#[derive(Clone)]
struct Segment {
    header: [u8; HEADER],
    offset: usize,
    address: usize,
    file_len: usize,
}

const HEADER: usize = 56;
const PT_LOAD: u32 = 1;
const SECTION: usize = 64;
const SHT_NOBITS: u32 = 8;
/// Where the first segment of the new file begins.
const FIRST: usize = 4096;

/// The same program in as few bytes as possible.
pub fn trim(elf: &[u8]) -> Result<Vec<u8>> {
    let mut segments = segments(elf)?;
    let bss = bss(elf)?;
    for segment in &mut segments {
        let bytes = contents(elf, segment)?;
        let cuts = bss.iter().filter_map(|address| address.checked_sub(segment.address));
        if let Some(cut) = cuts.min()
            && bytes.get(cut..).is_some_and(|rest| rest.iter().all(|byte| *byte == 0))
        {
            segment.file_len = cut;
        }
    }
    if segments.is_empty() {
        bail!("the kernel has no segment to load");
    }
    let offsets = packed(&segments);
    let mut out = elf.get(..64).context("truncated ELF header")?.to_vec();
    out[32..40].copy_from_slice(&64_u64.to_le_bytes());
    // No section headers: e_shoff, then e_shentsize, e_shnum and e_shstrndx.
    out[40..48].fill(0);
    out[58..64].fill(0);
    out[56..58].copy_from_slice(&u16::try_from(segments.len())?.to_le_bytes());
    for (segment, offset) in segments.iter().zip(&offsets) {
        let mut header = segment.header;
        header[8..16].copy_from_slice(&(*offset as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(segment.file_len as u64).to_le_bytes());
        out.extend(header);
    }
    for (segment, offset) in segments.iter().zip(&offsets) {
        out.resize(*offset, 0);
        out.extend(&contents(elf, segment)?[..segment.file_len]);
    }
    Ok(out)
}

fn packed(segments: &[Segment]) -> Vec<usize> {
    let mut at = FIRST;
    let place = |segment: &Segment| {
        let offset = at;
        at += segment.file_len.next_multiple_of(FIRST);
        offset
    };
    segments.iter().map(place).collect()
}

/// What is loaded.
fn segments(elf: &[u8]) -> Result<Vec<Segment>> {
    // 64 bits, little-endian.
    if elf.get(..6) != Some(b"\x7fELF\x02\x01") {
        bail!("no 64-bit ELF file");
    }
    let count = usize::from(u16::from_le_bytes([
        *elf.get(56).context("truncated")?,
        *elf.get(57).context("truncated")?,
    ]));
    let table = word(elf, 32)?;
    let mut segments = Vec::new();
    for index in 0..count {
        let at = table.checked_add(index * HEADER).context("program headers out of range")?;
        let header: [u8; HEADER] = elf
            .get(at..at.saturating_add(HEADER))
            .context("program headers out of range")?
            .try_into()?;
        if header[..4] == PT_LOAD.to_le_bytes() {
            segments.push(Segment {
                offset: word(&header, 8)?,
                address: word(&header, 16)?,
                file_len: word(&header, 32)?,
                header,
            });
        }
    }
    Ok(segments)
}

/// Where sections begin that the kernel clears itself.
fn bss(elf: &[u8]) -> Result<Vec<usize>> {
    let count = elf.get(60..62).context("truncated")?;
    let table = word(elf, 40)?;
    let mut found = Vec::new();
    for index in 0..usize::from(u16::from_le_bytes([count[0], count[1]])) {
        let at = table.checked_add(index * SECTION).context("section headers out of range")?;
        let header =
            elf.get(at..at.saturating_add(SECTION)).context("section headers out of range")?;
        if header[4..8] == SHT_NOBITS.to_le_bytes() && word(header, 32)? != 0 {
            found.push(word(header, 16)?);
        }
    }
    Ok(found)
}

fn contents<'a>(elf: &'a [u8], segment: &Segment) -> Result<&'a [u8]> {
    let len = word(&segment.header, 32)?;
    let end = segment.offset.checked_add(len).context("a segment is out of range")?;
    elf.get(segment.offset..end).context("a segment is out of range")
}

fn word(bytes: &[u8], at: usize) -> Result<usize> {
    let word = bytes.get(at..at + 8).context("truncated ELF file")?;
    Ok(usize::try_from(u64::from_le_bytes(word.try_into()?))?)
}

#[cfg(test)]
#[path = "elf_test.rs"]
mod tests;
