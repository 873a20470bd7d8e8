//! The guest-hypervisor communication block (GHCB specification, AMD publication 56421, rev.
//! 2.03), as far as an SNP guest on mainline KVM meets it.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The protocol version that SNP needs and KVM offers at most.
pub const PROTOCOL_VERSION: u16 = 2;

/// The GHCB page (GHCB specification 56421, table 3 "GHCB Layout").
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "fields bear the names of the registers they carry")]
pub struct Ghcb {
    pub reserved_0: [u8; 0xcb],
    pub cpl: u8,
    pub reserved_cc: [u8; 0x74],
    pub xss: u64,
    pub reserved_148: [u8; 0x18],
    pub dr7: u64,
    pub reserved_168: [u8; 0x10],
    pub rip: u64,
    pub reserved_180: [u8; 0x58],
    pub rsp: u64,
    pub reserved_1e0: [u8; 0x18],
    pub rax: u64,
    pub reserved_200: [u8; 0x108],
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub reserved_320: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8_15: [u64; 8],
    pub reserved_380: [u8; 16],
    pub sw_exit_code: u64,
    pub sw_exit_info_1: u64,
    pub sw_exit_info_2: u64,
    pub sw_scratch: u64,
    pub reserved_3b0: [u8; 56],
    pub xcr0: u64,
    /// Bit `i` says that the quadword at `8 * i` is valid.
    pub valid_bitmap: [u8; 16],
    pub x87_state_gpa: u64,
    pub reserved_408: [u8; 0x3f8],
    /// Buffer of the scratch area.
    pub shared_buffer: [u8; SHARED_BUFFER_SIZE],
    pub reserved_ff0: [u8; 10],
    pub protocol_version: u16,
    /// 0: this layout.
    pub ghcb_usage: u32,
}

/// Bytes of [`Ghcb::shared_buffer`].
pub const SHARED_BUFFER_SIZE: usize = 0x7f0;
/// Offset of [`Ghcb::shared_buffer`].
pub const SHARED_BUFFER_OFFSET: usize = offset_of!(Ghcb, shared_buffer);

const _: () = assert!(size_of::<Ghcb>() == 4096);
const _: () = assert!(offset_of!(Ghcb, cpl) == 0xcb);
const _: () = assert!(offset_of!(Ghcb, xss) == 0x140);
const _: () = assert!(offset_of!(Ghcb, dr7) == 0x160);
const _: () = assert!(offset_of!(Ghcb, rip) == 0x178);
const _: () = assert!(offset_of!(Ghcb, rsp) == 0x1d8);
const _: () = assert!(offset_of!(Ghcb, rax) == 0x1f8);
const _: () = assert!(offset_of!(Ghcb, rcx) == 0x308);
const _: () = assert!(offset_of!(Ghcb, rbp) == 0x328);
const _: () = assert!(offset_of!(Ghcb, r8_15) == 0x340);
const _: () = assert!(offset_of!(Ghcb, sw_exit_code) == 0x390);
const _: () = assert!(offset_of!(Ghcb, sw_scratch) == 0x3a8);
const _: () = assert!(offset_of!(Ghcb, xcr0) == 0x3e8);
const _: () = assert!(offset_of!(Ghcb, valid_bitmap) == 0x3f0);
const _: () = assert!(offset_of!(Ghcb, x87_state_gpa) == 0x400);
const _: () = assert!(SHARED_BUFFER_OFFSET == 0x800);
const _: () = assert!(offset_of!(Ghcb, protocol_version) == 0xffa);
const _: () = assert!(offset_of!(Ghcb, ghcb_usage) == 0xffc);

impl Ghcb {
    /// Marks the quadword at `offset` valid.
    pub const fn set_valid(&mut self, offset: usize) {
        let bit = offset >> 3;
        self.valid_bitmap[bit >> 3] |= 1 << (bit & 7);
    }

    /// Whether the quadword at `offset` is valid.
    pub const fn is_valid(&self, offset: usize) -> bool {
        let bit = offset >> 3;
        self.valid_bitmap[bit >> 3] & 1 << (bit & 7) != 0
    }
}

/// The GHCB MSR protocol (GHCB specification 56421, section 2.3.1, table 2). Bits 11:0 of the MSR
/// are the code; zero there means the MSR holds the GHCB's address.
pub mod msr {
    /// The code's bits.
    pub const CODE_MASK: u64 = 0xfff;
    /// Response: protocol versions and C-bit (also the value at reset).
    pub const SEV_INFO_RESP: u64 = 0x001;
    /// Request of [`SEV_INFO_RESP`].
    pub const SEV_INFO_REQ: u64 = 0x002;
    /// Request: one register of one CPUID function.
    pub const CPUID_REQ: u64 = 0x004;
    /// Its response.
    pub const CPUID_RESP: u64 = 0x005;
    /// Request: park until SIPI.
    pub const AP_RESET_HOLD_REQ: u64 = 0x006;
    /// Its response.
    pub const AP_RESET_HOLD_RESP: u64 = 0x007;
    /// Request: preferred GHCB address.
    pub const PREFERRED_GPA_REQ: u64 = 0x010;
    /// Its response.
    pub const PREFERRED_GPA_RESP: u64 = 0x011;
    /// Request: register a GHCB address.
    pub const REGISTER_GPA_REQ: u64 = 0x012;
    /// Its response.
    pub const REGISTER_GPA_RESP: u64 = 0x013;
    /// Request: change the state of one page.
    pub const PSC_REQ: u64 = 0x014;
    /// Its response.
    pub const PSC_RESP: u64 = 0x015;
    /// Request: run another VMPL.
    pub const RUN_VMPL_REQ: u64 = 0x016;
    /// Its response.
    pub const RUN_VMPL_RESP: u64 = 0x017;
    /// Request: hypervisor features.
    pub const HV_FEATURES_REQ: u64 = 0x080;
    /// Its response.
    pub const HV_FEATURES_RESP: u64 = 0x081;
    /// Request: terminate.
    pub const TERM_REQ: u64 = 0x100;

    /// Builds the [`SEV_INFO_RESP`] value.
    pub const fn sev_info(max: u16, min: u16, c_bit: u8) -> u64 {
        (max as u64) << 48 | (min as u64) << 32 | (c_bit as u64) << 24 | SEV_INFO_RESP
    }

    /// Builds a [`PSC_REQ`] value.
    pub const fn psc(gfn: u64, operation: u8) -> u64 {
        (operation as u64 & 0xf) << 52 | (gfn & 0xff_ffff_ffff) << 12 | PSC_REQ
    }

    /// Builds a [`CPUID_REQ`] value; `register` is 0 EAX to 3 EDX.
    pub const fn cpuid(function: u32, register: u8) -> u64 {
        (function as u64) << 32 | (register as u64 & 3) << 30 | CPUID_REQ
    }

    /// Builds a [`TERM_REQ`] value.
    pub const fn terminate(set: u8, reason: u8) -> u64 {
        (reason as u64) << 16 | (set as u64 & 0xf) << 12 | TERM_REQ
    }
}

/// Hypervisor feature bits (GHCB specification 56421, table 5).
pub mod hv_feature {
    /// SNP guests are supported.
    pub const SNP: u64 = 1 << 0;
    /// SNP AP creation is supported.
    pub const AP_CREATION: u64 = 1 << 1;
    /// Restricted injection.
    pub const RESTRICTED_INJECTION: u64 = 1 << 2;
    /// Restricted injection timer.
    pub const RESTRICTED_INJECTION_TIMER: u64 = 1 << 3;
    /// APIC id list.
    pub const APIC_ID_LIST: u64 = 1 << 4;
    /// Several VMPLs.
    pub const MULTI_VMPL: u64 = 1 << 5;
}

/// Exit codes of the page protocol: SVM's own (APM vol. 2, appendix C) and the software-defined
/// ones (GHCB specification 56421, table 7).
pub mod exit {
    /// DR7 read.
    pub const READ_DR7: u64 = 0x27;
    /// DR7 write.
    pub const WRITE_DR7: u64 = 0x37;
    /// RDTSC.
    pub const RDTSC: u64 = 0x6e;
    /// RDPMC.
    pub const RDPMC: u64 = 0x6f;
    /// CPUID.
    pub const CPUID: u64 = 0x72;
    /// INVD.
    pub const INVD: u64 = 0x76;
    /// HLT.
    pub const HLT: u64 = 0x78;
    /// IN, OUT and their string forms.
    pub const IOIO: u64 = 0x7b;
    /// RDMSR and WRMSR.
    pub const MSR: u64 = 0x7c;
    /// VMMCALL.
    pub const VMMCALL: u64 = 0x81;
    /// RDTSCP.
    pub const RDTSCP: u64 = 0x87;
    /// WBINVD.
    pub const WBINVD: u64 = 0x89;
    /// MONITOR.
    pub const MONITOR: u64 = 0x8a;
    /// MWAIT.
    pub const MWAIT: u64 = 0x8b;
    /// XSETBV.
    pub const XSETBV: u64 = 0x8d;
    /// Nested page fault (the #VC code of an MMIO access).
    pub const NPF: u64 = 0x400;
    /// Access to a page that is not validated.
    pub const PAGE_NOT_VALIDATED: u64 = 0x404;
    /// MMIO read.
    pub const MMIO_READ: u64 = 0x8000_0001;
    /// MMIO write.
    pub const MMIO_WRITE: u64 = 0x8000_0002;
    /// NMI complete.
    pub const NMI_COMPLETE: u64 = 0x8000_0003;
    /// AP reset hold.
    pub const AP_RESET_HOLD: u64 = 0x8000_0004;
    /// AP jump table.
    pub const AP_JUMP_TABLE: u64 = 0x8000_0005;
    /// Page state change.
    pub const PSC: u64 = 0x8000_0010;
    /// SNP guest request.
    pub const GUEST_REQUEST: u64 = 0x8000_0011;
    /// SNP extended guest request.
    pub const EXT_GUEST_REQUEST: u64 = 0x8000_0012;
    /// SNP AP creation.
    pub const AP_CREATION: u64 = 0x8000_0013;
    /// #HV doorbell page.
    pub const HV_DOORBELL: u64 = 0x8000_0014;
    /// SNP run VMPL.
    pub const RUN_VMPL: u64 = 0x8000_0018;
    /// Secure AVIC.
    pub const SAVIC: u64 = 0x8000_001a;
    /// Hypervisor features.
    pub const HV_FEATURES: u64 = 0x8000_fffd;
    /// Termination request.
    pub const TERM_REQUEST: u64 = 0x8000_fffe;
    /// Unsupported event.
    pub const UNSUPPORTED_EVENT: u64 = 0x8000_ffff;
}

/// Fields of SW_EXITINFO1 of [`exit::IOIO`] (APM vol. 2, 15.10.2).
pub mod ioio {
    /// IN rather than OUT.
    pub const IN: u64 = 1 << 0;
    /// String form.
    pub const STR: u64 = 1 << 2;
    /// REP prefix.
    pub const REP: u64 = 1 << 3;
    /// One byte.
    pub const SIZE8: u64 = 1 << 4;
    /// Two bytes.
    pub const SIZE16: u64 = 1 << 5;
    /// Four bytes.
    pub const SIZE32: u64 = 1 << 6;
    /// Bits 6:4 are the operand size in bytes.
    pub const SIZE_SHIFT: u32 = 4;
    /// 16-bit addresses.
    pub const ADDR16: u64 = 1 << 7;
    /// 32-bit addresses.
    pub const ADDR32: u64 = 1 << 8;
    /// 64-bit addresses.
    pub const ADDR64: u64 = 1 << 9;
    /// Bits 31:16 are the port.
    pub const PORT_SHIFT: u32 = 16;
}

/// Requests of [`exit::AP_CREATION`] in SW_EXITINFO1 bits 31:0.
pub mod ap_creation {
    /// Start the processor at its next INIT.
    pub const CREATE_ON_INIT: u32 = 0;
    /// Start the processor now.
    pub const CREATE: u32 = 1;
    /// Stop it.
    pub const DESTROY: u32 = 2;
}

/// SW_EXITINFO1 bits 31:0 after an exit (GHCB specification 56421, section 4.1).
pub mod reply {
    /// Nothing to do.
    pub const NO_ACTION: u64 = 0;
    /// SW_EXITINFO2 describes an event to inject.
    pub const ISSUE_EXCEPTION: u64 = 1;
    /// SW_EXITINFO2 is a [`super::input_error`].
    pub const MALFORMED_INPUT: u64 = 2;
}

/// SW_EXITINFO2 when the hypervisor refuses its input (GHCB specification 56421, table 6).
pub mod input_error {
    /// The GHCB was not registered.
    pub const NOT_REGISTERED: u64 = 1;
    /// Unknown GHCB usage.
    pub const INVALID_USAGE: u64 = 2;
    /// The scratch area is not where it may be.
    pub const INVALID_SCRATCH_AREA: u64 = 3;
    /// A required field is not marked valid.
    pub const MISSING_INPUT: u64 = 4;
    /// A field has a value it may not have.
    pub const INVALID_INPUT: u64 = 5;
    /// The exit code is not supported.
    pub const INVALID_EVENT: u64 = 6;
}

/// Header of a page state change (GHCB specification 56421, section 4.1.6, table 8).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PscHeader {
    /// Entry in work.
    pub cur_entry: u16,
    /// Last entry.
    pub end_entry: u16,
    /// Zero.
    pub reserved: u32,
}

/// Entry of a page state change: current page 11:0, frame 51:12, operation 55:52, 2 MiB 56.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct PscEntry(pub u64);

/// Entries that fit in the shared buffer.
pub const PSC_ENTRIES_MAX: usize = 253;
const _: () = assert!(size_of::<PscHeader>() + PSC_ENTRIES_MAX * 8 == SHARED_BUFFER_SIZE);

/// Operations of a page state change.
pub mod psc_op {
    /// Make private.
    pub const PRIVATE: u8 = 1;
    /// Make shared.
    pub const SHARED: u8 = 2;
    /// Split a 2 MiB page.
    pub const PSMASH: u8 = 3;
    /// Merge into a 2 MiB page.
    pub const UNSMASH: u8 = 4;
}

impl PscEntry {
    /// An entry with nothing done yet.
    pub const fn new(gfn: u64, operation: u8, huge: bool) -> Self {
        Self((gfn & 0xff_ffff_ffff) << 12 | (operation as u64 & 0xf) << 52 | (huge as u64) << 56)
    }

    /// How many 4 KiB pages of it are done.
    pub const fn current_page(self) -> u16 {
        (self.0 & 0xfff) as u16
    }

    /// The entry with another progress count.
    pub const fn with_current_page(self, page: u16) -> Self {
        Self(self.0 & !0xfff | page as u64 & 0xfff)
    }

    /// First frame.
    pub const fn gfn(self) -> u64 {
        self.0 >> 12 & 0xff_ffff_ffff
    }

    /// One of [`psc_op`].
    pub const fn operation(self) -> u8 {
        (self.0 >> 52 & 0xf) as u8
    }

    /// Whether it is a 2 MiB page.
    pub const fn huge(self) -> bool {
        self.0 >> 56 & 1 != 0
    }
}

/// SW_EXITINFO2 after a page state change.
pub mod psc_error {
    /// The header is out of bounds.
    pub const INVALID_HEADER: u64 = 1 << 32 | 1;
    /// An entry is out of bounds.
    pub const INVALID_ENTRY: u64 = 1 << 32 | 2;
    /// Anything else.
    pub const GENERIC: u64 = 0x100 << 32;
}

/// Upper half of SW_EXITINFO2 after a guest request (GHCB specification 56421, section 4.1.7).
pub mod guest_request_error {
    /// The certificate buffer is too small; RBX says how many pages it needs.
    pub const INVALID_LEN: u32 = 1;
    /// Try again.
    pub const BUSY: u32 = 2;
    /// Anything else.
    pub const GENERIC: u32 = 0xffff_ffff;
}

/// Why a guest terminates: reason set 0, of the GHCB specification (56421, table 2).
pub mod term_general {
    /// The set's number.
    pub const SET: u8 = 0;
    /// General request.
    pub const GENERAL: u8 = 0;
    /// Protocol version not supported.
    pub const PROTOCOL: u8 = 1;
    /// SNP features not supported.
    pub const SNP_UNSUPPORTED: u8 = 2;
}

/// Why a guest terminates: reason set 1, of Linux (arch/x86/include/asm/sev-common.h).
pub mod term_linux {
    /// The set's number.
    pub const SET: u8 = 1;
    /// GHCB registration failed.
    pub const REGISTER: u8 = 0;
    /// Page state change failed.
    pub const PSC: u8 = 1;
    /// PVALIDATE failed.
    pub const PVALIDATE: u8 = 2;
    /// Not at VMPL0.
    pub const NOT_VMPL0: u8 = 3;
    /// CPUID table is broken.
    pub const CPUID: u8 = 4;
    /// CPUID by the hypervisor failed.
    pub const CPUID_HV: u8 = 5;
    /// Secrets page failed.
    pub const SECRETS_PAGE: u8 = 6;
    /// No SVSM at a lower privilege level.
    pub const NO_SVSM: u8 = 7;
    /// SVSM claims VMPL0.
    pub const SVSM_VMPL0: u8 = 8;
    /// SVSM calling area is not aligned.
    pub const SVSM_CAA: u8 = 9;
    /// Secure TSC set-up failed.
    pub const SECURE_TSC: u8 = 10;
    /// SVSM calling area could not be remapped.
    pub const SVSM_CA_REMAP: u8 = 11;
    /// Secure AVIC failed.
    pub const SAVIC: u8 = 12;
}

/// A sentence for a termination's reason set and code, if it is a known one.
pub const fn termination_reason(set: u8, reason: u8) -> Option<&'static str> {
    Some(match (set, reason) {
        (0, 0) => "general termination request",
        (0, 1) => "no common GHCB protocol version",
        (0, 2) => "SEV-SNP features are not supported",
        (1, 0) => "GHCB registration failed",
        (1, 1) => "page state change failed",
        (1, 2) => "PVALIDATE failed",
        (1, 3) => "not running at VMPL0",
        (1, 4) => "CPUID table is missing or malformed",
        (1, 5) => "CPUID request to the hypervisor failed",
        (1, 6) => "secrets page failed",
        (1, 7) => "no SVSM although not at VMPL0",
        (1, 8) => "SVSM is present but the guest is at VMPL0",
        (1, 9) => "SVSM calling area address is invalid",
        (1, 10) => "Secure TSC set-up failed",
        (1, 11) => "SVSM calling area could not be remapped",
        (1, 12) => "Secure AVIC set-up failed",
        _ => return None,
    })
}
