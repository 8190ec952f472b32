//! What keeps a preloaded library from ggml, in words: what was found, what was expected, what to do.

use zen5turbo_ggml::LIBRARY_PREFIX;
use zen5turbo_ggml::functions::ggml_graph_compute;
use zen5turbo_ggml::hooks::COMPUTE;
use zen5turbo_ggml::rows::PRODUCTS;

use super::files::{file_name, is_system};
use super::is_called;
use crate::elf::{self, Elf};

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
pub fn call_obstacle(copy: &Elf, files: &[Elf]) -> Option<Obstacle> {
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
pub fn no_copy(files: &[Elf]) -> Option<Obstacle> {
    let any = |test: fn(&Elf) -> bool| files.iter().find(|f| test(f));
    let inside = |f: &Elf| [COMPUTE, ggml_graph_compute.name()].iter().any(|name| f.symbol(name).internal);
    if let Some(file) = files.iter().find(|f| f.executable && inside(f)) {
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
                "{} has ggml_graph_compute and not ggml_cpu_extra_compute_forward: a ggml from before December 2024, or a fork \
                 without it; {}",
                file.path.display(),
                if is_called(file, PRODUCTS) {
                    "products that it gives to llamafile_sgemm, and functions for single rows, can be taken over"
                } else {
                    "only functions for single rows can be taken over, and no product"
                }
            ),
            SHARED,
            "use a llama.cpp from December 2024 or later, for all products and attention",
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
    // Source file names stay in the messages of GGML_ASSERT, even in a stripped program. Of a file that has symbols of ggml it
    // is known already what it holds; it may name the backend because it calls it.
    let marks: [&[u8]; 2] = [b"ggml-cpu.c", b"ggml_backend_cpu"];
    let may_hold = |file: &&Elf| file.ggml == elf::Ggml::default() && !is_system(&file.path);
    // The command zen5turbo has the marks as well.
    let holds = |file: &&Elf| elf::holds_text(&file.path, &marks) && !elf::holds_text(&file.path, &[b"ZEN5TURBO_GATE"]);
    if let Some(file) = files.iter().filter(may_hold).find(holds) {
        return Some(obstacle(
            format!(
                "static build: the text of ggml's CPU backend is inside {}, without dynamic symbols",
                file.path.display()
            ),
            SHARED,
            "use a shared build of llama.cpp (-DBUILD_SHARED_LIBS=ON)",
        ));
    }
    None
}

/// Why nothing can be told of a program: it uses a ggml whose CPU backend lies elsewhere, or none at all by itself.
pub fn not_found(root: &Elf, files: &[Elf]) -> Obstacle {
    let program = root.path.display();
    if files.iter().any(|f| f.ggml.imported || file_name(&f.path).starts_with(LIBRARY_PREFIX)) {
        return obstacle(
            format!(
                "{program} uses ggml, but its CPU backend was found neither among the needed libraries, nor beside them, nor \
                 in a folder of backends"
            ),
            SHARED,
            "name the folder that holds libggml-cpu*.so (zen5turbo doctor FOLDER), or ask again when the program runs (zen5turbo doctor PID)",
        );
    }
    obstacle(
        format!("{program} does not load ggml by itself"),
        SHARED,
        "name the program that does the inference, or, when it opens ggml later (Python, plug-ins), the folder or the file that \
         holds ggml",
    )
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
            ggml: elf::Ggml::default(),
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
        let why = |files: &[Elf]| no_copy(files).unwrap().found;
        assert!(why(std::slice::from_ref(&program)).contains("static build"));

        let plain = file("/nonexistent/llama-cli", true, elf::Use::default());
        let hidden = file("libggml-cpu.so", false, internal);
        assert!(why(&[plain.clone(), hidden]).contains("hidden visibility"));

        let mut old = file("libggml.so", false, elf::Use::default());
        old.uses = [("ggml_graph_compute", CALLED)].into();
        assert!(why(&[plain.clone(), old]).contains("from before December 2024, or a fork"));

        assert_eq!(no_copy(std::slice::from_ref(&plain)), None);
        let not_found = |files: &[Elf]| not_found(&plain, files).found;
        assert!(not_found(std::slice::from_ref(&plain)).contains("does not load ggml"));
        let caller = Elf { ggml: elf::Ggml { imported: true, defined: false }, ..plain.clone() };
        assert!(not_found(&[caller]).contains("its CPU backend was found neither"));
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
}
