//! What a GPU does right now, from NVML, on threads of their own: NVML can hang for ever, and then the last good sample is served with its age.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as threads},
    thread,
    time::{Duration, Instant},
};

use nvml_wrapper::{
    Device, Nvml,
    bitmasks::{device::ThrottleReasons, event::EventTypes},
    enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor},
    enums::event::XidError,
    error::NvmlError,
};
use protocol::{GpuId, GpuSample, gpu::Throttle};
use tokio::sync::mpsc;

use super::{
    Host, NvidiaError,
    account::Account,
    host::{in_time, megabytes},
    xid::{Action, Xid},
};
use crate::{Consequence, Trouble};

/// Between two samples.
const PERIOD: Duration = Duration::from_millis(500);
/// A sample that is older means that the driver does not answer.
const STALE: Duration = Duration::from_secs(10);
/// How long one wait for events takes, in ms: the thread then looks whether it is to end.
const EVENT_WAIT_MS: u32 = 1_000;

/// The samples of one GPU. The threads end after this is dropped.
pub(super) struct Sampler {
    latest: Arc<Mutex<Latest>>,
    _until_dropped: threads::Sender<()>,
}

struct Latest {
    sample: GpuSample,
    /// Of the memory in use, what this process itself held, in MB.
    own_mb: u64,
    at: Instant,
    problem: Option<String>,
}

impl Sampler {
    /// Takes the first sample, and goes on taking them; tells `troubles` what it sees go wrong.
    pub(super) fn start(host: &Host, gpu_id: &GpuId, account: Arc<Account>, troubles: mpsc::Sender<Trouble>) -> Result<Self, NvidiaError> {
        let (nvml, id) = (host.nvml(), gpu_id.clone());
        let first = in_time("a first sample", move || Source::new(&nvml, &id).and_then(|source| source.sample()).map_err(sampling))?;
        let ecc_errors = first.ecc_errors;
        let latest = Arc::new(Mutex::new(Latest { sample: first, own_mb: 0, at: Instant::now(), problem: None }));
        let (until_dropped, dropped) = threads::channel();
        let watch = Watch { latest: Arc::clone(&latest), troubles: troubles.clone(), account, ecc_errors, lost: false };
        let (nvml, id) = (host.nvml(), gpu_id.clone());
        spawn("nvml-samples", move || watch.run(&nvml, &id, &dropped))?;
        let (nvml, id, known) = (host.nvml(), gpu_id.clone(), Arc::downgrade(&latest));
        spawn("nvml-events", move || events(&nvml, &id, &troubles, || known.strong_count() > 1))?;
        Ok(Self { latest, _until_dropped: until_dropped })
    }

    fn lock(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last good sample, with its age.
    pub(super) fn sample(&self) -> GpuSample {
        let latest = self.lock();
        GpuSample { age_ms: u64::try_from(latest.at.elapsed().as_millis()).unwrap_or(u64::MAX), ..latest.sample.clone() }
    }

    /// Memory that was in use by others than this process for its tasks and between them, in MB.
    pub(super) fn others_mb(&self) -> u64 {
        let latest = self.lock();
        latest.sample.memory_used_mb.saturating_sub(latest.own_mb)
    }

    /// Why there has been no sample for long, if there has been none.
    pub(super) fn stale(&self) -> Option<String> {
        let latest = self.lock();
        let age = latest.at.elapsed();
        let why = latest.problem.as_deref().unwrap_or("it does not answer");
        (age > STALE).then(|| format!("NVML has given no sample for {} s: {why}", age.as_secs()))
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), NvidiaError> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map(|_| ()).map_err(|error| NvidiaError::asked("samples", error))
}

fn sampling(error: NvmlError) -> NvidiaError {
    NvidiaError::asked("a sample", error)
}

/// Where samples come from: the GPU, or an instance and the GPU that knows what the instance does not.
struct Source<'nvml> {
    device: Device<'nvml>,
    whole: Option<Device<'nvml>>,
}

impl<'nvml> Source<'nvml> {
    fn new(nvml: &'nvml Nvml, gpu_id: &GpuId) -> Result<Self, NvmlError> {
        let device = nvml.device_by_uuid(gpu_id.as_str())?;
        let whole = if gpu_id.as_str().starts_with("MIG-") { Some(device.mig_parent_device()?) } else { None };
        Ok(Self { device, whole })
    }

    fn whole(&self) -> &Device<'nvml> {
        self.whole.as_ref().unwrap_or(&self.device)
    }

    /// Without memory there is no sample; what else this GPU does not tell is 0.
    fn sample(&self) -> Result<GpuSample, NvmlError> {
        let whole = self.whole();
        Ok(GpuSample {
            memory_used_mb: megabytes(self.device.memory_info()?.used),
            utilization_percent: told(self.device.utilization_rates())?.map_or(0.0, |rates| f64::from(rates.gpu)),
            temperature_celsius: told(whole.temperature(TemperatureSensor::Gpu))?.map_or(0.0, f64::from),
            power_watts: told(whole.power_usage())?.map_or(0.0, |milliwatts| f64::from(milliwatts) / 1e3),
            sm_clock_mhz: told(whole.clock_info(Clock::SM))?.map_or(0.0, f64::from),
            throttled_by: told(whole.current_throttle_reasons())?.map_or_else(Vec::new, throttled_by),
            ecc_errors: told(whole.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile))?,
            age_ms: 0,
        })
    }
}

/// `None` for what this GPU, or this driver, does not tell.
fn told<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_) | NvmlError::NoPermission | NvmlError::FunctionNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn throttled_by(reasons: ThrottleReasons) -> Vec<Throttle> {
    let names = [
        (ThrottleReasons::APPLICATIONS_CLOCKS_SETTING, Throttle::ApplicationClocks),
        (ThrottleReasons::SW_POWER_CAP, Throttle::PowerCap),
        (ThrottleReasons::HW_SLOWDOWN, Throttle::HardwareSlowdown),
        (ThrottleReasons::SYNC_BOOST, Throttle::SyncBoost),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, Throttle::ThermalSoftware),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, Throttle::ThermalHardware),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, Throttle::PowerBrake),
        (ThrottleReasons::DISPLAY_CLOCK_SETTING, Throttle::DisplayClocks),
    ];
    names.into_iter().filter(|(reason, _)| reasons.contains(*reason)).map(|(_, name)| name).collect()
}

/// The life of the sampling thread.
struct Watch {
    latest: Arc<Mutex<Latest>>,
    troubles: mpsc::Sender<Trouble>,
    account: Arc<Account>,
    ecc_errors: Option<u64>,
    lost: bool,
}

impl Watch {
    fn run(mut self, nvml: &Nvml, gpu_id: &GpuId, dropped: &threads::Receiver<()>) {
        // The handle is looked up once: looking one up fails as soon as *any* GPU of the host is lost.
        let mut source = Source::new(nvml, gpu_id).ok();
        while dropped.recv_timeout(PERIOD) == Err(threads::RecvTimeoutError::Timeout) {
            if source.is_none() {
                source = Source::new(nvml, gpu_id).map_err(|error| self.unknown(&error)).ok();
            }
            let Some(source) = &source else { continue };
            let own_mb = megabytes(self.account.own());
            match source.sample() {
                Ok(sample) => self.took(sample, own_mb),
                Err(error) => self.missed(&error),
            }
        }
    }

    fn took(&mut self, sample: GpuSample, own_mb: u64) {
        if let (Some(before), Some(now)) = (self.ecc_errors, sample.ecc_errors)
            && now > before
        {
            let reason = format!("{} more memory errors that ECC could not correct", now - before);
            self.tell(Consequence::Quarantined, reason);
        }
        self.ecc_errors = sample.ecc_errors;
        self.lost = false;
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        *latest = Latest { sample, own_mb, at: Instant::now(), problem: None };
    }

    fn unknown(&self, error: &NvmlError) {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).problem = Some(error.to_string());
    }

    fn missed(&mut self, error: &NvmlError) {
        self.unknown(error);
        if matches!(error, NvmlError::GpuLost | NvmlError::ResetRequired) && !std::mem::replace(&mut self.lost, true) {
            self.tell(Consequence::Lost { by_a_task: false }, format!("NVML: {error}"));
        }
    }

    fn tell(&self, what: Consequence, reason: String) {
        // Full: what is in it already ends this worker's use of the GPU, or is not read any more.
        let _ = self.troubles.try_send(Trouble { what, reason, xid: None });
    }
}

/// The life of the thread that waits for Xid events. A driver that has none leaves it without work.
fn events(nvml: &Nvml, gpu_id: &GpuId, troubles: &mpsc::Sender<Trouble>, alive: impl Fn() -> bool) {
    let registered = Source::new(nvml, gpu_id).and_then(|source| {
        let set = nvml.create_event_set()?;
        source.whole().register_events(EventTypes::CRITICAL_XID_ERROR, set).map_err(|refused| refused.error)
    });
    let set = match registered {
        Ok(set) => set,
        Err(error) => {
            return tracing::warn!(%gpu_id, %error, "no Xid events from this driver; failing GPUs are noticed by their tasks alone");
        }
    };
    while alive() {
        match set.wait(EVENT_WAIT_MS) {
            Ok(event) => {
                let number = match event.event_data {
                    Some(XidError::Value(number)) => number,
                    _ => continue,
                };
                let _ = troubles.try_send(trouble_of(number));
            }
            Err(NvmlError::Timeout) => {}
            Err(error) => {
                tracing::debug!(%gpu_id, %error, "wait for Xid events");
                thread::sleep(PERIOD);
            }
        }
    }
}

/// What a Xid means for this GPU's worker, before it has looked at its own context.
fn trouble_of(number: u64) -> Trouble {
    let xid = Xid::of(number);
    let what = match xid.action {
        Action::Ignore => Consequence::Noted,
        Action::RestartApplication => Consequence::Suspected,
        Action::Unknown => Consequence::Quarantined,
        Action::ResetGpu => Consequence::Lost { by_a_task: false },
    };
    Trouble { what, reason: xid.describe(), xid: Some(number) }
}
