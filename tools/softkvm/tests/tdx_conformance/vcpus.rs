//! Rows 64, 65 and 67: several vCPUs, and what interrupts them.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use abi::tdx::{WakeupMailbox, vmcall};
use iced_x86::code_asm::*;
use libc::EINTR;
use softkvm::kvm::{Errno, number as nr};

use crate::harness::*;
use crate::interrupt::interrupting;
use crate::td::{
    DATA, FATAL, InitVm, Left, TdGuest, end, gate, init_vcpu, load_idt, report, stack, tdvmcall,
};

/// Enables the APIC.
fn enable_apic(a: &mut CodeAssembler) {
    tdvmcall(a, &[vmcall::WRMSR, 0x80f, 0x1ff]);
}

/// Runs every vCPU in a thread of its own to its end; what each has reported.
fn run_all(guest: &TdGuest) -> Vec<Vec<u64>> {
    let run = |cpu| {
        let mut reports = Vec::new();
        loop {
            match guest.run_cpu(cpu) {
                Left::Report(value) => reports.push(value),
                left => {
                    assert_eq!(left, FATAL, "vCPU {cpu}, {reports:x?}");
                    return reports;
                }
            }
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..guest.cpus.len()).map(|cpu| scope.spawn(move || run(cpu))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn row_64_a_vcpu_waits_at_the_mailbox() {
    // Both sides of it are the guest's: this shows that every vCPU enters by itself, and that they see each other's writes.
    let (command, apic_id, vector) = (DATA, DATA + 4, DATA + 8);
    let wakeup = i32::from(WakeupMailbox::WAKEUP);
    let guest = TdGuest::with(&InitVm::default(), 2, |a| {
        let mut firmware = a.create_label();
        let mut target = a.create_label();
        a.test(esi, esi).unwrap();
        a.jne(firmware).unwrap();
        // The operating system: to nobody, then to vCPU 1.
        a.lea(rax, ptr(target)).unwrap();
        a.mov(qword_ptr(vector), rax).unwrap();
        a.mov(dword_ptr(apic_id), 7).unwrap();
        a.mov(word_ptr(command), wakeup).unwrap();
        a.mov(edi, 100_000u32).unwrap();
        let mut wait = a.create_label();
        a.set_label(&mut wait).unwrap();
        a.pause().unwrap();
        a.dec(edi).unwrap();
        a.jne(wait).unwrap();
        a.movzx(ebx, word_ptr(command)).unwrap();
        report(a, rbx);
        a.mov(dword_ptr(apic_id), 1).unwrap();
        let mut taken = a.create_label();
        a.set_label(&mut taken).unwrap();
        a.pause().unwrap();
        a.cmp(word_ptr(command), 0).unwrap();
        a.jne(taken).unwrap();
        end(a, 0);
        // Firmware.
        a.set_label(&mut firmware).unwrap();
        a.pause().unwrap();
        a.cmp(word_ptr(command), wakeup).unwrap();
        a.jne(firmware).unwrap();
        a.cmp(dword_ptr(apic_id), esi).unwrap();
        a.jne(firmware).unwrap();
        a.mov(rax, qword_ptr(vector)).unwrap();
        a.mov(word_ptr(command), 0).unwrap();
        a.jmp(rax).unwrap();
        a.set_label(&mut target).unwrap();
        report(a, rsi);
        end(a, 0);
    });
    assert_eq!(run_all(&guest), [vec![u64::from(WakeupMailbox::WAKEUP)], vec![1]]);
}

#[test]
fn row_65_messages_reach_the_apic_they_name() {
    let vm = initialised();
    let cpus: Vec<_> = [0, 3].map(|id| vm.vcpu(id)).into();
    cpus.iter().for_each(|cpu| init_vcpu(cpu, 0).unwrap());
    let guest = TdGuest::unfinished(
        vm,
        cpus,
        |_| {},
        |a| {
            let mut handler = a.create_label();
            stack(a);
            load_idt(a);
            gate(a, 0x40, handler);
            enable_apic(a);
            report(a, r10);
            a.sti().unwrap();
            let mut wait = a.create_label();
            a.set_label(&mut wait).unwrap();
            a.pause().unwrap();
            a.jmp(wait).unwrap();
            a.set_label(&mut handler).unwrap();
            a.mov(ebx, 0x40u32).unwrap();
            report(a, rbx);
            end(a, 0);
        },
    );
    guest.vm.finalize().unwrap();
    // vCPU 3 has index 1. vCPU 0 is left where it is: nothing comes there.
    assert_eq!(guest.run_cpu(1), Left::Report(0));
    signal_msi(&guest.vm, 3, 0x40);
    assert_eq!(guest.run_cpu(1), Left::Report(0x40));
    assert_eq!(guest.run_cpu(1), FATAL);
    assert_eq!(guest.run_cpu(0), Left::Report(0));
    let guest = &guest;
    assert_eq!(interrupting(|| guest.run_cpu(0), || {}), Left::Failed(Errno(EINTR)));
}

#[test]
fn row_65_nmis_that_wait_are_one() {
    let guest = TdGuest::new(|a| {
        let mut nmi = a.create_label();
        let mut on = a.create_label();
        stack(a);
        load_idt(a);
        gate(a, 2, nmi);
        a.xor(ebp, ebp).unwrap();
        report(a, rbp);
        a.mov(ecx, 100_000u32).unwrap();
        a.set_label(&mut on).unwrap();
        a.dec(ecx).unwrap();
        a.jne(on).unwrap();
        report(a, rbp);
        end(a, 0);
        a.set_label(&mut nmi).unwrap();
        a.inc(ebp).unwrap();
        a.iretq().unwrap();
    });
    assert_eq!(guest.run(), Left::Report(0));
    for _ in 0..2 {
        guest.cpus[0].fd.value(nr::NMI, 0).unwrap();
    }
    // The module knows whether an NMI waits, not how many.
    assert_eq!(guest.reports(), (vec![1], FATAL));
}

#[test]
fn row_65_init_and_startup_are_ignored() {
    let guest = TdGuest::with(&InitVm::default(), 2, |a| {
        let mut other = a.create_label();
        let mut wait = a.create_label();
        enable_apic(a);
        a.test(esi, esi).unwrap();
        a.jne(other).unwrap();
        // Once the other vCPU is there: INIT, then STARTUP.
        a.set_label(&mut wait).unwrap();
        a.pause().unwrap();
        a.cmp(dword_ptr(DATA), 1).unwrap();
        a.jne(wait).unwrap();
        for icr in [1u64 << 32 | 0x4500, 1 << 32 | 0x4608] {
            tdvmcall(a, &[vmcall::WRMSR, 0x830, icr]);
            report(a, r10);
        }
        a.mov(dword_ptr(DATA), 2).unwrap();
        end(a, 0);
        a.set_label(&mut other).unwrap();
        a.mov(rbx, 0x005e_c2e7u64).unwrap();
        a.mov(dword_ptr(DATA), 1).unwrap();
        let mut released = a.create_label();
        a.set_label(&mut released).unwrap();
        a.pause().unwrap();
        a.cmp(dword_ptr(DATA), 2).unwrap();
        a.jne(released).unwrap();
        report(a, rbx);
        end(a, 0);
    });
    assert_eq!(run_all(&guest), [vec![0, 0], vec![0x005e_c2e7]]);
}

#[test]
fn row_67_finalize_waits_for_vcpus_that_run() {
    let vm = initialised();
    let (bsp, ap) = (vm.vcpu(0), vm.vcpu(1));
    init_vcpu(&bsp, 0).unwrap();
    let (send, receive) = mpsc::channel();
    thread::scope(|scope| {
        let vm = &vm;
        let answer = interrupting(
            || ap.run(),
            || {
                scope.spawn(move || send.send(vm.finalize()).unwrap());
                let early = receive.recv_timeout(Duration::from_millis(100));
                assert!(early.is_err(), "{early:?}");
            },
        );
        assert_eq!(answer, Err(Errno(EINTR)));
        assert_eq!(receive.recv_timeout(Duration::from_secs(30)), Ok(Ok(())));
    });
}
