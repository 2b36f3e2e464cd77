//! Settings that lead nowhere, or to something else: told at once, with a hint and the right exit code.

use walkeep_pg_integration::s3::{Credentials, Kind, S3Server};
use walkeep_pg_integration::workload::pgbench_init;
use walkeep_pg_integration::{Cluster, MajorVersion, Output, Walkeep, scenario};

use super::{BUCKET, URL, cluster, walkeep};

fn init(cluster: &Cluster, server: &S3Server, endpoint: &str, credentials: &Credentials, url: &str) -> Output {
    let environment = credentials.env(server.region());
    let walkeep = environment.into_iter().fold(Walkeep::new(cluster), |w, (name, value)| w.environment(name, value));
    walkeep.repository_at(url).init(&["--s3-endpoint", endpoint])
}

fn wrong_settings_are_named(major: MajorVersion) {
    let server = S3Server::start(Kind::S3s);
    server.create_bucket(BUCKET);
    let cluster = cluster(&server, major);
    let (good, url) = (server.credentials().clone(), server.url());
    let stranger = Credentials::named("stranger");
    let forger = Credentials { secret_key: stranger.secret_key.clone(), ..good.clone() };
    for (what, endpoint, credentials, place, says) in [
        ("no such bucket", url.as_str(), &good, "s3://nobodys-bucket/x", "--create-bucket"),
        ("nobody listens", "http://127.0.0.1:9", &good, URL, "127.0.0.1:9"),
        ("no such host", "http://no-such-host.invalid", &good, URL, "no-such-host.invalid"),
        ("unknown key", url.as_str(), &stranger, URL, "hint: "),
        ("wrong secret", url.as_str(), &forger, URL, "SignatureDoesNotMatch"),
    ] {
        let output = init(&cluster, &server, endpoint, credentials, place).expect_code(4);
        assert!(output.stderr.contains(says) && output.stderr.contains("hint: "), "{what}\n{output}");
        assert!(!output.stderr.contains(&good.secret_key), "{what}: a secret is shown\n{output}");
    }
    let output = init(&cluster, &server, "127.0.0.1:9000", &good, URL);
    assert!(matches!(output.code, Some(2 | 3)), "an endpoint without a scheme\n{output}");
    assert!(server.client().list(BUCKET, "").expect("listed").is_empty(), "a failed init leaves nothing");
}
scenario!([V17], wrong_settings_are_named);

fn another_repository_and_foreign_objects_are_refused(major: MajorVersion) {
    let server = S3Server::start(Kind::Rclone);
    server.create_bucket(BUCKET);
    let cluster = cluster(&server, major);
    pgbench_init(&cluster, 1);
    let one = walkeep(&cluster, &server, &server.url()).repository_at(URL);
    one.init(&["--s3-endpoint", &server.url()]).ok();
    // A local repository of its own whose mirror would be that one.
    let two = walkeep(&cluster, &server, &server.url());
    two.init(&[]).ok();
    two.configure("mirror", "url", URL);
    two.configure("mirror", "endpoint", server.url());
    two.configure("mirror", "durability", "mirror");
    let segment = cluster.switch_wal();
    let before = server.client().list(BUCKET, "").expect("listed");
    let refused = two.push(&cluster.data().join("pg_wal").join(segment)).expect_code(1);
    refused.assert_says("it holds repository");
    two.run(&["backup"]).expect_code(7);
    assert_eq!(server.client().list(BUCKET, "").expect("listed"), before, "nothing was added to another repository");

    server.client().put(BUCKET, "photos/holiday.jpg", "x").expect("put");
    let three = walkeep(&cluster, &server, &server.url()).repository_at("s3://walkeep-test/photos");
    three.init(&["--s3-endpoint", &server.url()]).expect_code(7).assert_says("holiday.jpg");
}
scenario!([V15], another_repository_and_foreign_objects_are_refused);
