//! Finds the kernels of a CUDA source, and the mistakes that can be seen without a compiler.
//!
//! Comments and texts are blanked first. Macros, conditions and types of the source's own are not understood: a type that is not
//! known counts as eight bytes, and what stands between `#if` and `#endif` is taken as it is, but for its `#error` lines.

use crate::cuda::Parameter;

/// Words before an opening bracket that are not the kernel's name.
const ATTRIBUTES: [&str; 5] = ["__launch_bounds__", "__cluster_dims__", "__maxnreg__", "__block_size__", "__align__"];

/// Words of a parameter that do not tell its size.
const QUALIFIERS: [&str; 8] = ["const", "volatile", "__restrict__", "__restrict", "restrict", "struct", "__grid_constant__", "typename"];

/// Types → bytes and alignment.
const TYPES: [(&[&str], usize, usize); 8] = [
    (&["float4", "int4", "uint4", "double2"], 16, 16),
    (&["float3", "int3", "uint3", "dim3"], 12, 4),
    (&["float2", "int2", "uint2"], 8, 8),
    (&["double", "long", "size_t", "ptrdiff_t", "int64_t", "uint64_t"], 8, 8),
    (&["short", "half", "__half", "__nv_bfloat16", "int16_t", "uint16_t"], 2, 2),
    (&["char", "bool", "int8_t", "uint8_t"], 1, 1),
    (&["float", "int", "unsigned", "signed", "int32_t", "uint32_t"], 4, 4),
    (&[], 8, 8),
];

/// A kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kernel {
    /// As the source has it.
    pub(super) name: String,
    /// As the image has it: the same for `extern "C"`, else longer.
    pub(super) symbol: String,
    pub(super) parameters: Vec<Parameter>,
    pub(super) is_template: bool,
}

/// A mistake, and its line, from one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) line: usize,
    pub(super) text: String,
}

/// The kernels, templates among them; or the first mistake.
pub(super) fn kernels(source: &str) -> Result<Vec<Kernel>, Mistake> {
    error_directive(source).map_or(Ok(()), Err)?;
    let blanked = blanked(source);
    brackets(&blanked)?;
    let mut found: Vec<Kernel> = Vec::new();
    for (place, mark) in blanked.match_indices("__global__") {
        if let Some(kernel) = kernel(&blanked[..place], &blanked[place + mark.len()..])
            && !found.contains(&kernel)
        {
            found.push(kernel);
        }
    }
    Ok(found)
}

/// An `#error` outside of all conditions.
fn error_directive(source: &str) -> Option<Mistake> {
    let mut conditions = 0_usize;
    for (number, line) in source.lines().enumerate() {
        let Some(directive) = line.trim_start().strip_prefix('#').map(str::trim_start) else { continue };
        if directive.starts_with("if") {
            conditions += 1;
        } else if directive.starts_with("endif") {
            conditions = conditions.saturating_sub(1);
        } else if let Some(text) = directive.strip_prefix("error").filter(|_| conditions == 0) {
            return Some(Mistake { line: number + 1, text: format!("#error directive: {}", text.trim()) });
        }
    }
    None
}

/// The source with spaces for comments, texts and letters, but for the text `"C"`, which becomes `@C@`. Lines and places stay.
fn blanked(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(letter) = rest.chars().next() {
        let (length, keeps) = match letter {
            '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), false),
            '/' if rest.starts_with("/*") => (rest[2..].find("*/").map_or(rest.len(), |end| end + 4), false),
            '"' if rest.starts_with("\"C\"") => {
                out.push_str("@C@");
                rest = &rest[3..];
                continue;
            }
            '"' | '\'' => (literal(rest, letter), false),
            _ => (letter.len_utf8(), true),
        };
        let (part, behind) = rest.split_at(length);
        if keeps {
            out.push_str(part);
        } else {
            out.extend(part.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
        }
        rest = behind;
    }
    out
}

/// The bytes of a text or letter with its quotes; up to the end of the line where it is not closed.
fn literal(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (place, letter) in text.char_indices().skip(1) {
        match letter {
            '\n' => return place,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == quote => return place + letter.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// The first bracket that is not closed, or closed without being open.
fn brackets(text: &str) -> Result<(), Mistake> {
    let mut open = Vec::new();
    let mut line = 1;
    for letter in text.chars() {
        match letter {
            '\n' => line += 1,
            '{' => open.push('}'),
            '(' => open.push(')'),
            '}' | ')' => match open.pop() {
                Some(expected) if expected == letter => {}
                Some(expected) => return Err(Mistake { line, text: format!("expected a \"{expected}\"") }),
                None => return Err(Mistake { line, text: "expected a declaration".to_owned() }),
            },
            _ => {}
        }
    }
    open.pop().map_or(Ok(()), |expected| Err(Mistake { line, text: format!("expected a \"{expected}\"") }))
}

/// The kernel between what stands before its `__global__` and what stands behind it; none where it is only declared.
fn kernel(before: &str, behind: &str) -> Option<Kernel> {
    let mut text = behind;
    let (name, listed, rest) = loop {
        let (head, tail) = text.split_once('(')?;
        let (inside, rest) = closed(tail)?;
        let name = head.split(|letter: char| !(letter.is_alphanumeric() || letter == '_')).rfind(|word| !word.is_empty());
        if let Some(name) = name.filter(|name| !ATTRIBUTES.contains(name)) {
            break (name, inside, rest);
        }
        text = rest;
    };
    if !rest.trim_start().starts_with('{') {
        return None;
    }
    let declaration = before.rsplit(['{', '}', ';']).next().unwrap_or_default();
    let parameters: Vec<Parameter> = split(listed).into_iter().filter_map(parameter).collect();
    let plain = is_extern_c(declaration) || in_extern_c_block(before);
    let symbol = if plain { name.to_owned() } else { format!("_Z{}{name}{}", name.len(), letters(&parameters)) };
    Some(Kernel { name: name.to_owned(), symbol, parameters, is_template: declaration.contains("template") })
}

/// What stands before the bracket that closes, and behind it.
fn closed(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0_usize;
    for (place, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' if depth == 0 => return Some((&text[..place], &text[place + 1..])),
            ')' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn is_extern_c(declaration: &str) -> bool {
    let words: Vec<&str> = declaration.split_whitespace().collect();
    words.windows(2).any(|pair| pair == ["extern", "@C@"])
}

/// Whether a block that is still open was opened by `extern "C"`.
fn in_extern_c_block(before: &str) -> bool {
    let mut open = Vec::new();
    for (place, letter) in before.char_indices() {
        match letter {
            '{' => open.push(is_extern_c(before[..place].rsplit(['{', '}', ';']).next().unwrap_or_default())),
            '}' => drop(open.pop()),
            _ => {}
        }
    }
    open.contains(&true)
}

/// Something like the letters with which C++ adds the parameters to a name.
fn letters(parameters: &[Parameter]) -> String {
    let letter = |parameter: &Parameter| match parameter.bytes {
        1 => 'c',
        2 => 's',
        4 => 'i',
        _ => 'l',
    };
    if parameters.is_empty() { "v".to_owned() } else { parameters.iter().map(letter).collect() }
}

/// The parts between commas that stand in no bracket.
fn split(listed: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    listed
        .split(|letter: char| {
            depth += i32::from("(<[".contains(letter)) - i32::from(")>]".contains(letter));
            letter == ',' && depth == 0
        })
        .collect()
}

fn parameter(text: &str) -> Option<Parameter> {
    let declared = text.split('=').next().unwrap_or_default();
    if declared.contains(['*', '&', '[']) {
        return Some(Parameter::plain(8));
    }
    let words: Vec<&str> = declared.split_whitespace().filter(|word| !QUALIFIERS.contains(word)).collect();
    if matches!(words.as_slice(), [] | ["void"]) {
        return None;
    }
    let known = TYPES.iter().find(|(names, _, _)| names.is_empty() || words.iter().any(|word| names.contains(word)));
    known.map(|(_, bytes, alignment)| Parameter { bytes: *bytes, alignment: *alignment })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbols(source: &str) -> Vec<(String, Vec<usize>)> {
        let kernels = kernels(source).unwrap();
        kernels.into_iter().map(|kernel| (kernel.symbol, kernel.parameters.iter().map(|parameter| parameter.bytes).collect())).collect()
    }

    /// The source's only kernel, and the bytes of its parameters; none where the source has none.
    type Expected = (&'static str, Option<(&'static str, &'static [usize])>);

    #[test]
    fn kernels_are_found_with_their_parameters() {
        let cases: [Expected; 8] = [
            ("extern \"C\" __global__ void a(float *x, int n) {}", Some(("a", &[8, 4]))),
            ("// __global__ void no() {}\n/* __global__ void no() {} */ char c = '\"';", None),
            ("extern \"C\" { __device__ int f() { return 1; } __global__ void a(void) { f(); } }", Some(("a", &[]))),
            (
                "extern \"C\" __global__ __launch_bounds__(128, 2) void a(const double f, unsigned long long n = (1, 2)) {}",
                Some(("a", &[8, 8])),
            ),
            ("extern \"C\" __global__ void a(int n); extern \"C\" __global__ void a(int n) {}", Some(("a", &[4]))),
            ("__global__ void a(unsigned char c, short s) {}", Some(("_Z1acs", &[1, 2]))),
            ("extern \"C\" void __global__ a(float4 v, bool b, Own o) { if (b) { } }", Some(("a", &[16, 1, 8]))),
            ("const char *s = \"__global__ void no() {\"; extern \"C\" __global__ void a() {}", Some(("a", &[]))),
        ];
        for (source, expected) in cases {
            let found = symbols(source);
            assert_eq!(found.first().map(|(name, sizes)| (name.as_str(), sizes.as_slice())), expected, "{source}");
            assert!(found.len() < 2, "{source}");
        }
    }

    #[test]
    fn mistakes_have_a_line_and_a_text() {
        let cases = [
            ("int a;\n  # error too old", 2, "#error directive: too old"),
            ("#ifdef NEVER\n#error no\n#endif\n#error yes", 4, "#error directive: yes"),
            ("__global__ void a() {\n", 2, "expected a \"}\""),
            ("__global__ void a(", 1, "expected a \")\""),
            ("int a;\n}\n", 2, "expected a declaration"),
            ("void a(int b }", 1, "expected a \")\""),
        ];
        for (source, line, text) in cases {
            assert_eq!(kernels(source), Err(Mistake { line, text: text.to_owned() }), "{source}");
        }
    }
}
