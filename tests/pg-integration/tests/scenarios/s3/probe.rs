//! What a service's conditional writes are worth is believed only after it was tried.

use walkeep_pg_integration::s3::{Conditional, Kind, S3Server, S3sOptions};
use walkeep_pg_integration::workload::pgbench_init;
use walkeep_pg_integration::{Cluster, MajorVersion, scenario};

use super::{BUCKET, URL, walkeep};

fn conditional_writes_are_tried(major: MajorVersion) {
    let lenient = |kind| (format!("{kind:?}"), S3Server::start(kind), kind == Kind::S3s);
    let mut servers: Vec<(String, S3Server, bool)> = Kind::all().into_iter().map(lenient).collect();
    for conditional in [Conditional::Lied, Conditional::NotImplemented, Conditional::Ignored] {
        let server = S3Server::s3s(S3sOptions::default().conditional(conditional));
        servers.push((format!("{conditional:?}"), server, false));
    }
    let mut cluster = Cluster::options(major).initdb();
    for (name, value) in servers[0].1.env() {
        cluster.environment(name, value);
    }
    cluster.start();
    pgbench_init(&cluster, 1);
    for (name, server, proven) in &servers {
        server.create_bucket(BUCKET);
        let walkeep = walkeep(&cluster, server, &server.url()).repository_at(URL);
        let output = walkeep.init(&["--s3-endpoint", &server.url()]).ok();
        // What does not keep writers apart is said loudly, and again by check.
        assert_eq!(output.stderr.contains("single-writer mode"), !proven, "{name}\n{output}");
        let findings = walkeep.run(&["check", "--json"]).json();
        let bucket = findings["findings"].as_array().expect("a list").iter().find(|f| f["subject"] == "bucket");
        let expected = if *proven { "ok" } else { "warning" };
        assert_eq!(bucket.expect("the bucket is looked at")["severity"], expected, "{name}: {findings}");
        // The second writer of a backup is kept out by the lease either way.
        assert!(server.client().list(BUCKET, "").expect("listed").iter().all(|key| !key.contains("probe")), "{name}");
    }
}
scenario!([V17], conditional_writes_are_tried);
