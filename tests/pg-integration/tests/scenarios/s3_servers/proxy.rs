//! The fault proxy: every fault happens, to what it was planned for, and everything is counted.

use std::io::Write;
use std::time::{Duration, Instant};

use walkeep_pg_integration::s3::{Client, Counts, Credentials, Fault, Kind, Operation, Proxy, Rule, S3Server};
use walkeep_pg_integration::wait_until;

use super::{MIB, content, cut, refused, with_bucket};

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
