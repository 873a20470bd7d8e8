//! kvm (being built).
