//! Makes executables of tests find the libraries beside themselves, where `libraries_beside` puts them.
//!
//! The loader of glibc looks once whether a folder of the run path exists, when the process starts. So the folder must be there, empty, before the
//! first test runs; the links in it may come later.

use std::{env, fs, path::Path};

fn main() {
    println!("cargo::rustc-link-arg-tests=-Wl,-rpath,$ORIGIN/fake-nvidia");
    println!("cargo::rerun-if-changed=build.rs");
    // <target>/<profile>/build/<package>/out
    let out = env::var_os("OUT_DIR").unwrap_or_default();
    let Some(profile) = Path::new(&out).ancestors().nth(3) else { return };
    for folder in [profile.join("deps/fake-nvidia"), profile.join("fake-nvidia")] {
        if let Err(error) = fs::create_dir_all(&folder) {
            println!("cargo::warning=tests may not find the fake libraries on their first run: {}: {error}", folder.display());
        }
    }
}
