//! Links the program statically and without the C runtime, with the host's own target.

fn main() {
    // -no-pie: nobody would relocate it. No build id: same sources, same bytes.
    for arg in ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none"] {
        println!("cargo:rustc-link-arg-bins={arg}");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
