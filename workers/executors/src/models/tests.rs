//! The cache, with a source whose loads the test ends.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use devices::{Device, SimulatedGpu, SimulatedOptions};
use tokio::sync::Semaphore;

use super::*;
use crate::Failure;

/// Models of 100 MB, or of what `sizes` says.
struct Source {
    /// A load ends when it gets one.
    ends: Semaphore,
    began: AtomicU64,
    fails: Mutex<Option<Failure>>,
    sizes: BTreeMap<String, u64>,
    /// What a load finds out that it takes, where that is not what was expected.
    found: BTreeMap<String, u64>,
    panics: bool,
    is_on_host: bool,
}

impl Source {
    fn free_running() -> Self {
        Self {
            ends: Semaphore::new(1_000),
            began: AtomicU64::new(0),
            fails: Mutex::default(),
            sizes: BTreeMap::new(),
            found: BTreeMap::new(),
            panics: false,
            is_on_host: false,
        }
    }

    /// Its loads wait to be let go.
    fn held_up() -> Self {
        Self { ends: Semaphore::new(0), ..Self::free_running() }
    }

    fn expected_mb(&self, name: &str) -> u64 {
        self.sizes.get(name).copied().unwrap_or(100)
    }

    fn began(&self) -> u64 {
        self.began.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl ModelSource for Source {
    /// The number of its load.
    type Model = u64;

    fn name(&self) -> &'static str {
        "test"
    }

    async fn load(&self, name: &str) -> Result<Loaded<u64>, Failure> {
        let number = self.began.fetch_add(1, Ordering::SeqCst) + 1;
        self.ends.acquire().await.expect("it is not closed").forget();
        assert!(!self.panics, "as the test wants it");
        match self.fails.lock().unwrap().take() {
            Some(failure) => Err(failure),
            None => Ok(Loaded { model: number, memory_mb: self.found.get(name).copied().unwrap_or_else(|| self.expected_mb(name)) }),
        }
    }

    fn list(&self) -> Vec<ListedModel> {
        ["a", "b"].map(|name| ListedModel { name: name.to_owned(), version: "1".to_owned() }).to_vec()
    }

    async fn memory_mb(&self, name: &str) -> u64 {
        self.expected_mb(name)
    }

    fn is_on_device(&self) -> bool {
        !self.is_on_host
    }
}

/// A cache and a GPU of 1,000 MB, of which models may take 250.
struct Bench {
    cache: Arc<ModelCache>,
    source: Arc<Source>,
    device: Arc<dyn Device>,
}

impl Bench {
    fn of(source: Source) -> Self {
        Self::bounded(source, ModelBounds { memory_mb: Some(250), ..ModelBounds::default() })
    }

    fn bounded(source: Source, bounds: ModelBounds) -> Self {
        let device: Arc<dyn Device> = Arc::new(SimulatedGpu::new(SimulatedOptions { memory_mb: 1_000, ..SimulatedOptions::default() }));
        Self { cache: Arc::new(ModelCache::new(bounds)), source: Arc::new(source), device }
    }

    async fn get(&self, name: &str) -> Result<InUse<u64>, Failure> {
        self.cache.get(&self.source, name, &self.device).await
    }

    /// Wants a model in a job of its own.
    fn wants(&self, name: &str) -> tokio::task::JoinHandle<Result<u64, Failure>> {
        let (cache, source, device, name) = (Arc::clone(&self.cache), Arc::clone(&self.source), Arc::clone(&self.device), name.to_owned());
        tokio::spawn(async move { cache.get(&source, &name, &device).await.map(|model| *model) })
    }

    fn loaded(&self) -> Vec<String> {
        self.cache.models_of("test")
    }

    fn used_mb(&self) -> u64 {
        self.device.sample().memory_used_mb
    }
}

/// Lets every job run until it waits for something.
async fn settled() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn many_that_want_the_same_cold_model_load_it_once() {
    let bench = Bench::of(Source::held_up());
    let waiting: Vec<_> = (0..20).map(|_| bench.wants("a")).collect();
    settled().await;
    assert_eq!(bench.source.began(), 1);
    bench.source.ends.add_permits(1);
    for waited in waiting {
        assert_eq!(waited.await.unwrap(), Ok(1), "all have the same one");
    }
    assert_eq!(*bench.get("a").await.unwrap(), 1);
    let counts = bench.cache.counts();
    assert_eq!((counts.hits, counts.misses, counts.loads, bench.source.began()), (1, 20, 1, 1));
    assert_eq!((counts.memory_mb, bench.used_mb()), (100, 100), "the GPU's memory is taken once");
}

#[tokio::test(start_paused = true)]
async fn what_was_used_longest_ago_makes_room() {
    let bench = Bench::of(Source::free_running());
    drop(bench.get("a").await.unwrap());
    drop(bench.get("b").await.unwrap());
    drop(bench.get("a").await.unwrap());
    drop(bench.get("c").await.unwrap());
    assert_eq!((bench.loaded(), bench.cache.counts().evictions, bench.used_mb()), (vec!["a".to_owned(), "c".to_owned()], 1, 200));
}

#[tokio::test(start_paused = true)]
async fn a_model_in_use_is_never_evicted_and_what_needs_its_room_waits() {
    let bench = Bench::of(Source::free_running());
    let (a, b) = (bench.get("a").await.unwrap(), bench.get("b").await.unwrap());
    assert!(!bench.cache.evict(), "both are in use");
    let waiting = bench.wants("c");
    settled().await;
    assert_eq!((bench.loaded().len(), bench.source.began(), waiting.is_finished()), (2, 2, false));
    drop(b);
    assert_eq!(waiting.await.unwrap(), Ok(3));
    assert_eq!((*a, bench.loaded()), (1, vec!["a".to_owned(), "c".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn where_everything_is_in_use_for_too_long_it_is_out_of_memory() {
    let bench = Bench::of(Source::free_running());
    let _both = (bench.get("a").await.unwrap(), bench.get("b").await.unwrap());
    let failure = bench.get("c").await.unwrap_err();
    assert_eq!((failure.code.as_str(), failure.retry, failure.memory_mb), ("out_of_memory", true, Some(100)));
    assert!(failure.message.contains("model c needs 100 MB of the 250 MB that models may take"), "{}", failure.message);
    assert_eq!((bench.source.began(), bench.cache.counts().memory_mb), (2, 200), "nothing was loaded, and nothing is kept for it");
}

#[tokio::test(start_paused = true)]
async fn a_model_that_can_never_fit_evicts_nothing() {
    let bench = Bench::of(Source { sizes: BTreeMap::from([("big".to_owned(), 251)]), ..Source::free_running() });
    drop(bench.get("a").await.unwrap());
    assert_eq!(bench.get("big").await.unwrap_err().code, "out_of_memory");
    assert_eq!((bench.loaded(), bench.source.began()), (vec!["a".to_owned()], 1));
}

#[tokio::test(start_paused = true)]
async fn a_model_that_cannot_fit_beside_what_is_pinned_or_in_use_evicts_nothing() {
    let bench = Bench::of(Source { sizes: BTreeMap::from([("big".to_owned(), 200)]), ..Source::free_running() });
    bench.cache.pin("test", "a");
    let a = bench.get("a").await.unwrap();
    drop(bench.get("b").await.unwrap());
    assert_eq!(bench.get("big").await.unwrap_err().code, "out_of_memory", "after a while, since one is in use");
    drop(a);
    assert_eq!(bench.get("big").await.unwrap_err().code, "out_of_memory");
    assert_eq!((bench.loaded(), bench.cache.counts().evictions, bench.source.began()), (vec!["a".to_owned(), "b".to_owned()], 0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_model_that_tasks_leave_no_room_for_evicts_nothing() {
    let bench = Bench::of(Source { sizes: BTreeMap::from([("big".to_owned(), 200)]), ..Source::free_running() });
    drop(bench.get("a").await.unwrap());
    let task = bench.device.begin(devices::Use { memory_mb: 800, compute_share: 0.1 }).unwrap();
    assert_eq!(bench.get("big").await.map(|model| *model), Ok(2), "with what is evicted it fits");
    assert!(bench.cache.forget("test", "big"));
    drop(bench.get("a").await.unwrap());
    let _more = bench.device.begin(devices::Use { memory_mb: 1, compute_share: 0.1 }).unwrap();
    assert_eq!(bench.get("big").await.unwrap_err().code, "out_of_memory");
    assert_eq!(bench.loaded(), ["a"]);
    drop(task);
}

#[tokio::test(start_paused = true)]
async fn what_lies_in_the_hosts_memory_is_none_that_the_gpu_could_free() {
    let bench = Bench::of(Source { is_on_host: true, ..Source::free_running() });
    drop(bench.get("a").await.unwrap());
    assert_eq!((bench.cache.counts().memory_mb, bench.used_mb(), bench.cache.evictable_mb()), (100, 0, 0));
    assert!(!bench.cache.evict(), "the GPU gains nothing by it");
    assert_eq!(bench.loaded(), ["a"]);
    drop(bench.get("b").await.unwrap());
    drop(bench.get("c").await.unwrap());
    assert_eq!(bench.loaded(), ["b", "c"], "they make room for each other");
}

#[tokio::test(start_paused = true)]
async fn a_replacement_that_does_not_fit_beside_the_old_model_leaves_it_in_place() {
    let bench = Bench::of(Source { sizes: BTreeMap::from([("a".to_owned(), 150)]), ..Source::free_running() });
    drop(bench.get("a").await.unwrap());
    let before = tokio::time::Instant::now();
    let failure = bench.cache.replace(&bench.source, "a", &bench.device).await.unwrap_err();
    assert_eq!((failure.code.as_str(), before.elapsed()), ("out_of_memory", std::time::Duration::ZERO), "waiting would change nothing");
    assert_eq!((*bench.get("a").await.unwrap(), bench.source.began(), bench.used_mb()), (1, 1, 150));
}

#[tokio::test(start_paused = true)]
async fn what_is_being_replaced_makes_no_room_for_others() {
    let bench = Bench::of(Source::held_up());
    bench.source.ends.add_permits(1);
    drop(bench.get("a").await.unwrap());
    let (cache, source, device) = (Arc::clone(&bench.cache), Arc::clone(&bench.source), Arc::clone(&bench.device));
    let replacing = tokio::spawn(async move { cache.replace(&source, "a", &device).await });
    settled().await;
    assert!(!bench.cache.evict() && bench.loaded() == ["a"]);
    *bench.source.fails.lock().unwrap() = Some(Failure::transient("not an ONNX file"));
    bench.source.ends.add_permits(1);
    replacing.await.unwrap().unwrap_err();
    assert_eq!((*bench.get("a").await.unwrap(), bench.used_mb()), (1, 100));
    assert!(bench.cache.evict(), "it is over");
}

#[tokio::test(start_paused = true)]
async fn a_pinned_model_stays() {
    let bench = Bench::of(Source::free_running());
    bench.cache.pin("test", "a");
    for name in ["a", "b", "c", "b"] {
        drop(bench.get(name).await.unwrap());
    }
    assert_eq!((bench.loaded(), bench.cache.evictable_mb()), (vec!["a".to_owned(), "b".to_owned()], 100));
    assert!(bench.cache.evict());
    assert_eq!(bench.loaded(), ["a"]);
    bench.cache.unpin("test", "a");
    assert!(bench.cache.evict());
    assert_eq!((bench.loaded().len(), bench.used_mb()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_failed_load_fails_those_that_waited_and_the_next_one_tries_again() {
    let bench = Bench::of(Source::held_up());
    *bench.source.fails.lock().unwrap() = Some(Failure::transient("the file is truncated"));
    let waiting = [bench.wants("a"), bench.wants("a")];
    settled().await;
    bench.source.ends.add_permits(1);
    for waited in waiting {
        assert_eq!(waited.await.unwrap().unwrap_err().message, "the file is truncated");
    }
    assert_eq!(bench.cache.errors()["a"], "the file is truncated");
    assert_eq!((bench.used_mb(), bench.cache.counts().load_failures), (0, 1));
    bench.source.ends.add_permits(1);
    assert_eq!(*bench.get("a").await.unwrap(), 2);
    assert!(bench.cache.errors().is_empty(), "that is over");
}

#[tokio::test(start_paused = true)]
async fn an_error_is_told_for_ten_minutes_and_a_payloads_mistake_never() {
    let bench = Bench::of(Source::free_running());
    let fails_with = |failure| *bench.source.fails.lock().unwrap() = Some(failure);
    fails_with(Failure::invalid("payload.model", "there is no model ../etc"));
    bench.get("../etc").await.unwrap_err();
    assert!(bench.cache.errors().is_empty());
    fails_with(Failure::transient("the file is truncated"));
    bench.get("a").await.unwrap_err();
    tokio::time::advance(std::time::Duration::from_secs(599)).await;
    assert_eq!(bench.cache.errors().len(), 1);
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    assert!(bench.cache.errors().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_load_that_breaks_off_fails_those_that_waited_and_blocks_nobody() {
    let mut bench = Bench::of(Source { panics: true, ..Source::free_running() });
    let failure = bench.get("a").await.unwrap_err();
    assert!(failure.retry && failure.message == "loading model a broke off", "{}", failure.message);
    assert_eq!((bench.used_mb(), bench.cache.counts().memory_mb), (0, 0));
    bench.source = Arc::new(Source::free_running());
    assert_eq!(*bench.get("a").await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_load_that_nobody_waits_for_any_more_is_kept() {
    let bench = Bench::of(Source::held_up());
    let waiting = bench.wants("a");
    settled().await;
    waiting.abort();
    settled().await;
    bench.source.ends.add_permits(1);
    settled().await;
    assert_eq!(bench.loaded(), ["a"]);
    assert_eq!((*bench.get("a").await.unwrap(), bench.source.began()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn memory_that_a_model_turns_out_to_need_is_taken_and_what_it_does_not_is_given_back() {
    let found = BTreeMap::from([("more".to_owned(), 180), ("less".to_owned(), 30)]);
    let bench = Bench::of(Source { found, ..Source::free_running() });
    drop(bench.get("a").await.unwrap());
    drop(bench.get("less").await.unwrap());
    assert_eq!((bench.cache.counts().memory_mb, bench.used_mb()), (130, 130));
    drop(bench.get("more").await.unwrap());
    assert_eq!((bench.loaded(), bench.used_mb()), (vec!["less".to_owned(), "more".to_owned()], 210), "the oldest made room");
}

#[tokio::test(start_paused = true)]
async fn a_model_that_turns_out_to_be_too_large_is_not_kept() {
    let bench = Bench::of(Source { found: BTreeMap::from([("a".to_owned(), 251)]), ..Source::free_running() });
    assert_eq!(bench.get("a").await.unwrap_err().code, "out_of_memory");
    assert_eq!((bench.loaded().len(), bench.used_mb(), bench.cache.counts().memory_mb), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_memory_that_tasks_take_is_not_there_for_models() {
    let bench = Bench::bounded(Source::free_running(), ModelBounds { memory_share: 0.9, ..ModelBounds::default() });
    let task = bench.device.begin(devices::Use { memory_mb: 850, compute_share: 0.1 }).unwrap();
    drop(bench.get("a").await.unwrap());
    drop(bench.get("b").await.unwrap());
    assert_eq!(bench.loaded(), ["b"], "one at a time");
    drop(task);
    drop(bench.get("a").await.unwrap());
    assert_eq!(bench.loaded(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn who_uses_a_forgotten_model_goes_on_and_its_memory_is_free_after_the_last() {
    let bench = Bench::of(Source::free_running());
    let old = bench.get("a").await.unwrap();
    assert!(bench.cache.forget("test", "a") && !bench.cache.forget("test", "a"));
    let new = bench.get("a").await.unwrap();
    assert_eq!((*old, *new, bench.used_mb()), (1, 2, 200));
    drop(old);
    assert_eq!(bench.used_mb(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_replacement_that_cannot_be_loaded_leaves_the_old_model_in_place() {
    let bench = Bench::of(Source::free_running());
    drop(bench.get("a").await.unwrap());
    *bench.source.fails.lock().unwrap() = Some(Failure::transient("not an ONNX file"));
    let failed = bench.cache.replace(&bench.source, "a", &bench.device).await.unwrap_err();
    assert_eq!(failed.message, "not an ONNX file");
    assert_eq!((*bench.get("a").await.unwrap(), bench.cache.errors()["a"].as_str()), (1, "not an ONNX file"));
    bench.cache.replace(&bench.source, "a", &bench.device).await.unwrap();
    assert_eq!((*bench.get("a").await.unwrap(), bench.used_mb()), (3, 100));
}

#[tokio::test(start_paused = true)]
async fn a_kind_is_down_until_its_pinned_models_are_loaded() {
    let bounds = ModelBounds { pinned: vec!["a".to_owned(), "not of this source".to_owned()], ..ModelBounds::default() };
    let bench = Bench::bounded(Source::free_running(), bounds);
    let shelf = ShelfOf::new(Arc::clone(&bench.cache), Arc::clone(&bench.source));
    assert_eq!(bench.cache.is_warm("test"), Err("loading model a".to_owned()));
    assert_eq!(bench.cache.is_model_warm("test", "a"), Err("loading model a".to_owned()));
    assert_eq!((bench.cache.is_warm("another"), bench.cache.is_model_warm("test", "b")), (Ok(()), Ok(())), "they do not use it");
    *bench.source.fails.lock().unwrap() = Some(Failure::transient("the file is truncated"));
    shelf.load("a", &bench.device).await.unwrap_err();
    assert_eq!(bench.cache.is_warm("test"), Err("model a cannot be loaded: the file is truncated".to_owned()));
    shelf.load("a", &bench.device).await.unwrap();
    assert_eq!(bench.cache.is_warm("test"), Ok(()));
    assert!(!bench.cache.evict() && bench.cache.is_pinned("test", "a"));
}

#[tokio::test(start_paused = true)]
async fn it_tells_when_models_come_and_go() {
    let bench = Bench::of(Source::free_running());
    let told = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&told);
    bench.cache.on_change(Arc::new(move || _ = counting.fetch_add(1, Ordering::SeqCst)));
    drop(bench.get("a").await.unwrap());
    assert_eq!(told.load(Ordering::SeqCst), 1);
    drop(bench.get("a").await.unwrap());
    assert_eq!(told.load(Ordering::SeqCst), 1, "nothing has changed");
    bench.cache.evict();
    assert_eq!(told.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn it_learns_what_loads_take_and_says_who_uses_what() {
    let bench = Bench::of(Source::held_up());
    let waiting = bench.wants("a");
    settled().await;
    tokio::time::advance(std::time::Duration::from_millis(1_500)).await;
    bench.source.ends.add_permits(1);
    waiting.await.unwrap().unwrap();
    assert_eq!(bench.cache.load_ms()["a"], 1_500.0);
    tokio::time::advance(std::time::Duration::from_secs(7)).await;
    let details = bench.cache.details();
    assert_eq!((details[0].last_used_ms_ago, details[0].in_use, details[0].memory_mb), (7_000, false, 100));
    let _use = bench.get("a").await.unwrap();
    assert!(bench.cache.details()[0].in_use);
}
