//! The 8254 interval timer with port 0x61 (Intel 8254 datasheet; Linux arch/x86/kvm/i8254.c).
//! Counting is derived from the time of loading; as in KVM, BCD counting is not modelled and the
//! period of a periodic channel 0 has a lower limit for its interrupts.

use super::time::{MIN_PERIOD_NS, Now};

/// Input clock in Hz.
pub const HZ: u64 = 1_193_182;
/// `sizeof(struct kvm_pit_state2)`.
pub const IMAGE_LEN: usize = 112;
/// KVM_PIT_SPEAKER_DUMMY: the in-kernel timer also answers port 0x61.
pub const SPEAKER: u32 = 1;

const CHANNEL_LEN: usize = 24;

#[derive(Clone, Copy, Debug, Default)]
struct Channel {
    count: u32,
    latched_count: u16,
    count_latched: u8,
    status_latched: bool,
    status: u8,
    read_state: u8,
    write_state: u8,
    write_latch: u8,
    rw_mode: u8,
    mode: u8,
    bcd: bool,
    gate: bool,
    load_ns: u64,
}

// How a counter byte is accessed next; 1 is the low byte alone.
const HIGH: u8 = 2;
const WORD0: u8 = 3;
const WORD1: u8 = 4;

impl Channel {
    fn ticks(&self, now: Now) -> u64 {
        let ns = now.ns.saturating_sub(self.load_ns);
        (u128::from(ns) * u128::from(HZ) / 1_000_000_000) as u64
    }

    fn reload(&self) -> u64 {
        u64::from(self.count.max(1))
    }

    fn counter(&self, now: Now) -> u16 {
        let (d, count) = (self.ticks(now), self.reload());
        match self.mode {
            0 | 1 | 4 | 5 => count.wrapping_sub(d) as u16,
            3 => (count - (2 * d) % count) as u16,
            _ => (count - d % count) as u16,
        }
    }

    fn output(&self, now: Now) -> bool {
        let (d, count) = (self.ticks(now), self.reload());
        match self.mode {
            0 => d >= count,
            1 => d < count,
            2 => d.is_multiple_of(count) && d != 0,
            3 => d % count < count.div_ceil(2),
            _ => d == count,
        }
    }

    fn load(&mut self, value: u16, now: Now) {
        self.count = if value == 0 { 0x1_0000 } else { value.into() };
        self.load_ns = now.ns;
    }

    fn set_gate(&mut self, gate: bool, now: Now) {
        let rises = gate && !self.gate;
        if rises && matches!(self.mode, 1 | 2 | 3 | 5) {
            self.load_ns = now.ns;
        }
        self.gate = gate;
    }

    fn latch_count(&mut self, now: Now) {
        if self.count_latched == 0 {
            self.latched_count = self.counter(now);
            self.count_latched = self.rw_mode;
        }
    }

    fn latch_status(&mut self, now: Now) {
        if !self.status_latched {
            let output = u8::from(self.output(now)) << 7;
            self.status = output | self.rw_mode << 4 | self.mode << 1 | u8::from(self.bcd);
            self.status_latched = true;
        }
    }

    fn read(&mut self, now: Now) -> u8 {
        if self.status_latched {
            self.status_latched = false;
            return self.status;
        }
        if self.count_latched != 0 {
            let [low, high] = self.latched_count.to_le_bytes();
            return match self.count_latched {
                HIGH => {
                    self.count_latched = 0;
                    high
                }
                WORD0 => {
                    self.count_latched = HIGH;
                    low
                }
                _ => {
                    self.count_latched = 0;
                    low
                }
            };
        }
        let [low, high] = self.counter(now).to_le_bytes();
        match self.read_state {
            HIGH => high,
            WORD0 => {
                self.read_state = WORD1;
                low
            }
            WORD1 => {
                self.read_state = WORD0;
                high
            }
            _ => low,
        }
    }

    /// Writes a counter byte; returns whether the counter was loaded.
    fn write(&mut self, value: u8, now: Now) -> bool {
        match self.write_state {
            HIGH => self.load(u16::from(value) << 8, now),
            WORD0 => {
                self.write_latch = value;
                self.write_state = WORD1;
                return false;
            }
            WORD1 => {
                self.load(u16::from_le_bytes([self.write_latch, value]), now);
                self.write_state = WORD0;
            }
            _ => self.load(value.into(), now),
        }
        true
    }
}

/// The timer.
#[derive(Clone, Debug)]
pub struct Pit {
    channels: [Channel; 3],
    flags: u32,
    speaker: bool,
    /// Period of channel 0's interrupts; 0 for a one-shot.
    period: u64,
    expires: Option<u64>,
    /// Ticks to be injected again until the guest has acknowledged them all.
    reinject: bool,
    owed: u64,
    acked: bool,
}

impl Pit {
    /// After KVM_CREATE_PIT2 with these flags.
    pub fn new(flags: u32, now: Now) -> Self {
        let mut channels = [Channel { mode: 0xff, ..Channel::default() }; 3];
        for (i, channel) in channels.iter_mut().enumerate() {
            channel.gate = i != 2;
            channel.load(0, now);
        }
        Self {
            channels,
            flags,
            speaker: false,
            period: 0,
            expires: None,
            reinject: true,
            owed: 0,
            acked: true,
        }
    }

    /// IN; `None` if the port is not the timer's.
    pub fn port_in(&mut self, port: u16, now: Now) -> Option<u8> {
        match port {
            0x40..=0x42 => Some(self.channels[usize::from(port - 0x40)].read(now)),
            0x43 => Some(0),
            0x61 if self.flags & SPEAKER != 0 => {
                let refresh = (now.ns >> 14 & 1) as u8;
                let channel = &self.channels[2];
                Some(
                    u8::from(channel.output(now)) << 5
                        | refresh << 4
                        | u8::from(self.speaker) << 1
                        | u8::from(channel.gate),
                )
            }
            _ => None,
        }
    }

    /// OUT; `false` if the port is not the timer's.
    pub fn port_out(&mut self, port: u16, value: u8, now: Now) -> bool {
        match port {
            0x40..=0x42 => {
                let number = usize::from(port - 0x40);
                if self.channels[number].write(value, now) && number == 0 {
                    self.start(now);
                }
            }
            0x43 => self.control(value, now),
            0x61 if self.flags & SPEAKER != 0 => {
                self.speaker = value & 2 != 0;
                self.channels[2].set_gate(value & 1 != 0, now);
            }
            _ => return false,
        }
        true
    }

    fn control(&mut self, value: u8, now: Now) {
        let number = usize::from(value >> 6);
        if number == 3 {
            for (i, channel) in self.channels.iter_mut().enumerate() {
                if value & 2 << i != 0 {
                    if value & 0x20 == 0 {
                        channel.latch_count(now);
                    }
                    if value & 0x10 == 0 {
                        channel.latch_status(now);
                    }
                }
            }
            return;
        }
        let channel = &mut self.channels[number];
        let access = value >> 4 & 3;
        if access == 0 {
            channel.latch_count(now);
            return;
        }
        channel.rw_mode = access;
        channel.read_state = access;
        channel.write_state = access;
        let mode = value >> 1 & 7;
        channel.mode = if mode > 5 { mode & 3 } else { mode };
        channel.bcd = value & 1 != 0;
    }

    /// Starts channel 0's interrupts after its counter was loaded.
    fn start(&mut self, now: Now) {
        let channel = &self.channels[0];
        let interval = u128::from(channel.reload()) * 1_000_000_000 / u128::from(HZ);
        let interval = interval as u64;
        self.owed = 0;
        self.acked = true;
        (self.period, self.expires) = match channel.mode {
            0 | 1 | 4 => (0, Some(now.ns + interval)),
            2 | 3 => {
                let period = interval.max(MIN_PERIOD_NS);
                (period, Some(now.ns + period))
            }
            _ => (0, None),
        };
    }

    /// KVM_REINJECT_CONTROL.
    pub fn set_reinject(&mut self, on: bool) {
        self.reinject = on;
        self.owed = 0;
        self.acked = true;
    }

    /// When channel 0 interrupts next, in nanoseconds.
    pub fn next_event(&self) -> Option<u64> {
        self.expires
    }

    /// Lets time pass; returns whether interrupt line 0 should be pulsed.
    pub fn advance(&mut self, now: Now) -> bool {
        let Some(at) = self.expires.filter(|&at| at <= now.ns) else { return false };
        let ticks = match self.period {
            0 => {
                self.expires = None;
                1
            }
            period => {
                let ticks = (now.ns - at) / period + 1;
                self.expires = Some(at + ticks * period);
                ticks
            }
        };
        if !self.reinject {
            return true;
        }
        self.owed += ticks;
        std::mem::take(&mut self.acked)
    }

    /// The guest acknowledged interrupt line 0; returns whether it should be pulsed again.
    pub fn acknowledge(&mut self) -> bool {
        if !self.reinject {
            return false;
        }
        self.acked = true;
        self.owed = self.owed.saturating_sub(1);
        self.owed > 0 && std::mem::take(&mut self.acked)
    }

    /// `struct kvm_pit_state2`.
    pub fn save(&self) -> [u8; IMAGE_LEN] {
        let mut image = [0; IMAGE_LEN];
        for (slot, c) in image.chunks_exact_mut(CHANNEL_LEN).zip(&self.channels) {
            slot[0..4].copy_from_slice(&c.count.to_le_bytes());
            slot[4..6].copy_from_slice(&c.latched_count.to_le_bytes());
            slot[6..16].copy_from_slice(&[
                c.count_latched,
                c.status_latched.into(),
                c.status,
                c.read_state,
                c.write_state,
                c.write_latch,
                c.rw_mode,
                c.mode,
                c.bcd.into(),
                c.gate.into(),
            ]);
            slot[16..24].copy_from_slice(&c.load_ns.to_le_bytes());
        }
        // KVM_PIT_FLAGS_SPEAKER_DATA_ON
        let flags = u32::from(self.speaker) << 1;
        image[72..76].copy_from_slice(&flags.to_le_bytes());
        image
    }

    /// Takes a `struct kvm_pit_state2`; counting starts anew, as in KVM.
    pub fn restore(&mut self, image: &[u8; IMAGE_LEN], now: Now) {
        for (slot, c) in image.chunks_exact(CHANNEL_LEN).zip(&mut self.channels) {
            *c = Channel {
                count: u32::from_le_bytes([slot[0], slot[1], slot[2], slot[3]]).min(0x1_0000),
                latched_count: u16::from_le_bytes([slot[4], slot[5]]),
                count_latched: slot[6],
                status_latched: slot[7] != 0,
                status: slot[8],
                read_state: slot[9],
                write_state: slot[10],
                write_latch: slot[11],
                rw_mode: slot[12],
                mode: slot[13],
                bcd: slot[14] != 0,
                gate: slot[15] != 0,
                load_ns: now.ns,
            };
        }
        self.speaker = image[72] & 2 != 0;
        self.start(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ns: u64) -> Now {
        Now { tsc: ns, ns }
    }

    #[test]
    fn channel_0_ticks_periodically() {
        let mut pit = Pit::new(0, at(0));
        pit.port_out(0x43, 0x34, at(0));
        pit.port_out(0x40, 0x9c, at(0));
        pit.port_out(0x40, 0x2e, at(0)); // 11932 ticks: 10 ms
        let first = pit.next_event().expect("armed");
        assert!((9_999_000..=10_001_000).contains(&first), "{first}");
        assert!(!pit.advance(at(first - 1)));
        assert!(pit.advance(at(first)));
        assert_eq!(pit.next_event(), Some(2 * first));
        assert!(!pit.advance(at(2 * first)), "the first tick is not acknowledged yet");
        assert!(pit.acknowledge(), "so the second follows the acknowledgement");
        assert!(!pit.acknowledge());
        pit.set_reinject(false);
        assert!(pit.advance(at(5 * first)));
        assert!(pit.advance(at(6 * first)));
    }

    #[test]
    fn channel_2_calibrates_through_port_61() {
        let mut pit = Pit::new(SPEAKER, at(0));
        pit.port_out(0x61, 1, at(0));
        pit.port_out(0x43, 0xb0, at(0));
        pit.port_out(0x42, 0x9c, at(0));
        pit.port_out(0x42, 0x2e, at(0));
        assert_eq!(pit.port_in(0x61, at(9_900_000)).map(|v| v & 0x21), Some(1));
        assert_eq!(pit.port_in(0x61, at(10_100_000)).map(|v| v & 0x21), Some(0x21));
        assert_eq!(Pit::new(0, at(0)).port_in(0x61, at(0)), None);
    }

    #[test]
    fn counts_latch_and_read_low_then_high() {
        let mut pit = Pit::new(0, at(0));
        pit.port_out(0x43, 0x34, at(0));
        pit.port_out(0x40, 0, at(0));
        pit.port_out(0x40, 0, at(0));
        pit.port_out(0x43, 0, at(1_000_000_000 / HZ * 0x1234));
        let bytes = [pit.port_in(0x40, at(9_999_999)), pit.port_in(0x40, at(9_999_999))];
        let count = u16::from_le_bytes(bytes.map(|b| b.expect("a PIT port")));
        assert!(count.abs_diff(0xedcc) <= 1, "{count:#x}");
        pit.port_out(0x43, 0xe2, at(0));
        assert_eq!(pit.port_in(0x40, at(0)).map(|v| v & 0x3f), Some(0x34));
    }

    #[test]
    fn a_one_shot_fires_once() {
        let mut pit = Pit::new(0, at(0));
        pit.port_out(0x43, 0x30, at(0));
        pit.port_out(0x40, 0xa9, at(0));
        pit.port_out(0x40, 0x04, at(0)); // 1193: 1 ms
        let first = pit.next_event().expect("armed");
        assert!(pit.advance(at(first)));
        assert_eq!(pit.next_event(), None);
    }

    #[test]
    fn the_image_round_trips() {
        let mut pit = Pit::new(SPEAKER, at(0));
        pit.port_out(0x43, 0x34, at(0));
        pit.port_out(0x40, 1, at(0));
        pit.port_out(0x40, 2, at(0));
        pit.port_out(0x61, 3, at(0));
        let mut other = Pit::new(SPEAKER, at(0));
        other.restore(&pit.save(), at(0));
        assert_eq!(other.save(), pit.save());
        assert_eq!(other.next_event(), pit.next_event());
    }
}
