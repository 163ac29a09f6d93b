//! Owns the page that shows an evaluation: a table, and per task how deep answers went and how right they were.

use std::fmt::Write;

use plotters::prelude::*;

use super::Measured;
use super::measure::wilson;

type Drawn = Result<(), Box<dyn std::error::Error>>;

const SIZE: (u32, u32) = (560, 300);

/// A page that needs nothing beside itself.
pub fn html(model: &str, tasks: &[Measured]) -> Result<String, Box<dyn std::error::Error>> {
    let mut page = head(&format!("curtail eval: {model}"));
    table(&mut page, tasks)?;
    for task in tasks {
        let skipped = task.skipped.len();
        write!(
            page,
            "<h2>{}</h2>\n<p>{} questions, {}-shot. The baseline always skips the same {skipped} layers.</p>\n",
            escape(&task.task),
            task.outcomes.len(),
            task.shots
        )?;
        page += &drawn(|area| layers_per_answer(area, task))?;
        page += &drawn(|area| right_by_layer(area, task))?;
        page += &drawn(|area| accuracy_against_layers(area, task))?;
    }
    Ok(page + "</html>\n")
}

/// How a page begins.
pub(super) fn head(title: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{0}</title>\n\
         <style>body{{font-family:sans-serif;max-width:1200px;margin:2em auto;padding:0 1em}}\
         table{{border-collapse:collapse}}td,th{{padding:.3em .8em;text-align:right;border-bottom:1px solid #ddd}}\
         td:first-child,th:first-child{{text-align:left}}.text{{line-height:1.6}}</style>\n<h1>{0}</h1>\n",
        escape(title)
    )
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

fn table(page: &mut String, tasks: &[Measured]) -> std::fmt::Result {
    *page += "<table><tr><th>task</th><th>questions</th><th>accuracy, full depth</th><th>early</th><th>layers skipped</th>\
              <th>agreement</th><th>mean layers</th><th>saved</th><th>speed-up</th><th>ideal</th></tr>\n";
    for t in tasks {
        let n = t.outcomes.len();
        let percent = |p: f64| format!("{:.1} &plusmn; {:.1} %", 100.0 * p, 100.0 * wilson(p, n));
        let (mean, _) = t.layers();
        writeln!(
            page,
            "<tr><td>{}</td><td>{n}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{mean:.1} of {}</td><td>{:.1} %</td><td>{:.2}x</td><td>{:.2}x</td></tr>",
            escape(&t.task),
            percent(t.accuracy_full()),
            percent(t.accuracy_early()),
            percent(t.accuracy_fixed()),
            percent(t.agreement()),
            t.n_layer,
            100.0 * (1.0 - mean / t.n_layer as f64),
            t.speedup(),
            t.ideal_speedup()
        )?;
    }
    *page += "</table>\n";
    Ok(())
}

pub(super) fn drawn(
    draw: impl Fn(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Drawn,
) -> Result<String, Box<dyn std::error::Error>> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        draw(&area)?;
        area.present()?;
    }
    Ok(svg)
}

pub(super) fn bars(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    title: &str,
    y_title: &str,
    n_layer: usize,
    values: &[(usize, f64)],
) -> Drawn {
    let highest = values.iter().map(|v| v.1).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(46)
        .build_cartesian_2d(0.0..n_layer as f64 + 1.0, 0.0..(highest * 1.1).max(1e-9))?;
    chart.configure_mesh().x_desc("layers run").y_desc(y_title).disable_x_mesh().draw()?;
    let bar = |&(layer, value): &(usize, f64)| {
        Rectangle::new([(layer as f64 - 0.4, 0.0), (layer as f64 + 0.4, value)], BLUE.mix(0.6).filled())
    };
    chart.draw_series(values.iter().map(bar))?;
    Ok(())
}

/// Of each layer: its answers.
fn by_layer(task: &Measured) -> Vec<(usize, Vec<&super::Outcome>)> {
    let of = |layer: usize| task.outcomes.iter().filter(|o| o.layers == layer).collect::<Vec<_>>();
    (1..=task.n_layer).map(|layer| (layer, of(layer))).filter(|(_, answers)| !answers.is_empty()).collect()
}

fn layers_per_answer(area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>, task: &Measured) -> Drawn {
    let counts: Vec<(usize, f64)> =
        by_layer(task).iter().map(|(layer, answers)| (*layer, answers.len() as f64)).collect();
    bars(area, "Layers per answer", "answers", task.n_layer, &counts)
}

fn right_by_layer(area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>, task: &Measured) -> Drawn {
    let agree =
        |answers: &[&super::Outcome]| 100.0 * answers.iter().filter(|o| o.agrees).count() as f64 / answers.len() as f64;
    let shares: Vec<(usize, f64)> = by_layer(task).iter().map(|(layer, answers)| (*layer, agree(answers))).collect();
    bars(area, "Agreement with full depth, by layer of the answer", "%", task.n_layer, &shares)
}

fn accuracy_against_layers(area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>, task: &Measured) -> Drawn {
    let points = [
        ("full depth", task.n_layer as f64, task.accuracy_full(), RED),
        ("early", task.layers().0, task.accuracy_early(), BLUE),
        ("layers skipped", (task.n_layer - task.skipped.len()) as f64, task.accuracy_fixed(), BLACK),
    ];
    let mut chart = ChartBuilder::on(area)
        .caption("Accuracy against layers", ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(46)
        .build_cartesian_2d(0.0..task.n_layer as f64 + 1.0, 0.0..105.0)?;
    chart.configure_mesh().x_desc("mean layers run").y_desc("% right").draw()?;
    for (name, layers, accuracy, color) in points {
        let half = 100.0 * wilson(accuracy, task.outcomes.len());
        let y = 100.0 * accuracy;
        chart
            .draw_series([PathElement::new(vec![(layers, y - half), (layers, y + half)], color)])?
            .label(name)
            .legend(move |(x, y)| Circle::new((x + 8, y), 4, color.filled()));
        chart.draw_series([Circle::new((layers, y), 4, color.filled())])?;
    }
    chart.configure_series_labels().position(SeriesLabelPosition::LowerLeft).border_style(BLACK).draw()?;
    Ok(())
}
