//! mmu (being built).
