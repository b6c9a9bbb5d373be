//! Claims: what the table answers, and what it writes with the answer.

use protocol::{Choice, ClaimAnswer, ClaimMode, ClaimRequest, GpuId, Offer, Unplaceable};

use super::pool::{Offered, Pool};
use crate::{
    eligibility::{fits, has_memory_now, is_open, is_ready},
    wanted::nothing_fits,
};

impl Pool {
    pub(super) fn claim(&mut self, request: &ClaimRequest) -> ClaimAnswer {
        let others = request.holding.slots.saturating_sub(u32::from(request.has_slot));
        self.hear(&request.asker, &request.incarnation, request.holding, others);
        if let Some(answer) = self.standing_offer(request) {
            return answer;
        }
        match (request.mode, &request.specific_gpu_id) {
            (_, Some(gpu_id)) => self.claim_specific(request, gpu_id),
            (ClaimMode::TasksWaiting, None) if self.is_free(request, &request.asker) && !self.weighs_data(request) => {
                self.take(request, &request.asker)
            }
            _ => self.claim_any(request),
        }
    }

    /// The answer where an offer stands for this task: the slot for the GPU that it is made to, if that one has a slot for the task; the same offer again for everybody else.
    fn standing_offer(&mut self, request: &ClaimRequest) -> Option<ClaimAnswer> {
        let offered = self.offers.get(&request.task_id)?;
        if offered.gpu_id != request.asker {
            return Some(ClaimAnswer::Other(offer(request, &offered.gpu_id, offered.choice.clone())));
        }
        let choice = offered.choice.clone();
        self.offers.remove(&request.task_id);
        if !self.has_own_slot(request) {
            return None;
        }
        self.hold(request);
        Some(ClaimAnswer::Own(choice))
    }

    fn claim_specific(&mut self, request: &ClaimRequest, gpu_id: &GpuId) -> ClaimAnswer {
        let settings = self.settings();
        let Some(entry) = self.rows.get_mut(gpu_id) else {
            let gpu_id = gpu_id.clone();
            let was_known = self.known.contains_key(&gpu_id);
            return ClaimAnswer::Unplaceable(if was_known { Unplaceable::GpuAway { gpu_id } } else { Unplaceable::GpuUnknown { gpu_id } });
        };
        if !fits(&entry.row, &settings, request) {
            return ClaimAnswer::Unplaceable(nothing_fits(request));
        }
        // It must neither wait in hand nor be sent to a queue whose worker would send it back.
        if !is_ready(&entry.row, &settings) {
            return ClaimAnswer::Unplaceable(Unplaceable::GpuAway { gpu_id: gpu_id.clone() });
        }
        if self.is_free(request, gpu_id) {
            return self.take(request, gpu_id);
        }
        if *gpu_id == request.asker {
            return ClaimAnswer::Full { fits_here: true, elsewhere: None };
        }
        self.send_to_wait(gpu_id.clone())
    }

    fn claim_any(&mut self, request: &ClaimRequest) -> ClaimAnswer {
        if let Some(gpu_id) = self.best_free(request) {
            return match self.better_waited_for(request, &gpu_id) {
                None => self.take(request, &gpu_id),
                Some(busy) if busy == request.asker => ClaimAnswer::Full { fits_here: true, elsewhere: None },
                Some(busy) => self.send_to_wait(busy),
            };
        }
        let settings = self.settings();
        let here = self.rows.get(&request.asker);
        if here.is_some_and(|entry| is_ready(&entry.row, &settings) && fits(&entry.row, &settings, request)) {
            return ClaimAnswer::Full { fits_here: true, elsewhere: None };
        }
        match self.least_work(request) {
            Some(gpu_id) => self.send_to_wait(gpu_id),
            None => ClaimAnswer::Unplaceable(nothing_fits(request)),
        }
    }

    /// The free GPU that the strategy puts first. While tasks wait it is the asking one if that is free, unless the task's data are clearly nearer to the first.
    fn best_free(&self, request: &ClaimRequest) -> Option<GpuId> {
        let (first, here) = (self.choose(request)?, &request.asker);
        let stays =
            request.mode == ClaimMode::TasksWaiting && self.is_free(request, here) && !self.is_clearly_nearer(request, &first, here);
        Some(if stays { here.clone() } else { first })
    }

    /// Whether this GPU is eligible, fits, and has the memory and a slot now. The asker needs a slot of its own for the task.
    pub(super) fn is_free(&self, request: &ClaimRequest, gpu_id: &GpuId) -> bool {
        let settings = self.settings();
        self.rows.get(gpu_id).is_some_and(|entry| {
            is_open(&entry.row, &settings)
                && fits(&entry.row, &settings, request)
                && has_memory_now(&entry.row, &request.needs, &settings)
                && self.load(gpu_id) < u64::from(entry.row.slots)
                && (*gpu_id != request.asker || self.has_own_slot(request))
        })
    }

    /// Whether the asker has a slot of its own for the task. A GPU that another incarnation has now gives the asker nothing: what it held would be counted nowhere.
    fn has_own_slot(&self, request: &ClaimRequest) -> bool {
        request.has_slot && self.rows.get(&request.asker).is_some_and(|entry| entry.row.incarnation == request.incarnation)
    }

    fn send_to_wait(&mut self, gpu_id: GpuId) -> ClaimAnswer {
        if let Some(entry) = self.rows.get_mut(&gpu_id) {
            entry.sent_to_wait += 1;
        }
        ClaimAnswer::Full { fits_here: false, elsewhere: Some(gpu_id) }
    }

    /// Gives the slot: counted as held by the GPU that asks, offered to any other.
    fn take(&mut self, request: &ClaimRequest, gpu_id: &GpuId) -> ClaimAnswer {
        let settings = self.settings();
        let choice = Choice::resolve(request.strategy.as_deref(), settings.default_strategy, &settings.strategies);
        self.sequence += 1;
        if let Some(entry) = self.rows.get_mut(gpu_id) {
            entry.sequence = self.sequence;
        }
        if *gpu_id == request.asker {
            self.hold(request);
            return ClaimAnswer::Own(choice);
        }
        let deadline_ms = self.now_ms() + self.leases.offered.as_millis() as u64;
        self.offers.insert(request.task_id.clone(), Offered { gpu_id: gpu_id.clone(), deadline_ms, choice: choice.clone() });
        ClaimAnswer::Other(offer(request, gpu_id, choice))
    }

    /// The asker holds the slot for this task too, unless it has told something newer, which counts it already.
    fn hold(&mut self, request: &ClaimRequest) {
        self.hear(&request.asker, &request.incarnation, request.holding, request.holding.slots);
    }
}

fn offer(request: &ClaimRequest, gpu_id: &GpuId, choice: Choice) -> Offer {
    Offer { pool: request.pool.clone(), task_id: request.task_id.clone(), gpu_id: gpu_id.clone(), choice }
}
