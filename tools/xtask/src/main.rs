//! What the commands of the README run: demo, report, test, interop, kernels, images.

mod apt;
mod check;
mod chromium;
mod cpio;
mod demo;
mod fast_boot;
mod images;
mod initramfs;
mod interop;
mod kernel;
mod nested;
mod oracle;
mod ovmf;
mod report;
mod run;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Project chores of cvmm. Everything is kept under `target/`.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot the newest Debian 6.12 cloud kernel as an SEV-SNP guest (or a TDX one) on the software machine.
    Demo(demo::Args),
    /// Boot one kernel as an SEV-SNP, a TDX and a plain guest, and make a page that compares the three.
    Report(report::Args),
    /// Boot the small kernels with every option of a boot, and write the tables of docs/fast-boot.md.
    FastBoot(fast_boot::Args),
    /// Run every check and test of the project.
    Test(check::Args),
    /// Run the same guests on mainline kvm_amd (under QEMU) and on softkvm, and compare what they do (30 minutes at most).
    Nested(nested::Args),
    /// Run other people's monitors and test programs on softkvm, unchanged.
    Interop(interop::Args),
    /// Fetch (or build) a kernel and print where it is: 6.1, 6.12, 7.2, tiny, micro or distro-like.
    Kernel {
        /// 6.1, 6.12, 7.2 (Debian cloud kernels); tiny, micro, distro-like (built from Debian's source), which pack by LZ4
        /// unless -zstd, -gzip or -none stands behind: `tiny-none`.
        name: String,
    },
    /// Find out which options of a kernel's configuration its boot time comes from.
    KernelBisect(kernel::bisect::Args),
    /// Write the test initramfs for a kernel and print where it is.
    Initramfs {
        /// The kernel whose attestation modules go in.
        #[arg(default_value = "6.12")]
        kernel: String,
    },
    /// Fetch Debian's builds of OVMF and its EFI shim, and print where they are.
    Ovmf,
    /// Extract the ELF vmlinux out of a bzImage.
    Vmlinux {
        /// The compressed image.
        bzimage: PathBuf,
        /// Where the ELF file goes.
        out: PathBuf,
    },
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Demo(args) => demo::demo(&args),
        Command::Report(args) => report::report(&args),
        Command::FastBoot(args) => fast_boot::fast_boot(&args),
        Command::Test(args) => check::test(&args),
        Command::Nested(args) => nested::nested(&args),
        Command::Interop(args) => interop::interop(&args),
        Command::Kernel { name } => {
            let kernel = kernel::fetch(&name)?;
            println!("{}", kernel.bzimage.display());
            println!("{}", kernel.vmlinux.display());
            kernel.symbols.iter().for_each(|path| println!("{}", path.display()));
            Ok(())
        }
        Command::KernelBisect(args) => kernel::bisect::bisect(&args),
        Command::Initramfs { kernel } => {
            println!("{}", initramfs::build(&kernel::fetch(&kernel)?)?.display());
            Ok(())
        }
        Command::Ovmf => {
            ovmf::fetch()?.iter().for_each(|(_, file)| println!("{}", file.display()));
            Ok(())
        }
        Command::Vmlinux { bzimage, out } => kernel::extract_vmlinux(&bzimage, &out),
    }
}
