//! Memory for launches: one guarded slot and a user address space of whole pages.

use std::collections::BTreeMap;

use softkvm::snp::launch::LaunchMemory;
use softkvm::snp::{Page, RmpEntry};

#[derive(Default)]
pub struct Memory {
    /// Slots: first gfn and pages.
    pub slots: Vec<(u64, u64)>,
    /// Frames with the PRIVATE attribute.
    pub shared: Vec<u64>,
    /// User pages by address, and whether they may be written.
    pub user: BTreeMap<u64, (Page, bool)>,
    /// Guest memory pages.
    pub guest: BTreeMap<u64, (Page, RmpEntry)>,
}

impl Memory {
    /// A slot of 256 pages from frame 0.
    pub fn new() -> Self {
        Self { slots: vec![(0, 256)], ..Self::default() }
    }

    /// Maps a page of user memory.
    pub fn map(&mut self, address: u64, page: Page) {
        self.user.insert(address, (page, true));
    }

    /// Maps a structure.
    pub fn map_bytes(&mut self, address: u64, bytes: &[u8]) {
        let mut page = [0; 4096];
        page[..bytes.len()].copy_from_slice(bytes);
        self.map(address, page);
    }
}

impl LaunchMemory for Memory {
    fn guarded_run(&self, gfn: u64) -> u64 {
        self.slots
            .iter()
            .find(|(first, pages)| gfn >= *first && gfn < first + pages)
            .map_or(0, |(first, pages)| first + pages - gfn)
    }

    fn is_private(&self, gfn: u64) -> bool {
        !self.shared.contains(&gfn)
    }

    fn read_user(&mut self, address: u64, out: &mut [u8], for_write: bool) -> Result<(), i32> {
        let (page, writable) = self.user.get(&(address & !0xfff)).ok_or(libc::EFAULT)?;
        if for_write && !writable {
            return Err(libc::EFAULT);
        }
        let from = (address & 0xfff) as usize;
        out.copy_from_slice(page.get(from..from + out.len()).ok_or(libc::EFAULT)?);
        Ok(())
    }

    fn write_user(&mut self, address: u64, data: &[u8]) -> Result<(), i32> {
        let (page, _) = self.user.get_mut(&address).ok_or(libc::EFAULT)?;
        page[..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn with_page(
        &mut self,
        gfn: u64,
        with: &mut dyn FnMut(&mut Page, &mut RmpEntry),
    ) -> Result<(), i32> {
        let (page, rmp) = self.guest.entry(gfn).or_insert(([0; 4096], RmpEntry::default()));
        with(page, rmp);
        Ok(())
    }
}
