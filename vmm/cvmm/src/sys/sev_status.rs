//! Status codes of the SEV firmware, as `kvm_sev_cmd.error` carries them.
//!
//! Linux 7.2 include/uapi/linux/psp-sev.h (`sev_ret_code`); meanings from the SEV-SNP firmware ABI, 56860 rev 1.57,
//! section 4.5.

use std::{fmt, io};

use super::cure::{self, Cure};

/// A firmware status: an open value, since newer firmware may return what this table does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirmwareStatus(pub u32);

impl FirmwareStatus {
    /// The firmware was not the cause.
    pub const SUCCESS: FirmwareStatus = FirmwareStatus(0);
    /// The policy, or the ID block's policy, is refused.
    pub const POLICY_FAILURE: FirmwareStatus = FirmwareStatus(7);
    /// The ID block names another launch digest.
    pub const BAD_MEASUREMENT: FirmwareStatus = FirmwareStatus(0xb);
    /// A parameter is refused: for a CPUID page, its contents.
    pub const INVALID_PARAM: FirmwareStatus = FirmwareStatus(0x16);
}

/// A status that is known.
#[derive(Clone, Copy, Debug)]
pub struct StatusText {
    code: u32,
    /// The name in the specification.
    pub name: &'static str,
    /// What it means for somebody who launches a guest.
    pub meaning: &'static str,
    /// What to do.
    pub cure: &'static str,
}

const fn row(
    code: u32,
    name: &'static str,
    meaning: &'static str,
    cure: &'static str,
) -> StatusText {
    StatusText { code, name, meaning, cure }
}

const TABLE: [StatusText; 28] = [
    row(
        0x01,
        "INVALID_PLATFORM_STATE",
        "the platform is not initialised for SEV-SNP",
        "check `dmesg | grep -i sev` and the BIOS settings for SEV-SNP",
    ),
    row(
        0x02,
        "INVALID_GUEST_STATE",
        "the guest is not in the state this command needs",
        "report this as a bug: cvmm issued launch commands out of order",
    ),
    row(
        0x03,
        "INVALID_CONFIG",
        "the platform's configuration is invalid",
        "check the BIOS settings for SEV-SNP",
    ),
    row(0x04, "INVALID_LEN", "a buffer is too small", "report this as a bug"),
    row(0x05, "ALREADY_OWNED", "the platform is owned already", "reset the platform's ownership"),
    row(
        0x06,
        "INVALID_CERTIFICATE",
        "a certificate is invalid",
        "check the certificates given to the firmware",
    ),
    row(
        0x07,
        "POLICY_FAILURE",
        "this platform does not allow the guest policy, or the ID block names another one",
        "change --snp=policy=… (bit 16 is needed where SMT is on; bits 15:0 ask for a minimum firmware ABI), and use the ID block's policy",
    ),
    row(0x08, "INACTIVE", "the guest has no ASID", "report this as a bug"),
    row(0x09, "INVALID_ADDRESS", "an address is invalid", "report this as a bug"),
    row(
        0x0a,
        "BAD_SIGNATURE",
        "the signature over the ID block, or over the ID key, is wrong",
        "sign the ID block again, with the key that id-auth carries",
    ),
    row(
        0x0b,
        "BAD_MEASUREMENT",
        "the ID block names another launch digest",
        "put the digest that `cvmm measure` prints for this command line into the ID block",
    ),
    row(0x0c, "ASID_OWNED", "the ASID is in use", "stop another confidential guest and try again"),
    row(
        0x0d,
        "INVALID_ASID",
        "the ASID is out of range",
        "check the BIOS setting for the SEV-ES/SNP ASID split",
    ),
    row(0x0e, "WBINVD_REQUIRED", "caches must be written back first", "try again"),
    row(0x0f, "DFFLUSH_REQUIRED", "a data-fabric flush must come first", "try again"),
    row(0x10, "INVALID_GUEST", "the guest handle is invalid", "report this as a bug"),
    row(0x11, "INVALID_COMMAND", "the command is not known", "update the SEV firmware"),
    row(0x12, "ACTIVE", "the guest is already active", "report this as a bug"),
    row(
        0x13,
        "HWERROR_PLATFORM",
        "a hardware error that concerns the platform",
        "restart the host",
    ),
    row(
        0x14,
        "HWERROR_UNSAFE",
        "a hardware error after which the firmware is unsafe",
        "restart the host",
    ),
    row(0x15, "UNSUPPORTED", "the firmware does not support this", "update the SEV firmware"),
    row(
        0x16,
        "INVALID_PARAM",
        "a parameter is refused; for the CPUID page, a feature this processor does not grant to guests",
        "compare the CPUID rows named above with the host's processor",
    ),
    row(
        0x17,
        "RESOURCE_LIMIT",
        "the firmware is out of resources",
        "stop another confidential guest and try again",
    ),
    row(
        0x19,
        "INVALID_PAGE_SIZE",
        "the page size does not fit the reverse map table",
        "report this as a bug",
    ),
    row(
        0x1a,
        "INVALID_PAGE_STATE",
        "the page is not in the state this command needs",
        "report this as a bug",
    ),
    row(0x1c, "INVALID_PAGE_OWNER", "the page belongs to another guest", "report this as a bug"),
    row(
        0x20,
        "RMP_INIT_REQUIRED",
        "the reverse map table is not initialised",
        "check the BIOS settings for SEV-SNP",
    ),
    row(
        0x21,
        "BAD_SVN",
        "the security version is lower than one already seen",
        "raise the ID block's GUEST_SVN",
    ),
];

/// Looks a status up.
pub fn describe(code: u32) -> Option<StatusText> {
    TABLE.iter().find(|row| row.code == code).copied()
}

/// What to do where the firmware was not the cause, or said nothing that is known.
const CURES: &[Cure] = &[
    (
        &["KVM_SEV_INIT2"],
        libc::ENOTTY,
        "give SEV-SNP guests ASIDs in the BIOS (minimum SEV non-ES ASID above 1), and restart the host",
    ),
    (
        &["KVM_SEV_SNP_LAUNCH_START"],
        libc::ENOTTY,
        "the security processor made no context: `dmesg | grep -i -e ccp -e sev` says whether SEV-SNP is initialised on it",
    ),
    (
        &["KVM_SEV_SNP_LAUNCH_START"],
        libc::EINVAL,
        "give another --snp=policy=…: KVM knows not all of its bits, or bit 17 is missing",
    ),
    (
        &["KVM_SEV_SNP_ENABLE_REQ_CERTS"],
        libc::EINVAL,
        "leave out --snp=certs=…, or update the host's kernel: older ones cannot hand certificates on",
    ),
    (
        &["KVM_SEV_SNP_LAUNCH_UPDATE"],
        libc::EIO,
        "KVM does not say why: free memory on the host, and look whether the reverse map table covers it (`dmesg | grep -i -e rmp -e sev`)",
    ),
    (
        &["KVM_SEV_SNP_LAUNCH_FINISH"],
        libc::EIO,
        "the security processor cannot be reached: `dmesg | grep -i -e ccp -e sev` on the host says why",
    ),
    (&["KVM_SEV_SNP_LAUNCH_START", "KVM_SEV_SNP_LAUNCH_FINISH"], libc::EBUSY, DEAD),
    (
        &["KVM_SEV_SNP_LAUNCH_UPDATE"],
        libc::EAGAIN,
        "report this as a bug: the kernel says that it has done something, and has not",
    ),
    (&[], libc::EPERM, ORDER),
    (&[], libc::EIO, "`dmesg | grep -i -e ccp -e sev` on the host says why"),
];

const DEAD: &str = "look at `dmesg | grep -i ccp`: if the security processor is dead, restart the host; else try again";
const ORDER: &str = "report this as a bug: cvmm issued launch commands out of order";

/// What to do about a command that was refused.
pub fn cure(command: &str, status: FirmwareStatus, source: &io::Error) -> &'static str {
    match describe(status.0) {
        Some(text) => text.cure,
        None => cure::find(command, source, &[CURES]),
    }
}

impl fmt::Display for FirmwareStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, describe(self.0)) {
            (0, _) => write!(f, "the firmware named no reason"),
            (u32::MAX, _) => write!(f, "the firmware was never called"),
            (code, Some(text)) => {
                write!(f, "firmware status {code:#x} {}: {}", text.name, text.meaning)
            }
            (code, None) => {
                write!(f, "firmware status {code:#x}, which is not in the specification known here")
            }
        }
    }
}
