//! An experiment as its file has it: TOML, in which a list is a dimension of the matrix.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cell::Cell;
use super::goal::Goal;
use super::key::{CELLS_MAX, Key, Values};
use crate::error::Error;
use crate::selftest::rung::TECHNOLOGIES;

/// A file of [`Spec`], as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    about: String,
    #[serde(default = "one")]
    seed: u64,
    repetitions: u32,
    #[serde(default)]
    warmup: u32,
    #[serde(default = "five_minutes")]
    timeout: u32,
    #[serde(default)]
    pin: Vec<usize>,
    #[serde(default)]
    a_a: bool,
    #[serde(default)]
    sensitivity: bool,
    #[serde(default = "totals")]
    compare: Vec<String>,
    #[serde(default)]
    guest: Values,
    matrix: Vec<Values>,
    #[serde(default)]
    line: Vec<Line>,
    #[serde(default)]
    goal: Vec<Goal>,
}

fn one() -> u64 {
    1
}

fn five_minutes() -> u32 {
    300
}

fn totals() -> Vec<String> {
    vec!["total/modelled_ns".into(), "total/wall_ns".into(), "exits/total".into()]
}

/// A straight line to be laid through the medians of cells, and what others have published for its slope.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The name of a figure, or a key of the matrix.
    pub x: String,
    /// The name of a figure.
    pub y: String,
    /// The published slope, in units of `y` for one of `x`.
    pub published: f64,
    /// Where.
    pub source: String,
}

/// An experiment: everything that its runs and its tables depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub about: String,
    /// Where the order of runs comes from.
    pub seed: u64,
    /// Runs of each cell that count.
    pub repetitions: u32,
    /// Runs of each cell before those.
    pub warmup: u32,
    /// Seconds for one run.
    pub timeout: u32,
    /// Processors that runs may use; all where there is none.
    pub pin: Vec<usize>,
    /// The figures that cells are compared by.
    pub compare: Vec<String>,
    /// Straight lines.
    pub line: Vec<Line>,
    /// Goals.
    #[serde(default)]
    pub goal: Vec<Goal>,
    /// What is run.
    pub cells: Vec<Cell>,
}

/// The most runs of a cell.
const RUNS_MAX: u32 = 100_000;

/// What the command line says for every cell that says nothing itself.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Values by key; `$key` in a spec is one of them.
    pub values: Vec<(Key, String)>,
}

impl Spec {
    /// From a file's text. Paths in it are relative to `directory`.
    ///
    /// # Errors
    /// It is no spec, or contradicts itself.
    pub fn parse(name: &str, text: &str, directory: &Path, given: &Given) -> Result<Spec, Error> {
        let refuse = |key: &str, problem: String, cure: &str| refuse(name, key, &problem, cure);
        let file: File = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let line = text.get(..at).unwrap_or("").matches('\n').count() + 1;
            let words = error.message().to_owned();
            refuse(&format!("line {line}"), words, "docs/bench.md has all keys and what they take")
        })?;
        for (key, number) in [("repetitions", file.repetitions), ("timeout", file.timeout)] {
            if number == 0 {
                return Err(refuse(key, "0 is not a number of them".into(), "give 1 or more"));
            }
        }
        for (key, number) in [("repetitions", file.repetitions), ("warmup", file.warmup)] {
            if number > RUNS_MAX {
                return Err(refuse(
                    key,
                    format!("{number} runs of each cell are too many"),
                    "give fewer",
                ));
            }
        }
        let mut cells = Vec::new();
        for (at, matrix) in file.matrix.iter().enumerate() {
            let expanded = matrix.over(&file.guest).expand(given, directory);
            let expanded = expanded.map_err(|(key, problem, cure)| {
                refuse(&format!("matrix {}, key {key}", at + 1), problem, &cure)
            })?;
            cells.extend(expanded);
            if cells.len() > CELLS_MAX {
                return Err(refuse(
                    "matrix",
                    format!("it makes more than {CELLS_MAX} cells"),
                    "vary less at a time",
                ));
            }
        }
        for cell in &cells {
            let technology = cell.get(Key::Technology).unwrap_or_default();
            if !TECHNOLOGIES.contains(&technology) {
                let problem = format!("there is no '{technology}'");
                return Err(refuse("technology", problem, "give plain, snp or tdx"));
            }
        }
        if file.sensitivity {
            let ends: Vec<Cell> = cells.iter().flat_map(Cell::at_ends).collect();
            cells.extend(ends);
        }
        super::cell::name_all(&mut cells);
        if cells.is_empty() {
            return Err(refuse("matrix", "it has no cell".into(), "add a table [[matrix]]"));
        }
        for (at, cell) in cells.iter().enumerate() {
            if cells[..at].iter().any(|other| other.settings == cell.settings) {
                let problem = format!("cell '{}' is there twice", cell.name);
                return Err(refuse("matrix", problem, "for an A/A comparison write a_a = true"));
            }
        }
        let labels: Vec<&str> = cells.iter().filter_map(|cell| cell.get(Key::Label)).collect();
        for (at, goal) in file.goal.iter().enumerate() {
            if let Some(problem) = goal.problem(&labels) {
                return Err(refuse(
                    &format!("goal {}", at + 1),
                    problem,
                    "docs/bench.md has its keys",
                ));
            }
        }
        if file.a_a {
            cells = cells.into_iter().flat_map(Cell::twice).collect();
        }
        Ok(Spec {
            name: file.name,
            about: file.about.trim().to_owned(),
            seed: file.seed,
            repetitions: file.repetitions,
            warmup: file.warmup,
            timeout: file.timeout,
            pin: file.pin,
            compare: file.compare,
            line: file.line,
            goal: file.goal,
            cells,
        })
    }

    /// From a file.
    ///
    /// # Errors
    /// As [`Spec::parse`], or it cannot be read.
    pub fn read(path: &Path, given: &Given) -> Result<Spec, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::ReadFile {
            what: "spec",
            path: path.to_owned(),
            source,
        })?;
        let directory = path.parent().map(PathBuf::from).unwrap_or_default();
        Spec::parse(&path.display().to_string(), &text, &directory, given)
    }
}

/// A spec that no run could follow.
pub fn refuse(name: &str, key: &str, problem: &str, cure: &str) -> Error {
    Error::Input {
        what: "spec",
        path: name.into(),
        problem: format!("{key}: {problem}"),
        cure: cure.to_owned(),
    }
}

/// What a spec's text says of itself, without anything filled in: its name, what it is for, and the variables that it needs.
///
/// # Errors
/// It is no spec; in words.
pub fn describe(text: &str) -> Result<(String, String, Vec<Key>), String> {
    let file: File = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    let mut needs: Vec<Key> = Key::ALL
        .into_iter()
        .filter(|key| {
            let uses = |values: &Values| values.uses_variable(*key);
            uses(&file.guest) || file.matrix.iter().any(uses)
        })
        .collect();
    needs.dedup();
    Ok((file.name, file.about.trim().to_owned(), needs))
}
