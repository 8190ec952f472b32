//! Memory that becomes short in nested control groups of version 2, and memory that is locked up to its limit, in an
//! emulated machine, where root may set every limit. All in one guest, one after the other.

use std::path::Path;
use std::sync::OnceLock;

use zen5turbo_tests::{
    Fixture, Guest, GuestOutcome, Stats, command, dl_backend_avx2, guest_model, llama_dl, shim, work_dir,
};

const MIB: u64 = 1 << 20;

/// The file of `fixtures/copied.c`, in whole pages.
const MODEL: u64 = 83_902_464;

/// llama-server in the inner one of two groups. What is copied is asked for while it runs, so nothing here depends
/// on time: a condition that never comes true ends with the guest's time limit.
const SERVER: &str = r#"
ip link set lo up
outer=/sys/fs/cgroup/outer inner=/sys/fs/cgroup/outer/inner
mkdir $outer && echo +memory >$outer/cgroup.subtree_control && mkdir $inner

start() {
    name=$1
    (
        echo 0 >$inner/cgroup.procs
        LD_PRELOAD=$shim ZEN5TURBO_HUGEPAGES=thp ZEN5TURBO_STATS=/out/$name.json exec $server -m $model --port 8080 -t 1 -c 256 -b 64 -ub 64 \
            --no-ui --no-warmup >/out/$name.log 2>&1
    ) &
    pid=$!
    until wget -qO- http://127.0.0.1:8080/health >/dev/null 2>&1; do
        kill -0 $pid || { tail /out/$name.log; exit 1; }
        sleep 0.1
    done
}
ask() {
    wget -qO- --header 'Content-Type: application/json' http://127.0.0.1:8080/completion \
        --post-data '{"prompt":"a b c","n_predict":8,"temperature":0,"seed":1,"cache_prompt":false,"ignore_eos":true}' |
        sed 's/.*"content":"\([^"]*\)".*/\1/' >>/out/$name.answers || exit 1
    echo >>/out/$name.answers
}
# A number of its statistics, which come last; 0 where there is none of this name.
number() {
    n=$(sed -n "s/.*\"$1\": \([0-9]*\),*\$/\1/p" /tmp/top | tail -n 1)
    echo ${n:-0}
}
until_is() {
    until $command top --json --interval 0.05 $pid >/tmp/top && [ $(number $1) -gt 0 ] && [ $(number $1) = $(number $2) ]
    do kill -0 $pid || { echo $name is gone; exit 1; }; done
}
end() {
    kill $pid
    wait $pid && echo max >$outer/memory.max && echo max >$outer/memory.high
    echo $name ended with $?, killed: $(sed -n 's/^oom_kill //p' $outer/memory.events)
}
anonymous() { sed -n 's/^anon //p' $outer/memory.stat; }

for kind in max high; do
    start $kind
    ask
    until_is thp wanted
    ask
    before=$(anonymous)
    echo $((before / 5 * 6)) >$outer/memory.$kind
    until_is freed thp
    ask
    # Less than what was held before.
    echo $((before - (16 << 20))) >$outer/memory.$kind
    ask
    end
done

echo $((256 << 20)) >$outer/memory.high
start little
ask
until_is memory_budget memory_budget
ask
end

echo $((300 << 20)) >$outer/memory.high
echo $((400 << 20)) >$inner/memory.max
(echo 0 >$inner/cgroup.procs; exec $command doctor --gate off) | grep memory.cgroup
"#;

/// `limited NAME BYTES MODE`: the fixture, by a usual user with this limit of locked memory.
const LOCKED: &str = r#"
file=/tmp/model.gguf
$copied make $file && chmod 644 $file || exit 1
limited() {
    LD_PRELOAD=$shim ZEN5TURBO_HUGEPAGES=thp ZEN5TURBO_STATS=/out/$1.json $refuse --user 1000 --limit memlock=$2 -- \
        $copied $3 $file $4 >/out/$1.txt 2>&1 || { echo $1: $?; cat /out/$1.txt; exit 1; }
}
"#;

fn guest() -> &'static GuestOutcome {
    static GUEST: OnceLock<GuestOutcome> = OnceLock::new();
    GUEST.get_or_init(|| {
        let dir = work_dir();
        let copied = Fixture::new("copied").linked_with_avx2().build(&dir, "copied");
        let refuse = Fixture::new("refuse").build(&dir, "refuse");
        let files = [
            ("shim", shim()),
            ("server", llama_dl("llama-server")),
            ("model", guest_model()),
            ("command", command()),
            ("copied", copied),
            ("refuse", refuse),
        ];
        let limited = [("tight", MODEL + 4 * MIB, "tight"), ("lock", MODEL, "lock first")];
        let mut script = "export ZEN5TURBO_GATE=off ZEN5TURBO_KERNELS=avx2 ZEN5TURBO_NUMA=off\n".to_owned();
        for (name, path) in &files {
            script += &format!("{name}='{}'\n", path.display());
        }
        script += SERVER;
        script += "cat /proc/uptime\n";
        script += LOCKED;
        for (name, bytes, mode) in limited {
            script += &format!("limited {name} {bytes} {mode}\n");
        }
        script += "cat /proc/uptime\n";
        let guest = files.iter().fold(Guest::shell(&script), |guest, (_, path)| guest.file(path));
        let run = guest.file(dl_backend_avx2()).run();
        GuestOutcome { program: run.program.success(), ..run }
    })
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The statistics of a program in the guest, which had no trouble, and what it said.
fn run(name: &str, said: &str) -> (Stats, String) {
    let path = guest().out.path().join(name);
    let stats = Stats::parse(&read(&path.with_extension("json")));
    stats.assert_healthy();
    (stats, read(&path.with_extension(said)))
}

/// A server that was not killed, and gave one answer all the time.
fn server(name: &str) -> Stats {
    let (stats, answers) = run(name, "answers");
    println!("{}\n{answers}\n{stats}", guest().program.stdout);
    assert!(guest().program.stdout.contains(&format!("{name} ended with 0, killed: 0\n")));
    let reference = run("max", "answers").1;
    let answer = reference.lines().next().expect("an answer");
    assert!(!answer.is_empty() && answers.lines().count() >= 2 && answers.lines().all(|line| line == answer));
    stats
}

/// What a locking fixture said and counted.
fn locked(name: &str) -> (Stats, String) {
    let (stats, text) = run(name, "txt");
    println!("{text}\n{stats}");
    assert!(text.ends_with("0 failures\n") && !text.contains("FAIL"), "{text}");
    (stats, text)
}

#[test]
fn a_server_whose_group_shrinks_gives_copies_back_and_answers_the_same() {
    for name in ["max", "high"] {
        let stats = server(name);
        let [thp, freed] = ["copied/thp", "freed"].map(|key| stats.number(&format!("/memory/weights/{key}")));
        assert!(thp == freed && thp > 16 * MIB, "{stats}");
        assert!(stats.events("memory_pressure") > 0, "{stats}");
    }
}

#[test]
fn the_smallest_limit_of_nested_groups_is_the_budget() {
    let stats = server("little");
    assert_eq!(stats.number("/memory/weights/copied/thp"), 0, "{stats}");
    let said = guest().program.stdout.lines().find(|line| line.contains("memory.cgroup"));
    assert!(said.is_some_and(|line| line.contains("300.0 MiB")), "{said:?}");
}

/// Address space of ours would count against that limit.
#[test]
fn a_program_that_locks_what_it_maps_may_map_as_much_as_without_the_library() {
    let _ = locked("tight");
}

#[test]
fn a_locked_model_stays_so_where_the_limit_leaves_no_room_for_copies() {
    let (stats, text) = locked("lock");
    assert!(text.starts_with("locked"));
    assert_eq!(stats.events("memory_locked"), 1);
    assert_eq!(stats.number("/memory/weights/copied/thp"), 0);
}
