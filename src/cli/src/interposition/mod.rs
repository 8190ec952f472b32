//! Whether a preloaded library can get at ggml in a program: which files the loader would bring in,
//! and whether their calls to the hooked functions go through it.

mod files;
mod obstacles;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use zen5turbo_ggml::LIBRARY_PREFIX;
use zen5turbo_ggml::hooks::{self, COMPUTE, Hook, REPORTED};
use zen5turbo_ggml::rows::PRODUCTS;

use crate::elf::Elf;
use crate::loader::LoaderCache;
pub use files::{backends, file_name, programs};
pub use obstacles::Obstacle;

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
    /// Why only some products are taken over: there is no hook, but whole products go through [`PRODUCTS`].
    pub partly: Option<Obstacle>,
    /// Why nothing can be told: no ggml is known here, but the program may open one in its own way.
    pub unknown: Option<Obstacle>,
}

impl Reach {
    /// Whether ggml can be taken over, as a whole or partly, and nothing stands against it.
    pub fn engages(&self) -> bool {
        self.obstacles.is_empty() && (self.partly.is_some() || self.copies.iter().any(|c| c.obstacle.is_none()))
    }

    /// Whether any file here has to do with ggml.
    pub fn has_ggml(&self) -> bool {
        !self.copies.is_empty()
            || self.files.iter().any(|f| file_name(&f.path).starts_with(LIBRARY_PREFIX) || f.ggml.defined)
            || self.obstacles.iter().any(|o| o.found.contains("ggml"))
    }
}

/// The functions that are looked for in a file.
pub fn looked_for() -> Vec<&'static str> {
    let mut names = hooks::reported();
    names.push(PRODUCTS);
    names
}

/// Examines `root`, a program or a library.
pub fn examine(root: &Path) -> Result<Reach> {
    let hooks = looked_for();
    let root_elf = Elf::read(root, &hooks)?;
    let cache = LoaderCache::read();
    let mut reach = Reach {
        root: root.to_owned(),
        files: Vec::new(),
        missing: Vec::new(),
        copies: Vec::new(),
        losses: Vec::new(),
        obstacles: Vec::new(),
        partly: None,
        unknown: None,
    };
    reach.obstacles.extend(obstacles::blocked(&root_elf));

    let mut seen = BTreeSet::from([files::real(root)]);
    files::load(vec![root_elf.clone()], &mut reach, &mut seen, &cache, &hooks);
    let linked = reach.files.len();
    let later: Vec<Elf> = files::opened_later(&reach.files)
        .into_iter()
        .filter(|path| seen.insert(files::real(path)))
        .filter_map(|path| Elf::read(&path, &hooks).ok())
        .collect();
    files::load(later, &mut reach, &mut seen, &cache, &hooks);

    for (i, file) in reach.files.iter().enumerate() {
        if file.symbol(COMPUTE).exported {
            reach.copies.push(Copy {
                path: file.path.clone(),
                opened_later: i >= linked,
                obstacle: obstacles::call_obstacle(file, &reach.files),
            });
        }
    }
    if reach.copies.is_empty() && reach.obstacles.is_empty() {
        match obstacles::no_copy(&reach.files) {
            Some(found) if reach.files.iter().any(|file| is_called(file, PRODUCTS)) => reach.partly = Some(found),
            Some(found) => reach.obstacles.push(found),
            None => reach.unknown = Some(obstacles::not_found(&root_elf, &reach.files)),
        }
    }
    reach.losses = REPORTED.iter().filter(|hook| !reach.files.iter().any(|f| calls(f, hook))).collect();
    Ok(reach)
}

/// Whether `file` calls the hooked function through the loader. Only what has to do with ggml counts:
/// every other library maps memory, too.
fn calls(file: &Elf, hook: &Hook) -> bool {
    (file.executable
        || file.ggml.defined
        || file.ggml.imported
        || file.needed.iter().any(|name| files::is_of_llama(name)))
        && hook.names.iter().any(|name| is_called(file, name))
}

/// Whether a call of `file` to this function goes through the loader.
fn is_called(file: &Elf, name: &str) -> bool {
    let used = file.symbol(name);
    used.relocated && !(file.symbolic && used.exported)
}

/// The hooks that calls of `file` offer. Whole products come one way or the other.
pub fn offers(file: &Elf) -> Vec<&'static str> {
    const COMPUTING: [Hook; 2] = [Hook { names: &[COMPUTE], loss: "" }, Hook { names: &[PRODUCTS], loss: "" }];
    let computing = COMPUTING.iter().find(|hook| calls(file, hook)).into_iter();
    computing.chain(REPORTED.iter().filter(|hook| calls(file, hook))).map(|hook| hook.names[0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_program_resolves_all_its_libraries() {
        let reach = examine(Path::new("/proc/self/exe")).unwrap();
        assert_eq!(reach.missing, []);
        assert!(reach.files.len() >= 2, "the program and libc at least");
        assert!(!reach.engages() && reach.copies.is_empty());
    }

    #[test]
    fn of_a_program_without_ggml_it_is_not_known() {
        let reach = examine(Path::new("/bin/sh")).unwrap();
        assert!(!reach.engages() && reach.copies.is_empty() && reach.obstacles.is_empty());
        assert!(reach.unknown.unwrap().found.contains("does not load ggml"));
    }
}
