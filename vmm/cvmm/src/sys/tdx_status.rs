//! What the TDX module's status codes mean for somebody who launches a TD. Names and meanings are those of [`abi::tdx`].

use std::io;

use abi::tdx::{TdxStatus, operand};

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

/// What to do about it.
pub fn cure(status: TdxStatus, source: &io::Error) -> &'static str {
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
    match (status.code(), source.raw_os_error()) {
        (TdxStatus::OPERAND_BUSY | TdxStatus::RND_NO_ENTROPY, _) => "try again",
        (_, Some(libc::EIO)) => {
            "the guest is lost and nothing more can be asked of it: `dmesg | grep -i tdx` on the host says more"
        }
        (_, Some(libc::ENOMEM)) => "free memory on the host, or give less --memory",
        _ => "check `dmesg | grep -i tdx`; update the host's kernel if it is older than 6.16",
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
