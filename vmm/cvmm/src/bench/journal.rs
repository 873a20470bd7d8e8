//! The file of an experiment: a line of JSON for what it is, then one for each run, written to the disk before the next one starts.
//! Nothing in it is ever changed, so that a kill at any moment costs at most the run that was going on.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::host::Host;
use super::schedule::Slot;
use super::spec::Spec;
use crate::digest::hex;
use crate::error::Error;

/// The version of the file's layout: changes when a reader would break.
pub const SCHEMA: &str = "cvmm-bench/1";
/// How every file begins, whatever its version.
pub const BEGINNING: &str = "{\"schema\":\"cvmm-bench/";

/// What stands in a line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line {
    Run(Box<Run>),
    /// Somebody has gone on here, perhaps elsewhere.
    Resumed {
        host: Host,
    },
}

/// The first line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header {
    /// The version of the layout.
    pub schema: String,
    /// SHA-256 over everything that the runs depend on.
    pub fingerprint: String,
    /// The experiment.
    pub spec: Spec,
    /// Where it was begun.
    pub host: Host,
}

/// A run that is over, however it ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Which.
    #[serde(flatten)]
    pub slot: Slot,
    /// When it began, in milliseconds since 1970.
    pub began_unix_ms: u64,
    /// Its guests: one, but for concurrent ones.
    pub guests: Vec<Guest>,
}

/// A guest of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Guest {
    /// cvmm's exit code; nothing if it was killed.
    pub exit_code: Option<i32>,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The report, where it left one.
    pub report: Option<Value>,
}

impl Run {
    /// Did every guest end well?
    pub fn passed(&self) -> bool {
        self.guests.iter().all(|guest| guest.exit_code == Some(0) && guest.report.is_some())
    }

    /// The first failure, in words.
    pub fn failure(&self) -> Option<String> {
        let bad = |guest: &&Guest| guest.exit_code != Some(0) || guest.report.is_none();
        let failed = self.guests.iter().find(bad)?;
        let told = failed.error.clone().unwrap_or_else(|| "it left no report".to_owned());
        Some(match failed.exit_code {
            Some(code) => format!("code {code}: {told}"),
            None => told,
        })
    }
}

/// All of a file.
#[derive(Clone, Debug)]
pub struct Contents {
    /// What it is.
    pub header: Header,
    /// Its runs, in the order in which they ended.
    pub runs: Vec<Run>,
    /// Where it was gone on with.
    pub hosts: Vec<Host>,
    /// The line that was cut off, if one was.
    pub torn: Option<usize>,
    /// How long the whole lines are.
    length: u64,
}

/// The identity of an experiment.
pub fn fingerprint(spec: &Spec) -> String {
    // A spec has nothing that cannot be JSON.
    let text = serde_json::to_vec(spec).unwrap_or_default();
    hex(&Sha256::digest(text))
}

/// Reads a file.
///
/// # Errors
/// It cannot be read, or is not one of `cvmm bench`, or of another version, or a line of it cannot be understood.
pub fn read(path: &Path) -> Result<Contents, Error> {
    let mut text = Vec::new();
    let opened = File::open(path).and_then(|mut file| file.read_to_end(&mut text));
    opened.map_err(|source| Error::ReadFile {
        what: "bench file",
        path: path.to_owned(),
        source,
    })?;
    parse(path, &text)
}

fn bad(path: &Path, problem: impl Into<String>, cure: &str) -> Error {
    Error::Input {
        what: "bench file",
        path: path.to_owned(),
        problem: problem.into(),
        cure: cure.to_owned(),
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<Contents, Error> {
    let other = "name a file that `cvmm bench` has written, or one that does not exist yet";
    if text.is_empty() {
        let problem = "it is empty: no run was ever written to it";
        return Err(bad(path, problem, "run the experiment first"));
    }
    if !text.starts_with(BEGINNING.as_bytes()) {
        return Err(bad(path, "it was not written by `cvmm bench`", other));
    }
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let mut lines = text[..whole].split_inclusive(|byte| *byte == b'\n');
    let first = lines.next().ok_or_else(|| bad(path, "its first line is cut off", other))?;
    let version: Value = serde_json::from_slice(first)
        .map_err(|error| bad(path, format!("line 1 is damaged: {error}"), other))?;
    let schema = version["schema"].as_str().unwrap_or_default();
    if schema != SCHEMA {
        let problem = format!("it has layout {schema}, and this cvmm reads {SCHEMA}");
        return Err(bad(path, problem, "use the cvmm that wrote it, or begin a new file"));
    }
    let damaged = |at: usize, error: serde_json::Error| {
        let cure = "take the line out if you want to have its run again, or begin a new file";
        bad(path, format!("line {at} is damaged: {error}"), cure)
    };
    let header = serde_json::from_slice(first).map_err(|error| damaged(1, error))?;
    let (mut runs, mut hosts, mut last) = (Vec::new(), Vec::new(), 1);
    for (at, line) in (2..).zip(lines) {
        match serde_json::from_slice(line).map_err(|error| damaged(at, error))? {
            Line::Run(run) => runs.push(*run),
            Line::Resumed { host } => hosts.push(host),
        }
        last = at;
    }
    let torn = (whole < text.len()).then_some(last + 1);
    Ok(Contents { header, runs, hosts, torn, length: whole as u64 })
}

/// A file that is written to.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Up to where it is whole.
    length: u64,
}

impl Journal {
    /// Begins a file, or goes on with one of the same experiment. Gives what is in it already.
    ///
    /// # Errors
    /// It cannot be read or written, is somebody else's, or another process writes to it.
    pub fn open(path: &Path, spec: &Spec, host: &Host) -> Result<(Journal, Contents), Error> {
        let fail = |source| Error::WriteFile { what: "bench file", path: path.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(fail)?;
        if !file.metadata().map_err(fail)?.is_file() {
            return Err(bad(
                path,
                "it is no regular file",
                "name a file: it is read as well as written",
            ));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let cure = "wait for it, or name another --out";
                return Err(bad(path, "another cvmm is writing to it", cure));
            }
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(fail)?;
        let mut journal = Journal { file, path: path.to_owned(), length: 0 };
        // A header that was cut off is all there was.
        let begun = text.contains(&b'\n') || !text.starts_with(BEGINNING.as_bytes());
        if text.is_empty() || !begun {
            let header = Header {
                schema: SCHEMA.to_owned(),
                fingerprint: fingerprint(spec),
                spec: spec.clone(),
                host: host.clone(),
            };
            journal.append_line(&header)?;
            let length = journal.length;
            return Ok((
                journal,
                Contents { header, runs: Vec::new(), hosts: Vec::new(), torn: None, length },
            ));
        }
        let contents = parse(path, &text)?;
        same_experiment(path, &contents.header, spec)?;
        journal.length = contents.length;
        journal.append_line(&Line::Resumed { host: host.clone() })?;
        Ok((journal, contents))
    }

    /// Adds a run, and waits until it is on the disk.
    ///
    /// # Errors
    /// It could not be written; the file is as it was.
    pub fn append(&mut self, run: &Run) -> Result<(), Error> {
        self.append_line(&Line::Run(Box::new(run.clone())))
    }

    fn append_line(&mut self, line: &impl Serialize) -> Result<(), Error> {
        let written = (|| {
            let mut text = serde_json::to_vec(line)?;
            text.push(b'\n');
            self.file.set_len(self.length)?;
            self.file.seek(SeekFrom::Start(self.length))?;
            self.file.write_all(&text)?;
            self.file.sync_data()?;
            Ok(text.len() as u64)
        })();
        match written {
            Ok(length) => {
                self.length += length;
                Ok(())
            }
            Err(source) => {
                // Half a line would be dropped by the next reader as well.
                let _ = self.file.set_len(self.length);
                let path = self.path.clone();
                Err(Error::WriteFile { what: "bench file", path, source })
            }
        }
    }
}

fn same_experiment(path: &Path, header: &Header, spec: &Spec) -> Result<(), Error> {
    let ours = fingerprint(spec);
    if header.fingerprint == ours {
        return Ok(());
    }
    let short = |fingerprint: &str| fingerprint.chars().take(12).collect::<String>();
    let what = match header.spec.name == spec.name {
        true => {
            let theirs = &header.spec;
            let differs = [
                ("seed", theirs.seed != spec.seed),
                ("repetitions", theirs.repetitions != spec.repetitions),
                ("warmup", theirs.warmup != spec.warmup),
                ("timeout", theirs.timeout != spec.timeout),
                ("pin", theirs.pin != spec.pin),
                (
                    "cells",
                    theirs
                        .cells
                        .iter()
                        .map(|c| &c.settings)
                        .ne(spec.cells.iter().map(|c| &c.settings)),
                ),
                (
                    "contents of files",
                    theirs.cells.iter().map(|c| &c.files).ne(spec.cells.iter().map(|c| &c.files)),
                ),
            ];
            let names: Vec<&str> =
                differs.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
            format!(
                " (they differ in {})",
                if names.is_empty() { "what is compared".into() } else { names.join(", ") }
            )
        }
        false => String::new(),
    };
    let problem = format!(
        "it holds runs of '{}' ({}), and '{}' ({}) was asked for{what}",
        header.spec.name,
        short(&header.fingerprint),
        spec.name,
        short(&ours)
    );
    Err(bad(path, problem, "name another --out, or go on with the spec that began it"))
}
