//! The host's kernel: its version, how it was configured, how it was started, and what it has said.

use super::finding::Finding;
use super::tree::{Seen, Tree};

/// What is known of the kernel.
#[derive(Clone, Debug)]
pub struct KernelFacts {
    /// As `uname -r` has it.
    pub release: String,
    /// Its configuration file.
    config: Seen<String>,
    /// Its command line.
    pub cmdline: String,
    /// Its log.
    log: Seen<Vec<String>>,
}

impl KernelFacts {
    /// Reads.
    pub fn gather(tree: &Tree) -> KernelFacts {
        let release = tree.text("/proc/sys/kernel/osrelease").known().cloned().unwrap_or_default();
        let places = [format!("/boot/config-{release}"), format!("/lib/modules/{release}/config")];
        let config = places.iter().fold(tree.gzip("/proc/config.gz"), |found, place| match found {
            Seen::Is(_) => found,
            Seen::Absent => tree.text(place),
            Seen::Hidden(_) => match tree.text(place) {
                Seen::Absent => found,
                better => better,
            },
        });
        KernelFacts {
            release,
            config,
            cmdline: tree.text("/proc/cmdline").known().cloned().unwrap_or_default(),
            log: tree.kernel_log(),
        }
    }

    /// Major and minor version.
    fn version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.release.split(|c: char| !c.is_ascii_digit());
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }

    /// Is it new enough? One with backports is, if KVM offers the guests.
    pub fn judge_version(&self, floor: (u32, u32), offered: bool) -> Finding {
        let needed =
            format!("{}.{}, the first that launches such guests, or newer", floor.0, floor.1);
        match self.version() {
            Some(version) if version >= floor || offered => {
                Finding::ok("kernel", &*self.release, &needed)
            }
            Some(_) => Finding::missing(
                "kernel",
                &*self.release,
                &needed,
                format!("boot Linux {}.{} or newer", floor.0, floor.1),
            ),
            None => Finding::unknown("kernel", &*self.release, &needed, "uname -r"),
        }
    }

    /// Was it built with these options, as part of it or as modules?
    pub fn judge_options(&self, options: &[&'static str], offered: bool) -> Finding {
        const SUBJECT: &str = "kernel options";
        let needed = options.join(", ");
        let text = match &self.config {
            _ if offered => {
                let found = "all of them, or KVM would not offer guests";
                return Finding::ok(SUBJECT, found, &needed);
            }
            Seen::Is(text) => text,
            Seen::Absent | Seen::Hidden(_) => {
                let file = format!("/boot/config-{}", self.release);
                let found = "the kernel's configuration is not to be read";
                let cure = format!("zgrep -E '{}' /proc/config.gz {file}", options.join("|"));
                return Finding::unknown(SUBJECT, found, &needed, cure);
            }
        };
        let set = |option: &str| {
            text.lines().any(|line| {
                line.strip_prefix(option).is_some_and(|rest| rest == "=y" || rest == "=m")
            })
        };
        let lacking: Vec<_> = options.iter().copied().filter(|option| !set(option)).collect();
        if lacking.is_empty() {
            return Finding::ok(SUBJECT, "all of them", &needed);
        }
        let found = match lacking.len() == options.len() {
            true => "none of them".to_owned(),
            false => format!("without {}", lacking.join(", ")),
        };
        let cure = format!("boot a kernel that is built with {}", lacking.join(", "));
        Finding::missing(SUBJECT, found, &needed, cure)
    }

    /// Is one of these words on its command line?
    pub fn started_with<'a>(&self, words: &[&'a str]) -> Option<&'a str> {
        let given: Vec<&str> = self.cmdline.split_whitespace().collect();
        words.iter().copied().find(|word| given.contains(word))
    }

    /// The last line of its log that has one of these texts.
    pub fn said(&self, texts: &[&str]) -> Option<&str> {
        let lines = self.log.known()?.iter().rev();
        lines.map(String::as_str).find(|line| texts.iter().any(|text| line.contains(text)))
    }
}
