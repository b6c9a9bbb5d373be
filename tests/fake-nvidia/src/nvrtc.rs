//! NVRTC, the run-time compiler: it makes images with the source's kernels, by name. It needs no driver.

mod options;
mod ptx;
mod source;

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, c_char, c_int},
    sync::Mutex,
};

use crate::c_interface::{self, Code, lock, text};
use source::{Kernel, Mistake};

const INVALID_INPUT: Code = 3;
const INVALID_PROGRAM: Code = 4;
const INVALID_OPTION: Code = 5;
const COMPILATION: Code = 6;
const NO_NAMES_AFTER_COMPILATION: Code = 8;
const NO_LOWERED_NAMES_BEFORE_COMPILATION: Code = 9;
const NAME_NOT_VALID: Code = 10;
const INTERNAL_ERROR: Code = 11;

/// NVRTC's version.
const VERSION: (c_int, c_int) = (12, 4);

/// What a program without a name is called.
const UNNAMED: &str = "default_program";

/// A source, and what became of it.
#[derive(Debug)]
struct Program {
    source: String,
    name: String,
    /// Names whose symbols the caller wants, and the symbols, once compiled.
    wanted: BTreeMap<String, Option<CString>>,
    log: String,
    compiled: Option<Compiled>,
}

#[derive(Debug)]
struct Compiled {
    ptx: String,
    /// Only for a real architecture.
    cubin: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Programs {
    last: usize,
    open: BTreeMap<usize, Program>,
}

static PROGRAMS: Mutex<Programs> = Mutex::new(Programs { last: 0, open: BTreeMap::new() });

fn answer(body: impl FnOnce() -> Result<(), Code>) -> Code {
    c_interface::answer(INTERNAL_ERROR, body)
}

/// # Safety
///
/// The place is null or may be written.
unsafe fn put<T>(place: *mut T, value: T) -> Result<(), Code> {
    // SAFETY: the caller's word.
    unsafe { c_interface::put(place, value, INVALID_INPUT) }
}

fn with_program(program: usize, body: impl FnOnce(&mut Program) -> Result<(), Code>) -> Code {
    answer(|| body(lock(&PROGRAMS).open.get_mut(&program).ok_or(INVALID_PROGRAM)?))
}

/// 12.4.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> Code {
    // SAFETY: the caller gives places for the numbers, or null.
    answer(|| unsafe {
        put(major, VERSION.0)?;
        put(minor, VERSION.1)
    })
}

/// Keeps a source. Headers are not read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcCreateProgram(
    program: *mut usize,
    source: *const c_char,
    name: *const c_char,
    _headers: c_int,
    _contents: *const *const c_char,
    _names: *const *const c_char,
) -> Code {
    answer(|| {
        // SAFETY: the caller gives texts that end with a zero, or null.
        let (source, name) = unsafe { (text(source).ok_or(INVALID_INPUT)?, text(name).unwrap_or(UNNAMED)) };
        let kept =
            Program { source: source.to_owned(), name: name.to_owned(), wanted: BTreeMap::new(), log: String::new(), compiled: None };
        let mut programs = lock(&PROGRAMS);
        programs.last += 1;
        let number = programs.last;
        programs.open.insert(number, kept);
        // SAFETY: the caller gives a place for the handle, or null.
        unsafe { put(program, number) }
    })
}

/// Forgets the program, and sets its handle to null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcDestroyProgram(program: *mut usize) -> Code {
    answer(|| {
        // SAFETY: the caller gives a handle's place, or null.
        let number = *unsafe { program.as_ref() }.ok_or(INVALID_PROGRAM)?;
        lock(&PROGRAMS).open.remove(&number).ok_or(INVALID_PROGRAM)?;
        // SAFETY: not null.
        unsafe { put(program, 0) }
    })
}

/// Compiles. What went wrong is in the log.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcCompileProgram(program: usize, count: c_int, options: *const *const c_char) -> Code {
    let count = usize::try_from(count).unwrap_or(0);
    with_program(program, |program| {
        if options.is_null() && count > 0 {
            return Err(INVALID_INPUT);
        }
        // SAFETY: the caller gives so many texts that end with a zero.
        let options = (0..count).map(|place| unsafe { text(*options.add(place)) }.ok_or(INVALID_OPTION)).collect::<Result<Vec<_>, _>>()?;
        program.compile(&options)
    })
}

impl Program {
    fn compile(&mut self, options: &[&str]) -> Result<(), Code> {
        self.log.clear();
        self.compiled = None;
        let architecture = options::architecture(options).map_err(|log| {
            self.log = log;
            INVALID_OPTION
        })?;
        let found = source::kernels(&self.source).map_err(|mistake| {
            self.log = log_of(&self.name, &mistake);
            COMPILATION
        })?;
        let (templates, mut kernels): (Vec<Kernel>, Vec<Kernel>) = found.into_iter().partition(|kernel| kernel.is_template);
        for (wanted, symbol) in &mut self.wanted {
            let kernel = wanted_kernel(wanted, &kernels, &templates).ok_or(NAME_NOT_VALID)?;
            *symbol = CString::new(kernel.symbol.clone()).ok();
            if !kernels.contains(&kernel) {
                kernels.push(kernel);
            }
        }
        let ptx = ptx::ptx(&format!("sm_{}", architecture.number), &kernels);
        let cubin = architecture.is_real.then(|| ptx::cubin(&ptx));
        self.compiled = Some(Compiled { ptx, cubin });
        Ok(())
    }
}

/// The kernel that an expression such as `name`, `&name` or `name<float>` means. A template becomes a kernel of its own.
fn wanted_kernel(expression: &str, kernels: &[Kernel], templates: &[Kernel]) -> Option<Kernel> {
    let expression = expression.trim().trim_start_matches('&').trim();
    if let Some(kernel) = kernels.iter().find(|kernel| kernel.name == expression) {
        return Some(kernel.clone());
    }
    let (name, arguments) = expression.split_once('<')?;
    let template = templates.iter().find(|template| template.name == name.trim())?;
    let arguments: String = arguments.chars().filter(|letter| letter.is_alphanumeric()).collect();
    Some(Kernel { symbol: format!("{}I{arguments}E", template.symbol), is_template: false, ..template.clone() })
}

fn log_of(name: &str, mistake: &Mistake) -> String {
    format!("{name}({}): error: {}\n\n1 error detected in the compilation of \"{name}\".\n", mistake.line, mistake.text)
}

/// Asks for the symbol of a name, before the program is compiled.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcAddNameExpression(program: usize, expression: *const c_char) -> Code {
    with_program(program, |program| {
        // SAFETY: the caller gives a text that ends with a zero, or null.
        let expression = unsafe { text(expression) }.ok_or(INVALID_INPUT)?;
        if program.compiled.is_some() {
            return Err(NO_NAMES_AFTER_COMPILATION);
        }
        program.wanted.insert(expression.to_owned(), None);
        Ok(())
    })
}

/// The symbol of a name that was asked for. It stays until the program is destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcGetLoweredName(program: usize, expression: *const c_char, symbol: *mut *const c_char) -> Code {
    with_program(program, |program| {
        // SAFETY: the caller gives a text that ends with a zero, or null.
        let expression = unsafe { text(expression) }.ok_or(INVALID_INPUT)?;
        program.compiled.as_ref().ok_or(NO_LOWERED_NAMES_BEFORE_COMPILATION)?;
        let known = program.wanted.get(expression).and_then(Option::as_ref).ok_or(NAME_NOT_VALID)?;
        // SAFETY: the caller gives a place for the pointer, or null.
        unsafe { put(symbol, known.as_ptr()) }
    })
}

/// Exports two functions: one writes the bytes of something that a program has, the other their number.
macro_rules! output {
    ($($(#[$doc:meta])* $get:ident, $size:ident = |$program:ident| $bytes:expr;)+) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $get(program: usize, buffer: *mut c_char) -> Code {
            with_program(program, |$program| {
                let bytes: Vec<u8> = $bytes;
                if buffer.is_null() || bytes.is_empty() {
                    return Err(INVALID_INPUT);
                }
                // SAFETY: the caller has room for as many bytes as the other function says.
                unsafe { buffer.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
                Ok(())
            })
        }

        /// How many bytes that are.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $size(program: usize, size: *mut usize) -> Code {
            with_program(program, |$program| {
                let bytes: Vec<u8> = $bytes;
                // SAFETY: the caller gives a place for the number, or null.
                unsafe { put(size, bytes.len()) }
            })
        }
    )+};
}

output! {
    /// The log, with a zero at its end.
    nvrtcGetProgramLog, nvrtcGetProgramLogSize = |program| with_zero(&program.log);
    /// The PTX, with a zero at its end.
    nvrtcGetPTX, nvrtcGetPTXSize = |program| with_zero(&program.compiled.as_ref().ok_or(INVALID_PROGRAM)?.ptx);
    /// The cubin; of a family of GPUs there is none, and its size is zero.
    nvrtcGetCUBIN, nvrtcGetCUBINSize = |program| program.compiled.as_ref().ok_or(INVALID_PROGRAM)?.cubin.clone().unwrap_or_default();
}

fn with_zero(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// A static text; never null.
#[unsafe(no_mangle)]
pub extern "C" fn nvrtcGetErrorString(code: Code) -> *const c_char {
    const TEXTS: [&CStr; 12] = [
        c"NVRTC_SUCCESS",
        c"NVRTC_ERROR_OUT_OF_MEMORY",
        c"NVRTC_ERROR_PROGRAM_CREATION_FAILURE",
        c"NVRTC_ERROR_INVALID_INPUT",
        c"NVRTC_ERROR_INVALID_PROGRAM",
        c"NVRTC_ERROR_INVALID_OPTION",
        c"NVRTC_ERROR_COMPILATION",
        c"NVRTC_ERROR_BUILTIN_OPERATION_FAILURE",
        c"NVRTC_ERROR_NO_NAME_EXPRESSIONS_AFTER_COMPILATION",
        c"NVRTC_ERROR_NO_LOWERED_NAMES_BEFORE_COMPILATION",
        c"NVRTC_ERROR_NAME_EXPRESSION_NOT_VALID",
        c"NVRTC_ERROR_INTERNAL_ERROR",
    ];
    TEXTS.get(code as usize).unwrap_or(&c"NVRTC_ERROR unknown").as_ptr()
}
