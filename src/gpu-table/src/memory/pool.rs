//! What one pool's table holds: rows, offers, settings, known GPUs; and everything about them but choosing.

use std::{collections::BTreeMap, time::Duration};

use protocol::{Choice, GpuId, GpuRow, Holding, Incarnation, TaskId, TensorName, Unserved, claim::Settings, gpu::GpuView};

use super::{drawing::Draws, kinds::Told, tensors::Named};
use crate::{Beat, Heartbeat, KNOWN_FOR, Leases, Telling, eligibility::is_open};

/// A living GPU.
#[derive(Clone)]
pub(super) struct Entry {
    pub row: GpuRow,
    pub expires_ms: u64,
    /// Slots that its worker holds, as it told last.
    pub held: u32,
    /// The number of that telling.
    pub told: u64,
    /// The number of its last claim in the pool's sequence; 0: none since it joined.
    pub sequence: u64,
    /// Tasks sent to wait in its own queue since its last heartbeat.
    pub sent_to_wait: u64,
}

/// A slot of a GPU that is kept free for a task on its way there.
#[derive(Clone)]
pub(super) struct Offered {
    pub gpu_id: GpuId,
    pub deadline_ms: u64,
    pub choice: Choice,
}

#[derive(Clone)]
pub(super) struct Pool {
    pub leases: Leases,
    pub now_us: u64,
    pub rows: BTreeMap<GpuId, Entry>,
    pub offers: BTreeMap<TaskId, Offered>,
    /// GPU → until when it is known, in ms.
    pub known: BTreeMap<GpuId, u64>,
    pub settings: Option<Settings>,
    pub sequence: u64,
    pub beats: Option<Beats>,
    /// What tasks ask for and nobody serves, by that.
    pub unserved: BTreeMap<String, Unserved>,
    /// The descriptions of kinds, by kind and version.
    pub described: BTreeMap<String, Told>,
    /// The copies of tensors that workers told of, those that do not count included.
    pub tensors: BTreeMap<TensorName, Named>,
    /// The versions that were drawn lately.
    pub drawn: Draws,
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
            offers: BTreeMap::new(),
            known: BTreeMap::new(),
            settings: None,
            sequence: 0,
            beats: None,
            unserved: BTreeMap::new(),
            described: BTreeMap::new(),
            tensors: BTreeMap::new(),
            drawn: Draws::default(),
        }
    }

    /// Moves time on and sweeps what is dead by then.
    pub(super) fn advance(&mut self, now_us: u64) {
        self.now_us = now_us;
        let now_ms = self.now_ms();
        self.rows.retain(|_, entry| entry.expires_ms > now_ms);
        self.known.retain(|_, until_ms| *until_ms > now_ms);
        let rows = &self.rows;
        self.offers.retain(|_, offered| offered.deadline_ms > now_ms && rows.contains_key(&offered.gpu_id));
        self.sweep_unserved();
        self.sweep_described();
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.now_us / 1_000
    }

    /// The settings in force. Rows exist only where settings do, so the default never decides anything.
    pub(super) fn settings(&self) -> Settings {
        self.settings.clone().unwrap_or_default()
    }

    /// Slots of this GPU that are held or offered.
    pub(super) fn load(&self, gpu_id: &GpuId) -> u64 {
        let held = self.rows.get(gpu_id).map_or(0, |entry| u64::from(entry.held));
        held + self.offers.values().filter(|offered| offered.gpu_id == *gpu_id).count() as u64
    }

    /// A worker tells how many slots it holds: `slots` counts, unless it has told something newer.
    pub(super) fn hear(&mut self, gpu_id: &GpuId, incarnation: &Incarnation, holding: Holding, slots: u32) {
        let entry = self.rows.get_mut(gpu_id).filter(|entry| entry.row.incarnation == *incarnation && entry.told <= holding.number);
        if let Some(entry) = entry {
            (entry.held, entry.told) = (slots, holding.number);
        }
    }

    pub(super) fn tell(&mut self, telling: &Telling) {
        if self.rows.get(&telling.gpu_id).is_none_or(|entry| entry.row.incarnation != telling.incarnation) {
            return;
        }
        self.hear(&telling.gpu_id, &telling.incarnation, telling.holding, telling.holding.slots);
        // Even if it is heard late: what has arrived is not on its way any more.
        for task_id in &telling.taken {
            self.end_offer(task_id, &telling.gpu_id);
        }
    }

    /// Ends the offer of a slot of this GPU for this task, if there is one.
    pub(super) fn end_offer(&mut self, task_id: &TaskId, gpu_id: &GpuId) {
        if self.offers.get(task_id).is_some_and(|offered| offered.gpu_id == *gpu_id) {
            self.offers.remove(task_id);
        }
    }

    pub(super) fn heartbeat(&mut self, heartbeat: &Heartbeat) -> Beat {
        if self.settings.as_ref().is_none_or(|settings| settings.version < heartbeat.settings.version) {
            self.settings = Some(heartbeat.settings.clone());
        }
        self.note_beat();
        self.write_row(&heartbeat.row, heartbeat.holding);
        for task_id in &heartbeat.taken {
            self.end_offer(task_id, &heartbeat.row.gpu.gpu_id);
        }
        let settings = self.settings();
        Beat { draining: settings.draining.contains(&heartbeat.row.gpu.gpu_id), settings }
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

    fn write_row(&mut self, row: &GpuRow, holding: Holding) {
        let gpu_id = &row.gpu.gpu_id;
        if self.rows.get(gpu_id).is_some_and(|entry| entry.row.incarnation != row.incarnation) {
            self.remove(gpu_id);
        }
        let expires_ms = self.now_ms() + self.leases.held.as_millis() as u64;
        let (held, told, sequence) = self.rows.get(gpu_id).map_or((0, 0, 0), |old| (old.held, old.told, old.sequence));
        self.rows.insert(gpu_id.clone(), Entry { row: row.clone(), expires_ms, held, told, sequence, sent_to_wait: 0 });
        self.hear(gpu_id, &row.incarnation, holding, holding.slots);
        self.known.insert(gpu_id.clone(), self.now_ms() + KNOWN_FOR.as_millis() as u64);
    }

    /// Removes a row; offers to it end.
    fn remove(&mut self, gpu_id: &GpuId) {
        self.rows.remove(gpu_id);
        self.offers.retain(|_, offered| offered.gpu_id != *gpu_id);
    }

    pub(super) fn leave(&mut self, gpu_id: &GpuId, incarnation: &Incarnation) {
        if self.rows.get(gpu_id).is_some_and(|entry| entry.row.incarnation == *incarnation) {
            self.remove(gpu_id);
        }
    }

    pub(super) fn views(&self) -> Vec<GpuView> {
        let settings = self.settings();
        let view = |(gpu_id, entry): (&GpuId, &Entry)| {
            let (held, draining) = (self.load(gpu_id) as u32, settings.draining.contains(gpu_id));
            GpuView {
                row: entry.row.clone(),
                held,
                draining,
                eligible: is_open(&entry.row, &settings),
                expires_in_ms: entry.expires_ms - self.now_ms(),
                phase: GpuView::phase_of(&entry.row, held, draining),
            }
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
