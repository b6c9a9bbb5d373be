//! The JSON Schemas of the payloads of the kinds that are built in, a file each. They accept what the executors' own readers accept, as far as a schema can say it; the readers decide.

use protocol::Json;
#[cfg(feature = "predict")]
use serde_json::Value;

pub(crate) const ECHO: &str = include_str!("schemas/echo.json");
pub(crate) const SIMULATE: &str = include_str!("schemas/simulate.json");
pub(crate) const MATMUL: &str = include_str!("schemas/matmul.json");
pub(crate) const KERNEL: &str = include_str!("schemas/kernel.json");
pub(crate) const TENSOR_PUT: &str = include_str!("schemas/tensor_put.json");
pub(crate) const TENSOR_GET: &str = include_str!("schemas/tensor_get.json");
pub(crate) const TENSOR_COPY: &str = include_str!("schemas/tensor_copy.json");
pub(crate) const TENSOR_GATHER: &str = include_str!("schemas/tensor_gather.json");
pub(crate) const TENSOR_FREE: &str = include_str!("schemas/tensor_free.json");
#[cfg(feature = "onnx")]
pub(crate) const ONNX: &str = include_str!("schemas/onnx.json");
#[cfg(feature = "onnx")]
pub(crate) const EMBED: &str = include_str!("schemas/embed.json");
#[cfg(feature = "onnx")]
pub(crate) const CLASSIFY: &str = include_str!("schemas/classify.json");

/// One of these files.
pub(crate) fn of(text: &'static str) -> Json {
    Json::parse(text).expect("a test reads each of these files")
}

/// That of `predict`, where `max_length` may be so large.
#[cfg(feature = "predict")]
pub(crate) fn predict(max_length_max: u32) -> Json {
    let mut schema: Value = serde_json::from_str(include_str!("schemas/predict.json")).expect("a test reads each of these files");
    schema["properties"]["max_length"]["maximum"] = max_length_max.into();
    Json::of(&schema)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use protocol::{KindDescription, PayloadSchema, payload_schema::example};
    use serde_json::{Value, json};

    use crate::{
        Executor, echo,
        fixture::{gpu, run_on},
        kernel, matmul, simulate,
    };

    /// Whether the executor's own reader takes a payload. What comes after it may fail too, for want of CUDA or as the payload asks.
    async fn is_read(executor: &Arc<dyn Executor>, payload: &Value) -> bool {
        run_on(executor, &gpu(), payload.clone()).await.err().is_none_or(|failure| failure.field.is_none())
    }

    /// The fields that the reader knows, as it says where there is one that it does not know.
    async fn known(executor: &Arc<dyn Executor>, payload: Value) -> Vec<String> {
        let Value::Object(mut fields) = payload else { return Vec::new() };
        fields.insert("unheard-of".to_owned(), json!(1));
        let refused = run_on(executor, &gpu(), Value::Object(fields)).await.expect_err("it has an unknown field");
        let known = refused.message.strip_prefix("is unknown; known are ").unwrap_or_else(|| panic!("{refused:?}"));
        known.split(", ").map(str::to_owned).collect()
    }

    pub(crate) async fn agree(executor: Arc<dyn Executor>, accepted: &[Value], refused: &[Value]) {
        let kind = executor.kind();
        let schema = executor.schema().expect("a schema");
        assert!(schema.as_bytes().len() <= KindDescription::SCHEMA_BYTES_MAX && !executor.about().is_empty(), "{kind}");
        let compiled = PayloadSchema::compile(&schema).expect("a schema");
        for payload in accepted.iter().chain([&example(&schema).to().expect("JSON")]) {
            assert_eq!(compiled.check(&payload.clone().into()), Ok(()), "{kind}: {payload}");
            assert!(is_read(&executor, payload).await, "{kind} refuses {payload}");
        }
        let fields = &schema.to::<Value>().expect("JSON")["properties"];
        for name in known(&executor, example(&schema).to().expect("JSON")).await {
            assert!(fields.get(&name).is_some(), "{kind}: a payload with {name} would be refused before any worker sees it");
        }
        for payload in refused {
            let Err(told) = compiled.check(&payload.clone().into()) else { panic!("{kind}: the schema accepts {payload}") };
            assert!(told.field.starts_with("payload"), "{told}");
            assert!(!is_read(&executor, payload).await, "{kind} reads {payload}");
        }
    }

    #[tokio::test]
    async fn echo_takes_everything() {
        agree(echo(), &[json!(null), json!({"a": [1, "b"]}), json!("text"), json!(1.5)], &[]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_schema_and_the_reader_of_simulate_agree() {
        let accepted = [
            json!(null),
            json!({}),
            json!({"duration_ms": 5, "memory_mb": 20, "compute_share": 1, "result": [1], "progress_every_ms": 1}),
            json!({"duration_ms": null, "batch_fixed_ms": 0.5, "batch_item_ms": 1}),
            json!({"duration_ms": 5, "batch_fixed_ms": null}),
            json!({"fail": {"code": "oops", "message": "as asked", "retry": true}}),
            json!({"fail": null}),
            json!({"model": "llama", "model_mb": 16_000, "load_ms": 5, "duration_ms": 1}),
            json!({"model": null, "model_mb": null}),
            json!({"inputs": [{"tensor": "x", "version": 7, "gpu_id": "g"}], "add": -0.5, "result": null, "batch_item_ms": null}),
            json!({"inputs": null, "add": null}),
        ];
        let refused = [
            json!(5),
            json!([]),
            json!({"duration_ms": "5"}),
            json!({"duration_ms": -1}),
            json!({"duration_ms": 1.5}),
            json!({"duration_ms": 2_592_000_001_u64}),
            json!({"duration_ms": 5, "batch_item_ms": 1}),
            json!({"compute_share": 1.5}),
            json!({"progress_every_ms": 0}),
            json!({"fail": true}),
            json!({"fail": {"oops": 1}}),
            json!({"fail": {"retry": "yes"}}),
            json!({"colour": "red"}),
            json!({"model": ""}),
            json!({"model_mb": 5}),
            json!({"load_ms": 5, "model": null}),
            json!({"inputs": [], "duration_ms": 1}),
            json!({"inputs": [{"tensor": "a b"}]}),
            json!({"inputs": [{"tensor": "x"}], "result": 1}),
            json!({"inputs": [{"tensor": "x"}], "batch_fixed_ms": 1}),
            json!({"inputs": [{"tensor": "x"}], "add": 1e17}),
            json!({"add": 1}),
        ];
        agree(simulate(), &accepted, &refused).await;
    }

    #[tokio::test]
    async fn the_schema_and_the_reader_of_matmul_agree() {
        let ones = json!([[1, 1], [1, 1]]);
        let accepted = [
            json!({"a": ones, "b": ones}),
            json!({"a": ones, "b": [[0.5], [-2]], "dtype": "f64", "check": true}),
            json!({"a": ones, "b": ones, "dtype": null, "check": null}),
            json!({"a": ones, "b": ones, "outputs": "numbers"}),
        ];
        let refused = [
            json!(null),
            json!({"b": ones}),
            json!({"a": [], "b": ones}),
            json!({"a": [[]], "b": ones}),
            json!({"a": [["x", 1]], "b": ones}),
            json!({"a": 1, "b": ones}),
            json!({"a": ones, "b": ones, "dtype": "f16"}),
            json!({"a": ones, "b": ones, "check": 1}),
            json!({"a": ones, "b": ones, "c": 1}),
            json!({"a": ones, "b": ones, "outputs": "both"}),
        ];
        agree(matmul(), &accepted, &refused).await;
    }

    #[tokio::test]
    async fn the_schema_and_the_reader_of_kernel_agree() {
        let with = |argument: Value| json!({"module": "m", "blocks": 1, "threads": 1, "arguments": [argument]});
        let accepted = [
            json!({"module": "m", "blocks": [2, 3], "threads": 64, "kernel": null, "shared_bytes": 16, "arguments": null}),
            json!({"module": "m", "blocks": 1, "threads": 1, "outputs": "segments"}),
            with(json!({"i32": -5})),
            with(json!({"u64": u64::MAX})),
            with(json!({"f32": 0.5})),
            with(json!({"in": {"f64": [1, 2.5]}})),
            with(json!({"inout": {"i32": []}})),
            with(json!({"out": {"u64": 10}})),
        ];
        let refused = [
            json!(null),
            json!({"blocks": 1, "threads": 1}),
            json!({"module": "m", "blocks": 0, "threads": 1}),
            json!({"module": "m", "blocks": 1, "threads": 2_000}),
            json!({"module": "m", "blocks": [1, 1, 1, 1], "threads": 1}),
            json!({"module": "m", "blocks": [], "threads": 1}),
            json!({"module": "m", "blocks": 1, "threads": 1, "arguments": vec![json!({"i32": 1}); 65]}),
            json!({"module": "m", "blocks": 1, "threads": 1, "colour": 1}),
            json!({"module": "m", "blocks": 1, "threads": 1, "outputs": "both"}),
            with(json!(3)),
            with(json!({})),
            with(json!({"f16": 1})),
            with(json!({"u32": -1})),
            with(json!({"i32": 1.5})),
            with(json!({"i32": 1, "u32": 1})),
            with(json!({"in": [1]})),
            with(json!({"in": {"f32": 5}})),
            with(json!({"in": {"i32": [1.5]}})),
            with(json!({"out": {"f32": [1]}})),
            with(json!({"out": {"f64": 2_000_000_000_000_u64}})),
            with(json!({"in": {"tensor": 5}})),
        ];
        let folder = tempfile::tempdir().expect("a folder");
        agree(kernel(folder.path().to_owned()), &accepted, &refused).await;
    }

    #[cfg(feature = "predict")]
    #[test]
    fn the_schema_and_the_reader_of_predict_agree() {
        use protocol::config::PredictSection;

        use crate::predict::Request;

        let limits = PredictSection::default();
        let schema = super::predict(limits.max_length_max);
        let compiled = PayloadSchema::compile(&schema).expect("a schema");
        for accepted in [
            json!({"text": "a"}),
            json!({"text": "a", "max_length": 2_048, "temperature": 2, "seed": u64::MAX}),
            json!({"text": "a", "max_length": null, "temperature": 0.5}),
            example(&schema).to().expect("JSON"),
        ] {
            assert_eq!(compiled.check(&accepted.clone().into()), Ok(()), "{accepted}");
            assert!(Request::read(&accepted.clone().into(), &limits).is_ok(), "{accepted}");
        }
        for refused in [
            json!(null),
            json!({}),
            json!({"text": ""}),
            json!({"text": 5}),
            json!({"text": "a", "max_length": 0}),
            json!({"text": "a", "max_length": 2_049}),
            json!({"text": "a", "temperature": 2.5}),
            json!({"text": "a", "seed": -1}),
            json!({"text": "a", "top_k": 1}),
        ] {
            let field = compiled.check(&refused.clone().into()).expect_err("refused").field;
            let read = Request::read(&refused.clone().into(), &limits).expect_err("refused").field;
            // A missing payload has no fields for the one, and is no object for the other.
            assert!(read.as_deref() == Some(field.as_str()) || refused.is_null(), "{refused}: {field}, {read:?}");
        }
    }
}
