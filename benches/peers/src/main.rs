//! Compares apivideo-auth with other token layers, side by side.

mod alloc;
mod api;
mod dropped;
mod growth;
mod hot;
mod machine;
mod outage;
mod peer;
mod peers;
mod pictures;
mod plot;
mod refused;
mod report;
mod rounds;
mod service;
mod stall;
mod stampede;
mod table;

use std::process::ExitCode;

const USAGE: &str = "\
Compares apivideo-auth with other token layers, side by side in one run.

usage: peers MEASURE [--quick]

  all        every measure; also writes docs/benchmarks.md and the plots beside it
  hot        what a request costs while the token is good
  stampede   10 000 callers at once, without a token or with an expired one
  dropped    the caller who renews is dropped in the middle
  stall      requests held up by renewals
  outage     the token endpoint is down for five seconds
  refused    100 requests whose token was revoked
  growth     how the costs of apivideo-auth grow

  --quick    fewer rounds";

fn main() -> ExitCode {
    // One of the peers gets its tokens from a program, which is this one.
    if let Some(done) = peers::kube::plugin() {
        return match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => fail("plugin", &why.to_string()),
        };
    }
    let mut words: Vec<_> = std::env::args().skip(1).collect();
    let quick = words.iter().any(|word| word == "--quick");
    words.retain(|word| word != "--quick");
    let [measure] = words.as_slice() else {
        return usage();
    };
    let done = match measure.as_str() {
        "all" => report::all(quick).map(|()| "The report is in docs/benchmarks.md.".to_owned()),
        "hot" => hot::run(quick)
            .map(|rows| hot::table(&rows))
            .map_err(|error| error.to_string()),
        hot::ONE_PROCESS => hot::one_process(quick).map_err(|error| error.to_string()),
        "stampede" => Ok(stampede::table(&stampede::run(quick))),
        "dropped" => Ok(dropped::table(&dropped::run(quick))),
        "stall" => Ok(stall::table(&stall::run(quick))),
        "outage" => Ok(outage::table(&outage::run(quick))),
        "refused" => Ok(refused::table(&refused::run(quick))),
        "growth" => growth::run(quick).map(|outcome| growth::table(&outcome)),
        _ => return usage(),
    };
    match done {
        Ok(table) => {
            println!("{table}");
            ExitCode::SUCCESS
        }
        Err(why) => fail(measure, &why),
    }
}

fn fail(what: &str, why: &str) -> ExitCode {
    eprintln!("{what}: {why}");
    ExitCode::FAILURE
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::FAILURE
}
