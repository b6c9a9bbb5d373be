//! The folder of models: `<name>.onnx`, or `<name>/<version>/model.onnx`. It is the operator's; the names come from strangers.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{OnnxError, external};

/// Longest name of a model.
const NAME_MAX: usize = 128;
/// Most bytes of a model's file: what one message of its format may have.
const BYTES_MAX: u64 = (1 << 31) - 1;
/// The version of a model that lies as a single file.
const UNVERSIONED: &str = "0";

/// Where a model's file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelFile {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) path: PathBuf,
    pub(super) stamp: Stamp,
}

/// What tells one content of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: (i64, i64),
    bytes: u64,
    inode: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self { modified: (metadata.mtime(), metadata.mtime_nsec()), bytes: metadata.len(), inode: metadata.ino() }
    }
}

/// What of a model was read.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    /// Whether more of it lies in files beside it, so that it has to be loaded by its path.
    pub(super) has_more_beside: bool,
}

/// The folder.
#[derive(Debug, Clone)]
pub(super) struct ModelDirectory {
    root: PathBuf,
}

impl ModelDirectory {
    /// # Errors
    /// It is not there, or no folder.
    pub(super) fn open(root: &Path) -> Result<Self, OnnxError> {
        let real = root.canonicalize().map_err(|error| OnnxError::unreadable(root, &format!("models.directory: {error}")))?;
        fs::read_dir(&real).map_err(|error| OnnxError::unreadable(root, &format!("models.directory: {error}")))?;
        Ok(Self { root: real })
    }

    /// The file of a model: of its highest version, or of the one that is named after an `@`. Blocks.
    ///
    /// # Errors
    /// There is none, or it lies outside of the folder.
    pub(super) fn find(&self, name: &str) -> Result<ModelFile, OnnxError> {
        let unknown = || OnnxError::Unknown { name: name.chars().take(NAME_MAX).collect(), known: self.list().into_keys().collect() };
        let (model, wanted) = name.split_once('@').map_or((name, None), |(model, version)| (model, Some(version)));
        if !is_name(model) || wanted.is_some_and(|version| !is_name(version)) {
            return Err(unknown());
        }
        let place = wanted.map_or_else(|| self.place(model), |version| self.place_of(model, version));
        let (version, path) = place.ok_or_else(unknown)?;
        let real = path.canonicalize().map_err(|error| OnnxError::unreadable(&path, &error))?;
        if !real.starts_with(&self.root) {
            return Err(OnnxError::unreadable(&path, &"it leads out of models.directory; put the file itself there"));
        }
        let metadata = fs::metadata(&real).map_err(|error| OnnxError::unreadable(&path, &error))?;
        if !metadata.is_file() {
            return Err(OnnxError::unreadable(&path, &"it is no file"));
        }
        Ok(ModelFile { name: name.to_owned(), version, path: real, stamp: Stamp::of(&metadata) })
    }

    /// A version and its file.
    fn place_of(&self, name: &str, version: &str) -> Option<(String, PathBuf)> {
        let of_version = self.root.join(name).join(version).join("model.onnx");
        let single = (version == UNVERSIONED).then(|| self.root.join(format!("{name}.onnx")));
        let path = [Some(of_version), single].into_iter().flatten().find(|path| path.exists())?;
        Some((version.to_owned(), path))
    }

    /// The version and the file that a name stands for now.
    fn place(&self, name: &str) -> Option<(String, PathBuf)> {
        let versions = fs::read_dir(self.root.join(name)).ok().and_then(|entries| {
            let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            let usable = names.filter(|version| is_name(version) && self.root.join(name).join(version).join("model.onnx").exists());
            usable.max_by(|one, other| natural(one, other))
        });
        if let Some(version) = versions {
            let path = self.root.join(name).join(&version).join("model.onnx");
            return Some((version, path));
        }
        let single = self.root.join(format!("{name}.onnx"));
        single.exists().then(|| (UNVERSIONED.to_owned(), single))
    }

    /// Each model with the version that would be used. Blocks.
    pub(super) fn list(&self) -> BTreeMap<String, String> {
        let entries = fs::read_dir(&self.root).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let names = names.map(|name| name.strip_suffix(".onnx").map(str::to_owned).unwrap_or(name)).filter(|name| is_name(name));
        names.filter_map(|name| self.place(&name).map(|(version, _)| (name, version))).collect()
    }
}

impl ModelFile {
    /// What is in it, read once: a file that is replaced meanwhile cannot mix two models. Blocks.
    ///
    /// # Errors
    /// It cannot be read, is too large, or was changed while it was read.
    pub(super) fn read(&self) -> Result<Content, OnnxError> {
        let unreadable = |why: &dyn ToString| OnnxError::Unreadable { path: self.path.clone(), why: why.to_string() };
        let mut file = File::open(&self.path).map_err(|error| unreadable(&error))?;
        let before = Stamp::of(&file.metadata().map_err(|error| unreadable(&error))?);
        if before.bytes > BYTES_MAX {
            return Err(unreadable(&format!(
                "it has {} bytes; a model's file has at most {BYTES_MAX}, and its weights may lie beside it",
                before.bytes
            )));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(before.bytes).unwrap_or_default() + 1);
        file.by_ref().take(before.bytes + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
        let after = Stamp::of(&file.metadata().map_err(|error| unreadable(&error))?);
        if before != after || bytes.len() as u64 != before.bytes || before != self.stamp {
            return Err(unreadable(&"it was changed while it was read; put a new file in its place by a rename"));
        }
        let beside = external::files_named_in(&bytes).map_err(|why| unreadable(&why))?;
        for name in &beside {
            self.check_beside(name)?;
        }
        Ok(Content { has_more_beside: !beside.is_empty(), bytes })
    }

    /// Files of weights must lie beside the model, and be files.
    fn check_beside(&self, name: &str) -> Result<(), OnnxError> {
        let path = self.path.with_file_name(name);
        let metadata = fs::symlink_metadata(&path).map_err(|error| OnnxError::unreadable(&path, &error))?;
        if metadata.is_file() {
            Ok(())
        } else {
            Err(OnnxError::unreadable(&path, &"the model's weights must be a file beside it, and no link"))
        }
    }

    /// Another file of its version, such as its words.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }

    /// The bytes of it, and of all files beside it whose names begin with its own: its weights, perhaps.
    pub(super) fn bytes(&self) -> u64 {
        let (Some(folder), Some(name)) = (self.path.parent(), self.path.file_name().and_then(|name| name.to_str())) else {
            return self.stamp.bytes;
        };
        let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        let others = entries.filter(|entry| entry.file_name().to_str().is_some_and(|other| other != name && other.starts_with(name)));
        others.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).fold(self.stamp.bytes, u64::saturating_add)
    }

    /// Whether the file is still the one that was found.
    pub(super) fn is_unchanged(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|metadata| Stamp::of(&metadata) == self.stamp)
    }
}

/// Whether it may be a name of a model or a version: no way to anywhere else.
fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= NAME_MAX && !name.starts_with('.') && name.bytes().all(is_allowed)
}

/// The order in which people count: `v9` before `v10`.
pub(super) fn natural(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one, other);
    loop {
        let (digits, others) = (digits_of(one), digits_of(other));
        if !digits.is_empty() && !others.is_empty() {
            let (value, against) = (digits.trim_start_matches('0'), others.trim_start_matches('0'));
            let order = value.len().cmp(&against.len()).then_with(|| value.cmp(against));
            if order != Ordering::Equal {
                return order;
            }
            (one, other) = (&one[digits.len()..], &other[others.len()..]);
            continue;
        }
        let (mut left, mut right) = (one.chars(), other.chars());
        match (left.next(), right.next()) {
            (Some(a), Some(b)) if a == b => (one, other) = (left.as_str(), right.as_str()),
            (a, b) => return a.cmp(&b),
        }
    }
}

fn digits_of(text: &str) -> &str {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_of(files: &[&str]) -> (tempfile::TempDir, ModelDirectory) {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        let directory = ModelDirectory::open(folder.path()).unwrap();
        (folder, directory)
    }

    #[test]
    fn the_highest_version_is_the_one_that_is_used() {
        let (_folder, directory) =
            folder_of(&["a/9/model.onnx", "a/10/model.onnx", "a/11/notes.txt", "b.onnx", "c.txt", "libonnxruntime.so.1"]);
        assert_eq!(directory.find("a").unwrap().version, "10", "version 11 has no model");
        assert_eq!(directory.find("b").unwrap().version, "0");
        let listed: Vec<_> = directory.list().into_iter().collect();
        assert_eq!(listed, [("a".to_owned(), "10".to_owned()), ("b".to_owned(), "0".to_owned())]);
        let named = |name: &str| directory.find(name).map(|file| (file.name, file.version, file.path.ends_with("9/model.onnx")));
        assert_eq!(named("a@9"), Ok(("a@9".to_owned(), "9".to_owned(), true)));
        assert_eq!(named("b@0"), Ok(("b@0".to_owned(), "0".to_owned(), false)));
        for absent in ["a@11", "a@8", "b@1", "a@", "@9", "a@9@9", "a@../9"] {
            assert!(matches!(named(absent), Err(OnnxError::Unknown { .. })), "{absent}");
        }
        let unknown = directory.find("c").unwrap_err().to_string();
        assert!(unknown.contains("it has a, b"), "{unknown}");
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        let (folder, directory) = folder_of(&["models/a.onnx", "secret.onnx"]);
        let inner = ModelDirectory::open(&folder.path().join("models")).unwrap();
        for name in ["../secret", "..", "/etc/passwd", "a/../a", "", "a\0", ".a", "models/a", &"a".repeat(129)] {
            assert!(matches!(inner.find(name), Err(OnnxError::Unknown { .. })), "{name:?}");
        }
        std::os::unix::fs::symlink(folder.path().join("secret.onnx"), folder.path().join("models/link.onnx")).unwrap();
        std::os::unix::fs::symlink("a.onnx", folder.path().join("models/near.onnx")).unwrap();
        assert!(inner.find("link").unwrap_err().to_string().contains("leads out of models.directory"));
        assert!(inner.find("near").is_ok());
        drop(directory);
    }

    #[test]
    fn a_file_that_changed_since_it_was_found_is_not_read() {
        let (folder, directory) = folder_of(&["a.onnx"]);
        let found = directory.find("a").unwrap();
        assert!(found.is_unchanged());
        assert_eq!(found.read().unwrap().bytes, b"a.onnx");
        fs::write(folder.path().join("a.onnx"), "another, longer one").unwrap();
        assert!(!found.is_unchanged());
        assert!(found.read().unwrap_err().to_string().contains("was changed while it was read"));
    }

    #[test]
    fn versions_are_ordered_as_people_count() {
        let mut versions = ["v10", "v9", "1.10.0", "1.9.12", "v09b", "2", "v9a"];
        versions.sort_by(|one, other| natural(one, other));
        assert_eq!(versions, ["1.9.12", "1.10.0", "2", "v9", "v9a", "v09b", "v10"]);
    }
}
