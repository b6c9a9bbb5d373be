//! What the kinds do that this worker has, told to the table: at the first heartbeat, when it changes, and again from time to time, since the table may be emptied at any time.
//!
//! A duty of its own, so that a table that is slow to take long schemas holds up no heartbeat.

use std::sync::Arc;

use executors::{Executor, Executors};
use protocol::{Kind, KindDescription};

use crate::{
    context::{Context, Gpu},
    me::{Me, Signals},
    ports::Ports,
};

/// How many heartbeats pass between two tellings: a third of the time that the table remembers one.
const TELL_EVERY: u64 = 10;

/// What tells.
pub(crate) struct Describer {
    ports: Ports,
    me: Arc<Me>,
    gpu: Arc<Gpu>,
    signals: Arc<Signals>,
    /// What the table was told last.
    told: Vec<KindDescription>,
    /// The heartbeat at which it is told again, whatever it was told.
    due: u64,
    /// The kinds whose schema is too long, as the log was told.
    too_long: Vec<Kind>,
}

impl Describer {
    pub(crate) fn of(context: &Context) -> Self {
        Self {
            ports: context.ports.clone(),
            me: Arc::clone(&context.me),
            gpu: Arc::clone(&context.gpu),
            signals: Arc::clone(&context.signals),
            told: Vec::new(),
            due: 0,
            too_long: Vec::new(),
        }
    }

    /// Looks after each heartbeat, as long as there are any.
    pub(crate) async fn run(mut self) {
        let mut seen = 0;
        loop {
            tokio::select! {
                biased;
                () = self.signals.last_beat.cancelled() => return,
                () = self.signals.beats.above(seen) => {}
            }
            seen = self.signals.beats.now();
            self.tell(seen).await;
        }
    }

    async fn tell(&mut self, beat: u64) {
        let (kinds, too_long) = descriptions(&self.gpu.executors);
        if too_long != self.too_long {
            for kind in &too_long {
                tracing::warn!(%kind, bytes_max = KindDescription::SCHEMA_BYTES_MAX, "the schema of this kind is too long for the table; it is shown without one");
            }
            self.too_long = too_long;
        }
        if kinds.is_empty() || (kinds == self.told && beat < self.due) {
            return;
        }
        match self.ports.table.describe_kinds(&self.me.options.pool, &kinds).await {
            Ok(()) => (self.told, self.due) = (kinds, beat + TELL_EVERY),
            // The next heartbeat that the table takes tries again.
            Err(error) => tracing::debug!(%error, "the kinds are not described"),
        }
    }
}

/// What the kinds do, and those whose schema is too long to be told.
fn descriptions(executors: &Executors) -> (Vec<KindDescription>, Vec<Kind>) {
    let mut too_long = Vec::new();
    // A program that has not said yet what it does would seem to differ from those that have.
    let described = executors.iter().filter(|(_, executor)| executor.is_described()).map(|(kind, executor)| {
        let (description, fits) = description(kind, executor.as_ref());
        if !fits {
            too_long.push(kind.clone());
        }
        description
    });
    let kinds = described.collect();
    (kinds, too_long)
}

/// What a kind does, and whether its schema has its place there.
fn description(kind: &Kind, executor: &dyn Executor) -> (KindDescription, bool) {
    let schema = executor.schema();
    let fits = schema.as_ref().is_none_or(|schema| schema.as_bytes().len() <= KindDescription::SCHEMA_BYTES_MAX);
    let about = executor.about().chars().take(KindDescription::ABOUT_MAX).collect();
    let batch_largest = executor.together_max().map(|largest| u32::try_from(largest).unwrap_or(u32::MAX));
    (KindDescription { kind: kind.clone(), about, schema: schema.filter(|_| fits), batch_largest }, fits)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use executors::{Batching, Failure, Run};
    use protocol::{Framed, Json};

    use super::*;

    /// A kind that says this of itself.
    struct Says {
        about: String,
        schema: Option<Json>,
        batching: Option<Batching>,
        is_described: bool,
    }

    impl Default for Says {
        fn default() -> Self {
            Self { about: String::new(), schema: None, batching: None, is_described: true }
        }
    }

    #[async_trait]
    impl Executor for Says {
        fn kind(&self) -> Kind {
            Kind::new("says").unwrap()
        }

        async fn run(&self, _run: Run<'_>) -> Result<Framed, Failure> {
            Ok(Json::null().into())
        }

        fn about(&self) -> String {
            self.about.clone()
        }

        fn schema(&self) -> Option<Json> {
            self.schema.clone()
        }

        fn batching(&self) -> Option<Batching> {
            self.batching
        }

        fn is_described(&self) -> bool {
            self.is_described
        }
    }

    fn described(says: Says) -> (KindDescription, usize) {
        let (mut kinds, too_long) = descriptions(&Executors::new().with(Arc::new(says)));
        (kinds.remove(0), too_long.len())
    }

    #[test]
    fn a_kind_is_described_as_its_executor_says() {
        let schema = Json::parse(r#"{"type": "string"}"#).unwrap();
        let says =
            Says { about: "a sentence".to_owned(), schema: Some(schema.clone()), batching: Some(Batching::up_to(8)), ..Says::default() };
        let (description, too_long) = described(says);
        let expected = KindDescription {
            kind: Kind::new("says").unwrap(),
            about: "a sentence".to_owned(),
            schema: Some(schema),
            batch_largest: Some(8),
        };
        assert_eq!((description, too_long), (expected, 0));
    }

    #[test]
    fn what_is_too_long_for_the_table_is_left_out() {
        let long = Json::of(&"x".repeat(KindDescription::SCHEMA_BYTES_MAX));
        let (description, too_long) = described(Says { about: "é".repeat(600), schema: Some(long), ..Says::default() });
        assert_eq!((description.schema, too_long), (None, 1));
        assert_eq!(description.about.chars().count(), KindDescription::ABOUT_MAX);
    }

    #[test]
    fn a_kind_that_has_not_said_yet_what_it_does_is_not_described() {
        let says = Says { batching: Some(Batching::up_to(1024)), is_described: false, ..Says::default() };
        assert_eq!(descriptions(&Executors::new().with(Arc::new(says))), (Vec::new(), Vec::new()));
    }
}
