//! The compiler's options: the architecture matters, the others are known or refused.

/// The architectures of NVRTC 12.4.
const ARCHITECTURES: [&str; 15] = ["50", "52", "53", "60", "61", "62", "70", "72", "75", "80", "86", "87", "89", "90", "90a"];

/// Options without a value, and with one behind `=` or in the same word.
const KNOWN: [&str; 34] = [
    "--ftz",
    "-ftz",
    "--prec-sqrt",
    "-prec-sqrt",
    "--prec-div",
    "-prec-div",
    "--fmad",
    "-fmad",
    "--use_fast_math",
    "-use_fast_math",
    "--maxrregcount",
    "-maxrregcount",
    "--include-path",
    "-I",
    "--define-macro",
    "-D",
    "--undefine-macro",
    "-U",
    "--std",
    "-std",
    "--device-debug",
    "-G",
    "--generate-line-info",
    "-lineinfo",
    "--extra-device-vectorization",
    "--device-as-default-execution-space",
    "-default-device",
    "--restrict",
    "--disable-warnings",
    "-w",
    "--ptxas-options",
    "--relocatable-device-code",
    "-rdc",
    "--diag-suppress",
];

/// What to compile for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Architecture {
    /// Such as `90` or `90a`.
    pub(super) number: String,
    /// A GPU (`sm_90`), for which there is a cubin; else only a family (`compute_90`).
    pub(super) is_real: bool,
}

/// The architecture that the options name, or NVRTC's default; or the log of a refusal.
pub(super) fn architecture(options: &[&str]) -> Result<Architecture, String> {
    let mut architecture = Architecture { number: "52".to_owned(), is_real: false };
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        let (name, value) = option.split_once('=').map_or((*option, None), |(name, value)| (name, Some(value)));
        match name {
            "--gpu-architecture" | "-arch" => {
                let value = value.or_else(|| rest.next().copied()).unwrap_or_default();
                architecture = parse(value).ok_or("nvrtc: error: invalid value for --gpu-architecture (-arch)\n")?;
            }
            _ if KNOWN.contains(&name) || ["-I", "-D", "-U"].iter().any(|short| option.starts_with(short)) => {}
            _ => return Err(format!("nvrtc: error: unrecognized option {option} found\n")),
        }
    }
    Ok(architecture)
}

fn parse(value: &str) -> Option<Architecture> {
    let is_real = value.starts_with("sm_");
    let number = value.strip_prefix("sm_").or_else(|| value.strip_prefix("compute_"))?;
    ARCHITECTURES.contains(&number).then(|| Architecture { number: number.to_owned(), is_real })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_known_or_refused() {
        let of = |number: &str, is_real| Ok(Architecture { number: number.to_owned(), is_real });
        let invalid = Err("nvrtc: error: invalid value for --gpu-architecture (-arch)\n".to_owned());
        assert_eq!(architecture(&[]), of("52", false));
        assert_eq!(architecture(&["--fmad=false", "-DN=3", "--gpu-architecture=sm_90a"]), of("90a", true));
        assert_eq!(architecture(&["-arch", "compute_80", "-I/usr/include"]), of("80", false));
        assert_eq!(architecture(&["--gpu-architecture=sm_100"]), invalid);
        assert_eq!(architecture(&["-arch=native"]), invalid);
        assert_eq!(architecture(&["--fast"]), Err("nvrtc: error: unrecognized option --fast found\n".to_owned()));
    }
}
