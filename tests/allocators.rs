//! Two models under allocators that map, unmap and purge with a lock of their own: nothing waits for ever.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use zen5turbo_tests::{Fixture, Program, copied_fixture, gemma, llama, need, shim, work_dir};

/// The library, and what has it give memory back at once.
struct Allocator {
    library: PathBuf,
    settings: &'static [(&'static str, &'static str)],
}

/// Debian's builds, and one of ours that maps every large block.
fn allocators(dir: &TempDir) -> [Allocator; 4] {
    let debian = |name| need(Path::new("/usr/lib/x86_64-linux-gnu").join(name), "scripts/setup.sh preloads");
    let ours = Fixture::new("mapping_malloc").options("-shared -fPIC -fno-builtin").build(dir, "mapping_malloc.so");
    [
        Allocator {
            library: debian("libjemalloc.so.2"),
            settings: &[("MALLOC_CONF", "dirty_decay_ms:0,muzzy_decay_ms:0,retain:false")],
        },
        Allocator {
            library: debian("libmimalloc.so.2"),
            settings: &[("MIMALLOC_PURGE_DELAY", "0"), ("MIMALLOC_RESET_DELAY", "0"), ("MIMALLOC_PAGE_RESET", "1")],
        },
        Allocator { library: debian("libtcmalloc_minimal.so.4"), settings: &[("TCMALLOC_RELEASE_RATE", "1000")] },
        Allocator { library: ours, settings: &[] },
    ]
}

/// Where the shim is in LD_PRELOAD: before the allocator, or after it.
#[derive(Clone, Copy, PartialEq)]
enum Shim {
    First,
    Last,
}

/// The program with the shim and each of the allocators, in each of these orders.
fn with_allocators(dir: &TempDir, orders: &[Shim], program: impl Fn() -> Program, check: impl Fn(Program)) {
    for allocator in allocators(dir) {
        for &order in orders {
            let mut list = [shim(), allocator.library.clone()];
            if order == Shim::Last {
                list.reverse();
            }
            let list = list.map(|path| path.display().to_string()).join(":");
            println!("{list}");
            let set = |program: Program, (name, value): &(&str, &str)| program.var(name, value);
            check(allocator.settings.iter().fold(program().var("LD_PRELOAD", list), set));
        }
    }
}

#[test]
fn two_models_are_mapped_copied_and_unmapped_while_other_threads_allocate() {
    two_models(&[Shim::First]);
}

#[test]
#[ignore = "nightly"]
fn two_models_are_mapped_copied_and_unmapped_with_the_allocator_before_the_shim() {
    two_models(&[Shim::Last]);
}

fn two_models(orders: &[Shim]) {
    let dir = work_dir();
    let (program, model) = copied_fixture(&dir);
    for pages in ["thp", "auto"] {
        // Where nothing is copied the fixture would wait for copies.
        let mode = if pages == "thp" { "two" } else { "replaced" };
        with_allocators(
            &dir,
            orders,
            || {
                Program::engaged(&program)
                    .knob("KERNELS", "avx2")
                    .knob("HUGEPAGES", pages)
                    .arg(mode)
                    .arg(&model)
                    .arg("quick")
            },
            |program| {
                let run = program.run().success();
                assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("0 failures\n", ""), "{run}");
                run.stats().assert_healthy();
            },
        );
    }
}

#[test]
fn llama_server_with_a_draft_model_answers() {
    draft_model_answers(&[Shim::First]);
}

#[test]
#[ignore = "nightly"]
fn llama_server_with_a_draft_model_answers_with_the_allocator_before_the_shim() {
    draft_model_answers(&[Shim::Last]);
}

/// A server with a model and a draft model, which are unmapped at its end.
fn draft_model_answers(orders: &[Shim]) {
    const ASK: &str = r#"
import json, subprocess, sys, time, urllib.request
server = subprocess.Popen(sys.argv[2:], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
url = "http://127.0.0.1:" + sys.argv[1]
while server.poll() is None:
    try:
        urllib.request.urlopen(url + "/health").read()
        break
    except OSError:
        time.sleep(0.1)
body = {"prompt": "Berlin", "n_predict": 16, "temperature": 0, "seed": 1}
request = urllib.request.Request(url + "/completion", json.dumps(body).encode(), {"Content-Type": "application/json"})
print(json.load(urllib.request.urlopen(request))["content"])
server.terminate()
sys.exit(server.wait())
"#;
    let dir = work_dir();
    let server = |start: fn(&str) -> Program| {
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port().to_string();
        let program = start("/usr/bin/env").args("python3 -c").arg(ASK).arg(&port).arg(llama("llama-server"));
        let program = program.arg("-m").arg(gemma()).arg("-md").arg(gemma()).arg("--port").arg(port);
        program.args("-t 2 -c 256 -b 64 -ub 64 --no-warmup").knob("HUGEPAGES", "thp")
    };
    let stock = server(|path| Program::new(path)).run().success();
    assert!(stock.stdout.len() > 10, "{stock}");
    with_allocators(
        &dir,
        orders,
        || server(|path| Program::engaged(path)),
        |program| assert!(program.run().success().stdout.len() > 10),
    );
}
