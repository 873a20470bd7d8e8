//! Behaviour of one local APIC.

use super::*;

const FEATURES: ApicFeatures = ApicFeatures { x2apic: true, tsc_deadline: true, phys_bits: 48 };
const BASE: TimeBase = TimeBase::GHZ;

fn at(ns: u64) -> Now {
    BASE.at(ns)
}

/// A software-enabled xAPIC.
fn xapic(id: u32) -> Lapic {
    let mut apic = Lapic::new(id, id == 0, false, 1);
    apic.set_features(FEATURES);
    apic.mmio_write(reg::SPIV, 4, 0x1ff, at(0));
    apic
}

/// A software-enabled x2APIC.
fn x2apic(id: u32) -> Lapic {
    let mut apic = xapic(id);
    apic.set_base(apic.base() | BASE_X2APIC, false).expect("legal");
    apic
}

fn fixed(vector: u8, level: bool) -> Interrupt {
    Interrupt::from_icr(u32::from(vector) | 1 << 14 | u32::from(level) << 15, 0)
}

#[test]
fn power_up_values() {
    let mut apic = Lapic::new(3, false, false, 1);
    let values = [
        (reg::ID, 0x0300_0000),
        (reg::VERSION, 0x0005_0014),
        (reg::TPR, 0),
        (reg::PPR, 0),
        (reg::LDR, 0),
        (reg::DFR, 0xffff_ffff),
        (reg::SPIV, 0xff),
        (reg::ESR, 0),
        (reg::ICR, 0),
        (reg::ICR2, 0),
        (reg::LVT_TIMER, 0x1_0000),
        (reg::LVT_THERMAL, 0x1_0000),
        (reg::LVT_PERF, 0x1_0000),
        (reg::LVT_LINT0, 0x1_0000),
        (reg::LVT_LINT1, 0x1_0000),
        (reg::LVT_ERROR, 0x1_0000),
        (reg::TMICT, 0),
        (reg::TMCCT, 0),
        (reg::TDCR, 0),
    ];
    for (offset, value) in values {
        assert_eq!(apic.mmio_read(offset, 4, at(0)), value, "{offset:#x}");
    }
    assert_eq!(apic.base(), 0xfee0_0800);
    let mut bsp = Lapic::new(0, true, false, 1);
    assert_eq!(bsp.base(), 0xfee0_0900);
    assert_eq!(bsp.mmio_read(reg::LVT_LINT0, 4, at(0)), 0x700);
}

#[test]
fn writable_bits() {
    let mut apic = xapic(0);
    let values = [
        (reg::ID, 0xff00_0000),
        (reg::TPR, 0xff),
        (reg::LDR, 0xff00_0000),
        (reg::DFR, 0xffff_ffff),
        (reg::SPIV, 0x3ff),
        (reg::ICR2, 0xff00_0000),
        (reg::LVT_TIMER, 0x7_10ff),
        (reg::LVT_THERMAL, 0x1_17ff),
        (reg::LVT_PERF, 0x1_17ff),
        (reg::LVT_LINT0, 0x1_f7ff),
        (reg::LVT_LINT1, 0x1_f7ff),
        (reg::LVT_ERROR, 0x1_10ff),
        (reg::TDCR, 0xb),
        (reg::ISR, 0),
        (reg::ESR, 0),
    ];
    for (offset, value) in values {
        apic.mmio_write(offset, 4, 0xffff_ffff, at(0));
        assert_eq!(apic.mmio_read(offset, 4, at(0)), value, "{offset:#x}");
    }
}

#[test]
fn only_aligned_words_are_written_and_narrow_reads_see_their_bytes() {
    let mut apic = xapic(5);
    apic.mmio_write(reg::TPR, 1, 0x55, at(0));
    apic.mmio_write(reg::TPR + 4, 4, 0x55, at(0));
    assert_eq!(apic.mmio_read(reg::TPR, 4, at(0)), 0);
    assert_eq!(apic.mmio_read(reg::ID + 3, 1, at(0)), 5);
    assert_eq!(apic.mmio_read(reg::ID + 3, 2, at(0)), 0);
}

#[test]
fn software_disable_masks_the_local_vectors_and_stops_delivery() {
    let mut apic = xapic(0);
    apic.mmio_write(reg::LVT_ERROR, 4, 0xfe, at(0));
    apic.mmio_write(reg::SPIV, 4, 0xff, at(0));
    assert_eq!(apic.mmio_read(reg::LVT_ERROR, 4, at(0)), 0x1_00fe);
    apic.mmio_write(reg::LVT_ERROR, 4, 0xfe, at(0));
    assert_eq!(apic.mmio_read(reg::LVT_ERROR, 4, at(0)), 0x1_00fe);
    assert_eq!(apic.accept(&fixed(0x40, false)), Accepted::Ignored);
    assert_eq!(apic.accept(&Interrupt::from_icr(0x4400, 0)), Accepted::Nmi);
}

#[test]
fn priorities_decide_what_is_deliverable() {
    // (TPR, in service, requested) -> (PPR, deliverable)
    let rows: [(u8, u8, u8, u8, Option<u8>); 7] = [
        (0x00, 0, 0x31, 0x00, Some(0x31)),
        (0x30, 0, 0x31, 0x30, None),
        (0x2f, 0, 0x31, 0x2f, Some(0x31)),
        (0x00, 0x31, 0x3f, 0x30, None),
        (0x00, 0x31, 0x40, 0x30, Some(0x40)),
        (0x45, 0x31, 0x50, 0x45, Some(0x50)),
        (0x35, 0x38, 0x40, 0x35, Some(0x40)),
    ];
    for (tpr, isr, irr, ppr, deliverable) in rows {
        let mut apic = xapic(0);
        if isr != 0 {
            apic.accept(&fixed(isr, false));
            assert_eq!(apic.acknowledge(), Some(isr));
        }
        apic.mmio_write(reg::TPR, 4, tpr.into(), at(0));
        apic.accept(&fixed(irr, false));
        assert_eq!(apic.mmio_read(reg::PPR, 4, at(0)), u64::from(ppr), "{tpr:#x} {isr:#x}");
        assert_eq!(apic.pending(), deliverable, "{tpr:#x} {isr:#x} {irr:#x}");
    }
}

#[test]
fn eoi_ends_the_highest_vector_and_tells_its_trigger_mode() {
    let mut apic = xapic(0);
    for (vector, level) in [(0x31, false), (0x52, true)] {
        assert_eq!(apic.accept(&fixed(vector, level)), Accepted::Pending);
        assert_eq!(apic.accept(&fixed(vector, level)), Accepted::Coalesced);
        assert_eq!(apic.acknowledge(), Some(vector));
    }
    for (vector, level) in [(0x52, true), (0x31, false)] {
        let effect = apic.mmio_write(reg::EOI, 4, 0, at(0));
        assert_eq!(effect, Effect::Eoi { vector, level, directed: false });
    }
    assert_eq!(apic.mmio_write(reg::EOI, 4, 0, at(0)), Effect::None);
}

#[test]
fn cr8_is_the_task_priority() {
    let mut apic = xapic(0);
    apic.set_cr8(0xa);
    assert_eq!(apic.mmio_read(reg::TPR, 4, at(0)), 0xa0);
    apic.mmio_write(reg::TPR, 4, 0x57, at(0));
    assert_eq!(apic.cr8(), 5);
}

#[test]
fn destinations() {
    let mut flat = xapic(2);
    flat.mmio_write(reg::LDR, 4, 0x0400_0000, at(0));
    let mut cluster = flat.clone();
    cluster.mmio_write(reg::DFR, 4, 0x0fff_ffff, at(0));
    cluster.mmio_write(reg::LDR, 4, 0x1400_0000, at(0));
    let wide = x2apic(0x112);
    let logical = |dest| Interrupt { logical: true, dest, ..fixed(0x40, false) };
    let physical = |dest| Interrupt { dest, ..fixed(0x40, false) };
    let rows = [
        (&flat, physical(2), true),
        (&flat, physical(3), false),
        (&flat, physical(0xff), true),
        (&flat, logical(0x06), true),
        (&flat, logical(0x0b), false),
        (&cluster, logical(0x1c), true),
        (&cluster, logical(0x2c), false),
        (&cluster, logical(0x13), false),
        (&wide, physical(0x112), true),
        (&wide, physical(0x12), false),
        (&wide, physical(0xffff_ffff), true),
        (&wide, physical(0xff), true),
        (&wide, logical(0x0011_0004), true),
        (&wide, logical(0x0011_0008), false),
        (&wide, logical(0x0010_0004), false),
    ];
    for (apic, irq, hit) in rows {
        assert_eq!(apic.matches(&irq, None), hit, "{irq:?}");
    }
    // From a processor, 0xff is no broadcast in x2APIC mode.
    assert!(!wide.matches(&physical(0xff), Some(0)));
    let short = |bits: u32| Interrupt::from_icr(0x4040 | bits << 18, 0);
    for (shorthand, own, other) in [(1, true, false), (2, true, true), (3, false, true)] {
        assert_eq!(flat.matches(&short(shorthand), Some(2)), own);
        assert_eq!(flat.matches(&short(shorthand), Some(7)), other);
    }
}

#[test]
fn the_command_register_sends_what_it_says() {
    let mut apic = xapic(0);
    apic.mmio_write(reg::ICR2, 4, 0x0300_0000, at(0));
    let effect = apic.mmio_write(reg::ICR, 4, 0x4608 | 1 << 12, at(0));
    let Effect::Ipi(irq) = effect else { panic!("{effect:?}") };
    assert_eq!((irq.delivery, irq.vector, irq.dest), (Delivery::STARTUP, 8, 3));
    assert_eq!(apic.mmio_read(reg::ICR, 4, at(0)), 0x4608, "never busy");

    let mut apic = x2apic(0);
    let effect = apic.msr_write(0x830, 0x0001_0203_0000_4500, at(0));
    let Ok(Effect::Ipi(irq)) = effect else { panic!("{effect:?}") };
    assert_eq!((irq.delivery, irq.dest), (Delivery::INIT, 0x0001_0203));
    assert_eq!(apic.msr_read(0x830, at(0)), Ok(0x0001_0203_0000_4500));
    let effect = apic.msr_write(0x83f, 0x77, at(0));
    let Ok(Effect::Ipi(irq)) = effect else { panic!("{effect:?}") };
    assert_eq!((irq.shorthand, irq.vector), (Shorthand::Myself, 0x77));
}

#[test]
fn message_kinds() {
    let mut apic = xapic(0);
    let rows = [
        (0x4040, Accepted::Pending),
        (0x4141, Accepted::Pending),
        (0xc042, Accepted::Pending),
        (0x8043, Accepted::Ignored),
        (0x4200, Accepted::Smi),
        (0x4300, Accepted::Kick),
        (0x4400, Accepted::Nmi),
        (0x4500, Accepted::Init),
        (0xc500, Accepted::Init),
        (0x8500, Accepted::Ignored),
        (0x4612, Accepted::Sipi(0x12)),
        (0x4700, Accepted::Ignored),
    ];
    for (icr, accepted) in rows {
        assert_eq!(apic.accept(&Interrupt::from_icr(icr, 0)), accepted, "{icr:#x}");
    }
}

#[test]
fn base_transitions() {
    let both = BASE_ENABLE | BASE_X2APIC;
    let plain = DEFAULT_BASE;
    let rows = [
        // (from, to, guest may, host may)
        (plain | BASE_ENABLE, plain | both, true, true),
        (plain | both, plain | BASE_ENABLE, false, true),
        (plain | both, plain, true, true),
        (plain, plain | both, false, true),
        (plain, plain | BASE_ENABLE, true, true),
        (plain | BASE_ENABLE, plain | BASE_X2APIC, false, false),
        (plain | BASE_ENABLE, plain | BASE_ENABLE | 1, false, false),
        (plain | BASE_ENABLE, plain | BASE_ENABLE | 1 << 9, false, false),
        (plain | BASE_ENABLE, plain | BASE_ENABLE | 1 << 48, false, false),
        (plain | BASE_ENABLE, 0xfed0_0000 | BASE_ENABLE, true, true),
    ];
    for (from, to, guest, host) in rows {
        assert_eq!(check_base(from, to, FEATURES, false).is_ok(), guest, "{from:#x} {to:#x}");
        assert_eq!(check_base(from, to, FEATURES, true).is_ok(), host, "{from:#x} {to:#x}");
    }
    let none = ApicFeatures { x2apic: false, ..FEATURES };
    assert!(check_base(plain | BASE_ENABLE, plain | both, none, true).is_err());
}

#[test]
fn x2apic_mode_changes_the_registers() {
    let mut apic = x2apic(0x25);
    assert_eq!(apic.msr_read(0x802, at(0)), Ok(0x25));
    assert_eq!(apic.msr_read(0x80d, at(0)), Ok(0x0002_0020));
    let refused_writes = [
        (0x802, 1),
        (0x80d, 1),
        (0x80e, 0),
        (0x803, 0),
        (0x80a, 0),
        (0x810, 0),
        (0x828, 1),
        (0x831, 0),
        (0x830, 1 << 20),
        (0x830, 1 << 13),
        (0x808, 1 << 32),
        (0x83f, 0x100),
        (0x839, 0),
        (0x840, 0),
        (0x8ff, 0),
    ];
    for (index, value) in refused_writes {
        assert_eq!(apic.msr_write(index, value, at(0)), Err(Refused), "{index:#x}");
    }
    for index in [0x809, 0x80b, 0x80e, 0x831, 0x83f, 0x840] {
        assert_eq!(apic.msr_read(index, at(0)), Err(Refused), "{index:#x}");
    }
    for index in [0x828, 0x80b] {
        assert_eq!(apic.msr_write(index, 0, at(0)), Ok(Effect::None), "{index:#x}");
    }
    assert_eq!(apic.mmio_read(reg::ID, 4, at(0)), 0xffff_ffff, "the page is a hole");
    assert_eq!(xapic(0).msr_read(0x802, at(0)), Err(Refused));
}

#[test]
fn the_divider_and_the_count() {
    let dividers = [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)];
    for (tdcr, divisor) in dividers {
        let mut apic = xapic(0);
        apic.mmio_write(reg::LVT_TIMER, 4, 0xec, at(0));
        apic.mmio_write(reg::TDCR, 4, tdcr, at(0));
        apic.mmio_write(reg::TMICT, 4, 1000, at(100));
        assert_eq!(apic.next_event(&BASE), Some(100 + 1000 * divisor), "{tdcr}");
        assert_eq!(apic.mmio_read(reg::TMCCT, 4, at(100 + 250 * divisor)), 750);
        assert!(!apic.advance(at(99 + 1000 * divisor)));
        assert!(apic.advance(at(100 + 1000 * divisor)));
        assert_eq!(apic.acknowledge(), Some(0xec));
        assert_eq!(apic.next_event(&BASE), None);
        assert_eq!(apic.mmio_read(reg::TMCCT, 4, at(u64::MAX / 2)), 0);
    }
}

#[test]
fn a_periodic_timer_keeps_its_beat() {
    let mut apic = xapic(0);
    apic.mmio_write(reg::TDCR, 4, 0xb, at(0));
    apic.mmio_write(reg::LVT_TIMER, 4, 0x2_00ec, at(0));
    apic.mmio_write(reg::TMICT, 4, 1_000_000, at(0));
    assert!(apic.advance(at(1_000_010)));
    assert_eq!(apic.next_event(&BASE), Some(2_000_000));
    assert_eq!(apic.acknowledge(), Some(0xec));
    assert!(apic.advance(at(5_500_000)), "missed beats merge");
    assert_eq!(apic.next_event(&BASE), Some(6_000_000));
    assert_eq!(apic.mmio_read(reg::TMCCT, 4, at(5_500_000)), 500_000);
    apic.mmio_write(reg::TMICT, 4, 0, at(5_500_000));
    assert_eq!(apic.next_event(&BASE), None);
    apic.mmio_write(reg::TMICT, 4, 10, at(6_000_000));
    assert_eq!(apic.next_event(&BASE), Some(6_200_000), "KVM's shortest period");
}

#[test]
fn the_deadline_mode_follows_the_guests_counter() {
    let mut apic = xapic(0);
    apic.set_tsc_deadline(500);
    assert_eq!(apic.tsc_deadline(), 0, "ignored outside its mode");
    apic.mmio_write(reg::LVT_TIMER, 4, 0x4_00ec, at(0));
    for (offset, deadline, machine) in
        [(0u64, 5_000, 5_000), (1_000, 5_000, 4_000), (0u64.wrapping_sub(1_000), 5_000, 6_000)]
    {
        apic.set_tsc_offset(offset);
        apic.set_tsc_deadline(deadline);
        assert_eq!(apic.next_event(&BASE), Some(machine));
        assert!(!apic.advance(at(machine - 1)));
        assert!(apic.advance(at(machine)));
        assert_eq!(apic.tsc_deadline(), 0);
        assert_eq!(apic.acknowledge(), Some(0xec));
        apic.mmio_write(reg::EOI, 4, 0, at(0));
    }
    apic.set_tsc_deadline(9_000);
    apic.mmio_write(reg::LVT_TIMER, 4, 0xec, at(0));
    assert_eq!(apic.next_event(&BASE), None, "leaving the mode disarms");
}

#[test]
fn without_deadline_in_cpuid_the_mode_bit_does_not_stick() {
    let mut apic = xapic(0);
    apic.set_features(ApicFeatures { tsc_deadline: false, ..FEATURES });
    apic.mmio_write(reg::LVT_TIMER, 4, 0x4_00ec, at(0));
    assert_eq!(apic.mmio_read(reg::LVT_TIMER, 4, at(0)), 0xec);
}

#[test]
fn a_masked_timer_is_silent() {
    let mut apic = xapic(0);
    apic.mmio_write(reg::LVT_TIMER, 4, 0x1_00ec, at(0));
    apic.mmio_write(reg::TMICT, 4, 1000, at(0));
    assert_eq!(apic.next_event(&BASE), None);
    assert!(!apic.advance(at(1_000_000)));
    assert_eq!(apic.pending(), None);
}

#[test]
fn init_keeps_the_mode_and_clears_the_rest() {
    let mut apic = x2apic(9);
    apic.accept(&fixed(0x55, false));
    apic.init();
    assert!(apic.x2apic() && !apic.sw_enabled());
    assert_eq!(apic.msr_read(0x802, at(0)), Ok(9));
    assert_eq!(apic.msr_read(0x80d, at(0)), Ok(0x200));
    assert_eq!(apic.msr_read(0x822, at(0)), Ok(0));
    apic.reset();
    assert_eq!(apic.base(), 0xfee0_0800);
    assert_eq!(apic.mmio_read(reg::ID, 4, at(0)), 0x0900_0000);
}

#[test]
fn the_page_image_round_trips() {
    for wide in [false, true] {
        for mut apic in [xapic(6), x2apic(6)] {
            apic.accept(&fixed(0x55, true));
            apic.acknowledge();
            apic.accept(&fixed(0xa1, false));
            let x2 = apic.x2apic();
            let page = apic.save(wide, at(0));
            assert_eq!(page[0x20..0x24], if x2 && wide { [6, 0, 0, 0] } else { [0, 0, 0, 6] });
            let mut other = if x2 { x2apic(6) } else { xapic(6) };
            assert_eq!(other.restore(&page, wide, at(0)), Ok(()));
            assert_eq!(other.save(wide, at(0)), page);
            assert_eq!(other.pending(), Some(0xa1));
            assert!(x2apic(7).restore(&page, true, at(0)).is_err(), "another id");
        }
    }
}

#[test]
fn a_restored_timer_goes_on_where_it_was() {
    let mut apic = xapic(0);
    apic.mmio_write(reg::TDCR, 4, 0xb, at(0));
    apic.mmio_write(reg::LVT_TIMER, 4, 0x2_00ec, at(0));
    apic.mmio_write(reg::TMICT, 4, 1_000_000, at(0));
    let page = apic.save(false, at(300_000));
    let mut other = Lapic::new(0, true, false, 1);
    other.restore(&page, false, at(5_000_000)).expect("valid");
    assert_eq!(other.next_event(&BASE), Some(5_700_000));
    assert!(other.advance(at(5_700_000)));
    assert_eq!(other.next_event(&BASE), Some(6_700_000));
}
