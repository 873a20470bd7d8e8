//! `cvmm report`: reports read again, and shown.

use std::path::Path;

use super::cells::Cell;
use super::runs::Run;
use super::{check_writable, csv, facts, html, side_by_side, trace, write_atomically};
use crate::cli::ReportFlags;
use crate::error::{Error, ExitCode};

/// Reads the files and makes of them what the flags say; tables where they say nothing.
///
/// # Errors
/// A file cannot be read, is no report, or cannot be written.
pub fn show(flags: &ReportFlags) -> Result<ExitCode, Error> {
    let cells = Cell::read_all(&flags.files)?;
    let outputs = outputs(flags);
    // All of them or none.
    for output in outputs.iter().filter(|output| !is_stdout(output.path)) {
        check_writable(output.what, output.path)?;
    }
    for output in &outputs {
        write(output.what, output.path, &(output.make)(&cells))?;
    }
    if flags.json {
        return crate::print_out(&facts::json(&all(&cells)));
    }
    if outputs.is_empty() { crate::print_out(&table(&typical(&cells))) } else { Ok(ExitCode::Ok) }
}

/// Every run.
fn all(cells: &[Cell]) -> Vec<Run> {
    cells.iter().flat_map(|cell| &cell.runs).cloned().collect()
}

/// Of each cell the run in the middle: what can show one run of it only.
fn typical(cells: &[Cell]) -> Vec<Run> {
    cells.iter().filter_map(Cell::typical).collect()
}

/// A file that a flag asks for.
struct Output<'a> {
    what: &'static str,
    path: &'a Path,
    make: fn(&[Cell]) -> String,
}

fn outputs(flags: &ReportFlags) -> Vec<Output<'_>> {
    let mut outputs = Vec::new();
    if let Some(path) = &flags.html {
        outputs.push(Output { what: "page", path, make: html::page });
    }
    if let Some(path) = &flags.perfetto {
        outputs.push(Output { what: "trace", path, make: |cells| trace::render(&typical(cells)) });
    }
    if let Some(path) = &flags.csv {
        outputs.push(Output { what: "table", path, make: |cells| csv::render(&all(cells)) });
    }
    outputs
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

/// The summary of one run; of several, one table.
fn table(runs: &[Run]) -> String {
    match runs {
        [run] => run.report.table(),
        runs => side_by_side::render(runs),
    }
}

fn write(what: &'static str, path: &Path, text: &str) -> Result<(), Error> {
    if is_stdout(path) {
        return crate::print_out(text).map(drop);
    }
    write_atomically(what, path, |out| out.write_all(text.as_bytes()))
}
