//! `gpufleet models`: the models that GPUs keep between tasks, and operators' wishes for them.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use protocol::{
    FleetModels, GpuId, GpuModels, ModelAction, WishTaken,
    gpu::{LoadableModel, ModelDetails},
};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::{
    arguments::{Common, ModelsCommand, OneModel},
    fault::Fault,
    fleet::Fleet,
    gpus, output,
};

/// Between two looks whether a wish is done.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Shows the models, or takes a wish down and waits until it is done.
pub(crate) async fn run(common: &Common, command: &ModelsCommand) -> Result<ExitCode, Fault> {
    let fleet = Fleet::to_ask(common)?;
    match command {
        ModelsCommand::Ls => list(common, &fleet.models().await?),
        ModelsCommand::Load(one) => wish(common, &fleet, one, ModelAction::Load).await,
        ModelsCommand::Unload(one) => wish(common, &fleet, one, ModelAction::Unload).await,
        ModelsCommand::Pin(one) => wish(common, &fleet, one, ModelAction::Pin).await,
        ModelsCommand::Unpin(one) => wish(common, &fleet, one, ModelAction::Unpin).await,
    }
}

fn list(common: &Common, models: &FleetModels) -> Result<ExitCode, Fault> {
    if common.json {
        output::json(models)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = models.gpus.iter().flat_map(rows_of).chain(not_loaded(models)).collect();
    if rows.is_empty() {
        output::line(&format!("no GPU of the pool {} has a model in memory, or could load one", models.pool))?;
    } else {
        output::table(&["MODEL", "GPU", "KIND", "MEMORY MB", "STATE", "LAST USED", "LOAD S"], &rows)?;
    }
    for gpu in &models.gpus {
        for (model, why) in &gpu.errors {
            output::line(&format!("{model} on {}: {why}", gpu.gpu_id))?;
        }
    }
    for pin in models.pins_of_nobody() {
        output::line(&format!("{}: pinned, and no GPU of the pool has it; {}", pin.model, takes_back(&pin.model)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn takes_back(model: &str) -> String {
    format!("`gpufleet models unpin {model}` takes the pin back")
}

/// The models that GPUs could load and none has, a row for each.
fn not_loaded(models: &FleetModels) -> Vec<Vec<String>> {
    let is_loaded = |model: &LoadableModel| {
        let mut loaded = models.gpus.iter().flat_map(|gpu| &gpu.loaded);
        loaded.any(|loaded| loaded.name == model.name && loaded.source == model.source)
    };
    let mut places = BTreeMap::<(&str, &str, &str), Vec<&GpuId>>::new();
    for gpu in &models.gpus {
        for model in gpu.loadable.iter().filter(|model| !is_loaded(model)) {
            places.entry((model.name.as_str(), model.source.as_str(), model.version.as_str())).or_default().push(&gpu.gpu_id);
        }
    }
    let row = |((name, source, version), gpus): ((&str, &str, &str), Vec<&GpuId>)| {
        let place = match gpus.as_slice() {
            [only] => only.to_string(),
            gpus => format!("{} GPUs", gpus.len()),
        };
        let state = if version.is_empty() { "not loaded".to_owned() } else { format!("not loaded, version {version}") };
        vec![name.to_owned(), place, source.to_owned(), String::new(), state, String::new(), String::new()]
    };
    places.into_iter().map(row).collect()
}

fn rows_of(gpu: &GpuModels) -> Vec<Vec<String>> {
    let load_s = |name: &str| gpu.load_ms.get(name).map_or_else(String::new, |ms| format!("{:.1}", ms / 1e3));
    let loaded = gpu.loaded.iter().map(|model| {
        let ModelDetails { name, source, memory_mb, last_used_ms_ago, .. } = model;
        let used = format!("{} s ago", last_used_ms_ago / 1_000);
        vec![name.clone(), gpu.gpu_id.to_string(), source.clone(), memory_mb.to_string(), state(model).to_owned(), used, load_s(name)]
    });
    let by_kinds = gpu.kept_by_kinds.iter().map(|(name, kind)| {
        vec![
            name.clone(),
            gpu.gpu_id.to_string(),
            kind.to_string(),
            String::new(),
            "kept by its kind".to_owned(),
            String::new(),
            String::new(),
        ]
    });
    loaded.chain(by_kinds).collect()
}

const fn state(model: &ModelDetails) -> &'static str {
    match (model.pinned, model.in_use) {
        (true, true) => "pinned, in use",
        (true, false) => "pinned",
        (false, true) => "in use",
        (false, false) => "idle",
    }
}

/// How a wish came out on one GPU.
#[derive(Debug, Serialize)]
struct CameOut {
    gpu_id: GpuId,
    /// Absent: it was not done in time, or the GPU is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<bool>,
    said: String,
}

async fn wish(common: &Common, fleet: &Fleet, one: &OneModel, action: ModelAction) -> Result<ExitCode, Fault> {
    let pool = fleet.pool().await?;
    let named = one.gpus.iter().map(|name| gpus::named(&pool, name)).collect::<Result<Vec<_>, Fault>>()?;
    if let Some(gone) = named.iter().find(|gpu_id| !pool.gpus.iter().any(|view| view.row.gpu.gpu_id == **gpu_id)) {
        return Err(Fault::NotFound(format!("no living GPU of the pool {} has the id {gone}; `gpufleet gpus` lists them", pool.name)));
    }
    let taken = fleet.wish(&one.model, action, &named).await?;
    if taken.on.is_empty() {
        output::note(&format!("no GPU serves the pool {} now; a pin holds for those that come", pool.name));
    }
    let outcomes = if one.wait == 0 { Vec::new() } else { done(fleet, &taken, Duration::from_secs(one.wait)).await? };
    if common.json {
        output::json(&serde_json::json!({"wish": taken.wish, "gpus": outcomes}))?;
    } else if one.wait == 0 {
        output::line(&format!("{} {}: taken down as number {}", action.name(), one.model, taken.wish.number))?;
    } else {
        for CameOut { gpu_id, said, .. } in &outcomes {
            output::line(&format!("{gpu_id}: {said}"))?;
        }
    }
    if action == ModelAction::Pin && outcomes.iter().any(|outcome| outcome.done == Some(false)) {
        output::note(&format!("the pin stays, for GPUs to come and until the model can be loaded; {}", takes_back(&one.model)));
    }
    if outcomes.iter().any(|outcome| outcome.done.is_none()) {
        return Err(Fault::TimeLimit(format!(
            "not every GPU has done it within {} s; `gpufleet models ls` shows how it goes on",
            one.wait
        )));
    }
    Ok(if outcomes.iter().all(|outcome| outcome.done == Some(true)) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits until the GPUs have done a wish; what came of it.
async fn done(fleet: &Fleet, taken: &WishTaken, longest: Duration) -> Result<Vec<CameOut>, Fault> {
    let until = Instant::now() + longest;
    loop {
        let models = fleet.models().await?;
        let is_done = |gpu_id: &GpuId| {
            let gpu = models.gpus.iter().find(|gpu| gpu.gpu_id == *gpu_id);
            gpu.is_none_or(|gpu| gpu.wishes_done >= taken.wish.number)
        };
        if taken.on.iter().all(is_done) || Instant::now() >= until {
            return Ok(taken.on.iter().map(|gpu_id| came_out(&models, taken, gpu_id)).collect());
        }
        sleep(LOOK_AGAIN).await;
    }
}

fn came_out(models: &FleetModels, taken: &WishTaken, gpu_id: &GpuId) -> CameOut {
    let model = &taken.wish.model;
    let said = |done: Option<bool>, said: String| CameOut { gpu_id: gpu_id.clone(), done, said };
    let Some(gpu) = models.gpus.iter().find(|gpu| gpu.gpu_id == *gpu_id) else { return said(None, "is gone".to_owned()) };
    if gpu.wishes_done < taken.wish.number {
        return said(None, "has not done it yet".to_owned());
    }
    if let Some(why) = gpu.errors.get(model) {
        return said(Some(false), format!("failed: {why}"));
    }
    if let Some(kind) = gpu.kept_by_kinds.get(model)
        && taken.wish.action == ModelAction::Load
    {
        return said(Some(true), format!("is kept by its kind {kind}"));
    }
    let loaded = gpu.loaded.iter().find(|loaded| loaded.name == *model);
    match (taken.wish.action, loaded) {
        (ModelAction::Load | ModelAction::Pin, Some(loaded)) => {
            said(Some(true), format!("{}, {} MB", done_word(taken.wish.action), loaded.memory_mb))
        }
        (ModelAction::Load | ModelAction::Pin, None) => said(Some(false), "it was loaded, and others took its place since".to_owned()),
        (action, _) => said(Some(true), done_word(action).to_owned()),
    }
}

const fn done_word(action: ModelAction) -> &'static str {
    match action {
        ModelAction::Load => "loaded",
        ModelAction::Unload => "unloaded",
        ModelAction::Pin => "loaded and pinned",
        ModelAction::Unpin => "unpinned",
    }
}
