//! snp (being built).
