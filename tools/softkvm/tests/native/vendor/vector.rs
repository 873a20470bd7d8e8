//! Rules for SSE instructions.

use iced_x86::{Mnemonic, OpKind, Register};
use softkvm::cpu::Exception;
use softkvm::cpu::flags::AC;

use super::Case;
use crate::host::{SANDBOX, State};
use crate::nan;
use crate::soft::Soft;

/// Whether instructions for unaligned vectors check the alignment is left to the implementation:
/// SDM Vol. 3A, "Interrupt 17", for MOVUPS, MOVUPD, MOVDQU and LDDQU, whose pages say that the
/// treatment of #AC varies; SDM Vol. 2B, PCMPESTRI and so on, allow any alignment. AMD's check it
/// (APM Vol. 4, the pages of these instructions).
pub fn unaligned_vector(case: &mut Case, soft: &mut Soft) -> bool {
    use Mnemonic as M;
    let listed = matches!(
        case.mnemonic(),
        M::Movups
            | M::Movupd
            | M::Movdqu
            | M::Lddqu
            | M::Pcmpestri
            | M::Pcmpestri64
            | M::Pcmpestrm
            | M::Pcmpestrm64
            | M::Pcmpistri
            | M::Pcmpistrm
    );
    let holds = listed
        && case.before.rflags & AC != 0
        && case.operand_misaligned(16)
        && case.soft_vector() == Some(17);
    if holds {
        case.soft = case.before.clone();
        case.soft.rflags &= !AC;
        case.outcome = soft.run(case.instance, case.rip, &mut case.soft);
        case.soft.rflags |= AC;
    }
    holds
}

/// SHA instructions want their operand aligned to 16 bytes as other legacy SSE instructions do (SDM
/// Vol. 2A, Table "Type 4 Class Exception Conditions"); AMD's have been
/// seen to take any alignment.
pub fn aligned_sha(case: &mut Case, _soft: &mut Soft) -> bool {
    use Mnemonic as M;
    let listed = matches!(
        case.mnemonic(),
        M::Sha1msg1
            | M::Sha1msg2
            | M::Sha1nexte
            | M::Sha1rnds4
            | M::Sha256msg1
            | M::Sha256msg2
            | M::Sha256rnds2
    );
    let holds = listed && case.operand_misaligned(16);
    if holds {
        case.expect_fault(Exception { vector: 13, error: Some(0), cr2: None });
    }
    holds
}

/// Which of several NaNs DPPS and DPPD yield, and in which element, is implementation-dependent (SDM
/// Vol. 2A, DPPD and DPPS). It must be one of those that go into the sum.
pub fn dot_product_nan(case: &mut Case, soft: &mut Soft) -> bool {
    let insn = &case.instance.insn;
    let size = match insn.mnemonic() {
        Mnemonic::Dpps => 4,
        Mnemonic::Dppd => 8,
        _ => return false,
    };
    let xmm = |state: &State, register: Register| -> [u8; 16] {
        let at = 160 + 16 * register.number();
        std::array::from_fn(|i| state.fx[at + i])
    };
    let target = insn.op0_register();
    let source = if insn.op1_kind() == OpKind::Register {
        xmm(case.before, insn.op1_register())
    } else {
        let Some(start) = case.at.map(|at| (at - SANDBOX) as usize) else {
            return false;
        };
        match soft.sandbox().get(start..start + 16) {
            Some(bytes) => std::array::from_fn(|i| bytes[i]),
            None => return false,
        }
    };
    let candidates = nan::of_dot_product(size, insn.immediate8(), xmm(case.before, target), source);
    let native = xmm(&case.native, target);
    let mut holds = false;
    for element in (0..16).step_by(size) {
        let at = 160 + 16 * target.number() + element;
        let theirs = nan::element(&native[element..element + size]);
        let ours = nan::element(&case.soft.fx[at..at + size]);
        if ours != theirs && candidates.contains(&ours) && candidates.contains(&theirs) {
            case.soft.fx[at..at + size].copy_from_slice(&native[element..element + size]);
            holds = true;
        }
    }
    holds
}
