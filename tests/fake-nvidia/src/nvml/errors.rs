//! What NVML's error codes say in English.

use std::ffi::{CStr, c_char};

use nvml_wrapper_sys::bindings::nvmlReturn_t;

/// Code → text. Codes that are not here are unknown ones.
const TEXTS: [(nvmlReturn_t, &CStr); 14] = [
    (0, c"Success"),
    (1, c"Uninitialized"),
    (2, c"Invalid Argument"),
    (3, c"Not Supported"),
    (4, c"Insufficient Permissions"),
    (6, c"Not Found"),
    (7, c"Insufficient Size"),
    (9, c"Driver Not Loaded"),
    (10, c"Timeout"),
    (15, c"GPU is lost"),
    (16, c"GPU requires reset"),
    (18, c"Driver/library version mismatch"),
    (21, c"No data"),
    (25, c"Argument version mismatch"),
];

/// A static text; never null.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(result: nvmlReturn_t) -> *const c_char {
    let known = TEXTS.iter().find(|(code, _)| *code == result);
    known.map_or(c"Unknown Error", |(_, text)| text).as_ptr()
}
