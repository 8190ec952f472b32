//! Real containers: llama-server as Ollama's image has it, with the shim that the files in `scripts/ollama` put there.
//!
//! Each test starts stock and the shim in containers with the same options. Both must give the same text, the shim
//! must have computed the products, and the log must have no line of its own. Where no container can run, a test is
//! skipped with the words of the program that refused.

use std::fs;

use zen5turbo_tests::{
    Container, Engine, MILAN, OLLAMA, PREFIX, Program, Stats, command, only_program, unpacked, work_dir,
};

/// Continued alike by stock and by the shim, whose sums differ in their order.
const PROMPT: &str = "Monday, Tuesday,";

/// The next two days and their commas. On a busy machine each token costs much time, since ggml's threads spin.
const TOKENS: u32 = 4;

/// One thread for stock's runner where it may use one CPU. Without it there is one for each core of the machine, and those that share
/// a CPU wait for each other: with two of them stock takes minutes to answer. The shim's runner finds that out by itself.
const ONE_THREAD: &str = "--env LLAMA_ARG_THREADS=1";

/// The tests run on any CPU.
const GATE_OFF: &str = "--env ZEN5TURBO_GATE=off";

fn assert_took_over(stats: &Stats) {
    for ty in ["q4_K", "q5_0", "q6_K", "q8_0"] {
        assert!(stats.taken("MUL_MAT", Some(ty)) > 0, "{ty} was not taken\n{stats}");
    }
    stats.assert_healthy();
}

/// The shim's lines in a container's log.
fn own_lines(container: &Container) -> Vec<String> {
    container.log().lines().filter_map(|line| line.strip_prefix(PREFIX)).map(str::to_owned).collect()
}

/// Stock's continuation of the prompt in a container with these options.
fn stock(engine: &Engine, options: &str) -> String {
    let answer = engine.run(OLLAMA, options).complete(PROMPT, TOKENS);
    assert!(answer.contains("Wednesday"), "{answer:?}");
    answer
}

/// The container has answered: it must have computed here, and end well and in silence.
fn assert_engaged_and_silent(container: &Container) {
    assert_took_over(&container.stats());
    assert_eq!(container.stop(), 0, "{}", container.log());
    assert_eq!(own_lines(container), [""; 0]);
}

/// Stock and the shim in containers with these options of `podman run`.
fn answers_as_stock_does(options: &str) {
    answers_as_stock_does_with(options, "", |_| ());
}

/// The same where stock's container needs other options too, with a look at the shim's container while it runs.
fn answers_as_stock_does_with(options: &str, of_stock: &str, look: impl FnOnce(&Container)) {
    let Some(engine) = Engine::new() else { return };
    let shim = engine.run(engine.with_shim(), &format!("{GATE_OFF} {options}"));
    assert_eq!(shim.complete(PROMPT, TOKENS), stock(&engine, &format!("{options} {of_stock}")));
    look(&shim);
    assert_engaged_and_silent(&shim);
}

/// The runner was started with a thread for each core of the machine; its graphs have one, for this reason.
fn assert_one_thread(container: &Container, reason: &str) {
    let top = container.exec("zen5turbo top --once").success();
    let line = top.stdout.lines().find(|line| line.starts_with("threads ")).unwrap_or_else(|| panic!("{top}"));
    assert!(line.contains(&format!(", used 1 ({reason}")), "{line}");
}

#[test]
fn the_image_of_the_dockerfile_answers_and_its_command_tells() {
    let Some(engine) = Engine::new() else { return };
    let shim = engine.run(engine.with_shim(), GATE_OFF);
    assert_eq!(shim.complete(PROMPT, TOKENS), stock(&engine, ""));
    let top = shim.exec("zen5turbo top --once").success();
    assert!(top.stdout.contains("llama-server") && top.stdout.contains("q4_K"), "{top}");
    let all = shim.exec("zen5turbo doctor --all").success();
    assert!(all.stdout.contains("/usr/lib/ollama/llama-server: has engaged\n"), "{all}");
    assert!(all.stdout.contains("verdict: the shim has engaged in the process that loads ggml"), "{all}");
    // The command outside sees it as well.
    let runner = shim.runner().to_string();
    assert_took_over(&only_program(&Program::new(command()).args("top --json").arg(&runner).run().success()));
    let doctor = Program::new(command()).args("doctor").arg(&runner).run().success();
    assert!(doctor.stdout.ends_with("verdict: has engaged\n"), "{doctor}");
    assert_engaged_and_silent(&shim);
}

/// The lines of the file are those that compose turns into options.
#[test]
fn the_unchanged_image_with_the_mounts_of_the_compose_file_answers() {
    let Some(engine) = Engine::new() else { return };
    let dir = work_dir();
    let folder = unpacked(dir.path()).join("scripts/ollama");
    let file = fs::read_to_string(folder.join("compose.yaml")).expect("the archive has it");
    let mounts = file.lines().filter_map(|line| line.trim().strip_prefix("- ../../"));
    let mut options: Vec<_> = mounts.map(|mount| format!("--volume {}/../../{mount}", folder.display())).collect();
    assert_eq!(options.len(), 2, "{file}");
    let preload = file.lines().find_map(|line| line.trim().strip_prefix("LD_PRELOAD: ")).expect("it sets LD_PRELOAD");
    options.extend([format!("--env LD_PRELOAD={preload}"), GATE_OFF.to_owned()]);
    assert!(file.contains(&format!("image: {OLLAMA}\n")), "{file}");
    let shim = engine.run(OLLAMA, &options.join(" "));
    assert!(shim.complete(PROMPT, TOKENS).contains("Wednesday"));
    assert_engaged_and_silent(&shim);
}

/// The model has 253 MB.
#[test]
fn another_user_with_a_read_only_root_no_capabilities_and_little_memory_gets_the_same() {
    answers_as_stock_does("--user 1000:1000 --read-only --cap-drop all --memory 640m");
}

#[test]
fn root_without_capabilities_gets_the_same() {
    answers_as_stock_does("--cap-drop all --security-opt no-new-privileges");
}

#[test]
fn a_quota_of_one_cpu_changes_nothing() {
    answers_as_stock_does_with("--cpus 1", "", |shim| assert_one_thread(shim, "CPU quota 100000/100000 us of "));
}

#[test]
fn a_quota_that_is_no_whole_number_of_cpus_changes_nothing() {
    answers_as_stock_does_with("--cpus 1.5", "", |shim| assert_one_thread(shim, "CPU quota 150000/100000 us of "));
}

#[test]
fn one_cpu_of_several_changes_nothing() {
    let cpu = first_cpu();
    answers_as_stock_does_with(&format!("--cpuset-cpus {cpu}"), ONE_THREAD, |shim| {
        assert_one_thread(shim, &format!("CPUs allowed: {cpu}"));
    });
}

/// The first CPU that this process may use.
fn first_cpu() -> String {
    let status = fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a line");
    list.trim().split([',', '-']).next().expect("a number").to_owned()
}

/// Ollama ends its runner by SIGKILL, which no exit handler sees.
#[test]
fn the_statistics_file_of_a_runner_that_is_killed_is_written() {
    let Some(engine) = Engine::new() else { return };
    let out = work_dir();
    let options = format!("{GATE_OFF} --volume {}:/stats --env ZEN5TURBO_STATS=/stats/%p.json", out.path().display());
    let shim = engine.run(engine.with_shim(), &options);
    assert!(shim.complete(PROMPT, TOKENS).contains("Wednesday"));
    assert_eq!(shim.stop(), 0, "{}", shim.log());
    let files = fs::read_dir(out.path()).expect("the folder is there").map(|entry| entry.expect("an entry").path());
    let all: Vec<_> = files.map(|file| Stats::parse(&fs::read_to_string(file).expect("a text"))).collect();
    // The process that lists the devices has a file as well, and has computed nothing.
    let computed: Vec<_> = all.iter().filter(|stats| stats.taken("MUL_MAT", None) > 0).collect();
    assert_eq!(computed.len(), 1, "of {} files", all.len());
    assert_took_over(computed[0]);
}

/// The image says nothing about the gate, which is strict then.
#[test]
fn on_another_cpu_than_a_zen5_the_log_has_one_line_for_each_process_with_ggml() {
    let Some(engine) = Engine::new() else { return };
    let container = engine.run(engine.with_shim(), &format!("--env ZEN5TURBO_TEST_CPU={MILAN}"));
    assert_eq!(container.wait(), 1);
    let lines = own_lines(&container);
    assert!(lines.len() == 2 && lines.iter().all(|line| line.contains("not an AMD Zen 5")), "{}", container.log());
    assert!(container.log().contains("the runner ended with status 78"), "{}", container.log());
}
