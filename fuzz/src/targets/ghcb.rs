//! A guest that lies in its GHCB, its page-state change buffer or the MSR protocol.

use abi::ghcb::msr as protocol;
use abi::snp::{FirmwareStatus, SevFeatures};
use softkvm::snp::Page;
use softkvm::snp::ghcb::{Answer, ApRequest, GhcbExit, GhcbHost, Outcome, Vmgexit};

use super::Target;

/// Sends a sequence of VMGEXITs and answers their exits.
pub const TARGET: Target = Target { name: "ghcb", seeds, max_len: 4 * RECORD, run };

/// Bytes for one VMGEXIT: the MSR, the answer, and the GHCB page.
const RECORD: usize = 16 + 4096;
/// Where the GHCB is.
const GHCB: u64 = 0x1000;
/// Shared memory of the guest, from address 0.
const SHARED: usize = 4 * 4096;
/// More exits than any sequence of 253 page-state changes can need.
const EXITS: usize = 2000;

fn seeds() -> Vec<Vec<u8>> {
    // An I/O write, a page-state change and a request, well formed.
    let mut seeds = Vec::new();
    for code in [0x7b_u64, 0x72, 0x7c, 0x8000_0001, 0x8000_0010, 0x8000_0011, 0x8000_0013] {
        let mut record = vec![0; RECORD];
        record[..8].copy_from_slice(&GHCB.to_le_bytes());
        let page = &mut record[16..];
        page[0x390..0x398].copy_from_slice(&code.to_le_bytes());
        page[0x398..0x3a0].copy_from_slice(&0x00f4_0040_u64.to_le_bytes());
        page[0x3a8..0x3b0].copy_from_slice(&(GHCB + 0x800).to_le_bytes());
        page[0x3f0..0x400].fill(0xff);
        page[0x800..0x804].copy_from_slice(&[0, 0, 2, 0]);
        for entry in 0..3_u64 {
            let at = 0x808 + 8 * entry as usize;
            let word = 1 << 52 | (0x200 + entry) << 12;
            page[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        page[0xffa] = 2;
        seeds.push(record);
    }
    let mut record = vec![0; RECORD];
    record[..8].copy_from_slice(&0x0010_0000_0020_0014_u64.to_le_bytes());
    seeds.push(record);
    seeds
}

fn run(input: &[u8]) {
    let mut host = Host { shared: vec![0; SHARED], jump_table: 0 };
    let mut vmgexit = Vmgexit::new(51);
    vmgexit.set_msr(GHCB | protocol::REGISTER_GPA_REQ);
    let _ = vmgexit.handle(&mut host);
    for record in input.chunks(RECORD) {
        let mut head = [0; 16];
        let len = record.len().min(16);
        head[..len].copy_from_slice(&record[..len]);
        let page = record.get(16..).unwrap_or_default();
        host.shared[4096..4096 + page.len()].copy_from_slice(page);
        let [msr, answer] = [&head[..8], &head[8..]]
            .map(|bytes| bytes.iter().rev().fold(0_u64, |word, byte| word << 8 | u64::from(*byte)));
        vmgexit.set_msr(msr);
        let mut outcome = vmgexit.handle(&mut host);
        for round in 0.. {
            assert!(round < EXITS, "one VMGEXIT made {round} exits");
            outcome = match outcome {
                Outcome::Resume | Outcome::Fail(_) => break,
                Outcome::Hold => {
                    vmgexit.deliver_sipi();
                    vmgexit.complete(&mut host, Answer::None)
                }
                Outcome::Exit(exit) => reply(&mut vmgexit, &mut host, &exit, answer),
            };
        }
    }
}

fn reply(vmgexit: &mut Vmgexit, host: &mut Host, exit: &GhcbExit, answer: u64) -> Outcome {
    match exit {
        GhcbExit::Io { size, count, .. } => {
            let len = usize::from(*size) * *count as usize;
            assert!(len <= 4096, "{len} bytes of string I/O in one exit");
            vmgexit.complete(host, Answer::Io(&vec![answer as u8; len]))
        }
        GhcbExit::Mmio { len, .. } => {
            assert!((1..=8).contains(len), "MMIO of {len} bytes");
            vmgexit.complete(host, Answer::Mmio(answer.to_le_bytes()))
        }
        GhcbExit::MapGpaRange { .. } => {
            let ret = [0, 22, 11, 1][answer as usize & 3];
            vmgexit.complete(host, Answer::Hypercall(ret))
        }
        GhcbExit::Terminate { .. } => Outcome::Resume,
        GhcbExit::ReqCerts { npages, .. } => {
            let ret = [0, 28, 11, 5, 7][answer as usize % 5];
            vmgexit.complete(host, Answer::Certs { ret, npages: *npages })
        }
    }
}

struct Host {
    shared: Vec<u8>,
    jump_table: u64,
}

impl Host {
    fn range(&self, gpa: u64, len: usize) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(gpa).ok()?;
        let end = start.checked_add(len)?;
        (end <= self.shared.len()).then_some(start..end)
    }
}

impl GhcbHost for Host {
    fn read_shared(&mut self, gpa: u64, out: &mut [u8]) -> bool {
        let range = self.range(gpa, out.len());
        range.map(|range| out.copy_from_slice(&self.shared[range])).is_some()
    }
    fn write_shared(&mut self, gpa: u64, data: &[u8]) -> bool {
        let range = self.range(gpa, data.len());
        range.map(|range| self.shared[range].copy_from_slice(data)).is_some()
    }
    fn port_in(&mut self, port: u16, _: u8) -> Option<u32> {
        (port & 1 != 0).then_some(u32::MAX)
    }
    fn port_out(&mut self, port: u16, _: u8, _: u32) -> bool {
        port & 1 != 0
    }
    fn mmio_read(&mut self, gpa: u64, _: &mut [u8]) -> bool {
        gpa & 8 != 0
    }
    fn mmio_write(&mut self, gpa: u64, _: &[u8]) -> bool {
        gpa & 8 != 0
    }
    fn cpuid(&mut self, leaf: u32, subleaf: u32, _: Option<u64>, _: Option<u64>) -> [u32; 4] {
        [leaf, subleaf, 0, 0]
    }
    fn rdmsr(&mut self, index: u32) -> Option<u64> {
        (index & 1 != 0).then_some(u64::MAX)
    }
    fn wrmsr(&mut self, index: u32, _: u64) -> bool {
        index & 1 != 0
    }
    fn tsc(&mut self) -> u64 {
        0
    }
    fn hypercall(&mut self, nr: u64, _: [u64; 4], _: u8) -> u64 {
        nr
    }
    fn map_gpa_exits(&self) -> bool {
        true
    }
    fn legal_gpa(&self, gpa: u64) -> bool {
        gpa < 1 << 48
    }
    fn ap_creation(&mut self, apic_id: u32, _: ApRequest) -> bool {
        apic_id < 4
    }
    fn ap_jump_table(&mut self) -> &mut u64 {
        &mut self.jump_table
    }
    fn nmi_complete(&mut self) {}
    fn features(&self) -> SevFeatures {
        SevFeatures::SNP_ACTIVE
    }
    fn certs_enabled(&self) -> bool {
        true
    }
    fn guest_request(&mut self, _: &Page, response: &mut Page) -> Result<FirmwareStatus, i32> {
        response.fill(0x5a);
        Ok(FirmwareStatus::SUCCESS)
    }
}
