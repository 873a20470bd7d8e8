//! KVM's interface: `/dev/kvm`, `/dev/sev` and what their ioctls return, with the ordering rules
//! and errno values of Linux 7.2.
//!
//! [`Front`] is the whole of it, called with descriptors and request numbers. Every descriptor it
//! hands out is a real memory file; see [`fd`]. A VM's state is in [`state`], its memory in
//! [`memory`]; [`run`] is KVM_RUN and the order in which vCPUs run; [`world`] is what a processor
//! sees of its VM. [`sev`] and [`tdx`] are the launch commands of confidential VMs; where one kind of VM has to be told
//! from another, `protection` does it.
//!
//! Not modelled: SMM, nested virtualisation, guest debugging, Hyper-V and Xen interfaces. What a guest wants beyond that is said on stderr.

pub mod calls;
pub mod caps;
pub mod coalesced;
pub mod counts;
pub mod cpuid;
pub mod errno;
pub mod eventfd;
pub mod failures;
pub mod faults;
pub mod fd;
pub mod files;
mod ghcb_host;
mod ghcb_run;
pub mod halt;
pub mod hostile;
pub mod machine;
pub mod memory;
pub mod msrs;
pub mod number;
mod owed;
pub mod profile;
mod protection;
pub mod psp_queue;
pub mod regs;
pub mod replay;
pub mod run;
pub mod run_page;
pub mod sev;
pub mod signals;
mod snp_world;
mod spin;
pub mod state;
pub mod stats;
pub mod symbols;
mod sync;
pub mod system;
pub mod td;
mod td_host;
mod td_quotes;
mod td_run;
mod td_world;
pub mod tdx;
pub mod user;
pub mod vcpu;
pub mod vm;
pub mod world;

use std::os::fd::RawFd;
use std::sync::{Arc, OnceLock, Weak};

pub use errno::{Answer, Errno};
pub use machine::{Machine, Options};

use abi::kvm::{GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP};
use fd::{Owned, Registry};
use memory::{GmemId, Half};
use vm::Vm;

/// What a descriptor stands for.
#[derive(Clone)]
pub enum Object {
    /// `/dev/kvm`.
    System(Arc<Machine>),
    /// `/dev/sev`.
    Sev {
        /// The machine.
        machine: Arc<Machine>,
        /// Opened for writing.
        writable: bool,
    },
    /// A VM.
    Vm(Arc<Vm>),
    /// A vCPU.
    Vcpu {
        /// Its VM.
        vm: Arc<Vm>,
        /// Its index.
        index: usize,
    },
    /// A guest memory descriptor.
    Gmem {
        /// Its VM.
        vm: Weak<Vm>,
        /// Its name there.
        id: GmemId,
        /// Bytes.
        size: u64,
        /// GUEST_MEMFD_FLAG_*.
        flags: u64,
    },
    /// Statistics; only read.
    Stats,
}

impl Object {
    /// The machine behind it, for what is answered by ioctls.
    fn machine(&self) -> Option<Arc<Machine>> {
        match self {
            Object::System(machine) | Object::Sev { machine, .. } => Some(machine.clone()),
            Object::Vm(vm) | Object::Vcpu { vm, .. } => Some(vm.machine().clone()),
            Object::Gmem { .. } | Object::Stats => None,
        }
    }
}

/// The front end of one process.
#[derive(Default)]
pub struct Front {
    /// Everything that has a descriptor.
    pub objects: Registry<Object>,
}

/// The front end of this process.
pub fn front() -> &'static Front {
    static FRONT: OnceLock<Front> = OnceLock::new();
    FRONT.get_or_init(Front::default)
}

/// Whether a descriptor is `/dev/sev`.
pub(crate) fn is_sev(fd: RawFd) -> bool {
    matches!(front().objects.find(fd), Some(Object::Sev { .. }))
}

impl Front {
    /// Opens `/dev/kvm`.
    pub fn open_kvm(&self, machine: Arc<Machine>) -> Answer<RawFd> {
        machine.failures.check(calls::OPEN_KVM)?;
        system::open_kvm(self, machine)
    }

    /// Opens `/dev/sev`; ENOENT on a machine that has none.
    pub fn open_sev(&self, machine: Arc<Machine>, writable: bool) -> Answer<RawFd> {
        machine.failures.check(calls::OPEN_SEV)?;
        system::open_sev(self, machine, writable)
    }

    /// An ioctl; `None` if the descriptor is not one of ours.
    pub fn ioctl(&self, fd: RawFd, request: u64, arg: u64) -> Option<Answer<i32>> {
        let request = request & 0xffff_ffff;
        let object = self.objects.find(fd)?;
        let Some(machine) = object.machine() else {
            return Some(self.dispatch(object, request, arg));
        };
        let name = calls::name(&object, machine.xeon.is_some(), request, arg);
        Some(match machine.failures.due(name) {
            None => self.dispatch(object, request, arg),
            Some(due) => machine.failures.fail(due, arg, || self.dispatch(object, request, arg)),
        })
    }

    fn dispatch(&self, object: Object, request: u64, arg: u64) -> Answer<i32> {
        match object {
            Object::System(machine) => system::ioctl(self, &machine, request, arg),
            Object::Sev { machine, writable } => {
                system::sev_ioctl(&machine, writable, request, arg)
            }
            Object::Vm(vm) => vm::ioctl(self, &vm, request, arg),
            Object::Vcpu { vm, index } => vcpu::ioctl(self, &vm, index, request, arg),
            Object::Gmem { .. } | Object::Stats => Err(Errno::ENOTTY),
        }
    }

    /// The file that stands behind page [`coalesced::RING_PAGE`] of a vCPU's mapping; `None` if the descriptor is not a vCPU.
    pub fn coalesced_ring(&self, fd: RawFd) -> Option<RawFd> {
        let Object::Vcpu { vm, .. } = self.objects.find(fd)? else { return None };
        vm.lock().coalesced.file()
    }

    /// fallocate on a guest memory descriptor; `None` if the descriptor is not one.
    pub fn fallocate(&self, fd: RawFd, mode: i32, offset: i64, len: i64) -> Option<Answer> {
        match self.objects.find(fd)? {
            Object::Gmem { vm, id, size, .. } => {
                let refused = vm.upgrade().map(|vm| vm.machine().failures.check(calls::FALLOCATE));
                Some(match refused {
                    Some(Err(errno)) => Err(errno),
                    _ => fallocate(&vm, id, size, mode, offset, len),
                })
            }
            _ => None,
        }
    }

    /// The file to map in the place of a guest memory descriptor, or how that is refused; `None` if the descriptor is mapped as it is.
    /// Private memory can be mapped, but touching it is SIGBUS (Linux virt/kvm/guest_memfd.c `kvm_gmem_fault_user_mapping`).
    pub fn mapped(&self, fd: RawFd, private: bool) -> Option<Answer<Owned>> {
        let flags = match self.objects.find(fd)? {
            Object::Gmem { flags, .. } => flags,
            Object::Vcpu { vm, .. } => {
                return vm.machine().failures.check(calls::MMAP_VCPU).err().map(Err);
            }
            _ => return None,
        };
        Some(if flags & GUEST_MEMFD_FLAG_MMAP == 0 {
            Err(Errno::ENODEV)
        } else if private {
            Err(Errno::EINVAL)
        } else if flags & GUEST_MEMFD_FLAG_INIT_SHARED == 0 {
            Owned::empty_file()
        } else {
            Owned::writable(fd)
        })
    }
}

/// Says something on stderr. Where that is gone, nothing is said: a panic must not reach the monitor.
pub fn say(what: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "softkvm: {what}");
}

fn fallocate(vm: &Weak<Vm>, id: GmemId, size: u64, mode: i32, offset: i64, len: i64) -> Answer {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE;
    if mode & KEEP == 0 || mode & !(KEEP | PUNCH) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let (Ok(start), Ok(len)) = (u64::try_from(offset), u64::try_from(len)) else {
        return Err(Errno::EINVAL);
    };
    Errno::require(len != 0 && start % 4096 == 0 && len % 4096 == 0)?;
    if mode & PUNCH == 0 {
        // Pages come into being when they are first used.
        return Errno::require(start.checked_add(len).is_some_and(|end| end <= size));
    }
    let Some(vm) = vm.upgrade() else { return Ok(()) };
    let mut state = vm.lock();
    for frames in state.memory.frames_behind(id, start, len) {
        state.memory.unmap(frames.clone(), Half::Private);
        state.zap_private(frames);
    }
    if let Some((host, len)) = state.memory.punch(id, start, len) {
        state.code.host_wrote(host, len);
    }
    state.memory_changed(memory::Change::Translations);
    state.refresh_vm_stats();
    Ok(())
}
