//! ggml's own buffers on huge pages.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use zen5turbo_tests::{Fixture, MILAN, Outcome, Program, ZEN5, gemma, llama, llama_dl, work_dir};

fn fixture(dir: &TempDir) -> PathBuf {
    Fixture::new("buffers").linked_with_ggml().build(dir, "buffers")
}

fn passed(run: &Outcome) {
    assert_eq!(run.stdout, "0 failures\n", "{run}");
    // ggml's own warning about size 0
    assert!(run.stderr.lines().all(|line| line.contains("allocating 0 bytes")), "{run}");
    run.stats().assert_healthy();
}

#[test]
fn large_buffers_lie_on_huge_pages_and_come_back() {
    let dir = work_dir();
    let run = Program::engaged(fixture(&dir)).arg("huge").knob("HUGEPAGES", "thp").run().success();
    passed(&run);
    let stats = run.stats();
    assert_eq!(stats.number("/memory/buffers/freed"), stats.number("/memory/buffers/thp/count"), "{stats}");
    assert!(stats.number("/memory/buffers/thp/count") > 1000, "{stats}");
    assert_eq!(stats.events("buffer_freed_elsewhere"), 3, "{stats}");
}

#[test]
fn switched_off_every_buffer_is_the_originals() {
    let dir = work_dir();
    let program = fixture(&dir);
    let run = Program::engaged(&program).arg("plain").knob("HUGEPAGES", "off").run().success();
    passed(&run);
    assert_eq!(run.stats().number("/memory/buffers/thp/count"), 0);
    let run = Program::preloaded(&program).arg("plain").var("ZEN5TURBO", "0").run().success();
    assert_eq!(run.stdout, "0 failures\n", "{run}");
    for cpu in [ZEN5, MILAN] {
        let run = Program::preloaded(&program).arg("plain").on(cpu).knob("GATE", "passthrough").run().success();
        assert_eq!(run.stdout, "0 failures\n", "{run}");
    }
}

/// Without reserved pages, as on most machines, each buffer steps down to transparent ones. With 100 of them
/// (`sysctl vm.nr_hugepages=100`) the fixture's single buffers get them and its four threads exhaust them.
#[test]
fn reserved_pages_are_used_or_the_step_down_is_counted() {
    let meminfo = std::fs::read_to_string("/proc/meminfo").expect("/proc is mounted");
    let free = meminfo.lines().find_map(|line| line.strip_prefix("HugePages_Free:")?.trim().parse::<u64>().ok());
    let word = if free.unwrap_or(0) >= 100 { "reserved" } else { "huge" };
    let dir = work_dir();
    let program = fixture(&dir);
    for size in ["2m", "1g"] {
        let run = Program::engaged(&program).arg(word).knob("HUGEPAGES", size).run().success();
        passed(&run);
        let stats = run.stats();
        let (reserved, thp) =
            (stats.number("/memory/buffers/hugetlb_2m/count"), stats.number("/memory/buffers/thp/count"));
        assert_eq!(stats.events("hugetlb_2m_missing") + stats.events("hugetlb_not_populated"), thp, "{stats}");
        assert_eq!(stats.number("/memory/buffers/freed"), reserved + thp, "{stats}");
        assert!(reserved + thp > 1000 && (reserved > 0) == (word == "reserved"), "{stats}");
    }
}

/// Of the memory of a program that runs with these options and arguments: the most bytes seen on transparent huge pages before its
/// first output and at all, and its statistics.
fn seen_on_huge_pages(program: &Path, pages: &str, more: &str) -> (u64, u64, Outcome) {
    // The shell samples the program's memory while it runs.
    let script = r#"out=$(mktemp); "$0" "$@" >$out 2>/dev/null & p=$!
        while kill -0 $p 2>/dev/null; do
            echo "$(stat -c %s $out) $(grep AnonHugePages /proc/$p/smaps_rollup 2>/dev/null)"; sleep 0.02
        done; rm -f $out; wait $p"#;
    let run =
        Program::engaged("/bin/sh").knob("HUGEPAGES", pages).arg("-c").arg(script).arg(program).arg("-m").arg(gemma());
    let run = run.args("-p Hello -no-cnv -t 2 --no-warmup").args(more).run().success();
    let (mut before, mut most) = (0, 0);
    for line in run.stdout.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (Some(Ok(written)), Some(Ok(kib))) =
            (words.first().map(|w| w.parse::<u64>()), words.get(2).map(|w| w.parse::<u64>()))
        else {
            continue;
        };
        most = most.max(kib * 1024);
        if written == 0 {
            before = before.max(kib * 1024);
        }
    }
    (before, most, run)
}

/// A KV cache of 576 MiB for the largest context of this model, and compute buffers.
#[test]
fn the_kv_cache_of_llama_cpp_lies_on_huge_pages() {
    for program in [llama("llama-completion"), llama_dl("llama-completion")] {
        let (_, most, run) = seen_on_huge_pages(&program, "thp", "-c 32768 --swa-full -n 8");
        let stats = run.stats();
        let bytes = stats.number("/memory/buffers/thp/bytes");
        assert!(bytes >= 512 << 20, "{stats}");
        stats.assert_healthy();
        assert!(most >= 512 << 20, "{most} bytes on huge pages, {bytes} bytes of buffers");
    }
}

/// A program that loads does not wait for huge pages. With no weights mapped, as Ollama has it on CPUs: 235 MiB of them.
#[test]
fn by_default_buffers_move_to_huge_pages_when_graphs_run() {
    let (before, most, run) =
        seen_on_huge_pages(&llama("llama-completion"), "auto", "-c 2048 -n 600 --ignore-eos --load-mode none");
    assert!(before < 16 << 20, "{before} bytes before the first word");
    assert!(most >= 32 << 20, "{most} bytes on huge pages");
    run.stats().assert_healthy();
}
