//! `cvmm bench`: runs a matrix of guests again and again, keeps everything, and says how they differ.
//!
//! Every run is cvmm itself as a child process with `--report`; the file of runs is the result, and tables are made from it alone.

pub mod builtin;
pub mod cell;
pub mod goal;
pub mod host;
pub mod journal;
pub mod key;
pub mod line;
pub mod result;
pub mod schedule;
pub mod spec;
mod table;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};

use crate::child::{Ended, Runner, Scratch, Stopped};
use crate::cli::bench::BenchFlags;
use crate::emulate;
use crate::error::{Error, ExitCode};
use crate::sys::child;
use cell::Cell;
use host::Host;
use journal::{Contents, Guest, Journal, Run};
use key::Key;
use result::Results;
use schedule::{Slot, slots};
use spec::{Given, Spec};

/// A child keeps its own time; this is for one that does not.
const SLACK: Duration = Duration::from_secs(60);

/// Does what the flags say.
///
/// # Errors
/// The spec or the file cannot be used, or the host cannot run what it asks for.
pub fn run(flags: &BenchFlags) -> Result<ExitCode, Error> {
    if flags.list {
        return crate::print_out(&list());
    }
    if let Some(path) = &flags.show {
        return show(&journal::read(path)?, flags.json);
    }
    let name = flags.spec.as_deref().unwrap_or_default();
    let mut spec = find(name, &given(flags)?)?;
    if let Some(repetitions) = flags.repetitions {
        spec.repetitions = repetitions.get();
    }
    let scratch = Scratch::create("bench")?;
    check(name, &mut spec, &scratch)?;
    let out = flags.out.clone().unwrap_or_else(|| PathBuf::from(format!("{}.jsonl", spec.name)));
    let (mut journal, mut contents) = Journal::open(&out, &spec, &Host::here())?;
    if let Some(line) = contents.torn {
        crate::say(&format!(
            "cvmm: line {line} of {} was cut off: its run was never finished, and is done again\n",
            out.display()
        ));
    }
    match work(&spec, &scratch, &mut journal, &mut contents)? {
        Err(Stopped) => {
            let (done, all) = (contents.runs.len(), slots(&spec).len());
            crate::say(&format!(
                "cvmm: stopped after {done} of {all} runs; the same command goes on with {}\n",
                out.display()
            ));
            Ok(ExitCode::Interrupted)
        }
        Ok(()) => {
            crate::say(&format!("cvmm: all runs are in {}\n", out.display()));
            show(&contents, flags.json)
        }
    }
}

/// What the command line fills in.
fn given(flags: &BenchFlags) -> Result<Given, Error> {
    let mut given = Given::default();
    for (key, path) in [(Key::Kernel, &flags.kernel), (Key::Initrd, &flags.initrd)] {
        let Some(path) = path else { continue };
        let path = match path.to_str() {
            Some(key::BUILTIN) => key::BUILTIN.to_owned(),
            // Spec and file of runs may be used from elsewhere.
            _ => std::path::absolute(path)
                .map_err(|source| Error::ReadFile { what: key.name(), path: path.clone(), source })?
                .display()
                .to_string(),
        };
        given.values.push((key, path));
    }
    if let Some(profile) = &flags.emulate {
        given.values.push((Key::Emulate, profile.clone().unwrap_or_else(|| "true".to_owned())));
    }
    Ok(given)
}

/// A spec by its path, or one of ours by its name.
fn find(name: &str, given: &Given) -> Result<Spec, Error> {
    let path = Path::new(name);
    if path.exists() {
        return Spec::read(path, given);
    }
    match builtin::find(name) {
        Some(text) => Spec::parse(name, text, Path::new(""), given),
        None => Err(Error::Usage {
            flag: format!("bench {name}"),
            problem: "it is neither a file nor the name of a spec that comes with cvmm".into(),
            cure: "name a file, or one that `cvmm bench --list` shows".into(),
        }),
    }
}

/// Whatever can be refused is refused before the first run.
fn check(name: &str, spec: &mut Spec, scratch: &Scratch) -> Result<(), Error> {
    let processors = child::allowed()
        .map_err(|source| Error::Setup { what: "the list of processors", source })?;
    if let Some(stray) = spec.pin.iter().find(|processor| !processors.contains(processor)) {
        let problem = format!("processor {stray} is none that this process may use");
        return Err(spec::refuse(
            name,
            "pin",
            &problem,
            "see the `Cpus_allowed_list` of /proc/self/status",
        ));
    }
    for cell in &mut spec.cells {
        cell.check(scratch).map_err(|(key, problem, cure)| {
            let key = if key.is_empty() { "matrix".to_owned() } else { key };
            spec::refuse(name, &format!("{key} of cell '{}'", cell.name), &problem, &cure)
        })?;
    }
    if spec.cells.iter().any(|cell| !matches!(cell.get(Key::Emulate), None | Some("false"))) {
        emulate::find_library()?;
    }
    Ok(())
}

/// Does the runs that are not there yet.
fn work(
    spec: &Spec,
    scratch: &Scratch,
    journal: &mut Journal,
    contents: &mut Contents,
) -> Result<Result<(), Stopped>, Error> {
    let all = slots(spec);
    let left: Vec<Slot> = all
        .iter()
        .filter(|slot| !contents.runs.iter().any(|run| run.slot == **slot))
        .copied()
        .collect();
    if left.len() < all.len() && !left.is_empty() {
        crate::say(&format!(
            "cvmm: going on after {} of {} runs\n",
            all.len() - left.len(),
            all.len()
        ));
    }
    let runner = Runner::new()?;
    let progress = Progress::new(all.len(), all.len() - left.len());
    for slot in left {
        let cell = &spec.cells[slot.cell];
        progress.begin(cell);
        let run = match once(spec, cell, slot, &runner, scratch)? {
            Ok(run) => run,
            Err(Stopped) => return Ok(Err(Stopped)),
        };
        journal.append(&run)?;
        progress.end(cell, &run);
        contents.runs.push(run);
    }
    Ok(Ok(()))
}

/// One run.
fn once(
    spec: &Spec,
    cell: &Cell,
    slot: Slot,
    runner: &Runner,
    scratch: &Scratch,
) -> Result<Result<Run, Stopped>, Error> {
    let (jobs, reports): (Vec<_>, Vec<_>) =
        cell.jobs(scratch, spec.timeout, &spec.pin)?.into_iter().unzip();
    for report in &reports {
        // One that is left of the run before must not count for this one. Mostly there is none.
        let _ = std::fs::remove_file(report);
    }
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let limit = Duration::from_secs(spec.timeout.into()) + SLACK;
    let Ok(ended) = runner.run_together(scratch, &jobs, limit)? else { return Ok(Err(Stopped)) };
    if let Some(unable) = ended.iter().find(|ended| ended.code == Some(ExitCode::Host as i32)) {
        // So would every other run of the cell, and a file full of that helps nobody.
        return Err(Error::Emulate {
            problem: format!("cell '{}': {}", cell.name, unable.complaint()),
        });
    }
    let guest = |(ended, report): (&Ended, &PathBuf)| Guest {
        exit_code: ended.code,
        error: (ended.code != Some(0)).then(|| ended.complaint()),
        report: std::fs::read(report).ok().and_then(|text| serde_json::from_slice(&text).ok()),
    };
    Ok(Ok(Run {
        slot,
        began_unix_ms: u64::try_from(began.as_millis()).unwrap_or(u64::MAX),
        guests: ended.iter().zip(&reports).map(guest).collect(),
    }))
}

/// How far it is: a bar on a terminal, else a line for each run.
struct Progress {
    bar: ProgressBar,
    total: usize,
    done: std::cell::Cell<usize>,
}

impl Progress {
    fn new(total: usize, done: usize) -> Progress {
        let bar = ProgressBar::new(total as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}  {eta} left  {msg}") {
            bar.set_style(style);
        }
        bar.set_position(done as u64);
        bar.reset_eta();
        Progress { bar, total, done: std::cell::Cell::new(done) }
    }

    fn begin(&self, cell: &Cell) {
        self.bar.set_message(cell.name.clone());
        self.bar.tick();
    }

    fn end(&self, cell: &Cell, run: &Run) {
        self.bar.inc(1);
        self.done.set(self.done.get() + 1);
        let warmup = if run.slot.warmup { ", warm-up" } else { "" };
        let ended = run.failure().map_or("ok".to_owned(), |failure| format!("FAILED, {failure}"));
        let line = format!("[{}/{}] {}{warmup}: {ended}", self.done.get(), self.total, cell.name);
        if self.bar.is_hidden() {
            crate::say(&format!("{line}\n"));
        } else if !run.passed() {
            self.bar.println(line);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn show(contents: &Contents, json: bool) -> Result<ExitCode, Error> {
    let results = Results::of(contents);
    crate::print_out(&if json { crate::json(&results)? } else { table::render(&results) })?;
    // The code of the first run that failed, as for a selftest.
    let counted = contents.runs.iter().filter(|run| !run.slot.warmup && !run.passed());
    let failed = counted.flat_map(|run| &run.guests).find(|guest| guest.exit_code != Some(0));
    Ok(failed.map_or(ExitCode::Ok, |guest| {
        let code =
            ExitCode::ALL.into_iter().find(|code| guest.exit_code == Some(i32::from(*code as u8)));
        code.unwrap_or(ExitCode::Internal)
    }))
}

/// The specs that come with cvmm, for people.
fn list() -> String {
    let mut text = String::from(
        "Specs that come with cvmm; run one with `cvmm bench NAME`, and --emulate where there is no such processor.\n",
    );
    for (name, spec) in builtin::SPECS {
        // A test reads every one.
        let Ok((_, about, needs)) = spec::describe(spec) else { continue };
        let needs: Vec<String> = needs.iter().map(|key| format!("--{} FILE", key.name())).collect();
        let needs = if needs.is_empty() { "nothing".to_owned() } else { needs.join(", ") };
        text.push_str(&format!("\n{name}\n    needs {needs}\n"));
        about.lines().for_each(|line| text.push_str(&format!("    {line}\n")));
    }
    text
}
