//! What comes out of it.

use std::fmt;

/// How a client is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    LongLived,
    LongLivedWithHeaders,
    ClonePerRequest,
}

impl Use {
    const ALL: [Self; 3] = [
        Self::LongLived,
        Self::LongLivedWithHeaders,
        Self::ClonePerRequest,
    ];
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

/// What was measured of a peer: by one process, or by all.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) peer: String,
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

impl Row {
    /// What one process says to another: medians, with tabs between them.
    pub(super) fn line(&self) -> String {
        let usage = Use::ALL.iter().position(|usage| *usage == self.usage);
        let [one, two] = self.nanoseconds;
        format!(
            "{}\t{}\t{}\t{}\t{}\t{one}\t{two}\t{}",
            self.peer,
            usage.unwrap_or_default(),
            self.one_task.median,
            self.two_threads.median,
            self.disturbed,
            self.allocations
        )
    }

    pub(super) fn read(line: &str) -> Option<Self> {
        let mut words = line.split('\t');
        let (peer, usage) = (words.next()?.to_owned(), words.next()?);
        let usage = *Use::ALL.get(usage.parse::<usize>().ok()?)?;
        let mut number = || words.next()?.parse().ok();
        Some(Self {
            peer,
            usage,
            one_task: Spread::of(vec![number()?]),
            two_threads: Spread::of(vec![number()?]),
            disturbed: number()?,
            nanoseconds: [number()?, number()?],
            allocations: number()?,
        })
    }
}

/// The spread of what several processes measured. Each names the peers in the same order.
pub(super) fn merge(processes: &[Vec<Row>]) -> Vec<Row> {
    let Some(first) = processes.first() else {
        return Vec::new();
    };
    let merged = |(index, row): (usize, &Row)| {
        let spread = |pick: fn(&Row) -> f64| {
            let rows = processes.iter().filter_map(|rows| rows.get(index));
            Spread::of(rows.map(pick).collect())
        };
        Row {
            one_task: spread(|row| row.one_task.median),
            two_threads: spread(|row| row.two_threads.median),
            disturbed: spread(|row| row.disturbed).median,
            nanoseconds: [
                spread(|row| row.nanoseconds[0]).median,
                spread(|row| row.nanoseconds[1]).median,
            ],
            allocations: spread(|row| row.allocations).median,
            ..row.clone()
        }
    };
    first.iter().enumerate().map(merged).collect()
}

/// If more rounds than these were disturbed, it shows in the median.
const MANY: f64 = 0.25;

/// A Markdown table for each use.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    for usage in Use::ALL {
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
