//! Limits of memory and of CPU time, and files of other kinds: nothing is ever read oftener than without the library, and what
//! is no model of ggml's stays untouched.
//!
//! What is compared is the number of bytes that the process had read from the disk, with and without the library: a time
//! would say less. Where no control group can be made, or the file system keeps its files in memory, a test is skipped.

use std::path::Path;

use zen5turbo_tests::{
    Cold, CpuGroup, Fixture, MemoryGroup, Need, Outcome, Program, Refusal, gemma, llama, skip, synthetic_q4_k, work_dir,
};

const MIB: u64 = 1 << 20;

/// What readings of the same program differ by: libraries that were evicted, and chance in what the kernel evicts.
const NOISE: u64 = 24 * MIB;

fn completion(with: bool) -> Program {
    let program = llama("llama-completion");
    if with { Program::engaged(program) } else { Program::new(program) }
}

/// Runs a program without and with the library, both with a cold model in a group with this limit.
fn both(model: &Cold, bytes: u64, program: impl Fn(bool) -> Program) -> Option<[Outcome; 2]> {
    let run = |with| {
        let group = MemoryGroup::new(bytes)?;
        let inside = Refusal::new().in_group(&group);
        model.drop_pages().then(|| program(with).inside(&inside).run().success())
    };
    let both = [run(false)?, run(true)?];
    both[1].stats().assert_healthy();
    let [stock, with] = [both[0].bytes_read, both[1].bytes_read].map(|bytes| bytes / MIB);
    println!(
        "a model of {} MiB in {}: {stock} MiB read without the library, {with} with it",
        model.size() / MIB,
        bytes / MIB
    );
    Some(both)
}

/// The library may have less read, and no more but for noise.
fn reads_no_more([stock, with]: &[Outcome; 2]) {
    let most = stock.bytes_read + stock.bytes_read / 16 + NOISE;
    assert!(
        with.bytes_read <= most,
        "{} bytes read, without the library {}\n{}",
        with.bytes_read,
        stock.bytes_read,
        with.stats()
    );
}

// ---- how much fits ----

/// Less than the model needs, hardly enough for it, and plenty.
#[test]
fn no_more_is_read_than_without_the_library() {
    at_limits([118, 138, 300]);
}

#[test]
#[ignore = "nightly"]
fn at_every_limit_no_more_is_read_than_without_the_library() {
    at_limits([105, 118, 132, 138, 145, 200, 300]);
}

/// Limits in percent of the model's size.
fn at_limits<const N: usize>(limits: [u64; N]) {
    let model = Cold::new(&gemma());
    for percent in limits {
        let Some(runs) = both(&model, model.size() * percent / 100, |with| model.generation(completion(with), 10))
        else {
            return;
        };
        reads_no_more(&runs);
    }
}

#[test]
fn a_model_in_parts_that_are_larger_together_than_memory_is_streamed_as_one_in_a_file_is() {
    let [whole, parts] = [Cold::new(&synthetic_q4_k()), Cold::split(&synthetic_q4_k(), 3)];
    let limit = 216 * MIB;
    let Some(one) = both(&whole, limit, |with| whole.generation(completion(with), 8)) else { return };
    let Some(three) = both(&parts, limit, |with| parts.generation(completion(with), 8)) else { return };
    reads_no_more(&three);
    for run in [&one[1], &three[1]] {
        assert_eq!(run.stats().events("model_larger_than_memory"), 1, "{}", run.stats());
        assert!(run.stats().number("/memory/prefetch/released") > 0, "{}", run.stats());
    }
    assert!(three[1].bytes_read <= one[1].bytes_read + one[1].bytes_read / 4, "{}", three[1].stats());
}

#[test]
fn graphs_of_single_nodes_read_no_more_than_without_the_library() {
    let model = Cold::new(&synthetic_q4_k());
    let dir = work_dir();
    let fixture = Fixture::new("single_nodes").linked_with_llama().build(&dir, "single_nodes");
    let program = |with| {
        let program = if with { Program::engaged(&fixture) } else { Program::new(&fixture) };
        program.arg(model.file()).arg("80")
    };
    let Some(runs) = both(&model, 216 * MIB, program) else { return };
    let nodes = |run: &Outcome| run.stdout.split(' ').next().map(str::to_owned);
    assert_eq!(nodes(&runs[0]), nodes(&runs[1]));
    reads_no_more(&runs);
}

/// As under `ProcSubset=pid` of systemd.
#[test]
fn where_nobody_tells_how_much_memory_there_is_the_model_is_left_to_the_kernel() {
    let model = Cold::new(&gemma());
    let mount = "mount -t proc -o subset=pid proc /proc && ! test -e /proc/meminfo";
    let can = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", mount])
        .stderr(std::process::Stdio::null())
        .status();
    if !can.is_ok_and(|status| status.success()) {
        return skip(Need::Mount, "no procfs without /proc/meminfo can be mounted here");
    }
    let run = |with| {
        let script = format!("{mount} && exec \"$@\"");
        let args = ["-m", "sh", "-c", &script, "sh"].map(Into::into).to_vec();
        model
            .drop_pages()
            .then(|| model.generation(completion(with), 12).started_by("/usr/bin/unshare", args).run().success())
    };
    let (Some(stock), Some(with)) = (run(false), run(true)) else { return };
    println!("{} MiB read without the library, {} with it", stock.bytes_read / MIB, with.bytes_read / MIB);
    reads_no_more(&[stock, with]);
}

#[test]
fn four_processes_with_one_model_read_it_once() {
    let model = Cold::new(&gemma());
    let dir = work_dir();
    let four = |with| {
        let program = model.generation(completion(with), 8);
        let script =
            "for i in 1 2 3 4; do \"$@\" > /dev/null & p=\"$p $!\"; done; for i in $p; do wait $i || exit 1; done";
        program
            .started_by("/bin/sh", ["-c", script, "sh"].map(Into::into).to_vec())
            .knob("STATS", &format!("{}/%p", dir.path().display()))
    };
    let Some(group) = MemoryGroup::new(model.size() + 600 * MIB) else { return };
    let inside = Refusal::new().in_group(&group);
    let run = |with| model.drop_pages().then(|| four(with).inside(&inside).run().success());
    let (Some(stock), Some(with)) = (run(false), run(true)) else { return };
    println!("four of them read {} MiB without the library, {} with it", stock.bytes_read / MIB, with.bytes_read / MIB);
    assert!(with.bytes_read <= stock.bytes_read + NOISE, "{} and {}", with.bytes_read, stock.bytes_read);
}

#[test]
fn memory_that_somebody_else_takes_in_a_hurry_kills_nobody() {
    const TAKES: u64 = 450;
    let model = Cold::new(&gemma());
    let dir = work_dir();
    let hog = Fixture::new("hog").build(&dir, "hog");
    let sign = dir.path().join("sign");
    // Enough for the hog and for what cannot be evicted, not for the model beside them.
    let limit = (TAKES + 150) * MIB;
    for with in [false, true] {
        let Some(group) = MemoryGroup::new(limit) else { return };
        let _ = std::fs::remove_file(&sign);
        // The model is in use when the hog begins.
        let script = "\"$1\" \"$2\" \"$3\" > /dev/null & h=$!; (sleep 2; : > \"$2\") & shift 3; \"$@\" && wait $h";
        let mut args: Vec<std::ffi::OsString> = ["-c", script, "sh"].map(Into::into).to_vec();
        args.extend([hog.clone().into(), sign.clone().into(), TAKES.to_string().into()]);
        let inside = Refusal::new().in_group(&group);
        let program = model.generation(completion(with), 100).knob("HUGEPAGES", "off");
        let run = program.started_by("/bin/sh", args).inside(&inside).run();
        println!("with the library: {with}; {} MiB read", run.bytes_read / MIB);
        assert!(run.ended_well(), "with the library: {with}\n{run}");
    }
}

// ---- files of other kinds ----

#[test]
fn where_a_filter_may_forbid_asking_what_is_cached_a_cold_model_is_read_ahead() {
    let model = Cold::new(&gemma());
    // 327: preadv2. It is not called where there is a filter: what is cached is found out by reading some bytes.
    for error in ["EOPNOTSUPP", "EPERM", "ENOSYS"] {
        if !model.drop_pages() {
            return;
        }
        let refusal = Refusal::new().call(&format!("327:{error}"));
        let run = model.generation(completion(true), 4).inside(&refusal).run().success();
        let stats = run.stats();
        assert!(stats.number("/memory/prefetch/bytes") > model.size() / 2, "{stats}");
        assert!(run.bytes_read <= model.size() + NOISE, "{} bytes read\n{stats}", run.bytes_read);
    }
}

#[test]
fn on_overlayfs_a_cold_model_is_read_ahead() {
    let model = Cold::new(&gemma());
    let folder = model.file().parent().expect("it lies in a folder");
    let top = work_dir();
    let script = format!(
        "mkdir {0}/upper {0}/work {0}/all && mount -t overlay overlay -o lowerdir={1},upperdir={0}/upper,workdir={0}/work {0}/all",
        top.path().display(),
        folder.display()
    );
    let program = completion(true).arg("-m").arg(top.path().join("all/model.gguf"));
    let program = program.args("-no-cnv --no-warmup --temp 0 --seed 1 -c 512 -b 64 -ub 64 -t 2 -n 4 -p Berlin");
    let script = format!("{script} || exit 77; exec \"$@\"");
    if !model.drop_pages() {
        return;
    }
    let run = program.started_by("/usr/bin/unshare", ["-m", "sh", "-c", &script, "sh"].map(Into::into).to_vec()).run();
    if !run.has_stats() {
        return skip(Need::Mount, "no overlayfs can be mounted here");
    }
    let run = run.success();
    println!("{} MiB read", run.bytes_read / MIB);
    assert!(run.stats().number("/memory/prefetch/bytes") > model.size() / 2, "{}", run.stats());
}

#[test]
fn a_model_in_memory_is_neither_read_ahead_nor_copied() {
    let dir = tempfile::tempdir_in("/dev/shm").expect("there is /dev/shm");
    let file = dir.path().join("model.gguf");
    std::fs::copy(gemma(), &file).expect("there is room in /dev/shm");
    let program = completion(true).arg("-m").arg(&file);
    let run =
        program.args("-no-cnv --no-warmup --temp 0 --seed 1 -c 512 -b 64 -ub 64 -t 1 -n 64 -p Berlin").run().success();
    let stats = run.stats();
    assert_eq!(stats.events("file_in_memory"), 1, "{stats}");
    assert_eq!(stats.number("/memory/prefetch/bytes"), 0, "{stats}");
    assert_eq!(stats.number("/memory/prefetch/released"), 0, "{stats}");
}

// ---- what is not ours ----

/// What the fixture says of the file.
fn reader(fixture: &Path, file: &Path) -> String {
    Program::preloaded(fixture).knob("GATE", "off").arg(file).run().success().stdout.trim().to_owned()
}

#[test]
fn a_program_without_ggml_that_maps_a_model_is_left_untouched() {
    let model = Cold::new(&gemma());
    let dir = work_dir();
    let fixture = Fixture::new("plain_reader").build(&dir, "plain_reader");
    let _ = model.drop_pages();
    assert_eq!(reader(&fixture, model.file()), "reads 0 descriptors 0 threads 0 huge 0");
}

#[test]
fn what_is_no_regular_file_is_not_read_when_it_is_mapped() {
    let dir = work_dir();
    let fixture = Fixture::new("plain_reader").linked_with_ggml().options("-DHAS_GGML").build(&dir, "plain_reader");
    assert_eq!(reader(&fixture, Path::new("/dev/zero")), "reads 0 descriptors 0 threads 0 huge 0");
    // A regular file that is no model: looked at once, and left.
    let other = dir.path().join("other");
    std::fs::write(&other, vec![1; 32 << 20]).expect("there is room");
    assert_eq!(reader(&fixture, &other), "reads 1 descriptors 0 threads 0 huge 0");
}

/// The backend is opened by dlopen there, and before the model is mapped.
#[test]
fn a_program_that_opens_its_backends_has_its_model_mapped_by_the_library() {
    let run =
        Program::engaged(zen5turbo_tests::llama_dl("llama-bench")).arg("-m").arg(gemma()).args("-p 8 -n 2 -r 1 -t 2");
    let run = run.run().success();
    assert!(run.stats().number("/memory/weights/mapped") > 0, "{}", run.stats());
}

// ---- CPU time ----

/// Where a quota is used up by the graph's threads, what runs in the background takes its time from them.
#[test]
fn background_work_rests_where_the_graph_uses_the_quota_of_cpu_time() {
    let Some(group) = CpuGroup::new(1) else { return };
    let script = format!("echo $$ > \"{}\" && exec \"$@\"", group.entrance().display());
    let program = completion(true).arg("-m").arg(gemma()).knob("HUGEPAGES", "thp");
    let program = program.args("-no-cnv --no-warmup --temp 0 --seed 1 -c 512 -t 1 -n 64 -p Berlin");
    let run = program.started_by("/bin/sh", ["-c", &script, "sh"].map(Into::into).to_vec()).run().success();
    let stats = run.stats();
    let [worked, rested] = ["us", "rested_us"].map(|key| stats.number(&format!("/memory/weights/{key}")));
    println!("{worked} us of work, {rested} us of rest");
    assert!(worked == 0 || rested > worked, "{stats}");
}
