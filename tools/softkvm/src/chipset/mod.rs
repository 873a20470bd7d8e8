//! chipset (being built).
