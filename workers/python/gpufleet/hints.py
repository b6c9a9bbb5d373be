"""Type hints as JSON Schemas, and JSON as values of those types.

``compile_hint`` makes of a hint a ``Shape``: its schema, and what reads a JSON value as it. What does not fit raises ``InvalidPayload`` with the field.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import sys
import types
import typing
from typing import Any, Callable, Literal, Optional, Union

from .errors import InvalidPayload
from .tensors import Tensor
from .values import SIZES, Segment, natural

Schema = dict[str, Any]
Read = Callable[[Any, str], Any]


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a value, inside ``Annotated``: ``Annotated[float, Range(ge=0, le=1)]``, ``Annotated[str, Range(max_length=200)]``."""

    ge: Optional[float] = None
    gt: Optional[float] = None
    le: Optional[float] = None
    lt: Optional[float] = None
    multiple_of: Optional[float] = None
    min_length: Optional[int] = None
    max_length: Optional[int] = None


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a hint says of a JSON value."""

    schema: Schema
    read: Read


class Definitions:
    """The named types of one schema, each written once under ``$defs``, so that a type may contain itself."""

    def __init__(self, names: Optional[dict[str, Any]] = None) -> None:
        self._known = names
        #: Whether a hint is that of tensors, which are then given where they lie.
        self.takes_tensors = False
        self.schemas: dict[str, Schema] = {}
        self._names: dict[Any, str] = {}
        self._reads: dict[Any, Read] = {}

    def named(self, kind: type, build: Callable[[], Shape]) -> Shape:
        """The shape of a class, built at its first use."""
        if kind not in self._names:
            name = kind.__name__
            while name in self.schemas:
                name += "_"
            self._names[kind] = name
            self.schemas[name] = {}
            shape = build()
            self.schemas[name] = shape.schema
            self._reads[kind] = shape.read
        return Shape({"$ref": f"#/$defs/{self._names[kind]}"}, lambda value, field: self._reads[kind](value, field))

    def hints_of_class(self, kind: type) -> dict[str, Any]:
        """The hints of a class, which may stand inside a function."""
        try:
            return typing.get_type_hints(kind, include_extras=True)
        except NameError:
            return typing.get_type_hints(kind, None, self._known, include_extras=True)

    def take(self, schemas: dict[str, Schema]) -> None:
        """Definitions that somebody else made."""
        self.schemas.update(schemas)


#: The JSON that stands for bytes.
BYTES_SCHEMA: Schema = {
    "type": "object",
    "description": "Raw bytes: a reference to a segment of the message.",
    "properties": {"$segment": {"type": "integer", "minimum": 0}},
    "required": ["$segment"],
    "additionalProperties": False,
}


#: The JSON that stands for a tensor of the fleet. What a result says of one that it kept may be used as it is.
_TENSOR_SCHEMA: Schema = {
    "type": "object",
    "description": "A tensor of the fleet, by its name.",
    "properties": {"tensor": {"type": "string", "minLength": 1}, "version": {"type": ["integer", "null"], "minimum": 0}},
    "required": ["tensor"],
}


def _segment_schema() -> Schema:
    return {
        "type": "object",
        "properties": {
            "$segment": {"type": "integer", "minimum": 0},
            "dtype": {"enum": list(SIZES)},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        },
        "required": ["$segment", "dtype"],
        "additionalProperties": False,
    }


def _array_schema(dtype: Optional[str]) -> Schema:
    kind = f"Numbers ({dtype})" if dtype else "Numbers"
    return {"description": f"{kind}: a reference to a segment of the message, or lists of them.", "anyOf": [_segment_schema(), {"type": "array"}, {"type": ["number", "boolean"]}]}


def compile_hint(hint: Any, definitions: Definitions) -> Shape:
    """What a hint says. ``TypeError``: it cannot be said in JSON."""
    for compiler in (_plain, _named, _array, _generic):
        shape = compiler(hint, definitions)
        if shape is not None:
            return shape
    raise TypeError(
        f"the hint {hint!r} cannot be read from JSON: use str, int, float, bool, None, list, tuple, set, dict, Optional, Union, Literal, Enum, TypedDict, a dataclass, "
        "a pydantic model, bytes, a numpy array, a Tensor, or Any"
    )


# Types that need nothing else.


def _plain(hint: Any, definitions: Definitions) -> Optional[Shape]:
    if hint is Any or hint is object:
        return Shape({}, lambda value, _field: natural(value))
    if hint is None or hint is type(None):
        return Shape({"type": "null"}, _only(lambda value: value is None, "null"))
    if hint is str:
        return Shape({"type": "string"}, _only(lambda value: type(value) is str, "a text"))
    if hint is bool:
        return Shape({"type": "boolean"}, _only(lambda value: type(value) is bool, "true or false"))
    if hint is int:
        return Shape({"type": "integer"}, _integer)
    if hint is float:
        return Shape({"type": "number"}, _number)
    if hint in (bytes, bytearray, memoryview):
        return Shape(BYTES_SCHEMA, lambda value, field: _bytes(hint, value, field))
    return None


def _wrong(field: str, wanted: str, value: Any) -> InvalidPayload:
    return InvalidPayload(field, f"must be {wanted}, not {_named_value(value)}")


def _named_value(value: Any) -> str:
    """A value as a person sees it in JSON, cut."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Segment):
        return "raw bytes" if value.dtype is None else f"an array of {value.dtype}"
    if isinstance(value, (list, dict)):
        return f"{'a list' if isinstance(value, list) else 'an object'} with {len(value)} entries"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…'"


def _only(fits: Callable[[Any], bool], wanted: str) -> Read:
    def read(value: Any, field: str) -> Any:
        if not fits(value):
            raise _wrong(field, wanted, value)
        return value

    return read


def _integer(value: Any, field: str) -> int:
    if type(value) is int:
        return value
    # JSON does not tell 3.0 from 3.
    if type(value) is float and value.is_integer():
        return int(value)
    raise _wrong(field, "a whole number", value)


def _number(value: Any, field: str) -> float:
    if type(value) in (int, float):
        return float(value)
    raise _wrong(field, "a number", value)


def _bytes(kind: type, value: Any, field: str) -> Any:
    if not isinstance(value, Segment):
        raise _wrong(field, "raw bytes (a segment of the message)", value)
    if kind is memoryview:
        return value.data
    whole = value.data.obj
    if kind is bytearray and isinstance(whole, bytearray) and len(whole) == value.data.nbytes:
        return whole
    return kind(value.data)


# Arrays.


def _array(hint: Any, definitions: Definitions) -> Optional[Shape]:
    if hint is Tensor:
        definitions.takes_tensors = True
        return Shape({"description": "A tensor of the fleet, or numbers beside the payload.", "anyOf": [_TENSOR_SCHEMA, _segment_schema(), BYTES_SCHEMA]}, _named_tensor)
    origin = typing.get_origin(hint) or hint
    module, name = getattr(origin, "__module__", ""), getattr(origin, "__name__", "")
    if module == "numpy" and name == "ndarray":
        dtype = _dtype_of(hint)
        return Shape(_array_schema(dtype), lambda value, field: _numpy_array(dtype, value, field))
    if module.split(".")[0] == "torch" and name == "Tensor":
        return Shape(_array_schema(None), _tensor)
    return None


def _named_tensor(value: Any, field: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Segment):
        return Tensor.of_segment(value)
    raise _wrong(field, 'a tensor ({"tensor": "its name"}) that is there, or an array (a segment of the message)', value)


def _dtype_of(hint: Any) -> Optional[str]:
    """The ``float32`` of ``NDArray[np.float32]``."""
    for argument in typing.get_args(hint):
        for inner in typing.get_args(argument):
            if getattr(inner, "__module__", "") == "numpy" and inner.__name__ not in ("generic", "number", "floating", "integer"):
                return str(inner.__name__).rstrip("_")
    return None


def _numpy_array(dtype: Optional[str], value: Any, field: str) -> Any:
    import numpy  # type: ignore[import-not-found,unused-ignore]

    if isinstance(value, Segment):
        array = value.array()
        return array if dtype is None else array.astype(dtype, copy=False)
    if not isinstance(value, (list, int, float)):
        raise _wrong(field, "an array (a segment of the message, or lists of numbers)", value)
    try:
        array = numpy.array(value, dtype=dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidPayload(field, f"is no array of numbers: {error}") from None
    if array.dtype.kind not in "biuf":
        raise InvalidPayload(field, "is no array of numbers")
    return array


def _tensor(value: Any, field: str) -> Any:
    import torch  # type: ignore[import-not-found,unused-ignore]

    if isinstance(value, Segment) and value.dtype == "bf16":
        flat = torch.frombuffer(value.data, dtype=torch.bfloat16) if value.data.nbytes else torch.empty(0, dtype=torch.bfloat16)
        return flat if value.shape is None else flat.reshape(value.shape)
    return torch.from_numpy(_numpy_array(None, value, field))


# Classes.


def _named(hint: Any, definitions: Definitions) -> Optional[Shape]:
    if not isinstance(hint, type) or typing.get_origin(hint) is not None:
        return None
    if issubclass(hint, enum.Enum):
        return definitions.named(hint, lambda: _enum(hint))
    if dataclasses.is_dataclass(hint):
        return definitions.named(hint, lambda: _dataclass(hint, definitions))
    if issubclass(hint, dict) and hasattr(hint, "__total__"):
        return definitions.named(hint, lambda: _typed_dict(hint, definitions))
    if hasattr(hint, "model_json_schema") and hasattr(hint, "model_validate"):
        return definitions.named(hint, lambda: _pydantic(hint, definitions))
    return None


def _enum(kind: Any) -> Shape:
    values = [member.value for member in kind]

    def read(value: Any, field: str) -> Any:
        for member in kind:
            if type(member.value) is type(value) and member.value == value:
                return member
        raise _wrong(field, "one of " + ", ".join(map(repr, values)), value)

    return Shape({"enum": values}, read)


@dataclasses.dataclass(frozen=True)
class Member:
    """A named part of an object."""

    shape: Shape
    required: bool
    default: Any = None
    has_default: bool = False


def object_schema(members: dict[str, Member]) -> Schema:
    """The schema of an object with these parts and no other."""
    properties = {}
    for name, member in members.items():
        schema = dict(member.shape.schema)
        if member.has_default and isinstance(member.default, (str, int, float, bool, type(None))) and not isinstance(member.default, enum.Enum):
            schema["default"] = member.default
        properties[name] = schema
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    required = [name for name, member in members.items() if member.required]
    if required:
        schema["required"] = required
    return schema


def read_object(members: dict[str, Member], value: Any, field: str) -> dict[str, Any]:
    """The parts of an object, each read; parts with a default may be absent, and are then."""
    if not isinstance(value, dict):
        raise _wrong(field, "an object", value)
    for name in value:
        if name not in members:
            raise InvalidPayload(f"{field}.{name}", f"is unknown; known are {', '.join(members) or 'none'}")
    for name, member in members.items():
        if member.required and name not in value:
            raise InvalidPayload(f"{field}.{name}", "is missing")
    return {name: members[name].shape.read(each, f"{field}.{name}") for name, each in value.items()}


def _dataclass(kind: Any, definitions: Definitions) -> Shape:
    hints = definitions.hints_of_class(kind)
    members = {}
    for each in dataclasses.fields(kind):
        if not each.init:
            continue
        has_default = each.default is not dataclasses.MISSING
        required = not has_default and each.default_factory is dataclasses.MISSING
        members[each.name] = Member(compile_hint(hints[each.name], definitions), required, each.default if has_default else None, has_default)

    def read(value: Any, field: str) -> Any:
        parts = read_object(members, value, field)
        try:
            return kind(**parts)
        except (TypeError, ValueError) as error:
            raise InvalidPayload(field, str(error)) from None

    return Shape(object_schema(members), read)


def _typed_dict(kind: Any, definitions: Definitions) -> Shape:
    hints = definitions.hints_of_class(kind)
    members = {}
    for name, hint in hints.items():
        required = name in kind.__required_keys__
        origin = typing.get_origin(hint)
        if getattr(origin, "_name", None) in ("Required", "NotRequired"):
            required = origin._name == "Required"
            (hint,) = typing.get_args(hint)
        members[name] = Member(compile_hint(hint, definitions), required)
    return Shape(object_schema(members), lambda value, field: read_object(members, value, field))


def _pydantic(kind: Any, definitions: Definitions) -> Shape:
    schema = kind.model_json_schema(ref_template="#/$defs/{model}")
    definitions.take(schema.pop("$defs", {}))

    def read(value: Any, field: str) -> Any:
        try:
            return kind.model_validate(natural(value))
        except ValueError as error:
            first = error.errors()[0] if hasattr(error, "errors") else {"loc": (), "msg": str(error)}
            place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
            raise InvalidPayload(field + place, str(first["msg"])) from None

    return Shape(schema, read)


# Types made of others.


def _generic(hint: Any, definitions: Definitions) -> Optional[Shape]:
    if hasattr(hint, "__supertype__"):
        return compile_hint(hint.__supertype__, definitions)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _annotated(compile_hint(arguments[0], definitions), arguments[1:])
    if origin is Union or origin is getattr(types, "UnionType", Union):
        if Any in arguments:
            return compile_hint(Any, definitions)
        return _union([compile_hint(each, definitions) for each in arguments])
    if origin is Literal:
        return _literal(arguments)
    kind = origin or hint
    if kind in (list, collections.abc.Sequence, collections.abc.Iterable):
        return _list(compile_hint(arguments[0] if arguments else Any, definitions))
    if kind in (set, frozenset):
        return _set(kind, compile_hint(arguments[0] if arguments else Any, definitions))
    if kind is tuple:
        return _tuple(arguments, definitions)
    if kind in (dict, collections.abc.Mapping, collections.abc.MutableMapping):
        return _dict(arguments, definitions)
    return None


def _union(shapes: list[Shape]) -> Shape:
    def read(value: Any, field: str) -> Any:
        problems = []
        for shape in shapes:
            try:
                return shape.read(value, field)
            except InvalidPayload as error:
                problems.append(error)
        # The type that came furthest has the most to say.
        deepest = max(problems, key=lambda problem: len(problem.field))
        if len(deepest.field) > len(field):
            raise deepest
        raise InvalidPayload(field, ", or ".join(problem.problem for problem in problems))

    return Shape({"anyOf": [shape.schema for shape in shapes]}, read)


def _literal(values: tuple[Any, ...]) -> Shape:
    def read(value: Any, field: str) -> Any:
        for each in values:
            if type(each) is type(value) and each == value:
                return each
        raise _wrong(field, "one of " + ", ".join(map(repr, values)), value)

    return Shape({"enum": list(values)}, read)


def _list(inner: Shape) -> Shape:
    def read(value: Any, field: str) -> Any:
        if not isinstance(value, list):
            raise _wrong(field, "a list", value)
        return [inner.read(each, f"{field}[{number}]") for number, each in enumerate(value)]

    return Shape({"type": "array", "items": inner.schema}, read)


def _set(kind: Any, inner: Shape) -> Shape:
    listed = _list(inner)

    def read(value: Any, field: str) -> Any:
        try:
            return kind(listed.read(value, field))
        except TypeError:
            raise InvalidPayload(field, "has entries that cannot be in a set") from None

    return Shape({**listed.schema, "uniqueItems": True}, read)


def _tuple(arguments: tuple[Any, ...], definitions: Definitions) -> Shape:
    if not arguments or arguments[-1] is Ellipsis:
        listed = _list(compile_hint(arguments[0] if arguments else Any, definitions))
        return Shape(listed.schema, lambda value, field: tuple(listed.read(value, field)))
    shapes = [compile_hint(each, definitions) for each in arguments if each != ()]

    def read(value: Any, field: str) -> Any:
        if not isinstance(value, list) or len(value) != len(shapes):
            raise _wrong(field, f"a list of {len(shapes)}", value)
        return tuple(shape.read(each, f"{field}[{number}]") for number, (shape, each) in enumerate(zip(shapes, value)))

    schema = {"type": "array", "prefixItems": [shape.schema for shape in shapes], "items": False, "minItems": len(shapes)}
    return Shape(schema, read)


def _dict(arguments: tuple[Any, ...], definitions: Definitions) -> Shape:
    if arguments and arguments[0] not in (str, Any):
        raise TypeError(f"the keys of a dict are texts in JSON: dict[str, …], not dict[{arguments[0]!r}, …]")
    inner = compile_hint(arguments[1] if arguments else Any, definitions)

    def read(value: Any, field: str) -> Any:
        if not isinstance(value, dict):
            raise _wrong(field, "an object", value)
        return {key: inner.read(each, f"{field}.{key}") for key, each in value.items()}

    return Shape({"type": "object", "additionalProperties": inner.schema}, read)


# Bounds.

_NUMBERS: dict[str, tuple[str, Callable[[Any, Any], bool], str]] = {
    "ge": ("minimum", lambda value, bound: value >= bound, "at least"),
    "gt": ("exclusiveMinimum", lambda value, bound: value > bound, "above"),
    "le": ("maximum", lambda value, bound: value <= bound, "at most"),
    "lt": ("exclusiveMaximum", lambda value, bound: value < bound, "below"),
    "multiple_of": ("multipleOf", lambda value, bound: value % bound == 0, "a multiple of"),
}


def _annotated(inner: Shape, extras: tuple[Any, ...]) -> Shape:
    """``Range``, and whatever has its fields: those of annotated_types, and pydantic's ``Field``. A text is a description; what else there is belongs to others."""
    bounds: dict[str, Any] = {}
    schema = dict(inner.schema)
    for extra in extras:
        if isinstance(extra, str):
            schema["description"] = extra
            continue
        if isinstance(getattr(extra, "description", None), str):
            schema["description"] = extra.description
        for source in (extra, *(getattr(extra, "metadata", None) or ())):
            for name in (*_NUMBERS, "min_length", "max_length"):
                bound = getattr(source, name, None)
                if isinstance(bound, (int, float)):
                    bounds[name] = bound
    is_text = schema.get("type") == "string"
    for name, bound in bounds.items():
        if name in _NUMBERS:
            schema[_NUMBERS[name][0]] = bound
        else:
            schema[f"{name[:3]}{'Length' if is_text else 'Items'}"] = bound

    def read(value: Any, field: str) -> Any:
        value = inner.read(value, field)
        for name, bound in bounds.items():
            _check_bound(value, name, bound, field)
        return value

    return Shape(schema, read) if bounds else Shape(schema, inner.read)


def _check_bound(value: Any, name: str, bound: Any, field: str) -> None:
    if name in _NUMBERS:
        _keyword, fits, words = _NUMBERS[name]
        if isinstance(value, (int, float)) and not fits(value, bound):
            raise InvalidPayload(field, f"must be {words} {bound}, not {value}")
    elif hasattr(value, "__len__"):
        if name == "min_length" and len(value) < bound:
            raise InvalidPayload(field, f"must have a length of at least {bound}, not {len(value)}")
        if name == "max_length" and len(value) > bound:
            raise InvalidPayload(field, f"must have a length of at most {bound}, not {len(value)}")


def hints_of(function: Any, names: Optional[dict[str, Any]] = None) -> dict[str, Any]:
    """The hints of a function, evaluated. ``names``: those that were known where it was written, beside its module's."""
    scope = {**getattr(sys.modules.get(function.__module__), "__dict__", {}), **getattr(function, "__globals__", {}), **(names or {})}
    try:
        return typing.get_type_hints(function, scope, None, include_extras=True)
    except (NameError, TypeError, SyntaxError) as error:
        raise TypeError(f"the hints of {function.__qualname__} cannot be read by this Python ({sys.version.split()[0]}): {error}") from error
