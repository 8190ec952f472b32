//! The tensors of each architecture.

use super::{Fill, Gives, Model, Shape};

/// The tensors of a slice while they are listed.
pub struct Tensors<'a> {
    pub model: &'a Model,
    pub vocabulary: u64,
    /// The layer that is listed.
    pub layer: u32,
    pub list: Vec<Shape>,
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
pub fn tied(t: &mut Tensors<'_>) {
    t.top("token_embd.weight", &[t.embd(), t.vocabulary], Fill::Weights);
    t.top("output_norm.weight", &[t.embd()], Fill::Ones);
}

/// The same with an output matrix.
pub fn untied(t: &mut Tensors<'_>) {
    tied(t);
    t.top("output.weight", &[t.embd(), t.vocabulary], Fill::Weights);
}

pub fn llama_ends(t: &mut Tensors<'_>) {
    untied(t);
    t.top("rope_freqs.weight", &[t.key("rope.dimension_count") / 2], Fill::Ones);
}

pub fn llama(t: &mut Tensors<'_>) {
    t.norm("attn_norm", t.embd());
    t.attention();
    t.norm("ffn_norm", t.embd());
    t.feed_forward();
}

pub fn qwen3(t: &mut Tensors<'_>) {
    llama(t);
    t.head_norms();
}

pub fn qwen3moe(t: &mut Tensors<'_>) {
    t.norm("attn_norm", t.embd());
    t.attention();
    t.head_norms();
    t.norm("ffn_norm", t.embd());
    t.mixture();
}

/// Three layers of a gated delta net, then one of attention with gated queries; experts and a shared one in each.
pub fn qwen35moe(t: &mut Tensors<'_>) {
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
pub fn gpt_oss(t: &mut Tensors<'_>) {
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

pub fn gemma3(t: &mut Tensors<'_>) {
    qwen3(t);
    t.norm("post_attention_norm", t.embd());
    t.norm("post_ffw_norm", t.embd());
}

/// Attention over latent vectors, as converted for absorbed products: one KV head as wide as the latent vector and what
/// carries the position.
pub fn deepseek2(t: &mut Tensors<'_>) {
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

pub fn glm4moe(t: &mut Tensors<'_>) {
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
pub fn dense_or_mixture(t: &mut Tensors<'_>) {
    if t.layer < t.model.lead {
        t.feed_forward();
    } else {
        t.mixture();
        t.gated("_shexp", t.key("expert_feed_forward_length") * t.key("expert_shared_count"));
    }
}

pub fn bert_ends(t: &mut Tensors<'_>) {
    let embd = t.embd();
    t.top("token_embd.weight", &[embd, t.vocabulary], Fill::Weights);
    t.top("token_types.weight", &[embd, 2], Fill::Plain);
    t.top("position_embd.weight", &[embd, t.key("context_length")], Fill::Plain);
    t.top("token_embd_norm.weight", &[embd], Fill::Ones);
    t.top("token_embd_norm.bias", &[embd], Fill::Small);
}

pub fn bert(t: &mut Tensors<'_>) {
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

pub fn siglip_ends(t: &mut Tensors<'_>) {
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

pub fn siglip(t: &mut Tensors<'_>) {
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
