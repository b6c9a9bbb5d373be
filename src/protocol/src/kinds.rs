//! The kinds that a fleet serves: what workers say of them, and what people are shown.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BodyHash, GpuId, Json, Kind, gpu::GpuView};

/// What a worker says of a kind that it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KindDescription {
    /// The kind.
    pub kind: Kind,
    /// What it does, in a sentence for people; at most [`KindDescription::ABOUT_MAX`] characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// The JSON Schema of its payload, at most [`KindDescription::SCHEMA_BYTES_MAX`] long. Absent: none is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Json>,
    /// Most payloads that run together. Absent: each runs by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_largest: Option<u32>,
}

impl KindDescription {
    /// The longest schema that the table keeps, in bytes.
    pub const SCHEMA_BYTES_MAX: usize = 64 << 10;
    /// The longest sentence, in characters.
    pub const ABOUT_MAX: usize = 500;

    /// Tells this description of the kind from another one: the same text has the same version, whoever wrote it.
    #[must_use]
    pub fn version(&self) -> String {
        BodyHash::of(Json::of(self).as_bytes()).as_str().to_owned()
    }
}

/// A kind as the table knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedKind {
    /// Of the descriptions that workers told lately, the one that came up last.
    pub description: KindDescription,
    /// Whether there are others: workers of several versions serve the pool.
    pub differs: bool,
}

/// What a run of a kind takes, over the GPUs that have run it lately.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunTime {
    /// On the fastest of them, in ms.
    pub smallest: f64,
    /// On the middle one of them, in ms.
    pub median: f64,
}

/// A kind as people see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KindView {
    /// The kind.
    pub kind: Kind,
    /// What it does. Empty where no worker says it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// The JSON Schema of its payload, where one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Json>,
    /// The GPUs that serve it now, by id.
    pub gpus: Vec<GpuId>,
    /// The living GPUs whose workers have it and do not serve it now, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gpus_down: BTreeMap<GpuId, String>,
    /// What a run took lately; absent where none of its GPUs has run it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_ms: Option<RunTime>,
    /// Most payloads that run together. Absent: each runs by itself, or it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_largest: Option<u32>,
    /// Whether workers describe it differently, since they are of several versions: what is shown here is the description that came up last.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub differs: bool,
}

impl KindView {
    /// Every kind that a living GPU has or that was described lately, sorted.
    #[must_use]
    pub fn all(gpus: &[GpuView], described: Vec<DescribedKind>) -> Vec<Self> {
        let mut described: BTreeMap<Kind, DescribedKind> =
            described.into_iter().map(|known| (known.description.kind.clone(), known)).collect();
        let had = gpus.iter().flat_map(|gpu| gpu.row.kinds.iter().chain(gpu.row.kinds_down.keys()));
        let kinds: BTreeSet<Kind> = had.chain(described.keys()).cloned().collect();
        kinds.into_iter().map(|kind| Self::of(described.remove(&kind), kind, gpus)).collect()
    }

    fn of(described: Option<DescribedKind>, kind: Kind, gpus: &[GpuView]) -> Self {
        let (mut serving, mut down, mut times) = (Vec::new(), BTreeMap::new(), Vec::new());
        for gpu in gpus {
            let gpu_id = &gpu.row.gpu.gpu_id;
            match serves(gpu, &kind) {
                Some(Ok(())) => serving.push(gpu_id.clone()),
                Some(Err(why)) => drop(down.insert(gpu_id.clone(), why)),
                None => continue,
            }
            times.extend(gpu.row.run_ms.get(&kind).copied());
        }
        let (about, schema, batch_largest, differs) = match described {
            Some(DescribedKind { description, differs }) => (description.about, description.schema, description.batch_largest, differs),
            None => (String::new(), None, None, false),
        };
        Self { kind, about, schema, gpus: serving, gpus_down: down, run_ms: run_time(times), batch_largest, differs }
    }
}

/// Whether a GPU serves a kind now, or why not; `None` where its worker does not have it.
fn serves(gpu: &GpuView, kind: &Kind) -> Option<Result<(), String>> {
    let row = &gpu.row;
    if let Some(why) = row.kinds_down.get(kind) {
        return Some(Err(why.clone()));
    }
    if !row.kinds.contains(kind) {
        return None;
    }
    let why = match row {
        _ if row.stopping => "its worker is stopping".to_owned(),
        _ if gpu.draining => "it drains".to_owned(),
        _ if !row.consuming => "its worker starts, or does not reach the broker".to_owned(),
        _ if !row.health.takes_tasks() && row.health_reason.is_empty() => row.health.name().to_owned(),
        _ if !row.health.takes_tasks() => format!("{}: {}", row.health.name(), row.health_reason),
        _ => return Some(Ok(())),
    };
    Some(Err(why))
}

fn run_time(mut times: Vec<f64>) -> Option<RunTime> {
    times.sort_unstable_by(f64::total_cmp);
    Some(RunTime { smallest: *times.first()?, median: times[times.len() / 2] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GpuDescription, GpuRow, GpuSample, Health, Incarnation, PoolName, gpu::Hardware, task::ComputeCapability};

    fn kind(name: &str) -> Kind {
        Kind::new(name).unwrap()
    }

    fn gpu(name: &str, kinds: &[&str], change: impl FnOnce(&mut GpuView)) -> GpuView {
        let row = GpuRow {
            gpu: GpuDescription {
                gpu_id: GpuId::new(name).unwrap(),
                name: "a GPU".to_owned(),
                memory_total_mb: 80_000,
                compute_capability: ComputeCapability { major: 9, minor: 0 },
                hardware: Hardware::default(),
            },
            sample: GpuSample::default(),
            pool: PoolName::default(),
            incarnation: Incarnation::new("i").unwrap(),
            host: "host".to_owned(),
            slots: 1,
            health: Health::Healthy,
            health_reason: String::new(),
            consuming: true,
            stopping: false,
            kinds: kinds.iter().map(|name| kind(name)).collect(),
            models: Vec::new(),
            foreign_utilization_percent: 0.0,
            waiting: 0,
            running: Vec::new(),
            item_ms: BTreeMap::new(),
            kinds_down: BTreeMap::new(),
            run_ms: BTreeMap::new(),
            model_state: crate::gpu::ModelState::default(),
            data: crate::DataState::default(),
            servers: Default::default(),
            emptied: false,
        };
        let mut view = GpuView { row, held: 0, draining: false, eligible: true, expires_in_ms: 5_000, phase: Default::default() };
        change(&mut view);
        view
    }

    fn described(name: &str, about: &str) -> DescribedKind {
        let description = KindDescription {
            kind: kind(name),
            about: about.to_owned(),
            schema: Some(Json::parse(r#"{"type": "string"}"#).unwrap()),
            batch_largest: Some(8),
        };
        DescribedKind { description, differs: false }
    }

    #[test]
    fn a_kind_is_shown_with_the_gpus_that_serve_it_and_why_others_do_not() {
        let gpus = [
            gpu("a", &["echo", "embed"], |_| {}),
            gpu("b", &["echo"], |gpu| drop(gpu.row.kinds_down.insert(kind("embed"), "its handler starts".to_owned()))),
            gpu("c", &["echo"], |gpu| gpu.draining = true),
            gpu("d", &["echo"], |gpu| (gpu.row.health, gpu.row.health_reason) = (Health::Quarantined, "Xid 79".to_owned())),
            gpu("e", &["echo"], |gpu| gpu.row.stopping = true),
            gpu("f", &["echo"], |gpu| gpu.row.consuming = false),
        ];
        let views = KindView::all(&gpus, vec![described("embed", "vectors of texts")]);
        let [echo, embed] = views.as_slice() else { panic!("two kinds: {views:?}") };
        assert_eq!((echo.kind.as_str(), echo.gpus.as_slice()), ("echo", [GpuId::new("a").unwrap(), GpuId::new("b").unwrap()].as_slice()));
        let why: Vec<&str> = echo.gpus_down.values().map(String::as_str).collect();
        assert_eq!(why, ["it drains", "quarantined: Xid 79", "its worker is stopping", "its worker starts, or does not reach the broker"]);
        assert_eq!((embed.about.as_str(), embed.gpus.len(), embed.batch_largest), ("vectors of texts", 1, Some(8)));
        assert_eq!(embed.gpus_down.get(&GpuId::new("b").unwrap()).map(String::as_str), Some("its handler starts"));
    }

    #[test]
    fn a_kind_that_was_described_and_that_no_living_gpu_has_is_shown_without_gpus() {
        let views = KindView::all(&[gpu("a", &["echo"], |_| {})], vec![described("embed", "")]);
        assert_eq!(views.iter().map(|view| (view.kind.as_str(), view.gpus.len())).collect::<Vec<_>>(), [("echo", 1), ("embed", 0)]);
    }

    #[test]
    fn the_run_time_is_that_of_the_fastest_and_of_the_middle_gpu() {
        let with = |name: &str, ms: f64| gpu(name, &["echo"], |gpu| gpu.row.run_ms = BTreeMap::from([(kind("echo"), ms)]));
        let views = KindView::all(&[with("a", 9.0), with("b", 2.5), with("c", 4.0), gpu("d", &["echo"], |_| {})], Vec::new());
        assert_eq!(views[0].run_ms, Some(RunTime { smallest: 2.5, median: 4.0 }));
        assert_eq!(KindView::all(&[gpu("d", &["echo"], |_| {})], Vec::new())[0].run_ms, None);
    }

    #[test]
    fn a_view_comes_back_from_its_text() {
        let gpus = [gpu("a", &["embed"], |gpu| gpu.row.run_ms = BTreeMap::from([(kind("embed"), 1.25)]))];
        let view = KindView::all(&gpus, vec![DescribedKind { differs: true, ..described("embed", "vectors") }]).remove(0);
        let text = serde_json::to_string(&view).unwrap();
        assert!(text.contains(r#""schema":{"type": "string"}"#) && text.contains(r#""differs":true"#), "{text}");
        assert_eq!(serde_json::from_str::<KindView>(&text).unwrap(), view);
    }

    #[test]
    fn descriptions_have_the_same_version_only_if_they_say_the_same() {
        let one = described("embed", "vectors").description;
        assert_eq!(one.version(), one.clone().version());
        assert_ne!(one.version(), described("embed", "vectors of texts").description.version());
        assert_ne!(one.version(), KindDescription { schema: None, ..one.clone() }.version());
    }
}
