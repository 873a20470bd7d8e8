//! `softkvm`: runs a KVM monitor on the software machine.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use softkvm::kvm::profile::{self, Part, Profile};
use softkvm::qgs::{self, Collateral, Quoter};
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
    #[command(after_help = VARIABLES)]
    Run(Run),
    /// Show the profiles: what is modelled and what its operations cost.
    Info {
        /// Profile name or file; all built-in ones if not given. Behind the name: ':low' or ':high' for costs at that end of
        /// their ranges, ':2m' for guest memory descriptors with large folios.
        #[arg(long)]
        profile: Option<String>,
    },
    /// Write the certificates that vouch for the modelled part's attestation reports.
    Certs {
        /// Directory to write ark.pem, ask.pem and vcek.pem to; with --tdx, what verifiers of quotes need.
        #[arg(long)]
        out: PathBuf,
        /// Write what vouches for the quotes of 'softkvm qgs': root.pem, pck_ca.pem, pck.pem, tcb_signing.pem, root_ca.crl,
        /// pck.crl, tcb_info.json, qe_identity.json, and collateral.json with all of it for dcap-qvl.
        #[arg(long, conflicts_with = "profile")]
        tdx: bool,
        /// Profile name or file.
        #[arg(long, default_value = profile::DEFAULT)]
        profile: String,
        /// Seed of the part's keys.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Turn TDREPORTs into quotes, as Intel's quote generation service does, with published test keys.
    ///
    /// Listens on a socket until SIGINT, SIGTERM or SIGHUP, then removes it. Speaks the protocol of Intel's QGS: one request a
    /// connection, a message after its size, or a bare TDREPORT; collateral is refused. Only reports made by softkvm are quoted.
    ///
    /// A quote verifies under the root that 'softkvm certs --tdx' writes, and under no other. The root's key is public: such a
    /// quote proves that software handles quotes well, and nothing about a guest.
    #[command(after_help = QGS_EXAMPLE)]
    Qgs {
        /// Socket to listen on; one that nobody listens on is replaced.
        #[arg(long)]
        socket: PathBuf,
        /// Seed of the platform's keys; the same as for 'softkvm certs --tdx'.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
}

const VARIABLES: &str = "\
Environment, for tests of monitors and guests:
  SOFTKVM_FAIL     calls that fail: CALL#N=ERRNO[,fw=STATUS][,pages=K];...
                   for example KVM_CREATE_VCPU#1=ENOMEM;KVM_SEV_SNP_LAUNCH_UPDATE#2=EIO,fw=0x16
                   (N from 1, or * for every call; --stats tells under 'calls' which calls a monitor makes)
  SOFTKVM_HOSTILE  what a cheating host does to the guest, for example flip=0x1000@2;psc-refuse=1
  SOFTKVM_PSP      several monitors at one modelled security processor: FILE;of=N, the same for all of them
  SOFTKVM_SYMBOLS  System.map of the guest's kernel: the VM's statistics (KVM_GET_STATS_FD) then tell when it
                   came to start_kernel, smp_init, run_init_process and others

They are documented in full in the crate's modules kvm::failures, kvm::hostile, kvm::psp_queue and
kvm::symbols.";

const QGS_EXAMPLE: &str = "\
Example:
  softkvm certs --tdx --out collateral
  softkvm qgs --socket /tmp/qgs.socket &
  # have a monitor's GetQuote answered by that socket, then verify the quote with
  # collateral/root.pem as the only root and collateral/collateral.json";

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
    /// Take the C-bit that CPUID shows on this machine's own processor for the modelled one.
    ///
    /// For monitors that execute CPUID where they should ask KVM, as QEMU does to check its 'cbitpos': give them what CPUID says
    /// here, bits 5:0 of EBX of function 0x8000001f, and the guest finds the C-bit of the profile.
    #[arg(long)]
    host_c_bit: bool,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().action {
        Action::Run(run) => start(run),
        Action::Info { profile } => info(profile.as_deref()),
        Action::Certs { out, tdx: true, seed, .. } => collateral(&out, seed),
        Action::Certs { out, profile, seed, tdx: false } => certs(&out, &profile, seed),
        Action::Qgs { socket, seed } => quote(&socket, seed),
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
    if run.host_c_bit {
        command.env("SOFTKVM_HOST_C_BIT", "1");
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
            let range = value.range.map(|[low, high]| format!(" ({low} to {high})"));
            println!(
                "  {cost:14} {:>12} ns{}  [{}] {}",
                value.ns,
                range.unwrap_or_default(),
                value.confidence,
                value.source
            );
        }
        let guessed = profile.placeholders();
        if !guessed.is_empty() {
            println!("  nobody has published: {}", guessed.join(", "));
        }
    }
    Ok(())
}

fn certs(out: &Path, name: &str, seed: u64) -> Result<()> {
    let Part::Amd(platform) = Profile::load(name)?.part(seed)? else {
        bail!("{name} has no security processor that signs attestation reports");
    };
    let platform = *platform;
    let psp = Psp::new(platform.clone());
    let chain = Chain::issue(&platform, psp.keys())?;
    let pem = chain.pem().map(String::into_bytes);
    write(out, ["ark.pem", "ask.pem", "vcek.pem"].into_iter().zip(pem))
}

fn collateral(out: &Path, seed: u64) -> Result<()> {
    write(out, Collateral::of(&Quoter::new(seed)?)?.files()?)
}

fn write(out: &Path, files: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    for (file, bytes) in files {
        let path = out.join(file);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn quote(socket: &Path, seed: u64) -> Result<()> {
    let signals = qgs::signals::EndSignals::block().context("cannot block signals")?;
    let server = qgs::Server::start(socket, Arc::new(Quoter::new(seed)?))?;
    eprintln!("softkvm: quoting on {} with test keys that protect nothing", socket.display());
    signals.wait().context("cannot wait for signals")?;
    drop(server);
    Ok(())
}
