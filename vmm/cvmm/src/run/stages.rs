//! Stages of an unmodified kernel, told by the text it prints and by exits that kernels make at known places.
//!
//! What they begin with happened between the exit that gives it away and the one before: that is their uncertainty. Where
//! softkvm knows the kernel's functions, their own times are taken instead.

use std::collections::VecDeque;

use super::track::Source;
use crate::device::serial;
use crate::emulate::STAGE_STATISTICS;
use crate::phase::Phase;
use crate::recorder::GuestNs;
use crate::sys::stats::Stats;

/// A stage that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stage {
    pub name: &'static str,
    pub phase: Phase,
    pub source: Source,
}

/// Lines that kernels print on their way (Linux 6.1 to 7.2): kernel/smp.c smp_init, kernel/time/clocksource.c
/// __clocksource_select when clocksource_done_booting calls it, init/main.c run_init_process.
const LINES: [(&str, &[u8], Phase); 4] = [
    ("smp: Bringing up secondary CPUs", b"smp: Bringing up secondary CPUs", Phase::K3),
    ("smp: Brought up", b"smp: Brought up ", Phase::K4),
    ("clocksource: Switched", b"clocksource: Switched to clocksource ", Phase::K5),
    ("Run as init process", b" as init process", Phase::U0),
];
/// Longer lines are none of these.
const LINE_MAX: usize = 160;
/// The second serial line, which only the driver looks for (drivers/tty/serial/8250/8250_core.c, a device initcall).
const COM2: std::ops::Range<u16> = 0x2f8..0x300;

/// Something that may give a stage away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// To a port; `written` is the byte, if one was written.
    Port { port: u16, written: Option<u8> },
    /// A byte on a console that only a driver brings up.
    Text(u8),
}

impl Access {
    /// Is it text, other than the end of a line?
    pub fn is_text(self) -> bool {
        match self {
            Access::Port { port, written } => {
                port == serial::BASE_PORT && written.is_some_and(|byte| byte != b'\n')
            }
            Access::Text(byte) => byte != b'\n',
        }
    }
}

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Stages {
    line: Vec<u8>,
    firmware: bool,
    /// Functions that the kernel has not come to yet: where their times will be, their names, what begins with them.
    functions: VecDeque<(u64, &'static str, Phase)>,
}

impl Stages {
    /// Nothing yet. `firmware`: something else uses the serial line before the kernel does. `vm`: the VM's statistics.
    pub fn new(firmware: bool, vm: Option<&Stats>) -> Stages {
        let functions = STAGE_STATISTICS
            .iter()
            .filter_map(|(statistic, name, phase)| Some((vm?.find(statistic)?, *name, *phase)));
        Stages { line: Vec::new(), firmware, functions: functions.collect() }
    }

    /// Are the kernel's functions known? Then nothing else needs to be looked at.
    pub fn has_functions(&self) -> bool {
        !self.functions.is_empty()
    }

    /// The next function that the kernel has come to, and when.
    pub fn function(&mut self, vm: &Stats) -> Option<(Stage, GuestNs)> {
        let (offset, name, phase) = *self.functions.front()?;
        let time = vm.one(offset).filter(|ns| *ns != 0)?;
        self.functions.pop_front();
        Some((Stage { name, phase, source: Source::Symbol }, GuestNs(time)))
    }

    /// Is an access of a kernel in `phase` a new stage?
    pub fn see(&mut self, access: Access, phase: Phase) -> Option<Stage> {
        match access {
            Access::Port { port, written } => self.port(port, written, phase),
            // What was said before may come with the first line, long after it was said.
            Access::Text(byte) => self.text(byte, phase).filter(|stage| stage.phase == Phase::U0),
        }
    }

    fn port(&mut self, port: u16, written: Option<u8>, phase: Phase) -> Option<Stage> {
        let com1 = serial::BASE_PORT..serial::BASE_PORT + serial::PORT_COUNT;
        if com1.contains(&port) && phase < Phase::K2 && !self.firmware {
            // Linux init/main.c start_kernel: console_init comes after the memory, the interrupts and the clock.
            let name = "first use of COM1";
            return Some(Stage { name, phase: Phase::K2, source: Source::Exit });
        }
        if COM2.contains(&port) && (Phase::K2..Phase::K5).contains(&phase) {
            let name = "search for serial lines";
            return Some(Stage { name, phase: Phase::K5, source: Source::Exit });
        }
        self.text(written.filter(|_| port == serial::BASE_PORT)?, phase)
    }

    fn text(&mut self, byte: u8, phase: Phase) -> Option<Stage> {
        if byte != b'\n' {
            if self.line.len() < LINE_MAX {
                self.line.push(byte);
            }
            return None;
        }
        let line = std::mem::take(&mut self.line);
        let says = |words: &[u8]| line.windows(words.len()).any(|window| window == words);
        let (name, _, next) = LINES.into_iter().find(|(_, words, _)| says(words))?;
        (next > phase).then_some(Stage { name, phase: next, source: Source::Console })
    }

    /// Is nothing of a line there yet?
    pub fn at_line_start(&self) -> bool {
        self.line.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u16 = serial::BASE_PORT;

    fn port(port: u16, written: Option<u8>) -> Access {
        Access::Port { port, written }
    }

    fn print(stages: &mut Stages, phase: &mut Phase, text: &str) -> Vec<&'static str> {
        let mut found = Vec::new();
        for byte in text.bytes() {
            let written = Some(byte);
            if let Some(stage) = stages.see(Access::Port { port: DATA, written }, *phase) {
                *phase = stage.phase;
                found.push(stage.name);
            }
        }
        found
    }

    #[test]
    fn a_kernel_is_followed_through_its_boot() {
        let (mut stages, mut phase) = (Stages::default(), Phase::K0);
        assert_eq!(stages.see(port(0x70, Some(1)), phase), None);
        let stage = stages.see(port(DATA + 1, Some(0)), phase).expect("a stage");
        assert_eq!((stage.phase, stage.source), (Phase::K2, Source::Exit));
        phase = stage.phase;
        let text = "[    0.1] smp: Bringing up secondary CPUs ...\r\n[    0.2] smp: Brought up 1 node, 2 CPUs\n\
                    [    0.3] clocksource: Switched to clocksource tsc\n[    0.4] Run /init as init process\n";
        let found = print(&mut stages, &mut phase, text);
        assert_eq!(found.len(), 4);
        assert_eq!(phase, Phase::U0);
    }

    #[test]
    fn a_silent_kernel_is_told_by_its_search_for_serial_lines() {
        let mut stages = Stages::default();
        let stage = stages.see(port(0x2f9, None), Phase::K2).expect("a stage");
        assert_eq!((stage.phase, stage.source), (Phase::K5, Source::Exit));
        assert_eq!(stages.see(port(0x2f9, None), Phase::K5), None);
    }

    #[test]
    fn what_a_late_console_repeats_is_no_stage() {
        let mut stages = Stages::default();
        let mut found = Vec::new();
        let text =
            "[    0.2] smp: Brought up 1 node, 2 CPUs\r\n[    0.4] Run /init as init process\r\n";
        for byte in text.bytes() {
            found.extend(stages.see(Access::Text(byte), Phase::K5));
        }
        assert_eq!(found.iter().map(|stage| stage.phase).collect::<Vec<_>>(), [Phase::U0]);
        assert_eq!(stages.see(port(0x2f8, None), Phase::K2).map(|s| s.phase), Some(Phase::K5));
    }

    #[test]
    fn no_stage_comes_twice_nor_goes_back() {
        let (mut stages, mut phase) = (Stages::default(), Phase::K5);
        let text = "smp: Brought up 1 node, 1 CPU\nclocksource: Switched to clocksource tsc\n";
        assert!(print(&mut stages, &mut phase, text).is_empty());
    }

    #[test]
    fn a_firmware_on_the_serial_line_is_no_kernel() {
        let mut stages = Stages::new(true, None);
        assert_eq!(stages.see(port(DATA, Some(b'x')), Phase::K0), None);
    }

    #[test]
    fn endless_lines_take_no_memory() {
        let (mut stages, mut phase) = (Stages::default(), Phase::K2);
        print(&mut stages, &mut phase, &"x".repeat(1 << 16));
        assert_eq!(stages.line.len(), LINE_MAX);
    }
}
