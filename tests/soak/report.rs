//! The report: what was run, what was found, and a sentence for each thing that fails the run.

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use ::tests::facts::Facts;

use crate::{
    Fault,
    history::{History, Point},
    judge::{Finding, Trend, bound_of, judged},
    ledger::{Balance, Examples},
    options::Options,
    streams::{STREAMS, Watched},
    upsets::Done,
};

/// The share of the streams that must be open, in the middle of the second half of the run.
const OPEN_SHARE: f64 = 0.85;

/// Everything that a run found.
pub(crate) struct Run {
    pub(crate) facts: Facts,
    pub(crate) options: Options,
    /// How long tasks arrived.
    pub(crate) lasted: Duration,
    pub(crate) history: History,
    pub(crate) balance: Balance,
    pub(crate) done: Done,
    pub(crate) watched: Watched,
    /// What was left in the end, what processes did that they should not, and which jobs of the soak itself broke.
    pub(crate) leftovers: Vec<String>,
    pub(crate) complaints: Vec<String>,
}

/// A series that was judged.
struct Row<'a> {
    name: &'a str,
    trend: Trend,
}

impl Run {
    /// What fails the run, a sentence each.
    pub(crate) fn failures(&self) -> Vec<String> {
        let mut failures = self.of_replies();
        failures.extend(self.grown());
        failures.extend(self.leftovers.iter().map(|left| format!("Left when all was over: {left}.")));
        failures.extend(self.complaints.iter().chain(&self.done.failed).map(|what| format!("{what}.")));
        failures.extend(self.of_streams());
        failures
    }

    fn of_replies(&self) -> Vec<String> {
        let Balance { submitted, answered, lost, different, foreign, wrong, refused, copies, resubmits, .. } = &self.balance;
        let told = [
            (lost, "tasks never had a reply"),
            (different, "tasks had a second reply that differs from the first"),
            (foreign, "replies are to nobody's tasks"),
            (wrong, "tasks ended otherwise than they should"),
            (refused, "tasks could not be submitted"),
        ];
        let mut failures: Vec<String> = told.into_iter().filter_map(|(examples, what)| sentence(examples, what)).collect();
        let explained = self.done.copies_max + resubmits;
        if *copies > explained {
            failures.push(format!("{copies} replies came once more with the same content; the faults explain {explained} at most."));
        }
        if *answered == 0 {
            failures.push(format!("Of {submitted} tasks none had a reply: the run shows nothing."));
        }
        failures
    }

    fn grown(&self) -> Vec<String> {
        let (rows, _) = self.rows();
        let grown = rows.into_iter().filter(|row| row.trend.grows());
        let told = grown.map(|Row { name, trend: Trend { level, growth, allowed } }| {
            format!("{name} grows: by {growth:.1} at a level of {level:.1}, once its beginning is left out; {allowed:.1} would be allowed.")
        });
        told.collect()
    }

    fn of_streams(&self) -> Vec<String> {
        let mut failures = Vec::new();
        if self.watched.silent > 0 {
            failures.push(format!("On {} streams nothing came any more, not even a heartbeat.", self.watched.silent));
        }
        let late = self.late_median("open/streams");
        if late.is_some_and(|open| open < STREAMS as f64 * OPEN_SHARE) {
            failures.push(format!("Of {STREAMS} streams only {:.0} were open in the middle of the second half.", late.unwrap_or(0.0)));
        }
        failures
    }

    /// Those that can be judged, and how many others have a bound and are too short.
    fn rows(&self) -> (Vec<Row<'_>>, usize) {
        let (mut rows, mut too_short) = (Vec::new(), 0);
        for (name, points) in self.history.series() {
            let Some(bound) = bound_of(name) else { continue };
            match judged(points, bound, self.lasted.as_secs_f64()) {
                Finding::Judged(trend) => rows.push(Row { name, trend }),
                Finding::TooShort => too_short += 1,
            }
        }
        (rows, too_short)
    }

    /// The median of the second half of a series.
    fn late_median(&self, name: &str) -> Option<f64> {
        let points: &Vec<Point> = self.history.series().get(name)?;
        let mut late: Vec<f64> = points[points.len() / 2..].iter().map(|(_, value)| *value).collect();
        late.sort_by(f64::total_cmp);
        late.get(late.len() / 2).copied()
    }

    /// Writes the report as Markdown.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Fault> {
        let text = self.text()?;
        Ok(fs::write(path, text)?)
    }

    fn text(&self) -> Result<String, std::fmt::Error> {
        let failures = self.failures();
        let mut text = String::from("# Soak\n\n");
        writeln!(text, "{}.\n", self.facts.line())?;
        let asked = self.options.lasting.as_secs_f64() / 60.0;
        let (minutes, seed) = (self.lasted.as_secs_f64() / 60.0, self.options.seed);
        writeln!(text, "Tasks arrived for {minutes:.1} of {asked:.1} minutes that were asked for; seed {seed}.\n")?;
        if failures.is_empty() {
            writeln!(text, "**Nothing was lost, nothing grew, nothing was left.**")?;
        } else {
            writeln!(text, "**It fails:**\n")?;
            failures.iter().try_for_each(|failure| writeln!(text, "- {failure}"))?;
        }
        self.write_load(&mut text)?;
        self.write_faults(&mut text)?;
        self.write_latencies(&mut text)?;
        self.write_growth(&mut text)?;
        Ok(text)
    }

    fn write_load(&self, text: &mut String) -> std::fmt::Result {
        let Balance { submitted, answered, copies, resubmits, outcomes, .. } = &self.balance;
        writeln!(text, "\n## Tasks\n")?;
        writeln!(
            text,
            "{submitted} tasks, {answered} replies; {copies} copies of replies with the same content (the faults explain up to {}), {resubmits} submits that were repeated.",
            self.done.copies_max + resubmits
        )?;
        let middle = |name: &str| self.late_median(name).unwrap_or(f64::NAN);
        writeln!(
            text,
            "In the second half, in the middle: {:.1} arrivals and {:.1} replies a second, the machine busy for {:.0} % of its time, {:.0} tasks without a reply.\n",
            middle("per_second/arrivals"),
            middle("per_second/replies"),
            middle("busy/machine") * 100.0,
            middle("open/tasks")
        )?;
        writeln!(text, "| work | succeeded | failed | cancelled | expired |\n| --- | --- | --- | --- | --- |")?;
        for (work, by_outcome) in outcomes {
            let of = |outcome: &str| by_outcome.get(outcome).copied().unwrap_or(0);
            writeln!(text, "| {work} | {} | {} | {} | {} |", of("succeeded"), of("failed"), of("cancelled"), of("expired"))?;
        }
        let Watched { opened, bytes, followed, .. } = self.watched;
        writeln!(
            text,
            "\n{STREAMS} streams were kept open: {opened} openings in all, {:.1} MiB read, {followed} tasks followed to their reply.",
            bytes as f64 / 1_048_576.0
        )
    }

    fn write_faults(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "\n## Faults\n\n| fault | times |\n| --- | --- |")?;
        self.done.counts.iter().try_for_each(|(fault, times)| writeln!(text, "| {fault} | {times} |"))
    }

    fn write_latencies(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "\n## Latencies\n")?;
        writeln!(
            text,
            "Of tasks that take no time or up to 50 ms, from before the submit to the reply, over the whole run with all its faults.\n"
        )?;
        writeln!(text, "| priority | p50, ms | p95, ms | p99, ms |\n| --- | --- | --- | --- |")?;
        for (priority, latency) in self.balance.latencies.iter().enumerate().rev() {
            writeln!(text, "| {priority} | {:.1} | {:.1} | {:.1} |", latency.p50, latency.p95, latency.p99)?;
        }
        Ok(())
    }

    fn write_growth(&self, text: &mut String) -> std::fmt::Result {
        let (rows, too_short) = self.rows();
        writeln!(text, "\n## Growth\n")?;
        writeln!(
            text,
            "{} series were judged, {too_short} are too short. A series is named by what it is and whose; a process by its place and which life of it.\n",
            rows.len()
        )?;
        writeln!(text, "| series | level | growth | allowed | |\n| --- | --- | --- | --- | --- |")?;
        for Row { name, trend } in &rows {
            let Trend { level, growth, allowed } = trend;
            let verdict = if trend.grows() { "**grows**" } else { "" };
            writeln!(text, "| {name} | {level:.1} | {growth:+.1} | {allowed:.1} | {verdict} |")?;
        }
        let (keys, dead) = (self.history.last("keys/all"), self.history.last("depth/soak.dead"));
        let shown = |value: Option<f64>| value.map_or_else(|| "unknown".to_owned(), |value| format!("{value:.0}"));
        writeln!(text, "\nAt the last sample: {} keys in Redis, {} dead letters.", shown(keys), shown(dead))
    }
}

fn sentence(examples: &Examples, what: &str) -> Option<String> {
    let Examples { count, first } = examples;
    (*count > 0).then(|| format!("{count} {what}, among them: {}.", first.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Values;

    fn run(folder: &Path) -> Run {
        let mut history = History::create(&folder.join("samples.jsonl")).unwrap();
        for number in 0..360 {
            let value = |name: &str, value: f64| (name.to_owned(), value);
            let values = Values::from([value("memory_mib/worker-0.1", 40.0), value("open/streams", 200.0)]);
            history.add(f64::from(number) * 10.0, values).unwrap();
        }
        Run {
            facts: Facts::gather(None),
            options: crate::options::parse(std::iter::empty(), 1).unwrap(),
            lasted: Duration::from_secs(3_600),
            history,
            balance: Balance { submitted: 10, answered: 10, ..Balance::default() },
            done: Done::default(),
            watched: Watched { open: 0, opened: 200, bytes: 0, followed: 0, silent: 0 },
            leftovers: Vec::new(),
            complaints: Vec::new(),
        }
    }

    #[test]
    fn a_run_that_lost_nothing_and_grew_nowhere_passes_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(folder.path());
        assert_eq!(run.failures(), Vec::<String>::new());
        run.write(&folder.path().join("report.md")).unwrap();
        let text = fs::read_to_string(folder.path().join("report.md")).unwrap();
        assert!(text.contains("Nothing was lost") && text.contains("| memory_mib/worker-0.1 | 40.0 |"), "{text}");
        assert_eq!(fs::read_to_string(folder.path().join("samples.jsonl")).unwrap().lines().count(), 360);
    }

    #[test]
    fn losses_copies_that_nothing_explains_leftovers_and_silence_each_fail_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let passing = run(folder.path());
        let lost = Examples { count: 1, first: vec!["soak-3".to_owned()] };
        let balance = Balance { submitted: 10, answered: 9, lost, copies: 1, ..Balance::default() };
        let watched = Watched { silent: 1, ..passing.watched };
        let failing = Run { balance, watched, leftovers: vec!["1 messages".to_owned()], ..passing };
        let failures = failing.failures();
        assert_eq!(failures.len(), 4, "{failures:#?}");
        assert!(failures[0].contains("soak-3") && failing.text().unwrap().contains("It fails"));
    }

    #[test]
    fn growth_fails_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = run(folder.path());
        for number in 0..360 {
            let values = Values::from([("descriptors/worker-0.1".to_owned(), f64::from(number))]);
            run.history.add(f64::from(number) * 10.0, values).unwrap();
        }
        assert!(run.failures().iter().any(|failure| failure.starts_with("descriptors/worker-0.1 grows")), "{:?}", run.failures());
    }
}
