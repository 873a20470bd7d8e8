//! KVM_IRQFD and KVM_IOEVENTFD (Linux virt/kvm/eventfd.c).
//!
//! UNSAFETY: polls an array of its own.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{kvm_ioeventfd, kvm_irqfd};

use super::errno::{Answer, Errno};
use super::fd::Owned;
use crate::chipset::{Chipset, Source};

/// An eventfd of the caller's: a duplicate, and what the kernel calls it. Eventfds share an inode.
#[derive(Debug)]
struct Given {
    fd: Owned,
    id: u64,
}

impl Given {
    fn new(number: RawFd) -> Answer<Self> {
        let fd = Owned::duplicate(number)?;
        let id = fd.eventfd_id().ok_or(Errno::EINVAL)?;
        Ok(Self { fd, id })
    }
}

/// The eventfds of one machine that interrupt a guest: each can do so for one GSI of one VM only.
#[derive(Debug, Default)]
pub struct Claims(Mutex<BTreeSet<u64>>);

impl Claims {
    fn take(self: &Arc<Self>, id: u64) -> Answer<Claim> {
        let new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        if new { Ok(Claim { all: self.clone(), id }) } else { Err(Errno::EBUSY) }
    }
}

#[derive(Debug)]
struct Claim {
    all: Arc<Claims>,
    id: u64,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

#[derive(Debug)]
struct IrqFd {
    event: Given,
    _claim: Claim,
    gsi: u32,
    resample: Option<Given>,
}

#[derive(Debug)]
struct IoEventFd {
    event: Given,
    addr: u64,
    len: u32,
    datamatch: Option<u64>,
    pio: bool,
}

/// All eventfds of a VM.
#[derive(Debug, Default)]
pub struct Eventfds {
    irqs: Vec<IrqFd>,
    ios: Vec<IoEventFd>,
}

impl Eventfds {
    /// KVM_IRQFD.
    pub fn irqfd(
        &mut self,
        args: &kvm_irqfd,
        claims: &Arc<Claims>,
        chipset: &mut Chipset,
    ) -> Answer {
        const DEASSIGN: u32 = 1;
        const RESAMPLE: u32 = 2;
        Errno::require(args.flags & !(DEASSIGN | RESAMPLE) == 0)?;
        Errno::require(args.gsi < crate::chipset::MAX_ROUTES)?;
        let event = Given::new(args.fd as RawFd)?;
        if args.flags & DEASSIGN != 0 {
            self.irqs.retain(|irq| !(irq.gsi == args.gsi && irq.event.id == event.id));
            self.watch(args.gsi, chipset);
            return Ok(());
        }
        let claim = claims.take(event.id)?;
        let resample = if args.flags & RESAMPLE != 0 {
            Some(Given::new(args.resamplefd as RawFd)?)
        } else {
            None
        };
        self.irqs.push(IrqFd { event, _claim: claim, gsi: args.gsi, resample });
        self.watch(args.gsi, chipset);
        Ok(())
    }

    fn watch(&self, gsi: u32, chipset: &mut Chipset) {
        let on = self.irqs.iter().any(|irq| irq.gsi == gsi && irq.resample.is_some());
        chipset.watch_gsi(gsi, on);
    }

    /// Passes on what the irqfds have been signalled.
    pub fn poll(&self, chipset: &mut Chipset) {
        if self.irqs.is_empty() {
            return;
        }
        let mut fds: Vec<libc::pollfd> = Vec::with_capacity(self.irqs.len());
        self.add_poll(&mut fds);
        // SAFETY: an array of our own.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, 0) };
        if ready <= 0 {
            return;
        }
        for (irq, poll) in self.irqs.iter().zip(&fds) {
            if poll.revents & libc::POLLIN == 0 || irq.event.fd.drain() == 0 {
                continue;
            }
            if irq.resample.is_some() {
                chipset.set_irq(irq.gsi, true, Source::Resample);
            } else {
                chipset.set_irq(irq.gsi, true, Source::User);
                chipset.set_irq(irq.gsi, false, Source::User);
            }
        }
    }

    /// Adds all irqfds to a poll.
    pub fn add_poll(&self, fds: &mut Vec<libc::pollfd>) {
        fds.extend(self.irqs.iter().map(|irq| libc::pollfd {
            fd: irq.event.fd.number(),
            events: libc::POLLIN,
            revents: 0,
        }));
    }

    /// The guest has ended the interrupt of a GSI: lines with resampling go down and their
    /// monitors are told.
    pub fn acked(&self, gsi: u32, chipset: &mut Chipset) {
        let mut lowered = false;
        for irq in self.irqs.iter().filter(|irq| irq.gsi == gsi) {
            if let Some(resample) = &irq.resample {
                if !std::mem::replace(&mut lowered, true) {
                    chipset.set_irq(gsi, false, Source::Resample);
                }
                resample.fd.signal();
            }
        }
    }

    /// Whether devices outside the vCPUs' threads may be at work.
    pub fn any_io(&self) -> bool {
        !self.ios.is_empty()
    }

    /// KVM_IOEVENTFD.
    pub fn ioeventfd(&mut self, args: &kvm_ioeventfd) -> Answer {
        const DATAMATCH: u32 = 1;
        const PIO: u32 = 2;
        const DEASSIGN: u32 = 4;
        Errno::require(matches!(args.len, 0 | 1 | 2 | 4 | 8))?;
        Errno::require(args.addr.checked_add(u64::from(args.len)).is_some())?;
        Errno::require(args.flags & !(DATAMATCH | PIO | DEASSIGN) == 0)?;
        Errno::require(args.len != 0 || args.flags & DATAMATCH == 0)?;
        let pio = args.flags & PIO != 0;
        let datamatch = (args.flags & DATAMATCH != 0).then_some(args.datamatch);
        let same = |io: &IoEventFd| io.pio == pio && io.addr == args.addr && io.len == args.len;
        let event = Given::new(args.fd)?;
        if args.flags & DEASSIGN != 0 {
            let index = self
                .ios
                .iter()
                .position(|io| same(io) && io.datamatch == datamatch && io.event.id == event.id)
                .ok_or(Errno::ENOENT)?;
            self.ios.remove(index);
            return Ok(());
        }
        let collides = self.ios.iter().any(|io| {
            same(io) && (io.datamatch.is_none() || datamatch.is_none() || io.datamatch == datamatch)
        });
        if collides {
            return Err(Errno::EEXIST);
        }
        self.ios.push(IoEventFd { event, addr: args.addr, len: args.len, datamatch, pio });
        Ok(())
    }

    /// A write by the guest: signals the eventfd registered there, if there is one.
    pub fn write(&self, pio: bool, addr: u64, len: u8, value: u64) -> bool {
        let mask = u64::MAX >> (64 - 8 * u32::from(len.clamp(1, 8)));
        let hit = self.ios.iter().find(|io| {
            io.pio == pio
                && io.addr == addr
                && (io.len == 0 || io.len == u32::from(len))
                && io.datamatch.is_none_or(|wanted| wanted & mask == value & mask)
        });
        if let Some(io) = hit {
            io.event.fd.signal();
        }
        hit.is_some()
    }
}
