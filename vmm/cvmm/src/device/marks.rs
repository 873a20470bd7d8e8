//! Marks: values that the shim and a test guest write to one port or to the console, and the names `--until` knows them
//! by.

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

/// Takes marks out of what the guest writes to its console ([`abi::marks::Mark::on_console`]).
#[derive(Debug, Default)]
pub struct ConsoleFilter {
    held: Vec<u8>,
}

/// What becomes of a byte on the console.
#[derive(Debug, PartialEq, Eq)]
pub enum Filtered {
    /// It may belong to a mark: held back.
    Held,
    /// These bytes are output, those held before among them.
    Output(Vec<u8>),
    /// It completes a mark.
    Mark(u32),
}

impl ConsoleFilter {
    /// The next byte.
    pub fn step(&mut self, byte: u8) -> Filtered {
        const PREFIX: [u8; 7] = abi::marks::Mark::CONSOLE_PREFIX;
        const DIGITS: usize = 8;
        let at = self.held.len();
        let fits = match PREFIX.get(at) {
            Some(expected) => byte == *expected,
            None if at < PREFIX.len() + DIGITS => byte.is_ascii_hexdigit(),
            None => byte == abi::marks::Mark::CONSOLE_END,
        };
        if !fits {
            let mut output = self.release();
            if byte == PREFIX[0] {
                self.held.push(byte);
            } else {
                output.push(byte);
            }
            return if output.is_empty() { Filtered::Held } else { Filtered::Output(output) };
        }
        self.held.push(byte);
        if at < PREFIX.len() + DIGITS {
            return Filtered::Held;
        }
        let digits = &self.release()[PREFIX.len()..at];
        Filtered::Mark(digits.iter().fold(0, |value, digit| {
            value << 4 | char::from(*digit).to_digit(16).unwrap_or_default()
        }))
    }

    /// What is held back, as output: no more is to come.
    pub fn release(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
#[path = "marks_test.rs"]
mod tests;
