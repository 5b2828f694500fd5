//! Runs everything and writes `docs/benchmarks.md` with its plots.

use std::{fs, io, path::PathBuf};

use crate::{
    dropped, growth, hot, machine, outage,
    peer::Peer,
    peers::{for_each_peer, ours::Ours},
    pictures::{self, Plot},
    refused,
    rounds::{Goal, Row, number},
    stall, stampede,
    table::Table,
};

struct Section {
    title: &'static str,
    /// What is done, and what the columns mean.
    about: &'static str,
    table: String,
    goals: Vec<Goal>,
    plot: Option<Plot>,
}

pub(crate) fn all(quick: bool) -> Result<(), String> {
    let sections = [
        hot(quick),
        section(
            ["Many callers, one renewal", STAMPEDE],
            &stampede::run(quick),
            stampede::table,
            stampede::goal,
            |_| None,
        ),
        section(
            ["Callers that go away", DROPPED],
            &dropped::run(quick),
            dropped::table,
            dropped::goal,
            |_| None,
        ),
        section(
            ["Requests while tokens are renewed", STALL],
            &stall::run(quick),
            stall::table,
            stall::goal,
            pictures::stall,
        ),
        section(
            ["An outage of the token endpoint", OUTAGE],
            &outage::run(quick),
            outage::table,
            outage::goal,
            pictures::outage,
        ),
        section(
            ["Refused tokens", REFUSED],
            &refused::run(quick),
            refused::table,
            refused::goal,
            |_| None,
        ),
        growth(quick),
    ];
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    write(&folder, &sections).map_err(|error| format!("the report can't be written: {error}"))
}

/// A section about all peers, printed as soon as it is there.
fn section<T>(
    [title, about]: [&'static str; 2],
    rows: &[Row<T>],
    table: impl Fn(&[Row<T>]) -> String,
    goal: impl Fn(&[T]) -> Goal,
    plot: impl Fn(&[Row<T>]) -> Option<Plot>,
) -> Section {
    let ours = rows.iter().find(|row| row.name == Ours::NAME);
    let goals = ours.and_then(Row::done).map(goal).into_iter().collect();
    finish(Section {
        title,
        about,
        table: table(rows),
        goals,
        plot: plot(rows),
    })
}

fn hot(quick: bool) -> Section {
    let (title, about) = ("The way of every request", HOT);
    let (table, goals, plot) = match hot::run(quick) {
        Ok(rows) => (hot::table(&rows), hot_goals(&rows), pictures::hot(&rows)),
        Err(why) => (format!("failed: {why}\n"), Vec::new(), None),
    };
    finish(Section {
        title,
        about,
        table,
        goals,
        plot,
    })
}

/// What the time of a request may be, as a ratio to the static header, and how many allocations it may add.
const HOT_GOALS: [(&str, hot::Use, f64, f64, f64); 4] = [
    ("apivideo-auth", hot::Use::LongLived, 1.6, 1.6, 0.0),
    (
        "apivideo-auth, no replay",
        hot::Use::LongLived,
        1.2,
        1.0,
        0.0,
    ),
    (
        "apivideo-auth",
        hot::Use::LongLivedWithHeaders,
        1.9,
        1.6,
        2.0,
    ),
    (
        "apivideo-auth, no replay",
        hot::Use::ClonePerRequest,
        1.5,
        2.5,
        0.0,
    ),
];

fn hot_goals(rows: &[hot::Row]) -> Vec<Goal> {
    let goal = |(name, usage, one_task, two_threads, allocations): (
        &str,
        hot::Use,
        f64,
        f64,
        f64,
    )| {
        let row = rows
            .iter()
            .find(|row| row.peer == name && row.usage == usage)?;
        Some(Goal {
            aim: format!(
                "{name} ({}): at most {one_task:.2} in one task, {two_threads:.2} in two threads, {allocations:.0} \
                 allocations added",
                usage.to_string().to_lowercase()
            ),
            measured: format!(
                "{}, {}, {}",
                number(row.one_task.median),
                number(row.two_threads.median),
                number(row.allocations)
            ),
            // To the digits that are shown.
            met: row.one_task.median < one_task + 0.005
                && row.two_threads.median < two_threads + 0.005
                && row.allocations < allocations + 0.05,
        })
    };
    HOT_GOALS.into_iter().filter_map(goal).collect()
}

fn growth(quick: bool) -> Section {
    let (table, goals) = match growth::run(quick) {
        Ok(outcome) => (growth::table(&outcome), vec![growth::goal(&outcome)]),
        Err(why) => (format!("failed: {why}\n"), Vec::new()),
    };
    finish(Section {
        title: "How costs grow",
        about: GROWTH,
        table,
        goals,
        plot: None,
    })
}

fn finish(section: Section) -> Section {
    println!(
        "{}\n\n{}\n{}",
        section.title,
        section.table,
        goals(&section.goals)
    );
    section
}

fn goals(goals: &[Goal]) -> String {
    let line = |Goal { aim, measured, met }: &Goal| {
        let verdict = if *met { "Met" } else { "Missed" };
        format!("- Goal: {aim}. **{verdict}**: {measured}.\n")
    };
    goals.iter().map(line).collect()
}

fn write(folder: &PathBuf, sections: &[Section]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let put = |name: &str, text: &str| {
        let unfinished = folder.join(format!("{name}.unfinished"));
        fs::write(&unfinished, text)?;
        fs::rename(unfinished, folder.join(name))
    };
    let mut text = introduction();
    for Section {
        title,
        about,
        table,
        goals: aims,
        plot,
    } in sections
    {
        text += &format!("\n## {title}\n\n{about}\n\n{table}\n{}", goals(aims));
        if let Some(Plot { file, caption, svg }) = plot {
            put(file, svg)?;
            text += &format!("\n![{title}]({file})\n\n{caption}\n");
        }
    }
    for (title, about, file) in [
        ("End to end", END_TO_END, "throughput.txt"),
        ("Waiting for a store", WAITING, "waiters.txt"),
        ("Uploads", UPLOADS, "uploads.txt"),
    ] {
        if let Ok(kept) = fs::read_to_string(folder.join(file)) {
            let kept = kept.trim_end();
            text += &format!("\n## {title}\n\n{about}\n\n```text\n{kept}\n```\n");
        }
    }
    text += AGAIN;
    put("benchmarks.md", &text)
}

fn introduction() -> String {
    let mut peers = Table::new(&["peer", "version", "to know"]);
    for_each_peer!(|P| peers.line(P::NAME, vec![P::VERSION.to_owned(), note(P::NOTE)]));
    format!(
        "# Benchmarks\n\n{INTRODUCTION}\n\nMeasured on {} on {}; {}.\n\n{}",
        machine::today(),
        machine::machine(),
        machine::rustc(),
        peers.left_aligned().markdown()
    )
}

fn note(note: &str) -> String {
    if note.is_empty() { "-" } else { note }.to_owned()
}

const INTRODUCTION: &str = "\
apivideo-auth and other Rust layers that put a token on requests, side by side: all in one program, built once, on one
machine. Each measure runs in several rounds; in each round every peer has its turn, and what is shown is the median of
the rounds, or the smallest and the largest count if they differ. Times of a machine that does other things besides come out
larger, most of all the rare ones.

The API that they talk to is in the same program. Its token endpoint takes 50 ms, of which the first half passes before it
has made up its mind, and a refresh token works once: presenting it again is refused, and counted. Where a peer has an
HTTP client of its own, token calls go over the loopback; API requests never leave the program. Each peer is set up as its
documentation says. `-` means that a peer can't do this at all; what it can't do in part is said under \"to know\".";

const HOT: &str = "\
The token is good, and the wrapped service answers at once: what is left is what the layer costs. Numbers are ratios to a
static header: the median of 12 processes, with the quartiles. Building the request is part of all of them. All times are
processor time, so that other programs count as little as can be.";

const STAMPEDE: &str = "\
10 000 callers, each with a clone of one client, send a request at the same moment: *cold* when there was no token yet,
*expired* when the token has ended unnoticed. *Reused* counts refresh tokens that were presented a second time, *failed*
requests that were not answered 200, and the time runs from the first request to the last response. A peer that renews by
itself, or gets its first token when it is made, may have nothing left to call for: then the count is 0 or the time short.";

const DROPPED: &str = "\
A first caller starts the renewal and 100 others wait for it. The moment after the endpoint has made up its mind - the
refresh token is spent, the response on its way - the first caller is dropped; in the second half of the table, all of them.
*Later caller* is one more, who comes afterwards. *Answer lost*: the pair that was granted is never used, so another call
was needed, or nobody was served any more. `-`: a peer that gets its first token while it is made has nothing to drop then.";

const STALL: &str = "\
2000 requests a second for 5 s, with tokens whose lifetime is chosen for each peer such that one that renews ahead of
expiry does so every second or so. Each time is a request's own, from its start to its response; p99.9 is the slowest of a
thousand.";

const OUTAGE: &str = "\
The token has expired, and the token endpoint answers 503 for 5 s, while 200 requests a second come in, each on its own.
*Answered in it*: with success or an error, before the outage was over. Median and p99 are of the time to any response, for
requests made in the outage. *Never answered*: not in 30 s. *Recovered*: from the end of the outage to the first success.";

const REFUSED: &str = "\
100 requests at the same moment, whose token the API has revoked without notice; then the same again with the token that has
replaced it.";

const GROWTH: &str = "\
apivideo-auth alone, on one thread. First table: requests sent in turn through so many clones of one client. Second table: so
many callers wait for the first token; the bytes are what each holds beyond what the same request holds over a bare
service that never answers. The first caller's share is large because it contains the renewal itself. The more clones and
callers, the less of them fits the processor's caches, which is why times rise somewhat. Third table: so many sources, each
with an account, a client and a token of its own, which all renew at the same moment.";

const END_TO_END: &str = "\
A hyper client over loopback at full load, with a static header, with the layer, and with one that keeps no request, in turns;
ten processes, each with the median of its rounds. This is the output of `cargo bench --bench throughput`, kept in
`docs/throughput.txt`.";

const WAITING: &str = "\
200 processes wait for the lock of their store, which somebody holds; counted for 10 s, when they have waited for 3 s. A
process that waits looks at the store, and asks for the lock at every fourth look; the pauses between looks grow from 20 ms
to 750 ms. Before, it did both 22 times a second: files and Redis could not keep up with it on two cores. A look at Redis is
one command that runs others; all are counted. This is the output of
`cargo test --all-features --test it waiters -- --include-ignored --nocapture` at both commits, kept in
`docs/waiters.txt`; it is not measured anew with this page.";

const UPLOADS: &str = "\
`upload()` of a file of 1 GiB in chunks of 50 MiB, and the same requests over a plain hyper client, in turns in the same run.
The server, which drops what it gets, is on the loopback, so nothing waits for a network. *Read*: written by hand, each
chunk read from the same file and sent as one piece. The goal is at least 0.95 of its speed. *Ready*: the bodies have lain
in memory since before the clock started, so nothing is read at all; `upload` reads the film in that time. This is the
output of `cargo bench --bench uploads`, kept in `docs/uploads.txt`.";

const AGAIN: &str = "
## Run it again

```sh
benches/all
```

takes about 20 minutes on two cores and writes this page, its plots, `docs/throughput.txt` and `docs/uploads.txt`. In
`benches/peers`, `cargo run --release -- all` leaves the last three sections as they are, and takes about 13. `hot`, `stampede`, `dropped`, `stall`, `outage`,
`refused` or `growth` in the place of `all` runs one measure and prints its table; `--quick` takes fewer rounds.
";
