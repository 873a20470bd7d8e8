//! The registers that a vCPU starts with, as KVM's structures; for an SEV-SNP guest they become its measured VMSA.

use abi::boot::{BOOT_CS, BOOT_DS};
use abi::shim::snp::{AP_PARK_GPA, ENTRY_GPA};
use abi::shim::{INITIAL_PAGE_TABLE_GPA, PARAMETER_GPA, SHIM_ENTRY_GPA, entry};
use abi::snp::SevFeatures;
use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};

/// Start registers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VcpuRegisters {
    /// Control, segment and descriptor-table registers. APIC base and CR8 are KVM's.
    pub sregs: kvm_sregs,
    /// General registers.
    pub regs: kvm_regs,
    /// What its save area asks for beside SEV-SNP itself; nothing for other guests.
    pub features: SevFeatures,
}

const CODE: kvm_segment = kvm_segment {
    selector: BOOT_CS,
    base: 0,
    limit: 0xffff_ffff,
    type_: 0xb,
    present: 1,
    dpl: 0,
    db: 0,
    s: 1,
    l: 1,
    g: 1,
    avl: 0,
    unusable: 0,
    padding: 0,
};
const DATA: kvm_segment = kvm_segment { selector: BOOT_DS, type_: 0x3, db: 1, l: 0, ..CODE };
const TASK: kvm_segment =
    kvm_segment { selector: 0, limit: 0xffff, type_: 0xb, s: 0, l: 0, g: 0, ..CODE };
const LOCAL: kvm_segment = kvm_segment { type_: 0x2, ..TASK };

/// Where an x86 processor starts after a reset.
pub const RESET_VECTOR: u32 = 0xffff_fff0;
/// CR0 after a reset: caching disabled (CD, NW), extension type.
const RESET_CR0: u64 = 0x6000_0010;

impl VcpuRegisters {
    /// A processor after a reset, in real mode: at the reset vector, or elsewhere by a code segment's base. RDX holds its
    /// signature (CPUID leaf 1, EAX), which is measured (APM vol. 2, table 14-1; QEMU 11.1 target/i386/cpu.c
    /// x86_cpu_reset_hold).
    pub fn reset(at: u32, signature: u32) -> VcpuRegisters {
        const REAL: kvm_segment =
            kvm_segment { limit: 0xffff, selector: 0, type_: 0x3, l: 0, db: 0, g: 0, ..CODE };
        let (base, offset) = (at & 0xffff_0000, at & 0xffff);
        let table = kvm_dtable { base: 0, limit: 0xffff, padding: [0; 3] };
        VcpuRegisters {
            sregs: kvm_sregs {
                cs: kvm_segment { selector: 0xf000, base: base.into(), type_: 0xb, ..REAL },
                ds: REAL,
                es: REAL,
                fs: REAL,
                gs: REAL,
                ss: REAL,
                tr: TASK,
                ldt: LOCAL,
                gdt: table,
                idt: table,
                cr0: RESET_CR0,
                ..Default::default()
            },
            regs: kvm_regs {
                rip: offset.into(),
                rdx: signature.into(),
                rflags: 2,
                ..Default::default()
            },
            features: SevFeatures(0),
        }
    }

    /// The boot processor: enters the shim, an SNP guest's by its first stage.
    pub fn boot(c_bit: Option<u32>) -> VcpuRegisters {
        let mut registers = VcpuRegisters::parked(c_bit);
        match c_bit {
            Some(_) => registers.regs.rip = ENTRY_GPA,
            None => {
                registers.regs.rip = SHIM_ENTRY_GPA;
                registers.regs.rsi = PARAMETER_GPA;
            }
        }
        registers
    }

    /// Another processor: halts in measured memory, should anything wake it before the kernel gives it a state.
    pub fn parked(c_bit: Option<u32>) -> VcpuRegisters {
        let table = kvm_dtable { base: 0, limit: 0, padding: [0; 3] };
        VcpuRegisters {
            sregs: kvm_sregs {
                cs: CODE,
                ds: DATA,
                es: DATA,
                fs: DATA,
                gs: DATA,
                ss: DATA,
                tr: TASK,
                ldt: LOCAL,
                gdt: table,
                idt: table,
                cr0: entry::CR0,
                cr3: INITIAL_PAGE_TABLE_GPA | c_bit.map_or(0, |bit| 1 << bit),
                cr4: entry::CR4,
                efer: entry::EFER,
                ..Default::default()
            },
            regs: kvm_regs { rip: AP_PARK_GPA, rflags: 2, ..Default::default() },
            features: SevFeatures(0),
        }
    }
}
