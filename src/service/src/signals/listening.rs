//! Which signal does what, and the ear for them.

use std::{fs, io};

use rustix::process::Signal;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{HangUps, Heard};

/// How many signals may wait to be answered. The next ones wait in their own listeners, where several of one kind are one.
const WAITING_MAX: usize = 8;

/// What a signal does to a program that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The first stops it gracefully, a further one at once.
    Stops,
    /// Stops it gracefully, however often it comes: it is sent more than once for one and the same reason.
    Drains,
    /// Nothing.
    Ignored,
}

/// The signals whose default would end the process, and what they do instead. See the table in [`super`], which has the others too.
const ANSWERS: &[(Signal, &str, Answer)] = &[
    (Signal::TERM, "SIGTERM", Answer::Stops),
    (Signal::INT, "SIGINT", Answer::Stops),
    (Signal::QUIT, "SIGQUIT", Answer::Stops),
    (Signal::HUP, "SIGHUP", Answer::Drains),
    (Signal::XCPU, "SIGXCPU", Answer::Drains),
    #[cfg(target_os = "linux")]
    (Signal::POWER, "SIGPWR", Answer::Drains),
    (Signal::XFSZ, "SIGXFSZ", Answer::Ignored),
    (Signal::USR1, "SIGUSR1", Answer::Ignored),
    (Signal::USR2, "SIGUSR2", Answer::Ignored),
    (Signal::ALARM, "SIGALRM", Answer::Ignored),
    (Signal::VTALARM, "SIGVTALRM", Answer::Ignored),
    (Signal::PROF, "SIGPROF", Answer::Ignored),
    (Signal::IO, "SIGIO", Answer::Ignored),
];

/// The signals that stop the program, as they come.
pub(super) struct Signals(mpsc::Receiver<Heard>);

impl Signals {
    /// Takes the signals away from their defaults, for the rest of the process's life. Needs a tokio runtime.
    pub(super) fn listen(hang_ups: HangUps) -> io::Result<Self> {
        // Before anything is changed.
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let (heard, signals) = mpsc::channel(WAITING_MAX);
        for &(number, name, answer) in ANSWERS {
            let is_hang_up = number == Signal::HUP;
            if is_hang_up && ignores(&status, number.as_raw()) {
                continue;
            }
            let answer = if is_hang_up && hang_ups == HangUps::TheSupervisors { Answer::Ignored } else { answer };
            // What was listened to once never has its default again, also where nobody listens any more.
            let mut listener = signal(SignalKind::from_raw(number.as_raw()))?;
            if answer == Answer::Ignored {
                continue;
            }
            let (heard, told) = (heard.clone(), Heard { name, insists: answer == Answer::Stops });
            tokio::spawn(async move { while listener.recv().await.is_some() && heard.send(told).await.is_ok() {} });
        }
        Ok(Self(signals))
    }

    /// The next one. Cancel safe.
    pub(super) async fn next(&mut self) -> Heard {
        match self.0.recv().await {
            Some(heard) => heard,
            None => std::future::pending().await,
        }
    }
}

/// Whether a process with this `/proc/<pid>/status` ignores a signal. Where there is no such file, it counts as listening.
fn ignores(status: &str, number: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let bit = u32::try_from(number - 1).ok().and_then(|shift| 1_u64.checked_shl(shift)).unwrap_or(0);
    mask & bit != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_what_a_process_ignores() {
        let status = "Name:\tgpufleet\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0000000100004002\n";
        assert!(ignores(status, Signal::HUP.as_raw()) && ignores(status, Signal::PIPE.as_raw()));
        assert!(!ignores(status, Signal::TERM.as_raw()) && !ignores(status, 64) && !ignores(status, 65) && !ignores(status, 0));
        assert!(!ignores("", Signal::HUP.as_raw()) && !ignores("SigIgn:\tnothing\n", Signal::HUP.as_raw()));
    }

    #[test]
    fn each_signal_has_one_answer() {
        for (place, (number, name, _)) in ANSWERS.iter().enumerate() {
            let others = &ANSWERS[place + 1..];
            assert!(others.iter().all(|(other, other_name, _)| other != number && other_name != name), "{name}");
        }
    }
}
