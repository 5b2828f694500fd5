//! What an upload costs.

use apivideo_auth::{
    UploadTokenLayer,
    testing::{FakeApi, GatePoint},
    upload_token::{Source, UploadOptions, upload},
};
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::io::AsyncReadExt;
use tower::Layer;

use crate::upload_tokens::mint;

const MIB: usize = 1024 * 1024;

/// This process uploads nothing: it starts itself again for that, so that only the upload's memory is counted.
#[tokio::test]
async fn half_a_gigabyte_takes_no_more_memory_than_its_chunks_on_their_way() {
    const SIZE: usize = 512 * MIB;
    const CONCURRENCY: usize = 3;
    if let Ok(target) = std::env::var("APIVIDEO_AUTH_TEST_UPLOAD") {
        let (url, token) = target.split_once(' ').unwrap();
        let layer = UploadTokenLayer::builder(token)
            .base_url(url)
            .build()
            .unwrap();
        let service =
            layer.layer(Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>());
        let source = Source::new(tokio::io::repeat(7).take(SIZE as u64)).length(SIZE as u64);
        let options = UploadOptions::new()
            .chunk_size(16 * MIB)
            .concurrency(CONCURRENCY);
        upload(service, source, options).await.unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let read = |name| {
            status
                .split(name)
                .nth(1)
                .unwrap()
                .split_whitespace()
                .next()
                .unwrap()
        };
        println!("\nKiB: {} {} .", read("VmHWM:"), read("RssFile:"));
        return;
    }
    if !std::path::Path::new("/proc/self/status").exists() {
        return;
    }
    let api = FakeApi::start().await.unwrap();
    let token = mint(&api).await;
    let name = "upload_memory::half_a_gigabyte_takes_no_more_memory_than_its_chunks_on_their_way";
    let first = api.gate(GatePoint::ApiResponse);
    let output = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(
            "APIVIDEO_AUTH_TEST_UPLOAD",
            format!("{} {}", api.url(), token.token().expose()),
        )
        .output();
    // The server answers only when all the chunks are there that may be.
    let all_at_once = async {
        first.reached(1).await;
        let rest = api.gate(GatePoint::ApiResponse);
        first.open();
        rest.reached(CONCURRENCY).await;
        rest.open();
    };
    let (output, ()) = tokio::join!(output, all_at_once);
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let [id] = &api.video_ids()[..] else {
        panic!("one video")
    };
    assert!(
        api.received(id)
            .is_some_and(|it| it.finished && it.length == SIZE as u64)
    );
    let mut numbers = text
        .split("KiB: ")
        .nth(1)
        .unwrap()
        .split(' ')
        .take(2)
        .map(|number| number.parse::<usize>().unwrap());
    let (peak, program) = (
        numbers.next().unwrap() / 1024,
        numbers.next().unwrap() / 1024,
    );
    println!(
        "peak memory of a 512 MiB upload, {CONCURRENCY} chunks of 16 MiB at once: {peak} MiB, of which {program} MiB are \
         the test program's own pages"
    );
    assert!(peak - program <= CONCURRENCY * 16 + 16, "{peak} MiB");
}
