//! The programs of `examples/`, each on a real fleet.

use std::path::Path;

use serde_json::json;
use tests::{
    program::{Program, gpufleet},
    until::until,
};

use crate::{
    python_package::{example, package, python, run},
    servers::Servers,
};

const HANDLERS: [(&str, &str); 6] = [
    ("handler.py", "shout"),
    ("handler_class.py", "count_words"),
    ("handler_batch.py", "lengths"),
    ("handler_stream.py", "spell"),
    ("raw_bytes.py", "invert"),
    ("handler_tensor.py", "total"),
];

/// A fleet of one GPU that serves every kind of the examples.
async fn fleet(servers: &Servers) -> Program {
    let mut arguments: Vec<String> = ["up", "--simulated", "1", "--listen", "127.0.0.1:0"].map(str::to_owned).into();
    arguments.extend(["--python".to_owned(), python().display().to_string()]);
    for (file, _kind) in HANDLERS {
        arguments.extend(["--handler".to_owned(), example(file).display().to_string()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let sources = package().display().to_string();
    let fleet = Program::start(servers.command_line(&arguments), &[("PYTHONPATH", sources.as_str())]);
    fleet.url().await;
    servers.eligible(1).await;
    until("every kind of the examples is up", async || {
        let rows = servers.rows().await;
        let serves = |name: &str| rows.iter().any(|view| view.row.kinds.iter().any(|kind| kind.as_str() == name));
        HANDLERS.iter().all(|(_file, kind)| serves(kind))
    })
    .await;
    fleet
}

/// What a client of the examples prints.
async fn printed(name: &str, arguments: &[&str]) -> String {
    let file = example(name).display().to_string();
    run(Path::new("/"), Some(&package()), &[&[file.as_str()][..], arguments].concat()).await.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_runs_on_a_fleet() {
    let servers = Servers::fresh().await;
    let fleet = fleet(&servers).await;
    let (http, amqp, prefix) = (fleet.url().await, servers.amqp().reveal(), servers.prefix());

    let said = printed("client_http.py", &[&http]).await;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines.first(), lines.last()), (Some(&"OVER HTTP!"), Some(&"payload.text")), "{said}");
    for part in ["Part(number=1, value='a')", "Part(number=3, value='c')"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(printed("client_amqp.py", &[amqp, prefix]).await, "OVER! AMQP!\n");
    assert_eq!(printed("client_async.py", &[amqp, prefix]).await, "ALL! AT! ONCE!\n");
    assert_eq!(printed("client_async.py", &[&http]).await, "ALL! AT! ONCE!\n");
    assert_eq!(printed("raw_bytes.py", &[&http]).await, "16384 fffefd\n");
    assert_eq!(printed("handler_tensor.py", &[&http]).await, "6.5\n6.5\n", "its numbers come to the handler from the GPU each time");

    let submit = async |kind: &str, payload: serde_json::Value| {
        let payload = payload.to_string();
        gpufleet(Path::new("/"), ["submit", kind, "--payload", &payload, "--wait", "--max-attempts", "1", "--url", &http], &[]).await
    };
    let counted = submit("count_words", json!({"text": "a-b c", "shortest": 1})).await;
    assert_eq!((counted.code, counted.output.trim()), (Some(0), "3"), "{counted:?}");
    let long = submit("lengths", json!({"text": "four"})).await;
    assert_eq!((long.code, long.output.trim()), (Some(0), "4"), "{long:?}");
    let empty = submit("lengths", json!({"text": ""})).await;
    assert_eq!((empty.code, empty.errors.contains("is empty")), (Some(1), true), "{empty:?}");
}
