//! Operations that leave the guest, or would elsewhere.

use abi::marks::MarkId;
use abi::probes::ProbeId;

use super::{Guest, Outcome, Session, obstacle, refused};
use crate::machine::{cpuid, look, port_in, vmcall, vmmcall};
use crate::sys::{self, Errno, File, Mode};

const NO_PORTS: &str = "the kernel answers no ports to a TD's programs";

/// Linux takes the APIC id of leaf 1 from the host in an SNP guest (arch/x86/boot/startup/sev-shared.c
/// `snp_cpuid_postprocess`), and only the hypervisor's leaves in a TD (arch/x86/coco/tdx/tdx.c `handle_cpuid`).
pub fn cpuid_host(session: &mut Session) -> Outcome {
    let leaf = if session.guest == Guest::Td { 0x4000_0000 } else { 1 };
    session.time(ProbeId::CPUID_HOST, u64::from(leaf), || cpuid(leaf))
}

pub fn cpuid_guest(session: &mut Session) -> Outcome {
    if session.guest == Guest::Plain {
        return Err(obstacle("the host answers every CPUID of an unprotected guest"));
    }
    session.time(ProbeId::CPUID_GUEST, 0, || cpuid(0))
}

/// IA32_APIC_BASE, which KVM intercepts, and IA32_FS_BASE, which it lets a guest have: what the way to the instruction costs.
const MSRS: [u32; 2] = [0x1b, 0xc000_0100];

pub fn rdmsr(session: &mut Session) -> Outcome {
    let path = c"/dev/cpu/0/msr";
    let device = match File::open(path, Mode::Read) {
        Err(Errno::ENOENT) => {
            // The module may be there and not yet wanted.
            let module = File::open(c"/modules/msr.ko", Mode::Read);
            let inserted = module.and_then(|module| module.insert_module(false));
            inserted.map_err(refused("the kernel has no /dev/cpu/0/msr and no module for it"))?;
            File::open(path, Mode::Read)
        }
        other => other,
    };
    let device = device.map_err(refused("/dev/cpu/0/msr cannot be opened"))?;
    // On another processor the kernel would send it an interrupt.
    sys::run_on(0).map_err(refused("cannot choose a processor"))?;
    let mut value = [0; 8];
    for msr in MSRS {
        let mut read = || device.read_at(&mut value, msr as usize);
        read().map_err(refused("the register cannot be read"))?;
        session.time(ProbeId::RDMSR, u64::from(msr), read)?;
    }
    Ok(())
}

/// The first PIC's interrupt mask: the one in-kernel device that reads without side effect.
const PIC_MASK: u16 = 0x21;
/// COM1's scratch register, which the kernel's driver has no use for once it has found the chip.
const SCRATCH: u16 = 0x3ff;

pub fn pio_kernel(session: &mut Session) -> Outcome {
    pio(session, ProbeId::PIO_KERNEL, PIC_MASK)
}

pub fn pio_monitor(session: &mut Session) -> Outcome {
    pio(session, ProbeId::PIO_MONITOR, SCRATCH)
}

fn pio(session: &mut Session, id: ProbeId, port: u16) -> Outcome {
    if session.guest == Guest::Td {
        return Err(obstacle(NO_PORTS));
    }
    sys::allow_ports(port, 1).map_err(refused("the kernel allows no ports"))?;
    session.time(id, u64::from(port), || port_in(port))
}

/// In the hole below 4 GiB that cvmm's memory map leaves, at an address where nothing is.
const NOTHING: usize = 0xd000_0000;

pub fn mmio_monitor(session: &mut Session) -> Outcome {
    // Linux answers the kernel alone (arch/x86/coco/sev/vc-handle.c `vc_handle_mmio`; tdx.c `virt_exception_user`).
    if session.guest != Guest::Plain {
        return Err(obstacle("the kernel answers no MMIO to a protected guest's programs"));
    }
    let device = File::open(c"/dev/mem", Mode::Read).map_err(refused("no /dev/mem"))?;
    let word = sys::map_device(&device, NOTHING).map_err(refused("/dev/mem maps no devices"))?;
    session.time(ProbeId::MMIO_MONITOR, NOTHING as u64, || look(word))
}

/// KVM_HC_VAPIC_POLL_IRQ, which does nothing. KVM refuses any hypercall of user space (arch/x86/kvm/x86.c
/// `kvm_emulate_hypercall`), which costs the same way there and back.
const HYPERCALL: u64 = 1;

pub fn hypercall(session: &mut Session) -> Outcome {
    if session.guest == Guest::Td {
        return Err(obstacle("the kernel makes no hypercall for a TD's programs"));
    }
    let name = cpuid(0);
    // "GenuineIntel"; everybody else has AMD's.
    if name.ebx == u32::from_le_bytes(*b"Genu") {
        return session.time(ProbeId::HYPERCALL, HYPERCALL, || vmcall(HYPERCALL));
    }
    session.time(ProbeId::HYPERCALL, HYPERCALL, || vmmcall(HYPERCALL))
}

/// As many marks as were asked for, and no warm-up: they are to be counted.
pub fn mark(session: &mut Session) -> Outcome {
    let samples = session.numbers(session.more)?;
    for (number, sample) in (1..).zip(samples.iter_mut()) {
        *sample = session.clock.time(|| session.marks.send(MarkId::TEST, number));
    }
    session.report(ProbeId::MARK, 0, 1, samples);
    Ok(())
}
