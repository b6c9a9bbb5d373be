//! Cases of a command that ends by itself: its exit code and what it says are what counts.

use std::process::Stdio;

use serde::Deserialize;
use tests::program::gpufleet_into;

use super::expect::ExitCodes;

/// A case of a command.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandCase {
    /// What went wrong, for people.
    pub about: String,
    /// The program's arguments.
    command: Vec<String>,
    stdout: Option<Output>,
    expect: Expect,
}

/// Where standard output goes, if nobody is to read it.
#[derive(Debug, Deserialize)]
enum Output {
    #[serde(rename = "closed pipe")]
    ClosedPipe,
}

/// What should come of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    exit: Option<ExitCodes>,
    /// What standard error does not say.
    stderr_without: Option<String>,
}

impl CommandCase {
    /// Why it would hold whatever happened.
    pub fn check(&self) -> Result<(), String> {
        if self.expect.exit.is_some() || self.expect.stderr_without.is_some() {
            return Ok(());
        }
        Err("expect: nothing is named, so every end would be right".to_owned())
    }

    /// What differs.
    pub async fn run(&self) -> Vec<String> {
        let arguments: Vec<&str> = self.command.iter().map(String::as_str).collect();
        let ended = match self.stdout {
            Some(Output::ClosedPipe) => {
                let (reader, writer) = std::io::pipe().expect("a pipe");
                drop(reader);
                gpufleet_into(writer, &arguments).await
            }
            None => gpufleet_into(Stdio::piped(), &arguments).await,
        };
        let code = self.expect.exit.as_ref().and_then(|codes| codes.difference(ended.code));
        let unwanted = self.expect.stderr_without.as_ref().filter(|text| ended.errors.contains(text.as_str()));
        let said = unwanted.map(|text| format!("standard error says {text:?}:\n{}", ended.errors));
        code.into_iter().chain(said).collect()
    }
}
