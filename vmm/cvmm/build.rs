//! Builds the images of the measured shim (`firmware/`) and flattens them into `OUT_DIR`.
//!
//! The shim is its own package with its own profile, so this runs cargo once more, with a target
//! directory of its own and none of the settings of the build around it: the images, and with them
//! every launch digest, depend on the sources and the compiler alone.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use abi::shim::snp::{self, AP_PARK_GPA, CODE_OFFSET, PACKED_OFFSET, PROGRAM_GPA, PROGRAM_MAX};
use abi::shim::{PAGE, SHIM_CODE_GPA, SHIM_CODE_PAGES_MAX, SHIM_ENTRY_GPA, tdx};

/// One of the shim's binaries.
struct Binary {
    name: &'static str,
    entry: u64,
    /// What it has contents of.
    parts: &'static [Part],
}

/// A flat image.
struct Part {
    name: &'static str,
    gpa: u64,
    max: u64,
}

const CODE_MAX: u64 = SHIM_CODE_PAGES_MAX * PAGE;
const BINARIES: [Binary; 3] = [
    Binary {
        name: "shim-image",
        entry: SHIM_ENTRY_GPA,
        parts: &[Part { name: "shim.bin", gpa: SHIM_CODE_GPA, max: CODE_MAX }],
    },
    Binary {
        name: "shim-tdx-image",
        entry: tdx::ENTRY_GPA,
        parts: &[Part { name: "shim_tdx.bin", gpa: SHIM_CODE_GPA, max: CODE_MAX }],
    },
    Binary {
        name: "shim-boot-image",
        entry: snp::ENTRY_GPA,
        parts: &[
            Part { name: "boot_code.bin", gpa: AP_PARK_GPA, max: PACKED_OFFSET - CODE_OFFSET },
            Part { name: "boot_program.bin", gpa: PROGRAM_GPA, max: PROGRAM_MAX as u64 },
        ],
    },
];

fn main() -> Result<(), Box<dyn Error>> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let firmware = here.join("../../firmware");
    for input in ["src", "Cargo.toml", "Cargo.lock", "build.rs", "link.ld", "link_boot.ld"] {
        println!("cargo:rerun-if-changed={}", firmware.join(input).display());
    }
    println!("cargo:rerun-if-changed={}", here.join("../abi").display());
    println!("cargo:rerun-if-changed=build.rs");

    let built = build(&firmware, &out.join("shim-target"))?;
    for binary in BINARIES {
        let elf = fs::read(built.join(binary.name))?;
        let flat = flatten(&elf, &binary).map_err(|error| format!("{}: {error}", binary.name))?;
        for (part, bytes) in binary.parts.iter().zip(flat) {
            fs::write(out.join(part.name), bytes)?;
        }
    }
    link_unwinder_statically(&out.join("unwinder"))
}

/// Takes the unwinder from GCC's archive, where there is one, not from a shared library: to find, map and relocate that library
/// takes a sixth of a millisecond of every start. rustc names the library, so a linker script of that name answers for it.
fn link_unwinder_statically(scripts: &Path) -> Result<(), Box<dyn Error>> {
    const ARCHIVE: &str = "libgcc_eh.a";
    let found = Command::new("gcc").arg(format!("-print-file-name={ARCHIVE}")).output();
    // gcc gives the bare name back where it has no such file.
    if !found.is_ok_and(|found| found.stdout.contains(&b'/')) {
        return Ok(());
    }
    fs::create_dir_all(scripts)?;
    fs::write(scripts.join("libgcc_s.so"), "INPUT(-lgcc_eh -lgcc -lc)\n")?;
    println!("cargo:rustc-link-arg-bins=-L{}", scripts.display());
    Ok(())
}

/// Runs cargo on the shim; returns the directory of the ELF files.
fn build(firmware: &Path, target: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let mut cargo = Command::new(env::var("CARGO")?);
    for (name, _) in env::vars() {
        let foreign = name.starts_with("CARGO_") && name != "CARGO_HOME"
            || name.starts_with("RUSTC_")
            || name == "RUSTFLAGS"
            || name == "RUSTDOCFLAGS";
        if foreign {
            cargo.env_remove(name);
        }
    }
    // Set and empty, it also hides flags of the user's configuration file.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "");
    // A terminal's worth of notices from a build within a build helps nobody.
    cargo.args(["build", "--quiet", "--release", "--locked"]);
    for binary in BINARIES {
        cargo.args(["--bin", binary.name]);
    }
    cargo.arg("--manifest-path").arg(firmware.join("Cargo.toml"));
    cargo.arg("--target-dir").arg(target);
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("the shim in {} does not build: {status}", firmware.display()).into());
    }
    Ok(target.join("release"))
}

/// The bytes of the segments that have any, checked against the contract.
fn flatten<'a>(elf: &'a [u8], binary: &Binary) -> Result<Vec<&'a [u8]>, Box<dyn Error>> {
    const PT_LOAD: u64 = 1;
    let (entry, expected) = (field(elf, 0x18, 8)?, binary.entry);
    if entry != expected {
        return Err(format!("the shim's entry is {entry:#x}, not {expected:#x}").into());
    }
    let headers = field(elf, 0x20, 8)?;
    let (size, count) = (field(elf, 0x36, 2)?, field(elf, 0x38, 2)?);
    let mut flat = Vec::new();
    for header in (0..count).map(|i| headers + i * size) {
        let len = field(elf, header + 0x20, 8)?;
        if field(elf, header, 4)? != PT_LOAD || len == 0 {
            continue;
        }
        let address = field(elf, header + 0x10, 8)?;
        let Some(part) = binary.parts.get(flat.len()).filter(|part| part.gpa == address) else {
            return Err(
                format!("the shim has contents at {address:#x}, outside of its image").into()
            );
        };
        if len > part.max {
            return Err(format!("{} has {len} bytes, more than {}", part.name, part.max).into());
        }
        let start = usize::try_from(field(elf, header + 8, 8)?)?;
        let bytes = elf.get(start..start + usize::try_from(len)?);
        flat.push(bytes.ok_or("the shim's ELF is cut short")?);
    }
    if flat.len() != binary.parts.len() {
        return Err("a part of the shim is empty".into());
    }
    Ok(flat)
}

/// A little-endian field.
fn field(elf: &[u8], offset: u64, len: usize) -> Result<u64, Box<dyn Error>> {
    let start = usize::try_from(offset)?;
    let bytes = elf.get(start..start + len).ok_or("the shim's ELF is cut short")?;
    Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}
