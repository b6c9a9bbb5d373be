//! Naming a GPU: by its UUID, the beginning of it, or its number.

use crate::GpuId;

/// Why a name names no GPU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NamingError {
    /// None fits.
    #[error("no GPU is called {name:?}; there are {there}")]
    None {
        /// What was asked for.
        name: String,
        /// What there is.
        there: String,
    },
    /// More than one fits.
    #[error("{name:?} is the beginning of {fitting}: write more of it")]
    Several {
        /// What was asked for.
        name: String,
        /// Those that fit.
        fitting: String,
    },
}

/// The GPU among `ids` that `name` means: its whole id, its number in the list, or the beginning of its id (with or without `GPU-` or `MIG-`; letters of any case).
///
/// # Errors
/// [`NamingError`] if none fits, or several.
pub fn gpu_named<'a>(name: &str, ids: &'a [GpuId]) -> Result<&'a GpuId, NamingError> {
    let wanted = name.to_ascii_lowercase();
    if let Some(whole) = ids.iter().find(|id| id.as_str().to_ascii_lowercase() == wanted) {
        return Ok(whole);
    }
    if let Some(numbered) = name.parse().ok().and_then(|number: usize| ids.get(number)) {
        return Ok(numbered);
    }
    let begins = |id: &&GpuId| {
        let id = id.as_str().to_ascii_lowercase();
        let bare = id.strip_prefix("gpu-").or_else(|| id.strip_prefix("mig-")).unwrap_or(&id);
        !wanted.is_empty() && (id.starts_with(&wanted) || bare.starts_with(&wanted))
    };
    let fitting: Vec<&GpuId> = ids.iter().filter(begins).collect();
    match fitting.as_slice() {
        [one] => Ok(one),
        [] => Err(NamingError::None { name: name.to_owned(), there: listed(ids.iter()) }),
        several => Err(NamingError::Several { name: name.to_owned(), fitting: listed(several.iter().copied()) }),
    }
}

fn listed<'a>(ids: impl Iterator<Item = &'a GpuId>) -> String {
    let ids: Vec<&str> = ids.map(GpuId::as_str).collect();
    if ids.is_empty() { "none".to_owned() } else { ids.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> Vec<GpuId> {
        ["GPU-1a2b3c4d-0000", "GPU-1a99-0000", "MIG-77aa-0000"].map(|id| GpuId::new(id).unwrap()).to_vec()
    }

    #[test]
    fn a_gpu_is_named_by_its_id_by_the_beginning_of_it_or_by_its_number() {
        let ids = ids();
        for name in ["GPU-1a2b3c4d-0000", "gpu-1A2B", "1a2b", "0"] {
            assert_eq!(gpu_named(name, &ids).unwrap(), &ids[0], "{name}");
        }
        assert_eq!(gpu_named("77", &ids).unwrap(), &ids[2], "no GPU has that number");
        assert_eq!(gpu_named("2", &ids).unwrap(), &ids[2]);
    }

    #[test]
    fn a_name_that_fits_none_or_several_says_which_there_are() {
        let several = gpu_named("GPU-1a", &ids()).unwrap_err().to_string();
        assert!(several.contains("GPU-1a2b3c4d-0000, GPU-1a99-0000") && !several.contains("MIG"), "{several}");
        let none = gpu_named("GPU-ff", &ids()).unwrap_err().to_string();
        assert!(none.contains("\"GPU-ff\"") && none.contains("MIG-77aa-0000"), "{none}");
        assert!(gpu_named("", &ids()).is_err() && gpu_named("0", &[]).unwrap_err().to_string().contains("there are none"));
    }
}
