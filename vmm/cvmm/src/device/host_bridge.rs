//! As much of a PC's chipset as OVMF insists on: it tells machines apart by the host bridge's device id, and finds its
//! timer through the power management function (edk2 OvmfPkg/Library/PlatformInitLib, OvmfPkg/Library/AcpiTimerLib). All are
//! of the oldest kind that it knows (82441FX, PIIX3 and PIIX4): the fewest registers, and no memory-mapped configuration.
//! The ISA bridge is there because the serial line is found behind it, where OVMF says what it does not like.

use super::acpi_pm::PowerRequest;

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;
const RESET_PORT: u16 = 0xcf9;
/// RESET_PORT: reset the processor. Bit 1 says how hard.
const RESET: u8 = 1 << 2;
/// ADDRESS_PORT: enabled.
const ENABLE: u32 = 1 << 31;

/// The host bridge's function, and the power management's, as the address port has them.
const BRIDGE: u32 = 0;
const ISA: u32 = 1 << 11;
const POWER: u32 = 1 << 11 | 3 << 8;

const VENDOR_INTEL: u32 = 0x8086;
const DEVICE_82441: u32 = 0x1237;
const DEVICE_PIIX3_ISA: u32 = 0x7000;
const DEVICE_PIIX4_POWER: u32 = 0x7113;
/// Class and revision: host bridge, other bridge.
const CLASS_HOST_BRIDGE: u32 = 0x0600_0002;
const CLASS_ISA_BRIDGE: u32 = 0x0601_0000;
const CLASS_OTHER_BRIDGE: u32 = 0x0680_0003;

/// Offsets of registers in units of 4 bytes.
const ID: usize = 0;
const COMMAND: usize = 1;
const CLASS: usize = 2;
const HEADER: usize = 3;
const POWER_BASE: usize = 0x10;
const POWER_MISC: usize = 0x20;

/// Header type: the device has more functions than this one.
const MORE_FUNCTIONS: u32 = 1 << 23;

/// Bits of the power base that say where; the lowest says that it is in I/O space.
const POWER_BASE_MASK: u32 = 0xffc0;
/// Within the power registers: control, and timer.
const CONTROL: u16 = 4;
const TIMER: u16 = 8;
/// Control: enter the sleep state that the bits before it name. S5 is 0 on this chipset.
const SLEEP_ENABLE: u16 = 1 << 13;
const SLEEP_TYPE: u16 = 7 << 10;

/// The timer's frequency in Hz (ACPI specification 6.5, section 4.8.3.3).
const TIMER_HZ: u128 = 3_579_545;
const TIMER_MASK: u32 = 0x00ff_ffff;

/// One function's configuration space.
#[derive(Clone, Debug)]
struct Function {
    words: [u32; 64],
    /// Which bits the guest may change.
    writable: [u32; 64],
}

impl Function {
    fn new(device: u32, class: u32) -> Function {
        let mut this = Function { words: [0; 64], writable: [0; 64] };
        this.words[ID] = device << 16 | VENDOR_INTEL;
        this.words[CLASS] = class;
        this.writable[COMMAND] = 7;
        this
    }

    fn write(&mut self, at: usize, data: &[u8]) {
        for (at, byte) in (at..).zip(data) {
            let shift = at % 4 * 8;
            let mask = self.writable[at / 4] & 0xff << shift;
            let word = &mut self.words[at / 4];
            *word = *word & !mask | u32::from(*byte) << shift & mask;
        }
    }
}

/// The chipset.
#[derive(Clone, Debug)]
pub struct HostBridge {
    address: u32,
    bridge: Function,
    isa: Function,
    power: Function,
    clock_ns: u64,
}

impl Default for HostBridge {
    fn default() -> HostBridge {
        let mut power = Function::new(DEVICE_PIIX4_POWER, CLASS_OTHER_BRIDGE);
        power.words[POWER_BASE] = 1;
        power.writable[POWER_BASE] = POWER_BASE_MASK;
        power.writable[POWER_MISC] = 1;
        let bridge = Function::new(DEVICE_82441, CLASS_HOST_BRIDGE);
        let mut isa = Function::new(DEVICE_PIIX3_ISA, CLASS_ISA_BRIDGE);
        isa.words[HEADER] = MORE_FUNCTIONS;
        HostBridge { address: 0, bridge, isa, power, clock_ns: 0 }
    }
}

impl HostBridge {
    /// Is the port one of ours?
    pub fn claims(&self, port: u16) -> bool {
        (ADDRESS_PORT..DATA_PORT + 4).contains(&port) || self.power_register(port).is_some()
    }

    /// Does a read of the port need the time?
    pub fn reads_clock(&self, port: u16) -> bool {
        self.power_register(port) == Some(TIMER)
    }

    /// The guest's clock, before such a read.
    pub fn set_clock(&mut self, ns: u64) {
        self.clock_ns = ns;
    }

    fn power_register(&self, port: u16) -> Option<u16> {
        let base = (self.power.words[POWER_BASE] & POWER_BASE_MASK) as u16;
        let enabled = self.power.words[POWER_MISC] & 1 != 0 && base != 0;
        port.checked_sub(base).filter(|at| enabled && *at <= TIMER)
    }

    /// The function and the offset in it that a data port leads to.
    fn selected(&mut self, port: u16) -> Option<(&mut Function, usize)> {
        let at = (self.address & 0xfc) as usize + usize::from(port - DATA_PORT);
        match (self.address & ENABLE != 0).then_some(self.address & 0x00ff_ff00)? {
            BRIDGE => Some((&mut self.bridge, at)),
            ISA => Some((&mut self.isa, at)),
            POWER => Some((&mut self.power, at)),
            _ => None,
        }
    }

    /// The guest reads a port of ours. `data` comes filled with what a bus without devices reads as.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        match self.power_register(port) {
            Some(TIMER) => {
                let ticks = u128::from(self.clock_ns) * TIMER_HZ / 1_000_000_000;
                fill(data, (ticks as u32 & TIMER_MASK).to_le_bytes());
            }
            Some(_) => data.fill(0),
            None if port == ADDRESS_PORT && data.len() == 4 => {
                fill(data, self.address.to_le_bytes())
            }
            None if port >= DATA_PORT && data.len() <= usize::from(DATA_PORT + 4 - port) => {
                if let Some((function, at)) = self.selected(port) {
                    let word = function.words[at / 4].to_le_bytes();
                    data.iter_mut().zip(&word[at % 4..]).for_each(|(to, from)| *to = *from);
                }
            }
            None => {}
        }
    }

    /// The guest writes a port of ours.
    pub fn write(&mut self, port: u16, data: &[u8]) -> Option<PowerRequest> {
        if let Some(register) = self.power_register(port) {
            let [low, high] = data else { return None };
            let value = u16::from_le_bytes([*low, *high]);
            let off = register == CONTROL && value & (SLEEP_ENABLE | SLEEP_TYPE) == SLEEP_ENABLE;
            return off.then_some(PowerRequest::Off);
        }
        match (port, data) {
            (ADDRESS_PORT, [a, b, c, d]) => self.address = u32::from_le_bytes([*a, *b, *c, *d]),
            (RESET_PORT, [value]) if value & RESET != 0 => return Some(PowerRequest::Reset),
            (DATA_PORT.., _) if data.len() <= usize::from((DATA_PORT + 4).saturating_sub(port)) => {
                if let Some((function, at)) = self.selected(port) {
                    function.write(at, data);
                }
            }
            _ => {}
        }
        None
    }
}

/// Copies a register into what was read of it.
fn fill(data: &mut [u8], register: [u8; 4]) {
    data.iter_mut().zip(register).for_each(|(to, from)| *to = from);
}

#[cfg(test)]
#[path = "host_bridge_test.rs"]
mod tests;
