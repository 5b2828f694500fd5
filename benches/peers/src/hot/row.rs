//! What comes out of it.

use std::fmt;

/// How a client is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    LongLived,
    LongLivedWithHeaders,
    ClonePerRequest,
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LongLived => "Long-lived clones",
            Self::LongLivedWithHeaders => {
                "Long-lived clones, requests with 5 headers that are kept to be sent again"
            }
            Self::ClonePerRequest => "A clone for each request",
        })
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) peer: &'static str,
    pub(crate) usage: Use,
    /// Ratios to the static header.
    pub(crate) one_task: Spread,
    pub(crate) two_threads: Spread,
    /// The part of the rounds in which the static header's two threads did not run side by side, in none of the tries.
    pub(crate) disturbed: f64,
    /// The time of one request: of one task, and of two threads.
    pub(crate) nanoseconds: [f64; 2],
    /// More than the static header's, for each request.
    pub(crate) allocations: f64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    /// The quartiles.
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    pub(super) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let last = values.len().saturating_sub(1);
        let at = |part: f64| {
            values
                .get((last as f64 * part).round() as usize)
                .copied()
                .unwrap_or(f64::NAN)
        };
        Self {
            median: at(0.5),
            low: at(0.25),
            high: at(0.75),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2}–{:.2})", self.median, self.low, self.high)
    }
}

/// If more rounds than these were disturbed, it shows in the median.
const MANY: f64 = 0.25;

/// A Markdown table for each use.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    for usage in [
        Use::LongLived,
        Use::LongLivedWithHeaders,
        Use::ClonePerRequest,
    ] {
        text += &format!(
            "{usage}:\n\n| | one task | two threads | allocations added | ns, one task |\n"
        );
        text += "| --- | --- | --- | --- | --- |\n";
        for row in rows.iter().filter(|row| row.usage == usage) {
            let Row {
                peer,
                one_task,
                two_threads,
                allocations,
                nanoseconds: [ns, _],
                ..
            } = row;
            text +=
                &format!("| {peer} | {one_task} | {two_threads} | {allocations:.1} | {ns:.0} |\n");
        }
        let disturbed = rows.iter().find(|row| row.usage == usage);
        let disturbed = disturbed.map_or(0.0, |row| row.disturbed);
        if disturbed > MANY {
            text += &format!(
                "\nOther programs kept the two threads from running side by side in {:.0} % of the rounds: these figures \
                 are nearer to those of one task than they should be.\n",
                100.0 * disturbed
            );
        }
        text.push('\n');
    }
    text
}
