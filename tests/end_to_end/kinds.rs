//! What the kinds of a fleet do, and how long runs take, as the table tells.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use executors::{Executor, Executors, Failure, Run};
use protocol::{DescribedKind, Framed, Json, Kind};
use serde_json::json;
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{reply, result, simulate, task},
    until::until,
};

crate::on_both!(
    workers_describe_their_kinds_and_an_emptied_table_hears_it_again,
    a_kind_that_describes_itself_anew_is_shown_anew,
    the_row_tells_how_long_runs_take,
);

async fn kinds(fleet: &Fleet) -> Vec<DescribedKind> {
    fleet.ports.table.kinds(&fleet.pool()).await.unwrap()
}

async fn workers_describe_their_kinds_and_an_emptied_table_hears_it_again(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(3)).start().await;
    let fleet_has = async |kind: &str| kinds(&fleet).await.iter().any(|known| known.description.kind.as_str() == kind);
    let both = async || fleet_has("echo").await && fleet_has("simulate").await;
    until("both kinds are described", async || both().await).await;
    let described: Vec<DescribedKind> =
        kinds(&fleet).await.into_iter().filter(|known| !known.description.kind.as_str().starts_with("tensor.")).collect();
    let names: Vec<&str> = described.iter().map(|known| known.description.kind.as_str()).collect();
    assert_eq!(names, ["echo", "simulate"]);
    for DescribedKind { description, differs } in described {
        assert!(description.schema.is_some() && !description.about.is_empty() && !differs, "{description:?}");
        assert_eq!(description.batch_largest, (description.kind.as_str() == "simulate").then_some(64));
    }
    fleet.empty_the_table().await;
    until("they are described again", async || both().await).await;
}

/// A kind whose sentence changes.
struct Changing(Arc<Mutex<&'static str>>);

#[async_trait]
impl Executor for Changing {
    fn kind(&self) -> Kind {
        Kind::new("changing").unwrap()
    }

    async fn run(&self, _run: Run<'_>) -> Result<Framed, Failure> {
        Ok(Json::null().into())
    }

    fn about(&self) -> String {
        (*self.0.lock().unwrap()).to_owned()
    }
}

async fn a_kind_that_describes_itself_anew_is_shown_anew(on: fn(FleetPlan) -> FleetPlan) {
    let about = Arc::new(Mutex::new("the first version"));
    let executors = Executors::new().with(Arc::new(Changing(Arc::clone(&about))));
    let fleet = on(Fleet::of(1).executors(executors)).start().await;
    let is_shown = async |wanted: &str| kinds(&fleet).await.iter().any(|known| known.description.about == wanted);
    until("the first version is shown", async || is_shown("the first version").await).await;
    *about.lock().unwrap() = "the second version";
    until("the second version is shown", async || is_shown("the second version").await).await;
    assert!(kinds(&fleet).await[0].differs, "the first one was told a moment ago");
}

async fn the_row_tells_how_long_runs_take(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let run_ms = async |kind: &str| fleet.rows().await[0].row.run_ms.get(&protocol::Kind::new(kind).expect("valid")).copied();
    assert_eq!(run_ms("simulate").await, None, "nothing has run");
    for n in 0..3 {
        result(&reply(&fleet.producer, simulate(50, n)).await);
    }
    until("the row tells it", async || run_ms("simulate").await.is_some_and(|ms| ms >= 50.0)).await;
    assert_eq!(run_ms("echo").await, None);
}

/// In one case alone, since a run by itself would be learnt too.
#[tokio::test(start_paused = true)]
async fn the_row_tells_how_long_tasks_take_that_run_together() {
    let fleet = Fleet::of(1).start().await;
    let together = task("simulate", json!({"batch_fixed_ms": 40, "batch_item_ms": 10}));
    result(&reply(&fleet.producer, together).await);
    until("the row tells it", async || fleet.rows().await[0].row.run_ms.values().any(|ms| *ms >= 50.0)).await;
}
