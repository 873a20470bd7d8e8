//! `cvmm selftest`: runs the whole ladder that this host can run, and leaves one archive that can be attached to a bug report.
//!
//! Every rung is cvmm itself as a child process, with the command line that a user would type; what a rung cannot run on is what
//! `cvmm check` says.

pub mod archive;
pub mod evidence;
pub mod guest;
pub mod rung;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::child::{Ended, Runner, Scratch, Stopped};
use crate::cli::SelftestFlags;
use crate::config::read_file;
use crate::digest::hex;
use crate::emulate;
use crate::error::{Error, ExitCode};
use crate::report::check_writable;
use archive::Archive;
use rung::{Kind, Rung, TECHNOLOGIES};

/// The version of `selftest.json`'s layout: changes when a reader would break.
pub const SCHEMA: &str = "cvmm-selftest/1";

/// What is run, and on what.
#[derive(Debug)]
pub struct Plan {
    /// The user's kernel; without one, the built-in guest.
    pub kernel: Option<PathBuf>,
    /// The user's initramfs.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub cmdline: String,
    /// Memory of a guest with the user's kernel.
    pub memory: String,
    /// How long one rung may take.
    pub timeout: Duration,
    /// The built-in guest as a kernel.
    pub builtin_kernel: PathBuf,
    /// The built-in guest in the place of the shim.
    pub builtin_shim: PathBuf,
    /// softkvm instead of this host's KVM; perhaps with a profile for all.
    emulate: Option<Option<String>>,
}

impl Plan {
    /// The profile to emulate for a technology.
    pub fn profile(&self, technology: &str) -> Option<String> {
        Some(emulate::profile_for(technology, self.emulate.as_ref()?.as_deref()))
    }
}

/// What came of a rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It did what it should.
    Passed,
    /// It did not.
    Failed,
    /// This host cannot run it.
    Skipped,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Failed => "failed",
            Outcome::Skipped => "skipped",
        }
    }
}

/// A rung that is over.
#[derive(Debug, Serialize)]
pub struct Result {
    name: String,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The arguments of cvmm.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    command: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip)]
    code: ExitCode,
}

/// What `cvmm check` says of a technology.
struct Readiness {
    /// Why no guest of it can run.
    missing: Option<String>,
    /// Why none can that passes through the shim.
    interpreted: Option<String>,
}

/// Runs it.
///
/// # Errors
/// The flags make no sense, a child cannot be started, or the archive cannot be written.
pub fn run(flags: &SelftestFlags) -> std::result::Result<ExitCode, Error> {
    let rungs = choose(flags.only.as_deref())?;
    let out = flags.out.clone();
    check_writable("archive", &out)?;
    if flags.emulate.is_some() {
        emulate::find_library()?;
    }
    let runner = Runner::new()?;
    let scratch = Scratch::create("selftest")?;
    let plan = plan(flags, &scratch)?;
    let mut archive = Archive::default();
    match climb(&plan, &rungs, &runner, &scratch, flags.with_console, &mut archive)? {
        Err(Stopped) => {
            crate::say("cvmm: stopped; no archive was written\n");
            Ok(ExitCode::Interrupted)
        }
        Ok(results) => {
            archive.add("selftest.json", summary(&plan, &results)?);
            archive.write(&out)?;
            crate::print_out(&table(&results, &out))?;
            Ok(exit_code(&results))
        }
    }
}

/// The rungs that `--only` names.
fn choose(only: Option<&str>) -> std::result::Result<Vec<Rung>, Error> {
    let all = Rung::all();
    let Some(only) = only else { return Ok(all) };
    let words: Vec<&str> = only.split(',').map(str::trim).collect();
    if let Some(stray) = words.iter().find(|word| !all.iter().any(|rung| rung.is_meant_by(word))) {
        let names: Vec<String> = all.iter().map(Rung::name).collect();
        return Err(Error::Usage {
            flag: format!("--only {only}"),
            problem: format!("there is no rung '{stray}'"),
            cure: format!("name technologies or rungs: {}", names.join(", ")),
        });
    }
    let chosen = all.into_iter().filter(|rung| words.iter().any(|word| rung.is_meant_by(word)));
    Ok(chosen.collect())
}

fn plan(flags: &SelftestFlags, scratch: &Scratch) -> std::result::Result<Plan, Error> {
    if flags.kernel.is_none() && flags.initrd.is_some() {
        return Err(Error::Usage {
            flag: "--initrd".into(),
            problem: "the built-in guest has no use for it".into(),
            cure: "name its --kernel as well".into(),
        });
    }
    // What cannot be read is told now, and not once for every rung.
    for (what, path) in [("kernel", &flags.kernel), ("initrd", &flags.initrd)] {
        if let Some(path) = path {
            read_file(what, path)?;
        }
    }
    Ok(Plan {
        kernel: flags.kernel.clone(),
        initrd: flags.initrd.clone(),
        cmdline: flags.cmdline.clone(),
        memory: flags.memory.clone(),
        timeout: flags.timeout,
        builtin_kernel: scratch.file("selftest-guest.elf", &guest::elf())?,
        builtin_shim: scratch.file("selftest-guest.bin", guest::code())?,
        emulate: flags.emulate.clone(),
    })
}

/// Asks `cvmm check`, then runs one rung after the other.
fn climb(
    plan: &Plan,
    rungs: &[Rung],
    runner: &Runner,
    scratch: &Scratch,
    with_console: bool,
    archive: &mut Archive,
) -> std::result::Result<std::result::Result<Vec<Result>, Stopped>, Error> {
    let mut results = Vec::new();
    let mut ready: Vec<(&str, Readiness)> = Vec::new();
    for technology in TECHNOLOGIES {
        if !rungs.iter().any(|rung| rung.technology == technology) {
            continue;
        }
        let ended = match runner.run(scratch, &check_words(plan, technology), plan.timeout)? {
            Ok(ended) => ended,
            Err(stopped) => return Ok(Err(stopped)),
        };
        ready.push((technology, readiness(technology, &ended)));
        archive.add(format!("check-{technology}.json"), ended.stdout);
    }
    for (at, rung) in rungs.iter().enumerate() {
        let name = rung.name();
        let known = ready.iter().find(|(technology, _)| *technology == rung.technology);
        let obstacle = known.and_then(|(_, readiness)| readiness.obstacle(rung));
        let obstacle = obstacle.or_else(|| rung.unsuitable(plan).map(str::to_owned));
        if let Some(reason) = obstacle {
            crate::say(&format!("[{}/{}] {name}: skipped\n", at + 1, rungs.len()));
            results.push(Result::skipped(name, reason));
            continue;
        }
        crate::say(&format!("[{}/{}] {name} …\n", at + 1, rungs.len()));
        let files =
            ["report.json", "console.txt"].map(|what| rung::file(scratch.path(), rung, what));
        let [report, console] = &files;
        let words = rung.run_flags(plan, report, console);
        let ended = match runner.run(scratch, &words, plan.timeout + SLACK)? {
            Ok(ended) => ended,
            Err(stopped) => return Ok(Err(stopped)),
        };
        let predicted = match rung.is_protected() {
            true => match predict(plan, rung, runner, scratch)? {
                Ok(digest) => digest,
                Err(stopped) => return Ok(Err(stopped)),
            },
            false => None,
        };
        archive.add_file(format!("{name}/report.json"), report);
        archive.add(format!("{name}/stderr.txt"), ended.stderr.as_bytes());
        archive.add(format!("{name}/command.txt"), command_line(&words));
        if with_console {
            archive.add_file(format!("{name}/console.txt"), console);
        }
        let left =
            Left { ended, report: read_json(report), console: read_text(console), predicted };
        let result = judge(plan, rung, &left, &words);
        if let (Outcome::Failed, Some(reason)) = (result.outcome, &result.reason) {
            crate::say(&format!("      failed: {reason}\n"));
        }
        results.push(result);
    }
    Ok(Ok(results))
}

/// A child keeps its own time; this is for one that does not.
const SLACK: Duration = Duration::from_secs(60);

fn check_words(plan: &Plan, technology: &str) -> Vec<OsString> {
    let mut words = vec!["check".into(), format!("--{technology}").into(), "--json".into()];
    words.extend(plan.profile(technology).map(|profile| format!("--emulate={profile}").into()));
    words
}

/// The launch digest by `cvmm measure`.
fn predict(
    plan: &Plan,
    rung: &Rung,
    runner: &Runner,
    scratch: &Scratch,
) -> std::result::Result<std::result::Result<Option<String>, Stopped>, Error> {
    let words = [vec!["measure".into()], rung.guest_flags(plan)].concat();
    Ok(runner.run(scratch, &words, plan.timeout)?.map(|ended| {
        let text = String::from_utf8_lossy(&ended.stdout);
        text.lines().next().map(str::to_owned).filter(|_| ended.code == Some(0))
    }))
}

impl Readiness {
    fn obstacle(&self, rung: &Rung) -> Option<String> {
        self.missing.clone().or_else(|| self.interpreted.clone().filter(|_| rung.needs_hardware()))
    }
}

fn readiness(technology: &str, ended: &Ended) -> Readiness {
    let Ok(report) = serde_json::from_slice::<Value>(&ended.stdout) else {
        let line = ended.stderr.lines().find(|line| line.starts_with("error: "));
        let missing = Some(format!("cvmm check failed: {}", line.unwrap_or("no output")));
        return Readiness { missing, interpreted: None };
    };
    let empty = Vec::new();
    let groups = report["groups"].as_array().unwrap_or(&empty).iter();
    let findings: Vec<&Value> =
        groups.flat_map(|group| group["findings"].as_array().unwrap_or(&empty)).collect();
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap_or("").to_owned();
    let roots = findings.iter().filter(|f| f["verdict"] == "missing" && f["follows"].is_null());
    let roots: Vec<String> =
        roots.map(|f| format!("{}: {}", text(f, "subject"), text(f, "found"))).collect();
    let missing = (report["ready"] != true).then(|| match roots.is_empty() {
        true => format!("cvmm check --{technology} says that it is not ready"),
        false => roots.join("; "),
    });
    let backend = findings.iter().find(|f| f["subject"] == "virtualisation");
    let interpreted = backend.filter(|f| f["verdict"] == "advice").map(|f| text(f, "found"));
    Readiness { missing, interpreted }
}

impl Result {
    fn skipped(name: String, reason: String) -> Result {
        Result {
            name,
            outcome: Outcome::Skipped,
            reason: Some(reason),
            command: Vec::new(),
            exit_code: None,
            seconds: None,
            digest: None,
            code: ExitCode::Ok,
        }
    }
}

/// What a rung left behind, and what it should have.
struct Left {
    ended: Ended,
    report: Option<Value>,
    console: String,
    /// The launch digest by `cvmm measure`.
    predicted: Option<String>,
}

impl Left {
    fn digest(&self) -> Option<&str> {
        self.report.as_ref()?["digest"].as_str()
    }
}

fn read_json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn read_text(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

fn judge(plan: &Plan, rung: &Rung, left: &Left, words: &[OsString]) -> Result {
    let (outcome, code, reason) = match failure(plan, rung, left) {
        None => (Outcome::Passed, ExitCode::Ok, None),
        Some((code, reason)) => (Outcome::Failed, code, Some(reason)),
    };
    Result {
        name: rung.name(),
        outcome,
        reason,
        command: words.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
        exit_code: left.ended.code,
        seconds: Some(left.ended.took.as_millis() as f64 / 1e3),
        digest: left.digest().map(str::to_owned),
        code,
    }
}

/// Why a rung has failed, and the exit code for it.
fn failure(plan: &Plan, rung: &Rung, left: &Left) -> Option<(ExitCode, String)> {
    let Left { ended, console, predicted, .. } = left;
    if ended.code != Some(0) {
        let code =
            ExitCode::ALL.into_iter().find(|code| ended.code == Some(i32::from(*code as u8)));
        return Some((code.unwrap_or(ExitCode::Internal), ended.complaint()));
    }
    if left.report.is_none() {
        return Some((ExitCode::Internal, "there is no report".into()));
    }
    if rung.is_builtin(plan) && console != guest::TEXT {
        return Some((ExitCode::Crash, "the built-in guest did not say its line".into()));
    }
    let mismatch = |what: &str, is: &str| {
        let predicted = predicted.as_deref().unwrap_or("nothing");
        (ExitCode::Measurement, format!("{what} {is}, but cvmm measure predicts {predicted}"))
    };
    let digest = left.digest();
    if rung.is_protected() && (digest.is_none() || digest != predicted.as_deref()) {
        return Some(mismatch("the launch digest is", digest.unwrap_or("not there")));
    }
    if rung.kind != Kind::Attest {
        return None;
    }
    match evidence::digest(rung.technology, console, rung::REPORT_DATA) {
        Ok(attested) if Some(&attested) == predicted.as_ref() => None,
        Ok(attested) => Some(mismatch("the guest attests", &attested)),
        Err(why) => Some((ExitCode::Crash, why.into())),
    }
}

/// The code of the first rung that failed; where nothing ran at all, that the host lacks something.
fn exit_code(results: &[Result]) -> ExitCode {
    match results.iter().find(|result| result.outcome == Outcome::Failed) {
        Some(failed) => failed.code,
        None if results.iter().all(|result| result.outcome == Outcome::Skipped) => ExitCode::Host,
        None => ExitCode::Ok,
    }
}

/// `selftest.json`: everything in one.
fn summary(plan: &Plan, results: &[Result]) -> std::result::Result<String, Error> {
    let hash = |path: &Option<PathBuf>| {
        path.as_ref().map(|path| {
            let bytes = std::fs::read(path).unwrap_or_default();
            serde_json::json!({
                "path": path.display().to_string(),
                "bytes": bytes.len(),
                "sha256": hex(&Sha256::digest(&bytes)),
            })
        })
    };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    crate::json(&serde_json::json!({
        "schema": SCHEMA,
        "cvmm_version": env!("CARGO_PKG_VERSION"),
        "host_kernel": release.trim(),
        "emulated": plan.emulate.is_some(),
        "kernel": hash(&plan.kernel),
        "initrd": hash(&plan.initrd),
        "rungs": results,
    }))
}

/// A command line as a shell would take it.
fn command_line(words: &[OsString]) -> String {
    let quoted = words.iter().map(|word| {
        let word = word.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,".contains(c);
        match !word.is_empty() && word.chars().all(plain) {
            true => word.into_owned(),
            false => format!("'{}'", word.replace('\'', r"'\''")),
        }
    });
    format!("cvmm {}\n", quoted.collect::<Vec<_>>().join(" "))
}

fn table(results: &[Result], out: &Path) -> String {
    let width = results.iter().map(|result| result.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Result { name, outcome, reason, seconds, digest, .. } in results {
        let seconds = seconds.map_or(String::new(), |s| format!("{s:.1} s"));
        let rest = reason.as_deref().or(digest.as_deref()).unwrap_or("");
        let line = format!("{name:width$}  {:7}  {seconds:>8}  {rest}", outcome.name());
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let count = |wanted| results.iter().filter(|result| result.outcome == wanted).count();
    text.push_str(&format!(
        "selftest: {} passed, {} failed, {} skipped; all of it is in {}\n",
        count(Outcome::Passed),
        count(Outcome::Failed),
        count(Outcome::Skipped),
        out.display()
    ));
    text
}
