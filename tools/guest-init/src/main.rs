//! `/init` of cvmm's test guests: says what the kernel says about memory encryption, fetches an
//! attestation report when asked, and powers off. PID 1 without libc; it never returns.
//!
//! Options on the kernel command line: see [`guest_init::options::Options`].
#![no_std]
#![no_main]

mod attest;
mod fill;
mod machine;
mod marks;
mod probes;
mod sys;
mod td;

use core::ffi::CStr;
use core::fmt::{self, Write};

use abi::marks::MarkId;
use guest_init::hex;
use guest_init::options::{self, MarksWanted, Options};
use marks::Marks;
use probes::Guest;
use sys::{Errno, File, Mode};

/// One line on the console, written at once.
struct Line {
    text: [u8; 512],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Too long a line is cut, but keeps its end.
        for &byte in text.as_bytes() {
            if self.len < self.text.len() - 1 {
                self.text[self.len] = byte;
                self.len += 1;
            }
        }
        Ok(())
    }
}

fn print(message: fmt::Arguments<'_>) {
    let mut line = Line { text: [0; 512], len: 0 };
    let _ = line.write_str("cvmm-init: ");
    let _ = line.write_fmt(message);
    line.text[line.len] = b'\n';
    // Nobody is left to tell if the console fails.
    let _ = File::OUT.write_all(&line.text[..=line.len]);
}

/// Prints one line with our prefix.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => { $crate::print(format_args!($($arg)*)) };
}

/// Text from the kernel that is nearly always UTF-8.
fn text(bytes: &[u8]) -> &str {
    core::str::from_utf8(bytes.trim_ascii()).unwrap_or("(not UTF-8)")
}

/// The program: called once, on the initial stack.
extern "C" fn start() -> ! {
    let mut marks = Marks::open();
    marks.send(MarkId::INIT_ENTRY, 0);
    let console = mount_basics();
    if console == Console::Late && marks == Marks::Console {
        // There was nothing to write it to.
        marks.send(MarkId::INIT_ENTRY, 0);
    }
    if marks == Marks::None {
        say!("no access to the mark port: no phases are marked");
    }
    let mut cmdline = [0; 4096];
    let options = read_options(&mut cmdline);
    if options.marks == MarksWanted::None {
        marks = Marks::None;
    }
    insert_modules();
    // Only now may configfs be there, as a module.
    if let Err(error) = sys::mount(c"configfs", c"/sys/kernel/config")
        && options.report.is_some()
    {
        say!("mount configfs: {error}");
    }
    marks.send(MarkId::INIT_MODULES, 0);
    let guest = repeat_kernel_words();
    let cpus = count_cpus();
    if let Some(digits) = options.secret {
        place_secret(digits);
    }
    marks.send(MarkId::INIT_READY, cpus);
    say!("ready");
    if let Some(data) = options.report {
        attest(marks, &data);
    }
    if let Some(mib) = options.fill {
        fill::fill(mib);
    }
    probes::run(marks, &options, guest, cpus);
    if options.hold_seconds != 0 {
        hold(options.hold_seconds);
    }
    run_commands();
    if options.shell {
        run_shell();
    }
    power_off(marks)
}

/// When a console could be opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Console {
    /// At once, or not at all.
    Early,
    /// When its module was inserted.
    Late,
}

fn mount_basics() -> Console {
    let mut results = [(c"/proc", c"proc"), (c"/sys", c"sysfs"), (c"/dev", c"devtmpfs")]
        .map(|(at, kind)| (kind, sys::mkdir(at).and_then(|()| sys::mount(kind, at))));
    // The kernel may have found no console in the initramfs.
    let mut console = open_console();
    let mut when = Console::Early;
    if console.is_err() && insert_module(b"virtio_mmio.ko").is_ok() {
        console = open_console();
        when = Console::Late;
    }
    for (kind, result) in results.iter_mut() {
        if let Err(error) = result {
            say!("mount {}: {error}", text(kind.to_bytes()));
        }
    }
    if let Err(error) = console {
        say!("/dev/console: {error}");
    }
    when
}

fn open_console() -> sys::Sys {
    File::open(c"/dev/console", Mode::Both).and_then(File::become_console)
}

fn read_options(cmdline: &mut [u8]) -> Options<'_> {
    match read_file(c"/proc/cmdline", cmdline) {
        Ok(line) => Options::parse(line, |word| say!("option not understood: {}", text(word))),
        Err(error) => {
            say!("/proc/cmdline: {error}");
            Options::default()
        }
    }
}

fn read_file<'a>(path: &CStr, buffer: &'a mut [u8]) -> sys::Sys<&'a [u8]> {
    let len = File::open(path, Mode::Read)?.read_all(buffer)?;
    Ok(&buffer[..len])
}

/// Inserts what `/modules/order` lists, one file name in `/modules` per line.
fn insert_modules() {
    let mut order = [0; 4096];
    let order = match read_file(c"/modules/order", &mut order) {
        Ok(order) => order,
        Err(Errno::ENOENT) => return,
        Err(error) => return say!("/modules/order: {error}"),
    };
    for name in order.split(|&c| c == b'\n').map(<[u8]>::trim_ascii) {
        if name.is_empty() || name[0] == b'#' {
            continue;
        }
        match insert_module(name) {
            Ok(()) => say!("module {}", text(name)),
            Err(Errno::EEXIST) => say!("module {}: is there already", text(name)),
            Err(error) => say!("module {}: {error}", text(name)),
        }
    }
}

fn insert_module(name: &[u8]) -> sys::Sys {
    const DIR: &[u8] = b"/modules/";
    const ENAMETOOLONG: Errno = Errno(36);
    let mut path = [0; 256];
    let len = DIR.len() + name.len();
    // At least one byte stays zero to end the path.
    if len >= path.len() {
        return Err(ENAMETOOLONG);
    }
    path[..DIR.len()].copy_from_slice(DIR);
    path[DIR.len()..len].copy_from_slice(name);
    let path = CStr::from_bytes_until_nul(&path).map_err(|_| ENAMETOOLONG)?;
    File::open(path, Mode::Read)?.insert_module(!name.ends_with(b".ko"))
}

/// Prints the lines of the kernel log that are about memory encryption, and takes the kernel's word for what this is.
fn repeat_kernel_words() -> Guest {
    let mut guest = if td::here() { Guest::Td } else { Guest::Plain };
    let log = match File::open(c"/dev/kmsg", Mode::ReadNow) {
        Ok(log) => log,
        Err(error) => {
            say!("/dev/kmsg: {error}");
            return guest;
        }
    };
    let mut record = [0; 8192];
    loop {
        let len = match log.read(&mut record) {
            Ok(0) | Err(Errno::EAGAIN) => return guest,
            Ok(len) => len,
            // The oldest records were overwritten meanwhile: go on with what is left.
            Err(Errno::EPIPE | Errno::EINTR) => continue,
            Err(error) => {
                say!("/dev/kmsg: {error}");
                return guest;
            }
        };
        // "priority,sequence,time,flags;message", then lines of its dictionary.
        let first = record[..len].split(|&c| c == b'\n').next().unwrap_or_default();
        let message = first.splitn(2, |&c| c == b';').nth(1).unwrap_or_default();
        if options::about_encryption(message) {
            say!("kernel: {}", text(message));
            if options::about_snp(message) {
                guest = Guest::Snp;
            }
        }
    }
}

fn count_cpus() -> u32 {
    let mut list = [0; 256];
    match read_file(c"/sys/devices/system/cpu/online", &mut list) {
        Ok(list) => {
            let count = options::count_list(list);
            say!("{count} cpus online: {}", text(list));
            count
        }
        Err(error) => {
            say!("/sys/devices/system/cpu/online: {error}");
            0
        }
    }
}

/// Keeps the secret in memory that is never given back, and nowhere else in this form.
fn place_secret(digits: &[u8]) {
    let placed = sys::map_pages(4096).map(|page| {
        let secret = page.get_mut(..digits.len() / 2)?;
        hex::decode(digits, secret)
    });
    match placed {
        Ok(Some(())) => say!("secret of {} bytes is in memory", digits.len() / 2),
        Ok(None) => say!("the secret does not fit into a page"),
        Err(error) => say!("memory for the secret: {error}"),
    }
}

fn attest(marks: Marks, data: &[u8; 64]) {
    if td::here() {
        match td::report(data) {
            Ok(report) => dump("tdreport", report),
            Err(error) => say!("/dev/tdx_guest: {error}"),
        }
    }
    marks.send(MarkId::ATTEST_BEGIN, 0);
    let evidence = attest::fetch(data);
    let number = evidence.as_ref().err().map_or(0, |error| error.0);
    marks.send(MarkId::ATTEST_END, number);
    match evidence {
        Ok(evidence) => {
            say!("report of {} bytes from {}", evidence.report.len(), evidence.source);
            dump("report", evidence.report);
            if !evidence.aux.is_empty() {
                dump("auxblob", evidence.aux);
            }
        }
        Err(error) => say!("attestation report: {error}"),
    }
}

fn dump(what: &str, bytes: &[u8]) {
    say!("{what} BEGIN");
    let mut line = [0; hex::LINE_BYTES * 2 + 1];
    for chunk in bytes.chunks(hex::LINE_BYTES) {
        let len = hex::line(chunk, &mut line);
        let _ = File::OUT.write_all(&line[..len]);
    }
    say!("{what} END");
}

/// Stays busy, for a sleep takes no time on a machine with virtual time.
fn hold(seconds: u32) {
    say!("holding for {seconds} s");
    let now = || sys::monotonic_ns().unwrap_or(u64::MAX);
    let end = now().saturating_add(u64::from(seconds) * 1_000_000_000);
    while now() < end {
        for i in 0..1_000_000 {
            core::hint::black_box(i);
        }
    }
    say!("hold is over");
}

/// Runs what `/commands` lists, one command per line, its words separated by single blanks.
fn run_commands() {
    let mut text = [0; 4096];
    let read = File::open(c"/commands", Mode::Read).and_then(|file| file.read_all(&mut text));
    let len = match read {
        Ok(len) => len,
        Err(Errno::ENOENT) => return,
        Err(error) => return say!("/commands: {error}"),
    };
    for line in text[..len].split_inclusive_mut(|&c| c == b'\n') {
        say!("$ {}", crate::text(line));
        match run_command(line) {
            Ok(status) => say!("$ ended, {status}"),
            Err(error) => say!("$ not run, {error}"),
        }
    }
}

fn run_command(line: &mut [u8]) -> sys::Sys<sys::WaitStatus> {
    const E2BIG: Errno = Errno(7);
    const EINVAL: Errno = Errno(22);
    // Every word ends in a zero where it stands; a line that was cut off has none at its end.
    line.iter_mut().filter(|c| c.is_ascii_whitespace()).for_each(|c| *c = 0);
    let mut words = [c""; sys::WORDS_MAX];
    let mut count = 0;
    for word in line.split_inclusive(|&c| c == 0) {
        let slot = words.get_mut(count).ok_or(E2BIG)?;
        *slot = CStr::from_bytes_with_nul(word).map_err(|_| EINVAL)?;
        count += 1;
    }
    sys::run(words[0], &words[..count])
}

fn run_shell() {
    let shells: [(&CStr, &[&CStr]); 2] =
        [(c"/bin/busybox", &[c"busybox", c"sh"]), (c"/bin/sh", &[c"sh"])];
    for (path, args) in shells {
        if File::open(path, Mode::Read).is_ok() {
            say!("starting {}; leave it to power off", text(path.to_bytes()));
            if let Err(error) = sys::run(path, args) {
                say!("{}: {error}", text(path.to_bytes()));
            }
            return;
        }
    }
    say!("no shell: neither /bin/busybox nor /bin/sh is there");
}

fn power_off(marks: Marks) -> ! {
    say!("power off");
    // What waits in the serial driver would be lost.
    let _ = File::OUT.drain();
    marks.send(MarkId::INIT_POWEROFF, 0);
    let error = sys::power_off();
    say!("power off: {error}");
    loop {
        sys::pause();
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    say!("{info}");
    power_off(Marks::None)
}
