//! What the kernel command line asks of `/init`, and small texts that the kernel writes.

use crate::hex;

/// The options that start with `cvmm.`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options<'a> {
    /// `cvmm.report=HEX128`: fetch an attestation report with this report data.
    pub report: Option<[u8; 64]>,
    /// `cvmm.secret=HEX`: keep these bytes (still in digits) in a page of memory.
    pub secret: Option<&'a [u8]>,
    /// `cvmm.hold=SECONDS`: stay busy for a while before the end.
    pub hold_seconds: u32,
    /// `cvmm.shell`: start a shell on the console.
    pub shell: bool,
}

impl<'a> Options<'a> {
    /// Reads a command line. Options that cannot be understood are handed to `complain`.
    pub fn parse(cmdline: &'a [u8], mut complain: impl FnMut(&'a [u8])) -> Self {
        let mut options = Self::default();
        for word in cmdline.split(u8::is_ascii_whitespace) {
            if word.starts_with(b"cvmm.") && options.take(word).is_none() {
                complain(word);
            }
        }
        options
    }

    fn take(&mut self, word: &'a [u8]) -> Option<()> {
        let at = word.iter().position(|&c| c == b'=').unwrap_or(word.len());
        let value = word.get(at + 1..);
        match (&word[..at], value) {
            (b"cvmm.shell", None) => self.shell = true,
            (b"cvmm.report", Some(digits)) => {
                let mut data = [0; 64];
                hex::decode(digits, &mut data)?;
                self.report = Some(data);
            }
            (b"cvmm.secret", Some(digits)) => {
                let pairs = !digits.is_empty() && digits.len().is_multiple_of(2);
                if !pairs || !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                self.secret = Some(digits);
            }
            (b"cvmm.hold", Some(text)) => self.hold_seconds = number(text)?,
            _ => return None,
        }
        Some(())
    }
}

/// A decimal number.
pub fn number(text: &[u8]) -> Option<u32> {
    core::str::from_utf8(text).ok()?.parse().ok()
}

/// How many members a list like `0-3,8` has; 0 if it is not such a list.
pub fn count_list(list: &[u8]) -> u32 {
    let range = |part: &[u8]| {
        let mut ends = part.splitn(2, |&c| c == b'-').map(number);
        let first = ends.next()??;
        let last = ends.next().unwrap_or(Some(first))?;
        last.checked_sub(first)?.checked_add(1)
    };
    let parts = list.trim_ascii().split(|&c| c == b',').map(range);
    parts.sum::<Option<u32>>().unwrap_or(0)
}

/// Whether a line of the kernel log is about memory encryption.
pub fn about_encryption(message: &[u8]) -> bool {
    const WORDS: [&[u8]; 3] = [b"Memory Encryption", b"SEV", b"TDX"];
    WORDS.iter().any(|word| message.windows(word.len()).any(|window| window == *word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> (Options<'_>, Vec<String>) {
        let mut bad = Vec::new();
        let options = Options::parse(line.as_bytes(), |word| {
            bad.push(String::from_utf8_lossy(word).into_owned());
        });
        (options, bad)
    }

    #[test]
    fn options_of_others_are_left_alone() {
        assert_eq!(parse("console=ttyS0 quiet\n"), (Options::default(), vec![]));
    }

    #[test]
    fn every_option_is_understood() {
        let line = format!(
            "quiet cvmm.report={} cvmm.secret=00ffAB cvmm.hold=7 cvmm.shell\n",
            "5a".repeat(64)
        );
        let (options, bad) = parse(&line);
        assert!(bad.is_empty(), "{bad:?}");
        assert_eq!(options.report, Some([0x5a; 64]));
        assert_eq!(options.secret, Some(&b"00ffAB"[..]));
        assert_eq!((options.hold_seconds, options.shell), (7, true));
    }

    #[test]
    fn bad_options_are_reported_and_ignored() {
        for word in [
            "cvmm.report=5a",
            "cvmm.report",
            "cvmm.secret=",
            "cvmm.secret=abc",
            "cvmm.secret=zz",
            "cvmm.hold=-1",
            "cvmm.hold=",
            "cvmm.shell=1",
            "cvmm.what",
        ] {
            assert_eq!(parse(word), (Options::default(), vec![word.to_owned()]));
        }
    }

    #[test]
    fn lists_are_counted() {
        for (list, count) in
            [("0\n", 1), ("0-3\n", 4), ("0-1,4,6-7", 5), ("", 0), ("3-1", 0), ("x", 0)]
        {
            assert_eq!(count_list(list.as_bytes()), count, "{list:?}");
        }
    }

    #[test]
    fn kernel_messages_are_chosen_by_word() {
        for (message, chosen) in [
            ("Memory Encryption Features active: AMD SEV SEV-ES SEV-SNP", true),
            ("SEV: Status: SEV SEV-ES SEV-SNP", true),
            ("tdx: Guest detected, TDX", true),
            ("smpboot: Total of 4 processors activated", false),
            ("", false),
        ] {
            assert_eq!(about_encryption(message.as_bytes()), chosen, "{message}");
        }
    }
}
