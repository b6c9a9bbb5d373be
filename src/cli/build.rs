//! Says from which commit the program is built: for `gpufleet --version` and the metric `gpufleet_build_info`.
//!
//! `$GPUFLEET_COMMIT` says it where there is no repository (an image, a source archive); else git does. Only a new commit builds the program anew, and of our crates only this one.

use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=GPUFLEET_COMMIT");
    let said = env::var("GPUFLEET_COMMIT").ok().filter(|commit| !commit.trim().is_empty());
    let commit = said.or_else(from_git).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=GPUFLEET_BUILT_FROM={}", commit.trim());
}

fn from_git() -> Option<String> {
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    let packed = || Some("packed-refs".to_owned());
    let watched = [Some("HEAD".to_owned()), branch.filter(|branch| exists(branch)).or_else(packed)];
    for path in watched.into_iter().flatten().filter(|path| exists(path)).filter_map(|path| path_of(&path)) {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    Some(commit)
}

/// Where git keeps a file of this working tree, which may be one of several of its repository.
fn path_of(file: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?);
    Some(folder.join(git(&["rev-parse", "--git-path", file])?))
}

/// What does not exist would count as changed with every build.
fn exists(file: &str) -> bool {
    path_of(file).is_some_and(|path| path.is_file())
}

fn git(arguments: &[&str]) -> Option<String> {
    let folder = env::var_os("CARGO_MANIFEST_DIR")?;
    let answer = Command::new("git").current_dir(folder).args(arguments).output().ok().filter(|answer| answer.status.success())?;
    let text = String::from_utf8(answer.stdout).ok()?.trim().to_owned();
    Some(text).filter(|text| !text.is_empty())
}
