// A small piece of work with a known answer: whole numbers and floating point, many threads. `canary.ptx` is this file, compiled.
extern "C" __global__ void canary(unsigned int *out, unsigned int seed, unsigned int count)
{
    unsigned int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    unsigned int x = i ^ seed;
    for (int round = 0; round < 256; ++round) {
        x = x * 1664525u + 1013904223u;
        x ^= x >> 13;
    }
    float f = fmaf((float)(x & 0xffffu), 1.5f, 0.25f);
    out[i] = x ^ __float_as_uint(f);
}
