//! The device as a firmware drives it.

use std::cell::RefCell;

use super::*;
use crate::plan::fw_cfg::FwCfg as Items;

/// A page of memory at address 0.
struct Page(RefCell<Vec<u8>>);

impl SharedMemory for Page {
    fn read(&self, gpa: u64, bytes: &mut [u8]) -> bool {
        let memory = self.0.borrow();
        let at = usize::try_from(gpa).unwrap_or(usize::MAX);
        let Some(from) = at.checked_add(bytes.len()).and_then(|end| memory.get(at..end)) else {
            return false;
        };
        bytes.copy_from_slice(from);
        true
    }

    fn write(&self, gpa: u64, bytes: &[u8]) -> bool {
        let mut memory = self.0.borrow_mut();
        let at = usize::try_from(gpa).unwrap_or(usize::MAX);
        let Some(to) = at.checked_add(bytes.len()).and_then(|end| memory.get_mut(at..end)) else {
            return false;
        };
        to.copy_from_slice(bytes);
        true
    }
}

const SIGNATURE: u16 = 0;
const KERNEL: u16 = 0x11;

fn device() -> (FwCfg, Page) {
    let items = Items::of(vec![(SIGNATURE, b"QEMU".to_vec()), (KERNEL, (0..200).collect())]);
    (FwCfg::new(items), Page(RefCell::new(vec![0x55; 0x3000])))
}

/// Puts a transfer at 0x100, has it carried out, and says what its control word became.
fn dma(device: &mut FwCfg, page: &Page, control: u32, len: u32, gpa: u64) -> (u32, Fetched) {
    let bytes = [&control.to_be_bytes()[..], &len.to_be_bytes(), &gpa.to_be_bytes()].concat();
    assert!(page.write(0x100, &bytes));
    assert_eq!(device.write(DMA_PORT, &0u32.to_be_bytes()), None);
    assert_eq!(device.write(DMA_PORT + 4, &0x100u32.to_be_bytes()), Some(0x100));
    let fetched = device.transfer(0x100, page);
    let mut status = [0; 4];
    assert!(page.read(0x100, &mut status));
    (u32::from_be_bytes(status), fetched)
}

fn bytes(page: &Page, gpa: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    assert!(page.read(gpa, &mut bytes));
    bytes
}

#[test]
fn an_item_comes_byte_by_byte_and_then_zeros() {
    let (mut device, _) = device();
    device.write(SELECTOR_PORT, &SIGNATURE.to_le_bytes());
    let mut read = [0xff; 6];
    for byte in read.chunks_mut(1) {
        device.read(DATA_PORT, byte);
    }
    assert_eq!(read, *b"QEMU\0\0");
    device.write(SELECTOR_PORT, &0x7777u16.to_le_bytes());
    device.read(DATA_PORT, &mut read[..1]);
    assert_eq!(read[0], 0, "no such item");
}

#[test]
fn the_address_port_says_that_there_are_transfers() {
    let (mut device, _) = device();
    let mut signature = [0; 8];
    device.read(DMA_PORT, &mut signature[..4]);
    device.read(DMA_PORT + 4, &mut signature[4..]);
    assert_eq!(signature, *b"QEMU CFG");
}

#[test]
fn transfers_go_on_where_the_last_ended() {
    let (mut device, page) = device();
    let select = u32::from(KERNEL) << 16 | SELECT;
    let (status, fetched) = dma(&mut device, &page, select | READ, 100, 0x200);
    assert_eq!((status, fetched), (0, Fetched { first: true, last: false }));
    assert_eq!(dma(&mut device, &page, SKIP, 50, 0).0, 0);
    let (status, fetched) = dma(&mut device, &page, READ, 60, 0x400);
    assert_eq!((status, fetched), (0, Fetched { first: false, last: true }));
    assert_eq!(bytes(&page, 0x200, 101), [(0..100).collect(), vec![0x55]].concat());
    assert_eq!(bytes(&page, 0x400, 61), [(150..200).collect(), vec![0; 10], vec![0x55]].concat());
    // Told once.
    let (status, fetched) = dma(&mut device, &page, select | READ, 200, 0x600);
    assert_eq!((status, fetched), (0, Fetched::default()));
    let signature = u32::from(SIGNATURE) << 16 | SELECT;
    assert_eq!(dma(&mut device, &page, signature | READ, 0x2000, 0x800).0, 0);
    assert_eq!(bytes(&page, 0x800, 5), b"QEMU\0");
    assert!(bytes(&page, 0x804, 0x1ffc).iter().all(|byte| *byte == 0));
}

#[test]
fn what_cannot_be_done_is_an_error() {
    let (mut device, page) = device();
    let select = u32::from(KERNEL) << 16 | SELECT;
    for gpa in [0x2fff, 0x3000, u64::MAX, u64::MAX - 100] {
        let (status, fetched) = dma(&mut device, &page, select | READ, 100, gpa);
        assert_eq!((status, fetched), (ERROR, Fetched::default()), "{gpa:#x}");
    }
    // The bytes are there, the zeros after them are not.
    assert_eq!(dma(&mut device, &page, select | READ, 0xffff_ffff, 0x200).0, ERROR);
    assert_eq!(dma(&mut device, &page, select | WRITE, 4, 0x200).0, ERROR, "nothing is writable");
    assert_eq!(device.transfer(0x2ff8, &page), Fetched::default(), "half a request");
    assert_eq!(device.transfer(u64::MAX, &page), Fetched::default());
}
