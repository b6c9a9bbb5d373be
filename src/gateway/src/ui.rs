//! The dashboard's files, as browsers are given them. They are in the program, need no build, and load nothing from elsewhere.
//!
//! What a payload, an id or an error says is shown as text and never becomes a part of the page: its code makes text nodes only, and the browser is told to run nothing but
//! these files.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::LazyLock,
};

use axum::{
    body::Bytes,
    extract::{Path, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{Problem, problem::ProblemKind, tasks::not_utf8};

/// The page, with `{{version}}` to be filled in.
const PAGE: &str = include_str!("ui/index.html");
/// What the page is made of beside itself, by name.
const FILES: [(&str, &str); 17] = [
    ("api.js", include_str!("ui/api.js")),
    ("app.js", include_str!("ui/app.js")),
    ("charts.js", include_str!("ui/charts.js")),
    ("dead.js", include_str!("ui/dead.js")),
    ("dom.js", include_str!("ui/dom.js")),
    ("filter.js", include_str!("ui/filter.js")),
    ("format.js", include_str!("ui/format.js")),
    ("gpus.js", include_str!("ui/gpus.js")),
    ("history.js", include_str!("ui/history.js")),
    ("live.js", include_str!("ui/live.js")),
    ("overview.js", include_str!("ui/overview.js")),
    ("parts.js", include_str!("ui/parts.js")),
    ("running.js", include_str!("ui/running.js")),
    ("settings.js", include_str!("ui/settings.js")),
    ("style.css", include_str!("ui/style.css")),
    ("task.js", include_str!("ui/task.js")),
    ("tasks.js", include_str!("ui/tasks.js")),
];

/// Only these files run, only this gateway is asked, and no other page may show this one. A copy is asked about each time, so that page and gateway are of one version.
const HEADERS: [(&str, &str); 4] = [
    ("cache-control", "no-cache"),
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
];

static SERVED_PAGE: LazyLock<Served> =
    LazyLock::new(|| Served::new("text/html; charset=utf-8", PAGE.replace("{{version}}", env!("CARGO_PKG_VERSION"))));
static SERVED_FILES: LazyLock<[(&str, Served); FILES.len()]> =
    LazyLock::new(|| FILES.map(|(name, content)| (name, Served::new(content_type(name), content.to_owned()))));

/// What is ready to be served.
struct Served {
    content_type: &'static str,
    content: Bytes,
    etag: HeaderValue,
}

impl Served {
    fn new(content_type: &'static str, content: String) -> Self {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        let etag = HeaderValue::from_str(&format!("\"{:016x}\"", hasher.finish())).expect("digits and quotation marks");
        Self { content_type, content: content.into(), etag }
    }

    fn answer(&self, asked: &HeaderMap) -> Response {
        let etag = [(header::ETAG, self.etag.clone())];
        if self.is_known(asked) {
            return (StatusCode::NOT_MODIFIED, HEADERS, etag).into_response();
        }
        (HEADERS, etag, [(header::CONTENT_TYPE, self.content_type)], self.content.clone()).into_response()
    }

    /// Whether the client has it already.
    fn is_known(&self, asked: &HeaderMap) -> bool {
        let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        known.flat_map(|list| list.split(',')).any(|tag| tag.trim().trim_start_matches("W/").as_bytes() == self.etag.as_bytes())
    }
}

fn content_type(name: &str) -> &'static str {
    if name.ends_with(".css") { "text/css; charset=utf-8" } else { "text/javascript; charset=utf-8" }
}

/// The page itself.
pub(crate) fn page(asked: &HeaderMap) -> Response {
    SERVED_PAGE.answer(asked)
}

/// `GET /ui/{file}`.
pub(crate) async fn file(asked: HeaderMap, name: Result<Path<String>, PathRejection>) -> Result<Response, Problem> {
    let Path(wanted) = name.map_err(|_| not_utf8("file"))?;
    let found = SERVED_FILES.iter().find(|(name, _)| *name == wanted);
    found.map(|(_, served)| served.answer(&asked)).ok_or_else(|| Problem::new(ProblemKind::NotFound, "the dashboard has no such file"))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    /// What makes markup or code out of text.
    const MAKES_CODE: [&str; 9] =
        ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "DOMParser", "srcdoc", "javascript:"];

    fn served() -> impl Iterator<Item = (&'static str, &'static str)> {
        FILES.into_iter().chain([("index.html", PAGE)])
    }

    #[test]
    fn no_text_can_become_code() {
        for (name, content) in served() {
            for word in MAKES_CODE {
                assert!(!content.contains(word), "{name} has {word}");
            }
        }
    }

    #[test]
    fn the_page_has_no_script_style_or_listener_in_it() {
        for word in ["<style", " style=", "<script>", " onclick=", " onload=", " onerror=", "http:", "https:"] {
            // The namespace of SVG is a name, and is not loaded.
            assert!(!PAGE.replace("xmlns='http://www.w3.org/2000/svg'", "").contains(word), "the page has {word}");
        }
    }

    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ui");
        let files =
            fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
        assert_eq!(files.collect::<BTreeSet<_>>(), served().map(|(name, _)| name.to_owned()).collect());
    }

    #[test]
    fn whatever_a_file_loads_is_served_from_here() {
        let names: BTreeSet<&str> = served().map(|(name, _)| name).collect();
        for (name, content) in served() {
            for loaded in content.split(" from \"").skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(loaded.strip_prefix("./").is_some_and(|file| names.contains(file)), "{name} loads {loaded}");
            }
            for loaded in content.split("\"/ui/").skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(names.contains(loaded), "{name} loads {loaded}");
            }
        }
    }

    #[test]
    fn a_copy_that_is_as_it_should_be_is_not_sent_again() {
        let tag = SERVED_PAGE.etag.to_str().expect("text");
        let asked = |known: &str| HeaderMap::from_iter([(header::IF_NONE_MATCH, known.parse().expect("a value"))]);
        for known in [tag.to_owned(), format!("\"other\", W/{tag}")] {
            assert_eq!(page(&asked(&known)).status(), StatusCode::NOT_MODIFIED, "{known}");
        }
        for unknown in ["\"other\"", "*/*"] {
            assert_eq!(page(&asked(unknown)).status(), StatusCode::OK, "{unknown}");
        }
    }
}
