//! The samples: kept as series for the judgement, and written as lines of JSON for whoever wants to look.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use serde::Serialize;

use crate::Fault;

/// Values of one moment, by the name of their series: what it is, a slash, and whose: `memory_mib/worker-0.1`.
pub(crate) type Values = BTreeMap<String, f64>;

/// A moment of the run, in seconds, and the value then.
pub(crate) type Point = (f64, f64);

/// Everything that was sampled.
pub(crate) struct History {
    file: BufWriter<File>,
    series: BTreeMap<String, Vec<Point>>,
}

/// A line of the file.
#[derive(Serialize)]
struct Line<'a> {
    at_s: f64,
    values: &'a Values,
}

impl History {
    pub(crate) fn create(path: &Path) -> Result<Self, Fault> {
        Ok(Self { file: BufWriter::new(File::create(path)?), series: BTreeMap::new() })
    }

    /// Adds a sample, and writes it at once. What is no number (there was nothing to measure) is left out.
    pub(crate) fn add(&mut self, at_s: f64, mut values: Values) -> Result<(), Fault> {
        values.retain(|_, value| value.is_finite());
        serde_json::to_writer(&mut self.file, &Line { at_s, values: &values })?;
        self.file.write_all(b"\n")?;
        self.file.flush()?;
        for (name, value) in values {
            self.series.entry(name).or_default().push((at_s, value));
        }
        Ok(())
    }

    /// The series, by name.
    pub(crate) const fn series(&self) -> &BTreeMap<String, Vec<Point>> {
        &self.series
    }

    /// The last value of a series.
    pub(crate) fn last(&self, name: &str) -> Option<f64> {
        self.series.get(name)?.last().map(|(_, value)| *value)
    }
}
