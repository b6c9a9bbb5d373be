//! The kinds of a pool as they were a moment ago, for those who ask with every submit: to show them, and to check payloads before they travel.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use protocol::{DescribedKind, Json, Kind, KindView, PayloadSchema, PoolName, Refusal, TaskBody, gpu::GpuView};
use tokio::time::{Instant, timeout};

use crate::{GpuTable, TableError};

/// The kinds of a pool at one moment, and the schemas that their payloads are checked against.
#[derive(Debug, Default)]
pub struct KnownKinds {
    kinds: Vec<KindView>,
    down: BTreeMap<Kind, String>,
    checks: BTreeMap<Kind, Arc<Check>>,
}

/// A kind's schema, compiled when the first payload of it comes. `None`: it cannot be, and payloads are left to the workers.
#[derive(Debug)]
struct Check {
    schema: Json,
    compiled: OnceLock<Option<PayloadSchema>>,
}

impl KnownKinds {
    /// Looks at the table.
    ///
    /// # Errors
    /// Those of [`GpuTable`].
    pub async fn look(table: &dyn GpuTable, pool: &PoolName) -> Result<Self, TableError> {
        let (gpus, described) = seen(table, pool).await?;
        Ok(Self::of(&gpus, described, &Self::default()))
    }

    /// What is compiled already for `before` is kept, as far as the schemas are the same.
    fn of(gpus: &[GpuView], described: Vec<DescribedKind>, before: &Self) -> Self {
        let kinds = KindView::all(gpus, described);
        let check = |view: &KindView| {
            // While workers of several versions serve a kind, each decides for itself.
            let schema = view.schema.clone().filter(|_| !view.differs)?;
            let known = before.checks.get(&view.kind).filter(|known| known.schema == schema).cloned();
            Some((view.kind.clone(), known.unwrap_or_else(|| Arc::new(Check { schema, compiled: OnceLock::new() }))))
        };
        let checks = kinds.iter().filter_map(check).collect();
        Self { kinds, down: down_everywhere(gpus), checks }
    }

    /// The kinds that workers have and none of them can run now, each with the reason of one of them.
    #[must_use]
    pub const fn down(&self) -> &BTreeMap<Kind, String> {
        &self.down
    }

    /// Every kind that a living GPU has or that was described lately, sorted.
    #[must_use]
    pub fn kinds(&self) -> &[KindView] {
        &self.kinds
    }

    /// Checks the payload of a task, or its items, against its kind's schema, where one is known. See [`PayloadSchema::check_body`] for what is not looked into.
    ///
    /// # Errors
    /// A [`Refusal`] that names the field: `payload.text`, `items[3].text`.
    pub fn check(&self, kind: &Kind, body: &TaskBody) -> Result<(), Refusal> {
        let Some(check) = self.checks.get(kind) else { return Ok(()) };
        let compiled = check.compiled.get_or_init(|| PayloadSchema::compile(&check.schema).ok());
        compiled.as_ref().map_or(Ok(()), |schema| schema.check_body(body))
    }
}

fn down_everywhere(gpus: &[GpuView]) -> BTreeMap<Kind, String> {
    let mut down: BTreeMap<Kind, String> = gpus.iter().flat_map(|gpu| gpu.row.kinds_down.clone()).collect();
    for kind in gpus.iter().flat_map(|gpu| &gpu.row.kinds) {
        down.remove(kind);
    }
    down
}

async fn seen(table: &dyn GpuTable, pool: &PoolName) -> Result<(Vec<GpuView>, Vec<DescribedKind>), TableError> {
    let gpus = table.rows(pool).await?;
    Ok((gpus, table.kinds(pool).await?))
}

/// What is known of a pool's kinds, renewed beside those who ask.
pub struct KindsView(Arc<Shared>);

struct Shared {
    table: Arc<dyn GpuTable>,
    pool: PoolName,
    state: Mutex<State>,
    /// Held by who asks the table.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    known: Arc<KnownKinds>,
    /// When the table was asked last; it may not have answered.
    asked: Option<Instant>,
    /// When what is known was asked for.
    as_of: Option<Instant>,
}

impl KindsView {
    /// How old what is known may be before it is asked for again.
    pub const AGE_MAX: Duration = Duration::from_secs(5);
    /// As how new a view is good that must be new.
    pub const NEW: Duration = Duration::from_secs(1);
    /// How long who needs a new view waits for it, where an old one will do as well.
    const PATIENCE: Duration = Duration::from_millis(500);

    /// A view that has asked nobody yet.
    #[must_use]
    pub fn new(table: Arc<dyn GpuTable>, pool: PoolName) -> Self {
        Self(Arc::new(Shared { table, pool, state: Mutex::default(), asking: tokio::sync::Mutex::default() }))
    }

    /// What is known now, without any wait: nothing, before the table has answered once. Where that is old, the table is asked in passing. Needs a tokio runtime.
    #[must_use]
    pub fn now(&self) -> Arc<KnownKinds> {
        let known = {
            let mut state = self.0.state();
            if state.asked.is_some_and(|asked| asked.elapsed() < Self::AGE_MAX) {
                return Arc::clone(&state.known);
            }
            state.asked = Some(Instant::now());
            Arc::clone(&state.known)
        };
        let shared = Arc::clone(&self.0);
        tokio::spawn(async move { drop(shared.renewed(Duration::ZERO).await) });
        known
    }

    /// What was known at most [`KindsView::NEW`] ago. Who asks at the same time waits for the same answer.
    ///
    /// # Errors
    /// Those of [`GpuTable`].
    pub async fn new_enough(&self) -> Result<Arc<KnownKinds>, TableError> {
        self.0.renewed(Self::NEW).await
    }

    /// As [`KindsView::new_enough`]; what is known, however old, where the table does not answer within half a second.
    pub async fn soon(&self) -> Arc<KnownKinds> {
        match timeout(Self::PATIENCE, self.new_enough()).await {
            Ok(Ok(known)) => known,
            Ok(Err(_)) | Err(_) => Arc::clone(&self.0.state().known),
        }
    }

    /// As [`KindsView::now`]; but where the table was never asked, or a moment ago for the first time, what it answers within half a second: else the first payloads would be taken whatever they are.
    async fn first(&self) -> Arc<KnownKinds> {
        let is_first = {
            let state = self.0.state();
            state.as_of.is_none() && state.asked.is_none_or(|asked| asked.elapsed() < Self::PATIENCE)
        };
        if is_first { self.soon().await } else { self.now() }
    }

    /// Checks the payload of a task, or its items, by what is known. Whoever is refused is refused by what the table says now: a view may be older than a new version of a handler. Where it does not answer
    /// nobody is refused.
    ///
    /// # Errors
    /// As [`KnownKinds::check`].
    pub async fn check(&self, kind: &Kind, body: &TaskBody) -> Result<(), Refusal> {
        if self.first().await.check(kind, body).is_ok() {
            return Ok(());
        }
        match timeout(Self::PATIENCE, self.new_enough()).await {
            Ok(Ok(known)) => known.check(kind, body),
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known, asked for anew if it is as old as this.
    async fn renewed(&self, age: Duration) -> Result<Arc<KnownKinds>, TableError> {
        let wanted = Instant::now();
        let _alone = self.asking.lock().await;
        {
            let state = self.state();
            // One that somebody else asked for after this call is new enough for any.
            if state.as_of.is_some_and(|as_of| as_of > wanted || as_of.elapsed() < age) {
                return Ok(Arc::clone(&state.known));
            }
        }
        let began = Instant::now();
        self.state().asked = Some(began);
        let (gpus, described) = seen(&*self.table, &self.pool).await?;
        let mut state = self.state();
        state.known = Arc::new(KnownKinds::of(&gpus, described, &state.known));
        state.as_of = Some(began);
        Ok(Arc::clone(&state.known))
    }
}

impl fmt::Debug for KindsView {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KindsView").field("pool", &self.0.pool).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use protocol::{KindDescription, environment::Clock};

    use super::*;
    use crate::{Leases, MemoryTable};

    struct StandingClock;

    impl Clock for StandingClock {
        fn now_us(&self) -> u64 {
            1_700_000_000_000_000
        }
    }

    fn view() -> (Arc<MemoryTable>, KindsView) {
        let leases = Leases { held: Duration::from_secs(6), offered: Duration::from_secs(3) };
        let table = Arc::new(MemoryTable::new(Arc::new(StandingClock), leases));
        let view = KindsView::new(table.clone(), PoolName::default());
        (table, view)
    }

    fn embed() -> Kind {
        "embed".parse().expect("a kind")
    }

    async fn describe(table: &MemoryTable, schema: &'static str) {
        let schema = Some(Json::parse(schema).expect("JSON"));
        let description = KindDescription { kind: embed(), about: String::new(), schema, batch_largest: None };
        table.describe_kinds(&PoolName::default(), &[description]).await.expect("told");
    }

    fn body(payload: &'static str) -> TaskBody {
        TaskBody { payload: Json::parse(payload).expect("JSON"), ..TaskBody::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_is_given_without_a_wait_and_renewed_in_passing() {
        let (table, view) = view();
        describe(&table, r#"{"type": "string"}"#).await;
        assert!(view.now().kinds().is_empty(), "nobody has asked yet");
        // Lets the job run that asks.
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(view.now().kinds().len(), 1);
        assert!(view.check(&embed(), &body("5")).await.is_err());
        table.clear();
        assert_eq!(view.now().kinds().len(), 1, "it is as it was a moment ago");
        tokio::time::advance(KindsView::AGE_MAX).await;
        assert_eq!(view.now().kinds().len(), 1, "nobody waits");
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(view.now().kinds().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_payload_is_checked_as_all_others_are() {
        let (table, view) = view();
        describe(&table, r#"{"type": "string"}"#).await;
        assert_eq!(view.check(&embed(), &body("5")).await.expect_err("it is no text").field, "payload");
        assert_eq!(view.check(&embed(), &body(r#""text""#)).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_refused_by_a_schema_that_is_not_the_tables_any_more() {
        let (table, view) = view();
        describe(&table, r#"{"type": "string"}"#).await;
        assert_eq!(view.new_enough().await.expect("memory answers").kinds().len(), 1);
        let refused = view.check(&embed(), &body(r#"{"a": 1}"#)).await.expect_err("it is no text");
        assert_eq!(refused.field, "payload");
        table.clear();
        describe(&table, r#"{"type": "object"}"#).await;
        tokio::time::advance(KindsView::NEW).await;
        assert_eq!(view.check(&embed(), &body(r#"{"a": 1}"#)).await, Ok(()));
        assert!(view.check(&embed(), &body("5")).await.is_err(), "the new one counts at once");
    }

    #[tokio::test(start_paused = true)]
    async fn while_versions_differ_and_where_a_schema_is_none_nobody_is_refused() {
        let (table, view) = view();
        describe(&table, r#"{"type": "string"}"#).await;
        describe(&table, r#"{"type": "object"}"#).await;
        let known = view.new_enough().await.expect("memory answers");
        assert!(known.kinds()[0].differs);
        assert_eq!(known.check(&embed(), &body("5")), Ok(()));
        table.clear();
        describe(&table, r#"{"type": "sting"}"#).await;
        tokio::time::advance(KindsView::NEW).await;
        assert_eq!(view.new_enough().await.expect("memory answers").check(&embed(), &body("5")), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_schema_is_compiled_once() {
        let (table, view) = view();
        describe(&table, r#"{"type": "string"}"#).await;
        let first = view.new_enough().await.expect("memory answers");
        assert!(first.check(&embed(), &body("5")).is_err());
        tokio::time::advance(KindsView::NEW).await;
        let second = view.new_enough().await.expect("memory answers");
        assert!(!Arc::ptr_eq(&first, &second) && Arc::ptr_eq(&first.checks[&embed()], &second.checks[&embed()]));
    }
}
