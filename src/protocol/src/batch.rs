//! Batches: tasks that carry many payloads, the slices that they are cut into, and what became of each item.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{ErrorCode, Fraction, Json, TaskError, json::with_field};

/// Most items of a batch.
pub const ITEMS_MAX: usize = 10_000;
/// Most slices that a batch is cut into.
pub const SLICES_MAX: usize = 256;

/// What becomes of a batch one of whose items fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The item fails alone; the others go on, and the reply says of each how it ended.
    #[default]
    Report,
    /// The batch fails at once with the item's error, and what has not run yet does not run.
    Fail,
}

impl OnError {
    /// Whether it is the default, which need not be written.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Neighbouring items of a batch that run as one task: from the item of this index, counted from 0, up to but not including that one. Its text is `16..32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = r"^[0-9]{1,5}\.\.[0-9]{1,5}$"))]
pub struct Slice {
    /// Its first item.
    pub from: u32,
    /// The first item after it; above `from`.
    pub to: u32,
}

impl Slice {
    /// The slice of these items; `None` if it has none, or more than a batch may have.
    #[must_use]
    pub const fn new(from: u32, to: u32) -> Option<Self> {
        if from < to && to as usize <= ITEMS_MAX { Some(Self { from, to }) } else { None }
    }

    /// How many items it has, at least 1.
    #[must_use]
    pub const fn items(self) -> u32 {
        self.to - self.from
    }

    /// The slices of a batch that is cut into runs of these lengths, in order. Lengths of 0 are left out.
    #[must_use]
    pub fn of_lengths(lengths: &[u32]) -> Vec<Self> {
        let mut from = 0;
        let next = lengths.iter().filter_map(|length| {
            let slice = Self::new(from, from.checked_add(*length)?)?;
            from = slice.to;
            Some(slice)
        });
        next.collect()
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}..{}", self.from, self.to)
    }
}

impl FromStr for Slice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| (text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?;
        let slice = text.split_once("..").and_then(|(from, to)| Self::new(number(from)?, number(to)?));
        // One text for each slice: an id is made of it.
        slice
            .filter(|slice| slice.to_string() == text)
            .ok_or_else(|| format!("a slice is two items' numbers, like \"16..32\", not {text:?}"))
    }
}

impl TryFrom<String> for Slice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Slice> for String {
    fn from(slice: Slice) -> String {
        slice.to_string()
    }
}

/// How one item of a batch came out: `result` if it succeeded, else `error`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ItemResult {
    /// What the executor gave, if the item succeeded, to the last byte.
    #[serde(default, skip_serializing_if = "Json::is_null")]
    pub result: Json,
    /// Why it did not succeed. Its `field` begins with the item: `items[17].text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
}

impl ItemResult {
    /// An item that succeeded.
    #[must_use]
    pub const fn succeeded(result: Json) -> Self {
        Self { result, error: None }
    }

    /// An item that did not.
    #[must_use]
    pub const fn failed(error: TaskError) -> Self {
        Self { result: Json::null(), error: Some(error) }
    }

    /// Its text, with the result's bytes as they are.
    #[must_use]
    pub fn to_json(&self) -> Json {
        match &self.error {
            Some(error) => {
                #[derive(Serialize)]
                struct Failed<'a> {
                    error: &'a TaskError,
                }
                Json::of(&Failed { error })
            }
            None => Json::written(with_field(b"{}".to_vec(), "result", &self.result)),
        }
    }
}

/// The list of these values, their bytes as they are.
#[must_use]
pub fn list<'a>(values: impl IntoIterator<Item = &'a Json>) -> Json {
    let mut text = vec![b'['];
    for value in values {
        if text.len() > 1 {
            text.push(b',');
        }
        text.extend_from_slice(value.as_bytes());
    }
    text.push(b']');
    Json::written(text)
}

/// One list of all the elements of these lists, their bytes as they are. What is no list has none.
#[must_use]
pub fn joined<'a>(lists: impl IntoIterator<Item = &'a Json>) -> Json {
    let mut text = vec![b'['];
    for list in lists {
        let inside = list.as_str().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or_default().trim();
        if inside.is_empty() {
            continue;
        }
        if text.len() > 1 {
            text.push(b',');
        }
        text.extend_from_slice(inside.as_bytes());
    }
    text.push(b']');
    Json::written(text)
}

/// The name of an error's field as a batch gives it: `payload.text` of item 17 is `items[17].text`.
#[must_use]
pub fn item_field(index: u32, field: Option<&str>) -> String {
    let rest = field.map_or("", |field| field.strip_prefix("payload").unwrap_or(field));
    let dot = if rest.is_empty() || rest.starts_with(['.', '[']) { "" } else { "." };
    format!("items[{index}]{dot}{rest}")
}

/// How far a batch is, in items.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ItemCounts {
    /// How many the batch has.
    pub of: u32,
    /// How many of them have ended, well or badly.
    pub done: u32,
    /// How many of those failed; absent where that is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<u32>,
}

impl ItemCounts {
    /// The share of the items that have ended.
    #[must_use]
    pub fn fraction(self) -> Fraction {
        Fraction::clamped(f64::from(self.done) / f64::from(self.of.max(1)))
    }
}

/// The slices of a batch that was split, by what they are at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SliceCounts {
    /// Waiting for a slot, or for another try.
    pub waiting: u32,
    /// Running.
    pub running: u32,
    /// Ended.
    pub ended: u32,
}

/// One item's result as it is there, before the batch's reply.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct IndexedItem {
    /// The item, counted from 0.
    pub index: u32,
    /// How it came out.
    #[serde(flatten)]
    pub came_out: ItemResult,
}

/// Field by field: a flattened text would lose its bytes, and the JSON library refuses it.
impl<'de> Deserialize<'de> for IndexedItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Fields {
            index: u32,
            #[serde(default)]
            result: Json,
            #[serde(default)]
            error: Option<TaskError>,
        }
        let Fields { index, result, error } = Fields::deserialize(deserializer)?;
        Ok(Self { index, came_out: ItemResult { result, error } })
    }
}

/// What the store keeps of a slice that ended, until its batch is merged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SliceResults {
    /// The GPU that ran it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_id: Option<crate::GpuId>,
    /// How long its last attempt ran, in milliseconds.
    pub run_ms: f64,
    /// The part of it that the GPU worked, in milliseconds, where the executor measures it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_ms: Option<f64>,
    /// How many payloads ran together at most, where the executor takes several at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<u32>,
    /// How each item came out, in order: a list of [`ItemResult`]s, as it stands in the batch's reply. `null` where the store had no room for even that.
    pub results: Json,
}

impl SliceResults {
    /// Its text, with the results' bytes as they are.
    #[must_use]
    pub fn into_bytes(mut self) -> Bytes {
        let results = std::mem::take(&mut self.results);
        let Self { gpu_id, run_ms, device_ms, batch_size, .. } = self;
        let beside = serde_json::to_vec(&Beside { gpu_id, run_ms, device_ms, batch_size });
        with_field(beside.expect("its keys are texts"), "results", &results).into()
    }

    /// Reads what [`SliceResults::into_bytes`] gave.
    ///
    /// # Errors
    /// It is none.
    pub fn read(bytes: &Bytes) -> Result<Self, serde_json::Error> {
        let whole = Json::parse(bytes.clone())?;
        let mut fields = whole.fields()?;
        let results = fields.remove("results").unwrap_or_else(|| list([]));
        let Beside { gpu_id, run_ms, device_ms, batch_size } = whole.to()?;
        Ok(Self { gpu_id, run_ms, device_ms, batch_size, results })
    }

    /// The same with a list of how each item came out in any case: where the store had no room for one, each failed for that.
    #[must_use]
    pub fn listed(self, slice: Slice) -> Self {
        let results = if self.results.is_null() { no_room(slice) } else { self.results };
        Self { results, ..self }
    }
}

/// How items came out for whose results the store had no room.
#[must_use]
pub fn no_room(slice: Slice) -> Json {
    let of_item = |index| TaskError::new(ErrorCode::ReplyNotKept, NO_ROOM).at(item_field(index, None));
    let results: Vec<Json> = (slice.from..slice.to).map(|index| ItemResult::failed(of_item(index)).to_json()).collect();
    list(&results)
}

const NO_ROOM: &str = "the store had no room for the result (store.reply_bytes_max)";

/// What stands beside the results of a slice.
#[derive(Serialize, Deserialize)]
struct Beside {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gpu_id: Option<crate::GpuId>,
    run_ms: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device_ms: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    batch_size: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GpuId;

    #[test]
    fn a_slice_has_one_text() {
        let slice = Slice::new(16, 32).expect("a slice");
        assert_eq!((slice.to_string().as_str(), slice.items()), ("16..32", 16));
        assert_eq!("16..32".parse(), Ok(slice));
        for wrong in ["", "..", "1..1", "2..1", "0..10001", "01..2", "+1..2", "1..2..3", "1-2", "a..b", "0..4294967296"] {
            assert!(wrong.parse::<Slice>().is_err(), "{wrong}");
        }
        assert_eq!(Slice::new(0, 10_001), None);
    }

    #[test]
    fn lengths_make_neighbouring_slices() {
        let texts = |lengths: &[u32]| Slice::of_lengths(lengths).iter().map(Slice::to_string).collect::<Vec<_>>();
        assert_eq!(texts(&[4, 0, 3]), ["0..4", "4..7"]);
        assert_eq!(texts(&[]), Vec::<String>::new());
        assert_eq!(texts(&[u32::MAX, 1]), ["0..1"], "what no batch has is left out");
    }

    #[test]
    fn results_keep_their_bytes() {
        let result = Json::parse("{\"a\": 1.00}").expect("JSON");
        let error = TaskError::new(ErrorCode::InvalidPayload, "must be text").at("items[1].text");
        let list = list(&[ItemResult::succeeded(result).to_json(), ItemResult::failed(error.clone()).to_json()]);
        assert_eq!(
            list.as_str(),
            r#"[{"result":{"a": 1.00}},{"error":{"code":"invalid_payload","message":"must be text","field":"items[1].text"}}]"#
        );
        let gpu_id = Some(GpuId::new("gpu-0").expect("valid"));
        let results = SliceResults { gpu_id, run_ms: 1.5, device_ms: None, batch_size: Some(2), results: list };
        let read = SliceResults::read(&results.clone().into_bytes()).expect("JSON");
        assert_eq!(read, results);
        assert_eq!(read.results.to::<Vec<ItemResult>>().expect("items")[1].error, Some(error));
        assert_eq!(super::list([]).as_str(), "[]");
    }

    #[test]
    fn what_a_slice_does_not_say_is_absent() {
        let read = SliceResults::read(&Bytes::from_static(br#"{"run_ms":1.5,"results":[]}"#)).expect("what was kept before");
        assert_eq!(read, SliceResults { gpu_id: None, run_ms: 1.5, device_ms: None, batch_size: None, results: list([]) });
        assert_eq!(read.into_bytes(), br#"{"run_ms":1.5,"results":[]}"#.as_slice());
    }

    #[test]
    fn where_there_was_no_room_for_results_each_item_says_so() {
        let nothing = SliceResults {
            gpu_id: GpuId::new("g".repeat(128)).ok(),
            run_ms: 1_234_567.5,
            device_ms: Some(0.125),
            batch_size: Some(10_000),
            results: Json::null(),
        };
        let bytes = nothing.clone().into_bytes();
        assert!(bytes.len() <= 256, "the store always has room for so much: {}", bytes.len());
        let read = SliceResults::read(&bytes).expect("JSON");
        assert_eq!(read, nothing);
        let listed: Vec<ItemResult> = read.listed(Slice::new(4, 6).expect("a slice")).results.to().expect("results");
        let errors: Vec<_> = listed.into_iter().map(|item| item.error.expect("failed")).collect();
        assert_eq!(errors.iter().map(|error| error.field.as_deref()).collect::<Vec<_>>(), [Some("items[4]"), Some("items[5]")]);
        assert!(errors.iter().all(|error| error.code == "reply_not_kept" && error.message.contains("store.reply_bytes_max")), "{errors:?}");
        let some = SliceResults { results: list(&[ItemResult::succeeded(Json::null()).to_json()]), ..nothing };
        assert_eq!(some.clone().listed(Slice::new(4, 5).expect("a slice")), some);
    }

    #[test]
    fn an_item_of_a_progress_message_comes_back() {
        let result = Json::parse("{\"a\": 1.00}").expect("JSON");
        let error = TaskError::new(ErrorCode::InvalidPayload, "must be text").at("items[1].text");
        for came_out in [ItemResult::succeeded(result), ItemResult::succeeded(Json::null()), ItemResult::failed(error)] {
            let item = IndexedItem { index: 17, came_out };
            assert_eq!(Json::of(&item).to::<IndexedItem>().expect("an item"), item);
        }
    }

    #[test]
    fn lists_are_joined_in_order_and_keep_their_bytes() {
        let lists = ["[{\"result\":1.00},{\"result\": \"a]\"}]", "[ ]", "[]", "[ -0 ]", "7"].map(|text| Json::parse(text).expect("JSON"));
        assert_eq!(joined(&lists).as_str(), "[{\"result\":1.00},{\"result\": \"a]\"},-0]");
        assert_eq!(joined([]).as_str(), "[]");
    }

    #[test]
    fn an_item_that_gave_null_is_no_failure() {
        let text = ItemResult::succeeded(Json::null()).to_json();
        assert_eq!(text.as_str(), r#"{"result":null}"#);
        assert_eq!(text.to::<ItemResult>().expect("an item"), ItemResult::succeeded(Json::null()));
    }

    #[test]
    fn the_share_that_is_done_is_that_of_the_items() {
        let share = |of, done| ItemCounts { of, done, failed: None }.fraction().get();
        assert_eq!([share(4, 1), share(4, 4), share(0, 0), share(1, 2)], [0.25, 1.0, 0.0, 1.0]);
    }

    #[test]
    fn the_field_of_an_items_error_names_the_item() {
        let named = |field| item_field(17, field);
        assert_eq!(named(Some("payload.text")), "items[17].text");
        assert_eq!(named(Some("payload")), "items[17]");
        assert_eq!(named(Some("payload[2].a")), "items[17][2].a");
        assert_eq!(named(Some("size")), "items[17].size");
        assert_eq!(named(None), "items[17]");
    }
}
