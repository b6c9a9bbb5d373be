//! Environment variables of our name that set nothing: slips of the hand, and what container platforms set by themselves.

use std::collections::BTreeMap;

use super::{
    FILE_VARIABLE, GATEWAY_VARIABLE, PYTHON_VARIABLE,
    known::KnownKeys,
    text::{GENERIC, SHORT},
};

/// Before the name of every variable of ours.
const OURS: &str = "GPUFLEET_";
/// A variable that differs from a known one by at most this many slips of the hand is taken for a mistake.
const SLIPS_MAX: usize = 2;
/// A short name may have fewer: one for so many letters of its own part.
const LETTERS_PER_SLIP: usize = 3;
/// Below this likeness (0 to 1) a known variable is not offered for an unknown one.
const LIKENESS_MIN: f64 = 0.6;
/// Variables that our own programs, scripts and tests read beside the configuration.
const READ_ELSEWHERE: [&str; 6] =
    ["GPUFLEET_BIN", "GPUFLEET_BLESS", "GPUFLEET_SEED", "GPUFLEET_SEEDS", "GPUFLEET_SUPERVISED", "GPUFLEET_TEST_ROLE_FOLDER"];

/// The variables that people set, the generic ones aside.
fn known_ones() -> impl Iterator<Item = &'static str> {
    SHORT.into_iter().map(|(short, _)| short).chain([FILE_VARIABLE, GATEWAY_VARIABLE, PYTHON_VARIABLE])
}

/// The known variable that was meant by an unknown one, where the two differ by a slip or two.
pub fn misspelt(name: &str) -> Option<&'static str> {
    if is_known(name) {
        return None;
    }
    known_ones().find(|known| {
        let slips_max = (own_part(known).len() / LETTERS_PER_SLIP).min(SLIPS_MAX);
        strsim::damerau_levenshtein(known, name) <= slips_max
    })
}

/// What to say of variables that begin with our name and are read by nobody. Those that count as mistakes are not among them.
pub fn warnings(environment: &BTreeMap<String, String>, keys: &KnownKeys) -> Vec<String> {
    let unknown = environment.keys().filter(|name| {
        name.starts_with(OURS) && !name.starts_with(GENERIC) && !is_known(name) && !is_of_a_platform(name) && misspelt(name).is_none()
    });
    unknown.map(|name| format!("variable {name} has no effect: {}", advice(name, keys))).collect()
}

/// A name without what all of ours begin with.
fn own_part(name: &str) -> &str {
    name.strip_prefix(OURS).unwrap_or(name)
}

fn is_known(name: &str) -> bool {
    known_ones().any(|known| known == name) || READ_ELSEWHERE.contains(&name)
}

/// Kubernetes and Docker tell each container of the services around it (`GPUFLEET_GATEWAY_SERVICE_HOST`, `GPUFLEET_GATEWAY_PORT_8080_TCP`), and images tell their
/// version.
fn is_of_a_platform(name: &str) -> bool {
    name.contains("_SERVICE_") || name.ends_with("_PORT") || name.contains("_PORT_") || name.ends_with("_VERSION")
}

fn advice(name: &str, keys: &KnownKeys) -> String {
    let rest = own_part(name);
    // One underscore where two part the section from its key.
    let generic = keys.names().into_iter().find(|key| key.replace('.', "_").eq_ignore_ascii_case(rest));
    if let Some(key) = generic {
        return format!("did you mean {GENERIC}{}?", key.replace('.', "__").to_ascii_uppercase());
    }
    match nearest(rest) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("known are {} and {GENERIC}SECTION__KEY", known_ones().collect::<Vec<_>>().join(", ")),
    }
}

/// The known variable whose own part is the beginning of this one or goes on from it, else the likest.
fn nearest(rest: &str) -> Option<&'static str> {
    let likeness = |known: &str| {
        let own = own_part(known);
        let goes_on = |long: &str, short: &str| long.strip_prefix(short).is_some_and(|more| more.starts_with('_'));
        let near = strsim::normalized_damerau_levenshtein(own, rest);
        if goes_on(own, rest) || goes_on(rest, own) { near.max(0.9) } else { near }
    };
    let best = known_ones().map(|known| (likeness(known), known)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= LIKENESS_MIN).then_some(best.1)
}
