//! Tables in Markdown.

use std::fmt::{Display, Write};

/// A table in Markdown, readable on a terminal too.
pub(crate) struct Table {
    lines: Vec<Vec<String>>,
    is_text: bool,
    /// Said below it.
    pub(crate) notes: Vec<String>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self {
            lines: vec![head.iter().map(|cell| (*cell).to_owned()).collect()],
            is_text: false,
            notes: Vec::new(),
        }
    }

    /// For words rather than numbers.
    pub(crate) fn left_aligned(self) -> Self {
        Self {
            is_text: true,
            ..self
        }
    }

    pub(crate) fn line(&mut self, name: impl Display, mut cells: Vec<String>) {
        cells.insert(0, name.to_string());
        cells.resize(self.lines[0].len(), "-".to_owned());
        self.lines.push(cells);
    }

    fn is_left(&self, column: usize) -> bool {
        self.is_text || column == 0
    }

    pub(crate) fn markdown(&self) -> String {
        let columns = self.lines[0].len();
        let width = |column: usize| {
            self.lines
                .iter()
                .map(|line| line[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (index, line) in self.lines.iter().enumerate() {
            for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
                let cell = if self.is_left(column) {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                };
                // Writing to a string can't fail.
                let _ = write!(text, "| {cell} ");
            }
            text.push_str("|\n");
            if index == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let end = if self.is_left(column) { "-" } else { ":" };
                    let _ = write!(text, "| {}{end} ", "-".repeat(width - 1));
                }
                text.push_str("|\n");
            }
        }
        for note in &self.notes {
            let _ = writeln!(text, "\n{note}");
        }
        text
    }
}
