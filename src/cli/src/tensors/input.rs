//! The bytes of a new tensor: out of a file or standard input, a `.npy` file or raw.

use std::{io, os::fd::AsFd};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use hyper::body::Bytes;
use protocol::{DType, TensorShape};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt},
};

use super::npy;
use crate::{arguments::Sides, fault::Fault};

/// How much is read at once.
const PIECE_BYTES: usize = 256 << 10;
/// The longest standard input that is gathered to learn its length.
const GATHERED_MAX: u64 = 1 << 30;

/// What is to be written.
pub(super) struct Input {
    pub(super) shape: TensorShape,
    pub(super) bytes: BoxStream<'static, io::Result<Bytes>>,
}

/// Where bytes come from.
struct Source<'a> {
    file: &'a str,
    reader: Box<dyn AsyncRead + Send + Unpin>,
    /// How many there are, where that is known.
    length: Option<u64>,
}

/// Opens a file, or standard input for `-`. What is said of its numbers is for raw bytes.
pub(super) async fn open(file: &str, dtype: Option<DType>, sides: Option<&Sides>) -> Result<Input, Fault> {
    let mut source = Source::open(file).await?;
    let mut begin = source.first(npy::BEFORE_THE_TEXT).await?;
    if begin.starts_with(npy::MAGIC) {
        if dtype.is_some() || sides.is_some() {
            return Err(source.wrong("is a .npy file, which says itself what its numbers are; leave --dtype and --shape out"));
        }
        let text = npy::text_at(&begin).map_err(|problem| source.wrong(&problem))?;
        begin.extend(source.first(text.end.saturating_sub(begin.len())).await?);
        let numbers = begin.split_off(text.end.min(begin.len()));
        let head = begin.get(text.clone()).ok_or_else(|| source.wrong("is a .npy file that ends within its head"))?;
        let shape = npy::shape(head).map_err(|problem| source.wrong(&problem))?;
        return source.with(shape, numbers, text.end).await;
    }
    let dtype = dtype.unwrap_or(DType::U8);
    match sides {
        Some(Sides(sides)) => source.with(TensorShape { dtype, shape: sides.clone() }, begin, 0).await,
        None => {
            let length = match source.length {
                Some(length) => length,
                None => source.gather(&mut begin).await?,
            };
            let shape = source.one_dimension(dtype, length)?;
            source.with(shape, begin, 0).await
        }
    }
}

impl<'a> Source<'a> {
    async fn open(file: &'a str) -> Result<Self, Fault> {
        if file == "-" {
            let wrong = |error: io::Error| Fault::Usage(format!("read the tensor from standard input: {error}"));
            let input = io::stdin().as_fd().try_clone_to_owned().map_err(wrong)?;
            return Ok(Self { file: "standard input", reader: Box::new(File::from_std(input.into())), length: None });
        }
        let wrong = |error: io::Error| Fault::Usage(format!("read the tensor from {file}: {error}"));
        let open = File::open(file).await.map_err(wrong)?;
        let about = open.metadata().await.map_err(wrong)?;
        if about.is_dir() {
            return Err(Fault::Usage(format!("read the tensor from {file}: is a folder")));
        }
        // What is no file, such as a pipe, has no length.
        Ok(Self { file, reader: Box::new(open), length: about.is_file().then_some(about.len()) })
    }

    fn wrong(&self, problem: &str) -> Fault {
        Fault::Usage(format!("{}: {problem}", self.file))
    }

    /// The next so many bytes; fewer, where it ends.
    async fn first(&mut self, bytes: usize) -> Result<Vec<u8>, Fault> {
        let mut first = Vec::with_capacity(bytes);
        let read = (&mut self.reader).take(bytes as u64).read_to_end(&mut first).await;
        read.map_err(|error| self.wrong(&error.to_string()))?;
        Ok(first)
    }

    /// Reads all of it behind what was read; its length.
    async fn gather(&mut self, begin: &mut Vec<u8>) -> Result<u64, Fault> {
        let read = (&mut self.reader).take(GATHERED_MAX).read_to_end(begin).await;
        read.map_err(|error| self.wrong(&error.to_string()))?;
        let length = begin.len() as u64;
        if length >= GATHERED_MAX {
            return Err(
                self.wrong("has more bytes than are gathered to learn its length; say --shape, and they are passed on as they come")
            );
        }
        Ok(length)
    }

    fn one_dimension(&self, dtype: DType, length: u64) -> Result<TensorShape, Fault> {
        let size = dtype.size() as u64;
        let side = usize::try_from(length / size).ok().filter(|_| length.is_multiple_of(size));
        let side =
            side.ok_or_else(|| self.wrong(&format!("{length} bytes are no whole number of {}, of which each has {size}", dtype.name())))?;
        Ok(TensorShape { dtype, shape: vec![side] })
    }

    /// All of it, as numbers of this shape; what was read already comes first. `before` bytes of the file are none of the numbers.
    async fn with(mut self, shape: TensorShape, begin: Vec<u8>, before: usize) -> Result<Input, Fault> {
        let told = format!("{} {:?}", shape.dtype.name(), shape.shape);
        let bytes = shape.bytes().ok_or_else(|| self.wrong(&format!("{told} has more bytes than can be counted")))?;
        if let Some(length) = self.length.map(|length| length.saturating_sub(before as u64))
            && length != bytes
        {
            return Err(self.wrong(&format!("{told} has {bytes} bytes, and there are {length}")));
        }
        let mut left = bytes.checked_sub(begin.len() as u64);
        if left == Some(0) && !self.first(1).await?.is_empty() {
            left = None;
        }
        let left = left.ok_or_else(|| self.wrong(&format!("{told} has {bytes} bytes, and there are more")))?;
        let first = stream::iter((!begin.is_empty()).then(|| Ok(Bytes::from(begin))));
        let rest = Rest { file: self.file.to_owned(), reader: self.reader, left };
        Ok(Input { shape, bytes: first.chain(rest.pieces()).boxed() })
    }
}

/// What has not been read.
struct Rest {
    file: String,
    reader: Box<dyn AsyncRead + Send + Unpin>,
    /// So many bytes, neither more nor fewer.
    left: u64,
}

impl Rest {
    fn pieces(self) -> BoxStream<'static, io::Result<Bytes>> {
        let next = |rest: Option<Self>| async move {
            let mut rest = rest?;
            match rest.piece().await {
                Ok(piece) if piece.is_empty() => None,
                Ok(piece) => Some((Ok(Bytes::from(piece)), Some(rest))),
                Err(error) => Some((Err(io::Error::new(error.kind(), format!("{}: {error}", rest.file))), None)),
            }
        };
        stream::unfold(Some(self), next).boxed()
    }

    /// The next piece; an empty one at the end. The last one is given once it is certain that nothing follows: who sends it may not ask again.
    async fn piece(&mut self) -> io::Result<Vec<u8>> {
        if self.left == 0 {
            return Ok(Vec::new());
        }
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let length = self.reader.read_buf(&mut piece).await? as u64;
        if length == 0 {
            let early = format!("it ends {} bytes before what its shape says", self.left);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, early));
        }
        let left = self.left.checked_sub(length);
        let goes_on = left.is_none() || (left == Some(0) && self.reader.read(&mut [0]).await? > 0);
        match left {
            Some(left) if !goes_on => self.left = left,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "it has more bytes than its shape says")),
        }
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use futures::TryStreamExt;

    use super::*;

    async fn read(name: &str, content: &[u8], dtype: Option<DType>, sides: Option<&[usize]>) -> Result<(TensorShape, Vec<u8>), String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(name);
        fs::write(&path, content).expect("written");
        let sides = sides.map(|sides| Sides(sides.to_vec()));
        let input = open(path.to_str().expect("text"), dtype, sides.as_ref()).await.map_err(|fault| fault.to_string())?;
        let pieces: Vec<Bytes> = input.bytes.try_collect().await.expect("a file");
        Ok((input.shape, pieces.concat()))
    }

    #[tokio::test]
    async fn raw_bytes_are_what_is_said_of_them() {
        let long: Vec<u8> = (0..600_000_u32).map(|at| u8::try_from(at % 251).expect("small")).collect();
        let shape = |dtype, sides: &[usize]| TensorShape { dtype, shape: sides.to_vec() };
        assert_eq!(read("a", &long, None, None).await, Ok((shape(DType::U8, &[600_000]), long.clone())));
        assert_eq!(read("a", &long, Some(DType::F64), None).await, Ok((shape(DType::F64, &[75_000]), long.clone())));
        assert_eq!(read("a", &long[..24], Some(DType::F32), Some(&[2, 3])).await, Ok((shape(DType::F32, &[2, 3]), long[..24].to_vec())));
        assert_eq!(read("a", b"", None, None).await, Ok((shape(DType::U8, &[0]), Vec::new())));
        let odd = read("a", b"12345", Some(DType::F32), None).await.expect_err("no whole number");
        assert!(odd.contains("5 bytes are no whole number of f32"), "{odd}");
        let short = read("a", b"12345", None, Some(&[6])).await.expect_err("too short");
        assert!(short.contains("u8 [6] has 6 bytes, and there are 5"), "{short}");
    }

    #[tokio::test]
    async fn a_file_of_numpy_says_itself_what_it_has() {
        let shape = TensorShape { dtype: DType::I16, shape: vec![2, 2] };
        let file = [npy::head(&shape).expect("a head"), vec![1, 0, 2, 0, 3, 0, 4, 0]].concat();
        assert_eq!(read("any.name", &file, None, None).await, Ok((shape, vec![1, 0, 2, 0, 3, 0, 4, 0])));
        let twice = read("a.npy", &file, Some(DType::I16), None).await.expect_err("said twice");
        assert!(twice.contains("leave --dtype and --shape out"), "{twice}");
        let cut = read("a.npy", &file[..file.len() - 1], None, None).await.expect_err("cut off");
        assert!(cut.contains("i16 [2, 2] has 8 bytes, and there are 7"), "{cut}");
        let cut = read("a.npy", &file[..40], None, None).await.expect_err("cut off");
        assert!(cut.contains("ends within its head"), "{cut}");
    }

    #[tokio::test]
    async fn what_has_no_length_must_be_as_long_as_its_shape_says() {
        let rest = |content: &'static [u8], left| Rest { file: "standard input".to_owned(), reader: Box::new(content), left };
        let all = rest(b"four", 4).pieces().try_collect::<Vec<Bytes>>().await.expect("all of it");
        assert_eq!(all.concat(), b"four");
        for (left, words) in [(5, "standard input: it ends 1 bytes before"), (3, "standard input: it has more bytes")] {
            let error = rest(b"four", left).pieces().try_collect::<Vec<Bytes>>().await.expect_err("not as long");
            assert!(error.to_string().starts_with(words), "{error}");
        }
    }
}
