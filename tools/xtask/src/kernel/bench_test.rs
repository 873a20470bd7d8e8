//! What is changed, what a report says, and points that are read again.

use serde_json::json;

use super::{Change, Config, Cost, cost, differences, matches, read_points};

#[test]
fn differences_are_options_that_are_not_equal() {
    let one =
        Config::parse("CONFIG_A=y\nCONFIG_B=64\n# CONFIG_C is not set\nCONFIG_D=y").expect("a");
    let two = Config::parse("CONFIG_A=y\nCONFIG_B=8\nCONFIG_E=m").expect("b");
    let found: Vec<_> = differences(&one, &two).iter().map(Change::to_string).collect();
    assert_eq!(found, ["B 64 → 8", "D y → n", "E n → m"]);
    assert!(matches("CONFIG_RD_GZIP", "RD_*") && matches("CONFIG_SMP", "SMP"));
    assert!(!matches("CONFIG_SMPX", "SMP") && !matches("CONFIG_XRD_A", "RD_*"));
}

#[test]
fn a_report_without_the_mark_is_no_cost() {
    let mark = json!({"name": "init-entry", "modelled_ns": 7, "exits_before": 3});
    assert_eq!(cost(&json!({ "marks": [mark] })), Some((7, 3)));
    for report in [json!({}), json!({"marks": []}), json!({"marks": [{"name": "init-entry"}]})] {
        assert_eq!(cost(&report), None);
    }
}

#[test]
fn points_are_read_again_and_a_cut_line_is_dropped() {
    let file = std::env::temp_dir().join(format!("points-{}.jsonl", std::process::id()));
    let line = r#"{"key":"a","cost":{"modelled_ns":1,"exits":2,"image_bytes":3}}"#;
    let dead = r#"{"key":"b","cost":null}"#;
    let read = |text: &str| {
        std::fs::write(&file, text).expect("written");
        read_points(&file).map(|known| known.into_iter().collect::<Vec<_>>())
    };
    let a = ("a".to_owned(), Some(Cost { modelled_ns: 1, exits: 2, image_bytes: 3 }));
    let b = ("b".to_owned(), None);
    assert_eq!(read(&format!("{line}\n{dead}\n")).expect("whole"), [a.clone(), b]);
    assert_eq!(read(&format!("{line}\n{}", &dead[..9])).expect("cut"), [a]);
    assert_eq!(std::fs::read_to_string(&file).expect("there"), format!("{line}\n"));
    let error = read(&format!("nonsense\n{line}\n")).expect_err("damaged").to_string();
    assert!(error.contains("line 1"), "{error}");
    std::fs::remove_file(&file).expect("removed");
}
