//! The plan of a guest: pure data, in launch order. Same inputs, same bytes; no clock, no probing of the host except an
//! explicit [`HostCaps`].

pub mod acpi;
pub mod cpuid;
mod file;
pub mod firmware;
pub mod fw_cfg;
pub mod kernel;
pub mod layout;
pub mod ovmf;
mod payload;
pub mod registers;
mod snp;
pub mod snp_firmware;
mod tdx;
pub mod tdx_firmware;
mod technology;

use std::path::{Path, PathBuf};

use abi::shim::{
    self, ACPI_GPA, Blob, Extent, Flags, INITIAL_PAGE_TABLE_GPA, LoadMode as ShimLoad, PAGE,
    PARAMETER_GPA, ParameterPage, SHIM_CODE_GPA, SHIM_CODE_PAGES_MAX,
};
use sha2::{Digest, Sha256};
use thiserror::Error;
use zerocopy::{FromZeros, IntoBytes};

use crate::config::{
    self, CpuCount, GuestConfig, LoadMode, MarksMode, MemorySize, UnpackMode, read_file,
};
use crate::error::Error;
use crate::shim_image::FirstStage;
use cpuid::CpuidTable;
pub use file::FileBytes;
use firmware::{FirmwareLayout, FirmwarePlan};
use kernel::{KernelError, KernelLayout};
use layout::{Layout, Place, Range, Sizes};
use registers::VcpuRegisters;
pub use technology::Technology;
use technology::{Shape, firmware_layout, shape};

/// Why the inputs make no guest.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum PlanError {
    #[error(
        "{given} of memory is too little: kernel, initrd and their copies need about {needed_mib}M"
    )]
    TooLittleMemory { given: MemorySize, needed_mib: u64 },
    #[error("the kernel command line has {len} bytes; this kernel and the shim take {max}")]
    CmdlineTooLong { len: u64, max: u64 },
    #[error("the ACPI tables for {cpus} vCPUs do not fit their page")]
    TooManyCpus { cpus: u16 },
    #[error("the host's CPUID has more than {max} leaves, which is all that a CPUID page holds")]
    TooManyCpuidRows { max: usize },
    #[error("the shim has {len} bytes; it must have 1 to {max}")]
    ShimSize { len: usize, max: u64 },
    #[error("the shim's first stage does not fit its page")]
    BootPage,
    #[error("the host's C-bit is bit {host}; digests are computed for bit {planned}")]
    CBit { host: u32, planned: u32 },
    #[error(
        "{memory} of memory, or the window of it, is not in the units of 2M that a kernel accepts"
    )]
    NotInUnits { memory: MemorySize },
    #[error("the list of memory has {len} bytes; the firmware has room for {max}")]
    MemoryList { len: u64, max: u64 },
    #[error("neither a kernel nor a firmware was given")]
    NothingToStart,
}

impl PlanError {
    /// What the user can do.
    pub fn cure(&self) -> String {
        match self {
            PlanError::TooLittleMemory { needed_mib, .. } => {
                format!("give --memory {needed_mib}M or more, or a smaller kernel or initrd")
            }
            PlanError::NotInUnits { .. } => {
                "give --memory and the window of --accept lazy as multiples of 2M".into()
            }
            PlanError::CmdlineTooLong { .. } => "shorten --cmdline".into(),
            PlanError::TooManyCpus { .. } => "give fewer --cpus".into(),
            PlanError::MemoryList { .. } => "use another build of the firmware".into(),
            PlanError::NothingToStart => "add --kernel, --firmware, or both".into(),
            PlanError::ShimSize { .. } => {
                "name a flat image of the shim with --shim, or leave it out".into()
            }
            PlanError::BootPage => "report this as a bug".into(),
            PlanError::TooManyCpuidRows { .. } | PlanError::CBit { .. } => {
                "report this as a bug, with the output of `cpuid -r` on this host".into()
            }
        }
    }
}

/// What a plan depends on beside the user's wishes.
#[derive(Clone, Debug)]
pub struct HostCaps {
    /// The CPUID leaves that KVM offers. Their contents are not measured.
    pub cpuid: CpuidTable,
    /// Position of the C-bit. It is measured: page table and CR3 carry it.
    pub c_bit: u32,
}

/// The C-bit of every SEV-SNP processor so far (EPYC 7003, 9004, 9005).
pub const C_BIT: u32 = 51;

impl HostCaps {
    /// What `cvmm measure` assumes: no CPUID leaves, since they are not measured, and [`C_BIT`].
    pub fn assumed() -> HostCaps {
        HostCaps { cpuid: CpuidTable::default(), c_bit: C_BIT }
    }
}

/// A firmware image, read once.
#[derive(Clone, Debug)]
pub(crate) struct Firmware {
    image: FileBytes,
    layout: FirmwareLayout,
}

/// Kernel, initrd and command line, read once.
#[derive(Clone, Debug)]
pub struct Inputs {
    kernel_path: PathBuf,
    /// Nothing where there is no kernel: a firmware may do without.
    layout: Option<KernelLayout>,
    /// What is started in place of the shim.
    firmware: Option<Firmware>,
    kernel: FileBytes,
    initrd: FileBytes,
    /// With its NUL.
    cmdline: FileBytes,
    /// In place of the one that is built in. To a firmware, what starts the kernel for it.
    shim: Option<FileBytes>,
    /// In place of the one that is built in, for what must not depend on a build.
    first_stage: Option<FirstStage>,
    /// Of kernel, initrd and command line with its NUL; zeros where nothing compares them.
    hashes: [[u8; 32]; 3],
}

impl Inputs {
    /// Reads the files that a configuration names, and hashes what the shim is to compare.
    ///
    /// # Errors
    /// A file is unreadable, or the kernel is none.
    pub fn read(config: &GuestConfig) -> Result<Inputs, Error> {
        let mut inputs = Inputs::read_unhashed(config)?;
        inputs.hash_for(config.load);
        Ok(inputs)
    }

    /// Reads the files that a configuration names, and leaves the hashes for [`Inputs::hash_for`].
    ///
    /// # Errors
    /// As of [`Inputs::read`].
    pub fn read_unhashed(config: &GuestConfig) -> Result<Inputs, Error> {
        let initrd: FileBytes = match &config.initrd {
            Some(path) => read_file("initrd", path)?.into(),
            None => FileBytes::default(),
        };
        let mut inputs = match &config.kernel {
            Some(path) => {
                let kernel: FileBytes = read_file("kernel", path)?.into();
                let mut inputs = Inputs::unhashed(path.clone(), kernel, initrd, &config.cmdline)?;
                if config.unpack == UnpackMode::Shim {
                    inputs.unpack_in_shim()?;
                }
                inputs
            }
            None => Inputs::without_kernel(),
        };
        if let Some(path) = &config.firmware {
            let image = read_file("firmware", path)?.into();
            inputs.set_firmware(path, image, &config.technology)?;
        }
        if let Some(path) = &config.shim {
            inputs.shim = Some(read_file("shim", path)?.into());
        }
        Ok(inputs)
    }

    /// From bytes in memory.
    ///
    /// # Errors
    /// The kernel is none.
    pub fn new(
        path: PathBuf,
        kernel: FileBytes,
        initrd: FileBytes,
        cmdline: &str,
    ) -> Result<Inputs, Error> {
        let mut inputs = Inputs::unhashed(path, kernel, initrd, cmdline)?;
        inputs.hash();
        Ok(inputs)
    }

    fn unhashed(
        path: PathBuf,
        kernel: FileBytes,
        initrd: FileBytes,
        cmdline: &str,
    ) -> Result<Inputs, Error> {
        let layout = KernelLayout::parse(&kernel)
            .map_err(|source| Error::Kernel { path: path.clone(), source })?;
        let mut cmdline = cmdline.as_bytes().to_vec();
        cmdline.push(0);
        Ok(Inputs {
            kernel_path: path,
            layout: Some(layout),
            firmware: None,
            kernel,
            initrd,
            cmdline: cmdline.into(),
            shim: None,
            first_stage: None,
            hashes: [[0; 32]; 3],
        })
    }

    /// Takes of the kernel what the shim can unpack.
    ///
    /// # Errors
    /// There is nothing that it can.
    pub fn unpack_in_shim(&mut self) -> Result<(), Error> {
        let (layout, place) = KernelLayout::parse_packed(&self.kernel)
            .map_err(|source| Error::Kernel { path: self.kernel_path.clone(), source })?;
        self.layout = Some(layout);
        self.kernel = self.kernel.part(place);
        Ok(())
    }

    /// How many bytes the shim is to compare by their hashes; launch pages are measured themselves.
    pub fn hashed_len(&self, load: LoadMode) -> usize {
        match load {
            LoadMode::Hashed => self.kernel.len() + self.initrd.len() + self.cmdline.len(),
            LoadMode::Measured => 0,
        }
    }

    /// Hashes them.
    pub fn hash_for(&mut self, load: LoadMode) {
        if self.hashed_len(load) > 0 {
            self.hash();
        }
    }

    fn hash(&mut self) {
        let files = [&self.kernel, &self.initrd, &self.cmdline];
        self.hashes = files.map(|bytes| Sha256::digest(&**bytes).into());
    }

    /// Nothing, for a firmware that is to find something to start by itself.
    pub fn without_kernel() -> Inputs {
        Inputs {
            kernel_path: PathBuf::new(),
            layout: None,
            firmware: None,
            kernel: FileBytes::default(),
            initrd: FileBytes::default(),
            cmdline: FileBytes::default(),
            shim: None,
            first_stage: None,
            hashes: [[0; 32]; 3],
        }
    }

    /// Starts a firmware image in place of the shim.
    ///
    /// # Errors
    /// The image is none for this technology, or cannot start this kernel.
    pub fn set_firmware(
        &mut self,
        path: &Path,
        image: FileBytes,
        technology: &config::Technology,
    ) -> Result<(), Error> {
        let fail = |source| Error::Firmware { path: path.to_owned(), source };
        let layout = firmware_layout(technology, &image).map_err(fail)?;
        if self.layout.is_some() {
            layout.check_kernel().map_err(fail)?;
            if !kernel::is_efi_application(&self.kernel) {
                let path = self.kernel_path.clone();
                return Err(Error::Kernel { path, source: KernelError::NoEfiStub });
            }
        }
        self.firmware = Some(Firmware { image, layout });
        Ok(())
    }

    /// The hashes that a firmware is to check.
    fn checked_hashes(&self) -> Option<&[[u8; 32]; 3]> {
        self.layout.is_some().then_some(&self.hashes)
    }

    /// The kernel's path, for messages.
    pub fn kernel_path(&self) -> &std::path::Path {
        &self.kernel_path
    }
}

/// What a launch page is for the protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Its contents are measured.
    Measured,
    /// A CPUID table that the firmware checks; not measured.
    Cpuid,
    /// Filled by the firmware.
    Secrets,
    /// Zeros, as the protection makes them; their place is measured.
    Zero,
    /// Its place is measured, its contents are not.
    Unmeasured,
}

/// A contiguous run of launch pages.
#[derive(Clone, Debug)]
pub struct LaunchRegion {
    /// Its first page.
    pub gpa: u64,
    /// What it is.
    pub kind: PageKind,
    /// Whole pages.
    pub bytes: Vec<u8>,
    /// Its name in reports.
    pub tag: &'static str,
}

/// Bytes that wait in shared memory; the shim checks them against a measured hash.
#[derive(Clone, Debug)]
pub struct StagedBlob {
    /// Where.
    pub gpa: u64,
    /// What.
    pub bytes: FileBytes,
    /// Its name in reports.
    pub tag: &'static str,
}

/// All there is to know about a guest before it exists.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its protection.
    pub technology: Technology,
    /// Where everything lies.
    pub layout: Layout,
    /// Launch pages in launch order.
    pub regions: Vec<LaunchRegion>,
    /// What the boot page has the hash of, where it belongs: the shim's second stage, page by page. Empty where those are
    /// launch pages.
    pub hashed: Vec<LaunchRegion>,
    /// What is put into shared memory.
    pub staged: Vec<StagedBlob>,
    /// Every memory slot: RAM, and what the guest has beside it.
    pub slots: Vec<Range>,
    /// Private from the start; empty for an unprotected guest.
    pub private: Vec<Range>,
    /// Registers of the boot processor. A TD's processors all start at the reset vector.
    pub boot: VcpuRegisters,
    /// Registers of the others.
    pub parked: VcpuRegisters,
    /// How many there are.
    pub cpus: CpuCount,
    /// What CPUID says.
    pub cpuid: CpuidTable,
    /// What a firmware image needs while it runs, where one is started in place of the shim.
    pub firmware: Option<FirmwarePlan>,
}

impl Plan {
    /// A plan that was made for [`HostCaps::assumed`], for this host: nothing else of it depends on one, but an SEV-SNP
    /// guest's launch pages, so that its plan is made anew.
    pub fn for_host(self, host: &HostCaps) -> Plan {
        let cpuid = self.technology.leaves(self.cpus, host);
        Plan { cpuid, ..self }
    }

    /// Lays a guest out.
    ///
    /// # Errors
    /// It does not fit.
    pub fn build(
        config: &GuestConfig,
        inputs: &Inputs,
        cpus: CpuCount,
        host: &HostCaps,
    ) -> Result<Plan, PlanError> {
        if let Some(firmware) = &inputs.firmware {
            return firmware::build(config, inputs, firmware, cpus, host);
        }
        let kernel = inputs.layout.as_ref().ok_or(PlanError::NothingToStart)?;
        let shape = shape(&config.technology, cpus, host)?;
        let sizes = Sizes {
            kernel: inputs.kernel.len() as u64,
            initrd: inputs.initrd.len() as u64,
            cmdline: inputs.cmdline.len() as u64,
            second_stage: match shape.first_stage {
                Some(_) => shim::snp::SECOND_STAGE_PAGES * PAGE,
                None => 0,
            },
        };
        let layout = Layout::build(config.memory, kernel, sizes, config.load, config.accept)?;
        let code = inputs.shim.as_deref().unwrap_or(shape.shim);

        let second_stage = vec![
            region("shim", SHIM_CODE_GPA, shim_code(code)?),
            region(
                "parameters",
                PARAMETER_GPA,
                parameters(config, inputs, kernel, &layout, cpus, &shape).as_bytes(),
            ),
            region(
                "acpi",
                ACPI_GPA,
                &acpi::page(ACPI_GPA, cpus, shape.wakeup, config.console_device)?,
            ),
        ];
        let mut regions = shape.first.clone();
        let mut staged = Vec::new();
        let hashed = match (inputs.first_stage.or(shape.first_stage), shape.c_bit) {
            (Some(stage), Some(c_bit)) => {
                let bytes = in_one_piece(&second_stage);
                regions.push(snp::boot_page(stage, c_bit, layout.second_stage, &bytes)?);
                let gpa = layout.second_stage;
                staged.push(StagedBlob { gpa, bytes: bytes.into(), tag: "second-stage" });
                second_stage
            }
            _ => {
                let table = shim::initial_page_table(shape.c_bit);
                regions.push(region("page-table", INITIAL_PAGE_TABLE_GPA, table.as_bytes()));
                regions.extend(second_stage);
                Vec::new()
            }
        };
        regions.extend(shape.last.iter().cloned());
        let blobs = [
            ("kernel", layout.kernel, &inputs.kernel),
            ("initrd", layout.initrd, &inputs.initrd),
            ("cmdline", layout.cmdline, &inputs.cmdline),
        ];
        for (tag, place, bytes) in blobs.into_iter().filter(|(_, place, _)| place.len > 0) {
            match config.load {
                LoadMode::Hashed => {
                    staged.push(StagedBlob { gpa: place.staging, bytes: bytes.clone(), tag })
                }
                LoadMode::Measured => regions.push(region(tag, place.dest, bytes)),
            }
        }
        let mut private = Vec::new();
        if shape.technology != Technology::Plain {
            private = layout.private();
            private.extend(&shape.extra);
            private.sort_by_key(|range| range.gpa);
        }
        let mut slots: Vec<Range> = layout.ram.iter().chain(&shape.extra).copied().collect();
        slots.sort_by_key(|range| range.gpa);
        let features = technology::features(&config.technology);
        Ok(Plan {
            technology: shape.technology,
            layout,
            regions,
            hashed,
            staged,
            slots,
            private,
            boot: VcpuRegisters { features, ..VcpuRegisters::boot(shape.c_bit) },
            parked: VcpuRegisters { features, ..VcpuRegisters::parked(shape.c_bit) },
            cpus,
            cpuid: shape.technology.leaves(cpus, host),
            firmware: None,
        })
    }

    /// The registers of a vCPU.
    pub fn registers(&self, vcpu: u16) -> &VcpuRegisters {
        if vcpu == 0 { &self.boot } else { &self.parked }
    }

    /// What of these ranges the shim accepts, its own pages included.
    pub fn accepted_by_shim(&self, ranges: &[Range]) -> Vec<Range> {
        let accepted = &self.layout.accepted;
        match accepted.is_empty() {
            true => ranges.to_vec(),
            false => ranges.iter().flat_map(|range| range.common(accepted)).collect(),
        }
    }

    /// How many launch pages there are, VMSAs not counted.
    pub fn page_count(&self) -> u64 {
        self.regions.iter().map(|r| r.bytes.len() as u64 / PAGE).sum()
    }
}

/// Whole pages around `bytes`: what lies before and after them in their first and last page is zero.
fn region(tag: &'static str, gpa: u64, bytes: &[u8]) -> LaunchRegion {
    let before = (gpa % PAGE) as usize;
    let mut padded = vec![0; (before + bytes.len()).next_multiple_of(PAGE as usize)];
    padded[before..before + bytes.len()].copy_from_slice(bytes);
    LaunchRegion { gpa: gpa - before as u64, kind: PageKind::Measured, bytes: padded, tag }
}

/// The bytes of regions, with zeros where a region ends before the next begins.
fn in_one_piece(regions: &[LaunchRegion]) -> Vec<u8> {
    let Some(first) = regions.first() else { return Vec::new() };
    let mut bytes = Vec::new();
    for region in regions {
        bytes.resize((region.gpa - first.gpa) as usize, 0);
        bytes.extend_from_slice(&region.bytes);
    }
    bytes
}

fn shim_code(code: &[u8]) -> Result<&[u8], PlanError> {
    let max = SHIM_CODE_PAGES_MAX * PAGE;
    if code.is_empty() || code.len() as u64 > max {
        return Err(PlanError::ShimSize { len: code.len(), max });
    }
    Ok(code)
}

fn parameters(
    config: &GuestConfig,
    inputs: &Inputs,
    kernel: &KernelLayout,
    layout: &Layout,
    cpus: CpuCount,
    shape: &Shape,
) -> ParameterPage {
    let mut page = ParameterPage::new_zeroed();
    page.magic = ParameterPage::MAGIC;
    page.version = ParameterPage::VERSION;
    page.technology = shape.named;
    let marks = match config.marks {
        MarksMode::All => Flags::empty(),
        MarksMode::None => Flags::NO_MARKS,
    };
    let help = if config.accept.is_parallel() { Flags::PARALLEL } else { Flags::empty() };
    page.flags = (shape.flags | marks | help).bits();
    page.c_bit = shape.c_bit.unwrap_or(0);
    page.vcpu_count = u32::from(cpus.get());
    page.load_mode = match config.load {
        LoadMode::Hashed => ShimLoad::HASHED,
        LoadMode::Measured => ShimLoad::MEASURED,
    };
    page.kernel_kind = kernel.kind();
    page.acpi_rsdp = ACPI_GPA;
    page.second_stage = layout.second_stage;
    let blob = |place: Place, hash: [u8; 32]| match place {
        Place { len: 0, .. } => Blob::new_zeroed(),
        Place { staging, dest, len } => {
            let digest = if config.load == LoadMode::Hashed { hash } else { [0; 32] };
            Blob { staging, dest, size: len, reserved: 0, digest }
        }
    };
    // Nobody accepts anything of an unprotected guest.
    if shape.technology != Technology::Plain {
        for (slot, range) in page.accepted.iter_mut().zip(&layout.accepted) {
            *slot = Extent { addr: range.gpa, size: range.len };
        }
    }
    page.unpacked = Extent { addr: layout.unpacked.gpa, size: layout.unpacked.len };
    page.kernel = blob(layout.kernel, inputs.hashes[0]);
    page.initrd = blob(layout.initrd, inputs.hashes[1]);
    page.cmdline = blob(layout.cmdline, inputs.hashes[2]);
    let map = layout.e820();
    page.e820_count = map.len() as u32;
    for (slot, entry) in page.e820.iter_mut().zip(map) {
        *slot = entry;
    }
    page
}

#[cfg(test)]
#[path = "plan_test.rs"]
mod tests;
