//! Claims: what the table answers, and what it writes with the answer.

use protocol::{Choice, Claim, ClaimAnswer, ClaimMode, ClaimRequest, GpuId, Token, Unplaceable};

use super::{
    eligibility::{fits, has_memory_now, is_open, is_ready, is_within_thresholds},
    pool::{Pool, Record, State},
};
use crate::wanted::nothing_fits;

impl Pool {
    pub(super) fn claim(&mut self, request: &ClaimRequest) -> ClaimAnswer {
        if let Some(answer) = self.standing_claim(request) {
            return answer;
        }
        match (request.mode, &request.specific_gpu_id) {
            (ClaimMode::Here, _) => self.claim_here(request),
            (_, Some(gpu_id)) => self.claim_specific(request, gpu_id),
            (ClaimMode::TasksWaiting, None) if self.is_free(request, &request.offered_by) => self.take(request, &request.offered_by),
            _ => self.claim_any(request),
        }
    }

    /// The answer where a live claim for this task exists already: the same again for the one who asked before, the slot for the one it was
    /// offered to, `Held` for everybody else.
    fn standing_claim(&mut self, request: &ClaimRequest) -> Option<ClaimAnswer> {
        let (now_ms, held_until_ms) = (self.now_ms(), self.held_until_ms());
        let record = self.claims.get_mut(&request.task_id)?;
        let same_attempt = record.attempt == request.attempt;
        let same_asker = record.incarnation == request.incarnation && record.delivery == request.delivery;
        let takes_up = request.mode == ClaimMode::Here && record.state == State::Offered && record.gpu_id == request.offered_by;
        if same_attempt && takes_up {
            record.state = State::Held;
            record.deadline_ms = held_until_ms;
            record.incarnation = request.incarnation.clone();
            record.delivery = request.delivery;
        } else if !(same_attempt && same_asker) {
            return Some(ClaimAnswer::Held { for_ms: record.deadline_ms - now_ms });
        }
        Some(answer(request, &record.gpu_id, record.token, record.choice.clone()))
    }

    /// Thresholds and a slot pass by waiting, so they mean `Full`; whether the worker consumes is not looked at, because its asking proves it.
    fn claim_here(&mut self, request: &ClaimRequest) -> ClaimAnswer {
        let settings = self.settings();
        let Some(entry) = self.rows.get(&request.offered_by) else { return ClaimAnswer::NotHere };
        if !is_ready(&entry.row, &settings) || !fits(&entry.row, &settings, request) {
            return ClaimAnswer::NotHere;
        }
        let has_slot = self.load(&request.offered_by) < u64::from(entry.row.slots);
        if has_slot && is_within_thresholds(&entry.row, &settings) && has_memory_now(&entry.row, &request.needs, &settings) {
            return self.take(request, &request.offered_by);
        }
        ClaimAnswer::Full { fits_here: true, elsewhere: None }
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
        if *gpu_id == request.offered_by {
            return ClaimAnswer::Full { fits_here: true, elsewhere: None };
        }
        self.send_to_wait(gpu_id.clone())
    }

    fn claim_any(&mut self, request: &ClaimRequest) -> ClaimAnswer {
        if let Some(gpu_id) = self.choose(request) {
            return self.take(request, &gpu_id);
        }
        let settings = self.settings();
        let here = self.rows.get(&request.offered_by);
        if here.is_some_and(|entry| is_ready(&entry.row, &settings) && fits(&entry.row, &settings, request)) {
            return ClaimAnswer::Full { fits_here: true, elsewhere: None };
        }
        match self.least_work(request) {
            Some(gpu_id) => self.send_to_wait(gpu_id),
            None => ClaimAnswer::Unplaceable(nothing_fits(request)),
        }
    }

    /// Whether this GPU is eligible, fits, and has the memory and a slot now.
    pub(super) fn is_free(&self, request: &ClaimRequest, gpu_id: &GpuId) -> bool {
        let settings = self.settings();
        self.rows.get(gpu_id).is_some_and(|entry| {
            is_open(&entry.row, &settings)
                && fits(&entry.row, &settings, request)
                && has_memory_now(&entry.row, &request.needs, &settings)
                && self.load(gpu_id) < u64::from(entry.row.slots)
        })
    }

    fn send_to_wait(&mut self, gpu_id: GpuId) -> ClaimAnswer {
        if let Some(entry) = self.rows.get_mut(&gpu_id) {
            entry.sent_to_wait += 1;
        }
        ClaimAnswer::Full { fits_here: false, elsewhere: Some(gpu_id) }
    }

    /// Writes a new claim: held at once by the GPU that asks, offered to any other.
    fn take(&mut self, request: &ClaimRequest, gpu_id: &GpuId) -> ClaimAnswer {
        let settings = self.settings();
        let choice = Choice::resolve(request.strategy.as_deref(), settings.default_strategy, &settings.strategies);
        let own = *gpu_id == request.offered_by;
        let (state, lease) = if own { (State::Held, self.leases.held) } else { (State::Offered, self.leases.offered) };
        self.last_token = (self.last_token + 1).max(self.now_us);
        self.sequence += 1;
        if let Some(entry) = self.rows.get_mut(gpu_id) {
            entry.sequence = self.sequence;
        }
        let record = Record {
            gpu_id: gpu_id.clone(),
            token: Token(self.last_token),
            state,
            deadline_ms: self.now_ms() + lease.as_millis() as u64,
            attempt: request.attempt,
            incarnation: request.incarnation.clone(),
            delivery: request.delivery,
            choice: choice.clone(),
        };
        self.claims.insert(request.task_id.clone(), record);
        answer(request, gpu_id, Token(self.last_token), choice)
    }
}

fn answer(request: &ClaimRequest, gpu_id: &GpuId, token: Token, choice: Choice) -> ClaimAnswer {
    let claim = Claim {
        pool: request.pool.clone(),
        task_id: request.task_id.clone(),
        attempt: request.attempt,
        gpu_id: gpu_id.clone(),
        token,
        choice,
    };
    if *gpu_id == request.offered_by { ClaimAnswer::Own(claim) } else { ClaimAnswer::Other(claim) }
}
