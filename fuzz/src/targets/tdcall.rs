//! A guest that puts anything into the registers of a TDCALL, and user space that answers its exits as it likes.

use abi::kvm_tdx::TdxExit;
use abi::tdx::{Gpaw, TdAttributes, TdParams, Xfam, leaf, vmcall};
use softkvm::cpu::state::{RAX, RBP, RCX, RDX, RSP};
use softkvm::cpu::{Core, Mode, flags};
use softkvm::tdx::tdcall::MemoryFault;
use softkvm::tdx::vmcall::{Answer, MsrAnswer, Outcome, VmcallExit};
use softkvm::tdx::{PageState, Sept, Td, TdMemory, TdVcpu, Tdcall, TdxPlatform, Vmcall};
use softkvm::tdx::{VmcallHost, tdcall};
use zerocopy::FromZeros;

use super::Target;

/// Sends a sequence of TDCALLs.
pub const TARGET: Target = Target { name: "tdcall", seeds, max_len: 16 * RECORD, run };

/// Words for one call: RAX, RCX, RDX, R8 to R15, and the answer.
const WORDS: usize = 12;
const RECORD: usize = 8 * WORDS;
const SHARED: u64 = 1 << 47;
/// A page that is the guest's own; others are pending, blocked, and free.
const MAPPED: u64 = 0x1000;
/// See [`MAPPED`].
const PENDING: u64 = 0x2000;
/// See [`MAPPED`].
const BLOCKED: u64 = 0x3000;
/// See [`MAPPED`].
const FREE: u64 = 0x4000;
/// Exits after which user space makes an end of a MapGPA.
const EXITS: usize = 100;

fn seeds() -> Vec<Vec<u8>> {
    let record = |words: [u64; WORDS]| words.map(u64::to_le_bytes).as_flattened().to_vec();
    let call = |words: [u64; 4]| {
        let [rax, rcx, rdx, r8] = words;
        record([rax, rcx, rdx, r8, 0, 0, 0, 0, 0, 0, 0, 0])
    };
    let ask = |r10: u64, r11: u64, args: [u64; 4], answer: u64| {
        let [r12, r13, r14, r15] = args;
        record([0, 0xffcc, 0, 0, 0, r10, r11, r12, r13, r14, r15, answer])
    };
    let field = leaf::field::TD_CTLS;
    vec![
        [call([1, 0, 0, 0]), call([3, 0, 0, 0]), call([5, 3, 0, 0])].concat(),
        [call([2, MAPPED, 1, 0]), call([4, MAPPED, MAPPED + 1024, 0])].concat(),
        [PENDING, MAPPED, BLOCKED, FREE, 1].map(|rcx| call([6, rcx, 0, 0])).concat(),
        [call([4, SHARED | MAPPED, PENDING, 0]), call([4, FREE, BLOCKED, 0])].concat(),
        [call([7, 0, field, 0]), record([8, 0, field, 2, 2, 0, 0, 0, 0, 0, 0, 0])].concat(),
        [ask(0, vmcall::CPUID, [7, 0, 0, 0], 0), ask(0, vmcall::HLT, [0; 4], 0)].concat(),
        [ask(0, vmcall::IO, [1, 0, 0x60, 0], 9), ask(0, vmcall::IO, [4, 1, 0xf4, 7], 0)].concat(),
        [ask(0, vmcall::RDMSR, [0x1b, 0, 0, 0], 8), ask(0, vmcall::WRMSR, [0x10, 1, 0, 0], 0)]
            .concat(),
        ask(0, vmcall::MMIO, [4, 0, SHARED | 0xfec0_0000, 0], 5),
        ask(0, vmcall::MAP_GPA, [SHARED | 0x10_0000, 0x80_0000, 0, 0], 0),
        ask(0, vmcall::GET_QUOTE, [SHARED | MAPPED, 0x1000, 0, 0], 0),
        [ask(0, vmcall::REPORT_FATAL_ERROR, [1, 0, 0, 0], 0), ask(12, 0x1000, [4, 1, 0, 0], 1)]
            .concat(),
        [0, 1].map(|r12| ask(0, vmcall::GET_TD_VMCALL_INFO, [r12, 0, 0, 0], 0)).concat(),
        ask(0, vmcall::SETUP_EVENT_NOTIFY_INTERRUPT, [0x40, 0, 0, 0], 0),
    ]
}

fn run(input: &[u8]) {
    let (mut td, mut vcpu) = guest(input.first().is_some_and(|first| first & 0x80 != 0));
    let mut call = Vmcall::new();
    for record in input.chunks_exact(RECORD) {
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(record.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let mut core = Core::at_reset();
        core.mode = Mode::Long64;
        for (index, value) in core.gpr[..16].iter_mut().enumerate() {
            *value = 0x0123_4567_89ab_0000 + index as u64;
        }
        (core.gpr[RAX], core.gpr[RCX], core.gpr[RDX]) = (words[0] & !(1 << 7), words[1], words[2]);
        core.gpr[8..16].copy_from_slice(&words[3..11]);
        let answer = words[WORDS - 1];
        if ask_module(&mut td, &mut vcpu, &mut core, answer) == Tdcall::Vmcall {
            ask_host(&mut call, &mut core, answer);
        }
    }
}

/// A TD with a page of every kind.
fn guest(exits: bool) -> (Td, TdVcpu) {
    let mut params = TdParams::new_zeroed();
    params.attributes = if exits { TdAttributes::SEPT_VE_DISABLE } else { TdAttributes(0) };
    (params.xfam, params.max_vcpus, params.eptp_controls) = (Xfam::FIXED1, 1, 0x1e);
    (params.config_flags, params.tsc_frequency) = (TdParams::NO_RBP_MOD, 80);
    let mut td = Td::new();
    let built = td.init(&TdxPlatform::default(), &params).and_then(|()| {
        let vcpu = td.init_vcpu(0, 0)?;
        td.sept_add(0)?;
        td.page_add(MAPPED)?;
        td.page_add(BLOCKED)?;
        td.mr_finalize()?;
        td.page_aug(PENDING)?;
        td.range_block(BLOCKED)?;
        Ok(vcpu)
    });
    (td, built.expect("an ordinary launch"))
}

/// What a call may change besides RAX.
fn returned(rax: u64) -> &'static [usize] {
    match u16::try_from(rax) {
        Ok(leaf::VP_INFO) => &[RCX, RDX, 8, 9, 10, 11],
        Ok(leaf::VP_VEINFO_GET) => &[RCX, RDX, 8, 9, 10],
        Ok(leaf::VM_RD | leaf::VM_WR) => &[8],
        _ => &[],
    }
}

/// Executes TDCALL; what ends in an exit because a page is missing is executed again once the host has given it.
fn ask_module(td: &mut Td, vcpu: &mut TdVcpu, core: &mut Core, answer: u64) -> Tdcall {
    for _ in 0..4 {
        let before = core.clone();
        let mut memory = Memory { sept: td.sept().clone(), answer };
        let outcome = tdcall(td, vcpu, core, &mut memory);
        let changes = returned(before.gpr[RAX]);
        for index in 0..core.gpr.len() {
            let may = outcome == Tdcall::Done && (index == RAX || changes.contains(&index));
            assert!(may || core.gpr[index] == before.gpr[index], "register {index}");
        }
        let fault = matches!(outcome, Tdcall::Fault(_));
        assert_eq!((core.rip, core.cr0, core.cr4), (before.rip, before.cr0, before.cr4));
        assert!(core.rflags == before.rflags || fault && core.rflags ^ before.rflags == flags::RF);
        let Tdcall::EptViolation { gpa, shared: false, accept } = outcome else {
            return outcome;
        };
        let state = td.sept().state(gpa >> 12);
        assert_eq!(state, memory.sept.state(gpa >> 12), "an exit changes no page");
        // The host gives the page, or does not.
        let given = state == PageState::Free
            && answer & 1 == 0
            && td.sept_add(gpa).is_ok()
            && td.page_aug(gpa).is_ok();
        if !given {
            assert!(accept || state != PageState::Mapped);
            return outcome;
        }
    }
    panic!("RAX {:#x} exits for ever", core.gpr[RAX]);
}

/// TDG.VP.VMCALL, until the guest runs again or the run ends.
fn ask_host(call: &mut Vmcall, core: &mut Core, answer: u64) {
    let before = core.clone();
    let mut host = Host { answer };
    let mut outcome = call.handle(core, &mut host);
    let mut map = None;
    let vendor = before.gpr[RCX] >> 10 & 1 != 0 && before.gpr[10] != 0;
    for round in 0.. {
        assert!(round <= EXITS, "one TDVMCALL made {round} exits");
        let exit = match outcome {
            Outcome::Resume => break,
            Outcome::Fail(_) => {
                assert_eq!(core.gpr, before.gpr);
                return;
            }
            Outcome::Halt { .. } => None,
            Outcome::Exit(exit) => Some(exit),
        };
        assert!(call.in_flight());
        assert_eq!(core.gpr, before.gpr, "nothing is written before the answer");
        let Some(exit) = exit else {
            outcome = call.complete(core, &mut host, Answer::None);
            continue;
        };
        judge(&exit, &mut map, !vendor);
        let last = if round + 1 < EXITS { answer } else { 11 };
        outcome = reply(call, core, &mut host, &exit, last);
    }
    assert!(!call.in_flight());
    let mask = before.gpr[RCX];
    assert_eq!(core.gpr[RAX], 0);
    for index in [RCX, RSP, RBP].into_iter().chain((0..16).filter(|index| mask >> index & 1 == 0)) {
        assert!(index == RAX || core.gpr[index] == before.gpr[index], "register {index}");
    }
}

/// An exit says nothing that could not be.
fn judge(exit: &VmcallExit, map: &mut Option<u64>, chunked: bool) {
    match *exit {
        VmcallExit::Io { data, size, .. } => {
            assert!(matches!(size, 1 | 2 | 4), "I/O of {size} bytes");
            assert!(data.is_none_or(|data| u64::from(data) >> (8 * size) == 0));
        }
        VmcallExit::Mmio { gpa, len, .. } => {
            assert!(matches!(len, 1 | 2 | 4 | 8) && gpa & SHARED == 0, "{len} bytes at {gpa:#x}");
        }
        VmcallExit::MapGpaRange { gpa, npages, .. } if chunked => {
            assert!((1..=512).contains(&npages) && gpa & 0xfff == 0 && gpa & SHARED == 0);
            assert!(map.is_none_or(|next| next & !SHARED == gpa), "{gpa:#x} is not the next chunk");
            *map = Some(gpa + (npages << 12));
        }
        VmcallExit::MapGpaRange { gpa, npages, .. } => {
            assert!(gpa & 0xfff == 0 && (gpa >> 12).checked_add(npages).is_some());
        }
        VmcallExit::Tdx(TdxExit { nr, data, .. }) => {
            assert!((vmcall::GET_TD_VMCALL_INFO..=vmcall::SERVICE).contains(&nr));
            assert!(nr != vmcall::GET_QUOTE || data[0] & SHARED == 0);
        }
        VmcallExit::Rdmsr { .. } | VmcallExit::Wrmsr { .. } | VmcallExit::Fatal { .. } => {}
    }
}

/// The answer to an exit, or to another.
fn reply(
    call: &mut Vmcall,
    core: &mut Core,
    host: &mut Host,
    exit: &VmcallExit,
    answer: u64,
) -> Outcome {
    let bytes = answer.to_le_bytes();
    let hypercall = Answer::Hypercall([0, 22, 11, 1, answer][answer as usize % 5]);
    let msr = Answer::Msr { error: answer & 1 != 0, data: answer };
    let answer = match exit {
        _ if answer >> 56 == 0xff => hypercall,
        VmcallExit::Io { .. } => Answer::Io(&bytes[..answer as usize % 9]),
        VmcallExit::Mmio { .. } => Answer::Mmio(bytes),
        VmcallExit::Rdmsr { .. } | VmcallExit::Wrmsr { .. } => msr,
        VmcallExit::MapGpaRange { .. } if answer == 11 => Answer::Hypercall(11),
        VmcallExit::MapGpaRange { .. } => hypercall,
        VmcallExit::Tdx(exit) => Answer::Tdx(TdxExit { ret: answer, data: [answer; 5], ..*exit }),
        VmcallExit::Fatal { .. } => Answer::None,
    };
    call.complete(core, host, answer)
}

/// Guest memory behind a secure EPT as it was before the call.
struct Memory {
    sept: Sept,
    answer: u64,
}

impl Memory {
    fn touch(&self, gpa: u64, shared: bool, len: usize) -> Result<(), MemoryFault> {
        assert!((gpa & 0xfff) + len as u64 <= 4096, "{len} bytes at {gpa:#x} cross a page");
        assert_eq!(gpa & SHARED, 0);
        if !shared {
            assert_eq!(self.sept.state(gpa >> 12), PageState::Mapped, "{gpa:#x}");
            return Ok(());
        }
        match self.answer % 3 {
            0 => Ok(()),
            1 => Err(MemoryFault::Mmio),
            _ => Err(MemoryFault::EptViolation),
        }
    }
}

impl TdMemory for Memory {
    fn read(&mut self, gpa: u64, shared: bool, out: &mut [u8]) -> Result<(), MemoryFault> {
        self.touch(gpa, shared, out.len())
    }
    fn write(&mut self, gpa: u64, shared: bool, data: &[u8]) -> Result<(), MemoryFault> {
        self.touch(gpa, shared, data.len())
    }
    fn clear(&mut self, gpa: u64) -> Result<(), MemoryFault> {
        assert_eq!(self.sept.state(gpa >> 12), PageState::Pending, "{gpa:#x}");
        // What the host has punched out of its file is not there.
        if self.answer & 2 == 0 { Ok(()) } else { Err(MemoryFault::EptViolation) }
    }
}

struct Host {
    answer: u64,
}

impl Host {
    fn msr<T>(&self, value: T) -> MsrAnswer<T> {
        match self.answer >> 3 & 3 {
            0 => MsrAnswer::Done(value),
            1 => MsrAnswer::Exit(8),
            _ => MsrAnswer::Refused,
        }
    }
}

impl VmcallHost for Host {
    fn gpaw(&self) -> Gpaw {
        Gpaw::Bits48
    }
    fn port_in(&mut self, port: u16, _: u8) -> Option<u32> {
        (port & 1 != 0).then_some(u32::MAX)
    }
    fn port_out(&mut self, port: u16, _: u8, _: u32) -> bool {
        port & 1 != 0
    }
    fn mmio_read(&mut self, gpa: u64, out: &mut [u8]) -> bool {
        out.fill(0xa5);
        gpa & 8 != 0
    }
    fn mmio_write(&mut self, gpa: u64, _: &[u8]) -> bool {
        gpa & 8 != 0
    }
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        [leaf, subleaf, 0, 0]
    }
    fn rdmsr(&mut self, _: u32) -> MsrAnswer<u64> {
        self.msr(self.answer)
    }
    fn wrmsr(&mut self, _: u32, _: u64) -> MsrAnswer<()> {
        self.msr(())
    }
    fn msr_exit_reason(&self, index: u32, _: bool) -> Option<u32> {
        (index & 1 != 0).then_some(2)
    }
    fn hypercall(&mut self, nr: u64, _: [u64; 4]) -> u64 {
        nr
    }
    fn map_gpa_exits(&self) -> bool {
        self.answer & 1 << 20 == 0
    }
    fn legal_gpa(&self, gpa: u64) -> bool {
        gpa >> 52 == 0
    }
    fn pending_event(&self) -> bool {
        self.answer & 1 << 21 != 0
    }
}
