//! What the document says of the tensors that stay on GPUs.

use protocol::{DType, GpuId, IfExists, KeepAs, KeptTensor, TensorName, TensorView};
use schemars::{Schema, SchemaGenerator, json_schema};

use super::{
    Operation, Optional,
    operations::{Answer, Content, from_to, of, ok},
};
use crate::tensors::{FreedTensor, PoolTensors, TensorPage};

fn raw(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "binary"})
}

fn sides(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": r"^\s*$|^\s*\d+\s*(,\s*\d+\s*)*$"})
}

fn ttl_ms(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "minimum": 1, "maximum": KeepAs::TTL_MS_MAX})
}

pub(crate) const LIST: Operation = Operation {
    id: "tensors",
    summary: "The tensors on the pool's living GPUs: of each name the latest version, with what it is, who made it and where its copies are.",
    parameter: None,
    optional: &[
        Optional {
            name: "after",
            place: "query",
            description: "Those whose names come after this one: next of the page before.",
            schema: of::<TensorName>,
        },
        Optional {
            name: "limit",
            place: "query",
            description: "How many at most, 1 to 1000. Default: 100.",
            schema: from_to::<1, { PoolTensors::LISTED_MAX }>,
        },
    ],
    body: None,
    answer: ok("Some tensors, by name; next is there where more follow.", Content::Json(of::<TensorPage>)),
    problems: &[400, 500, 503],
};

const ONE_VERSION: Optional =
    Optional { name: "version", place: "query", description: "This version, and no other. Default: the latest.", schema: of::<u64> };

pub(crate) const SHOW: Operation = Operation {
    id: "tensor",
    summary: "The raw bytes of a tensor, little-endian, the last dimension closest together, as they come from a GPU that has it; with Accept: application/json what is known of it instead. HEAD gives the headers alone.",
    parameter: Some(("name", of::<TensorName>)),
    optional: &[
        ONE_VERSION,
        Optional {
            name: "Range",
            place: "header",
            description: "bytes=0-99, bytes=100- or bytes=-100: these alone, with status 206 and Content-Range. Several ranges are answered with the whole.",
            schema: of::<String>,
        },
        Optional {
            name: "If-Range",
            place: "header",
            description: "The ETag of the version that the range is meant of: of another one the whole comes.",
            schema: of::<String>,
        },
    ],
    body: None,
    answer: ok(
        "The bytes, with the headers x-gpufleet-dtype (f32), x-gpufleet-shape (10,100; empty: one number), x-gpufleet-version and ETag. Where its last copy goes meanwhile, the connection is cut before Content-Length.",
        Content::BytesOrJson(of::<TensorView>),
    ),
    problems: &[400, 404, 416, 500, 502, 503],
};

pub(crate) const PUT: Operation = Operation {
    id: "putTensor",
    summary: "Make a tensor of raw bytes, on the GPU that is named, or on the one with the most free memory. They are passed on as they come, of any length that a GPU has room for. What has the name is replaced as a whole, or \
              stays. Asking again makes it anew.",
    parameter: Some(("name", of::<TensorName>)),
    optional: &[
        Optional { name: "gpu", place: "query", description: "The GPU. Default: the one with the most free memory.", schema: of::<GpuId> },
        Optional { name: "x-gpufleet-dtype", place: "header", description: "The type of its numbers. Default: u8.", schema: of::<DType> },
        Optional {
            name: "x-gpufleet-shape",
            place: "header",
            description: "The sizes of its dimensions, as 2,3; empty: one number. Default: one dimension of all that Content-Length announces.",
            schema: sides,
        },
        Optional {
            name: "x-gpufleet-ttl-ms",
            place: "header",
            description: "How long it is kept after its last use. Default: data.ttl_ms of the worker.",
            schema: ttl_ms,
        },
        Optional {
            name: "x-gpufleet-if-exists",
            place: "header",
            description: "What becomes of one that has the name: replace, or fail (409), where it stays. Default: replace.",
            schema: of::<IfExists>,
        },
    ],
    body: Some(raw),
    answer: Answer { status: 201, description: "It is there, and every task finds it.", content: Content::JsonToBytes(of::<KeptTensor>) },
    problems: &[400, 404, 408, 409, 413, 415, 422, 500, 502, 503, 507],
};

pub(crate) const FREE: Operation = Operation {
    id: "freeTensor",
    summary: "Let go of a tensor, of every copy and every version or of the version that is named. It is found no more at once; who uses it uses it to the end. Where a copy cannot be reached, ask again.",
    parameter: Some(("name", of::<TensorName>)),
    optional: &[ONE_VERSION],
    body: None,
    answer: ok("The GPUs that had a copy.", Content::Json(of::<FreedTensor>)),
    problems: &[400, 404, 500, 502, 503],
};
