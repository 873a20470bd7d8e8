//! Whether softkvm's library is loaded into this process, and the two things that it says of its machine.
//!
//! UNSAFETY: symbol look-ups by name; two symbols are called, as functions of the types that both sides agree on.
#![allow(unsafe_code)]

use std::ffi::CStr;

/// Looks for the symbol that the library exports for this purpose.
pub fn softkvm() -> bool {
    // SAFETY: the name is a C string, and the result is only compared with null.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"softkvm_is_loaded".as_ptr()) };
    !symbol.is_null()
}

/// Asks the library what operations cost on the platform profile in use. Older libraries do not say.
pub fn profile_costs() -> Option<String> {
    if !softkvm() {
        return None;
    }
    // SAFETY: the name is a C string.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"softkvm_profile_costs".as_ptr()) };
    if symbol.is_null() {
        return None;
    }
    // SAFETY: softkvm is loaded, and defines the symbol as a function that takes nothing and returns a C string or null.
    let ask: extern "C" fn() -> *const libc::c_char = unsafe { std::mem::transmute(symbol) };
    let text = ask();
    if text.is_null() {
        return None;
    }
    // SAFETY: a C string that lives as long as the process, by the same agreement.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().ok().map(str::to_owned)
}

/// Asks the library for CPUID of its machine. Older libraries do not say.
pub fn cpuid(leaf: u32, subleaf: u32) -> Option<[u32; 4]> {
    if !softkvm() {
        return None;
    }
    // SAFETY: the name is a C string.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"softkvm_cpuid".as_ptr()) };
    if symbol.is_null() {
        return None;
    }
    // SAFETY: softkvm is loaded, and defines the symbol as a function that takes leaf, subleaf and room for four words.
    let ask: extern "C" fn(u32, u32, *mut [u32; 4]) -> libc::c_int =
        unsafe { std::mem::transmute(symbol) };
    let mut out = [0; 4];
    (ask(leaf, subleaf, &mut out) == 0).then_some(out)
}
