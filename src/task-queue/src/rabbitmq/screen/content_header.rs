//! The header of a message: whether the client library can read its properties, and what to hand it instead.

use protocol::envelope::{PROPERTIES, UNREADABLE};

use super::table::{self, CUT_SHORT, Fault, NOT_UTF8, take, take_long, take_short};

/// Class, weight and the body's size stand before the properties.
const FIXED: usize = 12;
/// Most bytes of the original properties that are kept.
const ORIGINAL_MAX: usize = 16 * 1024;
/// The place of the headers among the properties.
const HEADERS: usize = 2;

#[derive(Clone, Copy)]
enum Shape {
    Text,
    Table,
    Octet,
    Timestamp,
}

/// The properties of a message, in their order. The first one's flag is the highest bit.
const SHAPES: [(&str, Shape); 14] = [
    ("content_type", Shape::Text),
    ("content_encoding", Shape::Text),
    ("headers", Shape::Table),
    ("delivery_mode", Shape::Octet),
    ("priority", Shape::Octet),
    ("correlation_id", Shape::Text),
    ("reply_to", Shape::Text),
    ("expiration", Shape::Text),
    ("message_id", Shape::Text),
    ("timestamp", Shape::Timestamp),
    ("type", Shape::Text),
    ("user_id", Shape::Text),
    ("app_id", Shape::Text),
    ("cluster_id", Shape::Text),
];

/// One property: its place in [`SHAPES`], and its bytes or what is wrong with them.
struct Property<'a> {
    place: usize,
    bytes: Result<&'a [u8], Fault>,
}

/// The properties that are there, until one is cut short: after it nothing can be found.
struct Properties<'a> {
    flags: u16,
    next: usize,
    rest: &'a [u8],
}

impl<'a> Properties<'a> {
    fn new(mut rest: &'a [u8]) -> Option<Self> {
        let flags = take(&mut rest, 2).ok()?;
        Some(Self { flags: u16::from_be_bytes([flags[0], flags[1]]), next: 0, rest })
    }
}

impl<'a> Iterator for Properties<'a> {
    type Item = Property<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let place = (self.next..SHAPES.len()).find(|place| self.flags & flag(*place) != 0)?;
        self.next = place + 1;
        let before = self.rest;
        let checked = match SHAPES[place].1 {
            Shape::Text => take_short(&mut self.rest).map(|text| std::str::from_utf8(text).map(drop).map_err(|_| NOT_UTF8)),
            Shape::Table => take_long(&mut self.rest).map(table::check),
            Shape::Octet => take(&mut self.rest, 1).map(|_| Ok(())),
            Shape::Timestamp => take(&mut self.rest, 8).map(|_| Ok(())),
        };
        let bytes = match checked {
            Ok(checked) => checked.map(|()| &before[..before.len() - self.rest.len()]),
            Err(cut_short) => {
                self.next = SHAPES.len();
                Err(cut_short)
            }
        };
        Some(Property { place, bytes })
    }
}

const fn flag(place: usize) -> u16 {
    1 << (15 - place)
}

/// What is wrong with the properties of a message: the first property at fault, and its fault.
pub(super) fn fault(payload: &[u8]) -> Option<(&'static str, Fault)> {
    let Some(mut properties) = payload.get(FIXED..).and_then(Properties::new) else { return Some(("properties", CUT_SHORT)) };
    for property in properties.by_ref() {
        if let Err(fault) = property.bytes {
            return Some((SHAPES[property.place].0, fault));
        }
    }
    (!properties.rest.is_empty()).then_some(("properties", "have bytes left over"))
}

/// The payload of a header of at most `most` bytes that keeps what can be read of the original's properties, says what cannot, and holds the
/// original's bytes. `None` if not even the size of the body is known.
pub(super) fn replacement(payload: &[u8], (property, fault): (&str, Fault), most: usize) -> Option<Vec<u8>> {
    let fixed = payload.get(..FIXED)?;
    let original = &payload[FIXED..];
    let problem = format!("{property}: {fault}");
    let kept: Vec<(usize, &[u8])> =
        Properties::new(original).into_iter().flatten().filter_map(|Property { place, bytes }| Some((place, bytes.ok()?))).collect();
    let headers = kept.iter().find(|(place, _)| *place == HEADERS).and_then(|(_, bytes)| bytes.get(4..));
    // The most first: what is least needed is left out where the whole does not fit.
    let attempts =
        [(headers, &kept[..], original.len()), (None, &kept[..], original.len()), (None, &kept[..], ORIGINAL_MAX), (None, &[], 0)];
    let mut built = attempts.into_iter().map(|(headers, kept, bytes_max)| {
        let bytes = &original[..original.len().min(bytes_max).min(ORIGINAL_MAX)];
        let headers = [headers.unwrap_or_default(), &entry(UNREADABLE, b'S', problem.as_bytes()), &entry(PROPERTIES, b'x', bytes)].concat();
        assemble(fixed, kept, &headers)
    });
    built.find(|payload| payload.len() <= most)
}

/// One entry of a table, with a value that has its length in four bytes.
fn entry(name: &str, kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).expect("shorter than a frame").to_be_bytes();
    let name_length = u8::try_from(name.len()).expect("a name of ours is short");
    [&[name_length], name.as_bytes(), &[kind], &length, value].concat()
}

fn assemble(fixed: &[u8], kept: &[(usize, &[u8])], headers: &[u8]) -> Vec<u8> {
    let length = u32::try_from(headers.len()).expect("shorter than a frame").to_be_bytes();
    let headers = [&length, headers].concat();
    let mut properties: Vec<(usize, &[u8])> = kept.iter().copied().filter(|(place, _)| *place != HEADERS).collect();
    properties.push((HEADERS, &headers));
    properties.sort_by_key(|(place, _)| *place);
    let flags = properties.iter().fold(0, |flags, (place, _)| flags | flag(*place)).to_be_bytes();
    let mut payload = [fixed, &flags].concat();
    properties.iter().for_each(|(_, bytes)| payload.extend_from_slice(bytes));
    payload
}
