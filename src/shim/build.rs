//! How the library is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // A plugin that brought the library in may be closed again, while threads and hooks of the library are in use.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
