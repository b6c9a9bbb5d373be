//! The words of gpufleet: what a task is, what a reply says, what the table knows of a GPU.
//!
//! Types and pure functions only: no I/O, no async runtime. Everything here that travels between
//! programs has a JSON Schema in `schemas/`, generated from these types and compared by a test.

pub mod batch;
pub mod carried;
mod checksum;
pub mod claim;
pub mod config;
pub mod content;
mod dead_letter;
mod delay;
pub mod envelope;
pub mod environment;
mod error_code;
mod fleet_models;
pub mod frame;
pub mod gpu;
mod group;
mod id;
mod identity;
pub mod insight;
pub mod intake;
mod item_results;
pub mod journal;
mod json;
mod kinds;
mod model_wishes;
mod naming;
pub mod payload_schema;
pub mod predict;
pub mod progress;
pub mod reading;
mod refusal;
pub mod reply;
pub mod status;
mod strategy;
pub mod task;
pub mod tensor;
mod trace_context;
pub mod traces;
mod unserved;

pub use batch::{IndexedItem, ItemCounts, ItemResult, OnError, Slice, SliceCounts, SliceResults};
pub use checksum::Checksum;
pub use claim::{ClaimAnswer, ClaimMode, ClaimRequest, DataCosts, Holding, Offer, Token, Unplaceable};
pub use dead_letter::{DeadLetter, KeptLetter, Requeued};
pub use delay::EarliestStart;
pub use envelope::Envelope;
pub use environment::Environment;
pub use error_code::ErrorCode;
pub use fleet_models::{FleetModels, GpuModels, WishTaken};
pub use frame::{DType, Framed, ListedSegment, SegmentRef, Segments};
pub use gpu::{GpuDescription, GpuRow, GpuSample, Health};
pub use group::{GroupCancelled, GroupCounts, GroupMember, GroupStatus};
pub use id::{DeliveryId, GpuId, GroupName, Incarnation, InvalidId, Kind, PoolName, TaskId, TensorName};
pub use identity::{BodyHash, TaskIdentity, identify, identify_by_key, identify_letter};
pub use intake::{IntakeLimits, check_body, read_body, read_task};
pub use item_results::ItemResults;
pub use journal::{HistoryPoint, HistorySpan, KindPoint, OperatorAction, StepName, TaskStep};
pub use json::Json;
pub use kinds::{DescribedKind, KindDescription, KindView, RunTime};
pub use model_wishes::{ModelAction, ModelPin, ModelWish, ModelWishes, WishError};
pub use naming::{NamingError, gpu_named};
pub use payload_schema::PayloadSchema;
pub use progress::{Fraction, Partial, Progress, ProgressMessage};
pub use reading::read_object;
pub use refusal::Refusal;
pub use reply::{Outcome, Reply, TaskError};
pub use status::{TaskState, TaskStatus};
pub use strategy::{Choice, Fallback, Strategy};
pub use task::{GpuOptions, Limits, Needs, Task, TaskBody};
pub use tensor::{
    DataPort, DataState, IfExists, KeepAs, KeptTensor, OnMissing, TensorCopy, TensorPlace, TensorRecord, TensorRef, TensorShape,
    TensorView, TransferWay, WayView,
};
pub use trace_context::{is_traceparent, is_tracestate, trace_id_of};
pub use traces::TraceSink;
pub use unserved::Unserved;
