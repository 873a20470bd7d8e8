//! The interactive console and signals: raw while the guest runs, as before on every way out and during every stop; a report
//! where one can be written, and nothing left behind.
//!
//! UNSAFETY: signals are ignored, or not any more, between fork and exec.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::pty::{Pty, ended, signal, stopped, until};
use common::{Bench, have_kvm};

/// Entered in place of the shim, after sixteen bytes for other processors: prints a line, does nothing for a while, and so on.
const TICKING: [u8; 22] = [
    0xba, 0xf8, 0x03, 0, 0, // mov edx, COM1
    0xb0, b'.', 0xee, 0xb0, b'\n', 0xee, // ".\n"
    0xb9, 0, 0, 0x02, 0, 0xff, 0xc9, 0x75, 0xfc, // 131072 times nothing
    0xeb, 0xef, // again
];
/// Prints without a pause.
const FLOODING: [u8; 13] = [
    0xba, 0xf8, 0x03, 0, 0, // mov edx, COM1
    0xb0, b'x', 0xee, 0xb0, b'\n', 0xee, 0xeb, 0xf8,
];

/// A directory with guests to run in place of the shim; nothing where there is neither KVM nor softkvm.
fn bench() -> Option<Bench> {
    if !have_kvm() && cvmm::emulate::find_library().is_err() {
        eprintln!(
            "skipped: this host has no /dev/kvm that may be opened, and softkvm's library is not built"
        );
        return None;
    }
    let bench = Bench::new();
    for (name, code) in [("ticking", &TICKING[..]), ("flooding", &FLOODING)] {
        bench.file(name, &[&[0x90; 16], code].concat());
    }
    std::fs::create_dir(bench.path("run")).unwrap();
    Some(bench)
}

/// The words after `cvmm`.
fn words(guest: &str, timeout: &str) -> String {
    let emulate = if have_kvm() { "" } else { " --emulate" };
    format!(
        "--plain -k ../guest.elf --shim ../{guest} -m 64M --timeout {timeout} --report report.json{emulate}"
    )
}

fn cvmm(bench: &Bench, guest: &str, timeout: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cvmm"));
    command.args(words(guest, timeout).split(' ')).current_dir(bench.path("run"));
    command.stderr(Stdio::null());
    // Whoever runs the tests may ignore some (as shells do for background jobs), and cvmm would, too.
    // SAFETY: the calls are safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            for number in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTERM] {
                libc::signal(number, libc::SIG_DFL);
            }
            Ok(())
        })
    };
    command
}

/// The report is whole and says so; and it is all that is left.
#[track_caller]
fn reported(bench: &Bench, outcome: &str) {
    assert_eq!(bench.report("run/report.json")["outcome"]["kind"], outcome);
    assert_eq!(left(bench), ["report.json"]);
}

fn left(bench: &Bench) -> Vec<String> {
    let entries = std::fs::read_dir(bench.path("run")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A guest that runs for ever, its console on a terminal; `end` ends it.
fn ends_with_the_terminal_restored(
    timeout: &str,
    end: impl FnOnce(&Child, &mut Pty),
    code: i32,
    outcome: &str,
) {
    let Some(bench) = bench() else { return };
    let mut pty = Pty::open();
    pty.watch();
    let mut child = pty.spawn(&mut cvmm(&bench, "ticking", timeout));
    until("the terminal is raw", || pty.is_raw());
    end(&child, &mut pty);
    let status = ended(&mut child);
    assert!(pty.is_restored(), "the terminal was left raw");
    assert_eq!(status.code(), Some(code));
    reported(&bench, outcome);
}

#[test]
fn ctrl_a_x_quits() {
    let quit = |_: &Child, pty: &mut Pty| pty.ours.write_all(b"ab\x01x").unwrap();
    ends_with_the_terminal_restored("100", quit, 130, "interrupted");
}

#[test]
fn signals_end_the_guest() {
    for number in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        ends_with_the_terminal_restored(
            "100",
            |child, _| signal(child, number),
            130,
            "interrupted",
        );
    }
}

#[test]
fn a_timeout_ends_the_guest() {
    ends_with_the_terminal_restored("1", |_, _| {}, 124, "timeout");
}

#[test]
fn after_a_stop_the_terminal_is_raw_again_and_the_guest_goes_on() {
    let Some(bench) = bench() else { return };
    // What the rest of the world does with the terminal meanwhile: nothing, or what a shell does.
    for shell in [false, true] {
        let mut pty = Pty::open();
        pty.watch();
        let mut child = pty.spawn(&mut cvmm(&bench, "ticking", "100"));
        for _ in 0..2 {
            pty.expect(".", pty.seen().len());
            until("the terminal is raw", || pty.is_raw());
            signal(&child, libc::SIGSTOP);
            stopped(&child);
            if shell {
                pty.restore();
            }
            let at_stop = pty.seen().len();
            std::thread::sleep(Duration::from_millis(50));
            signal(&child, libc::SIGCONT);
            until("the terminal is raw again", || pty.is_raw());
            pty.expect("\n.\r\n.\r\n", at_stop);
        }
        pty.ours.write_all(b"\x01x").unwrap();
        assert_eq!(ended(&mut child).code(), Some(130));
        assert!(pty.is_restored(), "the terminal was left raw");
        reported(&bench, "interrupted");
    }
}

#[test]
fn a_job_of_a_shell_gives_the_terminal_back_while_it_is_stopped() {
    let Some(bench) = bench() else { return };
    let mut pty = Pty::open();
    pty.watch();
    // The shell's own words are in capitals, and not those of the script that the terminal echoes.
    let script = format!(
        "set -m; {0} {1} & ID=$!; sleep 0.3; echo BACK''GROUND; stty -a; fg; echo STOP''PED; stty -a; kill -0 $ID; fg; echo \
         CODE''=$?; stty -a; echo D''ONE",
        env!("CARGO_BIN_EXE_cvmm"),
        words("ticking", "100")
    );
    let mut shell = Command::new("bash");
    shell.args(["--norc", "-c", &script]).current_dir(bench.path("run"));
    let mut shell = pty.spawn_session(&mut shell);
    // In the background it runs, and leaves the terminal alone.
    pty.expect("BACKGROUND", 0);
    let background = pty.seen();
    pty.expect(".\r\n", background.len());
    until("the job has the terminal", || pty.is_raw());
    let job = child_of(shell.id());
    // SAFETY: a grandchild that is still there.
    unsafe { libc::kill(job, libc::SIGTSTP) };
    pty.expect("STOPPED", background.len());
    until("the job has the terminal again", || pty.is_raw());
    let resumed = pty.seen().len();
    pty.expect(".\r\n.\r\n", resumed);
    pty.ours.write_all(b"\x01x").unwrap();
    assert_eq!(ended(&mut shell).code(), Some(0));
    pty.expect("DONE", 0);
    let seen = pty.seen();
    assert!(seen.contains("CODE=130"), "{seen}");
    // What stty said in the background, while stopped and at the end.
    assert_eq!(seen.matches(" icanon ").count(), 3, "{seen}");
    assert_eq!(seen.matches(" -icanon ").count(), 0, "{seen}");
    assert!(pty.is_restored());
    reported(&bench, "interrupted");
}

fn child_of(parent: u32) -> libc::pid_t {
    let children = format!("/proc/{parent}/task/{parent}/children");
    let children = std::fs::read_to_string(children).unwrap();
    children.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_terminal_that_hangs_up_ends_the_guest() {
    let Some(bench) = bench() else { return };
    let pty = Pty::open();
    let mut child = pty.spawn_session(&mut cvmm(&bench, "ticking", "100"));
    until("the terminal is raw", || pty.is_raw());
    drop(pty);
    assert_eq!(ended(&mut child).code(), Some(130));
    reported(&bench, "interrupted");
}

#[test]
fn a_terminal_that_hangs_up_does_not_end_a_guest_under_nohup() {
    let Some(bench) = bench() else { return };
    let pty = Pty::open();
    let mut command = cvmm(&bench, "ticking", "100");
    // SAFETY: the call is safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            Ok(())
        })
    };
    let mut child = pty.spawn_session(&mut command);
    until("the terminal is raw", || pty.is_raw());
    drop(pty);
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "it ended");
    signal(&child, libc::SIGTERM);
    assert_eq!(ended(&mut child).code(), Some(130));
    reported(&bench, "interrupted");
}

#[test]
fn a_console_that_nobody_reads_holds_no_signal_up() {
    let Some(bench) = bench() else { return };
    for terminal in [true, false] {
        let pty = Pty::open();
        let mut command = cvmm(&bench, "flooding", "100");
        let mut child = match terminal {
            true => pty.spawn(&mut command),
            false => command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap(),
        };
        // Long enough to fill what is between the guest and nobody.
        std::thread::sleep(Duration::from_millis(700));
        signal(&child, libc::SIGTERM);
        assert_eq!(ended(&mut child).code(), Some(130), "terminal: {terminal}");
        assert!(!terminal || pty.is_restored());
        reported(&bench, "interrupted");
    }
}

#[test]
fn what_kills_the_monitor_leaves_nothing_behind() {
    let Some(bench) = bench() else { return };
    let pty = Pty::open();
    pty.watch();
    let mut child = pty.spawn(&mut cvmm(&bench, "ticking", "100"));
    pty.expect(".", 0);
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    assert_eq!(std::fs::read_to_string(children).unwrap(), "", "it has children");
    signal(&child, libc::SIGKILL);
    assert_eq!(ended(&mut child).signal(), Some(libc::SIGKILL));
    assert_eq!(left(&bench), [""; 0]);
}
