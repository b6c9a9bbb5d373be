//! An answer that is read while it comes: as lines, and as server-sent events.

use std::time::Duration;

use gateway::ProblemDocument;
use http_body_util::{BodyExt, Limited};
use hyper::{Response, body::Incoming};
use tokio::time::timeout;

use crate::{
    fault::Fault,
    fleet::{
        gateway::fault_of,
        http::{ANSWER_BYTES_MAX, ANSWERED_IN, in_words},
    },
};

/// The lines of an answer.
pub(super) struct Lines {
    body: Incoming,
    /// The longest silence; a gateway whose events rest shows every 15 s that it lives.
    silence_max: Option<Duration>,
    text: Vec<u8>,
    /// So many bytes of it were looked through and have no line feed.
    searched: usize,
}

impl Lines {
    /// Of an answer that went well; else what it says instead.
    pub(super) async fn of(response: Response<Incoming>, silence_max: Option<Duration>) -> Result<Self, Fault> {
        let status = response.status();
        let body = response.into_body();
        if status.is_success() {
            return Ok(Self { body, silence_max, text: Vec::new(), searched: 0 });
        }
        let read = timeout(ANSWERED_IN, Limited::new(body, ANSWER_BYTES_MAX).collect()).await;
        let bytes = read.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
        Err(match serde_json::from_slice::<ProblemDocument>(&bytes) {
            Ok(problem) => fault_of(status, problem),
            Err(_) => Fault::Failed(format!("the answer is {status}, and not as a gateway says it; is this a gateway's address?")),
        })
    }

    /// The next line, without its end; `None` at the end. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        loop {
            if let Some(at) = self.text[self.searched..].iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.text.drain(..=self.searched + at).collect();
                self.searched = 0;
                line.pop();
                return Ok(Some(line));
            }
            self.searched = self.text.len();
            if self.searched > ANSWER_BYTES_MAX {
                return Err(Fault::Failed("the answer has a line without an end".to_owned()));
            }
            let frame = match self.silence_max {
                Some(silence_max) => {
                    let silent = |_| Fault::Unavailable(format!("nothing came for {} s", silence_max.as_secs()));
                    timeout(silence_max, self.body.frame()).await.map_err(silent)?
                }
                None => self.body.frame().await,
            };
            match frame {
                Some(Ok(frame)) => self.text.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(Fault::Unavailable(in_words(&error))),
                None => return Ok(None),
            }
        }
    }
}

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) name: String,
    /// By which the stream is taken up again behind it; empty where it has none.
    pub(super) id: String,
    pub(super) data: Vec<u8>,
}

/// The event whose end has not been seen.
#[derive(Debug, Default)]
pub(super) struct Begun(Event);

impl Begun {
    /// Takes one more line; gives the event that it ends. Comments are no events.
    pub(super) fn take(&mut self, line: &[u8]) -> Option<Event> {
        let value = |name: &[u8]| line.strip_prefix(name).map(|value| value.strip_prefix(b" ").unwrap_or(value));
        if line.is_empty() {
            let event = std::mem::take(&mut self.0);
            return (!event.data.is_empty()).then_some(event);
        }
        if let Some(name) = value(b"event:") {
            self.0.name = String::from_utf8_lossy(name).into_owned();
        } else if let Some(id) = value(b"id:") {
            self.0.id = String::from_utf8_lossy(id).into_owned();
        } else if let Some(data) = value(b"data:") {
            if !self.0.data.is_empty() {
                self.0.data.push(b'\n');
            }
            self.0.data.extend_from_slice(data);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_end_with_an_empty_line_and_comments_are_none() {
        let mut begun = Begun::default();
        let text = "event: reply\ndata: {\"a\":\ndata: 1}\n\n:\n\nevent: end\nid: 7\ndata:{}\n\n";
        let events: Vec<Event> = text.split('\n').filter_map(|line| begun.take(line.as_bytes())).collect();
        let event = |name: &str, id: &str, data: &str| Event { name: name.to_owned(), id: id.to_owned(), data: data.into() };
        assert_eq!(events, [event("reply", "", "{\"a\":\n1}"), event("end", "7", "{}")]);
    }
}
