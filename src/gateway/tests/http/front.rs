//! `GET /`.

use reqwest::StatusCode;

use crate::fleet::{Fleet, json};

#[tokio::test]
async fn somebody_with_a_browser_sees_what_this_is_and_every_link_leads_somewhere() {
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
