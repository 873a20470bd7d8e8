//! The variable store in an OVMF image (edk2 MdeModulePkg/Include/Guid/VariableFormat.h).

use anyhow::{Context, Result, bail};

/// gEfiAuthenticatedVariableGuid, as it lies in memory.
const STORE: [u8; 16] = [
    0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92,
];
/// Bytes of VARIABLE_STORE_HEADER, with the GUID in front and the store's size after it.
const STORE_HEADER: usize = 28;
/// AUTHENTICATED_VARIABLE_HEADER: StartId, then State at 2, NameSize at 36, DataSize at 40.
const HEADER: usize = 60;
const START_ID: [u8; 2] = [0xaa, 0x55];
/// State of a variable that is there; a bit that is cleared deletes it.
const ADDED: u8 = 0x3f;
const NOT_DELETED: u8 = 0xfd;

/// The image with a variable deleted, as a firmware that was asked to would leave it.
pub fn without(image: &[u8], name: &str) -> Result<Vec<u8>> {
    let name: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    let store = image
        .windows(STORE.len())
        .position(|window| window == STORE)
        .context("the image has no variable store")?;
    let word = |at: usize| -> Option<usize> {
        let bytes = image.get(at..at + 4)?;
        usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
    };
    let end = store + word(store + STORE.len()).context("truncated variable store")?;
    let mut at = store + STORE_HEADER;
    while at + HEADER <= end && image.get(at..at + 2) == Some(&START_ID[..]) {
        let (name_size, data_size) =
            word(at + 36).zip(word(at + 40)).context("truncated variable")?;
        let state = at + 2;
        let found = image.get(at + HEADER..at + HEADER + name_size) == Some(&name[..]);
        if found && image[state] == ADDED {
            let mut changed = image.to_vec();
            changed[state] &= NOT_DELETED;
            return Ok(changed);
        }
        at = (at + HEADER + name_size + data_size).next_multiple_of(4);
    }
    bail!("the image has no such variable");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, data: &[u8]) -> Vec<u8> {
        let name: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        let mut bytes = vec![0; HEADER];
        bytes[..2].copy_from_slice(&START_ID);
        bytes[2] = ADDED;
        bytes[36..40].copy_from_slice(&(name.len() as u32).to_le_bytes());
        bytes[40..44].copy_from_slice(&(data.len() as u32).to_le_bytes());
        bytes.extend(name);
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0xff);
        bytes
    }

    #[test]
    fn one_variable_is_deleted_and_nothing_else_changes() {
        let mut image = vec![0; 72];
        image.extend(STORE);
        image.extend(4096u32.to_le_bytes());
        image.extend([0x5a, 0xfe, 0, 0, 0, 0, 0, 0]);
        image.extend(variable("KEK", b"odd"));
        let state = image.len() + 2;
        image.extend(variable("PK", b"key"));
        image.resize(8192, 0xff);
        let changed = without(&image, "PK").expect("it is there");
        let differs: Vec<usize> = (0..image.len()).filter(|&at| image[at] != changed[at]).collect();
        assert_eq!(differs, [state]);
        assert!(without(&changed, "PK").is_err(), "it is gone");
        assert!(without(&image, "P").is_err());
    }
}
