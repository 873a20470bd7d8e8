//! `cargo xtask report`: one kernel as an SEV-SNP, a TDX and a plain guest, and a page that compares the three.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::{root, run, target};
use crate::{chromium, images, initramfs, kernel};

/// What to boot.
#[derive(clap::Args)]
pub struct Args {
    /// Which kernel: 6.12, 7.2, tiny, micro or distro-like.
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// Virtual processors.
    #[arg(short = 'j', long, default_value_t = 2)]
    cpus: u32,
    /// Guest memory.
    #[arg(short, long, default_value = "512M")]
    memory: String,
    /// Where page and reports go [default: target/report].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Make the picture in docs/ anew as well.
    #[arg(long)]
    picture: bool,
}

const TECHNOLOGIES: [&str; 3] = ["snp", "tdx", "plain"];

/// How much of the page the picture shows.
const PICTURE: (u32, u32) = (1240, 1480);

/// Boots, and makes the page.
pub fn report(args: &Args) -> Result<()> {
    eprintln!("[1/5] building cvmm and softkvm (release mode, a few minutes the first time)");
    let tools = images::tools()?;
    let kernel = kernel::fetch(&args.kernel)?;
    let initramfs = initramfs::build(&kernel)?;
    let out = args.out.clone().unwrap_or_else(|| target().join("report"));
    fs::create_dir_all(&out)?;
    let mut reports = Vec::new();
    for (at, technology) in TECHNOLOGIES.iter().enumerate() {
        eprintln!("[{}/5] booting Linux {} as a {technology} guest", at + 2, args.kernel);
        let report = out.join(format!("{technology}.json"));
        let status = Command::new(tools.join("cvmm"))
            .args([&format!("--{technology}"), "--emulate", "--console", "none"])
            .args(["--timeout", "300", "--cpus", &args.cpus.to_string()])
            .args(["--memory", &args.memory])
            // The page shows what was typed: the same everywhere.
            .current_dir(root())
            .arg("--kernel")
            .arg(kernel.bzimage.strip_prefix(root()).unwrap_or(&kernel.bzimage))
            .arg("--initrd")
            .arg(initramfs.strip_prefix(root()).unwrap_or(&initramfs))
            .arg("--report")
            .arg(&report)
            .status()
            .context("cannot start cvmm")?;
        if !status.success() {
            bail!(
                "the {technology} guest did not end well: cvmm said {status} (see the lines above)"
            );
        }
        reports.push(report);
    }
    eprintln!("[5/5] making the page");
    let page = out.join("index.html");
    run(Command::new(tools.join("cvmm")).arg("report").args(&reports).arg("--html").arg(&page))?;
    if args.picture {
        let picture = root().join("docs/report.png");
        chromium::photograph(&page, PICTURE, &picture)?;
        eprintln!("the picture is {}", picture.display());
    }
    eprintln!("\nOpen this in a browser:");
    println!("{}", page.display());
    Ok(())
}
