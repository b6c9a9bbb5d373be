//! Writes the script, and makes the folders in which programs find the fake libraries under NVIDIA's names.

use std::{
    env,
    fs::{self, File},
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use tempfile::TempDir;

use crate::state::{FakeGpu, FakeNvidia, VARIABLE};

/// What programs look for.
const NAMES: [&str; 8] = [
    "libcuda.so",
    "libcuda.so.1",
    "libnvidia-ml.so",
    "libnvidia-ml.so.1",
    "libnvrtc.so",
    "libnvrtc.so.12",
    "libcublas.so",
    "libcublas.so.12",
];

/// A machine with fake GPUs: a temporary folder with the script and the libraries. Dropping it removes the folder.
#[derive(Debug)]
pub struct FakeMachine {
    script: PathBuf,
    libraries: PathBuf,
    /// Absent in the machine of the environment, which belongs to another process.
    _folder: Option<TempDir>,
}

impl FakeMachine {
    /// A machine with the GPUs [`FakeGpu::numbered`] 0, 1, 2 ….
    ///
    /// # Panics
    ///
    /// When the folder cannot be made, or the shared library has not been built.
    pub fn new(gpus: usize) -> Self {
        let folder = TempDir::with_prefix("fake-nvidia-").expect("a temporary folder");
        let libraries = folder.path().join("lib");
        link(&shared_library(&env::current_exe().expect("this executable's path")), &libraries);
        let machine = Self { script: folder.path().join("machine.json"), libraries, _folder: Some(folder) };
        machine.write(&FakeNvidia { gpus: (0..gpus).map(FakeGpu::numbered).collect(), ..FakeNvidia::default() });
        machine
    }

    /// The machine that this process runs on, when one is named by [`VARIABLE`]. Dropping it removes nothing.
    pub fn of_environment() -> Option<Self> {
        let script = PathBuf::from(env::var_os(VARIABLE)?);
        let libraries = script.parent()?.join("lib");
        Some(Self { script, libraries, _folder: None })
    }

    /// Changes the script at once for every process: none sees half of the change. Changes of several processes and threads follow one another.
    ///
    /// # Panics
    ///
    /// When the script cannot be read or written.
    pub fn change(&self, change: impl FnOnce(&mut FakeNvidia)) {
        let turn = File::create(self.script.with_extension("lock")).expect("a lock file");
        turn.lock().expect("the turn to change the script");
        let mut state = self.state();
        change(&mut state);
        self.write(&state);
    }

    /// The script as it is now.
    ///
    /// # Panics
    ///
    /// When the script cannot be read.
    pub fn state(&self) -> FakeNvidia {
        let text = fs::read(&self.script).expect("the script");
        serde_json::from_slice(&text).expect("a script that was written by this type")
    }

    /// What a program needs in its environment to run on this machine: `LD_LIBRARY_PATH`, before what this process has in it, and [`VARIABLE`].
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut path = self.libraries.display().to_string();
        if let Ok(inherited) = env::var("LD_LIBRARY_PATH") {
            path = format!("{path}:{inherited}");
        }
        vec![("LD_LIBRARY_PATH", path), (VARIABLE, self.script.display().to_string())]
    }

    /// The folder with the libraries under NVIDIA's names.
    pub fn library_folder(&self) -> &Path {
        &self.libraries
    }

    /// The script's path.
    pub fn script(&self) -> &Path {
        &self.script
    }

    fn write(&self, state: &FakeNvidia) {
        static DRAFTS: AtomicU64 = AtomicU64::new(0);
        let draft = self.script.with_extension(format!("draft-{}-{}", process::id(), DRAFTS.fetch_add(1, Ordering::Relaxed)));
        fs::write(&draft, serde_json::to_vec_pretty(state).expect("plain data")).expect("a draft of the script");
        fs::rename(&draft, &self.script).expect("the script");
    }
}

/// Makes the folder `fake-nvidia` beside an executable, with the libraries under NVIDIA's names, and returns it. An executable that was linked with
/// the run path `$ORIGIN/fake-nvidia` finds them there. It may be called by many processes at once.
///
/// A process finds them if the folder, even an empty one, was there when it started: the loader looks only then. Building this crate makes the
/// folder where cargo puts executables.
///
/// # Panics
///
/// When the folder cannot be made, or the shared library has not been built.
pub fn libraries_beside(executable: &Path) -> PathBuf {
    let folder = executable.parent().expect("an executable lies in a folder").join("fake-nvidia");
    link(&shared_library(executable), &folder);
    folder
}

/// Where cargo put the shared library of this crate: beside the executables of tests, or one folder above or below.
fn shared_library(executable: &Path) -> PathBuf {
    let beside = executable.parent().expect("an executable lies in a folder");
    let above = beside.parent().unwrap_or(beside);
    let places = [beside.join("deps"), beside.to_owned(), above.join("deps"), above.to_owned()];
    let found = places.iter().map(|folder| folder.join("libfake_nvidia.so")).find(|file| file.exists());
    found.unwrap_or_else(|| {
        panic!("libfake_nvidia.so is in none of {places:?}: build it with `cargo build -p fake-nvidia` or make it a dependency")
    })
}

fn link(library: &Path, folder: &Path) {
    fs::create_dir_all(folder).expect("the folder of the libraries");
    for name in NAMES {
        let place = folder.join(name);
        if fs::read_link(&place).is_ok_and(|target| target == library) {
            continue;
        }
        replace_link(library, &place).expect("a link to the fake library");
    }
}

/// A process that looks at this moment finds the old link or the new one.
fn replace_link(library: &Path, place: &Path) -> io::Result<()> {
    static DRAFTS: AtomicU64 = AtomicU64::new(0);
    let draft = place.with_extension(format!("draft-{}-{}", process::id(), DRAFTS.fetch_add(1, Ordering::Relaxed)));
    symlink(library, &draft)?;
    fs::rename(&draft, place)
}
