//! Whole fleets: producers, queue, table, store and workers together. Most cases run on memory (paused clock) and on private servers.

#![expect(clippy::unwrap_used, reason = "a case is a function that both back ends call; its unwraps are a test's")]

mod batches;
mod bodies;
mod bottleneck;
mod cancelling;
mod choosing;
mod crashing;
mod delaying;
mod groups;
mod handlers_crash;
mod health;
mod holding;
mod hostile;
mod kinds;
mod life;
mod memory;
mod models;
mod own_kind;
mod phases;
mod progress;
mod reading;
mod replies;
mod retrying;
mod run_batches;
mod scaling;
mod segments;
mod steps;
mod tensors;
mod topology;
mod traces;
mod unserved;
mod waiting;

/// Runs an async case on the embedded back ends, on a paused clock, and on private servers.
#[macro_export]
macro_rules! on_both {
    ($($case:ident),+ $(,)?) => {
        mod memory {
            $(
                #[tokio::test(start_paused = true)]
                async fn $case() {
                    super::$case(|plan| plan).await;
                }
            )+
        }
        mod real_servers {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::$case(tests::fleet::FleetPlan::on_real_servers).await;
                }
            )+
        }
    };
}
