//! Delivery by behaviour: frames, stacks, privilege, nested faults.

use crate::cpu::state::*;
use crate::cpu::testing::*;
use crate::cpu::{Exit, Mode, Seg, deliver};

#[test]
fn a_fault_in_kernel_mode_aligns_the_stack_and_shows_the_instruction() {
    let mut m = Machine::long().code(&[0x0f, 0x0b]);
    m.p.core.gpr[RSP] = STACK - 4;
    m.p.core.set_rflags(0x202);
    assert_eq!(m.vector(), 6);
    assert_eq!(m.p.core.gpr[RSP], STACK - 16 - 40);
    let frame: Vec<u64> = (0..5).map(|i| m.stack64(i)).collect();
    // RF is set in the image of a fault.
    assert_eq!(frame, [CODE, u64::from(KERNEL_CODE), 0x1_0202, STACK - 4, u64::from(KERNEL_DATA)]);
    assert_eq!(m.p.core.rflags() & 0x1_0200, 0, "interrupt gate");
}

#[test]
fn user_faults_switch_stacks() {
    // mov al, [0x40000000]: not mapped
    let mut m = Machine::long().user().code(&[0x8a, 0x04, 0x25, 0, 0, 0, 0x40]);
    assert_eq!(m.vector(), 14);
    assert_eq!(m.p.core.cpl, 0);
    assert_eq!(m.p.core.cr2, 0x4000_0000);
    assert_eq!(m.p.core.gpr[RSP], RSP0 - 48);
    assert_eq!(m.stack64(0), 4, "user read of an absent page");
    assert_eq!(m.stack64(5), u64::from(USER_DATA));
    assert_eq!(m.p.core.seg[Seg::Ss as usize].selector, 0);
}

#[test]
fn interrupt_stack_table() {
    let mut m = Machine::long().code(&[0x0f, 0x0b]);
    m.gate(true, 6, 0xf, 0, 1);
    m.p.core.set_rflags(0x202);
    assert_eq!(m.vector(), 6);
    assert_eq!(m.p.core.gpr[RSP], IST1 - 40);
    assert_eq!(m.stack64(3), STACK);
    assert_ne!(m.p.core.rflags() & 0x200, 0, "trap gate");
}

#[test]
fn software_interrupts_check_the_gate() {
    let mut m = Machine::long().user().code(&[0xcd, 0x80]);
    m.gate(true, 0x80, 0xe, 3, 0);
    assert_eq!(m.vector(), 0x80);
    assert_eq!(m.stack64(0), CODE + 2);
    assert_eq!(m.stack64(2) & 0x1_0000, 0, "not a fault");
    let mut m = Machine::long().user().code(&[0xcd, 0x81]);
    assert_eq!(m.vector(), 13);
    assert_eq!((m.stack64(0), m.stack64(1)), (0x81 * 8 + 2, CODE));
    // INT3 and INT1; the latter needs no DPL.
    let mut m = Machine::long().user().code(&[0xcc]);
    m.gate(true, 3, 0xe, 3, 0);
    assert_eq!(m.vector(), 3);
    assert_eq!(m.stack64(0), CODE + 1);
    let mut m = Machine::long().user().code(&[0xf1]);
    assert_eq!(m.vector(), 1);
}

#[test]
fn a_fault_on_the_way_replaces_benign_ones_and_doubles_others() {
    // #UD through an absent gate: #NP with the gate's index; EXT because no instruction asked.
    let mut m = Machine::long().code(&[0x0f, 0x0b]);
    let gate = m.world.get64(IDT + 6 * 16);
    m.world.put64(IDT + 6 * 16, gate & !(0x80 << 40));
    assert_eq!(m.vector(), 11);
    assert_eq!(m.stack64(0), 6 * 8 + 3);
    // #GP, whose gate is absent: double fault with error code zero.
    let mut m = Machine::long().code(&[0x0f, 0x22, 0xc0]);
    m.p.core.gpr[RAX] = 1 << 40;
    m.world.put64(IDT + 13 * 16, 0);
    assert_eq!(m.vector(), 8);
    assert_eq!((m.stack64(0), m.stack64(1)), (0, CODE));
    // And shutdown when that cannot be delivered either.
    let mut m = Machine::long().code(&[0x0f, 0x22, 0xc0]);
    m.p.core.gpr[RAX] = 1 << 40;
    m.p.core.idtr.limit = 0;
    assert_eq!(m.run(), Exit::Shutdown);
    // A page fault on the page fault's own stack is a double fault.
    let mut m = Machine::long().user().code(&[0x8a, 0x04, 0x25, 0, 0, 0, 0x40]);
    m.world.put64(TSS + 4, 0x7000_0000);
    m.gate(true, 8, 0xe, 0, 1);
    assert_eq!(m.vector(), 8);
    assert_eq!(m.p.core.cr2, 0x7000_0000 - 8);
    assert_eq!(m.p.core.gpr[RSP], IST1 - 48);
}

#[test]
fn interrupts_and_nmi() {
    let mut m = Machine::long().user().code(&[0x90]);
    m.p.core.set_rflags(0x202);
    m.p.core.shadow = true;
    m.p.with_world(&mut m.world, |p| deliver::interrupt(p, 0x31)).unwrap();
    assert_eq!(m.p.core.rip, HANDLERS + 0x310);
    assert_eq!(m.stack64(2), 0x202);
    assert!(!m.p.core.shadow && !m.p.core.nmi_blocked);
    m.p.with_world(&mut m.world, deliver::nmi).unwrap();
    assert_eq!(m.p.core.rip, HANDLERS + 0x20);
    assert!(m.p.core.nmi_blocked);
}

#[test]
fn protected_mode_gates() {
    let mut m = Machine::protected().user().code(&[0x0f, 0x0b]);
    m.p.core.set_rflags(0x202);
    assert_eq!(m.vector(), 6);
    assert_eq!((m.p.core.cpl, m.p.core.gpr[RSP]), (0, RSP0 - 20));
    let frame: Vec<u32> = (0..5).map(|i| m.stack32(i)).collect();
    assert_eq!(
        frame,
        [CODE as u32, u32::from(USER_CODE32), 0x1_0202, STACK as u32, u32::from(USER_DATA)]
    );
    // A 16-bit gate on the same level.
    let mut m = Machine::protected().code(&[0xcd, 0x21]);
    m.gate(false, 0x21, 0x6, 0, 0);
    assert_eq!(m.vector(), 0x21);
    assert_eq!(m.p.core.gpr[RSP], STACK - 6);
    // The inner stack's selector must fit.
    let mut m = Machine::protected().user().code(&[0x0f, 0x0b]);
    m.world.put(TSS + 8, &USER_DATA.to_le_bytes());
    assert_eq!(m.run(), Exit::Shutdown);
    // A task gate is not modelled.
    let mut m = Machine::protected().code(&[0x0f, 0x0b]);
    m.gate(false, 6, 5, 0, 0);
    assert!(matches!(m.run(), Exit::Unknown { what: "task gate", .. }));
}

#[test]
fn real_mode_vectors() {
    // int 0x21, whose handler returns; then hlt
    let mut m = Machine::real().code(&[0xcd, 0x21, 0xf4]);
    m.world.put(HANDLERS + 0x210, &[0xcf]);
    m.p.core.set_rflags(0x246);
    m.step().unwrap();
    assert_eq!((m.p.core.rip, m.p.core.gpr[RSP]), (HANDLERS + 0x210, STACK - 6));
    assert_eq!(m.p.core.rflags(), 0x46);
    m.step().unwrap();
    assert_eq!((m.p.core.rip, m.p.core.rflags(), m.p.core.gpr[RSP]), (CODE + 2, 0x246, STACK));
    assert_eq!(m.p.core.mode, Mode::Real16);
    // A division by zero pushes no error code.
    let mut m = Machine::real().code(&[0xf7, 0xf1]);
    assert_eq!(m.vector(), 0);
    assert_eq!(m.p.core.gpr[RSP], STACK - 6);
}

#[test]
fn single_step() {
    // popfq; nop; nop
    let mut m = Machine::long().code(&[0x9d, 0x90, 0x90]);
    m.world.put64(STACK, 0x102);
    assert_eq!(m.vector(), 1);
    assert_eq!(m.stack64(0), CODE + 2, "after the instruction that follows");
    assert_eq!(m.stack64(2) & 0x1_0100, 0x100);
    assert_ne!(m.p.core.dr[6] & 1 << 14, 0);
    // MOV SS holds the trap off for one instruction.
    let mut m = Machine::long().code(&[0x8e, 0xd0, 0x90, 0x90]);
    m.p.core.gpr[RAX] = u64::from(KERNEL_DATA);
    m.p.core.rflags |= 0x100;
    assert_eq!(m.vector(), 1);
    assert_eq!(m.stack64(0), CODE + 3);
}

#[test]
fn lost_deliveries_are_made_up_for() {
    let mut m = Machine::long().code(&[0x90]);
    m.p.core.pending = Some(crate::cpu::Event::Interrupt(0x40));
    assert_eq!(m.vector(), 0x40);
    assert_eq!(m.p.core.pending, None);
    assert_eq!(m.stack64(0), CODE);
}

#[test]
fn a_page_fault_on_the_way_to_the_handler_of_ve_is_a_double_fault() {
    let mut m = Machine::long().code(&[0x90]);
    m.gate(true, 8, 0xe, 0, 1);
    // Not mapped.
    m.p.core.gpr[RSP] = 0x8000_0000;
    let Machine { p, world } = &mut m;
    let delivered = p.with_world(world, |p| deliver::exception(p, crate::cpu::Exception::VE));
    assert!(delivered.is_ok());
    assert_eq!(m.vector(), 8);
    assert_eq!(m.p.core.cr2, 0x7fff_fff8);
}
