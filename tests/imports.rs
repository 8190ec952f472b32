//! Crates, and the folders of the shim, are one-way doors: a file imports only what lies below it.
//!
//! An import is a path that begins with `crate`, `super` or `self`, or with a crate of ours, anywhere in a file. A file has its
//! own parts as well (`mod part;`), and those may use what it has: that is no circle. Tests do not count.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

/// The crates in `src`, lowest first: a crate imports those of lower lines only.
const CRATES: &[&[&str]] =
    &[&["host", "kernels"], &["config", "ggml", "peaks", "telemetry"], &["calibration"], &["shim", "cli"]];

/// The folders and files of the shim, lowest first: each imports its own files and lower lines. The longest name counts.
const SHIM: &[&[&str]] = &[
    &["log"],
    &["stats"],
    &["gate/state", "gate/guard"],
    &["pages", "loader"],
    &["tuning", "placement"],
    &["weights"],
    &["buffers"],
    &["threads", "rows"],
    &["graph"],
    &["gate"],
    &["exports", "fuzzing"],
];

/// Crates in which files still import each other in a circle.
const STILL_CIRCULAR: &[&str] = &[];

/// The files of a crate by the names of their modules, such as `graph::plan`; the root has the empty name.
type Modules = BTreeMap<String, PathBuf>;

/// What each file imports.
type Graph = BTreeMap<String, BTreeSet<String>>;

#[test]
fn files_of_a_crate_do_not_import_each_other_in_a_circle() {
    for name in CRATES.concat().into_iter().filter(|name| !STILL_CIRCULAR.contains(name)) {
        let graph = files(name);
        if let Some(circle) = shortest_circle(&graph) {
            let next = circle.iter().cycle().skip(1);
            let pairs: Vec<_> = circle.iter().zip(next).map(|(from, to)| format!("  {from} -> {to}")).collect();
            panic!("src/{name}: these files import each other in a circle:\n{}", pairs.join("\n"));
        }
    }
}

#[test]
fn folders_of_the_shim_import_only_what_lies_below_them() {
    check_layers("src/shim", SHIM, &files("shim"));
}

#[test]
fn crates_import_only_what_lies_below_them() {
    let graph = CRATES.concat().into_iter().map(|name| (name.to_owned(), crates(name))).collect();
    check_layers("src", CRATES, &graph);
}

#[test]
fn imports_are_found_in_every_form_and_not_in_tests_comments_and_strings() {
    let modules: Modules = ["", "a", "a::x", "b", "b::y", "c", "d", "e"].map(|m| (m.to_owned(), PathBuf::new())).into();
    let text = r##"
        mod x;
        pub use x::Name; // crate::c in a comment
        use crate::{b::{self, y::Z}, e};
        fn f<'a>(_: &'a str) -> char { crate::a::x::f(); super::d::g("crate::c", r#"crate::c"#, ':'); '\'' }
        mod inner { use super::x; use super::super::b; }
        #[cfg(test)]
        mod tests { use crate::c; }
    "##;
    let found: BTreeSet<_> = imports("a", text, &modules).into_iter().collect();
    assert_eq!(found, ["b", "b::y", "d", "e"].map(str::to_owned).into());
    assert_eq!(imports("a::x", "use super::Name; use super::super::c;", &modules), ["a", "c"]);
}

/// What the files of a crate import from its other files. The root is left out: all modules are its parts.
fn files(name: &str) -> Graph {
    let modules = modules(name);
    let file = |module: &String| modules[module].to_string_lossy().into_owned();
    let of = |module: &String| {
        let text = std::fs::read_to_string(source(name).join(&modules[module])).expect("a readable file");
        let parts = modules.keys().filter(|part| part.starts_with(&format!("{module}::")));
        let imports = imports(module, &text, &modules);
        imports.iter().filter(|module| !module.is_empty()).chain(parts).map(file).collect()
    };
    modules.keys().filter(|module| !module.is_empty()).map(|module| (file(module), of(module))).collect()
}

/// The crates of ours that a crate imports.
fn crates(name: &str) -> BTreeSet<String> {
    let texts = modules(name).into_values().map(|file| std::fs::read_to_string(source(name).join(file)));
    let paths: Vec<_> = texts.flat_map(|text| paths(&tokens(&text.expect("a readable file")))).collect();
    let ours = |path: Found| path.names.first()?.strip_prefix("zen5turbo_").map(str::to_owned);
    paths
        .into_iter()
        .filter_map(ours)
        .filter(|other| other != name && CRATES.concat().contains(&other.as_str()))
        .collect()
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../src").join(name).join("src")
}

/// The modules of a crate but for its tests; none while there is no such crate.
fn modules(name: &str) -> Modules {
    let root = source(name);
    let mut found = Modules::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if stem == "tests" || stem.ends_with("_tests") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let file = path.strip_prefix(&root).expect("below the root").to_owned();
                let module = file.with_extension("").to_string_lossy().replace('/', "::");
                let module = module.strip_suffix("::mod").unwrap_or(&module);
                found.insert(if module == "lib" { String::new() } else { module.to_owned() }, file);
            }
        }
    }
    found
}

/// Fails on an import that points upwards, or sideways, between the parts that `layers` lists.
fn check_layers(of: &str, layers: &[&[&str]], graph: &Graph) {
    let part = |file: &str| {
        let all = layers.iter().enumerate().flat_map(|(line, parts)| parts.iter().map(move |part| (line, *part)));
        let is_in = |part: &str| {
            file.strip_prefix(part).is_some_and(|rest| matches!(rest, "" | ".rs") || rest.starts_with('/'))
        };
        all.filter(|(_, part)| is_in(part)).max_by_key(|(_, part)| part.len())
    };
    let mut wrong = Vec::new();
    for (from, to) in graph.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to))) {
        match (part(from), part(to)) {
            (Some((high, a)), Some((low, b))) if a == b || low < high => {}
            (Some(_), Some(_)) => wrong.push(format!("  {from} -> {to}")),
            (None, _) => wrong.push(format!("  {from} is in no layer")),
            (_, None) => wrong.push(format!("  {to} is in no layer")),
        }
    }
    assert!(
        wrong.is_empty(),
        "{of}: these imports point upwards (see the layers in tests/imports.rs):\n{}",
        wrong.join("\n")
    );
}

/// The shortest circle: each file imports the next one, and the last one the first.
fn shortest_circle(graph: &Graph) -> Option<Vec<&str>> {
    let imports = graph.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to)));
    let circles = imports.filter_map(|(from, to)| shortest_way(graph, to, from));
    let is_one_file_and_its_parts =
        |circle: &Vec<&str>| circle.iter().any(|whole| circle.iter().all(|file| file == whole || is_part(file, whole)));
    circles.filter(|circle| !is_one_file_and_its_parts(circle)).min_by_key(Vec::len)
}

/// Whether a file is a part of another one, such as `graph/plan.rs` of `graph/mod.rs`.
fn is_part(file: &str, whole: &str) -> bool {
    let folder = whole.strip_suffix("mod.rs").map_or_else(|| whole.replace(".rs", "/"), str::to_owned);
    file.starts_with(&folder)
}

/// The files from one to another, each of which imports the next.
fn shortest_way<'a>(graph: &'a Graph, from: &'a str, to: &str) -> Option<Vec<&'a str>> {
    let mut before: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(file) = queue.pop_front() {
        if file == to {
            let mut way = vec![file];
            while *way.last()? != from {
                way.push(before[way.last()?]);
            }
            way.reverse();
            return Some(way);
        }
        for next in &graph[file] {
            if next != from && !before.contains_key(next.as_str()) {
                before.insert(next, file);
                queue.push_back(next);
            }
        }
    }
    None
}

/// The modules that the file of `module` imports.
fn imports(module: &str, text: &str, modules: &Modules) -> Vec<String> {
    let mut found = Vec::new();
    for Found { names, inside } in paths(&tokens(text)) {
        let supers = names.iter().take_while(|name| *name == "super").count();
        let (mut at, rest) = match names[0].as_str() {
            "crate" => (String::new(), &names[1..]),
            "self" if inside == 0 => (module.to_owned(), &names[1..]),
            "super" if supers > inside => {
                let mut parts: Vec<_> = module.split("::").collect();
                parts.truncate(parts.len().saturating_sub(supers - inside));
                (parts.join("::"), &names[supers..])
            }
            _ => continue,
        };
        for name in rest {
            let next = if at.is_empty() { name.clone() } else { format!("{at}::{name}") };
            if !modules.contains_key(&next) {
                break;
            }
            at = next;
        }
        let is_own =
            at.strip_prefix(module).is_some_and(|rest| rest.is_empty() || module.is_empty() || rest.starts_with("::"));
        if !is_own {
            found.push(at);
        }
    }
    found
}

/// A path in code.
struct Found {
    names: Vec<String>,
    /// How many inline modules of the file it stands in.
    inside: usize,
}

/// All paths of several names, those of a `use` with braces one by one.
fn paths(tokens: &[String]) -> Vec<Found> {
    let at = |i: usize| tokens.get(i).map_or("", String::as_str);
    let (mut found, mut depth, mut inline) = (Vec::new(), 0, Vec::new());
    let mut i = 0;
    while i < tokens.len() {
        match at(i) {
            "mod" if at(i + 2) == "{" => inline.push(depth),
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                inline.pop_if(|outside| *outside == depth);
            }
            _ => {}
        }
        if is_name(at(i)) && at(i + 1) == "::" {
            let mut all = Vec::new();
            tree(tokens, &mut i, Vec::new(), &mut all);
            found.extend(all.into_iter().map(|names| Found { names, inside: inline.len() }));
        } else {
            i += 1;
        }
    }
    found
}

/// One path, or all in braces, from token `i` on.
fn tree(tokens: &[String], i: &mut usize, mut names: Vec<String>, found: &mut Vec<Vec<String>>) {
    let at = |i: usize| tokens.get(i).map_or("", String::as_str);
    while is_name(at(*i)) || at(*i) == "*" {
        names.push(at(*i).to_owned());
        *i += 1;
        if at(*i) != "::" {
            *i += if at(*i) == "as" { 2 } else { 0 };
            break;
        }
        *i += 1;
    }
    if at(*i) != "{" || at(*i - 1) != "::" {
        return found.push(names);
    }
    *i += 1;
    while !matches!(at(*i), "}" | "") {
        let before = *i;
        tree(tokens, i, names.clone(), found);
        *i += usize::from(at(*i) == "," || *i == before);
    }
    *i += 1;
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The names and signs of a file, without comments, literals, and what is compiled for tests only.
fn tokens(text: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let raw = rest.trim_start_matches(['b', 'c']).strip_prefix('r').map(|s| s.trim_start_matches('#'));
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(start) = raw.filter(|start| start.starts_with('"')) {
            let before = rest.len() - start.len();
            let end = format!("\"{}", "#".repeat(rest[..before].matches('#').count()));
            before + 1 + start[1..].find(&end).expect("the end of a raw string") + end.len()
        } else if c == '"' {
            1 + literal(&rest[1..], '"')
        } else if c == '\'' && (rest.starts_with("'\\") || rest.chars().nth(2) == Some('\'')) {
            1 + rest[1..]
                .chars()
                .next()
                .map_or(0, |c| if c == '\\' { literal(&rest[1..], '\'') } else { c.len_utf8() + 1 })
        } else {
            let name = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let len = if name > 0 {
                name
            } else if rest.starts_with("::") {
                2
            } else {
                c.len_utf8()
            };
            all.extend((!c.is_whitespace()).then(|| rest[..len].to_owned()));
            len
        };
        rest = &rest[len..];
    }
    without_tests(&all)
}

/// The bytes of a literal behind its first quote.
fn literal(text: &str, quote: char) -> usize {
    let mut escaped = false;
    let end = text.find(|c| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    end.expect("the end of a literal") + 1
}

fn without_tests(tokens: &[String]) -> Vec<String> {
    const TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        if !tokens[i..].iter().take(TEST.len()).eq(TEST) {
            kept.push(tokens[i].clone());
            i += 1;
            continue;
        }
        // The item ends with its block, or with a semicolon before that; other attributes have neither.
        i += TEST.len();
        let mut depth = 0;
        while i < tokens.len() {
            depth += match tokens[i].as_str() {
                "{" => 1,
                "}" => -1,
                _ => 0,
            };
            i += 1;
            if depth == 0 && matches!(tokens[i - 1].as_str(), "}" | ";") {
                break;
            }
        }
    }
    kept
}
