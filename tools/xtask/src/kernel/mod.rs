//! Test kernels: Debian's cloud kernels by package name, those that are built here, and the ELF inside a bzImage.

mod bench;
pub mod bisect;
pub mod build;
mod config;
mod effects;
mod elf;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use self::build::Recipe;
use crate::apt::Apt;
use crate::run::target;

/// A kernel on disk.
pub struct Kernel {
    /// The short name it was asked by.
    pub name: String,
    /// The image to start: compressed, but for one that is not to be.
    pub bzimage: PathBuf,
    /// The ELF image.
    pub vmlinux: PathBuf,
    /// `/lib/modules/RELEASE`, where the kernel has modules.
    pub modules: Option<PathBuf>,
    /// System.map, of a kernel that was built here; Debian's packages hold none.
    pub symbols: Option<PathBuf>,
}

/// Name, suites to look in (first hit wins), release prefix.
const DEBIAN: [(&str, &[&str]); 3] =
    [("6.1", &["bookworm"]), ("6.12", &["trixie"]), ("7.2", &["forky", "sid"])];

/// Returns the kernel of that name, fetching or building it on first use.
pub fn fetch(name: &str) -> Result<Kernel> {
    let dir = directory(name);
    let recipe = Recipe::parse(name);
    let stamp = recipe.map_or(Ok(name.to_owned()), |recipe| recipe.stamp())?;
    // A kernel of an earlier configuration is built again.
    if fs::read_to_string(dir.join("ready")).ok().as_deref() != Some(&stamp) {
        match (recipe, DEBIAN.iter().find(|(known, _)| *known == name)) {
            (Some(recipe), _) => recipe.build(&dir)?,
            (None, Some((_, suites))) => {
                unpack(name, suites, &dir)?;
                extract_vmlinux(&dir.join("bzImage"), &dir.join("vmlinux"))?;
            }
            (None, None) => bail!(
                "no kernel is called {name:?}; try 6.1, 6.12, 7.2, tiny, micro or distro-like, \
                 the last three also with -lz4, -zstd, -gzip or -none behind"
            ),
        }
        fs::write(dir.join("ready"), stamp)?;
    }
    let modules = fs::read_to_string(dir.join("modules")).ok().map(PathBuf::from);
    let unpacked = recipe.is_some_and(|recipe| recipe.packing == "none");
    Ok(Kernel {
        name: name.to_owned(),
        bzimage: dir.join(if unpacked { "vmlinux" } else { "bzImage" }),
        vmlinux: dir.join("vmlinux"),
        modules: modules.map(|relative| dir.join(relative)),
        symbols: Some(dir.join("System.map")).filter(|path| path.exists()),
    })
}

/// Whether a kernel of that name was built or fetched at some time.
pub fn is_there(name: &str) -> bool {
    directory(name).join("ready").exists()
}

fn directory(name: &str) -> PathBuf {
    target().join("kernels").join(name)
}

fn unpack(name: &str, suites: &[&str], dir: &Path) -> Result<()> {
    let mut newest = None;
    for suite in suites {
        let apt = Apt::suite(suite)?;
        let image = apt
            .depends("linux-image-cloud-amd64")?
            .into_iter()
            .find(|package| package.starts_with(&format!("linux-image-{name}.")));
        if let Some(image) = image {
            newest = Some((apt, image));
            break;
        }
    }
    let Some((apt, image)) = newest else {
        bail!("Debian {suites:?} has no cloud kernel {name} any more");
    };
    let unpacked = dir.join("unpacked");
    let _ = fs::remove_dir_all(&unpacked);
    apt.unpack(&image, &unpacked)?;
    // Newer packaging splits image and modules into packages of their own.
    let release = image.trim_start_matches("linux-image-").to_owned();
    for part in ["binary", "modules"] {
        let package = format!("linux-{part}-{release}");
        if apt.has(&package) {
            apt.unpack(&package, &unpacked)?;
        }
    }
    let candidates = [
        format!("boot/vmlinuz-{release}"),
        format!("usr/lib/modules/{release}/vmlinuz"),
        format!("lib/modules/{release}/vmlinuz"),
    ];
    let image = candidates.iter().map(|path| unpacked.join(path)).find(|path| path.exists());
    fs::copy(image.context("the package holds no vmlinuz")?, dir.join("bzImage"))?;
    for base in ["usr/lib/modules", "lib/modules"] {
        let relative = format!("unpacked/{base}/{release}");
        if dir.join(&relative).join("kernel").is_dir() {
            fs::write(dir.join("modules"), relative)?;
        }
    }
    Ok(())
}

/// Finds the compressed ELF in a bzImage (payload_offset and payload_length of the setup header,
/// Linux Documentation/arch/x86/boot.rst) and writes it out.
pub fn extract_vmlinux(bzimage: &Path, out: &Path) -> Result<()> {
    let image = fs::read(bzimage).with_context(|| format!("cannot read {}", bzimage.display()))?;
    let elf = payload(&image)
        .and_then(decompress)
        .with_context(|| format!("{} is no bzImage that can be unpacked", bzimage.display()))?;
    fs::write(out, elf).with_context(|| format!("cannot write {}", out.display()))
}

fn payload(image: &[u8]) -> Result<&[u8]> {
    let word = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).context("truncated setup header")?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
    };
    if image.get(0x202..0x206) != Some(b"HdrS") {
        bail!("no setup header");
    }
    let sectors = usize::from(*image.get(0x1f1).context("truncated setup header")?).max(4);
    let start = (sectors + 1) * 512 + word(0x248)?;
    image.get(start..start + word(0x24c)?).context("truncated payload")
}

fn decompress(payload: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Vec::new();
    match payload.get(..4) {
        Some([0x28, 0xb5, 0x2f, 0xfd]) => {
            let mut source = payload;
            let mut decoder = ruzstd::decoding::StreamingDecoder::new(&mut source)?;
            decoder.read_to_end(&mut elf)?;
        }
        Some([0x02, 0x21, 0x4c, 0x18]) => elf = lz4_legacy(&payload[4..])?,
        Some([0x1f, 0x8b, ..]) => {
            flate2::read::GzDecoder::new(payload).read_to_end(&mut elf)?;
        }
        Some([0xfd, b'7', b'z', b'X']) => {
            // The x86 BCJ filter and the trailing size need the real tool.
            let mut child = std::process::Command::new("xz")
                .args(["-dc", "--single-stream"])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::null())
                .spawn()
                .context("xz is needed for this kernel")?;
            let mut input = child.stdin.take().context("no pipe")?;
            let copy = payload.to_vec();
            let feeder = std::thread::spawn(move || std::io::Write::write_all(&mut input, &copy));
            if let Some(mut output) = child.stdout.take() {
                output.read_to_end(&mut elf)?;
            }
            let _ = feeder.join();
            child.wait()?;
        }
        other => bail!("unknown compression, magic {other:02x?}"),
    }
    if !elf.starts_with(b"\x7fELF") {
        bail!("the payload is no ELF file");
    }
    Ok(elf)
}

/// The blocks of an LZ4 legacy frame, each with its length in front; what the kernel's build appends is shorter than one.
fn lz4_legacy(mut rest: &[u8]) -> Result<Vec<u8>> {
    const BLOCK: usize = 8 << 20;
    let mut out = Vec::new();
    while let Some((len, after)) =
        rest.split_first_chunk::<4>().filter(|(_, after)| !after.is_empty())
    {
        let len = u32::from_le_bytes(*len) as usize;
        let block = after.get(..len).context("truncated LZ4 block")?;
        out.extend(lz4_flex::block::decompress(block, BLOCK).context("damaged LZ4 block")?);
        rest = &after[len..];
    }
    Ok(out)
}
