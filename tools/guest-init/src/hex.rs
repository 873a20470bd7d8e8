//! Hexadecimal digits.

/// Bytes in one line of a dump.
pub const LINE_BYTES: usize = 32;

/// Decodes `digits` into `out`; `None` unless there are exactly two digits per byte of `out`.
pub fn decode(digits: &[u8], out: &mut [u8]) -> Option<()> {
    if digits.len() != out.len() * 2 {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(())
}

fn digit(c: u8) -> Option<u8> {
    char::from(c).to_digit(16).map(|value| value as u8)
}

/// One line of up to [`LINE_BYTES`] bytes in digits, with its line end; returns its length.
pub fn line(bytes: &[u8], out: &mut [u8; LINE_BYTES * 2 + 1]) -> usize {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut len = 0;
    for &byte in bytes.iter().take(LINE_BYTES) {
        out[len] = DIGITS[usize::from(byte >> 4)];
        out[len + 1] = DIGITS[usize::from(byte & 15)];
        len += 2;
    }
    out[len] = b'\n';
    len + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_exact_lengths_only() {
        let mut out = [0; 2];
        assert_eq!(decode(b"0aFf", &mut out), Some(()));
        assert_eq!(out, [0x0a, 0xff]);
        for bad in [&b"0af"[..], b"0aff0", b"0ag0", b""] {
            assert_eq!(decode(bad, &mut out), None);
        }
    }

    #[test]
    fn a_line_decodes_to_its_bytes() {
        let bytes: Vec<u8> = (0..40).map(|i| i * 6).collect();
        let mut text = [0; LINE_BYTES * 2 + 1];
        let len = line(&bytes, &mut text);
        assert_eq!((len, text[len - 1]), (65, b'\n'));
        let mut back = [0; LINE_BYTES];
        decode(&text[..64], &mut back).expect("digits");
        assert_eq!(back, bytes[..LINE_BYTES]);
        assert_eq!(line(&bytes[..3], &mut text), 7);
    }
}
