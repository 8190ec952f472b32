//! llama.cpp on reserved huge pages, on a machine with two NUMA nodes, emulated: pages of 2 MiB and 1 GiB, too few of
//! them, a limit on them, and a kernel that refuses to place memory. All runs of a model in one guest, one after the other.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use zen5turbo_tests::{
    CONTAINER, Fixture, Guest, Mapping, Snapshot, Stats, copies, dl_backend_avx2, guest_giant_model, guest_model,
    llama_dl, page_nodes, shim, work_dir,
};

const HUGE_PAGE: u64 = 2 << 20;
const GIANT_PAGE: u64 = 1 << 30;

/// Reserved pages of 2 MiB: more than any run needs.
const POOL: u64 = 128;

/// Fewer than the weights and buffers of the small model need.
const FEW: u64 = 20;

/// Fewer than the buffers alone need.
const FEWER: u64 = 6;

/// A few more than the buffers of the large model need, and fewer than its weights before the 1 GiB page.
const FEWER_GIANT: u64 = 8;

/// The calibration of the guest.
const TUNED: &str = "/tmp/tuned";

/// As the files of the build have it in their names.
fn ggml_version() -> String {
    let program = llama_dl("llama-completion");
    let files = std::fs::read_dir(program.parent().expect("a folder")).expect("the folder can be read");
    let names = files.map(|file| file.expect("an entry").file_name().to_string_lossy().into_owned());
    let versions = names.filter_map(|name| name.strip_prefix("libggml-base.so.").map(str::to_owned));
    versions.max_by_key(String::len).expect("a library with a version")
}

/// What a run of llama-completion did.
struct Run {
    text: String,
    stats: Stats,
    /// Where the copy of its model lies.
    copy: Option<usize>,
    snapshots: Vec<Snapshot>,
}

/// The shell script of the guest.
struct Script(String);

impl Script {
    /// A function `complete NAME MODEL LENGTH VARIABLES... -- WRAPPER...` and the settings that all runs share.
    fn new() -> Self {
        let (nodes, program) = (page_nodes(), llama_dl("llama-completion"));
        Self(format!(
            "export LD_PRELOAD='{}' ZEN5TURBO_GATE=off ZEN5TURBO_KERNELS=avx2 ZEN5TURBO_NUMA=interleave ZEN5TURBO_LOG=debug\n\
             complete() {{\n\
               name=$1 model=$2 length=$3; shift 3\n\
               vars=\n\
               while [ $1 != -- ]; do vars=\"$vars $1\"; shift; done; shift\n\
               env $vars ZEN5TURBO_STATS=/out/$name.json '{}' /out/$name.jsonl 1 \"$@\" '{}' -m $model \\\n\
                 -no-cnv --no-warmup --temp 0 --seed 1 --ignore-eos -c 1024 -b 64 -ub 64 $length -p 'a b c' \\\n\
                 >/out/$name.txt 2>/out/$name.err || {{ echo $name: $?; tail /out/$name.err; exit 1; }}\n\
             }}\n",
            shim().display(),
            nodes.display(),
            program.display(),
        ))
    }

    fn line(mut self, line: &str) -> Self {
        self.0 += line;
        self.0.push('\n');
        self
    }

    fn run(self, name: &str, vars: &str) -> Self {
        self.wrapped(name, vars, "")
    }

    /// One thread on two processors: with both computing the copier rests, and would not be done in so few tokens.
    fn wrapped(self, name: &str, vars: &str, wrapper: &str) -> Self {
        self.line(&format!("complete {name} '{}' '-t 1 -n 12' {vars} -- {wrapper}", guest_model().display()))
    }

    /// Writes what `zen5turbo tune` would on a machine where F16 products are faster here, by AVX2: others are ggml's, and weights that only
    /// ggml reads get no copy.
    fn tuned_for_f16(self) -> Self {
        let measured =
            ["1", "2", "3-4", "5-8", "9-16", "many"].map(|regime| format!("f16 {regime} ours 1000 2000 -\\n"));
        self.line(&format!(
            "printf 'zen5turbo-tune 4\\ncpu %s\\nggml {}\\ntier avx2\\n{}' \
             \"$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)\" >{TUNED}",
            ggml_version(),
            measured.concat(),
        ))
    }

    /// A copy of 1 GiB takes seconds, in which another processor has to compute the tokens.
    fn giant(self, name: &str, vars: &str) -> Self {
        let vars = format!("{vars} ZEN5TURBO_TUNE={TUNED}");
        self.line(&format!("complete {name} '{}' '-t 1 -n 48' {vars} --", guest_giant_model().display()))
    }

    fn pool(self, pages: u64) -> Self {
        self.line(&format!("echo {pages} >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"))
    }

    fn limit(self, file: &str, value: &str) -> Self {
        self.line(&format!("echo {value} >/sys/fs/cgroup/program/{file}"))
    }
}

/// The runs of the small model by their names; the guest is started once for all tests.
fn runs() -> &'static BTreeMap<String, Run> {
    static RUNS: OnceLock<BTreeMap<String, Run>> = OnceLock::new();
    RUNS.get_or_init(|| {
        let dir = work_dir();
        let refuse = Fixture::new("refuse").build(&dir, "refuse");
        let (wrapper, container) = (format!("'{}'", refuse.display()), CONTAINER.join(" "));
        let script = Script::new()
            .run("off", "ZEN5TURBO_HUGEPAGES=off")
            .limit("memory.max", "268435456")
            .run("two", "ZEN5TURBO_HUGEPAGES=2m")
            .limit("memory.max", "max")
            .wrapped("refused_auto", "ZEN5TURBO_HUGEPAGES=2m ZEN5TURBO_NUMA=auto", &format!("{wrapper} {container} --"))
            .wrapped(
                "refused_shard",
                "ZEN5TURBO_HUGEPAGES=2m ZEN5TURBO_NUMA=shard",
                &format!("{wrapper} {container} --"),
            )
            .limit("hugetlb.2MB.max", &(FEWER * HUGE_PAGE).to_string())
            .run("limited", "ZEN5TURBO_HUGEPAGES=2m")
            .limit("hugetlb.2MB.max", "max")
            .pool(FEW)
            .run("few", "ZEN5TURBO_HUGEPAGES=2m")
            .pool(0)
            .run("small", "ZEN5TURBO_HUGEPAGES=1g")
            .line("echo never >/sys/kernel/mm/transparent_hugepage/enabled")
            .run("never", "ZEN5TURBO_HUGEPAGES=auto")
            .pool(FEW)
            .run("never_few", "ZEN5TURBO_HUGEPAGES=2m");
        in_guest(script, &[refuse, guest_model()])
    })
}

/// The runs of the large model.
fn giant_runs() -> BTreeMap<String, Run> {
    let script = Script::new()
        .pool(FEW)
        .tuned_for_f16()
        .giant("giant_off", "ZEN5TURBO_HUGEPAGES=off")
        .pool(FEWER_GIANT)
        .giant("giant", "ZEN5TURBO_HUGEPAGES=1g");
    in_guest(script, &[guest_giant_model()])
}

/// The runs of a script, which reads these files.
fn in_guest(script: Script, files: &[PathBuf]) -> BTreeMap<String, Run> {
    let script = script.line("cat /proc/uptime");
    let guest = Guest::shell(&script.0)
        .file(shim())
        .file(page_nodes())
        .file(llama_dl("llama-completion"))
        .file(dl_backend_avx2())
        .pages("2M", [POOL as usize / 2; 2])
        .pages("1G", [1, 1]);
    let run = files.iter().fold(guest, |guest, file| guest.file(file)).run();
    let program = run.program.success();
    println!("seconds in the guest: {}", program.stdout);
    let mut runs = BTreeMap::new();
    for entry in std::fs::read_dir(run.out.path()).expect("the output can be read") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "json") {
            let read = |e: &str| std::fs::read_to_string(path.with_extension(e)).expect("a file of the run");
            let stats = Stats::parse(&read("json"));
            stats.assert_healthy();
            let snapshots = Snapshot::read_all(&path.with_extension("jsonl"));
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            let copies = copies(&read("err"));
            assert!(copies.len() <= 1, "{name}: {copies:x?}");
            let copy = copies.first().map(|(_, at)| *at);
            runs.insert(name, Run { text: read("txt"), stats, copy, snapshots });
        }
    }
    runs
}

/// A run of the small model, which must have written the same text as the run `as_in`.
fn run(name: &str, as_in: &str) -> &'static Run {
    same_text(runs(), name, as_in)
}

fn same_text<'a>(runs: &'a BTreeMap<String, Run>, name: &str, as_in: &str) -> &'a Run {
    let run = &runs[name];
    println!("{}\n{}", run.text, run.stats);
    assert!(run.text.starts_with(" a b c") && run.text.trim_end().len() > 8, "{}", run.text);
    assert_eq!(run.text, runs[as_in].text);
    run
}

impl Run {
    fn number(&self, pointer: &str) -> u64 {
        self.stats.number(&format!("/memory/{pointer}"))
    }

    /// Bytes of weights copied to transparent pages, to pages of 2 MiB and of 1 GiB.
    fn copied_at_all(&self) -> [u64; 3] {
        ["thp", "2m", "1g"].map(|kind| self.number(&format!("weights/copied/{kind}")))
    }

    /// The same; they must be all that products read. In these models that is every page; else a page of 1 GiB would hold more.
    fn copied(&self) -> [u64; 3] {
        let bytes = self.copied_at_all();
        assert_eq!(bytes.iter().sum::<u64>(), self.number("weights/wanted"), "{}", self.stats);
        bytes
    }

    /// Every huge page of the last complete snapshot with this much of the copies: its
    /// address, its size in KiB (2048 for a transparent one, too), whether it is reserved, and its node; those of
    /// the copies, and all others.
    fn pages(&self, weights: u64, model_bytes: u64) -> [Vec<Page>; 2] {
        let base = self.copy.expect("a copy of the model") as u64;
        let split = |snapshot: &Snapshot| {
            let pages = snapshot.mappings.iter().flat_map(pages_of);
            pages.partition::<Vec<_>, _>(|page| page.at >= base && page.at < base + model_bytes)
        };
        let complete = self.snapshots.iter().rev().map(split).find(|(of_weights, _)| {
            of_weights.iter().map(|page| page.kib << 10).sum::<u64>() == weights //
        });
        let (of_weights, other) =
            complete.unwrap_or_else(|| panic!("{weights} bytes were not seen in {:#?}", self.snapshots.last()));
        [of_weights, other]
    }
}

#[derive(Clone, Copy, Debug)]
struct Page {
    at: u64,
    kib: u64,
    reserved: bool,
    node: u64,
    interleaved: bool,
}

/// The huge pages of a mapping that are there.
fn pages_of(mapping: &Mapping) -> Vec<Page> {
    let reserved = mapping.page_kib > 4;
    let kib = if reserved { mapping.page_kib as u64 } else { 2048 };
    let per_page = if reserved { 1 } else { 512 };
    if !reserved && mapping.thp_kib == 0 {
        return Vec::new();
    }
    let first = (mapping.start as u64).next_multiple_of(kib << 10);
    let skip = if reserved { 0 } else { (first as usize - mapping.start) / 4096 };
    let nodes = mapping.nodes.as_bytes().get(skip..).unwrap_or_default().chunks_exact(per_page).enumerate();
    let interleaved = mapping.policy.starts_with("interleave");
    nodes
        .filter(|(_, nodes)| nodes[0].is_ascii_digit() && nodes.iter().all(|n| *n == nodes[0]))
        .map(|(i, nodes)| {
            let node = u64::from(nodes[0] - b'0');
            Page { at: first + i as u64 * (kib << 10), kib, reserved, node, interleaved }
        })
        .collect()
}

/// Pages by kind and node, and whether they take turns: a page's node follows from its address.
fn assert_in_turn(pages: &[Page]) {
    let mut counts = BTreeMap::new();
    for page in pages {
        *counts.entry((page.kib, page.reserved, page.node)).or_insert(0) += 1;
        assert_eq!(page.node, page.at / (page.kib << 10) % 2, "{page:x?}");
    }
    println!("pages by (KiB, reserved, node): {counts:?}");
}

fn len_of(model: PathBuf) -> u64 {
    std::fs::metadata(model).expect("the model").len()
}

/// The limit of other memory does not count for them: the pool is reserved anyway.
#[test]
fn weights_and_buffers_lie_on_reserved_pages_of_2_mib_in_turn_on_both_nodes() {
    let run = run("two", "off");
    let [thp, huge, giant] = run.copied();
    assert!(thp == 0 && giant == 0 && huge >= 16 * HUGE_PAGE, "{}", run.stats);
    for reason in ["hugetlb_2m_missing", "hugetlb_not_populated", "memory_budget", "numa_refused"] {
        assert_eq!(run.stats.events(reason), 0, "{reason}");
    }
    let [weights, others] = run.pages(huge, len_of(guest_model()));
    assert!(weights.iter().all(|page| page.reserved && page.kib == 2048), "{weights:x?}");
    assert_in_turn(&weights);
    let buffers: Vec<_> = others.into_iter().filter(|page| page.reserved).collect();
    println!("pages of buffers: {buffers:x?}");
    assert!(run.number("buffers/hugetlb_2m/count") >= 2 && run.number("buffers/thp/count") == 0);
    assert!(buffers.len() >= 4 && buffers.iter().all(|page| page.interleaved), "{buffers:x?}");
    let on_first = buffers.iter().filter(|page| page.node == 0).count();
    assert!(on_first.abs_diff(buffers.len() - on_first) <= 2, "{buffers:x?}");
    assert!(run.number("numa/interleaved") >= run.number("buffers/hugetlb_2m/bytes"));
}

#[test]
#[ignore = "nightly"]
fn a_1_gib_page_holds_what_fits_and_smaller_ones_the_rest_though_those_run_out_first() {
    let runs = giant_runs();
    let run = same_text(&runs, "giant", "giant_off");
    assert_eq!(run.stats.text("/tuning/status"), "used", "{}", run.stats);
    let [thp, huge, giant] = run.copied();
    assert!(giant == GIANT_PAGE && thp > 0, "{}", run.stats);
    assert_eq!(huge, FEWER_GIANT * HUGE_PAGE - run.number("buffers/hugetlb_2m/bytes"), "{}", run.stats);
    assert_eq!(run.stats.events("hugetlb_2m_missing"), 1);
    assert_eq!(run.stats.events("weights_1g_in_part"), 1, "behind that page");
    let [weights, _] = run.pages(thp + huge + giant, len_of(guest_giant_model()));
    let (giants, others): (Vec<_>, Vec<_>) = weights.into_iter().partition(|page| page.kib == 1 << 20);
    let reserved = others.iter().filter(|page| page.reserved).count();
    println!("pages of 2 MiB: {reserved} reserved, {} transparent", others.len() - reserved);
    assert_eq!((giants.len(), reserved as u64), (1, huge / HUGE_PAGE));
    assert_in_turn(&giants);
}

#[test]
fn a_model_too_small_for_1_gib_steps_down_to_what_there_is() {
    let run = run("small", "off");
    let [thp, huge, giant] = run.copied();
    assert!(thp > 0 && huge == 0 && giant == 0, "{}", run.stats);
    assert_eq!(run.stats.events("weights_1g_in_part"), 1);
    // The weights, and each buffer.
    assert_eq!(run.stats.events("hugetlb_2m_missing"), 1 + run.number("buffers/thp/count"));
}

#[test]
fn the_last_reserved_page_is_used_and_the_rest_is_transparent() {
    let run = run("few", "off");
    let [thp, huge, _] = run.copied();
    let free = FEW * HUGE_PAGE - run.number("buffers/hugetlb_2m/bytes");
    assert!(huge == free && huge > 0 && thp > 0, "{huge} of {free} bytes\n{}", run.stats);
    assert_eq!(run.stats.events("hugetlb_2m_missing"), 1);
    let [weights, _] = run.pages(thp + huge, len_of(guest_model()));
    // Where the pool of a node is empty a page comes from the other one.
    let (reserved, transparent): (Vec<_>, Vec<_>) = weights.into_iter().partition(|page| page.reserved);
    println!("nodes of reserved pages: {:?}", reserved.iter().map(|page| page.node).collect::<Vec<_>>());
    assert_eq!(reserved.len() as u64, huge / HUGE_PAGE);
    assert_in_turn(&transparent);
}

#[test]
fn without_transparent_huge_pages_only_reserved_ones_are_used() {
    let run = run("never", "off");
    assert_eq!((run.copied_at_all(), run.stats.events("thp_never")), ([0; 3], 1), "{}", run.stats);
    assert_eq!((run.number("buffers/thp/count"), run.number("buffers/hugetlb_2m/count")), (0, 0));
    let run = self::run("never_few", "off");
    let free = FEW * HUGE_PAGE - run.number("buffers/hugetlb_2m/bytes");
    assert_eq!(run.copied_at_all(), [0, free, 0], "{}", run.stats);
    assert_eq!((run.stats.events("hugetlb_2m_missing"), run.stats.events("thp_never")), (1, 1));
}

/// The kernel maps such pages, and fails when they are touched.
#[test]
fn a_limit_on_reserved_pages_is_a_counted_reason_and_not_a_signal() {
    let run = run("limited", "off");
    let [thp, huge, _] = run.copied();
    let buffers = run.number("buffers/hugetlb_2m/bytes");
    assert_eq!(huge + buffers, FEWER * HUGE_PAGE, "{}", run.stats);
    assert!(thp > 0 && run.number("buffers/thp/count") > 0, "{}", run.stats);
    assert_eq!(run.stats.events("hugetlb_not_populated"), 1 + run.number("buffers/thp/count"));
    assert_eq!(run.stats.events("hugetlb_2m_missing"), 0);
}

#[test]
fn where_placing_is_refused_weights_still_lie_on_huge_pages_and_the_text_is_the_same() {
    for name in ["refused_auto", "refused_shard"] {
        let run = run(name, "off");
        let [thp, huge, _] = run.copied();
        assert!(thp == 0 && huge > 0, "{}", run.stats);
        assert_eq!(run.stats.text("/memory/numa/mode"), "off");
        assert_eq!(run.stats.events("numa_refused"), 1);
        assert!(run.number("numa/failed") <= 1, "tried again: {}", run.stats);
    }
    // Rows are shared out between pinned threads all the same.
    assert!(runs()["refused_shard"].number("numa/moved") >= 2);
}
