//! Behaviour of one local APIC.
