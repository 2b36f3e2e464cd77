//! `s3_bench_server [--kind garage|rclone|s3s]`: an S3 server, a bucket, and a proxy before it, for `scripts/bench --s3`.
//!
//! Prints `KEY=VALUE` lines: `ENDPOINT` of the server, `PROXY` before it, `BUCKET`, `SERVER` for people, and the `AWS_`
//! variables of its clients; then `READY=yes`. Obeys lines of stdin, each with one line, and ends with stdin:
//!
//! | line | answer |
//! |---|---|
//! | `latency MS` | `ok`; every request through the proxy waits as long from now on |
//! | `forget` | `ok`; counts begin anew |
//! | `counts` | `PutObject/packs=6 ListObjects=2 …`: what went through the proxy, by operation and kind of object |
//! | `objects PREFIX` | `packs=6:384000000 nodes=1:120000 …`: what is stored below it, number and bytes by kind |
//! | `remove PREFIX` | `ok`; nothing is stored below it any more |
//! | `put-rate` | `812.5`: MB/s of 8 PUTs of 64 MiB each, 4 at a time, straight to the server |
//!
//! An answer that begins with `error: ` says what failed. Servers come from `scripts/s3-servers`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Display;
use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::primitives::ByteStream;
use rand::Rng;
use tokio::task::JoinSet;
use walkeep_pg_integration::s3::{Client, Kind, Proxy, S3Server};

/// Where everything goes.
const BUCKET: &str = "bench";
/// How many objects a measurement of the server's rate writes.
const PUTS: usize = 8;
/// How many of them at a time.
const PARALLEL: usize = 4;
/// How large each is: a pack.
const SIZE: usize = 64 << 20;

type Answer<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("s3_bench_server: error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Answer<()> {
    let kind = kind(&std::env::args().skip(1).collect::<Vec<_>>())?;
    let server = S3Server::start(kind);
    server.create_bucket(BUCKET);
    let proxy = Proxy::before(&server);
    let client = server.client();

    let name = match kind {
        Kind::Garage => "Garage",
        Kind::Rclone => "rclone serve s3",
        Kind::S3s => "s3s-fs",
    };
    let places =
        [("SERVER", name.into()), ("ENDPOINT", server.url()), ("PROXY", proxy.url()), ("BUCKET", BUCKET.into())];
    for (key, value) in places.into_iter().chain(server.env()) {
        say(format!("{key}={value}"))?;
    }
    say("READY=yes")?;

    for line in std::io::stdin().lock().lines() {
        say(obey(&line?, &proxy, &client).unwrap_or_else(|e| format!("error: {e}").replace('\n', " ")))?;
    }
    Ok(())
}

fn kind(arguments: &[String]) -> Answer<Kind> {
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] | ["--kind", "garage"] => Ok(Kind::Garage),
        ["--kind", "rclone"] => Ok(Kind::Rclone),
        ["--kind", "s3s"] => Ok(Kind::S3s),
        _ => Err("expected --kind garage, rclone or s3s, or nothing".into()),
    }
}

fn say(line: impl Display) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn obey(line: &str, proxy: &Proxy, client: &Client) -> Answer<String> {
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["latency", milliseconds] => {
            proxy.latency(Duration::from_millis(milliseconds.parse()?));
            Ok("ok".to_owned())
        }
        ["forget"] => {
            proxy.forget();
            Ok("ok".to_owned())
        }
        ["counts"] => Ok(counts(proxy)),
        ["objects", prefix] => objects(client, prefix),
        ["remove", prefix] => remove(client, prefix).map(|()| "ok".to_owned()),
        ["put-rate"] => put_rate(client).map(|rate| format!("{rate:.1}")),
        _ => Err(format!("unknown command '{line}'").into()),
    }
}

/// What a key holds: the name of its directory in a repository that is one level below the bucket.
fn kind_of(key: &str) -> &str {
    let within = key.split_once('/').map_or(key, |(_repository, within)| within);
    match within.split('/').collect::<Vec<_>>()[..] {
        ["clusters", _, directory, _, ..] => directory,
        [directory, _, ..] => directory,
        _ => "others",
    }
}

fn counts(proxy: &Proxy) -> String {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for entry in proxy.log() {
        let name = match entry.key.as_str() {
            "" => entry.operation.to_string(),
            key => format!("{}/{}", entry.operation, kind_of(key)),
        };
        *counts.entry(name).or_default() += 1;
    }
    joined(counts.iter().map(|(name, count)| format!("{name}={count}")))
}

fn joined(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(" ")
}

fn objects(client: &Client, prefix: &str) -> Answer<String> {
    let mut sums: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut token = None;
    loop {
        let request = client.sdk().list_objects_v2().bucket(BUCKET).prefix(prefix).set_continuation_token(token);
        let page = client.wait(request.send())?;
        for object in page.contents() {
            let (number, bytes) = sums.entry(kind_of(object.key().unwrap_or_default()).to_owned()).or_default();
            *number += 1;
            *bytes += object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or_default();
        }
        token = page.next_continuation_token;
        if page.is_truncated != Some(true) || token.is_none() {
            return Ok(joined(sums.iter().map(|(kind, (number, bytes))| format!("{kind}={number}:{bytes}"))));
        }
    }
}

fn remove(client: &Client, prefix: &str) -> Answer<()> {
    for key in client.list(BUCKET, prefix)? {
        client.delete(BUCKET, &key)?;
    }
    Ok(())
}

/// Bytes that neither compress nor repeat, because Garage does both for who lets it; not signed, because Walkeep's are
/// not either.
fn put_rate(client: &Client) -> Answer<f64> {
    let mut rng = rand::rng();
    let mut bodies: Vec<_> = (0..PUTS).map(|_| vec![0; SIZE]).collect();
    bodies.iter_mut().for_each(|body| rng.fill_bytes(body));
    let begun = Instant::now();
    client.block_on(async {
        let mut under_way = JoinSet::new();
        for (number, body) in bodies.into_iter().enumerate() {
            if under_way.len() == PARALLEL {
                finished(&mut under_way).await?;
            }
            let request = client.sdk().put_object().bucket(BUCKET).key(format!("put-rate/{number}"));
            let request = request.body(ByteStream::from(body)).customize().disable_payload_signing();
            under_way
                .spawn(async move { request.send().await.map(drop).map_err(|e| DisplayErrorContext(e).to_string()) });
        }
        while !under_way.is_empty() {
            finished(&mut under_way).await?;
        }
        Answer::Ok(())
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    remove(client, "put-rate/")?;
    Ok((PUTS * SIZE) as f64 / 1e6 / seconds)
}

async fn finished(under_way: &mut JoinSet<Result<(), String>>) -> Answer<()> {
    match under_way.join_next().await {
        Some(ended) => Ok(ended??),
        None => Ok(()),
    }
}
