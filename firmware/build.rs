//! Tells the linker how the shim's images are laid out.

/// Each image and its layout.
const LAYOUTS: [(&str, &str); 3] =
    [("shim-image", "link.ld"), ("shim-tdx-image", "link.ld"), ("shim-boot-image", "link_boot.ld")];

fn main() {
    let directory = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo:rerun-if-changed=build.rs");
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    for (image, layout) in LAYOUTS {
        println!("cargo:rerun-if-changed={layout}");
        println!(
            "cargo:rustc-link-arg-bin={image}=-Wl,-T,{directory}/{layout},--build-id=none,-z,norelro,-z,noexecstack"
        );
    }
}
