//! A driver that keeps to the rules, and drivers that do not.

use super::*;
use crate::device::virtio::testing::{Driver, INDIRECT, Memory, NEXT, WRITE};

const RING: u64 = 0x1_0000;
const TEXT: u64 = 0x2_0000;

fn pair(direction: Direction) -> (Memory, Driver, Queue) {
    let memory = Memory::new();
    let driver = Driver::new(RING, 8);
    let queue = Queue::open(driver.place, direction, &memory).unwrap();
    (memory, driver, queue)
}

/// What the device says of a chain that a driver makes.
fn verdict(make: impl Fn(&mut Memory, &mut Driver)) -> QueueError {
    let (mut memory, mut driver, mut queue) = pair(Direction::ToHost);
    memory.put(TEXT, b"secret");
    make(&mut memory, &mut driver);
    let taken = queue.take(&memory).and_then(|chain| {
        let chain = chain.expect("something was offered");
        chain.read(&memory).map(|bytes| panic!("{bytes:?} was read"))
    });
    taken.expect_err("it was taken")
}

#[test]
fn buffers_are_read_in_the_order_of_their_chain_for_ever() {
    let (memory, mut driver, mut queue) = pair(Direction::ToHost);
    memory.put(TEXT, b"hello world");
    driver.describe(&memory, 5, TEXT, 6, NEXT, 2);
    driver.describe(&memory, 2, TEXT + 6, 5, 0, 0);
    for round in 0..0x1_0010_u64 {
        assert_eq!(queue.take(&memory), Ok(None), "nothing is offered");
        driver.offer(&memory, 5);
        let chain = queue.take(&memory).unwrap().unwrap();
        assert_eq!(chain.read(&memory).unwrap(), b"hello world");
        assert_eq!(queue.give_back(&chain, 0, &memory), Ok(true));
        assert_eq!(driver.used(&memory), (0, driver.index));
        assert_eq!(driver.entry(&memory, round % 8), (5, 0));
    }
}

#[test]
fn what_is_typed_fills_buffers_and_no_more() {
    let (memory, mut driver, mut queue) = pair(Direction::ToGuest);
    assert_eq!(driver.used(&memory).0, NO_NOTIFY);
    driver.describe(&memory, 0, TEXT, 2, WRITE | NEXT, 1);
    driver.describe(&memory, 1, TEXT + 0x100, 2, WRITE, 0);
    driver.offer(&memory, 0);
    let chain = queue.take(&memory).unwrap().unwrap();
    assert_eq!(chain.write(&memory, b"abcdef"), Ok(4));
    assert_eq!((memory.get(TEXT), memory.get(TEXT + 0x100)), (*b"ab\0\0", *b"cd\0\0"));
    assert_eq!(chain.write(&memory, b"x"), Ok(1));
    assert_eq!(queue.give_back(&chain, 1, &memory), Ok(true));
    assert_eq!(driver.entry(&memory, 0), (0, 1));
    assert_eq!(driver.used(&memory), (NO_NOTIFY, 1));
}

#[test]
fn an_interrupt_that_is_not_wanted_is_not_asked_for() {
    let (memory, mut driver, mut queue) = pair(Direction::ToHost);
    driver.describe(&memory, 0, TEXT, 1, 0, 0);
    memory.put(RING + 0x800, &NO_INTERRUPT.to_le_bytes());
    driver.offer(&memory, 0);
    let chain = queue.take(&memory).unwrap().unwrap();
    assert_eq!(queue.give_back(&chain, 0, &memory), Ok(false));
}

#[test]
fn private_memory_is_an_error_and_never_zeros() {
    let buffer = verdict(|memory, driver| {
        memory.private = TEXT + 3..TEXT + 0x1000;
        driver.describe(memory, 0, TEXT, 6, 0, 0);
        driver.offer(memory, 0);
    });
    let why = Unreachable::Private;
    assert_eq!(buffer, QueueError::Buffer { gpa: TEXT, len: 6, why });
    assert_eq!(buffer.to_string(), "the buffer at 0x20000 of 6 bytes is private");
    for (gpa, part) in [(RING, TABLE), (RING + 0x800, AVAILABLE)] {
        let ring = verdict(|memory, driver| {
            driver.offer(memory, 0);
            memory.private = gpa..gpa + 0x100;
        });
        assert_eq!(ring, QueueError::Ring { part, gpa, why });
    }
    let (mut memory, mut driver, mut queue) = pair(Direction::ToHost);
    driver.describe(&memory, 0, TEXT, 6, 0, 0);
    driver.offer(&memory, 0);
    let chain = queue.take(&memory).unwrap().unwrap();
    memory.private = RING + 0xa00..RING + 0xb00;
    let error = queue.give_back(&chain, 0, &memory).unwrap_err();
    assert_eq!(error, QueueError::Ring { part: USED, gpa: RING + 0xa00, why });
}

#[test]
fn what_is_no_memory_is_named() {
    for (gpa, len) in [(1 << 40, 6), (u64::MAX - 1, 6), ((1 << 20) - 1, 2)] {
        let error = verdict(|memory, driver| {
            driver.describe(memory, 0, gpa, len, 0, 0);
            driver.offer(memory, 0);
        });
        assert_eq!(error, QueueError::Buffer { gpa, len, why: Unreachable::NoMemory });
    }
}

#[test]
fn chains_without_end_end() {
    for (first, second) in [(0, 0), (1, 0)] {
        let error = verdict(|memory, driver| {
            driver.describe(memory, 0, TEXT, 1, NEXT, first);
            driver.describe(memory, 1, TEXT, 1, NEXT, second);
            driver.offer(memory, 0);
        });
        assert_eq!(error, QueueError::Loop { head: 0 });
    }
}

#[test]
fn descriptors_that_cannot_be_are_refused() {
    let of = |head, flags, next| {
        verdict(move |memory, driver| {
            driver.describe(memory, 0, TEXT, 6, flags, next);
            driver.offer(memory, head);
        })
    };
    assert_eq!(of(8, 0, 0), QueueError::NoDescriptor { index: 8 });
    assert_eq!(of(u16::MAX, 0, 0), QueueError::NoDescriptor { index: u16::MAX });
    assert_eq!(of(0, NEXT, 8), QueueError::NoDescriptor { index: 8 });
    assert_eq!(of(0, WRITE, 0), QueueError::Direction { index: 0 });
    // A table that names itself would be without end as well.
    assert_eq!(of(0, INDIRECT, 0), QueueError::Indirect { index: 0 });
    let (memory, mut driver, mut queue) = pair(Direction::ToGuest);
    driver.describe(&memory, 0, TEXT, 6, 0, 0);
    driver.offer(&memory, 0);
    assert_eq!(queue.take(&memory), Err(QueueError::Direction { index: 0 }));
}

#[test]
fn work_is_bounded() {
    let too_long = verdict(|memory, driver| {
        driver.describe(memory, 0, 0, u32::MAX, NEXT, 1);
        driver.describe(memory, 1, 0, u32::MAX, 0, 0);
        driver.offer(memory, 0);
    });
    assert_eq!(too_long, QueueError::TooLong);
    let jump = verdict(|memory, driver| memory.put(driver.place.available + 2, &[9, 0]));
    assert_eq!(jump, QueueError::Index { from: 0, to: 9 });
}

#[test]
fn a_descriptor_is_read_once() {
    let (memory, mut driver, mut queue) = pair(Direction::ToHost);
    driver.describe(&memory, 0, TEXT, 6, NEXT, 1);
    driver.describe(&memory, 1, TEXT, 6, 0, 0);
    driver.offer(&memory, 0);
    let chain = queue.take(&memory).unwrap().unwrap();
    // The guest changes its mind.
    driver.describe(&memory, 0, 1 << 40, u32::MAX, INDIRECT, 7);
    assert_eq!(chain.read(&memory).map(|bytes| bytes.len()), Ok(12));
    queue.give_back(&chain, 0, &memory).unwrap();
    let reads = memory.reads.borrow();
    let of_table = reads.iter().filter(|(gpa, _)| (RING..RING + 0x80).contains(gpa)).count();
    assert_eq!(of_table, 2);
}

#[test]
fn a_queue_lies_where_it_can() {
    let memory = Memory::new();
    let open = |change: fn(&mut Place)| {
        let mut place = Driver::new(RING, 8).place;
        change(&mut place);
        Queue::open(place, Direction::ToHost, &memory).map(drop).unwrap_err()
    };
    assert_eq!(open(|place| place.size = 0), QueueError::Size { size: 0 });
    assert_eq!(open(|place| place.size = 6), QueueError::Size { size: 6 });
    assert_eq!(open(|place| place.size = 128), QueueError::Size { size: 128 });
    assert_eq!(open(|place| place.size = 1 << 16), QueueError::Size { size: 1 << 16 });
    let odd = |part, gpa| QueueError::Alignment { part, gpa };
    assert_eq!(open(|place| place.table += 8), odd(TABLE, RING + 8));
    assert_eq!(open(|place| place.available += 1), odd(AVAILABLE, RING + 0x801));
    assert_eq!(open(|place| place.used += 2), odd(USED, RING + 0xa02));
}
