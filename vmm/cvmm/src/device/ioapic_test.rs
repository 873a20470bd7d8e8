//! The IOAPIC as a driver uses it, and as it should not.

use super::*;

fn read(chip: &mut IoApic, register: u8) -> u32 {
    chip.write(0, &u32::from(register).to_le_bytes());
    let mut data = [0; 4];
    chip.read(0x10, &mut data);
    u32::from_le_bytes(data)
}

fn write(chip: &mut IoApic, register: u8, value: u32) -> IoApicEffect {
    assert_eq!(chip.write(0, &u32::from(register).to_le_bytes()), IoApicEffect::None);
    chip.write(0x10, &value.to_le_bytes())
}

#[test]
fn a_driver_finds_five_masked_lines() {
    let mut chip = IoApic::default();
    assert_eq!(read(&mut chip, 1), 0x0004_0011);
    assert_eq!(write(&mut chip, 0, u32::MAX), IoApicEffect::None);
    assert_eq!(read(&mut chip, 0), 0x0f00_0000);
    for register in (0x10..0x1a).step_by(2) {
        assert_eq!(read(&mut chip, register), 1 << 16);
    }
    assert_eq!(read(&mut chip, 0x1a), u32::MAX, "there is no sixth line");
    assert!(chip.routes().is_empty());
}

#[test]
fn an_entry_that_is_not_masked_is_a_route() {
    let mut chip = IoApic::default();
    // As Linux does it: destination first, while masked; then the rest.
    assert_eq!(write(&mut chip, 0x19, 3 << 24), IoApicEffect::None);
    assert_eq!(write(&mut chip, 0x18, 0x31), IoApicEffect::Reroute);
    assert_eq!(chip.routes(), [(4, Msi { address: 0xfee0_3000, data: 0x4031 })]);
    assert_eq!(write(&mut chip, 0x18, 0x31), IoApicEffect::None, "nothing new");
    // Logical destination, lowest priority.
    assert_eq!(write(&mut chip, 0x18, 0x931), IoApicEffect::Reroute);
    assert_eq!(chip.routes(), [(4, Msi { address: 0xfee0_3004, data: 0x4131 })]);
    // Level-triggered and active low: the same message.
    assert_eq!(write(&mut chip, 0x18, 0xa931), IoApicEffect::None);
    assert_eq!(read(&mut chip, 0x18), 0xa931);
    assert_eq!(write(&mut chip, 0x18, 0x1_0031), IoApicEffect::Reroute);
    assert!(chip.routes().is_empty());
}

#[test]
fn what_cannot_be_a_message_is_no_route() {
    let mut chip = IoApic::default();
    for low in [0x231, 0x431, 0x531, 0x731, 0x0f, 0] {
        write(&mut chip, 0x10, low);
        assert!(chip.routes().is_empty(), "{low:#x}");
    }
    // Status bits cannot be set by software.
    write(&mut chip, 0x10, u32::MAX);
    assert_eq!(read(&mut chip, 0x10), 0x1_afff);
}

#[test]
fn odd_sizes_and_places_change_nothing() {
    let mut chip = IoApic::default();
    write(&mut chip, 0x10, 0x31);
    let before = chip.routes();
    chip.write(0, &[0x10]);
    chip.write(0x10, &[0xff; 8]);
    chip.write(0x40, &[0; 4]);
    chip.write(0xfff, &[0; 4]);
    assert_eq!(chip.routes(), before);
    let mut data = [0; 8];
    chip.read(0x10, &mut data);
    assert_eq!(data, [0xff; 8]);
    chip.read(0x20, &mut data[..4]);
    assert_eq!(data, [0xff; 8]);
}
