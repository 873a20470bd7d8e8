//! VMGEXIT: the host's side of the GHCB protocol, version 2, as mainline KVM plays it (GHCB
//! specification 56421 rev. 2.03; Linux 7.2 arch/x86/kvm/svm/sev.c `sev_handle_vmgexit`).
//!
//! One [`Vmgexit`] per vCPU. [`Vmgexit::handle`] acts on an exit; when user space has to answer
//! first it returns [`Outcome::Exit`], and [`Vmgexit::complete`] goes on at re-entry.

mod io;
mod page;
mod psc;
mod request;

use abi::ghcb::{PROTOCOL_VERSION, hv_feature, msr, psc_op};
use abi::kvm::MapGpaAttributes;
use abi::snp::{FirmwareStatus, SevFeatures};
use libc::{EAGAIN, EINVAL};

use super::Page;
use page::Mapped;

/// What the protocol needs of the VM around it.
pub trait GhcbHost {
    /// Reads guest memory through its shared mapping; `false` if there is none.
    fn read_shared(&mut self, gpa: u64, out: &mut [u8]) -> bool;
    /// Writes guest memory through its shared mapping.
    fn write_shared(&mut self, gpa: u64, data: &[u8]) -> bool;
    /// IN from a device in the kernel; `None` sends it to user space.
    fn port_in(&mut self, port: u16, size: u8) -> Option<u32>;
    /// OUT to a device in the kernel; `false` sends it to user space.
    fn port_out(&mut self, port: u16, size: u8, value: u32) -> bool;
    /// Read from a device in the kernel; `false` sends it to user space.
    fn mmio_read(&mut self, gpa: u64, out: &mut [u8]) -> bool;
    /// Write to a device in the kernel; `false` sends it to user space.
    fn mmio_write(&mut self, gpa: u64, data: &[u8]) -> bool;
    /// CPUID as set by `KVM_SET_CPUID2`; XCR0 and XSS as the guest says they are, if it does.
    fn cpuid(&mut self, leaf: u32, subleaf: u32, xcr0: Option<u64>, xss: Option<u64>) -> [u32; 4];
    /// Reads an MSR; `None` is #GP.
    fn rdmsr(&mut self, index: u32) -> Option<u64>;
    /// Writes an MSR; `false` is #GP.
    fn wrmsr(&mut self, index: u32, value: u64) -> bool;
    /// The guest's TSC.
    fn tsc(&mut self) -> u64;
    /// A KVM hypercall other than MAP_GPA_RANGE: the value for RAX.
    fn hypercall(&mut self, nr: u64, args: [u64; 4], cpl: u8) -> u64;
    /// `KVM_CAP_EXIT_HYPERCALL` was enabled for MAP_GPA_RANGE.
    fn map_gpa_exits(&self) -> bool;
    /// Whether an address is within the guest's physical address width.
    fn legal_gpa(&self, gpa: u64) -> bool;
    /// AP creation or destruction, checked but for the target: `false` if there is no such vCPU.
    fn ap_creation(&mut self, apic_id: u32, request: ApRequest) -> bool;
    /// The VM's AP jump table address.
    fn ap_jump_table(&mut self) -> &mut u64;
    /// The guest has finished its NMI.
    fn nmi_complete(&mut self);
    /// Features of INIT2, with SNP_ACTIVE.
    fn features(&self) -> SevFeatures;
    /// `KVM_SEV_SNP_ENABLE_REQ_CERTS` was called.
    fn certs_enabled(&self) -> bool;
    /// SNP_GUEST_REQUEST: firmware's answer, or the errno that kept KVM from asking.
    fn guest_request(&mut self, request: &Page, response: &mut Page)
    -> Result<FirmwareStatus, i32>;
}

/// What to do with an AP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApRequest {
    /// Run it on the VMSA at this address from its next INIT on.
    CreateOnInit(u64),
    /// Run it on the VMSA at this address.
    Create(u64),
    /// Stop it.
    Destroy,
}

/// What follows from a VMGEXIT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Enter the guest again.
    Resume,
    /// AP reset hold: the vCPU sleeps until SIPI ([`Vmgexit::deliver_sipi`]) or another event;
    /// then [`Vmgexit::complete`] with [`Answer::None`].
    Hold,
    /// Leave to user space.
    Exit(GhcbExit),
    /// `KVM_RUN` fails with this errno.
    Fail(i32),
}

/// An exit to user space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GhcbExit {
    /// `KVM_EXIT_IO`.
    Io {
        /// OUT: the data. IN: `None`.
        data: Option<Vec<u8>>,
        /// Port.
        port: u16,
        /// Bytes per item.
        size: u8,
        /// Items.
        count: u32,
    },
    /// `KVM_EXIT_MMIO`.
    Mmio {
        /// Address.
        gpa: u64,
        /// Bytes, 1 to 8.
        len: u8,
        /// Write: the data. Read: `None`.
        data: Option<[u8; 8]>,
    },
    /// `KVM_EXIT_HYPERCALL` for MAP_GPA_RANGE.
    MapGpaRange {
        /// Start.
        gpa: u64,
        /// 4 KiB pages.
        npages: u64,
        /// Page size and direction.
        attributes: u64,
        /// Flags of the exit: 1 for a hypercall in long mode.
        flags: u64,
    },
    /// `KVM_EXIT_SYSTEM_EVENT` of type SEV_TERM.
    Terminate {
        /// Its first datum: the GHCB MSR.
        data: u64,
    },
    /// `KVM_EXIT_SNP_REQ_CERTS`.
    ReqCerts {
        /// Where the certificates go.
        gpa: u64,
        /// Pages there.
        npages: u64,
    },
}

/// What user space answered.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// The exit had no answer.
    None,
    /// Data of an IN.
    Io(&'a [u8]),
    /// Data of an MMIO read.
    Mmio([u8; 8]),
    /// `hypercall.ret`.
    Hypercall(u64),
    /// `snp_req_certs`.
    Certs {
        /// Answer.
        ret: u64,
        /// Pages.
        npages: u64,
    },
}

/// What [`Vmgexit::complete`] goes on with.
#[derive(Clone, Debug)]
enum Pending {
    /// Nothing but the reply.
    Reply,
    PortIn {
        size: u8,
    },
    StringIn {
        gpa: u64,
        bytes: usize,
    },
    MmioRead {
        gpa: u64,
        len: usize,
    },
    PscMsr,
    Psc(psc::InFlight),
    Vmmcall,
    Certs {
        request: u64,
        response: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    None,
    Page,
    Msr,
}

/// GHCB state of one vCPU.
#[derive(Clone, Debug)]
pub struct Vmgexit {
    msr: u64,
    reset: u64,
    registered: Option<u64>,
    mapped: Option<Box<Mapped>>,
    pending: Option<Pending>,
    hold: Hold,
    sipi_seen: bool,
}

impl Vmgexit {
    /// A vCPU whose guest has its C-bit at this position.
    pub fn new(c_bit: u8) -> Self {
        let reset = msr::sev_info(PROTOCOL_VERSION, 1, c_bit);
        Self {
            msr: reset,
            reset,
            registered: None,
            mapped: None,
            pending: None,
            hold: Hold::None,
            sipi_seen: false,
        }
    }

    /// The GHCB MSR.
    pub fn msr(&self) -> u64 {
        self.msr
    }

    /// The guest writes the GHCB MSR.
    pub fn set_msr(&mut self, value: u64) {
        self.msr = value;
    }

    /// Whether an exit of this vCPU waits for [`Vmgexit::complete`].
    pub fn in_flight(&self) -> bool {
        self.pending.is_some()
    }

    /// Acts on VMGEXIT.
    pub fn handle(&mut self, host: &mut dyn GhcbHost) -> Outcome {
        let outcome = if self.msr & msr::CODE_MASK != 0 {
            self.handle_msr(host)
        } else {
            match Mapped::map(host, self.msr) {
                Some(mapped) => {
                    self.mapped = Some(Box::new(mapped));
                    self.handle_page(host)
                }
                None => Outcome::Resume,
            }
        };
        self.settle(host, outcome)
    }

    /// Goes on after an exit or a hold.
    pub fn complete(&mut self, host: &mut dyn GhcbHost, answer: Answer<'_>) -> Outcome {
        let outcome = match self.pending.take() {
            None => Outcome::Resume,
            Some(pending) => self.go_on(host, pending, answer),
        };
        self.settle(host, outcome)
    }

    /// A SIPI for this vCPU (`sev_vcpu_deliver_sipi_vector`): the first starts the processor as
    /// the monitor set it up, later ones end a hold.
    pub fn deliver_sipi(&mut self) {
        if !std::mem::replace(&mut self.sipi_seen, true) {
            return;
        }
        match self.hold {
            Hold::None => {}
            Hold::Page => {
                if let Some(mapped) = &mut self.mapped {
                    mapped.no_action(1);
                }
            }
            Hold::Msr => self.msr = 1 << 12 | msr::AP_RESET_HOLD_RESP,
        }
    }

    /// Writes the reply when the guest is entered again.
    fn settle(&mut self, host: &mut dyn GhcbHost, outcome: Outcome) -> Outcome {
        match &outcome {
            Outcome::Resume => {
                self.hold = Hold::None;
                if let Some(mapped) = self.mapped.take() {
                    mapped.unmap(host);
                }
            }
            Outcome::Fail(_) => {
                self.pending = None;
                self.mapped = None;
            }
            Outcome::Hold | Outcome::Exit(_) => {
                self.pending.get_or_insert(Pending::Reply);
            }
        }
        outcome
    }

    fn go_on(&mut self, host: &mut dyn GhcbHost, pending: Pending, answer: Answer<'_>) -> Outcome {
        match (pending, answer) {
            (Pending::Reply, _) => Outcome::Resume,
            (Pending::PortIn { size }, Answer::Io(data)) => self.port_in_done(size, data),
            (Pending::StringIn { gpa, bytes }, Answer::Io(data)) => {
                host.write_shared(gpa, &data[..bytes.min(data.len())]);
                Outcome::Resume
            }
            (Pending::MmioRead { gpa, len }, Answer::Mmio(data)) => {
                host.write_shared(gpa, &data[..len]);
                Outcome::Resume
            }
            (Pending::PscMsr, Answer::Hypercall(ret)) => {
                if !legal_map_gpa(ret) {
                    return Outcome::Fail(EINVAL);
                }
                self.msr = if ret == 0 { msr::PSC_RESP } else { PSC_MSR_ERROR };
                Outcome::Resume
            }
            (Pending::Psc(state), Answer::Hypercall(ret)) => {
                if !legal_map_gpa(ret) {
                    return Outcome::Fail(EINVAL);
                }
                self.psc_go_on(host, &state, ret)
            }
            (Pending::Vmmcall, Answer::Hypercall(ret)) => {
                if !legal_map_gpa(ret) {
                    return Outcome::Fail(EINVAL);
                }
                if let Some(mapped) = &mut self.mapped {
                    // KVM passes the positive number on as it is.
                    mapped.regs.rax = ret;
                }
                Outcome::Resume
            }
            (Pending::Certs { request, response }, Answer::Certs { ret, npages }) => {
                self.certs_done(host, request, response, ret, npages)
            }
            // The front end answers what was asked; anything else is a caller's mistake.
            _ => Outcome::Fail(EINVAL),
        }
    }

    /// The MSR protocol (`sev_handle_vmgexit_msr_protocol`).
    fn handle_msr(&mut self, host: &mut dyn GhcbHost) -> Outcome {
        let value = self.msr;
        let gfn = value >> 12;
        match value & msr::CODE_MASK {
            msr::SEV_INFO_REQ => self.msr = self.reset,
            msr::CPUID_REQ => {
                let out = host.cpuid((value >> 32) as u32, 0, None, None);
                let register = out[(value >> 30 & 3) as usize];
                self.msr = u64::from(register) << 32
                    | value & 0xffff_ffff & !msr::CODE_MASK
                    | msr::CPUID_RESP;
            }
            msr::AP_RESET_HOLD_REQ => {
                self.msr = msr::AP_RESET_HOLD_RESP;
                self.hold = Hold::Msr;
                return Outcome::Hold;
            }
            msr::PREFERRED_GPA_REQ => self.msr = !msr::CODE_MASK | msr::PREFERRED_GPA_RESP,
            msr::REGISTER_GPA_REQ => {
                self.registered = Some(gfn << 12);
                self.msr = gfn << 12 | msr::REGISTER_GPA_RESP;
            }
            msr::PSC_REQ => return self.psc_msr(host, value),
            msr::HV_FEATURES_REQ => self.msr = HV_FEATURES << 12 | msr::HV_FEATURES_RESP,
            msr::TERM_REQ => return Outcome::Exit(GhcbExit::Terminate { data: value }),
            // The guest finds its own request as the answer.
            _ => {}
        }
        Outcome::Resume
    }

    fn psc_msr(&mut self, host: &mut dyn GhcbHost, value: u64) -> Outcome {
        let private = match (value >> 52 & 0xf) as u8 {
            psc_op::PRIVATE => MapGpaAttributes::ENCRYPTED,
            psc_op::SHARED => 0,
            _ => {
                self.msr = PSC_MSR_ERROR;
                return Outcome::Resume;
            }
        };
        if !host.map_gpa_exits() {
            self.msr = PSC_MSR_ERROR;
            return Outcome::Resume;
        }
        self.pending = Some(Pending::PscMsr);
        Outcome::Exit(GhcbExit::MapGpaRange {
            gpa: value & 0x000f_ffff_ffff_f000,
            npages: 1,
            attributes: private,
            flags: 0,
        })
    }
}

/// Features that KVM offers.
const HV_FEATURES: u64 = hv_feature::SNP | hv_feature::AP_CREATION;

/// Failed page state change by MSR.
const PSC_MSR_ERROR: u64 = 1 << 63 | msr::PSC_RESP;

/// Answers to MAP_GPA_RANGE that KVM lets through (`kvm_is_valid_map_gpa_range_ret`).
fn legal_map_gpa(ret: u64) -> bool {
    ret == 0 || ret == EINVAL as u64 || ret == EAGAIN as u64
}

#[cfg(test)]
#[path = "../ghcb_test.rs"]
mod ghcb_test;
