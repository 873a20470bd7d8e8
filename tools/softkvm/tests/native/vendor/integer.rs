//! Rules for instructions on general registers and for ENCLU.

use iced_x86::{Code, Mnemonic, OpKind};
use softkvm::cpu::Exception;
use softkvm::cpu::flags::{ARITH_MASK, OF};

use super::Case;
use crate::host::{SANDBOX, SANDBOX_LEN};
use crate::soft::{Outcome, Soft};

/// CMPS reads two elements. Where both fault, which is read first is open in both manuals; CR2 tells.
pub fn target_first(case: &mut Case, _soft: &mut Soft) -> bool {
    use Code as C;
    let size = match case.instance.insn.code() {
        C::Cmpsb_m8_m8 => 1,
        C::Cmpsw_m16_m16 => 2,
        C::Cmpsd_m32_m32 => 4,
        C::Cmpsq_m64_m64 => 8,
        _ => return false,
    };
    let end = SANDBOX + SANDBOX_LEN as u64;
    let missing = |at: u64| match at {
        _ if !(SANDBOX..end).contains(&at) => Some(at),
        _ if at + size > end => Some(end),
        _ => None,
    };
    let [source, target] = [6, 7].map(|register| missing(case.soft.gpr[register]));
    match &mut case.outcome {
        Outcome::Fault(fault) if target.is_some() && fault.vector == 14 && fault.cr2 == source => {
            fault.cr2 = target;
            true
        }
        _ => false,
    }
}

/// A fault within REPE/REPNE CMPS/SCAS restores the flags as they were before the instruction
/// (SDM Vol. 2B, REP/REPE/REPZ/REPNE/REPNZ). AMD's keep those of the last completed comparison; APM
/// Vol. 3, 1.2.6 "Repeat Prefixes", speaks of the registers only.
pub fn interrupted_compare(case: &mut Case, _soft: &mut Soft) -> bool {
    use Mnemonic as M;
    let insn = &case.instance.insn;
    let compares = matches!(
        case.mnemonic(),
        M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq | M::Scasb | M::Scasw | M::Scasd | M::Scasq
    );
    let holds = compares
        && insn.is_string_instruction()
        && (insn.has_repe_prefix() || insn.has_repne_prefix())
        && case.same_fault();
    if holds {
        case.soft.rflags = case.soft.rflags & !ARITH_MASK | case.before.rflags & ARITH_MASK;
    }
    holds
}

/// RCL and RCR of 8 and 16 bits turn through 9 and 17 bits; a count of one more than a multiple
/// changes the value as a count of one does, a multiple not at all. But OF is undefined for every
/// count above one (SDM Vol. 2B, RCL/RCR/ROL/ROR; APM Vol. 3, RCL and RCR), and the decoder knows
/// only the effective count.
pub fn full_turn(case: &mut Case, _soft: &mut Soft) -> bool {
    use Code as C;
    let insn = &case.instance.insn;
    let modulus = match insn.code() {
        C::Rcl_rm8_imm8 | C::Rcr_rm8_imm8 | C::Rcl_rm8_CL | C::Rcr_rm8_CL => 9,
        C::Rcl_rm16_imm8 | C::Rcr_rm16_imm8 | C::Rcl_rm16_CL | C::Rcr_rm16_CL => 17,
        _ => return false,
    };
    let by_cl = insn.op1_kind() == OpKind::Register;
    let count = if by_cl { case.before.gpr[1] as u8 } else { insn.immediate8() } & 31;
    let holds = count > 1 && count % modulus <= 1;
    if holds {
        case.soft.rflags = case.soft.rflags & !OF | case.native.rflags & OF;
    }
    holds
}

/// BOUND compares with the lower bound before it reads the upper one. Both the bound error and the
/// page fault are faults of the execution of an instruction, and the manuals leave open which of
/// these comes first (SDM Vol. 3A, "Prioritization of Concurrent Events"; APM Vol. 2, 8.5).
pub fn lower_bound_first(case: &mut Case, soft: &mut Soft) -> bool {
    let insn = &case.instance.insn;
    let (Mnemonic::Bound, Some(at)) = (insn.mnemonic(), case.at) else {
        return false;
    };
    let size = insn.op0_register().size();
    let start = (at - SANDBOX) as usize;
    let Some(lower) = soft.sandbox().get(start..start + size) else {
        return false;
    };
    let signed = |bytes: &[u8]| match *bytes {
        [a, b, ..] if size == 2 => i32::from(i16::from_le_bytes([a, b])),
        [a, b, c, d, ..] => i32::from_le_bytes([a, b, c, d]),
        _ => 0,
    };
    let index = case.before.gpr[insn.op0_register().number()].to_le_bytes();
    let below = signed(&index) < signed(lower);
    let upper_missing = start + 2 * size > SANDBOX_LEN;
    let holds = below && upper_missing && case.soft_vector() == Some(14);
    if holds {
        case.expect_fault(Exception::plain(5));
    }
    holds
}

/// Processors that have SGX raise #GP or #PF for an ENCLU whose operands are of no use, whether or
/// not the system shows SGX (SDM Vol. 3D, ENCLU); softkvm's has no SGX and raises #UD.
pub fn enclu(case: &mut Case, _soft: &mut Soft) -> bool {
    let Some(raised) = case.raised else {
        return false;
    };
    let holds = case.mnemonic() == Mnemonic::Enclu
        && case.soft_vector() == Some(6)
        && matches!(raised.vector, 13 | 14);
    if holds {
        case.expect_fault(raised);
    }
    holds
}
