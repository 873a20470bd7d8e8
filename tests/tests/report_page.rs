//! The page of `cvmm report --html`, in a real browser: what it shows is what the reports say, on a phone and on a desk, by
//! day and by night; it asks the network for nothing, and runs nothing that a guest has written.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use cvmm_tests::browser::Browser;
use cvmm_tests::{Cvmm, bzimage, in_parallel, input};
use serde_json::Value;

const TECHNOLOGIES: [&str; 3] = ["snp", "tdx", "plain"];
const WINDOWS: [(u32, u32); 2] = [(390, 844), (1280, 900)];
const SCHEMES: [&str; 2] = ["light", "dark"];

/// Reports of three boots of one kernel, and the page that compares them.
struct Boots {
    dir: tempfile::TempDir,
}

impl Boots {
    fn get() -> &'static Boots {
        static BOOTS: OnceLock<Boots> = OnceLock::new();
        BOOTS.get_or_init(|| {
            let dir = tempfile::tempdir().expect("a directory");
            let jobs = TECHNOLOGIES.map(|technology| (technology.to_owned(), ()));
            in_parallel(jobs.into(), |technology, ()| {
                Cvmm::new(["--emulate", "--cpus", "2", "--memory", "512M", "--console", "none"])
                    .arg(format!("--{technology}"))
                    .linux(&bzimage("6.12"), "6.12")
                    .arg("--report")
                    .arg(dir.path().join(format!("{technology}.json")))
                    .run()
                    .expect_code(0);
            });
            let boots = Boots { dir };
            let reports = TECHNOLOGIES.map(|technology| boots.file(technology));
            report(&reports, &["--html", &boots.page().display().to_string()]);
            boots
        })
    }

    fn file(&self, technology: &str) -> PathBuf {
        self.dir.path().join(format!("{technology}.json"))
    }

    fn report(&self, technology: &str) -> Value {
        let text = std::fs::read(self.file(technology)).expect("the report is there");
        serde_json::from_slice(&text).expect("the report is JSON")
    }

    fn page(&self) -> PathBuf {
        self.dir.path().join("page.html")
    }
}

/// `cvmm report`; what it printed.
fn report(files: &[impl AsRef<Path>], words: &[&str]) -> String {
    let mut command = Command::new(input("CVMM_BIN"));
    command.arg("report").args(files.iter().map(AsRef::as_ref)).args(words);
    let output = command.output().expect("cvmm starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Pictures for people who want to see what the test saw: CVMM_PICTURES names a directory.
fn picture(browser: &mut Browser, name: &str) {
    if let Some(dir) = std::env::var_os("CVMM_PICTURES") {
        browser.photograph(&Path::new(&dir).join(format!("{name}.png")));
    }
}

#[test]
fn the_page_shows_what_the_reports_say() {
    let boots = Boots::get();
    let mut browser = Browser::start();
    browser.open(&boots.page(), (1280, 900), "light");
    assert_eq!(browser.evaluate("document.documentElement.lang"), "en");
    for (at, technology) in TECHNOLOGIES.iter().enumerate() {
        let report = boots.report(technology);
        for clock in ["modelled", "wall"] {
            browser
                .evaluate(&format!("document.querySelector('button[data-clock={clock}]').click()"));
            waterfall(&mut browser, &report, at, clock);
        }
        exits(&mut browser, &report, at);
        histograms(&mut browser, &report, at);
    }
    // The block of JSON is what --json prints.
    let block = browser.evaluate("document.getElementById('runs').textContent");
    let block: Value = serde_json::from_str(block.as_str().expect("text")).expect("JSON");
    let files = TECHNOLOGIES.map(|technology| boots.file(technology));
    let printed: Value = serde_json::from_str(&report(&files, &["--json"])).expect("JSON");
    assert_eq!(block, printed);
}

/// The rows of one run by one clock: their numbers, and that their bars lie where the numbers say.
fn waterfall(browser: &mut Browser, report: &Value, at: usize, clock: &str) {
    let shown = browser.evaluate(&format!(
        "(() => {{
            const table = document.querySelector('#run-{at} .waterfall.{clock}');
            const rows = [...table.querySelectorAll('.row[data-phase]')].map((row) => {{
                const track = row.querySelector('svg').getBoundingClientRect();
                return {{
                    phase: row.dataset.phase,
                    ns: Number(row.querySelector('[data-ns]')?.dataset.ns ?? NaN),
                    bars: [...row.querySelectorAll('.bar')].map((bar) => {{
                        const box = bar.getBoundingClientRect();
                        const [begin, end] = [Number(bar.dataset.begin), Number(bar.dataset.end)];
                        return {{ begin, end, x: (box.left - track.left) / track.width, width: box.width / track.width }};
                    }}),
                }};
            }});
            return {{
                total: Number(table.dataset.total), rows, sum: Number(table.querySelector('.sum [data-ns]').dataset.ns),
                visible: table.getClientRects().length > 0,
            }};
        }})()"
    ));
    let field = |name: &str| format!("{name}_{clock}_ns");
    let total = report["total"][format!("{clock}_ns")].as_u64().expect("a total");
    assert_eq!(shown["visible"], true, "{clock}");
    assert_eq!(shown["total"], total, "{clock}");
    let off = shown["sum"].as_f64().expect("a sum") / total as f64 - 1.0;
    assert!(off.abs() < 0.001, "the phases add up to {} of {total} ns", shown["sum"]);
    let rows = shown["rows"].as_array().expect("rows");
    let phases = report["phases"].as_array().expect("phases");
    assert_eq!(rows.len(), phases.len());
    for (row, phase) in rows.iter().zip(phases) {
        assert_eq!(row["phase"], phase["id"]);
        assert_eq!(row["ns"], phase[format!("{clock}_ns")], "{} {clock}", phase["id"]);
        let segments = report["timeline"].as_array().expect("a timeline").iter();
        let segments = segments.filter(|segment| segment["phase"] == phase["id"]);
        let times =
            segments.filter_map(|s| s[field("begin")].as_u64().zip(s[field("end")].as_u64()));
        let times: Vec<(u64, u64)> = times.filter(|(begin, end)| end > begin).collect();
        let bars = row["bars"].as_array().expect("bars");
        assert_eq!(bars.len(), times.len(), "{} {clock}", phase["id"]);
        for (bar, (begin, end)) in bars.iter().zip(times) {
            assert_eq!((bar["begin"].as_u64(), bar["end"].as_u64()), (Some(begin), Some(end)));
            let near = |shown: &Value, ns: u64| {
                (shown.as_f64().expect("a place") - ns as f64 / total as f64).abs() < 0.004
            };
            assert!(near(&bar["x"], begin) && near(&bar["width"], end - begin), "{bar} of {total}");
        }
    }
}

fn exits(browser: &mut Browser, report: &Value, at: usize) {
    let counts = browser.evaluate(&format!(
        "[...document.querySelectorAll('#run-{at} .heat [data-count]')].map((cell) => Number(cell.dataset.count))"
    ));
    let sum: u64 = counts.as_array().expect("cells").iter().filter_map(Value::as_u64).sum();
    assert_eq!(sum, report["exits"]["total"], "exits by phase and reason");
}

fn histograms(browser: &mut Browser, report: &Value, at: usize) {
    let counts = browser.evaluate(&format!(
        "[...document.querySelectorAll('#run-{at} .small-multiples svg')].map((chart) =>
            [...chart.querySelectorAll('[data-count]')].reduce((sum, bar) => sum + Number(bar.dataset.count), 0))"
    ));
    let shown: f64 = counts.as_array().expect("charts").iter().filter_map(Value::as_f64).sum();
    let histograms = report["exits"]["histograms"].as_array().expect("histograms");
    let said: u64 = histograms.iter().filter_map(|h| h["count"].as_u64()).sum();
    // Bars carry counts to a tenth.
    assert!(
        (shown - said as f64).abs() <= 0.05 * 96.0 * histograms.len() as f64,
        "{shown} of {said}"
    );
}

#[test]
fn the_page_fits_its_window_and_asks_for_nothing() {
    let boots = Boots::get();
    let mut browser = Browser::start();
    for window in WINDOWS {
        for scheme in SCHEMES {
            browser.open(&boots.page(), window, scheme);
            for clock in ["wall", "modelled"] {
                browser.evaluate(&format!(
                    "document.querySelector('button[data-clock={clock}]').click()"
                ));
                let context = format!("{window:?} {scheme} {clock}");
                fits(&mut browser, &context);
                can_be_read(&mut browser, &context);
                let name = format!("{}-{scheme}-{clock}", window.0);
                picture(&mut browser, &name);
            }
            assert_eq!(browser.complaints(), Vec::<&Value>::new(), "{window:?} {scheme}");
            assert_eq!(browser.requests(), Vec::<&str>::new(), "{window:?} {scheme}");
        }
    }
}

/// No scrolling sideways, and no label that sticks out of its bar.
fn fits(browser: &mut Browser, context: &str) {
    let page = browser.evaluate(
        "({ content: document.documentElement.scrollWidth, window: document.documentElement.clientWidth })",
    );
    assert_eq!(page["content"], page["window"], "{context}");
    let out = browser.evaluate(
        "[...document.querySelectorAll('svg')].flatMap((image) => {
            const labels = [...image.querySelectorAll(':scope > text.on')].filter((label) => label.getClientRects().length);
            if (!labels.length) return [];
            const bars = [...image.querySelectorAll('rect[data-begin],path')].map((bar) => bar.getBoundingClientRect());
            return labels.filter((label) => {
              const box = label.getBoundingClientRect();
              return !bars.some((around) => {
                return around.left <= box.left && around.right >= box.right - 1 && around.top <= box.top + 2
                    && around.bottom >= box.bottom - 2;
              });
            });
        }).map((label) => label.textContent)",
    );
    assert_eq!(out, Value::Array(Vec::new()), "labels that do not fit, {context}");
    let shown = browser.evaluate(
        "[...document.querySelectorAll('svg text.on')].filter((label) => label.getClientRects().length).length",
    );
    assert!(shown.as_u64().is_some_and(|count| count > 10), "{shown} labels, {context}");
}

/// Every text has a contrast of 4.5 to what is behind it (WCAG 2.2, 1.4.3), as the browser resolves the colours.
fn can_be_read(browser: &mut Browser, context: &str) {
    let faint = browser.evaluate(
        "(() => {
            const parse = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
            const light = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
            const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
            const solid = (colour) => colour.length === 3 || colour[3] === 1;
            const behind = (element) => {
                for (let at = element; at; at = at.parentElement) {
                    const colour = parse(getComputedStyle(at).backgroundColor);
                    if (colour.length && solid(colour)) return colour;
                }
                return [255, 255, 255];
            };
            const faint = [];
            // What looks the same is looked at once.
            const kinds = new Set();
            const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            while (walk.nextNode()) {
                const element = walk.currentNode.parentElement;
                if (!walk.currentNode.data.trim() || element.closest('script,.skip') || element.matches('text.on')) continue;
                const kind = [element, element.parentElement, element.parentElement?.parentElement]
                    .map((at) => `${at?.tagName}.${at?.getAttribute('class')}`).join();
                if (kinds.has(kind) || !element.getClientRects().length) continue;
                kinds.add(kind);
                const style = getComputedStyle(element);
                const text = parse(element instanceof SVGElement ? style.fill : style.color);
                const [a, b] = [luminance(text), luminance(behind(element))];
                const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
                if (contrast < 4.5) faint.push(`${contrast.toFixed(2)} ${element.className} ${walk.currentNode.data.slice(0, 40)}`);
            }
            return faint;
        })()",
    );
    assert_eq!(faint, Value::Array(Vec::new()), "texts that are too faint, {context}");
}

#[test]
fn clock_and_theme_can_be_chosen_and_everything_is_reached_by_keyboard() {
    let boots = Boots::get();
    let mut browser = Browser::start();
    browser.open(&boots.page(), (1280, 900), "dark");
    let visible = |browser: &mut Browser, clock: &str| {
        let all = format!("[...document.querySelectorAll('.waterfall.{clock}')]");
        browser.evaluate(&format!("{all}.filter((table) => table.getClientRects().length).length"))
    };
    // One clock at a time.
    assert_eq!(
        (visible(&mut browser, "modelled"), visible(&mut browser, "wall")),
        (3.into(), 0.into())
    );
    let background = "getComputedStyle(document.body).backgroundColor";
    let dark = browser.evaluate(background);
    let mut stops = Vec::new();
    for _ in 0..200 {
        browser.press("Tab", 9);
        let stop = browser.evaluate(
            "(() => {
                const on = document.activeElement;
                if (on === document.body) return null;
                const ring = getComputedStyle(on).outlineStyle;
                const name = on.getAttribute('aria-label') ?? on.textContent;
                return [on.tagName, name.trim(), ring];
            })()",
        );
        if stop.is_null() {
            break;
        }
        assert_ne!(stop[1], "", "something without a name takes the focus: {stop}");
        assert_ne!(stop[2], "none", "no ring shows where the focus is: {stop}");
        stops.push(stop);
    }
    let tags = |tag: &str| stops.iter().filter(|stop| stop[0] == tag).count();
    assert_eq!(tags("BUTTON"), 3, "{stops:#?}");
    assert!(tags("svg") >= 4 && tags("SUMMARY") >= 3, "{stops:#?}");

    browser.evaluate("document.querySelector('button[data-clock=wall]').focus()");
    browser.press("Enter", 13);
    browser.evaluate("document.querySelector('button[data-clock=wall]').click()");
    assert_eq!(
        (visible(&mut browser, "modelled"), visible(&mut browser, "wall")),
        (0.into(), 3.into())
    );
    browser.evaluate("document.getElementById('theme').click()");
    assert_ne!(browser.evaluate(background), dark);
    // Arrows go from value to value of a chart.
    browser
        .evaluate("document.querySelector('figure.wall svg.chart').focus({ preventScroll: true })");
    let tip = "document.getElementById('tip')";
    assert_eq!(browser.evaluate(&format!("{tip}.hidden")), true);
    browser.press("ArrowRight", 39);
    let first = browser.evaluate(&format!("{tip}.textContent"));
    assert!(first.as_str().is_some_and(|text| text.contains("wall time")), "{first}");
    browser.press("ArrowRight", 39);
    assert_ne!(browser.evaluate(&format!("{tip}.textContent")), first);
    browser.press("Escape", 27);
    assert_eq!(browser.evaluate(&format!("{tip}.hidden")), true);
    // Who sees no picture is told what is in it.
    let silent = browser.evaluate(
        "[...document.querySelectorAll('svg')].filter((svg) => !svg.closest('[aria-label]') && !svg.closest('[aria-hidden]')).length",
    );
    assert_eq!(silent, 0);
    assert_eq!(browser.complaints(), Vec::<&Value>::new());
}

#[test]
fn what_a_guest_writes_stays_text() {
    const EVIL: &str = "</script><script>window.hacked=1</script><img src=x onerror=\"window.hacked=1\">'\"&\u{202e}--><svg onload=alert(1)>";
    let boots = Boots::get();
    let mut files = Vec::new();
    for technology in TECHNOLOGIES {
        let mut report = boots.report(technology);
        taint(&mut report, "", EVIL);
        let file = boots.dir.path().join(format!("evil-{technology}.json"));
        std::fs::write(&file, report.to_string()).expect("the file is written");
        files.push(file);
    }
    let page = boots.dir.path().join("evil.html");
    report(&files, &["--html", &page.display().to_string()]);
    let mut browser = Browser::start();
    browser.open(&page, (390, 844), "light");
    assert_eq!(browser.evaluate("window.hacked ?? null"), Value::Null);
    assert_eq!(browser.evaluate("document.scripts.length"), 2);
    assert_eq!(
        browser
            .evaluate("document.querySelectorAll('img,iframe,object,[onload],[onerror]').length"),
        0
    );
    assert_eq!(browser.complaints(), Vec::<&Value>::new());
    assert_eq!(browser.requests(), Vec::<&str>::new());
    let page = browser.evaluate(
        "({ content: document.documentElement.scrollWidth, text: document.body.innerText })",
    );
    assert!(
        page["text"].as_str().is_some_and(|text| text.contains("<script>window.hacked=1")),
        "it is shown"
    );
    assert_eq!(page["content"], 390);
}

/// Puts a text behind every text of a report but its version; names of fields stay.
fn taint(value: &mut Value, name: &str, evil: &str) {
    match value {
        Value::String(text) if name != "schema" => text.push_str(evil),
        Value::Array(items) => items.iter_mut().for_each(|item| taint(item, name, evil)),
        Value::Object(fields) => fields.iter_mut().for_each(|(name, item)| taint(item, name, evil)),
        _ => {}
    }
}
