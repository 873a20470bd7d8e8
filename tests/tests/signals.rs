//! Signals while a real kernel boots: during the launch, in the shim, in the kernel and in user space. A run that is ended
//! leaves its report, a killed one nothing; after a stop the guest goes on as if nothing had been.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use cvmm_tests::{Cvmm, bzimage, in_parallel};

/// Where a run is caught: the line that is printed when it gets there.
struct Point {
    name: &'static str,
    line: &'static str,
    /// It is one of cvmm's (`-v`), not of the guest's console.
    said: bool,
}

const POINTS: [Point; 4] = [
    Point { name: "the launch", line: "planned", said: true },
    Point { name: "the shim", line: "running", said: true },
    Point { name: "the kernel", line: "Linux version", said: false },
    Point { name: "user space", line: "cvmm-init: ", said: false },
];

/// Its place in there.
const KERNEL_POINT: usize = 2;

const KERNEL: &str = "6.12";

fn boot(technology: &str) -> Cvmm {
    // Pages of kernel and initramfs are launch pages: there is something to interrupt.
    let load = if technology == "plain" { "hashed" } else { "measured" };
    Cvmm::new(["--emulate", "--timeout", "200", "--memory", "512M", "--cpus", "2", "-v"])
        .args(["--load", load])
        .arg(format!("--{technology}"))
        // Whoever runs the tests may ignore some (as shells do for background jobs), and cvmm would, too.
        .under(["env", "--default-signal"])
        .linux(&bzimage(KERNEL), KERNEL)
}

/// A run, and its output, until it ends.
struct Running {
    child: Child,
    console: BufReader<Box<dyn Read + Send>>,
    words: BufReader<Box<dyn Read + Send>>,
    dir: tempfile::TempDir,
}

impl Running {
    fn start(technology: &str) -> Running {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut command = boot(technology).command();
        command.arg("--report").arg(dir.path().join("report.json"));
        let mut child = command.spawn().expect("cvmm starts");
        let console: Box<dyn Read + Send> = Box::new(child.stdout.take().expect("a pipe"));
        let words: Box<dyn Read + Send> = Box::new(child.stderr.take().expect("a pipe"));
        Running { child, console: BufReader::new(console), words: BufReader::new(words), dir }
    }

    /// Reads on until the run is there.
    fn reach(&mut self, point: &Point) {
        let from = if point.said { &mut self.words } else { &mut self.console };
        let mut line = Vec::new();
        loop {
            line.clear();
            let got = from.read_until(b'\n', &mut line).expect("output");
            assert_ne!(got, 0, "the run ended before {}", point.name);
            if String::from_utf8_lossy(&line).contains(point.line) {
                return;
            }
        }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill");
        assert!(sent.success(), "kill -s {name}");
    }

    /// The state of its main thread (proc(5)).
    fn state(&self) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// Waits for the end, and reads what is left of the output.
    fn end(mut self, limit: Duration) -> Ended {
        let patience = Instant::now() + limit;
        let (mut console, mut words) = (self.console, self.words);
        let read = |from: &mut BufReader<Box<dyn Read + Send>>| {
            let mut rest = Vec::new();
            let _ = from.read_to_end(&mut rest);
            String::from_utf8_lossy(&rest).into_owned()
        };
        let (console, words) = std::thread::scope(|scope| {
            let console = scope.spawn(|| read(&mut console));
            let words = scope.spawn(|| read(&mut words));
            while self.child.try_wait().expect("a child").is_none() {
                if Instant::now() > patience {
                    let _ = self.child.kill();
                    panic!("it does not end");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            (console.join().expect("the console"), words.join().expect("stderr"))
        });
        let status = self.child.wait().expect("a child");
        let left = std::fs::read_dir(self.dir.path()).expect("the directory");
        let left = left.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into());
        Ended { status, console, words, left: left.collect(), dir: self.dir }
    }
}

struct Ended {
    status: ExitStatus,
    console: String,
    words: String,
    left: Vec<String>,
    dir: tempfile::TempDir,
}

impl Ended {
    /// The run left a whole report with this outcome, and nothing else.
    fn expect_report(&self, code: i32, outcome: &str) {
        assert_eq!(self.status.code(), Some(code), "{}", self.words);
        assert_eq!(self.left, ["report.json"]);
        let text = std::fs::read(self.dir.path().join("report.json")).expect("the report");
        let report: serde_json::Value = serde_json::from_slice(&text).expect("a whole report");
        assert_eq!(report["outcome"]["kind"], outcome);
    }
}

const TECHNOLOGIES: [&str; 3] = ["plain", "snp", "tdx"];
/// Longer than the end of a run takes on a busy machine.
const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_run_that_is_ended_leaves_its_report_and_a_killed_one_nothing() {
    let mut jobs = Vec::new();
    for technology in TECHNOLOGIES {
        for (at, point) in POINTS.iter().enumerate() {
            for (signal, number) in [("TERM", 15), ("INT", 2), ("HUP", 1), ("KILL", 9)] {
                // What a signal does is not the technology's affair; whether it can be ended anywhere is.
                let both = technology == "plain" && at != KERNEL_POINT;
                if both || signal == "TERM" || signal == "KILL" && at != KERNEL_POINT {
                    let name = format!("{technology}: SIG{signal} in {}", point.name);
                    jobs.push((name, (technology, at, signal, number)));
                }
            }
        }
    }
    in_parallel(jobs, |_, (technology, at, signal, number)| {
        let mut run = Running::start(technology);
        run.reach(&POINTS[at]);
        run.signal(signal);
        let ended = run.end(SOON);
        match ended.status.signal() {
            // Before the guest runs there is nothing to report, and a signal does what it does to any program.
            Some(by) => {
                assert_eq!(by, number);
                assert!(at == 0 || signal == "KILL", "{}", ended.words);
                assert!(ended.left.is_empty(), "{:?}", ended.left);
            }
            None => ended.expect_report(130, "interrupted"),
        }
    });
}

#[test]
fn a_guest_goes_on_after_every_stop() {
    let jobs = TECHNOLOGIES.map(|technology| (technology.to_owned(), technology));
    in_parallel(jobs.into(), |_, technology| {
        let mut run = Running::start(technology);
        for point in &POINTS {
            run.reach(point);
            run.signal("STOP");
            let patience = Instant::now() + SOON;
            while run.state() != Some('T') {
                assert!(Instant::now() < patience, "it does not stop in {}", point.name);
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(100));
            run.signal("CONT");
        }
        let ended = run.end(Duration::from_secs(200));
        assert!(ended.console.contains("cvmm-init: ready"), "{}\n{}", ended.console, ended.words);
        ended.expect_report(0, "power_off");
    });
}
