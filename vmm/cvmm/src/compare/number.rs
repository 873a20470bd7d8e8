//! Figures as people read them.

/// A unit for a whole column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale<'a> {
    /// Its name.
    pub unit: &'a str,
    by: f64,
    digits: usize,
}

/// The unit for figures up to this one.
pub fn scale(unit: &str, largest: f64) -> Scale<'_> {
    match unit {
        "ns" if largest >= 1e6 => Scale { unit: "ms", by: 1e6, digits: 3 },
        "ns" if largest >= 1e3 => Scale { unit: "us", by: 1e3, digits: 3 },
        "ps" if largest >= 1e6 => Scale { unit: "us", by: 1e6, digits: 3 },
        "ps" if largest >= 1e3 => Scale { unit: "ns", by: 1e3, digits: 1 },
        "bytes/s" if largest >= 1e6 => Scale { unit: "MB/s", by: 1e6, digits: 1 },
        "bytes" if largest >= 1e6 => Scale { unit: "MiB", by: f64::from(1 << 20), digits: 1 },
        _ => Scale {
            unit,
            by: 1.0,
            digits: if largest != 0.0 && largest.abs() < 100.0 { 2 } else { 0 },
        },
    }
}

impl Scale<'_> {
    /// A figure in this unit, without it.
    pub fn show(&self, value: f64) -> String {
        let value = value / self.by;
        // What is counted is whole, but for a median between two.
        let digits = if self.by == 1.0 && value.fract() == 0.0 {
            0
        } else {
            self.digits.max(usize::from(value.fract() != 0.0))
        };
        format!("{value:.digits$}")
    }
}

/// A number without a unit.
pub fn count(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => format!("{value:.0}"),
        _ => format!("{value:.3}"),
    }
}

/// A p-value, marked where it is approximated.
pub fn p_value(p: f64, exact: bool) -> String {
    let mark = if exact { "" } else { "~" };
    if p < 0.0001 { format!("{mark}{p:.1e}") } else { format!("{mark}{p:.4}") }
}
