//! Kernels built here: Debian's source, fragments of `guest-kernel-config/`, and a way of packing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::config::Config;
use super::elf;
use crate::apt::{self, Apt};
use crate::run::{capture, root, run, target};

/// Names, and the fragments that each is made of; what a later one says holds.
pub const KERNELS: [(&str, &[&str]); 3] = [
    ("tiny", &["tiny", "snp", "tdx", "fast"]),
    ("micro", &["tiny", "snp", "tdx", "fast", "micro"]),
    ("distro-like", &["tiny", "snp", "tdx", "micro", "distro-like"]),
];

/// How an image may be packed, and the option for it. With `none` it is the ELF file.
pub const PACKINGS: [(&str, &str); 4] = [
    ("lz4", "CONFIG_KERNEL_LZ4"),
    ("zstd", "CONFIG_KERNEL_ZSTD"),
    ("gzip", "CONFIG_KERNEL_GZIP"),
    ("none", "CONFIG_KERNEL_LZ4"),
];

/// The Debian package of the source, and the suite that has it.
pub const PACKAGE: &str = "linux-source-7.2";
const SUITE: &str = "forky";

/// What building a kernel takes: program and Debian package.
const BUILD_TOOLS: [(&str, &str); 8] = [
    ("bc", "bc"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("gcc", "gcc"),
    ("make", "make"),
    ("xz", "xz-utils"),
    ("lz4", "lz4"),
    ("zstd", "zstd"),
];

/// So that the same source and configuration make the same image.
const REPRODUCIBLE: [(&str, &str); 4] = [
    ("KBUILD_BUILD_TIMESTAMP", "1970-01-01 00:00:00 UTC"),
    ("KBUILD_BUILD_USER", "cvmm"),
    ("KBUILD_BUILD_HOST", "cvmm"),
    ("KBUILD_BUILD_VERSION", "1"),
];

/// Which kernel: `micro`, or `tiny-zstd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// One of [`KERNELS`].
    pub kernel: &'static str,
    /// One of [`PACKINGS`].
    pub packing: &'static str,
    fragments: &'static [&'static str],
    option: &'static str,
}

impl Recipe {
    /// Takes a name apart. Without a packing it is LZ4.
    pub fn parse(name: &str) -> Option<Self> {
        KERNELS.iter().find_map(|(kernel, fragments)| {
            let rest = name.strip_prefix(kernel)?;
            let packing = if rest.is_empty() { PACKINGS[0].0 } else { rest.strip_prefix('-')? };
            let (packing, option) = PACKINGS.iter().find(|(known, _)| *known == packing)?;
            Some(Self { kernel, packing, fragments, option })
        })
    }

    /// What the fragments ask for, without those of one name.
    pub fn wanted(&self, without: Option<&str>) -> Result<Config> {
        let mut config = Config::default();
        for name in self.fragments.iter().filter(|name| Some(**name) != without) {
            config.merge(&fragment(name)?);
        }
        config.set(self.option, Some("y"));
        Ok(config)
    }

    /// What tells this kernel from one of another configuration.
    pub fn stamp(&self) -> Result<String> {
        let digest = Sha256::digest(self.wanted(None)?.to_string());
        let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("{}-{} {hex}", self.kernel, self.packing))
    }

    /// Where it is built, however it is packed.
    pub fn build_directory(&self) -> PathBuf {
        target().join("kernels").join(self.kernel).join("build")
    }

    /// Builds it: `bzImage`, `vmlinux`, `System.map` and `config` in `dir`.
    pub fn build(&self, dir: &Path) -> Result<()> {
        let tree = Tree::open(&self.build_directory())?;
        let wanted = self.wanted(None)?;
        eprintln!(
            "building the kernel {} (minutes; seconds where it is there, packed otherwise)",
            self.kernel
        );
        let config = tree.tiny()?;
        let resolved = tree.resolve(&config, &wanted)?;
        for refused in wanted.refused_by(&resolved) {
            eprintln!("note: the kernel's dependencies do not allow {refused}");
        }
        tree.build()?;
        fs::create_dir_all(dir)?;
        tree.take(dir)
    }
}

/// A fragment of this project by name.
pub fn fragment(name: &str) -> Result<Config> {
    let path = root().join(format!("guest-kernel-config/{name}.config"));
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Config::parse(&text).with_context(|| path.display().to_string())
}

/// The unpacked source: one for all kernels, never built in.
pub fn source() -> Result<PathBuf> {
    let tree = target().join("kernels/source");
    let ready = tree.join(".cvmm");
    if !ready.exists() {
        apt::need(&BUILD_TOOLS, &["libelf-dev"])?;
        let tarball = tarball()?;
        let _ = fs::remove_dir_all(&tree);
        fs::create_dir_all(&tree)?;
        eprintln!("unpacking {}", tarball.display());
        run(Command::new("tar")
            .args(["-xJ", "--strip-components=1", "-C"])
            .arg(&tree)
            .arg("-f")
            .arg(&tarball))?;
        fs::write(ready, PACKAGE)?;
    }
    Ok(tree)
}

/// The archive with the source, as Debian has packed it.
pub fn tarball() -> Result<PathBuf> {
    let package = target().join("kernels/package");
    let tarball = package.join(format!("usr/src/{PACKAGE}.tar.xz"));
    if !tarball.exists() {
        Apt::suite(SUITE)?.unpack(PACKAGE, &package)?;
    }
    Ok(tarball)
}

/// A directory in which kernels are built from the common source.
pub struct Tree {
    source: PathBuf,
    dir: PathBuf,
}

impl Tree {
    /// Makes the directory where there is none.
    pub fn open(dir: &Path) -> Result<Self> {
        let source = source()?;
        fs::create_dir_all(dir)?;
        Ok(Self { source, dir: dir.to_owned() })
    }

    fn make(&self, goals: &[&str]) -> Command {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let mut make = Command::new("make");
        make.arg("-C").arg(&self.source).arg(format!("O={}", self.dir.display()));
        make.args(["-s", &format!("-j{jobs}")]).args(goals).envs(REPRODUCIBLE);
        make
    }

    /// The smallest configuration that the kernel knows.
    pub fn tiny(&self) -> Result<Config> {
        capture(&mut self.make(&["tinyconfig"]))?;
        self.config()
    }

    /// Puts `wanted` on top of `base`, lets the kernel's dependencies have their say, and returns what that makes.
    pub fn resolve(&self, base: &Config, wanted: &Config) -> Result<Config> {
        let mut config = base.clone();
        wanted.options().for_each(|(name, _)| config.set(name, None));
        // Of a choice the last that is said holds, so what is wanted stands behind.
        fs::write(self.dir.join(".config"), format!("{config}{wanted}"))?;
        capture(&mut self.make(&["olddefconfig"]))?;
        self.config()
    }

    fn config(&self) -> Result<Config> {
        Config::parse(&fs::read_to_string(self.dir.join(".config"))?)
    }

    /// Builds what [`Self::resolve`] has left.
    pub fn build(&self) -> Result<()> {
        run(&mut self.make(&["bzImage"]))
    }

    /// Copies the tree, to be restored; it can be built in only where it is, because objects depend on its path.
    pub fn keep(&self, copy: &Path) -> Result<()> {
        replace(&self.dir, copy)
    }

    /// Makes the tree what [`Self::keep`] has copied.
    pub fn restore(&self, copy: &Path) -> Result<()> {
        replace(copy, &self.dir)
    }

    /// The image that [`Self::build`] has left.
    pub fn image(&self) -> PathBuf {
        self.dir.join("arch/x86/boot/bzImage")
    }

    /// Copies what was built.
    pub fn take(&self, into: &Path) -> Result<()> {
        fs::copy(self.image(), into.join("bzImage"))?;
        for (from, name) in [("System.map", "System.map"), (".config", "config")] {
            fs::copy(self.dir.join(from), into.join(name))?;
        }
        let elf = fs::read(self.dir.join("arch/x86/boot/compressed/vmlinux.bin"))?;
        fs::write(into.join("vmlinux"), elf::trim(&elf)?)?;
        Ok(())
    }
}

/// Copies a directory with its times, by which make goes.
fn replace(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to))
}

#[cfg(test)]
mod tests {
    use super::{KERNELS, PACKINGS, Recipe, fragment};

    #[test]
    fn a_name_is_a_kernel_and_a_packing() {
        for (kernel, _) in KERNELS {
            let plain = Recipe::parse(kernel).expect(kernel);
            assert_eq!((plain.kernel, plain.packing), (kernel, "lz4"));
            for (packing, _) in PACKINGS {
                let name = format!("{kernel}-{packing}");
                let recipe = Recipe::parse(&name).expect(&name);
                assert_eq!((recipe.kernel, recipe.packing), (kernel, packing));
            }
        }
        for name in ["", "tiny-", "tinylz4", "tiny-xz", "tiny-lz4-gzip", "minimal", "distro"] {
            assert_eq!(Recipe::parse(name), None, "{name:?}");
        }
    }

    #[test]
    fn the_kernels_differ_and_every_fragment_can_be_read() {
        let mut all = Vec::new();
        for (kernel, fragments) in KERNELS {
            let recipe = Recipe::parse(kernel).expect(kernel);
            for name in fragments {
                let rest = recipe.wanted(Some(name)).expect("fragments");
                assert!(fragment(name).expect(name).options().count() > 0, "{name}");
                assert_ne!(recipe.wanted(None).expect("fragments"), rest, "{kernel} {name}");
            }
            all.push(recipe.stamp().expect("a stamp"));
            all.push(Recipe::parse(&format!("{kernel}-zstd")).expect("one").stamp().expect("one"));
        }
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 6);
    }
}
