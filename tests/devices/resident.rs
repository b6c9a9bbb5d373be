//! Memory of an NVIDIA GPU that stays between tasks: what is particular to CUDA. What every device promises of its memory is among the cases of all devices.

use std::{
    env, io,
    process::{Child, Command, Stdio},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use devices::{
    Device, DeviceBuffer, DeviceMemory, HostBytes, MemoryError, NvidiaGpu, PeerHandle, SharedMemory, SharedPart, Use,
    nvidia::{Host, NvidiaOptions},
};
use fake_nvidia::{
    FakeCopies, FakeCopyFault, FakeMachine, FakeTrouble,
    process::{INNER, of_test, on_a_machine},
};
use futures::FutureExt;
use protocol::{Checksum, GpuId};
use tests::until::until;

use crate::rig::{block_on, first_gpu, found};

const MB: u64 = 1_000_000;
/// More than two chunks of a copy in pieces, and no whole number of words.
const MANY: usize = (9 << 20) + 13;
/// What another process is given: a handle, and what is to become of it.
const HANDLE: &str = "GPUFLEET_TEST_HANDLE";
const EXPECTED: &str = "GPUFLEET_TEST_EXPECTED";
/// Set in a process that holds memory until it is killed.
const HOLDER: &str = "GPUFLEET_TEST_HOLDER";

/// So many bytes, at most [`MANY`], that differ from place to place.
fn pattern(bytes: usize) -> Bytes {
    static ALL: OnceLock<Bytes> = OnceLock::new();
    ALL.get_or_init(|| (0..MANY).map(|at| (at * 31 + at / 251) as u8).collect()).slice(..bytes)
}

async fn filled(memory: &dyn DeviceMemory, bytes: &Bytes) -> DeviceBuffer {
    let buffer = memory.allocate(bytes.len() as u64).await.unwrap();
    memory.write(&buffer, 0, HostBytes::Own(bytes.clone())).await.unwrap();
    buffer
}

fn break_copies(only: Option<FakeCopies>, what: Option<FakeTrouble>) {
    let machine = FakeMachine::of_environment().unwrap();
    let fault = what.map(|what| FakeCopyFault { only, min_bytes: 0, what });
    machine.change(|state| state.gpus[0].copy_faults = fault.into_iter().collect());
}

/// This test's body once more, in a process of its own.
fn once_more(variables: &[(&str, &str)]) -> Command {
    let mut command = of_test(&env::var(INNER).unwrap());
    command.envs(variables.iter().copied());
    command
}

#[test]
fn the_gpu_sums_as_everybody_does() {
    on_a_machine(1, |_| {
        block_on(async {
            let gpu = first_gpu().await;
            let memory = gpu.memory().unwrap();
            let known: Bytes = (0..=20).collect();
            let buffer = filled(memory, &known).await;
            assert_eq!(memory.checksum(&buffer, 0..21).await.unwrap(), Checksum(0x69BA_4D97_8464_564C));
            let many = pattern(MANY);
            let buffer = filled(memory, &many).await;
            let parts = [0..8 << 20, 8 << 20..MANY as u64].map(|part| memory.checksum(&buffer, part));
            let [first, rest] = futures::future::join_all(parts).await.try_into().unwrap();
            assert_eq!(first.unwrap().with(rest.unwrap()), Checksum::of(&many, 0));
            assert_eq!(memory.checksum(&buffer, 16..16).await.unwrap(), Checksum::default());
            assert!(memory.checksum(&buffer, 3..16).await.is_err(), "it would not be that of the whole's words");
        });
    });
}

/// What the other process does with a handle.
async fn import(expected: &str) {
    let host = Host::open().unwrap();
    let gpu = NvidiaGpu::open(&host, found().remove(1), NvidiaOptions { memory_threshold: 0.9 }).unwrap();
    let memory = gpu.memory().unwrap();
    let digits = env::var(HANDLE).unwrap();
    let handle = PeerHandle((0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect());
    let there: GpuId = found().remove(0).description.gpu_id;
    let opened = memory.open(&handle, &there, MANY as u64).await;
    match expected {
        "there is no way" => assert!(matches!(opened, Err(MemoryError::Unsupported { .. })), "{opened:?}"),
        "it fails" => assert!(matches!(opened, Err(MemoryError::Failed { .. })), "{opened:?}"),
        _ => {
            let opened = opened.unwrap();
            let own = memory.allocate(MANY as u64).await.unwrap();
            memory.copy((&opened, 0), (&own, 0), MANY as u64).await.unwrap();
            assert_eq!(memory.resident_bytes(), MANY as u64, "only what is its own");
            drop(opened);
            assert_eq!(memory.checksum(&own, 0..MANY as u64).await.unwrap(), Checksum::of(&pattern(MANY), 0));
            assert_eq!(memory.read(&own, 0, MANY).await.unwrap(), pattern(MANY));
            let longer = memory.open(&handle, &there, MANY as u64 + 1).await;
            assert!(matches!(longer, Err(MemoryError::Failed { .. })), "a copy from beyond its end would cost the GPU: {longer:?}");
        }
    }
    assert!(gpu.cuda().unwrap().is_lost().is_none());
}

#[test]
fn another_process_copies_from_memory_that_was_exported_where_the_gpus_have_a_way() {
    on_a_machine(2, |machine| {
        if let Ok(expected) = env::var(EXPECTED) {
            return block_on(import(&expected));
        }
        block_on(async {
            let gpu = first_gpu().await;
            let memory = gpu.memory().unwrap();
            let buffer = filled(memory, &pattern(MANY)).await;
            let PeerHandle(handle) = memory.export(&buffer).unwrap();
            let digits: String = handle.iter().map(|byte| format!("{byte:02x}")).collect();
            let other_process = |expected: &str| {
                let output = once_more(&[(HANDLE, &digits), (EXPECTED, expected)]).output().unwrap();
                let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
                assert!(output.status.success() && text.contains("1 passed"), "{expected}: {text}");
            };
            other_process("there is no way");
            let here = gpu.description().gpu_id.to_string();
            machine.change(|state| state.gpus[1].peers = vec![here]);
            other_process("it is copied");
            machine.change(|state| state.gpus[1].ipc_open_error = Some(1));
            other_process("it fails");
            machine.change(|state| state.gpus[1].ipc_open_error = Some(801));
            other_process("there is no way");
            let own = memory.open(&PeerHandle(handle), &gpu.description().gpu_id, MANY as u64).await;
            assert!(matches!(own, Err(MemoryError::Unsupported { .. })), "it means nothing here: {own:?}");
            let cut = memory.open(&PeerHandle(vec![1, 2, 3]), &gpu.description().gpu_id, 3).await;
            assert!(matches!(cut, Err(MemoryError::Failed { .. })), "{cut:?}");
        });
    });
}

#[test]
fn where_processes_have_no_handles_everything_else_works() {
    on_a_machine(1, |machine| {
        machine.change(|state| state.gpus[0].ipc_export_error = Some(801));
        block_on(async {
            let gpu = first_gpu().await;
            let memory = gpu.memory().unwrap();
            let buffer = filled(memory, &pattern(1_000)).await;
            assert!(matches!(memory.export(&buffer), Err(MemoryError::Unsupported { .. })));
            assert_eq!(memory.read(&buffer, 10, 900).await.unwrap(), pattern(1_000).slice(10..910));
        });
    });
}

#[test]
fn shared_memory_that_cannot_be_pinned_is_copied_all_the_same() {
    on_a_machine(1, |machine| {
        block_on(async {
            let gpu = first_gpu().await;
            let memory = gpu.memory().unwrap();
            for refusal in [None, Some(801)] {
                machine.change(|state| state.gpus[0].host_register_error = refusal);
                let (from, to) = (SharedMemory::allocate(MANY + 5).unwrap(), SharedMemory::allocate(MANY + 7).unwrap());
                let (from, to) = (Arc::new(from), Arc::new(to));
                from.write_at(5, &pattern(MANY));
                let buffer = memory.allocate(MANY as u64).await.unwrap();
                let part = |memory: &Arc<SharedMemory>, at| SharedPart { memory: Arc::clone(memory), range: at..at + MANY };
                memory.write(&buffer, 0, HostBytes::Shared(part(&from, 5))).await.unwrap();
                memory.read_to(&buffer, 0, part(&to, 7)).await.unwrap();
                let mut read = vec![0; MANY];
                to.read_at(7, &mut read);
                assert_eq!(read, pattern(MANY), "{refusal:?}");
            }
        });
    });
}

#[test]
fn a_chunk_is_not_filled_again_before_the_gpu_has_it() {
    on_a_machine(1, |_| {
        block_on(async {
            let gpu = first_gpu().await;
            let memory = gpu.memory().unwrap();
            let twice: Bytes = [pattern(MANY), pattern(MANY)].concat().into();
            for copies in [FakeCopies::ToGpu, FakeCopies::ToHost] {
                // As on hardware, the pinned memory is read and written late.
                break_copies(Some(copies), Some(FakeTrouble::Stalls(5)));
                let buffer = filled(memory, &twice).await;
                assert_eq!(memory.read(&buffer, 0, twice.len()).await.unwrap(), twice);
            }
        });
    });
}

#[test]
fn memory_that_stays_counts_for_tasks_once_and_not_as_others() {
    on_a_machine(1, |machine| {
        machine.change(|state| state.gpus[0].memory_mib = 1_000);
        block_on(async {
            let gpu = first_gpu().await;
            let memory = gpu.memory().unwrap();
            let begin = |memory_mb: u64| gpu.begin(Use { memory_mb, compute_share: 1.0 });
            // 90 % of 1,048 MB, of which the context has 419.
            until("the context's memory counts", async || begin(600).is_err()).await;
            begin(500).unwrap();
            let buffer = memory.allocate(300 * MB).await.unwrap();
            assert_eq!(memory.resident_bytes(), 300 * MB);
            assert!(begin(300).is_err());
            until("a sample has seen it", async || gpu.sample().memory_used_mb > 700).await;
            begin(200).unwrap();
            let reserved = begin(150).unwrap();
            assert!(begin(100).is_err());
            drop(reserved);
            drop(buffer);
            until("it is given back", async || begin(500).is_ok()).await;
            assert_eq!(memory.resident_bytes(), 0);
        });
    });
}

#[test]
fn memory_is_given_back_with_its_last_owner() {
    on_a_machine(1, |_| {
        block_on(async {
            let gpu = first_gpu().await;
            let (memory, cuda) = (gpu.memory().unwrap(), gpu.cuda().unwrap());
            let before = cuda.memory().await.unwrap().free;
            let buffer = memory.allocate(100 << 20).await.unwrap();
            let clone = buffer.clone();
            drop(buffer);
            assert_eq!(memory.resident_bytes(), 100 << 20);
            assert!(cuda.memory().await.unwrap().free <= before - (100 << 20));
            drop(clone);
            until("its bytes count no more", async || memory.resident_bytes() == 0).await;
            until("the GPU has them", async || cuda.memory().await.unwrap().free == before).await;
            assert_eq!(cuda.allocated(), 0);
        });
    });
}

#[test]
fn a_gpu_without_the_memory_says_how_much_it_has_and_goes_on() {
    on_a_machine(1, |machine| {
        machine.change(|state| state.gpus[0].memory_mib = 1_000);
        block_on(async {
            let gpu = first_gpu().await;
            let memory = gpu.memory().unwrap();
            let refused = memory.allocate(900 << 20).await.unwrap_err();
            let MemoryError::Full { wanted_bytes, free_bytes } = refused else { panic!("{refused}") };
            assert_eq!(wanted_bytes, 900 << 20);
            assert!((1..=600 << 20).contains(&free_bytes), "{free_bytes}");
            assert_eq!(memory.resident_bytes(), 0);
            filled(memory, &pattern(1_000)).await;
            assert!(gpu.cuda().unwrap().is_lost().is_none());
        });
    });
}

#[test]
fn memory_that_was_let_go_of_is_there_for_the_next_at_once() {
    on_a_machine(1, |machine| {
        machine.change(|state| state.gpus[0].memory_mib = 1_000);
        block_on(async {
            let gpu = first_gpu().await;
            for _ in 0..20 {
                drop(gpu.memory().unwrap().allocate(500 << 20).await.unwrap());
            }
        });
    });
}

#[test]
fn what_is_kept_for_the_next_tasks_is_given_up_for_memory_that_stays() {
    on_a_machine(1, |machine| {
        machine.change(|state| state.gpus[0].memory_mib = 1_000);
        block_on(async {
            let gpu = first_gpu().await;
            let cuda = gpu.cuda().unwrap();
            cuda.run(|lane| lane.zeros::<u8>(50 << 20).map(drop)).await.unwrap();
            let wanted = 598 << 20;
            assert!(cuda.memory().await.unwrap().free < wanted, "some is kept");
            gpu.memory().unwrap().allocate(wanted).await.unwrap();
        });
    });
}

#[test]
fn a_copy_that_fails_is_told_and_harms_nothing_else() {
    on_a_machine(1, |_| {
        block_on(async {
            let gpu = first_gpu().await;
            let memory = gpu.memory().unwrap();
            let buffer = filled(memory, &pattern(MANY)).await;
            let other = memory.allocate(MANY as u64).await.unwrap();
            break_copies(None, Some(FakeTrouble::Fails(1)));
            let written = memory.write(&other, 0, HostBytes::Own(pattern(MANY))).await;
            let read = memory.read(&buffer, 0, MANY).await;
            let copied = memory.copy((&buffer, 0), (&other, 0), MANY as u64).await;
            for outcome in [written, read.map(drop), copied] {
                assert!(matches!(outcome, Err(MemoryError::Failed { .. })), "{outcome:?}");
            }
            break_copies(None, None);
            memory.copy((&buffer, 0), (&other, 0), MANY as u64).await.unwrap();
            assert_eq!(memory.read(&other, 0, MANY).await.unwrap(), pattern(MANY));
            assert!(gpu.cuda().unwrap().is_lost().is_none());
        });
    });
}

#[test]
fn a_byte_that_changed_on_its_way_shows_in_the_sum() {
    on_a_machine(1, |_| {
        block_on(async {
            let gpu = first_gpu().await;
            let memory = gpu.memory().unwrap();
            let buffer = filled(memory, &pattern(MANY)).await;
            break_copies(Some(FakeCopies::Between), Some(FakeTrouble::Corrupts));
            let copy = memory.allocate(MANY as u64).await.unwrap();
            memory.copy((&buffer, 0), (&copy, 0), MANY as u64).await.unwrap();
            let sums = [memory.checksum(&buffer, 0..MANY as u64).await.unwrap(), memory.checksum(&copy, 0..MANY as u64).await.unwrap()];
            assert_ne!(sums[0], sums[1]);
        });
    });
}

#[test]
fn a_copy_that_nobody_waits_for_any_more_keeps_its_memory_until_it_is_through() {
    on_a_machine(1, |_| {
        block_on(async {
            let gpu = first_gpu().await;
            let memory = gpu.memory().unwrap();
            let buffer = filled(memory, &pattern(MANY)).await;
            break_copies(None, Some(FakeTrouble::Stalls(100)));
            assert!(memory.read(&buffer, 0, MANY).now_or_never().is_none(), "it stalls");
            assert!(memory.write(&buffer, 0, HostBytes::Own(pattern(MANY))).now_or_never().is_none(), "so does this");
            break_copies(None, None);
            drop(buffer);
            filled(memory, &pattern(MANY)).await;
            until("both are through, and all is given back", async || memory.resident_bytes() == 0).await;
            assert!(gpu.cuda().unwrap().is_lost().is_none());
        });
    });
}

#[test]
fn a_lost_gpu_answers_for_its_memory_and_lets_go_of_it() {
    on_a_machine(1, |_| {
        block_on(async {
            let gpu = first_gpu().await;
            let memory = gpu.memory().unwrap();
            let buffer = filled(memory, &pattern(MANY)).await;
            let shared = Arc::new(SharedMemory::allocate(MANY).unwrap());
            memory.read_to(&buffer, 0, SharedPart { memory: Arc::clone(&shared), range: 0..MANY }).await.unwrap();
            crate::work::fault(gpu.cuda().unwrap()).await;
            let read = memory.read(&buffer, 0, MANY).await;
            assert!(matches!(&read, Err(MemoryError::Failed { reason, .. }) if reason.contains("is lost")), "{read:?}");
            assert!(memory.allocate(1_000).await.is_err());
            drop((buffer, shared, gpu));
        });
    });
}

/// Ends a process, whatever becomes of the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn what_a_killed_process_had_is_the_gpus_again() {
    on_a_machine(1, |_| {
        if env::var_os(HOLDER).is_some() {
            return block_on(async {
                let gpu = first_gpu().await;
                let _held = gpu.memory().unwrap().allocate(1_000 << 20).await.unwrap();
                io::stdin().lines().for_each(drop);
            });
        }
        block_on(async {
            let gpu = first_gpu().await;
            let cuda = gpu.cuda().unwrap();
            let free = async || cuda.memory().await.unwrap().free;
            let before = free().await;
            let holder = Killed(once_more(&[(HOLDER, "1")]).stdin(Stdio::piped()).spawn().unwrap());
            until("it holds memory", async || free().await < before - (1_000 << 20)).await;
            drop(holder);
            until("the memory is back", async || free().await == before).await;
        });
    });
}

#[test]
fn work_on_a_lane_reads_and_fills_memory_that_stays() {
    on_a_machine(1, |_| {
        block_on(async {
            let gpu = first_gpu().await;
            let (memory, cuda) = (gpu.memory().unwrap(), gpu.cuda().unwrap());
            let bytes = |numbers: &[f32]| numbers.iter().flat_map(|number| number.to_ne_bytes()).collect::<Bytes>();
            let a = filled(memory, &bytes(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])).await;
            let b = filled(memory, &bytes(&[1.0, 0.0, 0.0, 2.0])).await;
            let product = memory.allocate(24).await.unwrap();
            let (of_work, kept) = ((a.clone(), b), product.clone());
            let ran = cuda.run(move |lane| {
                let (a, b) = of_work;
                let (two_rows, b) = (lane.resident::<f32>(&a, 2..6)?, lane.resident::<f32>(&b, 0..4)?);
                let mut last_rows = lane.resident::<f32>(&kept, 2..6)?;
                lane.multiply_into(&two_rows, &b, [2, 2, 2], &mut last_rows)?;
                let mut first_row = lane.resident::<f32>(&kept, 0..2)?;
                lane.copy(&lane.resident(&a, 0..2)?, &mut first_row)?;
                let beyond = lane.resident::<f32>(&a, 5..7).map(drop);
                assert!(beyond.unwrap_err().to_string().contains("6 numbers has none from 5 to 7"));
                Ok(())
            });
            assert_eq!(ran.await.unwrap().peak_bytes, 0, "it is not the work's");
            assert_eq!(memory.read(&product, 0, 24).await.unwrap(), bytes(&[1.0, 2.0, 3.0, 8.0, 5.0, 12.0]));
            assert_eq!(memory.read(&a, 0, 8).await.unwrap(), bytes(&[1.0, 2.0]));
        });
    });
}
