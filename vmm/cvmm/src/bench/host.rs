//! What runs were measured on.

use std::fs::read_to_string;

use serde::{Deserialize, Serialize};

/// Facts of this host that change what is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// The processor's name.
    pub processor: String,
    /// How many of them.
    pub processors: usize,
    /// The kernel's release.
    pub kernel: String,
    /// The frequency governor, where there is one.
    pub governor: Option<String>,
    /// Memory.
    pub memory_bytes: u64,
    /// cvmm's version.
    pub cvmm_version: String,
}

impl Host {
    /// This one. What cannot be read is empty.
    pub fn here() -> Host {
        let line = |path: &str, name: &str| {
            let text = read_to_string(path).unwrap_or_default();
            let found = text
                .lines()
                .find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name));
            found.map_or(String::new(), |(_, value)| value.trim().to_owned())
        };
        let file = |path: &str| read_to_string(path).ok().map(|text| text.trim().to_owned());
        let kib = line("/proc/meminfo", "MemTotal");
        let kib: u64 = kib.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        Host {
            processor: line("/proc/cpuinfo", "model name"),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: file("/proc/sys/kernel/osrelease").unwrap_or_default(),
            governor: file("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            memory_bytes: kib * 1024,
            cvmm_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// In a line.
    pub fn describe(&self) -> String {
        let governor = self.governor.as_deref().unwrap_or("none");
        format!(
            "{} x {}, Linux {}, governor {governor}, {} GiB",
            self.processors,
            self.processor,
            self.kernel,
            self.memory_bytes >> 30
        )
    }
}
