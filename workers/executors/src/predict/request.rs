//! What a payload of `predict` asks for.

use protocol::{
    Json,
    config::PredictSection,
    predict::{MAX_LENGTH_MIN, TEMPERATURE_MAX, TEMPERATURE_MIN},
};

use crate::{Failure, payload::Fields};

/// One generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What the generated text continues. Not empty.
    pub text: String,
    /// How many tokens to generate at most, at least 1. The end of the model's context ends the text sooner.
    pub max_length: u32,
    /// 0 always takes the likeliest token; 1 draws by the model's own probabilities; up to 2 is more even. Default: 0.
    pub temperature: f64,
    /// Which draws to make where `temperature` is above 0. Default: 0.
    pub seed: u64,
}

impl Request {
    /// Reads a payload.
    ///
    /// # Errors
    /// `invalid_payload` names the field that is missing, unknown or wrong.
    pub fn read(payload: &Json, limits: &PredictSection) -> Result<Self, Failure> {
        let mut fields = Fields::of_payload(payload)?;
        let text = fields.text("text")?;
        let max_length = fields.whole("max_length", MAX_LENGTH_MIN.into(), limits.max_length_max.into())?;
        let temperature = fields.number("temperature", TEMPERATURE_MIN, TEMPERATURE_MAX)?.unwrap_or(0.0);
        let seed = fields.whole("seed", 0, u64::MAX)?.unwrap_or(0);
        fields.finish()?;
        let text =
            text.filter(|text| !text.is_empty()).ok_or_else(|| Failure::invalid("payload.text", "must be text that is not empty"))?;
        let default = limits.max_length.min(limits.max_length_max);
        let max_length = max_length.map_or(default, |tokens| u32::try_from(tokens).unwrap_or(default));
        Ok(Self { text, max_length, temperature, seed })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_text_is_required() {
        let request = Request::read(&json!({"text": "Hello"}).into(), &PredictSection::default()).unwrap();
        assert_eq!(request, Request { text: "Hello".to_owned(), max_length: 128, temperature: 0.0, seed: 0 });
        let all = json!({"text": "Hello", "max_length": 2048, "temperature": 2, "seed": u64::MAX});
        let request = Request::read(&all.into(), &PredictSection::default()).unwrap();
        assert_eq!(request, Request { text: "Hello".to_owned(), max_length: 2_048, temperature: 2.0, seed: u64::MAX });
    }

    #[test]
    fn what_is_missing_wrong_or_unknown_is_refused_by_name() {
        for (payload, field) in [
            (json!(null), "payload.text"),
            (json!({}), "payload.text"),
            (json!({"text": ""}), "payload.text"),
            (json!({"text": 5}), "payload.text"),
            (json!({"text": "a", "max_length": 0}), "payload.max_length"),
            (json!({"text": "a", "max_length": 2049}), "payload.max_length"),
            (json!({"text": "a", "max_length": "9"}), "payload.max_length"),
            (json!({"text": "a", "temperature": -0.1}), "payload.temperature"),
            (json!({"text": "a", "temperature": 2.1}), "payload.temperature"),
            (json!({"text": "a", "temperature": "hot"}), "payload.temperature"),
            (json!({"text": "a", "seed": -1}), "payload.seed"),
            (json!({"text": "a", "seed": 1.5}), "payload.seed"),
            (json!({"text": "a", "top_k": 1}), "payload.top_k"),
            (json!("a"), "payload"),
        ] {
            let refused = Request::read(&payload.clone().into(), &PredictSection::default()).unwrap_err();
            assert_eq!(
                (refused.field.as_deref(), refused.code.as_str(), refused.retry),
                (Some(field), "invalid_payload", false),
                "{payload}"
            );
        }
    }
}
