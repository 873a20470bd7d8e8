//! What can go wrong, and how it is told to the user: an `error`, a `cause` and a `try` line, and an exit code.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::digest::LaunchDigest;
use crate::plan::PlanError;
use crate::plan::kernel::KernelError;
use crate::plan::ovmf::FirmwareError;
use crate::report::ReportProblem;
use crate::sys::{SysError, cure, errno};

/// How the process ends. The numbers are part of the command line's contract (`docs/exit-codes.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// The guest powered off, or the mark of `--until` was reached.
    Ok = 0,
    /// A defect of cvmm.
    Internal = 1,
    /// The command line or an input file's content cannot be used.
    Usage = 2,
    /// This host lacks something the guest needs.
    Host = 3,
    /// Firmware, TDX module or the kernel refused the launch.
    Launch = 4,
    /// A file or a device of the host could not be read, written or set up.
    Io = 5,
    /// The guest crashed, or asked to be terminated.
    Crash = 6,
    /// The launch digest is not the one `--expect` names.
    Measurement = 7,
    /// The guest's kernel panicked.
    Panic = 8,
    /// The guest asked for a reset.
    Reset = 9,
    /// `--timeout` ran out.
    Timeout = 124,
    /// The user stopped the guest: Ctrl-A x, Ctrl-C or SIGTERM.
    Interrupted = 130,
}

impl ExitCode {
    /// Every code, in the order of `--help`.
    pub const ALL: [ExitCode; 12] = [
        ExitCode::Ok,
        ExitCode::Internal,
        ExitCode::Usage,
        ExitCode::Host,
        ExitCode::Launch,
        ExitCode::Io,
        ExitCode::Crash,
        ExitCode::Measurement,
        ExitCode::Panic,
        ExitCode::Reset,
        ExitCode::Timeout,
        ExitCode::Interrupted,
    ];

    /// What the code means, in one line.
    pub fn meaning(self) -> &'static str {
        match self {
            ExitCode::Ok => "the guest powered off, or the mark of --until was reached",
            ExitCode::Internal => "internal error of cvmm",
            ExitCode::Usage => "unusable command line, kernel, initrd or other input",
            ExitCode::Host => {
                "this host lacks something the guest needs (no /dev/kvm, no SEV-SNP, no TDX, ...)"
            }
            ExitCode::Launch => "the firmware, the TDX module or the kernel refused the launch",
            ExitCode::Io => "a file or device of the host could not be read, written or set up",
            ExitCode::Crash => "the guest crashed, or asked to be terminated",
            ExitCode::Measurement => "the launch digest differs from --expect",
            ExitCode::Panic => "the guest's kernel panicked",
            ExitCode::Reset => "the guest asked for a reset",
            ExitCode::Timeout => "--timeout ran out",
            ExitCode::Interrupted => "stopped by the user (Ctrl-A x, Ctrl-C, SIGTERM)",
        }
    }
}

/// The three lines that a user sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// What failed.
    pub error: String,
    /// Why.
    pub cause: String,
    /// What to do about it.
    pub cure: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.error)?;
        writeln!(f, "cause: {}", self.cause)?;
        write!(f, "try:   {}", self.cure)
    }
}

/// Any reason for which cvmm does not start, or stops, a guest.
#[derive(Debug, Error)]
pub enum Error {
    /// The command line asks for something impossible.
    #[error("{flag}: {problem}")]
    Usage {
        /// The flag, as the user writes it.
        flag: String,
        /// What is wrong with its value.
        problem: String,
        /// What would be right.
        cure: String,
    },
    /// A file named on the command line cannot be read.
    #[error("cannot read the {what} {}", path.display())]
    ReadFile {
        /// What the file is for.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file named on the command line is no report that can be read.
    #[error("cannot use the report {}", path.display())]
    Report {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: ReportProblem,
    },
    /// A file named on the command line cannot be written.
    #[error("cannot write the {what} {}", path.display())]
    WriteFile {
        /// What the file is for.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("cannot use the {what} {}", path.display())]
    Input {
        /// What the file is for.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What would be right.
        cure: String,
    },
    /// The kernel image is not one that can be entered.
    #[error("cannot boot the kernel {}", path.display())]
    Kernel {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: KernelError,
    },
    /// The firmware image is not one that can be started.
    #[error("cannot start the firmware {}", path.display())]
    Firmware {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: FirmwareError,
    },
    /// The inputs do not make a guest.
    #[error("cannot lay out the guest")]
    Plan(#[from] PlanError),
    /// A call to the host failed.
    #[error(transparent)]
    Sys(#[from] SysError),
    /// The digest of what was launched is not the one that was asked for.
    #[error("the launch digest is not the expected one")]
    Expect {
        /// What `--expect` named.
        expected: LaunchDigest,
        /// What the plan measures to.
        actual: LaunchDigest,
    },
    /// softkvm cannot be loaded.
    #[error("cannot emulate: {problem}")]
    Emulate {
        /// What is missing.
        problem: String,
    },
    /// Terminal, signal or event set-up failed.
    #[error("cannot set up {what}")]
    Setup {
        /// Which facility.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A thread of cvmm died.
    #[error("a thread of cvmm panicked")]
    ThreadPanicked,
}

impl Error {
    /// The exit code this error ends the process with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Error::Usage { .. }
            | Error::Input { .. }
            | Error::Kernel { .. }
            | Error::Firmware { .. }
            | Error::Report { .. }
            | Error::Plan(_) => ExitCode::Usage,
            Error::ReadFile { .. } | Error::WriteFile { .. } | Error::Setup { .. } => ExitCode::Io,
            Error::Sys(e) => e.exit_code(),
            Error::Expect { .. } => ExitCode::Measurement,
            Error::Emulate { .. } => ExitCode::Host,
            Error::ThreadPanicked => ExitCode::Internal,
        }
    }

    /// The three lines for the user.
    pub fn complaint(&self) -> Complaint {
        let (cause, cure) = match self {
            Error::Usage { cure, .. } => ("the command line cannot be used as it stands".into(), cure.clone()),
            Error::Input { problem, cure, .. } => (problem.clone(), cure.clone()),
            Error::ReadFile { source, what, .. } => (source.to_string(), read_cure(source, what)),
            Error::Report { problem, .. } => (problem.to_string(), problem.cure().into()),
            Error::WriteFile { source, .. } => (source.to_string(), write_cure(source).into()),
            Error::Kernel { source, .. } => (source.to_string(), source.cure()),
            Error::Firmware { source, .. } => (source.to_string(), source.cure()),
            Error::Plan(e) => (e.to_string(), e.cure()),
            Error::Sys(e) => return e.complaint(),
            Error::Expect { expected, actual } => (
                format!("expected {expected}, but this command line measures to {actual}; the guest was not started"),
                "compare shim, kernel, initrd, command line, memory and vCPU count with those of `cvmm measure`; \
                 --dump-pages lists what is measured"
                    .into(),
            ),
            Error::Emulate { .. } => (
                "the emulator is a library that is loaded below cvmm, and it was not found".into(),
                "build it (cargo build -p softkvm-preload --release), or name it in CVMM_SOFTKVM".into(),
            ),
            Error::Setup { what, source } => (errno::tell(source), cure::of(what, source).into()),
            Error::ThreadPanicked => (
                "this is a defect of cvmm".into(),
                "report the command line and the lines above as a bug".into(),
            ),
        };
        Complaint { error: self.to_string(), cause, cure }
    }
}

fn write_cure(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space there, or name a file elsewhere; nothing was left behind"
        }
        _ => "name a file in a directory that exists and that you may write to",
    }
}

fn read_cure(source: &io::Error, what: &str) -> String {
    match source.kind() {
        io::ErrorKind::NotFound => format!("name an existing file as {what}"),
        io::ErrorKind::PermissionDenied => {
            "make the file readable for you (Debian installs some kernels as mode 0600: copy it with sudo)".into()
        }
        _ => "check that it is a regular, readable file".into(),
    }
}
