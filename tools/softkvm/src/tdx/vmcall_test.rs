//! TDVMCALLs against a small host: every rule, then noise.

use std::collections::BTreeMap;

use abi::kvm_tdx::TdxExit;
use abi::tdx::Gpaw;
use abi::tdx::vmcall::{self, Status};
use libc::{EAGAIN, EINVAL};
use proptest::prelude::*;

use super::{Answer, MsrAnswer, Outcome, Vmcall, VmcallExit, VmcallHost, msrs};
use crate::cpu::Core;
use crate::cpu::state::{RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP};

const SHARED: u64 = 1 << 47;
/// What Linux selects.
const MASK: u64 = 0xffcc;
const INVALID: u64 = Status::INVALID_OPERAND.0;
const UNSUPPORTED: u64 = Status::SUBFUNC_UNSUPPORTED.0;

struct Host {
    ports: BTreeMap<u16, u32>,
    msrs: BTreeMap<u32, u64>,
    filtered: Option<u32>,
    reason: Option<u32>,
    capability: bool,
    physical_bits: u8,
    event: bool,
    written: Vec<(u64, Vec<u8>)>,
}

impl Host {
    fn new() -> Self {
        Self {
            ports: BTreeMap::new(),
            msrs: BTreeMap::new(),
            filtered: None,
            reason: None,
            capability: true,
            physical_bits: 52,
            event: false,
            written: Vec::new(),
        }
    }
}

impl VmcallHost for Host {
    fn gpaw(&self) -> Gpaw {
        Gpaw::Bits48
    }
    fn port_in(&mut self, port: u16, _: u8) -> Option<u32> {
        self.ports.get(&port).copied()
    }
    fn port_out(&mut self, port: u16, _: u8, value: u32) -> bool {
        self.ports.insert(port, value).is_some()
    }
    fn mmio_read(&mut self, gpa: u64, out: &mut [u8]) -> bool {
        out.fill(0x77);
        gpa >> 12 == 0xfee00
    }
    fn mmio_write(&mut self, gpa: u64, data: &[u8]) -> bool {
        self.written.push((gpa, data.to_vec()));
        gpa >> 12 == 0xfee00
    }
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        [leaf, subleaf, 3, !0]
    }
    fn rdmsr(&mut self, index: u32) -> MsrAnswer<u64> {
        if self.filtered == Some(index) {
            return MsrAnswer::Exit(8);
        }
        self.msrs.get(&index).map_or(MsrAnswer::Refused, |value| MsrAnswer::Done(*value))
    }
    fn wrmsr(&mut self, index: u32, value: u64) -> MsrAnswer<()> {
        if self.filtered == Some(index) {
            return MsrAnswer::Exit(8);
        }
        self.msrs.insert(index, value);
        MsrAnswer::Done(())
    }
    fn msr_exit_reason(&self, _: u32, _: bool) -> Option<u32> {
        self.reason
    }
    fn hypercall(&mut self, nr: u64, args: [u64; 4]) -> u64 {
        nr * 100 + args.iter().sum::<u64>()
    }
    fn map_gpa_exits(&self) -> bool {
        self.capability
    }
    fn legal_gpa(&self, gpa: u64) -> bool {
        gpa >> self.physical_bits == 0
    }
    fn pending_event(&self) -> bool {
        self.event
    }
}

/// A guest at a TDVMCALL: R10, R11 and the arguments R12 to R15.
fn guest(mask: u64, r10: u64, r11: u64, args: &[u64]) -> Core {
    let mut core = Core::at_reset();
    for (index, value) in core.gpr[..16].iter_mut().enumerate() {
        *value = 0xabcd_0000 + index as u64;
    }
    core.gpr[RAX] = 0;
    core.gpr[RCX] = mask;
    (core.gpr[10], core.gpr[11]) = (r10, r11);
    core.gpr[12..12 + args.len()].copy_from_slice(args);
    core
}

/// Makes a call that ends at once: R10 to R15.
fn ends(host: &mut Host, r11: u64, args: &[u64]) -> [u64; 6] {
    let mut core = guest(MASK, 0, r11, args);
    let mut call = Vmcall::new();
    assert_eq!(call.handle(&mut core, host), Outcome::Resume, "{r11:#x} {args:x?}");
    assert!(!call.in_flight());
    assert_eq!((core.gpr[RAX], core.gpr[RCX]), (0, MASK));
    core.gpr[10..16].try_into().unwrap()
}

/// Makes a call that leaves, answers it: the exit, and R10 to R15.
fn leaves(host: &mut Host, r11: u64, args: &[u64], answer: Answer<'_>) -> (VmcallExit, [u64; 6]) {
    let mut core = guest(MASK, 0, r11, args);
    let before = core.clone();
    let mut call = Vmcall::new();
    let Outcome::Exit(exit) = call.handle(&mut core, host) else { panic!("{r11:#x} {args:x?}") };
    assert!(call.in_flight());
    assert_eq!(core.gpr, before.gpr, "nothing is written before the answer");
    assert_eq!(call.complete(&mut core, host, answer), Outcome::Resume);
    assert!(!call.in_flight());
    (exit, core.gpr[10..16].try_into().unwrap())
}

#[test]
fn registers_pass_only_if_selected() {
    let mut host = Host::new();
    // R12 and R13 are hidden, so the leaf is 0; R14 does not come back.
    let mask = 1 << 10 | 1 << 11 | 1 << 12 | 1 << 15;
    let mut core = guest(mask & !(1 << 12), 0, vmcall::CPUID, &[7, 5]);
    let before = core.clone();
    assert_eq!(Vmcall::new().handle(&mut core, &mut host), Outcome::Resume);
    assert_eq!(core.gpr[12..15], before.gpr[12..15]);
    assert_eq!(core.gpr[15], 0xffff_ffff);
    assert_eq!(core.gpr[..10], before.gpr[..10]);
    // R11 hidden: function 0 does not exist.
    let mut core = guest(1 << 10, 0, vmcall::CPUID, &[]);
    assert_eq!(Vmcall::new().handle(&mut core, &mut host), Outcome::Resume);
    assert_eq!(core.gpr[10], UNSUPPORTED);
    // R10 hidden: not a vendor's call, and no status.
    let mut core = guest(1 << 11, 77, vmcall::SERVICE, &[]);
    assert_eq!(Vmcall::new().handle(&mut core, &mut host), Outcome::Resume);
    assert_eq!(core.gpr[10], 77);
}

#[test]
fn unknown_functions_are_unsupported() {
    let mut host = Host::new();
    for nr in [0, 1, 13, 18, 28, 36, 39, 54, 65, 77, 0x1_0005, 0x1_0006, 0x2_0000, u64::MAX] {
        assert_eq!(ends(&mut host, nr, &[1, 2, 3, 4]), [UNSUPPORTED, nr, 1, 2, 3, 4], "{nr:#x}");
    }
}

#[test]
fn cpuid_answers_in_four_registers() {
    let out = ends(&mut Host::new(), vmcall::CPUID, &[0x1_4000_0000, 9]);
    assert_eq!(out, [0, vmcall::CPUID, 0x4000_0000, 9, 3, 0xffff_ffff]);
}

#[test]
fn hlt_sleeps() {
    for (r12, interrupts_blocked) in [(0, false), (1, true)] {
        let mut host = Host::new();
        let mut core = guest(MASK, 0, vmcall::HLT, &[r12]);
        let mut call = Vmcall::new();
        let halt = Outcome::Halt { interrupts_blocked };
        assert_eq!(call.handle(&mut core, &mut host), halt);
        assert!(call.in_flight());
        assert_eq!(call.complete(&mut core, &mut host, Answer::None), Outcome::Resume);
        assert_eq!((core.gpr[10], core.gpr[12]), (0, r12));
    }
}

#[test]
fn ports_are_the_kernels_or_user_spaces() {
    let mut host = Host::new();
    for size in [0, 3, 5, 8, 1 << 32 | 1] {
        assert_eq!(ends(&mut host, vmcall::IO, &[size, 0, 0x80])[0], INVALID, "{size}");
    }
    for direction in [2, 1 << 32, u64::MAX] {
        assert_eq!(ends(&mut host, vmcall::IO, &[1, direction, 0x80])[0], INVALID);
    }
    host.ports.insert(0x60, 0x1234);
    assert_eq!(ends(&mut host, vmcall::IO, &[1, 0, 0x60])[..2], [0, 0x34]);
    assert_eq!(ends(&mut host, vmcall::IO, &[2, 1, 0x60, 0xdead_beef])[..2], [0, vmcall::IO]);
    assert_eq!(host.ports[&0x60], 0xbeef);
    for (size, bytes, expected) in [
        (1u8, &[0xfe][..], 0xfe),
        (2, &[0xfe, 0xff], 0xfffe),
        (4, &[1, 2, 3, 0x84], 0x8403_0201),
        // What user space leaves behind the data does not count.
        (1, &[5, 6, 7, 8], 5),
    ] {
        let mut host = Host::new();
        let args = [u64::from(size), 0, 0x3f8];
        let (exit, out) = leaves(&mut host, vmcall::IO, &args, Answer::Io(bytes));
        assert_eq!(exit, VmcallExit::Io { data: None, port: 0x3f8, size });
        assert_eq!(out[..2], [0, expected]);
        let args = [u64::from(size), 1, 0x3f8, 0x1122_3344_5566_7788];
        let (exit, out) = leaves(&mut host, vmcall::IO, &args, Answer::None);
        let data = Some((0x5566_7788u64 & ((1u64 << (8 * u32::from(size))) - 1)) as u32);
        assert_eq!(exit, VmcallExit::Io { data, port: 0x3f8, size });
        assert_eq!(out[..2], [0, vmcall::IO]);
    }
}

#[test]
fn mmio_is_shared_memory() {
    let mut host = Host::new();
    let device = SHARED | 0xd000_0000;
    for (size, direction, gpa) in [
        (0, 0, device),
        (3, 0, device),
        (16, 0, device),
        (4, 2, device),
        (4, u64::from(u32::MAX), device),
        (4, 0, 0xd000_0000),
        (4, 0, SHARED - 2),
        (4, 0, u64::MAX >> 16),
    ] {
        let args = [size, direction, gpa, 7];
        let expect = ends(&mut host, vmcall::MMIO, &args)[0];
        assert_eq!(expect, INVALID, "{size} {direction} {gpa:#x}");
    }
    let apic = SHARED | 0xfee0_0000;
    assert_eq!(ends(&mut host, vmcall::MMIO, &[4, 0, apic])[..2], [0, 0x7777_7777]);
    assert_eq!(ends(&mut host, vmcall::MMIO, &[2, 1, apic, 0x1234_5678])[0], 0);
    assert_eq!(host.written.pop(), Some((0xfee0_0000, vec![0x78, 0x56])));
    for len in [1u8, 2, 4, 8] {
        let args = [u64::from(len), 0, device];
        let answer = Answer::Mmio([0x81; 8]);
        let (exit, out) = leaves(&mut host, vmcall::MMIO, &args, answer);
        assert_eq!(exit, VmcallExit::Mmio { gpa: 0xd000_0000, len, data: None });
        assert_eq!(out[..2], [0, 0x8181_8181_8181_8181 >> (64 - 8 * u32::from(len))]);
        let args = [u64::from(len), 1, device, 0x8877_6655_4433_2211];
        let (exit, out) = leaves(&mut host, vmcall::MMIO, &args, Answer::None);
        let mut data = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88];
        data[usize::from(len)..].fill(0);
        assert_eq!(exit, VmcallExit::Mmio { gpa: 0xd000_0000, len, data: Some(data) });
        assert_eq!(out[0], 0);
    }
    // KVM keeps size and direction in ints.
    let args = [1 << 32 | 1, 1 << 32, apic];
    assert_eq!(ends(&mut host, vmcall::MMIO, &args)[..2], [0, 0x77]);
}

#[test]
fn msrs_are_on_a_list() {
    let mut host = Host::new();
    host.msrs.insert(0x1b, 0xfee0_0d00);
    assert_eq!(ends(&mut host, vmcall::RDMSR, &[0x1b])[..2], [0, 0xfee0_0d00]);
    assert_eq!(ends(&mut host, vmcall::RDMSR, &[0x8b])[0], INVALID, "listed, but refused");
    assert_eq!(ends(&mut host, vmcall::WRMSR, &[0x6e0, 99])[..2], [0, vmcall::WRMSR]);
    assert_eq!(host.msrs[&0x6e0], 99);
    host.msrs.insert(0x4b56_4d00, 5);
    for index in [0x4b56_4d00, 0x10, 0x3b, 0xc000_0082, 0xc001_0015] {
        assert_eq!(ends(&mut host, vmcall::RDMSR, &[index])[0], INVALID, "{index:#x}");
        assert_eq!(ends(&mut host, vmcall::WRMSR, &[index, 0])[0], INVALID, "{index:#x}");
    }
    for index in [0x1b, 0x3a, 0xc000_0080] {
        assert_eq!(ends(&mut host, vmcall::WRMSR, &[index, 1])[0], INVALID, "{index:#x}");
    }
    assert_eq!(host.msrs[&0x1b], 0xfee0_0d00);
}

#[test]
fn user_space_can_ask_for_msrs() {
    let mut host = Host::new();
    host.filtered = Some(0x1a0);
    host.reason = Some(2);
    for (index, reason) in [(0x1a0, 8), (0x4b56_4d00, 2)] {
        let done = Answer::Msr { error: false, data: 42 };
        let (exit, out) = leaves(&mut host, vmcall::RDMSR, &[u64::from(index)], done);
        assert_eq!(exit, VmcallExit::Rdmsr { index, reason });
        assert_eq!(out[..2], [0, 42]);
        let refused = Answer::Msr { error: true, data: 42 };
        let (_, out) = leaves(&mut host, vmcall::RDMSR, &[u64::from(index)], refused);
        assert_eq!(out[..2], [INVALID, vmcall::RDMSR]);
        let args = [u64::from(index), 7];
        let (exit, out) = leaves(&mut host, vmcall::WRMSR, &args, done);
        assert_eq!(exit, VmcallExit::Wrmsr { index, value: 7, reason });
        assert_eq!(out[..2], [0, vmcall::WRMSR]);
        let (_, out) = leaves(&mut host, vmcall::WRMSR, &args, refused);
        assert_eq!(out[0], INVALID);
    }
}

#[test]
fn the_list_of_msrs() {
    let yes: &[u32] = &[
        0x1b,
        0x3a,
        0x8b,
        0xce,
        0xfe,
        0x10a,
        0x140,
        0x179,
        0x17a,
        0x17b,
        0x1a0,
        0x1fc,
        0x200,
        0x20f,
        0x250,
        0x26f,
        0x277,
        0x280,
        0x29f,
        0x2ff,
        0x400,
        0x47f,
        0x4d0,
        0x6e0,
        0x802,
        0x803,
        0x80d,
        0x80f,
        0x828,
        0x82f,
        0x830,
        0x832,
        0x837,
        0x838,
        0x839,
        0x83e,
        0x4b56_4d05,
        0xc000_0080,
    ];
    let no: &[u32] = &[
        0,
        0x10,
        0x1c,
        0x3b,
        0x48,
        0x17c,
        0x174,
        0x2a0,
        0x480,
        0x808,
        0x80a,
        0x80b,
        0x810,
        0x827,
        0x829,
        0x831,
        0x83a,
        0x83f,
        0x4b56_4d00,
        0x4b56_4d01,
        0x4b56_4d04,
        0xc000_0081,
    ];
    assert!(yes.iter().all(|index| msrs::emulated(*index, false)));
    assert!(no.iter().all(|i| !msrs::emulated(*i, false) && !msrs::emulated(*i, true)));
    for index in yes {
        let read_only = matches!(index, 0x1b | 0x3a | 0xc000_0080);
        assert_eq!(msrs::emulated(*index, true), !read_only, "{index:#x}");
    }
}

#[test]
fn map_gpa_checks_before_it_leaves() {
    let mut host = Host::new();
    let error =
        |host: &mut Host, gpa, size| ends(host, vmcall::MAP_GPA, &[gpa, size])[..2].to_vec();
    for (gpa, size, status) in [
        (0x1000, 0, Status::INVALID_OPERAND),
        (u64::MAX - 0xfff, 0x1000, Status::INVALID_OPERAND),
        (1 << 52, 0x1000, Status::INVALID_OPERAND),
        ((1 << 52) - 0x1000, 0x2000, Status::INVALID_OPERAND),
        (SHARED - 0x1000, 0x2000, Status::INVALID_OPERAND),
        (0x1001, 0x1000, Status::ALIGN_ERROR),
        (0x1000, 0x1001, Status::ALIGN_ERROR),
        (SHARED | 0x800, 0x800, Status::ALIGN_ERROR),
    ] {
        assert_eq!(error(&mut host, gpa, size), [status.0, gpa], "{gpa:#x} {size:#x}");
    }
    // The shared bit counts as part of the address.
    host.physical_bits = 36;
    assert_eq!(error(&mut host, SHARED | 0x1000, 0x1000), [INVALID, SHARED | 0x1000]);
    host.capability = false;
    assert_eq!(error(&mut host, 0x1001, 0x1000), [UNSUPPORTED, 0x1001]);
}

/// Answers the chunks of one MapGPA in turn: what left, and R10 and R11, or the errno.
fn map(
    host: &mut Host,
    gpa: u64,
    size: u64,
    answers: &[u64],
) -> (Vec<[u64; 3]>, Result<[u64; 2], i32>) {
    let mut core = guest(MASK, 0, vmcall::MAP_GPA, &[gpa, size]);
    let mut call = Vmcall::new();
    let mut outcome = call.handle(&mut core, host);
    let mut exits = vec![];
    let mut answers = answers.iter();
    loop {
        match outcome {
            Outcome::Exit(VmcallExit::MapGpaRange { gpa, npages, attributes }) => {
                exits.push([gpa, npages, attributes]);
                let answer = Answer::Hypercall(*answers.next().unwrap());
                outcome = call.complete(&mut core, host, answer);
            }
            Outcome::Resume => return (exits, Ok([core.gpr[10], core.gpr[11]])),
            Outcome::Fail(errno) => {
                assert!(!call.in_flight());
                return (exits, Err(errno));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn map_gpa_goes_in_chunks() {
    const MIB: u64 = 1 << 20;
    let mut host = Host::new();
    let again = EAGAIN as u64;
    let wrong = EINVAL as u64;
    // Not on 2 MiB: chunks count from the start.
    let start = 0x7000;
    let chunks = |attributes| {
        vec![
            [start, 512, attributes],
            [start + 2 * MIB, 512, attributes],
            [start + 4 * MIB, 256, attributes],
        ]
    };
    let done = Ok([0, vmcall::MAP_GPA]);
    assert_eq!(map(&mut host, start, 5 * MIB, &[0, 0, 0]), (chunks(0x10), done));
    assert_eq!(map(&mut host, SHARED | start, 5 * MIB, &[0, 0, 0]), (chunks(0), done));
    assert_eq!(map(&mut host, start, 2 * MIB, &[0]).0, [[start, 512, 0x10]]);
    assert_eq!(map(&mut host, start, 0x1000, &[0]).0, [[start, 1, 0x10]]);
    let at = SHARED | (start + 2 * MIB);
    for (answer, expected) in [
        (again, Ok([Status::RETRY.0, at])),
        (wrong, Ok([INVALID, at])),
        (5, Err(EINVAL)),
        (1 << 32 | again, Err(EINVAL)),
        (wrong.wrapping_neg(), Err(EINVAL)),
    ] {
        let (exits, end) = map(&mut host, SHARED | start, 5 * MIB, &[0, answer]);
        assert_eq!((exits.len(), end), (2, expected), "{answer:#x}");
    }
    // An event between two chunks: the guest handles it and asks for the rest.
    host.event = true;
    let (exits, end) = map(&mut host, start, 5 * MIB, &[0]);
    assert_eq!((exits.len(), end), (1, Ok([Status::RETRY.0, start + 2 * MIB])));
    assert_eq!(map(&mut host, start, 2 * MIB, &[0]).1, done, "none after the last");
}

#[test]
fn user_space_answers_by_kvm_exit_tdx() {
    let mut host = Host::new();
    let exit = |nr, ret, data| VmcallExit::Tdx(TdxExit { flags: 0, nr, ret, data });
    let answer = |ret, data| Answer::Tdx(TdxExit { flags: 9, nr: 9, ret, data });
    assert_eq!(ends(&mut host, vmcall::GET_TD_VMCALL_INFO, &[0, 1, 2, 3]), [0, 0, 0, 0, 0, 3]);
    assert_eq!(ends(&mut host, vmcall::GET_TD_VMCALL_INFO, &[2])[0], INVALID);
    let reply = answer(0, [1, 11, 12, 13, 14]);
    let (left, out) = leaves(&mut host, vmcall::GET_TD_VMCALL_INFO, &[1, 1, 2, 3], reply);
    assert_eq!(left, exit(0x1_0000, 0, [1, 0, 0, 0, 0]));
    assert_eq!(out, [0, 11, 12, 13, 14, 3]);

    assert_eq!(ends(&mut host, vmcall::GET_QUOTE, &[0x5000, 0x1000])[0], INVALID);
    let args = [SHARED | 0x5000, 0x2001];
    let (left, out) = leaves(&mut host, vmcall::GET_QUOTE, &args, answer(0, [0; 5]));
    assert_eq!(left, exit(0x1_0002, UNSUPPORTED, [0x5000, 0x2001, 0, 0, 0]));
    assert_eq!(out[..2], [0, vmcall::GET_QUOTE]);
    let VmcallExit::Tdx(untouched) = left else { panic!() };
    let (_, out) = leaves(&mut host, vmcall::GET_QUOTE, &args, Answer::Tdx(untouched));
    assert_eq!(out[0], UNSUPPORTED);

    for vector in [0, 31, 256, 1 << 32 | 80] {
        let out = ends(&mut host, vmcall::SETUP_EVENT_NOTIFY_INTERRUPT, &[vector]);
        assert_eq!(out[0], INVALID, "{vector}");
    }
    for vector in [32, 255] {
        let reply = answer(0x55, [0; 5]);
        let (left, out) = leaves(&mut host, vmcall::SETUP_EVENT_NOTIFY_INTERRUPT, &[vector], reply);
        assert_eq!(left, exit(0x1_0004, UNSUPPORTED, [vector, 0, 0, 0, 0]));
        assert_eq!(out[0], 0x55, "verbatim");
    }
}

#[test]
fn a_fatal_error_shows_the_registers() {
    let args = [1, 2, 3, 4];
    let call = vmcall::REPORT_FATAL_ERROR;
    let (exit, out) = leaves(&mut Host::new(), call, &args, Answer::None);
    let VmcallExit::Fatal { data } = exit else { panic!() };
    let mut expected = [0; 16];
    expected[RAX] = 77;
    expected[RCX] = MASK;
    for index in [RDX, RBX, RSI, RDI, 8, 9] {
        expected[index] = 0xabcd_0000 + index as u64;
    }
    (expected[RSP], expected[RBP]) = (0, 0);
    expected[10..].copy_from_slice(&[0, call, 1, 2, 3, 4]);
    assert_eq!(data, expected);
    assert_eq!(out, [0, call, 1, 2, 3, 4], "and the guest goes on");
}

#[test]
fn vendor_calls_are_hypercalls() {
    let mut host = Host::new();
    let mut core = guest(MASK, 11, 1, &[2, 3, 4, 5]);
    assert_eq!(Vmcall::new().handle(&mut core, &mut host), Outcome::Resume);
    assert_eq!(core.gpr[10..16], [1110, 1, 2, 3, 4, 5]);
    for (capability, gpa, npages, expected) in [
        (false, 0x1000, 1, -1000),
        (true, 0x1001, 1, -22),
        (true, 0x1000, 0, -22),
        (true, 0x1000, u64::MAX, -22),
    ] {
        host.capability = capability;
        let mut core = guest(MASK, 12, gpa, &[npages, 0x10]);
        assert_eq!(Vmcall::new().handle(&mut core, &mut host), Outcome::Resume);
        assert_eq!(core.gpr[10] as i64, expected);
    }
    let mut core = guest(MASK, 12, 0x1000, &[600, 0x10]);
    let mut call = Vmcall::new();
    let range = VmcallExit::MapGpaRange { gpa: 0x1000, npages: 600, attributes: 0x10 };
    assert_eq!(call.handle(&mut core, &mut host), Outcome::Exit(range));
    let ret = (-22i64) as u64;
    let outcome = call.complete(&mut core, &mut host, Answer::Hypercall(ret));
    assert_eq!((outcome, core.gpr[10]), (Outcome::Resume, ret), "verbatim");
}

#[test]
fn an_answer_must_fit_its_exit() {
    let mut host = Host::new();
    let mut core = guest(MASK, 0, vmcall::IO, &[1, 0, 0x3f8]);
    let mut call = Vmcall::new();
    assert!(matches!(call.handle(&mut core, &mut host), Outcome::Exit(_)));
    let outcome = call.complete(&mut core, &mut host, Answer::Hypercall(0));
    assert_eq!(outcome, Outcome::Fail(EINVAL));
    assert!(!call.in_flight());
    assert_eq!(call.complete(&mut core, &mut host, Answer::None), Outcome::Resume);
}

proptest! {
    /// Whatever the guest passes, only selected registers and RAX change, and a call is in flight exactly if it left.
    #[test]
    fn noise(mask in any::<u16>(), nr in prop_oneof![0u64..80, 0x1_0000u64..0x1_0007], regs in any::<[u64; 16]>()) {
        let mut core = Core::at_reset();
        core.gpr[..16].copy_from_slice(&regs);
        core.gpr[RCX] = u64::from(mask & !0x33);
        core.gpr[10] = regs[10] & 1;
        core.gpr[11] = nr;
        let before = core.clone();
        let mut call = Vmcall::new();
        let outcome = call.handle(&mut core, &mut Host::new());
        prop_assert_eq!(call.in_flight(), outcome != Outcome::Resume);
        for index in (0..16).filter(|index| *index != RAX && before.gpr[RCX] >> index & 1 == 0) {
            prop_assert_eq!(core.gpr[index], before.gpr[index]);
        }
    }
}
