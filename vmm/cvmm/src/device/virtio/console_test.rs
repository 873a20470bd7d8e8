//! The device as Linux's drivers use it (drivers/virtio/virtio_mmio.c, drivers/char/virtio_console.c).

use super::*;
use crate::device::virtio::testing::{Driver, Memory, WRITE};

const TEXT: u64 = 0x2_0000;
const INPUT: u64 = 0x3_0000;

struct Machine {
    memory: Memory,
    device: VirtioConsole,
    line: EventFd,
    receive: Driver,
    transmit: Driver,
}

impl Machine {
    fn new(protected: bool) -> Machine {
        let line = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let device = VirtioConsole::new(line.try_clone().unwrap(), protected);
        let (receive, transmit) = (Driver::new(0x1_0000, 16), Driver::new(0x1_1000, 64));
        Machine { memory: Memory::new(), device, line, receive, transmit }
    }

    fn read(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.device.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&mut self, offset: u64, value: u32) -> Vec<u8> {
        self.device.write(offset, &value.to_le_bytes(), &self.memory).unwrap()
    }

    fn features(&mut self) -> u64 {
        self.write(0x14, 1);
        let high = self.read(0x10);
        self.write(0x14, 0);
        u64::from(high) << 32 | u64::from(self.read(0x10))
    }

    fn accept(&mut self, features: u64) -> bool {
        self.write(0x70, 0);
        self.write(0x70, 1);
        self.write(0x70, 3);
        for half in [1, 0] {
            self.write(0x24, half);
            self.write(0x20, (features >> (32 * half)) as u32);
        }
        self.write(0x70, 0xb);
        self.read(0x70) == 0xb
    }

    fn place_queues(&mut self) {
        for (queue, place) in [(0, self.receive.place), (1, self.transmit.place)] {
            self.write(0x30, queue);
            assert_eq!((self.read(0x44), self.read(0x34)), (0, 64));
            self.write(0x38, place.size);
            let parts = [(0x80, place.table), (0x90, place.available), (0xa0, place.used)];
            for (offset, gpa) in parts {
                self.write(offset, gpa as u32);
                self.write(offset + 4, (gpa >> 32) as u32);
            }
            self.write(0x44, 1);
            assert_eq!(self.read(0x44), 1);
        }
    }

    fn booted(protected: bool) -> Machine {
        let mut this = Machine::new(protected);
        let features = this.features();
        assert!(this.accept(features));
        this.place_queues();
        this.write(0x70, 0xf);
        this
    }

    fn print(&mut self, text: &[u8]) -> Vec<u8> {
        self.memory.put(TEXT, text);
        self.transmit.describe(&self.memory, 0, TEXT, text.len() as u32, 0, 0);
        self.transmit.offer(&self.memory, 0);
        self.write(0x50, 1)
    }

    /// Was the interrupt raised since the last time, and how often?
    fn raised(&self) -> u64 {
        self.line.read().unwrap_or(0)
    }

    /// The driver's interrupt handler.
    fn acknowledge(&mut self) {
        assert_eq!(self.read(0x60), 1);
        self.write(0x64, 1);
        assert_eq!(self.read(0x60), 0);
    }
}

#[test]
fn it_is_a_modern_console() {
    let machine = Machine::new(true);
    let found = [0x00, 0x04, 0x08].map(|offset| machine.read(offset));
    assert_eq!(found, [u32::from_le_bytes(*b"virt"), 2, 3]);
    // No shared memory, and a configuration that says nothing.
    assert_eq!([0xb0, 0xb4, 0xfc, 0x100, 0x104].map(|at| machine.read(at)), [!0, !0, 0, 0, 0]);
    let mut byte = [0xff];
    machine.device.read(0x100, &mut byte);
    assert_eq!(byte, [0]);
}

#[test]
fn only_what_is_shared_is_for_a_protected_guests_device() {
    let (mut protected, mut plain) = (Machine::new(true), Machine::new(false));
    assert_eq!(protected.features(), 1 << 32 | 1 << 33);
    assert_eq!(plain.features(), 1 << 32);
    // A driver that does not know it would name private addresses.
    assert!(!protected.accept(1 << 32));
    assert!(!protected.accept(0));
    assert!(!protected.accept(!0));
    assert!(protected.accept(1 << 32 | 1 << 33));
    assert!(plain.accept(1 << 32));
}

#[test]
fn text_comes_out_with_its_notification() {
    let mut machine = Machine::booted(true);
    for round in 1..200 {
        let text = format!("line {round}\r\n");
        assert_eq!(machine.print(text.as_bytes()), text.as_bytes());
        assert_eq!(machine.transmit.used(&machine.memory).1, round);
    }
}

#[test]
fn an_interrupt_is_not_raised_again_before_it_is_taken() {
    let mut machine = Machine::booted(true);
    machine.print(b"a");
    assert_eq!(machine.raised(), 1);
    machine.print(b"b");
    machine.print(b"c");
    assert_eq!(machine.raised(), 0);
    machine.acknowledge();
    machine.print(b"d");
    assert_eq!(machine.raised(), 1);
}

#[test]
fn several_chains_are_one_notification() {
    let mut machine = Machine::booted(false);
    machine.memory.put(TEXT, b"0123456789");
    for at in 0..10 {
        machine.transmit.describe(&machine.memory, at, TEXT + u64::from(at), 1, 0, 0);
        machine.transmit.offer(&machine.memory, at);
    }
    assert_eq!(machine.write(0x50, 1), b"0123456789");
    assert_eq!(machine.raised(), 1);
}

#[test]
fn what_is_typed_waits_for_buffers() {
    let mut machine = Machine::booted(true);
    let Machine { device, memory, receive, .. } = &mut machine;
    assert_eq!(device.receive(b"early", memory), Ok(0));
    for at in 0..2 {
        receive.describe(memory, at, INPUT + 0x1000 * u64::from(at), 4, WRITE, 0);
        receive.offer(memory, at);
    }
    assert_eq!(device.receive(b"hello, guest", memory), Ok(8));
    assert_eq!((memory.get(INPUT), memory.get(INPUT + 0x1000)), (*b"hell", *b"o, g"));
    assert_eq!((receive.entry(memory, 0), receive.entry(memory, 1)), ((0, 4), (1, 4)));
    assert_eq!(machine.raised(), 1);
}

#[test]
fn buffers_without_room_do_not_keep_the_device() {
    let mut machine = Machine::booted(true);
    let Machine { device, memory, receive, .. } = &mut machine;
    for at in 0..2 {
        receive.describe(memory, at, INPUT, 0, WRITE, 0);
        receive.offer(memory, at);
    }
    assert_eq!(device.receive(b"x", memory), Ok(0));
}

#[test]
fn nothing_happens_before_the_driver_is_ready_or_after_a_reset() {
    let mut machine = Machine::new(true);
    let features = machine.features();
    assert!(machine.accept(features));
    machine.place_queues();
    assert!(machine.print(b"too early").is_empty());
    machine.receive.describe(&machine.memory, 0, INPUT, 4, WRITE, 0);
    machine.receive.offer(&machine.memory, 0);
    assert_eq!(machine.device.receive(b"x", &machine.memory), Ok(0));

    let mut machine = Machine::booted(true);
    machine.print(b"a");
    machine.write(0x70, 0);
    assert_eq!((machine.read(0x70), machine.read(0x60), machine.read(0x44)), (0, 0, 0));
    assert!(machine.print(b"after a reset").is_empty());
    assert_eq!(machine.features(), 1 << 32 | 1 << 33);
}

#[test]
fn a_queue_that_is_in_use_stays_where_it_is() {
    let mut machine = Machine::booted(true);
    machine.write(0x30, 1);
    machine.write(0x80, 0x66_6000);
    machine.write(0x38, 2);
    assert_eq!(machine.print(b"still here"), b"still here");
    machine.write(0x44, 0);
    assert_eq!(machine.read(0x44), 0);
    assert!(machine.print(b"gone").is_empty());
}

#[test]
fn there_are_two_queues() {
    let mut machine = Machine::new(true);
    for queue in [2, 3, u32::MAX] {
        machine.write(0x30, queue);
        assert_eq!(machine.read(0x34), 0);
        machine.write(0x44, 1);
        assert_eq!(machine.read(0x44), 0);
        assert!(machine.write(0x50, queue).is_empty());
    }
}

#[test]
fn a_hostile_queue_is_an_error() {
    let mut machine = Machine::booted(true);
    machine.memory.private = TEXT..TEXT + 1;
    machine.transmit.describe(&machine.memory, 0, TEXT, 4, 0, 0);
    machine.transmit.offer(&machine.memory, 0);
    let answer = machine.device.write(0x50, &1_u32.to_le_bytes(), &machine.memory);
    assert!(matches!(answer, Err(QueueError::Buffer { .. })), "{answer:?}");
}
