//! Whether the GPU computes what it should, and says no where it should.

use std::fs;

use devices::{Device, nvidia::cuda::Canary};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    Fault,
    bench::Bench,
    child,
    finding::{Checked, Finding},
    fleet::Fleet,
    numbers::{quantile, random},
};

/// The largest error of a product in single precision, relative to its largest number: 24 bits, over sums of some hundred terms.
const SINGLE: f64 = 1e-5;
const DOUBLE: f64 = 1e-13;

pub const SAXPY: &str = r#"extern "C" __global__ void saxpy(unsigned int n, float a, const float *x, float *y)
{
    unsigned int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
"#;
const SCALE: &str = r#"extern "C" __global__ void scale_f64(double *data, double factor, unsigned long long n)
{
    unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
    if (i < n) data[i] *= factor;
}
"#;

/// The modules of these checks.
pub fn modules() -> Result<TempDir, Fault> {
    let folder = tempfile::tempdir()?;
    let modules = [
        ("saxpy", SAXPY),
        ("scale_f64", SCALE),
        ("fault", child::FAULT),
        ("broken", "extern \"C\" __global__ void broken() { no such thing }\n#error broken"),
    ];
    for (name, text) in modules {
        fs::write(folder.path().join(format!("{name}.cu")), text)?;
    }
    Ok(folder)
}

pub async fn canary(bench: &Bench) -> Finding {
    let gpu = bench.open().await?;
    let cuda = gpu.cuda().ok_or("no CUDA")?;
    let canary = Canary::load(cuda)?;
    let count = bench.scale.of(50_u32, 5);
    let mut took_ms = Vec::new();
    for run in 0..count {
        let started = std::time::Instant::now();
        canary.run(cuda, (bench.seed as u32).wrapping_add(run)).await?;
        took_ms.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Checked::Passed(format!("{count} of {count}, {:.1} ms each (median)", quantile(&took_ms, 0.5))))
}

fn rows(numbers: &[f64], columns: usize) -> Value {
    numbers.chunks(columns).map(|row| Value::from(row.to_vec())).collect()
}

pub async fn products(bench: &Bench) -> Finding {
    let modules = modules()?;
    let fleet = Fleet::start(bench.open().await?, modules.path()).await?;
    let mut seen = Vec::new();
    for (stream, (sizes, dtype, bound)) in
        [([1, 1, 1], "f32", SINGLE), ([257, 129, 311], "f32", SINGLE), ([64, 500, 3], "f64", DOUBLE), ([200, 300, 100], "f64", DOUBLE)]
            .into_iter()
            .enumerate()
    {
        let [height, inner, width] = sizes;
        let (a, b) = (random(bench.seed, stream as u64, height * inner), random(bench.seed, 100 + stream as u64, inner * width));
        let payload = json!({"a": rows(&a, inner), "b": rows(&b, width), "dtype": dtype, "check": true});
        let error = fleet.result("matmul", payload).await?["max_error"].as_f64().ok_or("no max_error")?;
        if error > bound {
            return Err(format!("{height}x{inner}x{width} {dtype}: the error is {error:e}, more than {bound:e}").into());
        }
        seen.push(format!("{height}x{inner}x{width} {dtype}: {error:.1e}"));
    }
    fleet.end().await?;
    Ok(Checked::Passed(format!("largest relative errors: {}", seen.join(", "))))
}

pub async fn kernels(bench: &Bench) -> Finding {
    let modules = modules()?;
    let fleet = Fleet::start(bench.open().await?, modules.path()).await?;
    let count = bench.scale.of(10_000, 1_000);
    let (x, y) = (random(bench.seed, 7, count), random(bench.seed, 8, count));
    let arguments = json!([{"u32": count}, {"f32": 0.5}, {"in": {"f32": x}}, {"inout": {"f32": y}}]);
    let result = fleet.result("kernel", json!({"module": "saxpy", "blocks": 40, "threads": 256, "arguments": arguments})).await?;
    let given = result["outputs"][0].as_array().ok_or("no output")?;
    for (at, given) in given.iter().enumerate() {
        let (x, y) = (x[at] as f32, y[at] as f32);
        let given = given.as_f64().ok_or("an output is no number")? as f32;
        // The compiler may fuse the two steps into one, with one rounding less.
        if given != 0.5 * x + y && given != 0.5_f32.mul_add(x, y) {
            return Err(format!("saxpy: number {at} is {given}, from {x} and {y}").into());
        }
    }
    let arguments = json!([{"inout": {"f64": x}}, {"f64": -4.0}, {"u64": count}]);
    let result =
        fleet.result("kernel", json!({"module": "scale_f64", "blocks": [10, 1], "threads": [1024], "arguments": arguments})).await?;
    let scaled: Vec<f64> = x.iter().map(|x| x * -4.0).collect();
    if result["outputs"][0] != json!(scaled) {
        return Err("scale_f64: the numbers are not those expected, to the last digit".into());
    }
    fleet.end().await?;
    Ok(Checked::Passed(format!("saxpy and scale_f64 over {count} fresh numbers, every one right")))
}

pub async fn refusals(bench: &Bench) -> Finding {
    let modules = modules()?;
    let fleet = Fleet::start(bench.open().await?, modules.path()).await?;
    let mut seen = Vec::new();
    for (payload, part) in [
        (json!({"module": "broken", "blocks": 1, "threads": 1}), "error"),
        (json!({"module": "saxpy", "kernel": "none", "blocks": 1, "threads": 1}), "no kernel"),
        (json!({"module": "saxpy", "blocks": 1, "threads": 1, "arguments": [{"u32": 1}]}), "takes 4 arguments"),
        (
            json!({"module": "saxpy", "blocks": 1, "threads": 1, "arguments": [{"u64": 1}, {"f32": 1}, {"in": {"f32": []}}, {"in": {"f32": []}}]}),
            "argument 0 has 8 bytes",
        ),
        (json!({"module": "../saxpy", "blocks": 1, "threads": 1}), "must be a name"),
    ] {
        let reply = fleet.reply("kernel", payload.clone()).await?;
        let error = reply.error.ok_or_else(|| format!("{payload} was not refused"))?;
        if error.code != "invalid_payload" || !error.message.contains(part) {
            return Err(format!("{payload}: {error:?}, expected {part:?}").into());
        }
        seen.push(error.message.chars().take(60).collect::<String>());
    }
    fleet.end().await?;
    Ok(Checked::Passed(format!("{} refusals; the first: {}", seen.len(), seen[0])))
}
