//! The payload of the kind `onnx`.

use std::collections::BTreeMap;

use protocol::{DType, Json, SegmentRef, Segments};

use super::{
    nested,
    port::{self, Port, named},
    session::Tensors,
    tensor::{Element, Tensor},
};
use crate::{Failure, payload::Fields};

/// Most inputs of a model.
const INPUTS_MAX: usize = 256;

/// What a payload asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    pub(super) model: String,
    inputs: BTreeMap<String, Json>,
    outputs: Option<Vec<String>>,
    written_as: Option<WrittenAs>,
}

/// How outputs are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WrittenAs {
    Segments,
    Numbers,
}

impl Request {
    pub(super) fn read(payload: &Json) -> Result<Self, Failure> {
        let mut fields = Fields::of_payload(payload)?;
        let missing = |name: &str| Failure::invalid(format!("payload.{name}"), "is missing");
        let model = fields.text("model")?.ok_or_else(|| missing("model"))?;
        let inputs = fields.value("inputs").ok_or_else(|| missing("inputs"))?;
        let inputs =
            inputs.fields().map_err(|_| Failure::invalid("payload.inputs", format!("must be an object, not {}", inputs.in_brief())))?;
        if inputs.len() > INPUTS_MAX {
            return Err(Failure::invalid("payload.inputs", format!("has {} inputs; no model takes more than {INPUTS_MAX}", inputs.len())));
        }
        let outputs = match fields.value("outputs") {
            None => None,
            Some(list) => Some(list.to().map_err(|_| Failure::invalid("payload.outputs", "must be a list of names of outputs"))?),
        };
        let written_as = WrittenAs::read(fields.text("as")?.as_deref())?;
        fields.finish()?;
        Ok(Self { model, inputs, outputs, written_as })
    }

    /// The inputs as tensors that fit the model.
    ///
    /// # Errors
    /// Names the input that does not fit.
    pub(super) fn tensors(&self, inputs: &[Port], segments: &Segments) -> Result<Tensors, Failure> {
        let read = |(name, json): (&String, &Json)| {
            let element = inputs.iter().find(|port| port.name == *name).map(|port| port.element);
            // An unknown one is refused by its name, whatever it holds.
            let Some(element) = element else { return Ok((name.clone(), Tensor::numbers(DType::U8, vec![0], Vec::new()))) };
            let tensor = tensor(json, element, segments).map_err(|why| Failure::invalid(format!("payload.inputs.{name}"), why))?;
            Ok((name.clone(), tensor))
        };
        let tensors = self.inputs.iter().map(read).collect::<Result<_, Failure>>()?;
        port::check(inputs, &tensors)?;
        Ok(tensors)
    }

    /// The outputs that are wanted: all, where none are named.
    ///
    /// # Errors
    /// One is named that the model does not give.
    pub(super) fn wanted<'a>(&self, outputs: &'a [Port]) -> Result<Vec<&'a str>, Failure> {
        let Some(wanted) = &self.outputs else { return Ok(outputs.iter().map(|port| port.name.as_str()).collect()) };
        let find = |name: &String| {
            let port = outputs.iter().find(|port| port.name == *name);
            port.map(|port| port.name.as_str())
                .ok_or_else(|| Failure::invalid("payload.outputs", format!("names {name:?}; the model gives {}", named(outputs))))
        };
        wanted.iter().map(find).collect()
    }

    /// As asked; otherwise as the inputs came.
    pub(super) fn written_as(&self) -> WrittenAs {
        let came_as_segments = || self.inputs.values().any(|json| SegmentRef::read(json).is_some());
        self.written_as.unwrap_or_else(|| if came_as_segments() { WrittenAs::Segments } else { WrittenAs::Numbers })
    }
}

impl WrittenAs {
    fn read(name: Option<&str>) -> Result<Option<Self>, Failure> {
        match name {
            None => Ok(None),
            Some("segments") => Ok(Some(Self::Segments)),
            Some("numbers") => Ok(Some(Self::Numbers)),
            Some(other) => Err(Failure::invalid("payload.as", format!("must be \"segments\" or \"numbers\", not {other:?}"))),
        }
    }
}

/// Numbers out of a segment, or nested lists. Bytes without a type are `u8`, without a shape one dimension.
fn tensor(json: &Json, element: Element, segments: &Segments) -> Result<Tensor, String> {
    let Some(reference) = SegmentRef::read(json) else { return nested::read(json, element) };
    let bytes = reference.of(segments)?;
    let dtype = reference.dtype.unwrap_or(DType::U8);
    let shape = reference.shape.unwrap_or_else(|| vec![bytes.len() / dtype.size()]);
    Ok(Tensor::numbers(dtype, shape, bytes.clone()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn refused(payload: Value) -> (String, String) {
        let failure = Request::read(&payload.into()).unwrap_err();
        (failure.field.unwrap(), failure.message)
    }

    #[test]
    fn a_refusal_names_the_field() {
        assert_eq!(refused(json!({"inputs": {}})).0, "payload.model");
        assert_eq!(refused(json!({"model": "m"})), ("payload.inputs".to_owned(), "is missing".to_owned()));
        assert_eq!(refused(json!({"model": "m", "inputs": [1]})).1, "must be an object, not a list");
        assert_eq!(refused(json!({"model": "m", "inputs": {}, "outputs": "y"})).0, "payload.outputs");
        assert_eq!(refused(json!({"model": "m", "inputs": {}, "as": "text"})).0, "payload.as");
        assert_eq!(refused(json!({"model": "m", "inputs": {}, "input": {}})).0, "payload.input");
    }

    #[test]
    fn outputs_are_given_as_the_inputs_came_unless_it_says_otherwise() {
        let written = |payload: Value| Request::read(&payload.into()).unwrap().written_as();
        let segment = json!({"$segment": 0, "dtype": "f32"});
        assert_eq!(written(json!({"model": "m", "inputs": {"x": [1]}})), WrittenAs::Numbers);
        assert_eq!(written(json!({"model": "m", "inputs": {"x": segment, "y": 1}})), WrittenAs::Segments);
        assert_eq!(written(json!({"model": "m", "inputs": {"x": segment}, "as": "numbers"})), WrittenAs::Numbers);
    }
}
