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

/// Puts a mark together that comes byte by byte. One per vCPU, so that the bytes of two do not mix.
#[derive(Clone, Copy, Debug, Default)]
pub struct MarkBytes {
    value: [u8; 4],
    next: u8,
}

impl MarkBytes {
    /// Takes byte `at`; gives the mark when it is the last. Bytes out of order make no mark.
    pub fn push(&mut self, at: u8, byte: u8) -> Option<u32> {
        if at == 0 {
            *self = MarkBytes::default();
        }
        if at != self.next {
            *self = MarkBytes::default();
            return None;
        }
        *self.value.get_mut(usize::from(at))? = byte;
        self.next += 1;
        if usize::from(self.next) < self.value.len() {
            return None;
        }
        let value = u32::from_le_bytes(self.value);
        *self = MarkBytes::default();
        Some(value)
    }
}

/// The name of a mark's value.
pub fn name(value: u32) -> String {
    let mark = abi::marks::Mark(value);
    mark.id().name().map_or_else(|| format!("{:#04x}", mark.id().0), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(bytes: &[(u8, u8)]) -> Vec<u32> {
        let mut mark = MarkBytes::default();
        bytes.iter().filter_map(|(at, byte)| mark.push(*at, *byte)).collect()
    }

    #[test]
    fn four_bytes_in_order_are_a_mark() {
        assert_eq!(push(&[(0, 1), (1, 2), (2, 3), (3, 0x42)]), [0x4203_0201]);
        // Begun again; and two in a row.
        assert_eq!(push(&[(0, 9), (1, 9), (0, 1), (1, 2), (2, 3), (3, 4)]), [0x0403_0201]);
        let twice: Vec<(u8, u8)> = [0, 1, 2, 3, 0, 1, 2, 3].map(|at| (at, at)).to_vec();
        assert_eq!(push(&twice), [0x0302_0100; 2]);
    }

    #[test]
    fn bytes_out_of_order_are_none() {
        assert!(push(&[(3, 1)]).is_empty());
        assert!(push(&[(0, 1), (2, 1), (3, 1)]).is_empty());
        assert!(push(&[(0, 1), (1, 1), (1, 1), (2, 1), (3, 1)]).is_empty());
        assert!(push(&[(7, 1), (0, 1), (1, 1), (2, 1)]).is_empty());
    }
}
