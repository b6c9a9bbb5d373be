//! HTTP in front of the producer: `predict` in one call, tasks and their status, a task's events as a stream, the results of batches, the GPUs, the tensors that stay on them, what the fleet's journal says of all that ([`Observatory`], which commands on servers use too), health and metrics.
//!
//! [`serve`] answers on a listener until it is told to stop. Every route is listed in one table together with its documentation, so
//! `/openapi.json` and what is served cannot differ. Every error is a problem document (RFC 9457). No route does work of its own: the
//! producer submits, the table and the store answer, the data ports of GPUs give and take the bytes of tensors ([`PoolTensors`], which commands on servers use too).

mod actions;
mod bulk;
mod dead;
mod encoding;
mod error;
mod events;
mod explain;
mod filter;
mod front;
mod gateway;
mod given;
mod gpus;
mod groups;
mod health;
mod idempotency;
mod insights;
mod intake;
mod kinds;
mod live;
mod metrics;
mod models;
mod monitor;
mod multipart;
mod observing;
mod openapi;
mod operate;
mod predict;
mod problem;
mod query;
mod results;
mod retry;
mod routes;
mod segments;
mod serve;
mod server;
mod settings;
mod submit;
mod task_list;
mod tasks;
mod tensors;
mod trail;
mod ui;
mod unserved;
mod upload;

pub use encoding::{dead_url, drain_url, group_url, model_url, status_url, tensor_url, url_encoded};
pub use error::ServeError;
pub use gateway::{Gateway, GatewayOptions, Ports};
pub use metrics::GatewayMetrics;
pub use monitor::serve_metrics;
pub use observing::{Observatory, ObserveError, ObservedPorts};
pub use openapi::openapi;
pub use problem::{Problem, ProblemDocument};
pub use routes::router;
pub use serve::serve;
pub use server::ConnectionLimits;
pub use tensors::{Destination, FoundTensor, FreedTensor, PoolTensors, TensorPage, TensorsError};
