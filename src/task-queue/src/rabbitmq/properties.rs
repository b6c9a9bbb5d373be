//! Envelopes as AMQP properties, and back. What an [`Envelope`] has no place for does not travel on.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use protocol::{
    Envelope,
    envelope::{HeaderValue, Headers},
};

use crate::{Death, DeathReason, Outgoing, message::is_direct_reply};

const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;
/// Header: every time that the broker took the message out of a queue, the last one first.
const DEATHS: &str = "x-death";

/// The properties of a message to `routing_key`; `None` if a text does not fit (more than 255 bytes). Its `user_id` travels only if it is the
/// publishing `login`: the broker closes the channel for any other.
pub(super) fn write(message: &Outgoing, routing_key: &str, login: &str) -> Option<BasicProperties> {
    let envelope = &message.envelope;
    let persistence = if message.transient || is_direct_reply(routing_key) { TRANSIENT } else { PERSISTENT };
    let mut properties = BasicProperties::default().with_delivery_mode(persistence);
    type With = fn(BasicProperties, ShortString) -> BasicProperties;
    let texts: [(&Option<String>, With); 7] = [
        (&envelope.message_id, BasicProperties::with_message_id),
        (&envelope.kind, BasicProperties::with_type),
        (&envelope.reply_to, BasicProperties::with_reply_to),
        (&envelope.correlation_id, BasicProperties::with_correlation_id),
        (&envelope.expiration, BasicProperties::with_expiration),
        (&envelope.content_type, BasicProperties::with_content_type),
        (&envelope.content_encoding, BasicProperties::with_content_encoding),
    ];
    for (text, with) in texts {
        if let Some(text) = text {
            properties = with(properties, ShortString::try_new(text.as_str()).ok()?);
        }
    }
    if let Some(user) = envelope.user_id.as_deref().filter(|user| *user == login) {
        properties = properties.with_user_id(ShortString::try_new(user).ok()?);
    }
    if let Some(priority) = envelope.priority {
        properties = properties.with_priority(priority);
    }
    if let Some(timestamp) = envelope.timestamp {
        properties = properties.with_timestamp(timestamp);
    }
    let pairs = envelope.headers.pairs();
    Some(if pairs.is_empty() { properties } else { properties.with_headers(write_headers(pairs)) })
}

fn write_headers(pairs: Vec<(&'static str, HeaderValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        let value = match value {
            HeaderValue::Text(text) => AMQPValue::LongString(text.into()),
            HeaderValue::Integer(number) => AMQPValue::LongLongInt(number),
            HeaderValue::Bool(truth) => AMQPValue::Boolean(truth),
            HeaderValue::Bytes(bytes) => AMQPValue::ByteArray(bytes.into()),
            HeaderValue::Other => AMQPValue::Void,
        };
        table.insert(name.into(), value);
    }
    table
}

/// What of a message's properties the fleet knows.
pub(super) fn read(properties: &BasicProperties) -> Envelope {
    let text = |text: &Option<ShortString>| text.as_ref().map(|text| text.as_str().to_owned());
    Envelope {
        message_id: text(properties.message_id()),
        kind: text(properties.kind()),
        priority: *properties.priority(),
        reply_to: text(properties.reply_to()),
        correlation_id: text(properties.correlation_id()),
        expiration: text(properties.expiration()),
        content_type: text(properties.content_type()),
        content_encoding: text(properties.content_encoding()),
        timestamp: *properties.timestamp(),
        user_id: text(properties.user_id()),
        headers: properties.headers().as_ref().map(read_headers).unwrap_or_default(),
    }
}

/// Why the broker last took the message out of a queue. The first entry of `x-death` is written by every version of the broker. `x-first-death-…` tells of the first time, and
/// `x-last-death-…` only newer versions write: on an older one it says what a producer makes up.
pub(super) fn death(properties: &BasicProperties) -> Option<Death> {
    let AMQPValue::FieldArray(deaths) = properties.headers().as_ref()?.inner().get(DEATHS)? else { return None };
    let AMQPValue::FieldTable(last) = deaths.as_slice().first()? else { return None };
    let text = |name: &str| match read_value(last.inner().get(name)?) {
        HeaderValue::Text(text) => Some(text),
        _ => None,
    };
    Some(Death { queue: text("queue")?, reason: DeathReason::named(&text("reason")?) })
}

fn read_headers(table: &FieldTable) -> Headers {
    Headers::read(table.into_iter().map(|(name, value)| (name.as_str().to_owned(), read_value(value))))
}

fn read_value(value: &AMQPValue) -> HeaderValue {
    match value {
        AMQPValue::Boolean(truth) => HeaderValue::Bool(*truth),
        AMQPValue::ShortShortInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::ShortShortUInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::ShortInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::ShortUInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::LongInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::LongUInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::LongLongInt(number) => HeaderValue::Integer(*number),
        AMQPValue::Timestamp(seconds) => i64::try_from(*seconds).map_or(HeaderValue::Other, HeaderValue::Integer),
        AMQPValue::ShortString(text) => HeaderValue::Text(text.as_str().to_owned()),
        AMQPValue::LongString(text) => {
            std::str::from_utf8(text.as_bytes()).map_or(HeaderValue::Other, |text| HeaderValue::Text(text.to_owned()))
        }
        AMQPValue::ByteArray(bytes) => HeaderValue::Bytes(bytes.as_slice().to_vec()),
        AMQPValue::Float(_)
        | AMQPValue::Double(_)
        | AMQPValue::DecimalValue(_)
        | AMQPValue::FieldArray(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::Void => HeaderValue::Other,
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::FieldArray;
    use protocol::envelope::{ATTEMPT, HOPS, MEMORY, POOL, REASON, START_BEFORE, TIMESTAMP_IN_MS, TOKEN, TRACEPARENT, USER};

    use super::*;
    use crate::{Queue, Target};

    fn message(envelope: Envelope) -> Outgoing {
        Outgoing::new(Target::Queue(Queue::Dead), envelope, (&b""[..]).into())
    }

    fn read_one(name: &str, value: AMQPValue) -> Headers {
        let mut table = FieldTable::default();
        table.insert(name.into(), value);
        read(&BasicProperties::default().with_headers(table)).headers
    }

    #[test]
    fn integers_of_every_width_are_read() {
        let widths = [
            AMQPValue::ShortShortInt(7),
            AMQPValue::ShortShortUInt(7),
            AMQPValue::ShortInt(7),
            AMQPValue::ShortUInt(7),
            AMQPValue::LongInt(7),
            AMQPValue::LongUInt(7),
            AMQPValue::LongLongInt(7),
            AMQPValue::Timestamp(7),
        ];
        for value in widths {
            assert_eq!(read_one(ATTEMPT, value.clone()).attempt, Some(7), "{value:?}");
        }
    }

    #[test]
    fn headers_of_unusable_types_are_named_and_not_used() {
        let unusable = [
            (START_BEFORE, AMQPValue::Timestamp(u64::MAX)),
            (USER, AMQPValue::LongString(vec![0xff, 0xfe].into())),
            (HOPS, AMQPValue::Double(1.0)),
            (POOL, AMQPValue::FieldArray(FieldArray::default())),
            (MEMORY, AMQPValue::Void),
        ];
        for (name, value) in unusable {
            assert_eq!(read_one(name, value), Headers { invalid: vec![name.to_owned()], ..Headers::default() });
        }
        for value in [AMQPValue::LongString(vec![0xff, 0xfe].into()), AMQPValue::ByteArray(vec![b'0'; 55].into()), AMQPValue::Void] {
            assert_eq!(read_one(TRACEPARENT, value), Headers { traceparent_dropped: true, ..Headers::default() });
        }
    }

    #[test]
    fn the_brokers_time_is_read_in_either_of_its_types() {
        for value in [AMQPValue::LongLongInt(1_800_000_000_123), AMQPValue::Timestamp(1_800_000_000_123)] {
            assert_eq!(read_one(TIMESTAMP_IN_MS, value), Headers { published_ms: Some(1_800_000_000_123), ..Headers::default() });
        }
    }

    fn died(entries: Vec<AMQPValue>) -> Option<Death> {
        let mut headers = FieldTable::default();
        headers.insert(DEATHS.into(), AMQPValue::FieldArray(entries.into()));
        headers.insert("x-first-death-reason".into(), AMQPValue::LongString("rejected".into()));
        headers.insert("x-last-death-reason".into(), AMQPValue::LongString("rejected".into()));
        death(&BasicProperties::default().with_headers(headers))
    }

    fn entry(pairs: &[(&str, AMQPValue)]) -> AMQPValue {
        let mut table = FieldTable::default();
        for (name, value) in pairs {
            table.insert((*name).into(), value.clone());
        }
        AMQPValue::FieldTable(table)
    }

    #[test]
    fn of_several_deaths_the_last_one_counts() {
        let of = |queue: &str, reason: &str| {
            entry(&[
                ("count", AMQPValue::LongLongInt(1)),
                ("queue", AMQPValue::LongString(queue.into())),
                ("reason", AMQPValue::LongString(reason.into())),
            ])
        };
        let words = [
            ("expired", DeathReason::Expired),
            ("maxlen", DeathReason::MaxLength),
            ("delivery_limit", DeathReason::DeliveryLimit),
            ("rejected", DeathReason::Rejected),
            ("of old age", DeathReason::Other),
        ];
        for (word, reason) in words {
            let expected = Death { queue: "gpufleet.tasks.default".into(), reason };
            assert_eq!(died(vec![of("gpufleet.tasks.default", word), of("gpufleet.retry.250", "expired")]), Some(expected));
        }
    }

    #[test]
    fn deaths_that_a_producer_made_up_are_none() {
        let text = |text: &str| AMQPValue::LongString(text.into());
        let made_up = [
            vec![],
            vec![AMQPValue::LongLongInt(7)],
            vec![entry(&[])],
            vec![entry(&[("queue", text("q"))])],
            vec![entry(&[("reason", text("maxlen"))])],
            vec![entry(&[("queue", AMQPValue::LongLongInt(7)), ("reason", text("maxlen"))])],
            vec![entry(&[("queue", text("q")), ("reason", AMQPValue::Void)])],
        ];
        for entries in made_up {
            assert_eq!(died(entries.clone()), None, "{entries:?}");
        }
        assert_eq!(death(&BasicProperties::default()), None);
    }

    #[test]
    fn only_the_own_login_travels_as_user_id() {
        let message = message(Envelope { user_id: Some("ann".into()), ..Envelope::default() });
        let user = |login| write(&message, "q", login).expect("short enough").user_id().clone();
        assert_eq!((user("ann"), user("bob")), (Some("ann".into()), None));
    }

    #[test]
    fn everything_is_persistent_but_direct_replies_and_what_is_worth_no_disk() {
        let mode = |message: &Outgoing, name| *write(message, name, "").expect("short enough").delivery_mode();
        let kept = message(Envelope::default());
        assert_eq!((mode(&kept, "q"), mode(&kept, "amq.rabbitmq.reply-to.g1h2AA==.x")), (Some(2), Some(1)));
        assert_eq!(mode(&kept.transient(std::time::Duration::from_secs(1)), "q"), Some(1));
    }

    #[test]
    fn a_text_that_does_not_fit_is_no_panic() {
        let message = message(Envelope { kind: Some("x".repeat(256)), ..Envelope::default() });
        assert_eq!(write(&message, "q", ""), None);
    }

    mod outside {
        use proptest::{collection::vec, option, prelude::*};

        use super::*;

        fn text() -> impl Strategy<Value = Option<String>> {
            option::of("\\PC{0,60}")
        }

        prop_compose! {
            fn any_headers()(
                traceparent in option::of(Just("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned())),
                texts in prop::array::uniform5(text()),
                numbers in prop::array::uniform2(option::of(0..=i64::MAX as u64)),
                attempt in option::of(1..=u32::MAX),
                properties in option::of(vec(any::<u8>(), 0..100)),
                returned in any::<bool>(),
            ) -> Headers {
                let [user, pool, outcome, reason, unreadable] = texts;
                let [start_before_ms, token] = numbers;
                Headers { traceparent, attempt, start_before_ms, user, pool, returned, outcome, token, reason, unreadable, properties, ..Headers::default() }
            }
        }

        prop_compose! {
            fn any_envelope()(
                texts in prop::array::uniform7(text()),
                priority in option::of(any::<u8>()),
                timestamp in option::of(any::<u64>()),
                headers in any_headers(),
            ) -> Envelope {
                let [message_id, kind, reply_to, correlation_id, expiration, content_type, content_encoding] = texts;
                let user_id = None;
                Envelope { message_id, kind, priority, reply_to, correlation_id, expiration, content_type, content_encoding, timestamp, user_id, headers }
            }
        }

        fn any_value() -> impl Strategy<Value = AMQPValue> {
            let leaf = prop_oneof![
                any::<bool>().prop_map(AMQPValue::Boolean),
                any::<i8>().prop_map(AMQPValue::ShortShortInt),
                any::<u32>().prop_map(AMQPValue::LongUInt),
                any::<i64>().prop_map(AMQPValue::LongLongInt),
                any::<u64>().prop_map(AMQPValue::Timestamp),
                any::<f64>().prop_map(AMQPValue::Double),
                vec(any::<u8>(), 0..600).prop_map(|bytes| AMQPValue::LongString(bytes.into())),
                vec(any::<u8>(), 0..40).prop_map(|bytes| AMQPValue::ByteArray(bytes.into())),
                Just(AMQPValue::Void),
            ];
            leaf.prop_recursive(3, 12, 4, |inner| vec(inner, 0..4).prop_map(|values| AMQPValue::FieldArray(values.into())))
        }

        proptest! {
            #[test]
            fn an_envelope_comes_back_as_it_was_written(envelope in any_envelope()) {
                // Six bytes a character at most: every text fits.
                prop_assume!([&envelope.message_id, &envelope.kind, &envelope.reply_to].iter().all(|text| text.as_ref().is_none_or(|text| text.len() <= 255)));
                let target = crate::Target::ReplyTo("q".to_owned());
                let message = Outgoing::new(target, envelope, bytes::Bytes::new());
                let written = write(&message, "q", "").expect("short enough");
                prop_assert_eq!(read(&written), message.envelope);
            }

            #[test]
            fn headers_of_any_names_and_types_are_ours_or_left_behind(
                pairs in vec((prop_oneof![prop::sample::select(&[ATTEMPT, HOPS, POOL, REASON, TOKEN, TRACEPARENT][..]).prop_map(str::to_owned), "[a-z-]{0,20}"], any_value()), 0..8),
            ) {
                let mut table = FieldTable::default();
                for (name, value) in pairs {
                    table.insert(name.as_str().into(), value);
                }
                let headers = read(&BasicProperties::default().with_headers(table.clone())).headers;
                for name in &headers.invalid {
                    prop_assert!(table.inner().contains_key(name.as_str()) && name != "x-foreign");
                }
                prop_assert!(headers.attempt.is_none_or(|attempt| attempt >= 1));
                prop_assert!(headers.reason.is_none_or(|reason| reason.len() <= Headers::TEXT_MAX));
            }
        }
    }
}
