//! The table of `gpufleet gpus`, as wide as there is place for.
//!
//! Where place is short, long ids and states are cut first, then columns are left out, the least important first; the last line says so.

use protocol::{DataState, gpu::GpuView};

use super::{capability, state};
use crate::output;

const HEADER: [&str; 15] = [
    "#",
    "GPU",
    "NAME",
    "CC",
    "HOST",
    "STATE",
    "SLOTS",
    "WAITING",
    "MEMORY MB",
    "TENSORS",
    "UTIL %",
    "TEMP °C",
    "POWER W",
    "CLOCK MHZ",
    "AGE MS",
];
/// The columns that are left out, in this order. All are on the page of a single GPU.
const LEFT_OUT: [&str; 11] =
    ["AGE MS", "CLOCK MHZ", "CC", "POWER W", "TENSORS", "NAME", "TEMP °C", "HOST", "WAITING", "UTIL %", "MEMORY MB"];

/// Letters of an id that are kept at its beginning, by which a GPU may be named, and at its end.
const ID_KEPT: [usize; 2] = [12, 4];
/// The longest state where place is short, and where it is very short.
const STATE_MAX: [usize; 2] = [24, 11];
/// Stands for what was cut.
const CUT: char = '…';

/// The rows and their columns' names.
struct Columns {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

/// The table of these GPUs, at most `width` columns of letters wide if that is possible; `None`: with everything.
pub(super) fn table(views: &[GpuView], width: Option<usize>) -> String {
    let mut columns = Columns { header: HEADER.to_vec(), rows: views.iter().enumerate().map(row).collect() };
    let Some(width) = width else { return columns.text() };
    let fits = |columns: &Columns| columns.width() <= width;
    if !fits(&columns) {
        columns.change("GPU", shortened);
        columns.change("STATE", |state| output::cut(state, STATE_MAX[0]));
    }
    let mut left_out = 0;
    for name in LEFT_OUT {
        if fits(&columns) {
            break;
        }
        columns.leave_out(name);
        left_out += 1;
    }
    if !fits(&columns) {
        columns.change("STATE", |state| output::cut(state, STATE_MAX[1]));
    }
    match left_out {
        0 => columns.text(),
        1 => format!("{}\n1 column is left out; --wide shows it", columns.text()),
        count => format!("{}\n{count} columns are left out; --wide shows them", columns.text()),
    }
}

impl Columns {
    fn text(&self) -> String {
        output::table_text(&self.header, &self.rows)
    }

    /// How wide the text is: a frame, and for each column a space on both sides and one between two.
    fn width(&self) -> usize {
        let widest = |(place, name): (usize, &&str)| {
            let cells = self.rows.iter().filter_map(|row| row.get(place)).map(|cell| letters(cell));
            cells.max().unwrap_or(0).max(letters(name))
        };
        let cells: usize = self.header.iter().enumerate().map(widest).sum();
        let count = self.header.len();
        cells + 2 * count + count.saturating_sub(1) + 2
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|column| *column == name)
    }

    fn change(&mut self, name: &str, cut: impl Fn(&str) -> String) {
        let Some(place) = self.place(name) else { return };
        for cell in self.rows.iter_mut().filter_map(|row| row.get_mut(place)) {
            *cell = cut(cell);
        }
    }

    fn leave_out(&mut self, name: &str) {
        let Some(place) = self.place(name) else { return };
        self.header.remove(place);
        for row in &mut self.rows {
            row.remove(place);
        }
    }
}

fn letters(text: &str) -> usize {
    text.chars().count()
}

/// An id without its middle.
fn shortened(id: &str) -> String {
    let [beginning, end] = ID_KEPT;
    let count = letters(id);
    if count <= beginning + 1 + end {
        return id.to_owned();
    }
    let kept = |from: usize, many: usize| id.chars().skip(from).take(many);
    kept(0, beginning).chain([CUT]).chain(kept(count - end, end)).collect()
}

fn row((number, view): (usize, &GpuView)) -> Vec<String> {
    let GpuView { row, held, .. } = view;
    let sample = &row.sample;
    vec![
        number.to_string(),
        row.gpu.gpu_id.to_string(),
        row.gpu.name.clone(),
        capability(row.gpu.compute_capability),
        row.host.clone(),
        state(view),
        format!("{held}/{}", row.slots),
        row.waiting.to_string(),
        format!("{}/{}", sample.memory_used_mb, row.gpu.memory_total_mb),
        tensors(&row.data),
        format!("{:.0}", sample.utilization_percent),
        format!("{:.0}", sample.temperature_celsius),
        format!("{:.0}", sample.power_watts),
        format!("{:.0}", sample.sm_clock_mhz),
        sample.age_ms.to_string(),
    ]
}

/// How many there are, and what they take of the GPU's memory.
fn tensors(data: &DataState) -> String {
    if data.tensors == 0 { "0".to_owned() } else { format!("{}, {} MB", data.tensors, data.tensor_mb) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use protocol::{GpuDescription, GpuId, GpuRow, GpuSample, Health, Incarnation, PoolName, gpu::Hardware, task::ComputeCapability};

    use super::*;

    fn view(id: &str, health: Health, reason: &str) -> GpuView {
        let row = GpuRow {
            gpu: GpuDescription {
                gpu_id: GpuId::new(id).expect("valid"),
                name: "NVIDIA H200".to_owned(),
                memory_total_mb: 150_754,
                compute_capability: ComputeCapability { major: 9, minor: 0 },
                hardware: Hardware::default(),
            },
            sample: GpuSample { memory_used_mb: 120_000, sm_clock_mhz: 1_980.0, age_ms: 512, ..GpuSample::default() },
            pool: PoolName::default(),
            incarnation: Incarnation::new("i").expect("valid"),
            host: "a-host-with-a-long-name".to_owned(),
            slots: 8,
            health,
            health_reason: reason.to_owned(),
            consuming: true,
            stopping: false,
            kinds: Vec::new(),
            models: Vec::new(),
            model_state: Default::default(),
            data: Default::default(),
            servers: Default::default(),
            emptied: false,
            foreign_utilization_percent: 0.0,
            waiting: 3,
            running: Vec::new(),
            item_ms: BTreeMap::new(),
            kinds_down: BTreeMap::new(),
            run_ms: BTreeMap::new(),
        };
        GpuView { row, held: 4, draining: false, eligible: true, expires_in_ms: 5_000, phase: Default::default() }
    }

    fn views() -> [GpuView; 2] {
        [
            view("GPU-1a2b3c4d-5566-7788-99aa-bbccddeeff00", Health::Healthy, ""),
            view(
                "MIG-0a2b3c4d-5566-7788-99aa-bbccddeeff01",
                Health::Quarantined,
                "three different tasks failed in a row here, the last with Xid 79",
            ),
        ]
    }

    #[test]
    fn the_table_is_no_wider_than_there_is_place_for_and_says_what_is_missing() {
        for width in [60, 80, 100, 120, 160, 300] {
            let text = table(&views(), Some(width));
            let widest = text.lines().map(letters).max().unwrap_or_default();
            assert!(widest <= width, "{widest} in place of {width}:\n{text}");
            assert!(text.contains("GPU-1a2b3c4d") && text.contains("STATE") && text.contains("SLOTS"), "{text}");
        }
        let narrow = table(&views(), Some(80));
        assert!(narrow.contains("GPU-1a2b3c4d…ff00") && narrow.ends_with("columns are left out; --wide shows them"), "{narrow}");
    }

    #[test]
    fn the_width_that_is_reckoned_is_that_of_the_text() {
        let columns = Columns { header: HEADER.to_vec(), rows: views().iter().enumerate().map(row).collect() };
        assert_eq!(columns.text().lines().map(letters).collect::<Vec<_>>(), vec![columns.width(); 6]);
    }

    #[test]
    fn with_all_columns_nothing_is_cut() {
        let wide = table(&views(), None);
        assert!(HEADER.iter().all(|name| wide.contains(name)) && !wide.contains(CUT), "{wide}");
        assert!(wide.contains("GPU-1a2b3c4d-5566-7788-99aa-bbccddeeff00") && wide.contains("the last with Xid 79"), "{wide}");
    }

    #[test]
    fn short_ids_and_states_stay_whole() {
        assert_eq!((shortened("sim-0"), output::cut("healthy", 11)), ("sim-0".to_owned(), "healthy".to_owned()));
        assert_eq!(
            (shortened("GPU-123456789-abcdefg").as_str(), output::cut("quarantined here", 11).as_str()),
            ("GPU-12345678…defg", "quarantine…")
        );
    }
}
