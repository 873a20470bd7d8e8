//! One VM: capabilities, memory slots, attributes, interrupts, vCPUs.
//!
//! UNSAFETY: KVM_SET_USER_MEMORY_REGION(2) hands host memory to the guest, and fallocate(2) takes a bare descriptor.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KVM_MEM_GUEST_MEMFD, KVM_MEMORY_ATTRIBUTE_PRIVATE, KvmIrqRouting,
    kvm_create_guest_memfd, kvm_enable_cap, kvm_irq_routing_entry, kvm_memory_attributes, kvm_msi,
    kvm_userspace_memory_region, kvm_userspace_memory_region2,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::ioctl_with_val;

use super::SysError;
use super::memory::RamRegion;
use super::system::Capability;
use super::target::Target;
use super::vcpu::Vcpu;
use crate::recorder::{GuestNs, Op, Recorder};

/// KVM_HC_MAP_GPA_RANGE, the one hypercall that can be routed to user space (Linux 7.2 include/uapi/linux/kvm_para.h).
pub const KVM_HC_MAP_GPA_RANGE: u64 = 12;

/// A message-signalled interrupt: what a device would write, and where (Intel SDM volume 3, section 12.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// Low half of the address.
    pub address: u32,
    /// The data.
    pub data: u32,
}

/// _IO(KVMIO, 0x41).
const KVM_CREATE_VCPU: libc::c_ulong = 0xae41;
/// _IO(KVMIO, 0xa2) and 0xa3; kvm-ioctls has them for vCPUs only.
const KVM_SET_TSC_KHZ: libc::c_ulong = 0xaea2;
const KVM_GET_TSC_KHZ: libc::c_ulong = 0xaea3;

/// Who may touch a page. The opposite of `Private` is reachable by the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// The guest alone.
    Private,
    /// Guest and host.
    Shared,
}

/// A VM.
#[derive(Debug)]
pub struct Vm {
    fd: VmFd,
}

impl Vm {
    pub(super) fn new(fd: VmFd) -> Vm {
        Vm { fd }
    }

    /// The descriptor, for the wrappers of this folder.
    pub(super) fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Lets page conversions that the guest asks for exit to user space.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn enable_exit_hypercall(&self, recorder: &mut Recorder) -> Result<(), SysError> {
        let mut cap = kvm_enable_cap { cap: 201, ..Default::default() };
        cap.args[0] = 1 << KVM_HC_MAP_GPA_RANGE;
        recorder
            .record(Op::EnableCap, "KVM_CAP_EXIT_HYPERCALL", 0, || self.fd.enable_cap(&cap))
            .map_err(SysError::ioctl_on("KVM_ENABLE_CAP", "for KVM_CAP_EXIT_HYPERCALL".into()))
    }

    /// Tells KVM which three pages of guest address space it may use for itself: old Intel processors need them.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn set_tss_address(&self, recorder: &mut Recorder) -> Result<(), SysError> {
        recorder
            .record(Op::EnableCap, "KVM_SET_TSS_ADDR", 0, || self.fd.set_tss_address(0xfffb_d000))
            .map_err(SysError::ioctl("KVM_SET_TSS_ADDR"))
    }

    /// Makes the in-kernel interrupt controllers.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn create_irqchip(&self, recorder: &mut Recorder) -> Result<(), SysError> {
        recorder
            .record(Op::CreateIrqchip, "KVM_CREATE_IRQCHIP", 0, || self.fd.create_irq_chip())
            .map_err(SysError::ioctl("KVM_CREATE_IRQCHIP"))
    }

    /// Makes the local interrupt controllers, and room for `pins` interrupt lines whose controller is ours.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn split_irqchip(&self, recorder: &mut Recorder, pins: u64) -> Result<(), SysError> {
        self.enable(recorder, Op::CreateIrqchip, "KVM_CAP_SPLIT_IRQCHIP", 121, pins)
    }

    /// Sets the period of the local interrupt controllers' timer.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn set_apic_bus_cycle(&self, recorder: &mut Recorder, ns: u64) -> Result<(), SysError> {
        self.enable(recorder, Op::EnableCap, "KVM_CAP_X86_APIC_BUS_CYCLES_NS", 237, ns)
    }

    /// Sets how long the host polls for a halted vCPU of this VM before it gives the processor away; 0 is not at all.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn set_halt_poll(&self, recorder: &mut Recorder, ns: u32) -> Result<(), SysError> {
        self.enable(recorder, Op::EnableCap, "KVM_CAP_HALT_POLL", 182, ns.into())
    }

    fn enable(
        &self,
        recorder: &mut Recorder,
        op: Op,
        name: &'static str,
        number: u32,
        argument: u64,
    ) -> Result<(), SysError> {
        let mut cap = kvm_enable_cap { cap: number, ..Default::default() };
        cap.args[0] = argument;
        recorder
            .record(op, name, 0, || self.fd.enable_cap(&cap))
            .map_err(SysError::ioctl_on("KVM_ENABLE_CAP", format!("for {name}")))
    }

    /// How many vCPUs this VM may have: fewer than `/dev/kvm` says for some types of VM.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn max_vcpus(&self) -> Result<usize, SysError> {
        let Capability { name, number } = Capability::MAX_VCPUS;
        // Negative for a failure.
        usize::try_from(self.fd.check_extension_raw(number)).map_err(|_| {
            let target = Target::Words(format!("for {name}"));
            SysError::on("KVM_CHECK_EXTENSION", target)(kvm_ioctls::Error::last())
        })
    }

    /// The frequency that the TSC of vCPUs will have, in kHz.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn tsc_khz(&self, recorder: &mut Recorder) -> Result<u32, SysError> {
        let answer = recorder.record(Op::CheckExtension, "KVM_GET_TSC_KHZ", 0, || {
            // SAFETY: the request takes no argument and touches no memory.
            let khz = unsafe { ioctl_with_val(&self.fd, KVM_GET_TSC_KHZ, 0) };
            u32::try_from(khz).map_err(|_| kvm_ioctls::Error::last())
        });
        answer.map_err(SysError::ioctl("KVM_GET_TSC_KHZ"))
    }

    /// Sets it.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn set_tsc_khz(&self, recorder: &mut Recorder, khz: u32) -> Result<(), SysError> {
        let answer = recorder.record(Op::EnableCap, "KVM_SET_TSC_KHZ", 0, || {
            // SAFETY: the argument is a number; no memory is touched.
            match unsafe { ioctl_with_val(&self.fd, KVM_SET_TSC_KHZ, libc::c_ulong::from(khz)) } {
                0 => Ok(()),
                _ => Err(kvm_ioctls::Error::last()),
            }
        });
        answer.map_err(SysError::ioctl_on("KVM_SET_TSC_KHZ", format!("for {khz} kHz")))
    }

    /// Says which interrupt lines lead to which interrupts; lines not named lead nowhere.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn route(&self, routes: &[(u32, Msi)]) -> Result<(), SysError> {
        let entries: Vec<kvm_irq_routing_entry> = routes
            .iter()
            .map(|(gsi, msi)| {
                let mut entry = kvm_irq_routing_entry {
                    gsi: *gsi,
                    type_: KVM_IRQ_ROUTING_MSI,
                    ..Default::default()
                };
                entry.u.msi.address_lo = msi.address;
                entry.u.msi.data = msi.data;
                entry
            })
            .collect();
        let problem =
            SysError::ioctl_on("KVM_SET_GSI_ROUTING", format!("for {} lines", routes.len()));
        // More lines than KVM has room for are a mistake of ours.
        let Ok(table) = KvmIrqRouting::from_entries(&entries) else {
            return Err(problem(kvm_ioctls::Error::new(libc::E2BIG)));
        };
        self.fd.set_gsi_routing(&table).map_err(problem)
    }

    /// Raises an interrupt once.
    ///
    /// # Errors
    /// The ioctl's. A guest that does not take it is no error.
    pub fn signal(&self, msi: Msi) -> Result<(), SysError> {
        let request = kvm_msi { address_lo: msi.address, data: msi.data, ..Default::default() };
        self.fd
            .signal_msi(request)
            .map(drop)
            .map_err(SysError::ioctl_on("KVM_SIGNAL_MSI", format!("for {msi:x?}")))
    }

    /// Lets `event` raise the interrupt line `gsi`.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn register_irqfd(
        &self,
        recorder: &mut Recorder,
        event: &EventFd,
        gsi: u32,
    ) -> Result<(), SysError> {
        recorder
            .record(Op::Irqfd, "KVM_IRQFD", 0, || self.fd.register_irqfd(event, gsi))
            .map_err(SysError::ioctl_on("KVM_IRQFD", format!("for line {gsi}")))
    }

    /// Makes private memory of `len` bytes.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn create_guest_memfd(&self, recorder: &mut Recorder, len: u64) -> Result<File, SysError> {
        let request = kvm_create_guest_memfd { size: len, flags: 0, ..Default::default() };
        let fd = recorder
            .record(Op::CreateGuestMemfd, "KVM_CREATE_GUEST_MEMFD", len, || {
                self.fd.create_guest_memfd(request)
            })
            .map_err(SysError::ioctl_on(
                "KVM_CREATE_GUEST_MEMFD",
                format!("for {} MiB", len >> 20),
            ))?;
        // SAFETY: the kernel has just returned this descriptor to us; nobody else owns it.
        Ok(unsafe { File::from_raw_fd(fd) })
    }

    /// Gives the guest a region of memory without a private half.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn set_plain_region(
        &self,
        recorder: &mut Recorder,
        slot: u32,
        region: &RamRegion,
    ) -> Result<(), SysError> {
        let request = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.gpa(),
            memory_size: region.len(),
            userspace_addr: region.host_address(),
        };
        recorder
            .record(Op::SetMemoryRegion, "KVM_SET_USER_MEMORY_REGION", region.len(), || {
                // SAFETY: the mapping is `region.len()` bytes long and is kept until the VM is gone (`GuestRam` and
                // `Vm` live in the same `Guest`, which drops the VM first).
                unsafe { self.fd.set_user_memory_region(request) }
            })
            .map_err(SysError::on("KVM_SET_USER_MEMORY_REGION", range_of(region)))
    }

    /// Gives the guest a region of memory whose private half is `memfd`.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn set_private_region(
        &self,
        recorder: &mut Recorder,
        slot: u32,
        region: &RamRegion,
        memfd: &File,
    ) -> Result<(), SysError> {
        let request = kvm_userspace_memory_region2 {
            slot,
            flags: KVM_MEM_GUEST_MEMFD,
            guest_phys_addr: region.gpa(),
            memory_size: region.len(),
            userspace_addr: region.host_address(),
            guest_memfd_offset: 0,
            guest_memfd: u32::try_from(memfd.as_raw_fd()).unwrap_or(u32::MAX),
            ..Default::default()
        };
        recorder
            .record(Op::SetMemoryRegion, "KVM_SET_USER_MEMORY_REGION2", region.len(), || {
                // SAFETY: as in `set_plain_region`.
                unsafe { self.fd.set_user_memory_region2(request) }
            })
            .map_err(SysError::on("KVM_SET_USER_MEMORY_REGION2", range_of(region)))
    }

    /// Says whether `[gpa, gpa + len)` is private. Routing only: neither half's pages are touched.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn set_visibility(
        &self,
        gpa: u64,
        len: u64,
        visibility: Visibility,
    ) -> Result<(), SysError> {
        let attributes = match visibility {
            Visibility::Private => u64::from(KVM_MEMORY_ATTRIBUTE_PRIVATE),
            Visibility::Shared => 0,
        };
        let request = kvm_memory_attributes { address: gpa, size: len, attributes, flags: 0 };
        let what = match visibility {
            Visibility::Private => ", to be private",
            Visibility::Shared => ", to be shared",
        };
        let target = Target::Range { gpa, len, what };
        self.fd
            .set_memory_attributes(request)
            .map_err(SysError::on("KVM_SET_MEMORY_ATTRIBUTES", target))
    }

    /// Makes a vCPU. Its id is its APIC id.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn create_vcpu(&self, recorder: &mut Recorder, id: u16) -> Result<Vcpu, SysError> {
        recorder.record(Op::CreateVcpu, "KVM_CREATE_VCPU", 0, || {
            // SAFETY: the argument is a number; no memory is touched.
            let fd = unsafe { ioctl_with_val(&self.fd, KVM_CREATE_VCPU, libc::c_ulong::from(id)) };
            if fd < 0 {
                let failure = kvm_ioctls::Error::last();
                return Err(SysError::on("KVM_CREATE_VCPU", Target::vcpu(id))(failure));
            }
            // In two steps, to tell which of them failed.
            // SAFETY: the kernel has just returned this descriptor of a vCPU; nobody else owns it.
            let fd = unsafe { self.fd.create_vcpu_from_rawfd(fd) }
                .map_err(SysError::ioctl_on("mmap", format!("for the run page of vCPU {id}")))?;
            Ok(Vcpu::new(fd, id, self.fd.run_size()))
        })
    }

    /// The guest's clock.
    pub fn clock(&self) -> Option<GuestNs> {
        self.fd.get_clock().ok().map(|c| GuestNs(c.clock))
    }
}

fn range_of(region: &RamRegion) -> Target {
    Target::Range { gpa: region.gpa(), len: region.len(), what: "" }
}

/// Frees the private pages of `[offset, offset + len)`; what is not allocated is left alone.
///
/// # Errors
/// The system call's.
pub fn punch_private(memfd: &File, offset: u64, len: u64) -> Result<(), SysError> {
    let what = ", of a guest_memfd, to be freed";
    punch(memfd, offset, len)
        .map_err(SysError::on("fallocate", Target::Range { gpa: offset, len, what }))
}

/// Allocates the private pages of `[offset, offset + len)`; what is allocated is left alone.
///
/// # Errors
/// The system call's.
pub fn allocate(memfd: &File, offset: u64, len: u64) -> Result<(), SysError> {
    let result = uninterrupted(|| fallocate(memfd, libc::FALLOC_FL_KEEP_SIZE, offset, len));
    // Which part of memory it is, is up to the host's scheduler.
    let words = "for private memory that --accept prefault wants allocated".into();
    result.map_err(SysError::on("fallocate", Target::Words(words)))
}

/// Makes a call again that a signal has ended; but not for ever, as no signal does.
pub(super) fn uninterrupted(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    const RETRIES: u32 = 16;
    let mut result = call();
    for _ in 0..RETRIES {
        match &result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => result = call(),
            _ => break,
        }
    }
    result
}

fn punch(memfd: &File, offset: u64, len: u64) -> io::Result<()> {
    fallocate(memfd, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, len)
}

fn fallocate(memfd: &File, mode: libc::c_int, offset: u64, len: u64) -> io::Result<()> {
    let to_off =
        |v: u64| libc::off_t::try_from(v).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL));
    // SAFETY: no memory of ours is passed; the descriptor is open for the duration of the call.
    let result = unsafe { libc::fallocate(memfd.as_raw_fd(), mode, to_off(offset)?, to_off(len)?) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
