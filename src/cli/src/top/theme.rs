//! How the page is painted. Without colours everything is still told, by words and by bold letters.

use std::env;

use ratatui::style::{Color, Modifier, Style};

/// What a line or a row means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    Good,
    /// Not as it should be, and it works.
    Warning,
    Bad,
    /// Of less weight than others.
    Quiet,
}

/// With or without colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Theme {
    Coloured,
    Plain,
}

impl Theme {
    /// Without colours where `$NO_COLOR` is set to anything, as <https://no-color.org> says, or the terminal is a dumb one.
    pub(super) fn of_process() -> Self {
        let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        if is_set("NO_COLOR") || is_dumb { Self::Plain } else { Self::Coloured }
    }

    pub(super) fn style(self, tone: Tone) -> Style {
        let style = Style::new();
        match (self, tone) {
            (_, Tone::Plain) => style,
            (Self::Coloured, Tone::Good) => style.fg(Color::Green),
            (Self::Coloured, Tone::Warning) => style.fg(Color::Yellow),
            (Self::Coloured, Tone::Bad) => style.fg(Color::Red).add_modifier(Modifier::BOLD),
            (Self::Coloured, Tone::Quiet) => style.fg(Color::DarkGray),
            (Self::Plain, Tone::Good | Tone::Quiet) => style,
            (Self::Plain, Tone::Warning | Tone::Bad) => style.add_modifier(Modifier::BOLD),
        }
    }

    /// Titles and the heads of columns.
    pub(super) fn title(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// What is chosen.
    pub(super) fn chosen(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}
