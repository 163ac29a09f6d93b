//! Owns the mixes: which type a tensor gets from the file type, its part in the model and how deep its layer lies. The
//! rules are those of llama.cpp, where the layers at both ends and the tensors that suffer most get more bits.

use super::tensor_role::Kind;
use super::{Error, FileType};
use crate::dtype::DType;
use crate::gguf::{Error as GgufError, Metadata, TensorInfo, Value};

/// What the rules ask of a model.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) architecture: String,
    n_layer: usize,
    /// Query heads per key-value head in the first layer.
    heads_per_kv: u32,
    n_expert: u32,
    /// A size whose shared values deserve more bits.
    is_70b: bool,
}

impl Model {
    /// Reads what the metadata says; a model without such keys has no layers and no experts.
    pub(super) fn of(metadata: &Metadata) -> Result<Model, GgufError> {
        let architecture = metadata.str("general.architecture")?.unwrap_or_default().to_owned();
        let number = |key: &str| first_integer(metadata, &format!("{architecture}.{key}"));
        let n_layer = number("block_count").unwrap_or(0);
        let n_head = number("attention.head_count").unwrap_or(0);
        let n_head_kv = number("attention.head_count_kv").unwrap_or(n_head);
        let main_layers = n_layer.saturating_sub(number("nextn_predict_layers").unwrap_or(0));
        let n_expert = number("expert_count").unwrap_or(0);
        let is_70b = match architecture.as_str() {
            "llama" | "llama-embed" => main_layers == 80 && n_head != n_head_kv && n_expert != 8,
            "deci" | "olmo" | "qwen2" => main_layers == 80,
            "jais2" => main_layers == 68,
            _ => false,
        };
        let heads_per_kv = n_head.checked_div(n_head_kv).unwrap_or(0);
        Ok(Model { architecture, n_layer: n_layer as usize, heads_per_kv, n_expert, is_70b })
    }
}

/// An integer, or the first of an array with one per layer.
fn first_integer(metadata: &Metadata, key: &str) -> Option<u32> {
    let first = match metadata.get(key)? {
        Value::Array(array) => array.get(0)?,
        value => value.clone(),
    };
    first.as_integer()?.try_into().ok()
}

/// The rules for one model and one file type. It counts the tensors it is asked about, in their order in the new file.
#[derive(Debug)]
pub(super) struct Mix<'a> {
    pub(super) model: &'a Model,
    pub(super) file_type: FileType,
    pub(super) has_imatrix: bool,
    /// The embedding is the output head too.
    pub(super) is_tied: bool,
    /// The user's wish for the output head.
    pub(super) output_type: Option<DType>,
    /// How many tensors hold attention values.
    pub(super) n_attention_v: usize,
    /// How many of a kind were seen so far: in a model without experts, the layer.
    pub(super) seen: Seen,
}

#[derive(Debug, Default)]
pub(super) struct Seen {
    attention_v: usize,
    ffn_up: usize,
    ffn_gate: usize,
    ffn_down: usize,
}

impl Mix<'_> {
    /// The type of the next tensor, before its row length is looked at.
    pub(super) fn choose(&mut self, tensor: &TensorInfo, kind: Kind) -> Result<DType, Error> {
        let base = self.file_type.base();
        if self.is_floored(tensor) {
            return Ok(DType::Q8_0);
        }
        if kind == Kind::Output || (self.is_tied && kind == Kind::Embedding) {
            return Ok(self.output_type.unwrap_or_else(|| self.output(tensor)));
        }
        if self.file_type == FileType::MXFP4_MOE {
            return Ok(if self.is_expert(tensor, kind) { DType::MXFP4 } else { DType::Q8_0 });
        }
        let chosen = match kind {
            Kind::Embedding => self.embedding(),
            _ if self.is_lowest() => self.lowest(kind),
            Kind::AttentionV => self.attention_v(),
            Kind::AttentionK if self.model.n_expert == 8 => Some(DType::Q8_0),
            Kind::AttentionK | Kind::AttentionQ => self.attention_qk(),
            Kind::AttentionOutput => self.attention_output(),
            Kind::FfnDown => self.ffn_down(tensor)?,
            Kind::FfnGate => {
                let layer = self.layer(tensor, self.seen.ffn_gate)?;
                self.seen.ffn_gate += 1;
                self.ffn_up_or_gate(layer)
            }
            Kind::FfnUp => {
                let layer = self.layer(tensor, self.seen.ffn_up)?;
                self.seen.ffn_up += 1;
                self.ffn_up_or_gate(layer)
            }
            Kind::Output | Kind::Other => None,
        };
        Ok(chosen.unwrap_or(base))
    }

    /// Tensors of one architecture that lose too much below eight bits.
    fn is_floored(&self, tensor: &TensorInfo) -> bool {
        const PARTS: [&str; 3] = ["attn_q_a", "attn_q_b", "nextn.eh_proj"];
        self.model.architecture == "glm5-next" && PARTS.iter().any(|part| tensor.name.contains(part))
    }

    fn output(&self, tensor: &TensorInfo) -> DType {
        use FileType::*;
        let base = self.file_type.base();
        if self.file_type == MXFP4_MOE || self.is_falcon() || !tensor.shape[0].is_multiple_of(base.block_len()) {
            return DType::Q8_0;
        }
        match self.file_type {
            IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ2_M | IQ3_XXS => DType::Q5_K,
            _ if base == DType::Q8_0 => DType::Q8_0,
            _ => DType::Q6_K,
        }
    }

    fn embedding(&self) -> Option<DType> {
        use FileType::*;
        match self.file_type {
            IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS => Some(DType::Q2_K),
            IQ2_S | IQ2_M | IQ3_XXS => Some(DType::IQ3_S),
            TQ1_0 | TQ2_0 | Q2_0 => Some(DType::Q4_K),
            _ => None,
        }
    }

    /// The experts' matrices. In one architecture other tensors have three dimensions too.
    fn is_expert(&self, tensor: &TensorInfo, kind: Kind) -> bool {
        let is_ffn = matches!(kind, Kind::FfnUp | Kind::FfnGate | Kind::FfnDown);
        tensor.shape[2] > 1 && (self.model.architecture != "bailingmoe3" || is_ffn)
    }

    /// The types of one and two bits have rules of their own.
    fn is_lowest(&self) -> bool {
        use FileType::*;
        matches!(self.file_type, IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ2_M)
    }

    fn lowest(&mut self, kind: Kind) -> Option<DType> {
        use FileType::*;
        let is_upper = matches!(self.file_type, IQ2_S | IQ2_M);
        let more = if is_upper { DType::IQ3_S } else { DType::Q2_K };
        match kind {
            Kind::AttentionV => Some(if self.shares_values() || self.model.n_expert >= 4 { DType::Q4_K } else { more }),
            Kind::AttentionK if self.model.n_expert == 8 => Some(DType::Q4_K),
            Kind::FfnDown => {
                self.seen.ffn_down += 1;
                (self.seen.ffn_down - 1 < self.model.n_layer / 8).then_some(more)
            }
            Kind::AttentionOutput if self.model.n_expert == 8 => Some(DType::Q5_K),
            Kind::AttentionOutput if is_upper => Some(DType::IQ3_S),
            Kind::AttentionOutput if matches!(self.file_type, IQ1_S | IQ1_M) => Some(DType::IQ2_XXS),
            _ => None,
        }
    }

    fn attention_v(&mut self) -> Option<DType> {
        let nth = self.seen.attention_v;
        self.seen.attention_v += 1;
        if self.model.n_expert == 8 {
            return Some(DType::Q8_0);
        }
        let chosen = self.dense_attention_v(nth);
        match chosen.unwrap_or(self.file_type.base()) {
            DType::Q3_K | DType::Q4_K if self.model.is_70b => Some(DType::Q5_K),
            _ => chosen,
        }
    }

    fn dense_attention_v(&self, nth: usize) -> Option<DType> {
        use FileType::*;
        let shared = self.shares_values();
        match self.file_type {
            Q2_K => Some(if shared { DType::Q4_K } else { DType::Q3_K }),
            Q2_K_S | IQ3_XS | IQ3_S if shared => Some(DType::Q4_K),
            IQ3_XXS if shared => Some(DType::Q4_K),
            IQ3_XXS => Some(if self.has_imatrix { DType::IQ3_XXS } else { DType::IQ3_S }),
            IQ3_M => Some(DType::Q4_K),
            Q3_K_M => Some(if nth < 2 { DType::Q5_K } else { DType::Q4_K }),
            Q3_K_L => Some(DType::Q5_K),
            IQ4_NL | IQ4_XS if shared => Some(DType::Q5_K),
            Q4_K_M | Q5_K_M if deserves_more(nth, self.n_attention_v) => Some(DType::Q6_K),
            Q4_K_S if nth < 4 => Some(DType::Q5_K),
            _ => None,
        }
    }

    fn attention_qk(&self) -> Option<DType> {
        match self.file_type {
            FileType::IQ3_XS => Some(DType::IQ3_XXS),
            FileType::IQ3_XXS => Some(DType::IQ2_S),
            _ => None,
        }
    }

    fn attention_output(&self) -> Option<DType> {
        use FileType::*;
        if self.is_falcon() {
            return (self.file_type == Q3_K_L).then_some(DType::Q4_K);
        }
        if self.model.n_expert == 8 {
            let gets_five = matches!(
                self.file_type,
                Q2_K | IQ3_XS | IQ3_XXS | Q3_K_S | Q3_K_M | IQ4_NL | Q4_K_S | Q4_K_M | IQ3_S | IQ3_M | IQ4_XS
            );
            return gets_five.then_some(DType::Q5_K);
        }
        match self.file_type {
            Q2_K => Some(DType::Q3_K),
            IQ3_XXS => Some(DType::IQ3_S),
            Q3_K_M | IQ3_M => Some(DType::Q4_K),
            Q3_K_L => Some(DType::Q5_K),
            _ => None,
        }
    }

    fn ffn_down(&mut self, tensor: &TensorInfo) -> Result<Option<DType>, Error> {
        use FileType::*;
        let layer = self.layer(tensor, self.seen.ffn_down)?;
        self.seen.ffn_down += 1;
        let n = self.model.n_layer;
        let is_first = layer < n / 8;
        let more = deserves_more(layer, n);
        Ok(match self.file_type {
            Q2_K => Some(DType::Q3_K),
            Q2_K_S if is_first => Some(DType::Q4_K),
            IQ3_XXS if !self.has_imatrix => Some(if is_first { DType::Q4_K } else { DType::Q3_K }),
            Q3_K_M if layer < n / 16 => Some(DType::Q5_K),
            Q3_K_M if !self.is_falcon() || more => Some(DType::Q4_K),
            IQ3_M if is_first || (self.model.n_expert == 8 && more) => Some(DType::Q4_K),
            Q3_K_L => Some(if self.is_falcon() { DType::Q4_K } else { DType::Q5_K }),
            Q4_K_M if self.is_falcon() && layer < n / 16 => Some(DType::Q6_K),
            Q4_K_M if self.is_falcon() && more => Some(DType::Q5_K),
            Q4_K_M if !self.is_falcon() && more => Some(DType::Q6_K),
            IQ4_NL | IQ4_XS if is_first && !self.has_imatrix => Some(DType::Q5_K),
            Q5_K_M if more => Some(DType::Q6_K),
            Q4_K_S if is_first && !self.is_falcon() => Some(DType::Q5_K),
            Q4_0 if is_first && self.has_imatrix => Some(DType::Q4_1),
            Q5_0 if is_first && self.has_imatrix => Some(DType::Q5_1),
            _ => None,
        })
    }

    fn ffn_up_or_gate(&self, layer: usize) -> Option<DType> {
        let n = self.model.n_layer;
        let is_middle = layer >= n / 8 && layer < 7 * n / 8;
        (self.file_type == FileType::IQ3_XS && is_middle).then_some(DType::IQ3_XXS)
    }

    /// The layer of a tensor: of experts what the name says, as theirs come in any order, otherwise the how manieth it is.
    fn layer(&self, tensor: &TensorInfo, nth: usize) -> Result<usize, Error> {
        let n_layer = self.model.n_layer;
        if self.model.n_expert <= 1 {
            return Ok(nth);
        }
        layer_of(&tensor.name)
            .filter(|&layer| layer < n_layer)
            .ok_or_else(|| Error::Layer { tensor: tensor.name.clone(), n_layer })
    }

    /// Values shared by four or more query heads are few, and cheap to keep well.
    fn shares_values(&self) -> bool {
        self.model.heads_per_kv >= 4
    }

    fn is_falcon(&self) -> bool {
        self.model.architecture == "falcon"
    }
}

/// The first and last eighth of the layers, and every third between.
fn deserves_more(layer: usize, n_layer: usize) -> bool {
    layer < n_layer / 8 || layer >= 7 * n_layer / 8 || (layer - n_layer / 8) % 3 == 2
}

/// The number in `blk.N.`
pub(super) fn layer_of(name: &str) -> Option<usize> {
    let rest = name.strip_prefix("blk.")?;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    rest[..digits].parse().ok()
}

/// The type for rows that are no whole number of blocks of the chosen one; the chosen one where they are.
pub(super) fn fall_back(tensor: &TensorInfo, chosen: DType) -> Result<DType, Error> {
    use DType::*;
    let row = tensor.shape[0];
    let fits = |t: DType| row.is_multiple_of(t.block_len());
    if fits(chosen) {
        return Ok(chosen);
    }
    let smaller = match chosen {
        IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S | IQ4_XS => IQ4_NL,
        Q2_0 | Q2_K | Q3_K | TQ1_0 | TQ2_0 => Q4_0,
        Q4_K => Q5_0,
        Q5_K => Q5_1,
        Q6_K => Q8_0,
        _ if chosen.block_len() <= 32 => F16,
        _ => return Err(Error::Row { tensor: tensor.name.clone(), to: chosen, row }),
    };
    Ok(if fits(smaller) { smaller } else { F16 })
}
