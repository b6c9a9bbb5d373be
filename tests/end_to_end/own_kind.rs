//! A kind in Rust that the fleet does not have: the one of `docs/executors.md`, in a fleet.

#[path = "../../examples/executor.rs"]
mod executor;

use executors::Executors;
use serde_json::json;
use tests::{
    fleet::{Fleet, FleetPlan},
    pages::{blocks, page},
    tasks::{reply, result, task},
};

crate::on_both!(the_kind_of_the_page_runs_in_a_fleet);

#[test]
fn the_page_has_the_example_word_for_word() {
    assert_eq!(blocks(&page("docs/executors.md"), "rust"), [include_str!("../../examples/executor.rs")]);
}

async fn the_kind_of_the_page_runs_in_a_fleet(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(2).executors(Executors::new().with(executor::count_words()))).start().await;
    let counted = reply(&fleet.producer, task("count_words", json!({"text": "one two\n three"}))).await;
    assert_eq!(result(&counted), json!({"words": 3}));
    for (payload, field) in [(json!({"text": 5}), "payload.text"), (json!({}), "payload.text"), (json!("text"), "payload")] {
        let error = reply(&fleet.producer, task("count_words", payload.clone())).await.error.unwrap();
        assert_eq!((error.code.as_str(), error.field.as_deref()), ("invalid_payload", Some(field)), "{payload}");
    }
}
