//! Small guests and their exits.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Cpu, Fd, Ram, region, vm};
use kvm_bindings as kb;
use softkvm::kvm::{Errno, number as nr};

fn guest(code: &[u8]) -> (Fd, Ram, Cpu) {
    let vm = vm(0);
    let ram = Ram::new(0x10000);
    ram.put(0x1000, code);
    vm.with(nr::SET_USER_MEMORY_REGION2, &mut region(0, 0, &ram)).unwrap();
    let cpu = Cpu::new(&vm, 0);
    cpu.real_mode(0x1000);
    (vm, ram, cpu)
}

#[test]
fn out_leaves_with_its_data_and_is_not_repeated() {
    // mov al, 'x'; out 0xe9, al; hlt
    let (_vm, _ram, cpu) = guest(&[0xb0, b'x', 0xe6, 0xe9, 0xf4]);
    assert_eq!(cpu.run(), Ok(0));
    assert_eq!(cpu.reason(), kb::KVM_EXIT_IO);
    assert_eq!(cpu.read::<4>(32), [1, 1, 0xe9, 0]);
    assert_eq!(cpu.u32(36), 1);
    assert_eq!(cpu.read::<1>(cpu.u64(40) as usize), *b"x");
    assert_eq!(cpu.run(), Ok(0));
    assert_eq!(cpu.reason(), kb::KVM_EXIT_HLT);
    assert_eq!(cpu.regs().rip, 0x1005);
}

#[test]
fn in_takes_the_answer_of_user_space() {
    // in ax, dx; mov [0x2000], ax; hlt
    let (_vm, ram, cpu) = guest(&[0xed, 0xa3, 0x00, 0x20, 0xf4]);
    assert_eq!(cpu.run(), Ok(0));
    assert_eq!(cpu.reason(), kb::KVM_EXIT_IO);
    assert_eq!(cpu.read::<2>(32), [0, 2]);
    cpu.put(4096, &[0x34, 0x12]);
    assert_eq!(cpu.run(), Ok(0));
    assert_eq!(cpu.reason(), kb::KVM_EXIT_HLT);
    assert_eq!(ram.get(0x2000, 2), [0x34, 0x12]);
}

#[test]
fn string_output_exits_once_per_item() {
    // mov cx, 3; mov si, 0x1010; rep outsb; hlt
    let mut code = vec![0xb9, 3, 0, 0xbe, 0x10, 0x10, 0xf3, 0x6e, 0xf4];
    code.resize(16, 0);
    code.extend(b"abc");
    let (_vm, _ram, cpu) = guest(&code);
    let mut seen = Vec::new();
    loop {
        assert_eq!(cpu.run(), Ok(0));
        if cpu.reason() == kb::KVM_EXIT_HLT {
            break;
        }
        assert_eq!(cpu.reason(), kb::KVM_EXIT_IO);
        seen.extend(cpu.read::<1>(4096));
    }
    assert_eq!(seen, b"abc");
}

#[test]
fn device_memory_is_read_and_written_by_exits() {
    // mov ax, 0xf000; mov ds, ax; inc dword [0x1234]; hlt
    let (_vm, _ram, cpu) =
        guest(&[0xb8, 0x00, 0xf0, 0x8e, 0xd8, 0x66, 0xff, 0x06, 0x34, 0x12, 0xf4]);
    assert_eq!(cpu.run(), Ok(0));
    assert_eq!(cpu.reason(), kb::KVM_EXIT_MMIO);
    assert_eq!((cpu.u64(32), cpu.u32(48), cpu.read::<1>(52)), (0xf1234, 4, [0]));
    cpu.put(40, &41u64.to_le_bytes());
    assert_eq!(cpu.run(), Ok(0));
    assert_eq!(cpu.reason(), kb::KVM_EXIT_MMIO);
    assert_eq!((cpu.u64(32), cpu.u32(48), cpu.read::<1>(52)), (0xf1234, 4, [1]));
    assert_eq!(cpu.u32(40), 42);
    assert_eq!(cpu.run(), Ok(0));
    assert_eq!(cpu.reason(), kb::KVM_EXIT_HLT);
}

#[test]
fn immediate_exit_finishes_the_instruction_first() {
    let (_vm, _ram, cpu) = guest(&[0xed, 0xf4]);
    assert_eq!(cpu.run(), Ok(0));
    cpu.put(4096, &[7, 0]);
    cpu.put(1, &[1]);
    assert_eq!(cpu.run(), Err(Errno::EINTR));
    assert_eq!((cpu.regs().rip, cpu.regs().rax & 0xffff), (0x1001, 7));
    assert_eq!(cpu.run(), Err(Errno::EINTR));
    assert_eq!(cpu.regs().rip, 0x1001);
}

#[test]
fn a_triple_fault_is_a_shutdown() {
    // lidt [0x2000] (limit 0); ud2
    let (_vm, _ram, cpu) = guest(&[0x0f, 0x01, 0x1e, 0x00, 0x20, 0x0f, 0x0b]);
    assert_eq!(cpu.run(), Ok(0));
    assert_eq!(cpu.reason(), kb::KVM_EXIT_SHUTDOWN);
}

#[test]
fn an_unknown_msr_faults_unless_user_space_wants_it() {
    // mov ecx, 0x12345; rdmsr; hlt
    let code = [0x66, 0xb9, 0x45, 0x23, 0x01, 0x00, 0x0f, 0x32, 0xf4];
    let (vm, _ram, cpu) = guest(&code);
    let mut cap = kb::kvm_enable_cap { cap: kb::KVM_CAP_X86_USER_SPACE_MSR, ..Default::default() };
    cap.args[0] = 2;
    vm.with(nr::ENABLE_CAP, &mut cap).unwrap();
    assert_eq!(cpu.run(), Ok(0));
    assert_eq!(cpu.reason(), kb::KVM_EXIT_X86_RDMSR);
    assert_eq!((cpu.u32(40), cpu.u32(44)), (2, 0x12345));
    cpu.put(48, &0x1_0000_0002u64.to_le_bytes());
    assert_eq!(cpu.run(), Ok(0));
    assert_eq!(cpu.reason(), kb::KVM_EXIT_HLT);
    assert_eq!((cpu.regs().rax, cpu.regs().rdx), (2, 1));
}

#[test]
fn a_signal_ends_the_run_of_a_busy_guest() {
    extern "C" fn nothing(_: i32) {}
    // jmp $
    let (_vm, _ram, cpu) = guest(&[0xeb, 0xfe]);
    let handler = nothing as extern "C" fn(i32);
    #[allow(unsafe_code)]
    // SAFETY: the action is initialised; its handler does nothing.
    let me = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut());
        libc::pthread_self()
    };
    let kicker = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(30));
        #[allow(unsafe_code)]
        // SAFETY: the thread outlives this one, which it joins.
        unsafe {
            libc::pthread_kill(me, libc::SIGUSR1)
        };
    });
    assert_eq!(cpu.run(), Err(Errno::EINTR));
    kicker.join().unwrap();
}

#[test]
fn a_halted_guest_wakes_by_its_timer_without_waiting() {
    let vm = vm(0);
    vm.value(nr::CREATE_IRQCHIP, 0).unwrap();
    vm.with(nr::CREATE_PIT2, &mut kb::kvm_pit_config::default()).unwrap();
    let ram = Ram::new(0x10000);
    // IVT 8 -> 0:0x1100; PIC at its reset offset 8 by ICW2.
    ram.put(0x20, &[0x00, 0x11, 0x00, 0x00]);
    // Handler: mov al, 'T'; out 0xe9, al; cli; hlt
    ram.put(0x1100, &[0xb0, b'T', 0xe6, 0xe9, 0xfa, 0xf4]);
    let mut code = Vec::new();
    // ICW1..4 of the first 8259, unmask line 0.
    for (port, value) in [(0x20u8, 0x11u8), (0x21, 8), (0x21, 4), (0x21, 1), (0x21, 0xfe)] {
        code.extend([0xb0, value, 0xe6, port]);
    }
    // 8254 channel 0, mode 2, the longest period: 54.9 ms.
    for (port, value) in [(0x43u8, 0x34u8), (0x40, 0), (0x40, 0)] {
        code.extend([0xb0, value, 0xe6, port]);
    }
    // sti; hlt; jmp $-1
    code.extend([0xfb, 0xf4, 0xeb, 0xfd]);
    ram.put(0x1000, &code);
    vm.with(nr::SET_USER_MEMORY_REGION2, &mut region(0, 0, &ram)).unwrap();
    let cpu = Cpu::new(&vm, 0);
    cpu.real_mode(0x1000);
    // LINT0 of the first processor passes the 8259's interrupts on.
    let mut lapic = [0u8; 1024];
    cpu.fd.with(nr::GET_LAPIC, &mut lapic).unwrap();
    lapic[0x350..0x354].copy_from_slice(&0x700u32.to_le_bytes());
    lapic[0xf0..0xf4].copy_from_slice(&0x1ffu32.to_le_bytes());
    cpu.fd.with(nr::SET_LAPIC, &mut lapic).unwrap();
    let since = std::time::Instant::now();
    assert_eq!(cpu.run(), Ok(0));
    assert_eq!(cpu.reason(), kb::KVM_EXIT_IO);
    assert_eq!(cpu.read::<1>(4096), *b"T");
    assert!(since.elapsed() < std::time::Duration::from_millis(50), "{:?}", since.elapsed());
    let mut clock = kb::kvm_clock_data::default();
    vm.with(nr::GET_CLOCK, &mut clock).unwrap();
    assert!(clock.clock > 50_000_000 && clock.clock < 60_000_000, "{}", clock.clock);
}

#[test]
fn a_wanted_interrupt_window_opens_at_once_however_short_it_is() {
    let vm = vm(0);
    let mut cap = kb::kvm_enable_cap { cap: kb::KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
    cap.args[0] = 24;
    vm.with(nr::ENABLE_CAP, &mut cap).unwrap();
    let ram = Ram::new(0x10000);
    // IVT 0x40 -> 0:0x1100: mov al, 'I'; out 0xe9, al
    ram.put(0x100, &[0x00, 0x11, 0x00, 0x00]);
    ram.put(0x1100, &[0xb0, b'I', 0xe6, 0xe9]);
    // sti; nop; cli; jmp $-3
    ram.put(0x1000, &[0xfb, 0x90, 0xfa, 0xeb, 0xfb]);
    vm.with(nr::SET_USER_MEMORY_REGION2, &mut region(0, 0, &ram)).unwrap();
    let cpu = Cpu::new(&vm, 0);
    cpu.real_mode(0x1000);
    cpu.put(0, &[1]);
    assert_eq!(cpu.run(), Ok(0));
    assert_eq!(cpu.reason(), kb::KVM_EXIT_IRQ_WINDOW_OPEN);
    assert_eq!(cpu.read::<2>(12), [1, 1], "ready, and IF is set");
    assert_eq!(cpu.regs().rip, 0x1002, "STI keeps interrupts off for one instruction");
    assert_eq!(cpu.fd.with(nr::INTERRUPT, &mut 0x40u32), Ok(0));
    assert_eq!(cpu.run(), Ok(0));
    assert_eq!(cpu.reason(), kb::KVM_EXIT_IO);
    assert_eq!(cpu.read::<1>(4096), *b"I");
}
