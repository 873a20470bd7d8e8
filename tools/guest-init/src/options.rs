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
    /// `cvmm.fill`: touch memory until there is no more, and say what the kernel has accepted before and after;
    /// `cvmm.fill=MIB`: only so much.
    pub fill: Option<u32>,
    /// `cvmm.shell`: start a shell on the console.
    pub shell: bool,
    /// `cvmm.probe=LIST`: measure these [`PROBES`], or `all`.
    pub probes: Option<&'a [u8]>,
    /// `cvmm.probe.n=N`: with so many samples each; a tenth of them go before as a warm-up.
    pub probe_samples: Samples,
    /// `cvmm.marks=N`: write so many marks for their own cost; `cvmm.marks=none`: write none but the first, which comes
    /// before the command line can be read.
    pub marks: MarksWanted,
}

/// What can be measured, by the names that the command line uses.
pub const PROBES: [&[u8]; 12] = [
    b"touch",
    b"cpuid",
    b"rdmsr",
    b"pio",
    b"mmio",
    b"hypercall",
    b"hlt",
    b"ipi",
    b"attest",
    b"stream",
    b"chase",
    b"int",
];

/// How many samples a probe takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Samples(pub u32);

impl Samples {
    /// The samples and their order fit into memory.
    const MAX: u32 = 1_000_000;
}

impl Default for Samples {
    /// A hundredth of what a processor of silicon should be asked for, for the sake of those of software.
    fn default() -> Self {
        Self(1000)
    }
}

/// Which marks are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarksWanted {
    /// None.
    None,
    /// Those of the phases, and so many more.
    More(u32),
}

impl Default for MarksWanted {
    fn default() -> Self {
        Self::More(0)
    }
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
            (b"cvmm.fill", None) => self.fill = Some(u32::MAX),
            (b"cvmm.fill", Some(text)) => self.fill = Some(number(text)?),
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
            (b"cvmm.probe", Some(list)) => {
                let known = |name| name == b"all" || PROBES.contains(&name);
                if !list.split(|&c| c == b',').all(known) {
                    return None;
                }
                self.probes = Some(list);
            }
            (b"cvmm.probe.n", Some(text)) => {
                let count = number(text).filter(|count| (1..=Samples::MAX).contains(count))?;
                self.probe_samples = Samples(count);
            }
            (b"cvmm.marks", Some(b"none")) => self.marks = MarksWanted::None,
            (b"cvmm.marks", Some(text)) => {
                let count = number(text).filter(|count| *count <= MARKS_MAX)?;
                self.marks = MarksWanted::More(count);
            }
            _ => return None,
        }
        Some(())
    }
}

/// The monitor keeps no more of them.
const MARKS_MAX: u32 = 1000;

impl Options<'_> {
    /// Is this one of the [`PROBES`] to be measured?
    pub fn wants(&self, probe: &[u8]) -> bool {
        let mut names = self.probes.unwrap_or_default().split(|&c| c == b',');
        names.any(|name| name == b"all" || name == probe)
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

/// A row of `/proc/meminfo`, in KiB.
pub fn meminfo(text: &[u8], name: &[u8]) -> Option<u32> {
    let mut rows = text.split(|&c| c == b'\n').filter_map(|row| row.strip_prefix(name));
    let value = rows.find_map(|row| row.strip_prefix(b":"))?.trim_ascii();
    number(value.strip_suffix(b" kB")?)
}

/// Whether a line of the kernel log is about memory encryption.
pub fn about_encryption(message: &[u8]) -> bool {
    [&b"Memory Encryption"[..], b"SEV", b"TDX"].iter().any(|word| has(message, word))
}

/// Whether it says that this is an SEV-SNP guest.
pub fn about_snp(message: &[u8]) -> bool {
    has(message, b"Memory Encryption Features active") && has(message, b"SEV-SNP")
}

fn has(message: &[u8], word: &[u8]) -> bool {
    message.windows(word.len()).any(|window| window == word)
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
            "quiet cvmm.report={} cvmm.secret=00ffAB cvmm.hold=7 cvmm.shell cvmm.fill=9 cvmm.probe=cpuid,int \
             cvmm.probe.n=20 cvmm.marks=5\n",
            "5a".repeat(64)
        );
        let (options, bad) = parse(&line);
        assert!(bad.is_empty(), "{bad:?}");
        assert_eq!(options.report, Some([0x5a; 64]));
        assert_eq!(options.secret, Some(&b"00ffAB"[..]));
        assert_eq!((options.hold_seconds, options.shell, options.fill), (7, true, Some(9)));
        assert!(options.wants(b"cpuid") && options.wants(b"int") && !options.wants(b"touch"));
        assert_eq!((options.probe_samples, options.marks), (Samples(20), MarksWanted::More(5)));
        let (options, _) = parse("cvmm.fill cvmm.probe=all cvmm.marks=none");
        assert_eq!(options.fill, Some(u32::MAX));
        assert!(PROBES.iter().all(|probe| options.wants(probe)));
        assert_eq!((options.probe_samples, options.marks), (Samples(1000), MarksWanted::None));
        assert!(!Options::default().wants(b"cpuid"));
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
            "cvmm.fill=",
            "cvmm.probe=",
            "cvmm.probe=cpuid,what",
            "cvmm.probe.n=0",
            "cvmm.probe.n=1000001",
            "cvmm.marks=-1",
            "cvmm.marks=1001",
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
    fn meminfo_has_rows() {
        let text =
            b"MemTotal:        2041956 kB\nUnaccepted:     12 kB\nHugePages_Total:       7\n";
        assert_eq!(meminfo(text, b"MemTotal"), Some(2_041_956));
        assert_eq!(meminfo(text, b"Unaccepted"), Some(12));
        assert_eq!(meminfo(text, b"Mem"), None);
        assert_eq!(meminfo(text, b"HugePages_Total"), None);
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
            assert_eq!(
                about_snp(message.as_bytes()),
                message.ends_with("SEV-ES SEV-SNP") && message.starts_with("Memory")
            );
        }
    }
}
