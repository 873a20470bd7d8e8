//! Page state changes through the shared buffer (`snp_begin_psc`, `snp_do_psc`): neighbouring
//! entries are merged into one exit, and the guest's buffer records progress.

use abi::ghcb::{PSC_ENTRIES_MAX, PscEntry, PscHeader, input_error, psc_error, psc_op};
use abi::kvm::MapGpaAttributes;
use zerocopy::{FromBytes, IntoBytes};

use super::{GhcbExit, GhcbHost, Outcome, Pending, Vmgexit};

/// Entries that an exit to user space is about.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    buffer: Buffer,
    first: u16,
    count: u16,
}

/// The guest's buffer, read afresh at every step.
#[derive(Clone, Copy, Debug)]
struct Buffer {
    gpa: u64,
    /// Entries that fit.
    capacity: u16,
}

/// Pages of a 2 MiB entry.
const HUGE_PAGES: u16 = 512;

impl Buffer {
    fn header(self, host: &mut dyn GhcbHost) -> PscHeader {
        let mut bytes = [0; size_of::<PscHeader>()];
        host.read_shared(self.gpa, &mut bytes);
        PscHeader::read_from_bytes(&bytes).unwrap_or_default()
    }

    fn set_current(self, host: &mut dyn GhcbHost, entry: u16) {
        host.write_shared(self.gpa, entry.as_bytes());
    }

    fn address(self, index: u16) -> u64 {
        self.gpa + size_of::<PscHeader>() as u64 + 8 * u64::from(index)
    }

    fn entry(self, host: &mut dyn GhcbHost, index: u16) -> PscEntry {
        let mut bytes = [0; 8];
        host.read_shared(self.address(index), &mut bytes);
        PscEntry(u64::from_le_bytes(bytes))
    }

    /// Marks entries as done.
    fn finish(self, host: &mut dyn GhcbHost, first: u16, count: u16) {
        for index in first..first + count {
            let entry = self.entry(host, index);
            let done = entry.with_current_page(pages(entry));
            host.write_shared(self.address(index), done.as_bytes());
        }
        self.set_current(host, first + count);
    }
}

fn pages(entry: PscEntry) -> u16 {
    if entry.huge() { HUGE_PAGES } else { 1 }
}

impl Vmgexit {
    /// Starts on a buffer.
    pub(super) fn psc(&mut self, host: &mut dyn GhcbHost) -> Outcome {
        let Some(mapped) = self.mapped.as_deref_mut() else { return Outcome::Resume };
        let header = size_of::<PscHeader>() as u64;
        let Some((gpa, len)) = mapped.scratch(header) else {
            mapped.bad_input(input_error::INVALID_SCRATCH_AREA);
            return Outcome::Resume;
        };
        let capacity = ((len - header) / 8).min(PSC_ENTRIES_MAX as u64) as u16;
        self.psc_step(host, Buffer { gpa, capacity })
    }

    /// Goes on after user space has answered.
    pub(super) fn psc_go_on(
        &mut self,
        host: &mut dyn GhcbHost,
        state: &InFlight,
        ret: u64,
    ) -> Outcome {
        if ret != 0 {
            return self.psc_done(psc_error::GENERIC);
        }
        state.buffer.finish(host, state.first, state.count);
        self.psc_step(host, state.buffer)
    }

    fn psc_done(&mut self, result: u64) -> Outcome {
        if let Some(mapped) = self.mapped.as_deref_mut() {
            mapped.no_action(result);
        }
        Outcome::Resume
    }

    /// Works until user space is needed or nothing is left. Each turn of the loop advances the
    /// buffer's current entry, which is at most `capacity`.
    fn psc_step(&mut self, host: &mut dyn GhcbHost, buffer: Buffer) -> Outcome {
        if !host.map_gpa_exits() {
            return self.psc_done(psc_error::GENERIC);
        }
        loop {
            let header = buffer.header(host);
            let last = header.end_entry;
            if last >= buffer.capacity {
                return self.psc_done(psc_error::INVALID_HEADER);
            }
            let mut index = header.cur_entry;
            let range = loop {
                if index > last {
                    buffer.set_current(host, index);
                    return self.psc_done(0);
                }
                let entry = buffer.entry(host, index);
                match Range::of(entry) {
                    Err(error) => {
                        buffer.set_current(host, index);
                        return self.psc_done(error);
                    }
                    Ok(range) if range.npages > 0 => break range,
                    Ok(_) => index += 1,
                }
            };
            let (count, npages) = range.merge(host, buffer, index, last);
            let private = match range.operation {
                psc_op::PRIVATE => MapGpaAttributes::ENCRYPTED,
                psc_op::SHARED => 0,
                psc_op::PSMASH | psc_op::UNSMASH => {
                    buffer.finish(host, index, count);
                    continue;
                }
                _ => return self.psc_done(psc_error::INVALID_ENTRY),
            };
            let size = if range.stated_huge { MapGpaAttributes::PAGE_2M } else { 0 };
            buffer.set_current(host, index);
            self.pending = Some(Pending::Psc(InFlight { buffer, first: index, count }));
            return Outcome::Exit(GhcbExit::MapGpaRange {
                gpa: range.gfn << 12,
                npages,
                attributes: private | size,
                flags: 0,
            });
        }
    }
}

/// What is left of an entry.
struct Range {
    gfn: u64,
    npages: u64,
    operation: u8,
    /// Handled as 2 MiB: so stated, and nothing of it done yet.
    huge: bool,
    stated_huge: bool,
}

impl Range {
    fn of(entry: PscEntry) -> Result<Self, u64> {
        let total = pages(entry);
        let done = entry.current_page();
        if done > total || !entry.gfn().is_multiple_of(u64::from(total)) {
            return Err(psc_error::INVALID_ENTRY);
        }
        Ok(Self {
            gfn: entry.gfn() + u64::from(done),
            npages: u64::from(total - done),
            operation: entry.operation(),
            huge: entry.huge() && done == 0,
            stated_huge: entry.huge(),
        })
    }

    /// How many entries from `index` on can go in one exit, and their pages.
    fn merge(&self, host: &mut dyn GhcbHost, buffer: Buffer, index: u16, last: u16) -> (u16, u64) {
        let (mut count, mut npages) = (1, self.npages);
        for next in index + 1..=last {
            let entry = buffer.entry(host, next);
            if entry.operation() != self.operation
                || entry.gfn() != self.gfn + npages
                || entry.current_page() != 0
                || entry.huge() != self.huge
                || (self.stated_huge && !self.huge)
            {
                break;
            }
            count += 1;
            npages += u64::from(pages(entry));
        }
        (count, npages)
    }
}
