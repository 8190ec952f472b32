//! The models that can be cut, and what their files hold.
//!
//! Names of pairs and tensors, and what each architecture asks for: src/llama-arch.cpp and src/models/ of llama.cpp b11434.
//! Widths, heads and experts: the `config.json` of each model, as `convert_hf_to_gguf.py` writes it down.

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

/// The tensors of a slice while they are listed.
struct Tensors<'a> {
    model: &'a Model,
    vocabulary: u64,
    /// The layer that is listed.
    layer: u32,
    list: Vec<Shape>,
}

impl Tensors<'_> {
    /// A whole number of the model.
    fn key(&self, name: &str) -> u64 {
        self.model.number(name).unwrap_or_else(|| panic!("{} has no number {name}", self.model.name))
    }

    fn embd(&self) -> u64 {
        self.key("embedding_length")
    }

    fn experts(&self) -> u64 {
        self.key("expert_count")
    }

    fn top(&mut self, name: &str, dims: &[u64], fill: Fill) {
        self.list.push(Shape { name: name.to_owned(), dims: dims.to_owned(), fill });
    }

    fn block(&mut self, name: &str, dims: &[u64], fill: Fill) {
        let tower = if self.model.gives == Gives::ImageVectors { "v." } else { "" };
        let name = format!("{tower}blk.{}.{name}", self.layer);
        self.list.push(Shape { name, dims: dims.to_owned(), fill });
    }

    /// A matrix of a layer.
    fn matrix(&mut self, name: &str, inputs: u64, outputs: u64) {
        self.block(&format!("{name}.weight"), &[inputs, outputs], Fill::Weights);
    }

    fn norm(&mut self, name: &str, width: u64) {
        self.block(&format!("{name}.weight"), &[width], Fill::Ones);
    }

    fn bias(&mut self, name: &str, width: u64) {
        self.block(&format!("{name}.bias"), &[width], Fill::Small);
    }

    /// Width of queries, of keys, and of values.
    fn heads(&self) -> (u64, u64, u64) {
        let (heads, kv) = (self.key("attention.head_count"), self.key("attention.head_count_kv"));
        let (key, value) = (self.key("attention.key_length"), self.key("attention.value_length"));
        (heads * key, kv * key, kv * value)
    }

    fn attention(&mut self) {
        let (q, k, v) = self.heads();
        self.matrix("attn_q", self.embd(), q);
        self.matrix("attn_k", self.embd(), k);
        self.matrix("attn_v", self.embd(), v);
        self.matrix("attn_output", q, self.embd());
    }

    fn attention_biases(&mut self) {
        let (q, k, v) = self.heads();
        self.bias("attn_q", q);
        self.bias("attn_k", k);
        self.bias("attn_v", v);
    }

    fn head_norms(&mut self) {
        let width = self.key("attention.key_length");
        self.norm("attn_q_norm", width);
        self.norm("attn_k_norm", width);
    }

    /// A feed-forward with a gate, of one width.
    fn gated(&mut self, suffix: &str, width: u64) {
        self.matrix(&format!("ffn_gate{suffix}"), self.embd(), width);
        self.matrix(&format!("ffn_up{suffix}"), self.embd(), width);
        self.matrix(&format!("ffn_down{suffix}"), width, self.embd());
    }

    fn feed_forward(&mut self) {
        self.gated("", self.key("feed_forward_length"));
    }

    fn mixture(&mut self) {
        let (embd, experts, width) = (self.embd(), self.experts(), self.key("expert_feed_forward_length"));
        self.block("ffn_gate_inp.weight", &[embd, experts], Fill::Plain);
        self.block("ffn_gate_exps.weight", &[embd, width, experts], Fill::Weights);
        self.block("ffn_up_exps.weight", &[embd, width, experts], Fill::Weights);
        self.block("ffn_down_exps.weight", &[width, embd, experts], Fill::Weights);
    }
}

/// Embeddings and the last norm; the output matrix is that of the embeddings.
fn tied(t: &mut Tensors<'_>) {
    t.top("token_embd.weight", &[t.embd(), t.vocabulary], Fill::Weights);
    t.top("output_norm.weight", &[t.embd()], Fill::Ones);
}

/// The same with an output matrix.
fn untied(t: &mut Tensors<'_>) {
    tied(t);
    t.top("output.weight", &[t.embd(), t.vocabulary], Fill::Weights);
}

fn llama_ends(t: &mut Tensors<'_>) {
    untied(t);
    t.top("rope_freqs.weight", &[t.key("rope.dimension_count") / 2], Fill::Ones);
}

fn llama(t: &mut Tensors<'_>) {
    t.norm("attn_norm", t.embd());
    t.attention();
    t.norm("ffn_norm", t.embd());
    t.feed_forward();
}

fn qwen3(t: &mut Tensors<'_>) {
    llama(t);
    t.head_norms();
}

fn qwen3moe(t: &mut Tensors<'_>) {
    t.norm("attn_norm", t.embd());
    t.attention();
    t.head_norms();
    t.norm("ffn_norm", t.embd());
    t.mixture();
}

/// Three layers of a gated delta net, then one of attention with gated queries; experts and a shared one in each.
fn qwen35moe(t: &mut Tensors<'_>) {
    let embd = t.embd();
    t.norm("attn_norm", embd);
    t.norm("post_attention_norm", embd);
    if (t.layer + 1).is_multiple_of(t.model.group) {
        let (q, k, v) = t.heads();
        t.matrix("attn_q", embd, 2 * q);
        t.matrix("attn_k", embd, k);
        t.matrix("attn_v", embd, v);
        t.matrix("attn_output", q, embd);
        t.head_norms();
    } else {
        let (state, heads, values) = (t.key("ssm.state_size"), t.key("ssm.time_step_rank"), t.key("ssm.inner_size"));
        let mixed = 2 * state * t.key("ssm.group_count") + values;
        t.matrix("attn_qkv", embd, mixed);
        t.matrix("attn_gate", embd, values);
        t.block("ssm_conv1d.weight", &[t.key("ssm.conv_kernel"), mixed], Fill::Plain);
        t.bias("ssm_dt", heads);
        t.block("ssm_a", &[heads], Fill::Decay);
        t.matrix("ssm_beta", embd, heads);
        t.matrix("ssm_alpha", embd, heads);
        t.norm("ssm_norm", state);
        t.matrix("ssm_out", values, embd);
    }
    t.mixture();
    t.block("ffn_gate_inp_shexp.weight", &[embd], Fill::Plain);
    t.gated("_shexp", t.key("expert_shared_feed_forward_length"));
}

/// Attention with sinks, biases everywhere.
fn gpt_oss(t: &mut Tensors<'_>) {
    let (embd, experts, width) = (t.embd(), t.experts(), t.key("expert_feed_forward_length"));
    t.norm("attn_norm", embd);
    t.attention();
    t.attention_biases();
    t.bias("attn_output", embd);
    t.block("attn_sinks.weight", &[t.key("attention.head_count")], Fill::Small);
    t.norm("post_attention_norm", embd);
    t.mixture();
    t.bias("ffn_gate_inp", experts);
    for (name, width) in [("gate", width), ("up", width), ("down", embd)] {
        t.block(&format!("ffn_{name}_exps.bias"), &[width, experts], Fill::Small);
    }
}

fn gemma3(t: &mut Tensors<'_>) {
    qwen3(t);
    t.norm("post_attention_norm", t.embd());
    t.norm("post_ffw_norm", t.embd());
}

/// Attention over latent vectors, as converted for absorbed products: one KV head as wide as the latent vector and what
/// carries the position.
fn deepseek2(t: &mut Tensors<'_>) {
    let (embd, heads, latent) = (t.embd(), t.key("attention.head_count"), t.key("attention.kv_lora_rank"));
    let (key, value) = (t.key("attention.key_length_mla"), t.key("attention.value_length_mla"));
    let position = t.key("rope.dimension_count");
    t.norm("attn_norm", embd);
    t.matrix("attn_q", embd, heads * key);
    t.matrix("attn_kv_a_mqa", embd, latent + position);
    t.norm("attn_kv_a_norm", latent);
    t.block("attn_k_b.weight", &[key - position, latent, heads], Fill::Weights);
    t.block("attn_v_b.weight", &[latent, value, heads], Fill::Weights);
    t.matrix("attn_output", heads * value, embd);
    t.norm("ffn_norm", embd);
    dense_or_mixture(t);
}

fn glm4moe(t: &mut Tensors<'_>) {
    t.norm("attn_norm", t.embd());
    t.attention();
    t.attention_biases();
    t.norm("post_attention_norm", t.embd());
    dense_or_mixture(t);
    if t.layer >= t.model.lead {
        t.bias("exp_probs_b", t.experts());
    }
}

/// The first layers are dense; the others have experts, and some that every token takes.
fn dense_or_mixture(t: &mut Tensors<'_>) {
    if t.layer < t.model.lead {
        t.feed_forward();
    } else {
        t.mixture();
        t.gated("_shexp", t.key("expert_feed_forward_length") * t.key("expert_shared_count"));
    }
}

fn bert_ends(t: &mut Tensors<'_>) {
    let embd = t.embd();
    t.top("token_embd.weight", &[embd, t.vocabulary], Fill::Weights);
    t.top("token_types.weight", &[embd, 2], Fill::Plain);
    t.top("position_embd.weight", &[embd, t.key("context_length")], Fill::Plain);
    t.top("token_embd_norm.weight", &[embd], Fill::Ones);
    t.top("token_embd_norm.bias", &[embd], Fill::Small);
}

fn bert(t: &mut Tensors<'_>) {
    let (embd, width) = (t.embd(), t.key("feed_forward_length"));
    t.attention();
    t.attention_biases();
    t.bias("attn_output", embd);
    t.matrix("ffn_up", embd, width);
    t.bias("ffn_up", width);
    t.matrix("ffn_down", width, embd);
    t.bias("ffn_down", embd);
    for name in ["attn_output_norm", "layer_output_norm"] {
        t.norm(name, embd);
        t.bias(name, embd);
    }
}

fn siglip_ends(t: &mut Tensors<'_>) {
    let (embd, patch) = (t.key("vision.embedding_length"), t.key("vision.patch_size"));
    let side = t.key("vision.image_size") / patch;
    t.top("v.patch_embd.weight", &[patch, patch, 3, embd], Fill::Plain);
    t.top("v.patch_embd.bias", &[embd], Fill::Small);
    t.top("v.position_embd.weight", &[embd, side * side], Fill::Plain);
    t.top("v.post_ln.weight", &[embd], Fill::Ones);
    t.top("v.post_ln.bias", &[embd], Fill::Small);
    t.top("mm.soft_emb_norm.weight", &[embd], Fill::Ones);
    // llama.cpp transposes it.
    t.top("mm.input_projection.weight", &[t.key("vision.projection_dim"), embd], Fill::Weights);
}

fn siglip(t: &mut Tensors<'_>) {
    let (embd, width) = (t.key("vision.embedding_length"), t.key("vision.feed_forward_length"));
    for name in ["ln1", "ln2"] {
        t.norm(name, embd);
        t.bias(name, embd);
    }
    for (name, inputs, outputs) in [
        ("attn_q", embd, embd),
        ("attn_k", embd, embd),
        ("attn_v", embd, embd),
        ("attn_out", embd, embd),
        ("ffn_up", embd, width),
        ("ffn_down", width, embd),
    ] {
        t.matrix(name, inputs, outputs);
        t.bias(name, outputs);
    }
}

/// All of them.
pub const MODELS: &[Model] = &[
    Model {
        name: "llama-3.1-8b",
        mix: "Q4_K_M",
        layers: 8,
        of: 32,
        group: 1,
        lead: 0,
        vocabulary: 128_256,
        gives: Gives::Text,
        architecture: "llama",
        keys: &[
            ("context_length", U(131_072)),
            ("embedding_length", U(4096)),
            ("feed_forward_length", U(14_336)),
            ("attention.head_count", U(32)),
            ("attention.head_count_kv", U(8)),
            ("attention.key_length", U(128)),
            ("attention.value_length", U(128)),
            ("attention.layer_norm_rms_epsilon", F(1e-5)),
            ("rope.dimension_count", U(128)),
            ("rope.freq_base", F(500_000.0)),
        ],
        ends: llama_ends,
        layer: llama,
    },
    Model {
        name: "qwen3-30b-a3b",
        mix: "Q4_K_M",
        layers: 4,
        of: 48,
        group: 1,
        lead: 0,
        vocabulary: 151_936,
        gives: Gives::Text,
        architecture: "qwen3moe",
        keys: &[
            ("context_length", U(40_960)),
            ("embedding_length", U(2048)),
            ("feed_forward_length", U(6144)),
            ("expert_count", U(128)),
            ("expert_used_count", U(8)),
            ("expert_feed_forward_length", U(768)),
            ("attention.head_count", U(32)),
            ("attention.head_count_kv", U(4)),
            ("attention.key_length", U(128)),
            ("attention.value_length", U(128)),
            ("attention.layer_norm_rms_epsilon", F(1e-6)),
            ("rope.freq_base", F(1e6)),
        ],
        ends: untied,
        layer: qwen3moe,
    },
    Model {
        name: "qwen3.6-35b-a3b",
        mix: "Q4_K_M",
        layers: 4,
        of: 40,
        group: 4,
        lead: 0,
        vocabulary: 248_320,
        gives: Gives::Text,
        architecture: "qwen35moe",
        keys: &[
            ("context_length", U(262_144)),
            ("embedding_length", U(2048)),
            ("expert_count", U(256)),
            ("expert_used_count", U(8)),
            ("expert_feed_forward_length", U(512)),
            ("expert_shared_feed_forward_length", U(512)),
            ("full_attention_interval", U(4)),
            ("attention.head_count", U(16)),
            ("attention.head_count_kv", U(2)),
            ("attention.key_length", U(256)),
            ("attention.value_length", U(256)),
            ("attention.layer_norm_rms_epsilon", F(1e-6)),
            ("ssm.conv_kernel", U(4)),
            ("ssm.state_size", U(128)),
            ("ssm.group_count", U(16)),
            ("ssm.time_step_rank", U(32)),
            ("ssm.inner_size", U(4096)),
            ("rope.dimension_count", U(64)),
            ("rope.dimension_sections", A(&[11, 11, 10, 0])),
            ("rope.freq_base", F(1e7)),
        ],
        ends: untied,
        layer: qwen35moe,
    },
    Model {
        name: "gpt-oss-20b",
        mix: "MXFP4_MOE",
        layers: 4,
        of: 24,
        group: 2,
        lead: 0,
        vocabulary: 201_088,
        gives: Gives::Text,
        architecture: "gpt-oss",
        keys: &[
            ("context_length", U(131_072)),
            ("embedding_length", U(2880)),
            ("feed_forward_length", U(2880)),
            ("expert_count", U(32)),
            ("expert_used_count", U(4)),
            ("expert_feed_forward_length", U(2880)),
            ("attention.head_count", U(64)),
            ("attention.head_count_kv", U(8)),
            ("attention.key_length", U(64)),
            ("attention.value_length", U(64)),
            ("attention.sliding_window", U(128)),
            ("attention.layer_norm_rms_epsilon", F(1e-5)),
            ("rope.dimension_count", U(64)),
            ("rope.freq_base", F(150_000.0)),
            ("rope.scaling.type", T("yarn")),
            ("rope.scaling.factor", F(32.0)),
            ("rope.scaling.original_context_length", U(4096)),
        ],
        ends: untied,
        layer: gpt_oss,
    },
    Model {
        name: "gemma-3-4b",
        mix: "Q4_K_M",
        layers: 12,
        of: 34,
        group: 6,
        lead: 0,
        vocabulary: 262_208,
        gives: Gives::Text,
        architecture: "gemma3",
        keys: &[
            ("context_length", U(131_072)),
            ("embedding_length", U(2560)),
            ("feed_forward_length", U(10_240)),
            ("attention.head_count", U(8)),
            ("attention.head_count_kv", U(4)),
            ("attention.key_length", U(256)),
            ("attention.value_length", U(256)),
            ("attention.sliding_window", U(1024)),
            ("attention.layer_norm_rms_epsilon", F(1e-6)),
            ("rope.freq_base", F(1e6)),
            ("rope.scaling.type", T("linear")),
            ("rope.scaling.factor", F(8.0)),
        ],
        ends: tied,
        layer: gemma3,
    },
    Model {
        name: "deepseek-v2-lite",
        mix: "Q4_K_M",
        layers: 4,
        of: 27,
        group: 1,
        lead: 1,
        vocabulary: 102_400,
        gives: Gives::Text,
        architecture: "deepseek2",
        keys: &[
            ("context_length", U(163_840)),
            ("embedding_length", U(2048)),
            ("feed_forward_length", U(10_944)),
            ("leading_dense_block_count", U(1)),
            ("expert_count", U(64)),
            ("expert_used_count", U(6)),
            ("expert_shared_count", U(2)),
            ("expert_feed_forward_length", U(1408)),
            ("expert_weights_scale", F(1.0)),
            ("expert_gating_func", U(1)),
            ("attention.head_count", U(16)),
            ("attention.head_count_kv", U(1)),
            // The model has no such step; llama.cpp asks for the number unless there are 27 layers.
            ("attention.q_lora_rank", U(0)),
            ("attention.kv_lora_rank", U(512)),
            ("attention.key_length", U(576)),
            ("attention.value_length", U(512)),
            ("attention.key_length_mla", U(192)),
            ("attention.value_length_mla", U(128)),
            ("attention.layer_norm_rms_epsilon", F(1e-6)),
            ("rope.dimension_count", U(64)),
            ("rope.freq_base", F(10_000.0)),
            ("rope.scaling.type", T("yarn")),
            ("rope.scaling.factor", F(40.0)),
            ("rope.scaling.original_context_length", U(4096)),
            ("rope.scaling.yarn_log_multiplier", F(0.0707)),
        ],
        ends: untied,
        layer: deepseek2,
    },
    Model {
        name: "glm-4.5-air",
        mix: "Q4_K_M",
        layers: 3,
        of: 46,
        group: 1,
        lead: 1,
        vocabulary: 151_552,
        gives: Gives::Text,
        architecture: "glm4moe",
        keys: &[
            ("context_length", U(131_072)),
            ("embedding_length", U(4096)),
            ("feed_forward_length", U(10_944)),
            ("leading_dense_block_count", U(1)),
            ("expert_count", U(128)),
            ("expert_used_count", U(8)),
            ("expert_shared_count", U(1)),
            ("expert_feed_forward_length", U(1408)),
            ("expert_weights_scale", F(1.0)),
            ("expert_weights_norm", B(true)),
            ("expert_gating_func", U(2)),
            ("attention.head_count", U(96)),
            ("attention.head_count_kv", U(8)),
            ("attention.key_length", U(128)),
            ("attention.value_length", U(128)),
            ("attention.layer_norm_rms_epsilon", F(1e-5)),
            ("rope.dimension_count", U(64)),
            ("rope.freq_base", F(1e6)),
        ],
        ends: untied,
        layer: glm4moe,
    },
    Model {
        name: "bge-base",
        mix: "Q8_0",
        layers: 12,
        of: 12,
        group: 1,
        lead: 0,
        vocabulary: 30_522,
        gives: Gives::Vectors,
        architecture: "bert",
        keys: &[
            ("context_length", U(512)),
            ("embedding_length", U(768)),
            ("feed_forward_length", U(3072)),
            ("attention.head_count", U(12)),
            ("attention.head_count_kv", U(12)),
            ("attention.key_length", U(64)),
            ("attention.value_length", U(64)),
            ("attention.causal", B(false)),
            ("attention.layer_norm_epsilon", F(1e-12)),
            ("pooling_type", U(2)),
        ],
        ends: bert_ends,
        layer: bert,
    },
    Model {
        name: "qwen3-embedding-0.6b",
        mix: "Q8_0",
        layers: 28,
        of: 28,
        group: 1,
        lead: 0,
        vocabulary: 151_669,
        gives: Gives::Vectors,
        architecture: "qwen3",
        keys: &[
            ("context_length", U(32_768)),
            ("embedding_length", U(1024)),
            ("feed_forward_length", U(3072)),
            ("attention.head_count", U(16)),
            ("attention.head_count_kv", U(8)),
            ("attention.key_length", U(128)),
            ("attention.value_length", U(128)),
            ("attention.layer_norm_rms_epsilon", F(1e-6)),
            ("pooling_type", U(3)),
            ("rope.freq_base", F(1e6)),
        ],
        ends: tied,
        layer: qwen3,
    },
    Model {
        name: "gemma-3-4b-vision",
        mix: "F16",
        layers: 27,
        of: 27,
        group: 1,
        lead: 0,
        vocabulary: 0,
        gives: Gives::ImageVectors,
        architecture: "clip",
        keys: &[
            ("has_vision_encoder", B(true)),
            ("projector_type", T("gemma3")),
            ("use_gelu", B(true)),
            ("vision.image_size", U(896)),
            ("vision.patch_size", U(14)),
            ("vision.image_mean", Fs(&[0.5, 0.5, 0.5])),
            ("vision.image_std", Fs(&[0.5, 0.5, 0.5])),
            ("vision.embedding_length", U(1152)),
            ("vision.feed_forward_length", U(4304)),
            ("vision.projection_dim", U(2560)),
            ("vision.attention.head_count", U(16)),
            ("vision.attention.layer_norm_epsilon", F(1e-6)),
        ],
        ends: siglip_ends,
        layer: siglip,
    },
];

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
