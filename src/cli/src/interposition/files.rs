//! The files that the loader brings in, and those that ggml or a program opens later.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use zen5turbo_ggml::LIBRARY_PREFIX;
use zen5turbo_ggml::functions::ggml_graph_compute;
use zen5turbo_ggml::hooks::COMPUTE;

use super::Reach;
use crate::elf::{self, Elf};
use crate::loader::{LoaderCache, expand, library_path};

/// Breadth-first through DT_NEEDED, as the loader does it.
pub fn load(
    roots: Vec<Elf>,
    reach: &mut Reach,
    seen: &mut BTreeSet<PathBuf>,
    cache: &LoaderCache,
    hooks: &[&'static str],
) {
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

/// A library that opens models for programs: not all of them call ggml themselves.
pub fn is_of_llama(name: &str) -> bool {
    name.starts_with(LIBRARY_PREFIX) || name.starts_with("libllama")
}

/// The CPU backends that ggml would open at run time: beside the program, beside its own libraries and in the folders of
/// backends there, in the folder that it was compiled with (`GGML_BACKEND_DIR`), and where Ollama keeps them.
pub fn opened_later(files: &[Elf]) -> Vec<PathBuf> {
    let named = |wanted: fn(&str) -> bool| files.iter().any(|file| wanted(&file_name(&file.path)));
    if files.iter().any(|f| f.executable)
        && !named(|name| name.starts_with(LIBRARY_PREFIX))
        && !named(|name| name.contains("ollama"))
    {
        // A program that links no ggml opens backends only in its own way, unknown here.
        return Vec::new();
    }
    let mut folders = BTreeSet::new();
    for file in files {
        let path = real(&file.path);
        let Some(folder) = path.parent() else { continue };
        let name = file_name(&file.path);
        if file.executable || is_of_llama(&name) {
            if file.executable {
                folders.insert(folder.join("../lib/ollama"));
                folders.insert(folder.join("lib/ollama"));
            }
            let inside = folder.join("ggml");
            folders.extend(list(&inside).into_iter().filter(|path| file_name(path).starts_with("backends")));
            folders.insert(folder.to_owned());
        }
        if name.starts_with(LIBRARY_PREFIX) {
            folders.extend(elf::folders_named_in(&path));
        }
    }
    folders.iter().flat_map(|folder| cpu_backends(folder)).collect()
}

/// The libraries in `folder` that hold ggml's CPU backend, or all of ggml, under any name.
pub fn backends(folder: &Path) -> Vec<PathBuf> {
    const GRAPH: &str = ggml_graph_compute.name();
    let holds =
        |elf: &Elf| [COMPUTE, GRAPH].map(|name| elf.symbol(name)).iter().any(|used| used.exported || used.internal);
    once(list(folder).into_iter().filter(|path| path.is_file()), |elf| !elf.executable && holds(elf))
}

/// `libggml-cpu*.so*` in `folder`.
fn cpu_backends(folder: &Path) -> Vec<PathBuf> {
    let named = |path: &PathBuf| {
        let name = file_name(path);
        name.starts_with("libggml-cpu") && name.contains(".so")
    };
    once(list(folder).into_iter().filter(named), |_| true)
}

/// Those of the files that are wanted, in the order of their names. A library lies under several names in many folders,
/// as links or as copies: it is told by its DT_SONAME, and the shortest name is enough.
fn once(files: impl Iterator<Item = PathBuf>, wanted: impl Fn(&Elf) -> bool) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = files.collect();
    files.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    let (mut paths, mut names) = (BTreeSet::new(), BTreeSet::new());
    files.retain(|path| {
        Elf::read(path, &[COMPUTE, ggml_graph_compute.name()]).is_ok_and(|elf| {
            wanted(&elf) && paths.insert(real(path)) && elf.soname.is_none_or(|name| names.insert(name))
        })
    });
    files.sort();
    files
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

pub fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

pub fn is_system(path: &Path) -> bool {
    ["/lib", "/usr/lib"].iter().any(|p| path.starts_with(p)) && file_name(path).contains(".so")
}
