//! Where the bytes of a tensor go: into a file, as they are or as NumPy reads them, or to standard output.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use futures::TryStreamExt;

use super::npy;
use crate::{fault::Fault, fleet::Coming, output};

/// Refuses to fill a terminal with bytes.
pub(super) fn check(file: Option<&str>) -> Result<(), Fault> {
    match named(file) {
        None if output::is_shown_to_a_person() => Err(Fault::Usage(
            "the bytes of a tensor are nothing for a terminal; give --output FILE, or send them to another program".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// Takes the bytes as they come. A file is there once it is whole.
pub(super) async fn save(file: Option<&str>, mut coming: Coming) -> Result<(), Fault> {
    let Some(path) = named(file) else {
        while let Some(piece) = coming.bytes.try_next().await? {
            output::bytes(&piece)?;
        }
        return Ok(());
    };
    let head = if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("npy")) {
        npy::head(&coming.shape).map_err(|problem| Fault::Usage(format!("{}: {problem}", path.display())))?
    } else {
        Vec::new()
    };
    let part = part_of(path);
    let saved = fill(&part, &head, coming).await.and_then(|()| fs::rename(&part, path).map_err(|error| not_written(path, &error)));
    if saved.is_err() {
        // Nobody takes a part for the whole.
        let _gone_or_never_there = fs::remove_file(&part);
    }
    saved
}

fn named(file: Option<&str>) -> Option<&Path> {
    file.filter(|file| *file != "-").map(Path::new)
}

fn part_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

async fn fill(part: &Path, head: &[u8], mut coming: Coming) -> Result<(), Fault> {
    let wrong = |error: std::io::Error| not_written(part, &error);
    let mut file = File::create(part).map_err(wrong)?;
    file.write_all(head).map_err(wrong)?;
    while let Some(piece) = coming.bytes.try_next().await? {
        file.write_all(&piece).map_err(wrong)?;
    }
    file.sync_all().map_err(wrong)
}

fn not_written(path: &Path, error: &std::io::Error) -> Fault {
    Fault::Failed(format!("write the tensor into {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};
    use hyper::body::Bytes;
    use protocol::{DType, TensorShape};

    use super::*;

    fn coming(pieces: Vec<Result<Bytes, Fault>>) -> Coming {
        Coming { shape: TensorShape { dtype: DType::U16, shape: vec![2] }, bytes: stream::iter(pieces).boxed() }
    }

    #[tokio::test]
    async fn a_file_is_whole_or_not_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
        let pieces = || vec![Ok(Bytes::from_static(b"ab")), Ok(Bytes::from_static(b"cd"))];
        save(Some(&path("raw")), coming(pieces())).await.expect("saved");
        assert_eq!(fs::read(path("raw")).expect("a file"), b"abcd");
        save(Some(&path("x.npy")), coming(pieces())).await.expect("saved");
        let file = fs::read(path("x.npy")).expect("a file");
        assert!(file.starts_with(npy::MAGIC) && file.ends_with(b"\nabcd"));

        let cut = vec![Ok(Bytes::from_static(b"ab")), Err(Fault::Failed("it is gone".to_owned()))];
        let fault = save(Some(&path("raw")), coming(cut)).await.expect_err("cut off");
        assert_eq!(fault.to_string(), "it is gone");
        assert_eq!(fs::read(path("raw")).expect("the file of before"), b"abcd");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2, "no part is left");
    }
}
