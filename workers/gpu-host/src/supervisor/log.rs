//! The common log: whole lines of all children, and the supervisor's own events, in the order in which they came.
//!
//! One thread writes. The way to it is bounded, so a slow sink holds up the readers of the children's output, then the pipes, then the children that print; it
//! never holds up whoever watches the children, and no memory grows.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::AsyncRead,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};
use tracing::dispatcher;

use super::{child::Output, label::LineFormat, lines::Lines};

/// How many lines wait for the sink at most. With the longest lines that is 16 MiB.
const WAITING_MAX: usize = 256;
/// How long an event waits for its place. A sink that takes no line for so long is stuck, and the event is counted instead.
const EVENT_PATIENCE: Duration = Duration::from_secs(1);
/// How long the rest of the output of a child that ended is read. A process that left the child's group may hold the pipe open for ever.
const REST_PATIENCE: Duration = Duration::from_secs(3);
/// How long the last lines may take to be written.
const LAST_PATIENCE: Duration = Duration::from_secs(3);

/// Where the common log goes.
pub struct LogSink(Box<dyn Write + Send>);

impl LogSink {
    /// To any writer. Each line is one call of `write_all`, on a thread of its own, so the writer may block. An error loses the line.
    #[must_use]
    pub fn new(writer: impl Write + Send + 'static) -> Self {
        Self(Box::new(writer))
    }

    /// To standard error, between the lines of this process's own log.
    #[must_use]
    pub fn stderr() -> Self {
        Self::new(io::stderr())
    }
}

impl std::fmt::Debug for LogSink {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("LogSink")
    }
}

enum Entry {
    Line(Vec<u8>),
    /// Says itself through `tracing`: what that writes to may be as slow as the sink, and mostly is the same.
    Event(Box<dyn FnOnce() + Send>),
}

/// The way to the log.
#[derive(Clone)]
pub(super) struct Log {
    entries: mpsc::Sender<Entry>,
    /// Events that found no place since the last one that did.
    unsaid: Arc<AtomicU64>,
}

/// The thread that writes.
pub(super) struct Writing(oneshot::Receiver<()>);

/// Starts the thread that writes the log. It ends when the last [`Log`] is dropped.
pub(super) fn open(sink: LogSink) -> io::Result<(Log, Writing)> {
    let (entries, waiting) = mpsc::channel(WAITING_MAX);
    let (done, ended) = oneshot::channel();
    // The events belong to whoever watches those of the supervising task.
    let dispatch = dispatcher::get_default(Clone::clone);
    std::thread::Builder::new().name("log".to_owned()).spawn(move || {
        dispatcher::with_default(&dispatch, || write(waiting, sink.0));
        // Nobody listens if the last lines took too long.
        let _ = done.send(());
    })?;
    Ok((Log { entries, unsaid: Arc::default() }, Writing(ended)))
}

fn write(mut waiting: mpsc::Receiver<Entry>, mut sink: Box<dyn Write + Send>) {
    while let Some(entry) = waiting.blocking_recv() {
        match entry {
            // A sink that fails has nobody to tell. The children must not notice.
            Entry::Line(line) => drop(sink.write_all(&line)),
            Entry::Event(say) => say(),
        }
    }
    drop(sink.flush());
}

impl Writing {
    /// Waits until all is written, within a limit.
    pub(super) async fn ended(self) {
        // Without an answer the thread is gone or stuck; neither can be helped.
        let _ = timeout(LAST_PATIENCE, self.0).await;
    }
}

impl Log {
    /// Has `event` said in its turn. Takes a moment at most; an event that finds no place is counted and mentioned by the next one.
    pub(super) async fn say(&self, event: impl FnOnce() + Send + 'static) {
        let unsaid = self.unsaid.swap(0, Ordering::Relaxed);
        let say = move || {
            if unsaid > 0 {
                tracing::warn!(unsaid, "the log was stuck: some of the supervisor's events are missing");
            }
            event();
        };
        if timeout(EVENT_PATIENCE, self.entries.send(Entry::Event(Box::new(say)))).await.is_err() {
            self.unsaid.fetch_add(unsaid + 1, Ordering::Relaxed);
        }
    }

    /// Begins to write what a child prints.
    pub(super) fn read(&self, output: Output, format: &Arc<LineFormat>) -> Reading {
        let mut readers = JoinSet::new();
        readers.spawn(self.clone().read_stream(output.stdout, Arc::clone(format)));
        readers.spawn(self.clone().read_stream(output.stderr, Arc::clone(format)));
        Reading(readers)
    }

    async fn read_stream(self, source: impl AsyncRead + Unpin, format: Arc<LineFormat>) {
        let mut lines = Lines::of(source);
        while let Some(line) = lines.next().await {
            if self.entries.send(Entry::Line(format.write(line))).await.is_err() {
                return;
            }
        }
    }
}

/// The readers of one child's output. Dropped, they end, and what they had not read is lost.
pub(super) struct Reading(JoinSet<()>);

impl Reading {
    /// Reads the rest of what a child printed that has ended. False: not all of it was there in time.
    pub(super) async fn rest(mut self) -> bool {
        let all = async { while self.0.join_next().await.is_some() {} };
        timeout(REST_PATIENCE, all).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Keeps what is written.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Takes nothing until the other end is dropped.
    struct Stuck(std::sync::mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn lines_and_events_keep_their_order() {
        let kept = Kept::default();
        let (log, writing) = open(LogSink::new(kept.clone())).expect("a thread");
        for number in 0..1_000 {
            log.entries.send(Entry::Line(format!("{number}\n").into_bytes())).await.expect("open");
            let mut event = kept.clone();
            log.say(move || writeln!(event, "event {number}").expect("written")).await;
        }
        drop(log);
        writing.ended().await;
        let expected: String = (0..1_000).map(|number| format!("{number}\nevent {number}\n")).collect();
        assert_eq!(String::from_utf8_lossy(&kept.0.lock().expect("no panic")), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_sink_holds_up_the_readers_and_nobody_else() {
        let (freed, stuck) = std::sync::mpsc::channel();
        let (log, writing) = open(LogSink::new(Stuck(stuck))).expect("a thread");
        // One is in the thread's hands.
        for _ in 0..=WAITING_MAX {
            log.entries.send(Entry::Line(b"x\n".to_vec())).await.expect("open");
        }
        let endless = log.clone().read_stream(tokio::io::repeat(b'\n'), Arc::new(LineFormat::Text { label: String::new() }));
        assert!(timeout(Duration::from_secs(60), endless).await.is_err(), "the reader waits");
        log.say(|| unreachable!("there is no place for it")).await;
        log.say(|| unreachable!("there is no place for it")).await;
        assert_eq!(log.unsaid.load(Ordering::Relaxed), 2);
        drop(freed);
        drop(log.entries.reserve().await.expect("open"));
        log.say(|| {}).await;
        assert_eq!(log.unsaid.load(Ordering::Relaxed), 0);
        drop(log);
        writing.ended().await;
    }
}
