//! Streams and events: order, waiting, time.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use cudarc::driver::{CudaContext, CudaStream, LaunchConfig, PushKernelArg, sys::CUevent_flags};

use crate::{function, harness::on_a_machine};

/// Keeps a stream busy for so many milliseconds.
fn sleep(stream: &Arc<CudaStream>, milliseconds: u32) {
    let kernel = function(stream.context(), "sleep_ms");
    // SAFETY: the argument is that of the kernel.
    unsafe { stream.launch_builder(&kernel).arg(&milliseconds).launch(LaunchConfig::for_num_elems(1)) }.expect("a launch");
    // To unload its module would wait for it.
    std::mem::forget(kernel);
}

#[test]
fn work_behind_a_long_kernel_waits_and_the_caller_does_not() {
    on_a_machine(1, |_| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let mut data = stream.alloc_zeros::<i32>(2).unwrap();
        let fill = function(&context, "fill_i32");
        sleep(&stream, 600);
        // SAFETY: the arguments are those of the kernel.
        unsafe { stream.launch_builder(&fill).arg(&mut data).arg(&7_i32).arg(&2_u32).launch(LaunchConfig::for_num_elems(2)) }.unwrap();
        stream.memcpy_htod(&[9], &mut data.slice_mut(1..2)).unwrap();
        let after = stream.record_event(None).unwrap();
        assert!(!after.is_complete(), "nothing has waited so far");
        assert_eq!(stream.clone_dtoh(&data).unwrap(), [7, 9]);
        assert!(after.is_complete());
    });
}

#[test]
fn a_stream_waits_for_another_ones_event() {
    on_a_machine(1, |_| {
        let context = CudaContext::new(0).unwrap();
        let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let begin = Instant::now();
        sleep(&first, 150);
        second.join(&first).unwrap();
        second.synchronize().unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(150));
    });
}

#[test]
fn events_measure_the_time_between_them() {
    on_a_machine(1, |_| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
        let begin = Instant::now();
        let start = stream.record_event(timed).unwrap();
        sleep(&stream, 50);
        let end = stream.record_event(timed).unwrap();
        let between = begin.elapsed().as_secs_f32() * 1e3;
        let elapsed = start.elapsed_ms(&end).unwrap();
        assert!((50.0..50.1 + between).contains(&elapsed), "{elapsed} ms: the time of the work, whenever it was asked for");
        let untimed = stream.record_event(None).unwrap();
        assert!(start.elapsed_ms(&untimed).is_err());
    });
}

#[test]
fn a_kernel_that_never_ends_holds_its_stream_and_no_other() {
    on_a_machine(1, |_| {
        let context = CudaContext::new(0).unwrap();
        let (stuck, other) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let spin = function(&context, "spin");
        // SAFETY: the kernel has no arguments.
        unsafe { stuck.launch_builder(&spin).launch(LaunchConfig::for_num_elems(1)) }.unwrap();
        let data = other.clone_htod(&[1, 2, 3]).unwrap();
        assert_eq!(other.clone_dtoh(&data).unwrap(), [1, 2, 3]);
        let event = stuck.record_event(None).unwrap();
        assert!(!event.is_complete());
        let (ended, end) = mpsc::channel();
        thread::spawn(move || ended.send(stuck.synchronize()));
        assert!(end.recv_timeout(Duration::from_millis(100)).is_err());
        // What is left ends with the process, as on a real GPU.
        std::mem::forget((event, spin, context));
    });
}
