//! The broker's greeting: its name and version.
//!
//! AMQP tells them in the first frame of the handshake, which the client library reads and does not pass on. So this opens a connection, reads that one
//! frame and hangs up. For operators' checks only.

use std::time::Duration;

use lapin::{
    types::{AMQPValue, FieldTable, parsing::parse_field_table},
    uri::{AMQPScheme, AMQPUri},
};
use protocol::config::SecretUrl;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::screen;
use crate::QueueError;

/// The longest first frame that is read, in bytes.
const FRAME_MAX: u32 = 64 * 1024;
/// Frame type, channel and length stand before a frame's payload.
const FRAME_HEADER: usize = 7;
/// Class, method and protocol version stand before the properties of `connection.start`.
const START_HEADER: usize = 6;

/// What the broker says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// For example `RabbitMQ`.
    pub product: String,
    /// For example `3.10.8`.
    pub version: String,
}

/// Asks the broker for its name and version, within `limit`. Needs no login.
///
/// # Errors
/// [`QueueError::Unreachable`]; [`QueueError::Refused`] for TLS (which the check does not speak) and for what is no AMQP server.
pub async fn greeting(url: &SecretUrl, limit: Duration) -> Result<Greeting, QueueError> {
    let refused = |reason: String| QueueError::Refused { operation: "read the broker's greeting".to_owned(), reason };
    let uri: AMQPUri = url.reveal().parse().map_err(refused)?;
    if uri.scheme == AMQPScheme::AMQPS {
        return Err(refused("not over TLS; ask the broker's operator".to_owned()));
    }
    let address = (uri.authority.host.as_str(), uri.authority.port);
    let unreachable = |reason: String| QueueError::Unreachable { url: url.redacted(), reason };
    let frame = timeout(limit, first_frame(address)).await.map_err(|_| unreachable("no answer in time".to_owned()))?;
    let frame = frame.map_err(|error| unreachable(error.to_string()))?;
    read(&frame).ok_or_else(|| refused("the server's first words are no AMQP 0-9-1 greeting".to_owned()))
}

async fn first_frame(address: (&str, u16)) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"AMQP\0\0\x09\x01").await?;
    let mut header = [0; FRAME_HEADER];
    stream.read_exact(&mut header).await?;
    let length = u32::from_be_bytes([header[3], header[4], header[5], header[6]]).min(FRAME_MAX);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await?;
    Ok(payload)
}

/// Reads the payload of `connection.start`.
fn read(payload: &[u8]) -> Option<Greeting> {
    let table = payload.get(START_HEADER..).filter(|table| screen::is_readable(table))?;
    let (_, properties) = parse_field_table(table).ok()?;
    Some(Greeting { product: text(&properties, "product")?, version: text(&properties, "version")? })
}

fn text(properties: &FieldTable, name: &str) -> Option<String> {
    match properties.inner().get(name)? {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The payload with these bytes as its table's entries.
    fn payload(entries: &[u8]) -> Vec<u8> {
        let length = u32::try_from(entries.len()).expect("a short table");
        [&[0; START_HEADER], &length.to_be_bytes()[..], entries].concat()
    }

    fn entry(name: &str, kind: u8, value: &[u8]) -> Vec<u8> {
        let length = u32::try_from(value.len()).expect("a short value");
        [&[name.len() as u8], name.as_bytes(), &[kind], &length.to_be_bytes()[..], value].concat()
    }

    #[test]
    fn a_greeting_tells_name_and_version() {
        let entries = [entry("product", b'S', b"RabbitMQ"), entry("more", b'F', b""), entry("version", b'S', b"3.10.8")].concat();
        assert_eq!(read(&payload(&entries)), Some(Greeting { product: "RabbitMQ".to_owned(), version: "3.10.8".to_owned() }));
        assert_eq!(read(&payload(&entry("product", b'S', b"RabbitMQ"))), None, "without a version");
    }

    #[test]
    fn tables_within_tables_end_no_process() {
        let mut nested = Vec::new();
        while nested.len() < FRAME_MAX as usize - 64 {
            nested = entry("", b'F', &nested);
        }
        assert_eq!(read(&payload(&nested)), None);
    }

    proptest! {
        #[test]
        fn any_bytes_at_all_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
            let _ = read(&payload(&bytes));
        }
    }

    #[test]
    fn what_is_no_greeting_is_not_read_as_one() {
        for payload in [&b""[..], b"HTTP/1.1 400", &[0; 64], &[255; 64]] {
            assert_eq!(read(payload), None);
        }
    }
}
