//! Rules for stores of x87 and MMX registers that fault.

use iced_x86::{Code, Mnemonic, Register};

use super::Case;
use crate::forms::Instance;
use crate::host::{SANDBOX, SANDBOX_LEN, State};
use crate::soft::{Outcome, Soft};

/// #SS, #GP, #PF and #AC.
const MEMORY_FAULTS: [u8; 4] = [12, 13, 14, 17];

/// What an instruction does when its memory operand lies where nothing is wrong with it.
struct Elsewhere {
    outcome: Outcome,
    state: State,
    /// Bytes of the operand afterwards, [`Elsewhere::FILLER`] where they were not written.
    bytes: [u8; 10],
}

impl Elsewhere {
    const FILLER: u8 = 0xa5;
    const OFFSET: usize = 0x800;

    fn run(case: &Case, soft: &mut Soft) -> Self {
        let mut insn = case.instance.insn;
        insn.set_memory_base(Register::None);
        insn.set_memory_index(Register::None);
        insn.set_memory_index_scale(1);
        insn.set_memory_displacement64(SANDBOX + Self::OFFSET as u64);
        let bytes = case.instance.bytes.clone();
        let instance = Instance { bytes, insn, plan: None, ..*case.instance };
        let mut state = case.before.clone();
        let saved = soft.sandbox().to_vec();
        soft.sandbox()[Self::OFFSET..][..10].fill(Self::FILLER);
        let outcome = soft.run(&instance, case.rip, &mut state);
        let mut bytes = [0; 10];
        bytes.copy_from_slice(&soft.sandbox()[Self::OFFSET..][..10]);
        soft.sandbox().copy_from_slice(&saved);
        Self { outcome, state, bytes }
    }

    fn wrote_nothing(&self) -> bool {
        self.bytes == [Self::FILLER; 10]
    }
}

/// An x87 store whose operand raises an unmasked exception writes nothing (SDM Vol. 1, 8.5; APM
/// Vol. 1, 6.8) and so need not touch memory. Whether it does, and so whether its page, protection or
/// alignment fault comes first, is open: all are faults of the execution of an instruction (SDM
/// Vol. 3A, "Prioritization of Concurrent Events"; APM Vol. 2, 8.5).
pub fn x87_exception_first(case: &mut Case, soft: &mut Soft) -> bool {
    use Mnemonic as M;
    const ES: u8 = 0x80;
    let listed =
        matches!(case.mnemonic(), M::Fst | M::Fstp | M::Fist | M::Fistp | M::Fisttp | M::Fbstp);
    let faulted = case.soft_vector().is_some_and(|vector| MEMORY_FAULTS.contains(&vector));
    if !(listed && case.raised.is_none() && faulted) {
        return false;
    }
    let elsewhere = Elsewhere::run(case, soft);
    let holds = elsewhere.outcome == Outcome::Done
        && elsewhere.wrote_nothing()
        && elsewhere.state.fx[2] & ES != 0;
    if holds {
        case.soft = elsewhere.state;
        case.outcome = Outcome::Done;
    }
    holds
}

/// FSTP m80fp and FBSTP are stores of eight bytes and of two. If only the latter faults, the former
/// has been done, as the SDM allows for data larger than a quadword (Vol. 3A,
/// "Guaranteed Atomic Operations"); the APM is silent. No register has changed.
pub fn ten_byte_store(case: &mut Case, soft: &mut Soft) -> bool {
    let listed = matches!(case.instance.insn.code(), Code::Fstp_m80fp | Code::Fbstp_m80bcd);
    let Some(start) = case.at.map(|at| (at - SANDBOX) as usize) else {
        return false;
    };
    let crosses = start + 8 <= SANDBOX_LEN && start + 10 > SANDBOX_LEN;
    if !(listed && crosses && case.same_fault() && case.soft_vector() == Some(14)) {
        return false;
    }
    let elsewhere = Elsewhere::run(case, soft);
    let holds = elsewhere.outcome == Outcome::Done && !elsewhere.wrote_nothing();
    if holds {
        soft.sandbox()[start..start + 8].copy_from_slice(&elsewhere.bytes[..8]);
    }
    holds
}

/// MMX instructions set the top of the x87 stack to zero (SDM Vol. 1, 9.5; APM Vol. 1, "Actions Taken
/// on Executing 64-Bit Media Instructions"), on some processors before the fault of their store. The
/// registers themselves, which FXSAVE tells relative to the top, and their tags stay.
pub fn mmx_store_fault(case: &mut Case, _soft: &mut Soft) -> bool {
    use Code as C;
    let listed = matches!(
        case.instance.insn.code(),
        C::Movd_rm32_mm | C::Movq_rm64_mm | C::Movq_mmm64_mm | C::Movntq_m64_mm
    );
    let holds = listed
        && case.same_fault()
        && case.soft_vector().is_some_and(|vector| MEMORY_FAULTS.contains(&vector));
    if holds {
        let old = case.soft.fx;
        let top = usize::from(old[3] >> 3 & 7);
        case.soft.fx[3] &= !0x38;
        for i in 0..8 {
            let from = 32 + 16 * ((i + 8 - top) % 8);
            case.soft.fx[32 + 16 * i..48 + 16 * i].copy_from_slice(&old[from..from + 16]);
        }
    }
    holds
}
