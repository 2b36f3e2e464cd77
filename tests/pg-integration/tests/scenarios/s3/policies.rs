//! The rights that each role needs: every command runs with exactly those that `deploy/` gives it, and nothing more works.

use serde_json::Value;
use walkeep_pg_integration::s3::{Credentials, Policy, S3Server, S3sOptions};
use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{Cluster, Digest, MajorVersion, Seed, Walkeep, create_marker, scenario};

use super::{BUCKET, URL};

const WRITER: &str = include_str!("../../../../../deploy/s3-policy-writer.json");
const PRUNER: &str = include_str!("../../../../../deploy/s3-policy-pruner.json");
const RESTORER: &str = include_str!("../../../../../deploy/s3-policy-restorer.json");

fn policy(document: &str) -> Policy {
    // Who may list the prefix is told that an object of it is missing.
    Policy::parse(&[document], BUCKET, "pg/main").listing_tells_all()
}

/// The same without the right to delete anything: what an append-only credential has.
fn append_only(document: &str) -> String {
    let mut document: Value = serde_json::from_str(document).expect("a policy is JSON");
    let statements = document["Statement"].as_array_mut().expect("statements");
    statements.retain(|statement| !statement["Action"].to_string().contains("DeleteObject"));
    document.to_string()
}

fn role(cluster: &Cluster, server: &S3Server, credentials: &Credentials) -> Walkeep {
    let environment = credentials.env(server.region());
    let walkeep = environment.into_iter().fold(Walkeep::new(cluster), |w, (name, value)| w.environment(name, value));
    walkeep.environment("WALKEEP_MIRROR_ENDPOINT", server.url()).repository_at(URL)
}

fn each_role_needs_no_more_than_its_policy(major: MajorVersion) {
    let [writer, appender, pruner, restorer] = ["writer", "appender", "pruner", "restorer"].map(Credentials::named);
    let policies = [
        (writer.access_key.clone(), policy(WRITER)),
        (appender.access_key.clone(), policy(&append_only(WRITER))),
        (pruner.access_key.clone(), policy(PRUNER)),
        (restorer.access_key.clone(), policy(RESTORER)),
    ];
    let options = [&writer, &appender, &pruner, &restorer]
        .into_iter()
        .fold(S3sOptions::default(), |options, credentials| options.user(credentials.clone()));
    let options = options.policy(move |attempt| {
        let policy = policies.iter().find(|(access_key, _)| *access_key == attempt.access_key);
        policy.is_none_or(|(_, policy)| policy.allows(attempt))
    });
    let server = S3Server::s3s(options);
    server.create_bucket(BUCKET);
    server.client().put(BUCKET, "somebody/else", "x").expect("the owner may");

    let mut cluster = Cluster::options(major).wal_segment_mb(1).initdb();
    for (name, value) in writer.env(server.region()) {
        cluster.environment(name, value);
    }
    cluster.start();
    let as_writer = role(&cluster, &server, &writer);
    as_writer.init(&["--s3-endpoint", &server.url()]).ok();
    as_writer.archive_from(&cluster);
    pgbench_init(&cluster, 1);
    as_writer.backup(&[]);
    as_writer.run(&["check"]).ok();

    // Whoever may not even give back leases still archives and backs up, one backup after the other.
    let as_appender = role(&cluster, &server, &appender);
    as_appender.init(&["--s3-endpoint", &server.url()]).ok();
    for _ in 0..2 {
        pgbench_run(&cluster, 50, Seed::fixed(9));
        as_appender.backup(&[]);
    }
    create_marker(&cluster, "the end");
    let expected = Digest::of(&cluster);
    cluster.archive_everything();

    let as_restorer = role(&cluster, &server, &restorer);
    for args in [&["list", "--repo", URL][..], &["windows", "--repo", URL]] {
        walkeep_pg_integration::Output::of(&mut as_restorer.restore_command(args)).ok();
    }
    let restored = as_restorer.restore().promoted();
    expected.assert_recovered(&Digest::of(&restored));
    drop(restored);
    let before = server.client().list(BUCKET, "").expect("the owner may");
    as_restorer.init(&["--s3-endpoint", &server.url()]).expect_code(4).assert_says("AccessDenied");
    assert_eq!(server.client().list(BUCKET, "").expect("the owner may"), before, "a restorer changes nothing");

    // Nobody gets at what lies outside, and only the pruner may delete what counts.
    let pack = before.iter().find(|key| key.contains("/packs/")).expect("there are packs");
    for (credentials, may) in [(&writer, false), (&appender, false), (&restorer, false), (&pruner, true)] {
        let client = server.client_as(&server.url(), credentials);
        assert!(client.get(BUCKET, "somebody/else").is_err_and(|refusal| refusal.is("AccessDenied")));
        assert!(client.put(BUCKET, "somebody/new", "x").is_err_and(|refusal| refusal.is("AccessDenied")));
        assert_eq!(client.delete(BUCKET, pack).is_ok(), may, "{} deletes a pack", credentials.access_key);
    }
    role(&cluster, &server, &pruner).init(&["--s3-endpoint", &server.url()]).ok();
}
scenario!([V17], each_role_needs_no_more_than_its_policy);
