//! `softkvm`: runs a KVM monitor on the software machine.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use softkvm::kvm::profile::{self, Part, Profile};
use softkvm::snp::Psp;
use softkvm::snp::certs::Chain;

/// A /dev/kvm in user space whose software x86-64 processor has SEV-SNP or TDX.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run a command whose /dev/kvm and /dev/sev are softkvm's.
    Run(Run),
    /// Show the profiles: what is modelled and what its operations cost.
    Info {
        /// Profile name or file; all built-in ones if not given.
        #[arg(long)]
        profile: Option<String>,
    },
    /// Write the certificates that vouch for the modelled part's attestation reports.
    Certs {
        /// Directory to write ark.pem, ask.pem and vcek.pem to.
        #[arg(long)]
        out: PathBuf,
        /// Profile name or file.
        #[arg(long, default_value = profile::DEFAULT)]
        profile: String,
        /// Seed of the part's keys.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
}

#[derive(clap::Args)]
struct Run {
    /// Profile name or file.
    #[arg(long)]
    profile: Option<String>,
    /// Let the guest's time follow the host's clock.
    #[arg(long)]
    realtime: bool,
    /// Write statistics to this file when the command ends.
    #[arg(long)]
    stats: Option<PathBuf>,
    /// Seed of keys and random numbers.
    #[arg(long)]
    seed: Option<u64>,
    /// Execute one instruction at a time by the reference engine (slow).
    #[arg(long)]
    reference: bool,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().action {
        Action::Run(run) => start(run),
        Action::Info { profile } => info(profile.as_deref()),
        Action::Certs { out, profile, seed } => certs(&out, &profile, seed),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("softkvm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The preload library: beside this program, or where `SOFTKVM_PRELOAD` says.
fn library() -> Result<PathBuf> {
    const NAME: &str = "libsoftkvm_preload.so";
    if let Some(path) = std::env::var_os("SOFTKVM_PRELOAD") {
        return Ok(path.into());
    }
    let program = std::env::current_exe().context("cannot find this program's own path")?;
    let beside = program.parent().map(|dir| [dir.join(NAME), dir.join("../lib").join(NAME)]);
    match beside.into_iter().flatten().find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("{NAME} is not beside {}; set SOFTKVM_PRELOAD", program.display()),
    }
}

fn start(run: Run) -> Result<()> {
    if let Some(name) = &run.profile {
        Profile::load(name)?;
    }
    let mut preload = library()?.into_os_string();
    if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        preload.push(":");
        preload.push(others);
    }
    let mut command = Command::new(&run.command[0]);
    command.args(&run.command[1..]).env("LD_PRELOAD", preload);
    if let Some(profile) = &run.profile {
        command.env("SOFTKVM_PROFILE", profile);
    }
    if run.realtime {
        command.env("SOFTKVM_REALTIME", "1");
    }
    if run.reference {
        command.env("SOFTKVM_REFERENCE", "1");
    }
    if let Some(stats) = &run.stats {
        command.env("SOFTKVM_STATS", std::path::absolute(stats)?);
    }
    if let Some(seed) = run.seed {
        command.env("SOFTKVM_SEED", seed.to_string());
    }
    Err(command.exec()).with_context(|| format!("cannot run {:?}", run.command[0]))
}

fn info(name: Option<&str>) -> Result<()> {
    let names: Vec<&str> = match name {
        Some(name) => vec![name],
        None => profile::built_in(),
    };
    for name in names {
        let profile = Profile::load(name)?;
        println!("{}: {}", profile.name, profile.brand);
        match profile.part(0)? {
            Part::Amd(platform) => println!(
                "  SEV-SNP: family {:#x} model {:#x} stepping {}, C-bit {}, TSC {} kHz, firmware {}.{}",
                platform.family,
                platform.model,
                platform.stepping,
                platform.c_bit,
                profile.tsc_khz,
                platform.api.0,
                platform.api.1
            ),
            Part::Intel(xeon) => println!(
                "  TDX: family {:#x} model {:#x} stepping {}, TSC {} kHz, module {}, {} TDs, {} vCPUs each",
                xeon.tdx.family,
                xeon.tdx.model,
                xeon.tdx.stepping,
                profile.tsc_khz,
                xeon.tdx.module.name,
                xeon.tdx.hkids,
                xeon.cpus.min(xeon.tdx.max_vcpus_per_td)
            ),
        }
        for (cost, value) in &profile.costs {
            println!("  {cost:14} {:>12} ns  [{}] {}", value.ns, value.confidence, value.source);
        }
        let guessed = profile.placeholders();
        if !guessed.is_empty() {
            println!("  nobody has published: {}", guessed.join(", "));
        }
    }
    Ok(())
}

fn certs(out: &std::path::Path, name: &str, seed: u64) -> Result<()> {
    let Part::Amd(platform) = Profile::load(name)?.part(seed)? else {
        bail!("{name} has no security processor that signs attestation reports");
    };
    let platform = *platform;
    let psp = Psp::new(platform.clone());
    let chain = Chain::issue(&platform, psp.keys())?;
    std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    for (file, text) in ["ark.pem", "ask.pem", "vcek.pem"].iter().zip(chain.pem()) {
        let path = out.join(file);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
