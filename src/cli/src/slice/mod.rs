//! `zen5turbo slice`, and `--like` of `ab`: some layers of a well-known model, with its widths, heads, experts and types of
//! weights, and with random numbers as weights. It shows what the model would do on this CPU before anybody fetches it.

mod gguf;
mod make;
mod table;
mod tokens;

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use zen5turbo_host::proc;

use crate::interrupt::{self, Interrupted, stop_at_signals};
use crate::programs::find_program;
use crate::text;
use make::Job;
use table::{MODELS, Model};

pub use table::Gives;

/// The name that asks for the table instead.
pub const LIST: &str = "list";

/// Below the user's cache folder.
const PLACE: &str = "zen5turbo/slices";

/// Files made in another way than before have other names.
const VERSION: u32 = 1;

/// Make a file like a well-known model: some of its layers, with random weights
///
/// Widths, heads, experts and types of weights are the model's, so that its products are; llama-quantize chooses the
/// types. A text that such a file generates means nothing. `zen5turbo ab --like NAME` makes the file and measures.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The model, and another mix of llama-quantize's than the usual one if wanted; `list` shows the models
    #[arg(value_name = "NAME[:MIX]", default_value = LIST)]
    name: String,
    /// Layers of the slice [default: as in the list]
    #[arg(long, value_name = "N")]
    layers: Option<u32>,
    /// File to write [default: one in ~/.cache/zen5turbo/slices, which is made once]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Folder of llama.cpp's programs (with llama-quantize) [default: from PATH]
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,
}

/// A slice that is there.
#[derive(Debug)]
pub struct Slice {
    pub path: PathBuf,
    pub gives: Gives,
    /// What it is, and what it cannot tell: a sentence or two each.
    pub notes: Vec<String>,
}

/// Makes the file, or shows the table.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.name == LIST {
        print!("{}", list());
        return Ok(ExitCode::SUCCESS);
    }
    let stop = stop_at_signals()?;
    match find_or_make(&args.name, args.layers, args.out.as_deref(), args.bin.as_deref(), stop) {
        Ok(slice) => {
            println!("{}", slice.path.display());
            slice.notes.iter().for_each(|note| eprintln!("note: {note}"));
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("zen5turbo: interrupted: the file was not made");
            Ok(ExitCode::from(interrupt::STATUS))
        }
        Err(error) => Err(error),
    }
}

/// The models that slices are made of, as a table.
pub fn list() -> String {
    let mut table = text::table();
    table.set_header(["name", "mix", "layers", "of", "tokens", "of", "gives"]);
    for model in MODELS {
        table.add_row([
            model.name.to_owned(),
            model.mix.to_owned(),
            model.layers.to_string(),
            model.of.to_string(),
            model.tokens(model.layers).to_string(),
            model.vocabulary.to_string(),
            match model.gives {
                Gives::Text => "text",
                Gives::Vectors => "vectors",
                Gives::ImageVectors => "vectors of images, with --mmproj",
            }
            .to_owned(),
        ]);
    }
    text::right(&mut table, 2..=5);
    format!("{table}\nNAME:MIX asks for another mix of llama-quantize's, such as qwen3-30b-a3b:IQ2_M.\n")
}

/// The slice of a `NAME[:MIX]`: the file `out` made anew, else the one in the cache folder, made if it is not there.
///
/// # Errors
/// There is no such model or mix, no llama-quantize, no room, or `stop` became true ([`Interrupted`]).
pub fn find_or_make(
    name: &str,
    layers: Option<u32>,
    out: Option<&Path>,
    bin: Option<&Path>,
    stop: &'static AtomicBool,
) -> Result<Slice> {
    let (name, mix) = name.split_once(':').map_or((name, None), |(name, mix)| (name, Some(mix.to_uppercase())));
    let model = Model::find(name).with_context(|| {
        let names: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
        format!("found no model {name:?} to make a slice of; expected one of: {}", names.join(", "))
    })?;
    let mix = mix.as_deref().unwrap_or(model.mix);
    let quantised = model.gives != Gives::ImageVectors;
    ensure!(quantised || mix == model.mix, "{name} is there as {} only; leave out \":{mix}\"", model.mix);
    ensure!(
        !mix.is_empty() && mix.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
        "found {mix:?} as the mix of {name}; expected a type of llama-quantize's --help, such as {name}:{}",
        model.mix
    );
    let layers = layers.unwrap_or(model.layers);
    ensure!(
        model.can_have(layers),
        "{name} cannot have {layers} layers; expected {}{} to {}, such as {}",
        if model.lead > 0 { format!("{} unlike the others and ", model.lead) } else { String::new() },
        if model.group > 1 { format!("a multiple of {}, up", model.group) } else { "1".to_owned() },
        model.of,
        model.layers
    );
    let job = Job { model, layers, mix };
    let path = out.map_or_else(|| place(&job), |out| Ok(out.to_owned()))?;
    if out.is_some() || !path.is_file() {
        let quantize = quantised.then(|| quantizer(bin)).transpose()?;
        eprintln!("zen5turbo: making {}", path.display());
        job.make(quantize.as_deref(), &path, stop)?;
    }
    Ok(Slice { notes: notes(&job, &path), path, gives: model.gives })
}

/// Where the file of a job lies, named by everything that it is made from.
fn place(job: &Job<'_>) -> Result<PathBuf> {
    let cache = proc::xdg_folder(env::var_os("XDG_CACHE_HOME"), env::var_os("HOME"), ".cache");
    let cache = cache.context("found neither XDG_CACHE_HOME nor HOME; expected one of them, where slices are kept")?;
    let mut key = DefaultHasher::new();
    (VERSION, format!("{:?} {:?}", job.pairs(), job.model.tensors(job.layers))).hash(&mut key);
    let (name, mix) = (job.model.name, job.mix.to_lowercase());
    Ok(cache.join(PLACE).join(format!("{name}-{mix}-{}-layers-{:08x}.gguf", job.layers, key.finish() as u32)))
}

/// llama-quantize: in the folder named, beside the llama-bench that is found, or in PATH.
fn quantizer(bin: Option<&Path>) -> Result<PathBuf> {
    const NAME: &str = "llama-quantize";
    let folder = match bin {
        Some(bin) if bin.is_dir() => Some(bin.to_owned()),
        Some(bin) => bin.parent().map(Path::to_owned),
        None => find_program(OsStr::new("llama-bench"))
            .and_then(|bench| fs::canonicalize(bench).ok()?.parent().map(Path::to_owned)),
    };
    let beside = folder.as_ref().map(|folder| folder.join(NAME)).filter(|path| path.is_file());
    beside.or_else(|| find_program(OsStr::new(NAME))).with_context(|| {
        format!(
            "found no {NAME} {}in PATH; expected llama.cpp's own, which chooses the types of the weights: build the target {NAME}, or name its folder with --bin DIR",
            folder.map_or_else(String::new, |folder| format!("in {} nor ", folder.display()))
        )
    })
}

/// What the slice is, and what it cannot tell.
fn notes(job: &Job<'_>, path: &Path) -> Vec<String> {
    let Job { model, layers, mix } = *job;
    let size = fs::metadata(path).map_or_else(|_| "?".to_owned(), |facts| text::bytes(facts.len()));
    let whole = layers == model.of;
    let mut notes = vec![format!(
        "{} is {} {} ({mix}, {size}) with random weights; it is kept until you remove it.",
        path.display(),
        if whole { "all of".to_owned() } else { format!("{layers} of the {} layers of", model.of) },
        model.name,
    )];
    let times = f64::from(model.of) / f64::from(layers);
    if whole {
        return notes;
    }
    if model.gives == Gives::ImageVectors {
        notes.push(format!(
            "The model takes about {times:.1} times as long for an image; its layers are all alike. What a slice cannot tell: cutting the image into patches and the projection at the end weigh more here; caches hold more of a slice than of the model."
        ));
        return notes;
    }
    notes.push(format!(
        "The model takes about {times:.1} times as long for a token; ratios are the model's as far as these go: {} of its {} tokens are here, so that the output matrix has the model's share of the time.",
        model.tokens(layers),
        model.vocabulary
    ));
    let first = if model.lead > 0 {
        format!(" {} of {layers} layers is dense, where the model has {} of {}.", model.lead, model.lead, model.of)
    } else {
        String::new()
    };
    notes.push(format!(
        "What a slice cannot tell: in a prompt the last layer computes the feed-forward of the last token alone, which is 1 layer of {layers} here and 1 of {} in the model, so that attention weighs more in prompts here; caches hold more of a slice than of the model.{first}",
        model.of
    ));
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &str, layers: Option<u32>) -> String {
        static STOP: AtomicBool = AtomicBool::new(false);
        let nowhere = Path::new("/nonexistent/bin");
        format!("{:#}", find_or_make(name, layers, Some(Path::new("x.gguf")), Some(nowhere), &STOP).unwrap_err())
    }

    #[test]
    fn what_cannot_be_made_is_refused_with_what_was_expected() {
        assert!(refused("llama-4", None).contains("found no model \"llama-4\""));
        assert!(refused("llama-4", None).contains("expected one of: llama-3.1-8b, qwen3-30b-a3b"));
        assert!(refused("bge-base:Q8 0", None).contains("found \"Q8 0\" as the mix of bge-base"));
        assert!(refused("gemma-3-4b-vision:Q8_0", None).contains("as F16 only; leave out \":Q8_0\""));
        assert!(refused("bge-base:", None).contains("such as bge-base:Q8_0"));
        assert!(refused("gpt-oss-20b", Some(3)).contains("expected a multiple of 2, up to 24, such as 4"));
        let few = refused("glm-4.5-air", Some(1));
        assert!(few.contains("expected 1 unlike the others and 1 to 46, such as 3"), "{few}");
    }

    #[test]
    fn the_name_of_a_file_tells_what_it_is_made_from() {
        let job = |layers, mix| Job { model: Model::find("bge-base").unwrap(), layers, mix };
        let names: Vec<PathBuf> = [job(12, "Q8_0"), job(12, "F16"), job(6, "Q8_0")].iter().flat_map(place).collect();
        assert!(names[0].to_str().unwrap().contains("zen5turbo/slices/bge-base-q8_0-12-layers-"));
        assert!(names[0] != names[1] && names[0] != names[2]);
    }

    #[test]
    fn notes_say_what_is_left_out() {
        let notes = |name, layers| {
            let job = Job { model: Model::find(name).unwrap(), layers, mix: "Q8_0" };
            super::notes(&job, Path::new("/x")).join("\n")
        };
        let text = notes("llama-3.1-8b", 8);
        for part in ["8 of the 32 layers", "4.0 times as long", "32064 of its 128256", "1 of 32 in the model"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(notes("glm-4.5-air", 3).contains("1 of 3 layers is dense"));
        assert!(!notes("bge-base", 12).contains("cannot tell"));
        let tower = notes("gemma-3-4b-vision", 9);
        assert!(tower.contains("3.0 times as long for an image") && !tower.contains("tokens"), "{tower}");
    }

    #[test]
    fn the_list_names_every_model() {
        let list = list();
        assert!(MODELS.iter().all(|model| list.contains(model.name)), "{list}");
    }
}
