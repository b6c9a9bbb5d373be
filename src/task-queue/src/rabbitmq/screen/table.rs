//! Whether the client library can read a table of headers: the types of RabbitMQ's dialect, names in UTF-8, and no more depth than a stack bears.

/// The deepest nesting of tables and arrays. RabbitMQ's own `x-death` needs three; the client library reads recursively, and tens of thousands
/// of levels fit into one frame.
const DEPTH_MAX: usize = 32;

/// What is wrong, in words for the producer.
pub(super) type Fault = &'static str;

pub(super) const CUT_SHORT: Fault = "is cut short";
pub(super) const NOT_UTF8: Fault = "is not UTF-8 text";
/// Says [`DEPTH_MAX`].
const TOO_DEEP: Fault = "is nested deeper than 32 levels";

/// Takes `count` bytes off the front.
pub(super) fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Fault> {
    let (taken, left) = rest.split_at_checked(count).ok_or(CUT_SHORT)?;
    *rest = left;
    Ok(taken)
}

/// Takes a short text (its length in one byte) off the front; its bytes without the length.
pub(super) fn take_short<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Fault> {
    let length = take(rest, 1)?[0];
    take(rest, length.into())
}

/// Takes what has its length in four bytes off the front; its bytes without the length.
pub(super) fn take_long<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Fault> {
    let length = take(rest, 4)?;
    let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
    take(rest, length as usize)
}

/// Checks the entries of a table (without the table's length).
pub(super) fn check(entries: &[u8]) -> Result<(), Fault> {
    table(entries, DEPTH_MAX)
}

fn table(mut entries: &[u8], depth: usize) -> Result<(), Fault> {
    while !entries.is_empty() {
        let name = take_short(&mut entries)?;
        std::str::from_utf8(name).map_err(|_| "has a name that is not UTF-8 text")?;
        value(&mut entries, depth)?;
    }
    Ok(())
}

fn array(mut values: &[u8], depth: usize) -> Result<(), Fault> {
    while !values.is_empty() {
        value(&mut values, depth)?;
    }
    Ok(())
}

fn value(rest: &mut &[u8], depth: usize) -> Result<(), Fault> {
    let deeper = || depth.checked_sub(1).ok_or(TOO_DEEP);
    let fixed = match take(rest, 1)?[0] {
        b'V' => 0,
        b't' | b'b' | b'B' => 1,
        b's' | b'U' | b'u' => 2,
        b'I' | b'i' | b'f' => 4,
        b'D' => 5,
        b'L' | b'l' | b'd' | b'T' => 8,
        b'S' | b'x' => return take_long(rest).map(drop),
        b'A' => return array(take_long(rest)?, deeper()?),
        b'F' => return table(take_long(rest)?, deeper()?),
        _ => return Err("has a value of an unknown type"),
    };
    take(rest, fixed).map(drop)
}
