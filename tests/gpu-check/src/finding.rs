//! What a check found, in a sentence with its figures, and how it travels from the check's process.

use serde_json::{Value, json};

use crate::Fault;

/// What a check found that did not fail.
pub enum Checked {
    /// It passed; the figures.
    Passed(String),
    /// It could not be checked here; why.
    Unchecked(String),
}

pub type Finding = Result<Checked, Fault>;

const PASSED: &str = "passed";
const UNCHECKED: &str = "unchecked";
const FAILED: &str = "FAILED";

/// A finding as the report shows it.
pub struct Verdict {
    pub word: &'static str,
    pub detail: String,
}

impl Verdict {
    pub fn of(finding: Finding) -> Self {
        match finding {
            Ok(Checked::Passed(detail)) => Self { word: PASSED, detail },
            Ok(Checked::Unchecked(detail)) => Self { word: UNCHECKED, detail },
            Err(fault) => Self { word: FAILED, detail: fault.to_string() },
        }
    }

    pub fn failed(&self) -> bool {
        self.word == FAILED
    }

    pub fn to_json(&self) -> Value {
        json!({"verdict": self.word, "detail": self.detail})
    }

    pub fn of_json(answer: &Value) -> Self {
        let text = |name: &str| answer[name].as_str().unwrap_or_default();
        let word = [PASSED, UNCHECKED].into_iter().find(|word| *word == text("verdict")).unwrap_or(FAILED);
        Self { word, detail: text("detail").to_owned() }
    }
}
