//! Every target on its kept inputs, and on as many mutations of them as take a few seconds; without cargo-fuzz.

use std::fs;
use std::path::Path;

use zen5turbo_fuzz::TARGETS;

/// Mutated inputs of each target. The seed is fixed: every run does the same.
const MUTATIONS: usize = 2000;

/// Of targets that take milliseconds for an input.
const FEW: usize = 200;

fn inputs(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Some bytes changed, a part cut out, or a part of another input put in.
fn mutated(rng: &mut fastrand::Rng, inputs: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = inputs[rng.usize(..inputs.len())].clone();
    for _ in 0..=rng.usize(..4) {
        let at = rng.usize(..=bytes.len());
        match rng.u8(..4) {
            0 if at < bytes.len() => bytes[at] = rng.u8(..),
            1 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
            2 => bytes.truncate(at),
            _ => {
                let other = &inputs[rng.usize(..inputs.len())];
                let from = rng.usize(..=other.len());
                let part = &other[from..rng.usize(from..=other.len())];
                bytes.splice(at..at, part.iter().copied());
            }
        }
    }
    bytes.truncate(64 << 10);
    bytes
}

fn replay(target: &str) {
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target of that name");
    let inputs = inputs(target);
    assert!(!inputs.is_empty(), "no input of {target} is kept");
    inputs.iter().for_each(|input| run(input));
    let mut rng = fastrand::Rng::with_seed(7);
    let is_slow = target.starts_with("kernel") || ["fake_root", "segment"].contains(&target);
    for _ in 0..if is_slow { FEW } else { MUTATIONS } {
        run(&mutated(&mut rng, &inputs));
    }
}

macro_rules! replay {
    ($($target:ident)*) => {
        $(#[test]
        fn $target() {
            replay(stringify!($target));
        })*

        #[test]
        fn every_target_is_replayed_and_every_folder_is_a_targets() {
            let here = [$(stringify!($target)),*];
            assert_eq!(here, TARGETS.map(|(name, _)| name));
            let folders = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).unwrap();
            for folder in folders {
                let name = folder.unwrap().file_name();
                assert!(here.contains(&name.to_str().unwrap()), "{name:?}");
            }
        }
    };
}
replay!(environment calibration host_texts cli_texts json elf loader_cache segment fake_root stats_json
    kernel_product kernel_quantise kernel_copy kernel_attention);
