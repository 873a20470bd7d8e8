//! `cargo xtask demo`: a stock kernel as a confidential guest, on any Linux machine.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{images, initramfs, kernel, run};

/// What to show.
#[derive(clap::Args)]
pub struct Args {
    /// Which kernel: 6.1, 6.12, 7.2, tiny, micro or distro-like.
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// As an Intel TDX guest instead of an AMD SEV-SNP one.
    #[arg(long, conflicts_with = "plain")]
    tdx: bool,
    /// Without memory encryption, for comparison.
    #[arg(long)]
    plain: bool,
    /// Virtual processors.
    #[arg(short = 'j', long, default_value_t = 2)]
    cpus: u32,
    /// Guest memory.
    #[arg(short, long, default_value = "512M")]
    memory: String,
}

/// 64 bytes that the guest puts into its attestation report.
const REPORT_DATA: &[u8; 64] = b"cvmm demo: this sentence is inside the signed report  0123456789";

/// Fetches what is missing, says what is going to happen, and boots.
pub fn demo(args: &Args) -> Result<()> {
    eprintln!("[1/4] building cvmm and softkvm (release mode, a few minutes the first time)");
    let tools = images::tools()?;
    eprintln!("[2/4] fetching Debian's cloud kernel {}", args.kernel);
    let kernel = kernel::fetch(&args.kernel)?;
    eprintln!("[3/4] writing an initramfs with guest-init and the attestation modules");
    let initramfs = initramfs::build(&kernel)?;
    let quoting = if args.tdx { Some(Quoting::start(&tools)?) } else { None };
    let technology = match &quoting {
        Some(quoting) => format!("--tdx=quote=unix:{}", quoting.socket.display()),
        None if args.plain => "--plain".to_owned(),
        None => "--snp".to_owned(),
    };
    let mut command = Command::new(tools.join("cvmm"));
    command
        .args([technology.as_str(), "--emulate"])
        .arg("--kernel")
        .arg(&kernel.bzimage)
        .arg("--initrd")
        .arg(&initramfs)
        .args(["--memory", &args.memory, "--cpus", &args.cpus.to_string()])
        .args(["--timeout", "300"])
        .arg("--cmdline")
        .arg(format!("console=ttyS0 panic=-1 cvmm.report={}", hex(REPORT_DATA)));
    eprintln!("[4/4] booting\n");
    explain(args);
    eprintln!("$ {}\n", render(&command));
    let status = command.status().context("cannot start cvmm")?;
    if !status.success() {
        bail!("the guest did not end well: cvmm said {status} (see the lines above)");
    }
    eprintln!("\nThe same kernel otherwise: cargo xtask demo, with --tdx or with --plain");
    Ok(())
}

/// softkvm's quoting service, which turns a TD's report into a quote; it ends with this value.
struct Quoting {
    service: Child,
    socket: PathBuf,
}

impl Quoting {
    fn start(tools: &Path) -> Result<Self> {
        let socket = run::target().join("demo-qgs.socket");
        let service = Command::new(tools.join("softkvm"))
            .args(["qgs", "--socket"])
            .arg(&socket)
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start softkvm's quoting service")?;
        let mut quoting = Self { service, socket };
        let start = Instant::now();
        while !quoting.socket.exists() {
            if let Some(status) = quoting.service.try_wait()? {
                bail!("softkvm's quoting service ended at once: {status}");
            }
            if start.elapsed() > Duration::from_secs(10) {
                bail!("softkvm's quoting service makes no socket");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(quoting)
    }
}

impl Drop for Quoting {
    fn drop(&mut self) {
        let _ = self.service.kill();
        let _ = self.service.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn explain(args: &Args) {
    if args.plain {
        eprintln!("An unmodified Debian kernel boots as an ordinary guest of softkvm.");
        return;
    }
    if args.tdx {
        eprintln!(
            "You are about to see an unmodified Debian kernel boot as an Intel TDX guest, on a\n\
             processor made of software: softkvm answers /dev/kvm, keeps the secure EPT and plays the\n\
             TDX module; its quoting service signs with keys of its own.\n\
             Nothing here is confidential; everything is as it would be, bit by bit.\n\n\
             Watch for three things:\n\
               - 'Memory Encryption Features active: Intel TDX', the kernel's own words;\n\
               - the TDREPORT and the quote that the guest fetched, printed in hex by its /init;\n\
               - cvmm's table at the end: where the time went, which pages changed owner, and MRTD,\n\
                 equal to the one inside the quote."
        );
        return;
    }
    eprintln!(
        "You are about to see an unmodified Debian kernel boot as an AMD SEV-SNP guest, on a\n\
         processor made of software: softkvm answers /dev/kvm and /dev/sev, checks every page\n\
         against a reverse map table, and signs attestation reports with keys of its own.\n\
         Nothing here is confidential; everything is as it would be, bit by bit.\n\n\
         Watch for three things:\n\
           - 'Memory Encryption Features active: AMD SEV SEV-ES SEV-SNP', the kernel's own words;\n\
           - the attestation report that the guest fetched, printed in hex by its /init;\n\
           - cvmm's table at the end: where the time went, which pages changed owner, and the\n\
             launch digest, equal to the measurement inside the report."
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn render(command: &Command) -> String {
    let root = run::root();
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    for word in &mut words {
        if let Ok(relative) = std::path::Path::new(word.as_str()).strip_prefix(&root) {
            *word = relative.to_string_lossy().into_owned();
        }
        if word.contains(' ') {
            *word = format!("'{word}'");
        }
    }
    words.join(" ")
}
