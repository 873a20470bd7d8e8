//! Colours of the page, in both themes. The tests compute what they promise: text that can be read, groups that differ for
//! everybody.

use std::fmt::Write;

/// A colour, sRGB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour(pub u32);

impl Colour {
    fn channels(self) -> [f64; 3] {
        [16, 8, 0].map(|shift| f64::from(self.0 >> shift & 0xff) / 255.0)
    }

    /// Linear light of the three channels (WCAG 2.2, "relative luminance").
    pub fn linear(self) -> [f64; 3] {
        self.channels().map(
            |c| {
                if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
            },
        )
    }

    /// Relative luminance (WCAG 2.2).
    pub fn luminance(self) -> f64 {
        let [r, g, b] = self.linear();
        0.2126 * r + 0.7152 * g + 0.0722 * b
    }

    /// Contrast ratio (WCAG 2.2).
    pub fn contrast(self, other: Colour) -> f64 {
        let (a, b) = (self.luminance(), other.luminance());
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    /// So much of this colour over another.
    pub fn over(self, below: Colour, share: f64) -> Colour {
        let (top, bottom) = (self.channels(), below.channels());
        let mixed = [0, 1, 2].map(|at| top[at] * share + bottom[at] * (1.0 - share));
        Colour(mixed.iter().fold(0, |word, c| word << 8 | (c * 255.0).round() as u32))
    }
}

/// A theme.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Theme {
    pub page: Colour,
    pub card: Colour,
    pub text: Colour,
    /// Text that matters less.
    pub quiet: Colour,
    pub line: Colour,
    pub link: Colour,
    /// Background and text of a warning.
    pub warning: [Colour; 2],
    /// What tables are tinted with.
    pub heat: Colour,
    /// By [`GROUPS`]. Text on them has the colour of the page.
    pub groups: [Colour; 9],
}

/// Groups of phases: the first letter of their ids, and whose turn it is in them.
pub const GROUPS: [(&str, &str); 9] = [
    ("H", "host: monitor and KVM"),
    ("S", "launch of the protection"),
    ("G", "shim or firmware"),
    ("K", "kernel"),
    ("U", "user space"),
    ("A", "attestation"),
    ("P", "probes"),
    ("R", "rest of the run"),
    ("T", "teardown"),
];

/// How strong the tints of a table are.
pub const TINTS: [f64; 8] = [0.04, 0.08, 0.12, 0.17, 0.22, 0.27, 0.32, 0.37];

/// By day.
pub const LIGHT: Theme = Theme {
    page: Colour(0xffffff),
    card: Colour(0xf6f7f9),
    text: Colour(0x16191d),
    quiet: Colour(0x565d66),
    line: Colour(0xd8dce1),
    link: Colour(0x0b57a4),
    warning: [Colour(0xfff4d6), Colour(0x5c3d00)],
    heat: Colour(0x1668b8),
    groups: [
        Colour(0x5b6470),
        Colour(0xb4233c),
        Colour(0x8f5a00),
        Colour(0x0b57a4),
        Colour(0x14795f),
        Colour(0x7a3ea8),
        Colour(0xa8327c),
        Colour(0x363b42),
        Colour(0x6a7077),
    ],
};

/// By night.
pub const DARK: Theme = Theme {
    page: Colour(0x0e1116),
    card: Colour(0x171b22),
    text: Colour(0xe8ecf1),
    quiet: Colour(0xa3adb9),
    line: Colour(0x323944),
    link: Colour(0x79b8ff),
    warning: [Colour(0x3a2c05), Colour(0xffdf8a)],
    heat: Colour(0x3f8fe0),
    groups: [
        Colour(0x9aa5b3),
        Colour(0xff7b8b),
        Colour(0xf0ad3d),
        Colour(0x6cb2ff),
        Colour(0x4fd0a8),
        Colour(0xc79bff),
        Colour(0xff8fd0),
        Colour(0xd5dbe2),
        Colour(0x858c95),
    ],
};

impl Theme {
    /// Tint number `at` of a table.
    pub fn tint(&self, at: usize) -> Colour {
        self.heat.over(self.card, TINTS[at.min(TINTS.len() - 1)])
    }

    fn declarations(&self) -> String {
        let mut out = String::new();
        let [below, above] = self.warning;
        let named = [
            ("page", self.page),
            ("card", self.card),
            ("text", self.text),
            ("quiet", self.quiet),
            ("line", self.line),
            ("link", self.link),
            ("warn", below),
            ("warn-text", above),
            ("heat", self.heat),
        ];
        for (name, colour) in named {
            let _ = write!(out, "--{name}:#{:06x};", colour.0);
        }
        for ((id, _), colour) in GROUPS.iter().zip(self.groups) {
            let _ = write!(out, "--{id}:#{:06x};", colour.0);
        }
        for at in 0..TINTS.len() {
            let _ = write!(out, "--t{at}:#{:06x};", self.tint(at).0);
        }
        out
    }
}

/// Both themes as custom properties: by what the reader's system prefers, and by choice.
pub fn css() -> String {
    let (light, dark) = (LIGHT.declarations(), DARK.declarations());
    let mut out = format!(
        ":root{{{light}color-scheme:light}}\n\
         @media(prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}color-scheme:dark}}}}\n\
         :root[data-theme=dark]{{{dark}color-scheme:dark}}\n"
    );
    for (id, _) in GROUPS {
        let _ = writeln!(
            out,
            ".{id}{{fill:var(--{id})}}.chip.{id}{{background:var(--{id})}}path.curve.{id}{{stroke:var(--{id})}}svg text.curve-name.{id}{{fill:var(--{id})}}"
        );
    }
    for at in 0..TINTS.len() {
        let _ = writeln!(out, ".t{at}{{background:var(--t{at})}}rect.t{at}{{fill:var(--t{at})}}");
    }
    out
}

/// The class of a phase: that of its group.
pub fn class(phase: &str) -> &'static str {
    let group = GROUPS.iter().find(|(id, _)| phase.starts_with(id));
    group.map_or("R", |(id, _)| id)
}
