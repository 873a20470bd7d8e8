//! A host that manages a TD's private pages at random, and its guest, against the table of page states.

use std::collections::{BTreeMap, BTreeSet};

use abi::tdx::{TdAttributes, TdParams, TdxStatus, Xfam, leaf};
use sha2::{Digest, Sha384};
use softkvm::cpu::state::{RAX, RCX};
use softkvm::cpu::{Core, Mode};
use softkvm::tdx::tdcall::MemoryFault;
use softkvm::tdx::{PageState, PrivateAccess, Td, TdMemory, TdVcpu, Tdcall, TdxPlatform, tdcall};
use zerocopy::FromZeros;

use super::Target;

/// Makes calls and compares each with what the specification's tables say.
pub const TARGET: Target = Target { name: "sept", seeds, max_len: 512 * RECORD, run };

/// Bytes for one call: which, of which page, and how the address is spoilt.
const RECORD: usize = 3;
const SHARED: u64 = 1 << 47;

fn seeds() -> Vec<Vec<u8>> {
    let calls = |calls: &[u8]| calls.iter().flat_map(|call| [*call, 1, 0]).collect();
    vec![
        // A page is added, measured, and after the end of the launch blocked, tracked and removed.
        calls(&[0, 1, 2, 8, 5, 6, 7, 3, 4, 4]),
        // Pages that wait: accepted, blocked, twice each.
        calls(&[0, 3, 8, 4, 4, 5, 5, 4, 6, 6, 7, 7, 3, 5, 4, 9]),
        calls(&[8, 0, 3, 9, 5, 7, 6, 7]),
    ]
}

/// An address by its page number and what is wrong with it.
fn address(page: u8, flaw: u8) -> u64 {
    let gpa = u64::from(page % 4) << 12 | u64::from(page >> 2 & 3) << 21 | 1 << 30;
    match flaw {
        250 => gpa | SHARED,
        251 => gpa | 1 << 48,
        252 => gpa | 0x100,
        253 => gpa | 0x80,
        254 => gpa | 1 << 63,
        255 => 0,
        chunk => gpa | u64::from(chunk % 16) << 8,
    }
}

fn run(input: &[u8]) {
    let mut td = Td::new();
    let mut params = TdParams::new_zeroed();
    let exits = input.first().is_some_and(|first| first & 0x80 == 0);
    params.attributes = if exits { TdAttributes::SEPT_VE_DISABLE } else { TdAttributes(0) };
    (params.xfam, params.max_vcpus) = (Xfam::FIXED1, 1);
    (params.eptp_controls, params.tsc_frequency) = (0x1e, 80);
    td.init(&TdxPlatform::default(), &params).expect("ordinary parameters");
    let mut vcpu = td.init_vcpu(0, 0).expect("the first vCPU");
    let mut model = Model { exits, ..Model::default() };
    for record in input.chunks_exact(RECORD) {
        let gpa = address(record[1], record[2]);
        let page = gpa & !0xfff;
        let (got, expected) = match record[0] & 0x7f {
            0 => (td.sept_add(page).map(drop), model.sept_add(page)),
            1 => (td.page_add(page), model.page_add(page)),
            2 => {
                let chunk = [record[1]; 256];
                (td.mr_extend(gpa, &chunk), model.extend(gpa, &chunk))
            }
            3 => (td.page_aug(page), model.aug(page)),
            4 | 9 => {
                let large = record[0] & 0x7f == 9;
                accept(&mut td, &mut vcpu, &mut model, gpa, large);
                continue;
            }
            5 => (td.range_block(page), model.block(page)),
            6 => (td.track(), model.track()),
            7 => (td.page_remove(page), model.remove(page)),
            8 => (td.mr_finalize(), model.finalize()),
            _ => (td.page_add(gpa), model.page_add(gpa)),
        };
        assert_eq!(got.map_err(TdxStatus::code), expected, "call {} of {gpa:#x}", record[0]);
        judge(&td, &model, page);
    }
    let _ = model.finalize();
    let _ = td.mr_finalize();
    assert_eq!(td.mrtd().map(|mrtd| mrtd.to_vec()), model.mrtd, "MRTD");
    assert_eq!((td.sept().pages(), td.sept().tables()), (model.pages.len(), model.tables.len()));
}

/// The page is in the model's state, and so is the guest's access to it.
fn judge(td: &Td, model: &Model, gpa: u64) {
    if td.is_shared(gpa) || gpa >> 48 != 0 {
        return;
    }
    let pending = if model.exits { PrivateAccess::PendingExit } else { PrivateAccess::PendingVe };
    let (state, access) = match model.pages.get(&gpa) {
        None => (PageState::Free, PrivateAccess::EptViolation),
        Some(Page { accepted: true, blocked: None }) => (PageState::Mapped, PrivateAccess::Allowed),
        Some(Page { accepted: false, blocked: None }) => (PageState::Pending, pending),
        Some(Page { accepted: true, .. }) => (PageState::Blocked, PrivateAccess::EptViolation),
        Some(Page { accepted: false, .. }) => {
            (PageState::PendingBlocked, PrivateAccess::EptViolation)
        }
    };
    assert_eq!(td.sept().state(gpa >> 12), state, "state of {gpa:#x}");
    assert_eq!(td.private_access(gpa), access, "access to {gpa:#x}");
    assert_eq!(td.mrtd().map(|mrtd| mrtd.to_vec()), model.mrtd, "MRTD");
}

/// TDG.MEM.PAGE.ACCEPT: the guest runs only after the end of the launch.
fn accept(td: &mut Td, vcpu: &mut TdVcpu, model: &mut Model, gpa: u64, large: bool) {
    if model.mrtd.is_none() {
        return;
    }
    let mut core = Core::at_reset();
    core.mode = Mode::Long64;
    let gpa = if large { gpa & !0x1f_f000 } else { gpa };
    core.gpr[RAX] = u64::from(leaf::MEM_PAGE_ACCEPT);
    core.gpr[RCX] = gpa | u64::from(large);
    let mut cleared = Cleared(None);
    let got = match tdcall(td, vcpu, &mut core, &mut cleared) {
        Tdcall::Done => Some(TdxStatus(core.gpr[RAX]).code()),
        Tdcall::EptViolation { gpa: at, shared: false, accept: true } => {
            assert_eq!(at, gpa);
            None
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(got, model.accept(gpa, large), "acceptance of {gpa:#x}, large {large}");
    assert_eq!(cleared.0, (got == Some(TdxStatus::SUCCESS)).then_some(gpa), "cleared on success");
    judge(td, model, gpa & !0xfff);
}

/// The page that was cleared.
struct Cleared(Option<u64>);

impl TdMemory for Cleared {
    fn read(&mut self, _: u64, _: bool, _: &mut [u8]) -> Result<(), MemoryFault> {
        panic!("acceptance reads");
    }
    fn write(&mut self, _: u64, _: bool, _: &[u8]) -> Result<(), MemoryFault> {
        panic!("acceptance writes");
    }
    fn clear(&mut self, gpa: u64) -> Result<(), MemoryFault> {
        assert_eq!(self.0.replace(gpa), None, "cleared once");
        Ok(())
    }
}

/// A page that is not free.
struct Page {
    accepted: bool,
    /// The epoch in which it was blocked.
    blocked: Option<u64>,
}

/// What the specification says of the calls (TDX Module 1.5 ABI specification, TDH.MEM.*, TDH.MR.* and "SEPT Entry States").
#[derive(Default)]
struct Model {
    exits: bool,
    pages: BTreeMap<u64, Page>,
    tables: BTreeSet<u64>,
    epoch: u64,
    measured: Vec<u8>,
    mrtd: Option<Vec<u8>>,
}

impl Model {
    fn address(gpa: u64) -> Result<(), TdxStatus> {
        let private = gpa < SHARED && gpa.is_multiple_of(4096);
        if private { Ok(()) } else { Err(TdxStatus::OPERAND_INVALID) }
    }

    fn building(&self) -> Result<(), TdxStatus> {
        if self.mrtd.is_none() { Ok(()) } else { Err(TdxStatus::OP_STATE_INCORRECT) }
    }

    /// Checks the address and finds its table.
    fn table(&self, gpa: u64) -> Result<(), TdxStatus> {
        Self::address(gpa)?;
        let there = self.tables.contains(&(gpa >> 21));
        if there { Ok(()) } else { Err(TdxStatus::EPT_WALK_FAILED) }
    }

    fn sept_add(&mut self, gpa: u64) -> Result<(), TdxStatus> {
        Self::address(gpa)?;
        self.tables.insert(gpa >> 21);
        Ok(())
    }

    fn fill(&mut self, gpa: u64, accepted: bool) -> Result<(), TdxStatus> {
        self.table(gpa)?;
        if self.pages.contains_key(&gpa) {
            return Err(TdxStatus::EPT_ENTRY_STATE_INCORRECT);
        }
        self.pages.insert(gpa, Page { accepted, blocked: None });
        Ok(())
    }

    fn page_add(&mut self, gpa: u64) -> Result<(), TdxStatus> {
        self.building()?;
        self.fill(gpa, true)?;
        self.measure(b"MEM.PAGE.ADD", gpa);
        Ok(())
    }

    fn aug(&mut self, gpa: u64) -> Result<(), TdxStatus> {
        self.fill(gpa, false)
    }

    fn extend(&mut self, gpa: u64, chunk: &[u8]) -> Result<(), TdxStatus> {
        self.building()?;
        if !gpa.is_multiple_of(256) {
            return Err(TdxStatus::OPERAND_INVALID);
        }
        Self::address(gpa & !0xfff)?;
        match self.pages.get(&(gpa & !0xfff)) {
            Some(Page { accepted: true, blocked: None }) => {}
            _ => return Err(TdxStatus::EPT_ENTRY_NOT_PRESENT),
        }
        self.measure(b"MR.EXTEND", gpa);
        self.measured.extend(chunk);
        Ok(())
    }

    /// 128 bytes: the name, zeros, the address at 16, zeros.
    fn measure(&mut self, name: &[u8], gpa: u64) {
        let mut block = [0; 128];
        block[..name.len()].copy_from_slice(name);
        block[16..24].copy_from_slice(&gpa.to_le_bytes());
        self.measured.extend(block);
    }

    fn finalize(&mut self) -> Result<(), TdxStatus> {
        self.building()?;
        self.mrtd = Some(Sha384::digest(&self.measured).to_vec());
        Ok(())
    }

    fn block(&mut self, gpa: u64) -> Result<(), TdxStatus> {
        self.table(gpa)?;
        match self.pages.get_mut(&gpa) {
            None => Err(TdxStatus::EPT_ENTRY_STATE_INCORRECT),
            Some(Page { blocked: Some(_), .. }) => Err(TdxStatus::GPA_RANGE_ALREADY_BLOCKED),
            Some(page) => {
                page.blocked = Some(self.epoch);
                Ok(())
            }
        }
    }

    fn track(&mut self) -> Result<(), TdxStatus> {
        self.epoch += 1;
        Ok(())
    }

    fn remove(&mut self, gpa: u64) -> Result<(), TdxStatus> {
        self.table(gpa)?;
        match self.pages.get(&gpa) {
            None => return Err(TdxStatus::EPT_ENTRY_STATE_INCORRECT),
            Some(_) if self.mrtd.is_none() => {}
            Some(Page { blocked: None, .. }) => return Err(TdxStatus::GPA_RANGE_NOT_BLOCKED),
            Some(Page { blocked: Some(epoch), .. }) if *epoch == self.epoch => {
                return Err(TdxStatus::TLB_TRACKING_NOT_DONE);
            }
            Some(_) => {}
        }
        self.pages.remove(&gpa);
        Ok(())
    }

    /// `None` is an exit to the host.
    fn accept(&mut self, gpa: u64, large: bool) -> Option<TdxStatus> {
        if Self::address(gpa).is_err() {
            return Some(TdxStatus::OPERAND_INVALID);
        }
        if large {
            return self.tables.contains(&(gpa >> 21)).then_some(TdxStatus::PAGE_SIZE_MISMATCH);
        }
        match self.pages.get_mut(&gpa) {
            Some(page @ Page { accepted: false, blocked: None }) => {
                page.accepted = true;
                Some(TdxStatus::SUCCESS)
            }
            Some(Page { accepted: true, blocked: None }) => Some(TdxStatus::PAGE_ALREADY_ACCEPTED),
            _ => None,
        }
    }
}
