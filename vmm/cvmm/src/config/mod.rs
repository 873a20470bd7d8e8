//! What the user asked for, parsed and typed: constructing a [`Config`] is the validation.

mod accept;
pub mod quantity;
pub mod snp;
pub mod tdx;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::Flags;
use crate::device::marks::Mark;
use crate::digest::LaunchDigest;
use crate::error::Error;
pub use accept::AcceptMode;
pub use quantity::{CpuCount, CpuRange, MemorySize};
use snp::SnpConfig;
use tdx::TdxConfig;

/// The protection of the guest.
#[derive(Clone, Debug)]
pub enum Technology {
    /// None: the baseline every overhead is quoted against.
    Plain,
    /// A confidential guest: AMD SEV-SNP.
    Snp(SnpConfig),
    /// A confidential guest: Intel TDX.
    Tdx(TdxConfig),
}

impl Technology {
    /// The name used in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Technology::Plain => "plain",
            Technology::Snp(_) => "snp",
            Technology::Tdx(_) => "tdx",
        }
    }

    /// Is the guest protected from the host, and so measured?
    pub fn protected(&self) -> bool {
        !matches!(self, Technology::Plain)
    }

    /// Does its configuration let the host read it all the same?
    pub fn debug(&self) -> bool {
        match self {
            Technology::Plain => false,
            Technology::Snp(snp) => snp.policy.debug(),
            Technology::Tdx(tdx) => tdx.debug(),
        }
    }
}

/// How kernel and initrd come under the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LoadMode {
    /// Their hashes are measured; the shim copies and checks them.
    Hashed,
    /// They are launch pages themselves.
    Measured,
}

/// Who unpacks a bzImage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum UnpackMode {
    /// The stub in front of it, which also chooses the kernel's place (KASLR).
    Kernel,
    /// The shim, which puts the kernel where it was linked to.
    Shim,
}

/// Which marks the shim writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum MarksMode {
    /// All of them.
    All,
    /// None: what they cost is the difference. The report then knows no phases of the shim.
    None,
}

/// Which device a guest's console is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ConsoleDevice {
    /// A serial line: output from the first moment on, at one or two exits for each byte.
    Serial,
    /// A virtio console (hvc0): an exit for each piece of text, none before the kernel's drivers are up.
    Virtio,
    /// None.
    None,
}

impl ConsoleDevice {
    /// The name used in reports.
    pub fn name(self) -> &'static str {
        match self {
            ConsoleDevice::Serial => "serial",
            ConsoleDevice::Virtio => "virtio",
            ConsoleDevice::None => "none",
        }
    }

    /// The command line of a guest for which the user gave none: its console there, reboot at once on a panic.
    pub fn default_cmdline(self) -> &'static str {
        match self {
            ConsoleDevice::Serial => DEFAULT_CMDLINE,
            ConsoleDevice::Virtio => "console=hvc0 panic=-1",
            ConsoleDevice::None => "panic=-1",
        }
    }
}

/// Where the guest's console goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Console {
    /// Standard input and output; raw mode if they are a terminal.
    Stdio,
    /// Output into a file.
    File(PathBuf),
    /// Nowhere.
    None,
}

/// What makes a guest: everything that the plan depends on.
#[derive(Clone, Debug)]
pub struct GuestConfig {
    /// Its protection.
    pub technology: Technology,
    /// A firmware image to start in place of the shim.
    pub firmware: Option<PathBuf>,
    /// bzImage or ELF vmlinux; only a firmware can do without.
    pub kernel: Option<PathBuf>,
    /// The initramfs, if any.
    pub initrd: Option<PathBuf>,
    /// The kernel command line, without NUL.
    pub cmdline: String,
    /// How much memory.
    pub memory: MemorySize,
    /// A shim other than the built-in one; with a firmware, the EFI application that starts the kernel.
    pub shim: Option<PathBuf>,
    /// How kernel and initrd are measured.
    pub load: LoadMode,
    /// Who unpacks the kernel.
    pub unpack: UnpackMode,
    /// Who accepts memory.
    pub accept: AcceptMode,
    /// Which marks the shim writes.
    pub marks: MarksMode,
    /// Which device its console is; the ACPI tables name it.
    pub console_device: ConsoleDevice,
}

/// What the user asked for when a guest is to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The guest.
    pub guest: GuestConfig,
    /// How many vCPUs.
    pub cpus: CpuCount,
    /// Its console.
    pub console: Console,
    /// Where the JSON report goes; `None` prints a table.
    pub report: Option<PathBuf>,
    /// The digest the launch must have.
    pub expect: Option<LaunchDigest>,
    /// The mark at which the run ends.
    pub until: Option<Mark>,
    /// How long the guest may run.
    pub timeout: Option<Duration>,
    /// Where the list of launch pages goes.
    pub dump_pages: Option<PathBuf>,
    /// Does the guest wait to be taken from a pool?
    pub hold: bool,
    /// How long KVM polls for a halted vCPU, where the user says.
    pub halt_poll_ns: Option<u32>,
}

/// What the user asked for when the digest is to be computed.
#[derive(Clone, Debug)]
pub struct MeasureConfig {
    /// The guest.
    pub guest: GuestConfig,
    /// The vCPU counts.
    pub cpus: CpuRange,
    /// Machine-readable output.
    pub json: bool,
    /// Where the list of launch pages goes.
    pub dump_pages: Option<PathBuf>,
}

/// The command line of a guest for which the user gave none: console on the serial port, reboot at once on a panic.
pub const DEFAULT_CMDLINE: &str = "console=ttyS0 panic=-1";

impl GuestConfig {
    fn parse(flags: &Flags) -> Result<GuestConfig, Error> {
        let technology = match (&flags.snp, flags.plain, &flags.tdx) {
            (Some(options), false, None) => {
                Technology::Snp(SnpConfig::parse(options.as_deref().unwrap_or(""))?)
            }
            (None, true, None) => Technology::Plain,
            (None, false, Some(options)) => {
                Technology::Tdx(TdxConfig::parse(options.as_deref().unwrap_or(""))?)
            }
            _ => {
                return Err(Error::Usage {
                    flag: "--snp, --tdx, --plain".into(),
                    problem: "exactly one of them chooses the guest's protection".into(),
                    cure: "add --snp or --tdx (confidential), or --plain (not protected)".into(),
                });
            }
        };
        check_combination(flags, &technology)?;
        Ok(GuestConfig {
            technology,
            firmware: flags.firmware.clone(),
            kernel: flags.kernel.clone(),
            initrd: flags.initrd.clone(),
            cmdline: parse_cmdline(flags.cmdline.as_deref(), flags.console_device)?,
            memory: flags.memory,
            shim: flags.shim.clone(),
            load: flags.load,
            unpack: flags.unpack,
            accept: flags.accept,
            marks: flags.marks,
            console_device: flags.console_device,
        })
    }
}

/// What makes no sense with, or without, a firmware.
fn check_combination(flags: &Flags, technology: &Technology) -> Result<(), Error> {
    let usage = |flag: &str, problem: &str, cure: &str| {
        Err(Error::Usage { flag: flag.into(), problem: problem.into(), cure: cure.into() })
    };
    if flags.accept.prefaults() && !technology.protected() {
        return usage(
            "--accept",
            "a plain guest has no private memory that could be prefaulted",
            "leave --accept out, or use --snp or --tdx",
        );
    }
    match technology {
        _ if !flags.accept.is_parallel() => {}
        Technology::Tdx(_) => {}
        Technology::Snp(_) => {
            return usage(
                "--accept",
                "parallel is not for SEV-SNP, whose other processors run nothing before the kernel gives them a state",
                "leave parallel out, or use --tdx",
            );
        }
        Technology::Plain => {
            return usage(
                "--accept",
                "a plain guest has no private memory that could be accepted",
                "leave --accept out, or use --tdx",
            );
        }
    }
    if flags.firmware.is_none() {
        let chosen = matches!(technology, Technology::Snp(snp) if snp.names_signature);
        return match flags.kernel {
            None => usage("--kernel", "no kernel was named", "add --kernel /path/to/bzImage"),
            Some(_) if chosen => usage(
                "--snp=vcpu-sig",
                "only a guest that starts in a firmware has it in a register",
                "add --firmware, or leave vcpu-sig out",
            ),
            Some(_) => Ok(()),
        };
    }
    if flags.load != LoadMode::Hashed {
        return usage("--load", "a firmware loads the kernel in its own way", "leave --load out");
    }
    if flags.unpack != UnpackMode::Kernel {
        let problem = "a firmware starts a kernel that unpacks itself";
        return usage("--unpack", problem, "leave --unpack out");
    }
    if flags.accept != AcceptMode::Eager {
        return usage(
            "--accept",
            "a firmware decides itself what it accepts",
            "leave --accept out",
        );
    }
    if flags.marks != MarksMode::All {
        return usage("--marks", "a firmware writes no marks of the shim's", "leave --marks out");
    }
    if flags.console_device != ConsoleDevice::Serial {
        let problem = "a firmware writes to the serial line";
        return usage("--console-device", problem, "leave --console-device out");
    }
    if flags.kernel.is_none() {
        let needless = [
            ("--initrd", flags.initrd.is_some()),
            ("--cmdline", flags.cmdline.is_some()),
            ("--shim", flags.shim.is_some()),
        ];
        if let Some((flag, _)) = needless.into_iter().find(|(_, given)| *given) {
            return usage(flag, "there is no kernel that it could belong to", "add --kernel");
        }
    }
    Ok(())
}

impl Config {
    /// Reads the flags of a run.
    ///
    /// # Errors
    /// Whatever is missing, contradictory or out of range.
    pub fn parse(flags: &Flags) -> Result<Config, Error> {
        let guest = GuestConfig::parse(flags)?;
        let CpuRange { first, last } = flags.cpus;
        if first != last {
            return Err(Error::Usage {
                flag: "--cpus".into(),
                problem: "a range makes sense for `cvmm measure` only".into(),
                cure: "give one number, for instance --cpus 2".into(),
            });
        }
        let expect = flags.expect.clone();
        if expect.is_some() && !guest.technology.protected() {
            return Err(Error::Usage {
                flag: "--expect".into(),
                problem: "a plain guest is not measured".into(),
                cure: "use --snp or --tdx, or leave --expect out".into(),
            });
        }
        Ok(Config {
            guest,
            cpus: first,
            console: flags.console.clone(),
            report: flags.report.clone(),
            expect,
            until: flags.until,
            timeout: flags.timeout,
            dump_pages: flags.dump_pages.clone(),
            hold: flags.hold,
            halt_poll_ns: flags.halt_poll_ns,
        })
    }
}

impl MeasureConfig {
    /// Reads the flags of `cvmm measure`.
    ///
    /// # Errors
    /// Whatever is missing, contradictory or out of range.
    pub fn parse(flags: &Flags, json: bool) -> Result<MeasureConfig, Error> {
        let guest = GuestConfig::parse(flags)?;
        if !guest.technology.protected() {
            return Err(Error::Usage {
                flag: "--plain".into(),
                problem: "a plain guest is not measured".into(),
                cure: "use --snp or --tdx".into(),
            });
        }
        Ok(MeasureConfig { guest, cpus: flags.cpus, json, dump_pages: flags.dump_pages.clone() })
    }
}

/// The kernel command line: as given, or from `@FILE` with its trailing newline removed.
fn parse_cmdline(given: Option<&str>, console: ConsoleDevice) -> Result<String, Error> {
    let Some(given) = given else {
        return Ok(console.default_cmdline().into());
    };
    let text = match given.strip_prefix('@') {
        Some(file) => {
            let bytes = read_file("command line", Path::new(file))?;
            let text = String::from_utf8(bytes).map_err(|_| Error::Usage {
                flag: format!("--cmdline @{file}"),
                problem: "the file is not text".into(),
                cure: "name a file that holds the command line as plain text".into(),
            })?;
            text.trim_end_matches(['\n', '\r']).to_owned()
        }
        None => given.to_owned(),
    };
    if text.contains('\0') {
        return Err(Error::Usage {
            flag: "--cmdline".into(),
            problem: "it contains a NUL character, where the kernel would stop reading".into(),
            cure: "remove the NUL".into(),
        });
    }
    Ok(text)
}

/// Reads a whole input file; what it is for goes into the error.
///
/// # Errors
/// [`Error::ReadFile`].
pub fn read_file(what: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    let fail = |source| Error::ReadFile { what, path: path.to_owned(), source };
    let meta = std::fs::metadata(path).map_err(fail)?;
    if meta.is_dir() {
        return Err(fail(std::io::Error::from(std::io::ErrorKind::IsADirectory)));
    }
    // A device or a file that grows without end must not take the host's memory.
    if meta.len() > MAX_INPUT {
        return Err(fail(std::io::Error::other(format!(
            "the file is larger than {} MiB",
            MAX_INPUT >> 20
        ))));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
    let file = std::fs::File::open(path).map_err(fail)?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_INPUT + 1), &mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(fail(std::io::Error::other(format!(
            "more than {} MiB came out of it",
            MAX_INPUT >> 20
        ))));
    }
    Ok(bytes)
}

/// Kernel, initrd and the like may be this large.
const MAX_INPUT: u64 = 2 << 30;

#[cfg(test)]
#[path = "config_test.rs"]
mod tests;
