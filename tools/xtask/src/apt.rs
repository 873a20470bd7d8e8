//! Debian packages of any suite, fetched by apt with its own state under `target/`.
//!
//! The mirror is the one the machine already uses; apt checks every download against the signed
//! package index. Nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use crate::run::{capture, have, run, target};

/// One suite of the archive, with package lists of its own.
pub struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Prepares (and where needed downloads) the package lists of a suite.
    pub fn suite(suite: &str) -> Result<Self> {
        for tool in ["apt-get", "dpkg-deb"] {
            if !have(tool) {
                bail!(
                    "{tool} is needed to fetch Debian's kernels; on another distribution give \
                     cvmm a kernel of your own with --kernel"
                );
            }
        }
        let apt = Self { dir: target().join("apt").join(suite) };
        if !apt.dir.join("ready").exists() {
            apt.update(suite).with_context(|| format!("cannot read the index of {suite}"))?;
        }
        Ok(apt)
    }

    fn update(&self, suite: &str) -> Result<()> {
        for dir in ["state/lists/partial", "cache/archives/partial", "deb"] {
            fs::create_dir_all(self.dir.join(dir))?;
        }
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let source = format!("deb [signed-by={keyring}] {} {suite} main\n", mirror()?);
        fs::write(self.dir.join("sources.list"), source)?;
        let at = self.dir.display();
        fs::write(
            self.dir.join("apt.conf"),
            format!(
                "Dir::State \"{at}/state\";\nDir::State::status \"/dev/null\";\n\
                 Dir::Cache \"{at}/cache\";\nDir::Etc::SourceList \"{at}/sources.list\";\n\
                 Dir::Etc::SourceParts \"/dev/null\";\nAPT::Sandbox::User \"root\";\n\
                 Acquire::Languages \"none\";\nAcquire::Retries \"3\";\n"
            ),
        )?;
        eprintln!("reading the package index of Debian {suite} ...");
        capture(self.command("apt-get").arg("update"))?;
        fs::write(self.dir.join("ready"), suite)?;
        Ok(())
    }

    fn command(&self, tool: &str) -> Command {
        let mut command = Command::new(tool);
        command.env("APT_CONFIG", self.dir.join("apt.conf"));
        command
    }

    /// The packages that `package` depends on directly.
    pub fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = capture(self.command("apt-cache").args(["depends", package]))?;
        Ok(String::from_utf8_lossy(&text)
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .map(str::to_owned)
            .collect())
    }

    /// Whether the suite has this package.
    pub fn has(&self, package: &str) -> bool {
        capture(self.command("apt-cache").args(["show", package])).is_ok()
    }

    /// Downloads packages with everything they depend on, the C library included, and unpacks them into `into`.
    pub fn unpack_with_dependencies(&self, packages: &[&str], into: &Path) -> Result<()> {
        let archives = self.dir.join("cache/archives");
        eprintln!("fetching {} and what they depend on ...", packages.join(", "));
        // What an interrupted run has left is of unknown suites and times.
        debs(&archives)?.into_iter().try_for_each(fs::remove_file)?;
        // Nothing counts as installed, and nothing is: the only lock would be dpkg's.
        capture(
            self.command("apt-get")
                .args(["install", "--download-only", "-y", "--no-install-recommends"])
                .args(["-o", "Debug::NoLocking=1"])
                .args(packages),
        )?;
        fs::create_dir_all(into)?;
        // Nowadays' packages expect the merged layout; an older one's file must find its place through it.
        for dir in ["bin", "lib", "lib64", "sbin"] {
            fs::create_dir_all(into.join("usr").join(dir))?;
            let link = into.join(dir);
            if !link.exists() {
                std::os::unix::fs::symlink(Path::new("usr").join(dir), link)?;
            }
        }
        for file in debs(&archives)? {
            extract(&file, into)?;
            fs::remove_file(file)?;
        }
        Ok(())
    }

    /// Downloads a package (checked by apt) and unpacks it into `into`.
    pub fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        let deb = self.dir.join("deb");
        eprintln!("fetching {package} ...");
        capture(self.command("apt-get").args(["download", package]).current_dir(&deb))?;
        let prefix = format!("{package}_");
        let file = fs::read_dir(&deb)?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
            })
            .ok_or_else(|| anyhow!("apt-get download left no {prefix}*.deb"))?;
        fs::create_dir_all(into)?;
        run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(into))?;
        fs::remove_file(file)?;
        Ok(())
    }
}

/// The packages in a directory.
fn debs(dir: &Path) -> Result<Vec<PathBuf>> {
    let files = fs::read_dir(dir)?.map(|entry| Ok(entry?.path()));
    let is_deb = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "deb");
    files.filter(|file| file.as_ref().map_or(true, is_deb)).collect()
}

/// Unpacks a package through links that are there already, as dpkg would.
fn extract(deb: &Path, into: &Path) -> Result<()> {
    let mut package = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start dpkg-deb")?;
    let tar = package.stdout.take().context("no pipe")?;
    let unpacked = run(Command::new("tar")
        .args(["-x", "--keep-directory-symlink", "-C"])
        .arg(into)
        .stdin(tar));
    if !package.wait()?.success() {
        bail!("{} is no package", deb.display());
    }
    unpacked
}

/// Makes sure that programs are there: installs their packages where we may, else says how.
///
/// `tools` pairs a program with its package; `libraries` are installed together with them.
pub fn need(tools: &[(&str, &str)], libraries: &[&str]) -> Result<()> {
    let missing: Vec<&str> =
        tools.iter().filter(|(tool, _)| !have(tool)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(&[&missing[..], libraries].concat())
}

/// Installs packages where we may, else says how.
pub fn install(packages: &[&str]) -> Result<()> {
    let command = format!("apt-get install {}", packages.join(" "));
    eprintln!("installing {}", packages.join(" "));
    let installed = capture(
        Command::new("apt-get")
            .args(["install", "-y", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    );
    installed.map(|_| ()).with_context(|| format!("please run as root: {command}"))
}

/// The archive this machine installs Debian from.
fn mirror() -> Result<String> {
    let text = capture(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI)|$(ORIGIN)|$(LABEL)",
        "Created-By: Packages",
    ]))?;
    String::from_utf8_lossy(&text)
        .lines()
        .find_map(|line| line.strip_suffix("|Debian|Debian"))
        .map(str::to_owned)
        .context("apt knows no Debian archive: is this a Debian system, after `apt-get update`?")
}
