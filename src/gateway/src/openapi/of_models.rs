//! What the document says of the models that GPUs keep.

use protocol::{FleetModels, Needs, WishTaken};
use schemars::{Schema, SchemaGenerator, json_schema};

use super::{
    Operation,
    operations::{Content, of, ok},
};
use crate::models::ModelRequest;

fn name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": Needs::MODEL_CHARACTERS_MAX})
}

pub(crate) const LIST: Operation = Operation {
    id: "models",
    summary: "The models in the memory of the pool's living GPUs, what a load of them takes, what could not be loaded and why, and what is pinned.",
    parameter: None,
    optional: &[],
    body: None,
    answer: ok("The models, by GPU.", Content::Json(of::<FleetModels>)),
    problems: &[500, 503],
};

/// A wish: they differ in their names alone.
const fn wish(id: &'static str, summary: &'static str) -> Operation {
    Operation {
        id,
        summary,
        parameter: Some(("model", name)),
        optional: &[],
        body: Some(of::<ModelRequest>),
        answer: ok(
            "The wish is taken down, and these GPUs hear of it within a third of worker.lease_ms. GET /api/v1/models says when they have done it, and what came of it.",
            Content::Json(of::<WishTaken>),
        ),
        problems: &[400, 403, 404, 408, 413, 415, 422, 500, 503],
    }
}

pub(crate) const LOAD: Operation =
    wish("loadModel", "Load a model on the GPUs of the pool, or on some, beside the work that they have. Asking again changes nothing.");

pub(crate) const UNLOAD: Operation = wish(
    "unloadModel",
    "Take a model out of the GPUs' memory, once nobody uses it. A pinned one stays, and says so. Asking again changes nothing.",
);

pub(crate) const PIN: Operation = wish(
    "pinModel",
    "Load a model and never evict it, also after the GPU's worker was started anew; with no GPUs named, on those that join later too. Asking again changes nothing.",
);

pub(crate) const UNPIN: Operation =
    wish("unpinModel", "Let a model be evicted again when its memory is needed. Asking again changes nothing.");
