//! Owns the colours that show how many layers a token took.

/// From few layers to all: blue over green to red, as the 256-colour palette has them.
const SCALE: [u8; 8] = [27, 33, 39, 44, 48, 118, 214, 203];

/// A text in the colour of its depth.
pub(super) fn coloured(text: &str, layers: f64, n_layer: usize) -> String {
    format!("\x1b[38;5;{}m{text}\x1b[0m", SCALE[place(layers, n_layer)])
}

/// The scale with its numbers of layers.
pub(super) fn legend(n_layer: usize) -> String {
    let first = |i: usize| (0..=n_layer).find(|&layers| place(layers as f64, n_layer) == i);
    let marks = (0..SCALE.len()).filter_map(|i| Some(coloured(&format!("{}", first(i)?), first(i)? as f64, n_layer)));
    format!("layers that a token needed, from: {}", marks.collect::<Vec<_>>().join(" "))
}

fn place(layers: f64, n_layer: usize) -> usize {
    let place = layers * (SCALE.len() - 1) as f64 / n_layer.max(1) as f64;
    (place as usize).min(SCALE.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_depth_has_a_colour_of_its_own() {
        assert_eq!((place(0.0, 30), place(29.0, 30), place(30.0, 30)), (0, 6, 7));
        assert_eq!(legend(30).matches("\x1b[0m").count(), 8);
    }
}
