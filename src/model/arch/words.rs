//! What an architecture is, in words: for lists and for the book.

use super::{Arch, Halves, NormKind, Norms, Positions, Rotates};
use crate::ggml::{Activation, Pairs};

impl Arch {
    /// What its layers are made of, in words.
    pub fn features(&self) -> Vec<String> {
        let norm = if self.norm == NormKind::Rms { "RMS norms" } else { "layer norms" };
        let place = match self.norms {
            Norms::Pre => "before each half",
            Norms::Post => "behind each sum",
            Norms::Sandwich => "before and behind each half",
            Norms::Inner => "behind each half, before the sum",
        };
        let place = if self.varies { format!("{place}, or behind each sum") } else { place.to_owned() };
        let activation = match self.activation {
            Activation::Swiglu => "SwiGLU",
            Activation::Geglu => "GEGLU",
            Activation::Relu if self.varies => "ReLU or GELU",
            Activation::Relu => "ReLU",
            Activation::Gelu => "GELU",
            Activation::GeluTanh => "GELU by tanh",
            Activation::ClampedSwiglu => "clamped SwiGLU",
        };
        let more = [
            match self.halves {
                Halves::InTurn => None,
                Halves::SideBySide => Some("halves side by side"),
                Halves::AsTheFileSays => Some("halves side by side or in turn"),
            }
            .map(str::to_owned),
            self.windows.map(|windows| match windows.period {
                None => "a window in every layer, where the file has one".to_owned(),
                Some(n) => format!("a window in all but each {}", ordinal(n)),
            }),
            self.softcaps.map(|_| "soft caps".to_owned()),
            self.has_experts.then(|| "experts, where the file has some".to_owned()),
        ];
        let first = [format!("{norm} {place}"), self.positions_in_words(), activation.to_owned()];
        first.into_iter().chain(more.into_iter().flatten()).collect()
    }

    fn positions_in_words(&self) -> String {
        let pairs = match self.positions {
            Positions::Learned => return "learned positions".to_owned(),
            Positions::Rotary(Pairs::Adjacent) => "rotation of neighbours",
            Positions::Rotary(Pairs::Halves) => "rotation of halves",
        };
        match self.rotates {
            Rotates::All => pairs.to_owned(),
            Rotates::AllButLastOf(n) => format!("{pairs} in all but each {}", ordinal(n)),
            Rotates::Windowed => format!("{pairs} in layers with a window"),
        }
    }
}

fn ordinal(n: usize) -> String {
    match n {
        2 => "second layer".to_owned(),
        3 => "third layer".to_owned(),
        n => format!("{n}th layer"),
    }
}
