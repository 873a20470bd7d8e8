//! The chipset as OVMF sets it up.

use super::*;

fn select(bridge: &mut HostBridge, device: u32, function: u32, register: u32) {
    let address = ENABLE | device << 11 | function << 8 | register;
    bridge.write(ADDRESS_PORT, &address.to_le_bytes());
}

fn read<const N: usize>(bridge: &mut HostBridge, port: u16) -> [u8; N] {
    let mut data = [0xff; N];
    bridge.read(port, &mut data);
    data
}

/// What edk2 OvmfPkg/Library/PlatformInitLib/Platform.c does.
fn set_up(bridge: &mut HostBridge) {
    select(bridge, 1, 3, 0x40);
    bridge.write(DATA_PORT, &0xb001u32.to_le_bytes());
    select(bridge, 1, 3, 0x04);
    bridge.write(DATA_PORT, &[1]);
    select(bridge, 1, 3, 0x80);
    bridge.write(DATA_PORT, &[1]);
}

#[test]
fn three_functions_are_there_and_no_other() {
    let mut bridge = HostBridge::default();
    let mut id = |device, function| {
        select(&mut bridge, device, function, 0);
        u32::from_le_bytes(read(&mut bridge, DATA_PORT))
    };
    assert_eq!((id(0, 0), id(1, 0), id(1, 3)), (0x1237_8086, 0x7000_8086, 0x7113_8086));
    for (device, function) in [(0, 1), (1, 1), (2, 0), (31, 7)] {
        assert_eq!(id(device, function), u32::MAX);
    }
    select(&mut bridge, 0, 0, 0);
    assert_eq!(read(&mut bridge, DATA_PORT + 2), [0x37, 0x12]);
    assert_eq!(read(&mut bridge, DATA_PORT + 3), [0xff; 2], "beyond the register");
    bridge.write(ADDRESS_PORT, &0u32.to_le_bytes());
    assert_eq!(read(&mut bridge, DATA_PORT), [0xff; 4], "not enabled");
    assert_eq!(read(&mut bridge, ADDRESS_PORT), [0; 4]);
}

#[test]
fn only_what_is_a_register_keeps_what_is_written() {
    let mut bridge = HostBridge::default();
    for register in (0..0x100).step_by(4) {
        select(&mut bridge, 1, 3, register);
        let before: [u8; 4] = read(&mut bridge, DATA_PORT);
        bridge.write(DATA_PORT, &[0xff; 4]);
        let after: [u8; 4] = read(&mut bridge, DATA_PORT);
        let changed: Vec<u8> = before.iter().zip(after).map(|(a, b)| a ^ b).collect();
        let expected = match register {
            0x04 => [7, 0, 0, 0],
            0x40 => [0xc0, 0xff, 0, 0],
            0x80 => [1, 0, 0, 0],
            _ => [0; 4],
        };
        assert_eq!(changed, expected, "{register:#x}");
    }
}

#[test]
fn the_timer_is_where_it_was_put_and_runs_with_the_guests_clock() {
    let mut bridge = HostBridge::default();
    assert!(!bridge.claims(0xb008), "nobody has enabled it");
    set_up(&mut bridge);
    assert!(bridge.claims(0xb008) && bridge.reads_clock(0xb008) && !bridge.reads_clock(0xb004));
    let mut at = |ns| {
        bridge.set_clock(ns);
        u32::from_le_bytes(read(&mut bridge, 0xb008))
    };
    assert_eq!(at(0), 0);
    assert_eq!(at(1_000_000_000), 3_579_545);
    assert_eq!(at(10_000_000_000), 35_795_450 & 0xff_ffff);
    assert!(!bridge.claims(0xb009) && !bridge.claims(0xafff));
}

#[test]
fn power_off_and_reset_are_understood() {
    let mut bridge = HostBridge::default();
    set_up(&mut bridge);
    assert_eq!(bridge.write(0xb004, &0u16.to_le_bytes()), None);
    assert_eq!(bridge.write(0xb004, &(1u16 << 13 | 5 << 10).to_le_bytes()), None);
    assert_eq!(bridge.write(0xb004, &[0]), None);
    assert_eq!(bridge.write(0xb004, &(1u16 << 13).to_le_bytes()), Some(PowerRequest::Off));
    assert_eq!(bridge.write(RESET_PORT, &[2]), None);
    assert_eq!(bridge.write(RESET_PORT, &[6]), Some(PowerRequest::Reset));
}
