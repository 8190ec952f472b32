//! What is asked: passages of a text, in lengths as people send them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The text of a user who has none at hand: a page of this project's documentation.
const OURS: &str = include_str!("../../../../../docs/how-it-works.md");

/// Words that the prompts of a shared prefix begin with.
const SHARED_WORDS: usize = 100;

/// Files of a folder are read up to this many bytes together.
const ENOUGH: usize = 4 << 20;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub prompt: String,
    /// Tokens of the answer.
    pub tokens: u32,
    /// The client hangs up after so many tokens.
    pub hang_up_after: Option<u32>,
}

/// A text, and where its words begin.
#[derive(Debug)]
pub struct Text {
    /// What it is, for readers.
    pub name: String,
    text: String,
    words: Vec<usize>,
}

/// Which requests are made of a text.
#[derive(Clone, Debug)]
pub struct Kind {
    pub words: (u32, u32),
    pub shared: f64,
    pub cancel: f64,
    pub tokens: u32,
    pub seed: u64,
}

impl Text {
    /// The text that is given; else llama.cpp's pages, where `program` lies in its tree; else ours.
    pub fn find(given: Option<&Path>, program: &Path) -> Result<Text> {
        if let Some(path) = given {
            let text = read(path)?;
            ensure!(
                !text.trim().is_empty(),
                "{} holds no text; expected a text file, or a folder with .md or .txt files: name one with --text, or leave it out",
                path.display()
            );
            return Ok(Text::new(path.display().to_string(), text));
        }
        // The programs of a tree lie in its folder bin, or in build/bin.
        let file = program.canonicalize().unwrap_or_else(|_| program.to_owned());
        let pages = file
            .ancestors()
            .skip(2)
            .take(3)
            .map(|folder| folder.join("docs"))
            .find(|docs| docs.join("build.md").is_file());
        let text = pages.and_then(|pages| read(&pages).ok()).filter(|text| !text.is_empty());
        Ok(match text {
            Some(text) => Text::new("llama.cpp's docs beside the programs".to_owned(), text),
            None => Text::new("a text in this command (docs/how-it-works.md)".to_owned(), OURS.to_owned()),
        })
    }

    fn new(name: String, text: String) -> Text {
        let mut words = Vec::new();
        let mut before = true;
        for (at, c) in text.char_indices() {
            let space = c.is_whitespace();
            if before && !space {
                words.push(at);
            }
            before = space;
        }
        Text { name, text, words }
    }

    /// Its bytes.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Fails unless the text is long enough for prompts of this kind.
    pub fn check(&self, kind: &Kind) -> Result<()> {
        let needed = SHARED_WORDS + kind.words.1 as usize;
        ensure!(
            self.words.len() >= needed,
            "the text ({}) has {} words; expected at least {needed}, for prompts of up to {} words: name a longer one with --text, or give --prompt-words LOW,HIGH",
            self.name,
            self.words.len(),
            kind.words.1
        );
        Ok(())
    }

    /// The first `n` requests of a kind. Lengths, passages and who hangs up are those of the seed, whatever the `group`;
    /// but no prompt of a group begins as one of another group does, so that only the shared words are found in a cache.
    pub fn requests(&self, kind: &Kind, group: u64, n: usize) -> Vec<Request> {
        let mut random = fastrand::Rng::with_seed(kind.seed);
        (0..n)
            .map(|number| {
                let words = log_uniform(kind.words, random.f64());
                let start = random.usize(SHARED_WORDS..=self.words.len() - words);
                let (shared, cancelled) = (random.f64() < kind.shared, random.f64() < kind.cancel);
                let before = if shared { self.passage(0, SHARED_WORDS) } else { "" };
                let passage = self.passage(start, words);
                Request {
                    prompt: format!("{before}{}.{number}: {passage}", group + 1).trim_start().to_owned(),
                    tokens: kind.tokens,
                    hang_up_after: cancelled.then_some((kind.tokens / 2).max(1)),
                }
            })
            .collect()
    }

    fn passage(&self, start: usize, words: usize) -> &str {
        let end = self.words.get(start + words).copied().unwrap_or(self.text.len());
        &self.text[self.words[start]..end]
    }
}

/// A number between the two, of which each doubling is as likely as the others.
fn log_uniform((low, high): (u32, u32), random: f64) -> usize {
    let value = f64::from(low) * (f64::from(high) / f64::from(low)).powf(random);
    (value.round() as usize).clamp(low as usize, high as usize)
}

/// A text file, or all of a folder in the order of their names.
fn read(path: &Path) -> Result<String> {
    let what = || {
        format!(
            "the text {} cannot be read; expected a text file, or a folder with .md or .txt files: name one with --text",
            path.display()
        )
    };
    if !path.is_dir() {
        let bytes = fs::read(path).with_context(what)?;
        return Ok(String::from_utf8_lossy(&bytes[..bytes.len().min(ENOUGH)]).into_owned());
    }
    let mut files: Vec<PathBuf> = fs::read_dir(path).with_context(what)?.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "md" || e == "txt"));
    files.sort();
    let mut text = String::new();
    for file in files {
        if text.len() < ENOUGH {
            text += &String::from_utf8_lossy(&fs::read(&file).with_context(what)?);
            text.push('\n');
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn kind() -> Kind {
        Kind { words: (40, 400), shared: 0.5, cancel: 0.1, tokens: 64, seed: 1 }
    }

    fn ours() -> Text {
        Text::find(None, Path::new("/usr/bin/llama-server")).unwrap()
    }

    #[test]
    fn a_user_without_a_text_has_ours() {
        let text = ours();
        assert!(text.name.contains("how-it-works"), "{}", text.name);
        text.check(&kind()).unwrap();
    }

    #[test]
    fn requests_are_those_of_the_seed_and_groups_share_no_beginning() {
        let (text, kind) = (ours(), kind());
        let requests = text.requests(&kind, 0, 400);
        assert_eq!(requests, text.requests(&kind, 0, 400));
        assert_eq!(requests[..9], text.requests(&kind, 0, 9), "more requests follow the first ones");
        assert_ne!(requests, text.requests(&Kind { seed: 2, ..kind.clone() }, 0, 400));
        let shared = text.passage(0, SHARED_WORDS);
        let share = |n: usize| n as f64 / 400.0;
        let with = requests.iter().filter(|request| request.prompt.starts_with(shared)).count();
        assert!((share(with) - 0.5).abs() < 0.1, "{with}");
        let cancelled = requests.iter().filter(|request| request.hang_up_after == Some(32)).count();
        assert!((share(cancelled) - 0.1).abs() < 0.06, "{cancelled}");
        // Lengths, as in another group; what follows the shared words is unlike any other.
        let words = |request: &Request| request.prompt.replace(shared, "").split_whitespace().count();
        let other = text.requests(&kind, 7, 400);
        assert!(requests.iter().zip(&other).all(|(a, b)| words(a) == words(b) && a.prompt != b.prompt));
        assert!(requests.iter().all(|request| (40..=401).contains(&words(request))));
        let short = requests.iter().filter(|request| words(request) < 127).count();
        assert!((share(short) - 0.5).abs() < 0.1, "half of the prompts have less than the geometric mean: {short}");
        let begins = requests
            .iter()
            .chain(&other)
            .map(|request| request.prompt.replace(shared, "").split_whitespace().next().unwrap_or_default().to_owned());
        assert_eq!(begins.collect::<HashSet<_>>().len(), 800);
    }

    #[test]
    fn texts_of_any_bytes_are_cut_between_words() {
        let text = Text::new("x".into(), "  ein Wörtchen — 汉字 and\n\nmore ".repeat(40));
        assert_eq!(text.passage(0, 2), "ein Wörtchen ");
        assert_eq!(text.passage(text.words.len() - 1, 1), "more ");
        let kind = Kind { words: (1, 100), ..kind() };
        assert_eq!(text.requests(&kind, 0, 50).len(), 50);
    }

    #[test]
    fn files_and_folders_are_read_and_what_is_no_text_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |path: &Path| format!("{:#}", Text::find(Some(path), Path::new("x")).unwrap_err());
        assert!(refused(&dir.path().join("none")).contains("cannot be read; expected a text file"));
        assert!(refused(dir.path()).contains("holds no text; expected"));
        fs::write(dir.path().join("b.md"), "two three").unwrap();
        fs::write(dir.path().join("a.txt"), "one").unwrap();
        fs::write(dir.path().join("c.bin"), "four").unwrap();
        let text = Text::find(Some(dir.path()), Path::new("x")).unwrap();
        assert_eq!(text.text, "one\ntwo three\n");
        let error = format!("{:#}", text.check(&kind()).unwrap_err());
        assert!(error.contains("has 3 words; expected at least 500") && error.contains("--prompt-words"), "{error}");
    }
}
