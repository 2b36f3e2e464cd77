//! The S3 servers and the fault proxy: each is what it claims to be, so that what is shown with them is shown.

use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_s3::types::{Delete, ObjectIdentifier, ObjectLockMode};
use walkeep_pg_integration::s3::{
    Attempt, Client, Conditional, Counts, Credentials, Fault, Kind, Operation, Policy, Proxy, Refusal, Rule, S3Server,
    S3sOptions,
};
use walkeep_pg_integration::user::{TestUser, write_file};
use walkeep_pg_integration::wait::SOON;
use walkeep_pg_integration::{Output, Scratch, wait_until};

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

#[test]
fn every_server_stores_lists_and_removes_objects() {
    for kind in Kind::all() {
        let server = with_bucket(kind);
        let client = server.client();
        let large = content(9 * MIB + 7);
        client.put("backups", "a/large", large.clone()).unwrap();
        client.put("backups", "a/b/empty", "").unwrap();
        client.put("backups", "other", "x").unwrap();
        assert_eq!(client.list("backups", "a/").unwrap(), ["a/b/empty", "a/large"], "{kind:?}");
        assert!(client.get("backups", "a/large").unwrap() == large, "{kind:?} gave something else");
        assert!(client.get_range("backups", "a/large", 4_000_000, 70).unwrap() == large[4_000_000..4_000_070]);
        assert_eq!(client.head("backups", "a/large").unwrap().length, large.len() as u64);
        client.put("backups", "other", "y").unwrap();
        assert_eq!(client.get("backups", "other").unwrap(), b"y");
        client.delete("backups", "other").unwrap();
        refused(client.get("backups", "other"), 404, "NoSuchKey");
        refused(client.get("nowhere", "other"), 404, "NoSuchBucket");
        refused(client.put("nowhere", "other", "x"), 404, "NoSuchBucket");
        refused(client.list("nowhere", ""), 404, "NoSuchBucket");
        assert_eq!(client.list("backups", "").unwrap(), ["a/b/empty", "a/large"], "{kind:?}");
    }
}

#[test]
fn every_server_lists_in_pages() {
    for kind in Kind::all() {
        let server = with_bucket(kind);
        let client = server.client();
        let keys: Vec<String> = (0..25).map(|i| format!("p/{:02}/object", i * 3 % 25)).collect();
        for key in &keys {
            client.put("backups", key, "x").unwrap();
        }
        let page = client.wait(client.sdk().list_objects_v2().bucket("backups").max_keys(10).send()).unwrap();
        assert_eq!((page.contents().len(), page.is_truncated), (10, Some(true)), "{kind:?}");
        let mut sorted = keys;
        sorted.sort();
        assert_eq!(client.list("backups", "p/").unwrap(), sorted, "{kind:?}");
    }
}

#[test]
fn every_server_checks_signatures() {
    for kind in Kind::all() {
        let server = with_bucket(kind);
        let Credentials { access_key, secret_key } = server.credentials().clone();
        let wrong =
            Credentials { access_key: access_key.clone(), secret_key: secret_key.replace('s', "z").replace('0', "1") };
        refused(
            server.client_as(&server.url(), &wrong).put("backups", "key", "x"),
            403,
            match kind {
                Kind::Garage => "AccessDenied",
                _ => "SignatureDoesNotMatch",
            },
        );
        let stranger = Credentials { access_key: access_key.replace('c', "d"), secret_key };
        let refusal = server.client_as(&server.url(), &stranger).list("backups", "").unwrap_err();
        assert_eq!(refusal.status, Some(403), "{kind:?}: {refusal}");
        assert!(server.client().list("backups", "").unwrap().is_empty(), "{kind:?} stored what it had refused");
    }
}

#[test]
fn every_server_survives_a_stop() {
    for kind in Kind::all() {
        let mut server = with_bucket(kind);
        let url = server.url();
        server.client().put("backups", "key", "value").unwrap();
        let client = server.client();
        client.list("backups", "").unwrap();
        server.stop();
        cut(client.list("backups", ""));
        server.resume();
        assert_eq!(server.url(), url);
        assert_eq!(client.get("backups", "key").unwrap(), b"value", "{kind:?}");
    }
}

#[test]
fn objects_are_files_where_the_server_says_so() {
    for kind in [Kind::Rclone, Kind::S3s] {
        let server = with_bucket(kind);
        let client = server.client();
        client.put("backups", "some/key", "value").unwrap();
        let directory = server.directory("backups").unwrap();
        assert_eq!(std::fs::read(directory.join("some/key")).unwrap(), b"value");
        write_file(&directory.join("other"), "from behind");
        let listed = |keys: &[&str]| {
            wait_until(&format!("{kind:?} to list {keys:?}"), SOON, || client.list("backups", "").unwrap() == keys);
        };
        listed(&["other", "some/key"]);
        assert_eq!(client.get("backups", "other").unwrap(), b"from behind", "{kind:?}");
        std::fs::remove_file(directory.join("some/key")).unwrap();
        listed(&["other"]);
        refused(client.get("backups", "some/key"), 404, "NoSuchKey");
    }
}

#[test]
fn a_client_that_owes_nothing_to_ours_agrees() {
    for kind in Kind::all() {
        let server = with_bucket(kind);
        server.client().put("backups", "dir/key", content(100_000)).unwrap();
        let scratch = Scratch::new("s3cmd");
        let (access_key, secret_key) = (&server.credentials().access_key, &server.credentials().secret_key);
        let s3cmd = |args: &[&str]| {
            let mut command = TestUser::get().command("s3cmd");
            command.args(["--config", "/dev/null", "--no-ssl", "--no-progress", "--region", server.region()]);
            command.arg(format!("--access_key={access_key}")).arg(format!("--secret_key={secret_key}"));
            command.arg(format!("--host={}", server.address())).arg(format!("--host-bucket={}", server.address()));
            Output::of(command.args(args))
        };
        let copy = scratch.subdirectory("copy");
        s3cmd(&["sync", "s3://backups/", &format!("{}/", copy.display())]).ok();
        assert_eq!(std::fs::read(copy.join("dir/key")).unwrap(), content(100_000), "{kind:?}");
        write_file(&copy.join("back"), "again");
        s3cmd(&["sync", &format!("{}/", copy.display()), "s3://backups/again/"]).ok();
        assert_eq!(
            server.client().list("backups", "").unwrap(),
            ["again/back", "again/dir/key", "dir/key"],
            "{kind:?}"
        );
    }
}

/// What happens to a key that is written twice with `If-None-Match: *`: the second answer, and what is there then.
fn written_twice(client: &Client) -> (Option<u16>, Vec<u8>) {
    client.put_if_absent("backups", "once", "first").expect("a new key is not there");
    let second = client.put_if_absent("backups", "once", "second").map_or_else(|e| e.status, |()| Some(200));
    (second, client.get("backups", "once").expect("it was written"))
}

#[test]
fn conditional_writes_are_honoured_ignored_or_lied_about() {
    let of = |conditional| {
        let server = S3Server::s3s(S3sOptions::default().conditional(conditional));
        server.create_bucket("backups");
        written_twice(&server.client())
    };
    assert_eq!(of(Conditional::Honoured), (Some(412), b"first".to_vec()));
    assert_eq!(of(Conditional::Ignored), (Some(200), b"second".to_vec()));
    assert_eq!(of(Conditional::Lied), (Some(412), b"second".to_vec()));
    for kind in Kind::all() {
        let expected = match kind {
            Kind::S3s => (Some(412), b"first".to_vec()),
            Kind::Rclone | Kind::Garage => (Some(200), b"second".to_vec()),
        };
        assert_eq!(written_twice(&with_bucket(kind).client()), expected, "{kind:?}");
    }
    let server = S3Server::s3s(S3sOptions::default().conditional(Conditional::NotImplemented));
    server.create_bucket("backups");
    refused(server.client().put_if_absent("backups", "once", "first"), 501, "NotImplemented");
    refused(server.client().get("backups", "once"), 404, "NoSuchKey");
}

#[test]
fn of_many_conditional_writers_one_wins() {
    let server = with_bucket(Kind::S3s);
    for round in 0..5 {
        let key = format!("round-{round}");
        let outcomes: Vec<Result<(), Refusal>> = std::thread::scope(|scope| {
            let write = |i: u8| server.client().put_if_absent("backups", &key, vec![i; MIB]);
            let threads: Vec<_> = (0..6).map(|i| scope.spawn(move || write(i))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winners: Vec<usize> = (0..6).filter(|i| outcomes[*i].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        assert_eq!(server.client().get("backups", &key).unwrap(), vec![winners[0] as u8; MIB]);
        assert!(outcomes.iter().all(|o| o.as_ref().map_or_else(|e| e.status == Some(412), |()| true)), "{outcomes:?}");
    }
}

#[test]
fn a_policy_decides_who_may_do_what() {
    let reader = Credentials::named("a-mere-reader");
    let name = reader.access_key.clone();
    let policy = move |attempt: &Attempt| {
        let reads = match attempt.operation.as_str() {
            "GetObject" => attempt.key.as_deref().is_some_and(|key| key.starts_with("main/")),
            "ListObjectsV2" => attempt.prefix.as_deref() == Some("main/wal/"),
            _ => false,
        };
        attempt.access_key != name || (attempt.bucket.as_deref() == Some("backups") && reads)
    };
    let server = S3Server::s3s(S3sOptions::default().user(reader.clone()).policy(policy));
    server.create_bucket("backups");
    let (all, client) = (server.client(), server.client_as(&server.url(), &reader));
    all.put("backups", "main/wal/1", "x").unwrap();
    all.put("backups", "others", "x").unwrap();
    assert_eq!(client.get("backups", "main/wal/1").unwrap(), b"x");
    assert_eq!(client.list("backups", "main/wal/").unwrap(), ["main/wal/1"]);
    refused(client.get("backups", "others"), 403, "AccessDenied");
    refused(client.list("backups", "main/"), 403, "AccessDenied");
    refused(client.put("backups", "main/new", "x"), 403, "AccessDenied");
    refused(client.delete("backups", "main/wal/1"), 403, "AccessDenied");
    assert_eq!(all.list("backups", "").unwrap(), ["main/wal/1", "others"]);
}

#[test]
fn a_region_is_insisted_on() {
    let server = S3Server::s3s(S3sOptions::default().region("eu-central-1"));
    server.create_bucket("backups");
    let elsewhere = Client::new(&server.url(), "us-east-1", server.credentials(), None);
    refused(elsewhere.list("backups", ""), 400, "AuthorizationHeaderMalformed");
}

#[test]
fn https_works_with_its_own_authority_only() {
    let server = S3Server::s3s(S3sOptions::default().https());
    server.create_bucket("backups");
    server.client().put("backups", "key", "value").unwrap();
    assert!(server.url().starts_with("https://"));
    let foreign = S3Server::s3s(S3sOptions::default().https());
    let said =
        cut(Client::new(&server.url(), server.region(), server.credentials(), foreign.ca()).get("backups", "key"));
    assert!(said.contains("UnknownIssuer") || said.contains("BadSignature"), "{said}");
    let plain = server.url().replace("https", "http");
    cut(Client::new(&plain, server.region(), server.credentials(), None).get("backups", "key"));
}

#[test]
fn a_bucket_can_be_a_host() {
    let server = S3Server::s3s(S3sOptions::default().https());
    server.create_bucket("backups");
    let client = server.client().virtual_hosts(&server);
    client.put("backups", "backups/key", "value").unwrap();
    assert_eq!(client.list("backups", "").unwrap(), ["backups/key"]);
    assert_eq!(server.client().get("backups", "backups/key").unwrap(), b"value");
    refused(client.list("nowhere", ""), 404, "NoSuchBucket");
}

#[test]
fn odd_bucket_names_and_multipart_uploads_are_there() {
    let server = S3Server::start(Kind::S3s);
    for bucket in ["with.dots", "with_underscore"] {
        server.create_bucket(bucket);
        server.client().put(bucket, "key", "value").unwrap();
        assert_eq!(server.client().list(bucket, "").unwrap(), ["key"]);
    }
    let client = server.client();
    let (sdk, bucket) = (client.sdk(), "with.dots");
    let open = || client.wait(sdk.list_multipart_uploads().bucket(bucket).send()).unwrap().uploads().len();
    let create = sdk.create_multipart_upload().bucket(bucket).key("parts").storage_class("GLACIER_IR".into());
    let id = client.wait(create.send()).unwrap().upload_id.unwrap();
    let part = sdk.upload_part().bucket(bucket).key("parts").upload_id(&id).part_number(1);
    client.wait(part.body(content(5 * MIB).into()).send()).unwrap();
    assert_eq!(open(), 1);
    client.wait(sdk.abort_multipart_upload().bucket(bucket).key("parts").upload_id(&id).send()).unwrap();
    assert_eq!(open(), 0);
}

#[test]
fn documents_of_ours_grant_what_their_reader_needs() {
    let document = include_str!("../../../../deploy/s3-policy-restorer.json");
    let reader = Credentials::named("the-restorer");
    let (name, granted) = (reader.access_key.clone(), Policy::parse(&[document], "backups", "pg/main"));
    let policy = move |attempt: &Attempt| attempt.access_key != name || granted.allows(attempt);
    let server = S3Server::s3s(S3sOptions::default().user(reader.clone()).policy(policy));
    server.create_bucket("backups");
    let (all, client) = (server.client(), server.client_as(&server.url(), &reader));
    all.put("backups", "pg/main/walkeep.json", "{}").unwrap();
    all.put("backups", "pg/other/walkeep.json", "{}").unwrap();
    assert_eq!(client.get("backups", "pg/main/walkeep.json").unwrap(), b"{}");
    assert_eq!(client.list("backups", "pg/main/").unwrap(), ["pg/main/walkeep.json"]);
    refused(client.get("backups", "pg/other/walkeep.json"), 403, "AccessDenied");
    refused(client.list("backups", "pg/"), 403, "AccessDenied");
    refused(client.put("backups", "pg/main/walkeep.json", "x"), 403, "AccessDenied");
    let objects = ["pg/main/walkeep.json"].map(|key| ObjectIdentifier::builder().key(key).build().unwrap());
    let delete = Delete::builder().set_objects(Some(objects.to_vec())).build().unwrap();
    refused(
        client.wait(client.sdk().delete_objects().bucket("backups").delete(delete.clone()).send()),
        403,
        "AccessDenied",
    );
    all.wait(all.sdk().delete_objects().bucket("backups").delete(delete).send()).unwrap();
    assert_eq!(all.list("backups", "").unwrap(), ["pg/other/walkeep.json"]);
}

#[test]
fn locks_are_remembered_where_a_bucket_has_them() {
    let server = S3Server::start(Kind::S3s);
    let client = server.client();
    let sdk = client.sdk();
    client.wait(sdk.create_bucket().bucket("locked").object_lock_enabled_for_bucket(true).send()).unwrap();
    server.create_bucket("ordinary");
    let until = SystemTime::now() + Duration::from_secs(3600);
    let put = |bucket: &str| {
        let request = sdk.put_object().bucket(bucket).key("key").body(b"123456789".to_vec().into());
        request.object_lock_mode(ObjectLockMode::Governance).object_lock_retain_until_date(until.into())
    };
    refused(client.wait(put("locked").send()), 400, "InvalidRequest");
    refused(client.wait(put("ordinary").checksum_crc32_c("4waSgw==").send()), 400, "InvalidRequest");
    assert!(server.retention("locked", "key").is_none());
    client.wait(put("locked").checksum_crc32_c("4waSgw==").send()).unwrap();
    let retention = server.retention("locked", "key").unwrap();
    assert_eq!(retention.mode, "GOVERNANCE");
    assert!(until.duration_since(retention.until).unwrap_or_default() < Duration::from_secs(2), "{retention:?}");
}

/// A server of each kind with a proxy before it and a client that goes through it.
fn through_a_proxy(test: impl Fn(&S3Server, &Proxy, &Client)) {
    for kind in Kind::all() {
        let server = with_bucket(kind);
        let proxy = Proxy::before(&server);
        let client = proxy.client(&server);
        client.put("backups", "a/old", content(MIB)).expect("nothing is planned yet");
        proxy.forget();
        test(&server, &proxy, &client);
    }
}

#[test]
fn the_proxy_passes_everything_on_and_counts() {
    through_a_proxy(|server, proxy, client| {
        let large = content(20 * MIB);
        client.put("backups", "a/new +%", large.clone()).unwrap();
        assert!(client.get("backups", "a/new +%").unwrap() == large);
        client.get_range("backups", "a/old", 10, 90).unwrap();
        client.head("backups", "a/old").unwrap();
        assert_eq!(client.list("backups", "a/").unwrap(), ["a/new +%", "a/old"]);
        refused(client.get("backups", "missing"), 404, "NoSuchKey");
        client.delete("backups", "a/old").unwrap();
        let wrong = Credentials { secret_key: "another".to_owned(), ..server.credentials().clone() };
        assert_eq!(server.client_as(&proxy.url(), &wrong).list("backups", "").unwrap_err().status, Some(403));

        let log = proxy.log();
        let seen: Vec<(&str, &str, Option<u16>)> =
            log.iter().map(|e| (e.method.as_str(), e.key.as_str(), e.status)).collect();
        // rclone sends part of an object with Content-Range, but says 200.
        let partial = if server.kind() == Kind::Rclone { 200 } else { 206 };
        let expected = [
            ("PUT", "a/new +%", Some(200)),
            ("GET", "a/new +%", Some(200)),
            ("GET", "a/old", Some(partial)),
            ("HEAD", "a/old", Some(200)),
            ("GET", "", Some(200)),
            ("GET", "missing", Some(404)),
            ("DELETE", "a/old", Some(204)),
            ("GET", "", Some(403)),
        ];
        assert_eq!(seen, expected);
        assert_eq!(log[2].header("range"), Some("bytes=10-99"));
        assert!(log.iter().all(|entry| entry.header("authorization").is_none() && entry.bucket == "backups"));
        assert_eq!(
            (log[0].uploaded(), log[1].downloaded(), log[2].downloaded()),
            (large.len() as u64, large.len() as u64, 90)
        );
        let counts = proxy.counts();
        let count = |operation| counts.count(operation);
        assert_eq!((count(Operation::PutObject), count(Operation::GetObject), count(Operation::HeadObject)), (1, 3, 1));
        assert_eq!((count(Operation::ListObjects), count(Operation::DeleteObject), counts.total()), (2, 1, 8));
        assert!(counts.uploaded == large.len() as u64 && counts.downloaded > large.len() as u64, "{counts}");
        proxy.forget();
        assert_eq!(proxy.counts(), Counts::default());
    });
}

#[test]
fn answers_of_a_server_in_trouble_are_seen() {
    through_a_proxy(|server, proxy, client| {
        for (fault, status, code) in [
            (Fault::INTERNAL_ERROR, 500, "InternalError"),
            (Fault::SLOW_DOWN, 503, "SlowDown"),
            (Fault::EXPIRED_TOKEN, 403, "ExpiredToken"),
            (Fault::CLOCK_SKEW, 403, "RequestTimeTooSkewed"),
            (Fault::WRONG_REGION, 400, "AuthorizationHeaderMalformed"),
        ] {
            let planned = proxy.plan(Rule::new(fault).times(2));
            refused(client.get("backups", "a/old"), status, code);
            refused(client.put("backups", "a/new", content(3 * MIB)), status, code);
            assert_eq!(client.list("backups", "").unwrap(), ["a/old"], "only twice");
            assert_eq!(planned.end(), 2);
        }
        proxy.plan(Rule::new(Fault::Html(200)).on(&[Operation::ListObjects]));
        proxy.plan(Rule::new(Fault::Html(404)));
        assert_eq!(client.head("backups", "a/old").unwrap_err().status, Some(404));
        client.list("backups", "").unwrap_err();
        proxy.behave();
        proxy.plan(Rule::read_only());
        refused(client.put("backups", "a/new", "x"), 403, "AccessDenied");
        refused(client.delete("backups", "a/old"), 403, "AccessDenied");
        assert_eq!(client.list("backups", "").unwrap(), ["a/old"]);
        proxy.behave();
        proxy.plan(Rule::full());
        refused(client.put("backups", "a/new", "x"), 403, "QuotaExceeded");
        client.delete("backups", "a/old").unwrap();
        assert!(server.client().list("backups", "").unwrap().is_empty());
    });
}

#[test]
fn connections_are_reset_before_within_and_after_a_request() {
    through_a_proxy(|server, proxy, client| {
        let direct = server.client();
        let put = |fault: Fault, key: &str| {
            let planned = proxy.plan(Rule::new(fault).on(&[Operation::PutObject]).times(1));
            let said = cut(client.put("backups", key, content(8 * MIB)));
            assert_eq!(planned.end(), 1);
            said
        };
        put(Fault::ResetBeforeBody, "before");
        assert_eq!(proxy.log().last().unwrap().uploaded(), 0);
        put(Fault::ResetWithinBody(3 * MIB as u64), "within");
        assert_eq!(proxy.log().last().unwrap().uploaded(), 3 * MIB as u64);
        let said = put(Fault::ResetAfterCommit, "after");
        assert!(said.contains("reset"), "{said}");
        assert_eq!(proxy.log().last().unwrap().status, None);
        assert_eq!(direct.list("backups", "").unwrap(), ["a/old", "after"], "{:?}", server.kind());
        assert!(direct.get("backups", "after").unwrap() == content(8 * MIB));

        proxy.plan(Rule::new(Fault::ResetBeforeBody).on(&[Operation::GetObject]).times(1));
        cut(client.get("backups", "a/old"));
        client.get("backups", "a/old").unwrap();
    });
}

/// A client that gives up after a second.
fn impatient(server: &S3Server, url: &str) -> Client {
    server.client_as(url, server.credentials()).patience(Duration::from_secs(1))
}

#[test]
fn answers_that_never_come() {
    through_a_proxy(|server, proxy, _| {
        let client = impatient(server, &proxy.url());
        proxy.plan(Rule::new(Fault::HangAfterCommit).key("committed"));
        proxy.plan(Rule::new(Fault::Hang).key("lost"));
        for key in ["committed", "lost"] {
            let said = cut(client.put("backups", key, "x"));
            assert!(said.to_lowercase().contains("timeout"), "{said}");
        }
        assert_eq!(server.client().list("backups", "").unwrap(), ["a/old", "committed"]);
    });
}

#[test]
fn bodies_are_cut_slowed_and_damaged() {
    through_a_proxy(|_, proxy, client| {
        proxy.plan(Rule::new(Fault::Truncate(700_000)).on(&[Operation::GetObject]).times(1));
        cut(client.get("backups", "a/old"));
        let entry = proxy.log().pop().unwrap();
        assert_eq!((entry.status, entry.downloaded()), (Some(200), 700_000));

        proxy.plan(Rule::new(Fault::SlowAnswer(2 * MIB as u64)).on(&[Operation::GetObject]).times(1));
        let begun = Instant::now();
        assert!(client.get("backups", "a/old").unwrap() == content(MIB));
        let took = begun.elapsed();
        assert!((Duration::from_millis(450)..Duration::from_secs(10)).contains(&took), "{took:?}");

        proxy.plan(Rule::new(Fault::SlowRequest(2 * MIB as u64)).on(&[Operation::PutObject]).times(1));
        let begun = Instant::now();
        client.put("backups", "slow", content(MIB)).unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());

        proxy.plan(Rule::new(Fault::FlipBit(900_000)).on(&[Operation::GetObject]).times(1));
        let (damaged, sound) = (client.get("backups", "a/old").unwrap(), content(MIB));
        let differing: Vec<usize> = (0..MIB).filter(|i| damaged[*i] != sound[*i]).collect();
        assert_eq!(differing, [900_000]);

        let etag = client.head("backups", "a/old").unwrap().etag;
        proxy.plan(Rule::new(Fault::WrongETag));
        assert_ne!(client.head("backups", "a/old").unwrap().etag, etag);
    });
}

#[test]
fn a_client_sees_how_far_a_cut_body_came() {
    let server = with_bucket(Kind::S3s);
    let proxy = Proxy::before(&server);
    let client = proxy.client(&server);
    client.put("backups", "key", content(4 * MIB)).unwrap();
    proxy.plan(Rule::new(Fault::Truncate(3_000_000)).on(&[Operation::GetObject]));
    let mut body = client.wait(client.sdk().get_object().bucket("backups").key("key").send()).unwrap().body;
    let mut arrived = 0;
    while let Some(Ok(piece)) = client.block_on(body.next()) {
        arrived += piece.len();
    }
    assert_eq!(arrived, 3_000_000);
}

#[test]
fn lists_are_out_of_date() {
    through_a_proxy(|_, proxy, client| {
        client.list("backups", "").unwrap();
        let stale = proxy.plan(Rule::new(Fault::StaleList));
        client.put("backups", "b/new", "x").unwrap();
        client.put("backups", "b/newer", "x").unwrap();
        assert_eq!(client.list("backups", "").unwrap(), ["a/old"]);
        assert!(client.list("backups", "b/").unwrap().is_empty());
        assert!(stale.end() >= 4);
        assert_eq!(client.list("backups", "b/").unwrap(), ["b/new", "b/newer"]);
        assert_eq!(client.list("backups", "").unwrap().len(), 3);

        client.delete("backups", "b/new").unwrap();
        client.put("backups", "b/newest", "x").unwrap();
        let repeated = proxy.plan(Rule::new(Fault::RepeatedList));
        assert_eq!(client.list("backups", "b/").unwrap(), ["b/new", "b/newer"]);
        repeated.end();
        assert_eq!(client.list("backups", "b/").unwrap(), ["b/newer", "b/newest"]);
    });
}

#[test]
fn requests_wait() {
    through_a_proxy(|_, proxy, client| {
        let ten = || {
            let begun = Instant::now();
            (0..10).for_each(|_| drop(client.head("backups", "a/old").unwrap()));
            begun.elapsed()
        };
        ten();
        proxy.latency(Duration::from_millis(100));
        let took = ten();
        assert!(took >= Duration::from_secs(1), "{took:?}");
        proxy.behave();
        proxy.plan(Rule::new(Fault::Delay(Duration::from_millis(300))).times(1));
        assert!(ten() >= Duration::from_millis(300));
        assert!(ten() < took);
    });
}

#[test]
fn the_way_to_the_server_is_lost_and_found() {
    through_a_proxy(|server, proxy, client| {
        proxy.refuse();
        let said = cut(client.list("backups", ""));
        assert!(said.contains("refused"), "{said}");
        proxy.restore();
        client.list("backups", "").unwrap();
        proxy.fall_silent();
        let said = cut(impatient(server, &proxy.url()).list("backups", ""));
        assert!(said.to_lowercase().contains("timeout"), "{said}");
        proxy.restore();
        assert_eq!(client.list("backups", "").unwrap(), ["a/old"]);
    });
}

#[test]
fn a_rule_takes_what_it_selects() {
    through_a_proxy(|_, proxy, client| {
        let get = || client.get("backups", "a/old").is_ok();
        let third =
            proxy.plan(Rule::new(Fault::INTERNAL_ERROR).on(&[Operation::GetObject]).key("a/").after(2).times(1));
        client.head("backups", "a/old").unwrap();
        refused(client.get("backups", "b/none"), 404, "NoSuchKey");
        assert_eq!([get(), get(), get(), get()], [true, true, false, true]);
        assert_eq!(third.end(), 1);
        let every = proxy.plan(Rule::new(Fault::SLOW_DOWN).matching(|e| e.method == "GET").every(3));
        assert_eq!([get(), get(), get(), get(), get()], [false, true, true, false, true]);
        assert_eq!(every.end(), 2);
        assert!(get());
    });
}

#[test]
fn an_upload_that_dies_leaves_nothing() {
    through_a_proxy(|server, proxy, _| {
        // A request head that promises more than comes, from a client that is killed.
        let address = proxy.url().replace("http://", "");
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(stream, "PUT /backups/half HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n").unwrap();
        stream.write_all(&content(500_000)).unwrap();
        drop(stream);
        wait_until("the proxy to notice", Duration::from_secs(10), || {
            proxy.log().iter().any(|entry| entry.key == "half")
        });
        assert_eq!(server.client().list("backups", "").unwrap(), ["a/old"]);
    });
}
