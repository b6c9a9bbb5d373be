//! One text, or a list of them.

use std::{borrow::Cow, fmt};

use protocol::batch::ITEMS_MAX;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

/// What is to be continued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Texts {
    /// One text; the answer is one prediction.
    One(String),
    /// Many; the answer has a prediction for each.
    List(Vec<String>),
}

impl Texts {
    /// The first place where the bounds of the schema are broken, and what is there.
    pub(super) fn out_of_bounds(&self) -> Option<(String, String)> {
        let nothing = || "\"\"".to_owned();
        match self {
            Self::One(text) => text.is_empty().then(|| ("text".to_owned(), nothing())),
            Self::List(texts) if texts.is_empty() || texts.len() > ITEMS_MAX => {
                Some(("text".to_owned(), format!("a list of {}", texts.len())))
            }
            Self::List(texts) => {
                let index = texts.iter().position(String::is_empty)?;
                Some((format!("text[{index}]"), nothing()))
            }
        }
    }
}

/// Reads each text in its place, so that one that is none is told with its number.
impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Texts;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text or a list of texts")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = elements.next_element()? {
                    texts.push(text);
                }
                Ok(Texts::List(texts))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Texts {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Texts".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": ITEMS_MAX}
            ],
            "examples": ["Once upon a time", ["Once upon a time", "The way of a task"]]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Texts, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_text_stands_alone_or_in_a_list() {
        assert_eq!(read("\"a\""), Ok(Texts::One("a".to_owned())));
        assert_eq!(read(r#"["a","\u00e4"]"#), Ok(Texts::List(vec!["a".to_owned(), "ä".to_owned()])));
        for wrong in ["5", "null", "{}", "[5]", r#"["a",["b"]]"#] {
            assert!(read(wrong).is_err_and(|error| error.starts_with("invalid type: ")), "{wrong}");
        }
    }

    #[test]
    fn bounds_are_told_with_the_place() {
        let out = |text: &str| read(text).expect(text).out_of_bounds();
        assert_eq!((out("\"a\""), out(r#"["a"]"#)), (None, None));
        assert_eq!(out("\"\""), Some(("text".to_owned(), "\"\"".to_owned())));
        assert_eq!(out("[]"), Some(("text".to_owned(), "a list of 0".to_owned())));
        assert_eq!(out(r#"["a","b",""]"#), Some(("text[2]".to_owned(), "\"\"".to_owned())));
        assert_eq!(Texts::List(vec!["a".to_owned(); 10_001]).out_of_bounds(), Some(("text".to_owned(), "a list of 10001".to_owned())));
        assert_eq!(Texts::List(vec!["a".to_owned(); 10_000]).out_of_bounds(), None);
    }
}
