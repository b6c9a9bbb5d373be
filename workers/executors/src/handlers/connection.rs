//! The way to and from a process, whichever protocol it speaks.

use std::sync::Arc;

use protocol::config::HandlerProtocol;
use tokio::{
    net::unix::{OwnedReadHalf, pipe},
    sync::mpsc,
    task::JoinHandle,
};

use super::{
    frames::{FrameReader, Incoming},
    lines::LineReader,
    output::{Printed, Tail, relay},
    runs::Live,
    spawning::Link,
    writing::{Outgoing, write},
};

/// What comes from a process.
#[derive(Debug)]
pub(super) enum Reader {
    Frames(FrameReader<OwnedReadHalf>),
    Lines(LineReader<pipe::Receiver>),
}

impl Reader {
    /// The next message; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// How the process broke the protocol, as the rest of a sentence.
    pub(super) async fn next(&mut self) -> Result<Option<Incoming>, String> {
        match self {
            Self::Frames(reader) => reader.next().await,
            Self::Lines(reader) => reader.next().await,
        }
    }

    /// A message that has been read already.
    ///
    /// # Errors
    /// As [`Reader::next`].
    pub(super) fn buffered(&mut self) -> Result<Option<Incoming>, String> {
        match self {
            Self::Frames(reader) => reader.buffered(),
            Self::Lines(reader) => reader.buffered(),
        }
    }
}

/// The jobs beside a process: what it prints, and what is written to it.
#[derive(Debug)]
pub(super) struct Beside {
    /// Ends when what it prints has been read to the end.
    pub(super) printing: Vec<JoinHandle<()>>,
    writing: JoinHandle<()>,
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.writing.abort();
        self.printing.iter().for_each(JoinHandle::abort);
    }
}

/// Who a process is, for what it prints.
#[derive(Debug, Clone)]
pub(super) struct Who {
    pub(super) handler: String,
    pub(super) gpu_id: String,
    pub(super) live: Arc<Live>,
}

impl Who {
    /// Where a stream of its output goes to.
    pub(super) fn printed(&self, stream: &'static str) -> Printed {
        Printed { handler: self.handler.clone(), gpu_id: self.gpu_id.clone(), stream, live: Arc::clone(&self.live) }
    }
}

/// Starts the jobs beside a process.
pub(super) fn connect(
    link: Link,
    stderr: pipe::Receiver,
    waiting: mpsc::UnboundedReceiver<Outgoing>,
    (who, tail): (&Who, &Arc<Tail>),
) -> (Reader, Beside) {
    let mut printing = vec![tokio::spawn(relay(stderr, Some(Arc::clone(tail)), who.printed("stderr")))];
    let (reader, writing) = match link {
        Link::Frames { socket, stdout } => {
            printing.push(tokio::spawn(relay(stdout, None, who.printed("stdout"))));
            let (reads, writes) = socket.into_split();
            (Reader::Frames(FrameReader::new(reads)), tokio::spawn(write(writes, waiting, HandlerProtocol::Frames)))
        }
        Link::Lines { stdin, stdout } => {
            (Reader::Lines(LineReader::new(stdout)), tokio::spawn(write(stdin, waiting, HandlerProtocol::Lines)))
        }
    };
    (reader, Beside { printing, writing })
}
