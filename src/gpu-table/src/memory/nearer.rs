//! What a task gains where its model or its data are: whether it waits there for a slot although another GPU is free.

use protocol::{ClaimRequest, GpuId, GpuRow, Strategy};

use super::pool::{Entry, Pool};
use crate::{
    eligibility::{fits, is_open},
    weights::Weights,
};

/// Behind so many tasks that wait for a GPU nobody is sent to wait there.
const WAITING_MAX: u64 = 8;

impl Pool {
    /// Whether the task goes where its data are even while tasks wait.
    pub(super) fn weighs_data(&self, request: &ClaimRequest) -> bool {
        request.data.is_some() && self.strategy(request) == Strategy::TaskSpecific
    }

    /// The busy GPU where the task runs so soon that to wait for it is clearly better than to bring its data to `free`, the best of the free ones, and load its model there: in less than half of that time,
    /// with what has to be brought and loaded on the busy one too. `None` where nothing has to be, and where anything is not known.
    pub(super) fn better_waited_for(&self, request: &ClaimRequest, free: &GpuId) -> Option<GpuId> {
        if self.strategy(request) != Strategy::TaskSpecific {
            return None;
        }
        let free = &self.rows.get(free)?.row;
        let weights = Weights::of(request.data.as_ref());
        let gains = |(gpu_id, entry): (&'_ GpuId, &'_ Entry)| {
            let (there_ms, here_ms) = readies(request, &weights, &entry.row, free)?;
            let run_ms = entry.row.run_ms.get(&request.kind)?;
            let waiting = u64::from(entry.row.waiting) + entry.sent_to_wait;
            let wait_ms = self.tasks(gpu_id, entry) as f64 * run_ms / f64::from(entry.row.slots.max(1));
            let all_ms = wait_ms + there_ms;
            (waiting < WAITING_MAX && all_ms * 2.0 < here_ms).then(|| (all_ms, self.work(gpu_id, entry), entry.sequence, gpu_id.clone()))
        };
        let with_data =
            self.rows.iter().filter(|(gpu_id, entry)| weights.at_us.contains_key(*gpu_id) && self.is_busy(request, gpu_id, entry));
        let all = self.busy_with_model(request).into_iter().chain(with_data).filter_map(gains);
        let best =
            all.min_by(|one, other| one.0.total_cmp(&other.0).then_with(|| (one.1, one.2, &one.3).cmp(&(other.1, other.2, &other.3))));
        best.map(|(.., gpu_id)| gpu_id)
    }

    /// Whether it takes less than half as long to have the task's data and its model on `there` as on `here`. Both are free.
    pub(super) fn is_clearly_nearer(&self, request: &ClaimRequest, there: &GpuId, here: &GpuId) -> bool {
        let rows = self.rows.get(there).zip(self.rows.get(here));
        let weights = Weights::of(request.data.as_ref());
        let readies = rows.and_then(|(there, here)| readies(request, &weights, &there.row, &here.row));
        readies.is_some_and(|(there_ms, here_ms)| there_ms * 2.0 < here_ms)
    }

    /// The busy GPU with the task's model and the least work.
    fn busy_with_model(&self, request: &ClaimRequest) -> Option<(&GpuId, &Entry)> {
        let model = request.needs.model.as_ref()?;
        let busy = self.rows.iter().filter(|(gpu_id, entry)| entry.row.models.contains(model) && self.is_busy(request, gpu_id, entry));
        busy.min_by_key(|(gpu_id, entry)| (self.work(gpu_id, entry), entry.sequence, *gpu_id))
    }

    /// Whether it is eligible and fits, and has no free slot.
    fn is_busy(&self, request: &ClaimRequest, gpu_id: &GpuId, entry: &Entry) -> bool {
        let settings = self.settings();
        is_open(&entry.row, &settings) && self.load(gpu_id) >= u64::from(entry.row.slots) && fits(&entry.row, &settings, request)
    }
}

/// What it takes until the task's data and its model are on the one and on the other GPU, in ms. `None` where a load is among that and not known: what the other one knows of it will do, or else the first.
fn readies(request: &ClaimRequest, weights: &Weights, there: &GpuRow, here: &GpuRow) -> Option<(f64, f64)> {
    let model = request.needs.model.as_ref();
    let load_ms = model.and_then(|model| here.model_state.load_ms.get(model).or_else(|| there.model_state.load_ms.get(model)));
    let ready_ms = |row: &GpuRow| {
        let data_ms = weights.to(&row.gpu.gpu_id) as f64 / 1_000.0;
        if model.is_none_or(|model| row.models.contains(model)) { Some(data_ms) } else { Some(load_ms? + data_ms) }
    };
    Some((ready_ms(there)?, ready_ms(here)?))
}
