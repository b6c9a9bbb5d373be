//! `C = alpha · op(A) · op(B) + beta · C`, plainly, for one matrix or for several that lie at equal distances.

use std::{
    ffi::{c_int, c_longlong, c_uint},
    ops::{Add, Mul},
};

use super::{EXECUTION_FAILED, INVALID_VALUE, NOT_SUPPORTED, current, session};
use crate::{
    c_interface::Code,
    cuda::{self, Array, Device, Handle, Value},
};

/// A number that matrices are made of.
pub(super) trait Real: Value + Send + Sync + Default + PartialEq + Add<Output = Self> + Mul<Output = Self> + 'static {}

impl Real for f32 {}
impl Real for f64 {}

/// A matrix as the caller gives it: the address, the distance between columns, and that between matrices.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given {
    pub(super) address: u64,
    pub(super) leading: c_int,
    pub(super) stride: c_longlong,
}

/// A product as the caller gives it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<T> {
    /// 0 as it is, 1 and 2 transposed.
    pub(super) operations: [c_uint; 2],
    pub(super) m: c_int,
    pub(super) n: c_int,
    pub(super) k: c_int,
    pub(super) alpha: *const T,
    pub(super) beta: *const T,
    pub(super) a: Given,
    pub(super) b: Given,
    pub(super) c: Given,
    pub(super) batches: c_int,
}

/// A factor: a number, or where the device has it.
#[derive(Clone, Copy)]
enum Scalar<T> {
    Number(T),
    OnDevice(u64),
}

/// A matrix with rows and columns as it is stored.
#[derive(Clone, Copy)]
struct Matrix {
    address: u64,
    leading: usize,
    stride: usize,
    rows: usize,
    columns: usize,
}

struct Product<T> {
    transposed: [bool; 2],
    m: usize,
    n: usize,
    k: usize,
    alpha: Scalar<T>,
    beta: Scalar<T>,
    a: Matrix,
    b: Matrix,
    c: Matrix,
    batches: usize,
}

/// Puts a product into the handle's stream.
///
/// # Safety
///
/// With scalars of the host, both may be read.
pub(super) unsafe fn submit<T: Real>(handle: Handle, asked: Asked<T>) -> Result<(), Code> {
    let session = session(handle)?;
    current()?;
    // SAFETY: the caller's word.
    let product = unsafe { Product::new(&asked, session.device_scalars) }?;
    let run = move |device: &Device<'_>| (0..product.batches).try_for_each(|batch| product.run(device, batch));
    cuda::submit(session.context, session.stream, run).map_err(|_| EXECUTION_FAILED)
}

impl<T: Real> Product<T> {
    /// # Safety
    ///
    /// With scalars of the host, both may be read.
    unsafe fn new(asked: &Asked<T>, device_scalars: bool) -> Result<Self, Code> {
        let [m, n, k, batches] = [asked.m, asked.n, asked.k, asked.batches].map(|size| usize::try_from(size).map_err(|_| INVALID_VALUE));
        let (m, n, k, batches) = (m?, n?, k?, batches?);
        let [a, b] = asked.operations.map(|operation| match operation {
            0 => Ok(false),
            1 | 2 => Ok(true),
            _ => Err(INVALID_VALUE),
        });
        let transposed = [a?, b?];
        let scalar = |pointer: *const T| match pointer {
            _ if pointer.is_null() => Err(INVALID_VALUE),
            _ if device_scalars => Ok(Scalar::OnDevice(pointer.expose_provenance() as u64)),
            // SAFETY: not null, and the caller's word for the rest.
            _ => Ok(Scalar::Number(unsafe { pointer.read_unaligned() })),
        };
        let shape = |transposed, rows, columns| if transposed { (columns, rows) } else { (rows, columns) };
        Ok(Self {
            transposed,
            m,
            n,
            k,
            alpha: scalar(asked.alpha)?,
            beta: scalar(asked.beta)?,
            a: Matrix::new(asked.a, shape(transposed[0], m, k))?,
            b: Matrix::new(asked.b, shape(transposed[1], k, n))?,
            c: Matrix::new(asked.c, (m, n))?,
            batches,
        })
    }

    fn run(&self, device: &Device<'_>, batch: usize) -> Result<(), Code> {
        let (alpha, beta) = (self.alpha.value(device)?, self.beta.value(device)?);
        let (a, b) = (self.a.array::<T>(device, batch)?, self.b.array::<T>(device, batch)?);
        let c = self.c.array::<T>(device, batch)?;
        for column in 0..self.n {
            for row in 0..self.m {
                let mut sum = T::default();
                for inner in 0..self.k {
                    let left = if self.transposed[0] { inner + row * self.a.leading } else { row + inner * self.a.leading };
                    let right = if self.transposed[1] { column + inner * self.b.leading } else { inner + column * self.b.leading };
                    sum = sum + a.get(left) * b.get(right);
                }
                let place = row + column * self.c.leading;
                // With a factor of zero the old value is not read: it may be no number.
                let old = if beta == T::default() { T::default() } else { beta * c.get(place) };
                c.set(place, alpha * sum + old);
            }
        }
        Ok(())
    }
}

impl<T: Real> Scalar<T> {
    fn value(self, device: &Device<'_>) -> Result<T, Code> {
        match self {
            Self::Number(number) => Ok(number),
            Self::OnDevice(address) => Ok(device.array::<T>(address, 1)?.get(0)),
        }
    }
}

impl Matrix {
    fn new(given: Given, (rows, columns): (usize, usize)) -> Result<Self, Code> {
        let leading = usize::try_from(given.leading).ok().filter(|leading| *leading >= rows.max(1)).ok_or(INVALID_VALUE)?;
        let stride = usize::try_from(given.stride).map_err(|_| NOT_SUPPORTED)?;
        Ok(Self { address: given.address, leading, stride, rows, columns })
    }

    fn array<T: Real>(&self, device: &Device<'_>, batch: usize) -> Result<Array<T>, Code> {
        let count = if self.rows == 0 || self.columns == 0 { 0 } else { (self.columns - 1) * self.leading + self.rows };
        let offset = (batch * self.stride * size_of::<T>()) as u64;
        device.array(self.address + offset, count)
    }
}
