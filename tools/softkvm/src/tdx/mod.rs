//! Intel TDX: the TDX module, and KVM's side of what a TD asks its host for.
//!
//! Pure logic, as in every other folder of this kind: no processor runs here, no instruction is decoded and no ioctl is
//! dispatched. The front end owns memory, descriptors and vCPUs and lends what a call needs.
//!
//! - [`platform`]: the processor and its module, as data.
//! - [`td`] and [`sept`]: a TD, and who owns which page; [`Td::private_access`] decides about every access.
//! - [`vcpu`], [`entry`]: what the module keeps of a vCPU, and how one starts.
//! - [`cpuid`], [`msr`], [`cr`], [`instr`]: what a TD's instructions do: the processor's own behaviour, a value, #VE, #GP or
//!   #UD.
//! - [`tdcall`]: TDCALL. [`vmcall`]: TDG.VP.VMCALL, as KVM answers it.
//! - [`report`]: TDREPORT.
//!
//! Not modelled: debuggable and migratable TDs, nested (L2) VMs, service TDs, private pages above 4 KiB (which KVM of Linux
//! 7.2 does not make), perfmon, Key Locker, zero-step mitigation, and the memory encryption itself.

pub mod cpuid;
pub mod cr;
pub mod entry;
pub mod instr;
pub mod msr;
pub mod platform;
pub mod report;
pub mod sept;
pub mod td;
pub mod tdcall;
pub mod vcpu;
pub mod vmcall;

pub use platform::{TdxCosts, TdxModule, TdxPlatform};
pub use sept::{PageState, Sept};
pub use td::{OpState, PrivateAccess, Td};
pub use tdcall::{TdMemory, Tdcall, tdcall};
pub use vcpu::{TdVcpu, VeInfo};
pub use vmcall::{Vmcall, VmcallHost};
