//! A JSON text that travels as the bytes that it came in: checked once, never rebuilt.

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned, ser::Error as _};
use serde_json::{Error, Value, value::RawValue};

/// One JSON value as text, of any shape. Long numbers, `-0`, repeated keys, the order of keys and the white space inside it stay as they were. Cheap to clone; a value that
/// was read out of a larger text shares that text's memory.
///
/// Two are equal if their texts are: `1.0` is not `1.00`. The grammar is that of RFC 8259, in UTF-8; whether a number or an escaped character fits a type shows when it is
/// [read](Json::to) into one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Json(Bytes);

impl Json {
    /// How deep lists and objects may be nested in what a producer sends. With the body around it that is the bound of most readers, 127.
    pub const DEPTH_MAX: usize = 126;

    /// The value `null`.
    #[must_use]
    pub const fn null() -> Self {
        Self(Bytes::from_static(b"null"))
    }

    /// Takes a text for the value that it is. White space around it is left out. The depth is not bounded here; see [`Json::depth`].
    ///
    /// # Errors
    /// It is not one JSON value, or not UTF-8.
    pub fn parse(text: impl Into<Bytes>) -> Result<Self, Error> {
        let text = text.into();
        let raw: &RawValue = serde_json::from_slice(&text)?;
        Ok(Self::within(&text, raw))
    }

    /// The text of a value of ours.
    ///
    /// # Panics
    /// Where it holds a map whose keys are no texts.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Self {
        Self(serde_json::to_vec(value).expect("our own types have text for keys").into())
    }

    /// The text of a value that we have put together from texts.
    pub(crate) fn written(text: Vec<u8>) -> Self {
        Self(text.into())
    }

    /// A part of `whole` that the JSON library has marked as one value.
    pub(crate) fn within(whole: &Bytes, part: &RawValue) -> Self {
        Self(whole.slice_ref(part.get().as_bytes()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("every way to make one checks that it is UTF-8")
    }

    /// The text as bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Whether it is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.0 == "null"
    }

    /// Reads it into a type. Never read what a stranger wrote into [`Value`] to write it again: that changes long numbers, and some names of keys mean something to the JSON
    /// library.
    ///
    /// # Errors
    /// It is not what the type takes.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.0)
    }

    /// The fields of an object, sorted by their names; of those with the same name, the last.
    ///
    /// # Errors
    /// It is no object.
    pub fn fields(&self) -> Result<BTreeMap<String, Self>, Error> {
        let fields: BTreeMap<String, &RawValue> = serde_json::from_slice(&self.0)?;
        Ok(fields.into_iter().map(|(name, value)| (name, Self::within(&self.0, value))).collect())
    }

    /// The values of a list.
    ///
    /// # Errors
    /// It is no list.
    pub fn elements(&self) -> Result<Vec<Self>, Error> {
        let elements: Vec<&RawValue> = serde_json::from_slice(&self.0)?;
        Ok(elements.into_iter().map(|value| Self::within(&self.0, value)).collect())
    }

    /// It as a refusal shows it: short, and never a producer's whole text.
    #[must_use]
    pub fn in_brief(&self) -> String {
        const CHARACTERS_MAX: usize = 40;
        const TEXT_CHARACTERS_MAX: usize = 20;
        match self.0.first() {
            Some(b'"') => match self.to::<String>() {
                Ok(text) if text.chars().count() <= TEXT_CHARACTERS_MAX => format!("{text:?}"),
                _ => "text".to_owned(),
            },
            Some(b'[') => "a list".to_owned(),
            Some(b'{') => "an object".to_owned(),
            _ if self.0.len() <= CHARACTERS_MAX => self.to_string(),
            _ => "a number of many digits".to_owned(),
        }
    }

    /// How deep its lists and objects are nested: 0 for a number, 1 for `[1]`.
    #[must_use]
    pub fn depth(&self) -> usize {
        let (mut depth, mut deepest) = (0_usize, 0);
        let mut bytes = self.0.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b'[' | b'{' => {
                    depth += 1;
                    deepest = deepest.max(depth);
                }
                b']' | b'}' => depth -= 1,
                b'"' => {
                    // To the end of the text: its brackets are letters.
                    while let Some(byte) = bytes.next().filter(|byte| **byte != b'"') {
                        if *byte == b'\\' {
                            bytes.next();
                        }
                    }
                }
                _ => {}
            }
        }
        deepest
    }
}

impl Default for Json {
    fn default() -> Self {
        Self::null()
    }
}

impl fmt::Display for Json {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        Self::of(&value)
    }
}

/// Whether it reads as that value: for what we wrote ourselves, in tests above all.
impl PartialEq<Value> for Json {
    fn eq(&self, value: &Value) -> bool {
        self.to::<Value>().is_ok_and(|read| read == *value)
    }
}

/// Writes its text as it is. Only for writers of JSON.
impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(self.as_str()).map_err(S::Error::custom)?;
        raw.serialize(serializer)
    }
}

/// Takes a copy of its text as it is. Only from readers of JSON.
impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text: Box<str> = Box::<RawValue>::deserialize(deserializer)?.into();
        Ok(Self(String::from(text).into()))
    }
}

impl JsonSchema for Json {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AnyValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        true.into()
    }
}

/// The text of an object with one more field at its end. `object` is the text of an object.
pub(crate) fn with_field(mut object: Vec<u8>, name: &str, value: &Json) -> Vec<u8> {
    const SEPARATORS: usize = ",\"\":}".len();
    object.pop();
    object.reserve_exact(name.len() + value.0.len() + SEPARATORS);
    if object.len() > 1 {
        object.push(b',');
    }
    object.push(b'"');
    object.extend_from_slice(name.as_bytes());
    object.extend_from_slice(b"\":");
    object.extend_from_slice(&value.0);
    object.push(b'}');
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_added_to_any_object() {
        let value = Json::parse("[ 1 ]").expect("JSON");
        assert_eq!(with_field(b"{}".to_vec(), "a", &value), br#"{"a":[ 1 ]}"#);
        assert_eq!(with_field(br#"{"b":{}}"#.to_vec(), "a", &value), br#"{"b":{},"a":[ 1 ]}"#);
    }

    #[test]
    fn parts_share_the_memory_of_the_whole() {
        let whole = Json::parse(r#" {"a": [1, {"b": 2}], "a": -0} "#).expect("JSON");
        let fields = whole.fields().expect("an object");
        assert_eq!(fields["a"].as_str(), "-0", "of two, the last");
        assert!(whole.as_bytes().as_ptr_range().contains(&fields["a"].as_bytes().as_ptr()));
        let list = Json::parse("[1, [2 ,3]]").expect("JSON");
        assert_eq!(list.elements().expect("a list").iter().map(Json::as_str).collect::<Vec<_>>(), ["1", "[2 ,3]"]);
        assert!(list.fields().is_err() && whole.elements().is_err());
    }

    #[test]
    fn a_value_in_brief_is_never_long() {
        let (long, digits) = (format!("{:?}", "x".repeat(21)), "9".repeat(41));
        for (text, brief) in [
            ("-1", "-1"),
            ("true", "true"),
            (r#""hot""#, r#""hot""#),
            (long.as_str(), "text"),
            ("[1, 2]", "a list"),
            (r#"{"a":1}"#, "an object"),
            (digits.as_str(), "a number of many digits"),
        ] {
            assert_eq!(Json::parse(text.to_owned()).expect(text).in_brief(), brief, "{text}");
        }
    }

    #[test]
    fn the_depth_is_that_of_lists_and_objects_and_not_of_texts() {
        for (text, depth) in [("1", 0), ("[]", 1), (r#"{"a":[{}],"b":[]}"#, 3), (r#""[[[\"[[\\""#, 0), (r#"["\\",["]"]]"#, 2)] {
            assert_eq!(Json::parse(text).expect(text).depth(), depth, "{text}");
        }
    }
}
