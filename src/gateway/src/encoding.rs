//! Ids in URLs, and trace context out of headers.

use std::fmt::Write;

use axum::http::HeaderMap;
use protocol::{
    GpuId, GroupName, ModelAction, TaskId, TensorName,
    envelope::{TRACEPARENT, TRACESTATE},
    is_traceparent, is_tracestate,
};

/// The path at which a gateway serves a task: `GET` for its status, `DELETE` to end it. An id may hold what a path may not.
#[must_use]
pub fn status_url(task_id: &TaskId) -> String {
    with_id("/api/v1/tasks/", task_id.as_str())
}

/// The path at which a gateway serves the dead letters of a task: `GET` for them, `DELETE` to purge them, with `/requeue` behind it `POST` for a second life.
#[must_use]
pub fn dead_url(task_id: &TaskId) -> String {
    with_id("/api/v1/dead/", task_id.as_str())
}

/// The path at which a gateway serves a group: `GET` for its counts, `DELETE` to cancel it, with `/tasks` or `/events` behind it `GET` for its members or what happens.
#[must_use]
pub fn group_url(group: &GroupName) -> String {
    with_id("/api/v1/groups/", group.as_str())
}

/// The path at which a gateway lets a GPU drain (`PUT`) and take tasks again (`DELETE`).
#[must_use]
pub fn drain_url(gpu_id: &GpuId) -> String {
    with_id("/api/v1/gpus/", gpu_id.as_str()) + "/drain"
}

/// The path at which a gateway takes a wish for a model (`POST`).
#[must_use]
pub fn model_url(model: &str, action: ModelAction) -> String {
    format!("{}/{}", with_id("/api/v1/models/", model), action.name())
}

/// The path at which a gateway serves a tensor: `GET` for its bytes, `PUT` to write it, `DELETE` to free it.
#[must_use]
pub fn tensor_url(name: &TensorName) -> String {
    with_id("/api/v1/tensors/", name.as_str())
}

/// An id as a part of a URL.
#[must_use]
pub fn url_encoded(id: &str) -> String {
    with_id("", id)
}

fn with_id(before: &str, id: &str) -> String {
    let mut url = before.to_owned();
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            url.push(char::from(byte));
        } else {
            write!(url, "%{byte:02X}").expect("a string takes everything");
        }
    }
    url
}

/// The request's W3C trace context, if it is one. What is none is left behind, as everywhere.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(TRACEPARENT)?.to_str().ok()?;
    is_traceparent(text).then(|| text.to_owned())
}

/// The request's W3C trace context with what vendors say of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RequestTrace {
    pub(crate) traceparent: Option<String>,
    pub(crate) tracestate: Option<String>,
}

/// Both headers of a trace; the second travels with the first alone. Lines of several are one list.
pub(crate) fn request_trace(headers: &HeaderMap) -> RequestTrace {
    let Some(traceparent) = traceparent(headers) else { return RequestTrace::default() };
    let lines: Vec<&str> = headers.get_all(TRACESTATE).iter().filter_map(|line| line.to_str().ok()).collect();
    RequestTrace { traceparent: Some(traceparent), tracestate: Some(lines.join(",")).filter(|text| is_tracestate(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_encoded_for_a_path() {
        let id = TaskId::new("order-17/part:3?#%").expect("valid");
        assert_eq!(status_url(&id), "/api/v1/tasks/order-17%2Fpart%3A3%3F%23%25");
        assert_eq!(dead_url(&id), "/api/v1/dead/order-17%2Fpart%3A3%3F%23%25");
        assert_eq!(group_url(&GroupName::new("a:b_c.d-e").expect("valid")), "/api/v1/groups/a%3Ab_c.d-e");
        assert_eq!(model_url("a/b: c", ModelAction::Pin), "/api/v1/models/a%2Fb%3A%20c/pin");
        assert_eq!(tensor_url(&TensorName::new("step-1:y.17").expect("valid")), "/api/v1/tensors/step-1%3Ay.17");
        assert_eq!(drain_url(&GpuId::new("GPU-1.a").expect("valid")), "/api/v1/gpus/GPU-1.a/drain");
    }

    #[test]
    fn a_tracestate_travels_with_its_trace_context_alone() {
        let parent = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let of = |pairs: &[(&str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                let name: axum::http::HeaderName = name.parse().expect("a name");
                headers.append(name, value.parse().expect("a value"));
            }
            request_trace(&headers).tracestate
        };
        assert_eq!(of(&[parent, ("tracestate", "a=1"), ("tracestate", "b=2")]).as_deref(), Some("a=1,b=2"));
        assert_eq!(of(&[("tracestate", "a=1")]), None);
        assert_eq!(of(&[parent, ("tracestate", "none")]), None);
        assert_eq!(of(&[parent]), None);
    }

    #[test]
    fn only_a_trace_context_travels_on() {
        let of =
            |text: &str| traceparent(&HeaderMap::from_iter([("traceparent".parse().expect("a name"), text.parse().expect("a value"))]));
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let of_a_later_version = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
        assert_eq!([good, of_a_later_version].map(of), [Some(good.to_owned()), Some(of_a_later_version.to_owned())]);
        let zeros = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        for bad in ["", "00-xyz", &"0".repeat(55), "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", zeros] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
