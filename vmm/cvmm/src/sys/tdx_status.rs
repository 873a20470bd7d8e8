//! What the TDX module's status codes mean for somebody who launches a TD. Names and meanings are those of [`abi::tdx`].

use std::io;

use abi::tdx::{TdxStatus, operand};

use super::cure::{self, Cure};

/// One sentence; nothing where the module was not the cause.
pub fn sentence(status: TdxStatus) -> Option<String> {
    if status == TdxStatus::SUCCESS {
        return None;
    }
    let code = status.0;
    let Some((name, meaning)) = status.name().zip(status.meaning()) else {
        return Some(format!(
            "TDX module status {code:#018x}, which is not in the specification known here"
        ));
    };
    let operand = operand_of(status).map(|name| format!(" ({name})")).unwrap_or_default();
    Some(format!("TDX module status {code:#018x} TDX_{name}{operand}: {meaning}"))
}

/// The operand that a status names in its details.
pub fn operand_of(status: TdxStatus) -> Option<&'static str> {
    matches!(status.code(), TdxStatus::OPERAND_INVALID | TdxStatus::OPERAND_BUSY)
        .then(|| operand::name(status.details()))
        .flatten()
}

const MODULE: &str =
    "`dmesg | grep -i tdx` on the host has the TDX module's answer; update the module if it is old";

/// What to do where the module said nothing, or nothing that is known.
const CURES: &[Cure] = &[
    (
        &["KVM_TDX_INIT_VM"],
        libc::EAGAIN,
        "try again: the processor's random number generator has run dry",
    ),
    (
        &["KVM_TDX_INIT_VM"],
        libc::EINVAL,
        "leave out --tdx=attributes=…; if that does not help, report this as a bug, with `cpuid -r` and `dmesg | grep -i tdx`",
    ),
    (
        &["KVM_TDX_INIT_VM"],
        libc::EIO,
        "every processor package needs a processor that is online; `dmesg | grep -i tdx` on the host says more",
    ),
    (
        &["KVM_TDX_INIT_MEM_REGION"],
        libc::EINTR,
        "find out who sends signals to cvmm without end, and start the guest again",
    ),
    (&["KVM_TDX_INIT_MEM_REGION", "KVM_TDX_INIT_VCPU", "KVM_TDX_FINALIZE_VM"], libc::EIO, MODULE),
    (&["KVM_TDX_CAPABILITIES", "KVM_TDX_GET_CPUID"], libc::EIO, MODULE),
    (
        &["KVM_TDX_CAPABILITIES", "KVM_TDX_GET_CPUID"],
        libc::E2BIG,
        "report this as a bug, with the TDX module's version (`dmesg | grep -i tdx`)",
    ),
    (&["KVM_TDX_CAPABILITIES"], libc::EINVAL, "update the host's kernel if it is older than 6.16"),
    (
        &[],
        libc::EINVAL,
        "update the host's kernel if it is older than 6.16; else report this as a bug, with its version (uname -r)",
    ),
];

/// What to do about a command that was refused.
pub fn cure(command: &str, status: TdxStatus, source: &io::Error) -> &'static str {
    if status.code() == TdxStatus::OPERAND_INVALID {
        return match status.details() {
            operand::ATTRIBUTES => {
                "leave out --tdx=attributes=…, or ask for what the module offers"
            }
            operand::XFAM | operand::CPUID_CONFIG => {
                "report this as a bug, with the output of `cpuid -r` and the module's version (`dmesg | grep -i tdx`)"
            }
            operand::TSC_FREQUENCY => {
                "the host's TSC must run at 100 MHz to 10 GHz: check `dmesg | grep -i tsc`"
            }
            operand::MAX_VCPUS => {
                "update the TDX module: it allows fewer vCPUs than the host has processors"
            }
            _ => "report this as a bug",
        };
    }
    match status.code() {
        TdxStatus::OPERAND_BUSY | TdxStatus::RND_NO_ENTROPY => "try again",
        _ => cure::find(command, source, &[CURES]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_told_with_its_operand() {
        let status = TdxStatus::OPERAND_INVALID.with(operand::CPUID_CONFIG);
        let said = sentence(status).unwrap();
        for word in ["0xc000010000000045", "TDX_OPERAND_INVALID", "CPUID_CONFIG"] {
            assert!(said.contains(word), "{word} is not in {said}");
        }
        assert!(sentence(TdxStatus(0xdead << 32)).unwrap().contains("not in the specification"));
        assert_eq!(sentence(TdxStatus::SUCCESS), None);
        assert_eq!(operand_of(TdxStatus::NO_VCPUS.with(1)), None);
    }
}
