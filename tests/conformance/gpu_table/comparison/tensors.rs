//! What workers say of tensors, at random.

use gpu_table::{GpuTable, VersionDraw, VersionWanted};
use proptest::prelude::*;
use protocol::{Incarnation, TensorName, TensorRecord};

use super::{
    super::{
        tensors::{copy, tensor_name},
        world::pool,
    },
    Answer, GPUS, gpu_of,
};

const NAMES: u8 = 5;

#[derive(Debug, Clone)]
pub(super) enum TensorStep {
    Announce(Vec<CopyPlan>),
    Withdraw { gpu: u8, start: u8, copies: Vec<(u8, u64)> },
    Find(Vec<u8>),
    List { after: Option<u8>, names_max: usize },
    Draw { name: u8, owner: bool, wanted: VersionWanted },
}

#[derive(Debug, Clone)]
pub(super) struct CopyPlan {
    name: u8,
    version: u64,
    gpu: u8,
    /// Which start of its worker tells it.
    start: u8,
}

pub(super) fn steps() -> impl Strategy<Value = TensorStep> {
    // Around what a double holds exactly.
    let version = || prop_oneof![3 => 8..12_u64, 1 => (1_u64 << 53)..(1 << 53) + 4];
    let start = || prop_oneof![9 => Just(0_u8), 1 => 1..3_u8];
    let copies = (0..NAMES, version(), 0..GPUS + 1, start()).prop_map(|(name, version, gpu, start)| CopyPlan { name, version, gpu, start });
    let withdrawn = prop::collection::vec((0..NAMES, version()), 1..4);
    prop_oneof![
        4 => prop::collection::vec(copies, 1..6).prop_map(TensorStep::Announce),
        2 => (0..GPUS + 1, start(), withdrawn).prop_map(|(gpu, start, copies)| TensorStep::Withdraw { gpu, start, copies }),
        2 => prop::collection::vec(0..NAMES, 1..4).prop_map(TensorStep::Find),
        3 => (0..NAMES, any::<bool>(), any::<bool>(), version()).prop_map(|(name, owner, is_token, version)| {
            let wanted = if is_token { VersionWanted::Token(version) } else { VersionWanted::Time(version) };
            TensorStep::Draw { name, owner, wanted }
        }),
        2 => (prop::option::of(0..NAMES), 0..4_usize).prop_map(|(after, names_max)| TensorStep::List { after, names_max }),
    ]
}

fn name_of(n: u8) -> TensorName {
    tensor_name(["b", "a.10", "a.9", "B", "a:1"][usize::from(n)])
}

fn start_of(gpu: u8, start: u8) -> Incarnation {
    super::incarnation(&format!("{gpu}-{start}"))
}

fn planned_copy(plan: &CopyPlan) -> TensorRecord {
    let CopyPlan { name, version, gpu, start } = plan;
    TensorRecord { incarnation: start_of(*gpu, *start), ..copy(name_of(*name).as_str(), *version, gpu_of(*gpu).as_str()) }
}

pub(super) async fn take(table: &dyn GpuTable, step: &TensorStep) -> Answer {
    match step {
        TensorStep::Announce(copies) => {
            let records: Vec<TensorRecord> = copies.iter().map(planned_copy).collect();
            format!("{:?}", table.announce_tensors(&pool(), &records).await)
        }
        TensorStep::Withdraw { gpu, start, copies } => {
            let copies: Vec<(TensorName, u64)> = copies.iter().map(|(name, version)| (name_of(*name), *version)).collect();
            format!("{:?}", table.withdraw_tensors(&pool(), &gpu_of(*gpu), &start_of(*gpu, *start), &copies).await)
        }
        TensorStep::Find(names) => {
            let names: Vec<TensorName> = names.iter().map(|name| name_of(*name)).collect();
            format!("{:?}", table.find_tensors(&pool(), &names).await)
        }
        TensorStep::Draw { name, owner, wanted } => {
            let owner = if *owner { copy("x", 1, "a").owner } else { "another".to_owned() };
            let draw = VersionDraw { name: name_of(*name), owner, wanted: *wanted };
            format!("{:?}", table.draw_tensor_version(&pool(), &draw).await)
        }
        TensorStep::List { after, names_max } => {
            format!("{:?}", table.tensors(&pool(), after.map(name_of).as_ref(), *names_max).await)
        }
    }
}
