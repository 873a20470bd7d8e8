//! The port bus: which device answers, and what an access means for the run.

use abi::marks::MARK_PORT;
use abi::shim::TERMINATION_PORT;

use super::acpi_pm::{self, PowerRequest};
use super::legacy::{Legacy, LegacyEffect};
use super::marks::Message;
use super::output::ConsoleOutput;
use super::records::Records;
use super::serial::{BASE_PORT, Com1, PORT_COUNT};

/// The CMOS clock is not there, but its shutdown byte tells of a reset: on a hardware-reduced platform without EFI, Linux
/// resets through the BIOS (arch/x86/kernel/reboot.c `reboot_init`), which is not there either. The first thing it does
/// then is to write 0 to that byte with NMIs off (`machine_real_restart`); starting a processor writes it with NMIs on.
///
/// All its bytes read as 0: a clock whose status is all ones is about to be updated, and a kernel without kvmclock waits a
/// second for the end of that (drivers/rtc/rtc-mc146818-lib.c `mc146818_avoid_UIP`).
const CMOS_INDEX_PORT: u16 = 0x70;
const CMOS_DATA_PORT: u16 = 0x71;
const CMOS_SHUTDOWN_NMI_OFF: u8 = 0x8f;

/// The counter of the interval timer that is not there. Where it reads as all ones, a kernel without kvmclock takes it for a
/// counter that has just begun, and reads it 100,000 times before it gives up (Linux 7.2 arch/x86/kernel/tsc.c
/// `pit_expect_msb`): in a TD, as many exits.
const PIT_COUNTER_PORT: u16 = 0x42;

/// What the run loop must do after a port write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortEffect {
    /// Go on.
    None,
    /// The guest wrote a mark.
    Mark(u32),
    /// The guest wants power-off or reset.
    Power(PowerRequest),
    /// The shim of an unprotected guest gives up, with this value.
    Terminate(u32),
    /// A firmware asks for a file; see [`PortBus::legacy`].
    Transfer(u64),
}

/// The devices of a guest.
#[derive(Debug)]
pub struct PortBus {
    /// COM1, if the console is there.
    pub com1: Option<Com1>,
    /// What the guest prints, by whichever device.
    pub output: ConsoleOutput,
    /// What only a guest has that starts in a firmware image.
    pub legacy: Option<Legacy>,
    /// What the guest has sent beside marks.
    pub records: Records,
    cmos_index: u8,
    strays: Vec<StrayAccess>,
}

/// Accesses to a port where nothing is, for the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StrayAccess {
    /// The port.
    pub port: u16,
    /// How often it was read.
    pub reads: u64,
    /// How often it was written.
    pub writes: u64,
}

/// The 8042's command port and its command for "pulse the reset line": the last resort of an old reboot path.
const I8042_COMMAND_PORT: u16 = 0x64;
const I8042_RESET: u8 = 0xfe;

impl PortBus {
    /// A bus with or without a serial line.
    pub fn new(com1: Option<Com1>, output: ConsoleOutput) -> PortBus {
        PortBus {
            com1,
            output,
            legacy: None,
            records: Records::default(),
            cmos_index: 0,
            strays: Vec::new(),
        }
    }

    /// Does a read of the port need the time?
    pub fn reads_clock(&self, port: u16) -> bool {
        self.legacy.as_ref().is_some_and(|l| port == CMOS_DATA_PORT || l.reads_clock(port))
    }

    /// The guest's clock, before such a read.
    pub fn set_clock(&mut self, ns: u64) {
        if let Some(legacy) = &mut self.legacy {
            legacy.set_clock(ns);
        }
    }

    /// The guest writes.
    pub fn write(&mut self, port: u16, data: &[u8]) -> PortEffect {
        if let (Some(register), Some(com1)) = (serial_register(port), &mut self.com1) {
            let [value] = data else { return PortEffect::None };
            let printed = com1.write(register, *value);
            return printed.map_or(PortEffect::None, |byte| self.print(byte));
        }
        if let Some(legacy) = self.legacy.as_mut().filter(|legacy| legacy.claims(port)) {
            return match legacy.write(port, data) {
                LegacyEffect::None => PortEffect::None,
                LegacyEffect::Power(request) => PortEffect::Power(request),
                LegacyEffect::Transfer(gpa) => PortEffect::Transfer(gpa),
            };
        }
        match (port, data) {
            (MARK_PORT, [a, b, c, d]) => self.mark(u32::from_le_bytes([*a, *b, *c, *d])),
            (TERMINATION_PORT, [a, b, c, d]) => {
                PortEffect::Terminate(u32::from_le_bytes([*a, *b, *c, *d]))
            }
            (acpi_pm::SLEEP_CONTROL_PORT..=acpi_pm::RESET_PORT, [value]) => {
                acpi_pm::write(port, *value).map_or(PortEffect::None, PortEffect::Power)
            }
            (CMOS_INDEX_PORT, [index]) => {
                self.cmos_index = *index;
                PortEffect::None
            }
            (CMOS_DATA_PORT, [0]) if self.cmos_index == CMOS_SHUTDOWN_NMI_OFF => {
                PortEffect::Power(PowerRequest::Reset)
            }
            (CMOS_DATA_PORT, [_]) => PortEffect::None,
            (I8042_COMMAND_PORT, [I8042_RESET]) => PortEffect::Power(PowerRequest::Reset),
            _ => {
                self.stray(port).writes += 1;
                PortEffect::None
            }
        }
    }

    /// The guest prints a byte.
    pub fn print(&mut self, byte: u8) -> PortEffect {
        match self.output.write(byte) {
            None => PortEffect::None,
            Some(Message::Mark(value)) => self.mark(value),
            Some(Message::Record(bytes)) => {
                self.records.take_from_console(&bytes);
                PortEffect::None
            }
        }
    }

    /// A value of the mark port: a mark, unless it belongs to a record.
    fn mark(&mut self, value: u32) -> PortEffect {
        if self.records.take(value) { PortEffect::None } else { PortEffect::Mark(value) }
    }

    /// The guest reads. Where nothing is, the bus floats: all ones, except where that would be misunderstood.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        match (&mut self.legacy, data) {
            (Some(legacy), data) if legacy.claims(port) => legacy.read(port, data),
            (Some(legacy), [value]) if port == CMOS_DATA_PORT => {
                *value = legacy.cmos(self.cmos_index);
            }
            (_, data) => self.read_always(port, data),
        }
    }

    fn read_always(&mut self, port: u16, data: &mut [u8]) {
        match (serial_register(port).zip(self.com1.as_mut()), data) {
            (Some((register, com1)), [value]) => *value = com1.read(register),
            (None, [value])
                if (acpi_pm::SLEEP_CONTROL_PORT..=acpi_pm::RESET_PORT).contains(&port) =>
            {
                *value = 0
            }
            (Some(_), _) => {}
            (None, data) => {
                if matches!(port, PIT_COUNTER_PORT | CMOS_DATA_PORT) {
                    data.fill(0);
                }
                self.stray(port).reads += 1;
            }
        }
    }

    fn stray(&mut self, port: u16) -> &mut StrayAccess {
        let at = match self.strays.iter().position(|s| s.port == port) {
            Some(at) => at,
            // A guest that tries every port must not make us allocate without end: the rest is one bucket.
            None if self.strays.len() >= STRAYS_MAX => STRAYS_MAX - 1,
            None => {
                self.strays.push(StrayAccess { port, reads: 0, writes: 0 });
                self.strays.len() - 1
            }
        };
        &mut self.strays[at]
    }

    /// Accesses to ports where nothing is.
    pub fn strays(&self) -> &[StrayAccess] {
        &self.strays
    }
}

/// More different stray ports than this are counted under the last one.
const STRAYS_MAX: usize = 64;

fn serial_register(port: u16) -> Option<u8> {
    port.checked_sub(BASE_PORT).filter(|r| *r < PORT_COUNT).map(|r| r as u8)
}

#[cfg(test)]
#[path = "bus_test.rs"]
mod tests;
