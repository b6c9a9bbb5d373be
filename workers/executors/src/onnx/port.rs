//! What a model takes and gives: names, types, shapes; and whether what was given fits.

use std::{collections::BTreeMap, fmt};

use ort::value::{Outlet, ValueType};

use super::tensor::{Element, Tensor};
use crate::Failure;

/// One input or output of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) element: Element,
    pub(super) sides: Vec<Side>,
}

/// The size of one dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Side {
    Fixed(usize),
    /// Open, the same wherever the name is.
    Named(String),
    Open,
}

impl Port {
    /// # Errors
    /// It is no tensor that travels.
    pub(super) fn of(outlet: &Outlet) -> Result<Self, String> {
        let ValueType::Tensor { ty, shape, dimension_symbols } = outlet.dtype() else {
            return Err(format!("{:?} is no tensor", outlet.name()));
        };
        let element = Element::of(*ty).ok_or_else(|| format!("{:?} is a tensor of {ty}, which cannot travel", outlet.name()))?;
        let side = |(at, size): (usize, &i64)| match usize::try_from(*size) {
            Ok(size) => Side::Fixed(size),
            Err(_) => dimension_symbols.get(at).filter(|name| !name.is_empty()).map_or(Side::Open, |name| Side::Named(name.clone())),
        };
        Ok(Self { name: outlet.name().to_owned(), element, sides: shape.iter().enumerate().map(side).collect() })
    }
}

/// Its shape, as a refusal shows it: `[batch, 3, ?] of f32`.
impl fmt::Display for Port {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sides = self.sides.iter().map(|side| match side {
            Side::Fixed(size) => size.to_string(),
            Side::Named(name) => name.clone(),
            Side::Open => "?".to_owned(),
        });
        write!(formatter, "[{}] of {}", sides.collect::<Vec<_>>().join(", "), self.element)
    }
}

/// Checks what was given against what the model takes: every name, every type, every shape.
///
/// # Errors
/// Names the input, and both shapes.
pub(super) fn check(inputs: &[Port], given: &BTreeMap<String, Tensor>) -> Result<(), Failure> {
    if let Some(unknown) = given.keys().find(|name| inputs.iter().all(|port| port.name != **name)) {
        return Err(Failure::invalid(format!("payload.inputs.{unknown}"), format!("is unknown; the model takes {}", named(inputs))));
    }
    let mut sizes = BTreeMap::<&str, (usize, &str)>::new();
    for port in inputs {
        let field = format!("payload.inputs.{}", port.name);
        let tensor = given.get(&port.name).ok_or_else(|| Failure::invalid(&field, format!("is missing; the model takes {port}")))?;
        let unlike =
            || Failure::invalid(&field, format!("has the shape {:?} of {}; the model takes {port}", tensor.shape, tensor.element()));
        if tensor.element() != port.element || tensor.shape.len() != port.sides.len() {
            return Err(unlike());
        }
        for (side, size) in port.sides.iter().zip(&tensor.shape) {
            match side {
                Side::Fixed(wanted) if wanted != size => return Err(unlike()),
                Side::Named(name) => {
                    let (known, of) = *sizes.entry(name).or_insert((*size, &port.name));
                    if known != *size {
                        let message = format!(
                            "has the shape {:?}; the model takes {port}, and {name} is {known} in payload.inputs.{of}",
                            tensor.shape
                        );
                        return Err(Failure::invalid(&field, message));
                    }
                }
                Side::Fixed(_) | Side::Open => {}
            }
        }
    }
    Ok(())
}

/// The names of ports, for people.
pub(super) fn named(ports: &[Port]) -> String {
    ports.iter().map(|port| port.name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use protocol::DType;

    use super::*;

    fn port(name: &str, sides: &[Side]) -> Port {
        Port { name: name.to_owned(), element: Element::Number(DType::U8), sides: sides.to_vec() }
    }

    fn refused(given: &[(&str, DType, &[usize])]) -> (String, String) {
        let batch = || Side::Named("batch".to_owned());
        let inputs = [port("x", &[batch(), Side::Fixed(3)]), port("mask", &[batch(), Side::Open])];
        let tensor =
            |dtype: DType, shape: &[usize]| Tensor::numbers(dtype, shape.to_vec(), vec![0; shape.iter().product::<usize>() * dtype.size()]);
        let given = given.iter().map(|(name, dtype, shape)| ((*name).to_owned(), tensor(*dtype, shape))).collect();
        match check(&inputs, &given) {
            Ok(()) => (String::new(), String::new()),
            Err(failure) => (failure.field.unwrap(), failure.message),
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_by_its_name_with_both_shapes() {
        let (x, mask) = (("x", DType::U8, [2, 3].as_slice()), ("mask", DType::U8, [2, 7].as_slice()));
        assert_eq!(refused(&[x, mask]), (String::new(), String::new()));
        for (given, field, says) in [
            (vec![x], "payload.inputs.mask", "is missing; the model takes [batch, ?] of u8"),
            (vec![x, mask, ("y", DType::U8, &[1])], "payload.inputs.y", "is unknown; the model takes x, mask"),
            (vec![("x", DType::U8, &[2, 4]), mask], "payload.inputs.x", "has the shape [2, 4] of u8; the model takes [batch, 3] of u8"),
            (vec![("x", DType::F32, &[2, 3]), mask], "payload.inputs.x", "has the shape [2, 3] of f32; the model takes [batch, 3] of u8"),
            (vec![("x", DType::U8, &[3]), mask], "payload.inputs.x", "has the shape [3] of u8; the model takes [batch, 3] of u8"),
            (
                vec![("x", DType::U8, &[1, 3]), mask],
                "payload.inputs.mask",
                "has the shape [2, 7]; the model takes [batch, ?] of u8, and batch is 1 in payload.inputs.x",
            ),
        ] {
            assert_eq!(refused(&given), (field.to_owned(), says.to_owned()));
        }
    }
}
