//! What travels between a data port and its client.
//!
//! # Frames
//!
//! Everything is a frame: the length of its header as an unsigned number of 32 bits, the highest byte first; the header, one JSON value of that length; then, of a `piece` only, as many raw bytes as its header says.
//! A header has 1 to 65,536 bytes, the very first one of a connection at most 1,024; a piece has 1 to 16,777,216 bytes. Who breaks these bounds is refused, and the connection ends. Fields that a side does not know
//! are passed over.
//!
//! A header is an object with one member, whose name says what it is, or a plain string where there is nothing more to say: `{"read": {"at": 0, "bytes": 4194304}}`, `"close"`.
//!
//! Who ends his direction of a connection is gone: what is done for him is dropped, also if he would still listen.
//!
//! # Beginning
//!
//! The client says `{"hello": {"protocol": "gpufleet-data", "version": 1, "key": "…"}}`, with the key of [`DataPort`](protocol::DataPort). The answer is `{"welcome": {"version": 1}}`, or a refusal.
//!
//! # Refusals
//!
//! `{"refused": {"because": "missing", "message": "…"}}` ([`Refused`](crate::Refused)) can be the answer to everything. The connection stays, but for a refusal of the hello, of what is no request, and of a writing that had
//! been given its `ready`: after these it ends.
//!
//! # Requests
//!
//! A request is answered after the one before it; the client need not wait with the next one. What has a version takes `"version": null`, or none, for the latest that is there.
//!
//! | request | answer |
//! | --- | --- |
//! | `{"about": {"name": "a", "version": 7}}` | `{"record": {…}}`, a [`TensorRecord`](protocol::TensorRecord) |
//! | `{"open": {"name": "a", "version": 7}}` | `{"record": {…}}`. A tensor that is still arriving is `missing` until all of it is there. It stays open for reading, even if it is freed meanwhile, until the next `open`, `close`, or the end of the connection |
//! | `{"read": {"at": 0, "bytes": 64}}` | `{"piece": {"at": 0, "bytes": 64, "checksum": 123}}` and the bytes, of the tensor that is open. `at` is a multiple of eight |
//! | `"close"` | none |
//! | `{"write": {"name": "a", "shape": {…}, …}}` | `"ready"`, once there is room for all of it ([`NewTensor`](crate::NewTensor)); see below |
//! | `{"free": {"name": "a", "version": 7}}` | `{"freed": true}`; `false` where it was not there |
//! | `{"fetch": {"from": {…}, "timeout_ms": 30000}}` | `{"record": {…}}` ([`FetchOrder`](crate::FetchOrder)), once the tensor is there |
//!
//! The checksum of a piece is [`Checksum::of`](protocol::Checksum::of) its bytes, with its `at`: a number of 64 bits, which not every reader of JSON takes whole. The receiver computes it, too. Where they differ, a reader asks for
//! the piece again; after three tries in vain it gives up.
//!
//! # Writing
//!
//! After `ready` the client sends the tensor as pieces, in order and without gaps: `{"piece": {"at": …, "bytes": …, "checksum": …}}` and the bytes. Each but the last has a multiple of eight of them. Each is answered by
//! `{"got": {"at": …}}` when it came whole, or `{"again": {"at": …}}` when it did not: then the client sends this piece and all after it again, and the port passes over what was on its way. At most two pieces may be without
//! an answer. A piece that does not come whole three times, the writing is refused as `failed`. When the last piece was got comes `{"end": {"checksum": …}}` with the sum of the pieces' checksums, and its answer is `{"record": {…}}`: the
//! tensor is there. If the connection ends before that, nothing of it remains.

mod incoming;
mod outgoing;

use std::fmt;

use protocol::{Checksum, TensorName, TensorRecord};
use serde::{Deserialize, Serialize};

pub(crate) use self::{incoming::Incoming, outgoing::Outgoing};
use crate::{FetchOrder, NewTensor, Refused};

/// The name of the protocol.
pub(crate) const PROTOCOL: &str = "gpufleet-data";
/// Its version.
pub(crate) const VERSION: u32 = 1;
/// Longest header of who did not give the key yet.
pub(crate) const HELLO_BYTES_MAX: usize = 1_024;
/// Longest header.
pub(crate) const HEADER_BYTES_MAX: usize = 64 << 10;
/// Longest piece.
pub(crate) const PIECE_BYTES_MAX: usize = 16 << 20;
/// How often a piece may come before its receiver gives up.
pub(crate) const TRIES: u32 = 3;
/// How many pieces may be under way.
pub(crate) const WINDOW: usize = 2;
/// What begins a piece is a multiple of this.
pub(crate) const WORD: u64 = 8;

/// The first words of a client.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol: String,
    pub(crate) version: u32,
    pub(crate) key: String,
}

impl fmt::Debug for Hello {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is a secret.
        formatter.debug_struct("Hello").field("protocol", &self.protocol).field("version", &self.version).finish_non_exhaustive()
    }
}

/// Which tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Which {
    pub(crate) name: TensorName,
    #[serde(default)]
    pub(crate) version: Option<u64>,
}

/// What precedes the bytes of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Piece {
    pub(crate) at: u64,
    pub(crate) bytes: usize,
    pub(crate) checksum: Checksum,
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    Hello(Hello),
    About(Which),
    Open(Which),
    Read { at: u64, bytes: usize },
    Close,
    Write(NewTensor),
    Piece(Piece),
    End { checksum: Checksum },
    Free(Which),
    Fetch(Box<FetchOrder>),
}

/// What a data port says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Welcome { version: u32 },
    Record(Box<TensorRecord>),
    Piece(Piece),
    Ready,
    Got { at: u64 },
    Again { at: u64 },
    Freed(bool),
    Refused(Refused),
}

/// The beginning of what the other side said, for people: it may have said very much.
pub(crate) fn shortened(said: &str) -> String {
    const CHARACTERS_MAX: usize = 1_000;
    said.chars().take(CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_look_as_they_are_documented() {
        let text = |request: &Request| serde_json::to_string(request).unwrap();
        assert_eq!(text(&Request::Read { at: 0, bytes: 64 }), r#"{"read":{"at":0,"bytes":64}}"#);
        assert_eq!(text(&Request::Close), r#""close""#);
        let piece = Piece { at: 8, bytes: 16, checksum: Checksum(u64::MAX) };
        assert_eq!(text(&Request::Piece(piece)), r#"{"piece":{"at":8,"bytes":16,"checksum":18446744073709551615}}"#);
        let which: Request = serde_json::from_str(r#"{"about": {"name": "a", "later": 1}}"#).unwrap();
        assert_eq!(which, Request::About(Which { name: TensorName::new("a").unwrap(), version: None }));
        let answer = |answer: &Answer| serde_json::to_string(answer).unwrap();
        assert_eq!(answer(&Answer::Welcome { version: 1 }), r#"{"welcome":{"version":1}}"#);
        assert_eq!(answer(&Answer::Ready), r#""ready""#);
        assert_eq!(answer(&Answer::Freed(true)), r#"{"freed":true}"#);
        let refused = Refused::new(crate::RefusedBecause::NotAllowed, "no");
        assert_eq!(answer(&Answer::Refused(refused)), r#"{"refused":{"because":"not_allowed","message":"no"}}"#);
    }
}
