//! The processes that checks take down: this program, in a role.

use std::time::Duration;

use devices::{
    Consequence, Device,
    nvidia::{
        cuda::{Grid, Lane, Source},
        leave,
    },
};

use crate::{
    Fault,
    bench::Bench,
    neighbours::{self, EXPORTS, KEEPS},
    report,
};

/// Memory that the holder keeps, in bytes.
pub const HELD: usize = 2 << 30;
/// Longer than between two samples: that the process before gave its memory back must show.
const SEEN: Duration = Duration::from_millis(800);
/// A kernel that writes where it has no memory.
pub const FAULT: &str = "extern \"C\" __global__ void fault() { *(volatile unsigned long long *)64 = 1; }\n";
/// A kernel that never ends. A compiler may drop a loop that does nothing; it cannot know what the clock says.
const SPIN: &str = "extern \"C\" __global__ void spin() { while (clock64() != 0) { } }\n";
/// What a child says first when it noticed that the GPU is lost to it.
pub const NOTICED: &str = "noticed: ";

/// Plays a role on the GPU.
pub async fn play(role: &str, bench: &Bench) -> ! {
    let played = match role {
        "hold" => hold(bench).await,
        "fault" => lose(bench, FAULT, "fault").await,
        "spin" => lose(bench, SPIN, "spin").await,
        EXPORTS => neighbours::export(bench).await,
        KEEPS => neighbours::keep(bench).await,
        other => Err(format!("there is no role {other:?}").into()),
    };
    match played {
        Ok(()) => leave(0),
        Err(fault) => {
            report::line(&format!("{role}: {fault}"));
            leave(1)
        }
    }
}

/// Keeps memory until it is killed, or its supervisor is gone.
async fn hold(bench: &Bench) -> Result<(), Fault> {
    let gpu = bench.open().await?;
    tokio::time::sleep(SEEN).await;
    let (release, released) = std::sync::mpsc::channel::<()>();
    let holding = gpu.cuda().ok_or("no CUDA")?.run(move |lane: &Lane| {
        let _held = lane.zeros::<u8>(HELD)?;
        lane.wait()?;
        report::line("holds");
        let _until = released.recv();
        Ok(())
    });
    tokio::select! {
        held = holding => held.map(|_| ()).map_err(Into::into),
        () = gpu_host::supervisor_gone() => {
            drop(release);
            Ok(())
        }
    }
}

/// Launches a kernel that costs this process its GPU, and waits until the device says so.
async fn lose(bench: &Bench, text: &str, name: &'static str) -> Result<(), Fault> {
    let gpu = bench.open().await?;
    let cuda = gpu.cuda().ok_or("no CUDA")?;
    let module = cuda.compile(&Source { name: format!("{name}.cu"), text: text.to_owned() }, gpu.description().compute_capability)?;
    let launching = cuda.run(move |lane: &Lane| {
        let grid = Grid { blocks: (1, 1, 1), threads: (1, 1, 1), shared_bytes: 0 };
        lane.launch(&module.function(name)?, grid, &[])
    });
    let launched = tokio::time::timeout(Duration::from_secs(2), launching).await;
    if matches!(launched, Ok(Ok(_))) {
        return Err(format!("the kernel {name} came to its end, as if nothing were wrong with it").into());
    }
    let told = tokio::time::timeout(Duration::from_secs(60), gpu.trouble()).await;
    match told {
        Ok(trouble) if matches!(trouble.what, Consequence::Lost { .. }) && gpu.is_lost() => {
            report::line(&format!("{NOTICED}{}", trouble.reason))
        }
        Ok(other) => report::line(&other.reason),
        Err(late) => report::line(&format!("no trouble within a minute: {late}")),
    }
    // With all that the GPU holds: to give it back waits for the kernel.
    leave(0)
}
