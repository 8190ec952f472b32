//! docs/settings.md, made from the list.

use std::fmt::Write;

use crate::knobs::{Group, KNOBS, Knob, OF_SCRIPTS, TEST_KNOBS};

const HEAD: &str = "\
# Settings

<!-- Made by `cargo run -p zen5turbo-config --example settings` from src/config/src/knobs.rs. A test compares the two. -->

Every setting is an environment variable of the program that runs llama.cpp:

    ZEN5TURBO_LOG=info LD_PRELOAD=/path/to/libzen5turbo.so llama-cli ...

`zen5turbo run` has each of them but `ZEN5TURBO` as an option: `--log info` is `ZEN5TURBO_LOG=info`. `zen5turbo doctor PID` shows those that
a process was started with, and the statistics hold all of them under `config`.

- A value that is not allowed is one line on stderr, and the default is used. A variable that begins with `ZEN5TURBO_` and is none
  of these is one line as well, and is ignored.
- An empty value is the same as none. Words are written in small letters.
- The variables are read once, when the program starts. A program may change them later; nothing follows.
- A relative path is taken from the folder in which the program is started.
- A set-user-ID program reads none of them, and nothing is done in it.
";

/// The text of docs/settings.md.
#[must_use]
pub fn page() -> String {
    let mut text = HEAD.to_owned();
    let mut group: Option<Group> = None;
    for knob in KNOBS.iter().chain(TEST_KNOBS) {
        if group != Some(knob.group) {
            group = Some(knob.group);
            let _ = write!(
                text,
                "\n## {}\n\n| variable | default | values | what it decides |\n|---|---|---|---|\n",
                knob.group.title()
            );
        }
        let _ = writeln!(text, "| `{}` | {} | {} | {} |", knob.name, default(knob), values(knob), decides(knob));
    }
    let _ = write!(
        text,
        "\nThe variables `{}` are of the scripts and of test programs; the library ignores them.\n",
        OF_SCRIPTS.join("`, `")
    );
    text
}

fn default(knob: &Knob) -> String {
    match knob.default() {
        default if !default.is_empty() => format!("`{default}`"),
        _ if !knob.unset.is_empty() => format!("`{}`", knob.unset),
        _ => "not set".to_owned(),
    }
}

fn values(knob: &Knob) -> String {
    let words = knob.words.iter().map(|word| format!("`{}`: {}", word.word, word.help));
    let other = knob.other.map(|other| match other.help {
        "" => other.text.to_owned(),
        help => format!("{}: {help}", other.text),
    });
    words.chain(other).collect::<Vec<_>>().join("<br>")
}

fn decides(knob: &Knob) -> String {
    match knob.details {
        "" => knob.help.to_owned(),
        details => format!("{}. {details}", knob.help),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_settings_is_what_the_list_gives() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/settings.md");
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == page(),
            "docs/settings.md is not what the list of settings gives; write it with: cargo run -p zen5turbo-config --example settings"
        );
    }

    #[test]
    fn a_cell_of_a_table_is_one_line_without_bars() {
        for knob in KNOBS.iter().chain(TEST_KNOBS) {
            for cell in [default(knob), values(knob), decides(knob)] {
                assert!(!cell.is_empty() && !cell.contains(['|', '\n']), "{}: {cell}", knob.name);
            }
        }
    }
}
