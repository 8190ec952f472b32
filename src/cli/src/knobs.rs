//! The settings of the library: as options of a command, and as they are in force. The list of them is [`KNOBS`].

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::sync::LazyLock;

use clap::builder::{OsStringValueParser, PossibleValue, PossibleValuesParser, TypedValueParser, ValueParser};
use clap::{Arg, ArgMatches};
use zen5turbo_config::{Complaint, Config, KNOBS, Knob, find, is_ours};
use zen5turbo_host::Cpu;

use crate::shim;

/// Settings that a command line gives; one that is left out stays as it is in the environment.
#[derive(Clone, Debug, Default)]
pub struct Options(Vec<(&'static str, OsString)>);

/// Every setting but the kill switch, by the name of its option.
static OPTIONS: LazyLock<Vec<(String, &'static Knob)>> = LazyLock::new(|| {
    let options = KNOBS.iter().filter_map(|knob| Some((knob.name.strip_prefix("ZEN5TURBO_")?.to_lowercase(), knob)));
    options.collect()
});

impl Options {
    /// Those of a command that has only some of them as options.
    pub fn of<'a>(given: impl IntoIterator<Item = (&'static str, &'a Option<OsString>)>) -> Self {
        Options(given.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect())
    }

    /// The variables to set.
    pub fn variables(&self) -> &[(&'static str, OsString)] {
        &self.0
    }
}

impl clap::Args for Options {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(OPTIONS.iter().map(|(option, knob)| argument(option, knob)))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Options {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = OPTIONS.iter().map(|(option, knob)| (knob.name, matches.get_one::<OsString>(option)));
        Ok(Options(given.filter_map(|(name, value)| Some((name, value?.clone()))).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn argument(option: &'static str, knob: &'static Knob) -> Arg {
    let default = match knob.default() {
        default if default.is_empty() => knob.unset.to_owned(),
        default => default,
    };
    let default = if default.is_empty() { default } else { format!(" [default: {default}]") };
    let allowed = if knob.other.is_some() { format!(": {}", knob.allowed()) } else { String::new() };
    let help = format!("{}{allowed} ({}){default}", knob.help, knob.name);
    let placeholder = knob.other.map_or(&knob.name["ZEN5TURBO_".len()..], |other| other.placeholder);
    let argument = Arg::new(option).long(option).value_name(placeholder).value_parser(values(knob.name));
    let argument = argument.help_heading("Settings").help(help.clone());
    // Clap lists the words itself where there is nothing else.
    if knob.other.is_none() || knob.words.is_empty() {
        return argument;
    }
    let words = knob.words.iter().map(|word| format!("\n- {}: {}", word.word, word.help));
    argument.long_help(format!("{help}\n\n{}", words.collect::<String>().trim_start()))
}

/// Accepts, as an `OsString`, what a setting accepts.
///
/// # Panics
/// There is no setting of that name.
pub fn values(name: &str) -> ValueParser {
    let knob = find(OsStr::new(name)).expect("the name of a setting");
    if knob.other.is_none() {
        let words = knob.words.iter().map(|word| PossibleValue::new(word.word).help(word.help));
        return PossibleValuesParser::new(words).map(OsString::from).into();
    }
    let check = move |value: OsString| {
        if knob.allows(&value) { Ok(value) } else { Err(format!("expected {}", knob.allowed())) }
    };
    OsStringValueParser::new().try_map(check).into()
}

/// The settings of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// As they were given; an empty value counts as not set, as in the library.
    given: BTreeMap<String, String>,
    /// What the library makes of them. Its paths are absolute ones, which holds in a process with the same working folder.
    config: Config,
}

impl Settings {
    /// Those of this process, which a program that it starts inherits.
    pub fn inherited() -> Settings {
        Settings::of(shim::inherited())
    }

    /// Those among `variables`.
    pub fn of(variables: impl IntoIterator<Item = (String, String)>) -> Settings {
        let ours = variables.into_iter().filter(|(name, _)| is_ours(OsStr::new(name)));
        let mut given: BTreeMap<String, String> = ours.collect();
        given.retain(|_, value| !value.is_empty());
        let config = Config::from_vars(given.iter().map(|(name, value)| (name.into(), value.into())));
        Settings { given, config }
    }

    /// With the options of a command line in front.
    pub fn with(self, options: &Options) -> Settings {
        let set =
            options.variables().iter().map(|(name, value)| (String::from(*name), value.to_string_lossy().into_owned()));
        Settings::of(self.given.into_iter().chain(set))
    }

    /// Name and value, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &String)> {
        self.given.iter()
    }

    /// A setting as it was given, where it is allowed; the library uses its default otherwise.
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.given.get(name)?;
        find(OsStr::new(name)).filter(|knob| knob.allows(OsStr::new(value))).map(|_| value.as_str())
    }

    /// What the library will make of them.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A setting in force, given or by default, as it is written in the environment.
    pub fn value(&self, name: &str) -> String {
        find(OsStr::new(name)).map(|knob| knob.value(&self.config)).unwrap_or_default()
    }

    /// What the library will not take.
    pub fn complaints(&self) -> &[Complaint] {
        &self.config.complaints
    }

    /// The CPU as the library sees it: in tests under the identity that they choose.
    pub fn cpu(&self) -> Cpu {
        match &self.config.test_cpu {
            Some(identity) => Cpu::detect().under(identity),
            None => Cpu::detect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use zen5turbo_config::TEST_CPU;
    use zen5turbo_host::GateMode;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn every_knob_but_the_kill_switch_is_an_option_that_sets_its_variable() {
        let line = "x --gate off --kernels avx512-256 --attention off --ops mul,glu --invariant 1 --f16 bf16 --repack keep --prefetch pages --hugepages 1g --malloc auto \
                    --memcpy 65536 --numa shard --pin 0-3,8 --threads 4 --barrier off --log info --stats s.json --live off --tune off --blas b.so";
        let command = Command::parse_from(line.split_whitespace());
        let set = command.options.variables();
        let words: Vec<String> = set.iter().map(|(n, v)| format!("{n}={}", v.to_string_lossy())).collect();
        let names: Vec<&str> = set.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, KNOBS[1..].iter().map(|knob| knob.name).collect::<Vec<_>>());
        for expected in ["ZEN5TURBO_KERNELS=avx512-256", "ZEN5TURBO_HUGEPAGES=1g", "ZEN5TURBO_PIN=0-3,8"] {
            assert!(words.iter().any(|w| w == expected), "{words:?}");
        }
    }

    #[test]
    fn values_that_the_shim_would_refuse_are_refused() {
        for bad in ["--prefetch cache", "--malloc 4096", "--pin 0,0", "--pin x", "--threads 0", "--gate on"] {
            let error = Command::try_parse_from(["x"].into_iter().chain(bad.split(' '))).err();
            assert!(error.is_some(), "{bad}");
        }
    }

    #[test]
    fn settings_are_judged_as_the_shim_judges_them() {
        let settings = Settings::of(
            [
                ("ZEN5TURBO_GATE", "0ff"),
                ("ZEN5TURBO_NUMA", ""),
                ("ZEN5TURBO_X", "1"),
                ("ZEN5TURBO_DEPS", "/"),
                ("HOME", "/"),
            ]
            .map(|(n, v)| (n.to_owned(), v.to_owned())),
        );
        assert_eq!(settings.config().gate, GateMode::Strict);
        assert_eq!((settings.get("ZEN5TURBO_GATE"), settings.value("ZEN5TURBO_GATE").as_str()), (None, "strict"));
        let complaints = settings.complaints();
        assert_eq!(complaints.len(), 2);
        assert_eq!(complaints[0].expected, "strict, passthrough or off");
        assert!(
            complaints[1].name == "ZEN5TURBO_X" && complaints[1].expected.contains("ZEN5TURBO_TUNE"),
            "{complaints:?}"
        );
        let settings = settings.with(&Options::of([("ZEN5TURBO_GATE", &Some("off".into()))]));
        assert_eq!((settings.config().gate, settings.complaints().len()), (GateMode::Off, 1));
    }

    #[test]
    fn the_help_of_an_option_tells_variable_values_and_default() {
        let help = |long| {
            let mut command = <Command as clap::CommandFactory>::command();
            if long { command.render_long_help() } else { command.render_help() }.to_string()
        };
        for part in ["--gate <GATE>", "(ZEN5TURBO_GATE) [default: strict] [possible values: strict, passthrough, off]"]
        {
            assert!(help(false).contains(part), "{part} in {}", help(false));
        }
        assert!(help(false).contains("65536 on (ZEN5TURBO_MALLOC) [default: off]"), "{}", help(false));
        for part in ["- passthrough: on none", "- auto: from 8 MiB on", "[default: ~/.cache/zen5turbo/tune.txt]"] {
            assert!(help(true).contains(part), "{part} in {}", help(true));
        }
    }

    #[test]
    fn the_cpu_is_the_one_that_the_shim_sees() {
        let of = |value: &str| Settings::of([(TEST_CPU.to_owned(), value.to_owned())]);
        assert!(of("AuthenticAMD:1A:02").cpu().is_zen5() && !of("AuthenticAMD:19:01").cpu().is_zen5());
        assert!(of("AuthenticAMD:1A:02").complaints().is_empty());
        assert_eq!(of("x").cpu(), Cpu::detect());
        assert!(of("x").complaints()[0].expected.contains("VENDOR:FAMILY:MODEL"));
    }
}
