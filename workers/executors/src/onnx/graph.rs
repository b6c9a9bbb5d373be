//! Small models, written as the bytes of their format (protobuf): what a provider is tried with, and what tests run.

use protocol::DType;

use super::tensor::Element;

/// Version of the format, and of the operators, that every ONNX Runtime since 1.13 knows.
const FORMAT: u64 = 8;
const OPERATORS: u64 = 13;
/// The type of an attribute that is a whole number.
const WHOLE: u64 = 2;

/// A model under construction.
#[derive(Debug, Clone, Default)]
pub(super) struct Graph(Vec<u8>);

impl Graph {
    /// An input; a side is a number, or a name for an open one.
    pub(super) fn input(self, name: &str, element: Element, sides: &[&str]) -> Self {
        self.with(11, &port(name, element, sides))
    }

    /// An output.
    pub(super) fn output(self, name: &str, element: Element, sides: &[&str]) -> Self {
        self.with(12, &port(name, element, sides))
    }

    /// Weights.
    pub(super) fn weights(self, name: &str, shape: &[u64], numbers: &[f32]) -> Self {
        let mut tensor = Vec::new();
        shape.iter().for_each(|side| whole(&mut tensor, 1, *side));
        whole(&mut tensor, 2, code(Element::Number(DType::F32)));
        text(&mut tensor, 8, name);
        bytes(&mut tensor, 9, &numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>());
        self.with(5, &tensor)
    }

    /// Weights that lie in a file beside the model.
    #[cfg(test)]
    pub(super) fn weights_beside(self, name: &str, shape: &[u64], file: &str) -> Self {
        const ELSEWHERE: u64 = 1;
        let mut place = Vec::new();
        text(&mut place, 1, "location");
        text(&mut place, 2, file);
        let mut tensor = Vec::new();
        shape.iter().for_each(|side| whole(&mut tensor, 1, *side));
        whole(&mut tensor, 2, code(Element::Number(DType::F32)));
        text(&mut tensor, 8, name);
        bytes(&mut tensor, 13, &place);
        whole(&mut tensor, 14, ELSEWHERE);
        self.with(5, &tensor)
    }

    /// A step, with whole numbers as attributes.
    pub(super) fn step(self, operator: &str, inputs: &[&str], output: &str, attributes: &[(&str, u64)]) -> Self {
        let mut node = Vec::new();
        inputs.iter().for_each(|input| text(&mut node, 1, input));
        text(&mut node, 2, output);
        text(&mut node, 3, &format!("{operator} for {output}"));
        text(&mut node, 4, operator);
        for (name, value) in attributes {
            let mut attribute = Vec::new();
            text(&mut attribute, 1, name);
            whole(&mut attribute, 3, *value);
            whole(&mut attribute, 20, WHOLE);
            bytes(&mut node, 5, &attribute);
        }
        self.with(1, &node)
    }

    /// The model's file.
    pub(super) fn written(mut self) -> Vec<u8> {
        text(&mut self.0, 2, "graph");
        let mut operators = Vec::new();
        text(&mut operators, 1, "");
        whole(&mut operators, 2, OPERATORS);
        let mut model = Vec::new();
        whole(&mut model, 1, FORMAT);
        bytes(&mut model, 7, &self.0);
        bytes(&mut model, 8, &operators);
        model
    }

    fn with(mut self, field: u64, message: &[u8]) -> Self {
        bytes(&mut self.0, field, message);
        self
    }
}

/// `y` = `x` times a matrix of ones, 64 x 64: `x` is `[rows, 64]`.
pub(super) fn product() -> Vec<u8> {
    let single = Element::Number(DType::F32);
    let ones = vec![1.0; 64 * 64];
    let graph = Graph::default().input("x", single, &["rows", "64"]).output("y", single, &["rows", "64"]);
    graph.weights("ones", &[64, 64], &ones).step("MatMul", &["x", "ones"], "y", &[]).written()
}

fn port(name: &str, element: Element, sides: &[&str]) -> Vec<u8> {
    let mut shape = Vec::new();
    for side in sides {
        let mut dimension = Vec::new();
        match side.parse() {
            Ok(size) => whole(&mut dimension, 1, size),
            Err(_) => text(&mut dimension, 2, side),
        }
        bytes(&mut shape, 1, &dimension);
    }
    let mut tensor = Vec::new();
    whole(&mut tensor, 1, code(element));
    bytes(&mut tensor, 2, &shape);
    let mut ty = Vec::new();
    bytes(&mut ty, 1, &tensor);
    let mut port = Vec::new();
    text(&mut port, 1, name);
    bytes(&mut port, 2, &ty);
    port
}

/// The number of a type in the format.
const fn code(element: Element) -> u64 {
    match element {
        Element::Text => 8,
        Element::Number(dtype) => match dtype {
            DType::F32 => 1,
            DType::U8 => 2,
            DType::I8 => 3,
            DType::U16 => 4,
            DType::I16 => 5,
            DType::I32 => 6,
            DType::I64 => 7,
            DType::Bool => 9,
            DType::F16 => 10,
            DType::F64 => 11,
            DType::U32 => 12,
            DType::U64 => 13,
            DType::BF16 => 16,
        },
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn whole(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn bytes(out: &mut Vec<u8>, field: u64, content: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn text(out: &mut Vec<u8>, field: u64, content: &str) {
    bytes(out, field, content.as_bytes());
}
