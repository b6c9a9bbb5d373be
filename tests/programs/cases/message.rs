//! Messages to the pool's exchange, as a case writes them.

use std::{collections::BTreeMap, num::NonZeroUsize};

use protocol::envelope::HeaderValue;
use serde::Deserialize;
use tests::raw_amqp::{RawProperties, RawPublisher, entry};

use super::names::Names;
use crate::servers::Servers;

/// What stands for the reply queue that a message is given.
const OWN_QUEUE: &str = "{own queue}";

/// A message to the pool's exchange.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    #[serde(default)]
    properties: Properties,
    body_hex: Hex,
    #[serde(default = "once")]
    times: NonZeroUsize,
}

const fn once() -> NonZeroUsize {
    NonZeroUsize::MIN
}

/// One of the copies of a message.
struct Publication {
    id: String,
    properties: RawProperties,
}

impl Message {
    /// Each copy has an id of its own, unless the case names one.
    fn copies(&self, names: &Names, own_queue: &str) -> Vec<Publication> {
        let properties = self.properties.raw(names, own_queue);
        let copy = || match &self.properties.message_id {
            Some(id) => Publication { id: id.clone(), properties: properties.clone() },
            None => {
                let id = uuid::Uuid::new_v4().to_string();
                Publication { properties: properties.clone().text(RawProperties::MESSAGE_ID, id.as_bytes()), id }
            }
        };
        (0..self.times.get()).map(|_| copy()).collect()
    }
}

/// Publishes over a connection of its own: what one case does to it is not the next one's trouble.
pub struct Publisher {
    raw: RawPublisher,
    exchange: String,
    pool: String,
}

impl Publisher {
    /// Connects to the broker of these servers.
    pub async fn connect(servers: &Servers) -> Self {
        let exchange = task_queue::Names::new(servers.prefix()).exchange();
        Self { raw: RawPublisher::connect(servers.amqp()).await, exchange, pool: servers.configuration.worker.pool.to_string() }
    }

    /// Publishes a message as often as it says, with this queue for its own; the ids of the copies.
    pub async fn send(&mut self, message: &Message, names: &Names, own_queue: &str) -> Vec<String> {
        let mut ids = Vec::new();
        for Publication { id, properties } in message.copies(names, own_queue) {
            self.raw.publish_to(self.exchange.as_bytes(), self.pool.as_bytes(), &properties, message.body_hex.bytes()).await;
            ids.push(id);
        }
        ids
    }
}

/// Properties by their AMQP names.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Properties {
    content_type: Option<String>,
    content_encoding: Option<String>,
    headers: BTreeMap<String, Header>,
    priority: Option<u8>,
    correlation_id: Option<String>,
    reply_to: Option<String>,
    expiration: Option<String>,
    message_id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    app_id: Option<String>,
}

impl Properties {
    fn raw(&self, names: &Names, own_queue: &str) -> RawProperties {
        let reply_to = self.reply_to.as_ref().map(|written| names.on_broker(written));
        let texts = [
            (RawProperties::CONTENT_TYPE, &self.content_type),
            (RawProperties::CONTENT_ENCODING, &self.content_encoding),
            (RawProperties::CORRELATION_ID, &self.correlation_id),
            (RawProperties::REPLY_TO, &reply_to),
            (RawProperties::EXPIRATION, &self.expiration),
            (RawProperties::MESSAGE_ID, &self.message_id),
            (RawProperties::TYPE, &self.kind),
            (RawProperties::APP_ID, &self.app_id),
        ];
        let mut raw = RawProperties::default();
        for (bit, text) in texts {
            if let Some(text) = text {
                raw = raw.text(bit, text.replace(OWN_QUEUE, own_queue).as_bytes());
            }
        }
        if let Some(priority) = self.priority {
            raw = raw.octet(RawProperties::PRIORITY, priority);
        }
        let headers: Vec<u8> = self.headers.iter().flat_map(|(name, header)| entry(name, &header.value())).collect();
        if headers.is_empty() { raw } else { raw.headers(&headers) }
    }
}

/// A header's value, under the letter of its AMQP type.
#[derive(Debug, Deserialize)]
enum Header {
    #[serde(rename = "S")]
    Text(String),
    #[serde(rename = "l")]
    Integer(i64),
    #[serde(rename = "t")]
    Bool(bool),
    #[serde(rename = "x")]
    Bytes(Hex),
    #[serde(rename = "V")]
    Void(()),
}

impl Header {
    fn value(&self) -> HeaderValue {
        match self {
            Self::Text(text) => HeaderValue::Text(text.clone()),
            Self::Integer(number) => HeaderValue::Integer(*number),
            Self::Bool(truth) => HeaderValue::Bool(*truth),
            Self::Bytes(bytes) => HeaderValue::Bytes(bytes.0.clone()),
            Self::Void(()) => HeaderValue::Other,
        }
    }
}

/// Bytes that are written in hexadecimal.
#[derive(Debug, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Hex(Vec<u8>);

impl Hex {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<String> for Hex {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits: Option<Vec<u8>> = text.chars().map(|letter| u8::try_from(letter.to_digit(16)?).ok()).collect();
        match digits {
            Some(digits) if digits.len() % 2 == 0 => Ok(Self(digits.chunks(2).map(|pair| (pair[0] << 4) | pair[1]).collect())),
            _ => Err(format!("{text:?} is no bytes in hexadecimal")),
        }
    }
}

fn message(text: &str) -> Message {
    serde_json::from_str(&format!(r#"{{{text} "body_hex": "7b7D"}}"#)).expect("a message")
}

fn names() -> Names {
    Names::new("mine", [])
}

#[test]
fn a_message_is_sent_as_its_case_writes_it() {
    let message = message(
        r#""properties": {"type": "echo", "message_id": "one", "reply_to": "{own queue}", "priority": 7, "headers":
            {"a": {"S": "text"}, "b": {"l": -1}, "c": {"t": true}, "d": {"x": "ff00"}, "e": {"V": null}}},"#,
    );
    let headers = [
        ("a", HeaderValue::Text("text".to_owned())),
        ("b", HeaderValue::Integer(-1)),
        ("c", HeaderValue::Bool(true)),
        ("d", HeaderValue::Bytes(vec![0xff, 0])),
        ("e", HeaderValue::Other),
    ];
    let headers: Vec<u8> = headers.iter().flat_map(|(name, value)| entry(name, value)).collect();
    let expected = RawProperties::task("one", "echo").text(RawProperties::REPLY_TO, b"own").octet(RawProperties::PRIORITY, 7);
    let copies = message.copies(&names(), "own");
    assert_eq!((copies.len(), copies[0].id.as_str()), (1, "one"));
    assert_eq!(copies[0].properties.bytes(), expected.headers(&headers).bytes());
    assert_eq!(message.body_hex.bytes(), b"{}");
}

#[test]
fn copies_have_ids_of_their_own_unless_the_case_names_one() {
    let ids = |text: &str| {
        let copies = message(text).copies(&names(), "");
        let ids: std::collections::BTreeSet<String> = copies.into_iter().map(|copy| copy.id).collect();
        ids.len()
    };
    assert_eq!(ids(r#""times": 3,"#), 3);
    assert_eq!(ids(r#""times": 3, "properties": {"message_id": "one"},"#), 1);
}
