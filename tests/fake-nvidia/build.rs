//! The tests of this crate find the libraries beside themselves, where `libraries_beside` puts them.

fn main() {
    println!("cargo::rustc-link-arg-tests=-Wl,-rpath,$ORIGIN/fake-nvidia");
    println!("cargo::rerun-if-changed=build.rs");
}
