//! `gpufleet gpus`: the GPUs of the pool, or one of them.

mod columns;
mod down;
mod one;
mod state;

use std::{process::ExitCode, time::Duration};

use protocol::{GpuId, NamingError, gpu_named, task::ComputeCapability};

pub(crate) use self::{
    down::{KindDown, kinds_down, one_line},
    one::way,
    state::{phase, state},
};
use crate::{
    arguments::{Common, Gpus},
    fault::Fault,
    fleet::{Fleet, Pool},
    output,
};

/// Between two looks of `--watch`.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Shows the GPUs of the pool, once or until it is interrupted.
pub(crate) async fn run(common: &Common, gpus: &Gpus) -> Result<ExitCode, Fault> {
    let fleet = Fleet::to_ask(common)?;
    let first = look(common, &fleet, gpus).await?;
    if !gpus.watch {
        output::line(&first)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut looked = Ok(first);
    loop {
        // A server or a GPU that is away for a while is told, and ends nothing.
        match looked {
            Ok(text) => match output::page(&text) {
                // Nobody is there to show more to, which is how this ends.
                Err(unprinted) if unprinted.is_reader_gone() => return Ok(ExitCode::SUCCESS),
                printed => printed?,
            },
            Err(Fault::Unavailable(away) | Fault::NotFound(away)) => output::note(&away),
            Err(fault) => return Err(fault),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        looked = look(common, &fleet, gpus).await;
    }
}

async fn look(common: &Common, fleet: &Fleet, gpus: &Gpus) -> Result<String, Fault> {
    let pool = fleet.pool().await?;
    if let Some(name) = &gpus.gpu {
        return one_of(common, &pool, name);
    }
    Ok(match pool.gpus.as_slice() {
        views if common.json => output::json_text(&views),
        [] => format!("no GPU serves the pool {}; start one with `gpufleet worker`", pool.name),
        views => columns::table(views, if gpus.wide { None } else { Some(output::width()) }) + &down::lines(views),
    })
}

fn one_of(common: &Common, pool: &Pool, name: &str) -> Result<String, Fault> {
    let ids = ids(pool);
    let wanted = gpu_named(name, &ids).map_err(|error| match error {
        several @ NamingError::Several { .. } => Fault::Usage(several.to_string()),
        none => Fault::NotFound(none.to_string()),
    })?;
    let found = pool.gpus.iter().enumerate().find(|(_, view)| view.row.gpu.gpu_id == *wanted);
    let (number, view) = found.ok_or_else(|| Fault::NotFound(format!("GPU {wanted} is gone")))?;
    Ok(if common.json { output::json_text(view) } else { one::described(number, view) })
}

fn ids(pool: &Pool) -> Vec<GpuId> {
    pool.gpus.iter().map(|view| view.row.gpu.gpu_id.clone()).collect()
}

/// The GPU that an operator named: its id, the beginning of it, or its number in the list that [`run`] shows. A whole id need not be of a GPU that lives; a number
/// must be of one that does.
pub(crate) fn named(pool: &Pool, name: &str) -> Result<GpuId, Fault> {
    let ids = ids(pool);
    match gpu_named(name, &ids) {
        Ok(gpu_id) => Ok(gpu_id.clone()),
        Err(several @ NamingError::Several { .. }) => Err(Fault::Usage(several.to_string())),
        Err(_) if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) => Err(Fault::NotFound(no_such_number(pool, name))),
        Err(none) => GpuId::new(name).map_err(|_| Fault::NotFound(none.to_string())),
    }
}

fn no_such_number(pool: &Pool, name: &str) -> String {
    let pool_name = &pool.name;
    match pool.gpus.len() {
        0 => format!("no GPU has the number {name}: none serves the pool {pool_name} now"),
        1 => format!("no GPU has the number {name}: the pool {pool_name} has one now, number 0 (`gpufleet gpus` shows it)"),
        count => {
            format!("no GPU has the number {name}: those of the pool {pool_name} have 0 to {} now (`gpufleet gpus` lists them)", count - 1)
        }
    }
}

fn capability(capability: ComputeCapability) -> String {
    String::from(capability)
}
