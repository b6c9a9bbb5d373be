//! What `deploy/` has, judged by the tools that will load it, and by what the program itself says.
//!
//! The tools are brought by `scripts/install-test-needs`. One that could not be had is named in the output (`NOT RUN: …`); one that is merely missing fails its test.
//! docs/deploying.md lists what is checked by what, and what no machine without an engine, a cluster or systemd as process 1 can show.

mod compose;
mod grafana;
mod hosts;
mod image;
mod kubernetes;
mod named;
mod prometheus;
mod tools;
