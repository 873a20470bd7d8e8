//! The files that `cvmm report` is given: runs, each with a name that tells it from the others.

use std::path::{Path, PathBuf};

use super::number;
use super::schema::{Platform, RunReport};

/// A run, as read from a file.
#[derive(Clone, Debug)]
pub struct Run {
    /// Short, and different from that of every other.
    pub name: String,
    /// What its report says.
    pub report: RunReport,
}

impl Run {
    /// What it was, in a line.
    pub fn describe(&self) -> String {
        format!("{}: {}", self.name, self.kind())
    }

    /// Which kind of guest on which platform.
    pub fn kind(&self) -> String {
        format!("{} guest on {}", technology(&self.report), platform(&self.report.platform))
    }

    /// Its size, in a line.
    pub fn size(&self) -> String {
        let guest = &self.report.guest;
        let plural = if guest.vcpus == 1 { "" } else { "s" };
        format!("{} vCPU{plural}, {}", guest.vcpus, number::bytes(guest.memory_bytes))
    }

    /// What has to be said before anybody trusts the guest.
    pub fn warning(&self) -> Option<&'static str> {
        let report = &self.report;
        match report.technology.as_str() {
            _ if report.confidential => None,
            _ if report.platform.kind == "softkvm" => Some("emulated, NOT confidential"),
            "plain" => Some("unprotected, NOT confidential"),
            _ => Some("the host may read this guest: NOT confidential"),
        }
    }

    /// The costs behind its modelled times that nobody has measured.
    pub fn placeholders(&self) -> &[String] {
        self.report.platform.placeholder_costs.as_deref().unwrap_or_default()
    }

    /// The same in a sentence, with how much of the run's modelled time comes of them.
    pub fn placeholder_note(&self) -> Option<String> {
        let count = self.placeholders().len();
        let total = &self.report.total;
        let share = total.placeholder_modelled_ns.zip(total.modelled_ns);
        let share = share.map(|(of_them, all)| number::share(of_them, all));
        let plural = if count == 1 { "cost" } else { "costs" };
        let note = match share {
            Some(share) => format!(
                "{share} of the modelled time comes of {count} placeholder {plural}: an order of magnitude"
            ),
            None => {
                format!("{count} placeholder {plural} behind modelled times: orders of magnitude")
            }
        };
        (count > 0).then_some(note)
    }
}

/// The technology as people write it.
pub fn technology(report: &RunReport) -> &str {
    match report.technology.as_str() {
        "snp" => "SEV-SNP",
        "tdx" => "TDX",
        other => other,
    }
}

/// What it ran on.
pub fn platform(platform: &Platform) -> String {
    match &platform.profile {
        Some(profile) => format!("{} {profile}", platform.kind),
        None => platform.kind.clone(),
    }
}

/// The files' stems, with as much before them as tells them apart.
pub(super) fn names(paths: &[PathBuf]) -> Vec<String> {
    let stem = |path: &Path| {
        path.file_stem().map_or_else(|| path.display().to_string(), |s| s.to_string_lossy().into())
    };
    let stems: Vec<String> = paths.iter().map(|path| stem(path)).collect();
    let full: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let unique =
        |of: &[String], name: &String| of.iter().filter(|other| *other == name).count() == 1;
    let name = |(at, (stem, path)): (usize, (&String, &String))| {
        if unique(&stems, stem) {
            stem.clone()
        } else if unique(&full, path) {
            path.clone()
        } else {
            // The same file twice.
            format!("{path} #{}", at + 1)
        }
    };
    stems.iter().zip(&full).enumerate().map(name).collect()
}
