//! Reading a struct from the bytes of a JSON object, so that what cannot be read is named.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Deserializer as JsonDeserializer, Error};
use serde_path_to_error::{Deserializer as PathDeserializer, Path, Track};

/// Why bytes are not the struct that was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// The path of the field that is at fault (`gpu_options.strategy`); `body` for the whole.
    pub field: String,
    /// What is wrong with it, and where in the text.
    pub problem: String,
    /// Whether it is no JSON at all.
    pub is_syntax: bool,
}

/// Reads a struct from a JSON object and nothing else. A field that is there twice is refused: which of the two was meant is not for us to say.
///
/// # Errors
/// [`Unfit`] names the field.
pub fn read_object<'de, T: Deserialize<'de>>(text: &'de [u8]) -> Result<T, Unfit> {
    let mut json = JsonDeserializer::from_slice(text);
    match object(&mut json).and_then(|read| json.end().map(|()| read)) {
        Ok(read) => Ok(read),
        Err(error) => Err(unfit::<T>(text, &error)),
    }
}

/// Reads the text once more, with track of the path: only what is refused pays for that.
fn unfit<'de, T: Deserialize<'de>>(text: &'de [u8], error: &Error) -> Unfit {
    let problem = error.to_string();
    if !error.is_data() {
        return Unfit { field: "body".to_owned(), problem, is_syntax: true };
    }
    let (mut json, mut track) = (JsonDeserializer::from_slice(text), Track::new());
    let _the_same_error = object::<_, T>(PathDeserializer::new(&mut json, &mut track)).map(drop);
    Unfit { field: field(&track.path(), &problem), problem, is_syntax: false }
}

/// A field that is missing or there twice is told by its name alone, its place by the path.
fn field(path: &Path, problem: &str) -> String {
    let path = path.to_string();
    let named = ["missing field `", "duplicate field `"].iter().find_map(|start| problem.strip_prefix(start));
    let name = named.and_then(|rest| rest.split('`').next());
    match (path.as_str(), name) {
        (".", Some(name)) => name.to_owned(),
        (".", None) => "body".to_owned(),
        (_, Some(name)) => format!("{path}.{name}"),
        (_, None) => path,
    }
}

/// Reads a struct from a JSON object alone (`deserialize_with`). serde would also take an array of its fields' values, which no schema allows and
/// which changes its meaning with the next field.
///
/// # Errors
/// Those of `T`, and anything that is no object.
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Object<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = T;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(fields))
        }
    }

    deserializer.deserialize_map(Object(PhantomData))
}
