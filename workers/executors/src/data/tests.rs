use serde_json::{Value, json};

use super::*;
use crate::{
    TakesTensors,
    fixture::{gpu, run_on},
    schemas::tests::agree,
};

fn executor(kind: &str) -> Arc<dyn Executor> {
    data_kinds().into_iter().find(|executor| executor.kind().as_str() == kind).expect("one of them")
}

#[test]
fn only_what_reads_a_tensor_wants_it_on_its_gpu_and_none_blames_the_gpu() {
    let told: Vec<_> = data_kinds().iter().map(|executor| (executor.kind().to_string(), executor.takes_tensors())).collect();
    let expected = [
        ("tensor.put", TakesTensors::No),
        ("tensor.get", TakesTensors::OnGpu),
        ("tensor.copy", TakesTensors::ByName),
        ("tensor.gather", TakesTensors::ByName),
        ("tensor.free", TakesTensors::No),
    ];
    assert_eq!(told, expected.map(|(kind, takes)| (kind.to_owned(), takes)));
    assert!(data_kinds().iter().all(|executor| !executor.failures_blame_gpu()));
}

#[test]
fn what_copies_and_gathers_says_which_tensors_it_needs() {
    let named = |kind: &str, payload: Value| -> Vec<String> {
        executor(kind).tensors_named(&payload.into()).into_iter().map(|reference| reference.tensor.to_string()).collect()
    };
    assert_eq!(named("tensor.copy", json!({"tensor": "x", "to": "all"})), ["x"]);
    assert_eq!(named("tensor.gather", json!({"batch": "p", "items": 2, "name": "x"})), ["p.0", "p.1"]);
    assert_eq!(named("tensor.gather", json!({"tensors": [{"tensor": "b"}, {"tensor": "a"}, {"tensor": "b"}], "name": "x"})), ["a", "b"]);
    assert!(named("tensor.gather", json!({"batch": "p", "name": "x"})).is_empty(), "it is refused when it runs");
}

#[tokio::test]
async fn on_a_gpu_that_keeps_no_tensors_they_fail_and_may_be_tried_elsewhere() {
    for (kind, payload) in [
        ("tensor.put", json!({"name": "x", "value": [1], "dtype": "f32"})),
        ("tensor.get", json!({"tensor": "x"})),
        ("tensor.copy", json!({"tensor": "x", "to": "all"})),
        ("tensor.gather", json!({"batch": "p", "items": 2, "name": "x"})),
        ("tensor.free", json!({"tensor": "x"})),
    ] {
        let failure = run_on(&executor(kind), &gpu(), payload).await.unwrap_err();
        assert_eq!((failure.message.as_str(), failure.retry, failure.field), ("this GPU keeps no tensors", true, None), "{kind}");
    }
}

#[tokio::test]
async fn the_schema_and_the_reader_of_put_agree() {
    let with = |more: Value| {
        let mut payload = json!({"name": "x", "value": [1, 2], "dtype": "f32"});
        payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        payload
    };
    let accepted = [
        with(json!({})),
        with(json!({"shape": [2, 1], "ttl_ms": 1_000, "if_exists": "fail"})),
        with(json!({"shape": null, "ttl_ms": null, "if_exists": null})),
        with(json!({"value": [true], "dtype": "bool"})),
    ];
    let refused = [
        json!(null),
        json!({"value": [1], "dtype": "f32"}),
        json!({"name": "x", "dtype": "f32"}),
        with(json!({"name": "a b"})),
        with(json!({"name": 7})),
        with(json!({"value": "1"})),
        with(json!({"value": {"$segment": -1}})),
        with(json!({"dtype": "i7"})),
        with(json!({"shape": 2})),
        with(json!({"shape": [-1]})),
        with(json!({"ttl_ms": 0})),
        with(json!({"if_exists": "never"})),
        with(json!({"colour": 1})),
    ];
    agree(executor("tensor.put"), &accepted, &refused).await;
}

#[tokio::test]
async fn the_schemas_and_the_readers_of_the_kinds_that_name_one_tensor_agree() {
    let accepted = [json!({"tensor": "x"}), json!({"tensor": "x:1.a-b_c", "version": u64::MAX}), json!({"tensor": "x", "version": null})];
    let refused = [
        json!(null),
        json!({}),
        json!({"tensor": "a b"}),
        json!({"tensor": ""}),
        json!({"tensor": "x".repeat(201)}),
        json!({"tensor": 7}),
        json!({"tensor": "x", "version": -1}),
        json!({"tensor": "x", "version": "1"}),
        json!({"tensor": "x", "colour": 1}),
    ];
    agree(executor("tensor.free"), &accepted, &refused).await;

    let ranges = [json!({"tensor": "x", "from": 0, "bytes": 0}), json!({"tensor": "x", "from": null, "bytes": null})];
    let no_ranges = [json!({"tensor": "x", "from": -1}), json!({"tensor": "x", "bytes": "1"}), json!({"tensor": "x", "bytes": 1.5})];
    agree(executor("tensor.get"), &[&accepted[..], &ranges].concat(), &[&refused[..], &no_ranges].concat()).await;

    let to = |to: Value| json!({"tensor": "x", "to": to});
    let accepted = [to(json!("all")), to(json!("GPU-1.a_b")), to(json!(["a", "b"]))];
    let refused = [to(json!(null)), to(json!([])), to(json!("a b")), to(json!(["a", 7])), to(json!({"gpu": "a"})), json!({"tensor": "x"})];
    agree(executor("tensor.copy"), &accepted, &refused).await;
}

#[tokio::test]
async fn the_schema_and_the_reader_of_gather_agree() {
    let accepted = [
        json!({"tensors": [{"tensor": "a"}, {"tensor": "b", "version": 1, "gpu_id": "g"}], "name": "x"}),
        json!({"batch": "p", "items": 10_000, "name": "x", "ttl_ms": 5, "if_exists": "replace"}),
        json!({"tensors": null, "batch": "p", "items": 1, "name": "x"}),
        json!({"tensors": [{"tensor": "a"}], "batch": null, "items": null, "name": "x"}),
    ];
    let refused = [
        json!(null),
        json!({"name": "x"}),
        json!({"tensors": [{"tensor": "a"}]}),
        json!({"tensors": [], "name": "x"}),
        json!({"tensors": [{"version": 1}], "name": "x"}),
        json!({"tensors": ["a"], "name": "x"}),
        json!({"tensors": [{"tensor": "a"}], "batch": "p", "items": 1, "name": "x"}),
        json!({"batch": "p", "name": "x"}),
        json!({"items": 1, "name": "x"}),
        json!({"batch": "p", "items": 0, "name": "x"}),
        json!({"batch": "p", "items": 1, "name": "x", "colour": 1}),
    ];
    agree(executor("tensor.gather"), &accepted, &refused).await;
}
