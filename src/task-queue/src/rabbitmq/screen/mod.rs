//! Keeps the client library from messages that it cannot read.
//!
//! The library ends the whole connection over one content header that it cannot parse (a `type` that is not UTF-8, say), or overflows its stack over
//! one that is nested deeply; the broker delivers that message again, and one bad message stops every consumer, for ever. So the bytes from the broker
//! pass through a [`Screen`], below the library and above TLS. It reads frames, not contents: everything passes as it is, but the header of such a
//! message is replaced by one that says what is wrong with it and holds the original bytes. The message then goes the way of all invalid ones, from
//! its own place in the queue, and no other message notices.
//!
//! ```text
//! broker ──► TCP ──► TLS ──► screen ──► client library ──► consumers, replies, takes
//! ```

mod content_header;
mod frames;
mod names;
mod runtime;
mod stream;
mod table;
#[cfg(test)]
mod tests;

use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties,
    tcp::{AMQPUriTcpExt, OwnedTLSConfig},
    uri::AMQPUri,
};

use self::{frames::Frames, stream::Screen};

/// Whether the client library can read a table, which begins with its length.
pub(super) fn is_readable(mut table: &[u8]) -> bool {
    table::take_long(&mut table).is_ok_and(|entries| table::check(entries).is_ok())
}

/// Connects as the client library does by itself, with a screen in between.
pub(super) async fn connect(uri: AMQPUri, properties: ConnectionProperties) -> lapin::Result<Connection> {
    let plain = async_rs::Runtime::tokio_current();
    let open = async move |uri: AMQPUri, _| {
        let stream = uri.connect_with_config_async(OwnedTLSConfig::default().as_ref(), &plain).await?;
        Ok(AsyncTcpStream::Plain(Screen::new(stream, Frames::new(uri.query.frame_max))))
    };
    Connection::connector(uri, runtime::screened(), open, properties).await
}
