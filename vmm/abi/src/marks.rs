//! Phase marks: single values that the shim and the test `/init` write to one port.
//!
//! A mark is one 32-bit OUT to [`MARK_PORT`]: bits 31:24 name the mark, bits 23:0 carry a number whose meaning the mark
//! defines. Each costs an exit, so there is none inside a loop. The monitor stamps the time; the guest sends none.
//!
//! A program in a guest whose kernel grants it no ports (a TD) sends [`Mark::on_console`] instead, a sequence that
//! terminals ignore and that the monitor takes out of the console's output. It costs an exit for every byte, and comes as
//! late as the kernel's terminal lets it.

/// Port of the phase marks, written with a 32-bit OUT.
pub const MARK_PORT: u16 = 0xF4;

/// Name of a mark: bits 31:24 of the value written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MarkId(pub u8);

impl MarkId {
    /// The shim runs and can talk (under SNP: its GHCB page is registered). No number.
    pub const SHIM_ENTRY: Self = Self(0x01);
    /// The shim starts to accept memory. No number.
    pub const ACCEPT_BEGIN: Self = Self(0x02);
    /// Memory is accepted. Number: pages validated as 4 KiB, in units of 512 rounded up.
    pub const ACCEPT_END: Self = Self(0x03);
    /// How often a 2 MiB PVALIDATE was answered with a size mismatch. Sent right after [`Self::ACCEPT_END`].
    pub const ACCEPT_MISMATCHES: Self = Self(0x04);
    /// Copying and checking of a blob starts. Number: [`BLOB_KERNEL`], [`BLOB_INITRD`] or [`BLOB_CMDLINE`].
    pub const VERIFY_BEGIN: Self = Self(0x05);
    /// The blob is in private memory and its digest is right. Number as for [`Self::VERIFY_BEGIN`].
    pub const VERIFY_END: Self = Self(0x06);
    /// The staging area has become private and accepted. Number: its pages accepted as 4 KiB.
    pub const STAGING_RECLAIMED: Self = Self(0x07);
    /// The kernel image is at its place (ELF segments copied) and boot_params are built. No number.
    pub const LOAD_END: Self = Self(0x08);
    /// Last mark of the shim: it wipes itself and jumps to the kernel. No number.
    pub const KERNEL_ENTRY: Self = Self(0x09);
    /// How many pages were accepted as 4 KiB, exactly while they are fewer than [`Mark::NUMBER_MAX`] (64 GiB). It and the
    /// next are sent after [`Self::ACCEPT_MISMATCHES`] and count, as that does, what the shim accepted between the marks of
    /// acceptance. The pages that its first instructions accept, and its GHCB page, are in none of these counts.
    pub const ACCEPT_SMALL: Self = Self(0x0A);
    /// How many were accepted as 2 MiB.
    pub const ACCEPT_LARGE: Self = Self(0x0B);
    /// How many pages of the staging area were accepted as 2 MiB. It and the next are sent after
    /// [`Self::STAGING_RECLAIMED`].
    pub const STAGING_LARGE: Self = Self(0x0C);
    /// How often a 2 MiB PVALIDATE of the staging area was answered with a size mismatch.
    pub const STAGING_MISMATCHES: Self = Self(0x0D);
    /// Of what [`Self::ACCEPT_END`] is about, how many units of 2 MiB, or parts of one, other processors accepted. Only where
    /// they may ([`crate::shim::Flags::PARALLEL`]).
    pub const ACCEPT_HELPED: Self = Self(0x0E);

    /// A firmware image has fetched the first piece of the kernel; the monitor sets this mark itself. No number.
    pub const KERNEL_FETCH_BEGIN: Self = Self(0x20);
    /// It has fetched the last. What the firmware does after that, nobody outside can tell from the kernel. No number.
    pub const KERNEL_FETCH_END: Self = Self(0x21);

    /// `/init` of a test guest runs its first instruction. No number.
    pub const INIT_ENTRY: Self = Self(0x40);
    /// `/init` has mounted what it needs and loaded its modules. No number.
    pub const INIT_MODULES: Self = Self(0x41);
    /// User space is ready (`cvmm-init: ready` is on the console). Number: online CPUs.
    pub const INIT_READY: Self = Self(0x42);
    /// `/init` asks for an attestation report. No number.
    pub const ATTEST_BEGIN: Self = Self(0x43);
    /// The attestation report is there. Number: 0 for success, else the errno.
    pub const ATTEST_END: Self = Self(0x44);
    /// `/init` is about to power the machine off. No number.
    pub const INIT_POWEROFF: Self = Self(0x45);
    /// `/init` starts to measure ([`crate::probes`]). Number: how many samples each probe is to take.
    pub const PROBE_BEGIN: Self = Self(0x46);
    /// `/init` has measured. Number: how many records it has sent.
    pub const PROBE_END: Self = Self(0x47);
    /// A mark that is written for its own cost. Number: the how manyth.
    pub const TEST: Self = Self(0x48);

    /// A record begins ([`crate::records`]). Number: its kind in bits 23:16, its bytes in bits 15:0. These three are no
    /// marks of a phase, so they have no names.
    pub const RECORD_BEGIN: Self = Self(0x60);
    /// Up to three bytes of a record.
    pub const RECORD_DATA: Self = Self(0x61);
    /// A record ends. Number: its check.
    pub const RECORD_END: Self = Self(0x62);

    /// Every mark with its short name, as reports and `--until` spell it.
    pub const NAMES: &'static [(Self, &'static str)] = &[
        (Self::SHIM_ENTRY, "shim-entry"),
        (Self::ACCEPT_BEGIN, "accept-begin"),
        (Self::ACCEPT_END, "accept-end"),
        (Self::ACCEPT_MISMATCHES, "accept-mismatches"),
        (Self::VERIFY_BEGIN, "verify-begin"),
        (Self::VERIFY_END, "verify-end"),
        (Self::STAGING_RECLAIMED, "staging-reclaimed"),
        (Self::LOAD_END, "load-end"),
        (Self::KERNEL_ENTRY, "kernel-entry"),
        (Self::ACCEPT_SMALL, "accept-small"),
        (Self::ACCEPT_LARGE, "accept-large"),
        (Self::STAGING_LARGE, "staging-large"),
        (Self::STAGING_MISMATCHES, "staging-mismatches"),
        (Self::ACCEPT_HELPED, "accept-helped"),
        (Self::KERNEL_FETCH_BEGIN, "kernel-fetch-begin"),
        (Self::KERNEL_FETCH_END, "kernel-fetch-end"),
        (Self::INIT_ENTRY, "init-entry"),
        (Self::INIT_MODULES, "init-modules"),
        (Self::INIT_READY, "init-ready"),
        (Self::ATTEST_BEGIN, "attest-begin"),
        (Self::ATTEST_END, "attest-end"),
        (Self::INIT_POWEROFF, "init-poweroff"),
        (Self::PROBE_BEGIN, "probe-begin"),
        (Self::PROBE_END, "probe-end"),
        (Self::TEST, "test"),
    ];

    /// Short name of a known mark.
    pub fn name(self) -> Option<&'static str> {
        Self::NAMES.iter().find(|(id, _)| *id == self).map(|(_, name)| *name)
    }

    /// The mark with this short name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, n)| *n == name).map(|(id, _)| *id)
    }
}

/// Number of the kernel in blob marks.
pub const BLOB_KERNEL: u32 = 0;
/// Number of the initrd in blob marks.
pub const BLOB_INITRD: u32 = 1;
/// Number of the command line in blob marks.
pub const BLOB_CMDLINE: u32 = 2;

/// The 32-bit value written to [`MARK_PORT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub u32);

impl Mark {
    /// Largest number a mark carries; larger ones are sent as this.
    pub const NUMBER_MAX: u32 = 0x00FF_FFFF;

    /// A mark with a number, which saturates.
    pub const fn new(id: MarkId, number: u32) -> Self {
        let number = if number > Self::NUMBER_MAX { Self::NUMBER_MAX } else { number };
        Self((id.0 as u32) << 24 | number)
    }

    /// What starts a mark on the console: an operating system command (ECMA-48, 8.3.89).
    pub const CONSOLE_PREFIX: [u8; 7] = *b"\x1b]cvmm;";
    /// What ends it, after eight hexadecimal digits.
    pub const CONSOLE_END: u8 = 0x07;

    /// The mark as it is written to the console.
    pub fn on_console(self) -> [u8; 16] {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        let mut text = [Self::CONSOLE_END; 16];
        text[..7].copy_from_slice(&Self::CONSOLE_PREFIX);
        for (n, digit) in text[7..15].iter_mut().enumerate() {
            *digit = DIGITS[(self.0 >> (28 - 4 * n) & 0xF) as usize];
        }
        text
    }

    /// Which mark this is.
    pub const fn id(self) -> MarkId {
        MarkId((self.0 >> 24) as u8)
    }

    /// The number it carries.
    pub const fn number(self) -> u32 {
        self.0 & Self::NUMBER_MAX
    }
}
