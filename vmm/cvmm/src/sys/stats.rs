//! KVM's binary statistics of a VM or vCPU (Linux Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD).
//!
//! UNSAFETY: one ioctl without argument, whose result is a descriptor that nobody else owns.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use vmm_sys_util::ioctl::ioctl;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::SysError;
use super::target::Target;
use super::vcpu::Vcpu;
use super::vm::Vm;
use crate::recorder::{Op, Recorder};

/// _IO(KVMIO, 0xce).
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;
/// More descriptors, or values of one, than any kernel has: the file is no such file.
const MANY: u32 = 4096;
/// All exits of a vCPU.
const EXITS: &str = "exits";

/// `struct kvm_stats_header`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Header {
    flags: u32,
    name_size: u32,
    num_desc: u32,
    id_offset: u32,
    desc_offset: u32,
    data_offset: u32,
}

/// `struct kvm_stats_desc` without the name behind it.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Descriptor {
    flags: u32,
    exponent: i16,
    size: u16,
    offset: u32,
    bucket_size: u32,
}

/// One statistic: where its values are.
#[derive(Clone, Debug)]
struct Statistic {
    name: String,
    offset: u64,
    values: usize,
}

/// The statistics of one VM or vCPU.
#[derive(Debug)]
pub struct Stats {
    file: File,
    statistics: Vec<Statistic>,
    exits: Option<u64>,
}

impl Stats {
    /// Of a VM; nothing where the kernel has none (before Linux 5.14).
    ///
    /// # Errors
    /// The ioctl's.
    pub fn of_vm(vm: &Vm, recorder: &mut Recorder) -> Result<Option<Stats>, SysError> {
        Stats::open(vm.fd(), Target::Words("for the VM".into()), recorder)
    }

    /// Of a vCPU.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn of_vcpu(vcpu: &Vcpu, recorder: &mut Recorder) -> Result<Option<Stats>, SysError> {
        Stats::open(vcpu.fd(), Target::vcpu(vcpu.id()), recorder)
    }

    fn open(
        fd: &impl AsRawFd,
        target: Target,
        recorder: &mut Recorder,
    ) -> Result<Option<Stats>, SysError> {
        let file = recorder.record(Op::OpenStats, "KVM_GET_STATS_FD", 0, || {
            // SAFETY: the request has no argument.
            let stats = unsafe { ioctl(fd, KVM_GET_STATS_FD) };
            if stats < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
            Ok(unsafe { File::from_raw_fd(stats) })
        });
        match file {
            Ok(file) => Ok(Stats::parse(file).ok()),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL)) => {
                Ok(None)
            }
            Err(error) => Err(SysError::on("KVM_GET_STATS_FD", target)(error)),
        }
    }

    fn parse(file: File) -> io::Result<Stats> {
        let absurd = || io::Error::from(io::ErrorKind::InvalidData);
        let mut header = Header::new_zeroed();
        file.read_exact_at(header.as_mut_bytes(), 0)?;
        if header.num_desc > MANY || header.name_size > MANY {
            return Err(absurd());
        }
        // One read for all of them: there are about a hundred, and a guest waits.
        let each = size_of::<Descriptor>() + header.name_size as usize;
        let mut table = vec![0; each * header.num_desc as usize];
        file.read_exact_at(&mut table, u64::from(header.desc_offset))?;
        let mut statistics = Vec::with_capacity(header.num_desc as usize);
        for entry in table.chunks_exact(each) {
            let (descriptor, name) = Descriptor::read_from_prefix(entry).map_err(|_| absurd())?;
            let name = name.split(|c| *c == 0).next().unwrap_or_default();
            statistics.push(Statistic {
                name: String::from_utf8_lossy(name).into_owned(),
                offset: u64::from(header.data_offset) + u64::from(descriptor.offset),
                values: usize::from(descriptor.size).min(MANY as usize),
            });
        }
        let exits = statistics.iter().find(|s| s.name == EXITS).map(|s| s.offset);
        Ok(Stats { file, statistics, exits })
    }

    /// How often the vCPU has exited so far, to whomever.
    pub fn exits(&self) -> Option<u64> {
        self.one(self.exits?)
    }

    /// Where the value with this name is, for [`Stats::one`].
    pub fn find(&self, name: &str) -> Option<u64> {
        self.statistics.iter().find(|s| s.name == name).map(|s| s.offset)
    }

    /// The present value there.
    pub fn one(&self, offset: u64) -> Option<u64> {
        let mut value = [0; 8];
        self.file.read_exact_at(&mut value, offset).ok()?;
        Some(u64::from_le_bytes(value))
    }

    /// Everything that is not 0; histograms have more than one value.
    pub fn read(&self) -> BTreeMap<String, Vec<u64>> {
        let values = |statistic: &Statistic| {
            let mut bytes = vec![0; statistic.values * 8];
            self.file.read_exact_at(&mut bytes, statistic.offset).ok()?;
            let words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
            Some(words.collect::<Vec<_>>()).filter(|values| values.iter().any(|v| *v != 0))
        };
        self.statistics.iter().filter_map(|s| Some((s.name.clone(), values(s)?))).collect()
    }
}

/// The statistics of a VM and of its vCPUs.
#[derive(Debug, Default)]
pub struct AllStats {
    /// The VM's.
    pub vm: Option<Stats>,
    /// The vCPUs', all of them or none.
    pub vcpus: Vec<Stats>,
}

impl AllStats {
    /// Opens them.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn open(vm: &Vm, vcpus: &[Vcpu], recorder: &mut Recorder) -> Result<AllStats, SysError> {
        let Some(of_vm) = Stats::of_vm(vm, recorder)? else { return Ok(AllStats::default()) };
        let mut all = AllStats { vm: Some(of_vm), vcpus: Vec::new() };
        for vcpu in vcpus {
            all.vcpus.extend(Stats::of_vcpu(vcpu, recorder)?);
        }
        if all.vcpus.len() < vcpus.len() {
            all.vcpus.clear();
        }
        Ok(all)
    }

    /// All exits of all vCPUs so far.
    pub fn exits(&self) -> Option<u64> {
        if self.vcpus.is_empty() {
            return None;
        }
        self.vcpus.iter().map(Stats::exits).sum()
    }
}
