//! The plots of the report, as SVG: on white, so that they can be read in dark mode too, and in colours that
//! colour-blind people tell apart.

use std::{collections::BTreeMap, error::Error, iter};

use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

type Done<T> = Result<T, Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 960;
const FONT: &str = "sans-serif";
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(230, 159, 0);
const RED: RGBColor = RGBColor(213, 94, 0);
const DARK: RGBColor = RGBColor(40, 40, 40);
const GREY: RGBColor = RGBColor(140, 140, 140);
const SHADE: RGBColor = RGBColor(236, 236, 236);

/// One peer's ratios to the static header.
pub(crate) struct Bar {
    pub(crate) name: &'static str,
    pub(crate) stands_out: bool,
    pub(crate) one_task: f64,
    pub(crate) two_threads: f64,
}

/// Each group has a line of its own above its bars.
pub(crate) fn bars(groups: &[(&str, Vec<Bar>)]) -> Done<String> {
    const NAMES: u32 = 280;
    let groups = groups.iter().filter(|(_, bars)| !bars.is_empty());
    let lines: Vec<_> = groups
        .flat_map(|(title, bars)| {
            let bars = bars.iter().map(|bar| (bar.name, Some(bar)));
            iter::once((*title, None)).chain(bars)
        })
        .collect();
    let height = 110 + 46 * u32::try_from(lines.len())?;
    let largest = lines
        .iter()
        .filter_map(|(_, bar)| *bar)
        .flat_map(|bar| [bar.one_task, bar.two_threads])
        .fold(1.0, f64::max);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE)?;
        let title = "Time of a request with a good token, as a ratio to a static header";
        area.draw(&Text::new(
            title,
            (20, 14),
            (FONT, 19).into_font().color(&DARK),
        ))?;
        let entries = [
            ("one task", Mark::Square(BLUE)),
            ("two threads", Mark::Square(ORANGE)),
            ("static header", Mark::Line(DARK)),
        ];
        legend(&area, NAMES.cast_signed(), &entries)?;
        let plot = area.margin(70, 10, 10, 30);
        let mut chart = ChartBuilder::on(&plot)
            .x_label_area_size(30)
            .y_label_area_size(NAMES - 10)
            .build_cartesian_2d(0.0..largest * 1.1, 0.0..lines.len() as f64)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(0)
            .light_line_style(WHITE)
            .bold_line_style(SHADE)
            .axis_style(GREY)
            .label_style((FONT, 14).into_font().color(&DARK))
            .draw()?;
        for (index, (name, bar)) in lines.iter().enumerate() {
            // From the top down.
            let middle = (lines.len() - index) as f64 - 0.5;
            let (x, y) = chart.backend_coord(&(0.0, middle));
            let Some(bar) = bar else {
                let bold = FontDesc::from((FONT, 15)).style(FontStyle::Bold);
                let below = (20, y + 10);
                area.draw(&Text::new(*name, below, bold.color(&DARK)))?;
                continue;
            };
            area.draw(&Text::new(*name, (x - 10, y), text(15, HPos::Right)))?;
            let strength = if bar.stands_out { 1.0 } else { 0.4 };
            for (value, bottom, color) in [
                (bar.one_task, middle, BLUE),
                (bar.two_threads, middle - 0.36, ORANGE),
            ] {
                chart.draw_series([Rectangle::new(
                    [(0.0, bottom), (value, bottom + 0.34)],
                    color.mix(strength).filled(),
                )])?;
                let (x, y) = chart.backend_coord(&(value, bottom + 0.17));
                area.draw(&Text::new(
                    format!("{value:.2}"),
                    (x + 6, y),
                    text(14, HPos::Left),
                ))?;
            }
        }
        chart.draw_series([PathElement::new(
            [(1.0, 0.0), (1.0, lines.len() as f64)],
            DARK.stroke_width(2),
        )])?;
        area.present()?;
    }
    Ok(svg)
}

/// One peer's requests in the course of time.
pub(crate) struct Panel {
    pub(crate) name: String,
    pub(crate) points: Vec<Point>,
    /// Moments to mark, in seconds.
    pub(crate) marks: Vec<f64>,
}

#[derive(Clone, Copy)]
pub(crate) struct Point {
    /// Seconds.
    pub(crate) at: f64,
    pub(crate) ms: f64,
    pub(crate) ok: bool,
}

pub(crate) struct Timeline<'a> {
    pub(crate) title: &'a str,
    /// What the vertical lines are, if there are any.
    pub(crate) marks: Option<&'a str>,
    /// What happens in these seconds.
    pub(crate) shade: Option<(&'a str, f64, f64)>,
    pub(crate) panels: Vec<Panel>,
}

/// The smallest time shown, in milliseconds: what is less looks the same.
const FLOOR: f64 = 0.0005;

pub(crate) fn timeline(timeline: &Timeline<'_>) -> Done<String> {
    let height = 100 + 250 * u32::try_from(timeline.panels.len())?;
    let points = || timeline.panels.iter().flat_map(|panel| &panel.points);
    let end = points().map(|point| point.at).fold(0.0, f64::max);
    let top = points().map(|point| point.ms).fold(100.0, f64::max) * 2.0;
    let has_failures = points().any(|point| !point.ok);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE)?;
        area.draw(&Text::new(
            timeline.title,
            (20, 14),
            (FONT, 19).into_font().color(&DARK),
        ))?;
        let mut entries = vec![("answered 200", Mark::Dot(BLUE))];
        entries.extend(has_failures.then_some(("failed", Mark::Cross(RED))));
        entries.extend(timeline.marks.map(|marks| (marks, Mark::Dashes(DARK))));
        entries.extend(timeline.shade.map(|(name, ..)| (name, Mark::Square(SHADE))));
        legend(&area, 80, &entries)?;
        let panels = area
            .margin(66, 10, 10, 30)
            .split_evenly((timeline.panels.len(), 1));
        let last = panels.len().saturating_sub(1);
        for (index, (panel, area)) in timeline.panels.iter().zip(&panels).enumerate() {
            let seconds = if index == last { "seconds" } else { "" };
            draw(timeline, panel, area, (seconds, end), top)?;
        }
        area.present()?;
    }
    Ok(svg)
}

fn draw(
    timeline: &Timeline<'_>,
    panel: &Panel,
    area: &Area<'_>,
    (seconds, end): (&str, f64),
    top: f64,
) -> Done<()> {
    let mut chart = ChartBuilder::on(area)
        .caption(panel.name.as_str(), (FONT, 16).into_font().color(&DARK))
        .margin_top(6)
        .x_label_area_size(38)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..end, (FLOOR..top).log_scale())?;
    if let Some((_, from, to)) = timeline.shade {
        chart.draw_series([Rectangle::new(
            [(from, FLOOR), (to.min(end), top)],
            SHADE.filled(),
        )])?;
    }
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE.mix(0.0))
        .bold_line_style(GREY.mix(0.35))
        .axis_style(GREY)
        .x_desc(seconds)
        .y_desc("ms, log scale")
        .x_labels(10)
        .y_labels(7)
        .y_label_formatter(&|ms| format!("{ms}"))
        .axis_desc_style((FONT, 14).into_font().color(&DARK))
        .label_style((FONT, 13).into_font().color(&DARK))
        .draw()?;
    for mark in panel.marks.iter().filter(|mark| **mark <= end) {
        chart.draw_series(DashedLineSeries::new(
            [(*mark, FLOOR), (*mark, top)],
            5,
            4,
            DARK.stroke_width(1),
        ))?;
    }
    for point in &panel.points {
        let at = (point.at, point.ms.max(FLOOR));
        if point.ok {
            chart.draw_series([Circle::new(at, 2, BLUE.filled())])?;
        } else {
            chart.draw_series([Cross::new(at, 3, RED.stroke_width(1))])?;
        }
    }
    Ok(())
}

/// The slowest of the requests that began in the same hundredth of a second, answered and failed apart: more can't be
/// told apart on a plot.
pub(crate) fn thin_out(points: impl IntoIterator<Item = Point>) -> Vec<Point> {
    let mut slowest = BTreeMap::<_, Point>::new();
    for point in points {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a plot shows seconds, not years"
        )]
        let key = ((point.at * 100.0) as i64, point.ok);
        let kept = slowest.entry(key).or_insert(point);
        if kept.ms < point.ms {
            *kept = point;
        }
    }
    slowest.into_values().collect()
}

enum Mark {
    Square(RGBColor),
    Dot(RGBColor),
    Cross(RGBColor),
    Line(RGBColor),
    Dashes(RGBColor),
}

fn legend(area: &Area<'_>, left: i32, entries: &[(&str, Mark)]) -> Done<()> {
    let mut x = left;
    let y = 50;
    for (name, mark) in entries {
        match mark {
            Mark::Square(color) => {
                area.draw(&Rectangle::new(
                    [(x, y - 6), (x + 16, y + 6)],
                    color.filled(),
                ))?;
                area.draw(&Rectangle::new(
                    [(x, y - 6), (x + 16, y + 6)],
                    GREY.stroke_width(1),
                ))?;
            }
            Mark::Dot(color) => area.draw(&Circle::new((x + 8, y), 4, color.filled()))?,
            Mark::Cross(color) => area.draw(&Cross::new((x + 8, y), 4, color.stroke_width(1)))?,
            Mark::Line(color) => {
                area.draw(&PathElement::new(
                    [(x + 8, y - 8), (x + 8, y + 8)],
                    color.stroke_width(2),
                ))?;
            }
            Mark::Dashes(color) => {
                for dash in [-8, 2] {
                    let ends = [(x + 8, y + dash), (x + 8, y + dash + 6)];
                    area.draw(&PathElement::new(ends, color.stroke_width(1)))?;
                }
            }
        }
        area.draw(&Text::new(*name, (x + 24, y), text(14, HPos::Left)))?;
        x += 60 + 8 * i32::try_from(name.len())?;
    }
    Ok(())
}

fn text(size: i32, side: HPos) -> TextStyle<'static> {
    (FONT, size)
        .into_font()
        .color(&DARK)
        .pos(Pos::new(side, VPos::Center))
}
