//! The chips together: what a guest, an irqfd or a timer causes at which vCPU.

use super::*;

const GHZ: u32 = 1_000_000;

/// A VM with all chips, the 8259s masked, and `count` x2APIC vCPUs, software-enabled.
fn machine(count: u32) -> Chipset {
    let mut chips = Chipset::new(GHZ, 0);
    chips.create_irqchip().expect("first chips");
    for port in [0x21, 0xa1] {
        assert!(chips.port_out(port, 1, 0xff, 0).is_some());
    }
    with_vcpus(chips, count)
}

fn split_machine(count: u32) -> Chipset {
    let mut chips = Chipset::new(GHZ, 0);
    chips.create_split_irqchip(24).expect("first chips");
    with_vcpus(chips, count)
}

fn with_vcpus(mut chips: Chipset, count: u32) -> Chipset {
    for id in 0..count {
        let vcpu = chips.add_vcpu(id, id == 0);
        let base = chips.apic_base(vcpu) | BASE_X2APIC;
        assert_eq!(chips.msr_write(vcpu, MSR_APIC_BASE, base, false, 0), Some(Ok(())));
        wrmsr(&mut chips, vcpu, reg::SPIV, 0x1ff);
    }
    chips
}

fn wrmsr(chips: &mut Chipset, vcpu: usize, register: u32, value: u64) {
    let index = 0x800 + (register >> 4);
    assert_eq!(chips.msr_write(vcpu, index, value, false, 0), Some(Ok(())), "{index:#x}");
}

fn program_pin(chips: &mut Chipset, pin: u64, low: u64, dest: u64) {
    for (register, value) in [(0x11 + 2 * pin, dest << 24), (0x10 + 2 * pin, low)] {
        assert!(chips.mmio_write(0, 0xfec0_0000, 4, register, 0).is_some());
        assert!(chips.mmio_write(0, 0xfec0_0010, 4, value, 0).is_some());
    }
}

#[test]
fn an_irq_line_reaches_the_vcpu_through_the_ioapic() {
    let mut chips = machine(2);
    program_pin(&mut chips, 4, 0x31, 1);
    chips.take_events();
    assert_eq!(chips.set_irq(4, true, Source::User), 1);
    assert_eq!(chips.take_events(), [Event::Wake(1)]);
    chips.set_irq(4, false, Source::User);
    assert!(!chips.has_interrupt(0));
    assert_eq!(chips.take_interrupt(1), Some(0x31));
    assert_eq!(chips.take_interrupt(1), None);
}

#[test]
fn a_level_line_repeats_until_its_device_is_quiet() {
    let mut chips = machine(1);
    program_pin(&mut chips, 10, 0x8041, 0);
    chips.watch_gsi(10, true);
    chips.set_irq(10, true, Source::Resample);
    for _ in 0..3 {
        assert_eq!(chips.take_interrupt(0), Some(0x41));
        assert!(!chips.has_interrupt(0));
        chips.take_events();
        wrmsr(&mut chips, 0, reg::EOI, 0);
        assert_eq!(chips.take_events(), [Event::Acked(10), Event::Wake(0)]);
    }
    assert_eq!(chips.take_interrupt(0), Some(0x41));
    chips.set_irq(10, false, Source::Resample);
    wrmsr(&mut chips, 0, reg::EOI, 0);
    assert!(!chips.has_interrupt(0));
}

#[test]
fn a_line_is_high_while_any_source_drives_it() {
    let mut chips = machine(1);
    program_pin(&mut chips, 10, 0x8041, 0);
    chips.set_irq(10, true, Source::User);
    chips.set_irq(10, true, Source::Resample);
    chips.set_irq(10, false, Source::User);
    assert_eq!(chips.take_interrupt(0), Some(0x41));
    wrmsr(&mut chips, 0, reg::EOI, 0);
    assert!(chips.has_interrupt(0));
}

#[test]
fn results_of_irq_line_status() {
    let mut chips = machine(1);
    assert_eq!(chips.set_irq(4, true, Source::User), -1, "masked everywhere");
    chips.set_irq(4, false, Source::User);
    program_pin(&mut chips, 4, 0x31, 0);
    assert_eq!(chips.set_irq(4, true, Source::User), 1);
    assert_eq!(chips.set_irq(4, true, Source::User), 0, "merged");
    assert_eq!(chips.set_irq(99, true, Source::User), -1, "no route");
}

#[test]
fn the_8259s_reach_the_boot_processor_through_lint0() {
    let mut chips = machine(2);
    for (port, value) in
        [(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1), (0xa1, 0xff), (0x21, 0xfe)]
    {
        assert!(chips.port_out(port, 1, value, 0).is_some());
    }
    wrmsr(&mut chips, 0, reg::LVT_LINT0, 0x700);
    chips.take_events();
    chips.set_irq(0, true, Source::User);
    assert_eq!(chips.take_events(), [Event::Wake(0)]);
    assert_eq!(chips.take_interrupt(1), None);
    assert_eq!(chips.take_interrupt(0), Some(0x30));
    wrmsr(&mut chips, 0, reg::LVT_LINT0, 0x1_0700);
    chips.port_out(0x20, 1, 0x20, 0);
    chips.set_irq(0, false, Source::User);
    chips.set_irq(0, true, Source::User);
    assert_eq!(chips.take_interrupt(0), None, "LVT0 is masked");
}

#[test]
fn ipis() {
    let ipi = |chips: &mut Chipset, from: usize, value: u64| {
        chips.take_events();
        wrmsr(chips, from, reg::ICR, value);
        chips.take_events()
    };
    let mut chips = machine(4);
    assert_eq!(ipi(&mut chips, 0, 2 << 32 | 0x4030), [Event::Wake(2)]);
    assert_eq!(chips.take_interrupt(2), Some(0x30));
    assert_eq!(
        ipi(&mut chips, 1, 0xc_40f1),
        [Event::Wake(0), Event::Wake(2), Event::Wake(3)],
        "all but the sender"
    );
    assert_eq!(ipi(&mut chips, 0, 3 << 32 | 0xc500), [Event::Init(3)]);
    assert_eq!(ipi(&mut chips, 0, 3 << 32 | 0x8500), []);
    assert_eq!(ipi(&mut chips, 0, 3 << 32 | 0x4699), [Event::Sipi(3, 0x99)]);
    assert_eq!(ipi(&mut chips, 0, 1 << 32 | 0x4400), [Event::Wake(1)]);
    assert!(chips.take_nmi(1) && !chips.take_nmi(1));
    assert_eq!(ipi(&mut chips, 0, 1 << 32 | 0x4200), [Event::Smi(1)]);
    assert_eq!(ipi(&mut chips, 0, 0x4_40f3), [Event::Wake(0)], "self");
    assert_eq!(chips.take_interrupt(0), Some(0xf3));
}

#[test]
fn the_lowest_priority_mode_picks_one_by_vector() {
    let mut chips = machine(4);
    for (vector, vcpu) in [(0x40u64, 0), (0x41, 1), (0x42, 2), (0x43, 3)] {
        chips.take_events();
        assert_eq!(chips.signal_msi(0xfee0_f00c | 0xf << 12, (vector | 0x100) as u32), 1);
        assert_eq!(chips.take_events(), [Event::Wake(vcpu)]);
    }
}

#[test]
fn pv_ipis_use_apic_ids() {
    let mut chips = machine(4);
    chips.take_events();
    assert_eq!(chips.pv_send_ipi(0b101, 1, 0x40fd), 2);
    assert_eq!(chips.take_events(), [Event::Wake(1), Event::Wake(3)]);
    assert_eq!(chips.pv_send_ipi(0b1, 0, 0xc_40fd), -22);
}

#[test]
fn messages() {
    let mut chips = machine(2);
    assert_eq!(chips.signal_msi(0xfee0_1000, 0x4051), 1);
    assert_eq!(chips.take_interrupt(1), Some(0x51));
    assert_eq!(chips.signal_msi(0xfee0_9000, 0x4051), -1, "nobody has this id");
    let route = Route { gsi: 40, target: Target::Msi { address: 0xfee0_0000, data: 0x62 } };
    chips.set_routing(&[route]).expect("valid");
    assert_eq!(chips.set_irq(40, true, Source::User), 1);
    assert_eq!(chips.set_irq(40, false, Source::User), -1);
    assert_eq!(chips.take_interrupt(0), Some(0x62));
    chips.set_wide_ids(true);
    assert_eq!(chips.signal_msi(0x100_fee0_0000, 0x4051), -1, "id 0x100 is not there");
}

#[test]
fn timers_of_all_vcpus_in_order() {
    let mut chips = machine(3);
    for (vcpu, deadline) in [(0, 3000u64), (1, 1000), (2, 2000)] {
        wrmsr(&mut chips, vcpu, reg::LVT_TIMER, 0x4_00ec);
        chips.msr_write(vcpu, MSR_TSC_DEADLINE, deadline, false, 0);
    }
    chips.take_events();
    for (vcpu, at) in [(1, 1000), (2, 2000), (0, 3000)] {
        assert_eq!(chips.next_event(), Some(at));
        chips.advance(at);
        assert_eq!(chips.take_events(), [Event::Wake(vcpu)]);
        assert_eq!(chips.take_interrupt(vcpu), Some(0xec));
    }
    assert_eq!(chips.next_event(), None);
    chips.msr_write(0, MSR_TSC_DEADLINE, 10, false, 5000);
    wrmsr(&mut chips, 0, reg::EOI, 0);
    assert!(chips.has_interrupt(0), "a deadline in the past fires at once");
}

#[test]
fn lowering_the_task_priority_lets_an_interrupt_through() {
    let mut chips = machine(1);
    chips.set_cr8(0, 0xf);
    chips.signal_msi(0xfee0_0000, 0x51);
    assert!(!chips.has_interrupt(0) && !chips.take_events().contains(&Event::Wake(0)));
    chips.set_cr8(0, 0);
    assert_eq!(chips.take_events(), [Event::Wake(0)]);
    assert_eq!(chips.take_interrupt(0), Some(0x51));
}

#[test]
fn the_8254_beats_on_gsi_0() {
    let mut chips = machine(1);
    assert_eq!(chips.create_pit(PIT_SPEAKER, 0), Ok(()));
    assert_eq!(chips.create_pit(0, 0), Err(Refused));
    program_pin(&mut chips, 0, 0x30, 0);
    for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)] {
        assert!(chips.port_out(port, 1, value, 0).is_some());
    }
    let mut now = 0;
    for _ in 0..5 {
        now = chips.next_event().filter(|&next| next > now).expect("a next beat");
        chips.advance(now);
        assert_eq!(chips.take_interrupt(0), Some(0x30));
        wrmsr(&mut chips, 0, reg::EOI, 0);
    }
    assert!((49_900_000..50_100_000).contains(&now), "{now}");
}

#[test]
fn a_split_irqchip_tells_user_space_of_the_eoi() {
    let mut chips = split_machine(2);
    let message = |gsi, data| Route { gsi, target: Target::Msi { address: 0xfee0_1000, data } };
    chips.set_routing(&[message(5, 0xc055), message(6, 0x56), message(30, 0xc057)]).expect("ok");
    for (gsi, vector, told) in [(5, 0x55, true), (6, 0x56, false), (30, 0x57, false)] {
        assert_eq!(chips.set_irq(gsi, true, Source::User), 1);
        assert_eq!(chips.take_interrupt(1), Some(vector));
        chips.take_events();
        wrmsr(&mut chips, 1, reg::EOI, 0);
        let exit = Event::EoiExit { vcpu: 1, vector };
        assert_eq!(chips.take_events().contains(&exit), told, "GSI {gsi}");
    }
    assert_eq!(chips.mmio_read(0, 0xfec0_0000, 4, 0), None, "the IOAPIC is user space's");
    assert_eq!(chips.port_in(0x20, 1, 0), None);
}

#[test]
fn user_space_interrupts_by_mode() {
    let mut none = with_bare_vcpu(Chipset::new(GHZ, 0));
    assert_eq!(none.queue_external(0, 0x21), Ok(()));
    assert_eq!(none.take_interrupt(0), Some(0x21));
    let mut split = split_machine(1);
    assert!(split.ready_for_external(0), "the boot processor's LVT0 starts as ExtINT");
    wrmsr(&mut split, 0, reg::LVT_LINT0, 0x1_0700);
    assert!(!split.ready_for_external(0));
    wrmsr(&mut split, 0, reg::LVT_LINT0, 0x700);
    assert_eq!(split.queue_external(0, 0x21), Ok(()));
    assert_eq!(split.queue_external(0, 0x22), Err(QueueError::Pending));
    assert_eq!(split.take_interrupt(0), Some(0x21));
    assert_eq!(machine(1).queue_external(0, 1), Err(QueueError::InKernel));
}

fn with_bare_vcpu(mut chips: Chipset) -> Chipset {
    chips.add_vcpu(0, true);
    chips
}

#[test]
fn without_chips_there_is_only_a_base_and_a_priority() {
    let mut chips = with_bare_vcpu(Chipset::new(GHZ, 0));
    assert_eq!(chips.mmio_read(0, 0xfee0_0020, 4, 0), None);
    assert_eq!(chips.msr_read(0, 0x802, 0), Some(Err(Refused)));
    assert_eq!(chips.msr_read(0, MSR_APIC_BASE, 0), Some(Ok(0xfee0_0900)));
    assert_eq!(chips.msr_read(0, 0xc000_0080, 0), None);
    chips.set_cr8(0, 7);
    assert_eq!(chips.cr8(0), 7);
    assert!(chips.create_irqchip().is_err(), "too late");
    assert!(chips.save_lapic(0, 0).is_err() && chips.save_chip(Chip::Ioapic).is_err());
}

#[test]
fn the_apic_page_moves_with_its_base() {
    let mut chips = Chipset::new(GHZ, 0);
    chips.create_irqchip().expect("first");
    chips.add_vcpu(0, true);
    assert_eq!(chips.mmio_read(0, 0xfee0_0030, 4, 0), Some(0x5_0014));
    assert_eq!(chips.set_apic_base(0, 0xfed0_0900, false), Ok(()));
    assert_eq!(chips.mmio_read(0, 0xfee0_0030, 4, 0), None);
    assert_eq!(chips.mmio_read(0, 0xfed0_0030, 4, 0), Some(0x5_0014));
}

#[test]
fn kvmclock_bytes_are_left_for_guest_memory() {
    let mut chips = machine(2);
    chips.take_events();
    assert_eq!(chips.msr_write(1, msr::SYSTEM_TIME_NEW, 0x5001, false, 100), Some(Ok(())));
    let write_to = |event: &Event| match event {
        Event::Write(write) => Some((write.gpa, write.bytes().len())),
        _ => None,
    };
    let events = chips.take_events();
    assert_eq!(events.iter().filter_map(write_to).collect::<Vec<_>>(), [(0x5000, 32)]);
    chips.set_clock(1_000_000, 200);
    assert_eq!(chips.clock(300), (1_000_100, 300));
    chips.set_tsc_offset(1, 77);
    assert_eq!(chips.take_events().len(), 2);
    assert_eq!(chips.msr_write(0, msr::POLL_CONTROL, 2, false, 0), Some(Err(Refused)));
}

#[test]
fn chip_images_carry_the_state_over() {
    let mut chips = machine(1);
    program_pin(&mut chips, 10, 0x8041, 0);
    chips.port_out(0x21, 1, 0x5a, 0);
    chips.set_irq(10, true, Source::User);
    let mut other = machine(1);
    for chip in [Chip::PicMaster, Chip::PicSlave, Chip::Ioapic] {
        let image = chips.save_chip(chip).expect("full irqchip");
        other.restore_chip(chip, &image).expect("right size");
        assert_eq!(other.save_chip(chip).expect("full irqchip"), image);
        assert_eq!(other.restore_chip(chip, &image[1..]), Err(Refused));
    }
    let page = chips.save_lapic(0, 0).expect("a local APIC");
    other.restore_lapic(0, &page, 0).expect("valid");
    assert_eq!(other.take_interrupt(0), Some(0x41));
}

#[test]
fn at_most_two_nmis_wait() {
    let mut chips = machine(1);
    for _ in 0..5 {
        chips.inject_nmi(0);
    }
    assert_eq!(chips.nmis(0), 2);
    assert!(chips.take_nmi(0) && chips.take_nmi(0) && !chips.take_nmi(0));
}
