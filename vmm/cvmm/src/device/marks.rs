//! Marks: values that the shim and a test guest write to one port, and the names `--until` knows them by.

use std::str::FromStr;

use abi::marks::MarkId;

/// A mark to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub MarkId);

/// Phases of the boot and the mark that ends each.
const PHASES: [(&str, MarkId); 7] = [
    ("G0", MarkId::SHIM_ENTRY),
    ("G1", MarkId::ACCEPT_BEGIN),
    ("G2", MarkId::ACCEPT_END),
    ("G4", MarkId::KERNEL_ENTRY),
    ("K0", MarkId::INIT_ENTRY),
    ("U0", MarkId::INIT_READY),
    ("A0", MarkId::ATTEST_END),
];

impl FromStr for Mark {
    type Err = String;

    fn from_str(text: &str) -> Result<Mark, String> {
        let phase =
            PHASES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, id)| *id);
        let number =
            text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u8::from_str_radix(hex, 16));
        phase.or_else(|| MarkId::from_name(text)).or(number.ok().map(MarkId)).map(Mark).ok_or_else(
            || {
                let names: Vec<&str> = MarkId::NAMES.iter().map(|(_, name)| *name).collect();
                let phases: Vec<&str> = PHASES.iter().map(|(name, _)| *name).collect();
                format!(
                    "'{text}' is no mark; marks are {}, the phases {}, and numbers",
                    names.join(", "),
                    phases.join(", ")
                )
            },
        )
    }
}

/// The name of a mark's value.
pub fn name(value: u32) -> String {
    let mark = abi::marks::Mark(value);
    mark.id().name().map_or_else(|| format!("{:#04x}", mark.id().0), str::to_owned)
}
