//! What a guest finds on its ports only if it starts in a firmware image: its files, a chipset, a clock.

use super::acpi_pm::PowerRequest;
use super::fw_cfg::{self, Fetched, FwCfg, SharedMemory};
use super::host_bridge::HostBridge;
use super::rtc;
use crate::plan::fw_cfg::FwCfg as Items;

/// What a write to one of these ports means for the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegacyEffect {
    /// Go on.
    None,
    /// The guest wants power-off or reset.
    Power(PowerRequest),
    /// The guest wants data at the address named in shared memory.
    Transfer(u64),
}

/// The devices.
#[derive(Clone, Debug)]
pub struct Legacy {
    fw_cfg: FwCfg,
    bridge: HostBridge,
    clock_ns: u64,
}

impl Legacy {
    /// With the items of a plan.
    pub fn new(items: Items) -> Legacy {
        Legacy { fw_cfg: FwCfg::new(items), bridge: HostBridge::default(), clock_ns: 0 }
    }

    /// Is the port one of these?
    pub fn claims(&self, port: u16) -> bool {
        is_fw_cfg(port) || self.bridge.claims(port)
    }

    /// Does a read of the port need the time?
    pub fn reads_clock(&self, port: u16) -> bool {
        self.bridge.reads_clock(port)
    }

    /// The guest's clock, before such a read.
    pub fn set_clock(&mut self, ns: u64) {
        self.clock_ns = ns;
        self.bridge.set_clock(ns);
    }

    /// The guest reads a port.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        if is_fw_cfg(port) {
            self.fw_cfg.read(port, data);
        } else {
            self.bridge.read(port, data);
        }
    }

    /// The guest reads a byte of CMOS memory.
    pub fn cmos(&self, index: u8) -> u8 {
        rtc::read(index & 0x7f, self.clock_ns)
    }

    /// The guest writes a port.
    pub fn write(&mut self, port: u16, data: &[u8]) -> LegacyEffect {
        if is_fw_cfg(port) {
            self.fw_cfg.write(port, data).map_or(LegacyEffect::None, LegacyEffect::Transfer)
        } else {
            self.bridge.write(port, data).map_or(LegacyEffect::None, LegacyEffect::Power)
        }
    }

    /// Carries out a transfer.
    pub fn transfer(&mut self, gpa: u64, memory: &impl SharedMemory) -> Fetched {
        self.fw_cfg.transfer(gpa, memory)
    }
}

fn is_fw_cfg(port: u16) -> bool {
    matches!(port, fw_cfg::SELECTOR_PORT | fw_cfg::DATA_PORT)
        || (fw_cfg::DMA_PORT..fw_cfg::DMA_PORT + 8).contains(&port)
}
