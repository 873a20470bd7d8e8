//! `/dev/sev` and the SEV-SNP launch commands.
//!
//! Layouts: Linux 7.2 arch/x86/include/uapi/asm/kvm.h. kvm-bindings has those structures with the kernel's sizes; the
//! certificate exit and its command are younger than kvm-bindings 0.14 and stand here.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{
    kvm_sev_cmd, kvm_sev_init, kvm_sev_snp_launch_finish, kvm_sev_snp_launch_start,
    kvm_sev_snp_launch_update,
};

use abi::snp::SevFeatures;

use super::SysError;
use super::sev_status::FirmwareStatus;
use super::target::{LaunchPages, Target};
use super::vm::Vm;
use crate::recorder::{Op, Recorder};

/// The VM type (KVM_X86_SNP_VM).
pub const VM_TYPE_SNP: u64 = 4;

const KVM_SEV_INIT2: u32 = 22;
const KVM_SEV_SNP_LAUNCH_START: u32 = 100;
const KVM_SEV_SNP_LAUNCH_UPDATE: u32 = 101;
const KVM_SEV_SNP_LAUNCH_FINISH: u32 = 102;
const KVM_SEV_SNP_ENABLE_REQ_CERTS: u32 = 103;

// Offsets that other implementations got wrong: host_data follows three byte flags directly.
const _: () = {
    assert!(size_of::<kvm_sev_snp_launch_finish>() == 88);
    assert!(std::mem::offset_of!(kvm_sev_snp_launch_finish, host_data) == 19);
    assert!(std::mem::offset_of!(kvm_sev_snp_launch_finish, flags) == 54);
    assert!(size_of::<kvm_sev_snp_launch_start>() == 64);
    assert!(size_of::<kvm_sev_snp_launch_update>() == 64);
    assert!(size_of::<kvm_sev_init>() == 48);
    assert!(size_of::<kvm_sev_cmd>() == 24);
};

/// An open `/dev/sev`. KVM keeps its descriptor *number* from LAUNCH_START on: it must stay open as long as the VM.
#[derive(Debug)]
pub struct SevDevice {
    file: File,
}

impl SevDevice {
    /// Opens it.
    ///
    /// # Errors
    /// It is missing or not accessible.
    pub fn open(recorder: &mut Recorder) -> Result<SevDevice, SysError> {
        recorder
            .record(Op::OpenSev, "/dev/sev", 0, || {
                OpenOptions::new().read(true).write(true).open("/dev/sev")
            })
            .map(|file| SevDevice { file })
            .map_err(|source| SysError::Open { device: "/dev/sev", source })
    }

    /// The device.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    fn number(&self) -> u32 {
        u32::try_from(self.file.as_raw_fd()).unwrap_or(u32::MAX)
    }
}

/// What LAUNCH_FINISH seals beside the digest.
#[derive(Debug)]
pub struct FinishParams<'a> {
    /// 32 bytes that appear in reports.
    pub host_data: [u8; 32],
    /// ID block and its authentication.
    pub id_block: Option<(&'a [u8; 96], &'a [u8; 4096])>,
    /// The authentication carries an author key.
    pub author_key: bool,
}

/// A region to add to the launch.
#[derive(Clone, Copy, Debug)]
pub struct UpdateParams {
    /// Where it goes.
    pub gpa: u64,
    /// The page type of the firmware ABI, table 67: 1 normal, 3 zero, 4 unmeasured, 5 secrets, 6 CPUID.
    pub page_type: u8,
    /// Its name in reports.
    pub tag: &'static str,
}

fn issue<T>(
    vm: &Vm,
    id: u32,
    data: &mut T,
    sev: &SevDevice,
) -> (Result<(), io::Error>, FirmwareStatus) {
    // `error` is what the firmware said; it keeps what we put there if the firmware was not asked, hence 0.
    let mut command = kvm_sev_cmd {
        id,
        data: std::ptr::from_mut(data) as u64,
        error: 0,
        sev_fd: sev.number(),
        ..Default::default()
    };
    let result = vm.fd().encrypt_op_sev(&mut command).map_err(io::Error::from);
    (result, FirmwareStatus(command.error))
}

fn check(
    (result, status): (Result<(), io::Error>, FirmwareStatus),
    command: &'static str,
    target: impl FnOnce() -> Target,
) -> Result<(), SysError> {
    result.map_err(|source| SysError::Launch { command, target: target(), source, status })
}

/// KVM_SEV_INIT2: makes the VM an SEV-SNP one, GHCB protocol 2, with these optional VMSA features.
///
/// # Errors
/// No ASID is left, the host lacks a feature, or it refuses.
pub fn init2(
    recorder: &mut Recorder,
    vm: &Vm,
    sev: &SevDevice,
    features: SevFeatures,
) -> Result<(), SysError> {
    let mut init =
        kvm_sev_init { vmsa_features: features.0, flags: 0, ghcb_version: 2, ..Default::default() };
    let answer = recorder.record_both(
        Op::SecurityInit,
        "KVM_SEV_INIT2",
        0,
        || vm.clock(),
        || issue(vm, KVM_SEV_INIT2, &mut init, sev),
    );
    match answer {
        (Err(source), _) if source.raw_os_error() == Some(libc::EBUSY) => Err(SysError::NoneLeft {
            what: "ASID for a confidential guest",
            command: "KVM_SEV_INIT2",
            source,
            cure: "stop another confidential guest, or give the misc cgroup a higher sev_es limit",
        }),
        // All else that it refuses so is of our own making, and never asked for.
        (Err(source), _) if features.0 != 0 && source.raw_os_error() == Some(libc::EINVAL) => {
            Err(SysError::Missing {
                what: "its KVM gives no guest Secure TSC".into(),
                cure: "leave secure-tsc out of --snp=…, or use an EPYC 9004 or newer and Linux 6.18 or newer; with \
                       --emulate, the profile epyc-genoa",
            })
        }
        answer => check(answer, "KVM_SEV_INIT2", || Target::Whole),
    }
}

/// KVM_SEV_SNP_ENABLE_REQ_CERTS: certificate requests of the guest exit to user space.
///
/// # Errors
/// The host's kernel is too old.
pub fn enable_certificate_exit(
    recorder: &mut Recorder,
    vm: &Vm,
    sev: &SevDevice,
) -> Result<(), SysError> {
    let answer = recorder.record(Op::EnableCerts, "KVM_SEV_SNP_ENABLE_REQ_CERTS", 0, || {
        issue(vm, KVM_SEV_SNP_ENABLE_REQ_CERTS, &mut 0u64, sev)
    });
    check(answer, "KVM_SEV_SNP_ENABLE_REQ_CERTS", || Target::Whole)
}

/// KVM_SEV_SNP_LAUNCH_START.
///
/// # Errors
/// The firmware refuses the policy, or the host refuses the call.
pub fn launch_start(
    recorder: &mut Recorder,
    vm: &Vm,
    sev: &SevDevice,
    policy: u64,
) -> Result<(), SysError> {
    let mut start = kvm_sev_snp_launch_start { policy, ..Default::default() };
    let answer = recorder.record_both(
        Op::LaunchStart,
        "LAUNCH_START",
        0,
        || vm.clock(),
        || issue(vm, KVM_SEV_SNP_LAUNCH_START, &mut start, sev),
    );
    check(answer, "KVM_SEV_SNP_LAUNCH_START", || Target::Words(format!("for policy {policy:#x}")))
}

/// KVM_SEV_SNP_LAUNCH_UPDATE for a whole region. The kernel may stop part of the way, having rewritten the request to
/// what is left (arch/x86/kvm/svm/sev.c snp_launch_update); this goes on until nothing is left.
///
/// `source` must be page aligned, and writable where the type is CPUID: the firmware's corrected page is put there.
///
/// # Errors
/// The first page that is refused.
pub fn launch_update(
    recorder: &mut Recorder,
    vm: &Vm,
    sev: &SevDevice,
    params: UpdateParams,
    source: &mut [u8],
) -> Result<(), SysError> {
    const COMMAND: &str = "KVM_SEV_SNP_LAUNCH_UPDATE";
    let len = source.len() as u64;
    // The request says where it stopped: at the page that was refused.
    let stopped = |gfn: u64| {
        Target::Pages(LaunchPages {
            gpa: gfn << 12,
            kind: page_kind(params.page_type),
            tag: params.tag,
            done: gfn.saturating_sub(params.gpa >> 12),
            count: len >> 12,
        })
    };
    let mut request = kvm_sev_snp_launch_update {
        gfn_start: params.gpa >> 12,
        uaddr: source.as_mut_ptr() as u64,
        len,
        type_: params.page_type,
        ..Default::default()
    };
    recorder.record_both(
        Op::LaunchUpdate,
        params.tag,
        len,
        || vm.clock(),
        || {
            while request.len != 0 {
                let left = request.len;
                let answer = issue(vm, KVM_SEV_SNP_LAUNCH_UPDATE, &mut request, sev);
                // Kernels before 6.12 document EAGAIN; no progress at all twice in a row would be an endless loop.
                let again = matches!(&answer.0, Err(e) if e.raw_os_error() == Some(libc::EAGAIN))
                    && request.len < left;
                if !again {
                    check(answer, COMMAND, || stopped(request.gfn_start))?;
                }
                if request.len >= left && request.len != 0 {
                    let source = io::Error::from_raw_os_error(libc::EAGAIN);
                    let answer = (Err(source), FirmwareStatus::SUCCESS);
                    return check(answer, COMMAND, || stopped(request.gfn_start));
                }
            }
            Ok(())
        },
    )
}

/// KVM_SEV_SNP_LAUNCH_FINISH: measures the VMSAs and seals the guest. Not repeatable.
///
/// # Errors
/// The firmware refuses the ID block, or the host the call.
pub fn launch_finish(
    recorder: &mut Recorder,
    vm: &Vm,
    sev: &SevDevice,
    params: &FinishParams,
) -> Result<(), SysError> {
    let mut finish =
        kvm_sev_snp_launch_finish { host_data: params.host_data, ..Default::default() };
    if let Some((block, auth)) = params.id_block {
        finish.id_block_en = 1;
        finish.auth_key_en = u8::from(params.author_key);
        finish.id_block_uaddr = block.as_ptr() as u64;
        finish.id_auth_uaddr = auth.as_ptr() as u64;
    }
    let answer = recorder.record_both(
        Op::LaunchFinish,
        "LAUNCH_FINISH",
        0,
        || vm.clock(),
        || issue(vm, KVM_SEV_SNP_LAUNCH_FINISH, &mut finish, sev),
    );
    check(answer, "KVM_SEV_SNP_LAUNCH_FINISH", || match params.id_block {
        Some(_) => Target::Words("with an ID block".into()),
        None => Target::Whole,
    })
}

/// A page type in words (firmware ABI, table 67).
fn page_kind(page_type: u8) -> &'static str {
    match page_type {
        1 => "measured",
        3 => "zero",
        4 => "unmeasured",
        5 => "secrets",
        6 => "CPUID",
        _ => "unknown",
    }
}
