//! `--emulate`: start cvmm again with softkvm loaded below it.
//!
//! softkvm is a library that answers `/dev/kvm` in user space. Loading it needs a fresh process, exactly as
//! `softkvm run -- cvmm …` would make one; there is no second code path inside cvmm.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;
use crate::phase::Phase;
use crate::sys::preloaded;

/// The environment variable that names the library.
pub const LIBRARY_VARIABLE: &str = "CVMM_SOFTKVM";
/// The environment variable that names the platform profile to the library.
pub const PROFILE_VARIABLE: &str = "SOFTKVM_PROFILE";
/// The environment variable that makes the library use the host's clock instead of modelled time.
pub const REALTIME_VARIABLE: &str = "SOFTKVM_REALTIME";
/// The environment variable that names to the library a security processor which several processes share.
const SECURITY_PROCESSOR_VARIABLE: &str = "SOFTKVM_PSP";
/// What stands behind a profile's name for costs at the lower and at the upper end of their ranges.
pub const COSTS_AT_ENDS: [&str; 2] = [":low", ":high"];
/// The library's profile where nobody names one.
const LIBRARY_PROFILE: &str = "epyc-milan";
/// The profile for a guest of this technology where the user names none: every technology's name, as reports have it.
const DEFAULT_PROFILES: [(&str, &str); 3] =
    [("plain", LIBRARY_PROFILE), ("snp", LIBRARY_PROFILE), ("tdx", "xeon-spr")];
/// What the names of built-in profiles begin with, and the technology that such a processor lacks.
const PROFILE_FAMILIES: [(&str, &str); 2] = [("epyc-", "tdx"), ("xeon-", "snp")];
/// Set by us for the process that we become, so that a wrong library is noticed.
const STARTED_VARIABLE: &str = "CVMM_EMULATING";
/// The library's file name.
const LIBRARY_NAME: &str = "libsoftkvm_preload.so";

/// The statistic in which softkvm tells how much of a VM's modelled time placeholder costs make.
pub const PLACEHOLDER_STATISTIC: &str = "softkvm_placeholder_ns";
/// Statistics in which softkvm tells when the guest's kernel first came to a function, by its modelled clock, and the phase
/// that begins there; they are there if SOFTKVM_SYMBOLS names the kernel's System.map.
pub const STAGE_STATISTICS: [(&str, &str, Phase); 6] = [
    ("softkvm_symbol_start_kernel_ns", "start_kernel", Phase::K1),
    ("softkvm_symbol_time_init_ns", "time_init", Phase::K2),
    ("softkvm_symbol_smp_init_ns", "smp_init", Phase::K3),
    ("softkvm_symbol_driver_init_ns", "driver_init", Phase::K4),
    ("softkvm_symbol_populate_rootfs_ns", "populate_rootfs", Phase::K5),
    ("softkvm_symbol_run_init_process_ns", "run_init_process", Phase::U0),
];

/// The profile of `--emulate` for a guest of a technology, by that one's name in reports: the one that is named, or the
/// technology's own. To that also belongs what is named as a variant only, `:low`.
pub fn profile_for(technology: &str, named: Option<&str>) -> String {
    let found = DEFAULT_PROFILES.iter().find(|(name, _)| *name == technology);
    let default = found.map_or(LIBRARY_PROFILE, |(_, profile)| profile);
    match named {
        None => default.to_owned(),
        Some(variant) if variant.starts_with(':') => format!("{default}{variant}"),
        Some(named) => named.to_owned(),
    }
}

/// The variable that has so many monitors share one modelled security processor. They meet at `file`, and `index` says which of them
/// is served first where two come at the same time.
pub fn shared_security_processor(
    file: &Path,
    of: usize,
    index: usize,
    patience: u32,
) -> (String, OsString) {
    let mut value = file.as_os_str().to_owned();
    value.push(format!(";of={of};index={index};patience={patience}"));
    (SECURITY_PROCESSOR_VARIABLE.to_owned(), value)
}

/// Can guests of this technology run on this profile? Of a file nobody knows before it is loaded.
pub fn suits(profile: &str, technology: &str) -> bool {
    !PROFILE_FAMILIES
        .iter()
        .any(|(start, lacks)| profile.starts_with(start) && technology == *lacks)
}

/// Replaces this process by the same command with softkvm of `profile` loaded; returns at once where it already is.
///
/// # Errors
/// The library is not there, or the process cannot be replaced.
pub fn ensure(profile: &str) -> Result<(), Error> {
    if profile_in_use().is_some() {
        return Ok(());
    }
    let library = find_library()?;
    if std::env::var_os(STARTED_VARIABLE).is_some() {
        let problem = format!("{} was loaded and is not softkvm", library.display());
        return Err(Error::Emulate { problem });
    }
    crate::say(&format!(
        "cvmm: emulating with softkvm, profile {profile}: this guest runs on a software processor and is NOT confidential\n"
    ));
    let mut preload = library.into_os_string();
    if let Some(other) = std::env::var_os("LD_PRELOAD").filter(|o| !o.is_empty()) {
        preload.push(" ");
        preload.push(other);
    }
    let failure = Command::new("/proc/self/exe")
        .arg0("cvmm")
        .args(std::env::args_os().skip(1))
        .env("LD_PRELOAD", preload)
        .env(PROFILE_VARIABLE, profile)
        .env(STARTED_VARIABLE, "1")
        .exec();
    Err(Error::Emulate { problem: format!("the process cannot be started again: {failure}") })
}

/// The profile of the softkvm loaded below this process.
pub fn profile_in_use() -> Option<String> {
    preloaded::softkvm()
        .then(|| std::env::var(PROFILE_VARIABLE).unwrap_or_else(|_| LIBRARY_PROFILE.into()))
}

/// That profile's costs, as JSON: its name, and for each cost `ns`, `range`, `source` and `confidence`. Nothing where the library does not
/// say.
pub fn profile_costs() -> Option<String> {
    preloaded::profile_costs()
}

/// Which of them are placeholders that nobody has measured.
pub fn placeholder_costs() -> Option<Vec<String>> {
    let profile: serde_json::Value = serde_json::from_str(&profile_costs()?).ok()?;
    let guessed =
        profile["costs"].as_object()?.iter().filter(|(_, cost)| cost["confidence"] == "none");
    Some(guessed.map(|(name, _)| name.clone()).collect())
}

/// Is the guest's time that of a modelled platform?
pub fn time_is_modelled() -> bool {
    let realtime = std::env::var_os(REALTIME_VARIABLE).is_some_and(|value| value != "0");
    profile_in_use().is_some() && !realtime
}

/// Finds the library.
///
/// # Errors
/// It is not there.
pub fn find_library() -> Result<PathBuf, Error> {
    if let Some(named) = std::env::var_os(LIBRARY_VARIABLE) {
        let path = PathBuf::from(named);
        return if path.is_file() {
            std::path::absolute(&path).map_err(|e| Error::Emulate { problem: e.to_string() })
        } else {
            Err(Error::Emulate {
                problem: format!("{LIBRARY_VARIABLE} names {}, which is no file", path.display()),
            })
        };
    }
    let exe = std::env::current_exe().map_err(|e| Error::Emulate { problem: e.to_string() })?;
    let dir = exe.parent().map(PathBuf::from).unwrap_or_default();
    // Beside the executable, or one level up: test binaries sit in target/release/deps.
    [
        dir.join(LIBRARY_NAME),
        dir.join("..").join(LIBRARY_NAME),
        dir.join("../lib").join(LIBRARY_NAME),
    ]
    .into_iter()
    .find(|p| p.is_file())
    .ok_or_else(|| Error::Emulate {
        problem: format!("there is no {LIBRARY_NAME} beside {}", exe.display()),
    })
}
