//! A body as lines, while it arrives.
//!
//! In hand are one piece of the body, as the connection gave it, and the beginning of one line, with its share of the memory for bodies. A line that is too long is not kept.

use std::{future::poll_fn, mem, pin::Pin, time::Duration};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::Frame;
use task_queue::{BodyBudget, BodyShare};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    GatewayOptions, Problem,
    intake::{broken_off, too_large},
    problem::ProblemKind,
};

/// How long what still comes is taken and forgotten after the last answer.
const FORGETS_FOR: Duration = Duration::from_secs(2);

/// What was heard of a body.
#[derive(Debug)]
pub(super) enum Heard {
    /// A line with something in it, and its share of the memory; or why it was not kept.
    Line(u64, Result<(Bytes, BodyShare), Problem>),
    /// There is no memory for a line of so many bytes or more. Nothing of it is lost: ask again later, or skip it.
    NoMemory(usize),
    /// That was all.
    End,
    /// No more can be read, and why.
    Broken(Problem),
}

/// The lines of a body.
pub(super) struct Lines {
    body: Body,
    bodies: BodyBudget,
    /// The longest line, in bytes.
    bytes_max: usize,
    /// The longest wait for the next piece.
    silence_max: Duration,
    /// What has arrived and is not cut yet.
    piece: Bytes,
    /// The beginning of the line whose end has not been seen.
    begun: Vec<u8>,
    share: BodyShare,
    /// Why that line is not kept.
    skipped: Option<Problem>,
    /// The lines whose ends were seen.
    seen: u64,
    /// Since when the next piece is wanted.
    wanted: Option<Instant>,
    is_over: bool,
}

impl Lines {
    pub(super) fn new(body: Body, bodies: BodyBudget, options: &GatewayOptions) -> Self {
        let share = bodies.empty_share();
        let (bytes_max, silence_max) = (options.body_bytes_max, options.body_timeout);
        let (piece, begun, skipped, seen, wanted, is_over) = Default::default();
        Self { body, bodies, bytes_max, silence_max, piece, begun, share, skipped, seen, wanted, is_over }
    }

    /// Waits for the first piece. A client that waits for leave to send (`Expect: 100-continue`) gets it by that.
    ///
    /// # Errors
    /// 408: none came in time. 400: the body broke off.
    pub(super) async fn begin(&mut self) -> Result<(), Problem> {
        self.arrive().await
    }

    /// The number of the next line.
    pub(super) const fn next_number(&self) -> u64 {
        self.seen + 1
    }

    /// What is next. Cancel safe.
    pub(super) async fn next(&mut self) -> Heard {
        loop {
            if let Some(heard) = self.in_hand() {
                return heard;
            }
            if let Err(problem) = self.arrive().await {
                return Heard::Broken(problem);
            }
        }
    }

    /// What is next of what has arrived, if that is enough to say.
    pub(super) fn in_hand(&mut self) -> Option<Heard> {
        while !self.piece.is_empty() {
            let end = self.piece.iter().position(|byte| *byte == b'\n');
            let length = end.unwrap_or(self.piece.len());
            if let Err(bytes) = self.make_room(length) {
                return Some(Heard::NoMemory(bytes));
            }
            let part = self.piece.split_to(length);
            if self.skipped.is_none() {
                self.begun.extend_from_slice(&part);
            }
            if end.is_some() {
                let _line_feed = self.piece.split_to(1);
                if let Some(heard) = self.end_line() {
                    return Some(heard);
                }
            }
        }
        // What stands behind the last line feed is a line where it is anything.
        self.is_over.then(|| self.end_line().unwrap_or(Heard::End))
    }

    /// Lets go of the line in hand. It is told with this problem once its end was seen.
    pub(super) fn skip(&mut self, problem: Problem) {
        self.skipped = Some(problem);
        self.begun = Vec::new();
        self.share = self.bodies.empty_share();
    }

    /// Nothing more is wanted for now: the client's silence does not count.
    pub(super) fn rest(&mut self) {
        self.wanted = None;
    }

    /// Takes and forgets what still comes, for a while: a connection that is closed with bytes unread is reset, and its client may lose the last answers with it.
    pub(super) async fn forget_the_rest(&mut self) {
        let forgetting = async { while let Some(Ok(_)) = next_frame(&mut self.body).await {} };
        // A client that goes on sending has had its chance.
        let _in_time = timeout(FORGETS_FOR, forgetting).await;
    }

    /// Makes room for so many bytes more of the line in hand. `Err`: there is no memory for a line of so many bytes.
    fn make_room(&mut self, more: usize) -> Result<(), usize> {
        let length = self.begun.len() + more;
        if self.skipped.is_some() {
            return Ok(());
        }
        if length > self.bytes_max {
            self.skip(too_large(self.bytes_max));
            return Ok(());
        }
        if self.bodies.try_grow(&mut self.share, length) { Ok(()) } else { Err(length) }
    }

    /// The line in hand has ended. Nothing is said of one with nothing in it.
    fn end_line(&mut self) -> Option<Heard> {
        let (text, share) = (mem::take(&mut self.begun), mem::replace(&mut self.share, self.bodies.empty_share()));
        let skipped = self.skipped.take();
        if self.is_over && skipped.is_none() && text.is_empty() {
            return None;
        }
        self.seen += 1;
        match skipped {
            Some(problem) => Some(Heard::Line(self.seen, Err(problem))),
            None if text.trim_ascii().is_empty() => None,
            None => Some(Heard::Line(self.seen, Ok((text.into(), share)))),
        }
    }

    /// Waits for the next piece, or the end. Cancel safe: the wait for it goes on.
    async fn arrive(&mut self) -> Result<(), Problem> {
        let until = *self.wanted.get_or_insert_with(Instant::now) + self.silence_max;
        loop {
            let Ok(frame) = timeout_at(until, next_frame(&mut self.body)).await else { return Err(self.silence()) };
            let Some(frame) = frame else {
                self.is_over = true;
                return Ok(());
            };
            // What is no data are trailers.
            if let Ok(data) = frame.map_err(|error| broken_off(&error))?.into_data() {
                (self.piece, self.wanted) = (data, None);
                return Ok(());
            }
        }
    }

    fn silence(&self) -> Problem {
        let detail = format!("body: nothing came for {} ms (gateway.body_timeout_ms)", self.silence_max.as_millis());
        Problem::new(ProblemKind::BodyTimeout, detail).field("body")
    }
}

/// The next frame of a body; `None` at its end.
async fn next_frame(body: &mut Body) -> Option<Result<Frame<Bytes>, axum::Error>> {
    poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{FutureExt, StreamExt, channel::mpsc, stream};
    use proptest::prelude::*;

    use super::*;

    const SHORT: usize = 8;
    const SILENCE: Duration = Duration::from_secs(30);

    fn options() -> GatewayOptions {
        GatewayOptions { body_bytes_max: SHORT, body_timeout: SILENCE, ..GatewayOptions::default() }
    }

    /// A body that comes in these pieces.
    fn lines_of(pieces: Vec<Vec<u8>>) -> Lines {
        let pieces = stream::iter(pieces).map(Ok::<_, Infallible>);
        Lines::new(Body::from_stream(pieces), BodyBudget::new(1), &options())
    }

    /// Every line by its number; `None` for one that is too long.
    async fn all_of(mut lines: Lines) -> Vec<(u64, Option<String>)> {
        let mut all = Vec::new();
        loop {
            match lines.next().await {
                Heard::Line(number, Ok((text, _share))) => all.push((number, Some(String::from_utf8(text.to_vec()).expect("text")))),
                Heard::Line(number, Err(problem)) => {
                    assert_eq!(problem.document().status, 413);
                    all.push((number, None));
                }
                Heard::End => return all,
                other => panic!("{other:?}"),
            }
        }
    }

    /// What must come out, by the whole text.
    fn expected(text: &str) -> Vec<(u64, Option<String>)> {
        let numbered = (1..).zip(text.split('\n'));
        let kept = numbered.filter(|(_, line)| line.len() > SHORT || !line.trim_ascii().is_empty());
        kept.map(|(number, line)| (number, (line.len() <= SHORT).then(|| line.to_owned()))).collect()
    }

    #[tokio::test]
    async fn empty_lines_count_and_are_not_told_and_the_last_line_needs_no_end() {
        let text = "one\n\n  \r\ntwo\r\nthree is too long\nfour";
        let expected = vec![(1, Some("one".to_owned())), (4, Some("two\r".to_owned())), (5, None), (6, Some("four".to_owned()))];
        assert_eq!(all_of(lines_of(vec![text.into()])).await, expected);
        assert!(all_of(lines_of(Vec::new())).await.is_empty());
        assert!(all_of(lines_of(vec![b"\n \n".to_vec()])).await.is_empty());
    }

    proptest! {
        #[test]
        fn however_a_body_is_cut_its_lines_are_the_same(text in "[ab \n]{0,80}", places in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let mut places: Vec<usize> = places.iter().map(|place| place.index(text.len() + 1)).collect();
            places.sort_unstable();
            let ends = places.iter().copied().chain([text.len()]);
            let begins = [0].into_iter().chain(places.iter().copied());
            let pieces = begins.zip(ends).map(|(begin, end)| text.as_bytes()[begin..end].to_vec()).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            prop_assert_eq!(runtime.block_on(all_of(lines_of(pieces))), expected(&text));
        }
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_not_held() {
        let (sender, pieces) = mpsc::unbounded::<Result<Vec<u8>, Infallible>>();
        let bodies = BodyBudget::new(1);
        let options = GatewayOptions { body_bytes_max: 500_000, ..GatewayOptions::default() };
        let mut lines = Lines::new(Body::from_stream(pieces), bodies.clone(), &options);
        for _ in 0..40 {
            sender.unbounded_send(Ok(vec![b'x'; 100_000])).expect("open");
            assert!(lines.next().now_or_never().is_none());
            assert!(lines.begun.len() <= 500_000 && bodies.in_use_bytes() <= 501_000);
        }
        assert_eq!((lines.begun.capacity(), bodies.in_use_bytes()), (0, 0));
        sender.unbounded_send(Ok(b"\ny\n".to_vec())).expect("open");
        assert!(matches!(lines.next().await, Heard::Line(1, Err(_))));
        assert!(matches!(lines.next().await, Heard::Line(2, Ok(_))));
    }

    #[tokio::test]
    async fn a_line_without_memory_waits_and_can_be_skipped() {
        let bodies = BodyBudget::new(1);
        let pieces = stream::iter([Ok::<_, Infallible>("12345\n678\n")]);
        let mut lines = Lines::new(Body::from_stream(pieces), bodies.clone(), &options());
        let all = bodies.try_take(bodies.size_bytes()).expect("nothing is taken");
        for _ in 0..2 {
            assert!(matches!(lines.next().await, Heard::NoMemory(5)));
        }
        drop(all);
        assert!(matches!(lines.next().await, Heard::Line(1, Ok(_))));
        let _all = bodies.try_take(bodies.size_bytes()).expect("the line was let go of");
        assert!(matches!(lines.next().await, Heard::NoMemory(3)));
        lines.skip(Problem::new(ProblemKind::Overloaded, "no memory"));
        assert!(matches!(lines.next().await, Heard::Line(2, Err(_))));
        assert!(matches!(lines.next().await, Heard::End));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_has_a_bound_and_a_long_body_has_none() {
        let (sender, pieces) = mpsc::unbounded::<Result<Vec<u8>, Infallible>>();
        let mut lines = Lines::new(Body::from_stream(pieces), BodyBudget::new(1), &options());
        for number in 1..=10 {
            tokio::time::advance(SILENCE - Duration::from_secs(1)).await;
            sender.unbounded_send(Ok(b"x\n".to_vec())).expect("open");
            assert!(matches!(lines.next().await, Heard::Line(heard, Ok(_)) if heard == number));
            assert!(lines.next().now_or_never().is_none());
        }
        let began = Instant::now();
        let Heard::Broken(problem) = lines.next().await else { panic!("it is silent") };
        assert_eq!((problem.document().status, began.elapsed(), lines.next_number()), (408, SILENCE, 11));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_while_nothing_is_wanted_does_not_count() {
        let (_sender, pieces) = mpsc::unbounded::<Result<Vec<u8>, Infallible>>();
        let mut lines = Lines::new(Body::from_stream(pieces), BodyBudget::new(1), &options());
        assert!(lines.next().now_or_never().is_none());
        tokio::time::advance(SILENCE * 2).await;
        lines.rest();
        let began = Instant::now();
        assert!(matches!(lines.next().await, Heard::Broken(_)));
        assert_eq!(began.elapsed(), SILENCE);
    }

    #[tokio::test]
    async fn a_line_that_breaks_off_is_no_line() {
        let pieces = stream::iter([Ok("one\ntw"), Err("gone")]);
        let mut lines = Lines::new(Body::from_stream(pieces), BodyBudget::new(1), &options());
        assert!(matches!(lines.next().await, Heard::Line(1, Ok(_))));
        let Heard::Broken(problem) = lines.next().await else { panic!("it broke off") };
        assert_eq!((problem.document().status, lines.next_number()), (400, 2));
    }
}
