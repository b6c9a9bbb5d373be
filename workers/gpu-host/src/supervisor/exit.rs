//! How a process ended, in words.

use std::{fmt, os::unix::process::ExitStatusExt, process::ExitStatus};

use rustix::process::Signal;

/// The signals that end processes, by the names that operators know.
const NAMES: [(Signal, &str); 18] = [
    (Signal::ABORT, "SIGABRT"),
    (Signal::ALARM, "SIGALRM"),
    (Signal::BUS, "SIGBUS"),
    (Signal::FPE, "SIGFPE"),
    (Signal::HUP, "SIGHUP"),
    (Signal::ILL, "SIGILL"),
    (Signal::INT, "SIGINT"),
    (Signal::KILL, "SIGKILL"),
    (Signal::PIPE, "SIGPIPE"),
    (Signal::QUIT, "SIGQUIT"),
    (Signal::SEGV, "SIGSEGV"),
    (Signal::SYS, "SIGSYS"),
    (Signal::TERM, "SIGTERM"),
    (Signal::TRAP, "SIGTRAP"),
    (Signal::USR1, "SIGUSR1"),
    (Signal::USR2, "SIGUSR2"),
    (Signal::XCPU, "SIGXCPU"),
    (Signal::XFSZ, "SIGXFSZ"),
];

/// An exit code, or the name of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    Code(i32),
    Signal(i32),
    /// Somebody else has taken its status.
    Unknown,
}

impl Exit {
    /// It left on purpose.
    pub(super) const LEFT: Self = Self::Code(0);
    /// Wrong usage or configuration, as with every `gpufleet` command.
    pub(super) const MISCONFIGURED: Self = Self::Code(2);
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "{code}"),
            Self::Signal(number) => match NAMES.iter().find(|(signal, _)| signal.as_raw() == *number) {
                Some((_, name)) => formatter.write_str(name),
                None => write!(formatter, "signal {number}"),
            },
            Self::Unknown => formatter.write_str("unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_a_code_or_the_name_of_a_signal() {
        let words = [0, 2 << 8, 101 << 8, 9, 11, 6, 40].map(|raw| Exit::from(ExitStatus::from_raw(raw)).to_string());
        assert_eq!(words, ["0", "2", "101", "SIGKILL", "SIGSEGV", "SIGABRT", "signal 40"]);
    }
}
