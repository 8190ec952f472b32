//! Whether a preloaded library can get at ggml in a program: which files the loader would bring in,
//! and whether their calls to the hooked functions go through it.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use zen5turbo_ggml::LIBRARY_PREFIX;
use zen5turbo_ggml::functions::ggml_graph_compute;
use zen5turbo_ggml::hooks::{self, COMPUTE, Hook, REPORTED};

use crate::elf::{self, Elf};
use crate::loader::{LoaderCache, expand, library_path};

/// Something that keeps the shim from a program: what was found, what was expected, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    pub found: String,
    pub expected: String,
    pub todo: String,
}

fn obstacle(found: impl Into<String>, expected: &str, todo: &str) -> Obstacle {
    Obstacle { found: found.into(), expected: expected.into(), todo: todo.into() }
}

/// One copy of ggml's CPU backend: the file that defines the hook.
#[derive(Clone, Debug)]
pub struct Copy {
    pub path: PathBuf,
    /// Opened by the program at run time, not named among its needed libraries.
    pub opened_later: bool,
    /// `None` when its calls can be taken over.
    pub obstacle: Option<Obstacle>,
}

/// The answer for one program or library.
#[derive(Debug)]
pub struct Reach {
    pub root: PathBuf,
    /// Every file the loader would bring in, the root first.
    pub files: Vec<Elf>,
    /// Needed libraries that were not found: (name, needed by).
    pub missing: Vec<(String, PathBuf)>,
    pub copies: Vec<Copy>,
    /// Secondary hooks that cannot be taken.
    pub losses: Vec<&'static Hook>,
    /// What keeps the shim out of the whole process.
    pub obstacles: Vec<Obstacle>,
    /// The only obstacle is that no ggml is known here: a program may still open one in its own way.
    pub unknown: bool,
}

impl Reach {
    /// Whether at least one copy of ggml can be taken over and nothing stands against it.
    pub fn engages(&self) -> bool {
        self.obstacles.is_empty() && self.copies.iter().any(|c| c.obstacle.is_none())
    }

    /// Whether any file here has to do with ggml.
    pub fn has_ggml(&self) -> bool {
        !self.copies.is_empty()
            || self.files.iter().any(|f| file_name(&f.path).starts_with(LIBRARY_PREFIX))
            || self.obstacles.iter().any(|o| o.found.contains("ggml"))
    }
}

/// Examines `root`, a program or a library.
pub fn examine(root: &Path) -> Result<Reach> {
    let hooks = hooks::reported();
    let root_elf = Elf::read(root, &hooks)?;
    let cache = LoaderCache::read();
    let mut reach = Reach {
        root: root.to_owned(),
        files: Vec::new(),
        missing: Vec::new(),
        copies: Vec::new(),
        losses: Vec::new(),
        obstacles: Vec::new(),
        unknown: false,
    };
    reach.obstacles.extend(blocked(&root_elf));

    let mut seen = BTreeSet::from([real(root)]);
    load(vec![root_elf.clone()], &mut reach, &mut seen, &cache, &hooks);
    let linked = reach.files.len();
    let later: Vec<Elf> = opened_later(&reach.files)
        .into_iter()
        .filter(|path| seen.insert(real(path)))
        .filter_map(|path| Elf::read(&path, &hooks).ok())
        .collect();
    load(later, &mut reach, &mut seen, &cache, &hooks);

    for (i, file) in reach.files.iter().enumerate() {
        if file.symbol(COMPUTE).exported {
            reach.copies.push(Copy {
                path: file.path.clone(),
                opened_later: i >= linked,
                obstacle: call_obstacle(file, &reach.files),
            });
        }
    }
    if reach.copies.is_empty() && reach.obstacles.is_empty() {
        let found = no_copy(&root_elf, &reach.files);
        reach.unknown = found.is_none();
        reach.obstacles.push(found.unwrap_or_else(|| not_loaded(&root_elf)));
    }
    reach.losses = REPORTED.iter().filter(|hook| !reach.files.iter().any(|f| calls(f, hook))).collect();
    Ok(reach)
}

/// Whether `file` calls the hooked function through the loader. Only what has to do with ggml counts:
/// every other library maps memory, too.
fn calls(file: &Elf, hook: &Hook) -> bool {
    let of_ggml = |name: &str| name.starts_with(LIBRARY_PREFIX) || name.starts_with("libllama");
    (file.executable || of_ggml(&file_name(&file.path)) || file.needed.iter().any(|name| of_ggml(name)))
        && hook.names.iter().map(|name| file.symbol(name)).any(|u| u.relocated && !(file.symbolic && u.exported))
}

/// The hooks that calls of `file` offer.
pub fn offers(file: &Elf) -> Vec<&'static str> {
    let compute = Hook { names: &[COMPUTE], loss: "" };
    std::iter::once(&compute).chain(&REPORTED).filter(|hook| calls(file, hook)).map(|hook| hook.names[0]).collect()
}

/// What makes the loader ignore LD_PRELOAD for this program, or the shim fail in it.
pub fn blocked(root: &Elf) -> Vec<Obstacle> {
    let mut found = Vec::new();
    if !root.executable {
        return found;
    }
    if root.interpreter.is_none() {
        found.push(obstacle(
            "a statically linked program (no PT_INTERP): no loader runs, LD_PRELOAD is never read",
            "a program linked dynamically",
            "use a shared build of llama.cpp (-DBUILD_SHARED_LIBS=ON)",
        ));
    }
    if root.musl() {
        found.push(obstacle(
            "a program for musl libc (ld-musl)",
            "a program for glibc, which the shim is linked with",
            "use a build for glibc, such as a Debian or Ubuntu based image instead of Alpine",
        ));
    }
    if let Some(privileges) = elf::privileges(&root.path) {
        found.push(obstacle(
            format!("{privileges} on {}: the loader drops LD_PRELOAD when a program gains privileges", root.path.display()),
            "a program without set-user-ID, set-group-ID or file capabilities",
            "run a copy without them (cp drops them; or setcap -r, chmod u-s,g-s), and give the process its rights another way, e.g. ulimit -l for mlock",
        ));
    }
    found
}

/// Why calls to the hook inside or into `copy` cannot be taken, if they cannot.
fn call_obstacle(copy: &Elf, files: &[Elf]) -> Option<Obstacle> {
    const EXPECTED: &str = "a JUMP_SLOT or GLOB_DAT relocation for ggml_cpu_extra_compute_forward, so that the call goes through the loader";
    if copy.symbolic {
        return Some(obstacle(
            "linked with -Bsymbolic: it looks for ggml_cpu_extra_compute_forward in itself first",
            EXPECTED,
            "rebuild without -Bsymbolic (remove it from LDFLAGS)",
        ));
    }
    let called =
        copy.symbol(COMPUTE).relocated || files.iter().any(|f| f.symbol(COMPUTE).needed && f.symbol(COMPUTE).relocated);
    (!called).then(|| {
        if copy.executable {
            obstacle(
                "ggml is inside the program: it exports ggml_cpu_extra_compute_forward, but its own calls were bound when it was linked",
                EXPECTED,
                "use a shared build of llama.cpp (-DBUILD_SHARED_LIBS=ON)",
            )
        } else {
            obstacle(
                "ggml_cpu_extra_compute_forward is exported but called directly (-Bsymbolic-functions, or link-time optimisation across ggml's files)",
                EXPECTED,
                "rebuild without -Bsymbolic-functions and with -DGGML_LTO=OFF",
            )
        }
    })
}

const SHARED: &str =
    "libggml-cpu*.so that exports ggml_cpu_extra_compute_forward (llama.cpp since December 2024, built shared)";

/// Why there is no copy of ggml's CPU backend to be found; `None` when nothing here has to do with ggml.
fn no_copy(root: &Elf, files: &[Elf]) -> Option<Obstacle> {
    let any = |test: fn(&Elf) -> bool| files.iter().find(|f| test(f));
    if let Some(file) = any(|f| f.executable && f.symbol(COMPUTE).internal) {
        return Some(obstacle(
            format!("static build: ggml is linked into {} and its symbols are not dynamic", file.path.display()),
            SHARED,
            "use a shared build of llama.cpp (-DBUILD_SHARED_LIBS=ON)",
        ));
    }
    if let Some(file) = any(|f| f.symbol(COMPUTE).internal) {
        return Some(obstacle(
            format!("{} holds ggml_cpu_extra_compute_forward with hidden visibility", file.path.display()),
            SHARED,
            "rebuild without -fvisibility=hidden for ggml, or use upstream's shared build",
        ));
    }
    if let Some(file) = any(|f| f.symbol(ggml_graph_compute.name()).exported && !f.executable) {
        return Some(obstacle(
            format!(
                "{} exports ggml_graph_compute but not ggml_cpu_extra_compute_forward: a ggml older than December 2024, of \
                 which only functions for single rows and, since July 2024, products through llamafile_sgemm can be \
                 taken over",
                file.path.display()
            ),
            SHARED,
            "use a newer llama.cpp; for what can be taken over, preload the library without this command",
        ));
    }
    if let Some(file) = any(|f| file_name(&f.path).starts_with("libggml-cpu")) {
        return Some(obstacle(
            format!(
                "{} does not export ggml_cpu_extra_compute_forward (hidden visibility, or stripped of it)",
                file.path.display()
            ),
            SHARED,
            "use upstream's shared build of llama.cpp",
        ));
    }
    // Source file names stay in the messages of GGML_ASSERT, even in a stripped program.
    let marks: [&[u8]; 2] = [b"ggml-cpu.c", b"ggml_backend_cpu"];
    if let Some(file) = files.iter().find(|f| !is_system(&f.path) && elf::holds_text(&f.path, &marks)) {
        return Some(obstacle(
            format!(
                "static build: the text of ggml's CPU backend is inside {}, without dynamic symbols",
                file.path.display()
            ),
            SHARED,
            "use a shared build of llama.cpp (-DBUILD_SHARED_LIBS=ON)",
        ));
    }
    if files.iter().any(|f| file_name(&f.path).starts_with(LIBRARY_PREFIX)) {
        return Some(obstacle(
            format!(
                "{} uses ggml, but its CPU backend was found neither among the needed libraries nor beside them",
                root.path.display()
            ),
            SHARED,
            "name the folder that holds libggml-cpu*.so (`zen5turbo doctor FOLDER`)",
        ));
    }
    None
}

/// Nothing here has to do with ggml.
fn not_loaded(root: &Elf) -> Obstacle {
    obstacle(
        format!("{} does not load ggml by itself", root.path.display()),
        SHARED,
        "name the program that does the inference, or, when it opens ggml later (Python, plug-ins), the folder that holds libggml-cpu*.so",
    )
}

/// Breadth-first through DT_NEEDED, as the loader does it.
fn load(roots: Vec<Elf>, reach: &mut Reach, seen: &mut BTreeSet<PathBuf>, cache: &LoaderCache, hooks: &[&'static str]) {
    let mut names: BTreeSet<String> = reach.files.iter().filter_map(|f| f.soname.clone()).collect();
    // With each file, the RPATHs of those that brought it: they count for its needed libraries too.
    let mut queue: VecDeque<(Elf, Vec<PathBuf>)> = roots.into_iter().map(|elf| (elf, Vec::new())).collect();
    while let Some((file, inherited)) = queue.pop_front() {
        let origin = real(&file.path).parent().map(Path::to_owned).unwrap_or_default();
        let mut rpath = expand(&file.rpath, &origin);
        rpath.extend(inherited);
        for name in &file.needed {
            if !names.insert(name.clone()) {
                continue;
            }
            let found = if name.contains('/') {
                Some(PathBuf::from(name)).filter(|p| p.is_file())
            } else {
                let mut folders = if file.runpath.is_empty() { rpath.clone() } else { Vec::new() };
                folders.extend(library_path());
                folders.extend(expand(&file.runpath, &origin));
                cache.find(name, &folders)
            };
            match found {
                None => reach.missing.push((name.clone(), file.path.clone())),
                Some(path) if seen.insert(real(&path)) => {
                    if let Ok(elf) = Elf::read(&path, hooks) {
                        queue.push_back((elf, rpath.clone()));
                    }
                }
                Some(_) => {}
            }
        }
        reach.files.push(file);
    }
}

/// The CPU backends that ggml would open at run time: beside the program, beside its own libraries,
/// and where Ollama keeps them.
fn opened_later(files: &[Elf]) -> Vec<PathBuf> {
    let mut folders = BTreeSet::new();
    for file in files {
        let Some(folder) = real(&file.path).parent().map(Path::to_owned) else { continue };
        let name = file_name(&file.path);
        if file.executable || name.starts_with(LIBRARY_PREFIX) || name.starts_with("libllama") {
            if file.executable {
                folders.insert(folder.join("../lib/ollama"));
                folders.insert(folder.join("lib/ollama"));
            }
            folders.insert(folder);
        }
    }
    if files.iter().any(|f| f.executable)
        && !files.iter().any(|f| file_name(&f.path).starts_with(LIBRARY_PREFIX))
        && !files.iter().any(|f| file_name(&f.path).contains("ollama"))
    {
        // A program that links no ggml opens backends only in its own way, unknown here.
        return Vec::new();
    }
    folders.iter().flat_map(|folder| cpu_backends(folder)).collect()
}

/// `libggml-cpu*.so` in `folder`, without the versioned names of the same file.
pub fn cpu_backends(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = list(folder)
        .into_iter()
        .filter(|p| {
            let name = file_name(p);
            name.starts_with("libggml-cpu") && name.ends_with(".so")
        })
        .collect();
    found.sort();
    found
}

/// Programs in `folder`: executable ELF files that are not libraries.
pub fn programs(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        list(folder).into_iter().filter(|p| p.is_file() && Elf::read(p, &[]).is_ok_and(|e| e.executable)).collect();
    found.sort();
    found
}

fn list(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn is_system(path: &Path) -> bool {
    ["/lib", "/usr/lib"].iter().any(|p| path.starts_with(p)) && file_name(path).contains(".so")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, executable: bool, hook: elf::Use) -> Elf {
        Elf {
            path: name.into(),
            executable,
            interpreter: executable.then(|| "/lib64/ld-linux-x86-64.so.2".to_owned()),
            soname: None,
            needed: vec![],
            rpath: vec![],
            runpath: vec![],
            symbolic: false,
            first_address: 0,
            slots: vec![],
            uses: [(COMPUTE, hook)].into(),
        }
    }

    const CALLED: elf::Use = elf::Use { exported: true, internal: false, needed: false, relocated: true };

    #[test]
    fn a_call_through_the_loader_is_reachable_and_a_direct_one_is_not() {
        let shared = file("libggml-cpu.so", false, CALLED);
        assert_eq!(call_obstacle(&shared, std::slice::from_ref(&shared)), None);

        let direct = file("libggml-cpu.so", false, elf::Use { relocated: false, ..CALLED });
        let why = call_obstacle(&direct, std::slice::from_ref(&direct)).unwrap();
        assert!(why.found.contains("-Bsymbolic-functions") && why.todo.contains("LTO"), "{why:?}");

        let symbolic = Elf { symbolic: true, ..shared };
        let why = call_obstacle(&symbolic, std::slice::from_ref(&symbolic)).unwrap();
        assert!(why.found.contains("-Bsymbolic:"), "{why:?}");

        let inside = file("llama-cli", true, elf::Use { relocated: false, ..CALLED });
        let why = call_obstacle(&inside, std::slice::from_ref(&inside)).unwrap();
        assert!(why.found.contains("inside the program"), "{why:?}");
    }

    #[test]
    fn the_reason_for_no_copy_is_told_apart() {
        let internal = elf::Use { internal: true, ..Default::default() };
        let program = file("llama-cli", true, internal);
        let why = |root: &Elf, files: &[Elf]| no_copy(root, files).unwrap().found;
        assert!(why(&program, std::slice::from_ref(&program)).contains("static build"));

        let plain = file("/nonexistent/llama-cli", true, elf::Use::default());
        let hidden = file("libggml-cpu.so", false, internal);
        assert!(why(&plain, &[plain.clone(), hidden]).contains("hidden visibility"));

        let mut old = file("libggml.so", false, elf::Use::default());
        old.uses = [("ggml_graph_compute", CALLED)].into();
        assert!(why(&plain, &[plain.clone(), old]).contains("older than December 2024"));

        assert_eq!(no_copy(&plain, std::slice::from_ref(&plain)), None);
        assert!(not_loaded(&plain).found.contains("does not load ggml"));
    }

    #[test]
    fn static_and_musl_programs_are_blocked() {
        let mut program = file("/proc/self/exe", true, elf::Use::default());
        assert_eq!(blocked(&program), []);
        program.interpreter = Some("/lib/ld-musl-x86_64.so.1".into());
        assert!(blocked(&program)[0].found.contains("musl"));
        program.interpreter = None;
        assert!(blocked(&program)[0].found.contains("statically linked"));
    }

    #[test]
    fn this_test_program_resolves_all_its_libraries_and_has_no_ggml() {
        let reach = examine(Path::new("/proc/self/exe")).unwrap();
        assert_eq!(reach.missing, []);
        assert!(reach.files.len() >= 2, "the program and libc at least");
        assert!(!reach.engages() && reach.copies.is_empty());
        assert_eq!(reach.obstacles.len(), 1);
    }
}
