//! What to do, from the command line.

use std::{path::PathBuf, time::Duration};

/// Printed for `--help` and after a mistake.
pub(crate) const USAGE: &str = "\
usage: soak [--hours 4] [--seed N] [--rate N] [--folder target/soak] [--without-matmul]
  --hours           how long tasks are submitted and faults happen, 0.01 to 168; a fraction will do. What comes before and after takes some minutes more
  --seed            what the load and the faults are drawn from; one that is printed is drawn for a run that has none
  --rate            submits a second; without it the rate is found in the warm-up, so that the machine is busy for half of its time, and stays
  --folder          where the report and the samples go
  --without-matmul  leaves out the worker with the fake NVIDIA GPU, and the kind that only it runs";

/// The hours that are run where nobody says.
const HOURS: f64 = 4.0;
/// The least and the most of them.
const HOURS_RANGE: std::ops::RangeInclusive<f64> = 0.01..=168.0;
/// The rates that may be asked for.
const RATE_RANGE: std::ops::RangeInclusive<f64> = 1.0..=1_000.0;

/// What was asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Options {
    /// From the first submit to the last.
    pub(crate) lasting: Duration,
    pub(crate) seed: u64,
    /// Submits a second. `None`: found in the warm-up.
    pub(crate) rate: Option<f64>,
    pub(crate) folder: PathBuf,
    /// Whether a worker with a fake NVIDIA GPU takes part.
    pub(crate) matmul: bool,
}

/// Reads the arguments after the program's name. `drawn`: the seed where none is given.
///
/// # Errors
/// The usage, with what was wrong before it.
pub(crate) fn parse(mut arguments: impl Iterator<Item = String>, drawn: u64) -> Result<Options, String> {
    let folder = PathBuf::from("target/soak");
    let mut options = Options { lasting: hours(HOURS), seed: drawn, rate: None, folder, matmul: true };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} wants a value\n{USAGE}"));
        match argument.as_str() {
            "--hours" => options.lasting = hours(number("--hours", &value()?, &HOURS_RANGE)?),
            "--seed" => options.seed = value()?.parse().map_err(|_| format!("--seed: not a whole number\n{USAGE}"))?,
            "--rate" => options.rate = Some(number("--rate", &value()?, &RATE_RANGE)?),
            "--folder" => options.folder = value()?.into(),
            "--without-matmul" => options.matmul = false,
            "--help" | "-h" => return Err(USAGE.to_owned()),
            unknown => return Err(format!("no such argument: {unknown}\n{USAGE}")),
        }
    }
    Ok(options)
}

fn hours(hours: f64) -> Duration {
    Duration::from_secs_f64(hours * 3_600.0)
}

fn number(name: &str, text: &str, range: &std::ops::RangeInclusive<f64>) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| range.contains(value));
    value.ok_or_else(|| format!("{name}: {text:?} is not a number from {} to {}\n{USAGE}", range.start(), range.end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options, String> {
        parse(line.split_whitespace().map(str::to_owned), 7)
    }

    #[test]
    fn four_hours_are_run_with_a_drawn_seed_and_a_found_rate_where_nothing_is_said() {
        let options = parsed("").unwrap();
        assert_eq!((options.lasting, options.seed, options.rate), (Duration::from_secs(14_400), 7, None));
    }

    #[test]
    fn hours_may_be_a_fraction_and_mistakes_are_answered_with_the_usage() {
        let options = parsed("--hours 0.05 --seed 11 --rate 20 --without-matmul").unwrap();
        assert_eq!((options.lasting, options.seed, options.rate, options.matmul), (Duration::from_secs(180), 11, Some(20.0), false));
        for wrong in ["--hours 0", "--hours four", "--hours", "--rate 0", "--seed -1", "--quick"] {
            assert!(parsed(wrong).unwrap_err().ends_with(USAGE), "{wrong}");
        }
    }
}
