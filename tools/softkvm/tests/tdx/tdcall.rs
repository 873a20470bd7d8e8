//! TDCALL, function by function.

use std::collections::BTreeMap;

use abi::tdx::leaf::{field, td_ctls};
use abi::tdx::{TdAttributes, TdParams, TdReport, TdxStatus};
use softkvm::cpu::state::{RAX, RCX, RDX};
use softkvm::cpu::{Core, Exception, Mode};
use softkvm::tdx::tdcall::MemoryFault;
use softkvm::tdx::{
    PageState, Td, TdMemory, TdVcpu, Tdcall, TdxModule, TdxPlatform, VeInfo, report, tdcall,
};
use zerocopy::FromBytes;

use crate::{params, platform, running};

const SHARED: u64 = 1 << 47;

/// Pages by address and side.
#[derive(Default)]
struct Memory(BTreeMap<(u64, bool), Vec<u8>>);

impl Memory {
    fn page(&mut self, gpa: u64, shared: bool) -> &mut Vec<u8> {
        self.0.entry((gpa & !0xfff, shared)).or_insert_with(|| vec![0xee; 4096])
    }
}

impl TdMemory for Memory {
    fn read(&mut self, gpa: u64, shared: bool, out: &mut [u8]) -> Result<(), MemoryFault> {
        let page = self.0.get(&(gpa & !0xfff, shared)).ok_or(if gpa < 0x100_0000 {
            MemoryFault::EptViolation
        } else {
            MemoryFault::Mmio
        })?;
        let at = (gpa & 0xfff) as usize;
        out.copy_from_slice(&page[at..at + out.len()]);
        Ok(())
    }
    fn write(&mut self, gpa: u64, shared: bool, data: &[u8]) -> Result<(), MemoryFault> {
        let page = self.0.get_mut(&(gpa & !0xfff, shared)).ok_or(MemoryFault::EptViolation)?;
        let at = (gpa & 0xfff) as usize;
        page[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
    fn clear(&mut self, gpa: u64) -> Result<(), MemoryFault> {
        self.page(gpa, false).fill(0);
        Ok(())
    }
}

/// Registers before a call: every one holds something of its own.
fn core(leaf: u64, rcx: u64, rdx: u64) -> Core {
    let mut core = Core::at_reset();
    core.mode = Mode::Long64;
    for (index, value) in core.gpr[..16].iter_mut().enumerate() {
        *value = 0x1111_1111_1111_1111 * index as u64;
    }
    (core.gpr[RAX], core.gpr[RCX], core.gpr[RDX]) = (leaf, rcx, rdx);
    core
}

/// Makes a call and checks that nothing but the named registers changed.
fn call(
    td: &mut Td,
    vcpu: &mut TdVcpu,
    memory: &mut Memory,
    core: &mut Core,
    changes: &[usize],
) -> Tdcall {
    let before = core.clone();
    let outcome = tdcall(td, vcpu, core, memory);
    for index in 0..18 {
        if !changes.contains(&index) {
            assert_eq!(core.gpr[index], before.gpr[index], "register {index}");
        }
    }
    assert_eq!(core.rip, before.rip);
    outcome
}

/// A call that changes RAX only: its status.
fn status(td: &mut Td, vcpu: &mut TdVcpu, leaf: u64, rcx: u64, rdx: u64) -> u64 {
    let mut core = core(leaf, rcx, rdx);
    assert_eq!(call(td, vcpu, &mut Memory::default(), &mut core, &[RAX]), Tdcall::Done);
    core.gpr[RAX]
}

/// Sets bits of TD_CTLS.
pub fn write_field(td: &mut Td, vcpu: &mut TdVcpu, bits: u64) -> Result<u64, u64> {
    write(td, vcpu, field::TD_CTLS, bits, bits)
}

/// TDG.VM.WR: R8, or the status.
fn write(td: &mut Td, vcpu: &mut TdVcpu, id: u64, value: u64, mask: u64) -> Result<u64, u64> {
    let mut core = core(8, 0, id);
    (core.gpr[8], core.gpr[9]) = (value, mask);
    call(td, vcpu, &mut Memory::default(), &mut core, &[RAX, 8]);
    if core.gpr[RAX] == 0 {
        return Ok(core.gpr[8]);
    }
    assert_eq!(core.gpr[8], 0);
    Err(core.gpr[RAX])
}

fn read(td: &mut Td, vcpu: &mut TdVcpu, id: u64) -> Result<u64, u64> {
    let mut core = core(7, 0, id);
    call(td, vcpu, &mut Memory::default(), &mut core, &[RAX, 8]);
    if core.gpr[RAX] == 0 {
        return Ok(core.gpr[8]);
    }
    assert_eq!(core.gpr[8], 0);
    Err(core.gpr[RAX])
}

#[test]
fn only_64_bit_kernels_call() {
    let (mut td, mut vcpu) = running(&params());
    for (mode, cpl) in [(Mode::Prot32, 0), (Mode::Prot16, 0), (Mode::Real16, 0), (Mode::Long64, 3)]
    {
        let mut core = core(1, 0, 0);
        (core.mode, core.cpl) = (mode, cpl);
        let fault = Tdcall::Fault(Exception::gp(0));
        assert_eq!(call(&mut td, &mut vcpu, &mut Memory::default(), &mut core, &[]), fault);
    }
}

#[test]
fn unknown_functions_and_versions_are_refused() {
    let (mut td, mut vcpu) = running(&params());
    for leaf in
        [9, 10, 11, 12, 18, 20, 22, 23, 24, 25, 26, 27, 99, 0xffff, 1 << 16, 1 << 24, 1 << 63]
    {
        assert_eq!(status(&mut td, &mut vcpu, leaf, 0, 0), 0xc000_0100_0000_0000, "{leaf:#x}");
    }
}

#[test]
fn vmcall_checks_its_mask() {
    let (mut td, mut vcpu) = running(&params());
    for bit in [0, 1, 4, 5, 32, 63] {
        assert_eq!(status(&mut td, &mut vcpu, 0, 1 << bit, 0), 0xc000_0100_0000_0001, "{bit}");
    }
    for mask in [0, 0xffcc, 0xffff_ffcc] {
        let mut core = core(0, mask, 0);
        let outcome = call(&mut td, &mut vcpu, &mut Memory::default(), &mut core, &[]);
        assert_eq!(outcome, Tdcall::Vmcall);
    }
    // RBP is reserved only if TD_PARAMS says so.
    let mut free = params();
    free.config_flags = 0;
    let (mut td, mut vcpu) = running(&free);
    let mut core = core(0, 1 << 5, 0);
    let outcome = call(&mut td, &mut vcpu, &mut Memory::default(), &mut core, &[]);
    assert_eq!(outcome, Tdcall::Vmcall);
}

#[test]
fn info_describes_the_td() {
    for (flags, eptp, width) in [(TdParams::NO_RBP_MOD, 0x1e, 48), (TdParams::MAX_GPAW, 0x26, 52)] {
        let mut params = params();
        (params.config_flags, params.eptp_controls) = (flags, eptp);
        let (mut td, mut vcpu) = running(&params);
        for _ in 0..2 {
            let mut core = core(1, 0, 0);
            let changes = [RAX, RCX, RDX, 8, 9, 10, 11];
            call(&mut td, &mut vcpu, &mut Memory::default(), &mut core, &changes);
            assert_eq!((core.gpr[RAX], core.gpr[RCX], core.gpr[RDX]), (0, width, 1 << 28));
            assert_eq!(core.gpr[8..12], [4 << 32 | 1, 0, 0, 0]);
        }
    }
}

#[test]
fn ve_info_is_fetched_once() {
    let (mut td, mut vcpu) = running(&params());
    let info = VeInfo {
        reason: 48,
        qualification: 0x182,
        gla: 0xffff_8000_0000_1000,
        gpa: SHARED | 0xfec0_0000,
        instruction_length: 4,
        instruction_info: 0xabcd,
    };
    vcpu.raise_ve(&mut Core::at_reset(), info);
    let changes = [RAX, RCX, RDX, 8, 9, 10];
    let mut fetched = core(3, 5, 5);
    call(&mut td, &mut vcpu, &mut Memory::default(), &mut fetched, &changes);
    assert_eq!((fetched.gpr[RAX], fetched.gpr[RCX], fetched.gpr[RDX]), (0, 48, 0x182));
    assert_eq!(fetched.gpr[8..11], [info.gla, info.gpa, 0xabcd_0000_0004]);
    let mut empty = core(3, 5, 5);
    call(&mut td, &mut vcpu, &mut Memory::default(), &mut empty, &changes);
    assert_eq!(empty.gpr[RAX], 0xc000_0704_0000_0000);
    assert_eq!((empty.gpr[RCX], empty.gpr[RDX]), (0, 0));
    assert_eq!(empty.gpr[8..11], [0, 0, 0]);
}

#[test]
fn accept_checks_its_operand() {
    let (mut td, mut vcpu) = running(&params());
    for rcx in [
        2, // 1 GiB
        3,
        7,
        8,
        0x800,
        0x1001, // not on 2 MiB
        SHARED,
        1 << 48,
        1 << 52,
        1 << 63,
    ] {
        assert_eq!(status(&mut td, &mut vcpu, 6, rcx, 0), 0xc000_0100_0000_0001, "{rcx:#x}");
    }
}

fn accept(td: &mut Td, vcpu: &mut TdVcpu, memory: &mut Memory, rcx: u64) -> Result<u64, Tdcall> {
    let mut core = core(6, rcx, 0);
    match call(td, vcpu, memory, &mut core, &[RAX]) {
        Tdcall::Done => Ok(core.gpr[RAX]),
        other => {
            assert_eq!(core.gpr[RAX], 6, "it is executed again");
            Err(other)
        }
    }
}

/// Found by fuzzing (target `tdcall`: RAX 6, RCX a pending page, memory that is not there): the page was accepted
/// nevertheless, so that the call, executed again, returned PAGE_ALREADY_ACCEPTED.
#[test]
fn a_page_that_cannot_be_cleared_is_not_accepted() {
    struct Gone;
    impl TdMemory for Gone {
        fn read(&mut self, _: u64, _: bool, _: &mut [u8]) -> Result<(), MemoryFault> {
            Err(MemoryFault::EptViolation)
        }
        fn write(&mut self, _: u64, _: bool, _: &[u8]) -> Result<(), MemoryFault> {
            Err(MemoryFault::EptViolation)
        }
        fn clear(&mut self, _: u64) -> Result<(), MemoryFault> {
            Err(MemoryFault::EptViolation)
        }
    }
    const PAGE: u64 = 0x2000;
    let (mut td, mut vcpu) = running(&params());
    td.sept_add(PAGE).unwrap();
    td.page_aug(PAGE).unwrap();
    assert_eq!(
        tdcall(&mut td, &mut vcpu, &mut core(6, PAGE, 0), &mut Gone),
        Tdcall::EptViolation { gpa: PAGE, shared: false, accept: true }
    );
    assert_eq!(td.sept().state(PAGE >> 12), PageState::Pending);
    assert_eq!(accept(&mut td, &mut vcpu, &mut Memory::default(), PAGE), Ok(0));
}

/// What Linux does with a fresh 2 MiB under a KVM that maps 4 KiB.
#[test]
fn pages_are_accepted_one_by_one() {
    const BLOCK: u64 = 0x4000_0000;
    let (mut td, mut vcpu) = running(&params());
    let mut memory = Memory::default();
    memory.page(BLOCK, false);
    let violation = |gpa| Err(Tdcall::EptViolation { gpa, shared: false, accept: true });
    assert_eq!(accept(&mut td, &mut vcpu, &mut memory, BLOCK | 1), violation(BLOCK));
    td.sept_add(BLOCK).unwrap();
    td.page_aug(BLOCK).unwrap();
    assert_eq!(accept(&mut td, &mut vcpu, &mut memory, BLOCK | 1), Ok(0xc000_0b0b_0000_0001));
    assert_eq!(accept(&mut td, &mut vcpu, &mut memory, BLOCK), Ok(0));
    assert_eq!(memory.page(BLOCK, false)[..], [0; 4096]);
    assert_eq!(td.sept().state(BLOCK >> 12), PageState::Mapped);
    memory.page(BLOCK, false)[7] = 1;
    assert_eq!(accept(&mut td, &mut vcpu, &mut memory, BLOCK), Ok(0x0000_0b0a_0000_0000));
    assert_eq!(memory.page(BLOCK, false)[7], 1, "what is accepted stays");
    let next = BLOCK + 0x1000;
    assert_eq!(accept(&mut td, &mut vcpu, &mut memory, next), violation(next));
    td.page_aug(next).unwrap();
    assert_eq!(accept(&mut td, &mut vcpu, &mut memory, next), Ok(0));
    td.range_block(next).unwrap();
    assert_eq!(accept(&mut td, &mut vcpu, &mut memory, next), violation(next));
    // Taken away and given back: it must be accepted again, and is empty again.
    td.track().unwrap();
    td.page_remove(next).unwrap();
    assert_eq!(accept(&mut td, &mut vcpu, &mut memory, next), violation(next));
    td.page_aug(next).unwrap();
    assert_eq!(accept(&mut td, &mut vcpu, &mut memory, next), Ok(0));
}

/// A running TD that owns a page at `gpa`.
fn with_page(params: &TdParams, gpa: u64) -> (Td, TdVcpu, Memory) {
    let (mut td, mut vcpu) = running(params);
    let mut memory = Memory::default();
    td.sept_add(gpa).unwrap();
    td.page_aug(gpa).unwrap();
    accept(&mut td, &mut vcpu, &mut memory, gpa).unwrap();
    (td, vcpu, memory)
}

#[test]
fn rtmr_extend_hashes_what_was_there() {
    const PAGE: u64 = 0x9000;
    let (mut td, mut vcpu, mut memory) = with_page(&params(), PAGE);
    let mut extend = |rcx, rdx| {
        let mut core = core(2, rcx, rdx);
        match call(&mut td, &mut vcpu, &mut memory, &mut core, &[RAX]) {
            Tdcall::Done => Ok((core.gpr[RAX], [0, 1, 2, 3].map(|i| td.rtmr(i).unwrap()))),
            other => Err(other),
        }
    };
    let unaligned = extend(PAGE + 16, 0).unwrap();
    assert_eq!(unaligned.0, 0xc000_0100_0000_0001);
    assert_eq!(extend(PAGE | SHARED, 0).unwrap().0, 0xc000_0100_0000_0001);
    assert_eq!(extend(PAGE | 1 << 50, 0).unwrap().0, 0xc000_0100_0000_0001);
    assert_eq!(extend(PAGE + 16, 9).unwrap().0, 0xc000_0100_0000_0001, "the address comes first");
    assert_eq!(extend(PAGE, 4).unwrap().0, 0xc000_0100_0000_0002);
    assert_eq!(extend(PAGE, 1 << 32).unwrap(), (0xc000_0100_0000_0002, [[0; 48]; 4]));
    let gone = Tdcall::EptViolation { gpa: 0xa000, shared: false, accept: false };
    assert_eq!(extend(0xa040, 0), Err(gone));
    let (status, rtmr) = extend(PAGE, 2).unwrap();
    let hex: String = rtmr[2].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        "f57bb7ed82c6ae4a29e6c9879338c592c7d42a39135583e8ccbe3940f2344b0eb6eb8503db0ffd6a39ddd00cd07d8317"
    );
    assert_eq!(status, 0);
    assert_eq!((rtmr[0], rtmr[1], rtmr[3]), ([0; 48], [0; 48], [0; 48]));
    assert_ne!(extend(PAGE + 64, 2).unwrap().1[2], rtmr[2]);
}

#[test]
fn report_is_written_where_asked() {
    const PAGE: u64 = 0x9000;
    let (mut td, mut vcpu, mut memory) = with_page(&params(), PAGE);
    memory.page(PAGE, false)[0x40..0x80].fill(0x5a);
    memory.page(0x7000, true);
    let mut report = |rcx, rdx, r8| {
        let mut core = core(4, rcx, rdx);
        core.gpr[8] = r8;
        match call(&mut td, &mut vcpu, &mut memory, &mut core, &[RAX]) {
            Tdcall::Done => Ok(core.gpr[RAX]),
            other => Err(other),
        }
    };
    let invalid = |register: u64| Ok(0xc000_0100_0000_0000 | register);
    assert_eq!(report(PAGE + 512, PAGE + 1, 1), invalid(1));
    assert_eq!(report(PAGE + 0x400, PAGE + 0x20, 1), invalid(2));
    assert_eq!(report(PAGE + 0x400, PAGE | 1 << 49, 1), invalid(2));
    assert_eq!(report(PAGE + 0x400, PAGE, 1), invalid(8));
    assert_eq!(report(PAGE + 0x400, PAGE, 1 << 40), invalid(8));
    assert_eq!(report(PAGE | 1 << 49, PAGE, 0), invalid(1));
    let violation = |gpa, shared| Err(Tdcall::EptViolation { gpa, shared, accept: false });
    assert_eq!(report(PAGE, 0xb040, 1), violation(0xb000, false), "before the subtype");
    assert_eq!(report(0xb400, PAGE, 0), violation(0xb000, false));
    assert_eq!(report(SHARED | 0x6000, PAGE, 0), violation(0x6000, true));
    assert_eq!(report(PAGE + 0x400, PAGE + 0x40, 0), Ok(0));
    assert_eq!(report(SHARED | 0x7c00, PAGE + 0x40, 0), Ok(0), "shared memory will do");
    let private = TdReport::read_from_bytes(&memory.page(PAGE, false)[0x400..0x800]).unwrap();
    let shared = TdReport::read_from_bytes(&memory.page(0x7000, true)[0xc00..]).unwrap();
    assert!(report::verify(&private) && report::verify(&shared));
    assert_eq!(private.mac.report_data, [0x5a; 64]);
    assert_eq!(memory.page(PAGE, false)[0x800..], [0; 0x800]);
}

#[test]
fn the_module_faults_like_the_guest() {
    // Device memory instead of report data: #VE, with the address as it was.
    let (mut td, mut vcpu, mut memory) = with_page(&params(), 0x9000);
    let mut core_ = core(4, 0x9000, SHARED | 0xfec0_0000);
    core_.gpr[8] = 0;
    let outcome = call(&mut td, &mut vcpu, &mut memory, &mut core_, &[]);
    assert_eq!(outcome, Tdcall::Fault(Exception::plain(20)));
    let info = vcpu.ve_info().unwrap();
    assert_eq!((info.reason, info.gpa, info.qualification), (48, SHARED | 0xfec0_0000, 1));
    // A pending page: exit or #VE.
    for (attributes, expected) in [
        (TdAttributes::SEPT_VE_DISABLE, Tdcall::PendingExit { gpa: 0xa000 }),
        (TdAttributes(0), Tdcall::Fault(Exception::plain(20))),
    ] {
        let mut params = params();
        params.attributes = attributes;
        let (mut td, mut vcpu) = running(&params);
        td.sept_add(0xa000).unwrap();
        td.page_aug(0xa000).unwrap();
        let mut core = core(2, 0xa040, 0);
        let outcome = call(&mut td, &mut vcpu, &mut Memory::default(), &mut core, &[]);
        assert_eq!(outcome, expected);
    }
}

#[test]
fn cpuid_ve_has_two_bits() {
    let (mut td, mut vcpu) = running(&params());
    assert_eq!(status(&mut td, &mut vcpu, 5, 4, 0), 0xc000_0100_0000_0001);
    assert_eq!(status(&mut td, &mut vcpu, 5, 1 << 63, 0), 0xc000_0100_0000_0001);
    for bits in 0..4 {
        assert_eq!(status(&mut td, &mut vcpu, 5, bits, 0), 0);
        assert_eq!((vcpu.cpuid_ve().supervisor, vcpu.cpuid_ve().user), (bits & 1 != 0, bits > 1));
    }
}

#[test]
fn metadata_is_read() {
    let (mut td, mut vcpu) = running(&params());
    for (id, expected) in [
        (field::CONFIG_FLAGS, Ok(TdParams::NO_RBP_MOD)),
        (field::TD_CTLS, Ok(td_ctls::PENDING_VE_DISABLE)),
        (field::NOTIFY_ENABLES, Ok(0)),
        (field::TOPOLOGY_ENUM_CONFIGURED, Ok(1)),
        // Context and sizes are ignored.
        (0x1100_0000_0000_0017, Ok(td_ctls::PENDING_VE_DISABLE)),
        (0x1110_0003_0000_0018, Err(TdxStatus::METADATA_FIELD_ID_INCORRECT.0)),
        (0x1210_0003_0000_0017, Err(0xc000_0c00_0000_0000)),
        (u64::MAX, Err(0xc000_0c00_0000_0000)),
    ] {
        assert_eq!(read(&mut td, &mut vcpu, id), expected, "{id:#x}");
    }
    let mut core = core(7, 1, field::TD_CTLS);
    call(&mut td, &mut vcpu, &mut Memory::default(), &mut core, &[RAX, 8]);
    assert_eq!((core.gpr[RAX], core.gpr[8]), (0xc000_0100_0000_0001, 0));
}

#[test]
fn metadata_is_written_by_its_rules() {
    let (mut td, mut vcpu) = running(&params());
    let not_writable = Err(0xc000_0c01_0000_0000);
    let not_valid = Err(0xc000_0c03_0000_0000);
    for (id, value, mask, expected) in [
        (field::CONFIG_FLAGS, 0, !0, not_writable),
        (field::TOPOLOGY_ENUM_CONFIGURED, 1, !0, not_writable),
        (field::NOTIFY_ENABLES, 0, !0, Ok(0)),
        (field::NOTIFY_ENABLES, 3, !0, not_valid),
        (field::NOTIFY_ENABLES, 1, 1, Ok(0)),
        (field::NOTIFY_ENABLES, 0, 1, Ok(1)),
        (field::NOTIFY_ENABLES, 1, 2, not_writable),
        (field::TD_CTLS, 0, 1, not_valid),
        (field::TD_CTLS, 1, 1, Ok(1)),
        // Nobody reduces #VEs here.
        (field::TD_CTLS, td_ctls::REDUCE_VE, td_ctls::REDUCE_VE, not_writable),
        (field::TD_CTLS, td_ctls::REDUCE_VE | 1, !0, not_valid),
        (field::TD_CTLS, td_ctls::ENUM_TOPOLOGY, td_ctls::ENUM_TOPOLOGY, Ok(1)),
        (field::TD_CTLS, 3, 3, Ok(3)),
        (0x1110_0003_0000_0099, 0, !0, Err(0xc000_0c00_0000_0000)),
    ] {
        let got = write(&mut td, &mut vcpu, id, value, mask);
        assert_eq!(got, expected, "{id:#x} {value:#x} {mask:#x}");
    }
    assert_eq!(td.td_ctls(), 3);
}

#[test]
fn modules_differ_in_what_guests_can_ask_for() {
    for (module, topology, reduce) in [
        (&TdxModule::V1_5_01, Err(0xc000_0c01_0000_0000), Err(0xc000_0c01_0000_0000)),
        (&TdxModule::V1_5_05, Ok(1), Err(0xc000_0c01_0000_0000)),
        (&TdxModule::REDUCE_VE, Ok(1), Ok(3)),
    ] {
        let mut params = params();
        params.config_flags = 0;
        let mut td = Td::new();
        td.init(&TdxPlatform { module, ..platform() }, &params).unwrap();
        let mut vcpu = td.init_vcpu(0, 0).unwrap();
        let got = write_field(&mut td, &mut vcpu, td_ctls::ENUM_TOPOLOGY);
        assert_eq!(got, topology, "{}", module.name);
        let got = write_field(&mut td, &mut vcpu, td_ctls::REDUCE_VE);
        assert_eq!(got, reduce, "{}", module.name);
        if reduce.is_ok() {
            assert_eq!(td.td_ctls(), 0xf, "it implies the others");
            assert_eq!(write_field(&mut td, &mut vcpu, td_ctls::LOCK), Ok(0xf));
            let locked = write(&mut td, &mut vcpu, field::TD_CTLS, 0, td_ctls::REDUCE_VE);
            assert_eq!(locked, Err(0xc000_0c03_0000_0000));
        }
    }
}
