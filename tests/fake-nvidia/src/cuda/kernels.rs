//! The kernels that the fake knows by name, on the CPU. All others do nothing.
//!
//! They handle all elements that their arguments name, whatever the shape of the launch.

use std::time::Duration;

use super::{Handle, Process, codes, module::Function, stream::Work};
use crate::{c_interface::Code, state::Script};
use codes::{ASSERT, ILLEGAL_ADDRESS, INVALID_VALUE, NOT_SUPPORTED};

/// What a kernel computes, from its arguments to its output.
type Compute = fn(&Device<'_>, &Arguments) -> Result<(), Code>;

#[derive(Clone, Copy)]
enum Effect {
    Compute(Compute),
    Fail(Code),
    /// The first argument is how long, in milliseconds.
    Sleep,
    Spin,
}

/// Name, bytes of each parameter, effect.
const KERNELS: [(&str, &[usize], Effect); 10] = [
    ("canary", &[8, 4, 4], Effect::Compute(canary)),
    ("checksum", &[8, 8, 8, 8], Effect::Compute(checksum)),
    ("saxpy", &[4, 4, 8, 8], Effect::Compute(saxpy)),
    ("vector_add", &[8, 8, 8, 4], Effect::Compute(vector_add)),
    ("scale_f64", &[8, 8, 8], Effect::Compute(scale_f64)),
    ("fill_i32", &[8, 4, 4], Effect::Compute(fill_i32)),
    ("fault", &[], Effect::Fail(ILLEGAL_ADDRESS)),
    ("assert_fails", &[], Effect::Fail(ASSERT)),
    ("spin", &[], Effect::Spin),
    ("sleep_ms", &[4], Effect::Sleep),
];

/// The work of a launch. A kernel that has a known name and other parameters is another kernel, which cannot be run here.
pub(super) fn work(function: &Function, context: Handle, arguments: Vec<Vec<u8>>) -> Result<Work, Code> {
    let Some((_, sizes, effect)) = KERNELS.iter().find(|(name, _, _)| *name == function.name) else {
        return Ok(Work::Run(Box::new(|_| Ok(()))));
    };
    if !function.parameters.iter().map(|parameter| parameter.bytes).eq(sizes.iter().copied()) {
        return Err(NOT_SUPPORTED);
    }
    let arguments = Arguments(arguments);
    Ok(match *effect {
        Effect::Spin => Work::Busy(None),
        Effect::Sleep => Work::Busy(Some(Duration::from_millis(arguments.u32(0)?.into()))),
        Effect::Fail(code) => Work::Run(Box::new(move |_| Err(code))),
        Effect::Compute(compute) => Work::Run(Box::new(move |process| compute(&Device { process, context }, &arguments))),
    })
}

/// The arguments' bytes.
struct Arguments(Vec<Vec<u8>>);

impl Arguments {
    fn bytes<const N: usize>(&self, place: usize) -> Result<[u8; N], Code> {
        self.0.get(place).and_then(|bytes| bytes.as_slice().try_into().ok()).ok_or(INVALID_VALUE)
    }

    fn u32(&self, place: usize) -> Result<u32, Code> {
        self.bytes(place).map(u32::from_ne_bytes)
    }

    fn u64(&self, place: usize) -> Result<u64, Code> {
        self.bytes(place).map(u64::from_ne_bytes)
    }

    fn f32(&self, place: usize) -> Result<f32, Code> {
        self.bytes(place).map(f32::from_ne_bytes)
    }

    fn f64(&self, place: usize) -> Result<f64, Code> {
        self.bytes(place).map(f64::from_ne_bytes)
    }
}

/// Where a kernel runs.
pub(crate) struct Device<'a> {
    pub(crate) process: &'a Process,
    pub(crate) context: Handle,
}

impl Device<'_> {
    /// Values in the device's memory, or the error that stops the kernel.
    pub(crate) fn array<T: Value>(&self, pointer: u64, count: usize) -> Result<Array<T>, Code> {
        if count == 0 {
            return Ok(Array { start: std::ptr::null_mut(), count, spoiled: false });
        }
        let start = self.process.seen_by_kernel(self.context, pointer, count)?;
        Ok(Array { start, count, spoiled: self.spoils() })
    }

    /// Whether the script makes this device compute wrongly.
    fn spoils(&self) -> bool {
        let uuid = self.process.context(self.context).and_then(|context| self.process.uuid(context.device));
        let (Ok(uuid), Ok(script)) = (uuid, Script::read()) else { return false };
        script.part(&uuid).is_some_and(|part| part.gpu.wrong_results)
    }
}

/// Values in a device's memory. Arrays may overlap.
pub(crate) struct Array<T> {
    start: *mut T,
    count: usize,
    spoiled: bool,
}

impl<T: Value> Array<T> {
    /// The value at a place within the array.
    pub(crate) fn get(&self, place: usize) -> T {
        assert!(place < self.count, "within the array");
        // SAFETY: the allocation has this place, and stays while the process's state is borrowed.
        unsafe { self.start.add(place).read() }
    }

    /// Writes a value at a place within the array; on a device that computes wrongly, with one bit flipped.
    pub(crate) fn set(&self, place: usize, value: T) {
        assert!(place < self.count, "within the array");
        // SAFETY: as in `get`.
        unsafe { self.start.add(place).write(if self.spoiled { value.flipped() } else { value }) };
    }
}

/// A value that a kernel writes.
pub(crate) trait Value: Copy {
    /// With one bit flipped: of floating-point numbers one that tells.
    fn flipped(self) -> Self;
}

impl Value for u32 {
    fn flipped(self) -> Self {
        self ^ 1
    }
}

impl Value for u8 {
    fn flipped(self) -> Self {
        self ^ 1
    }
}

impl Value for u64 {
    fn flipped(self) -> Self {
        self ^ 1
    }
}

impl Value for i32 {
    fn flipped(self) -> Self {
        self ^ 1
    }
}

impl Value for f32 {
    fn flipped(self) -> Self {
        Self::from_bits(self.to_bits() ^ 1 << 21)
    }
}

impl Value for f64 {
    fn flipped(self) -> Self {
        Self::from_bits(self.to_bits() ^ 1 << 50)
    }
}

/// Integer and floating-point work whose result is known to the last bit: `canary(u32* out, u32 seed, u32 count)`.
fn canary(device: &Device<'_>, arguments: &Arguments) -> Result<(), Code> {
    let (seed, count) = (arguments.u32(1)?, arguments.u32(2)?);
    let out = device.array::<u32>(arguments.u64(0)?, count as usize)?;
    for index in 0..count {
        let mut x = index ^ seed;
        for _ in 0..256 {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            x ^= x >> 13;
        }
        // All 16 bits fit in the mantissa.
        let f = ((x & 0xffff) as f32).mul_add(1.5, 0.25);
        out.set(index as usize, x ^ f.to_bits());
    }
    Ok(())
}

/// A sum over words, each mixed with its place: `checksum(const u8* bytes, u64 count, u64 first, u64* sum)`.
fn checksum(device: &Device<'_>, arguments: &Arguments) -> Result<(), Code> {
    let (count, first) = (usize::try_from(arguments.u64(1)?).map_err(|_| ILLEGAL_ADDRESS)?, arguments.u64(2)?);
    let words = device.array::<u64>(arguments.u64(0)?, count / 8)?;
    let bytes = device.array::<u8>(arguments.u64(0)?, count)?;
    let sum = device.array::<u64>(arguments.u64(3)?, 1)?;
    let mixed = |word: u64, place: u64| {
        let keyed = word ^ place.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let spread = keyed.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        spread ^ (spread >> 32)
    };
    let places = (0..count / 8).zip(first..);
    let mut total = places.fold(sum.get(0), |total, (at, place)| total.wrapping_add(mixed(words.get(at).to_le(), place)));
    if !count.is_multiple_of(8) {
        let mut last = [0; 8];
        (count / 8 * 8..count).zip(&mut last).for_each(|(at, byte)| *byte = bytes.get(at));
        total = total.wrapping_add(mixed(u64::from_le_bytes(last), first.wrapping_add((count / 8) as u64)));
    }
    sum.set(0, total);
    Ok(())
}

/// `saxpy(u32 n, f32 a, const f32* x, f32* y)`.
fn saxpy(device: &Device<'_>, arguments: &Arguments) -> Result<(), Code> {
    let (count, a) = (arguments.u32(0)? as usize, arguments.f32(1)?);
    let (x, y) = (device.array::<f32>(arguments.u64(2)?, count)?, device.array::<f32>(arguments.u64(3)?, count)?);
    (0..count).for_each(|place| y.set(place, a * x.get(place) + y.get(place)));
    Ok(())
}

/// `vector_add(const f32* a, const f32* b, f32* out, u32 n)`.
fn vector_add(device: &Device<'_>, arguments: &Arguments) -> Result<(), Code> {
    let count = arguments.u32(3)? as usize;
    let [a, b, out] = [0, 1, 2].map(|place| device.array::<f32>(arguments.u64(place)?, count));
    let (a, b, out) = (a?, b?, out?);
    (0..count).for_each(|place| out.set(place, a.get(place) + b.get(place)));
    Ok(())
}

/// `scale_f64(f64* data, f64 factor, u64 n)`.
fn scale_f64(device: &Device<'_>, arguments: &Arguments) -> Result<(), Code> {
    let (factor, count) = (arguments.f64(1)?, usize::try_from(arguments.u64(2)?).map_err(|_| ILLEGAL_ADDRESS)?);
    let data = device.array::<f64>(arguments.u64(0)?, count)?;
    (0..count).for_each(|place| data.set(place, data.get(place) * factor));
    Ok(())
}

/// `fill_i32(i32* out, i32 value, u32 n)`.
fn fill_i32(device: &Device<'_>, arguments: &Arguments) -> Result<(), Code> {
    let (value, count) = (arguments.u32(1)?.cast_signed(), arguments.u32(2)? as usize);
    let out = device.array::<i32>(arguments.u64(0)?, count)?;
    (0..count).for_each(|place| out.set(place, value));
    Ok(())
}
