//! The recipes: a file or lines, what to type then, how to undo it, and how to see that it works.

use std::path::{Path, PathBuf};

use super::place::{File, MADE_BY, Written, block};
use super::service::Service;
use crate::{glibc, shim};

/// What every recipe needs to know.
#[derive(Debug)]
pub struct In {
    /// The shim library.
    pub library: PathBuf,
    /// This command.
    pub command: PathBuf,
    /// Settings of the shim, by the names of their variables.
    pub variables: Vec<(&'static str, String)>,
}

/// How to set something up.
#[derive(Debug, Default)]
pub struct Recipe {
    pub file: Option<File>,
    /// Where there is no file: what to put where.
    lines: String,
    /// What to type then.
    then: Vec<String>,
    undo: Vec<String>,
    /// What shows that it works.
    look: String,
    notes: Vec<String>,
}

/// Where containers see the library and the command.
const INSIDE_LIBRARY: &str = "/usr/local/lib/libzen5turbo.so";
const INSIDE_COMMAND: &str = "/usr/local/bin/zen5turbo";

/// The newest glibc that most images have.
const GLIBC_OF_IMAGES: (u32, u32) = (2, 28);

impl Recipe {
    /// For a terminal.
    pub fn text(&self) -> String {
        let first = match &self.file {
            Some(file) => {
                format!("put into {} (--write does it):\n\n{}\n", file.path.display(), indented(&file.text))
            }
            None => format!("{}\n", self.lines),
        };
        first + &self.rest()
    }

    /// For a terminal, when the file is there.
    pub fn text_when_written(&self, path: &Path, written: Written) -> String {
        let first = match written {
            Written::New => format!("wrote {}\n", path.display()),
            Written::AsBefore => format!("{} says this already; nothing was written\n", path.display()),
        };
        first + &self.rest()
    }

    fn rest(&self) -> String {
        let mut out = String::new();
        let mut lines = |title: &str, lines: &[String]| {
            for (i, line) in lines.iter().enumerate() {
                out += &format!("{:<6}{line}\n", if i == 0 { title } else { "" });
            }
        };
        lines("then", &self.then);
        lines("look", std::slice::from_ref(&self.look));
        lines("undo", &self.undo);
        lines("note", &self.notes);
        out
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("    {line}\n") }).collect()
}

/// A word of a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// A drop-in file for a unit.
pub fn systemd(given: &In, service: &Service) -> Recipe {
    let unit = &service.unit;
    let path = PathBuf::from(format!("/etc/systemd/system/{unit}.d/zen5turbo.conf"));
    let preload = shim::preload_list(&given.library, service.preload.as_ref().map(AsRef::as_ref));
    // A percent sign is a specifier, a quote ends a value: systemd.unit(5), systemd.exec(5).
    let value = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    let mut text = format!("# {MADE_BY} systemd {unit}\n[Service]\n");
    let variables = [("LD_PRELOAD", preload.to_string_lossy().into_owned())].into_iter();
    for (name, set) in variables.chain(given.variables.iter().cloned()) {
        text += &format!("Environment=\"{name}={}\"\n", value(&set));
    }
    let mut notes = Vec::new();
    if ["/home", "/root", "/run/user"].iter().any(|folder| given.library.starts_with(folder)) {
        notes.push(format!(
            "a unit with ProtectHome= cannot see {}: keep it in /usr/local/lib",
            given.library.display()
        ));
    }
    notes.extend(
        service.preload.iter().map(|other| format!("LD_PRELOAD of the unit had {other}, which stays, behind ours")),
    );
    notes.extend(
        service.unknown.iter().map(|why| format!("whether the unit exists, and what it starts, is not known: {why}")),
    );
    let [remove, reload] = [format!("rm {}", path.display()), "systemctl daemon-reload".to_owned()];
    let restart = format!("systemctl restart {unit}");
    Recipe {
        file: Some(File { path, text, is_part: false }),
        then: vec![reload.clone(), format!("{restart}      # requests that run are cut off")],
        undo: vec![remove, reload, restart],
        look: "zen5turbo doctor --all, while a model is loaded".into(),
        notes,
        ..Recipe::default()
    }
}

/// What the image must have for this library, where that is more than most have.
fn image_notes(given: &In) -> Vec<String> {
    let needed = glibc::needed(&given.library).filter(|needed| *needed > GLIBC_OF_IMAGES);
    let glibc = needed.map(|(major, minor)| {
        format!(
            "this library needs glibc {major}.{minor} in the image; the one in the archive of scripts/package.sh needs {}.{}",
            GLIBC_OF_IMAGES.0, GLIBC_OF_IMAGES.1
        )
    });
    let command = cfg!(feature = "hwloc").then(|| {
        "this build of the command needs libhwloc, which images lack, so it is not mounted; the archive's needs nothing"
            .to_owned()
    });
    glibc.into_iter().chain(command).chain(["an image with musl (Alpine) cannot be used".to_owned()]).collect()
}

/// What is mounted, read-only: (here, inside).
fn mounts(given: &In) -> Vec<(String, &'static str)> {
    let mut mounts = vec![(given.library.display().to_string(), INSIDE_LIBRARY)];
    if !cfg!(feature = "hwloc") {
        mounts.push((given.command.display().to_string(), INSIDE_COMMAND));
    }
    mounts
}

/// Variables inside a container.
fn inside(given: &In) -> impl Iterator<Item = (&'static str, String)> {
    [("LD_PRELOAD", INSIDE_LIBRARY.to_owned())].into_iter().chain(given.variables.iter().cloned())
}

fn look_inside(container: &str) -> String {
    if cfg!(feature = "hwloc") {
        "zen5turbo doctor --all, as root on this machine, while a model is loaded".into()
    } else {
        format!("docker exec {container} zen5turbo doctor --all, while a model is loaded")
    }
}

/// Options of `docker run`.
pub fn docker(given: &In, image: &str) -> Recipe {
    let mut options: Vec<String> =
        mounts(given).iter().map(|(here, there)| format!("-v {}", quoted(&format!("{here}:{there}:ro")))).collect();
    options.extend(inside(given).map(|(name, value)| format!("-e {}", quoted(&format!("{name}={value}")))));
    let options = options.join(" \\\n        ");
    Recipe {
        lines: format!(
            "give docker run (or podman run) these options:\n\n    docker run \\\n        {options} \\\n        {}\n",
            quoted(image)
        ),
        undo: vec!["start the container without them".into()],
        look: look_inside("CONTAINER"),
        notes: image_notes(given),
        ..Recipe::default()
    }
}

/// A second compose file.
pub fn compose(given: &In, service: &str) -> Recipe {
    const FILE: &str = "compose.zen5turbo.yaml";
    // A string of JSON is one of YAML.
    let text = |value: &str| serde_json::to_string(value).unwrap_or_default();
    let mut yaml = format!("# {MADE_BY} compose {service}\nservices:\n  {service}:\n    environment:\n");
    for (name, value) in inside(given) {
        yaml += &format!("      {name}: {}\n", text(&value));
    }
    yaml += "    volumes:\n";
    for (here, there) in mounts(given) {
        yaml += &format!("      - {}\n", text(&format!("{here}:{there}:ro")));
    }
    let mut notes = vec!["write it beside your compose file; both are named".to_owned()];
    notes.extend(image_notes(given));
    Recipe {
        file: Some(File { path: FILE.into(), text: yaml, is_part: false }),
        then: vec![format!("docker compose -f compose.yaml -f {FILE} up -d")],
        undo: vec![format!("rm {FILE}"), "docker compose up -d".into()],
        look: look_inside("CONTAINER"),
        notes,
        ..Recipe::default()
    }
}

/// Lines for a login shell.
pub fn shell(given: &In, home: &Path) -> Recipe {
    let library = given.library.display();
    let mut text = format!("export LD_PRELOAD={library}${{LD_PRELOAD:+:$LD_PRELOAD}}\n");
    for (name, value) in &given.variables {
        text += &format!("export {name}={}\n", quoted(value));
    }
    let path = home.join(".profile");
    let undo = format!("sed -i '/{}/,/{}/d' {}", block::START, block::END, quoted(&path.to_string_lossy()));
    Recipe {
        file: Some(File { path, text, is_part: true }),
        then: vec!["log in again, or type: . ~/.profile".into()],
        undo: vec![undo, "log in again".into()],
        look: "zen5turbo doctor --all, while a model is loaded".into(),
        notes: vec![
            "every program of the login gets the library; one without ggml is left alone and starts 0.3 ms later"
                .into(),
            "for one program: zen5turbo run -- PROGRAM ARGS".into(),
        ],
        ..Recipe::default()
    }
}

/// What a program in Python needs: the loader reads LD_PRELOAD before Python starts.
pub fn python(given: &In) -> Recipe {
    let library = given.library.display();
    let set: String = given.variables.iter().map(|(name, value)| format!("{name}={} ", quoted(value))).collect();
    let in_python: String = given
        .variables
        .iter()
        .map(|(name, value)| {
            format!("        os.environ[\"{name}\"] = {}\n", serde_json::to_string(value).unwrap_or_default())
        })
        .collect();
    Recipe {
        lines: format!(
            "start Python with the library:\n\n    {set}LD_PRELOAD={library} python3 PROGRAM.py\n\n\
             or let the program do it, as its first lines (they start it anew once):\n\n    \
             import os, sys\n    if \"libzen5turbo\" not in os.environ.get(\"LD_PRELOAD\", \"\"):\n        \
             os.environ[\"LD_PRELOAD\"] = \"{library}\"\n{in_python}        \
             os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])\n"
        ),
        undo: vec!["leave it away".into()],
        look: "zen5turbo doctor --all, while a model is loaded".into(),
        notes: vec!["zen5turbo doctor FOLDER tells of the package's libraries whether they can be reached".into()],
        ..Recipe::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given() -> In {
        let variables = vec![("ZEN5TURBO_GATE", "off".to_owned())];
        In { library: "/opt/lib/libzen5turbo.so".into(), command: "/opt/bin/zen5turbo".into(), variables }
    }

    #[test]
    fn a_unit_keeps_the_preloads_that_it_had() {
        let unit = "ollama.service".to_owned();
        let service = Service { unit, program: None, preload: Some("/a.so".into()), unknown: None };
        let recipe = systemd(&given(), &service);
        let file = recipe.file.as_ref().unwrap();
        assert_eq!(file.path, Path::new("/etc/systemd/system/ollama.service.d/zen5turbo.conf"));
        let lines: Vec<&str> = file.text.lines().skip(1).collect();
        let expected = [
            "[Service]",
            "Environment=\"LD_PRELOAD=/opt/lib/libzen5turbo.so:/a.so\"",
            "Environment=\"ZEN5TURBO_GATE=off\"",
        ];
        assert_eq!(lines, expected);
        let text = recipe.text();
        assert!(text.contains("undo  rm /etc/systemd/system/ollama.service.d/zen5turbo.conf"), "{text}");
    }

    #[test]
    fn containers_see_the_library_where_the_variable_says() {
        let text = docker(&given(), "my image").text();
        assert!(text.contains("-v /opt/lib/libzen5turbo.so:/usr/local/lib/libzen5turbo.so:ro \\\n"), "{text}");
        assert!(text.contains("-e LD_PRELOAD=/usr/local/lib/libzen5turbo.so") && text.ends_with("used\n"), "{text}");
        assert!(text.contains("-e ZEN5TURBO_GATE=off") && text.contains("'my image'"), "{text}");
        let yaml = compose(&given(), "llm").file.unwrap().text;
        assert!(
            yaml.contains("  llm:\n    environment:\n      LD_PRELOAD: \"/usr/local/lib/libzen5turbo.so\"\n"),
            "{yaml}"
        );
        assert!(yaml.contains("      - \"/opt/lib/libzen5turbo.so:/usr/local/lib/libzen5turbo.so:ro\"\n"), "{yaml}");
    }

    #[test]
    fn words_of_a_shell_are_quoted_where_they_must() {
        assert_eq!(
            (quoted("a=b"), quoted("a b"), quoted("it's"), quoted("")),
            ("a=b".into(), "'a b'".into(), "'it'\\''s'".into(), "''".into())
        );
    }
}
