//! `gpufleet tensors`: data that stays on GPUs between tasks.

mod input;
mod npy;
mod saved;

use std::process::ExitCode;

use gateway::FreedTensor;
use protocol::{KeptTensor, TensorName, TensorPlace, TensorShape, TensorView};

use crate::{
    arguments::{Common, GetTensor, PutTensor, TensorsCommand},
    fault::Fault,
    fleet::{Fleet, NewBytes},
    gpus, output,
};

const HEADER: [&str; 9] = ["TENSOR", "VERSION", "DTYPE", "SHAPE", "SIZE", "GPUS", "OWNER", "AGE", "LAST USED"];
/// How many GPUs are named that have a copy.
const NAMED_MAX: usize = 3;
/// The letters of an owner that are shown: those of an id that the fleet made tell it from others.
const OWNER_LETTERS: usize = 12;

/// Lists, reads, makes or frees tensors.
pub(crate) async fn run(common: &Common, command: &TensorsCommand) -> Result<ExitCode, Fault> {
    // Before anything is asked.
    if let TensorsCommand::Get(get) = command {
        saved::check(get.output.as_deref())?;
    }
    let fleet = Fleet::to_ask(common)?;
    match command {
        TensorsCommand::Ls => list(common, &fleet).await,
        TensorsCommand::Get(get) => read(&fleet, get).await,
        TensorsCommand::Put(put) => write(common, &fleet, put).await,
        TensorsCommand::Rm { names } => free(common, &fleet, names).await,
    }
}

async fn list(common: &Common, fleet: &Fleet) -> Result<ExitCode, Fault> {
    let tensors = fleet.tensors().await?;
    if common.json {
        output::json(&tensors)?;
    } else if tensors.is_empty() {
        output::line("there are no tensors on the GPUs of the pool")?;
    } else {
        output::table(&HEADER, &tensors.iter().map(row).collect::<Vec<_>>())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(view: &TensorView) -> Vec<String> {
    let TensorView { name, version, shape, bytes, owner, age_ms, last_used_ms_ago, .. } = view;
    vec![
        name.to_string(),
        version.to_string(),
        shape.dtype.name().to_owned(),
        sides(shape),
        size(*bytes),
        places(view),
        output::cut(owner, OWNER_LETTERS),
        time(*age_ms),
        format!("{} ago", time(*last_used_ms_ago)),
    ]
}

/// `[2, 3]`.
fn sides(shape: &TensorShape) -> String {
    format!("{:?}", shape.shape)
}

/// Where its copies are: `sim-0, sim-1 (host)`, or how many they are.
fn places(view: &TensorView) -> String {
    if view.copies.len() > NAMED_MAX {
        return format!("{} GPUs", view.copies.len());
    }
    let place = |copy: &protocol::TensorCopy| match copy.place {
        TensorPlace::Gpu => copy.gpu_id.to_string(),
        TensorPlace::Host => format!("{} (host)", copy.gpu_id),
    };
    view.copies.iter().map(place).collect::<Vec<_>>().join(", ")
}

/// Bytes for people, in units of 10^3, 10^6, ….
fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match UNITS.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

/// A time for people.
fn time(ms: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min")];
    match UNITS.into_iter().find(|(unit, _)| ms >= 2 * unit) {
        Some((unit, name)) => format!("{} {name}", ms / unit),
        None => format!("{} s", ms / 1_000),
    }
}

async fn read(fleet: &Fleet, get: &GetTensor) -> Result<ExitCode, Fault> {
    let coming = fleet.read_tensor(&get.name).await?;
    saved::save(get.output.as_deref(), coming).await?;
    Ok(ExitCode::SUCCESS)
}

async fn write(common: &Common, fleet: &Fleet, put: &PutTensor) -> Result<ExitCode, Fault> {
    let gpu_id = match &put.gpu {
        Some(name) => Some(gpus::named(&fleet.pool().await?, name)?),
        None => None,
    };
    let input = input::open(&put.file, put.dtype, put.shape.as_ref()).await?;
    let if_exists = put.if_exists.unwrap_or_default();
    let new = NewBytes { name: put.name.clone(), shape: input.shape, gpu_id, ttl_ms: put.ttl, if_exists };
    let kept = fleet.write_tensor(new, input.bytes).await?;
    if common.json {
        output::json(&kept)?;
    } else {
        let KeptTensor { tensor, version, gpu_id, shape, bytes } = &kept;
        output::line(&format!("{tensor}: version {version} on {gpu_id}, {} {}, {}", shape.dtype.name(), sides(shape), size(*bytes)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Frees each, whatever becomes of the others; the first fault is that of the command.
async fn free(common: &Common, fleet: &Fleet, names: &[TensorName]) -> Result<ExitCode, Fault> {
    let (mut all, mut first_fault) = (Vec::new(), None::<Fault>);
    for name in names {
        match fleet.free_tensor(name).await {
            Ok(freed) => {
                if !common.json {
                    let FreedTensor { tensor, gpus } = &freed;
                    let gpus: Vec<&str> = gpus.iter().map(protocol::GpuId::as_str).collect();
                    output::line(&format!("{tensor}: freed on {}", gpus.join(", ")))?;
                }
                all.push(freed);
            }
            Err(fault) if first_fault.is_none() => first_fault = Some(fault),
            Err(fault) => output::error_line(&fault.to_string()),
        }
    }
    if common.json {
        output::json(&all)?;
    }
    first_fault.map_or(Ok(ExitCode::SUCCESS), Err)
}

#[cfg(test)]
mod tests {
    use protocol::{DType, GpuId, TensorCopy};

    use super::*;

    #[test]
    fn a_row_says_what_a_tensor_is_and_where() {
        let copy = |gpu: &str, place| TensorCopy { gpu_id: GpuId::new(gpu).expect("valid"), place };
        let view = TensorView {
            name: TensorName::new("step-1").expect("valid"),
            version: 7,
            shape: TensorShape { dtype: DType::F32, shape: vec![500, 3_000] },
            bytes: 6_000_000,
            owner: "0af7651916cd43dd8448eb211c80319c".to_owned(),
            age_ms: 150_000,
            last_used_ms_ago: 1_999,
            ttl_ms: 60_000,
            copies: vec![copy("sim-0", TensorPlace::Gpu), copy("sim-1", TensorPlace::Host)],
        };
        let expected = ["step-1", "7", "f32", "[500, 3000]", "6.0 MB", "sim-0, sim-1 (host)", "0af7651916c…", "2 min", "1 s ago"];
        assert_eq!(row(&view), expected);
        let many = vec![copy("sim-0", TensorPlace::Gpu); 4];
        assert_eq!(places(&TensorView { copies: many, ..view }), "4 GPUs");
    }

    #[test]
    fn sizes_and_times_are_told_in_units_for_people() {
        assert_eq!([0, 999, 1_000, 1_550_000, 80_000_000_000].map(size), ["0 B", "999 B", "1.0 kB", "1.5 MB", "80.0 GB"]);
        assert_eq!([0, 90_000, 120_000, 7_200_000, 172_800_000].map(time), ["0 s", "90 s", "2 min", "2 h", "2 d"]);
    }
}
