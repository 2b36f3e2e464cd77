//! The S3 servers and the fault proxy: each is what it claims to be, so that what is shown with them is shown.

mod kinds;
mod manners;
mod proxy;

use walkeep_pg_integration::s3::{Kind, Refusal, S3Server};

const MIB: usize = 1 << 20;

/// A server with a bucket `backups`.
fn with_bucket(kind: Kind) -> S3Server {
    let server = S3Server::start(kind);
    server.create_bucket("backups");
    server
}

/// Bytes that no place of which looks like another.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, Refusal>, status: u16, code: &str) {
    let refusal = outcome.expect_err("this must fail");
    assert!(refusal.status == Some(status) && refusal.is(code), "expected {status} {code}, got {refusal}");
}

/// The connection failed: there was no answer with a status.
fn cut<T: std::fmt::Debug>(outcome: Result<T, Refusal>) -> String {
    let refusal = outcome.expect_err("this must fail");
    assert_eq!(refusal.status, None, "{refusal}");
    refusal.text
}
