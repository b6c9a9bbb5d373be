//! What one pool's table holds: rows, claims, settings, known GPUs; and everything about them but choosing.

use std::{collections::BTreeMap, time::Duration};

use protocol::{
    Choice, DeliveryId, GpuId, GpuRow, Incarnation, TaskId, Token,
    claim::{HeldClaim, Settings},
    gpu::GpuView,
};

use super::eligibility::is_open;
use crate::{Beat, Heartbeat, KNOWN_FOR, Leases};

/// A living GPU.
#[derive(Clone)]
pub(super) struct Entry {
    pub row: GpuRow,
    pub expires_ms: u64,
    /// The number of its last claim in the pool's sequence; 0: none since it joined.
    pub sequence: u64,
    /// Tasks sent to wait in its own queue since its last heartbeat.
    pub sent_to_wait: u64,
}

/// Whether the holder has taken the claim up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Offered,
    Held,
}

/// A live claim.
#[derive(Clone)]
pub(super) struct Record {
    pub gpu_id: GpuId,
    pub token: Token,
    pub state: State,
    pub deadline_ms: u64,
    pub attempt: u32,
    pub incarnation: Incarnation,
    pub delivery: DeliveryId,
    pub choice: Choice,
}

#[derive(Clone)]
pub(super) struct Pool {
    pub leases: Leases,
    pub now_us: u64,
    pub rows: BTreeMap<GpuId, Entry>,
    pub claims: BTreeMap<TaskId, Record>,
    /// GPU → until when it is known, in ms.
    pub known: BTreeMap<GpuId, u64>,
    pub settings: Option<Settings>,
    pub last_token: u64,
    pub sequence: u64,
    pub beats: Option<Beats>,
}

/// When workers were heard of, in ms.
#[derive(Clone, Copy)]
pub(super) struct Beats {
    /// Without a gap of a lease since.
    since_ms: u64,
    last_ms: u64,
}

impl Pool {
    pub(super) fn new(leases: Leases) -> Self {
        Self {
            leases,
            now_us: 0,
            rows: BTreeMap::new(),
            claims: BTreeMap::new(),
            known: BTreeMap::new(),
            settings: None,
            last_token: 0,
            sequence: 0,
            beats: None,
        }
    }

    /// Moves time on and sweeps what is dead by then.
    pub(super) fn advance(&mut self, now_us: u64) {
        self.now_us = now_us;
        let now_ms = self.now_ms();
        self.rows.retain(|_, entry| entry.expires_ms > now_ms);
        self.known.retain(|_, until_ms| *until_ms > now_ms);
        let rows = &self.rows;
        self.claims.retain(|_, record| record.deadline_ms > now_ms && rows.contains_key(&record.gpu_id));
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.now_us / 1_000
    }

    pub(super) fn held_until_ms(&self) -> u64 {
        self.now_ms() + self.leases.held.as_millis() as u64
    }

    /// The settings in force. Rows exist only where settings do, so the default never decides anything.
    pub(super) fn settings(&self) -> Settings {
        self.settings.clone().unwrap_or_default()
    }

    /// Live claims on this GPU, offered ones included.
    pub(super) fn load(&self, gpu_id: &GpuId) -> u64 {
        self.claims.values().filter(|record| record.gpu_id == *gpu_id).count() as u64
    }

    pub(super) fn heartbeat(&mut self, heartbeat: &Heartbeat) -> Beat {
        if self.settings.as_ref().is_none_or(|settings| settings.version < heartbeat.settings.version) {
            self.settings = Some(heartbeat.settings.clone());
        }
        self.note_beat();
        self.write_row(&heartbeat.row);
        let lost = heartbeat.held.iter().filter(|held| !self.keep(&heartbeat.row, held)).map(|held| held.task_id.clone()).collect();
        let settings = self.settings();
        Beat { draining: settings.draining.contains(&heartbeat.row.gpu.gpu_id), settings, lost }
    }

    fn note_beat(&mut self) {
        let since_ms = self.beats.filter(|beats| !self.is_gap(*beats)).map_or(self.now_ms(), |beats| beats.since_ms);
        self.beats = Some(Beats { since_ms, last_ms: self.now_ms() });
    }

    fn is_gap(&self, beats: Beats) -> bool {
        self.now_ms() > beats.last_ms + self.leases.held.as_millis() as u64 || self.now_ms() < beats.last_ms
    }

    pub(super) fn steady(&self) -> Duration {
        let beats = self.beats.filter(|beats| !self.is_gap(*beats));
        beats.map_or(Duration::ZERO, |beats| Duration::from_millis(self.now_ms().saturating_sub(beats.since_ms)))
    }

    fn write_row(&mut self, row: &GpuRow) {
        let gpu_id = &row.gpu.gpu_id;
        if self.rows.get(gpu_id).is_some_and(|entry| entry.row.incarnation != row.incarnation) {
            self.remove(gpu_id);
        }
        let sequence = self.rows.get(gpu_id).map_or(0, |entry| entry.sequence);
        let entry = Entry { row: row.clone(), expires_ms: self.held_until_ms(), sequence, sent_to_wait: 0 };
        self.rows.insert(gpu_id.clone(), entry);
        self.known.insert(gpu_id.clone(), self.now_ms() + KNOWN_FOR.as_millis() as u64);
    }

    /// Renews a claim that its worker names, or restores it. False: a newer claim has taken the task over.
    fn keep(&mut self, row: &GpuRow, held: &HeldClaim) -> bool {
        self.last_token = self.last_token.max(held.token.0);
        let deadline_ms = self.held_until_ms();
        match self.claims.get_mut(&held.task_id) {
            Some(record) if record.token > held.token => return false,
            Some(record) if record.token == held.token => {
                if record.state == State::Held {
                    record.deadline_ms = record.deadline_ms.max(deadline_ms);
                }
                return true;
            }
            _ => {}
        }
        let used = self.settings().default_strategy;
        let record = Record {
            gpu_id: row.gpu.gpu_id.clone(),
            token: held.token,
            state: State::Held,
            deadline_ms,
            attempt: held.attempt,
            incarnation: row.incarnation.clone(),
            delivery: held.delivery,
            choice: Choice { used, requested: None, fallback: None },
        };
        self.claims.insert(held.task_id.clone(), record);
        true
    }

    /// Removes a row; its claims end.
    fn remove(&mut self, gpu_id: &GpuId) {
        self.rows.remove(gpu_id);
        self.claims.retain(|_, record| record.gpu_id != *gpu_id);
    }

    pub(super) fn leave(&mut self, gpu_id: &GpuId, incarnation: &Incarnation) {
        if self.rows.get(gpu_id).is_some_and(|entry| entry.row.incarnation == *incarnation) {
            self.remove(gpu_id);
        }
    }

    pub(super) fn release(&mut self, task_id: &TaskId, token: Token) -> bool {
        let ours = self.claims.get(task_id).is_some_and(|record| record.token == token);
        if ours {
            self.claims.remove(task_id);
        }
        ours
    }

    /// An offer is never renewed: it is taken up, or it lapses.
    pub(super) fn renew(&mut self, task_id: &TaskId, token: Token) -> bool {
        let deadline_ms = self.held_until_ms();
        let record = self.claims.get_mut(task_id).filter(|record| record.token == token && record.state == State::Held);
        record.map(|record| record.deadline_ms = record.deadline_ms.max(deadline_ms)).is_some()
    }

    pub(super) fn views(&self) -> Vec<GpuView> {
        let settings = self.settings();
        let view = |(gpu_id, entry): (&GpuId, &Entry)| GpuView {
            row: entry.row.clone(),
            held: self.load(gpu_id) as u32,
            draining: settings.draining.contains(gpu_id),
            eligible: is_open(&entry.row, &settings),
            expires_in_ms: entry.expires_ms - self.now_ms(),
        };
        self.rows.iter().map(view).collect()
    }

    pub(super) fn known(&self) -> Vec<GpuId> {
        self.known.keys().cloned().collect()
    }

    pub(super) fn settings_or(&mut self, initial: &Settings) -> Settings {
        self.settings.get_or_insert_with(|| initial.clone()).clone()
    }

    pub(super) fn change_settings(&mut self, settings: &Settings) -> Settings {
        if self.settings.as_ref().is_none_or(|current| current.version == settings.version) {
            self.settings = Some(Settings { version: settings.version + 1, ..settings.clone() });
        }
        self.settings()
    }
}
