//! Every call to the host: one safe, typed wrapper per ioctl, each of which leaves one event in the recorder.
//!
//! Built on `kvm-ioctls` and `kvm-bindings`. What they lack or get in the way of is wrapped in this folder, with the
//! reason beside the code. Nothing outside this folder issues an ioctl.

pub mod child;
pub mod clock;
pub mod cpuid;
pub mod kick;
pub mod memory;
pub mod preloaded;
pub mod sev_status;
pub mod snp;
pub mod snp_platform;
pub mod socket;
pub mod system;
pub mod tdx;
pub mod tdx_status;
pub mod terminal;
pub mod vcpu;
pub mod vm;

use std::io;

use abi::tdx::TdxStatus;
use thiserror::Error;

use crate::error::{Complaint, ExitCode};
use crate::plan::cpuid::CpuidDifference;
use sev_status::FirmwareStatus;

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
    /// An ioctl failed.
    #[error("{ioctl} failed{operand}")]
    Ioctl {
        /// The ioctl's name.
        ioctl: &'static str,
        /// On what; empty or starting with a blank.
        operand: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A launch command failed.
    #[error("{command} was refused{operand}")]
    Launch {
        /// The command's name.
        command: &'static str,
        /// On what; empty or starting with a blank.
        operand: String,
        /// The kernel's answer.
        source: io::Error,
        /// The firmware's answer.
        status: FirmwareStatus,
    },
    /// A launch command of a TD failed.
    #[error("{command} was refused{operand}")]
    TdLaunch {
        /// The command's name.
        command: &'static str,
        /// On what; empty or starting with a blank.
        operand: String,
        /// The kernel's answer.
        source: io::Error,
        /// The TDX module's answer, where the kernel hands it on; else 0.
        status: TdxStatus,
    },
    /// The firmware refused the CPUID page.
    #[error("the firmware refused the CPUID page")]
    CpuidRefused {
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
        problem: String,
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
    /// An ioctl without operand.
    pub(crate) fn ioctl(ioctl: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> SysError {
        move |e| SysError::Ioctl { ioctl, operand: String::new(), source: e.into() }
    }

    /// An ioctl with an operand worth naming.
    pub(crate) fn ioctl_on(
        ioctl: &'static str,
        operand: String,
    ) -> impl FnOnce(kvm_ioctls::Error) -> SysError {
        move |e| SysError::Ioctl { ioctl, operand: format!(" {operand}"), source: e.into() }
    }

    /// The exit code of this failure.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            SysError::Open { .. } | SysError::Missing { .. } => ExitCode::Host,
            SysError::Launch { .. }
            | SysError::TdLaunch { .. }
            | SysError::CpuidRefused { .. }
            | SysError::PagesChanged { .. } => ExitCode::Launch,
            SysError::Ioctl { .. } | SysError::MapMemory { .. } | SysError::WriteMemory { .. } => {
                ExitCode::Io
            }
        }
    }

    /// The three lines for the user.
    pub fn complaint(&self) -> Complaint {
        let (cause, cure) = match self {
            SysError::Open { device, source } => (source.to_string(), open_cure(device, source)),
            SysError::Missing { cure, .. } => (
                "the kernel, processor, BIOS, firmware or emulator below cvmm does not offer it".into(),
                (*cure).into(),
            ),
            SysError::Ioctl { source, .. } => (
                format!("the kernel says: {source}"),
                "check `dmesg`; update the host's kernel if it is older than 6.11".into(),
            ),
            SysError::Launch { source, status, .. } => (
                format!("{status} (the kernel says: {source})"),
                sev_status::describe(status.0).map_or_else(
                    || "check `dmesg` for the reason".to_owned(),
                    |text| text.cure.to_owned(),
                ),
            ),
            SysError::TdLaunch { source, status, .. } => (
                match tdx_status::sentence(*status) {
                    Some(sentence) => format!("{sentence} (the kernel says: {source})"),
                    None => format!("the kernel says: {source}"),
                },
                tdx_status::cure(*status, source).into(),
            ),
            SysError::CpuidRefused { differences } if differences.is_empty() => (
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
            SysError::CpuidRefused { differences } => {
                let rows: Vec<String> = differences.iter().map(ToString::to_string).collect();
                (
                    format!("it would give other values than the host's KVM offers: {}", rows.join("; ")),
                    "update the host's kernel or SEV firmware; cvmm does not start a guest with values it did not choose".into(),
                )
            }
            SysError::MapMemory { problem, .. } => {
                (problem.clone(), "give less --memory, or raise the host's limits".into())
            }
            SysError::WriteMemory { problem, .. } => (problem.clone(), "give more --memory".into()),
        };
        Complaint { error: self.to_string(), cause, cure }
    }
}

fn open_cure(device: &str, source: &io::Error) -> String {
    if crate::emulate::profile_in_use().is_some() {
        return "softkvm says why, above; `softkvm info` lists the profiles for --emulate=PROFILE"
            .into();
    }
    match source.kind() {
        io::ErrorKind::NotFound => {
            format!(
                "load the module that makes {device} (kvm_amd and ccp, or kvm_intel), or add --emulate to run on a processor in software"
            )
        }
        io::ErrorKind::PermissionDenied => {
            format!("get access to {device} (for /dev/kvm: join group kvm), or add --emulate")
        }
        _ => "add --emulate to run on a processor in software".into(),
    }
}
