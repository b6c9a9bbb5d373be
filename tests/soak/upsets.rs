//! Does to the fleet what was planned.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use reqwest::Method;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    Fault,
    faults::Upset,
    programs::{End, GATEWAY, GPUS_OF_EACH, Programs, WORKERS, gpus_of, worker},
    servers::Servers,
};

/// Slots of a GPU, as [`Servers`] configures them.
const SLOTS: u64 = 4;
/// Replies that may be in hand of the broker's clients when it ends, beside those of tasks in slots: confirmed and not yet heard of.
const ON_THE_WAY: u64 = 64;
/// How often an operator's request is repeated: the gateway may be away.
const TRIES: u32 = 30;

/// Who does it, and what was done.
pub(crate) struct Upsets {
    servers: Arc<Servers>,
    programs: Arc<Programs>,
    http: reqwest::Client,
    /// GPUs that are drained now, and until when.
    drained: Vec<(Instant, String)>,
    done: BTreeMap<&'static str, u64>,
    /// What could not be done, in sentences.
    failed: Vec<String>,
}

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// Copies of replies that these faults explain at most.
    pub(crate) copies_max: u64,
    pub(crate) failed: Vec<String>,
}

impl Upsets {
    pub(crate) fn new(servers: Arc<Servers>, programs: Arc<Programs>) -> Result<Self, Fault> {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
        Ok(Self { servers, programs, http, drained: Vec::new(), done: BTreeMap::new(), failed: Vec::new() })
    }

    /// Does everything at its moment, one after the other, until it is stopped; in the end no GPU is drained.
    pub(crate) async fn run(mut self, plan: Vec<(Duration, Upset)>, stop: CancellationToken) -> Done {
        let started = Instant::now();
        for (at, fault) in plan {
            if !self.wait_until(started + at, &stop).await {
                break;
            }
            *self.done.entry(fault.name()).or_default() += 1;
            if let Err(error) = self.upset(&fault).await {
                self.failed.push(format!("{}: {error}", fault.name()));
            }
        }
        stop.cancelled().await;
        self.undrain_all().await;
        let counts = self.done;
        Done { copies_max: copies_max(&counts), counts, failed: self.failed }
    }

    /// Undrains what is due on the way. False: it was stopped.
    async fn wait_until(&mut self, at: Instant, stop: &CancellationToken) -> bool {
        loop {
            self.drained.sort();
            let next = self.drained.first().map_or(at, |(until, _)| at.min(*until));
            tokio::select! {
                () = stop.cancelled() => return false,
                () = sleep_until(next) => {}
            }
            while let Some(position) = self.drained.iter().position(|(until, _)| *until <= Instant::now()) {
                let (_, gpu) = self.drained.remove(position);
                self.ask(Method::DELETE, &gpu).await;
            }
            if Instant::now() >= at {
                return true;
            }
        }
    }

    async fn upset(&mut self, fault: &Upset) -> Result<(), Fault> {
        match fault {
            Upset::Worker(number, end) => self.programs.restart(&worker(*number), *end).await,
            Upset::Gateway(end) => self.programs.restart(GATEWAY, *end).await,
            Upset::Broker { kill } => {
                self.servers.restart_broker(*kill).await;
                Ok(())
            }
            Upset::Redis => self.servers.restart_redis().await,
            Upset::Drain(gpu, lasting) => {
                self.ask(Method::PUT, gpu).await;
                self.drained.retain(|(_, drained)| drained != gpu);
                self.drained.push((Instant::now() + *lasting, gpu.clone()));
                Ok(())
            }
        }
    }

    async fn undrain_all(&mut self) {
        for gpu in (0..WORKERS).flat_map(gpus_of) {
            self.ask(Method::DELETE, &gpu).await;
        }
    }

    /// Asks the gateway to drain a GPU, or not to drain it any more.
    async fn ask(&mut self, method: Method, gpu: &str) {
        let url = format!("{}/api/v1/gpus/{gpu}/drain", self.programs.gateway_url());
        let mut last = String::new();
        for _ in 0..TRIES {
            match self.http.request(method.clone(), &url).send().await {
                Ok(answer) if answer.status().is_success() => return,
                Ok(answer) => last = format!("the gateway answered {}", answer.status()),
                Err(error) => last = error.to_string(),
            }
            sleep(Duration::from_secs(1)).await;
        }
        self.failed.push(format!("{method} {url}: {last}"));
    }
}

/// Whatever was in hand when something ended may be answered once more.
fn copies_max(done: &BTreeMap<&'static str, u64>) -> u64 {
    let count = |name: &str| done.get(name).copied().unwrap_or(0);
    let of_a_worker = GPUS_OF_EACH as u64 * SLOTS * 2;
    let of_all = of_a_worker * WORKERS as u64 + ON_THE_WAY;
    let workers = count(Upset::Worker(1, End::Kill).name());
    let servers = ["broker killed", "broker restarted", "Redis restarted"].into_iter().map(count).sum::<u64>();
    workers * of_a_worker + servers * of_all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ends_explains_copies_of_replies() {
        assert_eq!(copies_max(&BTreeMap::from([("GPU drained and undrained", 9), ("gateway killed", 1), ("worker restarted", 4)])), 0);
        assert_eq!(copies_max(&BTreeMap::from([("worker killed", 2)])), 32);
        assert!(copies_max(&BTreeMap::from([("broker restarted", 1)])) > 32);
    }
}
