//! The model's labels: which score means which, and what is known of it.

use std::{collections::BTreeMap, fs, path::Path};

use protocol::{Framed, Json};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    OUTPUT,
    features::{BLOCK_MAX, Features, Window},
};
use crate::{
    cuda::Finite,
    onnx::{OnnxError, directory::ModelFile, model::OnnxModel, session::Tensors},
};

/// Largest file of labels, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The model's own description, as its makers ship it.
#[derive(Debug, Deserialize)]
struct Described {
    beg_size: usize,
    mid_size: usize,
    end_size: usize,
    block_size: usize,
    padding_token: i32,
    min_file_size_for_dl: usize,
    medium_confidence_threshold: f32,
    target_labels_space: Vec<String>,
    #[serde(default)]
    thresholds: BTreeMap<String, f32>,
    #[serde(default)]
    overwrite_map: BTreeMap<String, String>,
}

/// What is known of a label.
#[derive(Debug, Clone, Default, Deserialize)]
struct About {
    #[serde(default)]
    mime_type: Option<String>,
    #[serde(default)]
    group: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    is_text: bool,
}

#[derive(Debug)]
pub(super) struct Labels {
    described: Described,
    window: Window,
    about: BTreeMap<String, About>,
}

/// What a content is.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    label: String,
    score: f32,
    /// What the model itself says, where it was not believed.
    model_says: Option<String>,
}

#[derive(Serialize)]
struct ClassifyResult<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    is_text: bool,
    label: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mime_type: Option<&'a str>,
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_says: Option<&'a str>,
    provider: &'static str,
    score: Finite<f32>,
    version: &'a str,
}

impl Verdict {
    /// Known without the model.
    pub(super) fn certain(label: &str) -> Self {
        Self { label: label.to_owned(), score: 1.0, model_says: None }
    }
}

impl Labels {
    /// Reads them from beside the model. Blocks.
    pub(super) fn load(file: &ModelFile) -> Result<Self, OnnxError> {
        let described: Described = read(&file.beside("config.json"))?;
        let about = read(&file.beside("content_types.json"))?;
        let Described { beg_size, mid_size, end_size, block_size, .. } = described;
        let is_usable = mid_size == 0 && beg_size <= block_size && end_size <= block_size && (1..=BLOCK_MAX).contains(&block_size);
        if !is_usable || described.target_labels_space.is_empty() {
            let why = "it asks for features of another kind than the first and last bytes, or has no labels";
            return Err(OnnxError::unreadable(&file.beside("config.json"), &why));
        }
        let (padding, least) = (described.padding_token, described.min_file_size_for_dl.max(1));
        let window = Window { first: beg_size, last: end_size, block: block_size, padding, least };
        Ok(Self { described, window, about })
    }

    pub(super) fn features(&self, content: &[u8]) -> Features {
        self.window.features(content)
    }

    /// The scores of each label, by content.
    ///
    /// # Errors
    /// What the model gives instead, as the rest of a sentence.
    pub(super) fn scores(&self, answer: &Tensors, contents: usize) -> Result<Vec<Vec<f32>>, String> {
        let labels = self.described.target_labels_space.len();
        let tensor = answer.get(OUTPUT).ok_or_else(|| format!("gives no {OUTPUT:?}"))?;
        let numbers = tensor.singles().filter(|_| tensor.shape == [contents, labels]);
        let numbers = numbers
            .ok_or_else(|| format!("gives the shape {:?} of {}, not {contents} x {labels} of f32", tensor.shape, tensor.element()))?;
        Ok(numbers.chunks_exact(labels).map(<[f32]>::to_vec).collect())
    }

    /// The label with the highest score; where that is too low to be believed, a plain text or unknown.
    pub(super) fn verdict(&self, scores: &[f32]) -> Verdict {
        let best = scores.iter().copied().enumerate().max_by(|(_, one), (_, other)| one.total_cmp(other));
        let (at, score) = best.unwrap_or_default();
        let said = self.described.target_labels_space.get(at).map_or("unknown", String::as_str);
        let meant = self.described.overwrite_map.get(said).map_or(said, String::as_str);
        let threshold = self.described.thresholds.get(said).copied().unwrap_or(self.described.medium_confidence_threshold);
        let label = match () {
            () if score >= threshold => meant,
            () if self.about.get(meant).is_some_and(|about| about.is_text) => "txt",
            () => "unknown",
        };
        Verdict { label: label.to_owned(), score, model_says: (label != said).then(|| said.to_owned()) }
    }

    pub(super) fn written(&self, verdict: &Verdict, model: &OnnxModel) -> Framed {
        let about = self.about.get(&verdict.label).cloned().unwrap_or_default();
        let result = ClassifyResult {
            description: about.description.as_deref(),
            group: about.group.as_deref(),
            is_text: about.is_text,
            label: &verdict.label,
            mime_type: about.mime_type.as_deref(),
            model: &model.file.name,
            model_says: verdict.model_says.as_deref(),
            provider: model.place.name(),
            score: Finite(verdict.score),
            version: &model.file.version,
        };
        Json::of(&result).into()
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, OnnxError> {
    let unreadable = |why: &dyn ToString| OnnxError::Unreadable { path: path.to_owned(), why: why.to_string() };
    let metadata = fs::metadata(path).map_err(|error| unreadable(&error))?;
    if metadata.len() > FILE_BYTES_MAX {
        return Err(unreadable(&format!("it has {} bytes, at most {FILE_BYTES_MAX} are read", metadata.len())));
    }
    let text = fs::read(path).map_err(|error| unreadable(&error))?;
    serde_json::from_slice(&text).map_err(|error| unreadable(&error))
}
