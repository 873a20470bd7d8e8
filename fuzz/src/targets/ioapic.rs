//! A guest that programs cvmm's IOAPIC at random.

use cvmm::device::ioapic::{IoApic, IoApicEffect, PINS};

use super::Target;

/// Makes accesses and compares every answer with what was written.
pub const TARGET: Target = Target { name: "ioapic", seeds, max_len: 64 * RECORD, run };

/// Bytes for one access: what it does, where, four or eight bytes of data.
const RECORD: usize = 6;
/// What software can set of a redirection entry's lower half (82093AA datasheet, 3.2.4).
const LOW: u32 = 0x0001_afff;
/// And of its upper half.
const HIGH: u32 = 0xff00_0000;

fn seeds() -> Vec<Vec<u8>> {
    let select = |register: u8| [1, 0, register, 0, 0, 0];
    let write = |value: u32| [&[1, 0x10][..], &value.to_le_bytes()].concat();
    vec![
        // Pin 4 to vector 0x31 of processor 3, read back, masked again.
        [
            &select(0x19)[..],
            &write(3 << 24),
            &select(0x18),
            &write(0x931),
            &[0, 0x10, 0, 0, 0, 0],
            &write(0x1_0031),
        ]
        .concat(),
        [&select(0)[..], &write(!0), &[0, 0x10, 0, 0, 0, 0], &[2, 0x10, 0, 0, 0, 0]].concat(),
    ]
}

fn run(input: &[u8]) {
    let mut chip = IoApic::default();
    // Registers as a table: identification, then lower and upper half of each entry.
    let (mut select, mut id, mut table) = (0_u8, 0_u32, [[1 << 16, 0_u32]; PINS as usize]);
    for record in input.chunks_exact(RECORD) {
        let [action, offset, ref value @ ..] = *record else { return };
        let value = <[u8; 4]>::try_from(value).unwrap_or_default();
        let offset = u64::from(offset);
        let word = u32::from_le_bytes(value);
        let entry = usize::from(select).wrapping_sub(0x10);
        let routes = chip.routes();
        match action % 4 {
            0 => {
                let mut data = [0; 4];
                chip.read(offset, &mut data);
                let expected = match (offset, select) {
                    (0, _) => u32::from(select),
                    (0x10, 0 | 2) => id,
                    (0x10, 1) => (PINS - 1) << 16 | 0x11,
                    (0x10, _) => table.as_flattened().get(entry).copied().unwrap_or(!0),
                    _ => !0,
                };
                assert_eq!(u32::from_le_bytes(data), expected, "read of {offset:#x}, {select:#x}");
            }
            1 => {
                let effect = chip.write(offset, &value);
                match (offset, select) {
                    (0, _) => select = value[0],
                    (0x10, 0) => id = word & 0x0f00_0000,
                    (0x10, _) => {
                        if let Some(half) = table.as_flattened_mut().get_mut(entry) {
                            *half = word & if entry % 2 == 0 { LOW } else { HIGH };
                        }
                    }
                    _ => {}
                }
                let changed = chip.routes() != routes;
                assert_eq!(effect == IoApicEffect::Reroute, changed, "KVM is told when it must be");
            }
            // Other widths read as nothing and write nothing.
            2 => {
                let mut data = [0; 8];
                let len = [1, 2, 3, 8][usize::from(value[0] % 4)];
                chip.read(offset, &mut data[..len]);
                assert_eq!(data[..len], [0xff; 8][..len]);
            }
            _ => {
                let len = [0, 1, 2, 3][usize::from(value[0] % 4)];
                assert_eq!(chip.write(offset, &value[..len]), IoApicEffect::None);
                assert_eq!(chip.routes(), routes);
            }
        }
    }
    judge(&chip, &table);
}

/// Every route is an entry that is not masked and can be a device's, and no such entry is without its route.
fn judge(chip: &IoApic, table: &[[u32; 2]; PINS as usize]) {
    let mut routes = chip.routes().into_iter().peekable();
    for (pin, &[low, high]) in (0..).zip(table) {
        let leads = low & 1 << 16 == 0 && low & 0x600 == 0 && low & 0xff >= 16;
        let route = routes.next_if(|(at, _)| *at == pin).map(|(_, message)| message);
        assert_eq!(route.is_some(), leads, "pin {pin}: {low:#x}");
        if let Some(message) = route {
            let logical = low >> 11 & 1;
            assert_eq!(message.address, 0xfee0_0000 | high >> 24 << 12 | logical << 2);
            assert_eq!(message.data & 0x7ff, low & 0x7ff);
            assert_eq!(message.data & 1 << 15, 0, "edge-triggered");
        }
    }
    assert_eq!(routes.next(), None);
}
