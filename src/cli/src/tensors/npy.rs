//! Files of NumPy (`.npy`): what their head says, and how it is written. Arrays in the order of C whose numbers are little-endian, and nothing else.

use protocol::{DType, TensorShape};

/// How every such file begins.
pub(super) const MAGIC: &[u8] = b"\x93NUMPY";
/// The bytes before the text of the head, at most: the magic, the version, the length of the text.
pub(super) const BEFORE_THE_TEXT: usize = 12;
/// The longest text that is read. That of an array without named fields has a hundred bytes or so.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// The bytes of a head are a multiple of this, so that what follows can be mapped.
const ALIGNED: usize = 64;

/// Where the text of the head lies, and so where the numbers begin. `begin` is the first [`BEFORE_THE_TEXT`] bytes of the file.
pub(super) fn text_at(begin: &[u8]) -> Result<std::ops::Range<usize>, String> {
    let (at, length) = match begin {
        [_, _, _, _, _, _, 1, _, low, high, ..] => (10, usize::from(u16::from_le_bytes([*low, *high]))),
        [_, _, _, _, _, _, 2 | 3, _, a, b, c, d, ..] => (12, usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX)),
        [_, _, _, _, _, _, version, ..] if begin.len() >= BEFORE_THE_TEXT => {
            return Err(format!("is a .npy file of version {version}, which is not known"));
        }
        _ => return Err("is a .npy file that ends within its head".to_owned()),
    };
    if length > TEXT_BYTES_MAX { Err("is a .npy file whose head is too long".to_owned()) } else { Ok(at..at + length) }
}

/// What the text of a head says: `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
pub(super) fn shape(text: &[u8]) -> Result<TensorShape, String> {
    let text = String::from_utf8_lossy(text);
    let missing = |key: &str| format!("is a .npy file whose head has no {key} that is understood");
    let descr = value(&text, "descr").and_then(quoted).ok_or_else(|| {
        "is a .npy file of an array with named fields, or whose head is not understood; only plain numbers can be a tensor".to_owned()
    })?;
    let dtype = dtype(descr)?;
    let sides = value(&text, "shape").and_then(sides).ok_or_else(|| missing("shape"))?;
    let order = value(&text, "fortran_order").ok_or_else(|| missing("fortran_order"))?;
    if order.starts_with("True") && sides.len() > 1 {
        return Err("is a .npy file in the order of Fortran; save numpy.ascontiguousarray(array)".to_owned());
    }
    Ok(TensorShape { dtype, shape: sides })
}

/// What follows a key.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let (_, behind) = text.split_once(&format!("'{key}'"))?;
    Some(behind.trim_start().strip_prefix(':')?.trim_start())
}

fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('\'')?.split_once('\'').map(|(quoted, _)| quoted)
}

/// `(2, 3)`, `(3,)` or `()`.
fn sides(text: &str) -> Option<Vec<usize>> {
    let (inner, _) = text.strip_prefix('(')?.split_once(')')?;
    inner.split(',').map(str::trim).filter(|side| !side.is_empty()).map(|side| side.parse().ok()).collect()
}

fn dtype(descr: &str) -> Result<DType, String> {
    let is_big = descr.starts_with('>') && !descr.ends_with('1');
    if is_big {
        return Err(format!("is a .npy file of big-endian numbers ({descr}); save array.astype(array.dtype.newbyteorder('<'))"));
    }
    let plain = descr.trim_start_matches(['<', '|', '=', '>']);
    let found = DType::ALL.into_iter().find(|dtype| name(*dtype).is_some_and(|name| name[1..] == *plain));
    found.ok_or_else(|| format!("is a .npy file of {descr}, which is no type of a tensor's numbers"))
}

/// What NumPy calls a type. `None`: it has none of its own.
const fn name(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::Bool => "|b1",
        DType::I8 => "|i1",
        DType::I16 => "<i2",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::U8 => "|u1",
        DType::U16 => "<u2",
        DType::U32 => "<u4",
        DType::U64 => "<u8",
        DType::F16 => "<f2",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::BF16 => return None,
    })
}

/// The head of a file with such numbers.
pub(super) fn head(shape: &TensorShape) -> Result<Vec<u8>, String> {
    let name = name(shape.dtype).ok_or_else(|| {
        format!("NumPy has no {}, so that no .npy file can hold it; give a file with another ending for its raw bytes", shape.dtype.name())
    })?;
    let sides = shape.shape.iter().map(|side| format!("{side},")).collect::<Vec<_>>().join(" ");
    let text = format!("{{'descr': '{name}', 'fortran_order': False, 'shape': ({sides}), }}");
    let before = MAGIC.len() + 4;
    // A line feed ends it, and spaces before that fill it up.
    let length = (before + text.len() + 1).next_multiple_of(ALIGNED) - before;
    let length_bytes = u16::try_from(length).map_err(|_| "it has too many dimensions for a .npy file".to_owned())?.to_le_bytes();
    let padded = format!("{text:<width$}\n", width = length - 1);
    Ok([MAGIC, &[1, 0], &length_bytes, padded.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(DType, Vec<usize>), String> {
        shape(text.as_bytes()).map(|shape| (shape.dtype, shape.shape))
    }

    #[test]
    fn a_head_says_what_the_numbers_are() {
        let of = |descr: &str, shape: &str| read(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}  \n"));
        assert_eq!(of("<f4", "(2, 3)"), Ok((DType::F32, vec![2, 3])));
        assert_eq!(of("|u1", "(5,)"), Ok((DType::U8, vec![5])));
        assert_eq!(of("<f8", "()"), Ok((DType::F64, vec![])));
        assert_eq!(of("|b1", "(0, 7)"), Ok((DType::Bool, vec![0, 7])));
        let says = |text: &str, words: &str| {
            let problem = read(text).expect_err(text);
            assert!(problem.contains(words), "{problem}");
        };
        says("{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }", "big-endian");
        says("{'descr': '<c8', 'fortran_order': False, 'shape': (2,), }", "<c8");
        says("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }", "named fields");
        says("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", "Fortran");
        says("{'descr': '<f4', 'fortran_order': False}", "shape");
        assert!(read("{'descr': '<f4', 'fortran_order': True, 'shape': (2,), }").is_ok(), "one dimension has one order");
    }

    #[test]
    fn what_is_written_is_read_as_it_was() {
        for dtype in DType::ALL.into_iter().filter(|dtype| *dtype != DType::BF16) {
            for sides in [vec![], vec![3], vec![2, 3, 40_000_000]] {
                let shape_of_it = TensorShape { dtype, shape: sides };
                let head = head(&shape_of_it).expect("NumPy has it");
                assert!(head.len().is_multiple_of(ALIGNED) && head.starts_with(MAGIC) && head.ends_with(b"\n"));
                let text = text_at(&head[..BEFORE_THE_TEXT]).expect("a head");
                assert_eq!(text.end, head.len());
                assert_eq!(shape(&head[text]), Ok(shape_of_it));
            }
        }
        assert!(head(&TensorShape { dtype: DType::BF16, shape: vec![1] }).expect_err("none").contains("bf16"));
    }

    #[test]
    fn a_head_that_ends_too_early_or_is_of_tomorrow_is_told() {
        assert!(text_at(b"\x93NUMPY\x01\x00").expect_err("short").contains("ends within"));
        assert!(text_at(b"\x93NUMPY\x09\x00\x00\x00\x00\x00").expect_err("new").contains("version 9"));
        assert_eq!(text_at(b"\x93NUMPY\x02\x00\x05\x00\x00\x00"), Ok(12..17));
    }
}
