//! `GET /`.

use reqwest::StatusCode;

use crate::fleet::{Fleet, json, problem};

#[tokio::test]
async fn somebody_with_curl_sees_what_this_is_and_every_link_leads_somewhere() {
    let fleet = Fleet::start().await;
    let response = fleet.get("/").await;
    assert_eq!(
        (response.status(), &response.headers()["content-type"]),
        (StatusCode::OK, &"text/html; charset=utf-8".parse().expect("a value"))
    );
    let page = response.text().await.expect("text");
    let here = format!("curl -s {}/api/v1/tasks", fleet.url);
    assert!(page.contains(&here) && page.contains(env!("CARGO_PKG_VERSION")) && !page.contains("{{"), "{page}");

    let links: Vec<&str> = page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(links.len(), 7, "{links:?}");
    for link in links {
        assert!(link.starts_with('/'), "{link} leads elsewhere");
        assert_eq!(fleet.get(link).await.status(), StatusCode::OK, "{link}");
    }
}

#[tokio::test]
async fn a_program_that_asks_for_json_gets_the_links() {
    let fleet = Fleet::start().await;
    let response = fleet.http.get(format!("{}/", fleet.url)).header("accept", "application/json").send().await.expect("an answer");
    let answer = json(response).await;
    assert_eq!((&answer["name"], &answer["links"]["openapi"]), (&"gpufleet".into(), &"/openapi.json".into()));
}

/// What browsers send.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8";

#[tokio::test]
async fn a_browser_gets_the_dashboard_and_everything_that_it_loads() {
    let fleet = Fleet::start().await;
    let get = async |path: &str, known: Option<&str>| {
        let asked = fleet.http.get(format!("{}{path}", fleet.url)).header("accept", BROWSER);
        known.map_or(asked.try_clone().expect("no body"), |tag| asked.header("if-none-match", tag)).send().await.expect("an answer")
    };
    let response = get("/", None).await;
    let header = |name: &str| response.headers()[name].to_str().expect("text").to_owned();
    assert_eq!((header("content-type").as_str(), header("vary").as_str()), ("text/html; charset=utf-8", "accept"));
    let page = response.text().await.expect("text");
    assert!(page.contains("/ui/app.js") && page.contains(env!("CARGO_PKG_VERSION")) && !page.contains("{{"), "{page}");

    let mut left: Vec<String> = page.split("\"/ui/").skip(1).filter_map(|rest| Some(rest.split('"').next()?.to_owned())).collect();
    let mut seen = Vec::new();
    while let Some(file) = left.pop() {
        if seen.contains(&file) {
            continue;
        }
        let response = get(&format!("/ui/{file}"), None).await;
        assert_eq!(response.status(), StatusCode::OK, "{file}");
        let header = |name: &str| response.headers()[name].to_str().expect("text").to_owned();
        let kind = if file.ends_with(".css") { "text/css; charset=utf-8" } else { "text/javascript; charset=utf-8" };
        assert_eq!((header("content-type").as_str(), header("x-content-type-options").as_str()), (kind, "nosniff"), "{file}");
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';") && !policy.contains("unsafe"), "{policy}");
        assert_eq!((header("cache-control").as_str(), header("referrer-policy").as_str()), ("no-cache", "no-referrer"));
        let again = get(&format!("/ui/{file}"), Some(header("etag").as_str())).await;
        assert_eq!((again.status(), again.bytes().await.expect("a body").len()), (StatusCode::NOT_MODIFIED, 0), "{file}");
        let content = response.text().await.expect("text");
        left.extend(content.split(" from \"./").skip(1).filter_map(|rest| Some(rest.split('"').next()?.to_owned())));
        seen.push(file);
    }
    assert!(seen.len() > 10, "{seen:?}");
    problem(get("/ui/other.js", None).await, StatusCode::NOT_FOUND).await;
}
