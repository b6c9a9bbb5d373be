//! Files that are not ONNX Runtime. In a process of their own: one that has loaded the library keeps it.
#![cfg(feature = "onnx")]

use std::path::Path;

use executors::onnx::OnnxRuntime;
use protocol::config::ModelsSection;

fn refused(path: &Path) -> String {
    let section = ModelsSection { onnx_runtime: Some(path.to_owned()), ..ModelsSection::default() };
    OnnxRuntime::load(&section).expect_err("it is not the library").to_string()
}

#[test]
fn a_library_that_is_none_is_told_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libonnxruntime.so");
    assert!(refused(&path).contains("No such file"), "{}", refused(&path));
    assert!(refused(folder.path()).contains("set models.onnx_runtime"), "{}", refused(folder.path()));
    std::fs::write(&path, "this is a text").unwrap();
    let wrong = refused(&path);
    assert!(wrong.contains("cannot be used: ") && wrong.contains("file too short"), "{wrong}");
    assert_eq!(refused(folder.path()), wrong, "a folder stands for the library in it");
}

#[test]
fn a_library_without_the_functions_of_onnx_runtime_is_refused() {
    let places = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6", "/lib64/libm.so.6"];
    let other = places.iter().map(Path::new).find(|path| path.exists()).expect("a mathematics library, as on every system with glibc");
    assert!(refused(other).contains("OrtGetApiBase"), "{}", refused(other));
}
