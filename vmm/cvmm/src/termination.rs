//! Why a confidential guest asked to be terminated: the reason sets of Linux and of the shim.

use abi::shim;

/// A termination request in the layout of the GHCB MSR protocol (GHCB specification 56421 rev 2.03, section 2.3.1), which
/// the shim of a TD uses as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Termination {
    /// Whose reasons.
    pub set: u8,
    /// Which one.
    pub reason: u8,
}

/// Reasons of set 0, the specification's, as Linux uses them (arch/x86/include/asm/sev-common.h).
const GENERAL: [&str; 3] = [
    "a general reason: an exception that the guest cannot handle this early, often a page that was never accepted \
     (a kernel accepts by itself what --accept lazy leaves if it is 6.5 or newer and has CONFIG_UNACCEPTED_MEMORY)",
    "the hypervisor's GHCB protocol versions do not fit the guest's",
    "SEV-SNP is not supported by the hypervisor, or the CC blob is missing",
];

/// Reasons of set 1, Linux's (arch/x86/include/asm/sev-common.h, GHCB_TERM_*).
const LINUX: [&str; 13] = [
    "the GHCB page could not be registered",
    "a page state change failed: the host refused or reported an error",
    "PVALIDATE failed: a page was already validated, or the host did not assign it",
    "the guest does not run at VMPL0",
    "the CPUID page is malformed",
    "a CPUID leaf could not be had from the hypervisor",
    "the secrets page is malformed",
    "there is no SVSM",
    "the guest runs at VMPL0 although an SVSM is present",
    "the SVSM calling area is misplaced",
    "Secure TSC could not be set up",
    "the SVSM calling area could not be remapped",
    "Secure AVIC could not be set up",
];

impl Termination {
    /// From the GHCB MSR's value: set in bits 15:12, reason in bits 23:16.
    pub fn from_ghcb_msr(value: u64) -> Termination {
        Termination { set: (value >> 12 & 0xf) as u8, reason: (value >> 16 & 0xff) as u8 }
    }

    /// What happened.
    pub fn sentence(self) -> String {
        let known = match self.set {
            0 => GENERAL.get(usize::from(self.reason)).copied(),
            1 => LINUX.get(usize::from(self.reason)).copied(),
            shim::TERMINATION_SET => shim::Termination(self.reason).describe(),
            _ => None,
        };
        let whose = match self.set {
            0 | 1 => "the guest's kernel",
            shim::TERMINATION_SET => "the shim",
            _ => "the guest",
        };
        match known {
            Some(text) => format!("{whose} says: {text}"),
            None => format!(
                "{whose} gave reason {:#x} of set {:#x}, which is not known here",
                self.reason, self.set
            ),
        }
    }

    /// What to do about it.
    pub fn cure(self) -> &'static str {
        let code = shim::Termination(self.reason);
        match self.set {
            shim::TERMINATION_SET
                if [
                    shim::Termination::SHIM_HASH,
                    shim::Termination::KERNEL_HASH,
                    shim::Termination::INITRD_HASH,
                    shim::Termination::CMDLINE_HASH,
                ]
                .contains(&code) =>
            {
                "something on the host changed the file's copy in memory after it was measured: do not trust this host"
            }
            shim::TERMINATION_SET
                if code == shim::Termination::DOUBLE_VALIDATION
                    || code == shim::Termination::exception(29) =>
            {
                "something on the host swapped or remapped the guest's memory: do not trust this host"
            }
            shim::TERMINATION_SET
                if code == shim::Termination::BAD_BZIMAGE || code == shim::Termination::BAD_ELF =>
            {
                "fetch or build the kernel again"
            }
            shim::TERMINATION_SET if code == shim::Termination::PAGE_ACCEPT => {
                "something on the host changed the guest's memory, or ran out of it: do not trust this host, look at its `dmesg`"
            }
            shim::TERMINATION_SET
                if code == shim::Termination::PAGE_STATE_CHANGE
                    || code == shim::Termination::MAP_GPA =>
            {
                "look at the lines above and at the host's `dmesg`: the host has no memory for these pages, or does not want \
                 to give them"
            }
            shim::TERMINATION_SET => {
                "if the guest's digest is not the one that `cvmm measure` prints, somebody on the host changed the launch pages: \
                 do not trust this host; else report this as a bug"
            }
            _ => "look at the guest's console and at the host's `dmesg`",
        }
    }
}
