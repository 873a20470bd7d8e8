//! How a run ended, and how that is told.

use std::io;

use crate::error::{Complaint, ExitCode};
use crate::sys::{cure, errno};
use crate::termination::Termination;

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Outcome {
    PowerOff,
    Reset,
    MarkReached {
        value: u32,
    },
    KernelPanic,
    Timeout,
    Interrupted,
    /// By the GHCB MSR, by a TD's ReportFatalError, or by the shim of an unprotected guest.
    Terminated(Termination),
    /// By the GHCB page: KVM does not hand the reason on.
    TerminatedByPage {
        vcpu: u16,
    },
    /// A TD's kernel gives up by ReportFatalError; the message is the guest's, made printable.
    FatalReport {
        vcpu: u16,
        code: u64,
        message: String,
    },
    /// KVM has given a TD up.
    TdDead {
        vcpu: u16,
    },
    TripleFault {
        vcpu: u16,
    },
    EntryRefused {
        vcpu: u16,
        reason: u64,
    },
    KvmGaveUp {
        vcpu: u16,
        suberror: u32,
        instruction: String,
    },
    WrongKindOfAccess {
        vcpu: u16,
        gpa: u64,
        private: bool,
    },
    /// It gave a device what is no queue, or memory that the device cannot reach.
    DeviceMisused {
        device: &'static str,
        problem: String,
    },
    Halted {
        vcpu: u16,
    },
    Unhandled {
        vcpu: u16,
        what: String,
    },
    /// KVM_RUN failed.
    RunFailed {
        vcpu: u16,
        errno: i32,
    },
    /// Another call to the host failed while the guest ran.
    MonitorFailed(Complaint),
}

impl Outcome {
    /// The name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::PowerOff => "power_off",
            Outcome::Reset => "reset",
            Outcome::MarkReached { .. } => "mark_reached",
            Outcome::KernelPanic => "kernel_panic",
            Outcome::Timeout => "timeout",
            Outcome::Interrupted => "interrupted",
            Outcome::Terminated(_) | Outcome::TerminatedByPage { .. } => "terminated",
            Outcome::FatalReport { .. } => "fatal_report",
            Outcome::TdDead { .. } => "td_dead",
            Outcome::TripleFault { .. } => "triple_fault",
            Outcome::EntryRefused { .. } => "entry_refused",
            Outcome::KvmGaveUp { .. } => "internal_error",
            Outcome::WrongKindOfAccess { .. } => "memory_fault",
            Outcome::DeviceMisused { .. } => "device_misused",
            Outcome::Halted { .. } => "halted",
            Outcome::Unhandled { .. } => "unhandled_exit",
            Outcome::RunFailed { .. } => "run_failed",
            Outcome::MonitorFailed(_) => "monitor_failed",
        }
    }

    /// The exit code.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Outcome::PowerOff | Outcome::MarkReached { .. } => ExitCode::Ok,
            Outcome::Reset => ExitCode::Reset,
            // Linux reports 0 when it panics this early (arch/x86/coco/tdx/tdx.c tdx_panic).
            Outcome::KernelPanic | Outcome::FatalReport { code: 0, .. } => ExitCode::Panic,
            Outcome::Timeout => ExitCode::Timeout,
            Outcome::Interrupted => ExitCode::Interrupted,
            Outcome::RunFailed { .. } | Outcome::MonitorFailed(_) => ExitCode::Io,
            Outcome::Terminated(_)
            | Outcome::TerminatedByPage { .. }
            | Outcome::FatalReport { .. }
            | Outcome::TdDead { .. }
            | Outcome::TripleFault { .. }
            | Outcome::EntryRefused { .. }
            | Outcome::KvmGaveUp { .. }
            | Outcome::WrongKindOfAccess { .. }
            | Outcome::DeviceMisused { .. }
            | Outcome::Halted { .. }
            | Outcome::Unhandled { .. } => ExitCode::Crash,
        }
    }

    /// The three lines for the user; nothing for a good end.
    pub fn complaint(&self) -> Option<Complaint> {
        let look = "look at the guest's console, above or in the --console file";
        let (error, cause, cure) = match self {
            Outcome::PowerOff | Outcome::MarkReached { .. } => return None,
            Outcome::Reset => (
                "the guest asked for a reset".into(),
                "cvmm does not start a guest again by itself: a new launch has new secrets".into(),
                "start it again; for a kernel that crashed early, look at its console".into(),
            ),
            Outcome::KernelPanic => {
                ("the guest's kernel panicked".into(), "it said so on its console".into(), look.into())
            }
            Outcome::Timeout => (
                "the guest did not end within --timeout".into(),
                "it was still running, or waiting for something".into(),
                "give more --timeout, or look at how far its console and the phases got".into(),
            ),
            Outcome::Interrupted => (
                "the guest was stopped".into(),
                "Ctrl-A x, Ctrl-C or a signal".into(),
                "start it again".into(),
            ),
            Outcome::Terminated(t) => (
                format!("the guest asked to be terminated ({:#x}:{:#x})", t.set, t.reason),
                t.sentence(),
                t.cure().into(),
            ),
            Outcome::TerminatedByPage { vcpu } => (
                "the guest asked to be terminated".into(),
                format!("vCPU {vcpu} did so through its GHCB page, and KVM does not hand the reason on"),
                "the host's `dmesg` has the reason; a page that was never accepted is the most common one".into(),
            ),
            Outcome::FatalReport { vcpu, code, message } => (
                "the guest's kernel reported a fatal error".into(),
                format!(
                    "vCPU {vcpu} gave code {code:#x}{}",
                    match message.as_str() {
                        "" => " and no message".to_owned(),
                        text => format!(" and the message \"{text}\""),
                    }
                ),
                look.into(),
            ),
            Outcome::TdDead { vcpu } => (
                "the TD is dead: KVM runs it no more".into(),
                format!(
                    "most likely vCPU {vcpu} touched a page that it had not accepted, or that somebody on the host took away"
                ),
                "`dmesg | grep -i -e tdx -e kvm` on the host has the address; if the guest's kernel is sound, do not trust \
                 this host"
                    .into(),
            ),
            Outcome::TripleFault { vcpu } => (
                "the guest crashed".into(),
                format!("vCPU {vcpu} had a triple fault"),
                look.into(),
            ),
            Outcome::EntryRefused { vcpu, reason } => (
                "the processor refused to run the guest".into(),
                format!("vCPU {vcpu}'s state is invalid (hardware reason {reason:#x})"),
                "report this as a bug".into(),
            ),
            Outcome::KvmGaveUp { vcpu, suberror, instruction } => (
                "KVM could not go on with the guest".into(),
                match instruction.as_str() {
                    "" => format!("internal error {suberror} on vCPU {vcpu}"),
                    bytes => format!("it cannot emulate the instruction {bytes} (hexadecimal) on vCPU {vcpu}"),
                },
                "look at the lines above and at the host's `dmesg`".into(),
            ),
            Outcome::WrongKindOfAccess { vcpu, gpa, private } => (
                format!("the guest touched {gpa:#x} as {}, which it is not", kind(*private)),
                format!(
                    "vCPU {vcpu} accessed a {} page that way without asking for a page state change first; cvmm does not \
                     convert pages on its own",
                    kind(!private)
                ),
                "if the guest's kernel is sound, something on the host changed the page's state: do not trust this host".into(),
            ),
            Outcome::DeviceMisused { device, problem } => (
                format!("the guest misused its {device}"),
                problem.clone(),
                "rings and buffers have to be in memory that the guest shares with its host; look at its driver".into(),
            ),
            Outcome::Halted { vcpu } => (
                "the guest halted for good".into(),
                format!("vCPU {vcpu} executed HLT where nothing can wake it"),
                look.into(),
            ),
            Outcome::Unhandled { vcpu, what } => (
                format!("the guest did what cvmm does not support: {what}"),
                format!("vCPU {vcpu} left KVM_RUN for it"),
                "report this as a bug".into(),
            ),
            Outcome::RunFailed { vcpu, errno } => {
                let source = io::Error::from_raw_os_error(*errno);
                (
                    format!("KVM_RUN failed on vCPU {vcpu}"),
                    errno::tell(&source),
                    cure::of("KVM_RUN", &source).into(),
                )
            }
            Outcome::MonitorFailed(complaint) => return Some(complaint.clone()),
        };
        Some(Complaint { error, cause, cure })
    }
}

fn kind(private: bool) -> &'static str {
    if private { "private" } else { "shared" }
}
