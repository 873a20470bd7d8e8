//! Leaves 0xB and 0x1F: the topology that the host configures (TDX module base specification, "Platform Topology
//! Virtualization").

use abi::tdx::{TdxStatus, operand};

/// Subleaves of leaf 0x1F.
pub(super) const SUBLEAVES: usize = 6;
/// Domain types, ECX 15:8.
const LOGICAL_PROCESSOR: u32 = 1;
const CORE: u32 = 2;

fn kind(level: [u32; 4]) -> u32 {
    level[2] >> 8 & 0xff
}

/// Leaf 0x1F as configured; all zeros stand for the processor's own. Domains must be in ascending order and include the
/// core.
pub(super) fn leaf_1f(
    configured: [[u32; 4]; SUBLEAVES],
    native: [[u32; 4]; SUBLEAVES],
) -> Result<[[u32; 4]; SUBLEAVES], TdxStatus> {
    if configured == [[0; 4]; SUBLEAVES] {
        return Ok(native.map(|[eax, ebx, ecx, _]| [eax, ebx, ecx, 0]));
    }
    let kinds = configured.map(kind);
    let used = kinds.iter().position(|&kind| kind == 0).unwrap_or(SUBLEAVES);
    let ascending = kinds[..used].windows(2).all(|pair| pair[0] < pair[1])
        && kinds[used..].iter().all(|&kind| kind == 0);
    if ascending && kinds.contains(&CORE) {
        Ok(configured)
    } else {
        Err(TdxStatus::OPERAND_INVALID.with(operand::CPUID_CONFIG))
    }
}

/// Leaf 0xB, which knows logical processors and cores only: the core's domain reaches as far as the last one of leaf 0x1F.
pub(super) fn leaf_b(leaf_1f: &[[u32; 4]; SUBLEAVES]) -> [[u32; 4]; 2] {
    let used = || leaf_1f.iter().take_while(|level| kind(**level) != 0);
    let Some(last) = used().last() else { return [[0; 4]; 2] };
    let [shift, count, ..] =
        used().find(|level| kind(**level) == LOGICAL_PROCESSOR).copied().unwrap_or([0, 1, 0, 0]);
    [[shift, count, LOGICAL_PROCESSOR << 8, 0], [last[0], last[1], 1 | CORE << 8, 0]]
}
