//! Stopping: the first signal asks, the second insists. And what every other signal does to a program that serves.
//!
//! None of these is left to chance: a worker that dies of a signal loses what it runs, and its tasks count a crash.
//!
//! | signal | answer | why |
//! | --- | --- | --- |
//! | TERM, INT, QUIT | stops gracefully; a further one, at once | what service managers and keyboards send |
//! | HUP | stops gracefully, however often it comes | a terminal that closes tells it twice, by its shell and by the kernel. Ignored if it was when the program started (`nohup`), and by a worker that has a supervisor: that one hears of it and asks in its own way |
//! | XCPU | stops gracefully, however often it comes | the limit on processor time is near: the kernel says so every second, and kills in the end |
//! | PWR | stops gracefully, however often it comes | the power fails |
//! | XFSZ | ignored | a file may not grow any more, its writer has the error. A log that is full must not end what runs |
//! | USR1, USR2, ALRM, VTALRM, PROF, IO | ignored | they mean nothing here: what is sent by mistake ends no task |
//! | PIPE | ignored, by Rust's own start | a reader went away, the writer has the error |
//! | CHLD, CONT, URG, WINCH | as the system has it: nothing | |
//! | TSTP, TTIN, TTOU, STOP | as the system has it: suspended | somebody wants it so; its tasks are taken over when its lease is out |
//! | ABRT, BUS, FPE, ILL, SEGV, SYS, TRAP | as the system has it: ends, with a core | the process is broken, its tasks go to others |
//! | KILL | ends | nobody can do otherwise |
//! | STKFLT, the real-time ones | as the system has it: ends | nobody sends them; some are the C library's and the driver's own |
//!
//! Commands that serve nothing leave all of them as they are.

use tokio_util::sync::CancellationToken;

#[cfg(unix)]
mod listening;
#[cfg(unix)]
use self::listening::Signals;

/// When to stop. Clones share their tokens.
///
/// ```text
/// running ──SIGTERM, SIGINT, SIGQUIT, SIGHUP or ask()──▶ graceful ──a second signal or insist()──▶ at once
/// ```
#[derive(Debug, Clone, Default)]
pub struct Stop {
    graceful: CancellationToken,
    at_once: CancellationToken,
}

/// Who hears of a hang-up, the end of the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HangUps {
    /// This process, and stops.
    Ours,
    /// Its supervisor, which then asks this process to stop in its own way. Two requests for one reason would be taken for insisting.
    TheSupervisors,
}

/// A signal that stops the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Heard {
    name: &'static str,
    /// Whether it stops at once what stops already.
    insists: bool,
}

impl Stop {
    /// A handle that only [`Stop::ask`] and [`Stop::insist`] trigger: for tests and for programs inside programs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A handle that signals trigger, from now until the process ends: see the table of this module, which all holds from now on. Needs a tokio runtime.
    ///
    /// # Errors
    /// If the system refuses the signal handlers.
    pub fn on_signals(hang_ups: HangUps) -> std::io::Result<Self> {
        let stop = Self::new();
        let mut signals = Signals::listen(hang_ups)?;
        let triggered = stop.clone();
        tokio::spawn(async move {
            let mut asked = false;
            while !triggered.at_once.is_cancelled() {
                let heard = signals.next().await;
                triggered.answer(heard, std::mem::replace(&mut asked, true));
            }
        });
        Ok(stop)
    }

    /// Does what a signal asks for; `again`: it is not the first.
    fn answer(&self, Heard { name, insists }: Heard, again: bool) {
        match (again, insists) {
            (false, _) => {
                tracing::info!(signal = name, "stopping: running tasks may end; a second signal stops at once");
                self.ask();
            }
            (true, true) => {
                tracing::warn!(signal = name, "stopping at once");
                self.insist();
            }
            (true, false) => tracing::debug!(signal = name, "stopping already"),
        }
    }

    /// Fires at the first signal: take no new work, let what runs end within the grace time.
    #[must_use]
    pub fn graceful(&self) -> &CancellationToken {
        &self.graceful
    }

    /// Fires at the second signal: hand back what runs, and end.
    #[must_use]
    pub fn at_once(&self) -> &CancellationToken {
        &self.at_once
    }

    /// Does what the first signal does.
    pub fn ask(&self) {
        self.graceful.cancel();
    }

    /// Does what the second signal does, and the first.
    pub fn insist(&self) {
        self.graceful.cancel();
        self.at_once.cancel();
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen(_: HangUps) -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> Heard {
        // Without a handler there is nothing to wait for: the system ends the process by itself.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Heard { name: "Ctrl-C", insists: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_is_graceful_and_insisting_is_both() {
        let stop = Stop::new();
        assert!(!stop.graceful().is_cancelled());
        stop.clone().ask();
        assert!(stop.graceful().is_cancelled() && !stop.at_once().is_cancelled());
        stop.insist();
        assert!(stop.at_once().is_cancelled());
    }

    #[test]
    fn a_hang_up_asks_and_never_insists() {
        let (stop, hang_up) = (Stop::new(), Heard { name: "SIGHUP", insists: false });
        stop.answer(hang_up, false);
        assert!(stop.graceful().is_cancelled() && !stop.at_once().is_cancelled());
        stop.answer(hang_up, true);
        assert!(!stop.at_once().is_cancelled(), "its echo");
        stop.answer(Heard { name: "SIGTERM", insists: true }, true);
        assert!(stop.at_once().is_cancelled());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn signals_without_a_meaning_do_nothing_the_first_other_one_asks_and_the_second_insists() {
        let stop = Stop::on_signals(HangUps::TheSupervisors).expect("handlers");
        let send = |name: &str| {
            let process = std::process::id().to_string();
            assert!(std::process::Command::new("kill").args(["-s", name, &process]).status().expect("kill runs").success());
        };
        for ignored in ["HUP", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "XFSZ", "PIPE"] {
            send(ignored);
        }
        send("QUIT");
        stop.graceful().cancelled().await;
        assert!(!stop.at_once().is_cancelled());
        send("TERM");
        stop.at_once().cancelled().await;
    }
}
