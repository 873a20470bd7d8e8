//! TDs as tests build them: by the ioctls of a monitor, from hand-assembled code.
//!
//! A guest enters at the reset vector in 32-bit mode, goes to 64-bit mode on tables that map the first GiB to itself and the
//! second GiB to the same memory as shared, and then runs the test's code with the registers it was entered with. What it
//! wants the test to know it writes to [`REPORT`] by TDVMCALL.
#![allow(unsafe_code, dead_code, missing_docs, clippy::unwrap_used)]

use std::sync::Arc;

use abi::kvm as k;
use abi::kvm_tdx::{
    self as kt, CpuidEntry, CpuidHeader, TdxCapabilities, TdxCmd, TdxInitMemRegion, TdxInitVm, cmd,
};
use abi::tdx::{TdAttributes, TdxStatus, VE_VECTOR, Xfam, vmcall};
use iced_x86::code_asm::*;
use kvm_bindings as kb;
use softkvm::kvm::{Answer, Errno, Machine, Options, number as nr};
use zerocopy::FromZeros;

use crate::common::{self, Cpu, Fd, Ram};

/// The shared bit of a guest with addresses of 48 bits.
pub const SHARED: u64 = 1 << 47;
/// Where the shared alias of memory starts in the guest's linear addresses.
pub const ALIAS: u64 = 1 << 30;
/// Device address that reports go to.
pub const REPORT: u64 = 0xd000_0000;
/// RAM from address 0.
pub const RAM: usize = 8 << 20;
/// Data page of the guest, added and zero.
pub const DATA: u64 = 0x8000;
/// Stack and a second page for data.
pub const STACK_TOP: u64 = 0xa000;
/// Interrupt descriptors.
pub const IDT: u64 = 0xa000;
/// First address that is private but neither added nor accepted.
pub const FRESH: u64 = 0x10_0000;

/// First launch page; the others follow, up to [`ADDED`].
pub const STUB: u64 = 0x1000;
/// Page tables, the root first.
pub const TABLES: u64 = 0x2000;
const CODE: u64 = 0x6000;
/// End of the launch pages.
pub const ADDED: u64 = 0xb000;
/// The launch page with the reset vector.
pub const RESET_PAGE: u64 = 0xffff_f000;

pub const PRIVATE: u64 = k::KVM_MEMORY_ATTRIBUTE_PRIVATE;

/// A refused command: errno, and the module's status.
pub type Refused = (Errno, TdxStatus);

pub fn machine() -> Arc<Machine> {
    machine_of("xeon-spr")
}

/// A machine with a built-in profile, or one in a file.
pub fn machine_of(profile: &str) -> Arc<Machine> {
    Machine::new(Options { profile: Some(profile.to_owned()), ..Default::default() }).unwrap()
}

/// The VM of a TD.
pub struct TdVm {
    pub kvm: Fd,
    pub fd: Fd,
}

/// INIT_VM's structure with its CPUID table.
#[derive(Clone)]
pub struct InitVm {
    pub head: TdxInitVm,
    pub entries: Vec<CpuidEntry>,
}

impl Default for InitVm {
    /// Addresses of 48 bits, pending pages exit.
    fn default() -> Self {
        let mut head = TdxInitVm::new_zeroed();
        head.attributes = TdAttributes::SEPT_VE_DISABLE;
        head.xfam = Xfam::FIXED1;
        let widths = CpuidEntry { function: 0x8000_0008, eax: 48 << 16, ..Default::default() };
        Self { head, entries: vec![widths] }
    }
}

impl InitVm {
    fn bytes(&self) -> Vec<u64> {
        let mut head = self.head;
        if head.cpuid.nent == 0 {
            head.cpuid.nent = self.entries.len() as u32;
        }
        let mut bytes = zerocopy::IntoBytes::as_bytes(&head).to_vec();
        for entry in &self.entries {
            bytes.extend(zerocopy::IntoBytes::as_bytes(entry));
        }
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.chunks_exact(8).map(|c| u64::from_ne_bytes(c.try_into().unwrap())).collect()
    }
}

/// One KVM_MEMORY_ENCRYPT_OP with what is written back.
pub fn command(fd: &Fd, id: u32, flags: u32, data: u64) -> (Answer<i32>, TdxCmd) {
    let mut command = TdxCmd { id, flags, data, hw_error: TdxStatus(0) };
    let answer = fd.with(nr::MEMORY_ENCRYPT_OP, &mut command);
    (answer, command)
}

fn simple(fd: &Fd, id: u32, data: u64) -> Result<(), Refused> {
    let (answer, command) = command(fd, id, 0, data);
    answer.map(drop).map_err(|errno| (errno, command.hw_error))
}

/// Entries that KVM_TDX_GET_CPUID or CAPABILITIES answer with.
pub fn cpuid_list(ask: impl FnOnce(u64) -> Answer<i32>) -> (Answer<i32>, u32, Vec<CpuidEntry>) {
    const ROOM: usize = 256;
    let mut buffer = vec![0u64; 1 + ROOM * 5];
    buffer[0] = ROOM as u64;
    let answer = ask(buffer.as_mut_ptr() as u64);
    let count = buffer[0] as u32;
    let bytes: Vec<u8> = buffer[1..].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let entries = bytes.chunks_exact(40).take(count as usize).map(|chunk| {
        let mut entry = CpuidEntry::default();
        zerocopy::IntoBytes::as_mut_bytes(&mut entry).copy_from_slice(chunk);
        entry
    });
    (answer, count, entries.collect())
}

impl TdVm {
    /// KVM_CREATE_VM alone.
    pub fn bare(machine: &Arc<Machine>) -> Self {
        let kvm = common::kvm(machine);
        let fd = Fd(kvm.value(nr::CREATE_VM, kt::KVM_X86_TDX_VM).unwrap());
        Self { kvm, fd }
    }

    /// Split irqchip, APIC bus of 25 MHz, exits for MapGPA.
    pub fn prepared(machine: &Arc<Machine>) -> Self {
        let vm = Self::bare(machine);
        vm.enable(kb::KVM_CAP_SPLIT_IRQCHIP, 24).unwrap();
        vm.enable(kb::KVM_CAP_X86_APIC_BUS_CYCLES_NS, 40).unwrap();
        vm.enable(k::KVM_CAP_EXIT_HYPERCALL, k::KVM_EXIT_HYPERCALL_MAP_GPA).unwrap();
        vm
    }

    pub fn enable(&self, cap: u32, argument: u64) -> Answer<i32> {
        let mut request = kb::kvm_enable_cap { cap, ..Default::default() };
        request.args[0] = argument;
        self.fd.with(nr::ENABLE_CAP, &mut request)
    }

    pub fn capabilities(&self) -> (TdxCapabilities, Vec<CpuidEntry>) {
        const ROOM: usize = 64;
        let mut buffer = vec![0u64; (size_of::<TdxCapabilities>() + ROOM * 40) / 8];
        buffer[256] = ROOM as u64;
        simple(&self.fd, cmd::CAPABILITIES, buffer.as_mut_ptr() as u64).unwrap();
        let bytes: Vec<u8> = buffer.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut head = TdxCapabilities::new_zeroed();
        let (first, rest) = bytes.split_at(size_of::<TdxCapabilities>());
        zerocopy::IntoBytes::as_mut_bytes(&mut head).copy_from_slice(first);
        let entries = rest.chunks_exact(40).take(head.cpuid.nent as usize).map(|chunk| {
            let mut entry = CpuidEntry::default();
            zerocopy::IntoBytes::as_mut_bytes(&mut entry).copy_from_slice(chunk);
            entry
        });
        (head, entries.collect())
    }

    pub fn init(&self, init: &InitVm) -> Result<(), Refused> {
        let words = init.bytes();
        simple(&self.fd, cmd::INIT_VM, words.as_ptr() as u64)
    }

    pub fn finalize(&self) -> Result<(), Refused> {
        simple(&self.fd, cmd::FINALIZE_VM, 0)
    }

    pub fn attributes(&self, address: u64, size: u64, attributes: u64) -> Answer<i32> {
        let mut request = k::MemoryAttributes { address, size, attributes, flags: 0 };
        self.fd.with(nr::SET_MEMORY_ATTRIBUTES, &mut request)
    }

    /// A slot with guest memory behind it.
    pub fn slot(&self, slot: u32, gpa: u64, ram: &Ram) -> Fd {
        let mut request = k::CreateGuestMemfd { size: ram.len as u64, ..Default::default() };
        let memfd = Fd(self.fd.with(nr::CREATE_GUEST_MEMFD, &mut request).unwrap());
        let mut region = common::region(slot, gpa, ram);
        region.flags = nr::MEM_GUEST_MEMFD;
        region.guest_memfd = memfd.0 as u32;
        self.fd.with(nr::SET_USER_MEMORY_REGION2, &mut region).unwrap();
        memfd
    }

    /// A vCPU with the CPUID that the module offers it, not yet initialised.
    pub fn vcpu(&self, id: u64) -> Cpu {
        let cpu = Cpu::new(&self.fd, id);
        set_cpuid(&cpu, &td_cpuid(&cpu));
        cpu
    }
}

/// What KVM_SET_CPUID2 is to be given: the module's answer, and KVM's own functions.
pub fn td_cpuid(cpu: &Cpu) -> Vec<CpuidEntry> {
    let (answer, _, mut entries) = cpuid_list(|at| command(&cpu.fd, cmd::GET_CPUID, 0, at).0);
    answer.unwrap();
    let signature = u32::from_le_bytes(*b"KVMK");
    let (vmkv, m) = (u32::from_le_bytes(*b"VMKV"), u32::from(b'M'));
    for (function, words) in
        [(0x4000_0000, [0x4000_0001, signature, vmkv, m]), (0x4000_0001, [1 << 1, 0, 0, 0])]
    {
        entries.push(CpuidEntry {
            function,
            eax: words[0],
            ebx: words[1],
            ecx: words[2],
            edx: words[3],
            ..Default::default()
        });
    }
    entries
}

pub fn set_cpuid(cpu: &Cpu, entries: &[CpuidEntry]) {
    let head = CpuidHeader { nent: entries.len() as u32, padding: 0 };
    let mut bytes = zerocopy::IntoBytes::as_bytes(&head).to_vec();
    for entry in entries {
        bytes.extend(zerocopy::IntoBytes::as_bytes(entry));
    }
    cpu.fd.value(nr::SET_CPUID2, bytes.as_ptr() as u64).unwrap();
}

pub fn init_vcpu(cpu: &Cpu, data: u64) -> Result<(), Refused> {
    simple(&cpu.fd, cmd::INIT_VCPU, data)
}

/// INIT_MEM_REGION; the structure as it comes back.
pub fn add(
    cpu: &Cpu,
    gpa: u64,
    source: u64,
    pages: u64,
    measure: bool,
) -> (Answer<i32>, TdxInitMemRegion) {
    let mut region = TdxInitMemRegion { source_addr: source, gpa, nr_pages: pages };
    let flags = if measure { kt::MEASURE_MEMORY_REGION } else { 0 };
    let at = std::ptr::from_mut(&mut region) as u64;
    let (answer, _) = command(&cpu.fd, cmd::INIT_MEM_REGION, flags, at);
    (answer, region)
}

/// A TD that is ready to run.
pub struct TdGuest {
    pub vm: TdVm,
    pub cpus: Vec<Cpu>,
    /// The shared half of RAM.
    pub ram: Ram,
    pub memfd: Fd,
    _reset: (Ram, Fd),
    /// The launch pages from [`STUB`] on as they lie in memory; at [`ADDED`] that of the reset vector.
    pub source: Ram,
}

// SAFETY: guest memory and run pages are only touched by copies and volatile accesses, and each vCPU has a thread of its own.
unsafe impl Sync for TdGuest {}

/// How a guest that is content leaves.
pub const FATAL: Left = Left::Exit(kb::KVM_EXIT_SYSTEM_EVENT);

/// How a vCPU left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// By a report.
    Report(u64),
    /// By KVM_EXIT_*.
    Exit(u32),
    /// KVM_RUN failed.
    Failed(Errno),
}

impl TdGuest {
    /// A guest of one vCPU with this 64-bit code.
    pub fn new(code: impl FnOnce(&mut CodeAssembler)) -> Self {
        Self::with(&InitVm::default(), 1, code)
    }

    pub fn with(init: &InitVm, vcpus: u64, code: impl FnOnce(&mut CodeAssembler)) -> Self {
        Self::on(&machine(), init, vcpus, code)
    }

    pub fn on(
        machine: &Arc<Machine>,
        init: &InitVm,
        vcpus: u64,
        code: impl FnOnce(&mut CodeAssembler),
    ) -> Self {
        let vm = TdVm::prepared(machine);
        vm.init(init).unwrap();
        let cpus: Vec<Cpu> = (0..vcpus).map(|id| vm.vcpu(id)).collect();
        for cpu in &cpus {
            init_vcpu(cpu, 0x1234_5678_9abc_def0).unwrap();
        }
        let guest = Self::unfinished(vm, cpus, |_| {}, code);
        guest.vm.finalize().unwrap();
        guest
    }

    /// A guest of one vCPU that runs `early` code in 32-bit mode, with paging off, before its 64-bit code.
    pub fn entering(
        init: &InitVm,
        early: impl FnOnce(&mut CodeAssembler),
        code: impl FnOnce(&mut CodeAssembler),
    ) -> Self {
        let vm = TdVm::prepared(&machine());
        vm.init(init).unwrap();
        let cpus = vec![vm.vcpu(0)];
        init_vcpu(&cpus[0], 0).unwrap();
        let guest = Self::unfinished(vm, cpus, early, code);
        guest.vm.finalize().unwrap();
        guest
    }

    /// A guest in a VM after INIT_VM, with vCPUs of which the first is initialised: memory and launch pages, but not
    /// FINALIZE_VM.
    pub fn unfinished(
        vm: TdVm,
        cpus: Vec<Cpu>,
        early: impl FnOnce(&mut CodeAssembler),
        code: impl FnOnce(&mut CodeAssembler),
    ) -> Self {
        let (ram, top) = (Ram::new(RAM), Ram::new(0x1000));
        let memfd = vm.slot(0, 0, &ram);
        let top_fd = vm.slot(1, RESET_PAGE, &top);
        vm.attributes(0, RAM as u64, PRIVATE).unwrap();
        vm.attributes(RESET_PAGE, 0x1000, PRIVATE).unwrap();
        let source = image(early, code);
        let at = source.base as u64;
        add(&cpus[0], RESET_PAGE, at + ADDED, 1, true).0.unwrap();
        add(&cpus[0], STUB, at + STUB, (ADDED - STUB) >> 12, true).0.unwrap();
        Self { vm, cpus, ram, memfd, _reset: (top, top_fd), source }
    }

    /// Runs the first vCPU until it leaves.
    pub fn run(&self) -> Left {
        self.run_cpu(0)
    }

    pub fn run_cpu(&self, cpu: usize) -> Left {
        let cpu = &self.cpus[cpu];
        match cpu.run() {
            Ok(_) if cpu.reason() == kb::KVM_EXIT_MMIO && cpu.u64(32) == REPORT => {
                Left::Report(cpu.u64(40))
            }
            Ok(_) => Left::Exit(cpu.reason()),
            Err(errno) => Left::Failed(errno),
        }
    }

    /// Everything the first vCPU reports before it leaves for another reason.
    pub fn reports(&self) -> (Vec<u64>, Left) {
        let mut reports = Vec::new();
        loop {
            match self.run() {
                Left::Report(value) => reports.push(value),
                other => return (reports, other),
            }
        }
    }
}

/// All launch pages: from the stub's on as they lie in memory, then the reset page.
fn image(early: impl FnOnce(&mut CodeAssembler), code: impl FnOnce(&mut CodeAssembler)) -> Ram {
    let image = Ram::new(ADDED as usize + 0x1000);
    let put64 = |at: u64, value: u64| image.put(at as usize, &value.to_le_bytes());
    // jmp STUB
    let mut reset = vec![0xe9];
    reset.extend(((STUB as u32).wrapping_sub(0xffff_fff5)).to_le_bytes());
    image.put(ADDED as usize + 0xff0, &reset);
    let stub = stub(early);
    assert!(stub.len() <= 0xf00);
    image.put(STUB as usize, &stub);
    // Descriptors: null, 64-bit code, data.
    put64(STUB + 0xf00, 0);
    put64(STUB + 0xf08, 0x00af_9b00_0000_ffff);
    put64(STUB + 0xf10, 0x00cf_9300_0000_ffff);
    image.put(STUB as usize + 0xf20, &[0x17, 0]);
    image.put(STUB as usize + 0xf22, &(STUB as u32 + 0xf00).to_le_bytes());
    put64(TABLES, (TABLES + 0x1000) | 7);
    put64(TABLES + 0x1000, (TABLES + 0x2000) | 7);
    put64(TABLES + 0x1008, (TABLES + 0x3000) | 7);
    for i in 0..512u64 {
        put64(TABLES + 0x2000 + i * 8, i << 21 | 0xe7);
        put64(TABLES + 0x3000 + i * 8, i << 21 | SHARED | 0xe7);
    }
    let mut a = CodeAssembler::new(64).unwrap();
    code(&mut a);
    let code = a.assemble(CODE).unwrap();
    assert!(code.len() <= 0x2000);
    image.put(CODE as usize, &code);
    image
}

/// From 32-bit to 64-bit mode with EAX, EDI and EBP for itself; EDI and EBP hold what CR0 and CR4 were.
fn stub(early: impl FnOnce(&mut CodeAssembler)) -> Vec<u8> {
    let mut a = CodeAssembler::new(32).unwrap();
    early(&mut a);
    a.mov(edi, cr0).unwrap();
    a.mov(ebp, cr4).unwrap();
    a.lgdt(fword_ptr(STUB as u32 + 0xf20)).unwrap();
    a.mov(eax, ebp).unwrap();
    a.or(eax, 0x20).unwrap();
    a.mov(cr4, eax).unwrap();
    a.mov(eax, TABLES as u32).unwrap();
    a.mov(cr3, eax).unwrap();
    a.mov(eax, edi).unwrap();
    a.or(eax, 0x8000_0000u32 as i32).unwrap();
    a.mov(cr0, eax).unwrap();
    let mut code = a.assemble(STUB).unwrap();
    // ljmp 8:CODE
    code.push(0xea);
    code.extend((CODE as u32).to_le_bytes());
    code.extend([8, 0]);
    code
}

/// TDVMCALL with R10 = 0 and these values from R11 on; RCX selects R10 to R15. Clobbers them, RAX and RCX.
pub fn tdvmcall(a: &mut CodeAssembler, values: &[u64]) {
    let registers = [r11, r12, r13, r14, r15];
    a.xor(r10d, r10d).unwrap();
    for (register, value) in registers.iter().zip(values) {
        a.mov(*register, *value).unwrap();
    }
    go(a);
}

/// TDG.VP.VMCALL with R10 to R15 as they are.
pub fn go(a: &mut CodeAssembler) {
    a.mov(ecx, 0xfc00u32).unwrap();
    a.xor(eax, eax).unwrap();
    tdcall(a);
}

/// The instruction.
pub fn tdcall(a: &mut CodeAssembler) {
    a.db(&[0x66, 0x0f, 0x01, 0xcc]).unwrap();
}

/// Reports a register; clobbers R10 to R15, RAX and RCX, so R15 and RAX may be reported themselves.
pub fn report(a: &mut CodeAssembler, register: AsmRegister64) {
    if register != r15 {
        a.mov(r15, register).unwrap();
    }
    a.xor(r10d, r10d).unwrap();
    a.mov(r11, vmcall::MMIO).unwrap();
    a.mov(r12, 8u64).unwrap();
    a.mov(r13, 1u64).unwrap();
    a.mov(r14, REPORT | SHARED).unwrap();
    go(a);
}

/// The end of a test guest: ReportFatalError with this code.
pub fn end(a: &mut CodeAssembler, code: u64) {
    tdvmcall(a, &[vmcall::REPORT_FATAL_ERROR, code]);
}

/// TDG.MEM.PAGE.ACCEPT of a page of `level`; the status is in RAX.
pub fn accept(a: &mut CodeAssembler, gpa: u64, level: u64) {
    a.mov(rcx, gpa | level).unwrap();
    a.mov(eax, 6u32).unwrap();
    tdcall(a);
}

/// Data segments and a stack.
pub fn stack(a: &mut CodeAssembler) {
    a.mov(eax, 0x10u32).unwrap();
    a.mov(ss, eax).unwrap();
    a.mov(rsp, STACK_TOP).unwrap();
}

/// Lets #VE go to `handler`, with a [`stack`]. Clobbers RAX and RDX.
pub fn catch_ve(a: &mut CodeAssembler, handler: CodeLabel) {
    stack(a);
    load_idt(a);
    gate(a, VE_VECTOR, handler);
}

/// An interrupt gate. Clobbers RAX and RDX.
pub fn gate(a: &mut CodeAssembler, vector: u8, handler: CodeLabel) {
    let gate = IDT + u64::from(vector) * 16;
    a.lea(rax, ptr(handler)).unwrap();
    a.mov(rdx, rax).unwrap();
    a.and(edx, 0xffff_0000u32 as i32).unwrap();
    a.or(edx, 0x8e00).unwrap();
    a.and(eax, 0xffff).unwrap();
    a.or(eax, 8 << 16).unwrap();
    a.mov(dword_ptr(gate), eax).unwrap();
    a.mov(dword_ptr(gate + 4), edx).unwrap();
}

/// The table of interrupt descriptors, which is empty. Clobbers RAX.
pub fn load_idt(a: &mut CodeAssembler) {
    a.mov(word_ptr(DATA + 0xff0), 0xfffu32 as i32).unwrap();
    a.mov(rax, IDT).unwrap();
    a.mov(qword_ptr(DATA + 0xff2), rax).unwrap();
    a.lidt(tbyte_ptr(DATA + 0xff0)).unwrap();
}

/// VEINFO.GET and its answers: reason, qualification, linear and physical address, length; then the end.
pub fn report_ve(a: &mut CodeAssembler) {
    a.mov(eax, 3u32).unwrap();
    tdcall(a);
    a.mov(rbx, rcx).unwrap();
    a.mov(rbp, rdx).unwrap();
    a.mov(rsi, r8).unwrap();
    a.mov(rdi, r9).unwrap();
    a.mov(rdx, r10).unwrap();
    for register in [rbx, rbp, rsi, rdi, rdx] {
        report(a, register);
    }
    end(a, 0);
}

/// What a guest finds in VEINFO after this code, which must raise #VE.
pub fn ve_of(code: impl FnOnce(&mut CodeAssembler)) -> Vec<u64> {
    let guest = TdGuest::new(|a| {
        let mut handler = a.create_label();
        catch_ve(a, handler);
        code(a);
        end(a, 99);
        a.set_label(&mut handler).unwrap();
        report_ve(a);
    });
    let (reports, left) = guest.reports();
    assert_eq!(left, FATAL);
    reports
}
