//! KVM_GET_STATS_FD: what user space reads, and that it is what has happened.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "common/stats.rs"]
mod stats;
#[path = "common/td.rs"]
mod td;

use common::{Cpu, Fd, Ram, region, vm};
use kvm_bindings as kb;
use softkvm::kvm::{Errno, number as nr};
use stats::Stats;
use td::{FRESH, TdGuest, accept, end};

fn of(fd: &Fd) -> Stats {
    Stats::new(fd.value(nr::GET_STATS_FD, 0).unwrap())
}

/// Linux 7.2 include/linux/kvm_host.h and arch/x86/kvm/x86.c, in their order.
const VCPU: &str = "halt_successful_poll halt_attempted_poll halt_poll_invalid halt_wakeup \
    halt_poll_success_ns halt_poll_fail_ns halt_wait_ns halt_poll_success_hist halt_poll_fail_hist \
    halt_wait_hist blocking pf_taken pf_fixed pf_emulate pf_spurious pf_fast pf_mmio_spte_created \
    pf_guest tlb_flush invlpg exits io_exits mmio_exits signal_exits irq_window_exits \
    nmi_window_exits l1d_flush halt_exits request_irq_exits irq_exits host_state_reload fpu_reload \
    insn_emulation insn_emulation_fail hypercalls irq_injections nmi_injections req_event nested_run \
    directed_yield_attempted directed_yield_successful preemption_reported preemption_other \
    guest_mode notify_window_exits";
const VM: &str = "remote_tlb_flush remote_tlb_flush_requests mmu_shadow_zapped mmu_pte_write \
    mmu_pde_zapped mmu_flooded mmu_recycled mmu_cache_miss mmu_unsync mmu_shadow_pages pages_4k \
    pages_2m pages_1g nx_lpage_splits max_mmu_rmap_size max_mmu_page_hash_collisions";

#[test]
fn the_files_hold_what_linux_has() {
    let vm = vm(0);
    let cpu = Cpu::new(&vm, 3);
    let (of_vm, of_cpu) = (of(&vm), of(&cpu.fd));
    let names = |stats: &Stats| {
        let all = stats.all().into_iter().map(|stat| stat.name);
        all.filter(|name| !name.starts_with("softkvm_")).collect::<Vec<_>>()
    };
    assert_eq!(names(&of_vm), VM.split_whitespace().collect::<Vec<_>>());
    assert_eq!(names(&of_cpu), VCPU.split_whitespace().collect::<Vec<_>>());
    assert_eq!(of_cpu.id(), format!("{}/vcpu-3", of_vm.id()));
    assert!(!of_vm.is_writable() && !of_cpu.is_writable());
    let flags = |name: &str| {
        let all = of_cpu.all().into_iter().chain(of_vm.all());
        let stat = all.into_iter().find(|stat| stat.name == name).unwrap();
        (stat.flags, stat.exponent, stat.values.len())
    };
    // Cumulative, instant, peak, logarithmic histogram: 0, 1, 2, 4; seconds 0x20, boolean 0x40.
    assert_eq!(flags("exits"), (0, 0, 1));
    assert_eq!(flags("pages_4k"), (1, 0, 1));
    assert_eq!(flags("max_mmu_rmap_size"), (2, 0, 1));
    assert_eq!(flags("guest_mode"), (0x41, 0, 1));
    assert_eq!(flags("halt_wait_ns"), (0x20, -9, 1));
    assert_eq!(flags("halt_wait_hist"), (0x24, -9, 32));
}

#[test]
fn every_way_out_of_a_guest_is_counted_once() {
    let vm = vm(0);
    let ram = Ram::new(0x10000);
    // out 0xe9, al; in al, 0xe9; cpuid; mov ax, 0xf000; mov ds, ax; mov [0x1234], al; hlt
    ram.put(0x1000, &[0xe6, 0xe9, 0xe4, 0xe9, 0x0f, 0xa2, 0xb8, 0, 0xf0, 0x8e, 0xd8]);
    ram.put(0x100b, &[0xa2, 0x34, 0x12, 0xf4]);
    vm.with(nr::SET_USER_MEMORY_REGION2, &mut region(0, 0, &ram)).unwrap();
    let cpu = Cpu::new(&vm, 0);
    cpu.real_mode(0x1000);
    let (of_vm, stats) = (of(&vm), of(&cpu.fd));
    let names = ["exits", "io_exits", "mmio_exits", "halt_exits", "pf_fixed", "fpu_reload"];
    assert_eq!(stats.values(&names), [0; 6]);
    for (reason, seen) in [
        // The first exit comes after the page of code has been mapped.
        (kb::KVM_EXIT_IO, [2, 1, 0, 0, 1, 1]),
        (kb::KVM_EXIT_IO, [3, 2, 0, 0, 1, 2]),
        (kb::KVM_EXIT_MMIO, [5, 2, 1, 0, 1, 3]),
        (kb::KVM_EXIT_HLT, [6, 2, 1, 1, 1, 4]),
    ] {
        assert_eq!(cpu.run(), Ok(0));
        assert_eq!((cpu.reason(), stats.values(&names)), (reason, seen.to_vec()));
    }
    // Another descriptor shows the same, and the first stays good.
    assert_eq!(of(&cpu.fd).values(&names), stats.values(&names));
    assert_eq!(of_vm.get("pages_4k"), 1);
    assert!(of_vm.get("softkvm_time_ns") > 4 * 1000);
    assert_eq!(of_vm.get("softkvm_placeholder_ns"), 0, "no cost of a plain VM is a guess");
}

#[test]
fn pages_are_counted_until_their_slot_goes() {
    let vm = vm(0);
    let (ram, more) = (Ram::new(0x10000), Ram::new(0x2000));
    // mov [0x8000], al; mov [0x9000], al; mov [0x9800], al; mov [0xc000], al; hlt
    let stores = [0xa2, 0, 0x80, 0xa2, 0, 0x90, 0xa2, 0, 0x98, 0xa2, 0, 0xc0, 0xf4];
    ram.put(0x1000, &stores);
    let mut first = region(0, 0, &ram);
    first.memory_size = 0x8000;
    let mut second = region(1, 0x8000, &more);
    let mut third = region(2, 0xa000, &ram);
    for region in [&mut first, &mut second, &mut third] {
        vm.with(nr::SET_USER_MEMORY_REGION2, region).unwrap();
    }
    let cpu = Cpu::new(&vm, 0);
    cpu.real_mode(0x1000);
    let stats = of(&vm);
    assert_eq!((cpu.run(), cpu.reason()), (Ok(0), kb::KVM_EXIT_HLT));
    assert_eq!(stats.get("pages_4k"), 4);
    // All mappings of a plain VM go with any slot, unless that quirk is off.
    let mut quirks = kb::kvm_enable_cap { cap: kb::KVM_CAP_DISABLE_QUIRKS2, ..Default::default() };
    quirks.args[0] = 1 << 7;
    vm.with(nr::ENABLE_CAP, &mut quirks).unwrap();
    second.memory_size = 0;
    vm.with(nr::SET_USER_MEMORY_REGION2, &mut second).unwrap();
    assert_eq!(stats.get("pages_4k"), 2);
    cpu.real_mode(0x1000);
    assert_eq!((cpu.run(), cpu.reason()), (Ok(0), kb::KVM_EXIT_MMIO));
    assert_eq!(stats.get("pages_4k"), 2);
}

#[test]
fn with_the_quirk_all_pages_go() {
    let vm = vm(0);
    let (ram, more) = (Ram::new(0x8000), Ram::new(0x1000));
    ram.put(0x1000, &[0xf4]);
    vm.with(nr::SET_USER_MEMORY_REGION2, &mut region(0, 0, &ram)).unwrap();
    let mut other = region(1, 0x8000, &more);
    vm.with(nr::SET_USER_MEMORY_REGION2, &mut other).unwrap();
    let cpu = Cpu::new(&vm, 0);
    cpu.real_mode(0x1000);
    assert_eq!(cpu.run(), Ok(0));
    let stats = of(&vm);
    assert_eq!(stats.get("pages_4k"), 1);
    other.memory_size = 0;
    vm.with(nr::SET_USER_MEMORY_REGION2, &mut other).unwrap();
    assert_eq!(stats.get("pages_4k"), 0);
}

/// A guest that sleeps `sleeps` times for 1193 ticks of the PIT (1 ms) or half of that.
fn sleeper(vm: &Fd, sleeps: u8, ticks: u16) -> (Ram, Cpu) {
    vm.value(nr::CREATE_IRQCHIP, 0).unwrap();
    vm.with(nr::CREATE_PIT2, &mut kb::kvm_pit_config::default()).unwrap();
    let ram = Ram::new(0x10000);
    // Interrupt 8 -> 0:0x1100: mov al, 0x20; out 0x20, al; iret
    ram.put(0x20, &[0x00, 0x11, 0x00, 0x00]);
    ram.put(0x1100, &[0xb0, 0x20, 0xe6, 0x20, 0xcf]);
    let mut code = Vec::new();
    for (port, value) in [(0x20u8, 0x11u8), (0x21, 8), (0x21, 4), (0x21, 1), (0x21, 0xfe)] {
        code.extend([0xb0, value, 0xe6, port]);
    }
    let [low, high] = ticks.to_le_bytes();
    for (port, value) in [(0x43u8, 0x34u8), (0x40, low), (0x40, high)] {
        code.extend([0xb0, value, 0xe6, port]);
    }
    // mov cl, sleeps; sti; hlt; cli; dec cl; jnz sti; out 0xe9, al
    code.extend([0xb1, sleeps, 0xfb, 0xf4, 0xfa, 0xfe, 0xc9, 0x75, 0xf9, 0xe6, 0xe9]);
    ram.put(0x1000, &code);
    vm.with(nr::SET_USER_MEMORY_REGION2, &mut region(0, 0, &ram)).unwrap();
    let cpu = Cpu::new(vm, 0);
    cpu.real_mode(0x1000);
    let mut lapic = [0u8; 1024];
    cpu.fd.with(nr::GET_LAPIC, &mut lapic).unwrap();
    lapic[0x350..0x354].copy_from_slice(&0x700u32.to_le_bytes());
    lapic[0xf0..0xf4].copy_from_slice(&0x1ffu32.to_le_bytes());
    cpu.fd.with(nr::SET_LAPIC, &mut lapic).unwrap();
    (ram, cpu)
}

const HALTS: [&str; 6] = [
    "halt_exits",
    "halt_attempted_poll",
    "halt_successful_poll",
    "halt_wakeup",
    "irq_injections",
    "halt_poll_invalid",
];

#[test]
fn long_sleeps_are_not_polled_for() {
    let vm = vm(0);
    let (_ram, cpu) = sleeper(&vm, 5, 1193);
    let stats = of(&cpu.fd);
    assert_eq!((cpu.run(), cpu.reason()), (Ok(0), kb::KVM_EXIT_IO));
    assert_eq!(stats.values(&HALTS), [5, 0, 0, 5, 5, 0]);
    let all = stats.all();
    let wait = all.iter().find(|stat| stat.name == "halt_wait_hist").unwrap();
    // A millisecond has 20 bits in nanoseconds.
    assert_eq!(wait.values.iter().sum::<u64>(), 5);
    assert!(wait.values[20] >= 4, "{wait:?}");
    let waited = stats.get("halt_wait_ns");
    assert!((4_000_000..5_000_000).contains(&waited), "{waited}");
}

#[test]
fn the_longest_poll_is_the_monitors_choice() {
    for (limit, polled) in [(None, 0), (Some(2_000_000), 39), (Some(0), 0)] {
        let vm = vm(0);
        if let Some(limit) = limit {
            let mut cap = kb::kvm_enable_cap { cap: kb::KVM_CAP_HALT_POLL, ..Default::default() };
            cap.args[0] = 1 << 32;
            assert_eq!(vm.with(nr::ENABLE_CAP, &mut cap), Err(Errno::EINVAL));
            cap.args[0] = limit;
            vm.with(nr::ENABLE_CAP, &mut cap).unwrap();
        }
        let (_ram, cpu) = sleeper(&vm, 40, 1193);
        let stats = of(&cpu.fd);
        assert_eq!((cpu.run(), cpu.reason()), (Ok(0), kb::KVM_EXIT_IO));
        let seen = stats.values(&HALTS);
        assert_eq!(seen[..2], [40, polled], "{limit:?}");
        // Ten microseconds, doubled until a millisecond fits in: seven polls in vain.
        assert_eq!(seen[2], if polled != 0 { polled - 7 } else { 0 });
        assert_eq!(stats.get("halt_wakeup") + seen[2], 40);
        assert_eq!(stats.get("halt_poll_success_ns") > 0, polled != 0);
    }
}

#[test]
fn a_td_counts_what_it_accepts() {
    let guest = TdGuest::new(|a| {
        accept(a, FRESH, 0);
        accept(a, FRESH + 0x1000, 0);
        // Accepted already, and another size than the one it is mapped with.
        accept(a, FRESH, 0);
        accept(a, 0x40_0000, 1);
        end(a, 0);
    });
    let (of_vm, stats) = (of(&guest.vm.fd), of(&guest.cpus[0].fd));
    let names = ["pages_4k", "softkvm_accept_4k", "softkvm_accept_2m", "softkvm_accept_mismatch"];
    let launched = of_vm.get("pages_4k");
    assert_eq!(launched, 11, "ten pages, and the one with the reset vector");
    guest.reports();
    assert_eq!(of_vm.values(&names), [launched + 3, 2, 0, 1]);
    assert_eq!(stats.get("pf_fixed"), 3);
    let (all, guessed) = (of_vm.get("softkvm_time_ns"), of_vm.get("softkvm_placeholder_ns"));
    assert!(0 < guessed && guessed < all, "{guessed} of {all}");
}
