//! What each port means.

use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::device::output::Sink;

fn bus() -> PortBus {
    let com1 = Com1::new(EventFd::new(0).unwrap());
    PortBus::new(Some(com1), ConsoleOutput::new(Sink::Nowhere))
}

fn outs(bus: &mut PortBus, writes: &[(u16, u8)]) -> PortEffect {
    writes.iter().fold(PortEffect::None, |_, (port, value)| bus.write(*port, &[*value]))
}

#[test]
fn every_way_to_stop_is_understood() {
    let reset = PortEffect::Power(PowerRequest::Reset);
    assert_eq!(outs(&mut bus(), &[(0x600, 0x34)]), PortEffect::Power(PowerRequest::Off));
    assert_eq!(outs(&mut bus(), &[(0x602, 1)]), reset);
    assert_eq!(outs(&mut bus(), &[(0x64, 0xfe)]), reset);
    // Through the BIOS, as Linux announces it.
    assert_eq!(outs(&mut bus(), &[(0x70, 0x8f), (0x71, 0)]), reset);
}

#[test]
fn what_merely_looks_like_it_is_not() {
    for writes in [
        // Another sleep type; a sleep type without "enable"; a status write.
        &[(0x600, 0x20)][..],
        &[(0x600, 0x14)],
        &[(0x601, 0x34)],
        &[(0x602, 0)],
        &[(0x64, 0xd1)],
        // Starting a processor: shutdown code 0xa, then 0, NMIs on.
        &[(0x70, 0xf), (0x71, 0xa), (0x70, 0xf), (0x71, 0)],
    ] {
        assert_eq!(outs(&mut bus(), writes), PortEffect::None, "{writes:x?}");
    }
}

#[test]
fn marks_are_32_bit_writes() {
    let mut bus = bus();
    assert_eq!(bus.write(0xf4, &[1, 0, 0, 0x42]), PortEffect::Mark(0x4200_0001));
    assert_eq!(bus.write(0xf4, &[1, 0]), PortEffect::None);
    assert_eq!(bus.strays(), [StrayAccess { port: 0xf4, reads: 0, writes: 1 }]);
}

#[test]
fn records_come_by_port_and_by_console_and_are_no_marks() {
    let mut bus = bus();
    let record = abi::records::Record { kind: abi::records::RecordKind(3), bytes: b"a record" };
    for mark in record.as_marks() {
        assert_eq!(bus.write(0xf4, &mark.0.to_le_bytes()), PortEffect::None);
    }
    let (text, len) = record.on_console();
    for byte in &text[..len] {
        assert_eq!(bus.write(0x3f8, &[*byte]), PortEffect::None);
    }
    assert_eq!(bus.output.written(), 0);
    let (records, counts) = bus.records.finished();
    assert_eq!((counts.received, counts.damaged), (2, 0));
    assert_eq!(records[0], records[1]);
    assert_eq!(records[0].bytes, b"a record");
}

#[test]
fn an_empty_bus_floats_and_counting_is_bounded() {
    let mut bus = bus();
    for port in 0x1000..0x2000 {
        let mut data = [0; 4];
        bus.read(port, &mut data);
        assert_eq!(data, [0xff; 4]);
    }
    assert_eq!(bus.strays().len(), 64);
    assert_eq!(bus.strays().iter().map(|s| s.reads).sum::<u64>(), 0x1000);
}

#[test]
fn a_timer_and_a_clock_that_are_not_there_do_not_make_a_kernel_wait() {
    let mut bus = bus();
    for port in [0x42, 0x71] {
        let mut data = [0x55];
        bus.read(port, &mut data);
        assert_eq!(data, [0], "{port:#x}");
    }
    assert_eq!(bus.strays().iter().map(|s| s.reads).sum::<u64>(), 2);
}
