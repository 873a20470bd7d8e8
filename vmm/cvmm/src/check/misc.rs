//! The identifiers that a part has for confidential guests (ASIDs, key identifiers), as the cgroup controller `misc` counts
//! them (Linux Documentation/admin-guide/cgroup-v2.rst, "Misc").

use super::finding::Finding;
use super::tree::{Seen, Tree};

/// Numbers of one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MiscFacts {
    /// How many there are.
    pub capacity: Option<u64>,
    /// How many are in use.
    pub current: Option<u64>,
    /// The cgroup of this process that has no more: its path, use and limit.
    pub full: Option<(String, u64, u64)>,
}

impl MiscFacts {
    /// Reads what there is of a resource.
    pub fn gather(tree: &Tree, key: &str) -> MiscFacts {
        let own = own_cgroup(tree);
        for mount in mounts(tree) {
            let Some(capacity) = value(&tree.text(&format!("{mount}/misc.capacity")), key) else {
                continue;
            };
            let current = value(&tree.text(&format!("{mount}/misc.current")), key);
            let levels = ancestors(&own);
            let full = levels.into_iter().find_map(|path| {
                let of = |file| value(&tree.text(&format!("{mount}{path}/{file}")), key);
                let (used, limit) = (of("misc.current")?, of("misc.max")?);
                (used >= limit).then_some((path, used, limit))
            });
            return MiscFacts { capacity: Some(capacity), current, full };
        }
        MiscFacts::default()
    }

    /// Is one left? `refused` is what KVM said when it was asked for one.
    pub fn judge(&self, subject: &'static str, refused: Option<&str>) -> Finding {
        let needed = "one for each confidential guest";
        if let Some((path, used, limit)) = &self.full {
            let found = format!("{used} of {limit} that the cgroup {path} may have are in use");
            let cure = format!("raise {path}/misc.max, or stop another confidential guest");
            return Finding::missing(subject, found, needed, cure);
        }
        let counted = match (self.current, self.capacity) {
            (Some(used), Some(all)) => format!("{used} of {all} in use"),
            (None, Some(all)) => format!("{all}, use unknown"),
            (_, None) => "not counted (no misc controller)".into(),
        };
        let exhausted =
            matches!((self.current, self.capacity), (Some(used), Some(all)) if used >= all);
        match refused {
            Some(refusal) => Finding::missing(
                subject,
                format!("{counted}; {refusal}"),
                needed,
                "stop another confidential guest",
            ),
            None if exhausted => {
                Finding::missing(subject, counted, needed, "stop another confidential guest")
            }
            None if self.capacity.is_none() => Finding::unknown(
                subject,
                counted,
                needed,
                "mount a cgroup v2 hierarchy with the misc controller",
            ),
            None => Finding::ok(subject, counted, needed),
        }
    }
}

/// Where cgroups with this controller may be mounted; the last two are where they mostly are.
fn mounts(tree: &Tree) -> Vec<String> {
    let text = tree.text("/proc/self/mounts");
    let lines = text.known().map(String::as_str).unwrap_or_default().lines();
    let mounted = lines.filter_map(|line| {
        let mut words = line.split(' ');
        let (at, kind) = (words.nth(1)?, words.next()?);
        (kind == "cgroup2").then(|| at.to_owned())
    });
    mounted.chain(["/sys/fs/cgroup".into(), "/sys/fs/cgroup/misc".into()]).collect()
}

/// The cgroup of this process in the unified hierarchy.
fn own_cgroup(tree: &Tree) -> String {
    let text = tree.text("/proc/self/cgroup");
    let lines = text.known().map(String::as_str).unwrap_or_default().lines();
    lines.into_iter().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").to_owned()
}

/// A cgroup and all above it but the root, innermost first.
pub(super) fn ancestors(path: &str) -> Vec<String> {
    let mut path = path.trim_end_matches('/');
    let mut levels = Vec::new();
    while !path.is_empty() {
        levels.push(path.to_owned());
        path = path.rsplit_once('/').map_or("", |(above, _)| above);
    }
    levels
}

/// The number of a key in a flat-keyed file; "max" is no number.
fn value(text: &Seen<String>, key: &str) -> Option<u64> {
    let mut lines = text.known()?.lines();
    lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}
