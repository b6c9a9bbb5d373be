//! `gpufleet kinds`: what the fleet serves, or all that is known of one kind.

use std::{fmt::Display, process::ExitCode};

use protocol::{Json, Kind, KindView, PoolName, Refusal, TaskBody, payload_schema::example};

use crate::{
    arguments::Common,
    fault::Fault,
    fleet::{Fleet, GatewayUrl, Kinds},
    gpus::one_line,
    output,
};

const HEADER: [&str; 5] = ["KIND", "GPUS", "RUN MS", "BATCH", "ABOUT"];
/// The least letters of a sentence that are shown, however narrow the terminal is.
const ABOUT_MIN: usize = 20;
/// The least letters that are shown of how many GPUs serve a kind, and why others do not.
const GPUS_MIN: usize = 12;
/// The places of the columns that are cut.
const GPUS: usize = 1;
const ABOUT: usize = 4;

/// Shows the kinds of the pool, or one of them.
pub(crate) async fn run(common: &Common, kind: Option<&Kind>) -> Result<ExitCode, Fault> {
    let fleet = Fleet::to_ask(common)?;
    let (pool, kinds) = fleet.kinds().await?;
    match kind {
        Some(kind) => {
            let view = named(&pool, &kinds, kind)?;
            if common.json { output::json(view)? } else { output::line(&described(view, fleet.gateway_url()))? }
        }
        None if common.json => output::json(&kinds)?,
        None if kinds.is_empty() => output::line(&format!("no GPU serves the pool {pool}; start one with `gpufleet worker`"))?,
        None => output::line(&output::table_of_sentences(&HEADER, &rows(&kinds, output::width())))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn named<'a>(pool: &PoolName, kinds: &'a [KindView], kind: &Kind) -> Result<&'a KindView, Fault> {
    kinds.iter().find(|view| view.kind == *kind).ok_or_else(|| {
        let there: Vec<&str> = kinds.iter().map(|view| view.kind.as_str()).collect();
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        Fault::NotFound(format!("no living GPU of pool {pool} has a kind {kind}; there are {there}"))
    })
}

/// The table's rows. Reasons and sentences are cut so that the table is at most `width` columns of letters wide, if that is possible; a reason has at most half of what is left for both.
fn rows(kinds: &[KindView], width: usize) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = kinds.iter().map(row).collect();
    let letters = |text: &str| text.chars().count();
    let widest = |column: usize| rows.iter().map(|row| letters(&row[column])).max().unwrap_or(0).max(letters(HEADER[column]));
    // A frame, and for each column a space on both sides and one between two.
    let others = (0..HEADER.len()).filter(|column| ![GPUS, ABOUT].contains(column)).map(widest).sum::<usize>() + 3 * HEADER.len() + 1;
    let left = width.saturating_sub(others);
    let gpus = widest(GPUS).min((left / 2).max(left.saturating_sub(widest(ABOUT))).max(GPUS_MIN));
    let about = left.saturating_sub(gpus).max(ABOUT_MIN);
    for row in &mut rows {
        row[GPUS] = output::cut(&row[GPUS], gpus);
        row[ABOUT] = output::cut(&row[ABOUT], about);
    }
    rows
}

fn row(view: &KindView) -> Vec<String> {
    let differs = if view.differs { " (workers of several versions)" } else { "" };
    vec![
        view.kind.to_string(),
        gpus(view),
        view.run_ms.map_or_else(String::new, |run| milliseconds(run.median)),
        view.batch_largest.map_or_else(String::new, |largest| largest.to_string()),
        format!("{}{differs}", view.about),
    ]
}

/// How many GPUs serve it: `4`, or `3 of 4: why`.
fn gpus(view: &KindView) -> String {
    let serving = view.gpus.len();
    match view.gpus_down.values().next() {
        Some(why) => format!("{serving} of {}: {}", serving + view.gpus_down.len(), one_line(why)),
        None => serving.to_string(),
    }
}

/// All that is known of a kind, a line for each thing; then its schema, and a payload to begin with.
fn described(view: &KindView, gateway: Option<&GatewayUrl>) -> String {
    let listed = |ids: Vec<&str>| if ids.is_empty() { "none".to_owned() } else { ids.join(", ") };
    let mut lines = vec![
        ("kind", view.kind.to_string()),
        ("about", if view.about.is_empty() { "nobody says what it does".to_owned() } else { view.about.clone() }),
        ("served by", listed(view.gpus.iter().map(|id| id.as_str()).collect())),
    ];
    lines.extend(view.gpus_down.iter().map(|(gpu_id, why)| ("not by", format!("{gpu_id}: {}", below(why)))));
    let run = view
        .run_ms
        .map(|run| format!("{} ms on the middle GPU, {} ms on the fastest", milliseconds(run.median), milliseconds(run.smallest)));
    lines.push(("a run takes", run.unwrap_or_else(|| "not known yet".to_owned())));
    let batch = view.batch_largest.map(|largest| format!("up to {largest} payloads run together"));
    lines.push(("batch", batch.unwrap_or_else(|| "each payload runs by itself".to_owned())));
    if view.differs {
        lines.push(("versions", "workers of several versions serve it; what follows is what the newest says".to_owned()));
    }
    let mut text = lines.into_iter().map(|(name, text)| format!("{name:<14}{text}")).collect::<Vec<_>>().join("\n");
    match &view.schema {
        Some(schema) => {
            text.push_str(&format!("\n\npayload, as JSON Schema:\n{}", indented(schema)));
            text.push_str(&format!("\n\nfor example:\n{}", submit_line(&view.kind, &example(schema), gateway)));
        }
        None => text.push_str("\n\nthe schema of its payload is not known"),
    }
    text
}

/// A reason with its lines below each other, in the second column.
fn below(reason: &str) -> String {
    let clean: String = reason.trim_end().chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    clean.replace('\n', &format!("\n{:14}", ""))
}

/// A time with as many digits as say something: `1234`, `12.5`, `0.03`.
fn milliseconds(ms: f64) -> String {
    let rounded = match ms {
        ms if ms < 0.01 => return "< 0.01".to_owned(),
        ms if ms < 10.0 => format!("{ms:.2}"),
        ms if ms < 100.0 => format!("{ms:.1}"),
        ms => return format!("{ms:.0}"),
    };
    rounded.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn indented(schema: &Json) -> String {
    let value = schema.to::<serde_json::Value>().ok();
    value.and_then(|value| serde_json::to_string_pretty(&value).ok()).unwrap_or_else(|| schema.to_string())
}

/// A command that submits a task of the kind and waits for it, for a shell.
pub(crate) fn submit_line(kind: &Kind, payload: &Json, url: Option<&impl Display>) -> String {
    let url = url.map(|url| format!(" --url {url}")).unwrap_or_default();
    format!("gpufleet submit {kind} --payload '{}' --wait{url}", quoted(payload))
}

/// A payload between the single quotes of a shell.
fn quoted(payload: &Json) -> String {
    payload.as_str().replace('\'', r"'\''")
}

/// What a command that submits to the fleet's servers checks payloads by. A gateway does so by itself.
#[derive(Default)]
pub(crate) struct PayloadCheck {
    kinds: Option<Kinds>,
}

impl PayloadCheck {
    /// Asks the table once, where payloads are to be checked. Where it does not answer, nothing is checked.
    pub(crate) async fn of(fleet: &Fleet) -> Result<Self, Fault> {
        Ok(Self { kinds: fleet.schemas().await? })
    }

    /// Refuses a body that does not fit its kind's schema.
    pub(crate) fn check(&self, kind: &Kind, body: &TaskBody) -> Result<(), Refusal> {
        self.kinds.as_ref().map_or(Ok(()), |known| known.check(kind, body))
    }
}

#[cfg(test)]
mod tests {
    use protocol::{GpuId, RunTime};
    use serde_json::json;

    use super::*;

    fn view(kind: &str, gpus: &[&str], down: &[(&str, &str)]) -> KindView {
        let id = |id: &str| GpuId::new(id).expect("an id");
        KindView {
            kind: kind.parse().expect("a kind"),
            about: "vectors of texts".to_owned(),
            schema: None,
            gpus: gpus.iter().map(|gpu| id(gpu)).collect(),
            gpus_down: down.iter().map(|(gpu, why)| (id(gpu), (*why).to_owned())).collect(),
            run_ms: None,
            batch_largest: None,
            differs: false,
        }
    }

    #[test]
    fn a_row_says_how_many_gpus_serve_the_kind_and_why_others_do_not() {
        assert_eq!(row(&view("embed", &["a", "b"], &[])), ["embed", "2", "", "", "vectors of texts"]);
        let known = KindView {
            run_ms: Some(RunTime { smallest: 1.0, median: 2.5 }),
            batch_largest: Some(32),
            differs: true,
            ..view("embed", &["a"], &[("b", "its handler starts")])
        };
        let about = "vectors of texts (workers of several versions)";
        assert_eq!(row(&known), ["embed", "1 of 2: its handler starts", "2.5", "32", about]);
    }

    #[test]
    fn sentences_are_cut_where_the_terminal_is_narrow() {
        let kinds = [KindView { about: "a".repeat(100), ..view("embed", &["a"], &[]) }];
        assert_eq!(rows(&kinds, 1_000)[0][4].chars().count(), 100);
        let cut = &rows(&kinds, 80)[0][4];
        assert!(cut.ends_with('…') && cut.chars().count() < 60, "{cut}");
        assert_eq!(rows(&kinds, 0)[0][4].chars().count(), ABOUT_MIN);
    }

    #[test]
    fn a_long_reason_makes_the_table_no_wider_than_the_terminal_and_is_whole_on_the_page_of_its_kind() {
        let traceback = format!("setup failed:\n  File \"a.py\"\n{}", "x".repeat(300));
        let kinds = [view("embed", &["a"], &[("b", &traceback)]), KindView { about: "short".to_owned(), ..view("echo", &["a", "b"], &[]) }];
        let table = output::table_of_sentences(&HEADER, &rows(&kinds, 80));
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        assert!(table.contains(" 1 of 2: setup failed: ") && table.contains(" short   "), "{table}");
        assert_eq!(table.lines().count(), 6, "one line for each kind: {table}");
        let page = described(&kinds[0], None);
        assert!(page.contains("not by        b: setup failed:\n                File \"a.py\"\n              xxx"), "{page}");
        assert!(page.contains(&"x".repeat(300)), "{page}");
    }

    #[test]
    fn times_are_told_with_the_digits_that_say_something() {
        let told = [0.0, 0.0327, 0.5, 2.5, 12.34, 1234.56].map(milliseconds);
        assert_eq!(told, ["< 0.01", "0.03", "0.5", "2.5", "12.3", "1235"]);
    }

    #[test]
    fn one_kind_is_described_with_its_schema_and_an_example_for_a_shell() {
        let schema = json!({"type": "object", "properties": {"text": {"examples": ["it's"]}}, "required": ["text"]});
        let text = described(&KindView { schema: Some(schema.into()), ..view("embed", &["a"], &[("b", "it drains")]) }, None);
        for part in ["served by     a", "not by        b: it drains", "a run takes   not known yet", "\"required\": [\n"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.ends_with(r#"gpufleet submit embed --payload '{"text":"it'\''s"}' --wait"#), "{text}");
        let url = "http://h:80".parse().expect("a URL");
        let asked = described(&KindView { schema: Some(json!({"type": "null"}).into()), ..view("embed", &["a"], &[]) }, Some(&url));
        assert!(asked.ends_with("gpufleet submit embed --payload 'null' --wait --url http://h:80"), "{asked}");
        assert!(described(&view("embed", &[], &[]), None).contains("the schema of its payload is not known"));
    }

    #[test]
    fn a_kind_that_is_not_there_is_not_found() {
        let kinds = [view("echo", &["a"], &[])];
        let fault = named(&PoolName::default(), &kinds, &"ecko".parse().expect("a kind")).expect_err("not there");
        assert!(matches!(&fault, Fault::NotFound(told) if told.ends_with("there are echo")), "{fault:?}");
    }
}
