//! `cargo xtask test`: every check of the project, stage by stage.

use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::run::{capture, cargo, have, root, run, target};
use crate::{chromium, images, initramfs, kernel, oracle, ovmf};

/// Which stages to run.
#[derive(clap::Args)]
pub struct Args {
    /// Only these stages (all when none is named).
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(STAGES.iter().map(|s| s.name)))]
    stages: Vec<String>,
}

struct Stage {
    name: &'static str,
    what: &'static str,
    run: fn() -> Result<()>,
}

const STAGES: [Stage; 7] = [
    Stage { name: "format", what: "rustfmt", run: format },
    Stage { name: "lint", what: "clippy without warnings", run: lint },
    Stage { name: "docs", what: "documentation without warnings", run: docs },
    Stage { name: "deny", what: "licences and sources of dependencies", run: deny },
    Stage { name: "unit", what: "tests of every crate", run: unit },
    Stage { name: "boot", what: "end to end on Debian's kernels", run: boot },
    Stage { name: "fuzz", what: "a minute for each fuzz target", run: fuzz },
];

/// The packages that are built for themselves, outside the workspace.
const FREESTANDING: [&str; 2] = ["firmware", "tools/guest-init"];

/// Runs the stages in order and stops at the first that fails.
pub fn test(args: &Args) -> Result<()> {
    let begin = Instant::now();
    for stage in &STAGES {
        if !args.stages.is_empty() && !args.stages.iter().any(|name| name == stage.name) {
            continue;
        }
        eprintln!("==> {}: {}", stage.name, stage.what);
        let start = Instant::now();
        (stage.run)().with_context(|| format!("stage {} failed", stage.name))?;
        eprintln!("<== {}: ok, {} s\n", stage.name, start.elapsed().as_secs());
    }
    eprintln!("everything passed in {} s", begin.elapsed().as_secs());
    Ok(())
}

fn format() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    for package in FREESTANDING {
        run(cargo().args(["fmt", "--check"]).current_dir(root().join(package)))?;
    }
    Ok(())
}

fn lint() -> Result<()> {
    run(cargo()
        .args(["clippy", "--release", "--workspace", "--all-targets", "--quiet"])
        .args(["--", "-D", "warnings"]))?;
    for package in FREESTANDING {
        run(cargo()
            .args(["clippy", "--release", "--quiet", "--", "-D", "warnings"])
            .current_dir(root().join(package))
            .env("CARGO_TARGET_DIR", target().join("lint").join(package)))?;
    }
    Ok(())
}

fn docs() -> Result<()> {
    run(cargo()
        .args(["doc", "--release", "--workspace", "--no-deps", "--document-private-items"])
        .arg("--quiet")
        .env("RUSTDOCFLAGS", "-D warnings"))
}

fn deny() -> Result<()> {
    if !have("cargo-deny") && capture(cargo().args(["deny", "--version"])).is_err() {
        eprintln!("installing cargo-deny (some minutes, once)");
        let to = target().join("tools");
        // A debug build runs as well here and is made in half the time.
        run(cargo()
            .args(["install", "cargo-deny", "--debug", "--locked", "--quiet", "--root"])
            .arg(&to))?;
        return run(std::process::Command::new(to.join("bin/cargo-deny"))
            .current_dir(root())
            .args(["check", "bans", "licenses", "sources"]));
    }
    run(cargo().args(["deny", "check", "bans", "licenses", "sources"]))
}

fn unit() -> Result<()> {
    images::tools()?;
    run(cargo()
        .args(["test", "--release", "--no-fail-fast", "--workspace"])
        .args(["--exclude", "cvmm-tests"]))?;
    run(cargo()
        .args(["test", "--release"])
        .current_dir(root().join("firmware"))
        .env("CARGO_TARGET_DIR", target().join("firmware-test")))?;
    // The program is freestanding; its library is not.
    run(cargo()
        .args(["test", "--release", "--lib"])
        .current_dir(root().join("tools/guest-init"))
        .env("CARGO_TARGET_DIR", target().join("guest-init-test")))
}

fn boot() -> Result<()> {
    let tools = images::tools()?;
    let mut command = cargo();
    command.args(["test", "--release", "--no-fail-fast", "-p", "cvmm-tests", "--", "--nocapture"]);
    command.env("CVMM_BIN", tools.join("cvmm"));
    command.env("SOFTKVM_BIN", tools.join("softkvm"));
    command.env("CVMM_PYTHON", oracle::python()?);
    command.env("CVMM_CHROMIUM", chromium::program()?);
    command.envs(ovmf::fetch()?);
    for name in ["6.12", "7.2"] {
        let kernel = kernel::fetch(name)?;
        let initramfs = initramfs::build(&kernel)?;
        let key = name.replace('.', "_");
        command.env(format!("CVMM_KERNEL_{key}"), &kernel.bzimage);
        command.env(format!("CVMM_VMLINUX_{key}"), &kernel.vmlinux);
        command.env(format!("CVMM_INITRAMFS_{key}"), initramfs);
    }
    for name in ["tiny", "micro"].into_iter().filter(|name| kernel::is_there(name)) {
        let kernel = kernel::fetch(name)?;
        command.env(format!("CVMM_KERNEL_{name}"), &kernel.bzimage);
        command.env(format!("CVMM_VMLINUX_{name}"), &kernel.vmlinux);
        command.env(format!("CVMM_INITRAMFS_{name}"), initramfs::build(&kernel)?);
        let symbols = kernel.symbols.iter();
        command.envs(symbols.map(|path| (format!("CVMM_SYMBOLS_{name}"), path)));
    }
    run(&mut command)
}

fn fuzz() -> Result<()> {
    let seconds = std::env::var("CVMM_FUZZ_SECONDS").unwrap_or_else(|_| "60".to_owned());
    let dir = target().join("fuzz");
    run(cargo()
        .args(["build", "--release", "--quiet", "-p", "fuzz"])
        .env("CARGO_TARGET_DIR", &dir)
        .env("RUSTFLAGS", "-C instrument-coverage --cfg fuzz_coverage"))?;
    let driver = || {
        let mut command = std::process::Command::new(dir.join("release/fuzz"));
        // The profile runtime would write its own report at exit.
        command.current_dir(root()).env("LLVM_PROFILE_FILE", "/dev/null");
        command
    };
    let listed = String::from_utf8(capture(driver().arg("list"))?)?;
    if listed.is_empty() {
        bail!("no fuzz targets");
    }
    // Each target keeps one processor busy.
    let lanes = std::thread::available_parallelism().map_or(1, usize::from);
    let names: Vec<&str> = listed.lines().collect();
    for batch in names.chunks(lanes) {
        let start = |name: &&str| driver().args(["run", name, "--seconds", &seconds]).spawn();
        let running: Vec<_> = batch.iter().map(start).collect();
        // Every one is waited for before the first failure counts.
        let ended: Vec<_> = running.into_iter().map(|child| child?.wait()).collect();
        for (name, status) in batch.iter().zip(ended) {
            let status = status.with_context(|| format!("fuzz target {name}"))?;
            if !status.success() {
                bail!("fuzz target {name}: {status}");
            }
        }
    }
    Ok(())
}
