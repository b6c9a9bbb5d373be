//! What a claim costs the server, in commands that its script runs: that number must not grow with the pool.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt, stream};
use gpu_table::{GpuTable, RedisTable};
use protocol::{ClaimAnswer, ClaimRequest, DataCosts, Holding, Offer};
use tests::redis::{Persistence, PrivateRedis};

use super::world::{HELD_SECONDS, LEASES, ask_with, gpu_id, heartbeat, is_own, pool, row, row_with, telling};

const SLOTS: u32 = 8;
const ROUNDS: usize = 40;
const OWN_CLAIM_COMMANDS: f64 = 15.0;

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
        let table = RedisTable::connect(&redis.url(), "cost", LEASES, Duration::from_secs(60)).expect("a valid URL");
        let crowd = Self { redis, table, gpus };
        crowd.join_all(|_| true).await;
        crowd.table.move_time(Duration::from_secs(HELD_SECONDS - 100));
        crowd.join_all(|n| n % 10 != 9).await;
        crowd.fill().await;
        crowd.table.move_time(Duration::from_secs(200));
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
            self.table.heartbeat(&heartbeat(row)).await.expect("a heartbeat");
        }
    }

    fn has_room(n: usize) -> bool {
        n % 20 < 1 || n == 1
    }

    async fn fill(&self) {
        let tellings = (0..self.gpus).filter(|n| n % 10 != 9).map(|n| async move {
            let slots = SLOTS - u32::from(Self::has_room(n));
            self.table.tell(&telling(&name(n), Holding { slots, number: 1 }, &[])).await.expect("an answer");
        });
        stream::iter(tellings).buffer_unordered(64).collect::<Vec<_>>().await;
    }

    /// Claims and frees again, and counts.
    async fn cost(&self, strategy: &str, data: Option<&DataCosts>) -> (Cost, Cost) {
        let (mut claiming, mut freeing) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let before = self.statistics().await;
            let mut offers = Vec::new();
            for n in 0..2 {
                let request = request(strategy, &format!("t-{strategy}-{round}-{n}"), "stranger");
                let request = ClaimRequest { data: data.cloned(), ..request };
                offers.push(offer_of(self.table.claim(&request).await.expect("an answer")));
            }
            let between = self.statistics().await;
            for offer in &offers {
                self.table.withdraw(offer).await.expect("an answer");
            }
            let after = self.statistics().await;
            if round > 0 {
                claiming.push(difference(&before, &between));
                freeing.push(difference(&between, &after));
            }
        }
        (mean(&claiming), mean(&freeing))
    }

    async fn statistics(&self) -> Statistics {
        statistics(&self.redis).await
    }
}

/// Command → its calls and microseconds so far.
type Statistics = BTreeMap<String, (f64, f64)>;

async fn statistics(redis: &PrivateRedis) -> Statistics {
    let text: String = redis::cmd("INFO").arg("commandstats").query_async(&mut redis.connection().await).await.expect("statistics");
    text.lines()
        .filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(':'))
        .map(|(name, line)| (name.to_owned(), numbers(line)))
        .collect()
}

fn offer_of(answer: ClaimAnswer) -> Offer {
    match answer {
        ClaimAnswer::Other(offer) => offer,
        other => panic!("no offer in {other:?}"),
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
fn difference(before: &Statistics, after: &Statistics) -> Cost {
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
    let data = DataCosts { elsewhere_ms: 50.0, at_ms: (0..4).map(|n| (gpu_id(&name(n)), n as f64)).collect() };
    let strategies = ["least_loaded", "round_robin", "task_specific"];
    for (strategy, data) in
        strategies.map(|strategy| (strategy, None)).into_iter().chain(strategies.map(|strategy| (strategy, Some(&data))))
    {
        let (claim_few, withdraw_few) = few.cost(strategy, data).await;
        let (claim_many, withdraw_many) = many.cost(strategy, data).await;
        // The times are for people who run this with --nocapture; a test's machine may be busy.
        let weighs = if data.is_some() { "data" } else { "" };
        println!("{strategy:>14} {weighs:>4}: claim {claim_few:?} → {claim_many:?}; withdraw {withdraw_few:?} → {withdraw_many:?}");
        assert!(claim_many.commands <= claim_few.commands * 1.2, "{strategy}: {claim_few:?} → {claim_many:?}");
        assert!(withdraw_many.commands <= withdraw_few.commands * 1.2, "{strategy}: {withdraw_few:?} → {withdraw_many:?}");
    }
}

#[tokio::test]
async fn a_claim_of_an_idle_gpu_for_itself_costs_few_commands() {
    let redis = PrivateRedis::start(Persistence::Nothing).await;
    let table = RedisTable::connect(&redis.url(), "cost", LEASES, Duration::from_secs(60)).expect("a valid URL");
    for name in ["a", "b", "c", "d"] {
        table.heartbeat(&heartbeat(row(name))).await.expect("a heartbeat");
    }
    // The first call loads the scripts.
    let (mut claiming, mut telling_free) = (Vec::new(), Vec::new());
    for number in 0..ROUNDS as u64 {
        let before = statistics(&redis).await;
        let request = ask_with("t", "a", |request| request.holding = Holding { slots: 1, number: 2 * number + 1 });
        assert!(is_own(&table.claim(&request).await.expect("an answer")));
        let between = statistics(&redis).await;
        table.tell(&telling("a", Holding { slots: 0, number: 2 * number + 2 }, &[])).await.expect("an answer");
        let after = statistics(&redis).await;
        if number > 0 {
            claiming.push(difference(&before, &between));
            telling_free.push(difference(&between, &after));
        }
    }
    let (claim, tell) = (mean(&claiming), mean(&telling_free));
    println!("own claim {claim:?}; tell {tell:?}");
    assert!(claim.commands <= OWN_CLAIM_COMMANDS, "{claim:?}");
    assert!(tell.commands < claim.commands, "{tell:?}");
    assert_eq!(table.rows(&pool()).await.expect("rows")[0].held, 0);
}
