//! What a module is made from: PTX, or a cubin of the fake NVRTC, which is a mark and the same text.

use std::ffi::{CStr, c_void};

use super::codes;
use crate::c_interface::Code;
use codes::{INVALID_IMAGE, INVALID_PTX, INVALID_VALUE};

/// How a fake cubin begins: with the mark of all ELF files, and with what no other has.
pub(crate) const CUBIN_MARK: &[u8; 16] = b"\x7fELFfake-nvidia\n";

/// PTX's types → bytes.
const TYPES: [(&str, usize); 17] = [
    (".u8", 1),
    (".s8", 1),
    (".b8", 1),
    (".u16", 2),
    (".s16", 2),
    (".b16", 2),
    (".f16", 2),
    (".u32", 4),
    (".s32", 4),
    (".b32", 4),
    (".f32", 4),
    (".u64", 8),
    (".s64", 8),
    (".b64", 8),
    (".f64", 8),
    (".f16x2", 4),
    (".b128", 16),
];

/// A kernel's parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parameter {
    pub(crate) bytes: usize,
    pub(crate) alignment: usize,
}

impl Parameter {
    pub(crate) fn plain(bytes: usize) -> Self {
        Self { bytes, alignment: bytes }
    }
}

/// A kernel that an image has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) parameters: Vec<Parameter>,
}

/// An image.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) is_cubin: bool,
    /// PTX's version; 0.0 where the text does not say.
    pub(super) version: (u32, u32),
    /// The compute capability that it was made for; 0.0 where the text does not say.
    pub(super) target: (u32, u32),
    pub(super) entries: Vec<Entry>,
}

/// Reads an image from memory.
///
/// # Safety
///
/// The pointer is null or leads to PTX that ends with a zero, or to a binary image.
pub(super) unsafe fn read(pointer: *const c_void) -> Result<Image, Code> {
    if pointer.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the caller's word; a binary image that is not ours ends this at its first zero.
    let bytes = unsafe { CStr::from_ptr(pointer.cast()) }.to_bytes();
    parse(bytes)
}

/// Reads an image from the bytes of a file, or from those before the first zero.
pub(super) fn parse(bytes: &[u8]) -> Result<Image, Code> {
    let (is_cubin, text) = match bytes.strip_prefix(CUBIN_MARK) {
        Some(text) => (true, text),
        None => (false, bytes),
    };
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = std::str::from_utf8(text).map_err(|_| INVALID_IMAGE)?;
    if !text.contains(".version") && !text.contains(".entry") {
        return Err(INVALID_IMAGE);
    }
    let text = without_comments(text);
    let entries = text.split(".entry").skip(1).map(entry).collect::<Option<_>>().ok_or(INVALID_PTX)?;
    Ok(Image { is_cubin, version: version(&text).unwrap_or_default(), target: target(&text).unwrap_or_default(), entries })
}

fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(".version")?.1.split_whitespace().next()?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `sm_90` is 9.0.
fn target(text: &str) -> Option<(u32, u32)> {
    let digits = text.split_once(".target")?.1.trim_start().strip_prefix("sm_")?;
    let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
    let number: u32 = digits.parse().ok()?;
    Some((number / 10, number % 10))
}

/// What stands behind `.entry`: a name, and parameters in brackets or none.
fn entry(text: &str) -> Option<Entry> {
    let text = text.trim_start();
    let end = text.find(|letter: char| !(letter.is_alphanumeric() || letter == '_' || letter == '$')).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let listed = match rest.trim_start().strip_prefix('(') {
        Some(rest) => rest.split_once(')')?.0,
        None => "",
    };
    let parameters = listed.split(',').filter(|parameter| !parameter.trim().is_empty()).map(parameter).collect::<Option<_>>()?;
    (!name.is_empty()).then(|| Entry { name: name.to_owned(), parameters })
}

/// Such as `.param .u64 name` or `.param .align 8 .b8 name[24]`.
fn parameter(text: &str) -> Option<Parameter> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let size = words.iter().find_map(|word| TYPES.iter().find(|(name, _)| name == word))?.1;
    let Some((_, rest)) = text.split_once('[') else { return Some(Parameter::plain(size)) };
    let count: usize = rest.split(']').next()?.trim().parse().ok()?;
    let alignment = words.iter().position(|word| *word == ".align").and_then(|place| words.get(place + 1)?.parse().ok()).unwrap_or(size);
    Some(Parameter { bytes: size * count, alignment })
}

fn without_comments(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("/*") {
        kept.push_str(&rest[..start]);
        rest = rest[start..].split_once("*/").map_or("", |(_, rest)| rest);
    }
    kept.push_str(rest);
    kept.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX: &[u8] = b"// .entry not_this_one(
        .version 7.8
        .target sm_86, debug
        .visible .entry saxpy( .param .u32 n, .param .f32 a, /* , */ .param .u64 .ptr .global .align 4 x, .param .align 8 .b8 big[24] ) .maxntid 128 { ret; }
        .entry nothing { ret; }";

    #[test]
    fn ptx_says_its_kernels_and_their_parameters() {
        let image = parse(PTX).unwrap();
        assert_eq!((image.is_cubin, image.version, image.target), (false, (7, 8), (8, 6)));
        let sizes = [Parameter::plain(4), Parameter::plain(4), Parameter::plain(8), Parameter { bytes: 24, alignment: 8 }];
        let expected = [("saxpy", &sizes[..]), ("nothing", &[])];
        let found: Vec<_> = image.entries.iter().map(|entry| (entry.name.as_str(), entry.parameters.as_slice())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn other_bytes_are_no_image() {
        for bytes in [&b"\x7fELF\x02\x01"[..], b"hello", b"", b"\xff\xfe.version"] {
            assert_eq!(parse(bytes), Err(INVALID_IMAGE), "{bytes:?}");
        }
    }
}
