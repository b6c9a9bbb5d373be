//! Texts in the broker's methods that a producer or an operator chose: the exchange and the routing key of a message, the words of an error.
//!
//! Nothing here uses them, but the client library ends the connection over one that is not UTF-8. Such bytes become question marks, in their places.

use super::table::take;

const CONNECTION: u16 = 10;
const CHANNEL: u16 = 20;
const BASIC: u16 = 60;

/// What a method is made of.
enum Part {
    /// So many bytes that are no text.
    Bytes(usize),
    /// A short text.
    Text,
}

/// The parts of a method that can hold foreign text, after its class and number.
fn parts(class: u16, method: u16) -> &'static [Part] {
    use Part::{Bytes, Text};
    match (class, method) {
        (CONNECTION, 50) | (CHANNEL, 40) => &[Bytes(2), Text],
        (CONNECTION, 60) => &[Text],
        (BASIC, 50) => &[Bytes(2), Text, Text, Text],
        (BASIC, 60) => &[Text, Bytes(9), Text, Text],
        (BASIC, 71) => &[Bytes(9), Text, Text],
        _ => &[],
    }
}

/// Makes the texts of a method's payload UTF-8.
pub(super) fn mend(payload: &mut [u8]) {
    let Some((numbers, mut rest)) = payload.split_first_chunk_mut::<4>() else { return };
    let [class, class_low, method, method_low] = *numbers;
    for part in parts(u16::from_be_bytes([class, class_low]), u16::from_be_bytes([method, method_low])) {
        let length = match part {
            Part::Bytes(count) => *count,
            Part::Text => {
                let Some((length, after)) = rest.split_first_mut() else { return };
                rest = after;
                (*length).into()
            }
        };
        let Some((bytes, after)) = rest.split_at_mut_checked(length) else { return };
        if matches!(part, Part::Text) {
            mend_text(bytes);
        }
        rest = after;
    }
}

fn mend_text(text: &mut [u8]) {
    while let Err(error) = std::str::from_utf8(text) {
        text[error.valid_up_to()] = b'?';
    }
}

/// The bound on a frame that the broker proposes in `connection.tune`; zero: none.
pub(super) fn proposed_frame_max(payload: &[u8]) -> Option<u32> {
    let mut rest = payload.strip_prefix(&[0, 10, 0, 30])?;
    take(&mut rest, 2).ok()?;
    Some(u32::from_be_bytes(*rest.first_chunk()?))
}
