//! The specs that come with cvmm.

/// Name and text, as `--list` shows them.
pub const SPECS: [(&str, &str); 13] = [
    ("technologies", include_str!("../../specs/technologies.toml")),
    ("fast-boot", include_str!("../../specs/fast-boot.toml")),
    ("boot-matrix", include_str!("../../specs/boot-matrix.toml")),
    ("goals", include_str!("../../specs/goals.toml")),
    ("vm-size", include_str!("../../specs/vm-size.toml")),
    ("first-touch", include_str!("../../specs/first-touch.toml")),
    ("polling", include_str!("../../specs/polling.toml")),
    ("exits-per-boot", include_str!("../../specs/exits-per-boot.toml")),
    ("psp-pages", include_str!("../../specs/psp-pages.toml")),
    ("concurrent", include_str!("../../specs/concurrent.toml")),
    ("marks", include_str!("../../specs/marks.toml")),
    ("kernel-path", include_str!("../../specs/kernel-path.toml")),
    ("probes", include_str!("../../specs/probes.toml")),
];

/// The text of one.
pub fn find(name: &str) -> Option<&'static str> {
    SPECS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
