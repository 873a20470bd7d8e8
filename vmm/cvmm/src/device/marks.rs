//! Marks: values that the shim and a test guest write to one port or to the console, and the names `--until` knows them
//! by.

use std::str::FromStr;

use abi::marks::MarkId;
use abi::records::{CONSOLE_MAX, Record};

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

/// Takes marks and records out of what the guest writes to its console ([`abi::marks::Mark::on_console`],
/// [`abi::records::Record::on_console`]).
#[derive(Debug, Default)]
pub struct ConsoleFilter {
    held: Vec<u8>,
}

/// What a guest says to the monitor among its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A mark.
    Mark(u32),
    /// A record: kind, contents and check, not looked at.
    Record(Vec<u8>),
}

/// What becomes of a byte on the console.
#[derive(Debug, PartialEq, Eq)]
pub enum Filtered {
    /// It may belong to a message: held back.
    Held,
    /// These bytes are output, those held before among them.
    Output(Vec<u8>),
    /// It completes a message.
    Message(Message),
}

const MARK: [u8; 7] = abi::marks::Mark::CONSOLE_PREFIX;
const RECORD: [u8; 7] = Record::CONSOLE_PREFIX;
const END: u8 = Record::CONSOLE_END;
const MARK_DIGITS: usize = 8;
/// Kind and check alone, and the longest record.
const RECORD_DIGITS: std::ops::RangeInclusive<usize> = 8..=CONSOLE_MAX - RECORD.len() - 1;

impl ConsoleFilter {
    /// The next byte.
    pub fn step(&mut self, byte: u8) -> Filtered {
        let at = self.held.len();
        let is_mark = self.held.starts_with(&MARK);
        let digits = at.saturating_sub(MARK.len());
        let ends = match is_mark {
            true => digits == MARK_DIGITS,
            false => RECORD_DIGITS.contains(&digits) && digits.is_multiple_of(2),
        };
        if at > MARK.len() && ends && byte == END {
            let value = self.release().split_off(MARK.len());
            return Filtered::Message(if is_mark { mark(&value) } else { record(&value) });
        }
        let most = if is_mark { MARK_DIGITS } else { *RECORD_DIGITS.end() };
        let fits = match (MARK.get(at), RECORD.get(at)) {
            // The prefixes differ in one byte.
            (Some(mark), Some(record)) => {
                byte == *mark && MARK.starts_with(&self.held)
                    || byte == *record && RECORD.starts_with(&self.held)
            }
            _ => digits < most && byte.is_ascii_hexdigit(),
        };
        if fits {
            self.held.push(byte);
            return Filtered::Held;
        }
        let mut output = self.release();
        if byte == MARK[0] {
            self.held.push(byte);
        } else {
            output.push(byte);
        }
        if output.is_empty() { Filtered::Held } else { Filtered::Output(output) }
    }

    /// What is held back, as output: no more is to come.
    pub fn release(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

fn digit(digit: u8) -> u32 {
    char::from(digit).to_digit(16).unwrap_or_default()
}

fn mark(digits: &[u8]) -> Message {
    Message::Mark(digits.iter().fold(0, |value, next| value << 4 | digit(*next)))
}

fn record(digits: &[u8]) -> Message {
    Message::Record(
        digits
            .chunks(2)
            .map(|two| two.iter().fold(0, |value, next| value << 4 | digit(*next) as u8))
            .collect(),
    )
}

#[cfg(test)]
#[path = "marks_test.rs"]
mod tests;
