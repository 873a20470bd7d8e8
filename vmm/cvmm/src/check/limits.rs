//! What the host leaves to this process: memory, descriptors, and the settings that make VMs slow to create or to run.

use super::finding::Finding;
use super::misc::ancestors;
use super::tree::{Seen, Tree};

/// What is known of them.
#[derive(Clone, Debug)]
pub struct LimitFacts {
    /// Bytes that can be had without swapping.
    memory: Seen<u64>,
    /// Bytes that the cgroup of this process may still take; nothing if it has no limit.
    cgroup: Seen<Option<u64>>,
    /// Open files of this process: soft limit.
    files: Seen<u64>,
    /// Locked memory of this process: soft limit, as text.
    memlock: Seen<String>,
    /// Transparent huge pages: the setting in force.
    huge_pages: Seen<String>,
    /// kvm.nx_huge_pages.
    nx_huge_pages: Seen<String>,
    /// The processor has the erratum that it works around.
    itlb_multihit: bool,
    /// kvm.halt_poll_ns.
    halt_poll: Seen<u64>,
    /// Mount options of the cgroup v2 hierarchy.
    cgroup_mount: Option<(String, String)>,
}

/// A guest of the default size, and cvmm with it.
const ROOM: u64 = 768 << 20;
/// A guest of 255 vCPUs and its devices.
const FILES: u64 = 1024;

impl LimitFacts {
    /// Reads.
    pub fn gather(tree: &Tree) -> LimitFacts {
        let limit = |name: &'static str| {
            tree.text("/proc/self/limits").parsed(move |text| {
                let line = text.lines().find_map(|line| line.strip_prefix(name))?;
                Some(line.split_whitespace().next()?.to_owned())
            })
        };
        LimitFacts {
            memory: tree.text("/proc/meminfo").parsed(|text| {
                let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
                line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
            }),
            cgroup: cgroup_room(tree),
            files: limit("Max open files").parsed(|text| match text.as_str() {
                "unlimited" => Some(u64::MAX),
                number => number.parse().ok(),
            }),
            memlock: limit("Max locked memory"),
            huge_pages: tree
                .text("/sys/kernel/mm/transparent_hugepage/enabled")
                .parsed(|text| Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())),
            nx_huge_pages: tree.text("/sys/module/kvm/parameters/nx_huge_pages"),
            itlb_multihit: tree.text("/proc/cpuinfo").known().is_some_and(|text| {
                let mut lines = text.lines();
                lines.any(|line| line.starts_with("bugs") && line.contains("itlb_multihit"))
            }),
            halt_poll: tree.number("/sys/module/kvm/parameters/halt_poll_ns"),
            cgroup_mount: cgroup_mount(tree),
        }
    }

    /// What every host has, a modelled one as well: this process runs on this machine.
    pub fn judge_process(&self) -> Vec<Finding> {
        let mut findings = vec![
            judge_room("memory", &self.memory, "stop something, or give less --memory"),
            self.judge_cgroup(),
        ];
        findings.push(match &self.files {
            Seen::Is(files) if *files < FILES => Finding::advice(
                "open files",
                files.to_string(),
                "1024 for guests with many vCPUs",
                "ulimit -n 1024",
            ),
            Seen::Is(u64::MAX) => Finding::ok("open files", "unlimited", "1024"),
            Seen::Is(files) => Finding::ok("open files", files.to_string(), "1024"),
            _ => Finding::unknown("open files", "not to be read", "1024", "ulimit -n"),
        });
        // Private memory is not locked memory: KVM allocates it with the guest's file.
        if let Seen::Is(locked) = &self.memlock {
            let unit = if locked == "unlimited" { "" } else { " bytes" };
            findings.push(Finding::ok(
                "locked memory",
                format!("{locked}{unit}"),
                "nothing: private memory does not count",
            ));
        }
        findings
    }

    /// What only KVM of this machine has.
    pub fn judge_kernel(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Seen::Is(setting) = &self.huge_pages {
            let needed = "always: shared guest memory in 2 MiB pages";
            findings.push(match setting.as_str() {
                "always" => Finding::ok("huge pages", setting, needed),
                _ => Finding::advice(
                    "huge pages",
                    setting,
                    needed,
                    "echo always | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
                ),
            });
        }
        if let Seen::Is(setting) = &self.nx_huge_pages {
            let needed =
                "never, unless the processor has the erratum: a thread less for each VM to start";
            findings.push(match setting.as_str() {
                "never" => Finding::ok("NX huge pages", setting, needed),
                _ if self.itlb_multihit => {
                    let found = format!("{setting}, and the processor has iTLB multihit");
                    Finding::ok("NX huge pages", found, needed)
                }
                _ => Finding::advice(
                    "NX huge pages",
                    setting,
                    needed,
                    "echo never | sudo tee /sys/module/kvm/parameters/nx_huge_pages (while no VM runs)",
                ),
            });
        }
        if let Seen::Is(ns) = &self.halt_poll {
            let needed = "your choice: the host spins that long before a halted vCPU sleeps";
            findings.push(Finding::ok("halt polling", format!("up to {ns} ns"), needed));
        }
        if let Some((at, options)) = &self.cgroup_mount {
            let needed =
                "favordynmods: threads of a new VM join their cgroup without a grace period";
            let set = options.split(',').any(|option| option == "favordynmods");
            findings.push(match set {
                true => Finding::ok("cgroups", "favordynmods", needed),
                false => Finding::advice(
                    "cgroups",
                    format!("{at} without favordynmods"),
                    needed,
                    format!("sudo mount -o remount,favordynmods {at}"),
                ),
            });
        }
        findings
    }

    fn judge_cgroup(&self) -> Finding {
        const SUBJECT: &str = "cgroup memory";
        match &self.cgroup {
            Seen::Is(Some(room)) => judge_room(
                SUBJECT,
                &Seen::Is(*room),
                "raise memory.max of this cgroup, or give less --memory",
            ),
            Seen::Is(None) => Finding::ok(SUBJECT, "no limit", "768 MiB for the default guest"),
            Seen::Absent => Finding::ok(SUBJECT, "no controller", "768 MiB for the default guest"),
            Seen::Hidden(why) => Finding::unknown(
                SUBJECT,
                why,
                "768 MiB for the default guest",
                "cat /proc/self/cgroup",
            ),
        }
    }
}

fn judge_room(subject: &'static str, bytes: &Seen<u64>, cure: &str) -> Finding {
    const NEEDED: &str = "768 MiB for the default guest";
    match bytes {
        Seen::Is(bytes) => {
            let found = format!("{} MiB available", bytes >> 20);
            match *bytes < ROOM {
                true => Finding::advice(subject, found, NEEDED, cure),
                false => Finding::ok(subject, found, NEEDED),
            }
        }
        _ => Finding::unknown(subject, "not to be read", NEEDED, "free -m"),
    }
}

/// The least that a cgroup of this process or one above it may still take.
fn cgroup_room(tree: &Tree) -> Seen<Option<u64>> {
    let text = match tree.text("/proc/self/cgroup") {
        Seen::Is(text) => text,
        Seen::Absent => return Seen::Absent,
        Seen::Hidden(why) => return Seen::Hidden(why),
    };
    let mut room: Option<u64> = None;
    let mut controlled = false;
    for line in text.lines() {
        let mut words = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (words.next(), words.next()) else { continue };
        let (mounts, limit, usage): (Vec<String>, _, _) = match controllers {
            "" => (
                cgroup_mount(tree).map(|(at, _)| at).into_iter().collect(),
                "memory.max",
                "memory.current",
            ),
            _ if controllers.split(',').any(|name| name == "memory") => (
                vec!["/sys/fs/cgroup/memory".to_owned()],
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            ),
            _ => continue,
        };
        for mount in mounts {
            // Inside a container the path is the host's, and what is mounted begins at the cgroup itself.
            for level in ancestors(path).into_iter().chain([String::new()]) {
                let usage = tree.number(&format!("{mount}{level}/{usage}"));
                controlled |= usage.known().is_some();
                let limit = tree.number(&format!("{mount}{level}/{limit}"));
                if let (Seen::Is(limit), Seen::Is(usage)) = (limit, usage) {
                    let left = limit.saturating_sub(usage);
                    room = Some(room.map_or(left, |room| room.min(left)));
                }
            }
        }
    }
    // Without a limit version 1 shows the largest number of pages.
    let room = room.filter(|room| *room < u64::MAX >> 2);
    if controlled { Seen::Is(room) } else { Seen::Absent }
}

/// Where the cgroup v2 hierarchy is mounted, and how.
fn cgroup_mount(tree: &Tree) -> Option<(String, String)> {
    let text = tree.text("/proc/self/mounts");
    let mut lines = text.known()?.lines();
    lines.find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            [_, at, "cgroup2", options, ..] => Some((at.to_owned(), options.to_owned())),
            _ => None,
        }
    })
}
