//! What is on the page, and what keys do to it.

use protocol::{
    GpuId, TaskId,
    gpu::GpuView,
    insight::{Overview, TaskPage},
};
use ratatui::{
    crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    widgets::TableState,
};

use super::rows::{Panel, Row, rows};

/// The fleet as it was seen once.
#[derive(Debug, Clone)]
pub(super) struct Shot {
    pub(super) overview: Overview,
    pub(super) gpus: Vec<GpuView>,
    /// The running tasks, or why they are not shown.
    pub(super) running: Result<TaskPage, String>,
}

/// What the fleet is to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    Why(TaskId),
    Drain(GpuId),
    Undrain(GpuId),
}

/// What comes of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    Stay,
    End,
    Ask(Ask),
}

/// A page above the others: what is said of one task.
#[derive(Debug, Clone, Default)]
pub(super) struct Page {
    pub(super) lines: Vec<String>,
    pub(super) scroll: u16,
}

/// The line at the bottom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Footer {
    Keys,
    /// What was done, or asked.
    Told(String),
    /// What went wrong.
    Fault(String),
    /// A question, and what is asked of the fleet if the answer is yes.
    Question(String, Ask),
}

/// A table: how it is sorted, what is chosen, and how many rows were seen of it.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) order: usize,
    /// The id of the row that is chosen. It stays chosen wherever its row moves.
    chosen: Option<String>,
    pub(super) state: TableState,
    /// Rows that the last picture had place for.
    pub(super) seen: usize,
}

/// The page.
pub(super) struct Screen {
    pub(super) shot: Shot,
    /// Where the fleet is.
    pub(super) place: String,
    pub(super) panel: Panel,
    pub(super) tables: [Table; 3],
    pub(super) page: Option<Page>,
    pub(super) footer: Footer,
    /// Why what is shown is old.
    pub(super) away: Option<String>,
    is_paused: bool,
    changed: bool,
}

impl Screen {
    pub(super) fn new(shot: Shot, place: String) -> Self {
        let tables = std::array::from_fn(|_| Table::default());
        let mut screen =
            Self { shot, place, panel: Panel::Gpus, tables, page: None, footer: Footer::Keys, away: None, is_paused: false, changed: true };
        screen.find_chosen();
        screen
    }

    /// Whether it must be drawn anew; asking makes it as drawn.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::replace(&mut self.changed, false)
    }

    pub(super) const fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// A new shot, or why there is none.
    pub(super) fn show(&mut self, looked: Result<Shot, String>) {
        // A shot that was under way when somebody paused would move what he looks at.
        if self.is_paused {
            return;
        }
        self.changed = true;
        match looked {
            Ok(shot) => (self.shot, self.away) = (shot, None),
            Err(why) => self.away = Some(why),
        }
        self.find_chosen();
    }

    /// What became of something that was asked.
    pub(super) fn tell(&mut self, what: String, told: Result<String, String>) {
        self.changed = true;
        self.footer = match told {
            Ok(told) => Footer::Told(told),
            Err(why) => Footer::Fault(format!("{what}: {why}")),
        };
    }

    /// What is said of a task.
    pub(super) fn explain(&mut self, lines: Vec<String>) {
        self.changed = true;
        self.footer = Footer::Keys;
        self.page = Some(Page { lines, scroll: 0 });
    }

    /// The rows of a panel, as they are sorted.
    pub(super) fn rows(&self, panel: Panel) -> Vec<Row> {
        rows(&self.shot, panel, self.tables[panel.place()].order)
    }

    /// A key, or a new size.
    pub(super) fn take(&mut self, event: &Event) -> Next {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                self.changed = true;
                self.take_key(key)
            }
            Event::Resize(..) => {
                self.changed = true;
                Next::Stay
            }
            _ => Next::Stay,
        }
    }

    fn take_key(&mut self, key: &KeyEvent) -> Next {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if matches!(key.code, KeyCode::Char('c')) { Next::End } else { Next::Stay };
        }
        if let Footer::Question(_, ask) = &self.footer {
            let ask = ask.clone();
            let is_yes = matches!(key.code, KeyCode::Char('y' | 'Y'));
            self.footer = Footer::Told(if is_yes { "asked …" } else { "nothing was done" }.to_owned());
            return if is_yes { Next::Ask(ask) } else { Next::Stay };
        }
        if let Some(page) = &mut self.page {
            match key.code {
                KeyCode::Up | KeyCode::Char('k') => page.scroll = page.scroll.saturating_sub(1),
                KeyCode::Down | KeyCode::Char('j') => page.scroll = page.scroll.saturating_add(1),
                KeyCode::PageUp => page.scroll = page.scroll.saturating_sub(10),
                KeyCode::PageDown => page.scroll = page.scroll.saturating_add(10),
                _ => self.page = None,
            }
            return Next::Stay;
        }
        self.footer = Footer::Keys;
        self.take_key_of_tables(key.code)
    }

    fn take_key_of_tables(&mut self, code: KeyCode) -> Next {
        let page = self.tables[self.panel.place()].seen.max(1);
        match code {
            KeyCode::Char('q') | KeyCode::Esc => return Next::End,
            KeyCode::Tab | KeyCode::Right => self.panel = self.panel.next(),
            KeyCode::BackTab | KeyCode::Left => self.panel = self.panel.previous(),
            KeyCode::Up | KeyCode::Char('k') => self.choose(|at, _| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.choose(|at, _| at + 1),
            KeyCode::PageUp => self.choose(|at, _| at.saturating_sub(page)),
            KeyCode::PageDown => self.choose(|at, _| at + page),
            KeyCode::Home | KeyCode::Char('g') => self.choose(|_, _| 0),
            KeyCode::End | KeyCode::Char('G') => self.choose(|_, last| last),
            KeyCode::Char('p') => self.is_paused = !self.is_paused,
            KeyCode::Char('s') => {
                let table = &mut self.tables[self.panel.place()];
                table.order = (table.order + 1) % self.panel.orders().len();
                self.find_chosen();
            }
            KeyCode::Char('d') => self.question("Drain", "it takes no new tasks, what runs there ends", Ask::Drain),
            KeyCode::Char('u') => self.question("Undrain", "it takes tasks again", Ask::Undrain),
            KeyCode::Enter => return self.why(),
            _ => {}
        }
        Next::Stay
    }

    /// Chooses another row: from its place and the last one.
    fn choose(&mut self, place: impl Fn(usize, usize) -> usize) {
        let rows = self.rows(self.panel);
        let table = &mut self.tables[self.panel.place()];
        let Some(last) = rows.len().checked_sub(1) else { return };
        let chosen = place(table.state.selected().unwrap_or(0), last).min(last);
        table.state.select(Some(chosen));
        table.chosen = rows.get(chosen).map(|row| row.id.clone());
    }

    /// Finds the rows that are chosen, wherever they moved. What is gone hands its place to the row that is there now.
    fn find_chosen(&mut self) {
        for panel in Panel::ALL {
            let rows = self.rows(panel);
            let table = &mut self.tables[panel.place()];
            let Some(last) = rows.len().checked_sub(1) else {
                table.state.select(None);
                continue;
            };
            let found = table.chosen.as_ref().and_then(|id| rows.iter().position(|row| row.id == *id));
            let at = found.unwrap_or_else(|| table.state.selected().unwrap_or(0).min(last));
            table.state.select(Some(at));
            if found.is_none() && table.chosen.is_some() {
                table.chosen = rows.get(at).map(|row| row.id.clone());
            }
        }
    }

    /// The id of the row that is chosen in the panel at hand.
    fn chosen(&self) -> Option<String> {
        let at = self.tables[self.panel.place()].state.selected()?;
        Some(self.rows(self.panel).get(at)?.id.clone())
    }

    fn question(&mut self, verb: &str, means: &str, ask: impl FnOnce(GpuId) -> Ask) {
        let gpu_id = match self.panel {
            Panel::Gpus => self.chosen().and_then(|id| GpuId::new(id).ok()),
            Panel::Kinds | Panel::Tasks => None,
        };
        self.footer = match gpu_id {
            Some(gpu_id) => Footer::Question(format!("{verb} {gpu_id}: {means}? y/n"), ask(gpu_id)),
            None => Footer::Told("choose a GPU first: Tab goes to the GPUs, arrows choose one".to_owned()),
        };
    }

    fn why(&mut self) -> Next {
        let task_id = match self.panel {
            Panel::Tasks => self.chosen().and_then(|id| TaskId::read(id).ok()),
            Panel::Gpus | Panel::Kinds => None,
        };
        match task_id {
            Some(task_id) => {
                self.footer = Footer::Told(format!("asks why {task_id} is where it is …"));
                Next::Ask(Ask::Why(task_id))
            }
            None => {
                self.footer =
                    Footer::Told("choose a task first: Tab goes to the running tasks; `gpufleet why ID` tells of others".to_owned());
                Next::Stay
            }
        }
    }
}

#[cfg(test)]
mod tests;
