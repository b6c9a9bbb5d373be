//! Frames from the broker, as bytes: what passes, what is held until it can be judged, what is replaced.

use bytes::{Buf, BytesMut};

use super::{content_header, names};

const METHOD: u8 = 1;
const HEADER: u8 = 2;
/// Type, channel and length stand before a frame's payload, one byte stands after it.
const BEFORE: usize = 7;
const AFTER: usize = 1;
const END: u8 = 0xce;
/// The bound on a frame that RabbitMQ proposes where nothing else is configured.
const FRAME_MAX: usize = 128 * 1024;
/// The bound that every AMQP client must take, and so the smallest one.
const FRAME_MIN: usize = 4_096;

/// What the next bytes belong to.
enum State {
    /// A new frame.
    Begins,
    /// A frame that passes: so many more bytes.
    Passes(usize),
    /// A frame that was replaced already: so many more bytes.
    Dropped(usize),
}

/// The bytes of one connection.
pub(super) struct Frames {
    /// What the client library may read.
    passed: BytesMut,
    /// What is not judged yet: less than one frame.
    held: BytesMut,
    state: State,
    /// The largest frame that the client library takes.
    frame_max: usize,
    /// The bound that the client library asks for.
    wanted: usize,
}

impl Frames {
    /// `wanted`: the largest frame that the client library asks for, if it asks.
    pub(super) fn new(wanted: Option<u32>) -> Self {
        let wanted = wanted.filter(|bytes| *bytes > 0).map_or(usize::MAX, |bytes| bytes as usize);
        Self { passed: BytesMut::new(), held: BytesMut::new(), state: State::Begins, frame_max: FRAME_MAX.min(wanted), wanted }
    }

    /// Takes in what the broker sent.
    pub(super) fn arrived(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        while self.step() {}
    }

    /// Gives out what has passed; how many bytes.
    pub(super) fn take(&mut self, into: &mut [u8]) -> usize {
        let count = self.passed.len().min(into.len());
        self.passed.copy_to_slice(&mut into[..count]);
        count
    }

    /// Judges the next piece; false if more bytes are needed.
    fn step(&mut self) -> bool {
        match self.state {
            _ if self.held.is_empty() => false,
            State::Begins => self.begin(),
            State::Passes(left) => {
                let piece = self.held.split_to(left.min(self.held.len()));
                self.state = State::after(left - piece.len(), State::Passes);
                self.passed.unsplit(piece);
                true
            }
            State::Dropped(left) => {
                let piece = left.min(self.held.len());
                self.held.advance(piece);
                self.state = State::after(left - piece, State::Dropped);
                true
            }
        }
    }

    fn begin(&mut self) -> bool {
        let Some(&[kind, _, _, a, b, c, d]) = self.held.first_chunk::<BEFORE>() else { return false };
        let whole = BEFORE + u32::from_be_bytes([a, b, c, d]) as usize + AFTER;
        match kind {
            HEADER if whole > self.frame_max => self.replace_oversize(whole),
            HEADER | METHOD if whole <= self.frame_max => {
                if self.held.len() < whole {
                    return false;
                }
                let frame = self.held.split_to(whole);
                self.judge(kind, frame);
                true
            }
            _ => {
                self.state = State::Passes(whole);
                true
            }
        }
    }

    /// Lets a whole method or header pass, or its replacement.
    fn judge(&mut self, kind: u8, mut frame: BytesMut) {
        let inner = BEFORE..frame.len() - AFTER;
        if kind == METHOD {
            names::mend(&mut frame[inner.clone()]);
            if let Some(proposed) = names::proposed_frame_max(&frame[inner]) {
                let proposed = if proposed == 0 { FRAME_MAX } else { proposed as usize };
                self.frame_max = proposed.min(self.wanted).max(FRAME_MIN);
            }
        } else if let Some(fault) = content_header::fault(&frame[inner.clone()])
            && let Some(payload) = content_header::replacement(&frame[inner], fault, self.payload_max())
        {
            return self.replace(&frame, fault.0, &payload);
        }
        self.passed.unsplit(frame);
    }

    /// Replaces a header that is larger than the client library takes (a publisher may have had a larger bound), by what its beginning says.
    fn replace_oversize(&mut self, whole: usize) -> bool {
        let enough = self.frame_max;
        if self.held.len() < enough {
            return false;
        }
        let fault = ("properties", "are larger than a frame may be; put what is large into the body");
        match content_header::replacement(&self.held[BEFORE..enough], fault, self.payload_max()) {
            Some(payload) => {
                let frame = self.held.split_to(enough);
                self.replace(&frame, fault.0, &payload);
                self.state = State::after(whole - enough, State::Dropped);
            }
            None => self.state = State::Passes(whole),
        }
        true
    }

    fn replace(&mut self, frame: &[u8], property: &str, payload: &[u8]) {
        tracing::debug!(property, bytes = frame.len(), "the properties of a message cannot be read: it is refused");
        let length = u32::try_from(payload.len()).expect("shorter than a frame").to_be_bytes();
        self.passed.extend_from_slice(&frame[..3]);
        self.passed.extend_from_slice(&length);
        self.passed.extend_from_slice(payload);
        self.passed.extend_from_slice(&[END]);
    }

    const fn payload_max(&self) -> usize {
        self.frame_max - BEFORE - AFTER
    }
}

impl State {
    fn after(left: usize, state: fn(usize) -> Self) -> Self {
        if left == 0 { Self::Begins } else { state(left) }
    }
}
