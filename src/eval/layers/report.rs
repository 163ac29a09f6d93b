//! Owns the pages that show a scan and a pruning: tables and plots, nothing beside them.

use std::error::Error;
use std::fmt::Write;

use plotters::prelude::*;

use super::{Change, Done, Point};
use crate::eval::report::{drawn, escape, head};

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// A line of a plot: its name and points.
type Line = (&'static str, Vec<(f64, f64)>);

/// What is done to a step.
type Kind = fn(usize) -> Change;

const COLORS: [RGBColor; 4] = [BLUE, RED, RGBColor(0, 130, 60), RGBColor(150, 90, 0)];

/// The page of a scan.
pub fn scan_page(model: &str, text: &str, done: &Done) -> Result<String, Box<dyn Error>> {
    let mut page = head(&format!("curtail layers scan: {model}"));
    writeln!(
        page,
        "<p>{} places of {}. The unchanged model: loss {:.4}, entropy {:.4} (nats a token).</p>",
        done.full.n,
        escape(text),
        done.full.mean_loss(),
        done.full.mean_entropy()
    )?;
    let kinds: [(&str, Kind); 4] = [
        ("deleted", Change::Delete),
        ("swapped with the next", Change::Swap),
        ("without attention", Change::DropAttention),
        ("without MLP", Change::DropFeedForward),
    ];
    let of = |value: fn(&super::Sums) -> f64| -> Vec<Line> {
        let line = |(name, change): (&'static str, Kind)| {
            let point = |i: usize| Some((done.plan[i].il as f64, value(done.of(change(i))?)));
            (name, (0..done.plan.len()).filter_map(point).collect())
        };
        kinds.map(line).into()
    };
    page += "<h2>A layer changed</h2>\n";
    page += &plot("Same best token as the unchanged model", "layer", "%", &of(|sums| 100.0 * sums.agreement()))?;
    let log_kld = of(|sums| sums.mean_kld().max(1e-6).log10());
    page += &plot("Divergence from the unchanged model", "layer", "log10 of nats", &log_kld)?;
    page += &plot("Loss of the text", "layer", "nats", &of(|sums| sums.mean_loss()))?;
    page += &plot("Entropy of the predictions", "layer", "nats", &of(|sums| sums.mean_entropy()))?;
    page += "<h2>The output head at every depth</h2>\n";
    let lens = |value: fn(&super::Sums) -> f64| -> Vec<(f64, f64)> {
        let ends = done.lens.iter().chain([&done.full]);
        ends.enumerate().map(|(depth, sums)| (depth as f64, value(sums))).collect()
    };
    let nats =
        [("divergence from full depth", lens(super::Sums::mean_kld)), ("entropy", lens(super::Sums::mean_entropy))];
    page += &plot("Divergence and entropy", "layers run", "nats", &nats)?;
    let agreement = [("agreement", lens(|sums| 100.0 * sums.agreement()))];
    page += &plot("Same best token as full depth", "layers run", "%", &agreement)?;
    page += "<h2>How far a part turns the state</h2>\n";
    let cosine = |value: fn(&super::Cosines) -> Option<f64>| -> Vec<(f64, f64)> {
        let of = |(i, c): (usize, &super::Cosines)| Some((done.plan[i].il as f64, value(c)? / c.n.max(1) as f64));
        done.cosines.iter().enumerate().filter_map(of).collect()
    };
    let cosines = [
        ("attention", cosine(|c| c.attention)),
        ("MLP", cosine(|c| c.feed_forward)),
        ("layer", cosine(|c| Some(c.layer))),
    ];
    page += &plot("Cosine between the state before and behind", "layer", "cosine", &cosines)?;
    Ok(page + "</html>\n")
}

/// The page of a pruning; `name` says what a part is called.
pub fn prune_page(
    model: &str,
    points: &[Point],
    chosen: &Point,
    name: impl Fn(&Point) -> String,
) -> Result<String, Box<dyn Error>> {
    let mut page = head(&format!("curtail layers prune: {model}"));
    page += "<table><tr><th>left out</th><th>parts</th><th>expected speed</th><th>same best token</th><th>divergence</th>\
             <th>perplexity</th></tr>\n";
    for (n, point) in points.iter().enumerate() {
        let mark = if std::ptr::eq(point, chosen) { " (chosen)" } else { "" };
        writeln!(
            page,
            "<tr><td>{}{mark}</td><td>{n}</td><td>{:.3}x</td><td>{:.1} %</td><td>{:.4}</td><td>{:+.1} %</td></tr>",
            escape(&name(point)),
            point.speed,
            100.0 * point.checked_on.agreement(),
            point.checked_on.mean_kld(),
            100.0 * point.checked_on.rise(&points[0].checked_on)
        )?;
    }
    page += "</table>\n<p>Measured on windows that had no part in the choice.</p>\n";
    let line = |value: &dyn Fn(&Point) -> f64| points.iter().map(|point| (point.speed, value(point))).collect();
    let rises: [Line; 2] = [
        ("windows that decide", line(&|p| 100.0 * p.chosen_on.rise(&points[0].chosen_on))),
        ("others", line(&|p| 100.0 * p.checked_on.rise(&points[0].checked_on))),
    ];
    page += &plot("Perplexity against speed", "expected speed", "% above the unpruned model", &rises)?;
    let agreement: [Line; 1] = [("others", line(&|p| 100.0 * p.checked_on.agreement()))];
    page += &plot("Same best token against speed", "expected speed", "%", &agreement)?;
    Ok(page + "</html>\n")
}

fn plot(title: &str, x_title: &str, y_title: &str, lines: &[Line]) -> Result<String, Box<dyn Error>> {
    drawn(|area| draw(area, title, x_title, y_title, lines))
}

fn draw(area: &Area<'_>, title: &str, x_title: &str, y_title: &str, lines: &[Line]) -> Result<(), Box<dyn Error>> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let bounds = |of: fn(&(f64, f64)) -> f64| {
        let (low, high) = points().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
        let room = ((high - low) * 0.05).max(1e-3);
        if low.is_finite() { low - room..high + room } else { 0.0..1.0 }
    };
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(52)
        .build_cartesian_2d(bounds(|p| p.0), bounds(|p| p.1))?;
    chart.configure_mesh().x_desc(x_title).y_desc(y_title).light_line_style(WHITE).draw()?;
    for ((name, points), color) in lines.iter().zip(COLORS.iter().cycle()) {
        chart
            .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 14, y)], color.stroke_width(2)));
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 2, color.filled())))?;
    }
    if lines.len() > 1 {
        let mut labels = chart.configure_series_labels();
        labels
            .position(SeriesLabelPosition::LowerMiddle)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Cosines, Sums};
    use super::*;
    use crate::plan::full;

    #[test]
    fn pages_show_every_kind_of_measurement() {
        let sums = |kld| Sums { n: 2, kld, same_top: 1, entropy: 3.0, loss: 4.0, ..Sums::default() };
        let plan = full(3);
        let changes = Change::all(&plan).into_iter().map(|change| (change, sums(0.5))).collect();
        let cosines = vec![Cosines { n: 2, attention: Some(1.0), feed_forward: Some(1.5), layer: 0.5 }; 3];
        let done = Done { full: sums(0.0), changes, lens: vec![sums(1.0); 3], cosines, plan: plan.clone() };
        let page = scan_page("m<", "t", &done).unwrap();
        assert_eq!(page.matches("<svg").count(), 7);
        assert!(page.contains("m&lt;") && page.contains("without attention") && page.ends_with("</html>\n"));
        let point =
            |speed| Point { part: None, plan: plan.clone(), chosen_on: sums(0.1), checked_on: sums(0.1), speed };
        let points = [point(1.0), point(1.1)];
        let page = prune_page("m", &points, &points[1], |_| "x&".into()).unwrap();
        assert_eq!((page.matches("<svg").count(), page.matches("(chosen)").count()), (2, 1));
    }
}
