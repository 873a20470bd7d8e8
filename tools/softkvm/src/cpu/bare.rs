//! The smallest world: some RAM at address zero, a log of device accesses, nothing else.
//!
//! Tests and benchmarks of the processor run in it.
//!
//! UNSAFETY: it lends its RAM by raw pointer; the allocation lives as long as the world and never
//! moves.
#![allow(unsafe_code)]

use super::state::Core;
use super::world::{
    Access, Exception, Exit, HostPage, Intercept, OwnerBit, PageAnswer, Stop, World,
};

#[repr(C, align(4096))]
#[derive(Clone)]
struct Page([u8; 4096]);

/// One device access, as the processor made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// Device memory was read.
    MmioRead {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes.
        len: u8,
    },
    /// Device memory was written.
    MmioWrite {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes.
        len: u8,
        /// What was written.
        value: u64,
    },
    /// OUT.
    Out {
        /// Port.
        port: u16,
        /// Bytes.
        len: u8,
        /// What was written.
        value: u32,
    },
}

/// RAM and a log.
pub struct Bare {
    ram: Vec<Page>,
    /// Answered by [`World::owner_bit`].
    pub owner_bit: Option<OwnerBit>,
    /// Device accesses so far.
    pub touches: Vec<Touch>,
    /// Pages asked for: address, purpose, privacy.
    pub asked: Vec<(u64, Access, bool)>,
    /// Keep [`Bare::asked`].
    pub log_pages: bool,
    /// The next interrupt vector.
    pub interrupt: Option<u8>,
    /// Virtual cycles charged.
    pub charged: u64,
}

impl Bare {
    /// `pages` pages of zeroed RAM.
    pub fn new(pages: usize) -> Self {
        Self {
            ram: vec![Page([0; 4096]); pages],
            owner_bit: None,
            touches: Vec::new(),
            asked: Vec::new(),
            log_pages: false,
            interrupt: None,
            charged: 0,
        }
    }

    /// Host address of RAM.
    pub fn host(&mut self) -> *mut u8 {
        self.ram.as_mut_ptr().cast()
    }

    /// All of RAM.
    pub fn bytes(&mut self) -> &mut [u8] {
        let len = self.ram.len() * 4096;
        // SAFETY: the pages are contiguous plain bytes, borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.host(), len) }
    }

    /// Writes bytes at a guest-physical address.
    pub fn put(&mut self, gpa: u64, bytes: &[u8]) {
        let at = gpa as usize;
        self.bytes()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Writes a quadword.
    pub fn put64(&mut self, gpa: u64, value: u64) {
        self.put(gpa, &value.to_le_bytes());
    }

    /// Reads a quadword.
    pub fn get64(&mut self, gpa: u64) -> u64 {
        let at = gpa as usize;
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.bytes()[at..at + 8]);
        u64::from_le_bytes(bytes)
    }

    /// Builds 4-level tables at `root` (it and the following page, then one page per GiB) that map
    /// the first `gib` GiB of linear addresses to themselves with 2 MiB user-writable pages.
    pub fn identity_map(&mut self, root: u64, gib: u64) {
        self.put64(root, (root + 0x1000) | 7);
        for i in 0..gib {
            let directory = root + 0x2000 + i * 0x1000;
            self.put64(root + 0x1000 + i * 8, directory | 7);
            for j in 0..512 {
                self.put64(directory + j * 8, i << 30 | j << 21 | 0xe7);
            }
        }
    }
}

impl World for Bare {
    fn page(&mut self, gpa: u64, access: Access, private: bool) -> Result<PageAnswer, Stop> {
        if self.log_pages {
            self.asked.push((gpa, access, private));
        }
        let index = (gpa >> 12) as usize;
        if index >= self.ram.len() {
            return Ok(PageAnswer::Mmio);
        }
        let host = self.host().wrapping_add(index << 12);
        Ok(PageAnswer::Memory(HostPage { host, writable: true }))
    }
    fn owner_bit(&self) -> Option<OwnerBit> {
        self.owner_bit
    }
    fn mmio_read(&mut self, _core: &mut Core, gpa: u64, len: u8) -> Result<u64, Stop> {
        self.touches.push(Touch::MmioRead { gpa, len });
        Ok(gpa.wrapping_mul(0x0101_0101_0101_0101))
    }
    fn mmio_write(&mut self, _core: &mut Core, gpa: u64, len: u8, value: u64) -> Result<(), Stop> {
        self.touches.push(Touch::MmioWrite { gpa, len, value });
        Ok(())
    }
    fn port_in(&mut self, _core: &mut Core, _port: u16, _len: u8) -> Result<u32, Stop> {
        Ok(u32::MAX)
    }
    fn port_out(&mut self, _core: &mut Core, port: u16, len: u8, value: u32) -> Result<(), Stop> {
        self.touches.push(Touch::Out { port, len, value });
        Ok(())
    }
    fn cpuid(&mut self, _core: &mut Core, _leaf: u32, _subleaf: u32) -> Result<[u32; 4], Stop> {
        Ok([0; 4])
    }
    fn rdmsr(&mut self, _core: &mut Core, _index: u32) -> Result<u64, Stop> {
        Err(Stop::Fault(Exception::gp(0)))
    }
    fn wrmsr(&mut self, _core: &mut Core, _index: u32, _value: u64) -> Result<(), Stop> {
        Err(Stop::Fault(Exception::gp(0)))
    }
    fn tsc(&mut self, core: &Core) -> u64 {
        core.instructions
    }
    fn random(&mut self) -> u64 {
        0x9e37_79b9_7f4a_7c15
    }
    fn intercept(&mut self, _core: &mut Core, _what: Intercept) -> Result<(), Stop> {
        Ok(())
    }
    fn cr8(&mut self) -> u64 {
        0
    }
    fn set_cr8(&mut self, _value: u64) {}
    fn hypercall(&mut self, _core: &mut Core) -> Result<(), Stop> {
        Err(Stop::Fault(Exception::UD))
    }
    fn vmgexit(&mut self, _core: &mut Core) -> Result<(), Stop> {
        Err(Stop::Exit(Exit::World))
    }
    fn pvalidate(
        &mut self,
        _gpa: u64,
        _private: bool,
        _huge: bool,
        _validate: bool,
    ) -> Result<(u32, bool), Stop> {
        Err(Stop::Fault(Exception::UD))
    }
    fn rmpadjust(
        &mut self,
        _gpa: u64,
        _private: bool,
        _huge: bool,
        _rdx: u64,
    ) -> Result<u32, Stop> {
        Err(Stop::Fault(Exception::UD))
    }
    fn take_interrupt(&mut self) -> Option<u8> {
        self.interrupt.take()
    }
    fn take_nmi(&mut self) -> bool {
        false
    }
    fn charge(&mut self, cycles: u64) {
        self.charged += cycles;
    }
}
