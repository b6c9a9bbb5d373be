//! What the bench found: printed as a table, and kept whole in `bench.json`.

use serde::Serialize;
use serde_json::Value;

use crate::{Fault, facts::Facts, options::Pace, output, statistics::Spread};

/// Where the whole report goes, in the working directory.
const FILE: &str = "bench.json";

/// Everything that one run of the bench found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    facts: Facts,
    rounds: usize,
    parts: Vec<PartReport>,
}

/// One part's findings.
#[derive(Debug, Default, Serialize)]
pub(crate) struct PartReport {
    pub(crate) title: String,
    rows: Vec<Row>,
    aims: Vec<Aim>,
    /// Every sample, by round.
    raw: Value,
    /// Why the part has no (or not all) findings.
    fault: Option<String>,
}

#[derive(Debug, Serialize)]
struct Row {
    what: String,
    value: String,
    /// The value as numbers, if it is a ratio.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<Spread>,
}

/// What a finding is held against. A missed aim fails nothing: the machine decides as much as the code.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Debug, Serialize)]
struct Aim {
    what: String,
    measured: f64,
    bound: Bound,
    met: bool,
}

impl PartReport {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), ..Self::default() }
    }

    /// A part that broke or ran out of time.
    pub(crate) fn failed(title: &str, fault: &str) -> Self {
        Self { fault: Some(fault.to_owned()), ..Self::new(title) }
    }

    pub(crate) fn row(&mut self, what: impl Into<String>, value: impl ToString) {
        self.rows.push(Row { what: what.into(), value: value.to_string(), ratio: None });
    }

    /// A row that is kept as numbers too.
    pub(crate) fn ratio(&mut self, what: impl Into<String>, ratio: Spread) {
        self.rows.push(Row { what: what.into(), value: ratio.to_string(), ratio: Some(ratio) });
    }

    pub(crate) fn aim(&mut self, what: impl Into<String>, measured: f64, bound: Bound) {
        let met = match bound {
            Bound::AtLeast(least) => measured >= least,
            Bound::AtMost(most) => measured <= most,
        };
        self.aims.push(Aim { what: what.into(), measured, bound, met });
    }

    pub(crate) fn keep_raw(&mut self, raw: impl Serialize) -> Result<(), Fault> {
        self.raw = serde_json::to_value(raw)?;
        Ok(())
    }

    /// Whether it measured what it should.
    pub(crate) fn is_complete(&self) -> bool {
        self.fault.is_none()
    }

    pub(crate) fn print(&self) {
        output::line(&format!("\n{}", self.title));
        for Row { what, value, .. } in &self.rows {
            output::line(&format!("  {what:<64} {value}"));
        }
        for Aim { what, measured, bound, met } in &self.aims {
            let (sign, bound) = match bound {
                Bound::AtLeast(least) => (">=", least),
                Bound::AtMost(most) => ("<=", most),
            };
            let verdict = if *met { "pass" } else { "miss" };
            output::line(&format!("  aim: {what:<59} {measured:.2} {sign} {bound} {verdict}"));
        }
        if let Some(fault) = &self.fault {
            output::line(&format!("  FAILED: {fault}"));
        }
    }
}

impl Report {
    pub(crate) fn new(facts: Facts, pace: Pace, parts: Vec<PartReport>) -> Self {
        Self { facts, rounds: pace.rounds, parts }
    }

    pub(crate) fn write(&self) -> Result<(), Fault> {
        std::fs::write(FILE, serde_json::to_string_pretty(self)? + "\n")?;
        output::line(&format!("\nEvery sample is in {FILE}."));
        Ok(())
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.parts.iter().all(PartReport::is_complete)
    }
}
