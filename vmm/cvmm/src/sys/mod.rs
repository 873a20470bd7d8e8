//! Every call to the host: one safe, typed wrapper per ioctl, each of which leaves one event in the recorder.
//!
//! Built on `kvm-ioctls` and `kvm-bindings`. What they lack or get in the way of is wrapped in this folder, with the
//! reason beside the code. Nothing outside this folder issues an ioctl.

pub mod ahead;
pub mod child;
pub mod clock;
pub mod cpuid;
pub mod cure;
pub mod descriptors;
pub mod elsewhere;
pub mod errno;
pub mod kick;
pub mod memory;
pub mod preloaded;
pub mod resident;
pub mod sev_status;
pub mod signals;
pub mod snp;
pub mod snp_platform;
pub mod socket;
pub mod stats;
pub mod system;
pub mod target;
pub mod tdx;
pub mod tdx_status;
pub mod terminal;
pub mod ticks;
pub mod vcpu;
pub mod vm;

use std::io;

use abi::tdx::TdxStatus;
use thiserror::Error;

use crate::error::{Complaint, ExitCode};
use crate::plan::cpuid::CpuidDifference;
use sev_status::FirmwareStatus;
use target::Target;

/// A call to the host that failed.
#[derive(Debug, Error)]
pub enum SysError {
    /// A device node cannot be opened.
    #[error("cannot open {device}")]
    Open {
        /// Which one.
        device: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The host's KVM does not have what the guest needs.
    #[error("this host cannot run such a guest: {what}")]
    Missing {
        /// What is missing.
        what: String,
        /// What makes it appear.
        cure: &'static str,
    },
    /// There is no further one of what the host has few of.
    #[error("no {what} is left")]
    NoneLeft {
        /// Of what.
        what: &'static str,
        /// The command that wanted one.
        command: &'static str,
        /// The kernel's answer.
        source: io::Error,
        /// What makes one free.
        cure: &'static str,
    },
    /// An ioctl, or another call on what ioctls have made, failed.
    #[error("{call} failed{target}")]
    Call {
        /// The ioctl's name, or which other call it was.
        call: &'static str,
        /// On what.
        target: Target,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A launch command failed.
    #[error("{command} was refused{target}")]
    Launch {
        /// The command's name.
        command: &'static str,
        /// On what.
        target: Target,
        /// The kernel's answer.
        source: io::Error,
        /// The firmware's answer.
        status: FirmwareStatus,
    },
    /// A launch command of a TD failed.
    #[error("{command} was refused{target}")]
    TdLaunch {
        /// The command's name.
        command: &'static str,
        /// On what.
        target: Target,
        /// The kernel's answer.
        source: io::Error,
        /// The TDX module's answer, where the kernel hands it on; else 0.
        status: TdxStatus,
    },
    /// The firmware refused the CPUID page.
    #[error("the firmware refused the CPUID page at {gpa:#x}")]
    CpuidRefused {
        /// Where it is.
        gpa: u64,
        /// The rows it would have accepted, beside ours.
        differences: Vec<CpuidDifference>,
    },
    /// The firmware measured something else than what cvmm had given to it.
    #[error(
        "the launch pages that reached the firmware are not those that cvmm gave to the kernel"
    )]
    PagesChanged {
        /// The firmware's answer.
        status: FirmwareStatus,
    },
    /// Guest memory could not be mapped.
    #[error("cannot map {mib} MiB of guest memory")]
    MapMemory {
        /// How much.
        mib: u64,
        /// Why.
        source: io::Error,
    },
    /// Guest memory could not be written or read.
    #[error("cannot access {len} bytes of guest memory at {gpa:#x}")]
    WriteMemory {
        /// Where.
        gpa: u64,
        /// How much.
        len: usize,
        /// Why.
        problem: String,
    },
}

impl SysError {
    /// An ioctl on the whole VM or host.
    pub(crate) fn ioctl(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> SysError {
        SysError::on(call, Target::Whole)
    }

    /// An ioctl on what these words name.
    pub(crate) fn ioctl_on(
        call: &'static str,
        words: String,
    ) -> impl FnOnce(kvm_ioctls::Error) -> SysError {
        SysError::on(call, Target::Words(words))
    }

    /// A call on `target`.
    pub(crate) fn on<E: Into<io::Error>>(
        call: &'static str,
        target: Target,
    ) -> impl FnOnce(E) -> SysError {
        move |e| SysError::Call { call, target, source: e.into() }
    }

    /// The exit code of this failure.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            SysError::Open { .. } | SysError::Missing { .. } | SysError::NoneLeft { .. } => {
                ExitCode::Host
            }
            SysError::Launch { .. }
            | SysError::TdLaunch { .. }
            | SysError::CpuidRefused { .. }
            | SysError::PagesChanged { .. } => ExitCode::Launch,
            SysError::Call { .. } | SysError::MapMemory { .. } | SysError::WriteMemory { .. } => {
                ExitCode::Io
            }
        }
    }

    /// The three lines for the user.
    pub fn complaint(&self) -> Complaint {
        let (cause, cure) = match self {
            SysError::Open { device, source } => (errno::tell(source), open_cure(device, source)),
            SysError::Missing { cure, .. } => (
                "the kernel, processor, BIOS, firmware or emulator below cvmm does not offer it".into(),
                (*cure).into(),
            ),
            SysError::NoneLeft { command, source, cure, .. } => {
                (format!("{command} answers {}", errno::tell(source)), (*cure).into())
            }
            SysError::Call { call, source, .. } => {
                (errno::tell(source), cure::of(call, source).into())
            }
            SysError::Launch { command, source, status, .. } => (
                format!("{}; {status}", errno::tell(source)),
                sev_status::cure(command, *status, source).into(),
            ),
            SysError::TdLaunch { command, source, status, .. } => (
                match tdx_status::sentence(*status) {
                    Some(sentence) => format!("{}; {sentence}", errno::tell(source)),
                    None => errno::tell(source),
                },
                tdx_status::cure(command, *status, source).into(),
            ),
            SysError::CpuidRefused { differences, .. } if differences.is_empty() => (
                "it would accept the page that cvmm gave to the kernel, so something on the host changed the page on its way"
                    .into(),
                "do not trust this host".into(),
            ),
            SysError::PagesChanged { status } => (
                format!(
                    "{status}; but the ID block names the digest of cvmm's own pages, so something on the host changed the page table, the shim, the parameters, the ACPI tables or another launch page, or added one"
                ),
                "do not trust this host".into(),
            ),
            SysError::CpuidRefused { differences, .. } => {
                let rows: Vec<String> = differences.iter().map(ToString::to_string).collect();
                (
                    format!("it would give other values than the host's KVM offers: {}", rows.join("; ")),
                    "update the host's kernel or SEV firmware; cvmm does not start a guest with values it did not choose".into(),
                )
            }
            SysError::MapMemory { source, .. } => {
                (errno::tell(source), cure::of("mmap of guest memory", source).into())
            }
            SysError::WriteMemory { problem, .. } => (problem.clone(), "give more --memory".into()),
        };
        Complaint { error: self.to_string(), cause, cure }
    }
}

fn open_cure(device: &str, source: &io::Error) -> String {
    if crate::emulate::profile_in_use().is_some() && source.kind() == io::ErrorKind::NotFound {
        return "choose the profile of a processor that has it; `softkvm info` lists them".into();
    }
    match source.kind() {
        io::ErrorKind::NotFound => {
            format!(
                "load the module that makes {device} (kvm_amd and ccp, or kvm_intel), or add --emulate to run on a processor in software"
            )
        }
        io::ErrorKind::PermissionDenied if device == "/dev/kvm" => {
            "join the group kvm (sudo usermod -aG kvm $USER, then log in again), or add --emulate"
                .into()
        }
        io::ErrorKind::PermissionDenied => format!(
            "let your group use {device} (sudo chgrp kvm {device} && sudo chmod 660 {device}), or add --emulate"
        ),
        _ => cure::of(device, source).into(),
    }
}
