//! The flags of programs that run workers: handlers beside those of the configuration.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use clap::Args;
use protocol::config::{Configuration, HandlerSection};
use service::config::PYTHON_VARIABLE;

use crate::fault::Fault;

/// Handlers that the command line names.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct HandlerFlags {
    /// Also runs the kinds of this program, beside each GPU: a Python file, or the name of a module, with functions that are decorated with @task; or an executable file. May be repeated
    #[arg(long = "handler", value_name = "FILE")]
    pub(crate) handlers: Vec<PathBuf>,
    /// The Python that runs handlers in Python which name none. Also $GPUFLEET_PYTHON. Default: python3
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) python: Option<PathBuf>,
}

impl HandlerFlags {
    /// What each `--handler` adds to `handlers`.
    pub(crate) fn sections(&self) -> Result<Vec<HandlerSection>, Fault> {
        self.handlers.iter().map(|path| section(path).map_err(Fault::Usage)).collect()
    }

    /// Names the Python of those handlers that name none.
    pub(crate) fn name_python(&self, configuration: &mut Configuration) {
        let from_variable = || std::env::var_os(PYTHON_VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from);
        let Some(python) = self.python.clone().or_else(from_variable) else { return };
        let usual = HandlerSection::default().python;
        for handler in configuration.handlers.iter_mut().filter(|handler| handler.python == usual) {
            handler.python.clone_from(&python);
        }
    }
}

fn section(path: &Path) -> Result<HandlerSection, String> {
    let shown = path.display();
    let Ok(found) = std::fs::metadata(path) else {
        if is_module(path) {
            return Ok(HandlerSection { file: Some(path.to_owned()), ..HandlerSection::default() });
        }
        return Err(format!(
            "--handler {shown}: there is no such file; name a Python file, a Python module such as package.module, or an executable file"
        ));
    };
    if found.is_dir() {
        return Err(format!("--handler {shown}: is a folder; name the file in it that has the functions"));
    }
    if path.extension().is_some_and(|extension| extension == "py") {
        return Ok(HandlerSection { file: Some(path.to_owned()), ..HandlerSection::default() });
    }
    if found.permissions().mode() & 0o111 == 0 {
        return Err(format!(
            "--handler {shown}: is neither Python (its name does not end with .py) nor executable; make it executable (chmod +x), or configure its `command` in `handlers`"
        ));
    }
    // By its name alone it would be looked for in PATH.
    let program = std::path::absolute(path).map_err(|error| format!("--handler {shown}: {error}"))?;
    let program = program.into_os_string().into_string().map_err(|name| format!("--handler {}: its path is no text", name.display()))?;
    Ok(HandlerSection { command: vec![program], ..HandlerSection::default() })
}

/// Whether Python could import a module of this name. One that ends with `.py` is meant as a file.
fn is_module(path: &Path) -> bool {
    let Some(name) = path.to_str().filter(|name| !name.ends_with(".py")) else { return false };
    let begins = |c: char| c.is_alphabetic() || c == '_';
    let goes_on = |c: char| c.is_alphanumeric() || c == '_';
    name.split('.').all(|part| part.starts_with(begins) && part.chars().all(goes_on))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of the test's own.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("gpufleet-handler-flags-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&folder).expect("a folder");
            Self(folder)
        }

        fn file(&self, name: &str, mode: u32) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, "").expect("a file");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its owner may");
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_handler_is_a_python_file_a_module_or_an_executable_file() {
        let folder = Folder::new("kinds");
        let (python, program) = (folder.file("mine.py", 0o644), folder.file("rank", 0o755));
        let of = |path: &Path| section(path).expect("a handler");
        assert_eq!((of(&python).file, of(&python).name()), (Some(python.clone()), "mine".to_owned()));
        assert_eq!(of(&program).command, [program.to_str().expect("text")]);
        assert_eq!(of(Path::new("package.module")).file, Some(PathBuf::from("package.module")));
    }

    #[test]
    fn what_can_be_no_handler_is_refused_with_what_to_do() {
        let folder = Folder::new("refused");
        let plain = folder.file("notes.txt", 0o644);
        let refused = |path: &Path| section(path).expect_err("refused");
        for missing in ["my_modul.py", "./rank", "a b", "1.2", "module.", ""] {
            assert!(refused(Path::new(missing)).contains("there is no such file; name a Python file"), "{missing:?}");
        }
        assert!(refused(&folder.0).contains("is a folder"));
        assert!(refused(&plain).contains("chmod +x"));
    }

    #[test]
    fn the_named_python_runs_the_handlers_that_name_none() {
        let handler = |python: &str| HandlerSection { file: Some("x.py".into()), python: python.into(), ..HandlerSection::default() };
        let mut configuration = Configuration { handlers: vec![handler("python3"), handler("/venv/python")], ..Configuration::default() };
        HandlerFlags { python: Some("/opt/python".into()), ..HandlerFlags::default() }.name_python(&mut configuration);
        let pythons: Vec<&Path> = configuration.handlers.iter().map(|handler| handler.python.as_path()).collect();
        assert_eq!(pythons, [Path::new("/opt/python"), Path::new("/venv/python")]);
    }
}
