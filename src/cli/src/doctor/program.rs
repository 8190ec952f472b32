//! What a program, a library or a folder of them offers, read from the files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use zen5turbo_ggml::KNOWN_RELEASES;
use zen5turbo_ggml::abi::NAME_BYTES;
use zen5turbo_ggml::hooks::COMPUTE;

use super::check::{Check, Kind, Section, Status};
use crate::abi;
use crate::interposition::{self, Reach, file_name};
use crate::programs::find_program;

/// A section for each program, or for each CPU backend of a folder without programs.
pub fn sections(target: &Path) -> Result<Vec<Section>> {
    let target = locate(target)?;
    if target.is_dir() {
        return folder(&target);
    }
    Ok(vec![section(&target)])
}

fn locate(target: &Path) -> Result<PathBuf> {
    if target.exists() {
        return Ok(target.to_owned());
    }
    find_program(target.as_os_str()).filter(|path| path.exists()).with_context(|| {
        format!(
            "{} does not exist and is not a command in PATH; expected a program, a library, a folder of them or the number of a process",
            target.display()
        )
    })
}

fn section(target: &Path) -> Section {
    match interposition::examine(target) {
        Ok(reach) => {
            let mut section = Section::new(Kind::Program, target.display().to_string());
            section.checks = checks(&reach);
            section
        }
        Err(error) => unreadable(target, &error),
    }
}

/// A file that is no program at all says so, what was expected and what to do in one sentence.
fn unreadable(target: &Path, error: &anyhow::Error) -> Section {
    let mut section = Section::new(Kind::Program, target.display().to_string());
    let expected = "a program or a library for 64-bit x86 (ELF)";
    section.checks.push(Check::no("program.file", format!("{error:#}"), expected, "name the program that loads ggml"));
    section
}

/// A folder: each program in it that has ggml, else its CPU backends by themselves. Programs of one
/// build share their libraries: each set of findings is told once, under the names of all that have it.
fn folder(target: &Path) -> Result<Vec<Section>> {
    let examined = interposition::programs(target).into_iter().filter_map(|path| interposition::examine(&path).ok());
    let mut reaches: Vec<Reach> = examined.filter(Reach::has_ggml).collect();
    if reaches.is_empty() {
        reaches = interposition::backends(target).iter().filter_map(|path| interposition::examine(path).ok()).collect();
    }
    if reaches.is_empty() {
        bail!(
            "no program and no library with ggml in {}; expected a folder of llama.cpp programs or libraries, such as the one \
             that holds libggml-cpu*.so",
            target.display()
        );
    }
    let mut sections: Vec<(String, Section)> = Vec::new();
    for reach in &reaches {
        let findings = (&reach.copies, &reach.losses, &reach.obstacles, &reach.partly, &reach.missing);
        // The program's own name is in some of them.
        let findings = format!("{findings:?}").replace(&format!("{:?}", reach.root).replace('"', ""), "");
        match sections.iter_mut().find(|(known, _)| *known == findings) {
            Some((_, section)) => section.subject += &format!(", {}", file_name(&reach.root)),
            None => {
                let mut section = Section::new(Kind::Program, reach.root.display().to_string());
                section.checks = checks(reach);
                sections.push((findings, section));
            }
        }
    }
    Ok(sections.into_iter().map(|(_, section)| section).collect())
}

/// The findings on one program.
pub fn checks(reach: &Reach) -> Vec<Check> {
    let mut checks = loader(reach);
    checks.extend(copies(reach));
    for file in &reach.files {
        let hooks = interposition::offers(file);
        if !hooks.is_empty() {
            let id = format!("hooks:{}", file_name(&file.path));
            checks.push(Check::ok(&id, format!("calls through the loader: {}", hooks.join(", "))));
        }
    }
    if reach.engages() {
        for hook in &reach.losses {
            let id = format!("hook:{}", hook.names[0]);
            let found = format!("not called through the loader: {}", hook.loss);
            checks.push(Check::limited(
                &id,
                found,
                "a call through the loader",
                "nothing if the program has no need of it; else use a newer llama.cpp",
            ));
        }
    }
    checks.extend(structures(reach));
    checks
}

/// What the dynamic loader makes of the program, and whether there is a ggml with the hook.
fn loader(reach: &Reach) -> Vec<Check> {
    let mut checks: Vec<Check> =
        reach.obstacles.iter().map(|obstacle| Check::obstacle("program.loader", Status::No, obstacle)).collect();
    if checks.is_empty() {
        let found = format!("takes LD_PRELOAD, brings in {} files", reach.files.len());
        checks.push(Check::ok("program.loader", found));
    }
    let open = reach.unknown.iter().map(|why| Check::obstacle("program.ggml", Status::Unknown, why));
    checks.extend(open.chain(reach.partly.iter().map(|why| Check::obstacle("program.ggml", Status::Limited, why))));
    for (name, by) in &reach.missing {
        let found = format!("{name}, needed by {}, was not found", by.display());
        let todo = "set LD_LIBRARY_PATH as for running the program";
        checks.push(Check::limited(&format!("program.missing:{name}"), found, "every needed library", todo));
    }
    checks
}

/// The copies of ggml. One that cannot be reached is in the way only if none can.
fn copies(reach: &Reach) -> Vec<Check> {
    let status = if reach.copies.iter().any(|copy| copy.obstacle.is_none()) { Status::Limited } else { Status::No };
    let check = |copy: &interposition::Copy| {
        let id = format!("ggml:{}", file_name(&copy.path));
        let later = if copy.opened_later { " (opened at run time)" } else { "" };
        match &copy.obstacle {
            None => {
                let folder = copy.path.parent().filter(|folder| !folder.as_os_str().is_empty());
                let folder = folder.unwrap_or(Path::new(".")).display();
                Check::ok(&id, format!("in {folder}{later}: {COMPUTE} can be taken over"))
            }
            Some(obstacle) => Check::obstacle(&id, status, obstacle),
        }
    };
    reach.copies.iter().map(check).collect()
}

/// Whether the structures of the copies that can be reached are those the shim knows.
fn structures(reach: &Reach) -> Vec<Check> {
    let asked: Vec<(&interposition::Copy, Result<abi::Answers>)> = reach
        .copies
        .iter()
        // A program itself cannot be loaded as a library.
        .filter(|copy| copy.obstacle.is_none() && !reach.files.iter().any(|f| f.executable && f.path == copy.path))
        .map(|copy| (copy, abi::ask(&copy.path)))
        .collect();
    let fits = |(_, answers): &(_, Result<abi::Answers>)| answers.as_ref().is_ok_and(|a| a.differences().is_empty());
    let any = asked.iter().any(fits);
    let check = |(copy, answers): &(&interposition::Copy, Result<abi::Answers>)| {
        let id = format!("abi:{}", file_name(&copy.path));
        let expected = format!("the structures of ggml {KNOWN_RELEASES}, which the shim was compiled for");
        match answers {
            Err(error) => {
                let todo = "start the program: the shim asks again, and leaves ggml alone if the answer is no";
                Check::limited(&id, format!("not known: {error:#}"), expected, todo)
            }
            Ok(answers) => match answers.differences() {
                none if none.is_empty() => {
                    let names = match answers.name_bytes {
                        NAME_BYTES => String::new(),
                        longer => format!(", with a name of {longer} instead of {NAME_BYTES}"),
                    };
                    Check::ok(&id, format!("structures as known (a tensor takes {} bytes{names})", answers.overhead))
                }
                found => {
                    let todo =
                        "use a llama.cpp of those versions, or a newer zen5turbo; ggml computes everything until then";
                    let status = if any { Status::Limited } else { Status::No };
                    Check { status, ..Check::no(&id, found.join("; "), expected, todo) }
                }
            },
        }
    };
    asked.iter().map(check).collect()
}
