//! Every helper is inlined into its kernel.
//!
//! A vector helper that the compiler leaves out of line is called once per vector, passes vectors
//! through memory, and costs more than the product. So a function with target features calls nothing
//! at all; read here from the machine code of the library. (What is shipped has no names: it is built of the same code.)

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use zen5turbo_kernels::formats::WeightType;
use zen5turbo_tests::shim;

/// Modules of functions with target features, and the other such functions.
const KERNEL_MODULES: [&str; 3] = ["registry::avx2::", "registry::vnni256::", "registry::avx512::"];
/// Those of fewer types, and with one kernel each where the CPU has AVX512_BF16.
const OTHER_MODULES: [&str; 6] = [
    "registry::avx512_gemv::",
    "registry::avx512_fused::",
    "registry::avx512_pair::",
    "registry::vnni256_bf16::",
    "registry::avx512_bf16::",
    "registry::f16_as_bf16::",
];
/// Those of attention.
const ATTENTION_MODULES: [&str; 3] =
    ["attention::functions::avx2::", "attention::functions::vnni256::", "attention::functions::avx512::"];
/// Those of operations that are no products.
const OPS_MODULES: [&str; 3] = ["ops::functions::avx2::", "ops::functions::vnni256::", "ops::functions::avx512::"];
const QUANTISERS: [&str; 3] = [
    "zen5turbo_kernels::act::avx2::quantize_",
    "zen5turbo_kernels::act::avx512::quantize_",
    "zen5turbo_kernels::act::rows::quantize_",
];

/// What `objdump` says of a library.
fn objdump(options: &[&str], library: &Path) -> String {
    let out = Command::new("objdump").args(options).arg(library).output();
    let out = out.expect("objdump runs (Debian: apt-get install binutils)");
    assert!(out.status.success(), "objdump: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("objdump writes UTF-8")
}

fn address(hex: &str) -> u64 {
    u64::from_str_radix(hex, 16).expect("an address")
}

#[derive(Debug)]
struct Function {
    name: String,
    /// Where its calls go: an address, or the name of a function of a shared library.
    calls: Vec<Result<u64, String>>,
}

/// The functions of a library by address.
fn functions(library: &Path) -> BTreeMap<u64, Function> {
    // Calls into other crates go through the global offset table: slot -> target.
    let mut slots = BTreeMap::new();
    for line in objdump(&["-R"], library).lines() {
        // `00000000001688a8 R_X86_64_RELATIVE  *ABS*+0x00000000000b5d30`, `... R_X86_64_GLOB_DAT  memcpy@...`
        let words: Vec<_> = line.split_whitespace().collect();
        if let [slot, kind, value] = words[..]
            && kind.starts_with("R_X86_64")
        {
            let target = value.strip_prefix("*ABS*+0x").map(address).ok_or_else(|| value.to_owned());
            slots.insert(address(slot), target);
        }
    }
    let mut functions = BTreeMap::new();
    let mut current = 0;
    for line in objdump(&["-d", "--no-show-raw-insn", "-C"], library).lines() {
        // `0000000000001f20 <name>:`
        if let Some((at, name)) = line.strip_suffix(">:").and_then(|l| l.split_once(" <")) {
            current = address(at);
            functions.insert(current, Function { name: name.to_owned(), calls: vec![] });
            continue;
        }
        // `    1f2c:\tcall   1f0d0 <name>`, `call   *0x95db8(%rip)        # 1688a8 <...>`; the linker
        // makes `addr32 call` of some. A jump to the start of another function is a call as well.
        let Some((_, code)) = line.split_once(":\t") else { continue };
        let code = code.trim_start_matches("addr32 ");
        let Some((mnemonic, operand)) = code.split_once(' ') else { continue };
        let target = match operand.split_once("# ") {
            Some((_, slot)) => slots.get(&address(slot.split(' ').next().unwrap_or_default())).cloned(),
            None => operand.trim_start().split(' ').next().and_then(|t| u64::from_str_radix(t, 16).ok()).map(Ok),
        };
        let leaves = mnemonic == "call" || (mnemonic.starts_with('j') && !operand.contains("+0x"));
        if let (true, Some(target), Some(function)) = (leaves, target, functions.get_mut(&current))
            && target != Ok(current)
        {
            function.calls.push(target);
        }
    }
    functions
}

#[test]
fn no_kernel_calls_a_helper() {
    check(&shim());
}

fn check(library: &Path) {
    let functions = functions(library);
    let library = library.display();
    let is_in = |name: &str, module: &str| name.contains("zen5turbo_kernels") && name.contains(module);
    for module in KERNEL_MODULES {
        let n = functions.values().filter(|f| is_in(&f.name, module)).count();
        // a packing function for each type, and micro-kernels for several widths
        assert!(n >= 2 * WeightType::ALL.len(), "only {n} functions of {module} in {library}");
    }
    for module in ATTENTION_MODULES {
        let n = functions.values().filter(|f| is_in(&f.name, module)).count();
        // sums of values of two types, for one to six queries
        assert!(n >= 12, "only {n} functions of {module} in {library}");
    }
    for module in OPS_MODULES {
        let n = functions.values().filter(|f| is_in(&f.name, module)).count();
        // equal code of several forms is one function in the end
        assert!(n >= 15, "only {n} functions of {module} in {library}");
    }
    let is_quantiser = |name: &str| QUANTISERS.iter().any(|q| name.starts_with(q));
    for quantiser in QUANTISERS {
        assert!(functions.values().any(|f| f.name.starts_with(quantiser)), "no {quantiser} in {library}");
    }
    let mut wrong = vec![];
    for Function { name, calls } in functions.values() {
        let quantises = is_quantiser(name);
        if quantises
            || KERNEL_MODULES
                .iter()
                .chain(&OTHER_MODULES)
                .chain(&ATTENTION_MODULES)
                .chain(&OPS_MODULES)
                .any(|m| is_in(name, m))
        {
            for call in calls {
                let target = match call {
                    Ok(at) => functions.get(at).map_or("an unnamed function", |f| &f.name),
                    Err(library) => library,
                };
                let call = format!("{name} calls {target}");
                // one of them hands whole tiles to the other
                if !(quantises && is_quantiser(target)) {
                    wrong.push(call);
                }
            }
        }
    }
    wrong.dedup();
    assert!(
        wrong.is_empty(),
        "{library}: not inlined (a kernel calls nothing, not even a panic; LTO is needed):\n{}",
        wrong.join("\n")
    );
}
