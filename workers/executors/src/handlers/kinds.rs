//! The kinds of a handler, as its last `hello` told them, and the check of payloads against their schemas.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use protocol::{Json, Kind, PayloadSchema};

use super::message::{Hello, HelloBatch, HelloKind};
use crate::Failure;

/// One kind, as a `hello` told it.
#[derive(Debug)]
pub(super) struct Told {
    /// What it does.
    pub(super) about: String,
    /// The JSON Schema of its payload.
    pub(super) schema: Option<Json>,
    /// How it takes several payloads at once.
    pub(super) batch: Option<HelloBatch>,
    /// Whether it takes tensors where they lie.
    pub(super) tensors: bool,
    /// What checks payloads, or why nothing can. `None`: it has no schema.
    checks: Result<Option<PayloadSchema>, String>,
}

/// The kinds of one handler.
#[derive(Debug)]
pub(super) struct Kinds {
    handler: String,
    /// Those that its worker offers: the configured ones, or those of the first `hello`.
    offered: OnceLock<BTreeSet<Kind>>,
    /// Those of the last `hello`. `None`: there was none yet.
    told: RwLock<Option<BTreeMap<Kind, Arc<Told>>>>,
}

impl Kinds {
    /// Those that are configured; none: those of the first `hello`.
    pub(super) fn new(handler: String, configured: &[Kind]) -> Self {
        let offered = OnceLock::new();
        if !configured.is_empty() {
            // It is empty: nobody has it yet.
            let _ = offered.set(configured.iter().cloned().collect());
        }
        Self { handler, offered, told: RwLock::new(None) }
    }

    /// Those that its worker offers; none before they are known.
    pub(super) fn offered(&self) -> impl Iterator<Item = &Kind> {
        self.offered.get().into_iter().flatten()
    }

    /// Takes what a process says that it runs.
    pub(super) fn said(&self, hello: &Hello) {
        let told: BTreeMap<Kind, Arc<Told>> = hello.kinds.iter().map(|kind| (kind.kind.clone(), Arc::new(Told::of(kind)))).collect();
        let offered = self.offered.get_or_init(|| told.keys().cloned().collect());
        for kind in told.keys().filter(|kind| !offered.contains(kind)) {
            tracing::warn!(handler = self.handler, %kind, "the handler names a kind that its worker does not offer: it is not in handlers[].kinds, or came after the start");
        }
        *self.told.write().unwrap_or_else(PoisonError::into_inner) = Some(told);
    }

    /// What the last `hello` told of a kind. `None`: nothing, or there was none.
    pub(super) fn told(&self, kind: &Kind) -> Option<Arc<Told>> {
        self.told.read().unwrap_or_else(PoisonError::into_inner).as_ref()?.get(kind).cloned()
    }

    /// Whether there was a `hello`.
    pub(super) fn is_told(&self) -> bool {
        self.told.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Why a kind cannot run although its process is up.
    ///
    /// # Errors
    /// It cannot: the handler does not run it any more, or its schema is none.
    pub(super) fn check(&self, kind: &Kind) -> Result<(), String> {
        if !self.is_told() {
            return Ok(());
        }
        match self.told(kind).as_deref() {
            None => Err(format!("handler {} names no kind {:?} in its hello", self.handler, kind.as_str())),
            Some(Told { checks: Err(wrong), .. }) => {
                Err(format!("handler {} gives a schema for the kind {:?} that cannot be used: {wrong}", self.handler, kind.as_str()))
            }
            Some(_) => Ok(()),
        }
    }
}

impl Told {
    fn of(kind: &HelloKind) -> Self {
        let HelloKind { about, schema, batch, tensors, .. } = kind;
        let batch = batch.filter(|batch| batch.largest > 1);
        let checks = schema.as_ref().filter(|schema| !schema.is_null()).map(PayloadSchema::compile).transpose();
        Self { about: about.clone().unwrap_or_default(), schema: schema.clone(), batch, tensors: *tensors, checks }
    }

    /// Checks a payload. Without a schema everything passes.
    ///
    /// # Errors
    /// `invalid_payload`, with the field.
    pub(super) fn check(&self, payload: &Json) -> Result<(), Failure> {
        let Ok(Some(schema)) = &self.checks else { return Ok(()) };
        schema.check(payload).map_err(|refusal| Failure::invalid(refusal.field, refusal.problem))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn hello(kinds: Value) -> Hello {
        serde_json::from_value(json!({"version": 1, "kinds": kinds})).unwrap()
    }

    fn kind(name: &str) -> Kind {
        Kind::new(name).unwrap()
    }

    #[test]
    fn a_refused_payload_names_the_field() {
        let schema = json!({
            "type": "object", "required": ["texts"], "additionalProperties": false,
            "properties": {"texts": {"type": "array", "items": {"type": "string"}}, "top": {"type": "object", "properties": {"k": {"minimum": 1}}}},
        });
        let kinds = Kinds::new("h".to_owned(), &[]);
        kinds.said(&hello(json!([{"kind": "embed", "schema": schema}])));
        let told = kinds.told(&kind("embed")).unwrap();
        for (payload, field) in [
            (json!({"texts": ["a", 3]}), "payload.texts[1]"),
            (json!({"texts": [], "top": {"k": 0}}), "payload.top.k"),
            (json!({}), "payload.texts"),
            (json!({"texts": [], "extra": 1}), "payload.extra"),
            (json!(null), "payload"),
        ] {
            let refused = told.check(&payload.clone().into()).unwrap_err();
            assert_eq!(
                (refused.field.as_deref(), refused.code.as_str(), refused.retry),
                (Some(field), "invalid_payload", false),
                "{payload}"
            );
        }
        let long = told.check(&json!({"texts": "x".repeat(10_000)}).into()).unwrap_err();
        assert_eq!(long.message, "must be a list, not text", "without the text, which is long");
        assert!(told.check(&json!({"texts": ["a"]}).into()).is_ok());
    }

    #[test]
    fn a_kind_that_a_later_process_does_not_name_is_down_and_a_new_one_is_not_offered() {
        let kinds = Kinds::new("h".to_owned(), &[]);
        assert!(kinds.check(&kind("a")).is_ok() && kinds.offered().next().is_none());
        kinds.said(&hello(json!([{"kind": "a"}, {"kind": "b"}])));
        kinds.said(&hello(json!([{"kind": "a"}, {"kind": "c"}])));
        assert_eq!(kinds.offered().map(Kind::as_str).collect::<Vec<_>>(), ["a", "b"]);
        assert!(kinds.check(&kind("a")).is_ok());
        assert_eq!(kinds.check(&kind("b")).unwrap_err(), "handler h names no kind \"b\" in its hello");
    }

    #[test]
    fn a_schema_that_is_none_fails_its_kind_alone() {
        let kinds = Kinds::new("h".to_owned(), &[kind("a"), kind("b")]);
        kinds.said(&hello(json!([{"kind": "a", "schema": {"type": "nonsense"}}, {"kind": "b", "schema": null}])));
        assert!(kinds.check(&kind("a")).unwrap_err().contains("a schema for the kind \"a\" that cannot be used"));
        assert!(kinds.check(&kind("b")).is_ok());
    }
}
