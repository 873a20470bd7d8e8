//! A guest of a few instructions: 64-bit code with its first 2 MiB mapped page by page, some of
//! them shared, that reports through shared memory and ends by a termination request.

use std::ptr;

use abi::snp::PageType;
use iced_x86::code_asm::*;
use kvm_bindings::{kvm_regs, kvm_run, kvm_segment, kvm_sregs};

use crate::harness::*;

/// First frame that is shared and mapped without C-bit.
pub const SHARED: u64 = 0x80;
/// First frame after the shared ones: private and never accepted.
pub const UNACCEPTED: u64 = 0x90;
/// The GHCB.
pub const GHCB: u64 = SHARED << 12;
/// Where a guest leaves its results.
pub const RESULT: u64 = (SHARED + 1) << 12;
/// First instruction.
pub const CODE: u64 = 0x1_0000;
/// Spare pages that are launched with the guest.
pub const SPARE: u64 = 0x30;
/// Frames mapped twice: with C-bit at their address, without at this offset, up to `UNACCEPTED`.
pub const ALIAS: u64 = 0x100;

const C_BIT: u64 = 1 << 51;

pub const MSR_GHCB: u32 = 0xc001_0130;

/// How KVM_RUN came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    Terminate(u64),
    Shutdown,
    Hypercall([u64; 3]),
    Io { out: bool, port: u16, size: u8, count: u32 },
    Mmio { gpa: u64, len: u32, write: bool },
    MemoryFault { flags: u64, gpa: u64, size: u64 },
    FailEntry(u64),
    Certs { gpa: u64, npages: u64 },
    Errno(i32),
    Other(u32),
}

/// A launched guest.
pub struct Guest<'h> {
    pub launch: Launch<'h>,
    pub runs: Vec<Run>,
}

/// A mapped `kvm_run`.
pub struct Run(*mut kvm_run);

// SAFETY: the page is only touched by the thread that runs the vCPU.
unsafe impl Send for Run {}

impl Run {
    pub fn map(vcpu: i32) -> Self {
        // SAFETY: a fresh shared mapping of the vCPU's run page, as every monitor makes it.
        let run = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(ptr::null_mut(), 0x3000, protection, libc::MAP_SHARED, vcpu, 0)
        };
        assert_ne!(run, libc::MAP_FAILED);
        Self(run.cast())
    }

    pub fn page(&mut self) -> &mut kvm_run {
        // SAFETY: the mapping stays until the process ends, and `self` guards it.
        unsafe { &mut *self.0 }
    }

    /// The first words of the exit's description, for what kvm-bindings does not know.
    pub fn words(&mut self) -> &mut [u64; 3] {
        // SAFETY: inside the mapping, at the union's place.
        unsafe { &mut *self.0.cast::<u8>().add(abi::kvm::KVM_RUN_EXIT_OFFSET).cast() }
    }

    /// Bytes behind an I/O exit.
    pub fn io_data(&mut self, len: usize) -> &mut [u8] {
        // SAFETY: KVM places the data inside the mapping.
        unsafe {
            let offset = (*self.0).__bindgen_anon_1.io.data_offset as usize;
            std::slice::from_raw_parts_mut(self.0.cast::<u8>().add(offset), len)
        }
    }

    /// Runs a vCPU until something other than a signal stops it.
    pub fn enter(&mut self, host: &Host, vcpu: i32) -> Exit {
        let answer = loop {
            match host.call(vcpu, RUN, 0) {
                Err(libc::EINTR) => {}
                answer => break answer,
            }
        };
        let words = *self.words();
        let run = self.page();
        if let Err(errno) = answer
            && !(errno == libc::EFAULT && run.exit_reason == 39)
        {
            return Exit::Errno(errno);
        }
        // SAFETY: the exit reason says which member of the union is valid.
        unsafe {
            let u = &run.__bindgen_anon_1;
            match run.exit_reason {
                2 => Exit::Io {
                    out: u.io.direction == 1,
                    port: u.io.port,
                    size: u.io.size,
                    count: u.io.count,
                },
                3 => {
                    assert_eq!(u.hypercall.nr, 12);
                    let args = u.hypercall.args;
                    Exit::Hypercall([args[0], args[1], args[2]])
                }
                6 => Exit::Mmio {
                    gpa: u.mmio.phys_addr,
                    len: u.mmio.len,
                    write: u.mmio.is_write != 0,
                },
                8 => Exit::Shutdown,
                9 => Exit::FailEntry(u.fail_entry.hardware_entry_failure_reason),
                24 => {
                    let event = &u.system_event;
                    assert_eq!((event.type_, event.ndata), (6, 1));
                    Exit::Terminate(event.__bindgen_anon_1.data[0])
                }
                39 => Exit::MemoryFault {
                    flags: u.memory_fault.flags,
                    gpa: u.memory_fault.gpa,
                    size: u.memory_fault.size,
                },
                43 => Exit::Certs { gpa: words[0], npages: words[1] },
                other => Exit::Other(other),
            }
        }
    }
}

/// VMGEXIT.
pub fn vmgexit(a: &mut CodeAssembler) {
    a.db(&[0xf3, 0x0f, 0x01, 0xd9]).unwrap();
}

/// PVALIDATE of the 4 KiB (or 2 MiB) page at `va`; EAX and CF go to the next result slots.
pub fn pvalidate(a: &mut CodeAssembler, va: u64, huge: bool, validate: bool, slot: u64) {
    a.mov(rax, va).unwrap();
    a.mov(ecx, u32::from(huge)).unwrap();
    a.mov(edx, u32::from(validate)).unwrap();
    a.db(&[0xf2, 0x0f, 0x01, 0xff]).unwrap();
    a.setc(bl).unwrap();
    a.movzx(ebx, bl).unwrap();
    a.mov(dword_ptr(RESULT + slot * 8), eax).unwrap();
    a.mov(dword_ptr(RESULT + slot * 8 + 4), ebx).unwrap();
}

/// RMPADJUST of the page at `va` with RDX; EAX goes to a result slot.
pub fn rmpadjust(a: &mut CodeAssembler, va: u64, rdx_value: u64, slot: u64) {
    a.mov(rax, va).unwrap();
    a.xor(ecx, ecx).unwrap();
    a.mov(rdx, rdx_value).unwrap();
    a.db(&[0xf3, 0x0f, 0x01, 0xfe]).unwrap();
    a.mov(qword_ptr(RESULT + slot * 8), rax).unwrap();
}

/// Writes the GHCB MSR.
pub fn write_msr(a: &mut CodeAssembler, value: u64) {
    a.mov(ecx, MSR_GHCB).unwrap();
    a.mov(eax, value as u32).unwrap();
    a.mov(edx, (value >> 32) as u32).unwrap();
    a.wrmsr().unwrap();
}

/// Stores the GHCB MSR in a result slot.
pub fn read_msr(a: &mut CodeAssembler, slot: u64) {
    a.mov(ecx, MSR_GHCB).unwrap();
    a.rdmsr().unwrap();
    a.mov(dword_ptr(RESULT + slot * 8), eax).unwrap();
    a.mov(dword_ptr(RESULT + slot * 8 + 4), edx).unwrap();
}

/// One request of the MSR protocol, its answer in a result slot.
pub fn msr_call(a: &mut CodeAssembler, value: u64, slot: u64) {
    write_msr(a, value);
    vmgexit(a);
    read_msr(a, slot);
}

/// Registers the GHCB and points the MSR at it.
pub fn register_ghcb(a: &mut CodeAssembler) {
    write_msr(a, GHCB | 0x12);
    vmgexit(a);
    write_msr(a, GHCB);
}

/// Ends the guest.
pub fn terminate(a: &mut CodeAssembler) {
    write_msr(a, 0x100);
    vmgexit(a);
    a.hlt().unwrap();
}

/// 64-bit code and data segments over page tables at 0x1000.
pub fn long_mode(sregs: &mut kvm_sregs) {
    let data = kvm_segment {
        selector: 0x18,
        type_: 3,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        limit: !0,
        ..Default::default()
    };
    sregs.cs = kvm_segment { selector: 0x10, type_: 0xb, db: 0, l: 1, ..data };
    (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
    sregs.tr = kvm_segment { type_: 0xb, present: 1, limit: 0xffff, ..Default::default() };
    sregs.idt.limit = 0;
    sregs.cr0 = 0x8000_0031;
    sregs.cr3 = 0x1000 | C_BIT;
    sregs.cr4 = 0x20;
    sregs.efer = 0xd00;
}

impl<'h> Guest<'h> {
    /// A guest of one vCPU.
    pub fn new(host: &'h Host, code: impl FnOnce(&mut CodeAssembler)) -> Self {
        Self::with(host, 1, &[], code)
    }

    /// A guest of several vCPUs with contents for spare pages; only the first vCPU is given
    /// registers.
    pub fn with(
        host: &'h Host,
        vcpus: u64,
        spare: &[[u8; 4096]],
        code: impl FnOnce(&mut CodeAssembler),
    ) -> Self {
        Self::over(host.launch(vcpus), spare, code)
    }

    /// The same over a launch that was started elsewhere.
    pub fn over(
        mut launch: Launch<'h>,
        spare: &[[u8; 4096]],
        code: impl FnOnce(&mut CodeAssembler),
    ) -> Self {
        let vm = &launch.vm;
        vm.enable(abi::kvm::KVM_CAP_EXIT_HYPERCALL, 0x1000).unwrap();
        vm.attributes(GHCB, (UNACCEPTED - SHARED) << 12, 0).unwrap();
        launch.add(PageType::NORMAL, 1, &table(&[(0, 0x2000)])).unwrap();
        launch.add(PageType::NORMAL, 2, &table(&[(0, 0x3000)])).unwrap();
        launch.add(PageType::NORMAL, 3, &table(&[(0, 0x4000), (1, 0x20_0000 | 1 << 7)])).unwrap();
        let leaves: Vec<_> = (0..512).map(|index| (index, index << 12)).collect();
        let mut leaf = table(&leaves);
        for index in 0..512u64 {
            let entry = match index {
                SHARED..UNACCEPTED => index << 12 | 3,
                0x100..0x190 => (index - ALIAS) << 12 | if index < 0x180 { 3 } else { 3 | C_BIT },
                _ => continue,
            };
            leaf[index as usize * 8..][..8].copy_from_slice(&entry.to_le_bytes());
        }
        launch.add(PageType::NORMAL, 4, &leaf).unwrap();
        let mut assembler = CodeAssembler::new(64).unwrap();
        code(&mut assembler);
        let bytes = assembler.assemble(CODE).unwrap();
        let mut page = [0xcc; 4096];
        page[..bytes.len()].copy_from_slice(&bytes);
        launch.add(PageType::NORMAL, CODE >> 12, &page).unwrap();
        launch.add(PageType::ZERO, 0x20, &[0; 4096]).unwrap();
        for (index, contents) in spare.iter().enumerate() {
            launch.add(PageType::NORMAL, SPARE + index as u64, contents).unwrap();
        }
        launch.cpuid(0);
        launch.sregs(0, long_mode).unwrap();
        launch.regs(0, |regs| {
            *regs = kvm_regs { rip: CODE, rsp: 0x2_1000, rflags: 2, ..Default::default() };
        });
        let runs = launch.vcpus.iter().map(|vcpu| Run::map(*vcpu)).collect();
        Self { launch, runs }
    }

    /// LAUNCH_FINISH.
    pub fn seal(self) -> Self {
        self.launch.vm.finish(&Default::default()).unwrap();
        self
    }

    /// Runs the first vCPU.
    pub fn run(&mut self) -> Exit {
        self.runs[0].enter(self.launch.vm.host, self.launch.vcpus[0])
    }

    /// Runs to the termination request, and fails on anything else.
    pub fn finish(&mut self) {
        assert_eq!(self.run(), Exit::Terminate(0x100));
    }

    /// A result slot.
    pub fn result(&mut self, slot: usize) -> u64 {
        let page = self.launch.shared.page((RESULT >> 12) as usize);
        u64::from_le_bytes(page[slot * 8..][..8].try_into().unwrap())
    }
}

/// A page table of entries (index, address), private.
fn table(entries: &[(u64, u64)]) -> [u8; 4096] {
    let mut page = [0; 4096];
    for (index, address) in entries {
        let entry = address | C_BIT | 3;
        page[*index as usize * 8..][..8].copy_from_slice(&entry.to_le_bytes());
    }
    page
}
