//! Small products that run together: those of equal sizes in one call of cuBLAS, and all of them on one lane, one call after the other.

use std::{collections::BTreeMap, sync::Arc};

use devices::{CudaError, Use, nvidia::cuda::Lane};
use protocol::Framed;

use super::{Asked, Convert, Numbers, Precision};
use crate::{
    BatchMember, Failure, RunBatch, Usage,
    cuda::{cuda_of, failure},
    occupy::occupy,
    tensor_inputs::Inputs,
};

/// Products of the same sizes and precision, their factors one behind the other.
struct Group {
    sizes: [usize; 3],
    precision: Precision,
    /// Their places among the members of the run.
    places: Vec<usize>,
    a: Vec<f64>,
    b: Vec<f64>,
}

/// Runs products together.
pub(super) async fn run(batch: RunBatch<'_>) -> Vec<Result<Framed, Failure>> {
    let read = |member: &BatchMember<'_>| Asked::read(member.payload, &Inputs::of_segments(member.segments()));
    let asked: Vec<Result<Asked, Failure>> = batch.members.iter().map(read).collect();
    let mut products = match products(&batch, groups(&asked)).await {
        Ok(products) => products,
        Err(failure) => return asked.into_iter().map(|asked| asked.and_then(|_| Err(failure.clone()))).collect(),
    };
    let mut answers = Vec::with_capacity(asked.len());
    for (place, asked) in asked.into_iter().enumerate() {
        answers.push(match (asked, products.remove(&place)) {
            (Ok(asked), Some(product)) => asked.written(batch.device.as_ref(), Numbers::List(product)).await,
            (Ok(_), None) => Err(Failure::transient("its product is missing")),
            (Err(failure), _) => Err(failure),
        });
    }
    answers
}

fn groups(asked: &[Result<Asked, Failure>]) -> Vec<Group> {
    let mut groups: BTreeMap<([usize; 3], Precision), Group> = BTreeMap::new();
    for (place, asked) in asked.iter().enumerate() {
        let Ok(Asked { a, b, sizes, precision, .. }) = asked else { continue };
        let (sizes, precision) = (*sizes, *precision);
        let new = || Group { sizes, precision, places: Vec::new(), a: Vec::new(), b: Vec::new() };
        let group = groups.entry((sizes, precision)).or_insert_with(new);
        group.places.push(place);
        group.a.extend_from_slice(&a.doubles(precision));
        group.b.extend_from_slice(&b.doubles(precision));
    }
    groups.into_values().collect()
}

/// The products by the places of their members.
async fn products(batch: &RunBatch<'_>, groups: Vec<Group>) -> Result<BTreeMap<usize, Arc<[f64]>>, Failure> {
    if groups.is_empty() {
        return Ok(BTreeMap::new());
    }
    if batch.cancel.is_cancelled() {
        return Err(Failure::cancelled());
    }
    let cuda = cuda_of(batch.device.as_ref())?;
    let places = groups.iter().flat_map(|group| &group.places);
    let usages: Vec<&Usage> = places.filter_map(|place| batch.members.get(*place)).map(|member| &member.usage).collect();
    // A group's buffers are given back before the next one's are made.
    let memory_mb = groups.iter().map(Group::bytes).max().unwrap_or(0).div_ceil(1_000_000);
    let _memory = occupy(batch.device.as_ref(), Use { memory_mb, compute_share: 1.0 })?;
    let work = move |lane: &Lane| {
        let mut products: BTreeMap<usize, Arc<[f64]>> = BTreeMap::new();
        for group in &groups {
            let numbers = group.multiply(lane)?;
            let [rows, _, columns] = group.sizes;
            products.extend(group.places.iter().copied().zip(numbers.chunks_exact(rows * columns).map(Arc::from)));
        }
        Ok(products)
    };
    let ran = cuda.run(work).await.map_err(|error| failure(&error, Some(memory_mb)))?;
    Ok(Usage::share(usages.into_iter(), ran))
}

impl Group {
    fn bytes(&self) -> u64 {
        let [rows, _, columns] = self.sizes;
        let numbers = self.a.len() + self.b.len() + rows * columns * self.places.len();
        let size = match self.precision {
            Precision::Single => size_of::<f32>(),
            Precision::Double => size_of::<f64>(),
        };
        (numbers * size) as u64
    }

    fn multiply(&self, lane: &Lane) -> Result<Vec<f64>, CudaError> {
        match self.precision {
            Precision::Single => self.multiply_as::<f32>(lane),
            Precision::Double => self.multiply_as::<f64>(lane),
        }
    }

    fn multiply_as<T: Convert>(&self, lane: &Lane) -> Result<Vec<f64>, CudaError> {
        let converted = |numbers: &[f64]| numbers.iter().map(|value| T::from_double(*value)).collect::<Vec<T>>();
        let (a, b) = (lane.upload(&converted(&self.a))?, lane.upload(&converted(&self.b))?);
        let products = lane.timed(|| lane.multiply_each(&a, &b, self.sizes, self.places.len()))?;
        Ok(lane.download(&products)?.into_iter().map(T::to_double).collect())
    }
}

#[cfg(test)]
mod tests {
    use protocol::Segments;
    use serde_json::json;

    use super::*;

    #[test]
    fn products_of_equal_sizes_and_precision_are_one_group() {
        let segments = Segments::none();
        let read = |payload: serde_json::Value| Asked::read(&payload.into(), &Inputs::of_segments(&segments));
        let asked = [
            read(json!({"a": [[1, 2]], "b": [[3], [4]]})),
            read(json!({"a": [[1], [2]], "b": [[3, 4]]})),
            read(json!({"a": [[1, 2]]})),
            read(json!({"a": [[5, 6]], "b": [[7], [8]]})),
            read(json!({"a": [[5, 6]], "b": [[7], [8]], "dtype": "f64"})),
        ];
        let mut groups = groups(&asked);
        groups.sort_by_key(|group| group.places.clone());
        let places: Vec<&[usize]> = groups.iter().map(|group| group.places.as_slice()).collect();
        assert_eq!(places, [&[0, 3][..], &[1], &[4]], "what is no product is in none");
        assert_eq!((groups[0].a.as_slice(), groups[0].b.as_slice()), (&[1.0, 2.0, 5.0, 6.0][..], &[3.0, 4.0, 7.0, 8.0][..]));
        assert_eq!((groups[0].bytes(), groups[2].bytes()), (40, 40));
    }
}
