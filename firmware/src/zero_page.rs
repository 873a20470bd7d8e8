//! `boot_params`; under SNP, the CC blob that tells Linux where its special pages are; for a kernel that accepts memory, what
//! leads it to the tables of [`crate::efi`].

use abi::boot::{
    BootE820Entry, BootParams, CcBlobSevInfo, LOADER_UNDEFINED, SETUP_CC_BLOB, SetupData,
    SetupHeader,
};
use abi::shim::{
    BOOT_PARAMS_GPA, CC_BLOB_GPA, CPUID_GPA, PAGE, ParameterPage, SECRETS_GPA, Termination,
};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::efi;
use crate::platform::{Platform, object_mut};
use crate::range;

/// The page at [`CC_BLOB_GPA`]: the `setup_data` element, then the blob it points to.
#[repr(C)]
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct CcPage {
    /// What the kernel finds in `setup_header.setup_data`.
    pub setup_data: SetupData,
    /// What that points to.
    pub blob: CcBlobSevInfo,
}

/// Address of the blob.
pub const CC_BLOB: u64 = CC_BLOB_GPA + size_of::<SetupData>() as u64;
/// Bytes of `struct setup_data` in front of its payload.
const SETUP_DATA_HEADER: usize = 16;

/// Builds `boot_params` from the kernel's setup header and the parameters.
pub fn build<P: Platform>(
    platform: &mut P,
    params: &ParameterPage,
    header: &SetupHeader,
) -> Result<(), Termination> {
    let cc_blob = platform.has_cc_blob();
    if cc_blob {
        build_cc_blob(platform)?;
    }
    let efi = if range::is_lazy(params) { Some(efi::build(platform, params)?) } else { None };
    let page: &mut BootParams = object_mut(platform, BOOT_PARAMS_GPA)?;
    page.zero();
    if let Some(efi) = efi {
        page.efi_info = efi;
    }
    page.hdr = *header;
    page.hdr.type_of_loader = LOADER_UNDEFINED;
    let (initrd, cmdline) = (&params.initrd, &params.cmdline);
    (page.hdr.ramdisk_image, page.hdr.ramdisk_size) = (0, 0);
    if initrd.size != 0 {
        (page.hdr.ramdisk_image, page.ext_ramdisk_image) = halves(initrd.dest);
        (page.hdr.ramdisk_size, page.ext_ramdisk_size) = halves(initrd.size);
    }
    (page.hdr.cmd_line_ptr, page.ext_cmd_line_ptr) = halves(cmdline.dest);
    page.acpi_rsdp_addr = params.acpi_rsdp;
    page.hdr.setup_data = 0;
    if cc_blob {
        page.hdr.setup_data = CC_BLOB_GPA;
        // The decompressor clears this and walks setup_data; a bare vmlinux reads it.
        (page.cc_blob_address, _) = halves(CC_BLOB);
    }
    let mut count = 0;
    let entries = params.e820.iter().take(params.e820_count as usize);
    for (slot, entry) in page.e820_table.iter_mut().zip(entries) {
        *slot = BootE820Entry { addr: entry.addr, size: entry.size, kind: entry.kind.0 };
        count += 1;
    }
    page.e820_entries = count;
    Ok(())
}

/// Writes the CC blob and the `setup_data` element that names it.
fn build_cc_blob<P: Platform>(platform: &mut P) -> Result<(), Termination> {
    let page: &mut CcPage = object_mut(platform, CC_BLOB_GPA)?;
    let (cc_blob_address, _) = halves(CC_BLOB);
    page.setup_data = SetupData {
        next: 0,
        kind: SETUP_CC_BLOB,
        len: (size_of::<SetupData>() - SETUP_DATA_HEADER) as u32,
        cc_blob_address,
        pad: 0,
    };
    page.blob = CcBlobSevInfo {
        magic: CcBlobSevInfo::MAGIC,
        version: 0,
        reserved: 0,
        secrets_phys: SECRETS_GPA,
        secrets_len: PAGE as u32,
        rsvd1: 0,
        cpuid_phys: CPUID_GPA,
        cpuid_len: PAGE as u32,
        rsvd2: 0,
    };
    Ok(())
}

/// Low and high half.
const fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}
