//! `GET /`: the dashboard for a browser; for whoever else types the address, what this is.

use axum::{
    Json,
    http::{HeaderMap, header},
    response::{Html, IntoResponse, Response},
};
use serde_json::json;

use crate::ui;

/// The page, with `{{version}}` and `{{base}}` (where the gateway is) to be filled in. It loads nothing from elsewhere.
const PAGE: &str = include_str!("front.html");
/// The page may show itself, and nothing else.
const NOTHING_FROM_ELSEWHERE: (&str, &str) = ("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'");
/// Where the gateway is if the request does not say it.
const USUAL_HOST: &str = "localhost:8080";

/// What is served here depends on what is asked for.
const BY_ACCEPT: [(&str, &str); 1] = [("vary", "accept")];

/// `GET /`: for who asks for HTML the dashboard, for who asks for JSON the links, and for others, such as curl, the page that says what this is.
pub(crate) async fn show(headers: HeaderMap) -> Response {
    if accepts(&headers, "text/html") {
        return (BY_ACCEPT, ui::page(&headers)).into_response();
    }
    if accepts(&headers, "application/json") {
        let links = json!({
            "overview": "/api/v1/overview",
            "gpus": "/api/v1/gpus",
            "kinds": "/api/v1/kinds",
            "tensors": "/api/v1/tensors",
            "tasks": "/api/v1/tasks",
            "predict": "/api/v1/predict",
            "openapi": "/openapi.json",
            "healthz": "/healthz",
            "readyz": "/readyz",
            "metrics": "/metrics"
        });
        return (BY_ACCEPT, Json(json!({"name": "gpufleet", "version": env!("CARGO_PKG_VERSION"), "links": links}))).into_response();
    }
    let page = PAGE.replace("{{version}}", env!("CARGO_PKG_VERSION")).replace("{{base}}", &format!("http://{}", host(&headers)));
    (BY_ACCEPT, [NOTHING_FROM_ELSEWHERE], Html(page)).into_response()
}

/// Whether a client names this type among those that it accepts; `*/*` names none.
fn accepts(headers: &HeaderMap, content_type: &str) -> bool {
    headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|accepted| accepted.contains(content_type))
}

/// Where the client found this gateway. It goes into the page, so it is nothing but a host and a port.
fn host(headers: &HeaderMap) -> &str {
    let named = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let plain = |host: &&str| !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
    named.filter(plain).unwrap_or(USUAL_HOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_strange_host_goes_into_the_page() {
        let of = |name: &'static str| host(&HeaderMap::from_iter([(header::HOST, name.parse().expect("a value"))])).to_owned();
        assert_eq!((of("gpu.example:8080"), of("[::1]:80")), ("gpu.example:8080".to_owned(), "[::1]:80".to_owned()));
        assert_eq!((of("x<script>"), host(&HeaderMap::new())), (USUAL_HOST.to_owned(), USUAL_HOST));
    }
}
