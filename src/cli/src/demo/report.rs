//! What the demo did: per GPU and in all.

use std::{collections::BTreeMap, time::Duration};

use producer::WaitError;
use protocol::{GpuId, Outcome, Reply};
use serde::Serialize;

use crate::{
    demo::load::Load,
    output::{self, Printed},
};

/// The outcome of a demo.
#[derive(Debug)]
pub(crate) struct Report {
    tasks: u32,
    succeeded: u32,
    seconds: f64,
    latencies_ms: BTreeMap<GpuId, Vec<f64>>,
    samples: Vec<Reply>,
    first_wrong: Option<String>,
}

#[derive(Serialize)]
struct Json {
    tasks: u32,
    succeeded: u32,
    failed: u32,
    seconds: f64,
    throughput_per_s: f64,
    gpus: Vec<Gpu>,
    balance: f64,
}

#[derive(Serialize)]
struct Gpu {
    gpu_id: GpuId,
    tasks: usize,
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
}

impl Report {
    pub(crate) fn new(load: &Load) -> Self {
        Self { tasks: load.tasks, succeeded: 0, seconds: 0.0, latencies_ms: BTreeMap::new(), samples: Vec::new(), first_wrong: None }
    }

    /// Takes note of one task's end; `took` is from its submit to its reply.
    pub(crate) fn note(&mut self, load: &Load, number: u32, reply: Result<Reply, WaitError>, took: Duration) {
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => return self.wrong(number, &error.to_string()),
        };
        if !load.is_right(number, &reply) {
            return self.wrong(number, &output::json_text(&reply));
        }
        self.succeeded += 1;
        if let Some(gpu_id) = reply.gpu_id.clone() {
            self.latencies_ms.entry(gpu_id).or_default().push(took.as_secs_f64() * 1_000.0);
        }
        let is_another_kind = self.samples.iter().all(|sample| sample.kind != reply.kind);
        if self.samples.len() < 2 && is_another_kind {
            self.samples.push(reply);
        }
    }

    /// Takes note of the text that was written after the load.
    pub(crate) fn note_text(&mut self, reply: Result<Reply, WaitError>) {
        let problem = match reply {
            Ok(reply) if reply.outcome == Outcome::Succeeded => return self.samples.push(reply),
            Ok(reply) => output::json_text(&reply),
            Err(error) => error.to_string(),
        };
        self.first_wrong.get_or_insert_with(|| format!("no text was written: {problem}"));
    }

    fn wrong(&mut self, number: u32, what: &str) {
        self.first_wrong.get_or_insert_with(|| format!("task number {number} did not get its own right reply: {what}"));
    }

    pub(crate) fn ended(&mut self, took: Duration) {
        self.seconds = took.as_secs_f64();
        for latencies in self.latencies_ms.values_mut() {
            latencies.sort_by(f64::total_cmp);
        }
    }

    /// Whether every task got its own right reply.
    pub(crate) fn all_right(&self) -> bool {
        self.succeeded == self.tasks && self.first_wrong.is_none()
    }

    /// What counts comes last: it is what a person sees then.
    pub(crate) fn print(&self, as_json: bool) -> Printed {
        if let Some(wrong) = &self.first_wrong {
            output::error_line(wrong);
        }
        if as_json { output::json(&self.json()) } else { self.print_for_people() }
    }

    fn json(&self) -> Json {
        let gpus: Vec<Gpu> = self.latencies_ms.iter().map(|(gpu_id, latencies)| gpu(gpu_id, latencies)).collect();
        Json {
            tasks: self.tasks,
            succeeded: self.succeeded,
            failed: self.tasks - self.succeeded,
            seconds: rounded(self.seconds, 3),
            throughput_per_s: rounded(f64::from(self.tasks) / self.seconds.max(f64::EPSILON), 1),
            balance: rounded(jain(gpus.iter().map(|gpu| gpu.tasks as f64)), 4),
            gpus,
        }
    }

    fn print_for_people(&self) -> Printed {
        for sample in &self.samples {
            output::pretty(sample)?;
            output::line("")?;
        }
        let json = self.json();
        let rows: Vec<Vec<String>> = json.gpus.iter().map(|gpu| row(gpu, self.succeeded)).collect();
        output::table(&["GPU", "TASKS", "SHARE", "P50 MS", "P95 MS", "P99 MS"], &rows)?;
        output::line(&format!(
            "{} of {} tasks got their own right reply in {:.2} s: {:.0} tasks/s, balance {:.3} (1 is even)",
            json.succeeded, json.tasks, json.seconds, json.throughput_per_s, json.balance
        ))
    }
}

fn row(gpu: &Gpu, all: u32) -> Vec<String> {
    vec![
        gpu.gpu_id.to_string(),
        gpu.tasks.to_string(),
        format!("{:.1} %", 100.0 * gpu.tasks as f64 / f64::from(all.max(1))),
        format!("{:.1}", gpu.p50_ms),
        format!("{:.1}", gpu.p95_ms),
        format!("{:.1}", gpu.p99_ms),
    ]
}

fn gpu(gpu_id: &GpuId, sorted_ms: &[f64]) -> Gpu {
    let at = |share| rounded(percentile(sorted_ms, share), 3);
    Gpu { gpu_id: gpu_id.clone(), tasks: sorted_ms.len(), p50_ms: at(0.50), p95_ms: at(0.95), p99_ms: at(0.99) }
}

/// The nearest-rank percentile of sorted numbers; 0 for none.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0.0)
}

/// Jain's index of fairness: 1 for equal shares, 1/n if one has all; 1 for none.
fn jain(shares: impl Iterator<Item = f64> + Clone) -> f64 {
    let (count, sum, squares) = shares.fold((0.0, 0.0, 0.0), |(count, sum, squares), x| (count + 1.0, sum + x, squares + x * x));
    if squares == 0.0 { 1.0 } else { sum * sum / (count * squares) }
}

fn rounded(value: f64, places: i32) -> f64 {
    let factor = 10_f64.powi(places);
    (value * factor).round() / factor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jains_index_is_one_for_equal_shares_and_falls_to_one_nth() {
        assert_eq!(jain([5.0, 5.0, 5.0, 5.0].into_iter()), 1.0);
        assert_eq!(jain([12.0, 0.0, 0.0].into_iter()), 1.0 / 3.0);
        assert_eq!(jain(std::iter::empty()), 1.0);
    }

    #[test]
    fn percentiles_take_the_nearest_rank() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!([0.5, 0.95, 0.99, 1.0].map(|share| percentile(&sorted, share)), [50.0, 95.0, 99.0, 100.0]);
        assert_eq!(percentile(&[7.0], 0.01), 7.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
