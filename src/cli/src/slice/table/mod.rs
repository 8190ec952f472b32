//! The models that can be cut, and what their files hold.
//!
//! Names of pairs and tensors, and what each architecture asks for: src/llama-arch.cpp and src/models/ of llama.cpp b11434.
//! Widths, heads and experts: the `config.json` of each model, as `convert_hf_to_gguf.py` writes it down.

mod architectures;
mod models;

use self::architectures::Tensors;
pub use self::models::MODELS;
use super::gguf::Value;
use super::tokens;

/// A model that slices are made of.
pub struct Model {
    /// What `--like` names.
    pub name: &'static str,
    /// What llama-quantize is asked for unless the user names another mix.
    pub mix: &'static str,
    /// Layers of a slice, unless the user names another number.
    pub layers: u32,
    /// Layers of the model.
    pub of: u32,
    /// Layers come in groups of so many, which differ.
    pub group: u32,
    /// Layers in front that are unlike all others.
    pub lead: u32,
    /// Tokens of the model.
    pub vocabulary: u32,
    pub gives: Gives,
    /// llama.cpp's name of the architecture.
    architecture: &'static str,
    /// Pairs below the architecture's name, but for the number of layers and of tokens.
    keys: &'static [(&'static str, Key)],
    /// Adds the tensors that belong to no layer.
    ends: fn(&mut Tensors<'_>),
    /// Adds those of a layer.
    layer: fn(&mut Tensors<'_>),
}

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gives {
    /// It generates.
    Text,
    /// It turns a text into a vector.
    Vectors,
    /// It turns an image into vectors for another model: a file for `--mmproj`, in half precision.
    ImageVectors,
}

/// A value in the table.
#[derive(Clone, Copy)]
enum Key {
    U(u32),
    F(f32),
    B(bool),
    T(&'static str),
    A(&'static [i32]),
    Fs(&'static [f32]),
}

use Key::{A, B, F, Fs, T, U};

/// What a tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Normal numbers with the variance 1 / inputs, which keep the size of what goes through them.
    Weights,
    /// The same, never quantised.
    Plain,
    /// Ones, never quantised.
    Ones,
    /// Small normal numbers, never quantised.
    Small,
    /// Numbers below zero: what a state keeps decays.
    Decay,
}

/// A tensor of a slice.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    pub name: String,
    /// The length of a row first.
    pub dims: Vec<u64>,
    pub fill: Fill,
}

/// Output matrices get rows in multiples of this.
const VOCABULARY_STEP: u64 = 64;

impl Model {
    /// The model of a name, in any case.
    pub fn find(name: &str) -> Option<&'static Model> {
        MODELS.iter().find(|model| model.name.eq_ignore_ascii_case(name))
    }

    /// Tokens of a slice of so many layers: as large a share of the model's, so that the output matrix takes the share of
    /// the time that it takes in the model.
    pub fn tokens(&self, layers: u32) -> u32 {
        if layers >= self.of {
            return self.vocabulary;
        }
        let share = (u64::from(self.vocabulary) * u64::from(layers)).div_ceil(u64::from(self.of));
        // No share of a number of 32 bits is larger.
        (share.next_multiple_of(VOCABULARY_STEP) as u32).max(tokens::FEWEST)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.keys.iter().find_map(|(key, value)| match value {
            U(n) if *key == name => Some(u64::from(*n)),
            _ => None,
        })
    }

    /// The pairs of a slice, but for its tokens.
    pub fn pairs(&self, layers: u32) -> Vec<(String, Value)> {
        let mut pairs = vec![
            ("general.architecture".to_owned(), Value::Text(self.architecture.to_owned())),
            ("general.name".to_owned(), Value::Text(format!("slice of {}", self.name))),
        ];
        let mut add = |key: &str, value| pairs.push((format!("{}.{key}", self.architecture), value));
        if self.gives == Gives::ImageVectors {
            add("vision.block_count", Value::U32(layers));
        } else {
            add("block_count", Value::U32(layers));
            add("vocab_size", Value::U32(self.tokens(layers)));
        }
        for (key, value) in self.keys {
            let value = match *value {
                U(n) => Value::U32(n),
                F(x) => Value::F32(x),
                B(b) => Value::Bool(b),
                T(text) => Value::Text(text.to_owned()),
                A(list) => Value::I32s(list.to_owned()),
                Fs(list) => Value::F32s(list.to_owned()),
            };
            add(key, value);
        }
        if self.architecture == "bert" {
            pairs.push(("tokenizer.ggml.token_type_count".to_owned(), Value::U32(2)));
        }
        pairs
    }

    /// The tensors of a slice.
    pub fn tensors(&self, layers: u32) -> Vec<Shape> {
        let vocabulary = u64::from(self.tokens(layers));
        let mut tensors = Tensors { model: self, vocabulary, layer: 0, list: Vec::new() };
        (self.ends)(&mut tensors);
        for layer in 0..layers {
            tensors.layer = layer;
            (self.layer)(&mut tensors);
        }
        tensors.list
    }

    /// Whether a slice can have so many layers: the ones in front and whole groups of the others, with one at least.
    pub fn can_have(&self, layers: u32) -> bool {
        layers > self.lead
            && layers <= self.of
            && (layers == self.of || (layers - self.lead).is_multiple_of(self.group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Weights of all layers and the whole vocabulary.
    fn weights(model: &Model) -> f64 {
        model.tensors(model.of).iter().map(|t| t.dims.iter().product::<u64>() as f64).sum()
    }

    /// What the makers say of their models.
    #[test]
    fn a_model_with_all_layers_has_the_weights_that_it_is_known_for() {
        for (name, billions) in [
            ("llama-3.1-8b", 8.03),
            ("qwen3-30b-a3b", 30.5),
            ("qwen3.6-35b-a3b", 34.7),
            ("gpt-oss-20b", 20.9),
            ("gemma-3-4b", 3.88),
            ("deepseek-v2-lite", 15.7),
            ("glm-4.5-air", 106.9),
            ("bge-base", 0.109),
            ("qwen3-embedding-0.6b", 0.596),
            ("gemma-3-4b-vision", 0.42),
        ] {
            let found = weights(Model::find(name).unwrap()) / 1e9;
            assert!((found / billions - 1.0).abs() < 0.01, "{name}: {found:.3} billions, known for {billions}");
        }
        assert_eq!(MODELS.len(), 10, "a new model is tested as well");
    }

    #[test]
    fn every_entry_has_what_is_needed() {
        for model in MODELS {
            let name = model.name;
            assert!(model.can_have(model.layers), "{name}");
            let tensors = model.tensors(model.layers);
            let names: HashSet<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
            assert_eq!(names.len(), tensors.len(), "{name}: each tensor once");
            assert!(tensors.iter().all(|t| t.dims.iter().all(|&n| n > 0)), "{name}");
            assert!(
                tensors.iter().filter(|t| t.fill == Fill::Weights).all(|t| matches!(t.dims.len(), 2 | 3)),
                "{name}"
            );
            let pairs = model.pairs(model.layers);
            let keys: HashSet<&str> = pairs.iter().map(|(key, _)| key.as_str()).collect();
            assert_eq!(keys.len(), pairs.len(), "{name}: each key once");
            let tower = if model.gives == Gives::ImageVectors { "vision." } else { "" };
            for key in ["embedding_length", "feed_forward_length", "attention.head_count", "block_count"] {
                // The hybrid has no layer without experts.
                if (key, model.architecture) != ("feed_forward_length", "qwen35moe") {
                    let key = format!("{}.{tower}{key}", model.architecture);
                    assert!(keys.contains(key.as_str()), "{name}: {key}");
                }
            }
            assert_eq!(model.number("expert_count").is_some(), model.number("expert_used_count").is_some(), "{name}");
            assert!(Model::find(&name.to_uppercase()).is_some_and(|found| found.name == name));
        }
    }

    #[test]
    fn a_slice_has_the_models_share_of_the_vocabulary() {
        let model = Model::find("llama-3.1-8b").unwrap();
        assert_eq!((model.tokens(8), model.tokens(32)), (32_064, 128_256));
        let model = Model::find("bge-base").unwrap();
        assert_eq!(model.tokens(12), 30_522, "a whole model has all");
    }

    #[test]
    fn layers_come_in_whole_groups() {
        let hybrid = Model::find("qwen3.6-35b-a3b").unwrap();
        assert!(hybrid.can_have(4) && hybrid.can_have(40) && !hybrid.can_have(6) && !hybrid.can_have(44));
        let dense_first = Model::find("deepseek-v2-lite").unwrap();
        assert!(!dense_first.can_have(1) && dense_first.can_have(2) && !dense_first.can_have(0));
    }
}
