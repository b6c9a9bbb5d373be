//! The terminal: taken as a whole, and given back whatever happens.

use std::{
    io::{self, IsTerminal, Stdout},
    panic,
    sync::Once,
    thread,
    time::Duration,
};

use ratatui::{
    Frame, Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor,
        event::{self, Event},
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
    layout::{Position, Rect},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use crate::fault::Fault;

/// How long the thread that reads keys waits before it looks whether anybody still wants some.
const PATIENCE: Duration = Duration::from_millis(200);
/// Keys that wait to be taken.
const KEYS_MAX: usize = 64;

/// Whether there is a terminal to draw on and to read keys from.
pub(super) fn is_there() -> bool {
    io::stdout().is_terminal() && io::stdin().is_terminal()
}

/// The whole terminal. Dropped, it is as it was before.
pub(super) struct FullScreen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl FullScreen {
    /// Takes the terminal.
    pub(super) fn open() -> Result<Self, Fault> {
        restore_at_panics();
        // From here on a failure gives it back.
        let taken = Restored;
        let terminal = take().map_err(|error| Fault::Failed(format!("take the terminal: {error}")))?;
        std::mem::forget(taken);
        Ok(Self { terminal })
    }

    /// Wipes the screen, so that the next picture is drawn as a whole: something else may have written on it.
    pub(super) fn wipe(&mut self) -> Result<(), Fault> {
        // `clear` would ask the terminal where its cursor is, and wait for a word that the thread of the keys reads.
        let size = self.terminal.size().map_err(gone)?;
        self.terminal.resize(Rect::from((Position::ORIGIN, size))).map_err(gone)
    }

    /// Draws what differs from the last picture.
    pub(super) fn draw(&mut self, picture: impl FnOnce(&mut Frame<'_>)) -> Result<(), Fault> {
        self.terminal.draw(picture).map(|_| ()).map_err(gone)
    }
}

impl Drop for FullScreen {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back when it is dropped.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        restore();
    }
}

fn take() -> io::Result<Terminal<CrosstermBackend<Stdout>>> {
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
    Terminal::new(CrosstermBackend::new(io::stdout()))
}

/// Gives the terminal back. A terminal that is gone needs nothing.
fn restore() {
    let _ = execute!(io::stdout(), LeaveAlternateScreen, cursor::Show);
    let _ = disable_raw_mode();
}

/// Gives the terminal back before a panic is told, so that its words can be read.
fn restore_at_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |what| {
            restore();
            before(what);
        }));
    });
}

/// The terminal does not answer any more: it was closed.
fn gone(error: io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Fault::ReaderGone,
        _ => Fault::Failed(format!("use the terminal: {error}")),
    }
}

/// Keys and new sizes, as they come.
pub(super) struct Events {
    received: mpsc::Receiver<io::Result<Event>>,
}

impl Events {
    /// Reads them on a thread of its own, until this is dropped.
    pub(super) fn read() -> Result<Self, Fault> {
        let (sender, received) = mpsc::channel(KEYS_MAX);
        let reading = move || {
            while !sender.is_closed() {
                let event = match event::poll(PATIENCE) {
                    Ok(false) => continue,
                    Ok(true) => event::read(),
                    Err(error) => Err(error),
                };
                let is_over = event.is_err();
                if sender.blocking_send(event).is_err() || is_over {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("keys".to_owned()).spawn(reading);
        thread.map_err(|error| Fault::Failed(format!("start the thread that reads keys: {error}")))?;
        Ok(Self { received })
    }

    /// The next one. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Event, Fault> {
        match self.received.recv().await {
            Some(event) => event.map_err(gone),
            None => Err(Fault::Failed("the terminal gives no more keys".to_owned())),
        }
    }
}

/// The signals that end a program at a terminal. Left to themselves they would leave the terminal as it is.
pub(super) struct Signals {
    hang_up: Signal,
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn listen() -> Result<Self, Fault> {
        let listen = |kind| signal(kind).map_err(|error| Fault::Failed(format!("listen for signals: {error}")));
        Ok(Self {
            hang_up: listen(SignalKind::hangup())?,
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Waits for one; the exit code that a shell gives a program that it has ended. Cancel safe.
    pub(super) async fn next(&mut self) -> u8 {
        let kind = tokio::select! {
            _ = self.hang_up.recv() => SignalKind::hangup(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.quit.recv() => SignalKind::quit(),
            _ = self.terminate.recv() => SignalKind::terminate(),
        };
        u8::try_from(128 + kind.as_raw_value()).unwrap_or(u8::MAX)
    }
}
