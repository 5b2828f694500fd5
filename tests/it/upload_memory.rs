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

use crate::{
    support::{
        MIB,
        child::{Child, orders},
    },
    upload_tokens::mint,
};

const SIZE: usize = 512 * MIB;
const CONCURRENCY: usize = 3;

/// Uploads, and says how much memory that took: at the most, and of it the pages of the program's own file.
#[tokio::test]
#[ignore = "runs as a child process"]
async fn child_of_upload() {
    let [url, token] = orders();
    let layer = UploadTokenLayer::builder(token)
        .base_url(url)
        .build()
        .unwrap();
    let service = layer.layer(Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>());
    let source = Source::new(tokio::io::repeat(7).take(SIZE as u64)).length(SIZE as u64);
    let options = UploadOptions::new()
        .chunk_size(16 * MIB)
        .concurrency(CONCURRENCY);
    upload(service, source, options).await.unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let read = |name| status.split(name).nth(1)?.split_whitespace().next();
    println!(
        "KiB: {} {} .",
        read("VmHWM:").unwrap(),
        read("RssFile:").unwrap()
    );
}

#[tokio::test]
async fn half_a_gigabyte_takes_no_more_memory_than_its_chunks_on_their_way() {
    if !std::path::Path::new("/proc/self/status").exists() {
        return;
    }
    let api = FakeApi::start().await.unwrap();
    let token = mint(&api).await;
    let first = api.gate(GatePoint::ApiResponse);
    let child = Child::start(
        "upload_memory::child_of_upload",
        &[&api.url(), token.token().expose()],
    );
    // The server answers only when all the chunks are there that may be.
    let all_at_once = async {
        first.reached(1).await;
        let rest = api.gate(GatePoint::ApiResponse);
        first.open();
        rest.reached(CONCURRENCY).await;
        rest.open();
    };
    let (said, ()) = tokio::join!(child.passed(), all_at_once);
    let [id] = &api.video_ids()[..] else {
        panic!("one video")
    };
    assert!(
        api.received(id)
            .is_some_and(|it| it.finished && it.length == SIZE as u64)
    );
    let numbers = said.split("KiB: ").nth(1).unwrap().split(' ').take(2);
    let numbers: Vec<usize> = numbers.map(|it| it.parse().unwrap()).collect();
    let (peak, program) = (numbers[0] / 1024, numbers[1] / 1024);
    println!(
        "peak memory of a 512 MiB upload, {CONCURRENCY} chunks of 16 MiB at once: {peak} MiB, of which {program} MiB are \
         the test program's own pages"
    );
    assert!(peak - program <= CONCURRENCY * 16 + 16, "{peak} MiB");
}
