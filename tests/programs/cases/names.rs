//! The names of a case's queues on the broker, which other tests use too.

use task_queue::Queue;

/// What the names of a fleet's queues begin with, as cases write them.
const PREFIX: &str = "gpufleet";

/// Translates the names that a case writes.
pub struct Names {
    prefix: String,
    /// What the case declares itself.
    declared: Vec<String>,
}

impl Names {
    /// For a fleet of this prefix, and a case that declares these queues.
    pub fn new<'a>(prefix: &str, declared: impl IntoIterator<Item = &'a str>) -> Self {
        Self { prefix: prefix.to_owned(), declared: declared.into_iter().map(str::to_owned).collect() }
    }

    /// The name of a queue on the broker, or a pattern of such names.
    pub fn on_broker(&self, written: &str) -> String {
        if self.declared.iter().any(|name| name == written) {
            return task_queue::Names::new(&self.prefix).queue(&Queue::Reply(written.to_owned()));
        }
        written.replace(PREFIX, &self.prefix)
    }
}

#[test]
fn names_are_translated_to_those_of_the_fleet_that_the_case_is_played_on() {
    let names = Names::new("mine", ["full"]);
    let cases = [
        ("gpufleet.dead", "mine.dead"),
        (r"^gpufleet\.tasks", r"^mine\.tasks"),
        ("full", "mine.reply.full"),
        ("full.too", "full.too"),
        ("{own queue}", "{own queue}"),
    ];
    for (written, expected) in cases {
        assert_eq!(names.on_broker(written), expected);
    }
}
