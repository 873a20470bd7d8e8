//! Files of symbols, and kernels that run elsewhere.

use std::path::Path;
use std::sync::Arc;

use super::*;

const MAP: &str = "\
ffffffff81000000 T _text
ffffffff8122c890 T secondary_startup_64
ffffffff8122c895 T secondary_startup_64_no_verify
ffffffff8122c8af t common_startup_64
ffffffff8122d000 t mm_init
ffffffff815837c0 t rest_init
ffffffff818cd000 T _sinittext
ffffffff818cd7d0 T start_kernel
ffffffff81902000 t acpi_init
ffffffff81904910 T mm_core_init
ffffffff819258e8 D late_time_init
ffffffff81930000 T _einittext
";

fn parse(text: &str) -> Result<Symbols, SymbolsError> {
    Symbols::parse(text, Path::new("System.map"))
}

fn watch(text: &str) -> Watch {
    Watch::new(Arc::new(parse(text).unwrap()))
}

fn names(watch: &Watch) -> Vec<&'static str> {
    watch.stages().map(|(name, _)| name).collect()
}

#[test]
fn stages_are_functions_of_the_file_in_their_order() {
    // Not fork's mm_init, and not the variable.
    assert_eq!(names(&watch(MAP)), ["start_kernel", "mm_core_init", "rest_init", "acpi_init"]);
    // A module's function is not the kernel's.
    let text = MAP.to_owned() + "ffffffff818ce000 t setup_arch\t[other]\n";
    assert_eq!(names(&watch(&text)).len(), 4);
    // Before Linux 6.4.
    let text = MAP.replace("ffffffff81904910 T mm_core_init", "ffffffff81904910 t mm_init");
    assert_eq!(names(&watch(&text))[1], "mm_init");
}

#[test]
fn a_kernel_is_found_wherever_it_runs() {
    let moved = [0, 0x20_0000u64, 0x3a00_0000, 0u64.wrapping_sub(0x60_0000)];
    let old = MAP.replace("ffffffff8122c8af t common_startup_64\n", "");
    for distance in moved {
        let at = |address: u64| address.wrapping_add(distance);
        for (text, landing) in [(MAP, 0xffff_ffff_8122_c8af), (&old, 0xffff_ffff_8122_c9c1)] {
            let mut watch = watch(text);
            assert_eq!(watch.meet(at(landing), || 1), Met::More, "{distance:#x}");
            assert_eq!(watch.meet(at(0xffff_ffff_818c_d7d0), || 2), Met::More);
            assert_eq!(watch.meet(at(0xffff_ffff_818c_d7d0), || 3), Met::More, "only once");
            assert_eq!(watch.meet(at(0xffff_ffff_818c_d7d1), || 4), Met::More);
            assert_eq!(watch.meet(at(0xffff_ffff_8158_37c0), || 5), Met::More);
            let seen: Vec<_> = watch.stages().map(|(_, time)| time).collect();
            assert_eq!(seen, [Some(2), None, Some(5), None]);
            assert_eq!(watch.meet(at(0xffff_ffff_8190_4910), || 6), Met::More);
            assert_eq!(watch.meet(at(0xffff_ffff_8190_2000), || 7), Met::Last);
        }
    }
}

#[test]
fn another_kernel_is_a_stranger() {
    let exact = MAP.replace("secondary", "another");
    for rip in [0xffff_ffff_8122_c8b0, 0xffff_ffff_8122_d8af, 0xffff_ffff_818c_d7d0] {
        assert_eq!(watch(&exact).meet(rip, || 0), Met::Stranger, "{rip:#x}");
    }
}

#[test]
fn what_is_no_file_of_symbols_is_refused() {
    let text = |text: &str| parse(text).unwrap_err().to_string();
    assert!(text("start_kernel\n").contains("line 1: no symbol"));
    assert!(text(&(MAP.to_owned() + "xyz t name\n")).contains("line 13"));
    assert!(text("0000000000000000 T start_kernel\n").contains("shows them to root only"));
    assert!(text("").contains("no start_kernel"));
    assert!(text(&MAP.replace("startup_64", "begin")).contains("no secondary_startup_64"));
    let error = Symbols::read(Path::new("/nowhere/System.map")).unwrap_err().to_string();
    assert!(error.contains("/nowhere/System.map"), "{error}");
}
