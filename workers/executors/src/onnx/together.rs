//! Payloads of the kind `onnx` that run together: those of one model whose sizes differ along its axis alone. The others run one after the other.

use std::sync::Arc;

use protocol::{DType, ErrorCode, Framed};
use tokio::time::Instant;

use super::{
    executor::Onnx,
    model::OnnxModel,
    request::{Request, WrittenAs},
    session::Tensors,
    written::written,
};
use crate::{BatchMember, Failure, RunBatch, Usage, models::InUse};

/// A payload that is ready to run.
struct Ready {
    /// Its place among the answers.
    at: usize,
    model: Arc<InUse<OnnxModel>>,
    form: Option<Vec<(DType, Vec<usize>)>>,
    inputs: Tensors,
    wanted: Vec<String>,
    written_as: WrittenAs,
}

/// An answer for each payload, in their order.
pub(super) async fn run(onnx: &Onnx, batch: RunBatch<'_>) -> Vec<Result<Framed, Failure>> {
    let mut answers: Vec<Option<Result<Framed, Failure>>> = Vec::with_capacity(batch.members.len());
    let mut ready = Vec::new();
    for (at, member) in batch.members.iter().enumerate() {
        match prepared(onnx, &batch, at, member).await {
            Ok(prepared) => {
                answers.push(None);
                ready.push(prepared);
            }
            Err(failure) => answers.push(Some(Err(failure))),
        }
    }
    while !ready.is_empty() {
        let group = first_group(&mut ready);
        for (at, answer) in run_group(&batch, group).await {
            answers[at] = Some(answer);
        }
    }
    answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(Failure::transient("the run gave no answer for it")))).collect()
}

async fn prepared(onnx: &Onnx, batch: &RunBatch<'_>, at: usize, member: &BatchMember<'_>) -> Result<Ready, Failure> {
    if member.cancel.is_cancelled() {
        return Err(Failure::cancelled());
    }
    let request = Request::read(member.payload)?;
    let asked = Instant::now();
    let model = Arc::new(onnx.models.get(&onnx.cache, &request.model, batch.device).await?);
    member.usage.loaded_for(asked.elapsed());
    let inputs = request.tensors(&model.inputs, member.segments())?;
    let wanted = request.wanted(&model.outputs)?.into_iter().map(str::to_owned).collect();
    let form = model.axis.as_ref().and_then(|axis| axis.form(&inputs));
    Ok(Ready { at, form, inputs, wanted, written_as: request.written_as(), model })
}

/// The first payload, and all that can run with it.
fn first_group(ready: &mut Vec<Ready>) -> Vec<Ready> {
    let first = ready.remove(0);
    let (file, form) = (first.model.file.clone(), first.form.clone());
    let mut group = vec![first];
    if form.is_some() {
        let (with_it, others) = std::mem::take(ready).into_iter().partition(|other| other.form == form && other.model.file == file);
        *ready = others;
        let with_it: Vec<Ready> = with_it;
        group.extend(with_it);
    }
    group
}

/// Whether what failed payloads together is no single one's fault. Fewer at a time may have room: whoever gathered them halves them. Nobody waits after a cancel.
pub(super) fn is_everybodys(failure: &Failure) -> bool {
    failure.code != ErrorCode::ExecutorFailed.name() && failure.field.is_none()
}

/// Where they fail together, each is tried alone, so that only the one that did it fails.
async fn run_group(batch: &RunBatch<'_>, group: Vec<Ready>) -> Vec<(usize, Result<Framed, Failure>)> {
    if group.len() > 1 {
        match run_together(batch, &group).await {
            Ok(answers) => return group.into_iter().zip(answers).map(|(member, tensors)| (member.at, member.written(tensors))).collect(),
            Err(failure) if is_everybodys(&failure) => return group.iter().map(|member| (member.at, Err(failure.clone()))).collect(),
            Err(_) => {}
        }
    }
    let mut answers = Vec::with_capacity(group.len());
    for member in group {
        let cancel = &batch.members[member.at].cancel;
        let came_out = member.model.run(member.inputs.clone(), batch.device.as_ref(), cancel, Arc::clone(&member.model)).await;
        answers.push((member.at, came_out.and_then(|tensors| member.written(tensors))));
    }
    answers
}

async fn run_together(batch: &RunBatch<'_>, group: &[Ready]) -> Result<Vec<Tensors>, Failure> {
    let model = &group[0].model;
    let broken = || Failure::transient(format!("model {}: payloads could not be put together", model.file.name));
    let axis = model.axis.as_ref().ok_or_else(broken)?;
    let (together, rows) = axis.together(&group.iter().map(|member| &member.inputs).collect::<Vec<_>>()).ok_or_else(broken)?;
    let answer = model.run(together, batch.device.as_ref(), &batch.cancel, Arc::clone(model)).await?;
    let apart = axis.apart(&answer, &rows).ok_or_else(broken)?;
    let usages: Vec<&Usage> = group.iter().map(|member| &batch.members[member.at].usage).collect();
    usages.iter().for_each(|usage| usage.ran_together(group.len()));
    Ok(apart)
}

impl Ready {
    fn written(&self, tensors: Tensors) -> Result<Framed, Failure> {
        let wanted: Vec<&str> = self.wanted.iter().map(String::as_str).collect();
        written(&self.model, tensors, &wanted, self.written_as)
    }
}
