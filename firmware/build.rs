//! Tells the linker how the shim's images are laid out.

fn main() {
    let directory = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rerun-if-changed=link.ld");
    println!("cargo:rerun-if-changed=build.rs");
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!(
        "cargo:rustc-link-arg-bins=-Wl,-T,{directory}/link.ld,--build-id=none,-z,norelro,-z,noexecstack"
    );
}
