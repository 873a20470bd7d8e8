//! Several cvmm at one modelled security processor (`SOFTKVM_PSP`): processes of their own, whose launches queue.

use std::time::{Duration, Instant};

use cvmm_tests::input;
use cvmm_tests::launches::{Launches, Round};

const PROFILE: &str = "epyc-milan";

/// What a launch alone has that does not come from the security processor: the shim's first stage and the guest's request.
fn rest(launches: &Launches, pages: usize) -> u64 {
    let alone = launches.alone(pages, PROFILE);
    assert_eq!(alone.wait_ns, 0);
    alone.end_ns - alone.psp_ns
}

#[test]
fn the_last_of_n_launches_takes_n_times_as_long() {
    let launches = Launches::new(&input("CVMM_BIN"));
    let (alone, rest) = (launches.alone(3, PROFILE), rest(&launches, 3));
    assert!(rest < 150_000, "{rest}");
    for of in [1, 2, 5, 10] {
        let round = Round { of, pages: 3, apart: Duration::ZERO, profile: PROFILE };
        let at_once = launches.together(round);
        let last = at_once.last().expect("at least one").end_ns;
        assert!(last.abs_diff(of as u64 * alone.psp_ns + rest) <= of as u64, "{at_once:?}");
        // Who starts later, in the host's time, is no later in theirs.
        let apart = launches.together(Round { apart: Duration::from_millis(25), ..round });
        assert_eq!(at_once, apart);
        assert!(at_once.iter().all(|launched| launched.psp_ns == alone.psp_ns));
    }
}

#[test]
fn a_monitor_that_is_killed_is_not_waited_for() {
    let launches = Launches::new(&input("CVMM_BIN"));
    let alone = launches.alone(0, PROFILE);
    let file = launches.meeting();
    let psp = format!("{};of=2", file.display());
    // It waits at its second command, for nobody knows when the other's first will come.
    let mut killed = launches.start("killed", 0, PROFILE, &psp);
    let since = Instant::now();
    while !std::fs::read(&file).is_ok_and(|words| words[24..32] != [0; 8]) {
        assert!(since.elapsed() < Duration::from_secs(60), "it has not begun");
        std::thread::sleep(Duration::from_millis(5));
    }
    let other = launches.start("other", 0, PROFILE, &psp);
    killed.kill().expect("it is ours");
    killed.wait().expect("it is ours");
    let survived = launches.finish("other", other);
    assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
    // What the other had begun is done before its own first command, if not more of it.
    assert!(survived.wait_ns > 0 && survived.end_ns == alone.end_ns + survived.wait_ns);
}

#[test]
fn who_comes_alone_gives_up_and_says_why() {
    let launches = Launches::new(&input("CVMM_BIN"));
    let psp = format!("{};of=2;patience=1", launches.meeting().display());
    let child = launches.start("alone", 0, PROFILE, &psp);
    let output = child.wait_with_output().expect("cvmm ends");
    let words = String::from_utf8_lossy(&output.stderr);
    assert_ne!(output.status.code(), Some(0), "{words}");
    assert!(
        words.contains("SOFTKVM_PSP: nothing has happened for 1 s; 1 of 2 have not come"),
        "{words}"
    );
    assert!(words.contains("error: ") && !words.contains("panicked"), "{words}");
}
