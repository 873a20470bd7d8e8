//! Whether softkvm's library is loaded into this process.
//!
//! UNSAFETY: one symbol look-up by name; the symbol is not called.
#![allow(unsafe_code)]

/// Looks for the symbol that the library exports for this purpose.
pub fn softkvm() -> bool {
    // SAFETY: the name is a C string, and the result is only compared with null.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"softkvm_is_loaded".as_ptr()) };
    !symbol.is_null()
}
