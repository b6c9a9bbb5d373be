//! The screen against the client library: it marks exactly what the library cannot read, and changes nothing else.

use lapin::{
    protocol::basic::parse_properties,
    types::{AMQPValue, parsing::ParserError},
};
use proptest::{collection::vec, prelude::*};
use protocol::envelope::{PROPERTIES, UNREADABLE};

use super::{content_header, frames::Frames, names};

const MOST: usize = 128 * 1024 - 8;

/// What the library makes of properties: all of them, or an error.
fn library_reads(properties: &[u8]) -> Result<lapin::BasicProperties, Option<ParserError>> {
    match parse_properties(properties) {
        Ok((&[], read)) => Ok(read),
        Ok(_) => Err(None),
        Err(error) => Err(Some(error)),
    }
}

fn header(properties: &[u8]) -> Vec<u8> {
    [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7], properties].concat()
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 0, 1], &u32::try_from(payload.len()).expect("fits").to_be_bytes()[..], payload, &[0xce]].concat()
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("short")], text].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("fits").to_be_bytes(), bytes].concat()
}

/// Texts, most of them UTF-8.
fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => "[a-zé]{0,5}".prop_map(String::into_bytes), 1 => vec(any::<u8>(), 0..5)].prop_map(|text| short(&text))
}

/// Values of a table, most of them well formed.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let fixed = |kinds: &'static [u8], size: usize| {
        (prop::sample::select(kinds), vec(any::<u8>(), size)).prop_map(|(kind, bytes)| [vec![kind], bytes].concat())
    };
    let leaf = prop_oneof![
        fixed(b"V", 0),
        fixed(b"tbB", 1),
        fixed(b"sUu", 2),
        fixed(b"Iif", 4),
        fixed(b"D", 5),
        fixed(b"LldT", 8),
        (prop::sample::select(&b"Sx"[..]), vec(any::<u8>(), 0..9)).prop_map(|(kind, bytes)| [vec![kind], long(&bytes)].concat()),
        vec(any::<u8>(), 0..4),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let array = vec(inner.clone(), 0..4).prop_map(|values| [&b"A"[..], &long(&values.concat())].concat());
        let table = vec((text(), inner), 0..4).prop_map(|entries| [&b"F"[..], &long(&entries_of(entries))].concat());
        prop_oneof![array, table]
    })
}

fn entries_of(entries: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<u8> {
    entries.into_iter().flat_map(|(name, value)| [name, value].concat()).collect()
}

/// Properties as a hostile client may write them: any flags, any bytes; or nearly right ones.
fn properties() -> impl Strategy<Value = Vec<u8>> {
    let headers = vec((text(), value()), 0..4).prop_map(|entries| long(&entries_of(entries)));
    let tail = prop_oneof![4 => Just(Vec::new()), 1 => vec(any::<u8>(), 1..4)];
    let likely = (text(), headers, vec(any::<u8>(), 1), text(), vec(any::<u8>(), 8), text(), tail).prop_map(
        |(content_type, headers, octet, id, timestamp, kind, tail)| {
            let flags = 0b1010_1001_1110_0000_u16.to_be_bytes().to_vec();
            // content_type, headers, priority, expiration, message_id, timestamp, type
            [flags, content_type, headers, octet, short(b"9"), id, timestamp, kind, tail].concat()
        },
    );
    prop_oneof![3 => likely, 1 => vec(any::<u8>(), 0..40)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn exactly_what_the_library_cannot_read_is_at_fault(properties in properties()) {
        let fault = content_header::fault(&header(&properties));
        prop_assert_eq!(fault.is_some(), library_reads(&properties).is_err(), "{:?}", fault);
    }

    #[test]
    fn a_replacement_is_readable_and_says_what_was_wrong(properties in properties()) {
        let payload = header(&properties);
        let Some((property, fault)) = content_header::fault(&payload) else { return Ok(()) };
        let replaced = content_header::replacement(&payload, (property, fault), MOST).expect("it fits");
        prop_assert_eq!(&replaced[..12], &payload[..12]);
        let read = library_reads(&replaced[12..]).expect("readable");
        let headers = read.headers().as_ref().expect("headers").inner();
        prop_assert_eq!(&headers[UNREADABLE], &AMQPValue::LongString(format!("{property}: {fault}").into()));
        prop_assert_eq!(&headers[PROPERTIES], &AMQPValue::ByteArray(properties.into()));
    }

    #[test]
    fn however_the_bytes_arrive_the_same_passes(
        headers in vec(properties(), 1..5),
        cuts in vec(1_usize..40, 1..40),
    ) {
        let frames: Vec<Vec<u8>> = headers.iter().flat_map(|properties| {
            [frame(1, &[0, 60, 0, 60]), frame(2, &header(properties)), frame(3, b"any body"), frame(8, &[])]
        }).collect();
        let stream = frames.concat();
        let whole = through([&stream[..]]);
        let mut pieces = Vec::new();
        let mut rest = &stream[..];
        for cut in cuts.iter().cycle() {
            let (piece, left) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece);
            rest = left;
            if rest.is_empty() { break }
        }
        prop_assert_eq!(&through(pieces), &whole);
        if headers.iter().all(|properties| library_reads(properties).is_ok()) {
            prop_assert_eq!(whole, stream);
        }
    }

    #[test]
    fn any_bytes_at_all_pass_without_a_panic(bytes in vec(any::<u8>(), 0..200), method in any::<bool>()) {
        through([&bytes[..]]);
        through([&frame(if method { 1 } else { 2 }, &bytes)[..]]);
    }
}

fn through<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut frames = Frames::new(None);
    let mut passed = Vec::new();
    let mut buffer = [0; 64];
    for piece in pieces {
        frames.arrived(piece);
        while let count @ 1.. = frames.take(&mut buffer) {
            passed.extend_from_slice(&buffer[..count]);
        }
    }
    passed
}

fn unreadable_of(frame: &[u8]) -> (String, usize) {
    let read = library_reads(&frame[7 + 12..frame.len() - 1]).expect("readable");
    let headers = read.headers().as_ref().expect("headers").inner();
    let (AMQPValue::LongString(problem), AMQPValue::ByteArray(original)) = (&headers[UNREADABLE], &headers[PROPERTIES]) else {
        panic!("{headers:?}")
    };
    (String::from_utf8_lossy(problem.as_bytes()).into_owned(), original.len())
}

#[test]
fn a_header_that_is_larger_than_a_frame_may_be_is_replaced_and_the_next_frame_passes() {
    let table = [short(b"x"), b"S".to_vec(), long(&[7; 200_000])].concat();
    let large = header(&[&[0b0010_0000, 0], &long(&table)[..]].concat());
    let passed = through([&[frame(2, &large), frame(3, b"body")].concat()[..]]);
    let replaced = passed.strip_suffix(&frame(3, b"body")[..]).expect("the next frame passes");
    assert_eq!(
        unreadable_of(replaced),
        ("properties: are larger than a frame may be; put what is large into the body".to_owned(), 16 * 1024)
    );
}

#[test]
fn a_replacement_fits_the_smallest_frame_that_a_broker_may_propose() {
    let tune = frame(1, &[0, 10, 0, 30, 0, 0, 0, 0, 16, 0, 0, 0]);
    let headers = long(&[short(b"x"), b"S".to_vec(), long(&[7; 3_000])].concat());
    let large = frame(2, &header(&[&[0b0010_0000, 1 << 5], &headers[..], &short(b"\xff")].concat()));
    let passed = through([&[&tune[..], &large].concat()[..]]);
    let replaced = passed.strip_prefix(&tune[..]).expect("a method passes");
    assert_eq!((replaced.len() <= 4_096, unreadable_of(replaced)), (true, ("type: is not UTF-8 text".to_owned(), large.len() - 20)));
}

#[test]
fn texts_of_methods_are_mended_in_their_places() {
    let deliver = |text: &[u8]| [&[0, 60, 0, 60], &short(b"tag")[..], &[0xff; 9], &short(text), &short(b"ok\xff\xfe")].concat();
    let mut payload = deliver(b"\xc3\xa9\xc3");
    names::mend(&mut payload);
    assert_eq!(payload, [&[0, 60, 0, 60], &short(b"tag")[..], &[0xff; 9], &short(b"\xc3\xa9?"), &short(b"ok??")].concat());
}
