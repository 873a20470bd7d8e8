//! Reports, as `cvmm report` reads and shows them.

use cvmm::report::cells::Cell;
use cvmm::report::runs::Run;
use cvmm::report::{RunReport, csv, html, side_by_side, trace};

use super::Target;

/// Reads a report and shows it in every way.
pub const TARGET: Target = Target { name: "report", seeds, max_len: 16 << 10, run };

fn run(input: &[u8]) {
    let Ok(report) = RunReport::parse(input) else { return };
    let one = Run { name: "one".to_owned(), report };
    let runs = [Run { name: "<two>".to_owned(), ..one.clone() }, one];
    let page = html::page(&runs.clone().map(Cell::of));
    // One script, one block of data: whatever the report says.
    assert_eq!(page.matches("<script").count(), 2);
    assert_eq!(page.matches("</script").count(), 2);
    assert!(!page.contains("NaN"));
    let _ = csv::render(&runs);
    let _ = side_by_side::render(&runs);
    let _ = runs[0].report.table();
    let trace = trace::render(&runs);
    assert!(trace.starts_with('{') && trace.ends_with("}\n"));
}

/// The parts of a report that decide how it is shown, each once.
fn seeds() -> Vec<Vec<u8>> {
    vec![include_bytes!("report.json").to_vec()]
}
