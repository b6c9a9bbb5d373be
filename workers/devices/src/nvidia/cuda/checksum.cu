// The sum of `protocol::Checksum` over bytes of the GPU's memory: each word of eight bytes is mixed with its place, and the mixed words are added. `checksum.ptx` is this file, compiled.
// `bytes` begins at a multiple of eight bytes of the memory, and is word number `first` of the whole. What is left behind the last whole word counts as one that ends with zeros.
__device__ unsigned long long mixed(unsigned long long word, unsigned long long place)
{
    unsigned long long keyed = word ^ ((place + 1ull) * 0x9E3779B97F4A7C15ull);
    unsigned long long spread = keyed * 0xD6E8FEB86659FD93ull;
    return spread ^ (spread >> 32);
}

extern "C" __global__ void checksum(const unsigned char *bytes, unsigned long long count, unsigned long long first, unsigned long long *sum)
{
    const unsigned long long *words = (const unsigned long long *)bytes;
    unsigned long long whole = count / 8ull;
    unsigned long long stride = (unsigned long long)gridDim.x * blockDim.x;
    unsigned long long thread = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
    unsigned long long own = 0ull;
    for (unsigned long long at = thread; at < whole; at += stride) {
        own += mixed(words[at], first + at);
    }
    if (thread == 0ull && count % 8ull != 0ull) {
        unsigned long long last = 0ull;
        for (unsigned long long at = whole * 8ull; at < count; ++at) {
            last |= (unsigned long long)bytes[at] << (8ull * (at % 8ull));
        }
        own += mixed(last, first + whole);
    }
    // The threads of a warp add up among themselves first: one addition in memory for each of them would be what takes the time.
    for (int apart = 16; apart > 0; apart /= 2) {
        own += __shfl_down_sync(0xffffffffu, own, apart);
    }
    if (threadIdx.x % 32u == 0u) {
        atomicAdd(sum, own);
    }
}
