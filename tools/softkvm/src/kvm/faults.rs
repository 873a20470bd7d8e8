//! A host that is not set up as it should be: what may be wrong with it before any guest is started, for tests of monitors
//! that have to say so.
//!
//! `SOFTKVM_FAULT` holds faults, separated by `;`.
//!
//! | fault | what is wrong | on |
//! |---|---|---|
//! | `no-kvm` | there is no /dev/kvm: its module is not loaded | any |
//! | `kvm-eacces` | /dev/kvm may not be opened | any |
//! | `no-sev` | there is no /dev/sev, as in a container that was given /dev/kvm only | AMD |
//! | `sev-eacces` | /dev/sev may not be opened | AMD |
//! | `snp-off` | kvm_amd.sev_snp=0 | AMD |
//! | `firmware=MAJOR.MINOR` | the security processor runs this version of its firmware; Linux does not use SEV-SNP below 1.51 | AMD |
//! | `asids=N` | N address space identifiers are free; others use the rest | AMD |
//! | `tdx-off` | kvm_intel.tdx=0, which is the kernel's default | Intel |
//! | `hkids=N` | N key identifiers for TDs are free; others use the rest | Intel |
//!
//! What a monitor can see of each is what it would see of a real host: errno values, KVM's VM types, the status of the
//! platform, and the files in [`super::files`].

use thiserror::Error;

use super::caps::VmKind;
use super::errno::{Answer, Errno};

/// The oldest firmware with which the kernel initialises SEV-SNP (Linux 7.2 drivers/crypto/ccp/sev-dev.c
/// `SNP_MIN_API_MAJOR`, `SNP_MIN_API_MINOR`).
const SNP_FIRMWARE: (u8, u8) = (1, 51);

/// Text that names no fault of such a machine.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("SOFTKVM_FAULT: {0:?} is nothing that can be wrong with the host of this profile")]
pub struct FaultError(String);

/// What is wrong with a device node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Node {
    #[default]
    Good,
    Missing,
    Forbidden,
}

impl Node {
    fn open(self) -> Answer {
        match self {
            Node::Good => Ok(()),
            Node::Missing => Err(Errno::ENOENT),
            Node::Forbidden => Err(Errno::EACCES),
        }
    }
}

/// What is wrong with a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    kvm: Node,
    sev: Node,
    /// The technology is off by the module's parameter.
    off: bool,
    /// The firmware's version.
    pub firmware: Option<(u8, u8)>,
    /// Identifiers that are left for guests.
    pub free_ids: Option<u16>,
}

impl Faults {
    /// Reads the value of `SOFTKVM_FAULT`; `intel` says whose machine it is.
    pub fn parse(text: &str, intel: bool) -> Result<Self, FaultError> {
        let mut faults = Self::default();
        for word in text.split(';').map(str::trim).filter(|word| !word.is_empty()) {
            faults.add(word, intel).ok_or_else(|| FaultError(word.to_owned()))?;
        }
        Ok(faults)
    }

    fn add(&mut self, word: &str, intel: bool) -> Option<()> {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match (name, intel) {
            ("no-kvm", _) => self.kvm = Node::Missing,
            ("kvm-eacces", _) => self.kvm = Node::Forbidden,
            ("no-sev", false) => self.sev = Node::Missing,
            ("sev-eacces", false) => self.sev = Node::Forbidden,
            ("snp-off", false) | ("tdx-off", true) => self.off = true,
            ("firmware", false) => {
                let (major, minor) = value.split_once('.')?;
                self.firmware = Some((major.parse().ok()?, minor.parse().ok()?));
                return Some(());
            }
            ("asids", false) | ("hkids", true) => {
                self.free_ids = Some(value.parse().ok()?);
                return Some(());
            }
            _ => return None,
        }
        value.is_empty().then_some(())
    }

    /// Whether /dev/kvm can be opened.
    pub fn open_kvm(&self) -> Answer {
        self.kvm.open()
    }

    /// Whether /dev/sev can be opened.
    pub fn open_sev(&self) -> Answer {
        self.sev.open()
    }

    /// Whether KVM's module is loaded.
    pub fn has_module(&self) -> bool {
        self.kvm != Node::Missing
    }

    /// Whether the module's parameter leaves the technology on.
    pub fn switched_on(&self) -> bool {
        !self.off && self.initialised()
    }

    /// Whether the kernel has brought SEV-SNP up on the security processor.
    pub fn initialised(&self) -> bool {
        self.firmware.is_none_or(|version| version >= SNP_FIRMWARE)
    }

    /// Whether KVM still has VMs of a kind.
    pub fn leaves(&self, kind: VmKind) -> bool {
        matches!(kind, VmKind::Plain | VmKind::SwProtected) || self.switched_on()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_and_what_cannot_be_wrong_is_refused() {
        let faults = Faults::parse("no-sev; firmware=1.40 ;asids=0", false).unwrap();
        assert_eq!(faults.open_sev(), Err(Errno::ENOENT));
        assert_eq!((faults.firmware, faults.free_ids), (Some((1, 40)), Some(0)));
        assert!(!faults.leaves(VmKind::Snp) && faults.leaves(VmKind::Plain));
        for (text, intel) in [
            ("no-tpm", false),
            ("tdx-off", false),
            ("asids=1", true),
            ("no-sev", true),
            ("asids", false),
            ("firmware=1", false),
            ("no-kvm=1", false),
        ] {
            let error = Faults::parse(text, intel).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
