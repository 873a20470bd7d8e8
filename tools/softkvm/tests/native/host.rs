//! The host processor as an oracle: one instruction runs natively on a complete register state.
//!
//! UNSAFETY: machine code is written to a page of its own and called. It loads every register
//! (except segment bases) from a frame, runs the instruction, stores every register and restores
//! what the ABI preserves. A signal handler on its own stack turns faults into a jump to the
//! storing half. Everything lies at fixed addresses below 2 GiB, so no register is needed to
//! address the frame.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use softkvm::cpu::Exception;

/// Where everything lies.
pub const BASE: u64 = 0x5000_0000;
/// The page of the stub, and in it the instruction under test.
pub const CODE: u64 = BASE + 0x1000;
/// Two pages that instructions may access; the pages around them are unmapped.
pub const SANDBOX: u64 = BASE + 0x1_0000;
/// Length of the sandbox.
pub const SANDBOX_LEN: usize = 0x2000;
/// End of the reserved range.
const END: u64 = BASE + 0x2_0000;

/// Registers, as the stub loads and stores them.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct State {
    /// FXSAVE image.
    pub fx: [u8; 512],
    /// RAX..R15.
    pub gpr: [u64; 16],
    /// RFLAGS.
    pub rflags: u64,
    /// Whether execution went on at [`Host::target`] instead of the next instruction.
    pub taken: u64,
}

#[repr(C, align(64))]
struct Frame {
    state: State,
    host_rsp: u64,
    host_mxcsr: u32,
}

const RFLAGS: u32 = (BASE + 640) as u32;
const TAKEN: u32 = (BASE + 648) as u32;
const HOST_RSP: u32 = (BASE + 704) as u32;
const HOST_MXCSR: u32 = (BASE + 712) as u32;
const GPR: u32 = (BASE + 512) as u32;
/// Top of a stack for loading and storing EFLAGS in 32-bit code.
const STACK: u32 = (BASE + 0xf00) as u32;

/// Vector, error code and CR2 of the fault; a vector of [`NONE`] if there was none.
static FAULT: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
const NONE: u64 = u64::MAX;
static EXIT: AtomicU64 = AtomicU64::new(0);

/// Length of the jump to the exit that follows the instruction.
const JUMP: usize = 5;

/// The stub around the instruction.
pub struct Host {
    bits: u32,
    entry_len: usize,
    _alone: MutexGuard<'static, ()>,
}

/// The addresses are fixed, so there is one stub at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// `[disp32]` without base, in 64-bit code: ModRM with the given register field, SIB, displacement.
fn absolute(code: &mut Vec<u8>, opcode: &[u8], field: u8, address: u32) {
    code.extend_from_slice(opcode);
    code.extend_from_slice(&[field << 3 | 4, 0x25]);
    code.extend_from_slice(&address.to_le_bytes());
}

/// The same in 32-bit code.
fn absolute32(code: &mut Vec<u8>, opcode: &[u8], field: u8, address: u32) {
    code.extend_from_slice(opcode);
    code.push(field << 3 | 5);
    code.extend_from_slice(&address.to_le_bytes());
}

/// From the call to the instruction: saves what the ABI preserves, loads the state.
fn entry(bits: u32) -> Vec<u8> {
    let mut code = vec![0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57];
    absolute(&mut code, &[0x48, 0x89], 4, HOST_RSP);
    absolute(&mut code, &[0x0f, 0xae], 3, HOST_MXCSR);
    absolute(&mut code, &[0x48, 0x0f, 0xae], 1, BASE as u32);
    if bits == 64 {
        absolute(&mut code, &[0xff], 6, RFLAGS);
        code.push(0x9d);
        for i in 0..16u8 {
            absolute(&mut code, &[0x48 | i >> 3 << 2, 0x8b], i & 7, GPR + 8 * u32::from(i));
        }
        return code;
    }
    // PUSH the selector and the address after RETFQ, which enters compatibility mode.
    code.extend_from_slice(&[0x6a, 0x23, 0x68]);
    let next = CODE as u32 + code.len() as u32 + 6;
    code.extend_from_slice(&next.to_le_bytes());
    code.extend_from_slice(&[0x48, 0xcb]);
    // MOV EAX, 2Bh; MOV DS, EAX; MOV ES, EAX; MOV ESP, imm32.
    code.extend_from_slice(&[0xb8, 0x2b, 0, 0, 0, 0x8e, 0xd8, 0x8e, 0xc0, 0xbc]);
    code.extend_from_slice(&STACK.to_le_bytes());
    absolute32(&mut code, &[0xff], 6, RFLAGS);
    code.push(0x9d);
    for i in 0..8u8 {
        absolute32(&mut code, &[0x8b], i, GPR + 8 * u32::from(i));
    }
    code
}

/// From the instruction to the return. `at` is where it will lie.
fn exit(bits: u32, at: u64) -> Vec<u8> {
    let mut code = Vec::new();
    if bits == 64 {
        for i in 0..16u8 {
            absolute(&mut code, &[0x48 | i >> 3 << 2, 0x89], i & 7, GPR + 8 * u32::from(i));
        }
        absolute(&mut code, &[0x48, 0x8b], 4, HOST_RSP);
        code.push(0x9c);
        absolute(&mut code, &[0x8f], 0, RFLAGS);
    } else {
        for i in 0..8u8 {
            absolute32(&mut code, &[0x89], i, GPR + 8 * u32::from(i));
        }
        code.push(0xbc);
        code.extend_from_slice(&STACK.to_le_bytes());
        code.push(0x9c);
        absolute32(&mut code, &[0x8f], 0, RFLAGS);
        // JMP FAR back to 64-bit code.
        let next = at as u32 + code.len() as u32 + 7;
        code.push(0xea);
        code.extend_from_slice(&next.to_le_bytes());
        code.extend_from_slice(&[0x33, 0]);
        absolute(&mut code, &[0x48, 0x8b], 4, HOST_RSP);
    }
    // CLD, and no alignment checks for the rest of the program: PUSH 202h, POPFQ.
    code.extend_from_slice(&[0xfc, 0x68, 2, 2, 0, 0, 0x9d]);
    absolute(&mut code, &[0x48, 0x0f, 0xae], 0, BASE as u32);
    code.extend_from_slice(&[0xdb, 0xe3]);
    absolute(&mut code, &[0x0f, 0xae], 2, HOST_MXCSR);
    code.extend_from_slice(&[0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3]);
    code
}

extern "C" fn on_signal(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid context.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    if !(CODE..CODE + 0x1000).contains(&(registers[libc::REG_RIP as usize] as u64)) {
        // SAFETY: a fault outside the stub is a bug of the test itself.
        unsafe { libc::abort() };
    }
    let fields = [libc::REG_TRAPNO, libc::REG_ERR, libc::REG_CR2];
    for (slot, field) in FAULT.iter().zip(fields) {
        slot.store(registers[field as usize] as u64, Ordering::SeqCst);
    }
    registers[libc::REG_RIP as usize] = EXIT.load(Ordering::SeqCst) as i64;
}

/// The fault the kernel told the handler about.
fn fault() -> Option<Exception> {
    let [vector, error, cr2] = FAULT.each_ref().map(|slot| slot.load(Ordering::SeqCst));
    let (vector, error) = (vector as u8, error as u32);
    match vector {
        0xff => None,
        10..=14 | 17 => {
            Some(Exception { vector, error: Some(error), cr2: (vector == 14).then_some(cr2) })
        }
        _ => Some(Exception::plain(vector)),
    }
}

fn map(at: u64, len: usize, protection: i32) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: only the range reserved in `Host::new` is remapped.
    let got = unsafe { libc::mmap(at as *mut _, len, protection, flags, -1, 0) };
    got as u64 == at
}

impl Host {
    /// Maps the pages and installs the signal handlers for code of 32 or 64 bits; `None` if the
    /// address range is taken.
    pub fn new(bits: u32) -> Option<Self> {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let len = (END - BASE) as usize;
        // SAFETY: a new mapping that replaces nothing.
        let got = unsafe { libc::mmap(BASE as *mut _, len, libc::PROT_NONE, flags, -1, 0) };
        if got as u64 != BASE {
            return None;
        }
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let mapped = map(BASE, 0x1000, rw)
            && map(CODE, 0x1000, rw | libc::PROT_EXEC)
            && map(SANDBOX, SANDBOX_LEN, rw);
        if !mapped {
            return None;
        }
        let stack = Box::leak(vec![0u8; 1 << 18].into_boxed_slice());
        let alternate =
            libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
        // SAFETY: plain set-up of handlers whose stack is never freed.
        unsafe {
            libc::sigaltstack(&alternate, std::ptr::null_mut());
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            for signal in [libc::SIGSEGV, libc::SIGILL, libc::SIGFPE, libc::SIGBUS, libc::SIGTRAP] {
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
        }
        let code = entry(bits);
        let host = Self { bits, entry_len: code.len(), _alone: alone };
        host.code()[..code.len()].copy_from_slice(&code);
        Some(host)
    }

    /// The page of the stub.
    #[allow(clippy::mut_from_ref)]
    pub fn code(&self) -> &mut [u8] {
        // SAFETY: mapped in `new`; one borrower at a time (single-threaded test).
        unsafe { std::slice::from_raw_parts_mut(CODE as *mut u8, 0x1000) }
    }

    /// The pages that instructions may access.
    #[allow(clippy::mut_from_ref)]
    pub fn sandbox(&self) -> &mut [u8] {
        // SAFETY: mapped in `new`; one borrower at a time (single-threaded test).
        unsafe { std::slice::from_raw_parts_mut(SANDBOX as *mut u8, SANDBOX_LEN) }
    }

    /// Address of the instruction under test.
    pub fn rip(&self) -> u64 {
        CODE + self.entry_len as u64
    }

    /// Makes `bytes` the instruction under test.
    pub fn place(&self, bytes: &[u8]) {
        let at = self.entry_len;
        let code = self.code();
        code[at..at + bytes.len()].copy_from_slice(bytes);
        let next = at + bytes.len();
        // The target records that it was reached and falls into the exit.
        let mut rest = vec![0xe9, 0, 0, 0, 0];
        if self.bits == 64 {
            absolute(&mut rest, &[0x48, 0xc7], 0, TAKEN);
        } else {
            absolute32(&mut rest, &[0xc7], 0, TAKEN);
        }
        rest.extend_from_slice(&1u32.to_le_bytes());
        rest[1] = (rest.len() - JUMP) as u8;
        let exit = next + rest.len();
        rest.extend_from_slice(&self::exit(self.bits, CODE + exit as u64));
        code[next..next + rest.len()].copy_from_slice(&rest);
        EXIT.store(CODE + exit as u64, Ordering::SeqCst);
    }

    /// Where branches of an instruction of this length lead.
    pub fn target(rip: u64, len: usize) -> u64 {
        rip + (len + JUMP) as u64
    }

    /// Runs the instruction. Returns the exception it raised.
    pub fn run(&self, state: &mut State) -> Option<Exception> {
        let frame = BASE as *mut Frame;
        FAULT[0].store(NONE, Ordering::SeqCst);
        // SAFETY: the frame is mapped; the stub obeys the C ABI (see the module's comment).
        unsafe {
            (*frame).state = state.clone();
            let stub: extern "C" fn() = std::mem::transmute(CODE as *const ());
            stub();
            *state = (*frame).state.clone();
        }
        fault()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: the range was reserved in `new`; nothing refers to it any more.
        unsafe { libc::munmap(BASE as *mut _, (END - BASE) as usize) };
    }
}
