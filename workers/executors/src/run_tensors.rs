//! The tensors of an attempt: those that its payload names, and those that it leaves on the GPU.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use protocol::{Json, KeepAs, KeptTensor, TensorName, TensorRef, TensorShape};
use tensors::{Content, DataError, DataPlane, Keep, Tensor};

use crate::Failure;

/// How an executor takes tensors that a payload names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakesTensors {
    /// Not at all.
    No,
    /// Not as content: the kind does something with them wherever they are. The worker sees to it that they are somewhere before the task takes a slot.
    ByName,
    /// As raw bytes: the worker reads them from the GPU and gives them as segments, with `{"$segment": n, "dtype", "shape"}` in the place of each `{"tensor": ...}`.
    AsSegments,
    /// On the GPU, as [`RunTensors::input`]; outputs that are to stay it hands to [`RunTensors::keep`].
    OnGpu,
}

/// What is known of the tensors of one attempt. Clones share it.
#[derive(Clone, Default)]
pub struct RunTensors(Option<Arc<Data>>);

struct Data {
    plane: Arc<DataPlane>,
    inputs: BTreeMap<TensorRef, Arc<Tensor>>,
    keeping: Option<Keeping>,
}

/// How the outputs of an attempt are kept.
#[derive(Debug, Clone)]
pub struct Keeping {
    /// The names, and for how long.
    pub keep_as: KeepAs,
    /// Who makes them: the id of the task.
    pub owner: String,
    /// The token of the attempt: their version, unless the name has a newer one.
    pub version: u64,
    /// The number of the item, of a batch's.
    pub item: Option<usize>,
    /// What was kept so far.
    pub kept: KeptSoFar,
}

/// What an attempt has kept, each name with its version. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct KeptSoFar(Arc<Mutex<BTreeMap<TensorName, u64>>>);

impl KeptSoFar {
    /// Each name with its version.
    #[must_use]
    pub fn versions(&self) -> BTreeMap<TensorName, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, kept: &KeptTensor) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(kept.tensor.clone(), kept.version);
    }
}

impl RunTensors {
    /// Of an attempt that has none and can have none.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Of an attempt on the GPU of `plane`: the inputs that its payload names, which are on the GPU, and how its outputs are kept.
    #[must_use]
    pub fn new(plane: Arc<DataPlane>, inputs: BTreeMap<TensorRef, Arc<Tensor>>, keeping: Option<Keeping>) -> Self {
        Self(Some(Arc::new(Data { plane, inputs, keeping })))
    }

    /// The GPU's part of the fleet's data.
    ///
    /// # Errors
    /// A [`Failure`]: the GPU keeps no tensors.
    pub fn plane(&self) -> Result<&Arc<DataPlane>, Failure> {
        self.0.as_ref().map(|data| &data.plane).ok_or_else(|| Failure::transient("this GPU keeps no tensors"))
    }

    /// A tensor that the payload names.
    ///
    /// # Errors
    /// A [`Failure`] of the field `field`, where it is not among those that were brought here.
    pub fn input(&self, reference: &TensorRef, field: &str) -> Result<&Arc<Tensor>, Failure> {
        let found = self.0.as_ref().and_then(|data| data.inputs.get(reference));
        found.ok_or_else(|| Failure::invalid(field, format!("the tensor {} cannot be used here", reference.tensor)))
    }

    /// The tensors that the payload names, each reference once. None where it names none.
    pub fn inputs(&self) -> impl Iterator<Item = (&TensorRef, &Arc<Tensor>)> {
        self.0.iter().flat_map(|data| &data.inputs)
    }

    /// How many of the outputs are to stay on the GPU. 0: none.
    #[must_use]
    pub fn kept_outputs(&self) -> usize {
        self.keeping().map_or(0, |keeping| keeping.keep_as.names.len())
    }

    fn keeping(&self) -> Option<&Keeping> {
        self.0.as_ref()?.keeping.as_ref()
    }

    /// Leaves an output on the GPU, and gives what stands in its place in the result. `output` counts from 0, in the order in which the kind gives them.
    ///
    /// # Errors
    /// A [`Failure`]: there is no name for it, or it could not be kept.
    pub async fn keep(&self, output: usize, shape: TensorShape, content: Content) -> Result<Json, Failure> {
        let plane = self.plane()?;
        let Some(keeping) = self.keeping() else { return Err(Failure::transient("nothing is to be kept")) };
        let Some(name) = keeping.keep_as.names.get(output) else {
            let names = keeping.keep_as.names.len();
            return Err(Failure::invalid(
                "keep_as",
                format!("has {names} names, and there is an output {}; give one for each", output + 1),
            ));
        };
        let name = keeping.name_of(name)?;
        let keep = Keep {
            name,
            shape,
            owner: keeping.owner.clone(),
            version: Some(keeping.version),
            ttl: keeping.keep_as.ttl_ms.map(Duration::from_millis),
            if_exists: keeping.keep_as.if_exists,
        };
        let kept = plane.keep(keep, content).await.map_err(|error| failure_of(&error))?;
        keeping.kept.add(&kept);
        Ok(Json::of(&kept))
    }
}

impl Keeping {
    fn name_of(&self, name: &TensorName) -> Result<TensorName, Failure> {
        match self.item {
            None => Ok(name.clone()),
            Some(item) => name.of_item(item).ok_or_else(|| Failure::invalid("keep_as", format!("the name {name} is too long for items"))),
        }
    }
}

/// How an error of tensors fails an attempt.
#[must_use]
pub fn failure_of(error: &DataError) -> Failure {
    let field = matches!(error, DataError::Invalid { .. }).then(|| "payload".to_owned());
    Failure { code: error.code().into(), message: error.to_string(), retry: error.is_transient(), field, ..Failure::default() }
}
