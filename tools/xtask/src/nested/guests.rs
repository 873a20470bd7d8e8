//! The guests that run on both KVMs, and the files they need: one command line each, the same on both sides.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::run::target;
use crate::{initramfs, kernel};

#[path = "../../../../vmm/cvmm/tests/common/test_guest.rs"]
mod test_guest;

/// One guest.
pub struct Guest {
    /// What the table calls it.
    pub name: String,
    /// The words after `cvmm --plain`; files are named without a folder.
    pub words: Vec<String>,
    /// What runs in it.
    pub kind: Kind,
    /// Does it run on several processors?
    pub several_vcpus: bool,
}

/// What runs in a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The test guest alone.
    Bare,
    /// A kernel that says nothing, and guest-init.
    Silent,
    /// A kernel that says on the console what it finds, and guest-init.
    Talking,
}

/// The guests and the folder with their files.
pub struct Guests {
    /// Where the files are.
    pub dir: PathBuf,
    /// In the order of their runs.
    pub list: Vec<Guest>,
}

/// A kernel that is silent, so that neither the processor's name nor the clock gets into its exits.
const SILENT: &str = "console=ttyS0 panic=-1 quiet loglevel=0 nokaslr";
/// A kernel that says everything but the time.
const TALKING: &str = "console=ttyS0 panic=-1 printk.time=0 nokaslr";

impl Guests {
    /// Writes the files: the test guest always, and the kernels that are there.
    pub fn prepare(debian: &kernel::Kernel) -> Result<Self> {
        let dir = target().join("nested/guests");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("guest.elf"), test_guest::test_guest())?;
        fs::write(dir.join("guest.bin"), test_guest::test_guest_code())?;
        fs::write(dir.join("initrd"), [0x5a; 70_000])?;
        fs::write(dir.join("silent"), SILENT)?;
        fs::write(dir.join("talking"), TALKING)?;
        let mut list = test_guests();
        if kernel::is_there("micro") {
            let micro = kernel::fetch("micro")?;
            copy_kernel(&micro, &dir, "micro")?;
            list.push(linux("micro", "silent", 1));
            list.push(linux("micro", "silent", 2));
        }
        copy_kernel(debian, &dir, "debian")?;
        list.push(linux("debian", "silent", 1));
        list.push(linux("debian", "talking", 1));
        Ok(Self { dir, list })
    }

    /// Every file, by name.
    pub fn files(&self) -> Result<Vec<(String, PathBuf)>> {
        let mut files: Vec<_> = fs::read_dir(&self.dir)?
            .map(|entry| entry.map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())))
            .collect::<std::io::Result<_>>()?;
        files.sort();
        Ok(files)
    }
}

fn test_guests() -> Vec<Guest> {
    let guest = |name: &str, words: &str| Guest {
        name: format!("test guest {name}"),
        words: format!("--kernel guest.elf --memory 64M {words}")
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        kind: Kind::Bare,
        several_vcpus: false,
    };
    vec![
        guest("in place of the shim", "--shim guest.bin"),
        guest("behind the shim, hashed", "--initrd initrd"),
        guest("behind the shim, measured", "--initrd initrd --load measured"),
    ]
}

fn linux(kernel: &str, cmdline: &str, cpus: u32) -> Guest {
    Guest {
        name: format!(
            "Linux, {kernel}, {cmdline}, {cpus} vCPU{}",
            if cpus == 1 { "" } else { "s" }
        ),
        words: format!(
            "--kernel {kernel}.bzimage --initrd {kernel}.cpio --cmdline @{cmdline} --cpus {cpus}"
        )
        .split_whitespace()
        .map(str::to_owned)
        .collect(),
        kind: if cmdline == "talking" { Kind::Talking } else { Kind::Silent },
        several_vcpus: cpus > 1,
    }
}

fn copy_kernel(kernel: &kernel::Kernel, dir: &Path, name: &str) -> Result<()> {
    fs::copy(&kernel.bzimage, dir.join(format!("{name}.bzimage")))?;
    fs::copy(initramfs::build(kernel)?, dir.join(format!("{name}.cpio")))?;
    Ok(())
}
