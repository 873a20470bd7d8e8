//! What `/dev/sev` says of the platform: firmware, TCB, and whether SEV-SNP is initialised.
//!
//! Layouts: Linux 7.2 include/uapi/linux/psp-sev.h.
//!
//! UNSAFETY: a command carries the address of a structure of ours.
#![allow(unsafe_code)]

use std::io;

use abi::kvm_snp::{SEV_ISSUE_CMD, SevIssueCmd, SnpPlatformStatus, platform_cmd};
use vmm_sys_util::ioctl::ioctl_with_mut_ref;

use super::SysError;
use super::sev_status::FirmwareStatus;
use super::snp::SevDevice;
use super::target::Target;
use crate::recorder::{Op, Recorder};

/// SNP_PLATFORM_STATUS.
///
/// # Errors
/// The firmware's or the driver's.
pub fn status(recorder: &mut Recorder, sev: &SevDevice) -> Result<SnpPlatformStatus, SysError> {
    const COMMAND: &str = "SNP_PLATFORM_STATUS";
    let mut status = SnpPlatformStatus::default();
    let mut command = SevIssueCmd {
        cmd: platform_cmd::SNP_PLATFORM_STATUS,
        data: std::ptr::from_mut(&mut status) as u64,
        error: 0,
    };
    let answer = recorder.record(Op::CheckExtension, COMMAND, 0, || {
        // SAFETY: `command` has the kernel's layout and names `status`, which has the layout of this command's answer; both
        // live for the duration of the call.
        match unsafe { ioctl_with_mut_ref(sev.file(), SEV_ISSUE_CMD, &mut command) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    });
    let error = command.error;
    answer.map(|()| status).map_err(|source| SysError::Launch {
        command: COMMAND,
        target: Target::Whole,
        source,
        status: FirmwareStatus(error),
    })
}
