//! Owns the page that shows how well a text was foretold: perplexity by chunk, and where a comparison was made, how far apart
//! the two distributions are.

use std::fmt::Write;

use plotters::prelude::*;

use super::divergence::Compared;
use super::perplexity::Moments;
use super::report::{bars, drawn, escape, head};
use super::score::Place;

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// What a page shows.
#[derive(Clone, Debug)]
pub struct Page<'p> {
    /// The model's name.
    pub model: &'p str,
    /// Names and values for the table.
    pub figures: Vec<(String, String)>,
    /// The scored places of all chunks.
    pub places: &'p [Place],
    /// Scored places of a chunk.
    pub per_chunk: usize,
    /// What the depths of the places are worth in layers of the model: by the steps of the plan.
    pub layers_at: &'p [f64],
    /// Layers of the model.
    pub n_layer: usize,
    /// What the places are compared with, if they are.
    pub base: Option<&'p str>,
}

impl Page<'_> {
    /// A page that needs nothing beside itself.
    pub fn html(&self) -> Result<String, Box<dyn std::error::Error>> {
        let mut page = head(&format!("curtail perplexity: {}", self.model));
        page += "<table>";
        for (name, value) in &self.figures {
            writeln!(page, "<tr><td>{}</td><td>{}</td></tr>", escape(name), escape(value))?;
        }
        page += "</table>\n";
        let chunks: Vec<&[Place]> = self.places.chunks(self.per_chunk.max(1)).collect();
        let ppl = |value: fn(&Compared) -> f64| {
            let of =
                |chunk: &&[Place]| chunk.iter().map(|p| value(&p.compared)).collect::<Moments>().perplexity().value;
            chunks.iter().map(of).enumerate().map(|(i, y)| (i as f64 + 1.0, y)).collect::<Vec<_>>()
        };
        let mut lines = vec![("measured", BLUE, ppl(|c| c.surprise))];
        if let Some(base) = self.base {
            lines.push((base, RED, ppl(|c| c.surprise_base)));
        }
        page += &drawn(|area| curves(area, "Perplexity by chunk", "chunk", "PPL", &lines))?;
        if self.base.is_some() {
            let of_place = |i: usize| {
                let places = chunks.iter().filter_map(|chunk| chunk.get(i));
                (i as f64, places.map(|p| p.compared.kld).collect::<Moments>().mean().value)
            };
            let by_place = [("", BLUE, (0..self.per_chunk).map(of_place).collect())];
            page +=
                &drawn(|area| curves(area, "Mean divergence by place", "scored place of a chunk", "KLD", &by_place))?;
            let sorted = [("", BLUE, self.largest())];
            page += &drawn(|area| curves(area, "Divergence that a share exceeds", "% of the places", "KLD", &sorted))?;
        }
        // Halves stand with the layer that they begin.
        let needed = |place: &Place| self.layers_at.get(place.depth.0).map_or(self.n_layer, |n| n.ceil() as usize);
        let most = self.places.iter().map(needed).max().unwrap_or(0).max(self.n_layer);
        if self.places.iter().any(|place| needed(place) != self.n_layer) {
            let count = |layers| self.places.iter().filter(|place| needed(place) == layers).count() as f64;
            let counts: Vec<(usize, f64)> = (1..=most).map(|layers| (layers, count(layers))).collect();
            page += &drawn(|area| bars(area, "Layers per token", "tokens", most, &counts))?;
        }
        Ok(page + "</html>\n")
    }

    /// Divergences from the largest on, thinned out, against the share of the places that have as much.
    fn largest(&self) -> Vec<(f64, f64)> {
        const POINTS: usize = 400;
        let mut values: Vec<f64> = self.places.iter().map(|place| place.compared.kld).collect();
        values.sort_by(|a, b| b.total_cmp(a));
        let (n, step) = (values.len(), values.len().div_ceil(POINTS).max(1));
        values.iter().enumerate().step_by(step).map(|(i, &y)| (100.0 * i as f64 / n as f64, y)).collect()
    }
}

type Curve<'c> = (&'c str, RGBColor, Vec<(f64, f64)>);

fn curves(
    area: &Area<'_>,
    title: &str,
    x_title: &str,
    y_title: &str,
    lines: &[Curve<'_>],
) -> Result<(), Box<dyn std::error::Error>> {
    let points = || lines.iter().flat_map(|line| &line.2).copied();
    let right = points().map(|p| p.0).fold(1.0, f64::max);
    let top = points().map(|p| p.1).filter(|y| y.is_finite()).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..right, 0.0..(top * 1.1).max(1e-9))?;
    chart.configure_mesh().x_desc(x_title).y_desc(y_title).draw()?;
    for (name, color, line) in lines {
        let color = *color;
        let drawn = chart.draw_series(LineSeries::new(line.iter().copied(), color))?;
        if !name.is_empty() {
            drawn.label(*name).legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], color));
        }
    }
    if lines.iter().any(|line| !line.0.is_empty()) {
        chart.configure_series_labels().position(SeriesLabelPosition::LowerRight).border_style(BLACK).draw()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Depth;

    #[test]
    fn a_page_shows_what_was_measured() {
        let place = |kld, depth| Place { compared: Compared { kld, ..Compared::default() }, depth: Depth(depth) };
        let places = [place(0.5, 2), place(0.1, 3), place(0.0, 3), place(0.2, 3)];
        let figures = vec![("PPL".to_owned(), "2 < 3".to_owned())];
        let page = Page {
            model: "m",
            figures,
            places: &places,
            per_chunk: 2,
            layers_at: &[0.0, 1.0, 2.0, 3.0],
            n_layer: 3,
            base: Some("full depth"),
        };
        let html = page.html().unwrap();
        for expected in
            ["2 &lt; 3", "Perplexity by chunk", "Mean divergence by place", "full depth", "Layers per token"]
        {
            assert!(html.contains(expected), "{expected}");
        }
        assert_eq!(page.largest()[0], (0.0, 0.5));
        let plain = Page { base: None, places: &places[1..], ..page }.html().unwrap();
        assert!(!plain.contains("divergence") && !plain.contains("Layers per token"));
    }
}
