//! Where processors may differ: what another vendor's processor does instead of AMD's.
//!
//! softkvm's processor is AMD's. Where both manuals leave something open or where Intel's says
//! something else, a rule turns what softkvm did into what the other vendor does. Then everything is
//! compared as always, so a rule excuses nothing but what it describes. Rules are looked at only if
//! the comparison fails, and never on a host whose processor is AMD's design.

mod integer;
mod vector;
mod x87;

use std::arch::x86_64::__cpuid;

use iced_x86::{Mnemonic, OpKind, Register};
use softkvm::cpu::Exception;

use crate::forms::Instance;
use crate::host::State;
use crate::soft::{Outcome, Soft};

/// Whether the host's processor is AMD's design. Hygon's are.
pub fn is_amd() -> bool {
    let leaf = __cpuid(0);
    let name = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat();
    matches!(name.as_slice(), b"AuthenticAMD" | b"HygonGenuine")
}

/// One run of an instruction on both sides. A rule changes only what softkvm came to.
pub struct Case<'a> {
    pub instance: &'a Instance,
    pub rip: u64,
    /// Where the memory operand lies, if it can be reached.
    pub at: Option<u64>,
    pub before: &'a State,
    pub native: State,
    pub raised: Option<Exception>,
    pub outcome: Outcome,
    pub soft: State,
}

impl Case<'_> {
    fn mnemonic(&self) -> Mnemonic {
        self.instance.insn.mnemonic()
    }

    fn soft_vector(&self) -> Option<u8> {
        match self.outcome {
            Outcome::Fault(fault) => Some(fault.vector),
            _ => None,
        }
    }

    /// Both sides raised the same exception.
    fn same_fault(&self) -> bool {
        matches!((&self.outcome, self.raised), (Outcome::Fault(soft), Some(native)) if *soft == native)
    }

    /// Instead, the instruction raised `fault` and changed no register.
    fn expect_fault(&mut self, fault: Exception) {
        self.outcome = Outcome::Fault(fault);
        self.soft = self.before.clone();
    }

    /// Whether there is a memory operand, reachable or not, whose address is no multiple.
    fn operand_misaligned(&self, alignment: u64) -> bool {
        let insn = &self.instance.insn;
        let operand = insn.op_kinds().position(|kind| kind == OpKind::Memory);
        let value = |register: Register, _, _| match register.size() {
            _ if register.is_segment_register() => Some(0),
            4 => Some(self.before.gpr[register.number()] & 0xffff_ffff),
            _ => Some(self.before.gpr[register.number()]),
        };
        let address = operand.and_then(|i| insn.virtual_address(i as u32, 0, value));
        address.is_some_and(|address| address % alignment != 0)
    }
}

/// A rule: a name for reports, and a function that tells whether the rule holds and, if so, makes
/// softkvm's side what the other vendor's processor does.
pub struct Rule {
    pub name: &'static str,
    pub apply: fn(&mut Case, &mut Soft) -> bool,
}

/// All rules, in the order in which they are tried.
pub const RULES: [Rule; 11] = [
    Rule { name: "second element of a compare first", apply: integer::target_first },
    Rule { name: "flags of an interrupted compare or scan", apply: integer::interrupted_compare },
    Rule { name: "overflow flag of a full turn through carry", apply: integer::full_turn },
    Rule { name: "lower bound before upper bound", apply: integer::lower_bound_first },
    Rule { name: "no alignment check of unaligned vectors", apply: vector::unaligned_vector },
    Rule { name: "aligned operands of SHA instructions", apply: vector::aligned_sha },
    Rule { name: "NaN of a dot product", apply: vector::dot_product_nan },
    Rule { name: "x87 exception before the fault of the store", apply: x87::x87_exception_first },
    Rule { name: "first half of a faulting ten-byte store", apply: x87::ten_byte_store },
    Rule { name: "top of stack after a faulting MMX store", apply: x87::mmx_store_fault },
    Rule { name: "ENCLU without enclaves", apply: integer::enclu },
];
