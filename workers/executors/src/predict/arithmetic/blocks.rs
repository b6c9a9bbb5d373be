//! The formats of GGUF files, and how they are kept here. Every number is the file's, to the last bit; what is not known here is unpacked to 32-bit floats.

use candle_core::{
    Device, Result,
    quantized::{GgmlDType, QTensor},
};

use super::matrix::{Form, Matrix};

/// A tensor of two dimensions as a matrix.
pub(in super::super) fn unpacked(tensor: &QTensor) -> Result<Matrix> {
    let (rows, columns) = tensor.shape().dims2()?;
    let data = tensor.data()?;
    let form = if columns % 32 == 0 { known(tensor.dtype(), &data) } else { None };
    let form = match form {
        Some(form) => form,
        None => Form::Float(tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()?),
    };
    Ok(Matrix { rows, columns, form })
}

fn known(format: GgmlDType, data: &[u8]) -> Option<Form> {
    Some(match format {
        GgmlDType::Q4_0 => int4(data.as_chunks::<18>().0, |block| {
            let scale = half(block, 0);
            vec![(quants(block, 2), scale, -8.0 * scale)]
        }),
        GgmlDType::Q4_1 => int4(data.as_chunks::<20>().0, |block| vec![(quants(block, 4), half(block, 0), half(block, 2))]),
        GgmlDType::Q4K => int4(data.as_chunks::<144>().0, four_bit_super_block),
        GgmlDType::Q8_0 => int8(data.as_chunks::<34>().0, |block| {
            let scale = half(block, 0);
            vec![(std::array::from_fn(|at| block[2 + at].cast_signed()), [scale; 2])]
        }),
        GgmlDType::Q6K => int8(data.as_chunks::<210>().0, six_bit_super_block),
        _ => return None,
    })
}

type Int4Block = ([u8; 16], f32, f32);
type Int8Block = ([i8; 32], [f32; 2]);

fn int4<const SIZE: usize>(blocks: &[[u8; SIZE]], read: fn(&[u8; SIZE]) -> Vec<Int4Block>) -> Form {
    let (mut quants, mut scales, mut least) = (Vec::new(), Vec::new(), Vec::new());
    for (block_quants, scale, block_least) in blocks.iter().flat_map(read) {
        quants.push(block_quants);
        scales.push(scale);
        least.push(block_least);
    }
    Form::Int4 { quants, scales, least }
}

fn int8<const SIZE: usize>(blocks: &[[u8; SIZE]], read: fn(&[u8; SIZE]) -> Vec<Int8Block>) -> Form {
    let (quants, scales) = blocks.iter().flat_map(read).unzip();
    Form::Int8 { quants, scales, least: Vec::new() }
}

fn quants(block: &[u8], at: usize) -> [u8; 16] {
    std::array::from_fn(|number| block[at + number])
}

/// 256 numbers: two scales in 16 bits, twelve bytes with eight 6-bit scales and eight 6-bit minima, and half a byte for each number; 32 bytes hold two
/// blocks, in their low and in their high halves.
fn four_bit_super_block(block: &[u8; 144]) -> Vec<Int4Block> {
    let (scale, least) = (half(block, 0), half(block, 2));
    let packed = &block[4..16];
    let of_block = |number: usize| {
        let (sixth, minimum) = six_bits(packed, number);
        let bytes = &block[16 + number / 2 * 32..][..32];
        let value = |at: usize| if number.is_multiple_of(2) { bytes[at] & 15 } else { bytes[at] >> 4 };
        let quants = std::array::from_fn(|at| value(at) | value(at + 16) << 4);
        (quants, scale * f32::from(sixth), -least * f32::from(minimum))
    };
    (0..8).map(of_block).collect()
}

/// Scale and minimum of one of the eight blocks. The first four are the low 6 bits of bytes 0 to 3 and 4 to 7; of the others 4 bits are in bytes 8 to 11 and 2 are
/// the high bits of the first four.
fn six_bits(packed: &[u8], number: usize) -> (u8, u8) {
    if number < 4 {
        return (packed[number] & 63, packed[number + 4] & 63);
    }
    let four = packed[number + 4];
    ((four & 15) | (packed[number - 4] >> 6) << 4, (four >> 4) | (packed[number] >> 6) << 4)
}

/// 256 numbers from 0 to 63, less 32: 128 bytes with their low 4 bits, 64 with their high 2, a scale of 8 bits for each 16 numbers, and a scale of all.
fn six_bit_super_block(block: &[u8; 210]) -> Vec<Int8Block> {
    let scale = half(block, 208);
    let quant = |at: usize| {
        let (half, within) = (at / 128, at % 128);
        let low = block[half * 64 + within % 64];
        let low = if within < 64 { low & 15 } else { low >> 4 };
        let high = block[128 + half * 32 + within % 32] >> (within / 32 * 2) & 3;
        (low | high << 4).cast_signed() - 32
    };
    let of_block = |number: usize| {
        let scales = [0, 1].map(|part| scale * f32::from(block[192 + number * 2 + part].cast_signed()));
        (std::array::from_fn(|at| quant(number * 32 + at)), scales)
    };
    (0..8).map(of_block).collect()
}

/// A 16-bit float.
fn half(block: &[u8], at: usize) -> f32 {
    let bits = u16::from_le_bytes([block[at], block[at + 1]]);
    half::f16::from_bits(bits).to_f32()
}
