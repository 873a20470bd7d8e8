//! A cell of the matrix: one kind of run, and the command line that does it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Parser;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::key::{BUILTIN, Key};
use crate::child::{Job, Scratch};
use crate::cli::Cli;
use crate::config::{Config, DEFAULT_CMDLINE};
use crate::digest::hex;
use crate::emulate;
use crate::error::Error;
use crate::plan::{HostCaps, Inputs, Plan};
use crate::selftest::guest;

/// Values by key.
pub type Settings = BTreeMap<Key, String>;

/// A cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// What tells it from the others.
    pub name: String,
    /// What it is.
    pub settings: Settings,
    /// SHA-256 of its files, by key.
    pub files: BTreeMap<Key, String>,
    /// Is it the same as the one before, for an A/A comparison?
    pub again: bool,
}

/// The most guests that may run at the same time.
const GUESTS_MAX: usize = 1000;
/// What a page of an initramfs that only has a size is filled with.
const FILL: u8 = 0xa5;

impl Cell {
    /// Without a name yet.
    pub fn new(settings: Settings) -> Cell {
        Cell { name: String::new(), settings, files: BTreeMap::new(), again: false }
    }

    /// The cell, and the same cell again.
    pub fn twice(self) -> [Cell; 2] {
        let name = format!("{} (again)", self.name);
        let again = Cell { name, again: true, ..self.clone() };
        [self, again]
    }

    /// The cell with the costs of its profile at both ends of their ranges, where it has a profile.
    pub fn at_ends(&self) -> Vec<Cell> {
        let technology = self.get(Key::Technology).unwrap_or_default();
        let profile = match self.get(Key::Emulate) {
            None | Some("false") => return Vec::new(),
            Some("true") => emulate::profile_for(technology, None),
            named => emulate::profile_for(technology, named),
        };
        let at = |end: &&str| {
            let mut settings = self.settings.clone();
            settings.insert(Key::Emulate, format!("{profile}{end}"));
            Cell::new(settings)
        };
        emulate::COSTS_AT_ENDS.iter().map(at).collect()
    }

    /// A setting.
    pub fn get(&self, key: Key) -> Option<&str> {
        self.settings.get(&key).map(String::as_str)
    }

    /// How many guests it runs at the same time.
    pub fn guests(&self) -> usize {
        self.get(Key::Concurrent).and_then(|text| text.parse().ok()).unwrap_or(1)
    }

    /// The command lines of one run, with where their reports go.
    pub fn jobs(
        &self,
        scratch: &Scratch,
        timeout: u32,
        pin: &[usize],
    ) -> Result<Vec<(Job, PathBuf)>, Error> {
        let guest = self.guest_words(&self.made_files(scratch)?);
        let emulate = match self.get(Key::Emulate) {
            None | Some("false") => None,
            Some("true") => Some("--emulate".to_owned()),
            Some(profile) => Some(format!("--emulate={profile}")),
        };
        let job = |at: usize| {
            let report = scratch.path().join(format!("report.{at}.json"));
            let mut words = guest.clone();
            words.extend(emulate.clone().map(OsString::from));
            words.extend(["--console", "none", "--timeout"].map(OsString::from));
            words.extend([timeout.to_string().into(), "--report".into(), report.clone().into()]);
            let environment = self.environment(scratch, timeout, at);
            (Job { words, environment, pin: pin.to_vec() }, report)
        };
        Ok((0..self.guests()).map(job).collect())
    }

    /// Guests that are launched at the same time contend for one security processor, also where it is modelled.
    fn environment(&self, scratch: &Scratch, timeout: u32, at: usize) -> Vec<(String, OsString)> {
        let emulated = !matches!(self.get(Key::Emulate), None | Some("false"));
        if !emulated || self.guests() < 2 || self.get(Key::Technology) != Some("snp") {
            return Vec::new();
        }
        let file = scratch.path().join("security-processor");
        if at == 0 {
            // One that a failed run has left would wait for guests that never come. Mostly there is none.
            let _ = std::fs::remove_file(&file);
        }
        vec![emulate::shared_security_processor(&file, self.guests(), at, timeout)]
    }

    /// Files that do not exist before.
    fn made_files(&self, scratch: &Scratch) -> Result<BTreeMap<Key, PathBuf>, Error> {
        let mut made = BTreeMap::new();
        if self.get(Key::Kernel) == Some(BUILTIN) {
            made.insert(Key::Kernel, scratch.file("builtin.elf", &guest::elf())?);
        }
        if let Some(pages) = self.initrd_pages().filter(|pages| *pages > 0) {
            let bytes = vec![FILL; pages * abi::shim::PAGE as usize];
            made.insert(Key::Initrd, scratch.file(&format!("initrd.{pages}"), &bytes)?);
        }
        Ok(made)
    }

    fn initrd_pages(&self) -> Option<usize> {
        self.get(Key::InitrdPages)?.parse().ok()
    }

    fn guest_words(&self, made: &BTreeMap<Key, PathBuf>) -> Vec<OsString> {
        let mut words =
            vec![OsString::from(format!("--{}", self.get(Key::Technology).unwrap_or("")))];
        for key in [Key::Load, Key::Accept, Key::Cpus, Key::Memory, Key::Kernel, Key::Initrd] {
            let value = made.get(&key).map(|path| path.clone().into_os_string());
            let value = value.or_else(|| self.get(key).map(OsString::from));
            words.extend(
                value.into_iter().flat_map(|value| [format!("--{}", key.name()).into(), value]),
            );
        }
        let idle = self.get(Key::Polling).filter(|polling| polling.starts_with("idle="));
        let more: Vec<&str> = [self.get(Key::Append), idle]
            .into_iter()
            .flatten()
            .filter(|words| !words.is_empty())
            .collect();
        if self.get(Key::Cmdline).is_some() || !more.is_empty() {
            let first = self.get(Key::Cmdline).unwrap_or(DEFAULT_CMDLINE);
            words.extend(["--cmdline".into(), [vec![first], more].concat().join(" ").into()]);
        }
        if let Some(ns) = self.halt_poll_ns() {
            words.extend(["--halt-poll-ns".into(), ns.to_string().into()]);
        }
        words.extend(self.get(Key::Flags).unwrap_or("").split_whitespace().map(OsString::from));
        words
    }

    fn halt_poll_ns(&self) -> Option<u32> {
        self.get(Key::Polling)?.parse().ok()
    }

    /// Refuses what no run could do, before there is one: cvmm's own checks of the command line and of the files. Remembers what
    /// the files hold.
    ///
    /// # Errors
    /// The key, what is wrong with it, and what would be right.
    pub fn check(&mut self, scratch: &Scratch) -> Result<(), (String, String, String)> {
        self.check_numbers()?;
        let made = self.made_files(scratch).map_err(|error| told("initrd_pages", &error))?;
        let words = self.guest_words(&made);
        let cli = Cli::try_parse_from([OsString::from("cvmm")].into_iter().chain(words));
        let cli = cli.map_err(|error| {
            let complaint = crate::cli::complaint(&error);
            let key = key_of(&complaint.error);
            (key, complaint.error, complaint.cure)
        })?;
        let config = Config::parse(&cli.flags).map_err(|error| told("", &error))?;
        let technology = config.guest.technology.name();
        match self.get(Key::Emulate) {
            Some("false" | "true") | None => {}
            Some(profile) if emulate::suits(profile, technology) => {}
            Some(profile) => {
                let problem = format!("profile {profile} is of a processor without {technology}");
                return Err((
                    "emulate".into(),
                    problem,
                    "write true for the profile that fits".into(),
                ));
            }
        }
        let inputs = Inputs::read(&config.guest).map_err(|error| told("kernel", &error))?;
        Plan::build(&config.guest, &inputs, config.cpus, &HostCaps::assumed())
            .map_err(|error| told("memory", &Error::from(error)))?;
        for (key, path) in
            [(Key::Kernel, &config.guest.kernel), (Key::Initrd, &config.guest.initrd)]
        {
            let Some(path) = path else { continue };
            let bytes = std::fs::read(path).map_err(|error| {
                (key.name().to_owned(), error.to_string(), "name a readable file".to_owned())
            })?;
            self.files.insert(key, hex(&Sha256::digest(&bytes)));
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), (String, String, String)> {
        let refuse = |key: Key, problem: &str, cure: &str| {
            let value = self.get(key).unwrap_or("");
            Err((key.name().to_owned(), format!("'{value}' {problem}"), cure.to_owned()))
        };
        if let Some(text) = self.get(Key::Concurrent)
            && !text.parse().is_ok_and(|guests| (1..=GUESTS_MAX).contains(&guests))
        {
            return refuse(Key::Concurrent, "is no number of guests", "give 1 to 1000");
        }
        if self.get(Key::InitrdPages).is_some() {
            if self.initrd_pages().is_none_or(|pages| pages > 1 << 20) {
                return refuse(Key::InitrdPages, "is no number of pages", "give 0 to 1048576");
            }
            if self.get(Key::Initrd).is_some() {
                return refuse(Key::InitrdPages, "stands beside an initrd", "give one of the two");
            }
        }
        match self.get(Key::Polling) {
            None | Some("default") => Ok(()),
            Some(words) if words.starts_with("idle=") && !words.contains(' ') => Ok(()),
            Some(_) if self.halt_poll_ns().is_some() => Ok(()),
            Some(_) => refuse(
                Key::Polling,
                "is no way of polling",
                "write default, idle=poll, idle=halt, or nanoseconds for KVM_CAP_HALT_POLL",
            ),
        }
    }
}

/// An error as the three parts of a refusal; `otherwise` is the key where it names no flag.
fn told(otherwise: &str, error: &Error) -> (String, String, String) {
    let complaint = error.complaint();
    let key = match key_of(&complaint.error) {
        key if key.is_empty() => otherwise.to_owned(),
        key => key,
    };
    let problem = match error {
        Error::Usage { .. } => complaint.error,
        _ => format!("{}: {}", complaint.error, complaint.cause),
    };
    (key, problem, complaint.cure)
}

/// The key whose flag some words name.
fn key_of(words: &str) -> String {
    let named = |key: &Key| words.contains(&format!("--{}", key.name().replace('_', "-")));
    let found = Key::ALL.into_iter().find(named);
    found.map_or(String::new(), |key| key.name().to_owned())
}

/// Gives every cell a name of what it does not share with all others. A label stands for what all cells that have it share.
pub fn name_all(cells: &mut [Cell]) {
    let settings: Vec<Settings> = cells.iter().map(|cell| cell.settings.clone()).collect();
    for cell in cells {
        let label = cell.settings.get(&Key::Label);
        let varies = |key: &Key, among: &dyn Fn(&&Settings) -> bool| {
            let here = cell.settings.get(key);
            settings.iter().filter(among).any(|other| other.get(key) != here)
        };
        let told = |key: &Key| {
            let by_label =
                label.is_some() && !varies(key, &|other| other.get(&Key::Label) == label);
            *key == Key::Technology
                || *key == Key::Label && varies(key, &|_| true)
                || varies(key, &|_| true) && !by_label
        };
        let words: Vec<String> = Key::ALL
            .into_iter()
            .filter(told)
            .filter_map(|key| cell.get(key).map(|value| word(key, value)))
            .filter(|word| !word.is_empty())
            .collect();
        cell.name = words.join(" ");
    }
}

/// A setting in a name.
fn word(key: Key, value: &str) -> String {
    match key {
        Key::Cpus => format!("{value} vCPU"),
        Key::Kernel | Key::Initrd if value != BUILTIN => {
            // Kernels are often called the same; their directory tells them apart.
            let path = Path::new(value);
            let parts: Vec<_> =
                path.iter().rev().take(2).map(|part| part.to_string_lossy()).collect();
            parts.into_iter().rev().collect::<Vec<_>>().join("/")
        }
        Key::InitrdPages => format!("{value} pages"),
        Key::Concurrent => format!("x{value}"),
        Key::Polling if value.parse::<u32>().is_ok() => format!("poll {value} ns"),
        Key::Polling if value == "default" => String::new(),
        Key::Emulate if value == "true" => "softkvm".to_owned(),
        Key::Emulate if value == "false" => "kvm".to_owned(),
        _ => value.to_owned(),
    }
}
