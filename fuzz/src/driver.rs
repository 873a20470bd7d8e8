//! The loop: mutate, run, keep what is new, stop at the first panic or hang.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::coverage::Coverage;
use crate::mutate::{Random, mutate};
use crate::targets::Target;

/// An input that runs longer than this counts as a hang.
const HANG: Duration = Duration::from_secs(10);

/// Fuzzes until the time is over or an input fails.
pub fn fuzz(target: &Target, time: Duration, seed: u64, findings: &Path) -> Result<()> {
    let mut corpus = (target.seeds)();
    corpus.push(Vec::new());
    let mut random = Random::new(seed);
    let mut coverage = Coverage::new();
    let running = watch(target.name, findings);
    std::panic::set_hook(Box::new(|_| {}));
    let start = Instant::now();
    let mut runs = 0_u64;
    let seeds = corpus.len();
    while start.elapsed() < time {
        let fresh = usize::try_from(runs).unwrap_or(usize::MAX);
        let input = if fresh < seeds {
            corpus[fresh].clone()
        } else {
            let mut input = corpus[random.below(corpus.len())].clone();
            let other = random.below(corpus.len());
            mutate(&mut random, &mut input, &corpus[other], target.max_len);
            input
        };
        coverage.reset();
        *lock(&running) = Some((Instant::now(), input.clone()));
        let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(&input)));
        *lock(&running) = None;
        runs += 1;
        if let Err(panic) = outcome {
            let _ = std::panic::take_hook();
            let file = keep(target.name, findings, &input)?;
            let words = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("panic");
            bail!(
                "{} panicked: {words}\nsee it again: cargo run -p fuzz -- replay {} {}",
                target.name,
                target.name,
                file.display()
            );
        }
        if coverage.grew() {
            corpus.push(input);
        }
    }
    let (reached, all) = coverage.reached();
    println!(
        "{}: {runs} inputs in {} s, corpus {}, {reached} of {all} counters reached, no finding",
        target.name,
        start.elapsed().as_secs(),
        corpus.len()
    );
    Ok(())
}

type Running = Arc<Mutex<Option<(Instant, Vec<u8>)>>>;

fn lock(running: &Running) -> std::sync::MutexGuard<'_, Option<(Instant, Vec<u8>)>> {
    running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Ends the process when one input takes too long.
fn watch(name: &'static str, findings: &Path) -> Running {
    let running = Running::default();
    let watched = Arc::clone(&running);
    let findings = findings.to_owned();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let stuck = lock(&watched).as_ref().filter(|(at, _)| at.elapsed() > HANG).cloned();
            if let Some((_, input)) = stuck {
                match keep(name, &findings, &input) {
                    Ok(file) => eprintln!("{name} hangs on {}", file.display()),
                    Err(error) => eprintln!("{name} hangs, and {error:#}"),
                }
                std::process::exit(1);
            }
        }
    });
    running
}

fn keep(name: &str, findings: &Path, input: &[u8]) -> Result<PathBuf> {
    fs::create_dir_all(findings)
        .with_context(|| format!("cannot create {}", findings.display()))?;
    let file = findings.join(format!("{name}-{}.bin", input.len()));
    fs::write(&file, input).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}
