//! What a claim costs the server, in commands that its script runs: that number must not grow with the pool.

use std::collections::BTreeMap;

use futures::{StreamExt, stream};
use gpu_table::{GpuTable, RedisTable};
use protocol::ClaimRequest;
use tests::redis::{Persistence, PrivateRedis};

use super::world::{HELD_SECONDS, LEASES, ask_with, claim_of, here, row_with};

const SLOTS: u32 = 8;
const ROUNDS: usize = 40;

/// A pool that is full but for one slot on every twentieth GPU (at least two); every tenth GPU is dead.
struct Crowd {
    redis: PrivateRedis,
    table: RedisTable,
    gpus: usize,
}

/// Commands and microseconds per call of a script.
#[derive(Debug, Clone, Copy)]
struct Cost {
    commands: f64,
    microseconds: f64,
}

impl Crowd {
    async fn of(gpus: usize) -> Self {
        let redis = PrivateRedis::start(Persistence::Nothing).await;
        let table = RedisTable::connect(&redis.url(), "cost", LEASES, std::time::Duration::from_secs(60)).expect("a valid URL");
        let crowd = Self { redis, table, gpus };
        crowd.join_all(|_| true).await;
        let mut set = redis::cmd("SET");
        set.arg("cost:{default}:clock-offset-ms").arg((HELD_SECONDS - 100) * 1_000);
        set.exec_async(&mut crowd.redis.connection().await).await.expect("time moves");
        crowd.join_all(|n| n % 10 != 9).await;
        crowd.fill().await;
        set = redis::cmd("SET");
        set.arg("cost:{default}:clock-offset-ms").arg((HELD_SECONDS + 100) * 1_000);
        set.exec_async(&mut crowd.redis.connection().await).await.expect("time moves");
        crowd
    }

    async fn join_all(&self, joins: impl Fn(usize) -> bool) {
        for n in (0..self.gpus).filter(|n| joins(*n)) {
            let row = row_with(&name(n), |row| {
                row.slots = SLOTS;
                row.gpu.memory_total_mb = [80_000, 40_000][n % 2];
                row.models = vec![format!("model-{}", n % 3)];
                row.sample.memory_used_mb = (n as u64 * 37) % 10_000;
            });
            self.table.heartbeat(&super::world::heartbeat(row, &[])).await.expect("a heartbeat");
        }
    }

    fn has_room(n: usize) -> bool {
        n % 20 < 1 || n == 1
    }

    async fn fill(&self) {
        let slots =
            (0..self.gpus).filter(|n| n % 10 != 9).flat_map(|n| (0..SLOTS - u32::from(Self::has_room(n))).map(move |slot| (n, slot)));
        let claims = slots.map(|(n, slot)| async move {
            claim_of(self.table.claim(&here(&format!("filler-{n}-{slot}"), &name(n))).await.expect("an answer"));
        });
        stream::iter(claims).buffer_unordered(64).collect::<Vec<_>>().await;
    }

    /// Claims and releases, some at a time, and counts.
    async fn cost(&self, strategy: &str) -> (Cost, Cost) {
        let (mut claiming, mut releasing) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let before = self.statistics().await;
            let mut claims = Vec::new();
            for n in 0..2 {
                let request = request(strategy, &format!("t-{strategy}-{round}-{n}"), &name((round * 7) % self.gpus));
                claims.push(claim_of(self.table.claim(&request).await.expect("an answer")));
            }
            let between = self.statistics().await;
            for claim in &claims {
                assert!(self.table.release(claim).await.expect("an answer"));
            }
            let after = self.statistics().await;
            if round > 0 {
                claiming.push(difference(&before, &between));
                releasing.push(difference(&between, &after));
            }
        }
        (mean(&claiming), mean(&releasing))
    }

    /// Command → its calls and microseconds so far.
    async fn statistics(&self) -> BTreeMap<String, (f64, f64)> {
        let text: String =
            redis::cmd("INFO").arg("commandstats").query_async(&mut self.redis.connection().await).await.expect("statistics");
        text.lines()
            .filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(':'))
            .map(|(name, line)| (name.to_owned(), numbers(line)))
            .collect()
    }
}

fn name(n: usize) -> String {
    format!("gpu-{n:04}")
}

fn request(strategy: &str, task: &str, asker: &str) -> ClaimRequest {
    ask_with(task, asker, |request| {
        request.strategy = Some(strategy.to_owned());
        request.needs.model = Some("model-1".to_owned());
        request.needs.memory_mb = Some(1_000);
    })
}

fn numbers(line: &str) -> (f64, f64) {
    let field = |name: &str| line.split(',').find_map(|part| part.strip_prefix(name)?.parse().ok()).unwrap_or_default();
    (field("calls="), field("usec="))
}

/// Per script call; what the script runs is counted by itself, and so is what the test asks.
fn difference(before: &BTreeMap<String, (f64, f64)>, after: &BTreeMap<String, (f64, f64)>) -> Cost {
    let grown = |name: &str| {
        let (calls, microseconds) = before.get(name).copied().unwrap_or_default();
        let (calls_now, microseconds_now) = after.get(name).copied().unwrap_or_default();
        (calls_now - calls, microseconds_now - microseconds)
    };
    let (scripts, microseconds) = grown("evalsha");
    let aside = ["evalsha", "info", "ping", "client|setinfo", "script|load", "hello"];
    let commands: f64 = after.keys().filter(|name| !aside.contains(&name.as_str())).map(|name| grown(name).0).sum();
    Cost { commands: commands / scripts, microseconds: microseconds / scripts }
}

fn mean(costs: &[Cost]) -> Cost {
    let mean = |of: fn(&Cost) -> f64| costs.iter().map(of).sum::<f64>() / costs.len() as f64;
    Cost { commands: mean(|cost| cost.commands), microseconds: mean(|cost| cost.microseconds) }
}

#[tokio::test]
async fn a_claim_among_a_thousand_gpus_costs_what_it_costs_among_eight() {
    let (few, many) = (Crowd::of(8).await, Crowd::of(1_000).await);
    for strategy in ["least_loaded", "round_robin", "task_specific"] {
        let (claim_few, release_few) = few.cost(strategy).await;
        let (claim_many, release_many) = many.cost(strategy).await;
        // The times are for people who run this with --nocapture; a test's machine may be busy.
        println!("{strategy:>14}: claim {claim_few:?} → {claim_many:?}; release {release_few:?} → {release_many:?}");
        assert!(claim_many.commands <= claim_few.commands * 1.2, "{strategy}: {claim_few:?} → {claim_many:?}");
        assert!(release_many.commands <= release_few.commands * 1.2, "{strategy}: {release_few:?} → {release_many:?}");
    }
}
