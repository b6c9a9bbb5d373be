//! Device memory: its limits, and copies.

use std::{env, io, process::Stdio, thread};

use cudarc::driver::{
    CudaContext, result,
    sys::{CUmemPool_attribute, CUresult},
};
use fake_nvidia::{FakeCopies, FakeCopyFault, FakeTrouble};
use nvml_wrapper::Nvml;

use crate::{
    code,
    harness::{INNER, of_test, on_a_machine},
};

const MIB: usize = 1 << 20;

#[test]
fn a_copy_comes_back_as_it_went() {
    on_a_machine(2, |_| {
        let (here, there) = (CudaContext::new(0).unwrap().default_stream(), CudaContext::new(1).unwrap().default_stream());
        let sent: Vec<u32> = (0..10_000).collect();
        let first = here.clone_htod(&sent).unwrap();
        let second = here.clone_dtod(&first).unwrap();
        let far = there.clone_dtod(&second).unwrap();
        assert_eq!(there.clone_dtoh(&far).unwrap(), sent);
        assert_eq!(here.clone_dtoh(&first.slice(100..200)).unwrap(), sent[100..200]);
        let zeros = here.alloc_zeros::<u8>(5 * MIB + 3).unwrap();
        assert!(here.clone_dtoh(&zeros).unwrap().iter().all(|byte| *byte == 0));
    });
}

#[test]
fn zeroing_a_large_allocation_writes_every_byte() {
    on_a_machine(1, |_| {
        let stream = CudaContext::new(0).unwrap().default_stream();
        let mut data = stream.clone_htod(&vec![7_u8; 3 * MIB]).unwrap();
        stream.memset_zeros(&mut data.slice_mut(1..3 * MIB - 1)).unwrap();
        let back = stream.clone_dtoh(&data).unwrap();
        assert_eq!((back[0], back[3 * MIB - 1]), (7, 7));
        assert!(back[1..3 * MIB - 1].iter().all(|byte| *byte == 0));
    });
}

#[test]
fn pinned_memory_is_copied_too() {
    on_a_machine(1, |_| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        // SAFETY: written before it is read.
        let mut pinned = unsafe { context.alloc_pinned::<u32>(1_000) }.unwrap();
        pinned.as_mut_slice().unwrap().fill(5);
        let mut data = stream.clone_htod(&pinned).unwrap();
        pinned.as_mut_slice().unwrap().fill(0);
        stream.memcpy_dtoh(&data, &mut pinned).unwrap();
        assert_eq!(pinned.as_slice().unwrap(), [5; 1_000]);
        stream.memset_zeros(&mut data).unwrap();
    });
}

#[test]
fn memory_ends_where_the_script_says_and_both_libraries_show_it() {
    on_a_machine(1, |machine| {
        machine.change(|state| (state.gpus[0].memory_mib, state.gpus[0].memory_used_mib) = (10_000, 1_000));
        let nvml = Nvml::init().unwrap();
        let device = nvml.device_by_index(0).unwrap();
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let free = || context.mem_get_info().unwrap().0 / MIB;
        assert_eq!((free(), context.mem_get_info().unwrap().1 / MIB), (8_600, 10_000));
        // SAFETY: memory that nothing reads.
        let allocate = |mib: usize| unsafe { stream.alloc::<u8>(mib * MIB) };
        let held = allocate(8_000).unwrap();
        assert_eq!(free(), 600);
        assert_eq!(device.memory_info().unwrap().used / MIB as u64, 9_400);
        assert_eq!(code(allocate(601)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        drop(held);
        stream.synchronize().unwrap();
        assert_eq!(free(), 8_600);
        machine.change(|state| state.gpus[0].free_memory_cap_mib = Some(100));
        assert_eq!((free(), device.memory_info().unwrap().free / MIB as u64), (100, 100));
        assert_eq!(code(allocate(101)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        machine.change(|state| (state.gpus[0].free_memory_cap_mib, state.gpus[0].fragmented) = (None, true));
        assert_eq!(free(), 8_600);
        assert!(allocate(16).is_ok());
        assert_eq!(code(allocate(17)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        drop(stream);
    });
}

#[test]
fn an_allocation_larger_than_the_host_is_given() {
    on_a_machine(1, |_| {
        let stream = CudaContext::new(0).unwrap().default_stream();
        let data = stream.alloc_zeros::<u8>(80_000 * MIB).unwrap();
        assert_eq!(stream.clone_dtoh(&data.slice(79_999 * MIB..79_999 * MIB + 1)).unwrap(), [0]);
    });
}

#[test]
fn the_memory_of_a_killed_process_is_free_again() {
    const HOLDER: &str = "FAKE_NVIDIA_HOLDER";
    on_a_machine(1, |_| {
        let context = CudaContext::new(0).unwrap();
        let free = || context.mem_get_info().unwrap().0 / MIB;
        if env::var_os(HOLDER).is_some() {
            let stream = context.default_stream();
            // SAFETY: memory that nothing reads.
            let _held = unsafe { stream.alloc::<u8>(1_000 * MIB) }.unwrap();
            io::stdin().lines().for_each(drop);
            return;
        }
        let before = free();
        let mut holder = of_test(&env::var(INNER).unwrap()).env(HOLDER, "1").stdin(Stdio::piped()).spawn().unwrap();
        while free() != before - 400 - 1_000 {
            assert!(holder.try_wait().unwrap().is_none(), "the holder lives");
            thread::yield_now();
        }
        holder.kill().unwrap();
        while free() != before {
            thread::yield_now();
        }
        holder.wait().unwrap();
    });
}

#[test]
fn what_a_stream_frees_stays_in_the_pool_until_a_call_waits() {
    on_a_machine(1, |_| {
        let context = CudaContext::new(0).unwrap();
        let free = || context.mem_get_info().unwrap().0 / MIB;
        let (before, stream, event) = (free(), context.new_stream().unwrap(), context.new_event(None).unwrap());
        // SAFETY: memory that nothing reads.
        let held = || unsafe { stream.alloc::<u8>(100 * MIB) }.unwrap();
        drop(held());
        event.record(&stream).unwrap();
        assert!(event.try_is_complete().unwrap(), "to ask is not to wait");
        assert_eq!(free(), before - 100);
        drop(held());
        assert_eq!(free(), before - 100, "it is used again");
        stream.synchronize().unwrap();
        assert_eq!(free(), before);

        let mut kept = 30 * MIB as u64;
        // SAFETY: the device is this context's, and the setting a 64-bit number.
        unsafe {
            let pool = result::device::get_mem_pool(context.cu_device()).unwrap();
            result::mem_pool::set_attribute(pool, CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, (&raw mut kept).cast()).unwrap();
        }
        drop(held());
        event.synchronize().unwrap();
        assert_eq!(free(), before - 30);
    });
}

#[test]
fn memory_that_is_allocated_alone_is_not_the_pools_and_no_stream_frees_it() {
    on_a_machine(1, |_| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let mut reserved = u64::MAX;
        // SAFETY: nothing uses the memory but these calls; the setting is a 64-bit number.
        unsafe {
            let alone = result::malloc_sync(5 * MIB).unwrap();
            let pool = result::device::get_mem_pool(context.cu_device()).unwrap();
            let now = CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT;
            result::mem_pool::get_attribute(pool, now, (&raw mut reserved).cast()).unwrap();
            assert_eq!(reserved, 0);
            assert_eq!(code(result::free_async(alone, stream.cu_stream())), CUresult::CUDA_ERROR_INVALID_VALUE);
            result::free_sync(alone).unwrap();
        }
    });
}

#[test]
fn copies_go_wrong_as_the_script_says() {
    on_a_machine(1, |machine| {
        let fault = |what| FakeCopyFault { only: Some(FakeCopies::ToHost), min_bytes: 100, what };
        let stream = CudaContext::new(0).unwrap().new_stream().unwrap();
        let data = stream.clone_htod(&[7_u8; 1_000]).unwrap();
        machine.change(|state| state.gpus[0].copy_faults = vec![fault(FakeTrouble::Corrupts)]);
        let back = stream.clone_dtoh(&data).unwrap();
        assert_eq!(back.iter().filter(|byte| **byte == 6).count(), 1);
        assert_eq!(stream.clone_dtoh(&data.slice(0..99)).unwrap(), [7; 99], "it is too short to be met");
        machine.change(|state| state.gpus[0].copy_faults = vec![fault(FakeTrouble::Fails(1))]);
        assert_eq!(code(stream.clone_dtoh(&data)), CUresult::CUDA_ERROR_INVALID_VALUE);
        machine.change(|state| state.gpus[0].copy_faults = vec![fault(FakeTrouble::Stalls(30))]);
        let event = stream.context().new_event(None).unwrap();
        let mut back = [0_u8; 1_000];
        stream.memcpy_dtoh(&data, &mut back).unwrap();
        event.record(&stream).unwrap();
        event.synchronize().unwrap();
        assert_eq!(back, [7; 1_000]);
    });
}

#[test]
fn wrong_ranges_and_freed_pointers_are_refused() {
    on_a_machine(1, |_| {
        let context = CudaContext::new(0).unwrap();
        context.bind_to_thread().unwrap();
        // SAFETY: nothing uses the memory but these calls, which check it.
        unsafe {
            let pointer = result::malloc_sync(1_000).unwrap();
            let mut buffer = [1_u8; 1_001];
            assert!(result::memcpy_dtoh_sync(&mut buffer[..500], pointer + 500).is_ok());
            assert_eq!(buffer[0], 0);
            assert_eq!(code(result::memcpy_dtoh_sync(&mut buffer[..501], pointer + 500)), CUresult::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(code(result::memcpy_htod_sync(pointer, &buffer)), CUresult::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(code(result::free_sync(pointer + 1)), CUresult::CUDA_ERROR_INVALID_VALUE);
            result::free_sync(pointer).unwrap();
            assert_eq!(code(result::free_sync(pointer)), CUresult::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(code(result::memcpy_dtoh_sync(&mut buffer[..1], pointer)), CUresult::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(code(result::malloc_sync(0)), CUresult::CUDA_ERROR_INVALID_VALUE);
        }
    });
}
