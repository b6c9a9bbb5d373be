//! Payloads come from outside: whatever stands in one, it is run, or refused with the field that is wrong.

use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use crate::{
    Executor, Failure, data_kinds,
    fixture::{gpu, run_on},
    kernel, matmul, simulate,
};

const MEMBERS: [&str; 40] = [
    "duration_ms",
    "batch_fixed_ms",
    "batch_item_ms",
    "memory_mb",
    "compute_share",
    "fail",
    "code",
    "message",
    "retry",
    "result",
    "progress_every_ms",
    "a",
    "b",
    "dtype",
    "check",
    "module",
    "kernel",
    "blocks",
    "threads",
    "shared_bytes",
    "arguments",
    "in",
    "inout",
    "out",
    "f32",
    "inputs",
    "add",
    "tensor",
    "version",
    "to",
    "name",
    "value",
    "shape",
    "tensors",
    "batch",
    "items",
    "ttl_ms",
    "if_exists",
    "from",
    "bytes",
];

fn payload() -> impl Strategy<Value = Value> {
    let name = prop_oneof![9 => prop::sample::select(&MEMBERS[..]).prop_map(str::to_owned), 1 => "\\PC{0,6}"];
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        // Small, or absurd: a simulation of days would be run.
        3 => (-3_i64..200).prop_map(Value::from),
        1 => prop::sample::select(&[u64::MAX, u64::MAX / 2, 1 << 53][..]).prop_map(Value::from),
        1 => prop::sample::select(&[-1e300, 1e300, 0.5, -0.0, 1e-320][..]).prop_map(Value::from),
        1 => prop::sample::select(&["f32", "f64", "saxpy", "../saxpy", "", "oops"][..]).prop_map(Value::from),
        1 => "\\PC{0,80}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        let members = vec((name.clone(), inner.clone()), 0..8).prop_map(|members| Value::Object(members.into_iter().collect()));
        prop_oneof![3 => members, 2 => vec(inner, 0..5).prop_map(Value::from)]
    })
}

/// What an executor says of a payload, on a GPU without CUDA and on a paused clock.
fn answer(executor: &std::sync::Arc<dyn Executor>, payload: Value) -> Result<protocol::Json, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(run_on(executor, &gpu(), payload))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_payload_is_run_or_refused_with_its_field(payload in payload()) {
        for executor in data_kinds().into_iter().chain([simulate(), matmul(), kernel("/nowhere".into())]) {
            if let Err(failure) = answer(&executor, payload.clone())
                && failure.code == protocol::ErrorCode::InvalidPayload.name()
            {
                let field = failure.field.unwrap_or_default();
                prop_assert!(field.starts_with("payload") && !failure.retry && !failure.message.is_empty(), "{field}: {}", failure.message);
            }
        }
    }
}

#[test]
fn payloads_that_are_right_are_not_refused() {
    assert_eq!(answer(&simulate(), json!({"duration_ms": 5, "result": 7})).unwrap(), json!(7));
    let right = [
        (matmul(), json!({"a": [[1, 2]], "b": [[3], [4]], "dtype": "f64"})),
        (kernel("/nowhere".into()), json!({"module": "saxpy", "blocks": 1, "threads": [32, 2], "arguments": [{"in": {"f32": [1, 2]}}]})),
    ];
    for (executor, payload) in right {
        let failure = answer(&executor, payload).unwrap_err();
        assert!(failure.message.contains("has no CUDA"), "{}", failure.message);
    }
}
