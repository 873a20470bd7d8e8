//! What another implementation packs is unpacked; what nobody packs ends the guest, and nothing outside of the room changes.

use abi::shim::{Extent, KernelKind, LoadMode, PAGE, ParameterPage, Technology, Termination};

use crate::lz4::unpack;
use crate::mock::{Guest, INITRD, KERNEL_LOAD, MEMORY, Mock, PACKED};
use crate::platform::Platform;
use crate::range::Range;
use crate::run_test::elf;

const ROOM: u64 = 0x110_0000;

/// A legacy frame of these blocks, and a length behind it.
fn frame(blocks: &[Vec<u8>], len: usize) -> Vec<u8> {
    let mut frame = 0x184C_2102_u32.to_le_bytes().to_vec();
    for block in blocks {
        frame.extend((block.len() as u32).to_le_bytes());
        frame.extend(block);
    }
    frame.extend((len as u32).to_le_bytes());
    frame
}

fn pack(bytes: &[u8], block: usize) -> Vec<u8> {
    let blocks: Vec<Vec<u8>> = bytes.chunks(block).map(lz4_flex::block::compress).collect();
    frame(&blocks, bytes.len())
}

/// Unpacks between bytes that must stay as they are.
fn unpacked(packed: &[u8], len: u64) -> Option<Vec<u8>> {
    let mut mock = Mock::new(Technology::PLAIN);
    mock.bytes_mut(ROOM - PAGE, len + 2 * PAGE).fill(0xA5);
    mock.write(PACKED, packed);
    let packed = Range { start: PACKED, end: PACKED + packed.len() as u64 };
    let outcome = unpack(&mut mock, packed, Range { start: ROOM, end: ROOM + len });
    for around in [ROOM - PAGE, ROOM + len] {
        assert!(mock.bytes(around, PAGE).iter().all(|byte| *byte == 0xA5));
    }
    outcome.map(|()| mock.bytes(ROOM, len).to_vec())
}

/// Numbers without a pattern (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    /// Bytes in which things come back: at every distance, for short and for long.
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::new();
        while bytes.len() < len {
            let run = self.below(40) * if self.below(20) == 0 { 50 } else { 1 };
            let distance = match self.below(3) {
                0 => None,
                1 => Some(1 + self.below(12)),
                _ => Some(1 + self.below(70_000)),
            };
            for _ in 0..run {
                let back = distance.and_then(|back| bytes.len().checked_sub(back as usize));
                let byte = back.map_or_else(|| self.below(256) as u8, |at| bytes[at]);
                bytes.push(byte);
            }
        }
        bytes.truncate(len);
        bytes
    }
}

#[test]
fn what_another_implementation_packs_is_unpacked() {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for round in 0..400 {
        let len = 1 + random.below(if round % 8 == 0 { 200_000 } else { 3000 });
        let bytes = random.bytes(len as usize);
        let block = 1 + random.below(len) as usize;
        let packed = pack(&bytes, block.max(100));
        assert!(unpacked(&packed, len).as_ref() == Some(&bytes), "round {round}");
    }
    for bytes in [vec![0; 100_000], b"abc".repeat(9000), (0..=255).collect()] {
        assert!(unpacked(&pack(&bytes, 8 << 20), bytes.len() as u64) == Some(bytes));
    }
}

#[test]
fn every_truncation_and_every_other_length_is_refused() {
    let bytes = Random(7).bytes(700);
    let packed = pack(&bytes, 300);
    for len in 0..packed.len() {
        assert_eq!(unpacked(&packed[..len], 700), None, "{len}");
    }
    for len in [0, 1, 299, 300, 699, 701, 4000] {
        assert_eq!(unpacked(&packed, len), None, "{len}");
    }
}

#[test]
fn lies_are_refused() {
    let token = |literals: u8, copied: u8| literals << 4 | copied;
    let block = |block: &[u8], len| unpacked(&frame(&[block.to_vec()], len), len as u64);
    let good = [token(4, 0), 1, 2, 3, 4, 4, 0, token(1, 0), 9];
    assert_eq!(block(&good, 9), Some(vec![1, 2, 3, 4, 1, 2, 3, 4, 9]));
    let cases: [(&str, &[u8], usize); 9] = [
        ("no sequence", &[], 0),
        ("literals beyond the end", &[token(5, 0), 1, 2, 3, 4], 5),
        ("literals beyond the room", &[token(4, 0), 1, 2, 3, 4], 3),
        ("half an offset", &[token(4, 0), 1, 2, 3, 4, 4], 8),
        ("offset 0", &[token(4, 0), 1, 2, 3, 4, 0, 0, token(1, 0), 9], 9),
        ("before the start", &[token(4, 0), 1, 2, 3, 4, 5, 0, token(1, 0), 9], 9),
        ("a match beyond the room", &[token(4, 0), 1, 2, 3, 4, 4, 0, token(1, 0), 9], 7),
        ("a length without end", &[token(4, 15), 1, 2, 3, 4, 4, 0, 255, 255], 5000),
        ("ends with a match", &[token(4, 0), 1, 2, 3, 4, 4, 0], 8),
    ];
    for (name, bytes, len) in cases {
        assert_eq!(block(bytes, len), None, "{name}");
    }
    // A block does not see what the one before it has unpacked.
    let two = [vec![token(4, 0), 1, 2, 3, 4], vec![token(0, 0), 4, 0, token(1, 0), 9]];
    assert_eq!(unpacked(&frame(&two, 9), 9), None);
    let mut packed = pack(&[1; 100], 100);
    for (at, name) in [(0, "magic"), (7, "length of a block")] {
        packed[at] ^= 0x80;
        assert_eq!(unpacked(&packed, 100), None, "{name}");
        packed[at] ^= 0x80;
    }
    let short: [&[u8]; 3] = [&[2], &[2, 0x21, 0x4C], &[2, 0x21, 0x4C, 0x18]];
    for bytes in short {
        assert_eq!(unpacked(bytes, 0), None);
    }
}

#[test]
fn damage_does_no_harm() {
    let mut random = Random(99);
    for _ in 0..3000 {
        let len = 1 + random.below(600);
        let mut packed = pack(&random.bytes(len as usize), 1 + random.below(600) as usize);
        for _ in 0..=random.below(3) {
            let at = random.below(packed.len() as u64) as usize;
            packed[at] = random.below(256) as u8;
        }
        unpacked(&packed, len);
    }
}

/// A guest whose kernel is this ELF file, packed.
fn guest(technology: Technology, load: LoadMode, file: &[u8], room: Extent) -> Guest {
    let mut guest = Guest::new(technology, load, KernelKind::LZ4, &pack(file, 4096));
    guest.params.unpacked = room;
    guest
}

#[test]
fn a_packed_kernel_is_entered_as_if_it_were_not() {
    let mut file = elf(KERNEL_LOAD, KERNEL_LOAD + 0x100, 0x1000);
    // As relocations do.
    file.extend([7; 100]);
    let room = Extent { addr: ROOM, size: file.len() as u64 };
    for technology in [Technology::PLAIN, Technology::SNP, Technology::TDX] {
        for load in [LoadMode::HASHED, LoadMode::MEASURED] {
            let mut guest = guest(technology, load, &file, room);
            assert_eq!(guest.run(), Ok(KERNEL_LOAD + 0x100));
            assert!(guest.mock.bytes(KERNEL_LOAD, 0x1800).iter().all(|byte| *byte == 0xC3));
            assert!(guest.mock.bytes(KERNEL_LOAD + 0x1800, 0x3800).iter().all(|byte| *byte == 0));
        }
    }
    let shorter = Extent { size: room.size - 1, ..room };
    let mut short = guest(Technology::SNP, LoadMode::HASHED, &file, shorter);
    assert_eq!(short.run(), Err(Termination::BAD_LZ4));
    // Unpacked, it is an ELF file like others.
    let file = elf(KERNEL_LOAD, KERNEL_LOAD + 0x5000, 0x1000);
    let mut strange =
        guest(Technology::SNP, LoadMode::HASHED, &file, Extent { addr: ROOM, size: 0x3000 });
    assert_eq!(strange.run(), Err(Termination::BAD_ELF));
    // What is hashed is what waits, packed.
    let mut changed =
        guest(Technology::SNP, LoadMode::HASHED, &file, Extent { addr: ROOM, size: 0x3000 });
    let at = changed.params.kernel.staging + 9;
    changed.mock.bytes_mut(at, 1)[0] ^= 1;
    assert_eq!(changed.run(), Err(Termination::KERNEL_HASH));
}

#[test]
fn the_room_is_ram_that_nothing_else_is_in() {
    type Change = fn(&mut ParameterPage);
    let file = elf(KERNEL_LOAD, KERNEL_LOAD, 0x1000);
    let cases: [(Change, Termination); 9] = [
        (|p| p.unpacked = Extent::UNUSED, Termination::BAD_PARAMETER),
        (|p| p.kernel_kind = KernelKind::ELF, Termination::BAD_PARAMETER),
        (|p| p.unpacked.addr = PACKED, Termination::BAD_RANGE),
        (|p| p.unpacked.addr = INITRD - 0x1000, Termination::BAD_RANGE),
        (|p| p.unpacked.addr = p.kernel.staging, Termination::BAD_RANGE),
        (|p| p.unpacked.addr = p.second_stage, Termination::BAD_RANGE),
        (|p| p.unpacked.addr = MEMORY - 0x2000, Termination::BAD_RANGE),
        (|p| p.unpacked.size = u64::MAX, Termination::BAD_RANGE),
        (|p| p.unpacked.addr = 0x1_0000, Termination::BAD_RANGE),
    ];
    for (index, (change, expected)) in cases.into_iter().enumerate() {
        let room = Extent { addr: ROOM, size: 0x3000 };
        let mut guest = guest(Technology::SNP, LoadMode::HASHED, &file, room);
        assert_eq!(guest.check(), Ok(()));
        change(&mut guest.params);
        assert_eq!(guest.run(), Err(expected), "case {index}");
    }
    let mut lazy =
        guest(Technology::SNP, LoadMode::HASHED, &file, Extent { addr: ROOM, size: 0x3000 });
    let units = |addr, size| Extent { addr, size };
    lazy.params.accepted[0] = units(0, 2 << 20);
    lazy.params.accepted[1] = units(0x100_0000, 0x200_0000);
    assert_eq!(lazy.check(), Ok(()));
    lazy.params.accepted[1] = units(0x120_0000, 0x1E0_0000);
    assert_eq!(lazy.check(), Err(Termination::BAD_ACCEPTED));
}
