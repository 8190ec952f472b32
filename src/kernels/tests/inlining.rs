//! Every helper is inlined into its kernel.
//!
//! A kernel enables its target features for itself alone. A vector helper that the compiler leaves out
//! of line is called once per vector, passes vectors through memory, and costs more than the product.
//! So no function of the kernel modules may call anything of this crate or of `core::arch`, which is
//! read here from this test program's own machine code.

#![cfg(not(debug_assertions))] // without optimisation nothing is inlined

use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::Command;
use zen5turbo_kernels::formats::WeightType;
use zen5turbo_kernels::isa::Isa;
use zen5turbo_kernels::registry;

const KERNEL_MODULES: [&str; 3] = ["registry::avx2::", "registry::vnni256::", "registry::avx512::"];
const QUANTISERS: &str = "zen5turbo_kernels::act::quantize_";

/// What each function of the program calls, by `objdump`; names carry the address, since instances of a
/// generic function print alike.
fn calls() -> BTreeMap<String, Vec<String>> {
    let program = std::env::current_exe().expect("the path of this program");
    let out = Command::new("objdump")
        .args(["-d", "--no-show-raw-insn", "-C"])
        .arg(program)
        .output()
        .expect("objdump runs (Debian: apt-get install binutils)");
    assert!(out.status.success(), "objdump: {}", String::from_utf8_lossy(&out.stderr));
    let mut functions = BTreeMap::<String, Vec<String>>::new();
    let mut current = String::new();
    for line in String::from_utf8(out.stdout).expect("objdump writes UTF-8").lines() {
        // `0000000000001f20 <name>:`
        if let Some((address, name)) = line.strip_suffix(">:").and_then(|l| l.split_once(" <")) {
            current = format!("{name} at {}", address.trim_start_matches('0'));
            functions.insert(current.clone(), vec![]);
            continue;
        }
        // `    1f2c:\tcall   1f0d0 <name>`; a jump to the start of another function is a call as well
        let Some((_, code)) = line.split_once(":\t") else { continue };
        let leaves = code.starts_with("call") || (code.starts_with('j') && !code.contains("+0x"));
        if leaves && let Some(calls) = functions.get_mut(&current) {
            let target = code.split_once(" <").map_or(code, |(_, name)| name.trim_end_matches('>'));
            if !current.starts_with(&format!("{target} at ")) {
                calls.push(target.to_owned());
            }
        }
    }
    functions
}

#[test]
fn no_kernel_calls_a_helper() {
    // what nobody looks at would not be in this program
    Isa::ALL.into_iter().filter_map(registry::kernels).for_each(|kernels| _ = black_box(kernels));
    let functions = calls();
    let is_in = |name: &str, module: &str| name.contains("zen5turbo_kernels") && name.contains(module);
    for module in KERNEL_MODULES {
        let n = functions.keys().filter(|name| is_in(name, module)).count();
        // a packing function for each type, and micro-kernels for several widths
        assert!(n >= 2 * WeightType::ALL.len(), "only {n} functions of {module} in this program");
    }
    let mut wrong = vec![];
    for (name, calls) in &functions {
        if name.starts_with(QUANTISERS) || KERNEL_MODULES.iter().any(|m| is_in(name, m)) {
            // `core` is its arch module and the panics, which a kernel has no reason to make
            let outside = |call: &&String| ["zen5turbo_kernels", "core::", "core_arch"].iter().any(|c| call.contains(c));
            wrong.extend(calls.iter().filter(outside).map(|call| format!("{name} calls {call}")));
        }
    }
    assert!(wrong.is_empty(), "not inlined:\n{}", wrong.join("\n"));
}
