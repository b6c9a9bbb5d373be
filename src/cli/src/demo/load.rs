//! The demo's load: a mix of kinds, sizes and priorities, each task with a result that no other has.

use producer::NewTask;
use protocol::{GpuOptions, Json, Kind, Needs, Outcome, Reply, TaskBody};
use serde_json::json;

/// What the demo submits.
pub(crate) struct Load {
    /// How many tasks.
    pub(crate) tasks: u32,
    /// The strategy that each names, if any.
    pub(crate) strategy: Option<String>,
}

impl Load {
    /// Task `number`: three of four simulate 4 to 27 ms of work, one of four echoes; priorities 0 to 9 in turn.
    pub(crate) fn task(&self, number: u32) -> NewTask {
        let (kind, payload) = match number % 4 {
            0 => ("echo", result_of(number)),
            _ => (
                "simulate",
                json!({"duration_ms": 4 + number % 24, "memory_mb": 200 + number % 7 * 300, "result": result_of(number)}).into(),
            ),
        };
        let body = TaskBody {
            payload,
            gpu_options: GpuOptions { strategy: self.strategy.clone(), ..GpuOptions::default() },
            needs: Needs { memory_mb: (number.is_multiple_of(3)).then_some(2_000), ..Needs::default() },
            ..TaskBody::default()
        };
        let priority = u8::try_from(number % 10).expect("below ten");
        NewTask { priority, ..NewTask::new(Kind::new(kind).expect("a literal that keeps the rule"), body) }
    }

    /// Whether a reply is the right one for task `number`.
    pub(crate) fn is_right(&self, number: u32, reply: &Reply) -> bool {
        reply.outcome == Outcome::Succeeded && reply.result == result_of(number)
    }
}

/// A text to go on with, for the built-in model: what it writes is the demo's last reply.
pub(crate) fn beginning() -> NewTask {
    let payload = json!({"text": "It was a fine morning, and", "max_length": 48, "temperature": 0.6, "seed": 7});
    let body = TaskBody { payload: payload.into(), ..TaskBody::default() };
    NewTask::new(Kind::new("predict").expect("a literal that keeps the rule"), body)
}

fn result_of(number: u32) -> Json {
    json!({"task": number, "says": format!("result {}", u64::from(number) * 7_919)}).into()
}
