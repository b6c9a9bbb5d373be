//! PyTorch and a worker on one GPU, side by side.

use std::{io::ErrorKind, process::Stdio};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
};

use crate::{
    Fault,
    arguments::Scale,
    bench::Bench,
    finding::{Checked, Finding},
    fleet::Fleet,
    processes::is_shared,
    work::modules,
};

/// Multiplies whole numbers until its input ends, and compares. The exit codes say that there is no PyTorch, or that it has no GPU.
const SCRIPT: &str = r#"
import select, sys
try:
    import torch
except Exception:
    sys.exit(3)
if not torch.cuda.is_available():
    sys.exit(4)
a = torch.randint(-3, 4, (2048, 2048), device="cuda").double()
expected = a @ a
torch.cuda.synchronize()
print("PyTorch", torch.__version__, flush=True)
rounds = 0
while rounds < 3 or not select.select([sys.stdin], [], [], 0)[0]:
    assert torch.equal(a @ a, expected)
    rounds += 1
print(rounds, "right")
"#;

const TASKS: i64 = 50;

pub async fn pytorch(bench: &Bench) -> Finding {
    if bench.scale == Scale::Quick {
        return Ok(Checked::Unchecked("a quick run does without: PyTorch knows no fake libraries".to_owned()));
    }
    if !is_shared().await {
        return Ok(Checked::Unchecked("one process at a time may use this GPU".to_owned()));
    }
    let mut python = Command::new("python3");
    python.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut python = match python.spawn() {
        Ok(python) => python,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Checked::Unchecked("there is no `python3` here".to_owned())),
        Err(error) => return Err(error.into()),
    };
    let mut said = BufReader::new(python.stdout.take().ok_or("no standard output")?);
    let Some(version) = line(&mut said).await? else { return without_it(python).await };
    multiply(bench).await?;
    drop(python.stdin.take());
    let rounds = line(&mut said).await?.ok_or("PyTorch computed wrongly, or ended otherwise")?;
    Ok(Checked::Passed(format!("{TASKS} products by the fleet and, at the same time, {rounds} by {version}: all exact")))
}

async fn line(said: &mut BufReader<ChildStdout>) -> Result<Option<String>, Fault> {
    let mut line = String::new();
    let bytes = said.read_line(&mut line).await?;
    Ok((bytes > 0).then(|| line.trim().to_owned()))
}

async fn without_it(mut python: Child) -> Finding {
    match python.wait().await?.code() {
        Some(3) => Ok(Checked::Unchecked("PyTorch cannot be imported here".to_owned())),
        Some(4) => Ok(Checked::Unchecked("PyTorch finds no GPU: it may be built without CUDA".to_owned())),
        code => Err(format!("PyTorch ended with {code:?} before it began").into()),
    }
}

/// Products of whole numbers by the fleet: exact in double precision.
async fn multiply(bench: &Bench) -> Result<(), Fault> {
    let modules = modules()?;
    let fleet = Fleet::start(bench.open().await?, modules.path()).await?;
    for task in 0..TASKS {
        let result = fleet.result("matmul", json!({"a": [[task, 1], [2, 3]], "b": [[1, 0], [4, 5]], "dtype": "f64"})).await?;
        if result["product"] != json!([[task as f64 + 4.0, 5.0], [14.0, 15.0]]) {
            return Err(format!("product {task} is wrong: {result}").into());
        }
    }
    fleet.end().await
}
