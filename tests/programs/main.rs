//! The real `gpufleet` binary on private servers: plain AMQP clients that are not ours, HTTP, every command, signals, logs, and inputs that once went wrong.

mod batch_commands;
mod batches;
mod cases;
mod clients;
mod commands;
mod dead;
mod doctor;
mod examples;
mod foreign;
mod frames;
mod groups;
mod handlers;
mod http;
mod items;
mod kinds;
mod logs;
mod model;
mod models;
mod nvidia;
mod onnx;
mod output;
mod over_http;
<<<<<<< HEAD
mod own_work;
=======
mod python_package;
>>>>>>> 7268208 (Run the Python package's tests and the examples from cargo test, and install it where the tests need it)
mod refusals;
mod servers;
mod signals;
mod streams;
