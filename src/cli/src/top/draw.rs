//! The picture of the page.

use protocol::insight::{Holdup, Overview, PriorityWait};
use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    text::{Line, Span, Text},
    widgets::{Block, Borders, Cell, Clear, Paragraph, Row, Table, Wrap},
};

use super::{
    rows::{Column, Panel},
    screen::{Footer, Page, Screen},
    theme::{Theme, Tone},
};
use crate::{
    harmless::harmless_line,
    words::{rate, span, time_of_day},
};

/// On terminals with so many rows all tables are shown below each other.
const TALL: u16 = 44;
/// Rows of the part above the tables.
const HEAD: u16 = 7;
/// Below this there is no place for anything that makes sense.
const LEAST: (u16, u16) = (40, 12);

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, screen: &mut Screen, theme: Theme) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!("{}x{} is too small: make it {}x{} at least; q ends", area.width, area.height, LEAST.0, LEAST.1);
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        return;
    }
    let [head, body, foot] = Layout::vertical([Constraint::Length(HEAD), Constraint::Min(0), Constraint::Length(1)]).areas(area);
    frame.render_widget(Paragraph::new(head_text(screen, theme, head.width)), head);
    if area.height >= TALL {
        let parts = Layout::vertical([Constraint::Fill(2), Constraint::Fill(1), Constraint::Fill(2)]).areas::<3>(body);
        for (panel, part) in Panel::ALL.into_iter().zip(parts) {
            draw_panel(frame, (screen, theme), panel, part);
        }
    } else {
        let panel = screen.panel;
        draw_panel(frame, (screen, theme), panel, body);
    }
    frame.render_widget(footer(screen, theme), foot);
    if let Some(page) = &mut screen.page {
        draw_page(frame, theme, page);
    }
}

/// Where, and when; the verdict in two rows; what waits; rates; GPUs.
fn head_text(screen: &Screen, theme: Theme, width: u16) -> Text<'static> {
    let overview = &screen.shot.overview;
    let paused = if screen.is_paused() { "  PAUSED" } else { "" };
    let at: String = time_of_day(overview.at_ms).chars().take(8).collect();
    let title = format!("gpufleet top  pool {}  {}  {at} UTC{paused}", overview.pool, screen.place);
    let tone = match (&screen.away, overview.verdict.holdup) {
        (Some(_), _) => Tone::Bad,
        (None, Holdup::Nothing) => Tone::Good,
        (None, _) => Tone::Warning,
    };
    let sentence = match &screen.away {
        Some(why) => format!("No answer, this is how it was: {why}"),
        None => overview.verdict.sentence.clone(),
    };
    let mut lines = vec![Line::styled(safe(&title), theme.title())];
    lines.extend(in_rows(&safe(&sentence), usize::from(width)).map(|row| Line::styled(row, theme.style(tone))));
    lines.push(Line::raw(oldest(&overview.oldest_waiting)));
    lines.push(Line::raw(queue(overview)));
    lines.push(Line::raw(rates(overview)));
    lines.push(Line::raw(gpus(overview)));
    Text::from(lines)
}

/// A sentence in two rows, broken between words; what is beyond is cut.
fn in_rows(sentence: &str, width: usize) -> [String; 2] {
    let letters: Vec<char> = sentence.chars().collect();
    if letters.len() <= width {
        return [sentence.to_owned(), String::new()];
    }
    let first = letters[..width].iter().rposition(|c| *c == ' ').filter(|at| *at > width / 2).unwrap_or(width);
    let rest: String = letters[first..].iter().collect();
    let rest = rest.trim_start();
    let second = if rest.chars().count() > width { rest.chars().take(width - 1).chain(['…']).collect() } else { rest.to_owned() };
    [letters[..first].iter().collect(), second]
}

fn oldest(waits: &[PriorityWait]) -> String {
    let one = |wait: &PriorityWait| format!("p{} {} ({})", wait.priority, span(wait.oldest_ms as f64), wait.waiting);
    let listed: Vec<String> = waits.iter().map(one).collect();
    if listed.is_empty() { "oldest waiting: no task waits".to_owned() } else { format!("oldest waiting: {}", listed.join("  ")) }
}

fn queue(overview: &Overview) -> String {
    let known = |count: Option<u64>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
    let tasks = &overview.tasks;
    format!(
        "queue: {} ready  tasks: {} waiting, {} delayed, {} running, {} retrying, {} dead",
        known(overview.ready),
        tasks.waiting,
        tasks.delayed,
        tasks.running,
        tasks.retrying,
        known(overview.dead)
    )
}

fn rates(overview: &Overview) -> String {
    let away = if overview.servers_away.is_empty() { String::new() } else { format!("  away: {}", overview.servers_away.join(", ")) };
    let text = format!(
        "rates: {} in, {} out, {} retried  workers: {} desired, {} take tasks{away}",
        rate(overview.arrived_per_s),
        rate(overview.ended_per_s),
        rate(overview.retried_per_s),
        overview.scaling.desired_workers,
        overview.scaling.workers
    );
    safe(&text)
}

fn gpus(overview: &Overview) -> String {
    let counts = &overview.gpus;
    let mut parts = vec![format!("{} serving", counts.serving)];
    let more =
        [(counts.draining, "draining"), (counts.drained, "drained"), (counts.blocked, "blocked"), (counts.quarantined, "quarantined")];
    parts.extend(more.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")));
    format!("GPUs: {} living, {}  slots: {} of {} held", counts.living, parts.join(", "), counts.held, counts.slots)
}

fn draw_panel(frame: &mut Frame<'_>, (screen, theme): (&mut Screen, Theme), panel: Panel, area: Rect) {
    let rows = screen.rows(panel);
    let is_at_hand = screen.panel == panel;
    let table = &mut screen.tables[panel.place()];
    table.seen = usize::from(area.height.saturating_sub(2));
    let title = panel_title(panel, table.order, (table.state.selected(), rows.len()));
    let title_style = if is_at_hand { theme.title() } else { theme.style(Tone::Quiet) };
    let block = Block::new().borders(Borders::TOP).title(Span::styled(title, title_style));
    let refused = match (&screen.shot.running, panel) {
        (Err(why), Panel::Tasks) => Some(why.as_str()),
        _ => None,
    };
    if rows.is_empty() {
        let text = refused.map_or_else(|| nothing(panel).to_owned(), safe);
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }).block(block), area);
        return;
    }
    let shown: Vec<(usize, &Column)> = panel.columns().iter().enumerate().filter(|(_, column)| column.from <= area.width).collect();
    let align = |column: &Column| if column.is_number { Alignment::Right } else { Alignment::Left };
    let cell = |column: &Column, text: String| Cell::from(Text::from(text).alignment(align(column)));
    let header = Row::new(shown.iter().map(|(_, column)| cell(column, column.title.to_owned()))).style(theme.title());
    let lines = rows.into_iter().map(|mut row| {
        let cells = shown.iter().map(|(place, column)| cell(column, row.cells.get_mut(*place).map(std::mem::take).unwrap_or_default()));
        Row::new(cells.collect::<Vec<_>>()).style(theme.style(row.tone))
    });
    let width = |column: &Column| if column.grows { Constraint::Min(column.width) } else { Constraint::Length(column.width) };
    let chosen = if is_at_hand { theme.chosen() } else { theme.style(Tone::Plain) };
    let widths: Vec<Constraint> = shown.iter().map(|(_, column)| width(column)).collect();
    let drawn = Table::new(lines, widths).header(header).block(block).row_highlight_style(chosen).column_spacing(1);
    frame.render_stateful_widget(drawn, area, &mut table.state);
}

fn panel_title(panel: Panel, order: usize, (chosen, count): (Option<usize>, usize)) -> String {
    let place = chosen.filter(|_| count > 0).map(|at| format!(" {} of {count}", at + 1)).unwrap_or_default();
    let order = panel.orders().get(order).copied().unwrap_or_default();
    format!(" {}{place}, by {order} ", panel.title())
}

const fn nothing(panel: Panel) -> &'static str {
    match panel {
        Panel::Gpus => "no GPU serves the pool; `gpufleet worker` starts one",
        Panel::Kinds => "no kind had work",
        Panel::Tasks => "no task runs",
    }
}

fn footer(screen: &Screen, theme: Theme) -> Line<'static> {
    match &screen.footer {
        Footer::Keys => {
            Line::styled("q end  Tab panel  arrows move  s sort  Enter why  d drain  u undrain  p pause", theme.style(Tone::Quiet))
        }
        Footer::Told(text) => Line::styled(safe(text), theme.title()),
        Footer::Fault(text) => Line::styled(safe(text), theme.style(Tone::Bad)),
        Footer::Question(text, _) => Line::styled(safe(text), theme.chosen()),
    }
}

fn draw_page(frame: &mut Frame<'_>, theme: Theme, page: &mut Page) {
    let area = frame.area();
    let [area] = Layout::vertical([Constraint::Length(area.height.saturating_sub(4))]).margin(2).areas(area);
    let lines: Vec<Line<'static>> = page.lines.iter().map(|line| Line::raw(safe(line))).collect();
    page.scroll = page.scroll.min(u16::try_from(lines.len().saturating_sub(1)).unwrap_or(u16::MAX));
    let block = Block::bordered().title(Span::styled(" why ", theme.title())).title_bottom(" arrows scroll, any other key closes ");
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).scroll((page.scroll, 0)).block(block), area);
}

fn safe(text: &str) -> String {
    harmless_line(text).into_owned()
}
