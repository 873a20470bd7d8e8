//! softkvm: a `/dev/kvm` in user space whose software x86-64 processor has SEV-SNP or TDX.
//!
//! A KVM monitor that opens `/dev/kvm` and `/dev/sev` with the preload library in front talks to this
//! crate instead of the kernel: the same ioctls, the same order of checks, the same errno values.
//! Behind them stand a processor made of software ([`cpu`], [`mmu`]), the in-kernel interrupt chips
//! ([`chipset`]), the reverse map, the security processor and the GHCB protocol of SEV-SNP
//! ([`snp`]), and the TDX module with its secure EPT ([`tdx`]), put together by the front end ([`kvm`]). Which of the two
//! technologies there is depends on the profile: it models an AMD or an Intel part.
//!
//! It is written from the specifications and from the kernel's code. What a real host, security
//! processor, TDX module or processor would refuse is refused. Private memory is modelled by rules, not by
//! ciphers: it lies in memory of its own that the monitor has no mapping of, and what the reverse map or the secure EPT
//! forbids faults. A guest on softkvm is therefore **not confidential**.
//!
//! For tests, calls can be made to fail ([`kvm::failures`]), and the host can cheat ([`kvm::hostile`]).
//! A host that is not set up (no device node, old firmware, no identifiers left, …) can be modelled, too: [`kvm::faults`].
//! Several monitors can wait for one security processor ([`kvm::psp_queue`]), and a kernel's functions tell when they ran
//! ([`kvm::symbols`]).
//!
//! # What is not modelled
//!
//! Met by a guest or a monitor, these end the run by name or are refused; none is guessed.
//!
//! - Processor: AVX and later vector extensions, FMA, task switches through a TSS, virtual-8086 mode,
//!   protection keys, shadow stacks, performance counters, system management mode, nested
//!   virtualisation. XSAVE, SSE3 to SSE4.2, AES, SHA and BMI are executed but not offered by the AMD profiles, SHA, BMI and
//!   ADX not by the Intel ones.
//!   Global pages and PCIDs exist in name: every flush is total. Memory types are stored only.
//! - SEV-SNP: VMPLs above 0, Secure TSC, debug swap, restricted and alternate injection, 2 MiB pages in
//!   the reverse map (guest_memfd has 4 KiB pages in Linux 7.2 as well), migration agents, VLEK, page swap,
//!   and the ciphertext itself.
//! - TDX: debuggable, migratable and partitioned TDs, service TDs, performance monitoring, Key Locker, extended states beyond
//!   x87 and SSE, private pages above 4 KiB (KVM of Linux 7.2 has none either), MONITOR and MWAIT, instruction information of
//!   string port accesses in #VE, zero-step mitigation, contention inside the module (OPERAND_BUSY), and the encryption and
//!   its integrity. A shared page is writable for whoever maps it, read-only slots do not exist for TDs.
//! - KVM: pause-loop exiting of AMD parts, dirty rings, guest debugging, Hyper-V and Xen interfaces, asynchronous page faults, VM types
//!   other than default, software-protected, SNP and TDX. What user space changes in the mapping behind a slot (mprotect, unmapping)
//!   is not noticed; guest memory descriptors refuse reads and writes with EBADF where the kernel says EINVAL.
//! - Host writes into shared memory that holds guest *code* are not noticed while that code is cached.
//!   Kernels load code into private memory (SNP) or before they run (plain), so this matters to devices
//!   that write code by DMA.
//! - Time is virtual: one modelled core runs the vCPUs in turns, one cycle per instruction plus the
//!   profile's cost of every architectural event. An idle machine's time jumps to the next timer, but stands still while a
//!   quote is being made (for at most 20 s of the host's).

pub mod chipset;
pub mod cpu;
pub mod kvm;
pub mod mmu;
pub mod price;
pub mod qgs;
pub mod snp;
pub mod tdx;
pub mod x509;
