//! What an OVMF image says of itself: a table of GUIDs at its end, read backwards (edk2 OvmfPkg/ResetVector/Ia16/
//! ResetVectorVtf0.asm). Nothing is executed here, only believed or refused; what an entry means is its technology's.

use thiserror::Error;

/// Why a file is no firmware that can be started.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum FirmwareError {
    #[error("it has {len} bytes; an image has whole pages, and 4 KiB to {} MiB", LEN_MAX >> 20)]
    Size { len: u64 },
    #[error("it has no table of GUIDs at its end: it is no OVMF image")]
    NoTable,
    #[error("the table of GUIDs at its end is damaged: {0}")]
    BadTable(&'static str),
    #[error("it carries no {0} metadata")]
    NoMetadata(&'static str),
    #[error("its {technology} metadata is damaged: {problem}")]
    BadMetadata { technology: &'static str, problem: &'static str },
    #[error("section {number} of its {technology} metadata ({len:#x} bytes at {gpa:#x}) {problem}")]
    BadSection {
        technology: &'static str,
        number: usize,
        gpa: u64,
        len: u64,
        problem: &'static str,
    },
    #[error(
        "it has no page for the hashes of kernel, initrd and command line, so nothing would bind them"
    )]
    NoKernelHashes,
}

impl FirmwareError {
    /// What the user can do.
    pub fn cure(&self) -> String {
        match self {
            FirmwareError::Size { .. } | FirmwareError::NoTable => {
                "give an OVMF image with code and variables in one file, for instance Debian's \
                 /usr/share/ovmf/OVMF.amdsev.fd"
                    .into()
            }
            FirmwareError::BadTable(_)
            | FirmwareError::BadMetadata { .. }
            | FirmwareError::BadSection { .. } => {
                "the file seems damaged: fetch or build the firmware again".into()
            }
            FirmwareError::NoMetadata(technology) => format!(
                "use an image that is built for {technology} (Debian: ovmf-amdsev for SEV-SNP, ovmf-inteltdx for TDX)"
            ),
            FirmwareError::NoKernelHashes => {
                "use an image that checks its kernel (Debian: ovmf-amdsev), or leave --kernel out"
                    .into()
            }
        }
    }
}

/// The longest image: what fits between the local APICs and 4 GiB.
pub const LEN_MAX: u64 = 16 << 20;
/// Where an image ends.
pub const END: u64 = 4 << 30;
const PAGE: u64 = 4096;

/// A GUID as it stands in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// From the parts in which one is written: the first three are numbers, the rest is bytes.
    pub const fn new(a: u32, b: u16, c: u16, d: [u8; 8]) -> Guid {
        let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
        Guid([
            a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5],
            d[6], d[7],
        ])
    }
}

/// The last entry of the table, whose length is the table's.
const FOOTER: Guid =
    Guid::new(0x96b5_82de, 0x1fb2, 0x45f7, [0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d]);
/// The reset vector's code follows the table.
const AFTER_TABLE: usize = 32;
/// Length and GUID at the end of an entry.
const TRAILER: usize = 18;

/// An image and the entries of its table.
#[derive(Clone, Debug)]
pub struct Ovmf<'a> {
    image: &'a [u8],
    entries: Vec<(Guid, &'a [u8])>,
}

impl<'a> Ovmf<'a> {
    /// Reads the table.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn parse(image: &'a [u8]) -> Result<Ovmf<'a>, FirmwareError> {
        let len = image.len() as u64;
        if len == 0 || len > LEN_MAX || !len.is_multiple_of(PAGE) {
            return Err(FirmwareError::Size { len });
        }
        let table = &image[..image.len() - AFTER_TABLE];
        let (rest, (footer, total)) = trailer(table).ok_or(FirmwareError::NoTable)?;
        if footer != FOOTER {
            return Err(FirmwareError::NoTable);
        }
        let bad = FirmwareError::BadTable;
        let start = table
            .len()
            .checked_sub(total)
            .filter(|start| *start <= rest.len())
            .ok_or(bad("its length does not fit the file"))?;
        let mut rest = &rest[start..];
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let (before, (guid, len)) = trailer(rest).ok_or(bad("an entry is cut off"))?;
            let begin = rest
                .len()
                .checked_sub(len)
                .filter(|begin| *begin <= before.len())
                .ok_or(bad("the length of an entry does not fit the table"))?;
            entries.push((guid, &before[begin..]));
            rest = &rest[..begin];
        }
        Ok(Ovmf { image, entries })
    }

    /// Where the image begins in the guest's memory.
    pub fn gpa(&self) -> u64 {
        END - self.image.len() as u64
    }

    /// The image.
    pub fn image(&self) -> &'a [u8] {
        self.image
    }

    /// The data of an entry.
    pub fn entry(&self, guid: Guid) -> Option<&'a [u8]> {
        self.entries.iter().find(|(one, _)| *one == guid).map(|(_, data)| *data)
    }

    /// The first four bytes of an entry, as a number.
    pub fn number(&self, guid: Guid) -> Option<u32> {
        self.entry(guid).and_then(|data| u32_at(data, 0))
    }

    /// What lies as many bytes before the image's end as an entry says.
    pub fn behind(&self, guid: Guid) -> Option<&'a [u8]> {
        let distance = usize::try_from(self.number(guid)?).ok()?;
        self.image.len().checked_sub(distance).map(|at| &self.image[at..])
    }

    /// The sections of a technology's metadata, of `section` bytes each. Both kinds of metadata begin with signature, length,
    /// version and number of sections.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn sections(
        &self,
        technology: &'static str,
        guid: Guid,
        signature: u32,
        section: usize,
    ) -> Result<&'a [u8], FirmwareError> {
        const HEADER: usize = 16;
        const VERSION: u32 = 1;
        let bad = |problem| FirmwareError::BadMetadata { technology, problem };
        if self.entry(guid).is_none() {
            return Err(FirmwareError::NoMetadata(technology));
        }
        let metadata = self.behind(guid).ok_or(bad("it lies outside of the image"))?;
        let field = |at| u32_at(metadata, at).ok_or(bad("it is cut off"));
        if (field(0)?, field(8)?) != (signature, VERSION) {
            return Err(bad("signature or version is wrong"));
        }
        let len = usize::try_from(field(4)?).unwrap_or(usize::MAX);
        let table = metadata.get(HEADER..len).ok_or(bad("its length does not fit the image"))?;
        let count = usize::try_from(field(12)?).unwrap_or(usize::MAX);
        if count.checked_mul(section) != Some(table.len()) {
            return Err(bad("its length is not that of its sections"));
        }
        Ok(table)
    }
}

/// What ends with length and GUID: what is before them, and both.
fn trailer(bytes: &[u8]) -> Option<(&[u8], (Guid, usize))> {
    let (rest, trailer) = bytes.split_last_chunk::<TRAILER>()?;
    let [low, high, guid @ ..] = trailer;
    Some((rest, (Guid(*guid), usize::from(u16::from_le_bytes([*low, *high])))))
}

/// A little-endian number of a table.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// A longer one.
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
#[path = "ovmf_test.rs"]
pub(super) mod tests;
