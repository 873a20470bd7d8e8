//! Port and memory-mapped I/O through the GHCB.

use abi::ghcb::{input_error, ioio};
use libc::EINVAL;

use super::{GhcbExit, GhcbHost, Outcome, Pending, Vmgexit};

impl Vmgexit {
    /// IN, OUT, INS, OUTS (`io_interception`, `sev_es_string_io`).
    pub(super) fn port_io(&mut self, host: &mut dyn GhcbHost) -> Outcome {
        let Some(mapped) = self.mapped.as_deref_mut() else { return Outcome::Resume };
        let size = (mapped.info_1 >> ioio::SIZE_SHIFT & 7) as u8;
        let port = (mapped.info_1 >> ioio::PORT_SHIFT) as u16;
        let input = mapped.info_1 & ioio::IN != 0;
        if !matches!(size, 1 | 2 | 4) {
            return Outcome::Resume;
        }
        if mapped.info_1 & ioio::STR != 0 {
            return self.string_io(host, port, size, input);
        }
        if input {
            let Some(value) = host.port_in(port, size) else {
                self.pending = Some(Pending::PortIn { size });
                return Outcome::Exit(GhcbExit::Io { data: None, port, size, count: 1 });
            };
            return self.port_in_done(size, &value.to_le_bytes());
        }
        let value = mapped.regs.rax as u32;
        if host.port_out(port, size, value & mask(size)) {
            return Outcome::Resume;
        }
        let data = Some(value.to_le_bytes()[..usize::from(size)].to_vec());
        Outcome::Exit(GhcbExit::Io { data, port, size, count: 1 })
    }

    /// Puts the data of an IN into RAX: the low bytes of what the guest passed, or EAX.
    pub(super) fn port_in_done(&mut self, size: u8, data: &[u8]) -> Outcome {
        if let Some(mapped) = self.mapped.as_deref_mut() {
            let mut bytes = if size < 4 { mapped.regs.rax.to_le_bytes() } else { [0; 8] };
            let len = usize::from(size).min(data.len());
            bytes[..len].copy_from_slice(&data[..len]);
            mapped.regs.rax = u64::from_le_bytes(bytes);
        }
        Outcome::Resume
    }

    fn string_io(&mut self, host: &mut dyn GhcbHost, port: u16, size: u8, input: bool) -> Outcome {
        let Some(mapped) = self.mapped.as_deref_mut() else { return Outcome::Resume };
        if mapped.info_2 > i32::MAX as u64 {
            return Outcome::Fail(EINVAL);
        }
        let count = mapped.info_2 as u32;
        let bytes = u64::from(count) * u64::from(size);
        let Some((gpa, _)) = mapped.scratch(bytes) else {
            mapped.bad_input(input_error::INVALID_SCRATCH_AREA);
            return Outcome::Resume;
        };
        if count == 0 {
            return Outcome::Resume;
        }
        // The scratch area lies in the shared buffer, so this is small.
        let bytes = bytes as usize;
        let mut data = vec![0; bytes];
        if input {
            let Some(first) = host.port_in(port, size) else {
                self.pending = Some(Pending::StringIn { gpa, bytes });
                return Outcome::Exit(GhcbExit::Io { data: None, port, size, count });
            };
            let mut value = Some(first);
            for item in data.chunks_exact_mut(usize::from(size)) {
                let next = value.take().or_else(|| host.port_in(port, size)).unwrap_or(!0);
                item.copy_from_slice(&next.to_le_bytes()[..usize::from(size)]);
            }
            host.write_shared(gpa, &data);
            return Outcome::Resume;
        }
        host.read_shared(gpa, &mut data);
        let item =
            |item: &[u8]| item.iter().rev().fold(0u32, |value, byte| value << 8 | u32::from(*byte));
        let mut items = data.chunks_exact(usize::from(size));
        let first = items.next().map_or(0, item);
        if !host.port_out(port, size, first) {
            return Outcome::Exit(GhcbExit::Io { data: Some(data), port, size, count });
        }
        for value in items.map(item) {
            host.port_out(port, size, value);
        }
        Outcome::Resume
    }

    /// MMIO read or write of 1 to 8 bytes through the scratch area (`kvm_sev_es_mmio`).
    pub(super) fn mmio(&mut self, host: &mut dyn GhcbHost, write: bool) -> Outcome {
        let Some(mapped) = self.mapped.as_deref_mut() else { return Outcome::Resume };
        let gpa = mapped.info_1;
        let len = match mapped.info_2 {
            0 => return Outcome::Resume,
            len @ 1..=8 => len as usize,
            _ => {
                mapped.bad_input(input_error::INVALID_INPUT);
                return Outcome::Resume;
            }
        };
        let Some((scratch, _)) = mapped.scratch(len as u64) else {
            mapped.bad_input(input_error::INVALID_SCRATCH_AREA);
            return Outcome::Resume;
        };
        let mut data = [0; 8];
        if write {
            host.read_shared(scratch, &mut data[..len]);
            if host.mmio_write(gpa, &data[..len]) {
                return Outcome::Resume;
            }
            return Outcome::Exit(GhcbExit::Mmio { gpa, len: len as u8, data: Some(data) });
        }
        if host.mmio_read(gpa, &mut data[..len]) {
            host.write_shared(scratch, &data[..len]);
            return Outcome::Resume;
        }
        self.pending = Some(Pending::MmioRead { gpa: scratch, len });
        Outcome::Exit(GhcbExit::Mmio { gpa, len: len as u8, data: None })
    }
}

/// The bits of an operand.
fn mask(size: u8) -> u32 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        _ => !0,
    }
}
