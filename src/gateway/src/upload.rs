//! A task as it comes over HTTP: JSON alone, or with segments beside it, in a frame or in a form. The segments stay where they arrived.

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::{HeaderMap, header},
};
use protocol::{
    Segments,
    frame::{self, SEGMENTS_MAX},
};
use task_queue::BodyShare;

use crate::{
    Gateway, Problem,
    intake::{self, Media},
    multipart::{self, Part},
    problem::ProblemKind,
    query,
    tasks::TaskRequest,
};

/// The part of a form that holds the task; those of its segments are named by their numbers, `segment0` or `0`.
const TASK: &str = "task";

/// A task to submit, and the share of its body in the memory for bodies, which is to be kept until the task is published. Refused as [`intake::JsonBody`] is.
#[derive(Debug)]
pub(crate) struct Upload(pub(crate) TaskRequest, pub(crate) BodyShare);

/// How a task's body is written.
enum Form {
    Json,
    Frame,
    Parts(String),
}

impl FromRequest<Gateway> for Upload {
    type Rejection = Problem;

    async fn from_request(request: Request, gateway: &Gateway) -> Result<Self, Problem> {
        intake::check_headers(request.headers(), Media::Task)?;
        let form = Form::of(request.headers())?;
        let (bytes, share) = gateway.take_in(request).await?;
        let read = match form {
            Form::Json => intake::read(&bytes)?,
            Form::Frame => of_frame(&bytes)?,
            Form::Parts(boundary) => of_parts(&bytes, &boundary)?,
        };
        Ok(Self(read, share))
    }
}

impl Form {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if frame::is_named(content_type) {
            return Ok(Self::Frame);
        }
        if !content_type.trim_start().to_ascii_lowercase().starts_with("multipart/") {
            return Ok(Self::Json);
        }
        let named = multipart::boundary(content_type).map(Self::Parts);
        named.ok_or_else(|| {
            let detail = "Content-Type: must name the boundary of the form, as multipart/form-data; boundary=x does";
            Problem::new(ProblemKind::InvalidParameter, detail).field("Content-Type")
        })
    }
}

fn of_frame(bytes: &Bytes) -> Result<TaskRequest, Problem> {
    if !frame::is_frame(bytes) {
        return Err(unreadable(
            "must be a frame, as its Content-Type says: four bytes with the length of its JSON come first (schemas/frame.md)",
        ));
    }
    let (json, segments) = frame::read(bytes).map_err(|refusal| match refusal.field.as_str() {
        "body" => unreadable(&refusal.problem),
        _ => Problem::from(refusal),
    })?;
    Ok(intake::read::<TaskRequest>(&json)?.with(segments))
}

fn of_parts(bytes: &Bytes, boundary: &str) -> Result<TaskRequest, Problem> {
    let parts = multipart::read(bytes, boundary, SEGMENTS_MAX + 1).map_err(|problem| unreadable(&problem))?;
    let mut task = None;
    let mut numbered: Vec<(usize, Bytes)> = Vec::new();
    for Part { name, content } in parts {
        match number_of(&name) {
            Some(number) => numbered.push((number, content)),
            None if name == TASK && task.is_none() => task = Some(content),
            None if name == TASK => return Err(wrong_part(TASK, "is there twice")),
            None => return Err(wrong_part(&name, "is unknown; a form has a part task and parts segment0, segment1, …")),
        }
    }
    let task = task.ok_or_else(|| wrong_part(TASK, "is missing; it has the JSON of the task, as application/json would"))?;
    numbered.sort_by_key(|(number, _)| *number);
    if let Some(at) = numbered.iter().enumerate().position(|(place, (number, _))| place != *number) {
        return Err(wrong_part(
            &format!("segment{at}"),
            "is missing, or another one is there twice; segments are numbered from 0, each once",
        ));
    }
    let request: TaskRequest = intake::read(&task)?;
    if request.lists_segments() {
        return Err(Problem::new(ProblemKind::InvalidField, format!("segments: {}", TaskRequest::NO_LIST)).field("segments"));
    }
    Ok(request.with(Segments::of(numbered.into_iter().map(|(_, content)| content).collect())))
}

/// The number of the segment that a part of this name is.
fn number_of(name: &str) -> Option<usize> {
    let digits = name.strip_prefix("segment").unwrap_or(name);
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

fn unreadable(problem: &str) -> Problem {
    Problem::new(ProblemKind::InvalidJson, format!("body: {problem}")).field("body")
}

fn wrong_part(name: &str, problem: &str) -> Problem {
    let name = query::shortened(name);
    Problem::new(ProblemKind::InvalidField, format!("{name}: the part of this name {problem}")).field(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_a_segment_by_its_number() {
        let numbers = ["segment0", "12", "task", "segment", "", "segment-1", "segment99999999999999999999999"].map(number_of);
        assert_eq!(numbers, [Some(0), Some(12), None, None, None, None, None]);
    }

    #[test]
    fn the_form_of_a_body_is_read_out_of_its_content_type() {
        let of = |content_type: &str| {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, content_type.parse().expect("a value"))]);
            match Form::of(&headers) {
                Ok(Form::Json) => "json".to_owned(),
                Ok(Form::Frame) => "frame".to_owned(),
                Ok(Form::Parts(boundary)) => boundary,
                Err(problem) => problem.document().status.to_string(),
            }
        };
        let given = [
            "application/json",
            "application/x-gpufleet-frame",
            "multipart/form-data; boundary=abc",
            "multipart/form-data",
            "multipart/mixed; boundary=abc",
        ];
        assert_eq!(given.map(of), ["json", "frame", "abc", "400", "400"]);
    }
}
