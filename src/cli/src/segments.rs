//! Raw bytes beside JSON: those of a task are read from files, those of a result are shown, and saved into files.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use protocol::{ListedSegment, Reply, Segments};

use crate::{fault::Fault, output};

/// The segments that these files hold, in order, at most `bytes_max` bytes together.
pub(crate) fn read(files: &[PathBuf], bytes_max: usize) -> Result<Segments, Fault> {
    let (mut segments, mut left) = (Vec::with_capacity(files.len()), bytes_max);
    for file in files {
        let wrong = |problem: String| Fault::Usage(format!("read a segment from {}: {problem}", file.display()));
        let mut bytes = Vec::new();
        // One more than there may be tells that there are too many, without all of them.
        let most = u64::try_from(left).unwrap_or(u64::MAX).saturating_add(1);
        File::open(file).and_then(|open| open.take(most).read_to_end(&mut bytes)).map_err(|error| wrong(error.to_string()))?;
        left = left.checked_sub(bytes.len()).ok_or_else(|| {
            wrong(format!("with it the task has more than {bytes_max} bytes, which is the bound on a body (worker.body_bytes_max)"))
        })?;
        segments.push(bytes.into());
    }
    Ok(Segments::of(segments))
}

/// A line for each segment of a result.
pub(crate) fn lines(reply: &Reply) -> Vec<String> {
    ListedSegment::list(&reply.result, &reply.segments).iter().map(ToString::to_string).collect()
}

/// Saves each segment of a result into a file of a directory, `segment0`, `segment1`, …, and says so.
pub(crate) fn save(reply: &Reply, directory: &Path) -> Result<(), Fault> {
    let wrong = |path: &Path, error: &std::io::Error| Fault::Failed(format!("save segments: write {}: {error}", path.display()));
    fs::create_dir_all(directory).map_err(|error| wrong(directory, &error))?;
    for ((number, segment), line) in reply.segments.iter().enumerate().zip(lines(reply)) {
        let path = directory.join(format!("segment{number}"));
        fs::write(&path, segment).map_err(|error| wrong(&path, &error))?;
        output::note(&format!("{line}, in {}", path.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use protocol::{Outcome, TaskId};

    use super::*;

    #[test]
    fn segments_are_read_from_files_and_saved_into_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let files: Vec<PathBuf> = ["a", "b"].map(|name| folder.path().join(name)).into();
        fs::write(&files[0], [0, 255, 13, 10]).expect("written");
        fs::write(&files[1], []).expect("written");
        let segments = read(&files, 4).expect("they fit");
        assert_eq!(segments.lengths(), [4, 0]);
        let task_id = TaskId::new("t").expect("valid");
        let result = serde_json::json!({"$segment": 0, "dtype": "u8", "shape": [2, 2]}).into();
        let reply = Reply { result, segments, ..Reply::ended(task_id, Outcome::Succeeded, 1) };
        assert_eq!(lines(&reply), ["segment 0: 4 bytes, u8 [2, 2]", "segment 1: 0 bytes"]);
        let saved = folder.path().join("some/where");
        save(&reply, &saved).expect("saved");
        assert_eq!(fs::read(saved.join("segment0")).expect("a file"), [0, 255, 13, 10]);
        assert!(fs::read(saved.join("segment1")).expect("a file").is_empty());
    }

    #[test]
    fn more_bytes_than_a_body_may_have_and_a_missing_file_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a");
        fs::write(&file, [0; 5]).expect("written");
        for (files, says) in [(vec![file.clone()], "more than 4 bytes"), (vec![folder.path().join("none")], "none")] {
            let Err(Fault::Usage(problem)) = read(&files, 4) else { panic!("{files:?} were read") };
            assert!(problem.contains(says), "{problem}");
        }
    }
}
