//! The environment of a handler's process: none of its worker's, but for a few names.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    num::NonZeroUsize,
    thread,
};

use protocol::config::HandlerSection;

use super::{HandlerPlace, message::VERSION};

/// Variables of the worker's that a handler has too.
const NAMES: [&str; 8] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV"];
/// The beginnings of the names of others.
const BEGINNINGS: [&str; 6] = ["CUDA_", "NVIDIA_", "HF_", "TORCH_", "OMP_", "MKL_"];
/// Those that say how many threads a library computes with: each takes all cores where it is told nothing, and several runs beside each other slow each other down then.
const THREADS: [&str; 2] = ["OMP_NUM_THREADS", "MKL_NUM_THREADS"];

/// What the process finds. `of_worker` is the worker's own environment.
pub(super) fn environment(
    section: &HandlerSection,
    place: &HandlerPlace,
    of_worker: impl Iterator<Item = (OsString, OsString)>,
) -> BTreeMap<OsString, OsString> {
    let mut variables: BTreeMap<OsString, OsString> = of_worker.filter(|(name, _)| is_passed_on(name)).collect();
    variables.extend(section.environment.iter().map(|(name, value)| (name.into(), value.into())));
    for name in THREADS {
        variables.entry(name.into()).or_insert_with(|| threads(section, place).to_string().into());
    }
    let visible = if place.is_simulated { "" } else { place.gpu.gpu_id.as_str() };
    let version = VERSION.to_string();
    let ours = [
        ("CUDA_VISIBLE_DEVICES", visible),
        ("GPUFLEET_HANDLER_VERSION", version.as_str()),
        ("GPUFLEET_GPU_ID", place.gpu.gpu_id.as_str()),
        ("PYTHONUNBUFFERED", "1"),
    ];
    variables.extend(ours.map(|(name, value)| (name.into(), value.into())));
    variables
}

fn is_passed_on(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| NAMES.contains(&name) || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning)))
}

/// The cores, divided among what runs at once beside one GPU.
fn threads(section: &HandlerSection, place: &HandlerPlace) -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let together = u64::from(section.processes) * u64::from(section.concurrency);
    let at_once = together.min(u64::from(place.slots)).max(u64::from(section.processes)).max(1);
    (cores / usize::try_from(at_once).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handlers::fixture;

    fn found(section: &HandlerSection, is_simulated: bool) -> BTreeMap<OsString, OsString> {
        let worker = ["PATH", "GPUFLEET_AMQP_URL", "AWS_SECRET_ACCESS_KEY", "HF_HOME", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"];
        let place = HandlerPlace { is_simulated, ..fixture::place() };
        environment(section, &place, worker.into_iter().map(|name| (name.into(), "the worker's".into())))
    }

    #[test]
    fn a_handler_has_what_it_needs_and_no_secret_of_its_worker() {
        let mut section = HandlerSection::default();
        section.environment.insert("MODEL".to_owned(), "small".to_owned());
        section.environment.insert("GPUFLEET_GPU_ID".to_owned(), "another".to_owned());
        let found = found(&section, true);
        let value = |name: &str| found.get(OsStr::new(name)).and_then(|value| value.to_str());
        assert_eq!((value("PATH"), value("HF_HOME"), value("MODEL")), (Some("the worker's"), Some("the worker's"), Some("small")));
        assert_eq!((value("GPUFLEET_AMQP_URL"), value("AWS_SECRET_ACCESS_KEY")), (None, None));
        assert_eq!((value("OMP_NUM_THREADS"), value("PYTHONUNBUFFERED")), (Some("the worker's"), Some("1")));
        assert!(value("MKL_NUM_THREADS").unwrap().parse::<usize>().unwrap() >= 1);
        assert_eq!((value("GPUFLEET_GPU_ID"), value("GPUFLEET_HANDLER_VERSION")), (Some("sim-0"), Some("1")), "ours come last");
    }

    #[test]
    fn a_handler_sees_its_own_gpu_alone_and_none_beside_a_simulated_one() {
        let visible = |is_simulated| found(&HandlerSection::default(), is_simulated)[OsStr::new("CUDA_VISIBLE_DEVICES")].clone();
        assert_eq!((visible(false), visible(true)), ("sim-0".into(), "".into()));
    }
}
