//! One page that shows runs: everything in it, nothing fetched. It works without its script, which only switches between
//! clocks and themes and shows what bars say in full.
//!
//! Whatever a report says is foreign. It is escaped ([`markup`]), and the page's content security policy names the one
//! script and the one style sheet by their hashes: nothing else would run, and nothing is loaded.

mod area;
pub mod axis;
mod beside;
mod exits;
mod header;
mod histogram;
mod label;
mod launch;
pub mod markup;
mod overview;
mod ownership;
pub mod palette;
mod probes;
mod samples;
mod statistics;
mod waterfall;

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::cells::Cell;
use super::clock::Clock;
use super::facts;
use super::number;
use super::runs::Run;
use markup::{Text, base64, json_block};

const CSS: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page.
pub fn page(cells: &[Cell]) -> String {
    // What shows one run shows the typical one.
    let runs: Vec<Run> = cells.iter().filter_map(Cell::typical).collect();
    let runs = runs.as_slice();
    let css = palette::css() + CSS;
    let clock = first_clock(runs);
    let title = header::title(runs);
    let mut out = String::new();
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=en data-clock={}><head><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=Content-Security-Policy content=\"default-src 'none'; script-src 'sha256-{}'; \
         style-src 'sha256-{}'; base-uri 'none'; form-action 'none'\"><title>{} · cvmm</title><style>{css}</style></head>\n\
         <body><a class=skip href=#main>To the content</a>\n",
        clock.name(),
        base64(&Sha256::digest(SCRIPT)),
        base64(&Sha256::digest(&css)),
        Text(&title),
    );
    head(&mut out, runs, &title, clock);
    out.push_str("<main id=main>\n");
    header::cards(&mut out, runs);
    let many = cells.iter().any(|cell| cell.runs.len() > 1);
    if many {
        let what =
            "Every run of every cell. Below, each cell is shown by its run of median length.";
        section(&mut out, "How long runs took", what, |out| samples::render(out, cells));
    }
    section(&mut out, "Where the time went", "", |out| overview::render(out, runs));
    if runs.len() > 1 {
        let what = "Phases and counts of every run.";
        section(&mut out, "Side by side", what, |out| beside::render(out, runs));
    }
    for (at, run) in runs.iter().enumerate() {
        one(&mut out, run, at);
    }
    out.push_str("</main>\n");
    let all: Vec<Run> = cells.iter().flat_map(|cell| &cell.runs).cloned().collect();
    foot(&mut out, if many { &all } else { runs });
    out
}

/// What is modelled comes first where there is any: on softkvm it is what the page is about.
fn first_clock(runs: &[Run]) -> Clock {
    let modelled = runs.iter().any(|run| Clock::Modelled.known(&run.report));
    if modelled { Clock::Modelled } else { Clock::Wall }
}

fn head(out: &mut String, runs: &[Run], title: &str, clock: Clock) {
    out.push_str(
        "<header><div class=brand><span><b>cvmm</b> · boot report</span><div class=controls>",
    );
    if clock == Clock::Modelled {
        out.push_str(
            "<span class=group role=group aria-label=\"Whose time is shown\">\
             <button data-clock=modelled aria-pressed=true>modelled time</button>\
             <button data-clock=wall aria-pressed=false>wall time</button></span>",
        );
    }
    let _ = write!(
        out,
        "<button id=theme aria-label=\"Change the theme\">Dark</button></div></div><h1>{}</h1><p class=sub>{}</p>",
        Text(title),
        Text(&header::common(runs)),
    );
    if clock == Clock::Modelled {
        out.push_str(
            "<p class=\"sub modelled\">Times are <b>modelled</b>: virtual time of a software machine, by the costs of its \
             platform profile; equal from run to run. What is marked <i>wall</i> was measured.</p>\
             <p class=\"sub wall\">Times are <b>wall time</b>: measured on this host, which had to emulate the guest. They \
             say how fast softkvm is, nothing of real hardware.</p>",
        );
    } else {
        out.push_str(
            "<p class=sub>Times are <b>wall time</b>, measured on the host that ran the guest.</p>",
        );
    }
    out.push_str("</header>\n");
}

fn section(out: &mut String, title: &str, what: &str, fill: impl FnOnce(&mut String)) {
    let _ = write!(out, "<section><h2>{}</h2>", Text(title));
    if !what.is_empty() {
        let _ = write!(out, "<p class=sub>{what}</p>");
    }
    fill(out);
    out.push_str("</section>\n");
}

/// Everything of one run.
fn one(out: &mut String, run: &Run, at: usize) {
    let _ = write!(
        out,
        "<section id=run-{at}><h2>{}: {}</h2>",
        Text(&run.name),
        Text(&format!("{} guest, {}", super::runs::technology(&run.report), run.size())),
    );
    out.push_str("<h3>Phases</h3>");
    waterfall::render(out, run);
    out.push_str("<h3>Exits by phase</h3>");
    exits::render(out, run);
    statistics::render(out, run);
    out.push_str("<h3>Whose memory it was</h3>");
    ownership::render(out, run);
    out.push_str("<h3>How long exits took <small class=quiet>wall time</small></h3>");
    histogram::render(out, run);
    if !run.report.probes.is_empty() {
        out.push_str("<h3>Measured by the guest</h3>");
        probes::render(out, run);
    }
    out.push_str("<h3>Launch pages</h3>");
    launch::render(out, run);
    out.push_str("<h3>Identity and configuration</h3>");
    header::facts(out, run);
    out.push_str("</section>\n");
}

fn foot(out: &mut String, runs: &[Run]) {
    let _ = write!(
        out,
        "<footer><p>Made by cvmm {} from {} report{}. Every number of this page is in the block of JSON at its end.</p>\
         </footer>\n<div id=tip role=tooltip hidden></div>\n<script type=application/json id=runs>{}</script>\n\
         <script>{SCRIPT}</script>\n</body></html>\n",
        env!("CARGO_PKG_VERSION"),
        number::grouped(runs.len() as u64),
        if runs.len() == 1 { "" } else { "s" },
        json_block(&facts::json(runs)),
    );
}
