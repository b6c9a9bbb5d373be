//! What the fake compiler makes: PTX with kernels that do nothing, and cubins that hold such PTX.

use crate::cuda::{CUBIN_MARK, Parameter};

use super::source::Kernel;

/// PTX of version 8.4, for a target such as `sm_90`.
pub(super) fn ptx(target: &str, kernels: &[Kernel]) -> String {
    let head = "// Made by the fake NVRTC: the kernels have names and parameters, and no bodies.\n";
    let mut text = format!("{head}\n.version 8.4\n.target {target}\n.address_size 64\n");
    for kernel in kernels {
        let parameters: Vec<String> =
            kernel.parameters.iter().enumerate().map(|(place, parameter)| parameter_text(&kernel.symbol, place, *parameter)).collect();
        text.push_str(&format!("\n.visible .entry {}(\n{}\n)\n{{\n\tret;\n}}\n", kernel.symbol, parameters.join(",\n")));
    }
    text
}

/// A cubin: bytes that only the fake driver loads.
pub(super) fn cubin(ptx: &str) -> Vec<u8> {
    [CUBIN_MARK, ptx.as_bytes(), &[0]].concat()
}

fn parameter_text(kernel: &str, place: usize, parameter: Parameter) -> String {
    let is_plain = matches!(parameter.bytes, 1 | 2 | 4 | 8) && parameter.alignment == parameter.bytes;
    if is_plain {
        return format!("\t.param .b{} {kernel}_param_{place}", parameter.bytes * 8);
    }
    format!("\t.param .align {} .b8 {kernel}_param_{place}[{}]", parameter.alignment, parameter.bytes)
}
