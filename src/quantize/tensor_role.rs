//! Owns what a tensor's name says of its part in the model, as llama.cpp's rules for quantizing read it.

use crate::gguf::TensorInfo;

/// The part of a tensor in the model, as far as the mixes tell parts from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Embedding,
    Output,
    AttentionQ,
    AttentionK,
    /// Values, alone or with queries and keys: what suffers most.
    AttentionV,
    AttentionOutput,
    FfnUp,
    FfnGate,
    FfnDown,
    Other,
}

/// The embedding of each layer's own, beside the model's.
pub(super) const PER_LAYER_EMBEDDING: &str = "per_layer_token_embd.weight";

impl Kind {
    pub(super) fn of(name: &str) -> Kind {
        const PARTS: [(&str, Kind); 9] = [
            ("attn_qkv.weight", Kind::AttentionV),
            ("attn_kv_b.weight", Kind::AttentionV),
            ("attn_v.weight", Kind::AttentionV),
            ("attn_k.weight", Kind::AttentionK),
            ("attn_q.weight", Kind::AttentionQ),
            ("attn_output.weight", Kind::AttentionOutput),
            ("ffn_up", Kind::FfnUp),
            ("ffn_gate", Kind::FfnGate),
            ("ffn_down", Kind::FfnDown),
        ];
        match name {
            "output.weight" => Kind::Output,
            "token_embd.weight" | PER_LAYER_EMBEDDING => Kind::Embedding,
            _ => PARTS.iter().find(|(part, _)| name.contains(part)).map_or(Kind::Other, |&(_, kind)| kind),
        }
    }
}

/// Whether a tensor is ever quantized: a matrix of weights, and none of those that are small or read by index.
pub(super) fn is_quantizable(architecture: &str, tensor: &TensorInfo) -> bool {
    let name = tensor.name.as_str();
    let is_kept = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    tensor.ggml_dims().len() > 1
        && tensor.elements() > 0
        && name.ends_with("weight")
        && !KEPT_WHOLE.contains(&name)
        && !is_kept(&KEPT)
        && !(architecture == "glm5-next" && is_kept(&KEPT_GLM5))
}

/// Positions and token types.
const KEPT_WHOLE: [&str; 2] = ["position_embd.weight", "token_types.weight"];

#[rustfmt::skip]
const KEPT: [&str; 35] = [
    "_norm.weight",
    // Which expert.
    "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight",
    // Small.
    "altup", "laurel", "per_layer_model_proj", "ssm_conv1d", "shortconv.conv.weight",
    "indexer.k_proj.weight", "indexer.q_proj.weight",
    // RWKV.
    "time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight",
    "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight",
    "time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight", "time_mix_g2.weight",
    "time_mix_decay_w1.weight", "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight",
    // Relative positions.
    "attn_rel_b.weight",
    // Images and sound.
    ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger",
    "a.rvq.codebook", "mm.a.code_embd",
];

const KEPT_GLM5: [&str; 14] = [
    "hc_",
    "indexer.attn_q_b",
    "indexer.attn_k",
    "indexer.proj",
    "indexer_compressor_gate",
    "indexer_compressor_ape",
    "ssm_f_a.weight",
    "ssm_f_b.weight",
    "ssm_g_a.weight",
    "ssm_g_b.weight",
    "ssm_beta.weight",
    "attn_kv_a_mqa.weight",
    "attn_k_b.weight",
    "attn_v_b.weight",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::gguf::{Metadata, Writer};

    #[test]
    fn names_tell_the_part() {
        for (name, kind) in [
            ("output.weight", Kind::Output),
            ("blk.0.attn_output.weight", Kind::AttentionOutput),
            ("blk.3.attn_qkv.weight", Kind::AttentionV),
            ("blk.3.ffn_gate_exps.weight", Kind::FfnGate),
            ("blk.3.ffn_down_shexp.weight", Kind::FfnDown),
            ("token_embd.weight", Kind::Embedding),
            ("token_embd_proj_in.weight", Kind::Other),
        ] {
            assert_eq!(Kind::of(name), kind, "{name}");
        }
    }

    #[test]
    fn matrices_of_weights_are_quantized_and_the_rest_kept() {
        let is_quantized = |name: &str, dims: &[usize]| {
            let mut writer = Writer::new(Metadata::new());
            writer.tensor(name, dims, DType::F32).unwrap();
            is_quantizable("opt", &writer.tensors()[0])
        };
        for name in ["blk.0.attn_q.weight", "blk.0.ffn_up.weight", "token_embd.weight", "token_embd_proj_in.weight"] {
            assert!(is_quantized(name, &[64, 32]), "{name}");
            assert!(!is_quantized(name, &[64, 1]), "{name} of one row");
        }
        for name in ["position_embd.weight", "blk.0.attn_q.bias", "blk.0.ffn_gate_inp.weight", "output_norm.weight"] {
            assert!(!is_quantized(name, &[64, 32]), "{name}");
        }
        assert!(is_quantized("blk.0.ffn_up_exps.weight", &[64, 32, 4]));
    }
}
