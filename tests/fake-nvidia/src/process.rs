//! Runs a test's body in a process of its own: libraries are loaded once per process, and what they see comes from its environment.

use std::{any, env, process::Command};

use crate::{FakeMachine, VARIABLE};

/// Set in the processes that run a body, to the name of the test.
pub const INNER: &str = "FAKE_NVIDIA_TEST";

/// Runs the body of a test on a machine with so many GPUs. It must be a closure that is written in the test function itself.
///
/// # Panics
/// If the body panics.
pub fn on_a_machine<F: FnOnce(&FakeMachine)>(gpus: usize, body: F) {
    on_a_machine_with(gpus, &[], body);
}

/// As [`on_a_machine`], with more variables in the environment.
///
/// # Panics
/// If the body panics.
pub fn on_a_machine_with<F: FnOnce(&FakeMachine)>(gpus: usize, variables: &[(&str, &str)], body: F) {
    if env::var_os(INNER).is_some() {
        return body(&FakeMachine::of_environment().expect("the machine of the outer process"));
    }
    let machine = FakeMachine::new(gpus);
    let mut inner = inner::<F>();
    inner.envs(machine.environment()).envs(variables.iter().copied());
    succeed(inner);
}

/// Runs the body where the libraries are there and no driver is loaded.
///
/// # Panics
/// If the body panics.
pub fn without_a_driver<F: FnOnce()>(body: F) {
    if env::var_os(INNER).is_some() {
        return body();
    }
    let machine = FakeMachine::new(1);
    let mut inner = inner::<F>();
    inner.envs(machine.environment()).env_remove(VARIABLE);
    succeed(inner);
}

/// This executable, told to run the test in which a closure was written.
///
/// # Panics
/// If it was not written in a test.
pub fn inner<F>() -> Command {
    let closure = any::type_name::<F>();
    let (_, path) = closure.split_once("::").expect("a path");
    of_test(path.strip_suffix("::{{closure}}").expect("a closure written in a test"))
}

/// This executable, told to run one test's body.
///
/// # Panics
/// If this executable is gone.
pub fn of_test(test: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("this executable"));
    command.args(["--exact", test, "--nocapture"]).env(INNER, test);
    command
}

/// Runs it, and shows what it said if the test failed.
///
/// # Panics
/// If the test failed.
pub fn succeed(mut command: Command) {
    let output = command.output().expect("a process");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "the inner process: {}\n{text}", output.status);
}
