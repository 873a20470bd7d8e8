use super::*;

const CONSOLE: &str = "cvmm-init: ready\n\
    cvmm-init: $ /bin/cvmm --plain --kernel a\nhello\ncvmm-init: ready\ncvmm-init: $ ended, exit code 0\n\
    cvmm-init: $ /bin/cvmm --plain --kernel b\ncvmm-init: $ ended, exit code 0\ncvmm-init: power off\n";

fn guests() -> [Guest; 2] {
    ["a", "b"].map(|name| Guest {
        name: name.into(),
        words: vec![],
        kind: super::super::guests::Kind::Bare,
        several_vcpus: false,
    })
}

#[test]
fn consoles_and_reports_are_paired_in_order() {
    let seen = collect(CONSOLE, "{\"n\": 1}\n{\"n\": 2}\n", &guests()).unwrap();
    assert_eq!(seen[0].console, "hello\ncvmm-init: ready\n");
    assert_eq!(seen[1].console, "");
    assert_eq!((&seen[0].report["n"], &seen[1].report["n"]), (&1.into(), &2.into()));
}

#[test]
fn half_a_report_a_missing_one_and_a_guest_that_failed_are_errors() {
    let failed = CONSOLE.replacen("exit code 0", "exit code 8", 1);
    let cut = CONSOLE.split_once("--kernel b").unwrap().0;
    for (console, reports, why) in [
        (CONSOLE, "{\"n\": 1}\n{\"n\":", "intact"),
        (CONSOLE, "{\"n\": 1}\n", "2 guests ran and 1 reports"),
        (&failed, "{} {}", "exit code 8"),
        (cut, "{} {}", "half a console"),
    ] {
        let Err(error) = collect(console, reports, &guests()) else { panic!("{why}: no error") };
        assert!(format!("{error:#}").contains(why), "{error:#}");
    }
}
