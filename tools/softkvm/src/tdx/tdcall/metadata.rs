//! TDG.VM.RD and TDG.VM.WR: the TD's metadata (ABI specification, "Metadata Access Interface").

use abi::tdx::leaf::{field, td_ctls};
use abi::tdx::{TdxStatus, operand};

use super::{R8, R9};
use crate::cpu::state::{Core, RCX, RDX};
use crate::tdx::Td;

/// What identifies a field: its class and its code. Context, element size and sequence information are ignored.
const IDENTITY: u64 = 0x3f00_0000_00ff_ffff;
/// The host is to notify the guest of suspected zero-step attacks.
const NOTIFY_EPT_FAULTS: u64 = 1;
/// CONFIG_FLAGS: the guest may change TD_CTLS.PENDING_VE_DISABLE.
const FLEXIBLE_PENDING_VE: u64 = 1 << 1;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    ConfigFlags,
    TdCtls,
    NotifyEnables,
    TopologyEnumConfigured,
}

/// The field that RDX names, after the checks that reads and writes share; R8 is 0 until there is a value.
fn field_of(core: &mut Core) -> Result<Field, TdxStatus> {
    core.gpr[R8] = 0;
    if core.gpr[RCX] != 0 {
        return Err(TdxStatus::OPERAND_INVALID.with(operand::RCX));
    }
    [
        (field::CONFIG_FLAGS, Field::ConfigFlags),
        (field::TD_CTLS, Field::TdCtls),
        (field::NOTIFY_ENABLES, Field::NotifyEnables),
        (field::TOPOLOGY_ENUM_CONFIGURED, Field::TopologyEnumConfigured),
    ]
    .into_iter()
    .find(|(id, _)| (id ^ core.gpr[RDX]) & IDENTITY == 0)
    .map(|(_, field)| field)
    .ok_or(TdxStatus::METADATA_FIELD_ID_INCORRECT)
}

fn value(td: &Td, field: Field) -> u64 {
    match field {
        Field::ConfigFlags => td.config_flags(),
        Field::TdCtls => td.td_ctls(),
        Field::NotifyEnables => td.notify_enables(),
        Field::TopologyEnumConfigured => u64::from(td.topology_configured()),
    }
}

/// TDG.VM.RD.
pub(super) fn read(td: &Td, core: &mut Core) -> TdxStatus {
    match field_of(core) {
        Ok(field) => {
            core.gpr[R8] = value(td, field);
            TdxStatus::SUCCESS
        }
        Err(status) => status,
    }
}

/// TDG.VM.WR: R8 the value, R9 the bits to write; R8 returns the old value.
pub(super) fn write(td: &mut Td, core: &mut Core) -> TdxStatus {
    let (request, mask) = (core.gpr[R8], core.gpr[R9]);
    let field = match field_of(core) {
        Ok(field) => field,
        Err(status) => return status,
    };
    let old = value(td, field);
    let writable = match field {
        Field::ConfigFlags | Field::TopologyEnumConfigured => 0,
        Field::TdCtls => td.module().td_ctls,
        Field::NotifyEnables => NOTIFY_EPT_FAULTS,
    };
    if writable & mask == 0 {
        return TdxStatus::METADATA_FIELD_NOT_WRITABLE;
    }
    if (old ^ request) & mask & !writable != 0 {
        return TdxStatus::METADATA_FIELD_VALUE_NOT_VALID;
    }
    let new = old & !mask | request & mask;
    let done = match field {
        Field::TdCtls => set_td_ctls(td, old, new),
        _ => {
            td.set_notify_enables(new);
            true
        }
    };
    if !done {
        return TdxStatus::METADATA_FIELD_VALUE_NOT_VALID;
    }
    core.gpr[R8] = old;
    TdxStatus::SUCCESS
}

/// The rules of TD_CTLS; `false` if it does not take the value.
fn set_td_ctls(td: &mut Td, old: u64, mut new: u64) -> bool {
    if old & td_ctls::LOCK != 0 {
        return new == old;
    }
    let flexible = td.config_flags() & FLEXIBLE_PENDING_VE != 0;
    if (old ^ new) & td_ctls::PENDING_VE_DISABLE != 0 && !flexible {
        return false;
    }
    if new & td_ctls::REDUCE_VE != 0 {
        new |= td_ctls::ENUM_TOPOLOGY | td_ctls::VIRT_CPUID2;
    }
    if new & td_ctls::ENUM_TOPOLOGY != 0 && !td.topology_configured() {
        return false;
    }
    td.set_td_ctls(new);
    true
}
