//! Owns the page that shows how deep each token of an answer went, and how sure the model was on the way.

use std::fmt::Write;

use super::Excerpt;
use super::collect::collect_own;
use super::report::{bars, drawn, escape, head};
use crate::engine::Sequence;
use crate::plan::Depth;

/// An answer with the depths of its tokens.
#[derive(Clone, Debug)]
pub struct Depths {
    /// Of each token: its text, and the layers that it needed.
    pub tokens: Vec<(String, f64)>,
    /// Of each token: the probability of the best token after each step of the plan but the last, when it was to be chosen.
    pub confidence: Vec<Vec<f32>>,
    /// Of each step: the layers run up to and with it.
    pub after: Vec<f64>,
    /// Layers of the model.
    pub n_layer: usize,
}

/// What the output head makes of every layer's hidden state, for each token of an excerpt and the one after it: the
/// probability of the best token.
pub fn confidence(sequence: &mut Sequence, excerpt: Excerpt) -> Result<Vec<Vec<f32>>, super::Error> {
    let (depths, n) = ((1..sequence.n_steps()).map(Depth).collect::<Vec<_>>(), excerpt.1.len());
    let rows = collect_own(sequence, &[excerpt], &depths, &[], n, &mut |_| {})?;
    Ok(rows.into_iter().map(|row| row.readings.iter().map(|reading| reading.top).collect()).collect())
}

impl Depths {
    /// A page that needs nothing beside itself.
    pub fn html(&self, model: &str) -> Result<String, Box<dyn std::error::Error>> {
        let mut page = head(&format!("curtail: depth of tokens, {model}"));
        page += "<p>Each token in the colour of the layers that it needed:</p>\n<p class=\"text\">";
        for (text, layers) in &self.tokens {
            let color = color(*layers as f32 / self.n_layer as f32);
            let text = escape(text).replace('\n', "<br>");
            write!(
                page,
                "<span style=\"background:{color}\" title=\"{layers} of {} layers\">{text}</span>",
                self.n_layer
            )?;
        }
        page += "</p>\n<p>";
        for layers in 0..=self.n_layer {
            let color = color(layers as f32 / self.n_layer as f32);
            write!(page, "<span style=\"background:{color}\">&nbsp;{layers}&nbsp;</span>")?;
        }
        page += " layers</p>\n";
        page += &drawn(|area| {
            // Halves stand with the layer that they begin.
            let count = |layers| self.tokens.iter().filter(|token| token.1.ceil() == layers as f64).count() as f64;
            let counts: Vec<(usize, f64)> = (0..=self.most_layers()).map(|layers| (layers, count(layers))).collect();
            bars(area, "Layers that a token needed", "tokens", self.most_layers(), &counts)
        })?;
        page += "<h2>Probability of the best token after each layer</h2>\n";
        page += &self.heat_map()?;
        Ok(page + "</html>\n")
    }

    /// Layers of the model, or of a plan that runs some twice.
    fn most_layers(&self) -> usize {
        self.after.last().map_or(self.n_layer, |&all| self.n_layer.max(all.ceil() as usize))
    }

    /// A column per token, a row per step, the first at the bottom; a frame where the token was chosen.
    fn heat_map(&self) -> Result<String, std::fmt::Error> {
        const CELL: usize = 12;
        let (width, height) = (self.confidence.len() * CELL, self.after.len() * CELL);
        let mut svg = format!("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\">\n");
        for (i, ((text, layers), of_token)) in self.tokens.iter().zip(&self.confidence).enumerate() {
            for (j, top) in of_token.iter().enumerate() {
                let after = self.after.get(j).copied().unwrap_or(0.0);
                let frame = if after == *layers { " stroke=\"black\" stroke-width=\"2\"" } else { "" };
                writeln!(
                    svg,
                    "<rect x=\"{}\" y=\"{}\" width=\"{CELL}\" height=\"{CELL}\" fill=\"{}\"{frame}><title>{}: {after} layers, {top:.2}</title></rect>",
                    i * CELL,
                    height - (j + 1) * CELL,
                    color(1.0 - top),
                    escape(text),
                )?;
            }
        }
        Ok(svg + "</svg>\n")
    }
}

/// From green (0) over yellow to red (1).
fn color(share: f32) -> String {
    format!("hsl({:.0},75%,75%)", 120.0 * (1.0 - share.clamp(0.0, 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shows_every_token() {
        let depths = Depths {
            tokens: vec![("a<b".into(), 2.0), ("\n".into(), 3.0)],
            confidence: vec![vec![0.1, 0.9], vec![0.2, 0.3]],
            after: vec![1.0, 2.0, 3.0],
            n_layer: 3,
        };
        let map = depths.heat_map().unwrap();
        // A frame where the first token was chosen; the second was at full depth.
        assert_eq!((map.matches("<rect").count(), map.matches("stroke=\"black\"").count()), (4, 1));
        let page = depths.html("m").unwrap();
        assert!(
            page.contains("a&lt;b</span>")
                && page.contains("2 of 3 layers")
                && page.contains("Layers that a token needed")
        );
    }
}
