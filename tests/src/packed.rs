//! bzImages that hold a kernel of a test's own, compressed with LZ4.

use abi::boot::{BOOT_FLAG, HEADER_MAGIC, LOADED_HIGH, SETUP_HEADER_OFFSET, SetupHeader};
use abi::boot::{VERSION_XLOADFLAGS, XLF_KERNEL_64};
use zerocopy::{FromZeros, IntoBytes};

/// Bytes of a block of the legacy frame ("LZ4 Frame Format Description" 1.6.4).
const BLOCK: usize = 8 << 20;
/// Sectors of setup code, and where the payload is behind them.
const SETUP_SECTORS: u8 = 3;
const PAYLOAD: usize = 0x400;

/// The payload of a Linux bzImage with CONFIG_KERNEL_LZ4: a legacy frame, and the length of what is in it.
pub fn payload(kernel: &[u8]) -> Vec<u8> {
    let mut payload = 0x184c_2102_u32.to_le_bytes().to_vec();
    for block in kernel.chunks(BLOCK) {
        let packed = lz4_flex::block::compress(block);
        payload.extend((packed.len() as u32).to_le_bytes());
        payload.extend(packed);
    }
    payload.extend((kernel.len() as u32).to_le_bytes());
    payload
}

/// A bzImage that has this payload, and nothing that could unpack it.
pub fn bzimage_of(payload: &[u8]) -> Vec<u8> {
    let code = (PAYLOAD + payload.len()).next_multiple_of(16);
    let mut header = SetupHeader::new_zeroed();
    header.setup_sects = SETUP_SECTORS;
    header.syssize = (code / 16) as u32;
    header.boot_flag = BOOT_FLAG;
    header.header = HEADER_MAGIC;
    header.version = VERSION_XLOADFLAGS;
    header.loadflags = LOADED_HIGH;
    header.xloadflags = XLF_KERNEL_64;
    header.kernel_alignment = 0x20_0000;
    header.pref_address = 0x100_0000;
    header.init_size = code as u32;
    header.payload_offset = PAYLOAD as u32;
    header.payload_length = payload.len() as u32;
    let setup = header.setup_bytes() as usize;
    let mut file = vec![0; setup + code];
    file[SETUP_HEADER_OFFSET..][..size_of::<SetupHeader>()].copy_from_slice(header.as_bytes());
    file[setup + PAYLOAD..][..payload.len()].copy_from_slice(payload);
    file
}

/// A bzImage of this ELF file.
pub fn bzimage(kernel: &[u8]) -> Vec<u8> {
    bzimage_of(&payload(kernel))
}
