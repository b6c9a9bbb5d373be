//! A lane: one thread with one stream, and what work on it can do.

use std::{
    cell::{Cell, OnceCell, RefCell},
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use cudarc::{
    cublas::CudaBlas,
    driver::{CudaEvent, CudaSlice, CudaStream, DeviceRepr, DriverError, ValidAsZeroBits, sys},
};

use super::{
    CudaError,
    context::{Shared, guarded, pool_bytes},
};
use crate::DeviceBuffer;

/// What buffers are made of.
pub trait Element: DeviceRepr + ValidAsZeroBits + Copy + Send + 'static {}

impl Element for f32 {}
impl Element for f64 {}
impl Element for u8 {}
impl Element for u32 {}

/// Memory of the GPU. It lives and dies on its lane, or is [lent](Lane::resident) to it: what it holds is in the order of the lane's stream.
pub struct Buffer<'lane, T> {
    pub(super) slice: Slice<T>,
    // Dropped last: memory counts until it is given back.
    _held: Held<'lane>,
}

impl<T> Buffer<'_, T> {
    /// Elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slice.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Memory as CUDA's bindings have it.
pub(super) struct Slice<T> {
    slice: ManuallyDrop<CudaSlice<T>>,
    /// Whether it is the lane's, and so freed on its stream.
    is_owned: bool,
}

impl<T> Slice<T> {
    /// Memory that somebody else has: it is not freed with this.
    ///
    /// # Safety
    /// It must be there for as long as this and what was queued with it is.
    unsafe fn lent(stream: &Arc<CudaStream>, address: sys::CUdeviceptr, len: usize) -> Self {
        // SAFETY: the caller's promise; it is taken out of the bindings' hands again when it is dropped.
        let slice = unsafe { stream.upgrade_device_ptr(address, len) };
        Self { slice: ManuallyDrop::new(slice), is_owned: false }
    }
}

impl<T> Deref for Slice<T> {
    type Target = CudaSlice<T>;

    fn deref(&self) -> &CudaSlice<T> {
        &self.slice
    }
}

impl<T> DerefMut for Slice<T> {
    fn deref_mut(&mut self) -> &mut CudaSlice<T> {
        &mut self.slice
    }
}

impl<T> Drop for Slice<T> {
    fn drop(&mut self) {
        // SAFETY: it is taken once, and this is not used any more.
        let slice = unsafe { ManuallyDrop::take(&mut self.slice) };
        if !self.is_owned {
            // The address, which its owner knows.
            let _ = slice.leak();
        }
    }
}

/// Bytes that count as a buffer's.
struct Held<'lane> {
    lane: &'lane Lane,
    bytes: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.lane.holds.set(self.lane.holds.get() - self.bytes);
        self.lane.shared.account.give(self.bytes);
    }
}

/// How long a wait asks again and again before it sleeps: about what being woken costs (60 µs on an H200), so that a wait costs at most twice of what it must.
const ASKING: Duration = Duration::from_micros(60);

/// What work on the GPU can do. One piece of work at a time has it.
pub struct Lane {
    pub(super) shared: Arc<Shared>,
    pub(super) stream: Arc<CudaStream>,
    pub(super) blas: OnceCell<CudaBlas>,
    done: CudaEvent,
    holds: Cell<u64>,
    peak: Cell<u64>,
    timed: Cell<Duration>,
    marks: RefCell<Option<(CudaEvent, CudaEvent)>>,
    /// Memory that stays and that the job uses: its owners may let go of it before the stream is through with it.
    used: RefCell<Vec<DeviceBuffer>>,
}

impl Lane {
    fn new(shared: &Arc<Shared>) -> Result<Self, CudaError> {
        let stream = shared.check("make a stream", shared.context.new_stream())?;
        let done = shared.check("make an event", shared.context.new_event(Some(sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC)))?;
        Ok(Self {
            shared: Arc::clone(shared),
            stream,
            done,
            blas: OnceCell::new(),
            holds: Cell::new(0),
            peak: Cell::new(0),
            timed: Cell::new(Duration::ZERO),
            marks: RefCell::new(None),
            used: RefCell::default(),
        })
    }

    /// A buffer with a copy of `data`.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`], or what else the driver answers.
    pub fn upload<T: Element>(&self, data: &[T]) -> Result<Buffer<'_, T>, CudaError> {
        self.buffer("copy to the GPU", data.len(), |stream| stream.clone_htod(data))
    }

    /// A buffer of numbers with a copy of their bytes, which need not be aligned. What is left of them behind the last whole number is left out.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`], or what else the driver answers.
    pub fn upload_bytes<T: Element>(&self, bytes: &[u8]) -> Result<Buffer<'_, T>, CudaError> {
        let len = bytes.len() / size_of::<T>();
        let whole = &bytes[..len * size_of::<T>()];
        self.buffer("copy to the GPU", len, |stream| {
            // SAFETY: the copy that follows sets all of it, on the same stream.
            let mut slice = unsafe { stream.alloc::<T>(len) }?;
            // SAFETY: every pattern of bits is a number of an element's type.
            if let Some(mut view) = unsafe { slice.transmute_mut::<u8>(whole.len()) } {
                stream.memcpy_htod(whole, &mut view)?;
            }
            Ok(slice)
        })
    }

    /// The bytes of a buffer's contents, once all work before it is done.
    ///
    /// # Errors
    /// What the driver answers; also the late error of work before.
    pub fn download_bytes<T: Element>(&self, buffer: &Buffer<'_, T>) -> Result<Vec<u8>, CudaError> {
        self.wait()?;
        // SAFETY: a number's bytes are bytes.
        let view = unsafe { buffer.slice.transmute::<u8>(buffer.len() * size_of::<T>()) };
        let Some(view) = view else { return Ok(Vec::new()) };
        let bytes = self.shared.check("copy from the GPU", self.stream.clone_dtoh(&view))?;
        self.wait()?;
        Ok(bytes)
    }

    /// A buffer of zeros.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`], or what else the driver answers.
    pub fn zeros<T: Element>(&self, len: usize) -> Result<Buffer<'_, T>, CudaError> {
        self.buffer("allocate memory of the GPU", len, |stream| stream.alloc_zeros(len))
    }

    /// A copy of a buffer's contents, once all work before it is done.
    ///
    /// # Errors
    /// What the driver answers; also the late error of work before.
    pub fn download<T: Element>(&self, buffer: &Buffer<'_, T>) -> Result<Vec<T>, CudaError> {
        // The copy itself would wait without sleeping, however long the work before it takes.
        self.wait()?;
        let data = self.shared.check("copy from the GPU", self.stream.clone_dtoh(&*buffer.slice))?;
        self.wait()?;
        Ok(data)
    }

    /// Waits until all work so far is done. What takes long is waited for asleep.
    ///
    /// # Errors
    /// The late error of work before.
    pub fn wait(&self) -> Result<(), CudaError> {
        self.shared.check("wait for the GPU", self.reached())
    }

    fn reached(&self) -> Result<(), DriverError> {
        self.done.record(&self.stream)?;
        until(&self.done)
    }

    /// An event behind all work so far.
    pub(super) fn passed(&self, event: &CudaEvent) -> Result<(), CudaError> {
        self.shared.check("note a point of the work", event.record(&self.stream))
    }

    /// Waits until the stream has got to an event; at once, if it was never recorded.
    pub(super) fn wait_until(&self, event: &CudaEvent) -> Result<(), CudaError> {
        self.shared.check("wait for the GPU", until(event))
    }

    /// An event to wait for.
    pub(super) fn event(&self) -> Result<CudaEvent, CudaError> {
        self.shared.check("make an event", self.shared.context.new_event(Some(sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC)))
    }

    /// Memory that stays, as a buffer of so many numbers from an address in it. It is there until this job has ended.
    ///
    /// # Safety
    /// So many numbers must lie there, in memory of `owner`, and the address must suit their type.
    pub(super) unsafe fn lent<T>(&self, owner: &DeviceBuffer, address: sys::CUdeviceptr, len: usize) -> Buffer<'_, T> {
        self.used.borrow_mut().push(owner.clone());
        // SAFETY: the caller's promise, and the memory is kept until `end`, which waits for all that was queued.
        let slice = unsafe { Slice::lent(&self.stream, address, len) };
        // It counts elsewhere.
        Buffer { slice, _held: self.hold(0) }
    }

    /// Does `work`, and adds the time that the GPU took for it, by its own clock, to what the job took. Waits for its end.
    ///
    /// # Errors
    /// What the work gave, or the driver answers.
    pub fn timed<T>(&self, work: impl FnOnce() -> Result<T, CudaError>) -> Result<T, CudaError> {
        let marks = self.marks.take();
        let (start, end) = match marks {
            Some(marks) => marks,
            None => (self.mark()?, self.mark()?),
        };
        self.shared.check("note the time on the GPU", start.record(&self.stream))?;
        let done = work()?;
        self.shared.check("note the time on the GPU", end.record(&self.stream))?;
        self.wait()?;
        self.timed.set(self.timed.get() + self.between(&start, &end)?);
        *self.marks.borrow_mut() = Some((start, end));
        Ok(done)
    }

    fn mark(&self) -> Result<CudaEvent, CudaError> {
        self.shared.check("make an event", self.shared.context.new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)))
    }

    /// The bindings of CUDA 13 would call a function that drivers of CUDA 12.0 to 12.7 lack; the old name is in all of them.
    fn between(&self, start: &CudaEvent, end: &CudaEvent) -> Result<Duration, CudaError> {
        type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;
        let mut milliseconds = 0.0_f32;
        // SAFETY: the driver is loaded, the name has had this signature since its first version, both events are alive and recorded on this stream.
        let answer = unsafe {
            let elapsed = sys::culib().get::<Elapsed>(b"cuEventElapsedTime");
            let elapsed = elapsed.map_err(|error| CudaError::Failed { operation: "find cuEventElapsedTime", cause: error.to_string() })?;
            elapsed(&raw mut milliseconds, start.cu_event(), end.cu_event())
        };
        self.shared.check("read the time on the GPU", answer.result())?;
        Ok(Duration::try_from_secs_f32(milliseconds / 1e3).unwrap_or_default())
    }

    fn buffer<T: Element>(
        &self,
        operation: &'static str,
        len: usize,
        allocate: impl FnOnce(&Arc<CudaStream>) -> Result<CudaSlice<T>, DriverError>,
    ) -> Result<Buffer<'_, T>, CudaError> {
        let held = self.hold(len.saturating_mul(size_of::<T>()) as u64);
        let slice = self.shared.check(operation, allocate(&self.stream))?;
        self.peak.set(self.peak.get().max(self.holds.get()));
        Ok(Buffer { slice: Slice { slice: ManuallyDrop::new(slice), is_owned: true }, _held: held })
    }

    fn hold(&self, bytes: u64) -> Held<'_> {
        self.holds.set(self.holds.get() + bytes);
        self.shared.account.take(bytes);
        Held { lane: self, bytes }
    }

    /// Before a job: nothing is counted yet.
    pub(super) fn begin(&self) {
        self.peak.set(0);
        self.timed.set(Duration::ZERO);
    }

    /// After a job: what it took. Waits for what it left behind, so that a late error shows now and not in the next one.
    pub(super) fn end(&self) -> Result<(Duration, u64), CudaError> {
        let waited = self.wait();
        self.used.borrow_mut().clear();
        waited?;
        // All is done: this does not wait. Only at a call that would does the driver give freed memory back, down to what it may keep.
        self.shared.check("wait for the GPU", self.stream.synchronize())?;
        self.shared.account.pool_has(self.shared.check("ask for the memory pool", pool_bytes(&self.shared.context))?);
        self.shared.check("free memory of the GPU", self.shared.context.check_err())?;
        Ok((self.timed.get(), self.peak.get()))
    }
}

/// Waits until an event has come: asks, and then sleeps.
fn until(event: &CudaEvent) -> Result<(), DriverError> {
    let began = Instant::now();
    while !event.try_is_complete()? {
        if began.elapsed() > ASKING {
            return event.synchronize();
        }
        thread::yield_now();
    }
    Ok(())
}

/// What a lane's thread is given to do; the lane may have failed to start.
pub(super) type Work = Box<dyn FnOnce(Result<&Lane, CudaError>) + Send>;

/// A lane's thread, waiting for work. It ends when this is dropped.
pub(super) struct LaneThread {
    work: mpsc::SyncSender<Work>,
}

impl LaneThread {
    /// Starts one.
    pub(super) fn start(shared: &Arc<Shared>, number: usize) -> Result<Self, CudaError> {
        let (work, given) = mpsc::sync_channel::<Work>(1);
        let shared = Arc::clone(shared);
        let life = move || {
            // A GPU that hangs must block this thread alone: even the stream is made here.
            let make = || guarded("make a lane", || Lane::new(&shared));
            let mut lane = Err(CudaError::Failed { operation: "make a lane", cause: "nothing was tried yet".to_owned() });
            while let Ok(work) = given.recv() {
                if lane.is_err() {
                    lane = make();
                }
                work(lane.as_ref().map_err(Clone::clone));
            }
        };
        let started = thread::Builder::new().name(format!("cuda-{number}")).spawn(life);
        started.map_err(|error| CudaError::Failed { operation: "start a thread", cause: error.to_string() })?;
        Ok(Self { work })
    }

    /// Gives it work. It is idle, so there is room.
    pub(super) fn give(&self, work: Work) -> Result<(), CudaError> {
        let gone = |_| CudaError::Failed { operation: "give work to a lane", cause: "its thread is gone".to_owned() };
        self.work.send(work).map_err(gone)
    }
}
