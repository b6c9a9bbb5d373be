//! The Python package, `workers/python`: its own tests, and that pip installs it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tests::pages::root;

/// Longest run of a Python program. Generous: it bounds a hang.
const LONGEST: Duration = Duration::from_secs(600);

/// The package's folder, for `PYTHONPATH`: what runs is what lies there, and not what was installed.
pub fn package() -> PathBuf {
    root().join("workers/python")
}

/// A file of `examples/`.
pub fn example(name: &str) -> PathBuf {
    root().join("examples").join(name)
}

/// The Python that `scripts/install-test-needs` has made, with the package, pika, aio-pika and numpy.
///
/// # Panics
/// If it is missing.
pub fn python() -> PathBuf {
    let python = root().join("target/clients/python/bin/python");
    assert!(python.exists(), "{} is missing: run scripts/install-test-needs", python.display());
    python
}

/// Runs a Python program in a folder to its end; what it printed on standard output and error.
///
/// # Panics
/// If it fails.
pub async fn run(folder: &Path, sources: Option<&Path>, arguments: &[&str]) -> (String, String) {
    let mut command = tokio::process::Command::new(python());
    command.args(arguments).current_dir(folder).env_remove("PYTHONPATH").env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null());
    if let Some(sources) = sources {
        command.env("PYTHONPATH", sources);
    }
    let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("Python starts");
    let ended = tokio::time::timeout(LONGEST, running.wait_with_output()).await.expect("it ends").expect("its output is read");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let (output, errors) = (text(ended.stdout), text(ended.stderr));
    assert!(ended.status.success(), "{arguments:?} failed: {}\n{output}\n{errors}", ended.status);
    (output, errors)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_own_tests_pass() {
    let folder = package();
    let (_output, errors) = run(&folder, Some(&folder), &["-m", "unittest", "discover", "-s", "tests", "-t", "."]).await;
    assert!(errors.contains("\nOK"), "{errors}");
    // A test that is skipped has something missing that scripts/install-test-needs brings.
    assert!(!errors.contains("skipped"), "{errors}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pip_has_installed_it_with_its_types() {
    let program = "import gpufleet, pathlib, importlib.metadata as m; folder = pathlib.Path(gpufleet.__file__).parent; \
                   print(m.version('gpufleet'), (folder / 'py.typed').exists(), 'site-packages' in str(folder)); from gpufleet import Client, task";
    let (output, _errors) = run(Path::new("/"), None, &["-I", "-c", program]).await;
    assert_eq!(output, "0.1.0 True True\n");
}
